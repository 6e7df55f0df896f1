"""PAST, arXiv 2608.08726: a teacher that has seen the whole attempt, trained by its outcome."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from vpd_agent.algorithms.base import Loss, LossInputs, Step
from vpd_agent.algorithms.checks import check
from vpd_agent.algorithms.distillation import Distillation, distillation
from vpd_agent.algorithms.policy_gradient import PolicyGradient, policy_gradient
from vpd_agent.model.teacher import TeacherWeights
from vpd_agent.ops.losses import Metrics, Normalizer, masked_mean


@dataclass(frozen=True)
class PAST(Distillation, PolicyGradient):
    """A step for the teacher, then one for the student:

        L_T = mean over solved attempts y of Σ_t KL(sg π_θ(·|x, y_<t) ‖ q_θ(·|x, c, y_<t))
              + failed_weight · (L_PG(q_θ) + proximity · Σ_t KL(q_θ ‖ sg π_θ)), on y ∼ q_θ(·|x, c)
        L_S = Σ_t KL(sg q_θ(·|x, c, y_<t) ‖ π_θ(·|x, y_<t)), on the student's attempts

    c is the feedback on an attempt, q the policy that is shown it. On solved attempts the teacher
    keeps the student's distribution; from failed ones it learns to reach a solution, by answers of
    its own which the environment judges (`teacher_rollouts`), near the student. Those answers never
    teach the student. Each part of L_T is a mean over rollouts of its own, so it does not depend on
    how many were solved. L_S has OPSD's clip of each entry of the vocabulary.

    The paper's text was not to be had: this is made from its abstract and summaries of it, which
    have the parts, the outcomes they apply to and the forward KL of the student. Ours are: the
    clipped policy gradient L_PG on groups with both outcomes, the direction of the teacher's KLs,
    means over tokens, and all weights. The paper's teacher reads a reference solution and the whole
    attempt; for the latter the template must show {attempt}, as that of the tiny models does.
    """

    name: ClassVar[str] = "past"
    tuned_field: ClassVar[str] = "failed_weight"
    tuned_values: ClassVar[tuple[float, ...]] = (0.3, 1.0, 3.0)

    teacher: TeacherWeights = "live"
    alpha: float = 0.0
    entry_clip: float | None = 0.05
    on_own_success: bool = True
    distill_normalizer: Normalizer = "token"
    drop_flat_groups: bool = True
    teacher_rollouts: float = 0.5
    """Share of each group that the teacher samples."""
    failed_weight: float = 1.0
    """Weight of the teacher's part on failed attempts; that on solved ones has 1."""
    proximity: float = 0.1
    """Weight of the KL that keeps the teacher near the student on its own answers."""
    teacher_learning_rate: float | None = None
    """None: the run's learning rate."""

    def __post_init__(self) -> None:
        Distillation.__post_init__(self)
        PolicyGradient.__post_init__(self)
        share, rate = self.teacher_rollouts, self.teacher_learning_rate
        check(0 < share < 1, "teacher_rollouts", "between 0 and 1", share)
        check(self.failed_weight >= 0, "failed_weight", "at least 0", self.failed_weight)
        check(self.proximity >= 0, "proximity", "at least 0", self.proximity)
        check(rate is None or rate > 0, "teacher_learning_rate", "positive", rate)

    def losses(self, step: Step) -> list[Loss]:
        student = Loss("student", self.teach)
        if step.update:  # only in the first pass is the student the one that sampled
            return [student]
        teacher = Loss(
            "teacher",
            self.preserve,
            self.adapt if self.failed_weight else None,
            whole_batch=True,
            optimizer="teacher",
            learning_rate=self.teacher_learning_rate,
        )
        return [teacher, student]

    def preserve(self, inputs: LossInputs) -> tuple[Tensor, Metrics]:
        """The teacher's part on solved attempts."""
        batch, count = inputs.batch, inputs.batch.num_solved_teacher_tokens
        mask = batch.teacher_mask & batch.solved[:, None]
        weight = batch.sampler_weight * mask / max(count, 1)
        kl = inputs.policy_on_teacher_prompt.divergence(inputs.student, weight, alpha=0.0)
        return kl.total, {"preserve_kl": masked_mean(kl.per_token, mask, count)}

    def adapt(self, inputs: LossInputs) -> tuple[Tensor, Metrics]:
        """The teacher's part on failed attempts: its own answers with feedback on them."""
        batch, teacher = inputs.batch, inputs.policy_on_teacher_prompt
        near, metrics = 0.0, {}
        if self.proximity:
            scale = self.failed_weight * self.proximity / batch.num_tokens
            weight = scale * batch.sampler_weight * batch.loss_mask
            kl = teacher.divergence(inputs.student, weight, alpha=1.0)
            near = kl.total
            metrics["proximity_kl"] = masked_mean(kl.per_token, batch.loss_mask, batch.num_tokens)
        loss, more = policy_gradient(inputs, self, policy=teacher)
        metrics |= {f"adapt_{name}": value for name, value in more.items()}
        return self.failed_weight * loss + near, metrics

    def teach(self, inputs: LossInputs) -> tuple[Tensor, Metrics]:
        return distillation(inputs, self)
