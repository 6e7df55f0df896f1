"""MiniCode: a code task so small that a model of half a million parameters learns it on a laptop.

The prompt is two names of two letters, `jfpq`. A hidden table says which digit 1-9 each name stands
for, a and b; the answer is a Python expression in x equivalent to x*a+b. It is really executed, on
`TEST_INPUTS`, the same text once (see `MiniCode`), and the feedback is as short as the task:

    =               right
    10<57/34        at x = 10 it gave 57, wanted 34 (the first failing input)
    !NameError      the exception's class; also !SyntaxError, !TimeLimit, !MemoryLimit,
                    !OutputLimit, !Crash, !Exit, !Empty, !TooLong

600 pairs of names are for training; 300 new pairs of the same names are held out. There is no
format instruction in the prompt: models this small are taught the format by their warm start.
"""

from __future__ import annotations

import hashlib
import itertools
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

from sandbox import MIB, Execution, ExecutionStatus, Job, Limits, Sandbox
from vpd_envs.code.sandboxed import SandboxedEnv
from vpd_envs.types import Problem, Status, Verdict

TEST_INPUTS = (10, 0, 3, 7)
NAMES_PER_SLOT = 30
TEST_PAIRS = 300
LETTERS = "abcdefghijklmnopqrstuvwxyz"
RIGHT = "="
KEPT_ANSWERS = 1 << 14  # a run of 200 steps on a laptop gives some thousand different ones
LONGEST_VALUE = 64  # characters of a printed line that are kept: more than any that is right has

# The expected values stay outside; the answer comes in as data, so that this program never changes.
# ascii() is repr() without characters that a small vocabulary lacks.
PROGRAM = """\
import sys
inputs, answer = sys.stdin.read().split("\\n", 1)
expression = compile(answer, "answer", "eval")
for x in map(int, inputs.split()):
    print(ascii(eval(expression, {"x": x})), flush=True)
"""
STDIN_HEAD = " ".join(map(str, TEST_INPUTS)) + "\n"
LIMITS = Limits(cpu_seconds=1.0, memory_bytes=256 * MIB, output_bytes=MIB)
LIMIT_FEEDBACK = {
    ExecutionStatus.TIMEOUT: (Status.TIME_LIMIT, "!TimeLimit"),
    ExecutionStatus.MEMORY: (Status.MEMORY_LIMIT, "!MemoryLimit"),
    ExecutionStatus.OUTPUT_LIMIT: (Status.OUTPUT_LIMIT, "!OutputLimit"),
    ExecutionStatus.CRASH: (Status.RUNTIME_ERROR, "!Crash"),
}


class MiniCode(SandboxedEnv):
    """`vpd/MiniCode-v0`. Problem ids are the prompts.

    What an answer prints does not depend on the problem. So the first `KEPT_ANSWERS` different
    answers are kept with what came of them, and none of these is executed a second time.

    split: "train" or "test".
    table_seed: which name stands for which digit.
    """

    def __init__(
        self,
        split: str = "train",
        table_seed: int = 0,
        sandbox: str | Sandbox = "auto",
        max_turns: int = 1,
        render_mode: str | None = None,
    ) -> None:
        if split not in ("train", "test"):
            raise ValueError(f"split must be 'train' or 'test', got {split!r}.")
        self.table = Table.make(table_seed)
        self._kept: dict[str, Executed] = {}
        pairs = self.table.train_pairs if split == "train" else self.table.test_pairs
        problems = [
            Problem(
                id=first + second,
                prompt=first + second,
                target=(self.table.first[first], self.table.second[second]),
                metadata={"first": first, "second": second},
            )
            for first, second in pairs
        ]
        super().__init__(
            problems,
            sandbox=sandbox,
            max_turns=max_turns,
            max_answer_length=64,
            render_mode=render_mode,
        )

    def judge(self, problem: Problem, answer: str) -> Verdict:
        answer = answer.strip()
        if not answer:
            return Verdict(0.0, Status.EMPTY_ANSWER, "!Empty")
        executed = self._kept.get(answer)
        if executed is None:
            executed = self._execute(answer)
            if len(self._kept) < KEPT_ANSWERS:
                self._kept[answer] = executed
        return verdict_of(executed, *problem.target)

    def _execute(self, answer: str) -> Executed:
        # Lone surrogates have no encoding; Python source cannot hold them either.
        stdin = (STDIN_HEAD + answer).encode("utf-8", "replace")
        execution = self.sandbox.run(Job(PROGRAM, stdin=stdin, limits=LIMITS))
        execution.check_not_starved()
        return Executed.of(execution)

    def too_long(self, answer: str) -> Verdict:
        return Verdict(0.0, Status.NO_ANSWER, "!TooLong")


