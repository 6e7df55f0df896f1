"""RolloutBatch: the only padding code."""

from __future__ import annotations

import statistics
from dataclasses import replace

import pytest
import torch

from agent.helpers import mixed_rollouts, rollout, small_policy
from vpd_agent.data.batch import RolloutBatch, group_statistics


@pytest.fixture(scope="module")
def policy():
    return small_policy()


@pytest.fixture
def batch(policy):
    rollouts = mixed_rollouts(policy)
    prompts = [policy.encode([{"role": "user", "content": r.feedback}]) if r.feedback else None
               for r in rollouts]  # fmt: skip
    return RolloutBatch.from_rollouts(rollouts, prompts)


def test_prompts_are_padded_left_and_responses_right(policy, batch):
    rollouts = mixed_rollouts(policy)
    for i, r in enumerate(rollouts):
        assert batch.prompt[i][batch.prompt_mask[i]].tolist() == r.prompt_ids
        assert batch.prompt_mask[i, -len(r.prompt_ids) :].all()
        assert batch.response[i, : len(r.response_ids)].tolist() == r.response_ids
        assert batch.loss_mask[i].sum() == len(r.response_ids)


def test_whole_batch_numbers_survive_splitting(batch):
    parts = list(batch.split(4))
    assert [len(p) for p in parts] == [4, 2]
    assert sum(int(p.loss_mask.sum()) for p in parts) == batch.num_tokens
    assert sum(int(p.teacher_mask.sum()) for p in parts) == batch.num_teacher_tokens
    for part in parts:
        assert part.num_tokens == batch.num_tokens
        assert part.num_rollouts == 6
    torch.testing.assert_close(torch.cat([p.group_mean for p in parts]), batch.group_mean)


def test_micro_batches_drop_padding_they_do_not_need(policy):
    short, long = rollout("a", "x", policy=policy), rollout("a" * 30, "y" * 20, policy=policy)
    first, second = RolloutBatch.from_rollouts([short, long], [None, None]).split(1)
    assert first.prompt.shape[1] == len(short.prompt_ids)
    assert first.response.shape[1] == 1
    assert second.prompt.shape[1] == len(long.prompt_ids)


def test_rows_without_feedback_are_outside_the_teacher_mask(batch):
    assert batch.has_teacher.tolist() == [True, True, False, True, True, True]
    assert not batch.teacher_mask[2].any()
    assert batch.num_solved_with_teacher == 3
    assert batch.num_failed_with_teacher == 2


@pytest.mark.parametrize("reward", [float("nan"), float("inf")])
def test_a_reward_that_is_no_number_is_refused(policy, reward):
    with pytest.raises(ValueError, match="expected a finite number"):
        RolloutBatch.from_rollouts([rollout(policy=policy, reward=reward)], [None])


def test_an_empty_batch_or_response_is_refused(policy):
    with pytest.raises(ValueError, match="at least one rollout"):
        RolloutBatch.from_rollouts([], [])
    empty = replace(rollout(policy=policy), response_ids=[], logprobs=[])
    with pytest.raises(ValueError, match="no tokens"):
        RolloutBatch.from_rollouts([empty], [None])


def test_a_group_of_equal_rewards_has_no_deviation():
    rewards = torch.full((8,), 0.7)
    mean, std = group_statistics(rewards, torch.zeros(8, dtype=torch.long))
    torch.testing.assert_close(mean, rewards)
    assert std.tolist() == [0.0] * 8


def test_the_deviation_of_a_group_is_that_of_a_sample():
    """With n − 1, whatever the order of the rows; a group of one has none."""
    rewards, group = torch.tensor([1.0, 0.3, 0.0, 0.5]), torch.tensor([5, 2, 5, 5])
    _, std = group_statistics(rewards, group)
    expected = statistics.stdev([1.0, 0.0, 0.5])
    torch.testing.assert_close(std, torch.tensor([expected, 0.0, expected, expected]))


def test_a_row_that_no_loss_counts_is_in_no_number(batch):
    """The numbers of a batch without its second row are those of one in which it is silenced."""
    rest = [0, 2, 3, 4, 5]
    silenced = replace(
        batch,
        loss_mask=batch.loss_mask & (torch.arange(6) != 1)[:, None],
    )
    assert silenced.totals() == batch.rows(torch.tensor(rest)).totals()
    assert batch.rows(slice(1)).silenced().totals() == dict.fromkeys(batch.totals(), 0.0)
