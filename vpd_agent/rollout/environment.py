"""From what a person names (an id, options, sources of feedback) to vector environments."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import gymnasium as gym

from vpd_envs import SelfCritique, TextVectorEnv, compose, named_sources
from vpd_envs.catalog import make


@dataclass(frozen=True)
class EnvironmentSpec:
    """A recipe for vector environments; `make` follows it as often as asked.

    feedback: names of sources from the innermost to the outermost, joined by `+`
        (see `vpd_envs.named_sources`).
    kwargs: the environment's own options.
    """

    id: str
    feedback: str = "environment"
    kwargs: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        named_sources(self.feedback)

    def make(self, num_envs: int, split: str | None = None) -> gym.vector.VectorEnv:
        """A batched environment. Raises ValueError for an unknown id or option."""
        kwargs = dict(self.kwargs) | ({"split": split} if split else {})
        return self._with_feedback(make(self.id, num_envs, **kwargs))

    def make_for(self, samples: int, most_problems: int, split: str | None) -> gym.vector.VectorEnv:
        """An environment just large enough for `samples` answers to each of its problems, or to
        `most_problems` of them."""
        small = self.make(1, split)
        size = samples * min(most_problems, len(small.unwrapped.problem_ids))
        if isinstance(small.unwrapped, TextVectorEnv):  # spares loading the data again
            return self._with_feedback(TextVectorEnv(small.unwrapped.env, size))
        small.close()
        return self.make(size, split)

    def _with_feedback(self, environment: gym.vector.VectorEnv) -> gym.vector.VectorEnv:
        batch = environment.unwrapped
        if isinstance(batch, TextVectorEnv):
            batch.progress = False  # a run has bars of its own
        return compose(environment, *named_sources(self.feedback))


def critics(environment: gym.vector.VectorEnv) -> list[SelfCritique]:
    """The sources around an environment that ask the policy, which is to be bound to them."""
    found = []
    while isinstance(environment, gym.vector.VectorWrapper):
        source = getattr(environment, "source", None)
        if isinstance(source, SelfCritique):
            found.append(source)
        environment = environment.env
    return found
