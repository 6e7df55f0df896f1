"""Equal tuning: the same number of trials for each contestant, on seeds and problems of their own.

A trial is a pair of a learning rate and a value of the one field that the method names as its own
(`Algorithm.tuned_field`). The learning rates are a grid around the one that the contestant would
have by itself, in steps of a factor 2: ×1, ×2, ×1/2, ×4, ×1/4, …. The first trial is the contestant
as it is; the others follow by how far they are from it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from statistics import fmean
from typing import Any

from vpd_agent.comparison.experiment import Contestant, Options
from vpd_agent.comparison.results import STUDENT, RunResult, is_number

SET_ASIDE = 0.2  # of the training problems, which trials are scored on and not trained on
RATE = "learning_rate"
TRIALS = "tuning.json"  # in a comparison's folder, of one that ended with its trials


@dataclass(frozen=True)
class Trial:
    """What is tried for one contestant. scores: one per tuning seed, None for a run that failed."""

    contestant: Contestant
    number: int  # from 0
    values: Options

    @property
    def folder(self) -> str:
        return f"{self.contestant.folder}-trial{self.number}"


def trials(
    contestant: Contestant, count: int, rate: float, field: str, default: Any, values: Sequence[Any]
) -> list[Trial]:
    """`count` trials.

    rate: the contestant's learning rate. field: the method's own field, "" for none; default: its
    value by itself; values: what is tried for it. A flag that the contestant's own options set
    stays as it is. Raises ValueError where there are fewer trials than that.
    """
    fixed = {key for key, _ in contestant.options}
    rates = [rate] if RATE in fixed else [rate * factor for factor in _factors(count)]
    others = [] if not field or field in fixed else [v for v in values if v != default]
    pairs = list(product(enumerate(rates), enumerate([default, *others])))
    pairs.sort(key=lambda pair: (pair[0][0] + pair[1][0], pair[1][0]))
    if len(pairs) < count:
        raise ValueError(
            f"--tune {count}: for {contestant.label} there are only {len(pairs)} trials, as its "
            f"settings fix {', '.join(sorted(fixed))}. Lower --tune, or leave out a setting."
        )
    found = []
    for number, ((_, tried_rate), (_, value)) in enumerate(pairs[:count]):
        tried = {} if RATE in fixed else {RATE: f"{tried_rate:.6g}"}
        tried |= {field: str(value)} if others else {}
        found.append(Trial(contestant, number, tuple(tried.items())))
    return found


def score(run: RunResult) -> float | None:
    """The mean of a run's evaluations after the first step, which is the area under its curve where
    these are equally far apart; None if it did not finish."""
    values = [row[STUDENT] for row in run.rows if row["step"] > 0 and is_number(row.get(STUDENT))]
    return fmean(values) if run.outcome == "finished" and values else None


def best(scores: Sequence[Sequence[float | None]]) -> int:
    """The number of the trial with the highest mean score; of equal ones the first. A trial with a
    run that failed counts only if there is no other."""

    return max(range(len(scores)), key=lambda number: (worth(scores[number]), -number))


def worth(scores: Sequence[float | None]) -> float:
    """What a trial is chosen by: the mean of its scores; −∞ if a run failed."""
    known = [s for s in scores if s is not None]
    return fmean(known) if known and len(known) == len(scores) else -math.inf


def _factors(count: int) -> list[float]:
    """1, 2, 1/2, 4, 1/4, …"""
    return [2.0 ** ((i + 1) // 2 * (1 if i % 2 else -1)) for i in range(count)]
