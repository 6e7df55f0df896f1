"""Feedback from another model: an OpenAI-compatible endpoint criticizes the attempts."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

from vpd_envs.feedback.critique import CritiqueSource

log = logging.getLogger("vpd_envs")


class JudgeFeedback(CritiqueSource):
    """Asks a chat model what is wrong with the attempts, all of a batch side by side.

    base_url, model, api_key_env, timeout_seconds, batch_seconds, retries, backoff_seconds,
        concurrency, max_tokens, temperature, cache: see `ChatEndpoint`.
    options: template, outcome, critique, keep and attempt_characters, see `CritiqueSource`.

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
        timeout_seconds: float = 60.0,
        batch_seconds: float = 120.0,
        retries: int = 2,
        backoff_seconds: float = 1.0,
        concurrency: int = 8,
        max_tokens: int | None = 1024,
        temperature: float | None = 0.0,
        cache: str | Path | None = None,
        **options: Any,
    ) -> None:
        from vpd_envs.feedback.endpoint import ChatEndpoint  # an HTTP library, loaded where needed

        super().__init__(**options)
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

    def critiques(self, prompts: list[str]) -> list[str | None]:
        answers = self.endpoint.ask(prompts)
        failed = [answer for answer in answers if not isinstance(answer, str)]
        if failed and not self.failures:
            log.warning(
                f"{len(failed)} of {len(answers)} critiques of {self.endpoint.model} failed, those "
                f"attempts keep their feedback (further failures are only counted): {failed[0]}"
            )
        self.failures += len(failed)
        return [answer if isinstance(answer, str) else None for answer in answers]
