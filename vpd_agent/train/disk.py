"""Whether the disk has room for what a run will write, asked before it begins."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING

from vpd_agent.runs.files import nearest
from vpd_agent.train.estimate import Disk, Workload, disk
from vpd_agent.train.known_model import known_shape, loaded_bytes

if TYPE_CHECKING:
    from vpd_agent.algorithms.base import Algorithm
    from vpd_agent.train.config import TrainConfig
    from vpd_agent.train.options import TrainOptions


def disk_of(algorithm: Algorithm, options: TrainOptions, config: TrainConfig) -> Disk | None:
    """What a run writes; None where the model's shape is not known. Nothing is fetched."""
    shape, stored = known_shape(options.model, fetch=False)
    if shape is None:
        return None
    work = Workload(
        *(algorithm, config, 0, 0, 0.0, 0.0),  # lengths make no difference
        weight_bytes=loaded_bytes(options.dtype, stored),
        lora_rank=options.lora_rank,
    )
    teacher = None
    if options.teacher_model is not None:
        teacher, _ = known_shape(options.teacher_model, fetch=False)
    return disk(shape, work, teacher)


def too_full(folder: Path, needed: float) -> str:
    """In words, that the disk of a folder has less room than what will be written, in bytes, beside
    what is in the folder already; "" if there is enough, or nobody knows."""
    there = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    try:
        free = shutil.disk_usage(nearest(folder)).free
    except OSError:
        return ""
    missing = needed - there
    if missing <= free:
        return ""
    return (
        f"{folder} will take about {missing / 1e9:.1f} GB more for models and checkpoints, as "
        f"estimated, and {free / 1e9:.1f} GB are free there."
    )
