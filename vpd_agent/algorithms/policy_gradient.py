"""The reward term that algorithms share: group advantages under a clipped ratio."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from vpd_agent.algorithms.base import Algorithm, LossInputs
from vpd_agent.algorithms.checks import check
from vpd_agent.data.batch import RolloutBatch
from vpd_agent.model.response_logits import ResponseLogits
from vpd_agent.ops.losses import (
    Metrics,
    Normalizer,
    RatioLevel,
    clipped_importance_policy_gradient,
    clipped_policy_gradient,
    group_advantages,
    masked_mean,
    token_weights,
)


@dataclass(frozen=True)
class PolicyGradient(Algorithm):
    """The fields of every algorithm with a reward term, read by `policy_gradient`."""

    clip_low: float = 0.2
    """The ratio π_θ/π_old is clipped below at 1 − clip_low."""
    clip_high: float = 0.2
    """… and above at 1 + clip_high (0.28 in DAPO, arXiv 2503.14476)."""
    dual_clip: float | None = None
    """Bound on the loss of tokens with a negative advantage (arXiv 1912.09729); above 1."""
    objective: Literal["clip", "cispo", "cispo-both"] = "clip"
    """clip: no gradient where the ratio is clipped; cispo: the ratio, clipped above only, weighs
    log π (arXiv 2506.13585, TRL); cispo-both: it is clipped below too (verl)."""
    ratio: RatioLevel = "token"
    """Ratio of each token, or the geometric mean over its response (GSPO, arXiv 2507.18071)."""
    scale_advantages: bool = True
    """Divide advantages by the group's standard deviation (False: Dr. GRPO, arXiv 2503.20783)."""
    negative_weight: float = 1.0
    """Weight of negative advantages beside positive ones; 0: a rollout that is worse than its group
    only serves to compare the better ones with."""
    normalizer: Normalizer = "token"
    """A mean over tokens (DAPO), over responses of their means (sequence: GRPO as published), or a
    sum divided by rollouts · max_response_tokens (constant: Dr. GRPO)."""
    drop_flat_groups: bool = False
    """Leave groups whose rewards are all the same out of the means (DAPO); they have no gradient
    either way."""

    def __post_init__(self) -> None:
        check(0 <= self.clip_low <= 1, "clip_low", "between 0 and 1", self.clip_low)
        check(self.clip_high >= 0, "clip_high", "at least 0", self.clip_high)
        check(self.dual_clip is None or self.dual_clip > 1, "dual_clip", "above 1", self.dual_clip)
        check(self.negative_weight >= 0, "negative_weight", "at least 0", self.negative_weight)
        unbounded = self.objective == "clip" or self.dual_clip is None
        check(unbounded, "dual_clip", "None unless objective='clip'", self.dual_clip)


def policy_gradient(
    inputs: LossInputs,
    algorithm: PolicyGradient,
    advantages: Tensor | None = None,
    *,
    policy: ResponseLogits | None = None,
    old_logprobs: Tensor | None = None,
) -> tuple[Tensor, Metrics]:
    """The clipped policy gradient of a micro-batch.

    advantages: [B, T] in place of the group's. policy: whose ratio to `old_logprobs` [B, T] it is;
        None: the student's to the batch's.
    """
    a, batch = algorithm, inputs.batch
    policy = policy or inputs.student
    old_logprobs = batch.old_logprobs if old_logprobs is None else old_logprobs
    if advantages is None:
        advantages = advantages_of(batch, a)
    weights = batch.sampler_weight * token_weights(
        batch.loss_mask,
        a.normalizer,
        num_tokens=batch.num_signal_tokens if a.drop_flat_groups else batch.num_tokens,
        num_rollouts=batch.num_signal_rollouts if a.drop_flat_groups else batch.num_rollouts,
        max_response_tokens=batch.max_response_tokens,
    )
    common = (policy.logprobs, old_logprobs, advantages, batch.loss_mask, batch.num_tokens)
    if a.objective != "clip":
        low = a.clip_low if a.objective == "cispo-both" else 1.0
        loss, metrics = clipped_importance_policy_gradient(
            *common, weights=weights, level=a.ratio, clip_low=low, clip_high=a.clip_high
        )
    else:
        loss, metrics = clipped_policy_gradient(
            *common,
            weights=weights,
            level=a.ratio,
            clip_low=a.clip_low,
            clip_high=a.clip_high,
            dual_clip=a.dual_clip,
        )
    metrics["entropy"] = masked_mean(policy.entropy, batch.loss_mask, batch.num_tokens)
    return loss, metrics


def advantages_of(batch: RolloutBatch, algorithm: PolicyGradient) -> Tensor:
    """[B] of the groups, scaled and weighed as the algorithm says."""
    scale = algorithm.scale_advantages
    found = group_advantages(batch.rewards, batch.group_mean, batch.group_std, scale=scale)
    return found.where(found > 0, algorithm.negative_weight * found)
