"""An algorithm of your own: REINFORCE (Williams, 1992), with a group's mean reward as baseline.

    cd examples && vpd train new_algorithm:Reinforce --env vpd/MiniCode-v0 --model tiny --out runs/r
    vpd compare --algorithms grpo examples/new_algorithm.py:Reinforce --env vpd/MiniCode-v0

A dataclass of Algorithm with `losses(step)`. Its fields are flags, here --no-baseline.
"""

from dataclasses import dataclass

from vpd_agent.algorithms import Algorithm, Loss


@dataclass(frozen=True)
class Reinforce(Algorithm):
    """L = −mean over tokens of (r − b) · log π_θ."""

    baseline: bool = True
    """Take the mean reward of a problem's rollouts for b; without it, b is 0."""

    def losses(self, step):
        return [Loss("policy", self.policy_loss)]

    def policy_loss(self, inputs):
        batch, student = inputs.batch, inputs.student
        advantages = batch.rewards - batch.group_mean if self.baseline else batch.rewards  # [B]
        weights = batch.loss_mask * batch.sampler_weight / batch.num_tokens  # [B, T]
        loss = -(weights * advantages[:, None] * student.logprobs).sum()
        return loss, {"entropy": (weights * student.entropy).sum()}
