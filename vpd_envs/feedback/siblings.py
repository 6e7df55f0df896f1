"""Feedback from siblings: a failed attempt is shown a solved one at the same problem."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from gymnasium.vector import VectorEnv

from vpd_envs.extraction import without_thinking
from vpd_envs.feedback.base import VectorFeedbackWrapper

TEMPLATES = {
    "solved": "A correct attempt at the same problem:\n\n{attempt}",
    "contrast": "{feedback}\n\nIn contrast, a correct attempt at the same problem:\n\n{attempt}",
}


class SiblingFeedback(VectorFeedbackWrapper):
    """Contrasts every unsolved attempt with the first solved one at its problem in the batch.

    show: "solved" gives the solved attempt alone, "contrast" the inner feedback and then the solved
        attempt.
    template: replaces the wording that `show` chooses; `{attempt}` and `{feedback}` are filled in.

    Thinking (`<think>...</think>`) is left out of what is shown. Solved attempts, and attempts
    without a solved sibling, keep their inner feedback. An attempt is never shown to itself.
    """

    def __init__(
        self, env: VectorEnv, show: str = "solved", *, template: str | None = None
    ) -> None:
        super().__init__(env)
        if show not in TEMPLATES:
            raise ValueError(f"show must be one of {', '.join(TEMPLATES)}, got {show!r}.")
        self.template = TEMPLATES[show] if template is None else template
        try:
            shows = self.template.format(attempt="ATTEMPT", feedback="")
        except (KeyError, IndexError, ValueError) as error:
            raise ValueError(
                f"template may hold {{attempt}} and {{feedback}} (other braces doubled), got "
                f"{self.template!r}."
            ) from error
        if "ATTEMPT" not in shows:
            raise ValueError(f"template must contain {{attempt}}, got {self.template!r}.")

    def feedback(
        self,
        prompts: Sequence[str],
        answers: Sequence[str],
        rewards: np.ndarray,
        infos: dict[str, Any],
    ) -> list[str]:
        solved: dict[str, str] = {}  # problem id -> the first solved attempt that shows something
        for i in np.flatnonzero(infos["solved"]):
            attempt = (without_thinking(answers[i]) or "").strip()
            if attempt:
                solved.setdefault(infos["problem_id"][i], attempt)
        return [
            feedback
            if is_solved or problem_id not in solved
            else self.template.format(attempt=solved[problem_id], feedback=feedback)
            for problem_id, is_solved, feedback in zip(
                infos["problem_id"], infos["solved"], infos["feedback"], strict=True
            )
        ]
