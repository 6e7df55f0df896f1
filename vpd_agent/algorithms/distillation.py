"""The teacher's term that algorithms share: the student moves towards a teacher with feedback."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from vpd_agent.algorithms.base import Algorithm, LossInputs, Step
from vpd_agent.algorithms.checks import check
from vpd_agent.algorithms.trust_gate import TrustGate
from vpd_agent.data.batch import RolloutBatch
from vpd_agent.model.response_logits import Divergence
from vpd_agent.model.teacher import TeacherWeights
from vpd_agent.ops.losses import (
    Metrics,
    Normalizer,
    Support,
    Tail,
    importance_weights,
    masked_mean,
    sampled_token_divergence,
    token_weights,
)


@dataclass(frozen=True)
class WithTeacher(Algorithm):
    """The fields of every algorithm whose student listens to a teacher."""

    teacher: TeacherWeights = "live"
    """Whose weights answer the teacher's prompt: the student's own, their moving average, the
    initial ones, or initial and present ones together (logits interpolated)."""
    ema_rate: float = 0.05
    """θ_T ← (1−rate)·θ_T + rate·θ after each batch, for teacher="ema". Once per batch, however many
    optimizer steps it had, as in the code of SDPO (arXiv 2601.20802)."""
    ema_every: int = 1
    """Batches between two moves of the moving average. With ema_rate=1 the teacher is a copy of the
    student, renewed every so many steps (20 in the script of RLSD, arXiv 2604.03128)."""
    trust_region: float = 0.1
    """The student's share in the interpolated logits, for teacher="trust_region"."""
    temper_teacher: bool = True
    """Divide the teacher's logits by the run's temperature too, as the student's are."""
    distill_on: Literal["all", "failed", "solved"] = "all"
    """Which rollouts the teacher speaks on, of those with a teacher prompt."""
    on_own_success: bool = False
    """Whether it also speaks on a rollout that solved its problem where it is shown only that."""
    gate_width: float | None = None
    """Trust the teacher as far as it solves what the student did not: its say is
    clip(advantage / gate_width, 0, 1), measured during the run. None: trust it fully."""
    gate_every: int = 2
    """Steps between measurements of the gate."""
    gate_rows: int = 16
    """Failed rollouts per measurement of the gate, at most."""
    gate_momentum: float = 0.9
    """Of the gate's moving average."""
    gate_prior_rows: int | None = None
    """Failed rollouts without an advantage that the gate's average begins with, so that a few lucky
    answers do not open it; None: it begins with the first measurement."""

    def __post_init__(self) -> None:
        check(0 < self.ema_rate <= 1, "ema_rate", "above 0 and at most 1", self.ema_rate)
        check(self.ema_every >= 1, "ema_every", "at least 1", self.ema_every)
        check(0 <= self.trust_region <= 1, "trust_region", "between 0 and 1", self.trust_region)
        self.gate  # checks its fields  # noqa: B018

    @property
    def gate(self) -> TrustGate | None:
        if self.gate_width is None:
            return None
        return TrustGate(
            self.gate_width,
            self.gate_every,
            self.gate_rows,
            self.gate_momentum,
            self.gate_prior_rows,
        )

    def token_values(self, inputs: LossInputs) -> dict[str, Tensor]:
        taught, _ = distillation_mask(inputs.batch, self)
        return super().token_values(inputs) | {"taught": taught}