@dataclass(frozen=True)
class Table:
    """The hidden table of a seed: names and their digits for both slots, and the two splits.

    All is ordered by SHA-256 of seed and name: the same on every machine and Python.
    """

    seed: int
    first: Mapping[str, int]  # name -> digit a
    second: Mapping[str, int]  # name -> digit b
    train_pairs: tuple[tuple[str, str], ...]
    test_pairs: tuple[tuple[str, str], ...]  # pairs not in train; each name occurs in train

    @staticmethod
    @lru_cache(maxsize=8, typed=True)
    def make(seed: int) -> Table:
        if isinstance(seed, bool) or not isinstance(seed, int):
            raise ValueError(f"table_seed must be an integer, got {seed!r}.")
        every_name = ["".join(letters) for letters in itertools.product(LETTERS, repeat=2)]

        def drawn(slot: str) -> Mapping[str, int]:
            names = sorted(every_name, key=lambda name: number(seed, slot, name))[:NAMES_PER_SLOT]
            return {name: number(seed, slot, name, "digit") % 9 + 1 for name in names}

        first, second = drawn("first"), drawn("second")
        for attempt in itertools.count():
            pairs = sorted(
                itertools.product(first, second),
                key=lambda pair: number(seed, "pair", str(attempt), *pair),
            )
            test, train = pairs[:TEST_PAIRS], pairs[TEST_PAIRS:]
            known = {name for name, _ in train}, {name for _, name in train}
            if known == (set(first), set(second)):
                return Table(seed, first, second, tuple(train), tuple(test))
        raise AssertionError("unreachable")


def number(seed: int, *words: str) -> int:
    """A number drawn by hashing: independent of the Python version's random streams."""
    return int.from_bytes(hashlib.sha256("/".join((str(seed), *words)).encode()).digest()[:8])


def expression(a: int, b: int) -> str:
    """The canonical answer for the digits a and b."""
    return f"x*{a}+{b}"


def feedback_for(a: int, b: int, answer_a: int, answer_b: int) -> str:
    """What the judge says of the answer `expression(answer_a, answer_b)` where a, b are wanted."""
    return _comparison([str(x * answer_a + answer_b) for x in TEST_INPUTS], a, b)


@dataclass(frozen=True)
class Executed:
    """What came of an answer, as far as a verdict needs it."""

    status: ExecutionStatus
    values: tuple[str, ...]  # the first lines that were printed, shortened
    exception: str  # the class of the exception that ended it; Exit where there was none

    @classmethod
    def of(cls, execution: Execution) -> Executed:
        lines = execution.stdout.splitlines()[: len(TEST_INPUTS) + 1]
        values = tuple(line[:LONGEST_VALUE] for line in lines)
        return cls(execution.status, values, _exception_name(execution.stderr))


def verdict_of(execution: Executed, a: int, b: int) -> Verdict:
    """A limit decides first, then the first wrong value, then what stopped the others."""
    values = execution.values
    passed = sum(value == want for value, want in zip(values, _wanted(a, b), strict=False))
    details = {"tests": len(TEST_INPUTS), "passed": passed}
    feedback = _comparison(values, a, b)
    if execution.status is ExecutionStatus.OK and feedback == RIGHT:
        return Verdict(1.0, Status.SOLVED, RIGHT, details)
    if execution.status in LIMIT_FEEDBACK:
        return Verdict(0.0, *LIMIT_FEEDBACK[execution.status], details)
    if feedback not in (RIGHT, UNFINISHED):
        return Verdict(0.0, Status.WRONG_ANSWER, feedback, details)
    name = execution.exception
    if name == "MemoryError":
        return Verdict(0.0, *LIMIT_FEEDBACK[ExecutionStatus.MEMORY], details)
    syntax = name in ("SyntaxError", "IndentationError", "TabError") and not values
    status = Status.SYNTAX_ERROR if syntax else Status.RUNTIME_ERROR
    return Verdict(0.0, status, f"!{'SyntaxError' if syntax else name}", details)


UNFINISHED = ""


def _comparison(values: Sequence[str], a: int, b: int) -> str:
    """Feedback on the values printed so far: the first wrong one, RIGHT, or UNFINISHED."""
    for x, got, want in zip(TEST_INPUTS, values, _wanted(a, b), strict=False):
        if got != want:
            return f"{x}<{got[:8]}/{want}"
    if len(values) > len(TEST_INPUTS):  # the answer printed text of its own
        return f"{TEST_INPUTS[-1]}<{values[len(TEST_INPUTS)][:8]}/"
    return RIGHT if len(values) == len(TEST_INPUTS) else UNFINISHED


def _wanted(a: int, b: int) -> list[str]:
    return [str(x * a + b) for x in TEST_INPUTS]


def _exception_name(stderr: str) -> str:
    """The class name on a traceback's last line, without its module."""
    last_line = stderr.rstrip().rpartition("\n")[2]
    name = re.match(r"(?:\w+\.)*([A-Za-z_]\w{0,31})\s*(?::|$)", last_line, re.ASCII)
    return name[1] if name else "Exit"  # exit() leaves no traceback


vector = MiniCode.vector  # gymnasium's entry points cannot name a class attribute
