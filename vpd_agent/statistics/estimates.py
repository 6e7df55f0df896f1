"""Means, differences and costs of values that stand for one run each (one seed), or for one problem
each. Intervals are of 95 %.

Interquartile means, stratified bootstrap intervals and the probability of improvement are those
that Agarwal et al. propose ("Deep reinforcement learning at the edge of the statistical precipice",
NeurIPS 2021, arXiv 2108.13264); with one task, a stratum is the runs of one method.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
from scipy import stats

CONFIDENCE = 0.95
RESAMPLES = 9999
_BOOTSTRAP_SEED = 0  # the same runs give the same interval, digit for digit


@dataclass(frozen=True)
class Estimate:
    """A number and its interval; low and high are NaN where there is none: of fewer than two."""

    value: float
    low: float = math.nan
    high: float = math.nan
    count: int = 0  # values, or pairs of values

    @property
    def has_interval(self) -> bool:
        return math.isfinite(self.low) and math.isfinite(self.high)


def mean(values: Sequence[float], lowest: float = -math.inf, highest: float = math.inf) -> Estimate:
    """The mean m and m ± t · s/√n, with Student's t for n − 1 degrees of freedom. NaN of none.

    lowest, highest: between which every value lies, so that no mean passes them: the interval is
    cut there.
    """
    n = len(values)
    if n == 0:
        return Estimate(math.nan)
    middle = float(np.mean(values))
    if n == 1:
        return Estimate(middle, count=1)
    half = _quantile(n - 1) * float(np.std(values, ddof=1)) / math.sqrt(n)
    return Estimate(middle, max(middle - half, lowest), min(middle + half, highest), n)


def mean_rate(values: Sequence[float]) -> Estimate:
    """The `mean` of success rates, which are between 0 and 1."""
    return mean(values, 0.0, 1.0)


@cache
def _quantile(freedom: int) -> float:
    """Of Student's t."""
    return float(stats.t.ppf((1 + CONFIDENCE) / 2, freedom))


def interquartile_mean(values: Sequence[float]) -> Estimate:
    """The mean without the lowest and the highest quarter of the runs (a whole number of them,
    rounded down, at each end), with a percentile bootstrap interval. NaN of none."""

    def of(sample: np.ndarray, axis: int = -1) -> Any:
        return stats.trim_mean(sample, 0.25, axis=axis)

    if not values:
        return Estimate(math.nan)
    return _bootstrapped(of, values)


def paired_difference(ours: Sequence[float], theirs: Sequence[float]) -> Estimate:
    """The mean of ours − theirs, success rates in pairs (of runs with the same seed, or of the same
    problem), with the interval of the paired t-test, cut at −1 and at 1. Raises ValueError for a
    different number of values."""
    return mean([a - b for a, b in zip(ours, theirs, strict=True)], -1.0, 1.0)


def probability_of_improvement(ours: Sequence[float], theirs: Sequence[float]) -> Estimate:
    """The chance that a run of ours is above a run of theirs, a tie counting half: U/(m·n), where U
    is Mann and Whitney's statistic. The bootstrap resamples the runs of each method by themselves.
    NaN of none."""

    def of(x: np.ndarray, y: np.ndarray, axis: int = -1) -> Any:
        left, right = x[..., :, None], y[..., None, :]
        return ((left > right) + 0.5 * (left == right)).mean(axis=(-2, -1))

    if not (ours and theirs):
        return Estimate(math.nan)
    return _bootstrapped(of, ours, theirs)


def area_under_curve(x: Sequence[float], y: Sequence[float]) -> float:
    """The mean height of a curve: its area by trapezoids over the range of x. x ascends. NaN of
    fewer than two points."""
    if len(x) < 2:
        return math.nan
    return float(np.trapezoid(y, x) / (x[-1] - x[0]))


def first_reached(x: Sequence[float], y: Sequence[float], threshold: float) -> float:
    """The x of the first measured point at or above a threshold, infinity where there is none.
    Nothing is interpolated: between two evaluations nobody knows the score."""
    return next((a for a, b in zip(x, y, strict=True) if b >= threshold), math.inf)


def median_reached(costs: Sequence[float]) -> float:
    """The median of what runs needed, those that never reached it (infinity) counting as the
    highest: infinity where half or more have not. NaN of none."""
    return float(np.median(costs)) if costs else math.nan


def _bootstrapped(statistic: Callable[..., Any], *samples: Sequence[float]) -> Estimate:
    value, count = float(statistic(*map(np.asarray, samples))), min(map(len, samples))
    if count < 2:
        return Estimate(value, count=count)
    interval = stats.bootstrap(
        samples,
        statistic,
        n_resamples=RESAMPLES,
        confidence_level=CONFIDENCE,
        method="percentile",
        vectorized=True,
        rng=np.random.default_rng(_BOOTSTRAP_SEED),
    ).confidence_interval
    return Estimate(value, float(interval.low), float(interval.high), count)
