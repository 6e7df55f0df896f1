"""Ctrl-C, or a scheduler's SIGTERM: a run is asked to end after its current step."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

SIGNALS = (signal.SIGINT, signal.SIGTERM)


@contextmanager
def graceful_shutdown(say: Callable[[str], None]) -> Iterator[Callable[[], bool]]:
    """Gives what tells whether a SIGINT or SIGTERM has come since. A second one raises
    KeyboardInterrupt wherever the program is. Afterwards signals do what they did before.

    Python lets only the main thread handle signals: in another thread they stay as they are.

    say: gets the line that a person is told at the first signal.
    """
    requested = False

    def on_signal(number: int, frame: object) -> None:
        nonlocal requested
        if requested:
            raise KeyboardInterrupt
        requested = True
        with suppress(RuntimeError):  # the signal may have interrupted printing itself
            say(
                f"{signal.Signals(number).name}: this step is finished and saved, then the run "
                f"ends. Once more to stop at once."
            )

    is_main = threading.current_thread() is threading.main_thread()
    previous = {n: signal.signal(n, on_signal) for n in SIGNALS} if is_main else {}
    try:
        yield lambda: requested
    finally:
        for number, handler in previous.items():
            # None: a handler that was not set from Python, which cannot be put back.
            signal.signal(number, signal.SIG_DFL if handler is None else handler)
