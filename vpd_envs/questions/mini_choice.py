"""MiniChoice: multiple choice so small that a model of half a million parameters learns it.

The prompt is two names of two letters and four options, `jfpq A34 B74 C38 D78`. The hidden table of
`vpd_envs.code.mini_code` says which digit 1-9 each name stands for, a and b; the answer is the
letter of the option `ab`. The options are the four pairs of one right and one wrong digit for each
name, in any order, so that neither digit alone decides and no digit is more frequent than another.
The feedback is one bit:

    =               right
    !B              wrong: it is not B
    !Empty          nothing; also !Format (anything but one of the letters), !TooLong

600 pairs of names are for training; 300 new pairs of the same names are held out. There is no
format instruction in the prompt: models this small are taught the format by their warm start.
"""

from __future__ import annotations

import itertools

from vpd_envs.code.mini_code import RIGHT, Table, number
from vpd_envs.text_env import TextEnv
from vpd_envs.types import Problem, Status, Verdict

LETTERS = "ABCD"


class MiniChoice(TextEnv):
    """`vpd/MiniChoice-v0`. Problem ids are the names.

    split: "train" or "test".
    table_seed: which name stands for which digit.

    `info["metadata"]`: `first`, `second` (the names) and `options` (the digits of A, B, C, D).
    `info["details"]`: `chosen`, a letter or None.
    """

    def __init__(
        self,
        split: str = "train",
        table_seed: int = 0,
        max_turns: int = 1,
        render_mode: str | None = None,
    ) -> None:
        if split not in ("train", "test"):
            raise ValueError(f"split must be 'train' or 'test', got {split!r}.")
        self.table = Table.make(table_seed)
        pairs = self.table.train_pairs if split == "train" else self.table.test_pairs
        super().__init__(
            (_problem_of(self.table, *pair) for pair in pairs),
            max_turns=max_turns,
            max_answer_length=64,
            render_mode=render_mode,
        )

    def judge(self, problem: Problem, answer: str) -> Verdict:
        letter = answer.strip()
        if not letter:
            return Verdict(0.0, Status.EMPTY_ANSWER, "!Empty", {"chosen": None})
        if letter not in tuple(LETTERS):
            return Verdict(0.0, Status.FORMAT_ERROR, "!Format", {"chosen": None})
        right = letter == problem.target
        status = Status.SOLVED if right else Status.WRONG_ANSWER
        feedback = feedback_for(problem.target, letter)
        return Verdict(float(right), status, feedback, {"chosen": letter})

    def too_long(self, answer: str) -> Verdict:
        return Verdict(0.0, Status.NO_ANSWER, "!TooLong")


def feedback_for(right: str, chosen: str) -> str:
    """What the judge says of the letter `chosen` where `right` is wanted."""
    return RIGHT if chosen == right else f"!{chosen}"


def _problem_of(table: Table, first: str, second: str) -> Problem:
    a, b = table.first[first], table.second[second]
    other_a, other_b = (
        _other_digit(digit, number(table.seed, "choice", slot, first, second))
        for slot, digit in (("first", a), ("second", b))
    )
    values = sorted(
        (f"{c}{d}" for c, d in itertools.product((a, other_a), (b, other_b))),
        key=lambda value: number(table.seed, "order", first, second, value),
    )
    options = [letter + value for letter, value in zip(LETTERS, values, strict=True)]
    return Problem(
        id=first + second,
        prompt=" ".join([first + second, *options]),
        target=LETTERS[values.index(f"{a}{b}")],
        metadata={"first": first, "second": second, "options": tuple(values)},
    )


def _other_digit(digit: int, draw: int) -> int:
    """One of the other digits from 1 to 9, by a number drawn at random."""
    return [other for other in range(1, 10) if other != digit][draw % 8]


vector = MiniChoice.vector  # gymnasium's entry points cannot name a class attribute
