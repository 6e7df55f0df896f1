"""A limit on the length of feedback."""

from __future__ import annotations

from collections.abc import Sequence

from vpd_envs.answers.sanitize import sanitize
from vpd_envs.checks import check_choice, check_integer
from vpd_envs.feedback.base import Attempt, FeedbackSource, Parts

WHERE = ("end", "middle")


class FeedbackBudget(FeedbackSource):
    """At most `characters` of feedback, without control characters, terminal escapes and the
    control tokens of chat templates (see `sanitize`).

    where: what is left out of a longer text, its "end" or its "middle". A note in its place says
        how long the text was. The note counts as part of the budget; where it would take more than
        half of it, the end is left out without a note.

    Of the parts, a demonstration comes first; the comment has what it leaves.
    """

    def __init__(self, characters: int = 2000, where: str = "end") -> None:
        check_integer("characters", characters, 1)
        check_choice("where", where, WHERE)
        self.characters = characters
        self.where = where

    def parts(self, attempts: Sequence[Attempt]) -> list[Parts]:
        found = []
        for a in attempts:
            demonstration = self._within(a.demonstration)
            comment = self._within(a.comment, used=len(demonstration))
            found.append(Parts(self._within(a.feedback), comment, demonstration))
        return found

    def _within(self, text: str, used: int = 0) -> str:
        return shortened(sanitize(text), self.characters - used, self.where)


def shortened(text: str, characters: int, where: str) -> str:
    """The text, cut to so many characters, with the note that it was cut (see FeedbackBudget)."""
    if len(text) <= characters:
        return text
    note = f"\n[cut: {len(text)} characters in all]" + ("\n" if where == "middle" else "")
    if 2 * len(note) > characters:  # nothing would keep two ends apart that make a token together
        return text[:characters]
    kept = characters - len(note)
    tail = kept // 2 if where == "middle" else 0
    return text[: kept - tail] + note + text[len(text) - tail :]
