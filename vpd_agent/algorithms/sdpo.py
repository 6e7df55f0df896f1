"""Self-distillation policy optimization, arXiv 2601.20802: a passive teacher reads the feedback."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from vpd_agent.algorithms.base import Loss, LossInputs, Step
from vpd_agent.algorithms.checks import check
from vpd_agent.algorithms.distillation import (
    Distillation,
    distillation,
    distillation_mask,
    teacher_metrics,
    trust,
)
from vpd_agent.algorithms.policy_gradient import PolicyGradient, advantages_of, policy_gradient
from vpd_agent.model.teacher import TeacherWeights
from vpd_agent.ops.losses import Metrics, hybrid_advantages


@dataclass(frozen=True)
class SDPO(Distillation, PolicyGradient):
    """L = Σ_t D(π_θ(·|x, y_<t), sg[q(·|x, c, y_<t)]) on the student's own rollouts.

    It has no reward term unless reward_weight is given. The teacher speaks where it reads feedback
    or another rollout's solved answer, and not on a rollout's own success alone (`on_own_success`).

    As published its runs are `--feedback environment+siblings`, with many optimizer steps per batch
    in code (`TrainConfig.mini_batches`).
    """

    name: ClassVar[str] = "sdpo"

    tuned_field: ClassVar[str] = "alpha"
    tuned_values: ClassVar[tuple[float, ...]] = (0.0, 0.5, 1.0)

    reward_weight: float = 0.0
    """λ of the hybrid with GRPO: advantages λ·A_GRPO + (1−λ)·(log q − log π) with sampled_token,
    else the same mixture of the two losses."""
    importance_clip: float | None = 2.0
    teacher: TeacherWeights = "ema"

    def __post_init__(self) -> None:
        Distillation.__post_init__(self)
        PolicyGradient.__post_init__(self)
        check(0 <= self.reward_weight <= 1, "reward_weight", "between 0 and 1", self.reward_weight)

    def losses(self, step: Step) -> list[Loss]:
        return [Loss("distill", self.distill)]

    def distill(self, inputs: LossInputs) -> tuple[Tensor, Metrics]:
        factor = self.factor(inputs)
        if not self.reward_weight:
            return distillation(inputs, self, factor=factor)
        if self.sampled_token:
            return self._mixed_advantages(inputs, factor)
        scale = 1 - self.reward_weight
        distill, metrics = distillation(inputs, self, scale=scale, factor=factor)
        loss, more = policy_gradient(inputs, self)
        return self.reward_weight * loss + distill, metrics | more

    def factor(self, inputs: LossInputs) -> Tensor | float:
        """What the teacher's term of each token is multiplied by, [B, T] or [B, 1]."""
        return 1.0

    def _mixed_advantages(
        self, inputs: LossInputs, factor: Tensor | float
    ) -> tuple[Tensor, Metrics]:
        """The clipped ratio takes the place of the distillation's importance weights."""
        batch = inputs.batch
        mask, count = distillation_mask(batch, self)
        advantages = hybrid_advantages(
            advantages_of(batch, self),
            inputs.student.logprobs,
            inputs.teacher.logprobs,
            mask * trust(inputs, self) * factor,
            self.reward_weight,
        )
        loss, metrics = policy_gradient(inputs, self, advantages)
        return loss, metrics | teacher_metrics(inputs, mask, count)
