"""The mathematics: pure functions, tensors in, tensors out.

Shapes: B rollouts, T response tokens, V vocabulary, K kept support. `mask` is True where a loss
applies. Every scalar is a sum divided by a denominator that the caller gives and that counts
the *whole* batch, so that losses (and metrics) of micro-batches add up to those of the batch.
Equations and sources are named in each docstring; sums over t run over tokens under the mask.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int, Shaped
from torch import Tensor

Metrics = dict[str, Tensor]
Normalizer = Literal["token", "sequence", "constant"]
RatioLevel = Literal["token", "sequence"]
SamplerCorrection = Literal["none", "token", "sequence"]
ReferenceForm = Literal["fkl", "rkl", "ufkl", "urkl"]
Tail = Literal["bucket", "renormalize"]
Support = Literal["student", "teacher"]
TokenGate = Literal["gap", "entropy", "both"]


def masked_mean(
    values: Float[Tensor, "*S"], mask: Shaped[Tensor, "*S"], denominator: float
) -> Float[Tensor, ""]:
    """Σ values·mask / denominator; 0 if the denominator is 0. *S: [B, T] or [B]."""
    return (values * mask).sum() / max(denominator, 1)


def token_weights(
    mask: Bool[Tensor, "B T"],
    normalizer: Normalizer,
    *,
    num_tokens: float,
    num_rollouts: float,
    max_response_tokens: int,
) -> Float[Tensor, "B T"]:
    """What each token counts in a mean over the whole batch; 0 outside the mask.

    token: 1/num_tokens, every token alike (DAPO, arXiv 2503.14476, equation 8);
    sequence: 1/(length_i·num_rollouts), every response alike (GRPO as published, arXiv 2402.03300,
    equation 3); constant: 1/(max_response_tokens·num_rollouts), a token counts the same in every
    batch (Dr. GRPO, arXiv 2503.20783).
    """
    if normalizer == "token":
        return mask / max(num_tokens, 1)
    if normalizer == "sequence":
        return mask / (mask.sum(-1, keepdim=True).clamp(min=1) * max(num_rollouts, 1))
    if normalizer == "constant":
        return mask / (max_response_tokens * max(num_rollouts, 1))
    raise ValueError(f"normalizer must be one of token, sequence, constant, got {normalizer!r}.")


def group_advantages(
    rewards: Float[Tensor, " B"],
    group_mean: Float[Tensor, " B"],
    group_std: Float[Tensor, " B"],
    *,
    scale: bool = True,
    eps: float = 1e-6,
) -> Float[Tensor, " B"]:
    """A_i = (r_i − mean_group r) / (std_group r + eps); without the division if not `scale`.

    GRPO, arXiv 2402.03300, section 4.1 (scale=False: Dr. GRPO, arXiv 2503.20783).
    """
    centered = rewards - group_mean
    return centered / (group_std + eps) if scale else centered


def hybrid_advantages(
    advantages: Float[Tensor, " B"],
    logprobs: Float[Tensor, "B T"],
    teacher_logprobs: Float[Tensor, "B T"],
    has_teacher: Shaped[Tensor, "B T"],
    reward_weight: float,
) -> Float[Tensor, "B T"]:
    """A_t = λ·A + (1−λ)·sg[log q_t − log π_t], λ = reward_weight. Without gradient.

    The hybrid of SDPO, arXiv 2601.20802: the second term is the advantage of its sampled-token
    form, 0 where there is no teacher.
    has_teacher: True, or how far the teacher is trusted, where there is one.
    """
    gap = (teacher_logprobs - logprobs).detach() * has_teacher
    return reward_weight * advantages[:, None] + (1 - reward_weight) * gap


def policy_ratio(
    logprobs: Float[Tensor, "B T"],
    old_logprobs: Float[Tensor, "B T"],
    mask: Bool[Tensor, "B T"],
    level: RatioLevel,
) -> Float[Tensor, "B T"]:
    """ρ = π_θ/π_old per token, or the geometric mean of a response's ratios in each of its tokens.

    sequence: s_i = exp(mean_t (log π_θ − log π_old)), GSPO, arXiv 2507.18071, equation 7, in the
    form of its equation 14, sg[s_i]·π_θ(y_t)/sg[π_θ(y_t)], in which every token keeps a gradient
    of its own.
    """
    log_ratio = logprobs - old_logprobs
    if level == "token":
        return log_ratio.exp()
    if level == "sequence":
        mean = (log_ratio * mask).sum(-1) / mask.sum(-1).clamp(min=1)  # [B]
        return (mean.detach()[:, None] + logprobs - logprobs.detach()).exp()
    raise ValueError(f"level must be one of token, sequence, got {level!r}.")


def clipped_policy_gradient(
    logprobs: Float[Tensor, "B T"],
    old_logprobs: Float[Tensor, "B T"],
    advantages: Float[Tensor, " B"] | Float[Tensor, "B T"],
    mask: Bool[Tensor, "B T"],
    num_tokens: float,
    *,
    weights: Float[Tensor, "B T"] | None = None,
    level: RatioLevel = "token",
    clip_low: float = 0.2,
    clip_high: float = 0.2,
    dual_clip: float | None = None,
) -> tuple[Float[Tensor, ""], Metrics]:
    """L = −Σ w·min(ρA, clip(ρ, 1−clip_low, 1+clip_high)·A), with ρ = `policy_ratio`.

    GRPO, arXiv 2402.03300, equation 3; level="sequence": GSPO, arXiv 2507.18071, equation 5.
    dual_clip=c bounds the surrogate from below by c·A where A < 0 (arXiv 1912.09729, equation 5).
    advantages: one per response or one per token.
    weights: what each token counts, such as `token_weights` times the truncated importance
        weights of a sampler that is not π_old; None: 1/num_tokens.
    num_tokens: of the whole batch, for the metrics, which are means over tokens.
    """
    advantages = advantages if advantages.dim() == 2 else advantages[:, None]
    ratio = policy_ratio(logprobs, old_logprobs, mask, level)  # [B, T]
    clipped = ratio.clamp(1 - clip_low, 1 + clip_high)
    surrogate = torch.minimum(ratio * advantages, clipped * advantages)
    if dual_clip is not None:
        floor = dual_clip * advantages
        surrogate = torch.where(advantages < 0, torch.maximum(surrogate, floor), surrogate)
    with torch.no_grad():
        is_clipped = (clipped * advantages) < (ratio * advantages)
    metrics = _ratio_metrics(ratio, is_clipped, mask, num_tokens)
    return -_weighted_sum(surrogate, weights, mask, num_tokens), metrics


def clipped_importance_policy_gradient(
    logprobs: Float[Tensor, "B T"],
    old_logprobs: Float[Tensor, "B T"],
    advantages: Float[Tensor, " B"] | Float[Tensor, "B T"],
    mask: Bool[Tensor, "B T"],
    num_tokens: float,
    *,
    weights: Float[Tensor, "B T"] | None = None,
    level: RatioLevel = "token",
    clip_low: float = 1.0,
    clip_high: float = 0.2,
) -> tuple[Float[Tensor, ""], Metrics]:
    """CISPO: L = −Σ w·sg[clip(ρ, 1−clip_low, 1+clip_high)]·A·log π_θ.

    arXiv 2506.13585, equation 4; there and in TRL without a lower clip (clip_low=1), in verl with
    one. Unlike in `clipped_policy_gradient`, a clipped token keeps its gradient. Arguments as
    there.
    """
    advantages = advantages if advantages.dim() == 2 else advantages[:, None]
    ratio = policy_ratio(logprobs, old_logprobs, mask, level).detach()  # [B, T]
    clipped = ratio.clamp(1 - clip_low, 1 + clip_high)
    metrics = _ratio_metrics(ratio, clipped != ratio, mask, num_tokens)
    return -_weighted_sum(clipped * advantages * logprobs, weights, mask, num_tokens), metrics


def _weighted_sum(
    values: Tensor, weights: Tensor | None, mask: Tensor, num_tokens: float
) -> Tensor:
    if weights is None:
        return masked_mean(values, mask, num_tokens)
    return (values * weights * mask).sum()


@torch.no_grad()
def _ratio_metrics(ratio: Tensor, is_clipped: Tensor, mask: Tensor, num_tokens: float) -> Metrics:
    return {
        "ratio": masked_mean(ratio, mask, num_tokens),
        "clip_fraction": masked_mean(is_clipped.float(), mask, num_tokens),
    }


def imitation(
    logprobs: Float[Tensor, "B T"], weights: Shaped[Tensor, "B T"], total_weight: float
) -> Float[Tensor, ""]:
    """L = −Σ w·log π_θ / Σ w: maximum likelihood of responses; 0 where nothing has a weight.

    total_weight: Σ w of the whole batch.
    """
    return -(logprobs * weights).sum() / (total_weight or 1.0)


@dataclass(frozen=True)
class DivergenceForm:
    """How two distributions are compared: `divergence` after `top_k_support`.

    clip: bound on the divergence of one token, which has no gradient beyond it (SDPG's code: 20).
    Raises ValueError for values out of range.
    """

    alpha: float = 1.0
    top_k: int | None = None
    tail: Tail = "bucket"
    support: Support = "student"
    entry_clip: float | None = None
    clip: float | None = None

    def __post_init__(self) -> None:
        if not 0 <= self.alpha <= 1:
            raise ValueError(f"alpha must be between 0 and 1, got {self.alpha}.")
        if self.top_k is not None and self.top_k < 1:
            raise ValueError(f"top_k must be at least 1, got {self.top_k}.")

    def __call__(
        self, student: Float[Tensor, "*S V"], teacher: Float[Tensor, "*S V"]
    ) -> Float[Tensor, "*S"]:
        """Of log-probabilities over the whole vocabulary."""
        if self.top_k is not None:
            student, teacher = top_k_support(student, teacher, self.top_k, self.tail, self.support)
        per_token = divergence(student, teacher, self.alpha, self.entry_clip)
        return per_token if self.clip is None else per_token.clamp(max=self.clip)


def divergence(
    student: Float[Tensor, "*S V"],
    teacher: Float[Tensor, "*S V"],
    alpha: float,
    entry_clip: float | None = None,
) -> Float[Tensor, "*S"]:
    """Divergence of two distributions given as log-probabilities.

    alpha = 0: KL(teacher‖student); alpha = 1: KL(student‖teacher), the reverse KL; in between
    the generalized Jensen–Shannon divergence (1−α)·KL(student‖m) + α·KL(teacher‖m) with
    m = (1−α)·student + α·teacher. SDPO, arXiv 2601.20802. It is not continuous at the two ends:
    the JSD vanishes there, and the KL of that direction is what is meant.
    entry_clip: bound on what one entry of the vocabulary adds to the sum; an entry beyond it has no
        gradient of its own (`jsd_token_clip` in the code of OPSD, arXiv 2601.18734).
    """
    if not 0 <= alpha <= 1:
        raise ValueError(f"alpha must be between 0 and 1, got {alpha}.")
    if alpha == 0:
        entries = _kl(teacher, student)
    elif alpha == 1:
        entries = _kl(student, teacher)
    else:
        mixture = torch.logaddexp(student + math.log(1 - alpha), teacher + math.log(alpha))
        entries = (1 - alpha) * _kl(student, mixture) + alpha * _kl(teacher, mixture)
    return (entries if entry_clip is None else entries.clamp(max=entry_clip)).sum(-1)


def _kl(p: Tensor, q: Tensor) -> Tensor:
    """The terms of the sum over the vocabulary."""
    return p.exp() * (p - q)


def top_k_support(
    student: Float[Tensor, "*S V"],
    teacher: Float[Tensor, "*S V"],
    k: int,
    tail: Tail = "bucket",
    support: Support = "student",
) -> tuple[Float[Tensor, "*S K"], Float[Tensor, "*S K"]]:
    """Both distributions on the k most likely tokens of one.

    support: whose: the student's (SDPO, arXiv 2601.20802) or the teacher's (the code of OPSD, arXiv
    2601.18734). tail="bucket": one more entry holds the rest of the mass (K = k+1), so the
    divergence is a lower bound of the full one; tail="renormalize": the k entries are scaled to sum
    to 1 (K = k). With k ≥ V both come back as they are.
    """
    if k < 1:
        raise ValueError(f"k must be at least 1, got {k}.")
    if k >= student.shape[-1]:
        return student, teacher
    index = (student if support == "student" else teacher).detach().topk(k, dim=-1).indices
    if tail == "renormalize":
        return renormalized(student.gather(-1, index)), renormalized(teacher.gather(-1, index))
    return with_rest(student, index), with_rest(teacher, index)


def renormalized(logp: Float[Tensor, "*S K"]) -> Float[Tensor, "*S K"]:
    """Log-probabilities that sum to 1."""
    return logp - logp.logsumexp(-1, keepdim=True)


def with_rest(logp: Float[Tensor, "*S V"], index: Int[Tensor, "*S k"]) -> Float[Tensor, "*S K"]:
    """Entries `index` of log-probabilities, and one more with the mass of all others, K = k + 1.

    That is summed over the others: 1 − Σ p of the entries is lost to rounding where it is small,
    and the gradient with it.
    """
    rest = logp.scatter(-1, index, -math.inf).logsumexp(-1, keepdim=True)
    return torch.cat([logp.gather(-1, index), rest], -1)


def sampled_token_divergence(
    logprobs: Float[Tensor, "B T"], teacher_logprobs: Float[Tensor, "B T"]
) -> Float[Tensor, "B T"]:
    """sg[log π_θ − log q]·log π_θ of the sampled token.

    SDPO, arXiv 2601.20802: where the token was sampled from π_θ, the gradient is an unbiased
    estimate of that of KL(π_θ‖q); the value is not an estimate of the KL, which is log π_θ − log q.
    """
    return (logprobs - teacher_logprobs).detach() * logprobs


def token_gate(
    gap: Float[Tensor, "B T"], entropy: Float[Tensor, "B T"], form: TokenGate, sharpness: float
) -> Float[Tensor, "B T"]:
    """How much a token listens to the teacher, detached: between 0 and 1.

    gap: σ(b·Δ) with Δ = log q − log π_θ; entropy: σ(b·h) with the student's entropy h;
    both: their product; b = sharpness. SDAR, arXiv 2605.15155.
    """
    by_gap, by_entropy = ((sharpness * x.detach()).sigmoid() for x in (gap, entropy))
    if form == "gap":
        return by_gap
    if form == "entropy":
        return by_entropy
    if form == "both":
        return by_gap * by_entropy
    raise ValueError(f"form must be one of gap, entropy, both, got {form!r}.")


def gated_gap(
    logprobs: Float[Tensor, "B T"],
    teacher_logprobs: Float[Tensor, "B T"],
    gate: Float[Tensor, "B T"],
) -> Float[Tensor, "B T"]:
    """sg[g]·(sg[log q] − log π_θ) of the sampled token: its gradient is −g·∇log π_θ.

    SDAR, arXiv 2605.15155, with `token_gate` as g.
    """
    return gate.detach() * (teacher_logprobs.detach() - logprobs)


def importance_weights(
    logprobs: Float[Tensor, "B T"], old_logprobs: Float[Tensor, "B T"], maximum: float
) -> Float[Tensor, "B T"]:
    """min(exp(clamp(log π − log π_old, ±20)), maximum) per token, detached.

    Truncated importance sampling of SDPO, arXiv 2601.20802. With the trainer's log-probabilities
    as π and the engine's as π_old: the correction of a sampler that is not quite the policy.
    """
    return (logprobs - old_logprobs).detach().clamp(-20, 20).exp().clamp(max=maximum)


def sequence_importance_weights(
    logprobs: Float[Tensor, "B T"],
    old_logprobs: Float[Tensor, "B T"],
    mask: Bool[Tensor, "B T"],
    maximum: float,
) -> Float[Tensor, "B T"]:
    """min(exp(clamp(Σ_t (log π − log π_old), ±20)), maximum) in every token, detached.

    `importance_weights` of whole responses: unbiased but for the truncation, and of a variance
    that grows with the length.
    """
    total = ((logprobs - old_logprobs).detach() * mask).sum(-1, keepdim=True)  # [B, 1]
    return total.clamp(-20, 20).exp().clamp(max=maximum).expand(logprobs.shape)


def sampler_correction(
    logprobs: Float[Tensor, "B T"],
    sampler_logprobs: Float[Tensor, "B T"],
    mask: Bool[Tensor, "B T"],
    num_tokens: float,
    *,
    level: SamplerCorrection,
    maximum: float,
) -> tuple[Float[Tensor, "B T"], Metrics]:
    """Weights that correct for a sampler that is not quite the policy (another engine, or older
    weights), and how large the difference is.

    The weights are π/π_sampler of each token or of the whole response, truncated at `maximum`; 1
    everywhere at level "none". Metrics, as shares of the whole batch: gap, the mean of
    |log π − log π_sampler|; kl, the mean of log π_sampler − log π, an estimate of
    KL(π_sampler‖π); truncated, the share of tokens whose weight was.
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


def implicit_rewards(
    teacher_logprobs: Float[Tensor, "B T"],
    prior_logprobs: Float[Tensor, "B T"],
    mask: Bool[Tensor, "B T"],
    beta: float,
) -> Float[Tensor, " B"]:
    """r̃ = β·(log q_θ(y|x,c) − sg[log π(y|x)]), summed over response tokens.

    VPD, arXiv 2605.15113, section 3.2: the prior is the student at the start of the E-step
    (dynamic) or the initial policy (fixed).
    """
    return beta * ((teacher_logprobs - prior_logprobs.detach()) * mask).sum(-1)


def binary_classifier(
    implicit_reward: Float[Tensor, " B"],
    solved: Bool[Tensor, " B"],
    include: Bool[Tensor, " B"],
    delta: float,
    num_solved: float,
    num_failed: float,
    *,
    solved_weight: float = 1.0,
    failed_weight: float = 1.0,
) -> tuple[Float[Tensor, ""], Metrics]:
    """L_E = −w₊·E_{y+}[log σ(r̃ − δ)] − w₋·E_{y−}[log σ(−(r̃ − δ))].

    Binary classifier optimization (arXiv 2404.04656) as the E-step of VPD, arXiv 2605.15113,
    section 3.2, where both weights are 1. Each expectation is a mean over its own class, so what a
    class counts does not depend on how many rows it has; one without rows contributes nothing.
    num_solved, num_failed: rows of the whole batch with `include`.
    """
    positive, negative = solved & include, ~solved & include
    margin = implicit_reward - delta
    loss = solved_weight * masked_mean(-F.logsigmoid(margin), positive, num_solved)
    loss = loss + failed_weight * masked_mean(-F.logsigmoid(-margin), negative, num_failed)
    with torch.no_grad():
        correct = torch.where(solved, margin > 0, margin < 0)
        metrics = {
            "accuracy": masked_mean(correct.float(), include, num_solved + num_failed),
            "margin": masked_mean(
                torch.where(solved, margin, -margin), include, num_solved + num_failed
            ),
            "reward_solved": masked_mean(implicit_reward, positive, num_solved),
            "reward_failed": masked_mean(implicit_reward, negative, num_failed),
        }
    return loss, metrics


def reference_penalty(
    logprobs: Float[Tensor, "B T"], reference_logprobs: Float[Tensor, "B T"], form: ReferenceForm
) -> Float[Tensor, "B T"]:
    """f(w) per sampled token with w = π_θ/π_ref.

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
