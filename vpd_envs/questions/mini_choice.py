"""MiniChoice: multiple choice so small that a model of half a million parameters learns it.

The prompt is two names of two letters and four options, `jfpq A34 B74 C38 D78`. A hidden table says
which digit 1-9 each name stands for, a and b; the answer is the letter of the option `ab`, alone
or in brackets, `(B)`. The options are the four pairs of one right and one wrong digit for each
name, in any order, so that neither digit alone decides and no digit is more frequent than another.
The feedback is one bit:

    =               right
    !B              wrong: it is not B
    !Empty          nothing; also !Format (anything but one of the letters), !TooLong
    !Form           with rigid=True: not a letter in brackets

600 pairs of names are for training; 300 new pairs of the same names are held out. There is no
format instruction in the prompt: models this small are taught the format by their warm start.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterable

from vpd_envs.mini_task import RIGHT, MiniTask, Table, number
from vpd_envs.types import Problem, Status, Verdict

LETTERS = "ABCD"


class MiniChoice(MiniTask):
    """`vpd/MiniChoice-v0`. Problem ids are the names.

    table_seed: which name stands for which digit.

    `info["metadata"]`: `first`, `second` (the names) and `options` (the digits of A, B, C, D).
    `info["details"]`: `chosen`, a letter or None.
    """

    rigid_form = r"\([A-D]\)"

    def problems(self, split: str, table_seed: int) -> Iterable[Problem]:
        self.table = Table.make(table_seed)
        return (_problem_of(self.table, *pair) for pair in self.table.pairs(split))

    def read(self, problem: Problem, answer: str) -> Verdict:
        found = re.fullmatch(r"([A-D])|\(([A-D])\)", answer)
        if found is None:
            return self.unread(problem, Status.FORMAT_ERROR, "!Format")
        letter = found[1] or found[2]
        right = letter == problem.target
        status = Status.SOLVED if right else Status.WRONG_ANSWER
        feedback = feedback_for(problem.target, letter)
        return Verdict(float(right), status, feedback, {"chosen": letter})

    def unread(self, problem: Problem, status: Status, feedback: str) -> Verdict:
        return Verdict(0.0, status, feedback, {"chosen": None})


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
