"""Feedback from a critic, who is asked what is wrong with attempts."""

from __future__ import annotations

from collections.abc import Sequence

from vpd_envs.answers.sanitize import sanitize
from vpd_envs.checks import check_choice, check_integer
from vpd_envs.feedback.base import Attempt, FeedbackSource, Parts, parts_of
from vpd_envs.feedback.budget import shortened
from vpd_envs.feedback.environment import status_in_words
from vpd_envs.feedback.wording import checked_template, without_thoughts

CRITIQUED = ("failed", "all")
OPEN_CRITIQUE = """\
Read the problem and the attempt at it below. Find the first step of the attempt that is wrong, if \
there is one; say what is wrong about it and how to mend it. Do not write out a whole solution. \
Answer in at most five sentences.

# Problem

{prompt}

# Attempt

{attempt}"""
CRITIQUE = f"""\
{OPEN_CRITIQUE}

# What became of the attempt

{{outcome}}"""


class CritiqueSource(FeedbackSource):
    """Asks a critic about the attempts of a batch, all at once. A subclass says in `critiques` who.

    template: of a prompt; may hold `{prompt}`, `{attempt}` and `{outcome}` (the feedback so far, or
        the status in words where there is none); None for our own wording.
    outcome: whether the critic is told the outcome. Our own wording does not betray it then.
    attempt_characters: the middle of a longer attempt is left out.
    critique: "failed" attempts only, or "all"; the others keep the inner feedback.
    keep: whether the critique follows the inner feedback (and, among the parts, the inner comment)
        instead of replacing it with its demonstration.

    Thinking is left out of the attempt and of the critique, and control tokens in the attempt are
    made plain text. An empty critique is no feedback.
    """

    def __init__(
        self,
        *,
        template: str | None = None,
        outcome: bool = True,
        critique: str = "failed",
        keep: bool = False,
        attempt_characters: int = 8000,
    ) -> None:
        check_choice("critique", critique, CRITIQUED)
        check_integer("attempt_characters", attempt_characters, 1)
        default = CRITIQUE if outcome else OPEN_CRITIQUE
        self.template = checked_template(
            default if template is None else template,
            may=("prompt", "attempt", "outcome") if outcome else ("prompt", "attempt"),
            must="attempt",
        )
        self.critique = critique
        self.keep = keep
        self.attempt_characters = attempt_characters

    def critiques(self, prompts: list[str]) -> Sequence[str | None]:
        """The critic's answer to each prompt; None where there is none, and the inner feedback
        stays."""
        raise NotImplementedError(f"{type(self).__name__} must implement critiques(prompts).")

    def parts(self, attempts: Sequence[Attempt]) -> list[Parts]:
        found = [parts_of(attempt) for attempt in attempts]
        rows = [i for i, a in enumerate(attempts) if self.critique == "all" or not a.solved]
        if not rows:
            return found
        critiques = self.critiques([self._prompt(attempts[i]) for i in rows])
        for i, critique in zip(rows, critiques, strict=True):
            if critique is not None:
                inner = found[i] if self.keep else Parts("", "")
                text, comment = (
                    "\n\n".join(t for t in (before, without_thoughts(critique)) if t.strip())
                    for before in (inner.feedback, inner.comment)
                )
                found[i] = Parts(text, comment, inner.demonstration)
        return found

    def _prompt(self, attempt: Attempt) -> str:
        answer = sanitize(without_thoughts(attempt.answer))
        outcome = attempt.feedback
        return self.template.format(
            prompt=attempt.prompt,
            attempt=shortened(answer, self.attempt_characters, "middle") or "(nothing)",
            outcome=outcome if outcome.strip() else status_in_words(attempt.status),
        )
