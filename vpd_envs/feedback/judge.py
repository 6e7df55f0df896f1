"""Feedback from another model: an OpenAI-compatible endpoint criticizes the attempts."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

from vpd_envs.feedback.base import Attempt, FeedbackSource
from vpd_envs.feedback.checks import check_choice
from vpd_envs.feedback.wording import CRITIQUED, CritiquePrompt, criticized, with_critique

log = logging.getLogger("vpd_envs")


class JudgeFeedback(FeedbackSource):
    """Asks a chat model what is wrong with the attempts, all of a batch side by side.

    base_url, model, api_key_env, timeout_seconds, batch_seconds, retries, backoff_seconds,
        concurrency, max_tokens, temperature, cache: see `ChatEndpoint`.
    template, outcome, attempt_characters: of the prompts, see `CritiquePrompt`.
    critique: "failed" attempts only, or "all"; the others keep the inner feedback.
    keep: whether the critique follows the inner feedback instead of replacing it.

    A batch never waits longer than `batch_seconds`. An attempt whose critique failed or came too
    late keeps its inner feedback and is counted in `failures`; the first such batch is logged, with
    a reason. Nothing is raised for what the endpoint does, so a wrong address or key shows there.
    """

    def __init__(
        self,
        base_url: str,
        model: str,
        *,
        api_key_env: str = "OPENAI_API_KEY",
        template: str | None = None,
        outcome: bool = True,
        critique: str = "failed",
        keep: bool = False,
        attempt_characters: int = 8000,
        timeout_seconds: float = 60.0,
        batch_seconds: float = 120.0,
        retries: int = 2,
        backoff_seconds: float = 1.0,
        concurrency: int = 8,
        max_tokens: int | None = 1024,
        temperature: float | None = 0.0,
        cache: str | Path | None = None,
    ) -> None:
        from vpd_envs.feedback.endpoint import ChatEndpoint  # an HTTP library, loaded where needed

        check_choice("critique", critique, CRITIQUED)
        self.prompt = CritiquePrompt(template, outcome, attempt_characters)
        self.critique = critique
        self.keep = keep
        self.endpoint = ChatEndpoint(
            base_url,
            model,
            api_key_env=api_key_env,
            timeout_seconds=timeout_seconds,
            batch_seconds=batch_seconds,
            retries=retries,
            backoff_seconds=backoff_seconds,
            concurrency=concurrency,
            max_tokens=max_tokens,
            temperature=temperature,
            cache=cache,
        )
        self.failures = 0  # attempts that kept their inner feedback for want of an answer

    def feedback(self, attempts: Sequence[Attempt]) -> list[str]:
        texts = [attempt.feedback for attempt in attempts]
        rows = criticized(attempts, self.critique)
        answers = self.endpoint.ask([self.prompt.of(attempts[i]) for i in rows])
        failed = [answer for answer in answers if not isinstance(answer, str)]
        if failed and not self.failures:
            log.warning(
                "%d of %d critiques of %s failed, those attempts keep their feedback (further "
                "failures are only counted): %s",
                len(failed),
                len(rows),
                self.endpoint.model,
                failed[0].reason,
            )
        self.failures += len(failed)
        for i, answer in zip(rows, answers, strict=True):
            if isinstance(answer, str):
                texts[i] = with_critique(texts[i], answer, self.keep)
        return texts
