"""Programming problems: an answer's program is run on tests in a sandbox and compared outside it.

A family of problems (LiveCodeBench, ...) subclasses `CodeEnv` and says which tests a problem has. A
kind of test is a class with the members of `CodeCase`.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Iterable, Sequence
from functools import cached_property
from typing import Any

from sandbox import MIB, Limits
from sandbox.judge import Outcome, Result, judge
from sandbox.local import PACKAGES
from vpd_envs.answers.extraction import Found
from vpd_envs.answers.sanitize import sanitize
from vpd_envs.checks import check_positive
from vpd_envs.code import feedback as code_feedback
from vpd_envs.code.answer import Program, program_in
from vpd_envs.code.cases import AssertionCase, CodeCase, encodable
from vpd_envs.code.feedback import FailedCase
from vpd_envs.code.sandboxed import SandboxedEnv
from vpd_envs.data.files import hashed_fraction
from vpd_envs.types import Problem, Status, Verdict

FEEDBACK_TESTS = ("none", "public", "half", "all")
JUDGED_TESTS = ("all", "feedback")
ANSWER_FORMAT = (
    "Time limit per test: {seconds:g} s. Memory limit: {megabytes:g} MB. Time means CPU time.\n"
    "Answer with one Python code block (```python ... ```). If there are several, the last one "
    "that {is_asked} counts, with those that it needs; blocks in other languages never count."
)


class CodeEnv(SandboxedEnv):
    """Judges the program of an answer, which `vpd_envs.code.answer` finds, on a problem's tests.

    feedback_tests: which tests feedback may show. "none"; the "public" ones; "half", which adds a
        half of the hidden ones, rounded down, chosen by the hash of their content (but one at
        least, where no test is public); or "all". Of a failing test that is not shown, feedback
        has no more than its number, its verdict and the name of a builtin exception.
    judged_tests: "all", or "feedback" for those that feedback may show. Training on
        `feedback_tests="half", judged_tests="feedback"` and evaluating on "all" is how the papers
        use LiveCodeBench.
    stop_at_first_failure: whether tests run in their order (those that may be shown first) until
        one fails, or all of them. Then feedback tells the first error, else the first timeout, else
        the two shortest wrong answers.
    time_limit_seconds, memory_limit_mb: of a program in one test.

    `info["details"]`: `tests`, `tests_run`, `tests_passed` and, if one failed, `failed_test` (1 is
    the first) and `failed_test_shown`; `first_failure`, the feedback on the first failing test
    alone, where `feedback` is about another or about more. Of an answer with several code blocks,
    `blocks`, how many, and `judged_blocks`, those that make up the program (1 is the first).
    """

    def __init__(
        self,
        problems: Iterable[Problem],
        *,
        feedback_tests: str = "public",
        judged_tests: str = "all",
        stop_at_first_failure: bool = True,
        time_limit_seconds: float = 6.0,
        memory_limit_mb: float = 512,
        **kwargs: Any,
    ) -> None:
        _check_test_options(feedback_tests, judged_tests)
        self.limits = limits_for(time_limit_seconds, memory_limit_mb)
        self.feedback_tests = feedback_tests
        self.judged_tests = judged_tests
        self.stop_at_first_failure = stop_at_first_failure
        super().__init__(problems, **kwargs)
        if (feedback_tests, judged_tests) == ("public", "feedback"):
            lacking = [each.id for each in self._problems if not self.has_public_test(each)]
            if lacking:
                raise ValueError(
                    f"judged_tests='feedback' with feedback_tests='public' judges by public tests "
                    f"alone, and {len(lacking)} problems have none ({lacking[0]!r} is the first). "
                    "Take feedback_tests='half'."
                )

    def tests(self, problem: Problem) -> Sequence[CodeCase]:
        """The problem's tests, public ones first."""
        raise NotImplementedError(f"{type(self).__name__} must implement tests(problem).")

    def problem(self, problem_id: str) -> Problem:
        """As `TextEnv`'s. Its prompt says what the answer's program runs on, as the sandbox tells:
        a machine of another kind may have another Python, but the same problem."""
        problem = super().problem(problem_id)
        runs_on = (
            f"The code runs on Python {self.sandbox.python_version}. Besides the standard library "
            f"it may import {' and '.join(PACKAGES)}."
        )
        return dataclasses.replace(problem, prompt=f"{problem.prompt}\n{runs_on}")

    def limits_of(self, problem: Problem) -> Limits:
        """What each test of the problem may use: what its prompt states."""
        return self.limits

    def has_public_test(self, problem: Problem) -> bool:
        return any(test.public for test in self.tests(problem))

    def judge(self, problem: Problem, answer: str) -> Verdict:
        if not answer.strip():
            return Verdict(0.0, Status.EMPTY_ANSWER, code_feedback.EMPTY_ANSWER)
        names = {name for test in self.tests(problem) for name in test.names}
        program = program_in(encodable(answer), names)
        if program.found is not Found.COMPLETE:
            empty = program.found is Found.EMPTY
            status = Status.EMPTY_ANSWER if empty else Status.NO_ANSWER
            return Verdict(0.0, status, code_feedback.NO_PROGRAM[program.found])
        return _with_judged_blocks(self.judge_code(problem, program.code), program)

    def judge_code(self, problem: Problem, code: str) -> Verdict:
        tests, shown = self.tests_to_run(problem)
        limits = self.limits_of(problem)
        judgment = judge(
            self.sandbox,
            code,
            tests,
            limits=limits,
            stop_at_first_failure=self.stop_at_first_failure,
            side_by_side=1,  # a batch has a thread for each cage
        )
        failures: list[FailedCase] = []
        for result in judgment.results:
            number, test, execution = result.number, tests[result.number - 1], result.execution
            status = status_of(result, test)
            if status is not Status.SOLVED:
                may_show = number <= shown
                failures.append(FailedCase(number, test, execution, status, may_show, limits))
        run = len(judgment.results)
        passed = run - len(failures)
        details: dict[str, Any] = {"tests": len(tests), "tests_run": run, "tests_passed": passed}
        if not failures:
            return Verdict(1.0, Status.SOLVED, code_feedback.solved(len(tests)), details)
        chosen = code_feedback.chosen(failures)
        details |= {"failed_test": chosen[0].number, "failed_test_shown": chosen[0].shown}
        feedback = code_feedback.describe(chosen)
        if chosen != failures[:1]:
            details["first_failure"] = sanitize(code_feedback.describe(failures[:1]))
        return Verdict(0.0, chosen[0].status, feedback, details)

    @cached_property
    def fingerprint(self) -> str:
        """As `TextEnv`'s, and over which tests judge, unless all do."""
        fingerprint = super().fingerprint
        if self.judged_tests == "all":
            return fingerprint
        return hashlib.sha256(f"{fingerprint} {self.feedback_tests}".encode()).hexdigest()

    def tests_to_run(self, problem: Problem) -> tuple[list[CodeCase], int]:
        """The tests in the order in which they run, and how many of them, the first ones, feedback
        may show."""
        tests = self.tests(problem)
        may_show = _shown_tests(tests, self.feedback_tests)
        shown = [test for i, test in enumerate(tests) if i in may_show]
        if self.judged_tests == "feedback":
            return shown, len(shown)
        return shown + [test for i, test in enumerate(tests) if i not in may_show], len(shown)


