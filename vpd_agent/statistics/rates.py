"""pass@k, rates over problems and their differences, with intervals, from judged answers."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

_NORMAL_95 = 1.959963984540054  # two-sided 95 % quantile of the normal distribution
_ROUNDING = 1e-12  # a smaller variance is the rounding error of equal values


def pass_at_k(answers: int, solved: int, k: int) -> float:
    """The unbiased estimate of the chance that one of k answers to a problem solves it.

    1 − C(n−c, k)/C(n, k) for c solved of n answers (arXiv 2107.03374, equation 1), as a product
    that does not overflow. Raises ValueError for fewer than k answers, which have no unbiased
    estimate.
    """
    if not 0 <= solved <= answers:
        raise ValueError(f"Of {answers} answers {solved} cannot be solved.")
    if not 1 <= k <= answers:
        raise ValueError(f"pass@{k} needs at least {k} answers, got {answers}.")
    if answers - solved < k:
        return 1.0
    return 1.0 - math.prod(1.0 - k / i for i in range(answers - solved + 1, answers + 1))


def powers_of_two(most: int) -> list[int]:
    """1, 2, 4, 8 … up to `most`, and `most` itself."""
    return sorted({*(1 << i for i in range(most.bit_length())), most})


@dataclass(frozen=True)
class Interval:
    """A mean over problems and its 95 % confidence interval."""

    mean: float
    low: float
    high: float
    count: int  # problems

    @classmethod
    def of(cls, values: Sequence[float]) -> Interval:
        """The interval for values between 0 and 1, one per problem. The problems are taken as an
        independent sample of all problems of their kind.

        Wilson's score interval (1927) with the effective sample size n* = n · m(1−m) / variance,
        which is n for values that are 0 or 1 and more for shares, whose variance is smaller
        (Franco et al., "Comparative study of confidence intervals for proportions in complex sample
        surveys", J. Survey Statistics and Methodology 7, 2019). If no problem or every problem is
        solved, n* is n, and the interval does not shrink to a point as that of a bootstrap or of
        m ± 1.96 s does. NaN without values.
        """
        return cls.of_ratio(values, [1.0] * len(values))

    @classmethod
    def of_ratio(cls, parts: Sequence[float], counts: Sequence[float]) -> Interval:
        """The interval for Σ parts / Σ counts, one of each per problem: parts are between 0 and the
        counts, which are positive, such as how many of a problem's failed answers were repaired.

        Wilson's with n* = m(1−m) / variance, where the variance of the ratio m is linearized,
        Σ (part − m · count)² / (Σ counts)² (Cochran, Sampling Techniques, 1977, section 2.11);
        counts of 1 make it that of `of`. NaN without problems.
        """
        n, total = len(parts), math.fsum(counts)
        if n == 0:
            return cls(math.nan, math.nan, math.nan, 0)
        mean = math.fsum(parts) / total
        pairs = zip(parts, counts, strict=True)
        variance = math.fsum((part - mean * count) ** 2 for part, count in pairs) / total**2
        binary = mean * (1 - mean)  # n · the variance if each count were 1 and each part 0 or 1
        effective = binary / variance if n * variance > _ROUNDING else n
        z2 = _NORMAL_95**2 / effective
        center = (mean + z2 / 2) / (1 + z2)
        half = math.sqrt(z2 * binary + z2 * z2 / 4) / (1 + z2)
        return cls(mean, max(center - half, 0.0), min(center + half, 1.0), n)

    def minus(self, other: Interval) -> Interval:
        """The difference of two rates, with the interval that follows from theirs: Newcombe's
        square-and-add (Statistics in Medicine 17, 1998, method 10), for independent rates; for ones
        that go together it is wide."""
        below = math.hypot(self.mean - self.low, other.high - other.mean)
        above = math.hypot(self.high - self.mean, other.mean - other.low)
        mean = self.mean - other.mean
        return Interval(mean, mean - below, mean + above, self.count)

    def __str__(self) -> str:
        return f"{self.mean:.4f} ({self.low:.4f} to {self.high:.4f})"


def difference(
    one: Interval, other: Interval, gains: Sequence[float], counts: Sequence[float]
) -> Interval:
    """one − other, two rates of the same problems, with the interval of `bootstrapped`, which knows
    that they go together. Where all problems are alike, so that resamples do not differ: that which
    follows from the two intervals (`Interval.minus`)."""
    found = bootstrapped(gains, counts)
    return found if found.low < found.high else one.minus(other)


def bootstrapped(parts: Sequence[float], counts: Sequence[float]) -> Interval:
    """Σ parts / Σ counts with its 95 % percentile bootstrap interval, of 9999 resamples of the
    problems with a fixed seed; without one (NaN) for fewer than two problems."""
    from scipy.stats import bootstrap

    if not counts:
        return Interval(math.nan, math.nan, math.nan, 0)
    mean = math.fsum(parts) / math.fsum(counts)
    if len(counts) < 2:
        return Interval(mean, math.nan, math.nan, len(counts))
    found = bootstrap(
        (np.array(parts), np.array(counts)),
        lambda parts, counts, axis: parts.sum(axis) / counts.sum(axis),
        paired=True,
        vectorized=True,
        method="percentile",
        rng=np.random.default_rng(0),
    ).confidence_interval
    return Interval(mean, float(found.low), float(found.high), len(counts))
