"""π-Distill, arXiv 2602.04942: the teacher samples, and both are trained on what it samples."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from vpd_agent.algorithms.base import Loss, LossInputs, Step
from vpd_agent.algorithms.checks import check
from vpd_agent.algorithms.policy_gradient import PolicyGradient, policy_gradient
from vpd_agent.ops.losses import Metrics, masked_mean, token_weights


@dataclass(frozen=True)
class PiDistill(PolicyGradient):
    """One network is teacher π_T(y|x, I) and student π_S(y|x); J = α·J_T + (1−α)·J_S with

        J_T = E_{y∼π_T}[R] − β·KL(π_T ‖ sg π_S)
        J_S = E_{y∼π_T}[(π_S / sg π_T)·R] − β·KL(sg π_T ‖ π_S)

    (equations 2 to 4). R becomes a clipped policy gradient on group-centered advantages, for the
    student with the ratio of each token to the teacher as it is (the authors' code). Each KL is the
    exact one of the next token, over the full vocabulary, summed over the tokens of what the
    teacher sampled; no gradient flows through the sampling. (The authors' Algorithm 1 takes the
    teacher's KL from the reward instead, and leaves the student's away; their code has neither.)

    The paper's privileged information I is there before any attempt. Here it is the feedback on a
    failed attempt, so `teacher_rollouts` of each group are the teacher's and the others come first.
    These are only for the feedback, unless `reward_weight` is above 0: GRPO on them, which the
    paper has where a task has no privileged information.
    """

    name: ClassVar[str] = "pi-distill"
    tuned_field: ClassVar[str] = "beta"
    tuned_values: ClassVar[tuple[float, ...]] = (0.1, 0.25, 0.5)  # those of the paper

    teacher = "live"

    alpha: float = 0.5
    """Weight of the teacher's objective; the student's has 1 − alpha."""
    beta: float = 0.25
    """Weight of both KLs."""
    teacher_rollouts: float = 0.75
    """Share of each group that the teacher samples."""
    reward_weight: float = 0.0
    """Weight of the policy gradient on the student's own rollouts."""
    scale_advantages: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        check(0 <= self.alpha <= 1, "alpha", "between 0 and 1", self.alpha)
        check(self.beta >= 0, "beta", "at least 0", self.beta)
        share = self.teacher_rollouts
        check(0 < share < 1, "teacher_rollouts", "between 0 and 1", share)
        check(self.reward_weight >= 0, "reward_weight", "at least 0", self.reward_weight)

    def losses(self, step: Step) -> list[Loss]:
        own = self.own_rollouts if self.reward_weight else None
        return [Loss("policy", own, self.teacher_samples)]

    def own_rollouts(self, inputs: LossInputs) -> tuple[Tensor, Metrics]:
        loss, metrics = policy_gradient(inputs, self)
        return self.reward_weight * loss, metrics

    def teacher_samples(self, inputs: LossInputs) -> tuple[Tensor, Metrics]:
        """−J on what the teacher sampled."""
        total, metrics = inputs.batch.rewards.new_zeros(()), {}
        for name, share in (("teacher", self.alpha), ("student", 1 - self.alpha)):
            if share:
                loss, more = self._objective(inputs, share, of_teacher=name == "teacher")
                total = total + loss
                metrics |= {f"{name}_{key}": value for key, value in more.items()}
        return total, metrics

    def _objective(
        self, inputs: LossInputs, share: float, *, of_teacher: bool
    ) -> tuple[Tensor, Metrics]:
        """−share·J_T or −share·J_S."""
        student, teacher = inputs.student, inputs.policy_on_teacher_prompt
        kl, metrics = 0.0, {}
        if self.beta:  # KL(π_T ‖ π_S) in both; what has a gradient differs
            weight = share * self.beta * self._token_weights(inputs)
            pair = (teacher, student) if of_teacher else (student, teacher)
            result = pair[0].divergence(pair[1], weight, alpha=1.0 if of_teacher else 0.0)
            kl = result.total
            metrics["kl"] = masked_mean(
                result.per_token, inputs.batch.loss_mask, inputs.batch.num_tokens
            )
        if of_teacher:
            loss, more = policy_gradient(inputs, self, policy=teacher)
        else:
            old = teacher.logprobs.detach()
            loss, more = policy_gradient(inputs, self, old_logprobs=old)
        return share * loss + kl, metrics | more

    def _token_weights(self, inputs: LossInputs) -> Tensor:
        """[B, T]: those of the policy gradient."""
        batch = inputs.batch
        return batch.sampler_weight * token_weights(
            batch.loss_mask,
            self.normalizer,
            num_tokens=batch.num_tokens,
            num_rollouts=batch.num_rollouts,
            max_response_tokens=batch.max_response_tokens,
        )
