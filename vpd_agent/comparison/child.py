"""A run of a comparison as a process, which ends with the process that started it."""

from __future__ import annotations

import atexit
import os
import signal
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from multiprocessing import get_context, parent_process
from multiprocessing.context import ForkServerContext, SpawnContext
from pathlib import Path

Command = Callable[[list[str]], int]  # arguments → exit code


def context_for(*, with_gpus: bool) -> ForkServerContext | SpawnContext:
    """How processes are started.

    Importing torch and transformers takes longer than many a short run trains. So a server imports
    them once, and each process is a fork of it. Where processes are to see different GPUs, each
    imports them itself: CUDA must not be looked at before that is decided.
    """
    if with_gpus:
        return get_context("spawn")
    context = get_context("forkserver")
    context.set_forkserver_preload([f"{__package__}.preloaded"])
    return context


def run_command(
    command: Command, arguments: Sequence[str], log: Path, variables: Mapping[str, str]
) -> None:
    """The body of a process: run a command and exit with its code.

    log: what it writes is added to this file. variables: of the environment.
    """
    os.setsid()  # a terminal's Ctrl-C reaches the comparison only
    os.environ.update(variables)
    _redirect(log)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    try:
        code = command(list(arguments))
    finally:
        atexit._run_exitfuncs()  # which processes of multiprocessing leave out
    sys.exit(code)


def _redirect(log: Path) -> None:
    """Standard input from nowhere, standard output and error to the file."""
    for file, mode, numbers in ((os.devnull, os.O_RDONLY, [0]), (log, _APPEND, [1, 2])):
        opened = os.open(file, mode, 0o644)
        for number in numbers:
            os.dup2(opened, number)
        os.close(opened)


_APPEND = os.O_WRONLY | os.O_CREAT | os.O_APPEND


def _end_with_parent() -> None:
    """Send this process a SIGTERM when the comparison is gone, even by SIGKILL. A run then finishes
    its step and saves."""
    parent = parent_process()
    if parent is not None:
        parent.join()
        os.kill(os.getpid(), signal.SIGTERM)
