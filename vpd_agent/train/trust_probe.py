"""Measures for a `TrustGate` what the teacher solves of what the student did not."""

from __future__ import annotations

import random
from collections.abc import Sequence

import torch

from vpd_agent.algorithms.trust_gate import solve_rates_of_others
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

    rows: of how many failed rollouts, at most. A rollout that is alone in its group has none to be
        compared with, and is left out.
    Returns sums over the answers that could be judged: "teacher", how many solved their problem;
    "student", the rates of `solve_rates_of_others`; "rows", how many there are.
    """
    solved = [r.reward >= config.success_reward for r in rollouts]
    rates = solve_rates_of_others([r.group for r in rollouts], solved)
    failed = [
        (rollout, prompt, rate)
        for rollout, prompt, rate, success in zip(
            rollouts, teacher_prompts, rates, solved, strict=True
        )
        if prompt is not None and rate is not None and not success
    ]
    chosen = random.Random(seed).sample(failed, min(rows, len(failed)))
    results = teacher.answer(
        [rollout.problem_id for rollout, _, _ in chosen],
        [prompt for _, prompt, _ in chosen],
        max_tokens=teacher.max_answer_tokens,
        generator=torch.Generator(teacher.policy.device).manual_seed(seed),
    )
    judged = [(rate, r) for (_, _, rate), r in zip(chosen, results, strict=True) if r.error is None]
    return {
        "teacher": float(sum(r.reward >= config.success_reward for _, r in judged)),
        "student": sum((rate for rate, _ in judged), 0.0),
        "rows": float(len(judged)),
    }
