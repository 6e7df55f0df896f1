"""Problems → rollouts with verdicts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import gymnasium as gym
import torch

from vpd_agent.engines import Engine
from vpd_agent.policy import Policy
from vpd_agent.types import Message, Rollout


@dataclass
class Collected:
    """What came of a batch of answers. Dropped ones could not be judged (infrastructure)."""

    rollouts: list[Rollout]
    dropped: list[str] = field(default_factory=list)  # one error message each


@dataclass(frozen=True)
class Judged:
    """What the environment says of one answer; `error` if it could say nothing."""

    reward: float
    feedback: str
    status: str
    error: str | None


def read_prompts(
    environment: gym.vector.VectorEnv, problem_ids: Sequence[str]
) -> list[list[Message]]:
    """Start an episode for each problem; chat messages of each. One problem per sub-environment."""
    if len(problem_ids) != environment.num_envs:
        raise ValueError(
            f"Expected one problem id per sub-environment: the environment has "
            f"{environment.num_envs}, got {len(problem_ids)}."
        )
    observations, infos = environment.reset(options={"problem_ids": list(problem_ids)})
    if "messages" in infos:
        return [list(m) for m in infos["messages"]]
    return [[{"role": "user", "content": text}] for text in observations]


def judge(environment: gym.vector.VectorEnv, answers: Sequence[str]) -> list[Judged]:
    """Step the environment with one answer per sub-environment."""
    _, rewards, _, _, infos = environment.step(list(answers))
    n = len(answers)
    feedback, status = infos.get("feedback", [""] * n), infos.get("status", [""] * n)
    judged = infos.get("judged", [True] * n)
    errors = infos.get("error", [None] * n)
    return [
        Judged(
            reward=float(rewards[i]),
            feedback=str(feedback[i] or ""),
            status=str(status[i] or ""),
            error=None if judged[i] else str(errors[i]),
        )
        for i in range(n)
    ]


def collect(
    policy: Policy,
    engine: Engine,
    environment: gym.vector.VectorEnv,
    problem_ids: Sequence[str],
    *,
    group_size: int,
    max_response_tokens: int,
    temperature: float,
    generator: torch.Generator | None = None,
) -> Collected:
    """`group_size` rollouts of each problem, sampled from the policy and judged at once.

    The environment must have len(problem_ids) · group_size sub-environments. Raises SandboxError
    if nothing at all could be judged.
    """
    repeated = [p for p in problem_ids for _ in range(group_size)]
    messages = read_prompts(environment, repeated)
    prompts = [policy.encode(m) for m in messages[::group_size]]
    generations = engine.generate(
        prompts,
        samples=group_size,
        max_tokens=max_response_tokens,
        temperature=temperature,
        generator=generator,
    )
    texts = [policy.decode(g.ids) for g in generations]
    collected = Collected([])
    for i, judged in enumerate(judge(environment, texts)):
        if judged.error is not None:
            collected.dropped.append(judged.error)
            continue
        collected.rollouts.append(
            Rollout(
                problem_id=repeated[i],
                group=i // group_size,
                messages=messages[i],
                prompt_ids=prompts[i // group_size],
                response_ids=generations[i].ids,
                logprobs=generations[i].logprobs,
                text=texts[i],
                finish=generations[i].finish,
                reward=judged.reward,
                feedback=judged.feedback,
                status=judged.status,
            )
        )
    return collected
