"""What the tasks for tiny models share: short answers, two splits, tables of names, rigid forms."""

from __future__ import annotations

import hashlib
import itertools
import re
from abc import abstractmethod
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any

from vpd_envs.text_env import TextEnv
from vpd_envs.types import Problem, Status, Verdict

RIGHT = "="
NAMES_PER_SLOT = 30
TEST_PAIRS = 300
LETTERS = "abcdefghijklmnopqrstuvwxyz"


class MiniTask(TextEnv):
    """A task for models of half a million parameters.

    split: "train" or "test".
    table_seed: which problems there are, and which answers are right.
    rigid: whether an answer counts only in one exact form, but for spaces around it. In any other
        form it is not read: the feedback says that the form is wrong, but not which one is right.
    """

    rigid_form: str
    """A regular expression: the form in which a rigid task reads answers."""
    empty, wrong_form, longer = "!Empty", "!Form", "!TooLong"
    """Feedback on an answer that is not read."""

    def __init__(
        self,
        split: str = "train",
        table_seed: int = 0,
        rigid: bool = False,
        *,
        max_answer_length: int = 64,
        **options: Any,
    ) -> None:
        if split not in ("train", "test"):
            raise ValueError(f"split must be 'train' or 'test', got {split!r}.")
        if not isinstance(rigid, bool):
            raise ValueError(f"rigid must be true or false, got {rigid!r}.")
        self.rigid = rigid
        problems = self.problems(split, table_seed)
        super().__init__(problems, max_answer_length=max_answer_length, **options)

    @abstractmethod
    def problems(self, split: str, table_seed: int) -> Iterable[Problem]:
        """All problems of a split. Raises ValueError for a seed that is no integer."""

    @abstractmethod
    def read(self, problem: Problem, answer: str) -> Verdict:
        """The verdict on an answer, which is not empty and has no white space around it."""

    def judge(self, problem: Problem, answer: str) -> Verdict:
        answer = answer.strip()
        if not answer:
            return self.unread(problem, Status.EMPTY_ANSWER, self.empty)
        if self.rigid and not re.fullmatch(self.rigid_form, answer):
            return self.unread(problem, Status.FORMAT_ERROR, self.wrong_form)
        return self.read(problem, answer)

    def unread(self, problem: Problem, status: Status, feedback: str) -> Verdict:
        """The verdict on an answer of which nothing is known."""
        return Verdict(0.0, status, feedback)

    def too_long(self, answer: str) -> Verdict:
        return Verdict(0.0, Status.NO_ANSWER, self.longer)

    @cached_property
    def fingerprint(self) -> str:
        """A rigid task judges otherwise, so it has another."""
        plain = super().fingerprint
        return hashlib.sha256(f"rigid {plain}".encode()).hexdigest() if self.rigid else plain


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

    def pairs(self, split: str) -> tuple[tuple[str, str], ...]:
        return self.train_pairs if split == "train" else self.test_pairs

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
