"""The three nouns of the suite: a problem, an answer's verdict, and the verdict's status."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any


class Status(StrEnum):
    """Why an answer got its reward. Every status but SOLVED comes with reward 0 by default."""

    SOLVED = "solved"
    WRONG_ANSWER = "wrong_answer"
    RUNTIME_ERROR = "runtime_error"
    TIME_LIMIT = "time_limit"
    MEMORY_LIMIT = "memory_limit"
    OUTPUT_LIMIT = "output_limit"
    SYNTAX_ERROR = "syntax_error"
    NO_ANSWER = "no_answer"  # the answer has no block, tag or box of the asked format
    EMPTY_ANSWER = "empty_answer"  # nothing but white space, or an empty block
    FORMAT_ERROR = "format_error"  # there is an answer, but not one that can be read

    @property
    def is_format(self) -> bool:
        """Whether the answer was not understood, so that nothing is known about its content."""
        return self in (Status.NO_ANSWER, Status.EMPTY_ANSWER, Status.FORMAT_ERROR)


@dataclass(frozen=True)
class Problem:
    """One task. `target` (tests, gold answer) never leaves vpd_envs and is not shown by repr."""

    id: str
    prompt: str
    target: Any = field(repr=False)
    metadata: Mapping[str, Any] = field(default_factory=dict)
    system: str | None = None  # a system message before the prompt, if the task has one
    # Answers given before in this episode, if the verdict depends on them: see `TextEnv.after`.
    earlier: tuple[str, ...] = ()

    @property
    def messages(self) -> list[dict[str, str]]:
        """The prompt as chat messages."""
        system = [{"role": "system", "content": self.system}] if self.system else []
        return [*system, {"role": "user", "content": self.prompt}]


@dataclass(frozen=True)
class Verdict:
    """What the judge says of one answer. `feedback` is the text a learner may see."""

    reward: float
    status: Status
    feedback: str
    details: Mapping[str, Any] = field(default_factory=dict)
    # What judging took; None if not measured. It varies from time to time, so verdicts that differ
    # in nothing else are equal.
    seconds: float | None = field(default=None, compare=False)

    @property
    def solved(self) -> bool:
        return self.status is Status.SOLVED
