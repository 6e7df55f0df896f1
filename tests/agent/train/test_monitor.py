"""What a batch says of itself, and the signs of a collapse."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch

from agent.helpers import mixed_rollouts, rollout, small_policy
from vpd_agent.algorithms import SDAR, SDPO
from vpd_agent.data.batch import RolloutBatch
from vpd_agent.distributed.world import Processes
from vpd_agent.ops.losses import divergence
from vpd_agent.train.config import TrainConfig
from vpd_agent.train.monitor import (
    CollapseMonitor,
    describe,
    quiet_divergence,
    slowest_judged,
    why_slow,
)


def observe(monitor: CollapseMonitor, rows: list[dict]) -> list[tuple[int, str]]:
    """Every warning with the number of the row it came at."""
    return [(i, text) for i, row in enumerate(rows) for text in monitor.observe(row)]


def evaluations(*scores: float) -> list[dict]:
    return [{"step": 10 * i, "eval/student_pass@1": score} for i, score in enumerate(scores)]


def steps(count: int, start: int = 1, **values: float) -> list[dict]:
    """Rows of training, with values of `reward`, `entropy` and `grad_norm`."""
    row = {
        "reward": values.get("reward", 0.5),
        "groups_with_signal": 1.0,
        "solved": values.get("solved", 0.5),
        "truncated": values.get("truncated", 0.0),
        "sampler/truncated": 1.0,
        "status/solved": 1.0,
        "teacher_fraction": values.get("teacher_fraction", 1.0),
        "distill/divergence": values.get("divergence", 0.1),
        "distill/entropy": values.get("entropy", 1.0),
        "distill/teacher_entropy": 99.0,
        "distill/grad_norm": values.get("grad_norm", 1.0),
    }
    return [{"step": start + i, **row} for i in range(count)]


def test_a_batch_is_described_as_one_would_count_it_by_hand():
    policy = small_policy()
    rows = mixed_rollouts(policy)
    statuses = ["solved", "no_answer", "wrong_answer", "format_error", "solved", "solved"]
    rows = [replace(r, status=s) for r, s in zip(rows, statuses, strict=True)]
    rows[0] = replace(rows[0], finish="stop")
    prompts = [policy.encode(r.messages) if r.feedback else None for r in rows]
    found = describe(RolloutBatch.from_rollouts(rows, prompts), rows, Processes())
    lengths = [len("xyz"), len("x"), len("zzzz"), len("q"), len("yes!"), len("ok")]
    assert found == pytest.approx({
        "rollouts": 6,
        "reward": 3 / 6,
        "solved": 3 / 6,
        "response_tokens": sum(lengths) / 6,
        "response_tokens_max": 4,
        "prompt_tokens": sum(len(r.prompt_ids) for r in rows) / 6,
        "teacher_prompt_tokens": sum(len(p) for p in prompts if p) / 5,
        "truncated": 5 / 6,
        "format_errors": 2 / 6,
        "teacher_fraction": 5 / 6,
        "groups_with_signal": 1.0,
        "status/solved": 3 / 6,
        "status/no_answer": 1 / 6,
        "status/wrong_answer": 1 / 6,
        "status/format_error": 1 / 6,
    })  # fmt: skip


def test_only_what_the_policy_wrote_counts_as_its_response():
    policy = small_policy()
    two_turns = replace(rollout("ab", "xxreplyyy", policy=policy), reward=1.0)
    two_turns = replace(two_turns, is_policy_token=[True] * 2 + [False] * 5 + [True] * 2)
    found = describe(RolloutBatch.from_rollouts([two_turns], [None]), [two_turns], Processes())
    assert found["response_tokens"] == found["response_tokens_max"] == 4


def test_a_score_that_stays_below_a_share_of_its_best_is_a_collapse():
    monitor = CollapseMonitor(TrainConfig(collapse_ratio=0.5, collapse_patience=3))
    found = observe(monitor, evaluations(0.2, 0.6, 0.25, 0.29, 0.31, 0.29, 0.1, 0.2, 0.0))
    # Three in a row below 0.3 are those of rows 5, 6 and 7; a fourth says nothing new.
    assert [row for row, _ in found] == [7]
    assert "below 0.5 of its best (0.600) 3 times in a row and is 0.200 now" in found[0][1]
    assert monitor.collapsed == found[0][1]
    assert monitor.best_step == 10


def test_a_score_that_falls_without_ever_having_risen_is_one_too():
    """The cold start: teachers that cannot read feedback take a student of 0.12 to 0."""
    monitor = CollapseMonitor(TrainConfig(collapse_patience=2))
    assert [row for row, _ in observe(monitor, evaluations(0.12, 0.0, 0.0))] == [2]


@pytest.mark.parametrize(
    "scores",
    [
        (0.1, 0.5, 0.26, 0.26, 0.26, 0.26),  # lower, and above half
        (0.0, 0.06, 0.02, 0.01, 0.0, 0.0),  # within the noise of so low a score
        (0.5, math.nan, math.nan, math.nan),  # nothing could be judged
        (0.1, 0.5, 0.1, 0.1, 0.4, 0.1, 0.1, 0.4),  # it recovers each time
    ],
)
def test_what_is_no_collapse(scores):
    monitor = CollapseMonitor(TrainConfig(collapse_ratio=0.5, collapse_patience=3))
    assert observe(monitor, evaluations(*scores)) == []
    assert monitor.collapsed is None


def test_a_ratio_of_zero_never_finds_a_collapse():
    assert (
        observe(
            CollapseMonitor(TrainConfig(collapse_ratio=0.0, collapse_patience=1)),
            evaluations(0.9, 0.0, 0.0),
        )
        == []
    )


def test_without_evaluation_the_mean_reward_of_ten_steps_is_the_score():
    rows = steps(20, reward=0.8) + steps(30, start=21, reward=0.1)
    found = observe(CollapseMonitor(TrainConfig(collapse_patience=2)), rows)
    # The tens are .8 .8 .1 .1 .1: the second low one ends with row 39.
    assert [row for row, _ in found] == [39]
    assert "step 40: the mean reward of ten steps" in found[0][1]


def test_with_evaluation_the_reward_of_training_is_no_sign():
    rows = evaluations(0.8) + steps(20, reward=0.8) + steps(40, start=21, reward=0.0)
    assert observe(CollapseMonitor(TrainConfig(collapse_patience=2)), rows) == []


@pytest.mark.parametrize(
    ("bounds", "entropy", "says"),
    [
        ({"min_entropy": 0.2}, 0.1, "below min_entropy = 0.2"),
        ({"max_entropy": 3.0}, 4.0, "above max_entropy = 3.0"),
    ],
)
def test_an_entropy_outside_its_bounds_is_a_collapse(bounds, entropy, says):
    monitor = CollapseMonitor(TrainConfig(collapse_patience=2, **bounds))
    found = observe(monitor, steps(10) + steps(30, start=11, entropy=entropy))
    assert [row for row, _ in found] == [29]
    assert says in found[0][1]
    assert monitor.collapsed


def test_an_entropy_without_bounds_is_none():
    assert observe(CollapseMonitor(TrainConfig(collapse_patience=1)), steps(30, entropy=0.0)) == []


def test_a_gradient_of_zero_is_warned_of_once_with_its_reason():
    monitor = CollapseMonitor(TrainConfig())
    found = observe(monitor, steps(40, grad_norm=0.0, teacher_fraction=0.0))
    assert [row for row, _ in found] == [9]
    assert "No row had a teacher" in found[0][1]
    assert "rewards were the same" not in found[0][1]
    assert monitor.collapsed is None
    assert (
        observe(CollapseMonitor(TrainConfig()), steps(9, grad_norm=0.0) + steps(31, grad_norm=0.1))
        == []
    )


def test_missing_feedback_is_no_reason_where_the_algorithm_has_no_teacher():
    rows = steps(10, grad_norm=0.0, teacher_fraction=0.0)
    ((_, text),) = observe(CollapseMonitor(TrainConfig(), has_teacher=False), rows)
    assert "The gradient of the last 10 steps was zero" in text
    assert "feedback" not in text


@pytest.mark.parametrize(
    ("first", "later", "warned"),
    [
        (0.0, 0.2, True),
        (0.0, 0.09, False),  # a few
        (0.05, 0.16, True),  # more than three times as many
        (0.05, 0.14, False),
        (0.6, 0.85, True),  # half of those that ended end no more
        (0.6, 0.75, False),
    ],
)
def test_a_rising_share_of_answers_that_are_cut_off_is_warned_of_once(first, later, warned):
    monitor = CollapseMonitor(TrainConfig())
    rows = steps(20, truncated=first) + steps(30, start=21, truncated=later)
    found = observe(monitor, rows)
    assert [row for row, _ in found] == [29] * warned
    assert monitor.collapsed is None
    if warned:
        shares = f"{100 * later:.0f} % of the last answers were cut off, of the first ones"
        assert f"step 30: {shares} {100 * first:.0f} %" in found[0][1]


@pytest.mark.parametrize(
    ("changes", "repair", "warned"),
    [
        ({"divergence": 0.005}, None, True),
        ({"divergence": 0.005}, 0.1, True),  # it repairs no more than the student solves
        ({"divergence": 0.005}, math.nan, True),
        ({"divergence": 0.005}, 0.3, False),  # little a token, but of use
        ({"divergence": 0.005, "solved": 0.95}, None, False),  # nothing is left to teach
        ({"divergence": 0.02}, 0.1, False),
        ({"divergence": math.nan}, None, False),
    ],
)
def test_a_teacher_with_next_to_nothing_to_say_is_warned_of_once(changes, repair, warned):
    monitor = CollapseMonitor(TrainConfig())
    start = [] if repair is None else evaluations(0.2)
    for row in start:
        row["eval/teacher_repair"] = repair
    found = observe(monitor, start + steps(30, **changes))
    assert [row for row, _ in found] == [9 + len(start)] * warned
    if warned:
        assert "nearly inactive" in found[0][1]
        assert "0.005 nats a token over ten steps (below 0.01)" in found[0][1]
        assert ("repairs no more" in found[0][1]) is (repair == 0.1)


@pytest.mark.parametrize("alpha", [0.2, 0.5])
def test_what_counts_as_inactive_is_as_much_lower_for_a_jsd_as_the_jsd_itself(alpha):
    """Of two distributions that are near each other: its quotient with their KL."""
    p = torch.tensor([0.5, 0.3, 0.2], dtype=torch.float64).log()
    q = torch.tensor([0.502, 0.299, 0.199], dtype=torch.float64).log()
    quotient = float(divergence(p, q, alpha) / divergence(p, q, 1.0))
    assert quiet_divergence(SDPO(alpha=alpha)) == pytest.approx(0.01 * quotient, rel=0.01)
    assert quiet_divergence(SDPO(alpha=1.0)) == quiet_divergence(SDPO(alpha=0.0)) == 0.01
    assert quiet_divergence(SDAR()) == 0.01


def test_steps_that_were_skipped_say_nothing():
    rows = [{"step": i, "dropped": 0, "skipped": i} for i in range(50)]
    assert observe(CollapseMonitor(TrainConfig(collapse_patience=1, min_entropy=1.0)), rows) == []


def test_the_slowest_judge_calls_are_named_the_slowest_first():
    policy = small_policy()
    times = {"a": 0.5, "b": 30.0, "c": 0.0, "d": 2.0, "e": 7.0}
    rows = [replace(rollout(name, policy=policy), judge_seconds=s) for name, s in times.items()]
    assert slowest_judged(rows, Processes()) == [("b", 30.0), ("e", 7.0), ("d", 2.0)]
    assert slowest_judged(rows[2:3], Processes()) == []  # an environment that does not tell


@pytest.mark.parametrize(
    ("seconds", "step_seconds", "said"), [(30, 60, True), (30, 600, False), (2, 3, False)]
)
def test_a_judge_call_is_worth_a_line_if_it_is_a_good_part_of_a_long_step(
    seconds, step_seconds, said
):
    text = why_slow([("b", seconds), ("e", 1.0)], step_seconds)
    assert (text is not None) is said
    assert not said or "answer to b took 30 s of its 60 s" in text
    assert why_slow([], step_seconds) is None
