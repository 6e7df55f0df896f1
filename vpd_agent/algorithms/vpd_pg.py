"""VPD-PG: a trained teacher beside the reward, heard as far as it can be trusted. Our own."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from vpd_agent.algorithms.base import LossInputs, State, Step
from vpd_agent.algorithms.checks import check
from vpd_agent.algorithms.distillation import scheduled, trust
from vpd_agent.algorithms.reference import kl_to_reference
from vpd_agent.algorithms.vpd import VPD
from vpd_agent.model.teacher import TeacherWeights
from vpd_agent.ops.losses import Metrics


@dataclass(frozen=True)
class VPDPG(VPD):
    """VPD's E-step every `e_step_every` steps, and the M-step
    λ · (L_clip(GRPO) + κ · mean_t (1 − h_t) · KL(π_θ‖π_ref)) + w(k) · D(π_θ, sg[q]).

    λ is reward_weight. w is distill_weight times the trust gate, or, without a gate, falls linearly
    to 0; D is the divergence of `alpha`. The verifier corrects what the teacher gets wrong; the
    E-step keeps the teacher worth listening to. Where the gate is shut GRPO is left, with what it
    needs and an open gate does not: smaller steps (the M-step's learning rate is that of the run
    times s + (1 − s) · gate, with s = shut_rate), and a KL to the initial policy, which keeps its
    answers from becoming all alike (κ = kl_where_unheard). h_t is how far the teacher is heard on
    a token: the gate, and 0 in an answer without a teacher's prompt, such as one that was cut off,
    and on a token that is left out, such as one that ends an answer (TrainConfig.teach_truncated,
    teach_end). There nothing else keeps answers from never ending.

    The defaults were chosen on MiniCode, with a warm start (seeds 20 to 23), a cold one and in the
    rigid form (20 and 21), from a handful of settings.
    """

    name: ClassVar[str] = "vpd-pg"
    tuned_field: ClassVar[str] = "gate_width"
    tuned_values: ClassVar[tuple[float, ...]] = (0.05, 0.15, 0.4)

    e_step_every: int = 2
    beta: float = 1.0
    reward_weight: float = 0.3
    alpha: float = 0.5
    teacher: TeacherWeights = "ema"
    gate_width: float | None = 0.15
    gate_e_step: bool = True
    """Take E-steps only while the gate is open; without a gate, always."""
    shut_rate: float = 1.0
    """Share of the M-step's learning rate that is left where the gate is shut: the rate of GRPO,
    where the run's is that of VPD. Without a gate, all of it is left."""
    kl_where_unheard: float = 0.0
    """κ: weight of the KL(π_θ‖π_ref) to the initial policy, over the full vocabulary, on tokens on
    which the teacher is not heard."""
    distill_weight: float = 1.0
    """w at its highest."""
    decay_fraction: float | None = None
    """Share of the run, at its end, over which w falls to 0; None: all of it without a gate, none
    of it with one."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check(0 < self.shut_rate <= 1, "shut_rate", "above 0 and at most 1", self.shut_rate)
        check(self.kl_where_unheard >= 0, "kl_where_unheard", "at least 0", self.kl_where_unheard)
        check(self.distill_weight >= 0, "distill_weight", "at least 0", self.distill_weight)
        decay = self.decay_fraction
        check(decay is None or 0 <= decay <= 1, "decay_fraction", "between 0 and 1", decay)

    @property
    def needs_reference(self) -> bool:
        return super().needs_reference or self.kl_where_unheard > 0

    def weight(self, step: Step) -> float:
        decay = self.decay_fraction
        if decay is None:
            decay = 1.0 if self.gate is None else 0.0
        return self.distill_weight * scheduled(step, warmup_fraction=0.0, decay_fraction=decay)

    def learning_rate_share(self, state: State) -> float:
        if self.gate is None:
            return 1.0
        return self.shut_rate + (1 - self.shut_rate) * self.gate.weight(state)

    def takes_e_step(self, state: State) -> bool:
        return not self.gate_e_step or self.gate is None or self.gate.weight(state) > 0

    def m_step(self, inputs: LossInputs, *, weight: float) -> tuple[Tensor, Metrics]:
        heard = trust(inputs, self)
        unheard = 1 - heard * inputs.batch.teacher_mask.float()
        kappa = self.reward_weight * self.kl_where_unheard
        anchor, metrics = kl_to_reference(inputs, kappa, unheard)
        loss, more = super().m_step(inputs, weight=weight)
        share = loss.new_tensor(weight * heard * inputs.batch.share)
        return loss + anchor, metrics | more | {"distill_weight": share}
