"""Self-distilled policy gradient, arXiv 2606.04036: the reward, and beside it a teacher."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import ClassVar

from torch import Tensor

from vpd_agent.algorithms.base import Loss, LossInputs, Step
from vpd_agent.algorithms.checks import check
from vpd_agent.algorithms.distillation import Distillation, distillation, scheduled, trust
from vpd_agent.algorithms.policy_gradient import PolicyGradient, advantages_of, policy_gradient
from vpd_agent.ops.losses import Metrics, Normalizer, ReferenceForm, masked_mean, reference_penalty


@dataclass(frozen=True)
class SDPG(Distillation, PolicyGradient):
    """L = L_clip(GRPO) + β(k) · 1[A > 0] · KL(π_θ ‖ sg[q]) + α · f(π_θ, π_ref).

    β(k) rises linearly from 0 over the first `warmup_fraction` of the run and falls linearly to 0
    over the last `decay_fraction` (`scheduled`). As in its authors' code, the KL is a mean over
    tokens and at most 20 in each, and the temperature divides the student's logits alone.
    """

    name: ClassVar[str] = "sdpg"

    tuned_field: ClassVar[str] = "distill_weight"
    tuned_values: ClassVar[tuple[float, ...]] = (1e-3, 1e-2, 1e-1, 1.0)

    clip_high: float = 0.28
    dual_clip: float | None = 10.0
    distill_weight: float = 1e-3
    """β: weight of the divergence from the teacher."""
    distill_normalizer: Normalizer = "token"
    divergence_clip: float | None = 20.0
    temper_teacher: bool = False
    warmup_fraction: float = 0.125
    """Share of the run over which β rises from 0 (50 of 400 steps in the paper)."""
    decay_fraction: float = 0.875
    """Share of the run, at its end, over which β falls to 0 (350 of 400)."""
    positive_only: bool = True
    """Keep the divergence only where the advantage is positive (sections 3.1 and 3.5)."""
    on_own_success: bool = True
    """As of every teacher. The rollouts with a positive advantage are mostly solved ones, on which
    the paper's teacher speaks too: it is shown the reference answer."""
    reference_weight: float = 1e-3
    """α: weight of the penalty on leaving the initial policy."""
    reference_form: ReferenceForm = "urkl"
    """f, with w = π_θ/π_ref: fkl 1/w, rkl ½(log w + 1)², ufkl 1/w + log w, urkl ½ log² w."""

    def __post_init__(self) -> None:
        Distillation.__post_init__(self)
        PolicyGradient.__post_init__(self)
        check(self.distill_weight >= 0, "distill_weight", "at least 0", self.distill_weight)
        check(self.reference_weight >= 0, "reference_weight", "at least 0", self.reference_weight)
        for name in ("warmup_fraction", "decay_fraction"):
            value = getattr(self, name)
            check(0 <= value <= 1, name, "between 0 and 1", value)

    @property
    def needs_reference(self) -> bool:
        return self.reference_weight > 0

    def weight(self, step: Step) -> float:
        """β(k)."""
        return self.distill_weight * scheduled(
            step, warmup_fraction=self.warmup_fraction, decay_fraction=self.decay_fraction
        )

    def token_values(self, inputs: LossInputs) -> dict[str, Tensor]:
        values = super().token_values(inputs)
        if self.positive_only:
            values["taught"] &= (advantages_of(inputs.batch, self) > 0)[:, None]
        return values

    def losses(self, step: Step) -> list[Loss]:
        return [Loss("policy", partial(self.joint_loss, weight=self.weight(step)))]

    def joint_loss(self, inputs: LossInputs, *, weight: float) -> tuple[Tensor, Metrics]:
        batch = inputs.batch
        distill, metrics = 0.0, {}
        if weight:
            factor = (advantages_of(batch, self) > 0)[:, None] if self.positive_only else 1.0
            distill, metrics = distillation(inputs, self, scale=weight, factor=factor)
        loss, more = policy_gradient(inputs, self)
        loss, metrics = loss + distill, metrics | more
        metrics["distill_weight"] = loss.new_tensor(weight * trust(inputs, self) * batch.share)
        if self.reference_weight:
            penalty = reference_penalty(
                inputs.student.logprobs, inputs.reference.logprobs, self.reference_form
            )
            penalty = masked_mean(penalty * batch.sampler_weight, batch.loss_mask, batch.num_tokens)
            loss = loss + self.reference_weight * penalty
            metrics["reference_penalty"] = penalty.detach()
        return loss, metrics
