"""The teacher's prompts: the student's own, with the feedback on its attempt in the last turn."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from vpd_agent.data.types import Message
from vpd_agent.model.policy import Policy

_THINKING = re.compile(r"<think>.*?(</think>\s*|\Z)", re.DOTALL)


@dataclass(frozen=True)
class TeacherTemplate:
    """How the last user turn becomes the teacher's. Fields: {prompt}, {attempt}, {feedback}.

    The default is the feedback section of SDPO's template (arXiv 2601.20802, table 2); `solved`
    is its counterpart for attempts that solved the problem, which VPD's E-step needs as positives.
    System turns stay as they are. `<think>…</think>` is stripped from the attempt.

    needs_feedback: whether a rollout without feedback has no teacher prompt.
    """

    needs_feedback: ClassVar[bool] = True

    failed: str = (
        "{prompt}\n\nThe following is feedback from your unsuccessful earlier attempt:\n\n"
        "{feedback}\n\nCorrectly solve the original question.\n"
    )
    """The teacher's user turn after an attempt that failed."""
    solved: str = (
        "{prompt}\n\nThe following is feedback from your successful earlier attempt:\n\n"
        "{feedback}\n\nCorrectly solve the original question.\n"
    )
    """The teacher's user turn after an attempt that solved the problem."""
    max_feedback_chars: int = 4000
    """Longer feedback loses its middle."""
    max_attempt_chars: int = 4000
    """Longer attempts lose their middle."""

    def __post_init__(self) -> None:
        for name in ("failed", "solved"):
            try:
                getattr(self, name).format(prompt="", attempt="", feedback="")
            except (KeyError, IndexError, ValueError) as error:
                raise ValueError(
                    f"TeacherTemplate.{name} may use {{prompt}}, {{attempt}} and {{feedback}} "
                    f"only (write {{{{ and }}}} for braces); formatting it failed with {error!r}."
                ) from error

    def messages(
        self, prompt: Sequence[Message], attempt: str, feedback: str, *, solved: bool
    ) -> list[Message]:
        """The student's messages with the last user turn rewritten."""
        last = max((i for i, m in enumerate(prompt) if m["role"] == "user"), default=None)
        if last is None:
            raise ValueError("A prompt needs a user message to build a teacher prompt from.")
        text = (self.solved if solved else self.failed).format(
            prompt=prompt[last]["content"],
            attempt=cut(_THINKING.sub("", attempt), self.max_attempt_chars),
            feedback=cut(feedback, self.max_feedback_chars),
        )
        return [{**m, "content": text} if i == last else m for i, m in enumerate(prompt)]


COMPACT = TeacherTemplate(
    failed="{prompt}|{attempt}:{feedback}", solved="{prompt}|{attempt}:{feedback}"
)
"""The teacher's turn for the tiny models, whose prompts are a few characters."""


@dataclass(frozen=True)
class PlainPrompt(TeacherTemplate):
    """The teacher reads the student's prompt as it is, and every rollout has a teacher: for a
    teacher that is another model (on-policy distillation)."""

    needs_feedback: ClassVar[bool] = False

    def messages(
        self, prompt: Sequence[Message], attempt: str, feedback: str, *, solved: bool
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
) -> list[int] | None:
    """Token ids of the teacher's prompt; None if there is no feedback or no room for any.

    A prompt that is too long is shortened by cutting feedback and attempt *before* templating,
    never the problem and never the generation header. A `PlainPrompt` is never shortened.
    """
    if not template.needs_feedback:
        return policy.encode(template.messages(prompt, attempt, feedback, solved=solved))
    if not feedback.strip():
        return None
    limit = max(len(feedback), len(attempt))
    while limit >= 1:
        messages = template.messages(
            prompt, cut(attempt, limit), cut(feedback, limit), solved=solved
        )
        ids = policy.encode(messages)
        if len(ids) <= max_tokens:
            return ids
        excess = len(ids) - max_tokens
        # A token is at least a byte of text: cutting fewer characters than that cannot suffice.
        limit = min(limit // 2, limit - excess // 8 - 1)
    return None
