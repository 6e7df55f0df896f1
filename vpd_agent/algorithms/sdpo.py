"""Self-distillation policy optimisation, arXiv 2601.20802: a passive teacher reads the feedback."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from vpd_agent.algorithms.base import Algorithm, Loss, LossInputs, Step, check
from vpd_agent.losses import (
    Metrics,
    Tail,
    divergence,
    importance_weights,
    masked_mean,
    top_k_support,
)
from vpd_agent.teacher import TeacherWeights


@dataclass(frozen=True)
class SDPO(Algorithm):
    """L = Σ_t D(π_θ(·|x, y_<t), sg[q(·|x, c, y_<t)]) on the student's own rollouts.

    It has no reward term; rollouts without feedback are left out.
    """

    name: ClassVar[str] = "sdpo"

    alpha: float = 1.0
    """0: KL(teacher‖student); 1: KL(student‖teacher); in between: generalised JSD."""
    top_k: int | None = None
    """Compare on the student's k most likely tokens; None: on the full vocabulary."""
    tail: Tail = "bucket"
    """With top_k, keep the rest of the mass in one entry, or renormalise without it."""
    importance_clip: float | None = 2.0
    """Truncate the importance weights π_θ/π_old at this; None: no weights."""
    teacher: TeacherWeights = "ema"
    """Whose weights answer the teacher's prompt."""
    ema_rate: float = 0.05
    """θ_T ← (1−rate)·θ_T + rate·θ after each step, for teacher="ema"."""

    def __post_init__(self) -> None:
        check_distillation(self)

    def losses(self, step: Step) -> list[Loss]:
        return [Loss("distil", self.distil)]

    def distil(self, inputs: LossInputs) -> tuple[Tensor, Metrics]:
        return distillation(inputs, self)


def check_distillation(algorithm: Algorithm) -> None:
    """Check the fields that every algorithm with a distillation term has."""
    a = algorithm
    check(0 <= a.alpha <= 1, "alpha", "between 0 and 1", a.alpha)
    check(a.top_k is None or a.top_k >= 1, "top_k", "at least 1", a.top_k)
    positive = a.importance_clip is None or a.importance_clip > 0
    check(positive, "importance_clip", "positive", a.importance_clip)
    check(0 < a.ema_rate <= 1, "ema_rate", "above 0 and at most 1", a.ema_rate)


def distillation(inputs: LossInputs, algorithm: Algorithm) -> tuple[Tensor, Metrics]:
    """The mean over response tokens of rows with a teacher of w_t · D(student_t, sg[teacher_t]).

    Reads the algorithm's alpha, top_k, tail and importance_clip, as documented in SDPO.
    """
    a = algorithm
    batch, student, teacher = inputs.batch, inputs.student, inputs.teacher
    pair = student.distribution, teacher.distribution
    if a.top_k is not None:
        pair = top_k_support(*pair, a.top_k, a.tail)
    per_token = divergence(*pair, a.alpha)  # [B, T]
    if a.importance_clip is not None:
        weight = importance_weights(student.logprobs, batch.old_logprobs, a.importance_clip)
        per_token = weight * per_token
    mask, count = batch.teacher_mask, batch.num_teacher_tokens
    loss = masked_mean(per_token, mask, count)
    gap = (teacher.logprobs - student.logprobs).detach()
    metrics = {
        "divergence": loss.detach(),
        "teacher_gap": masked_mean(gap, mask, count),
        "teacher_entropy": masked_mean(teacher.entropy, mask, count),
        "entropy": masked_mean(student.entropy, batch.mask, batch.num_tokens),
    }
    return loss, metrics
