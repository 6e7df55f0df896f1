"""What samples.jsonl shows of a step: its worst and its best rollout, as text."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from vpd_agent.data.types import Rollout


def worst_and_best(rollouts: Sequence[Rollout]) -> list[Rollout]:
    """The two by reward; a single rollout comes once."""
    by_reward = sorted(rollouts, key=lambda r: r.reward)
    return [by_reward[0], by_reward[-1]] if len(by_reward) > 1 else by_reward


def sample_rows(
    step: int,
    rollouts: Sequence[Rollout],
    teacher_prompts: Sequence[list[int] | None],
    decode: Callable[[list[int]], Any],
) -> list[dict[str, Any]]:
    """A row of samples.jsonl for each rollout. decode: makes text of token ids."""
    return [
        {
            "step": step,
            "problem_id": r.problem_id,
            "prompt": decode(r.prompt_ids),
            # Everything after the prompt: in several turns, the environment's replies too.
            "response": r.text if r.is_policy_token is None else decode(r.response_ids),
            "answer": r.text,
            "finish": r.finish,
            "reward": r.reward,
            "status": r.status,
            "feedback": r.feedback,
            "demonstration": r.demonstration,
            "teacher_prompt": decode(ids) if ids is not None else None,
        }
        for r, ids in zip(rollouts, teacher_prompts, strict=True)
    ]
