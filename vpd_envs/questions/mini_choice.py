"""MiniChoice: multiple choice so small that a model of half a million parameters learns it.

The prompt is two names of two letters, `jfpq`. A hidden table says which names are marked, half of
them. The question is always which of the two are, and the four options are always the same: A
neither, B the second, C the first, D both. The answer is the letter, alone or in brackets, `(B)`.
The feedback is one bit:

    =               right
    !B              wrong: it is not B
    !Empty          nothing; also !Format (anything but one of the letters), !TooLong
    !Form           with rigid=True: not a letter in brackets

600 pairs of names are for training; 300 new pairs of the same names are held out. Question and
options are not in the prompt: models this small are taught them by their warm start.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from vpd_envs.mini_task import RIGHT, MiniTask, Table, number
from vpd_envs.types import Problem, Status, Verdict

LETTERS = "ABCD"


class MiniChoice(MiniTask):
    """`vpd/MiniChoice-v0`. Problem ids are the names.

    table_seed: which names there are, and which of them are marked.

    `info["metadata"]`: `first` and `second`, the names. `info["details"]`: `chosen`, a letter or
    None.
    """

    rigid_form = r"\([A-D]\)"

    def problems(self, split: str, table_seed: int) -> Iterable[Problem]:
        pairs, marked = Table.make(table_seed).pairs(split), marked_names(table_seed)
        return (_problem_of(pair, marked) for pair in pairs)

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


def marked_names(table_seed: int) -> tuple[frozenset[str], frozenset[str]]:
    """Those of the first slot, and those of the second."""
    table = Table.make(table_seed)

    def half(slot: str, names: Iterable[str]) -> frozenset[str]:
        in_order = sorted(names, key=lambda name: number(table_seed, slot, name, "marked"))
        return frozenset(in_order[: len(in_order) // 2])

    return half("first", table.first), half("second", table.second)


def letter_of(first: bool, second: bool) -> str:
    """The right option, where the first name is marked, and the second."""
    return LETTERS[2 * first + second]


def _problem_of(pair: tuple[str, str], marked: Sequence[frozenset[str]]) -> Problem:
    first, second = pair
    return Problem(
        id=first + second,
        prompt=first + second,
        target=letter_of(first in marked[0], second in marked[1]),
        metadata={"first": first, "second": second},
    )


vector = MiniChoice.vector  # gymnasium's entry points cannot name a class attribute
