"""pass@k and its interval, against enumeration, their definitions and simulation."""

from __future__ import annotations

import itertools
import math
from statistics import NormalDist

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vpd_agent.evaluation.evaluate import Evaluation
from vpd_agent.statistics.rates import Interval, bootstrapped, pass_at_k, powers_of_two


@pytest.mark.parametrize("answers", range(1, 8))
def test_pass_at_k_is_the_share_of_subsets_with_a_solution(answers):
    for solved, k in itertools.product(range(answers + 1), range(1, answers + 1)):
        outcomes = [True] * solved + [False] * (answers - solved)
        subsets = list(itertools.combinations(outcomes, k))
        expected = sum(map(any, subsets)) / len(subsets)
        assert pass_at_k(answers, solved, k) == pytest.approx(expected, abs=1e-12)


def test_pass_at_k_is_unbiased():
    """Its mean over all outcomes of n independent answers, by their probability."""
    n, p = 6, 0.3
    for k in range(1, n + 1):
        chances = [math.comb(n, c) * p**c * (1 - p) ** (n - c) for c in range(n + 1)]
        mean = sum(q * pass_at_k(n, c, k) for c, q in enumerate(chances))
        assert mean == pytest.approx(1 - (1 - p) ** k)


@given(st.integers(1, 5000), st.data())
def test_pass_at_k_of_many_answers_is_their_quotient_of_binomials(answers, data):
    solved = data.draw(st.integers(0, answers))
    k = data.draw(st.integers(1, answers))
    exact = 1 - math.comb(answers - solved, k) / math.comb(answers, k)
    assert pass_at_k(answers, solved, k) == pytest.approx(exact, abs=1e-9)


@pytest.mark.parametrize(("answers", "solved", "k"), [(3, 1, 4), (3, 4, 1), (3, -1, 1), (3, 1, 0)])
def test_pass_at_k_refuses_what_has_no_meaning(answers, solved, k):
    with pytest.raises(ValueError, match="answers"):
        pass_at_k(answers, solved, k)


def test_powers_of_two_end_with_the_number_itself():
    assert powers_of_two(1) == [1]
    assert powers_of_two(8) == [1, 2, 4, 8]
    assert powers_of_two(11) == [1, 2, 4, 8, 11]


@pytest.mark.parametrize(("solved", "problems"), [(0, 1), (0, 30), (1, 7), (12, 30), (299, 300)])
def test_one_answer_a_problem_has_wilsons_interval(solved, problems):
    """Its ends are the chances p at which the observed share is just z standard errors away,
    (share − p)² = z² p(1−p)/n."""
    interval = Interval.of([1.0] * solved + [0.0] * (problems - solved))
    share, z = solved / problems, NormalDist().inv_cdf(0.975)
    assert interval.mean == pytest.approx(share)
    assert interval.count == problems
    assert 0 <= interval.low <= share <= interval.high <= 1
    for p in (interval.low, interval.high):
        assert (share - p) ** 2 == pytest.approx(z**2 * p * (1 - p) / problems, abs=1e-12)
    assert interval.low < interval.high


def test_where_all_or_none_is_solved_the_interval_is_not_a_point():
    assert Interval.of([0.0] * 20).high > 0.1
    assert Interval.of([1.0] * 20).low < 0.9
    assert Interval.of([0.1] * 20).high > 0.2  # equal values, whose variance is rounding


def test_the_interval_of_many_problems_is_the_normal_one():
    values = np.random.default_rng(0).beta(4, 2, 20_000)
    interval = Interval.of(values.tolist())
    half = 1.96 * values.std() / math.sqrt(len(values))
    assert interval.low == pytest.approx(values.mean() - half, abs=1e-4)
    assert interval.high == pytest.approx(values.mean() + half, abs=1e-4)


@pytest.mark.parametrize("answers", [1, 4, 16])
@pytest.mark.parametrize("difficulty", [(0.5, 0.5), (2, 2), (0.3, 3)])
def test_the_interval_covers_the_truth_as_often_as_it_says(answers, difficulty):
    """2,000 evaluations of 60 problems each, whose chances are drawn from a beta distribution. A
    share of 95 % of 2,000 has a standard error of 0.5 %; skewed chances cost a little more."""
    random = np.random.default_rng(7)
    truth = difficulty[0] / sum(difficulty)
    chances = random.beta(*difficulty, (2000, 60))
    shares = random.binomial(answers, chances) / answers
    intervals = [Interval.of(row.tolist()) for row in shares]
    covered = np.mean([i.low <= truth <= i.high for i in intervals])
    assert 0.925 <= covered <= 0.975


def test_an_evaluation_averages_over_problems_and_leaves_out_those_with_too_few_answers():
    evaluation = Evaluation()
    for problem, outcomes in {"a": [True, False, False], "b": [True], "c": [False] * 3}.items():
        for solved in outcomes:
            evaluation.add(problem, solved=solved, status="")
    assert evaluation.pass_at_1 == pytest.approx((1 / 3 + 1 + 0) / 3)
    assert evaluation.pass_at(2).mean == pytest.approx((2 / 3 + 0) / 2)  # b has one answer
    assert evaluation.pass_at(2).count == 2
    assert evaluation.pass_at(3).mean == pytest.approx(1 / 2)
    assert math.isnan(evaluation.pass_at(4).mean)
    assert math.isnan(Evaluation().pass_at_1)


def test_the_bootstrap_agrees_with_one_written_out():
    generator = np.random.default_rng(1)
    counts = generator.integers(1, 5, 40).astype(float)
    parts = generator.random(40) * counts
    chosen = generator.integers(0, 40, (20_000, 40))
    expected = np.quantile(parts[chosen].sum(1) / counts[chosen].sum(1), [0.025, 0.975])
    found = bootstrapped(parts.tolist(), counts.tolist())
    assert found.mean == pytest.approx(parts.sum() / counts.sum())
    assert (found.low, found.high) == pytest.approx(tuple(expected), abs=0.01)
    assert found == bootstrapped(parts.tolist(), counts.tolist())


def test_a_bootstrap_of_one_problem_has_no_interval():
    found = bootstrapped([1.0], [2.0])
    assert found.mean == 0.5
    assert math.isnan(found.low)
    assert bootstrapped([], []).count == 0
