"""Which problems a run trains on, and which of them in each step."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence

import gymnasium as gym

from vpd_agent.data.types import Message
from vpd_agent.model.policy import Policy
from vpd_agent.rollout.collect import all_problem_ids, start_episodes


def usable_problems(
    policy: Policy,
    environment: gym.vector.VectorEnv,
    max_tokens: int,
    warn: Callable[[str], None],
) -> list[str]:
    """The ids of the problems whose prompts have at most `max_tokens` tokens.

    Raises ValueError if there is none.
    """
    lengths = prompt_lengths(environment, lambda messages: len(policy.encode(messages)))
    ids = list(lengths)
    usable = [p for p in ids if lengths[p] <= max_tokens]
    if not usable:
        shortest = min(lengths.values(), default=0)
        raise ValueError(
            f"No problem is left to train on: of {len(ids)}, none has a prompt of at most "
            f"{max_tokens} tokens (max_prompt_tokens, and the model's context less "
            f"max_response_tokens); the shortest has {shortest}."
        )
    if len(usable) < len(ids):
        warn(
            f"{len(ids) - len(usable)} of {len(ids)} problems are left out: their prompts are "
            f"longer than {max_tokens} tokens."
        )
    return usable


def prompt_lengths(
    environment: gym.vector.VectorEnv, length: Callable[[Sequence[Message]], int]
) -> dict[str, int]:
    """The length of each problem's prompt, by the problem's id."""
    ids, n = all_problem_ids(environment), environment.num_envs
    lengths: dict[str, int] = {}
    for start in range(0, len(ids), n):
        chunk = ids[start : start + n]
        messages = start_episodes(environment, chunk + ids[:1] * (n - len(chunk)))
        lengths |= {p: length(m) for p, m in zip(chunk, messages, strict=False)}
    return lengths


def problems_of_step(ids: Sequence[str], step: int, count: int, seed: int) -> list[str]:
    """The `count` problems of the step with this index, from 0. Each problem comes once per epoch,
    in an order that seed and epoch decide."""
    places = [divmod(position, len(ids)) for position in range(step * count, (step + 1) * count)]
    orders = {
        epoch: random.Random(f"{seed}/{epoch}").sample(ids, len(ids))
        for epoch in {epoch for epoch, _ in places}
    }
    return [orders[epoch][place] for epoch, place in places]
