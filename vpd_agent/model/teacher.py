"""The teacher: the same model, shown the feedback. Its prompts, and whose weights answer them."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import torch

from vpd_agent.data.types import Message, Rollout
from vpd_agent.model.policy import Policy

if TYPE_CHECKING:
    from vpd_agent.algorithms.base import Algorithm

TeacherWeights = Literal["live", "ema", "frozen", "trust_region"]

_THINKING = re.compile(r"<think>.*?(</think>\s*|\Z)", re.DOTALL)


@dataclass(frozen=True)
class TeacherTemplate:
    """How the last user turn becomes the teacher's. Fields: {prompt}, {attempt}, {feedback}.

    The default is the feedback section of SDPO's template (arXiv 2601.20802, table 2); `solved`
    is its counterpart for attempts that solved the problem, which VPD's E-step needs as positives.
    System turns stay as they are. `<think>…</think>` is stripped from the attempt.
    """

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

    Too long a prompt is mended by cutting feedback and attempt *before* templating, never the
    problem and never the generation header.
    """
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


def teacher_prompts(
    policy: Policy,
    template: TeacherTemplate,
    rollouts: Sequence[Rollout],
    *,
    success_reward: float,
    max_tokens: int,
) -> list[list[int] | None]:
    """One prompt per rollout, None where there is no feedback."""
    return [
        teacher_prompt(
            policy,
            template,
            r.messages,
            r.text,
            r.feedback,
            solved=r.reward >= success_reward,
            max_tokens=max_tokens,
        )
        for r in rollouts
    ]


class Teacher:
    """Whose weights answer the teacher's prompt.

    live: the student's own; ema: their moving average, θ_T ← (1−rate)·θ_T + rate·θ after each
    training step; frozen: the initial ones; trust_region: initial and present ones, whose logits
    are interpolated, (1−share)·frozen + share·student. (SDPO, arXiv 2601.20802; OPSD,
    arXiv 2601.18734.)

    student_share: of the student's logits in those of the teacher.
    """

    def __init__(
        self, policy: Policy, weights: TeacherWeights, rate: float, trust_region: float = 0.1
    ) -> None:
        self.weights = weights
        self.rate = rate
        self.student_share = trust_region if weights == "trust_region" else 0.0
        self._student = policy
        if weights == "live":
            self.policy = policy
        else:
            self.policy = policy.frozen_copy() if weights == "ema" else policy.reference()

    @torch.no_grad()
    def update(self) -> None:
        """Follow the student; to be called once after each training step."""
        if self.weights == "ema":
            self.policy.ema_update_(self._student, self.rate)

    def state_dict(self) -> dict | None:
        """Weights that differ from the student's; None for a live teacher."""
        return None if self.weights == "live" else self.policy.state_dict()

    def load_state_dict(self, state: dict | None) -> None:
        if (state is None) != (self.weights == "live"):
            raise ValueError(
                f"The checkpoint was written with another kind of teacher than {self.weights!r}."
            )
        if state is not None:
            self.policy.load_state_dict(state)


def make_teacher(policy: Policy, algorithm: Algorithm) -> Teacher | None:
    """The teacher that an algorithm asks for, from the policy as it is now; None if it has none."""
    if algorithm.teacher is None:
        return None
    return Teacher(policy, algorithm.teacher, algorithm.ema_rate, algorithm.trust_region)
