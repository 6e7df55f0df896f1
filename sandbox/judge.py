r"""A judge of programs: tests run in a sandbox, and what comes out is compared here, outside it.

    with sandbox.make() as box:
        tests = [StdinTest("1 2\n", "3\n"), StdinTest("5 5\n", "10\n")]
        judgment = judge(box, "print(sum(map(int, input().split())))", tests)
        judgment.passed  # True

A program never sees what is expected of it. One that fails its tests gets a `Judgment`; where the
sandbox itself fails there is no judgment, but a `SandboxError`.
"""

from __future__ import annotations

import binascii
import dataclasses
import json
import marshal
import sys
import threading
import zlib
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from enum import StrEnum
from functools import cache
from pathlib import Path
from typing import Protocol, runtime_checkable

from sandbox.assertions import checked_tests, classes_of, functions_of, unfit
from sandbox.comparison import Checker, Json, Lines, Rule, rule
from sandbox.core import (
    MIB,
    Call,
    Execution,
    ExecutionStatus,
    Job,
    Limits,
    Sandbox,
    SandboxError,
    cancelled_by,
)


@runtime_checkable
class Remote(Protocol):
    """A sandbox whose cages are on other machines, which a whole program is sent to with its
    tests."""

    def judge_there(
        self,
        code: str,
        numbered_tests: Sequence[tuple[int, Test]],
        limits: Limits,
        stop_at_first_failure: bool,
    ) -> Judgment:
        """As `judge_numbered`, but a failure of the sandbox is raised."""
        ...


DEFAULT_LIMITS = Limits()
LINES, JSON = Lines(), Json()
KEPT_CHARACTERS = 1 << 16  # of stdout and of stderr of a test that passed
# What `judge_many` may have begun beyond the program whose judgment is due.
TESTS_AHEAD = 4096
OUTPUT_BYTES_AHEAD = 256 * MIB


class Test(Protocol):
    """One test of a program."""

    def job(self, code: str, limits: Limits) -> Job:
        """What the sandbox runs. It must not hold the expected output."""
        ...

    def passes(self, execution: Execution) -> bool:
        """Whether an execution with status OK gave the right result."""
        ...


@dataclass(frozen=True)
class StdinTest:
    """A whole program, whose stdout is compared.

    rule: a name for `comparison.rule`, a rule, or a checker `(output, expected, stdin) -> bool`.
    """

    stdin: str | bytes
    expected: str
    rule: Rule | str = LINES

    def __post_init__(self) -> None:
        object.__setattr__(self, "rule", rule(self.rule))

    def job(self, code: str, limits: Limits) -> Job:
        return Job(code, self.stdin, limits=limits)

    def passes(self, execution: Execution) -> bool:
        stdin = ""
        if isinstance(self.rule, Checker):  # nothing else looks at it
            stdin = self.stdin
            stdin = stdin if isinstance(stdin, str) else stdin.decode("utf-8", "replace")
        return rule(self.rule)(execution.stdout, self.expected, stdin)


@dataclass(frozen=True)
class CallTest:
    """One call of a function, whose value is compared, as JSON text.

    Where the rule is `Json()` without options, the call is `strict` (see `sandbox.Call`): the value
    passes if Python's `==` says so, as in LiveCodeBench.

    rule: as in `StdinTest`; the input that a checker sees is the JSON text of the arguments.
    """

    call: Call
    expected: str  # JSON text
    rule: Rule | str = JSON

    def __post_init__(self) -> None:
        object.__setattr__(self, "rule", rule(self.rule))

    def job(self, code: str, limits: Limits) -> Job:
        call = dataclasses.replace(self.call, strict=True) if self.rule == JSON else self.call
        return Job(code, call=call, limits=limits)

    def passes(self, execution: Execution) -> bool:
        arguments = json.dumps(self.call.arguments) if isinstance(self.rule, Checker) else ""
        assert execution.value is not None
        return rule(self.rule)(execution.value, self.expected, arguments)


