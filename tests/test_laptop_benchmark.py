"""The benchmark of a laptop run compares what is alike."""

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).parent.parent / "benchmarks"))

import laptop_run


def run(seconds, rollouts):
    phases = {"start and end": 1.0, "collect": 1.0, "evaluate": 1.0, "train": 1.0}
    return {"seconds": seconds, **phases, "rollouts": rollouts}


def results(before, now):
    return {"runs": {"grpo": {"before": before, "now": now}}}


def test_the_ratio_is_that_of_each_round():
    found = results([run(30.0, [1]), run(40.0, [1])], [run(10.0, [1]), run(25.0, [1])])
    assert laptop_run.ratios(found, "grpo") == [3.0, 1.6]
    assert laptop_run.reached(found, "grpo")  # a median of 2.3


def test_other_rollouts_miss_the_target_however_fast():
    found = results([run(30.0, [(0.5, 6.0)])], [run(1.0, [(0.5, 6.1)])])
    assert not laptop_run.same_rollouts(found, "grpo")
    assert not laptop_run.reached(found, "grpo")


def test_a_ratio_below_the_target_misses_it():
    found = results([run(14.0, [1])], [run(10.0, [1])])
    assert laptop_run.same_rollouts(found, "grpo")
    assert not laptop_run.reached(found, "grpo")
