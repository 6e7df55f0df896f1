"""A learning rate that falls where optimizer steps would move the policy too far."""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch

from vpd_agent.algorithms.base import LossInputs
from vpd_agent.distributed.world import Processes

FACTOR = 1.1  # by which the share of the learning rate changes in a step, at most
LOWEST = 0.01


class StepLimit:
    """The share of the learning rate with which steps move the policy by `most` or less.

    How far a step moves it is KL(π_before‖π_after), a mean over the tokens of its rollouts, which
    π_before sampled: of each, r − 1 − log r with r = π_after/π_before estimates it without bias
    (Schulman, "Approximating KL divergence", 2020). It grows with the square of the rate, so after
    a step with d nats the share s becomes min(1, s · √(most/d)), changed by `FACTOR` at most: few
    steps that go much too far count no more than others do. A rate by KL as in Rudin et al., arXiv
    2109.11978, but never above the run's. Without `most` the share is 1.
    """

    def __init__(self, most: float | None = None) -> None:
        self.most = most
        self.share = 1.0

    def update(self, moved: float) -> None:
        """After a step that moved the policy by so many nats a token, infinity included."""
        if self.most is None:
            return
        wanted = math.sqrt(self.most / moved) if moved > 0 else math.inf
        factor = min(max(wanted, 1 / FACTOR), FACTOR)
        self.share = min(max(self.share * factor, LOWEST), 1.0)


@torch.no_grad()
def step_kl(
    before: Iterable[torch.Tensor], micro_batches: Iterable[LossInputs], processes: Processes
) -> float:
    """How far a step has moved the policy, in nats a token: see `StepLimit`.

    before: [B, T] of each micro-batch, the log-probabilities before the step. micro_batches: the
        same ones, made anew. Every process must call it.
    """
    total = count = 0.0
    for old, inputs in zip(before, micro_batches, strict=True):
        change = (inputs.student.logprobs - old)[inputs.batch.loss_mask]
        total += float((change.exp() - 1 - change).sum())
        count += change.numel()
    sums = processes.sum({"total": total, "count": count})
    return sums["total"] / max(sums["count"], 1)
