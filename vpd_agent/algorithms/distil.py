"""DistIL, arXiv 2606.05152: imitate the teacher, and go where it can be imitated."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from vpd_agent.algorithms.base import Loss, LossInputs, Step
from vpd_agent.algorithms.checks import check
from vpd_agent.algorithms.distillation import (
    Distillation,
    distillation_mask,
    distillation_weights,
    divergence_from_teacher,
    teacher_metrics,
    trust,
)
from vpd_agent.ops.losses import Metrics, Normalizer, masked_mean
from vpd_agent.ops.token_credit import sums_of_later


@dataclass(frozen=True)
class DistIL(Distillation):
    """L = E_{y∼π_θ} Σ_t H×_t with H×_t = −Σ_v q(v|x, c, y_<t)·log π_θ(v|x, y_<t), q under sg.

    Its gradient has a part of each token and one of the sequence, as π_θ decides which y_<t come:
    E[Σ_t ∇H×_t + γ · Σ_t ∇log π_θ(y_t|x, y_<t) · Σ_{t'>t} sg[H×_{t'}]] with γ = future_weight = 1.
    The loss is the paper's (abstract and project page); this gradient is our derivation from it
    (its feedback c is taken as given), as no text or code with the details was to be found. H×_t
    is KL(q‖π_θ) + H(q), so γ = 0 has the gradient of SDPO with alpha=0.

    The sum over a rollout's tokens is divided by max_response_tokens, which is a constant. With
    top_k the KL is that of the support, and H(q) is of the whole vocabulary.
    """

    name: ClassVar[str] = "distil"
    tuned_field: ClassVar[str] = "future_weight"
    tuned_values: ClassVar[tuple[float, ...]] = (0.0, 0.1, 1.0)

    future_weight: float = 1.0
    """γ: how far a token answers for the cross-entropy of the tokens behind it."""
    alpha: float = 0.0
    distill_normalizer: Normalizer = "constant"

    def __post_init__(self) -> None:
        check(self.alpha == 0, "alpha", "0, a forward cross-entropy", self.alpha)
        check(not self.sampled_token, "sampled_token", "False", self.sampled_token)
        super().__post_init__()
        gamma = self.future_weight
        check(0 <= gamma < float("inf"), "future_weight", "at least 0", gamma)

    def losses(self, step: Step) -> list[Loss]:
        return [Loss("distill", self.distill)]

    def distill(self, inputs: LossInputs) -> tuple[Tensor, Metrics]:
        student, teacher = inputs.student, inputs.teacher
        mask, count = distillation_mask(inputs.batch, self)
        scale = trust(inputs, self)
        weight = scale * distillation_weights(inputs, self)  # [B, T]
        kl = divergence_from_teacher(inputs, self, weight)
        metrics = teacher_metrics(inputs, mask, count)
        cross_entropy = (kl.per_token + teacher.entropy) * mask
        loss = kl.total + (weight * teacher.entropy).sum()
        if self.future_weight:
            later = self.future_weight * sums_of_later(cross_entropy)
            # 0 in value, so that the loss has the value of its equation.
            loss = loss + (weight * later * (student.logprobs - student.logprobs.detach())).sum()
        if scale and count:  # it is not computed where it does not count
            metrics["divergence"] = masked_mean(kl.per_token, mask, count)
        return loss, metrics
