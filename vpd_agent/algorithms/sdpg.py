"""Self-distilled policy gradient, arXiv 2606.04036: the reward, and beside it a teacher."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from vpd_agent.algorithms.base import Algorithm, Loss, LossInputs, Step, check
from vpd_agent.algorithms.grpo import GRPO
from vpd_agent.algorithms.sdpo import check_distillation, distillation
from vpd_agent.losses import Metrics, ReferenceForm, Tail, masked_mean, reference_penalty
from vpd_agent.teacher import TeacherWeights


@dataclass(frozen=True)
class SDPG(Algorithm):
    """L = L_clip(GRPO) + β(k) · KL(π_θ ‖ sg[q]) + α · f(π_θ, π_ref).

    β(k) rises linearly from 0 over the first `warmup_fraction` of the run and falls linearly to 0
    over the last `decay_fraction`.
    """

    name: ClassVar[str] = "sdpg"

    clip_low: float = 0.2
    """The ratio π_θ/π_old is clipped below at 1 − clip_low."""
    clip_high: float = 0.28
    """… and above at 1 + clip_high."""
    dual_clip: float | None = 10.0
    """Bound on the loss of tokens with a negative advantage; above 1."""
    distill_weight: float = 1e-3
    """β: weight of the divergence from the teacher."""
    warmup_fraction: float = 0.0
    """Share of the run over which β rises from 0."""
    decay_fraction: float = 0.0
    """Share of the run, at its end, over which β falls to 0."""
    reference_weight: float = 1e-3
    """α: weight of the penalty on leaving the initial policy."""
    reference_form: ReferenceForm = "urkl"
    """f, with w = π_θ/π_ref: fkl 1/w, rkl ½(log w + 1)², ufkl 1/w + log w, urkl ½ log² w."""
    alpha: float = 1.0
    """Divergence of the distillation term, as in SDPO; 1: KL(student‖teacher)."""
    top_k: int | None = None
    """Compare on the student's k most likely tokens; None: on the full vocabulary."""
    tail: Tail = "bucket"
    """With top_k, keep the rest of the mass in one entry, or renormalise without it."""
    importance_clip: float | None = None
    """Truncate importance weights of the distillation term at this; None: no weights."""
    teacher: TeacherWeights = "live"
    """Whose weights answer the teacher's prompt."""
    ema_rate: float = 0.05
    """θ_T ← (1−rate)·θ_T + rate·θ after each step, for teacher="ema"."""

    def __post_init__(self) -> None:
        check_distillation(self)
        check(self.distill_weight >= 0, "distill_weight", "at least 0", self.distill_weight)
        check(self.reference_weight >= 0, "reference_weight", "at least 0", self.reference_weight)
        for name in ("warmup_fraction", "decay_fraction"):
            value = getattr(self, name)
            check(0 <= value <= 1, name, "between 0 and 1", value)
        self._policy_gradient  # checks the clips  # noqa: B018

    @property
    def needs_reference(self) -> bool:
        return self.reference_weight > 0

    @property
    def _policy_gradient(self) -> GRPO:
        return GRPO(clip_low=self.clip_low, clip_high=self.clip_high, dual_clip=self.dual_clip)

    def weight(self, step: Step) -> float:
        """β(k)."""
        rise = step.fraction / self.warmup_fraction if self.warmup_fraction else 1.0
        fall = (1 - step.fraction) / self.decay_fraction if self.decay_fraction else 1.0
        return self.distill_weight * min(rise, fall, 1.0)

    def losses(self, step: Step) -> list[Loss]:
        weight = self.weight(step)
        return [Loss("policy", lambda inputs: self.joint_loss(inputs, weight))]

    def joint_loss(self, inputs: LossInputs, weight: float) -> tuple[Tensor, Metrics]:
        batch = inputs.batch
        loss, metrics = self._policy_gradient.policy_loss(inputs)
        if weight:
            distil, more = distillation(inputs, self)
            loss = loss + weight * distil
            metrics |= more
        metrics["distill_weight"] = loss.new_tensor(weight * len(batch) / batch.num_rollouts)
        if self.reference_weight:
            penalty = reference_penalty(
                inputs.student.logprobs, inputs.reference.logprobs, self.reference_form
            )
            penalty = masked_mean(penalty, batch.mask, batch.num_tokens)
            loss = loss + self.reference_weight * penalty
            metrics["reference_penalty"] = penalty.detach()
        return loss, metrics