def _with_judged_blocks(verdict: Verdict, program: Program) -> Verdict:
    """The verdict that says which blocks of the answer were judged, where there is a choice."""
    if program.blocks == 1:
        return verdict
    blocks = {"blocks": program.blocks, "judged_blocks": list(program.places)}
    details = {**verdict.details, **blocks}
    if "first_failure" in details:
        details["first_failure"] = code_feedback.with_blocks(details["first_failure"], program)
    feedback = code_feedback.with_blocks(verdict.feedback, program)
    return dataclasses.replace(verdict, feedback=feedback, details=details)


def _check_test_options(feedback_tests: str, judged_tests: str) -> None:
    for name, value, known in (
        ("feedback_tests", feedback_tests, FEEDBACK_TESTS),
        ("judged_tests", judged_tests, JUDGED_TESTS),
    ):
        if value not in known:
            raise ValueError(f"{name} must be one of {', '.join(known)}; got {value!r}.")
    if (feedback_tests, judged_tests) == ("none", "feedback"):
        raise ValueError(
            "judged_tests='feedback' judges by the tests that feedback may show, and "
            "feedback_tests='none' leaves none. Change one of the two."
        )


def _shown_tests(tests: Sequence[CodeCase], feedback_tests: str) -> set[int]:
    """The positions of the tests that feedback may show (see `CodeEnv`)."""
    if feedback_tests == "none":
        return set()
    if feedback_tests == "all":
        return set(range(len(tests)))
    public = {i for i, test in enumerate(tests) if test.public}
    if feedback_tests == "public":
        return public
    hidden = sorted(set(range(len(tests))) - public, key=lambda i: _content_hash(tests[i]))
    return public | set(hidden[: max(len(hidden) // 2, 0 if public else 1)])


def _content_hash(test: CodeCase) -> float:
    return hashed_fraction(f"{test.input}\x00{test.expected}")


def answer_format(limits: Limits, *, whole_program: bool) -> str:
    """The end of a prompt: the limits that are enforced, and the form that is read."""
    return ANSWER_FORMAT.format(
        seconds=limits.cpu_seconds,
        megabytes=limits.memory_bytes / MIB,
        is_asked="is a whole program" if whole_program else "defines what is asked for",
    )


def limits_for(time_limit_seconds: float, memory_limit_mb: float) -> Limits:
    """The time limit is CPU time; the clock allows a multiple of it (see `sandbox.Limits`).

    Raises ValueError for what is no limit.
    """
    check_positive(time_limit_seconds=time_limit_seconds, memory_limit_mb=memory_limit_mb)
    return Limits(cpu_seconds=time_limit_seconds, memory_bytes=int(memory_limit_mb * MIB))


_STATUSES = {
    Outcome.PASSED: Status.SOLVED,
    Outcome.WRONG_ANSWER: Status.WRONG_ANSWER,
    Outcome.TIMEOUT: Status.TIME_LIMIT,
    Outcome.MEMORY: Status.MEMORY_LIMIT,
    Outcome.OUTPUT_LIMIT: Status.OUTPUT_LIMIT,
}


def status_of(result: Result, test: CodeCase) -> Status:
    execution = result.execution
    if result.outcome is Outcome.WRONG_ANSWER and isinstance(test, AssertionCase):
        missing = test.misses_function(execution)
        return Status.RUNTIME_ERROR if missing else Status.WRONG_ANSWER
    if result.outcome in _STATUSES:
        return _STATUSES[result.outcome]
    if code_feedback.is_syntax_error(execution.stderr):
        return Status.SYNTAX_ERROR
    if code_feedback.exception_name(execution.stderr) == "MemoryError":
        return Status.MEMORY_LIMIT
    return Status.RUNTIME_ERROR
