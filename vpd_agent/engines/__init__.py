"""Rollout engines: prompts in, sampled responses out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import torch

if TYPE_CHECKING:
    from vpd_agent.model.chat import Chat
    from vpd_agent.model.policy import Policy


@dataclass(frozen=True)
class Generation:
    """One sampled response."""

    ids: list[int]  # if finish == "stop": ends with what ends a turn, a token or a text
    logprobs: list[float]  # of ids, at the sampling temperature
    finish: str  # "stop", or "length" if max_tokens cut it


class Engine(Protocol):
    """Samples from a policy's weights, as they were when `sync` was last called.

    logprobs_match_trainer: the engine computes with the trainer's own weights and arithmetic, so
        its log-probabilities need no correction.
    """

    logprobs_match_trainer: bool

    def sync(self, policy: Policy) -> None:
        """Take the policy's weights. The trainer calls it after each of its steps."""
        ...

    def close(self) -> None:
        """Let go of processes, memory and connections. May be called more than once."""
        ...

    def generate(
        self,
        prompts: Sequence[list[int]],
        *,
        samples: int = 1,
        max_tokens: int,
        temperature: float = 1.0,
        generator: torch.Generator | None = None,
    ) -> list[Generation]:
        """`samples` responses to each prompt, prompt-major: all of the first prompt first."""
        ...


def check_counts(samples: int, max_tokens: int) -> None:
    """Raise ValueError for numbers of responses and tokens that no engine can give."""
    if samples < 1 or max_tokens < 1:
        raise ValueError(
            f"samples and max_tokens must be at least 1, got {samples} and {max_tokens}."
        )


def up_to_stop_text(generation: Generation, chat: Chat) -> Generation:
    """The response up to the text with which the template ends a turn, where that is no token."""
    count = chat.cut_at_stop_text(generation.ids)
    if count is None:
        return generation
    return Generation(generation.ids[:count], generation.logprobs[:count], "stop")
