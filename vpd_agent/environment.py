"""From what a person names (an id, a data file, a source of feedback) to vector environments."""

from __future__ import annotations

import difflib
import importlib
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import gymnasium as gym

FEEDBACK_SOURCES = ("environment", "siblings")


@dataclass(frozen=True)
class EnvironmentSpec:
    """A recipe for vector environments; `make` follows it as often as asked."""

    id: str
    feedback: str = "environment"
    kwargs: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.feedback not in FEEDBACK_SOURCES:
            raise ValueError(
                f"Unknown feedback source {self.feedback!r}; choose from "
                f"{', '.join(FEEDBACK_SOURCES)}."
            )

    def make(self, num_envs: int, split: str | None = None) -> gym.vector.VectorEnv:
        """A batched environment. Raises ValueError for an unknown id or option."""
        import vpd_envs  # noqa: F401 (registers the environments)

        if ":" in self.id:
            import_from_here(self.id.split(":")[0])
        name = self.id.split(":")[-1]
        if name not in gym.registry:
            known = sorted(i for i in gym.registry if i.startswith("vpd/"))
            close = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
            hint = f"Did you mean {close[0]!r}? " if close else ""
            raise ValueError(
                f"Unknown environment {self.id!r}. {hint}Here are {', '.join(known)}; your own "
                f"are named 'module:Name-v0'."
            )
        kwargs = dict(self.kwargs) | ({"split": split} if split else {})
        try:
            environment = gym.make_vec(
                name, num_envs=num_envs, vectorization_mode="vector_entry_point", **kwargs
            )
        except TypeError as error:
            raise ValueError(f"Environment {name} does not take these options: {error}") from error
        return self._with_feedback(environment)

    def make_for(self, samples: int, most_problems: int, split: str | None) -> gym.vector.VectorEnv:
        """An environment just large enough for `samples` answers to each of its problems, or to
        `most_problems` of them."""
        import vpd_envs

        small = self.make(1, split)
        size = samples * min(most_problems, len(small.unwrapped.problem_ids))
        if isinstance(small.unwrapped, vpd_envs.TextVectorEnv):  # spares loading the data again
            return self._with_feedback(vpd_envs.TextVectorEnv(small.unwrapped.env, size))
        small.close()
        return self.make(size, split)

    def _with_feedback(self, environment: gym.vector.VectorEnv) -> gym.vector.VectorEnv:
        import vpd_envs

        siblings = self.feedback == "siblings"
        return vpd_envs.SiblingFeedback(environment) if siblings else environment


def import_from_here(module: str) -> None:
    """Import a person's own module, from the current folder too. Raises ValueError if it is not
    there."""
    if str(Path.cwd()) not in sys.path:
        sys.path.append(str(Path.cwd()))
    try:
        importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name != module.split(".")[0]:
            raise
        raise ValueError(
            f"There is no module {module!r} to import the environment from: neither installed nor "
            f"in the current folder {Path.cwd()}."
        ) from error
