"""discovery@k and what it costs, against tables made by hand."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest

from vpd_agent.evaluation.discovery import Attempts, pass_at_each_k, results_of, summary
from vpd_agent.statistics.rates import Interval, pass_at_k

BUDGET = 4


def attempts(problem_id, seed, method, solved, made=BUDGET, seconds=8.0):
    """Attempt i has i tokens."""
    return Attempts(problem_id, seed, method, tuple(solved), tuple(range(1, made + 1)), seconds)


TABLE = [
    # a is solved by the second attempt with seed 0, by the fourth with seed 1; b with seed 1 alone.
    attempts("a", 0, "ttd", [2], made=2),
    attempts("a", 1, "ttd", [4]),
    attempts("b", 0, "ttd", []),
    attempts("b", 1, "ttd", [1], made=2),
    attempts("a", 0, "best-of-k", [2, 3]),
    attempts("a", 1, "best-of-k", []),
    attempts("b", 0, "best-of-k", []),
    attempts("b", 1, "best-of-k", [4]),
]


@pytest.fixture
def results():
    return results_of(TABLE, ["ttd", "best-of-k"], BUDGET)


def test_a_method_that_learns_is_scored_by_the_share_of_seeds(results):
    # Solved by attempt k:      a: 0, 1/2, 1/2, 1       b: 1/2, 1/2, 1/2, 1/2
    by_hand = [[0, 0.5, 0.5, 1], [0.5, 0.5, 0.5, 0.5]]
    assert results["ttd"].values.tolist() == by_hand
    assert results["ttd"].discovery[3] == Interval.of([1, 0.5])


def test_independent_attempts_are_scored_by_pass_at_k_over_all_seeds(results):
    # Of 8 attempts at a 2 solved it, of 8 at b 1 did: the share of sets of k that hold one.
    for problem, solved in enumerate((2, 1)):
        right = [True] * solved + [False] * (8 - solved)
        for k in range(1, BUDGET + 1):
            sets = list(combinations(right, k))
            expected = sum(map(any, sets)) / len(sets)
            assert results["best-of-k"].values[problem, k - 1] == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize(("answers", "solved"), [(6, 0), (6, 1), (6, 4), (6, 6), (200, 3)])
def test_every_k_at_once_is_each_k_alone(answers, solved):
    alone = [pass_at_k(answers, solved, k) for k in range(1, 7)]
    assert pass_at_each_k(answers, solved, 6) == pytest.approx(alone, abs=1e-12)


def test_costs_end_where_the_method_stops(results):
    # ttd: attempts to the first solved one 2, 4, 1 and the budget 4; tokens of all that were made.
    assert results["ttd"].mean_attempts == pytest.approx((2 + 4 + 4 + 1) / 4)
    assert results["ttd"].mean_tokens == pytest.approx((3 + 10 + 10 + 3) / 4)
    assert results["ttd"].mean_seconds == 8
    # best-of-k makes all four; counted are those up to the first solved one: 2, 4, 4, 4.
    assert results["best-of-k"].mean_tokens == pytest.approx((3 + 10 + 10 + 10) / 4)
    assert results["best-of-k"].mean_seconds == pytest.approx((4 + 8 + 8 + 8) / 4)


def test_expected_attempts_of_independent_ones_are_those_of_every_order(results):
    # With 2 of 8 (a) and 1 of 8 (b) solved: the first solved one in a random order, at most 4.
    means = []
    for solved in (2, 1):
        firsts = [min([*places, 3]) + 1 for places in combinations(range(8), solved)]
        means.append(np.mean(firsts))
    assert results["best-of-k"].mean_attempts == pytest.approx(np.mean(means))


def test_the_difference_is_taken_problem_by_problem(results):
    # At 4: ttd 1 and 1/2, best-of-k 1 − C(6,4)/C(8,4) = 55/70 and 1 − C(7,4)/C(8,4) = 1/2.
    told = results["ttd"].minus(results["best-of-k"])
    differences = [1 - 55 / 70, 0.0]
    assert told.value == pytest.approx(np.mean(differences))
    # 12.7062 is t of one degree of freedom; m − t s/√2 = −1.25 is lower than any difference.
    half = 12.7062047364 * np.std(differences, ddof=1) / np.sqrt(2)
    assert (told.low, told.high) == pytest.approx(
        (max(told.value - half, -1.0), min(told.value + half, 1.0))
    )
    written = summary(results, BUDGET)["ttd"]["minus best-of-k"]
    assert written == {"mean": told.value, "low": told.low, "high": told.high}


def test_only_pairs_that_every_method_has_are_compared():
    lost = [a for a in TABLE if (a.problem_id, a.seed, a.method) != ("b", 1, "best-of-k")]
    results = results_of(lost, ["ttd", "best-of-k"], BUDGET)
    assert set(results["ttd"].attempts) == {("a", 0), ("a", 1), ("b", 0)}
    assert results["ttd"].values.tolist() == [[0, 0.5, 0.5, 1], [0, 0, 0, 0]]
    assert results_of(TABLE, ["ttd", "multi-turn"], BUDGET) == {}
