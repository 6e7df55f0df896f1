"""The trust gate's arithmetic, by hand."""

from __future__ import annotations

import itertools

import pytest

from agent.helpers import SecretLetter, small_policy
from vpd_agent.algorithms import SDPO
from vpd_agent.algorithms.trust_gate import TRUST, TrustGate, solve_rates_of_others
from vpd_agent.train.config import TrainConfig
from vpd_agent.train.trainer import Trainer


def sums(teacher: float, student: float, rows: int) -> dict[str, float]:
    return {"teacher": teacher, "student": student, "rows": rows}


def test_nothing_is_trusted_before_it_is_measured():
    assert TrustGate().weight({}) == 0


def test_the_first_measurement_sets_the_average():
    """Of 8 failed rows the teacher solves 5; trying again the student would solve 3."""
    gate = TrustGate(width=0.5, momentum=0.9)
    state = gate.update({"delta": 1.0}, sums(5.0, 3.0, 8))
    assert state == {"delta": 1.0, TRUST: pytest.approx(0.25)}
    assert gate.weight(state) == pytest.approx(0.25 / 0.5)


def test_later_measurements_move_it_by_one_minus_momentum():
    gate = TrustGate(width=1.0, momentum=0.9)
    state = gate.update(gate.update({}, sums(8.0, 0.0, 8)), sums(0.0, 4.0, 8))
    assert gate.weight(state) == pytest.approx(0.9 * 1.0 + 0.1 * -0.5)


def test_with_a_prior_it_begins_nearly_shut_and_every_rollout_counts_alike():
    """As if 32 rollouts without an advantage had been measured before."""
    gate = TrustGate(width=0.5, momentum=0.9, prior_rows=32)
    first = gate.update({}, sums(5.0, 3.0, 16))
    assert first[TRUST] == pytest.approx((5 - 3) / (16 + 32))
    second = gate.update(first, sums(1.0, 2.0, 4))
    total, rows = 0.9 * (5 - 3) + (1 - 2), 0.9 * 16 + 4
    assert second[TRUST] == pytest.approx(total / (rows + 32))
    assert gate.weight(second) == pytest.approx(total / (rows + 32) / 0.5)


def test_a_prior_fades_before_a_teacher_that_stays_better():
    """With 16 rollouts a time, there are 16 / (1 − 0.9) = 160 of them in the end."""
    gate = TrustGate(momentum=0.9, prior_rows=32)
    state: dict[str, float] = {}
    for _ in range(200):
        state = gate.update(state, sums(12.0, 4.0, 16))
    assert state[TRUST] == pytest.approx((12 - 4) / 16 * 160 / (160 + 32))


def test_one_lucky_measurement_is_soon_forgotten():
    """Two of three rollouts solved once, then none of 16, twenty times: the average without a prior
    counts the three as much as any sixteen."""
    shares = []
    for prior in (None, 0, 32):
        gate = TrustGate(momentum=0.9, prior_rows=prior)
        state = gate.update({}, sums(2.0, 0.0, 3))
        for _ in range(20):
            state = gate.update(state, sums(0.0, 0.0, 16))
        shares.append(state[TRUST])
    decay = 0.9**20
    rows = 3 * decay + 16 * (1 - decay) / (1 - 0.9)
    expected = [2 / 3 * decay, 2 * decay / rows, 2 * decay / (rows + 32)]
    assert shares == pytest.approx(expected)


@pytest.mark.parametrize(
    ("average", "weight"), [(-1.0, 0.0), (0.0, 0.0), (0.075, 0.5), (0.15, 1.0), (0.9, 1.0)]
)
def test_the_weight_rises_linearly_over_the_width(average, weight):
    assert TrustGate(width=0.15).weight({TRUST: average}) == pytest.approx(weight)


def test_without_a_failed_row_nothing_is_learned():
    gate = TrustGate()
    assert gate.update({}, sums(0.0, 0.0, 0)) == {}
    assert gate.update({TRUST: 0.1}, sums(0.0, 0.0, 0)) == {TRUST: 0.1}
    assert TrustGate(prior_rows=8).update({}, sums(0.0, 0.0, 0)) == {}


def test_an_update_changes_no_state_that_others_hold():
    gate, state = TrustGate(), {TRUST: 0.0}
    gate.update(state, sums(1.0, 0.0, 1))
    assert state == {TRUST: 0.0}


def test_measurements_are_due_every_few_steps_from_the_first_on():
    assert [k for k in range(7) if TrustGate(every=3).due(k)] == [0, 3, 6]


@pytest.mark.parametrize(
    "field",
    [
        {"width": 0.0},
        {"every": 0},
        {"rows": 0},
        {"momentum": 1.0},
        {"momentum": -0.1},
        {"prior_rows": -1},
    ],
)
def test_a_senseless_gate_is_refused_by_the_field_of_the_algorithm(field):
    with pytest.raises(ValueError, match=f"gate_{next(iter(field))}"):
        TrustGate(**field)


def test_a_rollout_is_compared_with_the_others_of_its_group():
    groups = [0, 0, 0, 0, 1, 1, 2]
    solved = [True, False, True, False, False, False, False]
    others = [1 / 3, 2 / 3, 1 / 3, 2 / 3, 0.0, 0.0, None]
    assert solve_rates_of_others(groups, solved) == others


def expected_differences(rate: float, groups: list[int]) -> tuple[float, float]:
    """Of a teacher exactly as good as the student: its success on the failed rollouts of a batch
    less what the others of their groups solved. Their expected sum, over all outcomes, and the
    expectation of their mean, over those with a failure."""
    total = mean = failed = 0.0
    for solved in itertools.product((True, False), repeat=len(groups)):
        chance = rate ** sum(solved) * (1 - rate) ** (len(groups) - sum(solved))
        others = solve_rates_of_others(groups, solved)
        differences = [
            rate - other
            for other, success in zip(others, solved, strict=True)
            if not success and other is not None
        ]
        total += chance * sum(differences)
        if differences:
            failed += chance
            mean += chance * sum(differences) / len(differences)
    return total, mean / failed


@pytest.mark.parametrize("rate", [0.1, 0.5, 0.8])
@pytest.mark.parametrize("groups", [[0] * 4, [0, 0, 1, 1, 1]])
def test_a_teacher_exactly_as_good_as_the_student_has_no_advantage(rate, groups):
    assert expected_differences(rate, groups)[0] == pytest.approx(0, abs=1e-12)


def test_a_batch_whose_failures_are_averaged_is_off_by_the_share_of_one_rollout():
    mean = expected_differences(0.5, [0] * 10)[1]
    assert mean == pytest.approx(-0.5 / 9, rel=0.01)


def test_a_gate_without_other_rollouts_to_compare_with_is_refused():
    config = TrainConfig(prompts_per_step=2, group_size=1)
    with pytest.raises(ValueError, match="group_size must be at least 2, got 1"):
        Trainer(small_policy(), SDPO(gate_width=0.1), SecretLetter.vector(2), config)
