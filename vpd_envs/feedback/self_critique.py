"""Feedback from the policy itself, or from any other function that criticizes attempts."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from vpd_envs.feedback.base import Attempt, FeedbackSource, is_text_each
from vpd_envs.feedback.checks import check_choice
from vpd_envs.feedback.wording import CRITIQUED, CritiquePrompt, criticized, with_critique

Critic = Callable[[list[str]], Sequence[str]]


class SelfCritique(FeedbackSource):
    """Asks a critic what is wrong with the attempts of a batch, all in one call.

    critic: takes a list of prompts, gives a list of as many texts. Its exceptions are not caught.
        May be set later (`source.critic = ...`), as a trainer does that criticizes with the policy
        it trains.
    template, outcome, attempt_characters: of the prompts, see `CritiquePrompt`.
    critique: "failed" attempts only, or "all"; the others keep the inner feedback.
    keep: whether the critique follows the inner feedback instead of replacing it.

    Thinking is left out of a critique. An empty one is no feedback.
    """

    def __init__(
        self,
        critic: Critic | None = None,
        *,
        template: str | None = None,
        critique: str = "failed",
        outcome: bool = True,
        keep: bool = False,
        attempt_characters: int = 8000,
    ) -> None:
        check_choice("critique", critique, CRITIQUED)
        self.critic = critic
        self.prompt = CritiquePrompt(template, outcome, attempt_characters)
        self.critique = critique
        self.keep = keep

    def feedback(self, attempts: Sequence[Attempt]) -> list[str]:
        texts = [attempt.feedback for attempt in attempts]
        rows = criticized(attempts, self.critique)
        if not rows:
            return texts
        if self.critic is None:
            raise ValueError(
                "SelfCritique has no critic. Give one, SelfCritique(critic), or set source.critic: "
                "a function that takes a list of prompts and gives a list of as many texts."
            )
        critiques = self.critic([self.prompt.of(attempts[i]) for i in rows])
        if not is_text_each(critiques, len(rows)):
            raise ValueError(
                f"The critic was asked {len(rows)} prompts and must return a list of {len(rows)} "
                f"texts; got {critiques!r:.120}."
            )
        for i, critique in zip(rows, critiques, strict=True):
            texts[i] = with_critique(texts[i], critique, self.keep)
        return texts
