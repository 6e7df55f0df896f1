"""The mathematics: pure functions, tensors in, tensors out.

Shapes: B rollouts, T response tokens, V vocabulary, K kept support. `mask` [B, T] is True where a
loss applies. Every scalar is a sum divided by a denominator that the caller gives and that counts
the *whole* batch, so that losses (and metrics) of micro-batches add up to those of the batch.
Equations and sources are named in each docstring.
"""

from __future__ import annotations

import math
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

Metrics = dict[str, Tensor]
ReferenceForm = Literal["fkl", "rkl", "ufkl", "urkl"]
Tail = Literal["bucket", "renormalise"]


def masked_mean(values: Tensor, mask: Tensor, denominator: float) -> Tensor:
    """Σ values·mask / denominator; 0 if the denominator is 0. values, mask: [B, T] or [B]."""
    return (values * mask).sum() / max(denominator, 1)


def group_advantages(
    rewards: Tensor, group_mean: Tensor, group_std: Tensor, *, scale: bool = True, eps: float = 1e-6
) -> Tensor:
    """A_i = (r_i − mean_group r) / (std_group r + eps); without the division if not `scale`.

    GRPO, arXiv 2402.03300, section 4.1 (scale=False: Dr. GRPO, arXiv 2503.20783). All: [B].
    """
    centred = rewards - group_mean
    return centred / (group_std + eps) if scale else centred


def clipped_policy_gradient(
    logprobs: Tensor,
    old_logprobs: Tensor,
    advantages: Tensor,
    mask: Tensor,
    num_tokens: float,
    *,
    clip_low: float = 0.2,
    clip_high: float = 0.2,
    dual_clip: float | None = None,
) -> tuple[Tensor, Metrics]:
    """L = −Σ min(ρA, clip(ρ, 1−clip_low, 1+clip_high)·A) / num_tokens, with ρ = π_θ/π_old.

    GRPO, arXiv 2402.03300, equation 3, with the token-level normaliser of DAPO (arXiv 2503.14476,
    equation 8). dual_clip=c bounds the surrogate from below by c·A where A < 0
    (arXiv 1912.09729, equation 5).
    logprobs, old_logprobs, mask: [B, T]; advantages: [B].
    """
    advantages = advantages[:, None]
    ratio = (logprobs - old_logprobs).exp()  # [B, T]
    clipped = ratio.clamp(1 - clip_low, 1 + clip_high)
    surrogate = torch.minimum(ratio * advantages, clipped * advantages)
    if dual_clip is not None:
        floor = dual_clip * advantages
        surrogate = torch.where(advantages < 0, torch.maximum(surrogate, floor), surrogate)
    with torch.no_grad():
        is_clipped = (clipped * advantages) < (ratio * advantages)
        metrics = {
            "ratio": masked_mean(ratio, mask, num_tokens),
            "clip_fraction": masked_mean(is_clipped.float(), mask, num_tokens),
        }
    return -masked_mean(surrogate, mask, num_tokens), metrics


def divergence(student: Tensor, teacher: Tensor, alpha: float) -> Tensor:
    """Divergence of two distributions given as log-probabilities [..., V] → [...].

    alpha = 0: KL(teacher‖student); alpha = 1: KL(student‖teacher), the reverse KL; in between
    the generalised Jensen–Shannon divergence (1−α)·KL(student‖m) + α·KL(teacher‖m) with
    m = (1−α)·student + α·teacher. SDPO, arXiv 2601.20802. It is not continuous at the two ends:
    the JSD vanishes there, and the KL of that direction is what is meant.
    """
    if not 0 <= alpha <= 1:
        raise ValueError(f"alpha must be between 0 and 1, got {alpha}.")
    if alpha == 0:
        return _kl(teacher, student)
    if alpha == 1:
        return _kl(student, teacher)
    mixture = torch.logaddexp(student + math.log(1 - alpha), teacher + math.log(alpha))
    return (1 - alpha) * _kl(student, mixture) + alpha * _kl(teacher, mixture)


def _kl(p: Tensor, q: Tensor) -> Tensor:
    return (p.exp() * (p - q)).sum(-1)


