"""The algorithms behind one interface, by name."""

from vpd_agent.algorithms.base import Algorithm, Loss, LossInputs, Step
from vpd_agent.algorithms.grpo import GRPO
from vpd_agent.algorithms.sdpg import SDPG
from vpd_agent.algorithms.sdpo import SDPO
from vpd_agent.algorithms.vpd import VPD

ALGORITHMS: dict[str, type[Algorithm]] = {a.name: a for a in (VPD, SDPO, SDPG, GRPO)}

__all__ = ["ALGORITHMS", "GRPO", "SDPG", "SDPO", "VPD", "Algorithm", "Loss", "LossInputs", "Step"]
