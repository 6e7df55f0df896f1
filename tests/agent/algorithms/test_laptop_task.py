"""One algorithm of each kind learns a laptop task, vpd/MiniCode-v0, with the settings that it comes
with: a reward, a passive teacher, a trained one, and one behind a gate.

These take minutes together: `.ci/run` runs them apart (`pytest -m laptop`).
"""

from __future__ import annotations

from dataclasses import replace

import pytest

from vpd_agent.rollout.environment import EnvironmentSpec
from vpd_agent.tiny.warmup import RECIPES, warm_policy
from vpd_agent.train.presets import LAPTOP
from vpd_agent.train.trainer import Trainer

STEPS = 40


@pytest.mark.laptop
@pytest.mark.parametrize("name", ["grpo", "sdpo", "vpd", "vpd-pg"])
def test_an_algorithm_raises_the_reward_of_executed_programs(name):
    """From about .11, over 640 rollouts each at both ends: a standard error of .02."""
    environment = EnvironmentSpec("vpd/MiniCode-v0", kwargs={"sandbox": "local"}).make(64, "train")
    config = replace(LAPTOP.config(name), eval_every=0, save_every=0)
    trainer = Trainer(
        warm_policy(RECIPES["tiny-warm"]),
        LAPTOP.algorithm(name),
        environment,
        config,
        template=LAPTOP.template,
    )
    rewards = [trainer.train_step(trainer.collect().rollouts)["reward"] for _ in range(STEPS)]
    environment.close()
    assert sum(rewards[-10:]) / 10 > sum(rewards[:10]) / 10 + 0.03
