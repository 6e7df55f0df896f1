"""Where each contestant ends: the numbers of the report, computed once."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from vpd_agent.comparison.results import STUDENT, Results, RunResult
from vpd_agent.statistics import estimates
from vpd_agent.statistics.estimates import Estimate

IDLE = "idle/"  # how the names of these metrics begin
_STEP_PARTS_APART = ("step", "slowest_judged")  # entries of a row's seconds that are no part


@dataclass(frozen=True)
class Standing:
    """One contestant's numbers over its finished runs; scores are held-out pass@1.

    final, iqm: mean and interquartile mean at `Results.last_step`.
    difference, improvement: to the baseline, by seeds that both finished and by all of their runs;
        None for the baseline itself and without one.
    area: mean score over the whole training, by the area under the curve against rollouts.
    rollouts_to, seconds_to: median cost of reaching the threshold (infinity: half have not).
    rollouts, tokens, seconds: of a run, means.
    best, best_step: the highest point of its mean curve.
    """

    contestant: str
    runs: int
    final: Estimate
    iqm: Estimate
    difference: Estimate | None
    improvement: Estimate | None
    area: Estimate
    reached: int
    rollouts_to: float
    seconds_to: float
    rollouts: float
    tokens: float
    seconds: float
    best: float
    best_step: int | None


@dataclass(frozen=True)
class Standings:
    """All contestants, best final mean first, those without a score last."""

    results: Results

    @cached_property
    def all(self) -> list[Standing]:
        standings = [_standing(self.results, c, self.threshold) for c in self.results.contestants]
        return sorted(standings, key=_rank)

    @cached_property
    def scored(self) -> list[Standing]:
        return [s for s in self.all if s.final.count]

    @cached_property
    def threshold(self) -> float:
        """The score whose cost is told: the one asked for, else where the baseline of several
        contestants ends; NaN where there is none."""
        if self.results.threshold is not None:
            return self.results.threshold
        if len(self.results.contestants) < 2:
            return math.nan
        return estimates.mean([*self.results.scores(self.results.baseline).values()]).value

    @cached_property
    def best_against_next(self) -> Estimate | None:
        """The paired difference between the best two, where neither is the baseline."""
        best = [s.contestant for s in self.scored[:2]]
        if len(best) < 2 or self.results.baseline in best:
            return None
        return paired_end(self.results, *best)

    def of(self, contestant: str) -> Standing:
        return next(s for s in self.all if s.contestant == contestant)


def mean_curve(results: Results, contestant: str, metric: str) -> dict[int, Estimate]:
    """Step → mean over the finished runs, at the steps that all of them have.

    metric: a success rate, STUDENT or TEACHER.
    """
    curves = [run.curve(metric) for run in results.finished(contestant)]
    return {
        step: estimates.mean_rate([curve[step] for curve in curves])
        for step in results.steps(contestant, metric)
    }


def phase_seconds(results: Results, contestant: str) -> dict[str, float]:
    """Part of a run → its seconds, mean over the finished runs. `other` is what the parts of steps
    leave over; evaluations come after the steps."""
    runs = results.finished(contestant)
    totals: dict[str, float] = {}
    for run in runs:
        for row in run.rows:
            parts = _parts(row)
            within = sum(seconds for name, seconds in parts.items() if name != "evaluate")
            parts["other"] = max(row.get("seconds/step", 0.0) - within, 0.0)
            for name, seconds in parts.items():
                totals[name] = totals.get(name, 0.0) + seconds / len(runs)
    return totals


def idle_shares(results: Results, contestant: str) -> dict[str, float]:
    """Trainer, sampler and judge → the share of the steps' seconds in which it had nothing to do,
    over the finished runs; none where they have not written it down."""
    idle: dict[str, float] = {}
    total = 0.0
    for row in (row for run in results.finished(contestant) for row in run.rows):
        for name in (name for name in row if name.startswith(IDLE)):
            who = name.removeprefix(IDLE)
            idle[who] = idle.get(who, 0.0) + row[name] * row["seconds/step"]
        total += row["seconds/step"] if any(name.startswith(IDLE) for name in row) else 0.0
    return {who: seconds / total for who, seconds in idle.items()}


def area(results: Results, run: RunResult) -> float:
    """The run's mean score over the training, by rollouts; NaN of fewer than two evaluations."""
    curve = run.curve(STUDENT)
    steps = [s for s in curve if results.last_step is not None and s <= results.last_step]
    return estimates.area_under_curve(
        [run.rollouts[step] for step in steps], [curve[step] for step in steps]
    )


