"""What a claim is tested by: sums and differences of what runs measured, seed by seed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from typing import Literal

from vpd_agent.comparison.results import STUDENT, TEACHER, Results
from vpd_agent.comparison.standings import area
from vpd_agent.statistics import estimates
from vpd_agent.statistics.estimates import Estimate


class Verdict(StrEnum):
    """In the order of what counts where a claim has several parts: the first that one part has."""

    FAILS = "does not hold here"
    NOT_RUN = "not run"
    UNCLEAR = "not told apart"
    HOLDS = "holds here"


@dataclass(frozen=True)
class Measure:
    """A number of a run, between `lowest` and 1.

    of: (results, contestant) → seed → value, over its finished runs.
    """

    name: str
    of: Callable[[Results, str], dict[int, float]]
    lowest: float = 0.0


def _at(results: Results, contestant: str, metric: str, step: int | None) -> dict[int, float]:
    curves = {run.seed: run.curve(metric) for run in results.finished(contestant)}
    return {seed: curve[step] for seed, curve in curves.items() if step in curve}


def _change(metric: str, start: Literal["first", "middle"]) -> Callable[..., dict[int, float]]:
    """From the first evaluation, or from the last one in the first half of a run, to the end."""

    def of(results: Results, contestant: str) -> dict[int, float]:
        steps = [s for s in results.steps(contestant, metric) if s <= (results.last_step or 0)]
        if len(steps) < 2:
            return {}
        half = [s for s in steps if 2 * s <= steps[-1]]
        begin = steps[0] if start == "first" else half[-1] if half else steps[0]
        before = _at(results, contestant, metric, begin)
        after = _at(results, contestant, metric, steps[-1])
        return {seed: after[seed] - before[seed] for seed in before.keys() & after.keys()}

    return of


END = Measure("pass@1 at the end", lambda r, c: r.scores(c))
AREA = Measure(
    "mean pass@1 of the training", lambda r, c: {x.seed: area(r, x) for x in r.finished(c)}
)
GAIN = Measure("pass@1 at the end − at first", _change(STUDENT, "first"), lowest=-1.0)
REPAIR = Measure("repair rate at the end", lambda r, c: _at(r, c, TEACHER, r.last_step))
RISE = Measure("repair rate, end − middle", _change(TEACHER, "middle"), lowest=-1.0)


@dataclass(frozen=True)
class Contrast:
    """Σ sign · measure(contestant), of runs with the same seed, that is claimed to be above a bound
    or below it.

    ours, theirs: the contestants whose measure is added, and subtracted.
    """

    measure: Measure
    ours: tuple[str, ...]
    theirs: tuple[str, ...] = ()
    claimed: Literal["above", "below"] = "above"
    bound: float = 0.0

    @property
    def text(self) -> str:
        """vpd − sdpo, pass@1 at the end."""
        plus, minus = " + ".join(self.ours), "".join(f" − {name}" for name in self.theirs)
        return f"{plus}{minus}, {self.measure.name}"

    def estimate(self, results: Results) -> Estimate:
        """Its mean over the seeds that all of its contestants finished."""
        known = set(results.contestants)
        if not known.issuperset((*self.ours, *self.theirs)):
            return estimates.mean([])
        added = [self.measure.of(results, name) for name in self.ours]
        taken = [self.measure.of(results, name) for name in self.theirs]
        seeds = sorted(set.intersection(*(set(values) for values in (*added, *taken))))
        lowest, plus, minus = self.measure.lowest, len(added), len(taken)
        return estimates.mean(
            [sum(v[seed] for v in added) - sum(v[seed] for v in taken) for seed in seeds],
            lowest=lowest * plus - minus,
            highest=plus - lowest * minus,
        )

    def verdict(self, estimate: Estimate) -> Verdict:
        """What its interval says of the claim."""
        if not estimate.count:
            return Verdict.NOT_RUN
        above = estimate.has_interval and estimate.low > self.bound
        below = estimate.has_interval and estimate.high < self.bound
        if not (above or below):
            return Verdict.UNCLEAR
        return Verdict.HOLDS if above == (self.claimed == "above") else Verdict.FAILS


def difference(ours: str, theirs: str, measure: Measure = END) -> Contrast:
    """Ours is claimed to be above theirs."""
    return Contrast(measure, (ours,), (theirs,))
