"""The trust gate's arithmetic, by hand."""

from __future__ import annotations

import pytest

from vpd_agent.algorithms.trust_gate import TRUST, TrustGate


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


@pytest.mark.parametrize(
    ("average", "weight"), [(-1.0, 0.0), (0.0, 0.0), (0.075, 0.5), (0.15, 1.0), (0.9, 1.0)]
)
def test_the_weight_rises_linearly_over_the_width(average, weight):
    assert TrustGate(width=0.15).weight({TRUST: average}) == pytest.approx(weight)


def test_without_a_failed_row_nothing_is_learned():
    gate = TrustGate()
    assert gate.update({}, sums(0.0, 0.0, 0)) == {}
    assert gate.update({TRUST: 0.1}, sums(0.0, 0.0, 0)) == {TRUST: 0.1}


def test_an_update_changes_no_state_that_others_hold():
    gate, state = TrustGate(), {TRUST: 0.0}
    gate.update(state, sums(1.0, 0.0, 1))
    assert state == {TRUST: 0.0}


def test_measurements_are_due_every_few_steps_from_the_first_on():
    assert [k for k in range(7) if TrustGate(every=3).due(k)] == [0, 3, 6]


@pytest.mark.parametrize(
    "field", [{"width": 0.0}, {"every": 0}, {"rows": 0}, {"momentum": 1.0}, {"momentum": -0.1}]
)
def test_a_senseless_gate_is_refused_by_the_field_of_the_algorithm(field):
    with pytest.raises(ValueError, match=f"gate_{next(iter(field))}"):
        TrustGate(**field)
