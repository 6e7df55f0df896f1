"""Sample-routed policy optimization, arXiv 2604.02288: solved to GRPO, failed to SDPO."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from torch import Tensor

from vpd_agent.algorithms.base import Loss, LossInputs, State, Step
from vpd_agent.algorithms.checks import check
from vpd_agent.algorithms.distillation import Distillation, distillation, distillation_mask, trust
from vpd_agent.algorithms.policy_gradient import PolicyGradient, advantages_of, policy_gradient
from vpd_agent.model.teacher import TeacherWeights
from vpd_agent.ops.losses import Metrics, Normalizer


@dataclass(frozen=True)
class SRPO(Distillation, PolicyGradient):
    """L = Σ_{i,t} [(1 − z_i) · ℓ_GRPO + z_i · w_{i,t} · D(π_θ, sg[q])] / Σ_i |y_i|
    with w_{i,t} = exp(−β·H(q_{i,t})) / (its mean over the tokens with z_i = 1).

    Sections 3.1 to 3.3. z_i is 1 for a rollout that failed and has a teacher, else 0, so each is in
    one of the two branches; H is the teacher's entropy over the vocabulary. Advantages compare all
    rollouts of a group, those with z_i = 1 too, without division by the deviation, as in the GRPO
    that its authors compare with.

    Ours: `distill_on` routes other rollouts; with a gate z_i is multiplied by its weight, so that
    GRPO takes over as far as the teacher is not trusted. The paper's teacher is shown a solved
    rollout of the group and nothing else (`--feedback siblings`).
    """

    name: ClassVar[str] = "srpo"
    tuned_field: ClassVar[str] = "entropy_sharpness"
    tuned_values: ClassVar[tuple[float, ...]] = (0.0, 1.0, 3.0)

    entropy_sharpness: float = 1.0
    """β: how fast a token's weight falls with the teacher's entropy; 0: all count alike."""
    distill_on: Literal["all", "failed", "solved"] = "failed"
    """z_i = 1, of those with a teacher prompt; the others are GRPO's."""
    alpha: float = 0.5
    distill_normalizer: Normalizer = "token"
    """Has to be `normalizer`: one mean over the rollouts of both branches."""
    importance_clip: float | None = 2.0
    teacher: TeacherWeights = "ema"
    clip_high: float = 0.28
    scale_advantages: bool = False

    def __post_init__(self) -> None:
        Distillation.__post_init__(self)
        PolicyGradient.__post_init__(self)
        sharpness = self.entropy_sharpness
        check(0 <= sharpness < float("inf"), "entropy_sharpness", "at least 0", sharpness)
        same, value = self.normalizer, self.distill_normalizer
        check(value == same, "distill_normalizer", f"{same!r}, as normalizer is", value)
        flat = self.drop_flat_groups
        check(not flat, "drop_flat_groups", "False, as the mean is over both branches", flat)

    def losses(self, step: Step) -> list[Loss]:
        if not self.entropy_sharpness:
            return [Loss("policy", self.joint_loss)]
        return [Loss("policy", self.joint_loss, measure=self.measure, update=self.remember)]

    def joint_loss(self, inputs: LossInputs) -> tuple[Tensor, Metrics]:
        batch = inputs.batch
        mask, count = distillation_mask(batch, self)
        # Other normalizers than `token` count the rollouts of both branches by themselves.
        scale = count / batch.num_tokens if self.distill_normalizer == "token" else 1.0
        factor = self.entropy_weights(inputs, count)
        distill, metrics = distillation(inputs, self, scale=scale, factor=factor)
        to_grpo = 1 - mask * trust(inputs, self)  # [B, T]
        loss, more = policy_gradient(inputs, self, advantages_of(batch, self)[:, None] * to_grpo)
        return loss + distill, metrics | more

    def entropy_weights(self, inputs: LossInputs, count: float) -> Tensor | float:
        """w [B, T]; count: of the tokens over which its mean is 1."""
        if not self.entropy_sharpness:
            return 1.0
        return self._unscaled(inputs) * (count / (inputs.state["entropy_weights"] or 1.0))

    def measure(self, inputs: LossInputs) -> dict[str, Tensor]:
        """The sum of the weights before they are divided by their mean."""
        mask, _ = distillation_mask(inputs.batch, self)
        return {"entropy_weights": (self._unscaled(inputs) * mask).sum()}

    def remember(self, state: State, sums: dict[str, float]) -> State:
        return state | sums

    def _unscaled(self, inputs: LossInputs) -> Tensor:
        return (-self.entropy_sharpness * inputs.teacher.entropy).exp()
