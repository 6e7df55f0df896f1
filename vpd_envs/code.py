"""Programming problems: an answer's program is run on tests in a sandbox and compared outside it.

A family of problems (LiveCodeBench, ...) subclasses `CodeEnv` and says which tests a problem has. A
kind of test is a class with the three methods of `CodeTest`.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from sandbox import Call, Execution, Job, Limits
from sandbox.comparison import Json, Lines, Rule
from sandbox.judge import Outcome, Result, judge
from vpd_envs import code_feedback
from vpd_envs.code_feedback import Failure
from vpd_envs.extraction import Found, code_block
from vpd_envs.sandboxed import SandboxedEnv
from vpd_envs.types import Problem, Status, Verdict

MIB = 1 << 20
LINES, JSON = Lines(), Json()


class CodeTest(Protocol):
    """One test of a program, as `sandbox.judge` takes it.

    `input` and `expected` are what feedback may show if it is public.
    """

    input: str
    expected: str
    public: bool

    def job(self, code: str, limits: Limits) -> Job:
        """What the sandbox runs: never the expected output."""
        ...

    def output(self, execution: Execution) -> str:
        """What is compared and shown."""
        ...

    def passes(self, execution: Execution) -> bool:
        """Whether a run that ended well gave the right result."""
        ...


class CodeEnv(SandboxedEnv):
    """Judges the last code block of an answer on a problem's tests.

    Tests run in their order until the first failure, or all of them with
    `stop_at_first_failure=False`. Under `feedback_tests="public"` a failing hidden test shows no
    more than its number, its verdict and the name of a builtin exception; under "all" any test is
    shown in full.

    `info["details"]`: `tests`, `tests_run`, `tests_passed` and, if one failed, `failed_test` (1 is
    the first), `failed_test_public`.
    """

    def __init__(
        self,
        problems: Iterable[Problem],
        *,
        limits: Limits,
        feedback_tests: str = "public",
        stop_at_first_failure: bool = True,
        **kwargs: Any,
    ) -> None:
        if feedback_tests not in ("public", "all"):
            raise ValueError(f"feedback_tests must be 'public' or 'all', got {feedback_tests!r}.")
        super().__init__(problems, **kwargs)
        self.limits = limits
        self.feedback_tests = feedback_tests
        self.stop_at_first_failure = stop_at_first_failure

    def tests(self, problem: Problem) -> Sequence[CodeTest]:
        """The problem's tests, public ones first."""
        raise NotImplementedError(f"{type(self).__name__} must implement tests(problem).")

    def judge(self, problem: Problem, answer: str) -> Verdict:
        if not answer.strip():
            return Verdict(0.0, Status.EMPTY_ANSWER, code_feedback.EMPTY_ANSWER)
        block = code_block(answer)
        if block.found is Found.EMPTY:
            return Verdict(0.0, Status.EMPTY_ANSWER, code_feedback.EMPTY_BLOCK)
        if block.found is not Found.COMPLETE:
            return Verdict(0.0, Status.NO_ANSWER, code_feedback.NO_BLOCK[block.found])
        return self.judge_code(encodable(block.code), self.tests(problem))

    def judge_code(self, code: str, tests: Sequence[CodeTest]) -> Verdict:
        judgement = judge(
            self.sandbox,
            code,
            tests,
            limits=self.limits,
            stop_at_first_failure=self.stop_at_first_failure,
            side_by_side=1,  # a batch has a thread for each cage
        )
        failures: list[Failure] = []
        for result in judgement.results:
            status = status_of(result)
            if status is not Status.SOLVED:
                test = tests[result.number - 1]
                shown = test.public or self.feedback_tests == "all"
                failures.append(
                    Failure(result.number, test, result.execution, status, shown, self.limits)
                )
        run = len(judgement.results)
        details = {"tests": len(tests), "tests_run": run, "tests_passed": run - len(failures)}
        if not failures:
            return Verdict(1.0, Status.SOLVED, code_feedback.solved(len(tests)), details)
        chosen = code_feedback.chosen(failures)
        details |= {"failed_test": chosen[0].number, "failed_test_public": chosen[0].test.public}
        return Verdict(0.0, chosen[0].status, code_feedback.describe(chosen), details)


@dataclass(frozen=True)
class StdinTest:
    """A whole program: reads stdin, and its stdout is compared by the problem's rule."""

    input: str
    expected: str
    public: bool
    rule: Rule = LINES

    def job(self, code: str, limits: Limits) -> Job:
        return Job(code, stdin=encodable(self.input), limits=limits)

    def output(self, execution: Execution) -> str:
        return execution.stdout

    def passes(self, execution: Execution) -> bool:
        return self.rule(execution.stdout, self.expected, self.input)


@dataclass(frozen=True)
class CallTest:
    """One call of a function or of a method of `Solution`; its JSON value is compared.

    The sandbox gives such programs the names LeetCode has imported (`List`, `defaultdict`, ...).
    """

    input: str  # one JSON value per line, as shown
    expected: str  # JSON text
    public: bool
    function: str
    arguments: tuple[Any, ...] = field(repr=False)

    def job(self, code: str, limits: Limits) -> Job:
        return Job(code, call=Call(self.function, self.arguments), limits=limits)

    def output(self, execution: Execution) -> str:
        return execution.value or ""

    def passes(self, execution: Execution) -> bool:
        return JSON(execution.value, self.expected)


def status_of(result: Result) -> Status:
    match result.outcome:
        case Outcome.PASSED:
            return Status.SOLVED
        case Outcome.WRONG_ANSWER:
            return Status.WRONG_ANSWER
        case Outcome.TIMEOUT:
            return Status.TIME_LIMIT
        case Outcome.MEMORY:
            return Status.MEMORY_LIMIT
        case Outcome.OUTPUT_LIMIT:
            return Status.OUTPUT_LIMIT
    stderr = result.execution.stderr
    if code_feedback.is_syntax_error(stderr):
        return Status.SYNTAX_ERROR
    if code_feedback.exception_name(stderr) == "MemoryError":
        return Status.MEMORY_LIMIT
    return Status.RUNTIME_ERROR


def encodable(text: str) -> str:
    """The text with lone surrogates, which no file or pipe can hold, replaced by `?`."""
    return text.encode("utf-8", "replace").decode()
