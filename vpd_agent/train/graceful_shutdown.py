"""Ctrl-C, or a scheduler's SIGTERM: a run is asked to end after its current step."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable
from contextlib import suppress
from types import FrameType
from typing import Any, Self

SIGNALS = (signal.SIGINT, signal.SIGTERM)


class GracefulShutdown:
    """Within its `with`, the first SIGINT or SIGTERM sets `requested`; a second one raises
    KeyboardInterrupt wherever the program is. Afterwards signals do what they did before.

    Python lets only the main thread handle signals: in another thread they stay as they are.

    say: gets the line that a person is told at the first signal.
    """

    def __init__(self, say: Callable[[str], None] = lambda message: None) -> None:
        self.requested = False
        self._say = say
        self._previous_handlers: dict[signal.Signals, Any] = {}

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            self._previous_handlers = {
                number: signal.signal(number, self._on_signal) for number in SIGNALS
            }
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._previous_handlers.items():
            # None: a handler that was not set from Python, which cannot be put back.
            signal.signal(number, signal.SIG_DFL if handler is None else handler)

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        if self.requested:
            raise KeyboardInterrupt
        self.requested = True
        with suppress(RuntimeError):  # the signal may have interrupted printing itself
            self._say(
                f"{signal.Signals(number).name}: this step is finished and saved, then the run "
                f"ends. Once more to stop at once."
            )
