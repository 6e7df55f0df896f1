"""The teacher's prompts: the student's own, with the feedback on its attempt in the last turn."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from vpd_agent.data.types import Message
from vpd_agent.model.policy import Policy

_FIELDS = ("prompt", "attempt", "demonstration", "feedback")
_THINKING = re.compile(r"<think>.*?(</think>\s*|\Z)", re.DOTALL)


@dataclass(frozen=True)
class TeacherTemplate:
    """How the last user turn becomes the teacher's: `turn`, with a section for what there is.

    Each text may use {prompt}, {attempt}, {demonstration} and {feedback}; in `turn` the last two
    are the filled-in sections, or empty. The default is SDPO's template as its authors run it
    (arXiv 2601.20802; lasgroup/SDPO, verl/trainer/config/actor/actor.yaml); `solved` is the
    counterpart of `failed`, which VPD's E-step needs for its positives. System turns stay as they
    are. `<think>…</think>` is stripped from attempt and demonstration.

    needs_feedback: whether a rollout with neither feedback nor demonstration has no teacher prompt.
    """

    needs_feedback: ClassVar[bool] = True

    turn: str = "{prompt}{demonstration}{feedback}\n\nCorrectly solve the original question."
    """The teacher's user turn."""
    demonstration: str = "\nCorrect solution:\n\n{demonstration}"
    """The section that shows the solved answer of another rollout."""
    failed: str = (
        "\nThe following is feedback from your unsuccessful earlier attempt:\n\n{feedback}"
    )
    """The section of the feedback on an attempt that failed."""
    solved: str = "\nThe following is feedback from your successful earlier attempt:\n\n{feedback}"
    """The section of the feedback on an attempt that solved the problem."""
    max_feedback_chars: int = 4000
    """Longer feedback loses its middle."""
    max_attempt_chars: int = 4000
    """Longer attempts and demonstrations lose their middle."""

    def __post_init__(self) -> None:
        for name in ("turn", "demonstration", "failed", "solved"):
            try:
                getattr(self, name).format(**dict.fromkeys(_FIELDS, ""))
            except (KeyError, IndexError, ValueError, AttributeError) as error:
                raise ValueError(
                    f"TeacherTemplate.{name} may use {{prompt}}, {{attempt}}, {{demonstration}} "
                    f"and {{feedback}} only (write {{{{ and }}}} for braces); formatting it failed "
                    f"with {error!r}."
                ) from error

    def messages(
        self,
        prompt: Sequence[Message],
        attempt: str,
        feedback: str,
        *,
        solved: bool,
        demonstration: str = "",
    ) -> list[Message]:
        """The student's messages with the last user turn rewritten.

        Raises ValueError where no message is the user's."""
        last = max((i for i, m in enumerate(prompt) if m["role"] == "user"), default=None)
        if last is None:
            raise ValueError("A prompt needs a user message to build a teacher prompt from.")
        shown = {
            "prompt": prompt[last]["content"],
            "attempt": cut(_THINKING.sub("", attempt), self.max_attempt_chars),
            "demonstration": cut(_THINKING.sub("", demonstration), self.max_attempt_chars),
            "feedback": cut(feedback, self.max_feedback_chars),
        }
        sections = {"demonstration": self.demonstration, "feedback": self._of_feedback(solved)}
        filled = {k: t.format(**shown) if shown[k].strip() else "" for k, t in sections.items()}
        text = self.turn.format(**(shown | filled))
        return [{**m, "content": text} if i == last else m for i, m in enumerate(prompt)]

    def _of_feedback(self, solved: bool) -> str:
        return self.solved if solved else self.failed


COMPACT = TeacherTemplate(
    turn="{prompt}|{demonstration}{feedback}",
    demonstration="{demonstration}:=",
    failed="{attempt}:{feedback}",
    solved="{attempt}:{feedback}",
)
"""The teacher's turn for the tiny models, whose prompts are a few characters. A demonstration reads
as an attempt with the verdict of a right one, as the models learn it (`tiny/warmup.py`)."""


@dataclass(frozen=True)
class PlainPrompt(TeacherTemplate):
    """The teacher reads the student's prompt as it is, and every rollout has a teacher: for a
    teacher that is another model (on-policy distillation)."""

    needs_feedback: ClassVar[bool] = False

    def messages(
        self,
        prompt: Sequence[Message],
        attempt: str,
        feedback: str,
        *,
        solved: bool,
        demonstration: str = "",
    ) -> list[Message]:
        return list(prompt)


def cut(text: str, max_chars: int) -> str:
    """The text, its middle left out if it is longer than max_chars: both ends carry meaning."""
    if len(text) <= max_chars:
        return text
    mark = " … "
    if max_chars <= len(mark):
        return text[:max_chars]
    head = (max_chars - len(mark) + 1) // 2
    tail = max_chars - len(mark) - head
    return text[:head] + mark + text[len(text) - tail :]


def teacher_prompt(
    policy: Policy,
    template: TeacherTemplate,
    prompt: Sequence[Message],
    attempt: str,
    feedback: str,
    *,
    solved: bool,
    max_tokens: int,
    demonstration: str = "",
) -> list[int] | None:
    """Token ids of the teacher's prompt; None if there is neither feedback nor a demonstration, or
    no room for any.

    A prompt that is too long is shortened by cutting feedback, attempt and demonstration *before*
    templating, never the problem and never the generation header. A `PlainPrompt` is never
    shortened.
    """

    def encoded(limit: int) -> list[int]:
        messages = template.messages(
            prompt,
            cut(attempt, limit),
            cut(feedback, limit),
            solved=solved,
            demonstration=cut(demonstration, limit),
        )
        return policy.encode(messages)

    limit = max(len(feedback), len(attempt), len(demonstration))
    if not template.needs_feedback:
        return encoded(limit)
    demonstration = _THINKING.sub("", demonstration)
    if not feedback.strip() and not demonstration.strip():
        return None
    while limit >= 1:
        ids = encoded(limit)
        if len(ids) <= max_tokens:
            return ids
        excess = len(ids) - max_tokens
        # A token is at least a byte of text, and a character of the limit at most four bytes in
        # each of three texts: cutting fewer characters than that cannot suffice.
        limit = min(limit // 2, limit - excess // 12 - 1)
    return None
