"""MiniArithmetic: sums that a model of half a million parameters has to learn, digit by digit.

The prompt is a sum of two numbers, `87+51`, and the answer its value, `138`; zeros before it change
nothing. The feedback marks each digit:

    =               all is right
    =x=             for 148: the tens are wrong
    -==             for 38: the hundreds are missing
    x===            for 5138: a digit too many
    !Empty          nothing; also !Format (anything but digits), !TooLong
    !Form           with rigid=True: not two digits more than each summand, zeros before the others

600 sums are for training and 300 others are held out. There is no format instruction in the prompt:
models this small are taught the format by their warm start.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterable
from functools import lru_cache
from typing import Any

from vpd_envs.mini_task import RIGHT, MiniTask, number
from vpd_envs.types import Problem, Status, Verdict

TRAIN_SUMS, TEST_SUMS = 600, 300


class MiniArithmetic(MiniTask):
    """`vpd/MiniArithmetic-v0`. Problem ids are the prompts.

    digits: of each summand, 2 to 12.
    table_seed: which sums there are. No sum is in both splits, nor with its summands exchanged.

    `info["metadata"]`: `first` and `second`, the summands. `info["details"]`: `right_digits` and
    `digits` (of the right value); the first is None if the answer is no number.
    """

    def __init__(
        self, split: str = "train", table_seed: int = 0, digits: int = 2, **options: Any
    ) -> None:
        self.digits = digits
        super().__init__(split, table_seed, **options)
        self.rigid_form = f"[0-9]{{{digits + 2}}}"

    def problems(self, split: str, table_seed: int) -> Iterable[Problem]:
        train, test = sums(table_seed, self.digits)
        return itertools.starmap(_problem_of, train if split == "train" else test)

    def read(self, problem: Problem, answer: str) -> Verdict:
        right = problem.target
        if not re.fullmatch(r"[0-9]+", answer):
            return self.unread(problem, Status.FORMAT_ERROR, "!Format")
        feedback = feedback_for(right, answer)
        status = Status.SOLVED if feedback == RIGHT else Status.WRONG_ANSWER
        right_digits = marks(right, answer)[-len(right) :].count("=")
        details = {"right_digits": right_digits, "digits": len(right)}
        return Verdict(float(feedback == RIGHT), status, feedback, details)

    def unread(self, problem: Problem, status: Status, feedback: str) -> Verdict:
        details = {"right_digits": None, "digits": len(problem.target)}
        return Verdict(0.0, status, feedback, details)


def rigid_answer(value: int, digits: int) -> str:
    """The answer that counts if the task is rigid: two digits more than each of the summands."""
    return str(value).zfill(digits + 2)


def feedback_for(right: str, value: str) -> str:
    """What the judge says of the digits `value` where `right` is wanted."""
    return RIGHT if value.lstrip("0") == right else marks(right, value)


def marks(right: str, value: str) -> str:
    """A mark for each digit, aligned at the units: = right, x wrong or too many, - missing. Zeros
    before the others are right."""
    places = itertools.zip_longest(reversed(right.zfill(len(value))), reversed(value))
    found = ["-" if digit is None else "=" if digit == want else "x" for want, digit in places]
    return "".join(reversed(found))


def _problem_of(first: int, second: int) -> Problem:
    prompt = f"{first}+{second}"
    summands = {"first": first, "second": second}
    return Problem(id=prompt, prompt=prompt, target=str(first + second), metadata=summands)


Sums = tuple[tuple[int, int], ...]


@lru_cache(maxsize=8, typed=True)
def sums(table_seed: int, digits: int) -> tuple[Sums, Sums]:
    """The summands of the train and test problems, drawn by SHA-256 of seed and position."""
    for name, value in (("table_seed", table_seed), ("digits", digits)):
        if isinstance(value, bool) or not isinstance(value, int):
            raise ValueError(f"{name} must be an integer, got {value!r}.")
    if not 2 <= digits <= 12:
        raise ValueError(f"digits must be between 2 and 12, got {digits}.")
    smallest = 10 ** (digits - 1)
    drawn: dict[frozenset[int], tuple[int, int]] = {}  # the first of a sum and its exchanged form
    for position in itertools.count():
        if len(drawn) == TRAIN_SUMS + TEST_SUMS:
            break
        first, second = (
            smallest + number(table_seed, "sum", str(digits), slot, str(position)) % (9 * smallest)
            for slot in ("first", "second")
        )
        drawn.setdefault(frozenset((first, second)), (first, second))
    every = tuple(drawn.values())
    return every[:TRAIN_SUMS], every[TRAIN_SUMS:]


vector = MiniArithmetic.vector  # gymnasium's entry points cannot name a class attribute