@dataclass(frozen=True)
class Distillation(WithTeacher):
    """The fields of every algorithm with a divergence from a teacher, read by `distillation`."""

    alpha: float = 1.0
    """0: KL(teacher‖student); 1: KL(student‖teacher); in between: generalized JSD."""
    distill_normalizer: Normalizer = "sequence"
    """A mean over all rollouts of the mean over each one's tokens, 0 where it is not taught
    (sequence: SDPO's code at its micro-batches of one, and TRL); a mean over the tokens that are
    taught (token); or a sum divided by rollouts · max_response_tokens (constant)."""
    top_k: int | None = None
    """Compare on the k most likely tokens; None: on the full vocabulary."""
    support: Support = "student"
    """Whose most likely tokens top_k takes."""
    tail: Tail = "bucket"
    """With top_k, keep the rest of the mass in one entry, or renormalize without it."""
    sampled_token: bool = False
    """Compare on the sampled token alone: an unbiased but noisy gradient of the KL of alpha=1, to
    which neither clip applies."""
    entry_clip: float | None = None
    """Bound on what one entry of the vocabulary adds to a token's divergence; it has no gradient
    beyond. (0.05 in later runs of OPSD's code, with alpha=0.)"""
    divergence_clip: float | None = None
    """Bound on the divergence of one token, which has no gradient beyond (20 in SDPG's code)."""
    importance_clip: float | None = None
    """Truncate the importance weights π_θ/π_old of the distillation at this; None: no weights."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check(0 <= self.alpha <= 1, "alpha", "between 0 and 1", self.alpha)
        check(self.top_k is None or self.top_k >= 1, "top_k", "at least 1", self.top_k)
        for name in ("importance_clip", "entry_clip", "divergence_clip"):
            value = getattr(self, name)
            check(value is None or value > 0, name, "positive", value)
        if self.sampled_token:
            check(self.alpha == 1, "alpha", "1 with sampled_token", self.alpha)
            check(self.top_k is None, "top_k", "None with sampled_token", self.top_k)

    def token_values(self, inputs: LossInputs) -> dict[str, Tensor]:
        everywhere = inputs.batch.teacher_mask.float()
        divergence = divergence_from_teacher(inputs, self, everywhere).per_token
        return super().token_values(inputs) | {"divergence": divergence}


def distillation(
    inputs: LossInputs,
    algorithm: Distillation,
    *,
    scale: float = 1.0,
    factor: Tensor | float = 1.0,
) -> tuple[Tensor, Metrics]:
    """scale · the mean over tokens with a teacher of f_t · w_t · D(student_t, sg[teacher_t]).

    Which mean is the algorithm's `distill_normalizer`, D its divergence, w_t its importance weight
    and the sampler's. Where the algorithm has a gate, it weighs the mean too. Where a loss has a
    policy gradient as well, this comes first: the pass over the vocabulary leaves what that needs.
    factor: f_t, constants, [B, T] or [B, 1]; where it is 0 a token counts in the mean all the same.
    The metrics are means over tokens whatever the normalizer; a divergence that has no factor is
    not computed and counts as 0 there.
    """
    a, student, teacher = algorithm, inputs.student, inputs.teacher
    mask, count = distillation_mask(inputs.batch, a)
    scale *= trust(inputs, a)
    weight = scale * factor * distillation_weights(inputs, a)
    if a.sampled_token:
        per_token = sampled_token_divergence(student.logprobs, teacher.logprobs)
        return (weight * per_token).sum(), teacher_metrics(inputs, mask, count)
    result = divergence_from_teacher(inputs, a, weight)
    # After it: what the metrics need is a by-product of its pass over the vocabulary.
    metrics = teacher_metrics(inputs, mask, count)
    if scale and count:  # it is not computed where it does not count
        metrics["divergence"] = masked_mean(result.per_token, mask, count)
    return result.total, metrics


def distillation_weights(inputs: LossInputs, algorithm: Distillation) -> Tensor:
    """What each token counts in the mean of `distillation`, [B, T]: by `distill_normalizer`, the
    importance weights and the sampler's; 0 where the teacher does not speak."""
    a, batch = algorithm, inputs.batch
    mask, count = distillation_mask(batch, a)
    weight = batch.sampler_weight * token_weights(
        mask,
        a.distill_normalizer,
        num_tokens=count,
        num_rollouts=batch.num_rollouts,
        max_response_tokens=batch.max_response_tokens,
    )
    if a.importance_clip is None:
        return weight
    ratio = importance_weights(inputs.student.logprobs, batch.old_logprobs, a.importance_clip)
    return weight * ratio


