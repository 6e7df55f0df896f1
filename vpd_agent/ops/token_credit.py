"""Credit of single tokens: pure functions in the manner of losses.py, whose shapes they share."""

from __future__ import annotations

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor


def reweighted_advantages(
    advantages: Float[Tensor, " B"],
    logprobs: Float[Tensor, "B T"],
    teacher_logprobs: Float[Tensor, "B T"],
    share: Float[Tensor, "B T"],
    clip: float,
) -> Float[Tensor, "B T"]:
    """A_t = A · [(1−λ) + λ·clip((q_t/π_t)^sign(A), 1−clip, 1+clip)], λ = share. Without gradient.

    RLSD, arXiv 2604.03128, in the form of its code (`_build_stgca_advantages`); with λ = 1 that of
    its text. q_t and π_t are the teacher's and the student's probability of the sampled token. The
    bracket is positive: the reward alone decides whether a token becomes more or less likely.
    """
    gap = (teacher_logprobs - logprobs).detach()
    weight = (advantages.sign()[:, None] * gap).exp().clamp(1 - clip, 1 + clip)
    return advantages[:, None] * (1 + share * (weight - 1))


def sums_of_later(values: Float[Tensor, "B T"]) -> Float[Tensor, "B T"]:
    """Σ_{t'>t} values_{t'}; 0 for the last token."""
    from_here = values.flip(-1).cumsum(-1).flip(-1)
    return F.pad(from_here[:, 1:], (0, 1))
