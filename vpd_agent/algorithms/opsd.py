"""On-policy self-distillation, arXiv 2601.18734: the teacher keeps its initial weights."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from vpd_agent.algorithms.base import Loss, LossInputs, Step
from vpd_agent.algorithms.distillation import Distillation, distillation
from vpd_agent.model.teacher import TeacherWeights
from vpd_agent.ops.losses import Metrics


@dataclass(frozen=True)
class OPSD(Distillation):
    """L = Σ_t D(π_θ(·|x, y_<t), q_0(·|x, c, y_<t)) with the initial policy q_0 as the teacher.

    The paper's privileged context c is the reference solution; here it is whatever the environment
    says (`--feedback`). Positive samples only: distill_on="solved" and on_own_success.

    As its authors' scripts have it, D is the Jensen–Shannon divergence (alpha=0.5) over the full
    vocabulary, or on the teacher's 50 most likely tokens (top_k=50, support="teacher",
    tail="renormalize"), with a temperature of 1.1 in sampling and loss alike (`TrainConfig`). Later
    ones have alpha=0 with entry_clip=0.05.
    """

    name: ClassVar[str] = "opsd"

    tuned_field: ClassVar[str] = "alpha"
    tuned_values: ClassVar[tuple[float, ...]] = (0.0, 0.5, 1.0)

    alpha: float = 0.5
    teacher: TeacherWeights = "frozen"

    def losses(self, step: Step) -> list[Loss]:
        return [Loss("distill", self.distill)]

    def distill(self, inputs: LossInputs) -> tuple[Tensor, Metrics]:
        return distillation(inputs, self)
