"""Feedback from the policy itself, or from any other function that criticizes attempts."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from vpd_envs.feedback.base import is_text_each
from vpd_envs.feedback.critique import CritiqueSource

Critic = Callable[[list[str]], Sequence[str]]


class SelfCritique(CritiqueSource):
    """Asks a critic what is wrong with the attempts of a batch, all in one call.

    critic: takes a list of prompts, gives a list of as many texts. Its exceptions are not caught.
        May be set later (`source.critic = ...`), as a trainer does that criticizes with the policy
        it trains.
    options: template, outcome, critique, keep and attempt_characters, see `CritiqueSource`.
    """

    def __init__(self, critic: Critic | None = None, **options: Any) -> None:
        super().__init__(**options)
        self.critic = critic

    def critiques(self, prompts: list[str]) -> Sequence[str]:
        if self.critic is None:
            raise ValueError(
                f"{type(self).__name__} has no critic. Give one, {type(self).__name__}(critic), or "
                f"set source.critic: a function that takes a list of prompts and gives a list of "
                f"as many texts."
            )
        texts = self.critic(prompts)
        if not is_text_each(texts, len(prompts)):
            raise ValueError(
                f"The critic was asked {len(prompts)} prompts and must return a list of "
                f"{len(prompts)} texts; got {texts!r:.120}."
            )
        return texts
