"""The statistics of a comparison, against closed forms and naive loops."""

from __future__ import annotations

import math
from fractions import Fraction
from itertools import product

import numpy as np
import pytest

from vpd_agent.statistics.estimates import (
    area_under_curve,
    first_reached,
    interquartile_mean,
    mean,
    mean_rate,
    median_reached,
    paired_difference,
    probability_of_improvement,
)


def central_probability(t: float, degrees: int) -> float:
    """The chance that Student's t lies between −t and t: the integral of its density
    Γ((ν+1)/2) / (√(νπ) Γ(ν/2)) · (1 + x²/ν)^(−(ν+1)/2), by the trapezoidal rule. With x = √ν tan φ
    the integrand is cosᵛ⁻¹ φ, which is smooth for every ν."""
    constant = math.exp(math.lgamma((degrees + 1) / 2) - math.lgamma(degrees / 2))
    phi = np.linspace(0, math.atan(t / math.sqrt(degrees)), 100_001)
    return 2 * constant / math.sqrt(math.pi) * np.trapezoid(np.cos(phi) ** (degrees - 1), phi)


@pytest.mark.parametrize("seeds", [2, 3, 11, 12, 13, 30])
def test_the_interval_of_a_mean_is_students_t(seeds):
    """Its half-width is t · s/√n, where t encloses 95 % of the distribution."""
    values = np.random.default_rng(seeds).uniform(size=seeds)
    estimate = mean(values.tolist())
    assert estimate.value == pytest.approx(values.mean())
    assert estimate.high - estimate.value == pytest.approx(estimate.value - estimate.low)
    t = (estimate.high - estimate.value) * math.sqrt(seeds) / values.std(ddof=1)
    assert central_probability(t, seeds - 1) == pytest.approx(0.95, abs=1e-8)


def test_two_runs_have_the_interval_of_cauchy():
    """With one degree of freedom Student's t is Cauchy's distribution: t = tan(0.475 π), and
    s/√2 of two values is half their distance."""
    estimate = mean([0.2, 0.4])
    assert estimate.high == pytest.approx(0.3 + 0.1 * math.tan(0.475 * math.pi))


@pytest.mark.parametrize("function", [mean, interquartile_mean])
def test_one_run_has_a_value_without_an_interval_and_none_has_neither(function):
    one, none = function([0.25]), function([])
    assert (one.value, one.count, one.has_interval) == (0.25, 1, False)
    assert math.isnan(none.value)
    assert (none.count, none.has_interval) == (0, False)


def test_equal_runs_have_an_interval_of_no_width():
    for estimate in (mean([0.5] * 3), interquartile_mean([0.5] * 3)):
        assert (estimate.low, estimate.value, estimate.high) == (0.5, 0.5, 0.5)


