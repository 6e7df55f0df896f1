"""RLSD, arXiv 2604.03128: the reward decides the direction, a teacher how far each token goes."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import ClassVar

from torch import Tensor

from vpd_agent.algorithms.base import Loss, LossInputs, Step
from vpd_agent.algorithms.checks import check
from vpd_agent.algorithms.distillation import WithTeacher, distillation_mask, teacher_metrics, trust
from vpd_agent.algorithms.policy_gradient import PolicyGradient, advantages_of, policy_gradient
from vpd_agent.model.teacher import TeacherWeights
from vpd_agent.ops.losses import Metrics, masked_mean
from vpd_agent.ops.token_credit import reweighted_advantages


@dataclass(frozen=True)
class RLSD(WithTeacher, PolicyGradient):
    """GRPO's clipped loss with A_t = A · sg[(1−λ) + λ·clip((q(y_t)/π_θ(y_t))^sign(A), 1−ε, 1+ε)]

    in A's place (`reweighted_advantages`); A where the teacher does not speak. The defaults are
    those of its authors' script (rlsd_train.sh), whose teacher is a copy of the student, renewed
    every 20 steps and shown the answer; teacher="frozen" never renews it. λ = 1 is the text's form,
    λ = 0 GRPO.
    """

    name: ClassVar[str] = "rlsd"
    min_group_size: ClassVar[int] = 2  # advantages compare the rollouts of a group
    tuned_field: ClassVar[str] = "teacher_share"
    tuned_values: ClassVar[tuple[float, ...]] = (0.25, 0.5, 1.0)

    teacher_share: float = 0.5
    """λ in the first step: the teacher's share in what weighs an advantage."""
    share_decay_steps: int = 60
    """λ falls linearly to 0 over so many steps; 0: it does not fall."""
    token_clip: float = 0.2
    """ε: the ratio of teacher and student is clipped at 1 − ε and 1 + ε."""
    teacher: TeacherWeights = "ema"
    ema_rate: float = 1.0
    ema_every: int = 20
    on_own_success: bool = True
    """As published: its teacher, who is shown the reference answer, speaks on every rollout."""
    clip_high: float = 0.28
    dual_clip: float | None = 3.0

    def __post_init__(self) -> None:
        WithTeacher.__post_init__(self)
        PolicyGradient.__post_init__(self)
        for name in ("teacher_share", "token_clip"):
            value = getattr(self, name)
            check(0 <= value <= 1, name, "between 0 and 1", value)
        check(self.share_decay_steps >= 0, "share_decay_steps", "at least 0",
              self.share_decay_steps)  # fmt: skip

    def share(self, step: Step) -> float:
        """λ·max(0, 1 − k/K) in the k-th step with K = share_decay_steps, the first being 1."""
        decay = (step.index + 1) / self.share_decay_steps if self.share_decay_steps else 0.0
        return self.teacher_share * max(1 - decay, 0.0)

    def losses(self, step: Step) -> list[Loss]:
        return [Loss("policy", partial(self.policy_loss, share=self.share(step)))]

    def policy_loss(self, inputs: LossInputs, *, share: float) -> tuple[Tensor, Metrics]:
        if not share:
            return policy_gradient(inputs, self)
        mask, count = distillation_mask(inputs.batch, self)
        advantages = self.token_advantages(inputs, share)
        loss, metrics = policy_gradient(inputs, self, advantages)
        metrics |= teacher_metrics(inputs, mask, count)
        moved = (advantages - advantages_of(inputs.batch, self)[:, None]).abs()
        return loss, metrics | {"reweighted": masked_mean(moved, mask, count)}

    def token_advantages(self, inputs: LossInputs, share: float) -> Tensor:
        """A_t [B, T]."""
        mask, _ = distillation_mask(inputs.batch, self)
        return reweighted_advantages(
            advantages_of(inputs.batch, self),
            inputs.student.logprobs,
            inputs.teacher.logprobs,
            share * trust(inputs, self) * mask,
            self.token_clip,
        )

    def token_values(self, inputs: LossInputs) -> dict[str, Tensor]:
        """Each token's advantage at the highest λ."""
        advantages = self.token_advantages(inputs, self.teacher_share)
        return super().token_values(inputs) | {"token_advantage": advantages}
