"""How far an optimizer step moves the policy, and the learning rate that follows from it."""

from __future__ import annotations

import copy
import math
import statistics

import pytest
import torch

from agent.helpers import SecretLetter, float64_policy, mixed_rollouts
from vpd_agent.algorithms import GRPO, RFT, VPD
from vpd_agent.algorithms.base import Step
from vpd_agent.train.config import TrainConfig
from vpd_agent.train.step_batch import StepBatch
from vpd_agent.train.step_limit import LOWEST, StepLimit
from vpd_agent.train.trainer import Trainer


def make_trainer(algorithm, **changes) -> Trainer:
    config = TrainConfig(
        prompts_per_step=3,
        group_size=4,
        max_prompt_tokens=64,
        max_teacher_prompt_tokens=256,
        max_response_tokens=4,
        eval_every=0,
        **changes,
    )
    environment = SecretLetter.vector(config.rollouts_per_step)
    return Trainer(float64_policy(), algorithm, environment, config)


def logprobs_of(trainer, rollouts) -> list[list[float]]:
    """A row of tokens each, one rollout after the other."""
    batch = trainer.make_batch(rollouts)
    rows = trainer.micro_batches(batch).logprobs()
    return [row[: len(r.response_ids)].tolist() for row, r in zip(rows, rollouts, strict=True)]


def test_the_share_goes_with_the_root_of_how_far_steps_go_and_ends_at_one():
    limit = StepLimit(0.01)
    shares = []
    # With a rate 1.05 times too high; much too far; just as far; 1.05 times too low; not at all.
    for moved in (0.01 * 1.05**2, math.inf, 0.01, 0.01 / 1.05**2, 0.0, 0.0):
        limit.update(moved)
        shares.append(limit.share)
    first = 1 / 1.05
    assert shares == pytest.approx([first, first / 1.1, first / 1.1, 1 / 1.1, 1.0, 1.0], rel=1e-12)


def test_the_share_never_falls_to_nothing():
    limit = StepLimit(1e-9)
    for _ in range(100):
        limit.update(1.0)
    assert limit.share == LOWEST


@pytest.mark.parametrize("micro_batch_size", [None, 2])
@pytest.mark.parametrize("algorithm", [GRPO(), RFT(), VPD(e_step_every=1)])
def test_a_step_says_how_far_it_moved_the_policy(algorithm, micro_batch_size):
    """The mean over tokens of r − 1 − log r, of the last loss of the step, which teaches the
    student. Before it an E-step has moved the policy too."""
    trainer = make_trainer(
        algorithm, learning_rate=1e-2, max_step_kl=1.0, micro_batch_size=micro_batch_size
    )
    rollouts = mixed_rollouts(trainer.policy)
    *first, last = algorithm.losses(Step(0, 10))
    batch = trainer.make_batch(rollouts)
    metrics = trainer._take(first, StepBatch(batch))
    assert not any("step_kl" in name for name in metrics)
    before = logprobs_of(trainer, rollouts)
    metrics = trainer._take([last], StepBatch(batch))
    after = logprobs_of(trainer, rollouts)
    ratios = [
        math.exp(new - old)
        for news, olds in zip(after, before, strict=True)
        for new, old in zip(news, olds, strict=True)
    ]
    expected = statistics.mean(r - 1 - math.log(r) for r in ratios)
    assert metrics[f"{last.name}/step_kl"] == pytest.approx(expected, rel=1e-4)
    assert expected > 1e-4


def test_the_rate_of_the_student_follows_and_that_of_the_e_step_does_not():
    algorithm = VPD(e_step_every=1, e_step_learning_rate=3e-3)
    trainer = make_trainer(algorithm, learning_rate=1e-2, max_step_kl=1e-9, steps=10)
    rollouts = mixed_rollouts(trainer.policy)
    steps = [trainer.train_step(rollouts) for _ in range(3)]
    assert [s["e_step/learning_rate"] for s in steps] == [3e-3] * 3
    rates = [s["m_step/learning_rate"] for s in steps]
    assert rates == pytest.approx([1e-2, 1e-2 / 1.1, 1e-2 / 1.1**2])
    assert all(s["m_step/step_kl"] > 1e-9 for s in steps)


def test_without_a_limit_nothing_is_measured_and_the_rate_stays():
    trainer = make_trainer(GRPO(), learning_rate=1e-2, steps=10)
    rollouts = mixed_rollouts(trainer.policy)
    steps = [trainer.train_step(rollouts) for _ in range(3)]
    assert [s["policy/learning_rate"] for s in steps] == [1e-2] * 3
    assert not any("step_kl" in name for s in steps for name in s)


def test_steps_come_to_move_the_policy_as_far_as_they_may():
    """With a rate with which the first goes more than ten times as far."""
    trainer = make_trainer(
        GRPO(kl_to_reference=1.0), learning_rate=1e-2, max_step_kl=1e-4, steps=99
    )
    rollouts = mixed_rollouts(trainer.policy)
    moved = [trainer.train_step(rollouts)["policy/step_kl"] for _ in range(60)]
    assert moved[0] > 1e-3
    assert 3e-5 < statistics.median(moved[30:]) < 3e-4


@pytest.mark.parametrize("value", [0.0, -1.0, math.nan])
def test_a_limit_that_is_none_is_refused(value):
    with pytest.raises(ValueError, match="max_step_kl must be positive"):
        TrainConfig(max_step_kl=value)


def test_a_run_goes_on_with_the_share_that_it_had():
    algorithm = GRPO()
    limits = {"learning_rate": 1e-2, "max_step_kl": 1e-6, "steps": 10}
    whole = make_trainer(algorithm, **limits)
    rollouts = mixed_rollouts(whole.policy)
    for _ in range(2):
        whole.train_step(rollouts)
    other = make_trainer(algorithm, **limits)
    other.load_state_dict(copy.deepcopy(whole.state_dict()))
    assert other.updater.limit.share == pytest.approx(1 / 1.1**2)
    for trainer in (whole, other):
        trainer.train_step(rollouts)
    for one, two in zip(whole.policy.parameters(), other.policy.parameters(), strict=True):
        assert torch.equal(one, two)