@pytest.mark.parametrize("n", range(1, 13))
def test_the_interquartile_mean_drops_a_quarter_of_the_runs_at_each_end(n):
    values = np.random.default_rng(n).uniform(size=n).tolist()
    kept = sorted(values)[n // 4 : n - n // 4]
    assert interquartile_mean(values).value == pytest.approx(sum(kept) / len(kept))


def test_the_bootstrap_has_the_quantiles_of_all_samples_there_are():
    """Of four runs there are 4⁴ samples with replacement; 9,999 random ones have nearly the
    quantiles of all of them. A sample of four drops its lowest and its highest."""
    values = [0.1, 0.25, 0.45, 0.9]
    every = [sum(sorted(sample)[1:3]) / 2 for sample in product(values, repeat=4)]
    low, high = np.quantile(every, [0.025, 0.975])
    estimate = interquartile_mean(values)
    assert estimate.low == pytest.approx(low, abs=0.02)
    assert estimate.high == pytest.approx(high, abs=0.02)


def test_the_same_runs_have_the_same_interval():
    values = [0.1, 0.2, 0.5, 0.7, 0.9]
    assert interquartile_mean(values) == interquartile_mean(values)


def test_the_interval_of_a_rate_ends_where_rates_end():
    """Of .9 and 1 the plain interval is .95 ± t · .05, t = tan(.475 π) = 12.7: .31 to 1.59."""
    half = math.tan(0.475 * math.pi) * 0.05
    plain, rate = mean([0.9, 1.0]), mean_rate([0.9, 1.0])
    assert (plain.low, plain.high) == pytest.approx((0.95 - half, 0.95 + half))
    assert (rate.low, rate.high) == pytest.approx((0.95 - half, 1.0))
    assert (rate.value, rate.count) == (plain.value, plain.count)
    assert mean_rate([0.0, 0.1]).low == 0.0
    assert not mean_rate([0.5]).has_interval
    difference = paired_difference([0.9, 1.0], [0.1, 0.0])
    assert (difference.low, difference.high) == (pytest.approx(0.9 - 2 * half), 1.0)
    difference = paired_difference([0.1, 0.0], [0.9, 1.0])
    assert (difference.low, difference.high) == (-1.0, pytest.approx(2 * half - 0.9))


def test_paired_differences_leave_out_what_seeds_have_in_common():
    """Two methods that a seed moves alike: the interval is of the differences .1, .2, .3, and so
    .2 ± t · .1/√3."""
    estimate = paired_difference([0.2, 0.9, 0.5], [0.1, 0.7, 0.2])
    assert estimate.value == pytest.approx(0.2)
    t = (estimate.high - 0.2) * math.sqrt(3) / 0.1
    assert central_probability(t, 2) == pytest.approx(0.95, abs=1e-8)
    with pytest.raises(ValueError, match="shorter"):
        paired_difference([0.1, 0.2], [0.1])


def test_the_probability_of_improvement_counts_all_pairs_of_runs():
    rng = np.random.default_rng(0)
    ours, theirs = rng.integers(0, 6, 7).tolist(), rng.integers(0, 6, 5).tolist()
    wins = sum(Fraction(1 if a > b else 0) for a, b in product(ours, theirs))
    ties = sum(a == b for a, b in product(ours, theirs))
    expected = (wins + Fraction(ties, 2)) / 35
    estimate = probability_of_improvement(ours, theirs)
    assert estimate.value == pytest.approx(float(expected))
    assert estimate.low < estimate.value < estimate.high
    mirrored = probability_of_improvement(theirs, ours)
    assert mirrored.value == pytest.approx(1 - float(expected))


def test_the_bootstrap_of_an_improvement_resamples_each_method_by_itself():
    """All pairs of samples of three runs each, by a naive loop; chances are ninths."""
    ours, theirs = [0.3, 0.6, 0.4], [0.5, 0.1, 0.2]
    every = [
        sum((a > b) + (a == b) / 2 for a in x for b in y) / 9
        for x in product(ours, repeat=3)
        for y in product(theirs, repeat=3)
    ]
    estimate = probability_of_improvement(ours, theirs)
    low, high = np.quantile(every, [0.025, 0.975], method="inverted_cdf")
    assert (estimate.low, estimate.high) == (pytest.approx(low), pytest.approx(high))
    assert not probability_of_improvement([0.3], theirs).has_interval


def test_the_area_of_a_straight_line_is_its_middle_whatever_the_spacing():
    x = [0, 64, 100, 640]
    assert area_under_curve(x, [0.1 + 0.001 * a for a in x]) == pytest.approx(0.1 + 0.001 * 320)
    assert math.isnan(area_under_curve([0], [0.3]))


def test_a_threshold_is_reached_at_an_evaluation_or_never():
    assert first_reached([0, 10, 20], [0.1, 0.5, 0.4], 0.5) == 10
    assert first_reached([0, 10], [0.1, 0.2], 0.5) == math.inf
    assert first_reached([0, 10], [0.1, 0.2], math.nan) == math.inf


def test_runs_that_never_reach_a_threshold_count_as_the_slowest():
    assert median_reached([10.0, 30.0, math.inf]) == 30
    assert median_reached([10.0, math.inf]) == math.inf
    assert math.isnan(median_reached([]))
