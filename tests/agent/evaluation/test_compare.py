"""The statistics of a comparison."""

from __future__ import annotations

import json
import math

import pytest

from vpd_agent.evaluation.compare import STUDENT, Estimate, Run, curves, plan, table


def write_run(run: Run, values: dict[int, float]) -> None:
    run.path.mkdir(parents=True)
    lines = [{"step": step, STUDENT: v, "seconds/step": 1.0} for step, v in values.items()]
    (run.path / "metrics.jsonl").write_text("".join(json.dumps(x) + "\n" for x in lines))


def test_the_interval_is_students_t():
    """Three values with mean 2 and standard deviation 1: 4.303 / √3."""
    estimate = Estimate.of([1.0, 2.0, 3.0])
    assert estimate.mean == 2
    assert estimate.half_width == pytest.approx(4.303 / math.sqrt(3))


def test_one_seed_has_no_interval():
    assert math.isnan(Estimate.of([0.25]).half_width)
    assert str(Estimate.of([0.25])) == ".25"


def test_seeds_are_outermost_in_the_plan(tmp_path):
    runs = plan(tmp_path, ["vpd", "grpo"], [0, 1])
    assert [(r.algorithm, r.seed) for r in runs] == [
        ("vpd", 0), ("grpo", 0), ("vpd", 1), ("grpo", 1)]  # fmt: skip


def test_curves_are_means_at_steps_that_every_seed_reached(tmp_path):
    runs = plan(tmp_path, ["vpd", "grpo"], [0, 1])
    for run, last in zip(runs, (0.6, 0.3, 0.8, 0.5), strict=True):
        write_run(run, {0: 0.1, 40: last})
    write_run(extra := Run("vpd", 2, tmp_path / "vpd-seed2"), {0: 0.1})
    assert set(curves([*runs, extra], STUDENT)["vpd"]) == {0}
    result = curves(runs, STUDENT)
    assert result["vpd"][40].mean == pytest.approx(0.7)
    assert result["grpo"][40].mean == pytest.approx(0.4)


def test_the_table_ranks_by_the_last_evaluation(tmp_path):
    runs = plan(tmp_path, ["grpo", "vpd"], [0])
    write_run(runs[0], {0: 0.5, 40: 0.3})
    write_run(runs[1], {0: 0.1, 40: 0.9})
    header, rows = table(runs)
    assert header == ["algorithm", "0", "40", "s"]
    assert rows == [["vpd", ".10", ".90", "2"], ["grpo", ".50", ".30", "2"]]
