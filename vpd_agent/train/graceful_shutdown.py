"""Ctrl-C, or a scheduler's SIGTERM: a run is asked to end at the next good place."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable
from contextlib import suppress
from types import FrameType
from typing import Self

SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Interruption:
    """Within its `with`, the first SIGINT or SIGTERM sets `asked`; a second raises
    KeyboardInterrupt wherever the program is. Afterwards signals do what they did before.

    Python lets the main thread alone handle signals: in another one they stay as they are.

    say: what a person is told at the first signal.
    """

    def __init__(self, say: Callable[[str], None] = lambda message: None) -> None:
        self.asked = False
        self._say = say
        self._before: dict[signal.Signals, object] = {}

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            self._before = {number: signal.signal(number, self._heard) for number in SIGNALS}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            # None: a handler that is not Python's, which cannot be put back.
            signal.signal(number, signal.SIG_DFL if handler is None else handler)

    def _heard(self, number: int, frame: FrameType | None) -> None:
        if self.asked:
            raise KeyboardInterrupt
        self.asked = True
        with suppress(RuntimeError):  # printing may be just what was interrupted
            self._say(
                f"{signal.Signals(number).name}: this step is finished and saved, then the run "
                f"ends. Once more to stop at once."
            )
