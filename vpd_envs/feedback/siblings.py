"""Feedback from siblings: an attempt is shown another, solved one at the same problem."""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Sequence

from vpd_envs.checks import check_choice, check_integer
from vpd_envs.feedback.base import Attempt, FeedbackSource, Parts, parts_of, rng_for
from vpd_envs.feedback.wording import checked_template, without_thoughts

TEMPLATES = {
    "solved": "A correct attempt at the same problem:\n\n{attempt}",
    "contrast": "{feedback}\n\nIn contrast, a correct attempt at the same problem:\n\n{attempt}",
    "pair": "An incorrect attempt:\n\n{failed}\n\n{feedback}\n\n"
    "In contrast, a correct attempt at the same problem:\n\n{attempt}",
}
WHICH = ("first", "shortest", "random")


class SiblingFeedback(FeedbackSource):
    """Contrasts every unsolved attempt with a solved one at its problem in the batch.

    show: "solved" gives the solved attempt alone, "contrast" the inner feedback and then the solved
        attempt, "pair" the failed attempt, its inner feedback and then the solved attempt.
    template: replaces the wording that `show` chooses; `{attempt}` (the solved one), `{failed}` and
        `{feedback}` are filled in.
    which: which solved attempt, where there are several: the "first" of the batch, the "shortest",
        or a "random" one for each attempt (see `rng_for`).

    Thinking (`<think>...</think>`) is left out of what is shown. Solved attempts, and attempts
    without a solved sibling, keep their inner feedback. An attempt is never shown to itself.

    Among the parts the solved attempt is the demonstration, of solved attempts too where another
    one was solved. The comment beside it is "" for "solved", the inner one for "contrast", and the
    failed attempt with the inner one for "pair". With a `template` the text is the comment.
    """

    needs_batch = True

    def __init__(
        self,
        show: str = "solved",
        *,
        template: str | None = None,
        which: str = "first",
        seed: int = 0,
    ) -> None:
        check_choice("show", show, TEMPLATES)
        check_choice("which", which, WHICH)
        check_integer("seed", seed)
        self.template = checked_template(
            TEMPLATES[show] if template is None else template,
            may=("attempt", "feedback", "failed"),
            must="attempt",
        )
        self.show = None if template is not None else show
        self.which = which
        self.seed = seed

    def parts(self, attempts: Sequence[Attempt]) -> list[Parts]:
        solved: dict[str, list[tuple[int, str]]] = defaultdict(list)  # row and what can be shown
        for i, attempt in enumerate(attempts):
            if attempt.solved and (shown := without_thoughts(attempt.answer)):
                solved[attempt.problem_id].append((i, shown))
        rng = rng_for(self.seed, attempts)
        found = []
        for i, attempt in enumerate(attempts):
            others = [shown for row, shown in solved[attempt.problem_id] if row != i]
            found.append(
                self._shown(attempt, self._choose(others, rng)) if others else parts_of(attempt)
            )
        return found

    def _choose(self, answers: Sequence[str], rng: random.Random) -> str:
        if self.which == "shortest":
            return min(answers, key=len)
        return answers[int(rng.random() * len(answers)) if self.which == "random" else 0]

    def _shown(self, attempt: Attempt, sibling: str) -> Parts:
        """The attempt's feedback and its parts where a solved sibling is shown."""
        failed = without_thoughts(attempt.answer)
        text = self.template.format(attempt=sibling, feedback=attempt.feedback, failed=failed)
        text = attempt.feedback if attempt.solved else text.lstrip("\n")  # of empty feedback
        if self.show is None:
            return parts_of(attempt) if attempt.solved else Parts(text, text)
        comment = "" if self.show == "solved" else attempt.comment
        if self.show == "pair" and not attempt.solved:
            comment = f"An incorrect attempt:\n\n{failed}\n\n{comment}".rstrip("\n")
        return Parts(text, comment, sibling)
