"""The discrete-event model of a run: what it says of runs whose times are known."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))
pytest.importorskip("simpy")
import scale
from scale_model import Cluster, Times, simulate

TIMES = Times(decode=1e-2, decode_row=1e-3, train_token=1e-3, judge=0.1, sync=0.5, other=0.25)
ROLLOUTS, LENGTH = 8, 100
SAMPLE = LENGTH * (1e-2 + 4 * 1e-3)  # a server has four rows of the eight
JUDGE = 2 * 0.1  # a cage judges two
TRAIN = 4 * LENGTH * 1e-3  # a trainer has half
APART = Cluster(trainers=2, servers=2, cages=4)


def equal(draw):
    return np.full(ROLLOUTS, LENGTH)


def seconds(cluster: Cluster, times: Times = TIMES, lengths=equal) -> float:
    return simulate(cluster, times, lengths).seconds


def test_a_synchronous_step_takes_its_parts_one_after_the_other():
    outcome = simulate(APART, TIMES, equal)
    total = SAMPLE + JUDGE + TRAIN + 0.5 + 0.25
    assert outcome.seconds == pytest.approx(total)
    assert outcome.idle == pytest.approx(
        {
            "sampler": 1 - SAMPLE / total,
            "judge": 1 - JUDGE / total,
            "trainer": 1 - TRAIN / total,
            "sync": 1 - 0.5 / total,
        }
    )
    assert outcome.busiest == "sampler"


def test_with_overlap_a_step_takes_as_long_as_its_longer_half_and_the_weights():
    ahead = Cluster(2, 2, 4, max_staleness=1)
    assert seconds(ahead) == pytest.approx(0.5 + SAMPLE + JUDGE)
    slow = Times(**{**vars(TIMES), "train_token": 1e-2})
    assert seconds(ahead, slow) == pytest.approx(0.5 + 10 * TRAIN + 0.25)


def test_on_cores_that_all_share_overlap_fills_gaps_and_does_no_more():
    """Two cores: what trains and what samples take turns, but `sync` and `other` use no core."""
    shared = Cluster(2, 2, 2, shared=2)
    work = SAMPLE + JUDGE * 4 / 2 + TRAIN
    assert seconds(shared) == pytest.approx(work + 0.5 + 0.25)
    ahead = Cluster(2, 2, 2, shared=2, max_staleness=1)
    assert work + 0.5 <= seconds(ahead) + 1e-9
    assert seconds(ahead) <= work + 0.5 + 0.25 + 1e-9


def test_a_row_that_ends_makes_room_and_the_rest_goes_faster():
    times = Times(decode=0.0, decode_row=1e-2, train_token=0.0, judge=0.0)
    one = Cluster(1, 1, 1)
    assert seconds(one, times, lambda draw: np.array([10, 30])) == pytest.approx(
        10 * 2e-2 + 20 * 1e-2
    )
    narrow = Cluster(1, 1, 1, rows_at_once=1)
    assert seconds(narrow, times, lambda draw: np.array([10, 30])) == pytest.approx(40 * 1e-2)


def test_a_later_batch_waits_for_weights_that_are_young_enough():
    """Sampling is quick: with K steps allowed it runs K steps ahead, and is then idle."""
    quick = Times(decode=1e-4, decode_row=0.0, train_token=1e-2, judge=0.0)
    for staleness in (1, 2, 3):
        outcome = simulate(Cluster(2, 2, 4, max_staleness=staleness), quick, equal)
        assert outcome.seconds == pytest.approx(10 * TRAIN)
        assert outcome.idle["sampler"] == pytest.approx(1 - LENGTH * 1e-4 / (10 * TRAIN))


def test_the_times_are_learned_from_two_runs_that_they_gave():
    known = Times(0.02, 0.003, 0.0004, 0.05, train=0.3, sync=0.2, other=0.1)
    cluster = Cluster(2, 2, scale.CORES, scale.CORES)

    def measured(rollouts: int) -> dict:
        outcome = simulate(cluster, known, lambda draw: np.full(rollouts, 64))
        return {
            "seconds": outcome.seconds,
            **{who: (1 - idle) * outcome.seconds for who, idle in outcome.idle.items()},
            "rollouts": rollouts,
            "length": 64,
            "tokens each": rollouts * 64 / 2,
            "rows each": rollouts / 2,
        }

    learned = scale.learned(measured(16), measured(64))
    assert vars(learned) == pytest.approx(vars(known))


def test_errors_are_of_the_runs_that_nothing_was_learned_from():
    def run(measured: float, predicted: float) -> dict:
        return {"measured": {"seconds": measured}, "predicted": {"seconds": predicted}}

    runs = {"few": run(1, 1), "many": run(2, 2), "overlap": run(2.0, 1.5)}
    assert scale.errors(runs) == pytest.approx({"overlap": -0.25})