@dataclass(frozen=True)
class AssertTest:
    """Python code that tests functions and classes of the program, as in HumanEval and MBPP.

    It passes if it runs to its end without an uncaught exception. The tests run in the cage, but in
    a process of their own, which makes the verdict: no exit code, patched builtin or `__eq__` of
    the program can. examiner.py tells how, what the program can still do, and in what this differs
    from one process.

    tests: the code. It uses the program's functions as if they were defined above it.
    functions: the names that it takes from the program. By default, every name that the tests use
        and do not define, unless it is one of Python's builtins; so where a program may replace a
        helper that the tests expect to find in it, name the functions. Tests that use no name but
        builtins take the one that their assertions call (`assert sum(1, 2) == 3`).
    classes: those of the names that are classes whose objects may say what they equal, hold and
        exceed, also beside data of the tests: `assert Money(5) == 5`. By default those written in
        one word with a capital (`Stack`), and those that are caught, derived from or passed to
        isinstance. A function that a program makes a class, so that its value equals everything,
        is none of these; () where nothing should be.

    Raises, in `job` and `check`:
        ValueError: the tests are no Python code, patch what is not in their process, or call only
            builtins, several of them.
    Raises, in `passes`:
        ValueError: they import what the sandbox does not have. All of this depends on the tests
            alone and is no verdict on a program.
    """

    tests: str
    functions: tuple[str, ...] | None = None
    classes: tuple[str, ...] | None = None

    def check(self) -> None:
        """For those who load tests, to refuse what no program could pass. `job` does it, too.

        Raises:
            ValueError: see above.
        """
        checked_tests(self.tests)
        if self.functions is None:
            functions_of(self.tests)

    def job(self, code: str, limits: Limits) -> Job:
        self.check()
        functions = functions_of(self.tests) if self.functions is None else self.functions
        classes = classes_of(self.tests) if self.classes is None else self.classes
        return Job(
            _examiner(),
            stdin=self.tests,
            call=Call("examine", (code, functions, classes)),
            limits=dataclasses.replace(limits, processes=limits.processes + 1),
        )

    def passes(self, execution: Execution) -> bool:
        assert execution.value is not None
        report = json.loads(execution.value)
        if "unfit" in report:
            raise unfit(self.tests, report["unfit"])
        return report["passed"]

    def failure(self, execution: Execution) -> str:
        """For people and for feedback: the statement, its error, and the last call before it.

        Empty if the tests passed, or if the program, not a test, failed: then see its stderr.
        """
        report = json.loads(execution.value or "{}")
        texts = (report.get(name, "") for name in ("statement", "error", "call"))
        return "\n".join(filter(None, texts))


@cache
def _examiner() -> str:
    """examiner.py as a program that is compiled already, for interpreters of our version.

    To compile it in the cage would take half the time of a test. Both forms are compressed, since
    the cage reads the whole program.
    """
    source = Path(__file__).with_name("examiner.py").read_text()
    code = marshal.dumps(compile(source, "examiner.py", "exec", optimize=2))
    return EXAMINER.format(
        version=sys.implementation.cache_tag, code=_packed(code), source=_packed(source.encode())
    )


def _packed(data: bytes) -> str:
    return binascii.b2a_base64(zlib.compress(data), newline=False).decode()


EXAMINER = """\
import binascii, marshal, sys, zlib
def unpacked(text):
    return zlib.decompress(binascii.a2b_base64(text))
if sys.implementation.cache_tag == {version!r}:
    exec(marshal.loads(unpacked({code!r})))
else:
    exec(unpacked({source!r}))
"""


class Outcome(StrEnum):
    """How one test ended: an ExecutionStatus, with `ok` told apart by comparison.

    A program that starved has no outcome: that is a failure of the sandbox.
    """

    PASSED = "passed"
    WRONG_ANSWER = "wrong_answer"
    ERROR = "error"
    TIMEOUT = "timeout"
    MEMORY = "memory"
    OUTPUT_LIMIT = "output_limit"
    CRASH = "crash"


