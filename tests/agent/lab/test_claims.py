"""What becomes of claims and of the prize, of runs whose scores are made up."""

from __future__ import annotations

import math
from statistics import mean, stdev

import pytest
from comparison.made_up import made_up

from vpd_agent.comparison.figures import LOOK
from vpd_agent.comparison.results import STUDENT, TEACHER, Results
from vpd_agent.lab import claims
from vpd_agent.lab.claims import CLAIMS, MIXED, check_claims
from vpd_agent.lab.contrasts import END, GAIN, RISE, Contrast, Verdict, difference
from vpd_agent.lab.figures import _claims, _curves
from vpd_agent.lab.prize import REGIMES, Place, find_prize, ranked
from vpd_agent.lab.readings import Reading
from vpd_agent.lab.words import overview
from vpd_agent.statistics.estimates import Estimate

T = {4: 3.1824463, 2: 12.7062047}  # Student's, 97.5 %, by the number of runs
MAIN = {
    "vpd": [0.80, 0.70, 0.90, 0.75], "sdpo": [0.50, 0.45, 0.55, 0.50],
    "grpo": [0.60, 0.40, 0.62, 0.42],
}  # fmt: skip


def lab_of(tmp_path, **comparisons: dict) -> dict:
    """experiment__task=ends of contestants."""
    found = {}
    for name, ends in comparisons.items():
        experiment, task = (part.replace("_", "-") for part in name.split("__"))
        results = made_up(tmp_path / name, ends)
        found[experiment, task] = Reading(experiment, task, results, [])
    return found


def became(lab: dict, says: str):
    return next(t for t in check_claims(lab) if t.claim.says.startswith(says))


def test_a_difference_is_paired_by_seed_with_students_interval(tmp_path):
    results = made_up(tmp_path, MAIN)
    estimate = difference("vpd", "sdpo").estimate(results)
    each = [a - b for a, b in zip(MAIN["vpd"], MAIN["sdpo"], strict=True)]
    half = T[4] * stdev(each) / math.sqrt(4)
    assert estimate.value == pytest.approx(mean(each))
    assert (estimate.low, estimate.high) == pytest.approx((mean(each) - half, mean(each) + half))


def test_an_interval_ends_where_no_sum_or_difference_can_lie(tmp_path):
    """Each with two seeds that are .5 apart, so that t s/√2 is 12.7 · .25 = 3.2."""
    ends = {"a": [1.0, 0.5], "b": [0.5, 0.5], "c": [0.5, 0.5], "d": [0.5, 0.5]}
    results = made_up(tmp_path, ends)

    def interval(measure, ours, theirs):
        found = Contrast(measure, ours, theirs).estimate(results)
        return found.low, found.high

    assert interval(END, ("a",), ("b",)) == (-1.0, 1.0)
    assert interval(END, ("a", "b"), ("c", "d")) == (-2.0, 2.0)
    assert interval(END, ("a",), ()) == (0.0, 1.0)
    assert interval(GAIN, ("a",), ()) == (-1.0, 1.0)
    assert interval(GAIN, ("a",), ("b",)) == (-2.0, 2.0)


def test_a_claim_holds_is_refuted_or_is_not_told_apart_by_its_interval(tmp_path):
    """VPD is above SDPO by .25 to .35 in every seed; SDPO − GRPO is −.1, .05, −.07 and .08."""
    lab = lab_of(tmp_path, main__code_warm=MAIN)
    assert became(lab, "VPD ends above SDPO").findings[0].verdict == Verdict.HOLDS
    assert became(lab, "SDPO ends above GRPO").findings[0].verdict == Verdict.UNCLEAR
    assert became(lab, "SDPG ends above GRPO").verdict == Verdict.NOT_RUN
    swapped = lab_of(tmp_path / "b", main__code_warm={"vpd": MAIN["sdpo"], "sdpo": MAIN["vpd"]})
    assert became(swapped, "VPD ends above SDPO").verdict == Verdict.FAILS


def test_one_seed_tells_nothing_apart(tmp_path):
    lab = lab_of(tmp_path, main__code_warm={"vpd": [0.9], "sdpo": [0.1]})
    assert became(lab, "VPD ends above SDPO").verdict == Verdict.UNCLEAR


def test_a_claim_is_told_task_by_task(tmp_path):
    swapped = {"vpd": MAIN["sdpo"], "sdpo": MAIN["vpd"]}
    lab = lab_of(tmp_path, main__code_warm=MAIN, main__choice_warm=swapped)
    found = became(lab, "VPD ends above SDPO")
    assert found.verdict == MIXED
    assert found.words == (
        "holds here: code-warm; does not hold here: choice-warm; "
        "not run: arithmetic-warm and function-warm"
    )


