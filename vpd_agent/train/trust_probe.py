"""Measures for a `TrustGate` what the teacher solves of what the student did not."""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Sequence

import torch

from vpd_agent.data.types import Rollout
from vpd_agent.rollout.collect import Actor
from vpd_agent.train.config import TrainConfig


def ask_teacher(
    teacher: Actor,
    rollouts: Sequence[Rollout],
    teacher_prompts: Sequence[list[int] | None],
    config: TrainConfig,
    *,
    rows: int,
    seed: int,
) -> dict[str, float]:
    """Sample one answer of the teacher to each of some failed rollouts, and judge it.

    rows: of how many failed rollouts, at most.
    Returns sums over the answers that could be judged: "teacher", how many solved their problem;
    "student", the pass rates of the rollouts' groups; "rows", how many there are.
    """
    solved = [r.reward >= config.success_reward for r in rollouts]
    outcomes: dict[int, list[bool]] = defaultdict(list)
    for rollout, success in zip(rollouts, solved, strict=True):
        outcomes[rollout.group].append(success)
    failed = [
        (r, p)
        for r, p, success in zip(rollouts, teacher_prompts, solved, strict=True)
        if p is not None and not success
    ]
    chosen = random.Random(seed).sample(failed, min(rows, len(failed)))
    results = teacher.answer(
        [rollout.problem_id for rollout, _ in chosen],
        [prompt for _, prompt in chosen],
        max_tokens=config.max_turn_tokens or config.max_response_tokens,
        generator=torch.Generator(teacher.policy.device).manual_seed(seed),
    )
    judged = [(r, s) for (r, _), s in zip(chosen, results, strict=True) if s.error is None]
    groups = [outcomes[rollout.group] for rollout, _ in judged]
    return {
        "teacher": float(sum(s.reward >= config.success_reward for _, s in judged)),
        "student": sum((sum(group) / len(group) for group in groups), 0.0),
        "rows": float(len(judged)),
    }
