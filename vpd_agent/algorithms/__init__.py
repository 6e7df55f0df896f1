"""The algorithms behind one interface, by name."""

from vpd_agent.algorithms.base import Algorithm, Loss, LossInputs, Step
from vpd_agent.algorithms.grpo import GRPO
from vpd_agent.algorithms.opsd import OPSD
from vpd_agent.algorithms.rft import RFT
from vpd_agent.algorithms.sdar import SDAR
from vpd_agent.algorithms.sdpg import SDPG
from vpd_agent.algorithms.sdpo import SDPO
from vpd_agent.algorithms.vpd import VPD
from vpd_agent.algorithms.vpd_pg import VPDPG

ALGORITHMS: dict[str, type[Algorithm]] = {
    a.name: a for a in (VPD, VPDPG, SDPO, SDPG, OPSD, SDAR, GRPO, RFT)
}

__all__ = [
    "ALGORITHMS",
    "GRPO",
    "OPSD",
    "RFT",
    "SDAR",
    "SDPG",
    "SDPO",
    "VPD",
    "VPDPG",
    "Algorithm",
    "Loss",
    "LossInputs",
    "Step",
]
