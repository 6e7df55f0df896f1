"""Self-distilled agentic reinforcement learning, arXiv 2605.15155: each token has its own gate."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from vpd_agent.algorithms.base import Loss, LossInputs, Step
from vpd_agent.algorithms.checks import check
from vpd_agent.algorithms.distillation import WithTeacher, distillation_mask, teacher_metrics, trust
from vpd_agent.algorithms.policy_gradient import PolicyGradient, policy_gradient
from vpd_agent.algorithms.reference import Anchored, kl_to_reference
from vpd_agent.ops.losses import Metrics, TokenGate, gated_gap, masked_mean, token_gate


@dataclass(frozen=True)
class SDAR(WithTeacher, Anchored, PolicyGradient):
    """L = L_GRPO + λ · mean_t g_t·Δ_t + kl_to_reference · KL(π_θ‖π_ref)
    with Δ_t = sg[log q(y_t)] − log π_θ(y_t), g_t = sg[σ(b·Δ_t)].

    For agents of several turns: the mean is over the tokens of every turn that the policy wrote and
    that have a teacher. λ and the weight of the KL are those of its authors' scripts, which take
    0.001 for several tasks at once, and estimate the KL from the sampled token; here it is exact.
    """

    name: ClassVar[str] = "sdar"
    min_group_size: ClassVar[int] = 2  # advantages compare the rollouts of a group

    tuned_field: ClassVar[str] = "distill_weight"
    tuned_values: ClassVar[tuple[float, ...]] = (0.01, 0.1, 1.0)

    kl_to_reference: float = 0.01
    """Weight of the KL(π_θ‖π_ref), over the full vocabulary, as a mean over tokens."""
    distill_weight: float = 0.01
    """λ: weight of the gated term (0.1 in the text, 0.01 in the scripts)."""
    token_gate: TokenGate = "gap"
    """What opens a token's gate: the gap Δ_t, the student's entropy, or their product."""
    sharpness: float = 5.0
    """b: how fast a token's gate opens."""

    def __post_init__(self) -> None:
        WithTeacher.__post_init__(self)
        Anchored.__post_init__(self)
        PolicyGradient.__post_init__(self)
        check(self.distill_weight >= 0, "distill_weight", "at least 0", self.distill_weight)
        check(self.sharpness > 0, "sharpness", "positive", self.sharpness)

    def losses(self, step: Step) -> list[Loss]:
        return [Loss("policy", self.joint_loss)]

    def joint_loss(self, inputs: LossInputs) -> tuple[Tensor, Metrics]:
        batch, student, teacher = inputs.batch, inputs.student, inputs.teacher
        anchor, metrics = kl_to_reference(inputs, self.kl_to_reference)
        loss, more = policy_gradient(inputs, self)
        loss, metrics = loss + anchor, metrics | more
        mask, count = distillation_mask(batch, self)
        gap = teacher.logprobs - student.logprobs  # [B, T]
        gate = token_gate(gap, student.entropy, self.token_gate, self.sharpness)
        gated = gated_gap(student.logprobs, teacher.logprobs, gate)
        distill = masked_mean(gated * batch.sampler_weight, mask, count)
        loss = loss + self.distill_weight * trust(inputs, self) * distill
        metrics |= teacher_metrics(inputs, mask, count)
        return loss, metrics | {"token_gate": masked_mean(gate, mask, count)}
