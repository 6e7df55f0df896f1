"""Sources of feedback are wrappers: they replace `info["feedback"]` and nothing else.

A source for one answer subclasses `FeedbackWrapper`, one that needs the whole batch (siblings of
the same problem, one call of a model for all) subclasses `VectorFeedbackWrapper`. Both stack: what
`info["feedback"]` holds is the text of the wrapper, or env, inside. The observation that follows an
answer is its feedback, so it follows suit.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.vector import VectorEnv, VectorWrapper


class FeedbackWrapper(gym.Wrapper):
    """Subclass and write `feedback`."""

    def __init__(self, env: gym.Env) -> None:
        super().__init__(env)
        self._prompt = ""

    def feedback(self, prompt: str, answer: str, reward: float, info: dict[str, Any]) -> str:
        """The new text; `info["feedback"]` is the one so far, `info["problem_id"]` the problem."""
        raise NotImplementedError(f"{type(self).__name__} must implement feedback(...).")

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[str, dict[str, Any]]:
        self._prompt, info = self.env.reset(seed=seed, options=options)
        return self._prompt, info

    def step(self, action: str) -> tuple[str, float, bool, bool, dict[str, Any]]:
        observation, reward, terminated, truncated, info = self.env.step(action)
        text = self.feedback(self._prompt, action, reward, info)
        if observation == info["feedback"]:
            observation = text
        return observation, reward, terminated, truncated, info | {"feedback": text}


class VectorFeedbackWrapper(VectorWrapper):
    """Subclass and write `feedback`, which sees the whole batch."""

    def __init__(self, env: VectorEnv) -> None:
        super().__init__(env)
        self._prompts: tuple[str, ...] = ()

    def feedback(
        self,
        prompts: Sequence[str],
        answers: Sequence[str],
        rewards: np.ndarray,  # [B], NaN where not judged
        infos: dict[str, Any],
    ) -> Sequence[str]:
        """The new texts, one for each answer; those of answers not judged are ignored."""
        raise NotImplementedError(f"{type(self).__name__} must implement feedback(...).")

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[tuple[str, ...], dict[str, Any]]:
        self._prompts, infos = self.env.reset(seed=seed, options=options)
        return self._prompts, infos

    def step(
        self, actions: Sequence[str]
    ) -> tuple[tuple[str, ...], np.ndarray, np.ndarray, np.ndarray, dict[str, Any]]:
        observations, rewards, terminations, truncations, infos = self.env.step(actions)
        texts = self.feedback(self._prompts, actions, rewards, infos)
        before, judged = infos["feedback"], infos["judged"]
        after = before.copy()
        for i in np.flatnonzero(judged):
            after[i] = texts[i]
        observations = tuple(
            after[i] if judged[i] and text == before[i] else text
            for i, text in enumerate(observations)
        )
        return observations, rewards, terminations, truncations, infos | {"feedback": after}
