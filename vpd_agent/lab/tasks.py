"""The tasks of the lab: an environment, and the tiny model that its runs start from."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass

from sandbox.plugins import unknown
from vpd_agent.tiny.config import GameWarmupConfig

_KINDS = {  # kind of task → environment, and how the names of its models begin
    "code": ("vpd/MiniCode-v0", "tiny"),
    "choice": ("vpd/MiniChoice-v0", "tiny-choice"),
    "arithmetic": ("vpd/MiniArithmetic-v0", "tiny-arithmetic"),
    "function": ("vpd/MiniFunction-v0", "tiny-function"),
}


@dataclass(frozen=True)
class Task:
    """What a run trains on.

    options: of the environment, KEY=VALUE each.
    """

    env: str
    model: str
    options: tuple[str, ...] = ()

    @property
    def flags(self) -> list[str]:
        """Of vpd compare."""
        given = ["--env", self.env, "--model", self.model]
        return [*given, "--set", *self.options] if self.options else given


_GAME = GameWarmupConfig()  # what tiny-game-warm has been warmed up on


def _tasks() -> dict[str, Task]:
    """Each kind with a warm start, with a cold one (the model has no skill of reading feedback),
    and but for functions in its rigid form (one exact form of a right answer counts), whose warm
    start writes that form most of the time."""
    found = {}
    for kind, (env, model) in _KINDS.items():
        found[f"{kind}-warm"] = Task(env, f"{model}-warm")
        found[f"{kind}-cold"] = Task(env, f"{model}-cold")
        if kind != "function":
            found[f"{kind}-rigid"] = Task(env, f"{model}-rigid-warm", ("rigid=true",))
    told = f"parameters={json.dumps(_GAME.parameters)}"
    options = (f"game={_GAME.game}", told, f"max_turns={_GAME.turns}")
    return {**found, "game": Task("vpd/TextArena-v0", "tiny-game-warm", options)}


TASKS = _tasks()


def check_tasks(names: Iterable[str]) -> None:
    """Raise ValueError for a task that there is not."""
    for name in names:
        if name not in TASKS:
            raise ValueError(unknown("task", name, TASKS))


def tasks_that(ending: str) -> tuple[str, ...]:
    """The names of the tasks of a form: warm, cold or rigid."""
    return tuple(name for name in TASKS if name.endswith(f"-{ending}"))
