"""Batches in parts, and what their sizes are measured by."""

from __future__ import annotations

from dataclasses import dataclass, replace

import pytest
import torch

from agent.helpers import SecretLetter, float64_policy, mixed_rollouts, rollout, small_policy
from vpd_agent.algorithms import GRPO, SDPO, VPD, Step
from vpd_agent.data.batch import RolloutBatch
from vpd_agent.train.config import TrainConfig
from vpd_agent.train.trainer import Trainer

CONFIG = TrainConfig(prompts_per_step=2, group_size=3, max_response_tokens=8, eval_every=0)


@pytest.mark.parametrize(("spare", "expected"), [(0, 1), (-1, 2)])
def test_teacher_prompts_count_towards_the_tokens_of_a_micro_batch(spare, expected):
    """Two rows whose teacher prompts just fit into one pass, or are one token too long for it."""
    policy = small_policy()
    rows = [rollout("ab", "xy", policy=policy) for _ in range(2)]
    teacher_prompt = rows[0].prompt_ids * 3
    batch = RolloutBatch.from_rollouts(rows, [teacher_prompt] * 2)
    limit = 2 * (len(teacher_prompt) + len("xy"))
    assert len(batch.parts(max_tokens=limit + spare)) == expected


def test_each_iteration_gives_every_row_once_and_nothing_that_was_computed():
    config = replace(CONFIG, micro_batch_size=4)
    trainer = Trainer(small_policy(), SDPO(), SecretLetter.vector(6), config)
    rollouts = mixed_rollouts(trainer.policy)
    micro_batches = trainer.micro_batches(trainer.make_batch(rollouts))
    first, again = list(micro_batches), list(micro_batches)
    assert [len(inputs.batch) for inputs in first] == [4, 2]
    assert sum(inputs.batch.group.tolist().count(0) for inputs in first) == 3
    assert all(a is not b for a, b in zip(first, again, strict=True))


def test_a_spare_pass_changes_no_log_probability():
    trainer = Trainer(small_policy(), SDPO(), SecretLetter.vector(6), CONFIG)
    micro_batches = trainer.micro_batches(trainer.make_batch(mixed_rollouts(trainer.policy)))
    expected = micro_batches.logprobs()
    assert expected.abs().sum() > 0
    micro_batches.spare = 1
    assert len(list(micro_batches)) == 2
    assert micro_batches.logprobs().equal(expected)


# --- mini-batches ---------------------------------------------------------------------------------


def trained(rollouts, *, mini_batches=1, seed=0, algorithm=SDPO, micro_batch_size=None):
    """Weights after one training step."""
    config = replace(
        CONFIG, mini_batches=mini_batches, seed=seed, micro_batch_size=micro_batch_size
    )
    trainer = Trainer(float64_policy(), algorithm(), SecretLetter.vector(6), config)
    trainer.train_step(rollouts)
    return [p.detach() for p in trainer.policy.parameters()]


def step_by_step(batches, algorithm=SDPO):
    """Weights after one optimizer step for each loss on the whole of each of these batches."""
    trainer = Trainer(float64_policy(), algorithm(), SecretLetter.vector(6), CONFIG)
    for rollouts, losses in batches:
        batch = trainer.make_batch(rollouts)
        for loss in losses:
            trainer.state, _ = trainer.updater.update(
                loss, trainer.micro_batches(batch), trainer.state, 0
            )
    return [p.detach() for p in trainer.policy.parameters()]


def same(mine, other) -> bool:
    return all(
        torch.allclose(a, b, rtol=1e-9, atol=1e-11) for a, b in zip(mine, other, strict=True)
    )


@pytest.fixture(scope="module")
def rollouts():
    """Of the groups 0 and 1, three each."""
    return mixed_rollouts(float64_policy())


def groups(rollouts, *order):
    return [[r for r in rollouts if r.group == group] for group in order]


