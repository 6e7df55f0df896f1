"""MiniArithmetic: sums so long that a model of half a million parameters has to learn to carry.

The prompt is a sum of two numbers, `807+591`, and the answer its value, `1398`. The feedback marks
each digit, in the places of the right value:

    =               all is right
    =x==            for 1498: the hundreds are wrong
    -===            for 398: the thousands are missing
    x====           for 51398: a digit too many
    !Empty          nothing; also !Format (anything but digits), !TooLong

600 sums are for training and 300 others are held out. There is no format instruction in the prompt:
models this small are taught the format by their warm start.
"""

from __future__ import annotations

import itertools
import re
from functools import lru_cache

from vpd_envs.code.mini_code import RIGHT, number
from vpd_envs.text_env import TextEnv
from vpd_envs.types import Problem, Status, Verdict

TRAIN_SUMS, TEST_SUMS = 600, 300


class MiniArithmetic(TextEnv):
    """`vpd/MiniArithmetic-v0`. Problem ids are the prompts.

    split: "train" or "test".
    digits: of each summand, 2 to 12.
    table_seed: which sums there are. No sum is in both splits, nor with its summands exchanged.

    `info["metadata"]`: `first` and `second`, the summands. `info["details"]`: `right_digits` and
    `digits` (of the right value); the first is None if the answer is no number.
    """

    def __init__(
        self,
        split: str = "train",
        table_seed: int = 0,
        digits: int = 3,
        max_turns: int = 1,
        render_mode: str | None = None,
    ) -> None:
        if split not in ("train", "test"):
            raise ValueError(f"split must be 'train' or 'test', got {split!r}.")
        train, test = _sums(table_seed, digits)
        super().__init__(
            itertools.starmap(_problem_of, train if split == "train" else test),
            max_turns=max_turns,
            max_answer_length=64,
            render_mode=render_mode,
        )

    def judge(self, problem: Problem, answer: str) -> Verdict:
        value = answer.strip()
        digits = {"right_digits": None, "digits": len(problem.target)}
        if not value:
            return Verdict(0.0, Status.EMPTY_ANSWER, "!Empty", digits)
        if not re.fullmatch(r"[0-9]+", value):
            return Verdict(0.0, Status.FORMAT_ERROR, "!Format", digits)
        digits["right_digits"] = marks(problem.target, value).count("=")
        right = value == problem.target
        status = Status.SOLVED if right else Status.WRONG_ANSWER
        return Verdict(float(right), status, feedback_for(problem.target, value), digits)

    def too_long(self, answer: str) -> Verdict:
        return Verdict(0.0, Status.NO_ANSWER, "!TooLong")


def feedback_for(right: str, value: str) -> str:
    """What the judge says of the digits `value` where `right` is wanted."""
    return RIGHT if value == right else marks(right, value)


def marks(right: str, value: str) -> str:
    """A mark for each digit, aligned at the units: = right, x wrong or too many, - missing."""
    places = itertools.zip_longest(reversed(right), reversed(value))
    found = ["-" if digit is None else "=" if digit == want else "x" for want, digit in places]
    return "".join(reversed(found))


def _problem_of(first: int, second: int) -> Problem:
    prompt = f"{first}+{second}"
    summands = {"first": first, "second": second}
    return Problem(id=prompt, prompt=prompt, target=str(first + second), metadata=summands)


Sums = tuple[tuple[int, int], ...]


@lru_cache(maxsize=8, typed=True)
def _sums(table_seed: int, digits: int) -> tuple[Sums, Sums]:
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
