"""The anchor that algorithms share: the policy is held near a reference policy."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from vpd_agent.algorithms.base import Algorithm, LossInputs
from vpd_agent.algorithms.checks import check
from vpd_agent.ops.losses import Metrics, masked_mean


@dataclass(frozen=True)
class Anchored(Algorithm):
    """The fields of every algorithm that has a KL to a reference at all times."""

    kl_to_reference: float = 0.0
    """Weight of the KL(π_θ‖π_ref), over the full vocabulary, as a mean over tokens."""
    reference_rate: float = 0.0
    """0: the reference is the initial policy; above: a moving average of the policy,
    θ_ref ← (1−rate)·θ_ref + rate·θ after each batch."""

    def __post_init__(self) -> None:
        check(self.kl_to_reference >= 0, "kl_to_reference", "at least 0", self.kl_to_reference)
        check(0 <= self.reference_rate <= 1, "reference_rate", "between 0 and 1",
              self.reference_rate)  # fmt: skip

    @property
    def needs_reference(self) -> bool:
        return self.kl_to_reference > 0


def kl_to_reference(
    inputs: LossInputs, weight: float, share: Tensor | float = 1.0
) -> tuple[Tensor | float, Metrics]:
    """weight · the mean over tokens of share · KL(π_θ‖π_ref); 0 without a weight. Before a policy
    gradient, for what its pass over the vocabulary leaves.

    share: [B, T] or for all tokens. The metric is the mean over tokens of the KL, which counts as
        0 where its share is 0.
    """
    if not weight:
        return 0.0, {}
    batch = inputs.batch
    weights = batch.loss_mask * batch.sampler_weight * share * weight / batch.num_tokens
    kl = inputs.student.divergence(inputs.reference, weights, alpha=1.0)
    mean = masked_mean(kl.per_token, batch.loss_mask, batch.num_tokens)
    return kl.total, {"kl_to_reference": mean}