def test_the_overview_counts_claims_in_the_singular_and_the_plural(tmp_path):
    lab = lab_of(tmp_path, main__code_warm=MAIN)
    names = ("VPD ends above SDPO", "SDPO ends above GRPO", "RLSD ends above", "SDPG ends above")
    told = [became(lab, name) for name in names]
    assert overview(told) == (
        "Of 4 claims 1 holds here on every task that was run, 1 cannot be told and 2 were not run."
    )
    assert overview(told[:1] * 2 + told[2:3]) == (
        "Of 3 claims 2 hold here on every task that was run and 1 was not run."
    )


def test_one_part_that_fails_refutes_a_claim_of_several(tmp_path):
    """A cold start on which all three methods learn: VPD is between, but SDPO does not collapse."""
    between = {"grpo": MAIN["vpd"], "vpd": [0.6, 0.55, 0.65, 0.6], "sdpo": [0.3, 0.25, 0.35, 0.3]}
    lab = lab_of(tmp_path / "a", **{"cold_start__code_cold": between})
    finding = became(lab, "On a cold start").findings[0]
    assert [v for *_, v in finding.tested] == [Verdict.FAILS, Verdict.HOLDS, Verdict.HOLDS]
    assert finding.verdict == Verdict.FAILS
    collapsed = between | {"sdpo": [0.01, 0.0, 0.02, 0.01]}  # below .14, where all of them begin
    lab = lab_of(tmp_path / "b", **{"cold_start__code_cold": collapsed})
    assert became(lab, "On a cold start").findings[0].verdict == Verdict.HOLDS


def with_repairs(results: Results, contestant: str, values: list[float]) -> None:
    """Give the evaluations of its runs these repair rates, and a little more seed by seed."""
    for run in results.finished(contestant):
        for row, value in zip(run.rows[::10], values, strict=True):
            row[TEACHER] = value + 0.01 * run.seed


def test_a_teacher_plateaus_where_it_rises_by_less_than_the_bound_from_the_middle_on(tmp_path):
    results = made_up(tmp_path, {"sdpo": MAIN["sdpo"], "vpd": MAIN["vpd"]})
    with_repairs(results, "sdpo", [0.2, 0.4, 0.5, 0.5, 0.52])
    with_repairs(results, "vpd", [0.2, 0.5, 0.6, 0.8, 0.9])
    assert Contrast(RISE, ("vpd",)).estimate(results).value == pytest.approx(0.9 - 0.6)
    lab = {("teacher", "code-warm"): Reading("teacher", "code-warm", results, [])}
    assert became(lab, "The teacher stops").findings[0].verdict == Verdict.HOLDS
    other = made_up(tmp_path / "b", {"sdpo": MAIN["sdpo"], "vpd": MAIN["vpd"]})  # both rise by .25
    lab = {("teacher", "code-warm"): Reading("teacher", "code-warm", other, [])}
    assert became(lab, "The teacher stops").findings[0].verdict == Verdict.FAILS


def test_what_a_gate_saves_is_a_difference_of_differences(tmp_path):
    """Noise takes .30 to .36 without a gate and .10 to .16 with one."""
    clean, noisy = "environment", "environment+noisy:shuffle=0.75"
    ends = {
        f"vpd {clean} gate_width=None": [0.8, 0.82], f"vpd {noisy} gate_width=None": [0.5, 0.46],
        f"vpd {clean} gate_width=0.15": [0.7, 0.71], f"vpd {noisy} gate_width=0.15": [0.6, 0.55],
    }  # fmt: skip
    results = made_up(tmp_path, {name.replace("/", ""): v for name, v in ends.items()})
    claim = next(c for c in CLAIMS if c.says.startswith("With a trust gate"))
    estimate = claim.parts[0].estimate(results)
    each = [(0.6 - 0.7) - (0.5 - 0.8), (0.55 - 0.71) - (0.46 - 0.82)]
    half = T[2] * stdev(each) / math.sqrt(2)
    assert estimate.value == pytest.approx(mean(each)) == pytest.approx(0.2)
    assert estimate.low == pytest.approx(0.2 - half, abs=1e-6)


