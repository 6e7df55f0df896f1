"""Group relative policy optimization, arXiv 2402.03300: the reward alone, no feedback."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from vpd_agent.algorithms.base import Loss, LossInputs, Step
from vpd_agent.algorithms.policy_gradient import PolicyGradient, policy_gradient
from vpd_agent.algorithms.reference import Anchored, kl_to_reference
from vpd_agent.ops.losses import Metrics


@dataclass(frozen=True)
class GRPO(Anchored, PolicyGradient):
    """L = clipped policy gradient on group advantages + kl_to_reference · KL(π_θ‖π_ref).

    Its relatives are options. DAPO: clip_high 0.28, drop_flat_groups (DAPO also samples other
    problems in the place of such groups, which this does not). Dr. GRPO: scale_advantages False,
    normalizer constant. GSPO: ratio and normalizer sequence. CISPO: objective cispo.
    """

    name: ClassVar[str] = "grpo"
    min_group_size: ClassVar[int] = 2  # advantages compare the rollouts of a group
    tuned_field: ClassVar[str] = "kl_to_reference"
    tuned_values: ClassVar[tuple[float, ...]] = (0.0, 0.01, 0.1)

    def __post_init__(self) -> None:
        Anchored.__post_init__(self)
        PolicyGradient.__post_init__(self)

    def losses(self, step: Step) -> list[Loss]:
        return [Loss("policy", self.policy_loss)]

    def policy_loss(self, inputs: LossInputs) -> tuple[Tensor, Metrics]:
        anchor, metrics = kl_to_reference(inputs, self.kl_to_reference)
        loss, more = policy_gradient(inputs, self)
        return loss + anchor, metrics | more
