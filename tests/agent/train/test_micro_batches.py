"""Batches in parts, and what their sizes are measured by."""

from __future__ import annotations

import pytest

from agent.helpers import SecretLetter, mixed_rollouts, rollout, small_policy
from vpd_agent.algorithms import SDPO
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
    config = TrainConfig(**{**vars(CONFIG), "micro_batch_size": 4})
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
