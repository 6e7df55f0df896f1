"""What a report says in words must be true of its numbers, whatever these are."""

from __future__ import annotations

import math

import pytest
from comparison.made_up import made_up

from vpd_agent.comparison.standings import Standings
from vpd_agent.comparison.words import cautions, findings, limits, verdicts

HIGH, LOW = [0.80, 0.82, 0.81, 0.83], [0.30, 0.33, 0.31, 0.32]


def standings(folder, ends, **options) -> Standings:
    return Standings(made_up(folder, ends, **options))


def test_a_difference_whose_interval_leaves_out_zero_is_told_with_its_side(tmp_path):
    """vpd − grpo is .50, .49, .50, .51 by seed: mean .50, s/√4 = .0041, t(3) = 3.18: ± .013."""
    text = verdicts(standings(tmp_path, {"vpd": HIGH, "grpo": LOW}))
    assert text == ["With 4 seeds, above grpo at the end: vpd by .50 (.49 to .51)."]


def test_the_same_difference_is_told_from_the_other_side(tmp_path):
    text = verdicts(standings(tmp_path, {"vpd": LOW, "grpo": HIGH}))
    assert text == ["With 4 seeds, below grpo at the end: vpd by .50 (.49 to .51)."]


def test_an_interval_that_holds_zero_tells_nothing_apart(tmp_path):
    """Differences +.10 and −.10: mean 0, s/√2 = .10, t(1) = tan(.475 π) = 12.71: 1.27, cut at 1."""
    [text] = verdicts(standings(tmp_path, {"vpd": [0.5, 0.4], "grpo": [0.4, 0.5]}))
    assert text == "With 2 seeds, not told apart from grpo: vpd (difference .00, −1.00 to +1.00)."


def test_equal_runs_are_called_equal(tmp_path):
    text = verdicts(standings(tmp_path, {"vpd": [0.5, 0.6], "grpo": [0.5, 0.6]}))
    assert text == ["With 2 seeds, exactly at grpo in each of them: vpd."]


def test_one_seed_is_said_to_tell_no_merit(tmp_path):
    one = standings(tmp_path, {"vpd": [0.5], "sdpo": [0.6], "rft": [0.55], "grpo": [0.55]})
    assert verdicts(one) == [
        "In one seed sdpo is .05 above grpo, vpd is .05 below grpo and rft is level with grpo at "
        "the end."
    ]
    [caution] = cautions(one)
    assert caution.startswith("One seed tells no method's luck from its merit")
    assert not any("95 %" in sentence for sentence in limits(one))


def test_contestants_that_are_level_in_one_seed_are_told_in_one_clause(tmp_path):
    one = standings(tmp_path, {"vpd": [0.5], "sdpo": [0.5], "grpo": [0.5]})
    assert verdicts(one) == ["In one seed sdpo and vpd are level with grpo at the end."]
    four = {"vpd": [0.6], "rft": [0.6], "opsd": [0.6], "sdpo": [0.4], "grpo": [0.6]}
    assert verdicts(standings(tmp_path / "four", four)) == [
        "In one seed sdpo is .20 below grpo and opsd, rft and vpd are level with grpo at the end."
    ]


def test_a_single_run_is_compared_with_nothing(tmp_path):
    single = standings(tmp_path, {"grpo": [0.5]})
    assert verdicts(single) == []
    assert cautions(single) == ["One run: nothing here says what another seed would give."]


@pytest.mark.parametrize(("runs", "few"), [(2, True), (3, True), (4, False)])
def test_fewer_than_four_runs_are_called_few(tmp_path, runs, few):
    found = cautions(standings(tmp_path, {"vpd": HIGH[:runs], "grpo": LOW[:runs]}))
    assert any("few runs" in sentence for sentence in found) == few


def test_failed_runs_are_told_and_their_contestant_stays(tmp_path):
    """The pairs of vpd and grpo are those of seeds that both finished: one."""
    some = standings(tmp_path, {"vpd": [0.5, 0.6, None], "sdpo": [None] * 3, "grpo": [None, 0.3]})
    assert [s.contestant for s in some.all] == ["vpd", "grpo", "sdpo"]
    assert verdicts(some) == [
        "In the one seed that both finished vpd is .30 above grpo at the end."
    ]
    told = cautions(some)
    assert told[0].startswith("vpd: of 3 runs 1 failed.")
    assert told[1] == "sdpo has no numbers: of its 3 runs 3 failed."
    assert told[2].startswith("grpo: of 2 runs 1 failed.")


def test_a_baseline_without_a_run_is_said_to_be_missing(tmp_path):
    text = verdicts(standings(tmp_path, {"vpd": HIGH, "grpo": [None] * 4}))
    assert text == ["grpo, the baseline, has no finished run: there is no difference to it."]


