"""From what a person names (an id, options, sources of feedback) to vector environments."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import gymnasium as gym
from gymnasium.envs.registration import load_env_creator

from sandbox.factory import check_name
from vpd_envs import FeedbackSource, SelfCritique, TextVectorEnv, compose, named_sources
from vpd_envs.answers.options import check_options
from vpd_envs.catalog import known_name, make
from vpd_envs.code.sandboxed import NotStarted, SandboxedEnv
from vpd_envs.dataset_env import DatasetEnv


@dataclass(frozen=True)
class EnvironmentSpec:
    """What a vector environment is made from, as often as needed.

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
        environment = make(self.id, num_envs, **kwargs)
        assert isinstance(environment, gym.vector.VectorEnv)
        return self._with_feedback(environment)

    def make_at_hand(self, num_envs: int, split: str | None = None) -> gym.vector.VectorEnv | None:
        """The same to read problems from, without starting a sandbox or fetching anything: None
        where the problems are not here, as those of a data set on the hub; then only the options
        are checked."""
        name = known_name(self.id)
        check_options(name, self.kwargs)
        entry_point, data = gym.spec(name).entry_point, self.kwargs.get("data")
        kind = load_env_creator(entry_point) if isinstance(entry_point, str) else entry_point
        at_hand = data is not None and Path(data).exists()
        if not at_hand and isinstance(kind, type) and issubclass(kind, DatasetEnv):
            kind.check_without_data(**self.kwargs, **({"split": split} if split else {}))
            return None
        sandbox = self.kwargs.get("sandbox", "auto")
        if isinstance(kind, type) and issubclass(kind, SandboxedEnv) and isinstance(sandbox, str):
            check_name(sandbox)
            read_only = replace(self, kwargs=self.kwargs | {"sandbox": NotStarted()})
            return read_only.make(num_envs, split)
        return self.make(num_envs, split)

    def make_for(self, samples: int, most_problems: int, split: str | None) -> gym.vector.VectorEnv:
        """An environment just large enough for `samples` answers to each of its problems, or to
        `most_problems` of them."""
        small = self.make(1, split)
        batch: Any = small.unwrapped  # has problem_ids, which Gymnasium's class does not declare
        sized = self.resized(small, samples * min(most_problems, len(batch.problem_ids)), split)
        if not isinstance(batch, TextVectorEnv):
            small.close()
        return sized

    def resized(
        self, environment: gym.vector.VectorEnv, num_envs: int, split: str | None
    ) -> gym.vector.VectorEnv:
        """An environment of this spec for another number of answers at a time. The data of a
        `TextVectorEnv` is not loaded again."""
        batch = environment.unwrapped
        if isinstance(batch, TextVectorEnv):
            return self._with_feedback(TextVectorEnv(batch.env, num_envs))
        return self.make(num_envs, split)

    def _with_feedback(self, environment: gym.vector.VectorEnv) -> gym.vector.VectorEnv:
        batch = environment.unwrapped
        if isinstance(batch, TextVectorEnv):
            batch.progress = False  # a run has bars of its own
        composed = compose(environment, *named_sources(self.feedback))
        assert isinstance(composed, gym.vector.VectorEnv)
        return composed


def sources(environment: gym.vector.VectorEnv) -> list[FeedbackSource]:
    """The sources of feedback around an environment, the outermost first."""
    found = []
    while isinstance(environment, gym.vector.VectorWrapper):
        source = getattr(environment, "source", None)
        if isinstance(source, FeedbackSource):
            found.append(source)
        environment = environment.env
    return found


def critics(environment: gym.vector.VectorEnv) -> list[SelfCritique]:
    """The sources of feedback around an environment that ask the policy; their `critic` is to be
    set."""
    return [source for source in sources(environment) if isinstance(source, SelfCritique)]
