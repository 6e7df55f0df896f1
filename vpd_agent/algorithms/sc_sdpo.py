"""SC-SDPO, arXiv 2605.27765: SDPO that attends to problems which are neither easy nor hopeless."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from vpd_agent.algorithms.base import Loss, LossInputs, State, Step
from vpd_agent.algorithms.distillation import distillation_mask, num_taught_rollouts
from vpd_agent.algorithms.sdpo import SDPO
from vpd_agent.data.batch import RolloutBatch


@dataclass(frozen=True)
class SCSDPO(SDPO):
    """L = Σ_i s_i · Σ_t D(π_θ(·|x, y_<t), sg[q(·|x, c, y_<t)]) with s_i ∝ √(p̂(1−p̂)),

    p̂ being the share of the rollout's group that is solved: the scale that the deviation of the
    rewards gives GRPO's gradient of a problem, and that SDPO's lacks. A group that is all solved
    or all failed counts nothing. The exponent ½ is the paper's (abstract); its "batch-adaptive
    normalization" was not to be found, so this one is ours: the mean of s_i over the rollouts of a
    batch on which the teacher speaks is 1, and the loss has the scale of SDPO's. Of a mini-batch,
    where a batch is split into some: those of a single problem would leave nothing to compare.
    """

    name: ClassVar[str] = "sc-sdpo"
    min_group_size: ClassVar[int] = 2  # in a group of one, p̂ is 0 or 1

    def losses(self, step: Step) -> list[Loss]:
        return [Loss("distill", self.distill, measure=self.measure, update=self.remember)]

    def factor(self, inputs: LossInputs) -> Tensor:
        """s_i [B, 1]."""
        mean = inputs.state["group_weights"] / max(num_taught_rollouts(inputs.batch, self), 1)
        return (_deviation(inputs.batch) / (mean or 1.0))[:, None]

    def measure(self, inputs: LossInputs) -> dict[str, Tensor]:
        """The sum of √(p̂(1−p̂)) over the rollouts on which the teacher speaks."""
        mask, _ = distillation_mask(inputs.batch, self)
        return {"group_weights": (_deviation(inputs.batch) * mask.any(1)).sum()}

    def remember(self, state: State, sums: dict[str, float]) -> State:
        return state | sums


def _deviation(batch: RolloutBatch) -> Tensor:
    """√(p̂(1−p̂)) [B]."""
    rate = batch.group_solve_rate
    return (rate * (1 - rate)).sqrt()
