"""An algorithm of your own: REINFORCE (Williams, 1992) with a group's mean reward as baseline.

    cd examples && vpd train new_algorithm:Reinforce --env vpd/MiniCode-v0 --model tiny --out runs/r
    vpd compare --algorithms grpo examples/new_algorithm.py:Reinforce --env vpd/MiniCode-v0

A dataclass with `losses(step)`. Its fields are flags of the command line, such as --entropy-bonus;
a comparison with equal tuning tries the values that it names for one of them.
"""

from dataclasses import dataclass
from typing import ClassVar

from vpd_agent.algorithms import Algorithm, Loss


@dataclass(frozen=True)
class Reinforce(Algorithm):
    """L = −mean over tokens of w · log π_θ, where w = r − r̄ − entropy_bonus · log π_θ is constant.

    Its gradient is, on average, that of a bonus for entropy: ∇H(π_θ) = −E[log π_θ · ∇ log π_θ].
    """

    tuned_field: ClassVar[str] = "entropy_bonus"
    tuned_values: ClassVar[tuple[float, ...]] = (0.0, 0.01, 0.1)

    entropy_bonus: float = 0.0
    """Weight of the policy's entropy, which keeps it from settling early."""

    def losses(self, step):
        return [Loss("policy", self.policy_loss)]

    def policy_loss(self, inputs):
        batch, student = inputs.batch, inputs.student
        advantages = (batch.rewards - batch.group_mean)[:, None]  # [B, 1]
        weights = advantages - self.entropy_bonus * student.logprobs.detach()  # [B, T]
        loss = -(weights * student.logprobs * batch.loss_mask).sum() / batch.num_tokens
        entropy = (student.entropy * batch.loss_mask).sum() / batch.num_tokens
        return loss, {"entropy": entropy}
