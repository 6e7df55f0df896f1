"""Signals that end a command, as exceptions."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator
from typing import NoReturn


class Stopped(BaseException):
    """A signal asked this process to end."""

    def __init__(self, number: int) -> None:
        self.signal = number


class StopSignals:
    """Ctrl-C, `kill` and a closed terminal unwind the stack, so that nothing is left behind."""

    def __enter__(self) -> StopSignals:
        self._holding = False
        self._waiting: int | None = None
        self._before = {}
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
                if signal.getsignal(number) is not signal.SIG_IGN:  # as under nohup
                    self._before[number] = signal.signal(number, self._handle)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    @contextlib.contextmanager
    def held(self) -> Iterator[None]:
        """Let a first signal wait for the end of a block that cannot be undone half-way."""
        self._holding = True
        try:
            yield
        finally:
            self._holding = False
            if self._waiting is not None:
                self._stop(self._waiting)

    def _handle(self, number: int, _: object) -> None:
        if self._holding and self._waiting is None:
            self._waiting = number
        else:
            self._stop(number)

    def _stop(self, number: int) -> NoReturn:
        for other in self._before:  # another one must not stop the cleaning up
            signal.signal(other, signal.SIG_IGN)
        raise Stopped(number)
