"""What MiniCode and MiniFunction share: answers that are executed on a few inputs, each text once.

The prompt is two names of two letters, `jfpq`. A hidden table says which digit 1-9 each name stands
for, a and b; an answer is right if it computes x*a+b for every x of `TEST_INPUTS`.
"""

from __future__ import annotations

import re
from abc import abstractmethod
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from sandbox import MIB, Execution, ExecutionStatus, Job, Limits
from vpd_envs.code.sandboxed import SandboxedEnv
from vpd_envs.mini_task import RIGHT, MiniTask, Table
from vpd_envs.types import Problem, Status, Verdict

TEST_INPUTS = (10, 0, 3, 7)
STDIN_HEAD = " ".join(map(str, TEST_INPUTS)) + "\n"
LIMITS = Limits(cpu_seconds=1.0, memory_bytes=256 * MIB, output_bytes=MIB)
LIMIT_STATUS = {
    ExecutionStatus.TIMEOUT: (Status.TIME_LIMIT, "TimeLimit"),
    ExecutionStatus.MEMORY: (Status.MEMORY_LIMIT, "MemoryLimit"),
    ExecutionStatus.OUTPUT_LIMIT: (Status.OUTPUT_LIMIT, "OutputLimit"),
    ExecutionStatus.CRASH: (Status.RUNTIME_ERROR, "Crash"),
}
SYNTAX_ERRORS = ("SyntaxError", "IndentationError", "TabError")
KEPT_ANSWERS = 1 << 14  # a run of 200 steps on a laptop gives some thousand different ones
LONGEST_VALUE = 64  # characters of a printed line that are kept: more than any that is right has
SHOWN_VALUE = 8  # characters of a wrong value in feedback


@dataclass(frozen=True)
class Executed:
    """What came of an answer, as far as a verdict needs it."""

    status: ExecutionStatus
    values: tuple[str, ...]  # the first lines that were printed, shortened
    exception: str  # the class of the exception that ended it; Exit where there was none
    message: str = ""  # of the exception

    @classmethod
    def of(cls, execution: Execution) -> Executed:
        lines = execution.stdout.splitlines()[: len(TEST_INPUTS) + 1]
        values = tuple(line[:LONGEST_VALUE] for line in lines)
        return cls(execution.status, values, *_exception(execution.stderr))


class MiniProgram(MiniTask, SandboxedEnv):
    """A task whose answers are executed. Problem ids are the prompts.

    What an answer prints does not depend on the problem. So the first `KEPT_ANSWERS` different
    answers are kept with what came of them, and none of these is executed a second time.
    """

    program: ClassVar[str]
    """Python that reads the inputs in one line and then the answer, and prints a value for each
    input. It never changes: the expected values stay outside, and the answer comes in as data."""

    def __init__(self, split: str = "train", table_seed: int = 0, **options: Any) -> None:
        self.kept: dict[str, Executed] = {}
        super().__init__(split, table_seed, **options)

    @abstractmethod
    def wrong_value(self, x: int, got: str, want: str) -> str:
        """Feedback on the first wrong value, which `got` is the start of."""

    @abstractmethod
    def stopped(self, name: str, message: str) -> str:
        """Feedback on an answer that an exception ended, or a limit; name: see `LIMIT_STATUS`."""

    def problems(self, split: str, table_seed: int) -> Iterable[Problem]:
        self.table = Table.make(table_seed)
        return [
            Problem(
                id=first + second,
                prompt=first + second,
                target=(self.table.first[first], self.table.second[second]),
                metadata={"first": first, "second": second},
            )
            for first, second in self.table.pairs(split)
        ]

    def read(self, problem: Problem, answer: str) -> Verdict:
        executed = self.kept.get(answer)
        if executed is None:
            executed = self._execute(answer)
            if len(self.kept) < KEPT_ANSWERS:
                self.kept[answer] = executed
        return self.verdict_of(executed, *problem.target)

    def _execute(self, answer: str) -> Executed:
        # Lone surrogates have no encoding; Python source cannot hold them either.
        stdin = (STDIN_HEAD + answer).encode("utf-8", "replace")
        execution = self.sandbox.run(Job(self.program, stdin=stdin, limits=LIMITS))
        execution.check_not_starved()
        return Executed.of(execution)

    def verdict_of(self, executed: Executed, a: int, b: int) -> Verdict:
        """A limit decides first, then the first wrong value, then what stopped the others."""
        values, status, name = executed.values, executed.status, executed.exception
        passed = sum(value == want for value, want in zip(values, _wanted(a, b), strict=False))
        details = {"tests": len(TEST_INPUTS), "passed": passed}
        wrong = self._first_wrong(values, a, b)
        if status in LIMIT_STATUS:
            return self._limit(status, details)
        if wrong is not None:
            return Verdict(0.0, Status.WRONG_ANSWER, wrong, details)
        if status is ExecutionStatus.OK and len(values) == len(TEST_INPUTS):
            return Verdict(1.0, Status.SOLVED, RIGHT, details)
        if name == "MemoryError":
            return self._limit(ExecutionStatus.MEMORY, details)
        syntax = name in SYNTAX_ERRORS and not values
        kind = Status.SYNTAX_ERROR if syntax else Status.RUNTIME_ERROR
        return Verdict(0.0, kind, self.stopped(name, executed.message), details)

    def _limit(self, status: ExecutionStatus, details: dict[str, int]) -> Verdict:
        kind, name = LIMIT_STATUS[status]
        return Verdict(0.0, kind, self.stopped(name, ""), details)

    def _first_wrong(self, values: Sequence[str], a: int, b: int) -> str | None:
        """Feedback on the first wrong value of those printed so far."""
        for x, got, want in zip(TEST_INPUTS, values, _wanted(a, b), strict=False):
            if got != want:
                return self.wrong_value(x, got[:SHOWN_VALUE], want)
        if len(values) > len(TEST_INPUTS):  # the answer printed text of its own
            return self.wrong_value(TEST_INPUTS[-1], values[len(TEST_INPUTS)][:SHOWN_VALUE], "")
        return None


def first_difference(right: tuple[int, int], answered: tuple[int, int]) -> tuple[int, str, str]:
    """The first input for which a right and an answered (a, b) differ, with the answered and the
    right value of x*a+b. The digits must differ."""
    for x in TEST_INPUTS:
        got, want = (str(x * a + b) for a, b in (answered, right))
        if got != want:
            return x, got, want
    raise ValueError(f"{right} and {answered} give the same values.")


def _wanted(a: int, b: int) -> list[str]:
    return [str(x * a + b) for x in TEST_INPUTS]


def _exception(stderr: str) -> tuple[str, str]:
    """The class name and the message on a traceback's last line, without its module."""
    last_line = stderr.rstrip().rpartition("\n")[2]
    found = re.match(r"(?:\w+\.)*([A-Za-z_]\w{0,31})\s*(?::\s*(.*)|$)", last_line, re.ASCII)
    if found is None:
        return "Exit", ""  # exit() leaves no traceback
    return found[1], (found[2] or "")[:LONGEST_VALUE]