def test_contestants_without_a_seed_in_common_are_not_compared(tmp_path):
    text = verdicts(standings(tmp_path, {"vpd": [0.5, None], "grpo": [None, 0.4]}))
    assert text == ["vpd and grpo have finished no seed in common."]


def test_without_a_baseline_nothing_is_told_apart(tmp_path):
    some = standings(tmp_path, {"vpd": HIGH, "sdpo": LOW}, baseline="")
    assert [s.difference for s in some.all] == [None, None]
    assert findings(some, [])[0].startswith("Held-out pass@1 at step 40, mean of 4 runs each: vpd")


def test_no_finished_run_is_said_to_show_nothing(tmp_path):
    text = findings(standings(tmp_path, {"vpd": [None], "grpo": [None]}), [])
    assert text == ["No run has finished, so there is nothing to compare."]


def test_the_best_two_are_compared_where_neither_is_the_baseline(tmp_path):
    """sdpo − vpd is .10, .06, .10, .06: mean .08, s/√4 = .0115, t(3) = 3.18: ± .037. It
    is the fourth difference that is read."""
    ends = {"vpd": HIGH, "sdpo": [0.9, 0.88, 0.91, 0.89], "rft": LOW, "grpo": LOW}
    some = standings(tmp_path, ends)
    assert "With 4 seeds, above vpd at the end: sdpo by .08 (.04 to .12)." in verdicts(some)
    [many] = [s for s in limits(some) if "differences are read" in s]
    assert many.startswith("4 differences are read at 95 % each.")
    assert "up to 20 of 100" in many


def test_a_fall_from_the_best_mean_is_told(tmp_path):
    """From .14 at step 0 down to .04 at step 40."""
    text = findings(standings(tmp_path, {"vpd": [0.04, 0.04], "grpo": [0.5, 0.5]}), [])
    assert "vpd had its highest mean, .14, at step 0 and ends .10 below it." in text


def test_a_teacher_without_numbers_is_left_out(tmp_path):
    some = standings(tmp_path, {"vpd": HIGH, "grpo": LOW})
    assert math.isnan(some.results.finished("grpo")[0].rows[0]["eval/teacher_repair"])
    [told] = [s for s in findings(some, []) if "teacher" in s]
    assert (
        told == "Share of fixed failures that the teacher repairs, first to last: vpd .28 to .78."
    )


def test_collapses_are_counted_by_run(tmp_path):
    signs = [
        {"contestant": "vpd", "seed": seed, "step": step, "collapsed": collapsed, "text": ""}
        for seed, step, collapsed in ((0, 30, True), (0, 20, True), (1, 10, False))
    ]
    text = findings(standings(tmp_path, {"vpd": HIGH, "grpo": LOW}), signs)
    assert text[-1] == (
        "1 of 4 runs of vpd collapsed (by the monitor of vpd train), the first at step 20."
    )


def test_runs_that_share_only_the_first_evaluation_say_nothing_of_learning(tmp_path):
    results = made_up(tmp_path, {"vpd": [0.5], "grpo": [0.4]})
    results.runs[0].rows[:] = [r for r in results.runs[0].rows if r["step"] in (0, 5)]
    assert Standings(results).results.last_step == 0
    [text] = findings(Standings(results), [])
    assert text.startswith("The only evaluation that all finished runs have in common is that of")


@pytest.mark.parametrize(
    ("tried", "said"),
    [
        ({}, "Nothing was tuned for this comparison"),
        (None, "What was tuned before these runs is not known here"),
        ({"vpd": 3, "grpo": 3}, "Each method had 3 trials of tuning"),
        ({"vpd": 3}, "The methods had unequal numbers of trials of tuning (vpd 3 and grpo 0)"),
    ],
)
def test_what_was_tuned_is_told(tmp_path, tried, said):
    tuning = None
    if tried is not None:
        tuning = [{"contestant": c} for c, n in tried.items() for _ in range(n)]
    found = limits(standings(tmp_path, {"vpd": HIGH, "grpo": LOW}, tuning=tuning))
    assert any(sentence.startswith(said) for sentence in found)


@pytest.mark.parametrize(("seed", "said"), [(7, "on these held-out problems"), (None, "may have")])
def test_whether_all_seeds_had_the_same_problems_is_told(tmp_path, seed, said):
    some = standings(tmp_path, {"vpd": HIGH, "grpo": LOW}, settings={"eval_seed": seed})
    [told] = [s for s in limits(some) if s.startswith("Intervals are over seeds")]
    assert said in told
