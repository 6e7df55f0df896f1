"""Rejection-sampling fine-tuning, arXiv 2308.01825: imitate what was right. The plain baseline."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from vpd_agent.algorithms.base import Algorithm, Loss, LossInputs, State, Step
from vpd_agent.data.batch import RolloutBatch
from vpd_agent.ops.losses import Metrics, imitation, masked_mean


@dataclass(frozen=True)
class RFT(Algorithm):
    """L = the mean over the tokens of solved rollouts of −log π_θ."""

    name: ClassVar[str] = "rft"
    tuned_field: ClassVar[str] = "one_per_group"
    tuned_values: ClassVar[tuple[float, ...]] = (False, True)

    one_per_group: bool = False
    """Let each solved problem count alike, however many of its rollouts solved it: the mean over
    them, which is what picking one at random is on average."""

    def losses(self, step: Step) -> list[Loss]:
        return [Loss("imitate", self.imitate, measure=self.measure, update=self.remember)]

    def imitate(self, inputs: LossInputs) -> tuple[Tensor, Metrics]:
        batch, student = inputs.batch, inputs.student
        loss = imitation(student.logprobs, self.weights(batch), inputs.state["imitated"])
        entropy = masked_mean(student.entropy, batch.loss_mask, batch.num_tokens)
        return loss, {"entropy": entropy}

    def weights(self, batch: RolloutBatch) -> Tensor:
        """[B, T] what each token counts, before the mean."""
        weights = batch.loss_mask * batch.solved[:, None] * batch.sampler_weight
        if self.one_per_group:
            weights = weights / batch.group_solve_rate.clamp(min=1e-6)[:, None]
        return weights

    def measure(self, inputs: LossInputs) -> dict[str, Tensor]:
        """The denominator of the mean."""
        return {"imitated": self.weights(inputs.batch).sum()}

    def remember(self, state: State, sums: dict[str, float]) -> State:
        return state | sums
