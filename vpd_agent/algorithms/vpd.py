"""Variational policy distillation, arXiv 2605.15113: the teacher is trained too."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import ClassVar, Literal

from torch import Tensor

from vpd_agent.algorithms.base import Loss, LossInputs, State, Step
from vpd_agent.algorithms.checks import check
from vpd_agent.algorithms.distillation import Distillation, distillation
from vpd_agent.algorithms.policy_gradient import PolicyGradient, policy_gradient
from vpd_agent.ops.losses import Metrics, binary_classifier, implicit_rewards


@dataclass(frozen=True)
class VPD(Distillation, PolicyGradient):
    """Variational EM over one network.

    E-step, every `e_step_every` steps: the feedback-conditioned policy learns to tell solved from
    failed responses (`losses.binary_classifier` on `losses.implicit_rewards`).
    M-step, every step: L_M = Σ_t KL(π_θ(·|x, y_<t) ‖ sg[q(·|x, c, y_<t)]) on the same rollouts,
    with `reward_weight` times the clipped policy gradient beside it.

    Both are computed on `LossInputs` (base.py): the M-step by `ResponseLogits.divergence` of
    student and teacher, the E-step on the log-probabilities of `policy_on_teacher_prompt`.
    """

    name: ClassVar[str] = "vpd"
    tuned_field: ClassVar[str] = "e_step_every"
    tuned_values: ClassVar[tuple[float, ...]] = (5, 2, 1)  # the first others are tried first

    e_step_every: int = 5
    """F: M-steps per E-step."""
    beta: float = 0.1
    """Scale of the implicit reward, a log-ratio *summed* over tokens: short answers want more."""
    prior: Literal["dynamic", "fixed"] = "dynamic"
    """What the teacher is compared with: the current student, or the initial policy."""
    balance: float = 0.5
    """Share of the E-step's loss that solved responses have, however many they are."""
    delta_momentum: float = 0.9
    """Of the moving average δ of ½(mean r̃ of solved + mean r̃ of failed)."""
    e_step_learning_rate: float | None = None
    """None: the run's learning rate."""
    e_step_optimizer: Literal["own", "shared"] = "shared"
    """Whether the E-step has optimizer moments of its own (more memory)."""
    e_step_moves_teacher: bool = False
    """With teacher="ema": the average follows the student after the E-step too, so that the M-step
    of the same step hears of it. False: it hears of it from the next step on."""
    reward_weight: float = 0.0
    """Weight of the reward's clipped policy gradient in the M-step; 0: feedback alone."""

    def __post_init__(self) -> None:
        Distillation.__post_init__(self)
        PolicyGradient.__post_init__(self)
        check(self.e_step_every >= 1, "e_step_every", "at least 1", self.e_step_every)
        check(self.beta > 0, "beta", "positive", self.beta)
        check(0 <= self.balance <= 1, "balance", "between 0 and 1", self.balance)
        check(0 <= self.delta_momentum < 1, "delta_momentum", "in [0, 1)", self.delta_momentum)
        rate = self.e_step_learning_rate
        check(rate is None or rate > 0, "e_step_learning_rate", "positive", rate)
        check(self.reward_weight >= 0, "reward_weight", "at least 0", self.reward_weight)

    @property
    def needs_reference(self) -> bool:
        return self.prior == "fixed"

    def losses(self, step: Step) -> list[Loss]:
        m_step = Loss(
            "m_step",
            partial(self.m_step, weight=self.weight(step)),
            learning_rate_share=self.learning_rate_share,
        )
        # Only in the first pass over a batch is the student the one that sampled it.
        if step.update or step.index % self.e_step_every:
            return [m_step]
        e_step = Loss(
            "e_step",
            self.e_step,
            measure=self.measure,
            update=self.update_delta,
            when=self.takes_e_step,
            whole_batch=True,
            optimizer="teacher" if self.e_step_optimizer == "own" else "policy",
            learning_rate=self.e_step_learning_rate,
            moves_teacher=self.e_step_moves_teacher,
        )
        return [e_step, m_step]

    def weight(self, step: Step) -> float:
        """Of the divergence in the M-step."""
        return 1.0

    def learning_rate_share(self, state: State) -> float:
        """Of the run's, for the M-step."""
        return 1.0

    def takes_e_step(self, state: State) -> bool:
        """Whether an E-step that is due is taken."""
        return True

    def e_step(self, inputs: LossInputs) -> tuple[Tensor, Metrics]:
        batch, delta = inputs.batch, inputs.state.get("delta", 0.0)
        loss, metrics = binary_classifier(
            self.implicit_reward(inputs),
            batch.solved,
            batch.has_teacher,
            delta,
            batch.num_solved_with_teacher,
            batch.num_failed_with_teacher,
            solved_weight=2 * self.balance,
            failed_weight=2 * (1 - self.balance),
        )
        metrics["delta"] = loss.new_tensor(delta * batch.share)
        return loss, metrics

    def implicit_reward(self, inputs: LossInputs) -> Tensor:
        """r̃ [B], 0 in rows without a teacher. The E-step comes first in a step, so the student
        frozen at its start is the policy of `old_logprobs`."""
        teacher = inputs.policy_on_teacher_prompt.logprobs
        return implicit_rewards(teacher, self._prior(inputs), inputs.batch.teacher_mask, self.beta)

    def token_values(self, inputs: LossInputs) -> dict[str, Tensor]:
        """Each token's part of the implicit reward beside what distillation says of it."""
        teacher = inputs.policy_on_teacher_prompt.logprobs
        parts = self.beta * (teacher - self._prior(inputs)) * inputs.batch.teacher_mask
        return super().token_values(inputs) | {"implicit_reward": parts}

    def _prior(self, inputs: LossInputs) -> Tensor:
        """Log-probabilities of the policy that the teacher is compared with, [B, T]."""
        fixed = self.prior == "fixed"
        return inputs.reference.logprobs if fixed else inputs.batch.old_logprobs

    def measure(self, inputs: LossInputs) -> dict[str, Tensor]:
        """Sums and counts of r̃ by outcome."""
        batch, reward = inputs.batch, self.implicit_reward(inputs).detach()
        solved, failed = batch.solved & batch.has_teacher, ~batch.solved & batch.has_teacher
        return {
            "solved_sum": (reward * solved).sum(),
            "failed_sum": (reward * failed).sum(),
            "solved_count": solved.sum(),
            "failed_count": failed.sum(),
        }

    def update_delta(self, state: State, sums: dict[str, float]) -> State:
        """Move δ towards this batch's midpoint; a batch of one outcome says nothing of it, unless
        δ has never been set."""
        means = [
            sums[f"{outcome}_sum"] / sums[f"{outcome}_count"]
            for outcome in ("solved", "failed")
            if sums[f"{outcome}_count"]
        ]
        if not means or (len(means) == 1 and "delta" in state):
            return state
        midpoint = sum(means) / len(means)
        old = state.get("delta", midpoint)
        return state | {"delta": self.delta_momentum * old + (1 - self.delta_momentum) * midpoint}

    def m_step(self, inputs: LossInputs, *, weight: float) -> tuple[Tensor, Metrics]:
        if not self.reward_weight:
            return distillation(inputs, self, scale=weight)
        distill, metrics = distillation(inputs, self, scale=weight) if weight else (0.0, {})
        loss, more = policy_gradient(inputs, self)
        return self.reward_weight * loss + distill, metrics | more