def paired_end(results: Results, ours: str, theirs: str) -> Estimate:
    """The difference between two contestants at the end, by the seeds that both finished."""
    a, b = results.scores(ours), results.scores(theirs)
    both = sorted(a.keys() & b.keys())
    return estimates.paired_difference([a[s] for s in both], [b[s] for s in both])


def collapses(results: Results) -> list[dict[str, Any]]:
    """What the monitor of `vpd train` says of every run's rows: contestant, seed, step, whether it
    is a collapse, text."""
    from vpd_agent.train.monitor import CollapseMonitor  # needs torch

    found = []
    for run in results.runs:
        monitor = CollapseMonitor(_config(run), has_teacher=False)
        for row in run.rows:
            for text in monitor.observe(row):
                sign = {"collapsed": text == monitor.collapsed, "text": text}
                where = {"contestant": run.contestant, "seed": run.seed, "step": row["step"]}
                found.append(where | sign)
    return found


def _standing(results: Results, contestant: str, threshold: float) -> Standing:
    runs, scores = results.finished(contestant), results.scores(contestant)
    costs = [_costs(run, threshold) for run in runs]
    compared = contestant != results.baseline and results.baseline in results.contestants
    theirs = list(results.scores(results.baseline).values())
    curve = mean_curve(results, contestant, STUDENT)
    best_step = max(curve, key=lambda step: curve[step].value, default=None)
    return Standing(
        contestant=contestant,
        runs=len(runs),
        final=estimates.mean_rate([*scores.values()]),
        iqm=estimates.interquartile_mean([*scores.values()]),
        difference=paired_end(results, contestant, results.baseline) if compared else None,
        improvement=estimates.probability_of_improvement([*scores.values()], theirs)
        if compared
        else None,
        area=estimates.mean_rate([a for run in runs if math.isfinite(a := area(results, run))]),
        reached=sum(math.isfinite(rollouts) for rollouts, _ in costs),
        rollouts_to=estimates.median_reached([rollouts for rollouts, _ in costs]),
        seconds_to=estimates.median_reached([seconds for _, seconds in costs]),
        rollouts=estimates.mean([_last(run.rollouts) for run in runs]).value,
        tokens=estimates.mean([_last(run.tokens) for run in runs]).value,
        seconds=estimates.mean([_last(run.seconds) for run in runs]).value,
        best=math.nan if best_step is None else curve[best_step].value,
        best_step=best_step,
    )


def _rank(standing: Standing) -> tuple[bool, float, str]:
    value = standing.final.value
    return math.isnan(value), 0.0 if math.isnan(value) else -value, standing.contestant


def _costs(run: RunResult, threshold: float) -> tuple[float, float]:
    """Rollouts and seconds to the threshold, infinity where it was not reached."""
    curve = run.curve(STUDENT)
    steps, scores = list(curve), list(curve.values())
    step = estimates.first_reached(steps, scores, threshold)
    if not math.isfinite(step):
        return math.inf, math.inf
    return run.rollouts[int(step)], run.seconds[int(step)]


def _last(sums: dict[int, float]) -> float:
    return next(reversed(sums.values()), 0.0)


def _parts(row: dict[str, Any]) -> dict[str, float]:
    """The seconds of a row by what they were spent on."""
    names = (key.removeprefix("seconds/") for key in row if key.startswith("seconds/"))
    return {n: row[f"seconds/{n}"] for n in names if n not in _STEP_PARTS_APART}


def _config(run: RunResult) -> Any:
    """The run's configuration, as far as its record tells; else the defaults."""
    from dataclasses import fields

    from vpd_agent.train.config import TrainConfig

    known, saved = {f.name for f in fields(TrainConfig)}, run.record.get("config", {})
    return TrainConfig(**{name: value for name, value in saved.items() if name in known})
