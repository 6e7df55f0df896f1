"""Feedback from the environment itself, in as much detail as asked for."""

from __future__ import annotations

from collections.abc import Sequence

from vpd_envs.checks import check_choice
from vpd_envs.feedback.base import Attempt, FeedbackSource, Parts, parts_of
from vpd_envs.types import Status

VERBOSITIES = ("outcome", "status", "first", "full")
RIGHT, WRONG = "Your answer is correct.", "Your answer is not correct."
WORDS: dict[str, str] = {  # of the statuses whose names alone do not say it
    Status.SOLVED: "Correct",
    Status.TIME_LIMIT: "Time limit exceeded",
    Status.MEMORY_LIMIT: "Memory limit exceeded",
    Status.OUTPUT_LIMIT: "Output limit exceeded",
    Status.NO_ANSWER: "No answer in the asked format",
    Status.FORMAT_ERROR: "An answer that cannot be read",
}


class EnvironmentFeedback(FeedbackSource):
    """What the judge says, as far as `verbosity` lets it through.

    verbosity:
        "outcome"  whether the answer is correct, in one sentence
        "status"   the status in words: "Wrong answer", "Time limit exceeded"; never content
        "first"    the first failing part (test, call) alone, where the judge tells it apart by
                   `details["first_failure"]`; else the feedback so far
        "full"     the feedback so far

    "outcome" and "status" depend on the verdict alone: they replace the text of any source inside,
    its demonstration too, and so does a first failing part.
    """

    def __init__(self, verbosity: str = "full") -> None:
        check_choice("verbosity", verbosity, VERBOSITIES)
        self.verbosity = verbosity

    def parts(self, attempts: Sequence[Attempt]) -> list[Parts]:
        texts = [self._text(attempt) for attempt in attempts]
        return [
            parts_of(a) if self._keeps(a) else Parts(text, text)
            for a, text in zip(attempts, texts, strict=True)
        ]

    def _keeps(self, attempt: Attempt) -> bool:
        """Whether the feedback so far stays."""
        first = self.verbosity == "first" and attempt.details.get("first_failure")
        return self.verbosity in ("first", "full") and not first

    def _text(self, attempt: Attempt) -> str:
        if self.verbosity == "outcome":
            return RIGHT if attempt.solved else WRONG
        if self.verbosity == "status":
            return status_in_words(attempt.status)
        if self.verbosity == "first":
            return attempt.details.get("first_failure") or attempt.feedback
        return attempt.feedback


def status_in_words(status: str) -> str:
    """One of WORDS, or its name, also of an environment's own: `lost_at_sea` is "Lost at sea"."""
    return WORDS.get(status) or status.replace("_", " ").capitalize()
