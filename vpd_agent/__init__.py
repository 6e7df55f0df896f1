"""A feedback-agnostic trainer: VPD, SDPO, SDPG, GRPO and others behind one interface."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from vpd_agent.algorithms import (
        GRPO,
        OPSD,
        RFT,
        RLSD,
        SCSDPO,
        SDAR,
        SDPG,
        SDPO,
        SRPO,
        VPD,
        VPDPG,
        Algorithm,
        DistIL,
        Loss,
        LossInputs,
        Step,
    )
    from vpd_agent.engines import Engine, Generation
    from vpd_agent.engines.hf import HFEngine
    from vpd_agent.model.policy import Policy
    from vpd_agent.model.teacher import Teacher
    from vpd_agent.rollout.environment import EnvironmentSpec
    from vpd_agent.rollout.teacher_prompt import PlainPrompt, TeacherTemplate
    from vpd_agent.runs.run_folder import RunFolder
    from vpd_agent.train.config import TrainConfig
    from vpd_agent.train.run import RunFinished, make_run
    from vpd_agent.train.trainer import Trainer

_MODULES = {  # where each name is, algorithms apart
    "Engine": "engines",
    "Generation": "engines",
    "HFEngine": "engines.hf",
    "Policy": "model.policy",
    "Teacher": "model.teacher",
    "EnvironmentSpec": "rollout.environment",
    "PlainPrompt": "rollout.teacher_prompt",
    "TeacherTemplate": "rollout.teacher_prompt",
    "RunFolder": "runs.run_folder",
    "TrainConfig": "train.config",
    "RunFinished": "train.run",
    "make_run": "train.run",
    "Trainer": "train.trainer",
}

__all__ = [
    "GRPO",
    "OPSD",
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
    "Engine",
    "EnvironmentSpec",
    "Generation",
    "HFEngine",
    "Loss",
    "LossInputs",
    "PlainPrompt",
    "Policy",
    "RunFinished",
    "RunFolder",
    "Step",
    "Teacher",
    "TeacherTemplate",
    "TrainConfig",
    "Trainer",
    "make_run",
]


def __getattr__(name: str) -> Any:
    """Import a name when it is first asked for, as torch and transformers take seconds."""
    if name not in __all__:
        raise AttributeError(f"module 'vpd_agent' has no attribute {name!r}")
    module = import_module(f"vpd_agent.{_MODULES.get(name, 'algorithms')}")
    return getattr(module, name)
