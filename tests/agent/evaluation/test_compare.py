"""The statistics of a comparison."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest

from vpd_agent.evaluation.compare import STUDENT, Estimate, Run, curves, plan, table


def write_run(run: Run, values: dict[int, float]) -> None:
    run.path.mkdir(parents=True)
    lines = [{"step": step, STUDENT: v, "seconds/step": 1.0} for step, v in values.items()]
    (run.path / "metrics.jsonl").write_text("".join(json.dumps(x) + "\n" for x in lines))


def central_probability(t: float, degrees: int) -> float:
    """The chance that Student's t lies between −t and t: the integral of its density
    Γ((ν+1)/2) / (√(νπ) Γ(ν/2)) · (1 + x²/ν)^(−(ν+1)/2), by the trapezoidal rule. With x = √ν tan φ
    the integrand is cosᵛ⁻¹ φ, which is smooth for every ν."""
    constant = math.exp(math.lgamma((degrees + 1) / 2) - math.lgamma(degrees / 2))
    phi = np.linspace(0, math.atan(t / math.sqrt(degrees)), 100_001)
    return 2 * constant / math.sqrt(math.pi) * np.trapezoid(np.cos(phi) ** (degrees - 1), phi)


@pytest.mark.parametrize("seeds", [2, 3, 11, 12, 13, 30])
def test_the_interval_is_students_t(seeds):
    """The half-width is t · s / √n, where t encloses 95 % of the distribution."""
    values = np.random.default_rng(seeds).uniform(size=seeds)
    estimate = Estimate.of(values.tolist())
    assert estimate.mean == pytest.approx(values.mean())
    t = estimate.half_width * math.sqrt(seeds) / values.std(ddof=1)
    assert central_probability(t, seeds - 1) == pytest.approx(0.95, abs=1e-8)


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
