"""Rollout engines: prompts in, sampled responses out."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
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

    A class of your own is named on the command line as `--engine module:Class` or
    `--engine path/to/file.py:Class`. It is made by `Class(policy, max_tokens=N)`, with N the
    largest number of tokens of a prompt and its response together. A run has one engine, which
    samples for the student, its teacher, the gate, the critic and the evaluation; a teacher that is
    another model gets a second one. With `overlap` the engine samples in a thread while the
    student's weights change: it is then made with a frozen copy of the student.
    """

    @property
    def logprobs_match_trainer(self) -> bool:
        """Whether the engine computes with the trainer's own weights and arithmetic, so that its
        log-probabilities need no correction."""
        ...

    def sync(self, policy: Policy) -> None:
        """Sample from this policy's weights from now on. The trainer calls it with the student
        after each of its steps, and with a teacher before that samples (see `sampling_from`)."""
        ...

    def close(self) -> None:
        """Release processes, memory and connections. May be called more than once."""
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


@contextmanager
def sampling_from(engine: Engine, policy: Policy, student: Policy) -> Iterator[Engine]:
    """Within, the student's engine samples from another policy of the same architecture, such as
    its averaged teacher; afterwards from the student again."""
    if policy is student:
        yield engine
        return
    engine.sync(policy)
    try:
        yield engine
    finally:
        engine.sync(student)


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
