"""Rollouts from a sampler that is not quite the policy: another engine, or older weights."""

from __future__ import annotations

from typing import Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from vpd_agent.ops.losses import (
    Metrics,
    importance_weights,
    masked_mean,
    sequence_importance_weights,
)


def sampler_correction(
    logprobs: Float[Tensor, "B T"],
    sampler_logprobs: Float[Tensor, "B T"],
    mask: Bool[Tensor, "B T"],
    num_tokens: float,
    *,
    level: Literal["none", "token", "sequence"],
    maximum: float,
) -> tuple[Float[Tensor, "B T"], Metrics]:
    """Weights that correct for the difference, and how large the difference is.

    The weights are π/π_sampler of each token or of the
    whole response, truncated at `maximum`; 1 everywhere at level "none". Metrics, as shares of the
    whole batch: gap, the mean of |log π − log π_sampler|; kl, the mean of log π_sampler − log π, an
    estimate of KL(π_sampler‖π); truncated, the share of tokens whose weight was.
    """
    if level == "token":
        weights = importance_weights(logprobs, sampler_logprobs, maximum)
    elif level == "sequence":
        weights = sequence_importance_weights(logprobs, sampler_logprobs, mask, maximum)
    else:
        weights = torch.ones_like(logprobs)
    difference = logprobs - sampler_logprobs
    return weights, {
        "gap": masked_mean(difference.abs(), mask, num_tokens),
        "kl": masked_mean(-difference, mask, num_tokens),
        "truncated": masked_mean((weights >= maximum).float(), mask, num_tokens),
    }
