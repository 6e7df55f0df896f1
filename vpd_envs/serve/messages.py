"""What clients send and get: the bodies of requests, and the messages of an OpenEnv session.

OpenEnv's messages are {"type": "reset" | "step" | "state" | "close", "data": {...}} and back
{"type": "observation" | "state" | "error", "data": {...}}; see `openenv.core.env_server.types` of
the package openenv-core. The `data` of a step is the action.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from vpd_envs.answers.thinking import PREFIX


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)


class Action(_Strict):
    """An answer to the problem of a session."""

    answer: str
    thinking_prefilled: bool = Field(
        default=False,
        description="Whether the prompt that the model was given ended in an opened <think>.",
    )
    metadata: dict[str, Any] = Field(default={}, description="Ignored; OpenEnv's actions have it.")

    @property
    def text(self) -> str:
        """The answer as it is judged."""
        return (PREFIX if self.thinking_prefilled else "") + self.answer


class Answer(Action):
    """An answer to a problem that it names."""

    problem_id: str


class Reset(_Strict):
    """Which problem a session asks next. Without `problem_id` one is drawn, by `seed` if given as
    Gymnasium's `reset(seed=...)` draws it."""

    problem_id: str | None = None
    seed: int | None = Field(default=None, ge=0)
    episode_id: str | None = Field(default=None, max_length=255)


class Observation(_Strict):
    """What a session shows after a reset, and after an answer."""

    problem_id: str
    text: str = Field(description="The prompt; after an answer, the feedback.")
    messages: list[dict[str, str]] = Field(
        description="Chat messages: the prompt; after an answer that leaves the episode open, what "
        "to append behind it."
    )
    turn: int = Field(default=0, description="How many answers of the episode are judged.")
    feedback: str | None = None
    status: str | None = None
    solved: bool | None = None


class State(_Strict):
    """Where a session is. It has nothing that the observations do not show."""

    episode_id: str | None = None
    step_count: int = 0
    problem_id: str | None = None
    done: bool = True
    max_turns: int


class Code(StrEnum):
    """The kinds of errors that OpenEnv's protocol knows."""

    INVALID_JSON = "INVALID_JSON"
    UNKNOWN_TYPE = "UNKNOWN_TYPE"
    VALIDATION_ERROR = "VALIDATION_ERROR"
    EXECUTION_ERROR = "EXECUTION_ERROR"
    CAPACITY_REACHED = "CAPACITY_REACHED"


class BadMessage(Exception):
    """A message that gets an error for an answer; the session goes on."""

    def __init__(self, code: Code, text: str) -> None:
        super().__init__(text)
        self.code = code


def reply(kind: str, **data: Any) -> dict[str, Any]:
    return {"type": kind, "data": data}
