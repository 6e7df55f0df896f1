"""Group relative policy optimization, arXiv 2402.03300: the reward alone, no feedback."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from vpd_agent.algorithms.base import Loss, LossInputs, Step, check
from vpd_agent.algorithms.policy_gradient import PolicyGradient, policy_gradient
from vpd_agent.ops.losses import Metrics, masked_mean


@dataclass(frozen=True)
class GRPO(PolicyGradient):
    """L = clipped policy gradient on group advantages + kl_to_reference · KL(π_θ‖π_ref).

    Its relatives are options. DAPO: clip_high 0.28, drop_flat_groups. Dr. GRPO: scale_advantages
    False, normalizer constant. GSPO: ratio and normalizer sequence. CISPO: objective cispo.
    """

    name: ClassVar[str] = "grpo"
    min_group_size: ClassVar[int] = 2  # advantages compare the rollouts of a group

    kl_to_reference: float = 0.0
    """Weight of the exact KL(π_θ‖π_ref), the initial policy being the reference."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check(self.kl_to_reference >= 0, "kl_to_reference", "at least 0", self.kl_to_reference)

    @property
    def needs_reference(self) -> bool:
        return self.kl_to_reference > 0

    def losses(self, step: Step) -> list[Loss]:
        return [Loss("policy", self.policy_loss)]

    def policy_loss(self, inputs: LossInputs) -> tuple[Tensor, Metrics]:
        if not self.kl_to_reference:
            return policy_gradient(inputs, self)
        batch = inputs.batch
        weight = batch.loss_mask * batch.sampler_weight * self.kl_to_reference / batch.num_tokens
        kl = inputs.student.divergence(inputs.reference, weight, alpha=1.0)
        loss, metrics = policy_gradient(inputs, self)
        metrics["kl_to_reference"] = masked_mean(kl.per_token, batch.loss_mask, batch.num_tokens)
        return loss + kl.total, metrics
