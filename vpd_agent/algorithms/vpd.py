"""Variational policy distillation, arXiv 2605.15113: the teacher is trained too."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from torch import Tensor

from vpd_agent.algorithms.base import Algorithm, Loss, LossInputs, State, Step, check
from vpd_agent.algorithms.sdpo import check_distillation, distillation
from vpd_agent.losses import Metrics, Tail, binary_classifier, implicit_rewards
from vpd_agent.teacher import TeacherWeights


@dataclass(frozen=True)
class VPD(Algorithm):
    """Variational EM over one network.

    E-step, every `e_step_every` steps: the feedback-conditioned policy learns to tell solved from
    failed responses (`losses.binary_classifier` on `losses.implicit_rewards`).
    M-step, every step: L_M = Σ_t KL(π_θ(·|x, y_<t) ‖ sg[q(·|x, c, y_<t)]) on the same rollouts.
    """

    name: ClassVar[str] = "vpd"

    e_step_every: int = 5
    """F: M-steps per E-step."""
    beta: float = 0.1
    """Scale of the implicit reward, a log-ratio *summed* over tokens: short answers want more."""
    prior: Literal["dynamic", "fixed"] = "dynamic"
    """What the teacher is compared with: the current student, or the initial policy."""
    delta_momentum: float = 0.9
    """Of the moving average δ of ½(mean r̃ of solved + mean r̃ of failed)."""
    e_step_learning_rate: float | None = None
    """None: the run's learning rate."""
    e_step_optimizer: Literal["own", "shared"] = "shared"
    """Whether the E-step has optimiser moments of its own (more memory)."""
    alpha: float = 1.0
    """Divergence of the M-step, as in SDPO; 1: KL(student‖teacher)."""
    top_k: int | None = None
    """Compare on the student's k most likely tokens; None: on the full vocabulary."""
    tail: Tail = "bucket"
    """With top_k, keep the rest of the mass in one entry, or renormalise without it."""
    importance_clip: float | None = None
    """Truncate the importance weights of the M-step, which the E-step made slightly off-policy,
    at this; None: no weights."""
    teacher: TeacherWeights = "live"
    """Whose weights answer the teacher's prompt in the M-step."""
    ema_rate: float = 0.05
    """θ_T ← (1−rate)·θ_T + rate·θ after each step, for teacher="ema"."""

    def __post_init__(self) -> None:
        check_distillation(self)
        check(self.e_step_every >= 1, "e_step_every", "at least 1", self.e_step_every)
        check(self.beta > 0, "beta", "positive", self.beta)
        check(0 <= self.delta_momentum < 1, "delta_momentum", "in [0, 1)", self.delta_momentum)
        rate = self.e_step_learning_rate
        check(rate is None or rate > 0, "e_step_learning_rate", "positive", rate)

    @property
    def needs_reference(self) -> bool:
        return self.prior == "fixed"

    def losses(self, step: Step) -> list[Loss]:
        m_step = Loss("m_step", self.m_step)
        if step.index % self.e_step_every:
            return [m_step]
        e_step = Loss(
            "e_step",
            self.e_step,
            measure=self.measure,
            update=self.update_delta,
            optimizer="teacher" if self.e_step_optimizer == "own" else "policy",
            learning_rate=self.e_step_learning_rate,
        )
        return [e_step, m_step]

    def e_step(self, inputs: LossInputs) -> tuple[Tensor, Metrics]:
        batch, delta = inputs.batch, inputs.state.get("delta", 0.0)
        loss, metrics = binary_classifier(
            self.implicit_reward(inputs),
            batch.solved,
            batch.has_teacher,
            delta,
            batch.num_solved_with_teacher,
            batch.num_failed_with_teacher,
        )
        metrics["delta"] = loss.new_tensor(delta * len(batch) / batch.num_rollouts)
        return loss, metrics

    def implicit_reward(self, inputs: LossInputs) -> Tensor:
        """r̃ [B]. The E-step comes first in a step, so the student frozen at its start is the
        policy that sampled the rollouts: its log-likelihoods are `old_logprobs`."""
        batch = inputs.batch
        fixed = self.prior == "fixed"
        prior = inputs.reference.logprobs if fixed else batch.old_logprobs
        return implicit_rewards(inputs.trained_teacher.logprobs, prior, batch.mask, self.beta)

    def measure(self, inputs: LossInputs) -> dict[str, Tensor]:
        """Sums and counts of r̃ by outcome."""
        batch, reward = inputs.batch, self.implicit_reward(inputs)
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

    def m_step(self, inputs: LossInputs) -> tuple[Tensor, Metrics]:
        return distillation(inputs, self)
