"""What a run computes on, as far as its seconds and its rounding depend on it."""

from __future__ import annotations

import contextlib
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


def free_memory() -> int:
    """Bytes that this process may still use, in the machine and in its control group; where the
    system does not tell, all that the machine has."""
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
    except OSError:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    sizes = {line.partition(":")[0]: int(line.split()[1]) << 10 for line in lines}
    free = sizes["MemAvailable"]
    group = Path("/sys/fs/cgroup")
    with contextlib.suppress(OSError, ValueError):  # no control group, or no limit
        limit, used = (int((group / f"memory.{name}").read_text()) for name in ("max", "current"))
        free = max(0, min(free, limit - used))
    return free