def test_runs_that_failed_are_left_out_of_both_sides(tmp_path):
    results = made_up(tmp_path, {"vpd": [0.8, None, 0.9], "sdpo": [0.5, 0.1, 0.7]})
    estimate = difference("vpd", "sdpo").estimate(results)
    assert (estimate.value, estimate.count) == (pytest.approx((0.3 + 0.2) / 2), 2)


# --- the prize -----------------------------------------------------------------------------------


def test_best_tied_and_below_are_told_by_the_paired_interval_to_the_best(tmp_path):
    ranks = ranked(made_up(tmp_path, MAIN | {"sdpg": [0.82, 0.60, 0.92, 0.78]}))
    places = {contestant: rank.place for contestant, rank in ranks.items()}
    each = [a - b for a, b in zip(MAIN["vpd"], [0.82, 0.60, 0.92, 0.78], strict=True)]
    assert mean(each) - T[4] * stdev(each) / 2 < 0  # so SDPG is tied
    assert list(places.values()) == [Place.BEST, Place.TIED, Place.BELOW, Place.BELOW]
    assert list(places) == ["vpd", "sdpg", "grpo", "sdpo"]


def test_the_prize_is_for_one_that_is_best_or_tied_on_every_task(tmp_path):
    results = made_up(tmp_path, MAIN)
    lab = {key: Reading(*key, results, []) for key in find_prize({}).tasks}
    assert {name for name, _ in lab} == set(REGIMES)
    prize = find_prize(lab)
    assert prize.winners == ["vpd"]
    assert prize.words == [f"The prize was found: vpd is best or tied on all {len(lab)} tasks."]
    swapped = {"vpd": MAIN["sdpo"], "sdpo": MAIN["vpd"], "grpo": MAIN["grpo"]}
    lab["rigid", "code-rigid"] = Reading(
        "rigid", "code-rigid", made_up(tmp_path / "swapped", swapped), []
    )
    lost = find_prize(lab)
    assert lost.winners == []
    assert f"on {len(lab) - 1} of {len(lab)}: vpd (not on code-rigid)" in lost.words[0]
    del lab["rigid", "code-rigid"]
    assert find_prize(lab).words[0].startswith("Not decided yet: vpd is best or tied on")


def test_one_that_was_not_run_on_a_task_cannot_win(tmp_path):
    lab = lab_of(
        tmp_path, main__code_warm=MAIN, main__choice_warm={"sdpo": [0.3, 0.4], "grpo": [0.2, 0.3]}
    )
    assert find_prize(lab).behind_on("vpd") == ["choice-warm"]


def test_without_intervals_nobody_is_best(tmp_path):
    results = made_up(tmp_path, {"vpd": [0.9], "sdpo": [0.1]})
    assert {rank.place for rank in ranked(results).values()} == {Place.UNKNOWN}
    assert results.finished("vpd")[0].curve(STUDENT)[40] == pytest.approx(0.9)


def test_the_labels_of_all_claims_have_room_in_the_picture():
    """Also those of the longest contestants: none is cut off; the bars keep two fifths."""
    plt = pytest.importorskip("matplotlib.pyplot")
    some = Estimate(0.1, 0.0, 0.2, 8)
    made = [
        claims.Tested(claim, [claims.Finding("code-warm", claim.parts, (some,) * len(claim.parts))])
        for claim in CLAIMS
    ]
    with plt.rc_context(LOOK):
        figure, _ = _claims(plt, made)
        figure.canvas.draw()
        axis = figure.axes[0]
        lefts = [label.get_window_extent().x0 for label in axis.get_yticklabels()]
        plt.close(figure)
    assert len(lefts) == sum(len(claim.parts) for claim in CLAIMS)
    assert min(lefts) >= 0
    assert axis.get_position().width >= 0.4


def test_a_long_legend_covers_no_curve(tmp_path):
    """Of a dozen contestants whose names leave room for one in a row."""
    plt = pytest.importorskip("matplotlib.pyplot")
    names = [f"vpd environment+noisy:shuffle=0.{i:02} gate_width=None" for i in range(12)]
    ends = {name: [0.5, 0.6] for name in names}
    reading = Reading("noise", "code-warm", made_up(tmp_path, ends), [])
    with plt.rc_context(LOOK):
        figure, _ = _curves(plt, [reading], STUDENT)
        figure.canvas.draw()
        axis, legend = figure.axes[0].get_window_extent(), figure.legends[0].get_window_extent()
        plt.close(figure)
    assert legend.y0 >= axis.y1
    assert legend.y1 <= figure.bbox.y1
    assert axis.height >= figure.bbox.height / 4
