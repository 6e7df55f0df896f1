"""The algorithms behind one interface, by name; one of your own by `module:Class`."""

from sandbox.plugins import load
from vpd_agent.algorithms.base import Algorithm, Loss, LossInputs, Step
from vpd_agent.algorithms.distil import DistIL
from vpd_agent.algorithms.grpo import GRPO
from vpd_agent.algorithms.opsd import OPSD
from vpd_agent.algorithms.past import PAST
from vpd_agent.algorithms.pi_distill import PiDistill
from vpd_agent.algorithms.rft import RFT
from vpd_agent.algorithms.rlsd import RLSD
from vpd_agent.algorithms.sc_sdpo import SCSDPO
from vpd_agent.algorithms.sdar import SDAR
from vpd_agent.algorithms.sdpg import SDPG
from vpd_agent.algorithms.sdpo import SDPO
from vpd_agent.algorithms.srpo import SRPO
from vpd_agent.algorithms.vpd import VPD
from vpd_agent.algorithms.vpd_pg import VPDPG

ALGORITHMS: dict[str, type[Algorithm]] = {
    a.name: a
    for a in (
        VPD,
        VPDPG,
        SDPO,
        SCSDPO,
        SDPG,
        SRPO,
        OPSD,
        DistIL,
        PiDistill,
        PAST,
        SDAR,
        RLSD,
        GRPO,
        RFT,
    )
}

__all__ = [
    "ALGORITHMS",
    "GRPO",
    "OPSD",
    "PAST",
    "RFT",
    "RLSD",
    "SCSDPO",
    "SDAR",
    "SDPG",
    "SDPO",
    "SRPO",
    "VPD",
    "VPDPG",
    "Algorithm",
    "DistIL",
    "Loss",
    "LossInputs",
    "PiDistill",
    "Step",
    "algorithm_class",
]


def algorithm_class(name: str) -> type[Algorithm]:
    """The class of an algorithm: one of ALGORITHMS, `module:Class` or `path/to/file.py:Class`.

    The `name` of a class from outside becomes the one given here, which a run saves and is resumed
    with. Raises ValueError for what is not there, or is no dataclass of Algorithm with defaults.
    """
    found = load("algorithm", name, ALGORITHMS)
    if found in ALGORITHMS.values():
        return found
    if not (isinstance(found, type) and issubclass(found, Algorithm)):
        raise ValueError(
            f"{name} is no algorithm: it must be a subclass of vpd_agent.algorithms.Algorithm."
        )
    if "__dataclass_fields__" not in vars(found):
        raise ValueError(f"{name} must be a dataclass: write @dataclass(frozen=True) above it.")
    try:
        found()
    except TypeError as error:
        raise ValueError(f"{name}: every option must have a default: {error}.") from error
    found.name = name
    return found
