"""Texts that several sources put together: templates, and prompts that ask for a critique."""

from __future__ import annotations

import string
from collections.abc import Sequence

from vpd_envs.answers.extraction import without_thinking
from vpd_envs.answers.sanitize import sanitize
from vpd_envs.feedback.base import Attempt
from vpd_envs.feedback.budget import shortened
from vpd_envs.feedback.checks import check_integer
from vpd_envs.feedback.environment import status_in_words

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


class CritiquePrompt:
    """Makes a critic's prompt of an attempt.

    template: may hold `{prompt}`, `{attempt}` and `{outcome}` (the feedback so far, or the status
        in words where there is none); None for our own wording.
    outcome: whether the critic is told the outcome. Our own wording does not betray it then.
    attempt_characters: the middle of a longer attempt is left out.

    Thinking is left out of the attempt, and control tokens in it are made plain text.
    """

    def __init__(self, template: str | None, outcome: bool, attempt_characters: int) -> None:
        default = CRITIQUE if outcome else OPEN_CRITIQUE
        self.template = checked_template(
            default if template is None else template,
            may=("prompt", "attempt", "outcome") if outcome else ("prompt", "attempt"),
            must="attempt",
        )
        check_integer("attempt_characters", attempt_characters, 1)
        self.attempt_characters = attempt_characters

    def of(self, attempt: Attempt) -> str:
        answer = sanitize(without_thoughts(attempt.answer))
        outcome = attempt.feedback
        return self.template.format(
            prompt=attempt.prompt,
            attempt=shortened(answer, self.attempt_characters, "middle") or "(nothing)",
            outcome=outcome if outcome.strip() else status_in_words(attempt.status),
        )


def criticized(attempts: Sequence[Attempt], critique: str) -> list[int]:
    """Which attempts get a critique: all, or the failed ones."""
    return [i for i, a in enumerate(attempts) if critique == "all" or not a.solved]


def with_critique(feedback: str, critique: str, keep: bool) -> str:
    """The critique, without the critic's thinking; after the feedback so far if that is kept."""
    parts = (feedback if keep else "", without_thoughts(critique))
    return "\n\n".join(part for part in parts if part.strip())


def without_thoughts(answer: str) -> str:
    """The answer without its thinking; empty if it never got beyond that."""
    return (without_thinking(answer) or "").strip()


def checked_template(template: str, *, may: Sequence[str], must: str) -> str:
    """The template, if it can be filled in. Raises ValueError if not."""
    try:
        fields = {name for _, name, _, _ in string.Formatter().parse(template) if name is not None}
        template.format(**dict.fromkeys(may, ""))
    except (KeyError, IndexError, ValueError, AttributeError) as error:
        names = " and ".join(f"{{{name}}}" for name in may)
        raise ValueError(
            f"template may hold {names} (other braces doubled), got {template!r}."
        ) from error
    if must not in fields:
        raise ValueError(f"template must contain {{{must}}}, got {template!r}.")
    return template
