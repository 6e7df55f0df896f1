"""Feedback from siblings: a failed attempt is shown a solved one at the same problem."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

from vpd_envs.checks import check_choice, check_integer
from vpd_envs.feedback.base import Attempt, FeedbackSource, rng_for
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
        or a "random" one for each failed attempt (see `rng_for`).

    Thinking (`<think>...</think>`) is left out of what is shown. Solved attempts, and attempts
    without a solved sibling, keep their inner feedback. An attempt is never shown to itself.
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
        self.which = which
        self.seed = seed

    def feedback(self, attempts: Sequence[Attempt]) -> list[str]:
        solved: dict[str, list[str]] = defaultdict(list)  # problem id -> what can be shown
        for attempt in attempts:
            if attempt.solved and (shown := without_thoughts(attempt.answer)):
                solved[attempt.problem_id].append(shown)
        rng = rng_for(self.seed, attempts)
        texts = []
        for attempt in attempts:
            siblings = solved.get(attempt.problem_id)
            if attempt.solved or not siblings:
                texts.append(attempt.feedback)
                continue
            if self.which == "shortest":
                shown = min(siblings, key=len)
            elif self.which == "random":
                shown = siblings[int(rng.random() * len(siblings))]
            else:
                shown = siblings[0]
            text = self.template.format(
                attempt=shown,
                feedback=attempt.feedback,
                failed=without_thoughts(attempt.answer),
            )
            texts.append(text.lstrip("\n"))  # of a template that starts with empty feedback
        return texts
