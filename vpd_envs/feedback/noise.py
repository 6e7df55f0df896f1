"""Noise in the feedback, for ablations: how much does learning depend on its being true?"""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Sequence

from vpd_envs.checks import check_integer, is_number
from vpd_envs.feedback.base import Attempt, FeedbackSource, Parts, parts_of, rng_for


class NoisyFeedback(FeedbackSource):
    """Exchanges, cuts and drops feedback with its parts, in this order.

    shuffle: probability for each attempt that its feedback is exchanged with those of other such
        attempts, always of a different problem. Where one problem has more than half of them,
        those too many keep their own.
    truncate: the characters that are kept of every text and part (an integer), or the fraction of
        it (a float from 0 to 1).
    drop: probability for each attempt that its feedback is replaced by "".
    seed: the random numbers depend on it and on the batch's problems and answers (see `rng_for`).
        Two of these sources around one environment need two seeds, or they get the same numbers.
    """

    def __init__(
        self,
        drop: float = 0.0,
        shuffle: float = 0.0,
        truncate: int | float | None = None,
        seed: int = 0,
    ) -> None:
        for name, value in (("drop", drop), ("shuffle", shuffle)):
            if not is_number(value, 0, 1):
                raise ValueError(f"{name} must be a probability from 0 to 1, got {value!r}.")
        count = isinstance(truncate, int) and not isinstance(truncate, bool) and truncate >= 0
        fraction = isinstance(truncate, float) and is_number(truncate, 0, 1)
        if truncate is not None and not count and not fraction:
            raise ValueError(
                "truncate must be a number of characters (an integer), a fraction (a float from 0 "
                f"to 1) or None, got {truncate!r}."
            )
        check_integer("seed", seed)
        self.drop = drop
        self.shuffle = shuffle
        self.truncate = truncate
        self.seed = seed

    @property
    def needs_batch(self) -> bool:
        return self.shuffle > 0

    def parts(self, attempts: Sequence[Attempt]) -> list[Parts]:
        rng = rng_for(self.seed, attempts)
        # A number for every row, needed or not: so no option changes what the others do.
        shuffled = [i for i, a in enumerate(attempts) if rng.random() < self.shuffle]
        dropped = [rng.random() < self.drop for _ in attempts]
        taken_from = _exchanges(shuffled, [attempt.problem_id for attempt in attempts], rng)
        taken = [vars(parts_of(attempts[taken_from.get(i, i)])) for i in range(len(attempts))]
        kept = [Parts(*map(self._truncated, texts.values())) for texts in taken]
        return [Parts("", "") if gone else p for gone, p in zip(dropped, kept, strict=True)]

    def _truncated(self, text: str) -> str:
        if isinstance(self.truncate, float):
            return text[: int(self.truncate * len(text))]
        return text[: self.truncate]  # None: all of it


def _exchanges(
    rows: Sequence[int], problem_ids: Sequence[str], rng: random.Random
) -> dict[int, int]:
    """Whose feedback each row gets: a permutation that gives none of its own problem's.

    Rows of the same problem stand side by side, and each takes from the row further on by the
    largest group's size: never from its own group, if that group is no more than half of them.
    """
    groups: dict[str, list[int]] = defaultdict(list)
    for row in sorted(rows, key=lambda _: rng.random()):
        groups[problem_ids[row]].append(row)
    ordered = sorted(groups.values(), key=len, reverse=True)
    if not ordered:
        return {}
    ordered[0] = ordered[0][: len(rows) - len(ordered[0])]
    shift = len(ordered[0])
    line = [row for group in ordered for row in group]
    return {row: line[(i + shift) % len(line)] for i, row in enumerate(line)}