@dataclass(frozen=True)
class Result:
    """What came of one test. Of one that passed, the outputs are cut after 65,536 characters."""

    number: int  # of the test; 1 is the first
    outcome: Outcome
    execution: Execution


@dataclass(frozen=True)
class Judgment:
    """What came of one program's tests.

    results: of the tests that were run, in the order of the tests.
    tests: how many there are.
    failure: why the sandbox could not run one of them. Then nothing is known about the program, and
        `passed` raises it.
    """

    results: tuple[Result, ...]
    tests: int
    failure: SandboxError | None = None

    @property
    def passed(self) -> bool:
        """Whether all tests passed. Raises SandboxError if the sandbox failed."""
        if self.failure is not None:
            raise self.failure
        return self.first_failed is None

    @property
    def first_failed(self) -> Result | None:
        failed = (result for result in self.results if result.outcome is not Outcome.PASSED)
        return next(failed, None)


def judge(
    sandbox: Sandbox,
    code: str,
    tests: Sequence[Test],
    *,
    limits: Limits = DEFAULT_LIMITS,
    stop_at_first_failure: bool = True,
    side_by_side: int | None = None,
) -> Judgment:
    """Run a program's tests in their order, until the first that fails.

    With `stop_at_first_failure=False` all are run, `side_by_side` of them at a time; by default, as
    many as the sandbox has cages. Callers that have a thread for each cage already say 1.

    Raises:
        SandboxError: the infrastructure failed; nothing is known about the program.
        CheckerError: a custom checker failed (see `comparison.Checker`).
        ValueError: there is no test, or a test or the program cannot be run as it is.
    """
    _check_tests(tests)
    threads = min(len(tests), sandbox.cages if side_by_side is None else side_by_side)
    if stop_at_first_failure or threads == 1:
        numbered = list(enumerate(tests, 1))
        judgment = judge_numbered(sandbox, code, numbered, limits, stop_at_first_failure)
    else:
        (judgment,) = _judge_many(sandbox, [(code, tests)], limits, False, threads)
    if judgment.failure is not None:
        raise judgment.failure
    return judgment


def judge_many(
    sandbox: Sandbox,
    programs: Iterable[tuple[str, Sequence[Test]]],
    *,
    limits: Limits = DEFAULT_LIMITS,
    stop_at_first_failure: bool = True,
) -> Iterator[Judgment]:
    """`judge` for many programs, each with its tests, on all cages at once.

    Judgments come in the order of the programs, each as soon as it and all before it are made.
    `programs` is read as far ahead as keeps the cages busy, within bounds of tests and of output
    held in memory; it may be endless. Where the sandbox fails, the judgment says so in `failure`,
    and the others go on. Leaving the iterator early (`close()`, or a break from its loop) stops the
    programs that still run.

    Raises, when its turn comes:
        CheckerError, ValueError: as `judge`.
    """
    return _judge_many(sandbox, programs, limits, stop_at_first_failure, sandbox.cages)


def _judge_many(
    sandbox: Sandbox,
    programs: Iterable[tuple[str, Sequence[Test]]],
    limits: Limits,
    stop_at_first_failure: bool,
    threads: int,
) -> Iterator[Judgment]:
    executor = ThreadPoolExecutor(threads, thread_name_prefix="judge")
    begun = _Begun()
    unwanted = threading.Event()

    def run(code: str, part: Sequence[tuple[int, Test]]) -> Judgment:
        with cancelled_by(unwanted):
            return judge_numbered(sandbox, code, part, limits, stop_at_first_failure)

    try:
        for code, tests in programs:
            _check_tests(tests)
            numbered = list(enumerate(tests, 1))
            parts = [numbered] if stop_at_first_failure else [[each] for each in numbered]
            begun.add([executor.submit(run, code, part) for part in parts], len(tests))
            while begun.first_is_due():
                yield begun.take_first()
        while begun.programs:
            yield begun.take_first()
    finally:
        unwanted.set()
        executor.shutdown(cancel_futures=True)


