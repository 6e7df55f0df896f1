"""A run of a comparison ends with the process that started it."""

from __future__ import annotations

import os
import signal
import threading
import time

PARENT = "VPD_PARENT"  # environment variable: the id of the process that started this one


def end_with_parent() -> None:
    """Where a comparison started this process: send it a SIGTERM when the comparison is gone, even
    by SIGKILL. A run then finishes its step and saves."""
    parent = os.environ.pop(PARENT, None)
    if parent is not None:
        threading.Thread(target=_watch, args=(int(parent),), daemon=True).start()


def _watch(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(0.5)
    os.kill(os.getpid(), signal.SIGTERM)
