"""Rollout engines: prompts in, sampled responses out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch


@dataclass(frozen=True)
class Generation:
    """One sampled response."""

    ids: list[int]  # ends with an end-of-sequence token if finish == "stop"
    logprobs: list[float]  # of ids, at the sampling temperature
    finish: str  # "stop", or "length" if max_tokens cut it


class Engine(Protocol):
    """Samples from the current weights of a policy."""

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