def divergence_from_teacher(
    inputs: LossInputs, algorithm: Distillation, weight: Tensor
) -> Divergence:
    """Σ weight · D and each token's D(student_t, sg[teacher_t]); with sampled_token, the exact KL
    that the sampled token estimates. weight: [B, T], see `ResponseLogits.divergence`."""
    a = algorithm
    return inputs.student.divergence(
        inputs.teacher,
        weight,
        alpha=a.alpha,
        top_k=a.top_k,
        tail=a.tail,
        support=a.support,
        entry_clip=a.entry_clip,
        clip=a.divergence_clip,
    )


def distillation_mask(batch: RolloutBatch, algorithm: WithTeacher) -> tuple[Tensor, float]:
    """Where the teacher speaks, [B, T], and how many tokens that is in the whole batch."""
    failed, solved = batch.num_failed_teacher_tokens, batch.num_solved_teacher_tokens
    own_success = batch.num_own_success_teacher_tokens
    mask = batch.teacher_mask & _taught_rows(batch, algorithm)[:, None]
    return mask, _taught(algorithm, failed, solved, own_success)


def num_taught_rollouts(batch: RolloutBatch, algorithm: WithTeacher) -> float:
    """Rollouts of the whole batch on which the teacher speaks."""
    failed, solved = batch.num_failed_with_teacher, batch.num_solved_with_teacher
    return _taught(algorithm, failed, solved, batch.num_own_success_with_teacher)


def _taught_rows(batch: RolloutBatch, algorithm: WithTeacher) -> Tensor:
    """[B], of the rows with a teacher prompt."""
    rows = {"all": batch.solved | ~batch.solved, "failed": ~batch.solved, "solved": batch.solved}
    taught = rows[algorithm.distill_on]
    return taught if algorithm.on_own_success else taught & ~batch.own_success


def _taught(algorithm: WithTeacher, failed: float, solved: float, own_success: float) -> float:
    """The count that `distill_on` and `on_own_success` choose of these."""
    if not algorithm.on_own_success:
        solved -= own_success
    return {"all": failed + solved, "failed": failed, "solved": solved}[algorithm.distill_on]


def trust(inputs: LossInputs, algorithm: WithTeacher) -> float:
    """What the gate makes of the teacher's term; 1 without a gate."""
    return 1.0 if algorithm.gate is None else algorithm.gate.weight(inputs.state)


def teacher_metrics(inputs: LossInputs, mask: Tensor, count: float) -> Metrics:
    """Means over the `count` tokens under `mask`: how student and teacher differ there. Where there
    is no such token, only the student's entropy and mask_fraction.

    teacher_gap: log q − log π of the sampled token; teacher_agrees: share of tokens where it is
    positive, that is, where the teacher likes the student's token more than the student does;
    mask_fraction: share of the response tokens that have a teacher.
    """
    batch, student = inputs.batch, inputs.student
    metrics = {
        "entropy": masked_mean(student.entropy, batch.loss_mask, batch.num_tokens),
        "mask_fraction": mask.sum() / max(batch.num_tokens, 1),
    }
    if not count:
        return metrics
    teacher = inputs.teacher
    gap = (teacher.logprobs - student.logprobs).detach()
    return metrics | {
        "teacher_gap": masked_mean(gap, mask, count),
        "teacher_agrees": masked_mean((gap > 0).float(), mask, count),
        "teacher_entropy": masked_mean(teacher.entropy, mask, count),
    }


def scheduled(step: Step, *, warmup_fraction: float, decay_fraction: float) -> float:
    """min(1, k/T_warm) · min(1, (T−k)/T_decay) in step k of T, the first being 1.

    The schedule of SDPG, arXiv 2606.04036, as its code has it; the fractions are T_warm/T and
    T_decay/T, and 0 leaves a factor out.
    """
    k, total = step.index + 1, step.total
    rise = k / (warmup_fraction * total) if warmup_fraction else 1.0
    fall = (total - k) / (decay_fraction * total) if decay_fraction else 1.0
    return min(rise, 1.0) * min(fall, 1.0)