def _check_tests(tests: Sequence[Test]) -> None:
    if not tests:
        raise ValueError("A program needs at least one test; without any, nothing is judged.")


def judge_numbered(
    sandbox: Sandbox,
    code: str,
    numbered_tests: Sequence[tuple[int, Test]],
    limits: Limits,
    stop_at_first_failure: bool,
) -> Judgment:
    """Run some tests of a program, in their order; where the cage is, if that is far away. Where
    the sandbox fails, the judgment says so in `failure`, with the results until then."""
    if isinstance(sandbox, Remote):
        try:
            return sandbox.judge_there(code, numbered_tests, limits, stop_at_first_failure)
        except SandboxError as failure:
            return Judgment((), len(numbered_tests), failure)
    results: list[Result] = []
    failure = None
    for number, test in numbered_tests:
        try:
            execution = sandbox.run(test.job(code, limits))
            execution.check_not_starved()
        except SandboxError as error:
            failure = error
            break
        outcome = _outcome(test, execution)
        results.append(Result(number, outcome, _shortened(execution, outcome)))
        if stop_at_first_failure and outcome is not Outcome.PASSED:
            break
    return Judgment(tuple(results), len(numbered_tests), failure)


def _outcome(test: Test, execution: Execution) -> Outcome:
    if execution.status is ExecutionStatus.OK:
        return Outcome.PASSED if test.passes(execution) else Outcome.WRONG_ANSWER
    return Outcome(execution.status.value)


def _shortened(execution: Execution, outcome: Outcome) -> Execution:
    """The execution, with its outputs cut if the test passed: they may be long and many."""
    longest = max(len(execution.stdout), len(execution.stderr))
    if outcome is not Outcome.PASSED or longest <= KEPT_CHARACTERS:
        return execution
    return dataclasses.replace(
        execution,
        stdout=execution.stdout[:KEPT_CHARACTERS],
        stderr=execution.stderr[:KEPT_CHARACTERS],
    )


def _output_bytes(part: Judgment) -> int:
    """About as many as the outputs take in memory."""
    executions = [result.execution for result in part.results]
    return sum(len(e.stdout) + len(e.stderr) + len(e.value or "") for e in executions)


class _Begun:
    """The programs whose tests were handed to threads and whose judgment was not taken yet."""

    def __init__(self) -> None:
        self.programs: deque[list[Future[Judgment]]] = deque()  # each in parts
        self._tests = 0
        self._output_bytes = 0
        self._lock = threading.Lock()

    def add(self, parts: list[Future[Judgment]], tests: int) -> None:
        self.programs.append(parts)
        self._tests += tests
        for part in parts:
            part.add_done_callback(self._count_output)

    def first_is_due(self) -> bool:
        """Whether the first is judged, or so much is ahead of it that it must be waited for."""
        if not self.programs:
            return False
        full = self._tests > TESTS_AHEAD or self._output_bytes > OUTPUT_BYTES_AHEAD
        return full or all(part.done() for part in self.programs[0])

    def take_first(self) -> Judgment:
        parts = [future.result() for future in self.programs.popleft()]
        results = tuple(result for part in parts for result in part.results)
        failures = (part.failure for part in parts if part.failure is not None)
        whole = Judgment(results, sum(part.tests for part in parts), next(failures, None))
        self._tests -= whole.tests
        with self._lock:
            self._output_bytes -= _output_bytes(whole)
        return whole

    def _count_output(self, part: Future[Judgment]) -> None:
        if not part.cancelled() and part.exception() is None:
            with self._lock:
                self._output_bytes += _output_bytes(part.result())