def top_k_support(
    student: Tensor, teacher: Tensor, k: int, tail: Tail = "bucket"
) -> tuple[Tensor, Tensor]:
    """Both distributions on the student's k most likely tokens. [..., V] → [..., K].

    tail="bucket": one more entry holds the rest of the mass (K = k+1), so the divergence is a
    lower bound of the full one; tail="renormalise": the k entries are scaled to sum to 1 (K = k).
    SDPO, arXiv 2601.20802. With k ≥ V both come back as they are.
    """
    if k < 1:
        raise ValueError(f"k must be at least 1, got {k}.")
    if k >= student.shape[-1]:
        return student, teacher
    index = student.detach().topk(k, dim=-1).indices
    kept = student.gather(-1, index), teacher.gather(-1, index)
    if tail == "renormalise":
        return tuple(logp - logp.logsumexp(-1, keepdim=True) for logp in kept)
    return tuple(torch.cat([logp, _log_rest(logp)], -1) for logp in kept)


def _log_rest(logp: Tensor) -> Tensor:
    """log(1 − Σ p), kept finite where rounding leaves nothing."""
    total = logp.exp().sum(-1, keepdim=True)
    return (1 - total).clamp(min=torch.finfo(logp.dtype).tiny ** 0.5).log()


def importance_weights(logprobs: Tensor, old_logprobs: Tensor, maximum: float) -> Tensor:
    """min(exp(clamp(log π_θ − log π_old, ±20)), maximum), detached. [B, T] → [B, T].

    Truncated importance sampling of SDPO, arXiv 2601.20802.
    """
    return (logprobs - old_logprobs).detach().clamp(-20, 20).exp().clamp(max=maximum)


def implicit_rewards(
    teacher_logprobs: Tensor, prior_logprobs: Tensor, mask: Tensor, beta: float
) -> Tensor:
    """r̃ = β·(log q_θ(y|x,c) − sg[log π(y|x)]), summed over response tokens. [B, T] → [B].

    VPD, arXiv 2605.15113, section 3.2: the prior is the student at the start of the E-step
    (dynamic) or the initial policy (fixed).
    """
    return beta * ((teacher_logprobs - prior_logprobs.detach()) * mask).sum(-1)


def binary_classifier(
    implicit_reward: Tensor,
    solved: Tensor,
    include: Tensor,
    delta: float,
    num_solved: float,
    num_failed: float,
) -> tuple[Tensor, Metrics]:
    """L_E = −E_{y+}[log σ(r̃ − δ)] − E_{y−}[log σ(−(r̃ − δ))].

    Binary classifier optimisation (arXiv 2404.04656) as the E-step of VPD, arXiv 2605.15113,
    section 3.2. Each expectation is a mean over its own class, so the classes weigh the same
    however many rows they have; a class without rows contributes nothing.
    implicit_reward, solved, include: [B]; num_solved, num_failed: rows of the whole batch with
    `include`.
    """
    positive, negative = solved & include, ~solved & include
    margin = implicit_reward - delta
    loss = masked_mean(-F.logsigmoid(margin), positive, num_solved)
    loss = loss + masked_mean(-F.logsigmoid(-margin), negative, num_failed)
    with torch.no_grad():
        correct = torch.where(solved, margin > 0, margin < 0)
        metrics = {
            "accuracy": masked_mean(correct.float(), include, num_solved + num_failed),
            "reward_solved": masked_mean(implicit_reward, positive, num_solved),
            "reward_failed": masked_mean(implicit_reward, negative, num_failed),
        }
    return loss, metrics


def reference_penalty(logprobs: Tensor, reference_logprobs: Tensor, form: ReferenceForm) -> Tensor:
    """f(w) per sampled token with w = π_θ/π_ref. [B, T] → [B, T].

    SDPG, arXiv 2606.04036: fkl 1/w; rkl ½(log w + 1)²; ufkl 1/w + log w; urkl ½ log² w.
    """
    log_w = logprobs - reference_logprobs.detach()
    if form == "fkl":
        return (-log_w).exp()
    if form == "rkl":
        return 0.5 * (log_w + 1).square()
    if form == "ufkl":
        return (-log_w).exp() + log_w
    if form == "urkl":
        return 0.5 * log_w.square()
    raise ValueError(f"form must be one of fkl, rkl, ufkl, urkl, got {form!r}.")