@pytest.mark.parametrize("algorithm", [SDPO, GRPO, VPD])
def test_one_mini_batch_changes_nothing_bit_for_bit(rollouts, algorithm):
    losses = algorithm().losses(Step(0, CONFIG.steps))
    expected = step_by_step([(rollouts, losses)], algorithm)
    assert all(map(torch.equal, trained(rollouts, algorithm=algorithm), expected))


@pytest.mark.parametrize("micro_batch_size", [None, 2])
def test_mini_batches_are_steps_on_whole_groups_in_a_random_order(rollouts, micro_batch_size):
    losses = SDPO().losses(Step(0, CONFIG.steps))
    first, second = (
        step_by_step([(group, losses) for group in groups(rollouts, *order)])
        for order in ((0, 1), (1, 0))
    )
    assert not same(first, second)
    found = [
        trained(rollouts, mini_batches=2, seed=seed, micro_batch_size=micro_batch_size)
        for seed in range(6)
    ]
    assert {(same(x, first), same(x, second)) for x in found} == {(True, False), (False, True)}
    assert all(map(torch.equal, found[0], trained(rollouts, mini_batches=2, seed=0,
                                                  micro_batch_size=micro_batch_size)))  # fmt: skip


def test_an_e_step_takes_the_whole_batch_before_the_mini_batches(rollouts):
    e_step, m_step = VPD().losses(Step(0, CONFIG.steps))
    found = trained(rollouts, mini_batches=2, algorithm=VPD)
    expected = [
        step_by_step([(rollouts, [e_step]), *((g, [m_step]) for g in groups(rollouts, *order))],
                     VPD)
        for order in ((0, 1), (1, 0))
    ]  # fmt: skip
    assert same(found, expected[0]) != same(found, expected[1])


def test_metrics_are_means_over_the_mini_batches(rollouts):
    config = replace(CONFIG, mini_batches=2)
    trainer = Trainer(float64_policy(), GRPO(), SecretLetter.vector(6), config)
    taken = []
    update = trainer.updater.update

    def recorded(*args):
        state, metrics = update(*args)
        taken.append(metrics)
        return state, metrics

    trainer.updater.update = recorded
    metrics = trainer.train_step(rollouts)
    assert len(taken) == 2
    for name in ("policy/loss", "policy/entropy", "policy/grad_norm"):
        assert metrics[name] == (taken[0][name] + taken[1][name]) / 2


def test_groups_that_were_dropped_leave_fewer_mini_batches(rollouts):
    """Of two groups one could not be judged: there is one step, on the other."""
    (left,) = groups(rollouts, 1)
    losses = SDPO().losses(Step(0, CONFIG.steps))
    assert same(trained(left, mini_batches=2), step_by_step([(left, losses)]))


@dataclass(frozen=True)
class Fragile(SDPO):
    """SDPO whose loss is not finite on the second problem."""

    def distill(self, inputs):
        loss, metrics = super().distill(inputs)
        return loss * (torch.inf if inputs.batch.group.any() else 1), metrics


def test_a_mini_batch_that_is_not_finite_ends_the_step_and_keeps_what_was_learned(rollouts):
    losses = SDPO().losses(Step(0, CONFIG.steps))
    before = step_by_step([])
    after_one = step_by_step([(groups(rollouts, 0)[0], losses)])
    found = []
    for seed in range(6):
        config = replace(CONFIG, mini_batches=2, seed=seed)
        trainer = Trainer(float64_policy(), Fragile(), SecretLetter.vector(6), config)
        with pytest.raises(FloatingPointError, match="Loss 'distill' is inf"):
            trainer.train_step(rollouts)
        weights = [p.detach() for p in trainer.policy.parameters()]
        found.append((same(weights, before), same(weights, after_one)))
    assert set(found) == {(True, False), (False, True)}


def test_mini_batches_must_divide_the_problems_of_a_step():
    with pytest.raises(ValueError, match=r"prompts_per_step \(32\).*got 12. Lower it to 4,"):
        TrainConfig(mini_batches=12)
    with pytest.raises(ValueError, match="mini_batches must be at least 1, got 0"):
        TrainConfig(mini_batches=0)
