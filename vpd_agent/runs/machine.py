"""What a run computes on, as far as its seconds and its rounding depend on it."""

from __future__ import annotations

import os
import platform
from functools import cache
from pathlib import Path


@cache
def machine() -> dict[str, str | int]:
    """The processor's name, the cores that this process may use and, where there are some, the
    names of the GPUs."""
    import torch

    info = Path("/proc/cpuinfo")
    text = info.read_text() if info.is_file() else ""
    named = text.partition("model name\t: ")[2].partition("\n")[0]
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    found: dict[str, str | int] = {"processor": named or platform.machine(), "cores": cores or 1}
    if torch.cuda.is_available():
        names = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
        found["gpus"] = ", ".join(names)
    return found
