"""Group relative policy optimisation, arXiv 2402.03300: the reward alone, no feedback."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from vpd_agent.algorithms.base import Algorithm, Loss, LossInputs, Step, check
from vpd_agent.losses import (
    Metrics,
    clipped_policy_gradient,
    divergence,
    group_advantages,
    masked_mean,
)


@dataclass(frozen=True)
class GRPO(Algorithm):
    """L = clipped policy gradient on group advantages + kl_to_reference · KL(π_θ‖π_ref)."""

    name: ClassVar[str] = "grpo"

    clip_low: float = 0.2
    """The ratio π_θ/π_old is clipped below at 1 − clip_low."""
    clip_high: float = 0.2
    """… and above at 1 + clip_high (0.28 in DAPO, arXiv 2503.14476)."""
    dual_clip: float | None = None
    """Bound on the loss of tokens with a negative advantage (arXiv 1912.09729); above 1."""
    scale_advantages: bool = True
    """Divide advantages by the group's standard deviation (False: Dr. GRPO, arXiv 2503.20783)."""
    kl_to_reference: float = 0.0
    """Weight of the exact KL(π_θ‖π_ref), the initial policy being the reference."""

    def __post_init__(self) -> None:
        check(0 <= self.clip_low <= 1, "clip_low", "between 0 and 1", self.clip_low)
        check(self.clip_high >= 0, "clip_high", "at least 0", self.clip_high)
        check(self.dual_clip is None or self.dual_clip > 1, "dual_clip", "above 1", self.dual_clip)
        check(self.kl_to_reference >= 0, "kl_to_reference", "at least 0", self.kl_to_reference)

    @property
    def needs_reference(self) -> bool:
        return self.kl_to_reference > 0

    def losses(self, step: Step) -> list[Loss]:
        return [Loss("policy", self.policy_loss)]

    def policy_loss(self, inputs: LossInputs) -> tuple[Tensor, Metrics]:
        batch, student = inputs.batch, inputs.student
        advantages = group_advantages(
            batch.rewards, batch.group_mean, batch.group_std, scale=self.scale_advantages
        )
        loss, metrics = clipped_policy_gradient(
            student.logprobs,
            batch.old_logprobs,
            advantages,
            batch.mask,
            batch.num_tokens,
            clip_low=self.clip_low,
            clip_high=self.clip_high,
            dual_clip=self.dual_clip,
        )
        metrics["entropy"] = masked_mean(student.entropy, batch.mask, batch.num_tokens)
        if self.kl_to_reference:
            kl = divergence(student.distribution, inputs.reference.distribution, alpha=1.0)
            kl = masked_mean(kl, batch.mask, batch.num_tokens)
            loss = loss + self.kl_to_reference * kl
            metrics["kl_to_reference"] = kl.detach()
        return loss, metrics
