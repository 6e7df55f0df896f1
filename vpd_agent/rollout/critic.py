"""The policy as its own critic: what `vpd_envs.SelfCritique` asks when a model is trained."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from vpd_agent.engines import Engine
from vpd_agent.model.policy import Policy


@dataclass(frozen=True)
class PolicyCritic:
    """Answers prompts with the policy, as the run's engine samples from it.

    A critique is at most `max_tokens` long. What is sampled depends on the weights and the prompts
    alone: a run that is resumed reads the critiques it would have read, and the rollouts are those
    of the same run without critiques.
    """

    policy: Policy
    engine: Engine
    max_tokens: int

    def __call__(self, prompts: Sequence[str]) -> list[str]:
        policy = self.policy
        digest = hashlib.sha256("\x00".join(prompts).encode("utf-8", "replace")).digest()
        seed = int.from_bytes(digest[:7])
        encoded = [policy.encode([{"role": "user", "content": prompt}]) for prompt in prompts]
        generations = self.engine.generate(
            encoded,
            max_tokens=self.max_tokens,
            generator=torch.Generator(policy.device).manual_seed(seed),
        )
        return [
            policy.answer_text(ids, generation.ids)
            for ids, generation in zip(encoded, generations, strict=True)
        ]
