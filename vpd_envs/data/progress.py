"""How far long work is: said only once it has taken a few seconds, by a thread of its own, since
the work may say nothing for a long time."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from typing import Any, Self

PATIENCE_SECONDS = 3.0
LOG_SECONDS = 30.0  # between the lines where there is no terminal


def told_if_slow(what: str, shown: bool = True) -> AbstractContextManager[None]:
    """Lines on standard error that tell what is being done, and for how long: after
    PATIENCE_SECONDS, then every LOG_SECONDS; even if the body redirects standard error."""
    started, stream = time.monotonic(), sys.stderr

    def tell() -> None:
        seconds = time.monotonic() - started
        print(f"{what} ({seconds:.0f} s so far)", file=stream, flush=True)

    return repeated(tell) if shown else nullcontext()


@contextmanager
def repeated(tell: Callable[[], None]) -> Iterator[None]:
    """Calls `tell` in a thread while the body runs, after PATIENCE_SECONDS and then every
    LOG_SECONDS."""
    over = threading.Event()

    def work() -> None:
        pause = PATIENCE_SECONDS
        while not over.wait(pause):
            tell()
            pause = LOG_SECONDS

    thread = threading.Thread(target=work, name="progress", daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


class LateProgress(ExitStack):
    """`with LateProgress("judging", total) as progress: progress.show(done)`.

    A bar on a terminal, a line now and then elsewhere; on standard error, after PATIENCE_SECONDS.
    shown: None for a terminal only.
    """

    def __init__(self, what: str, total: int, shown: bool | None = None) -> None:
        super().__init__()
        self.what = what
        self.total = total
        self._terminal = sys.stderr.isatty()
        self._wanted = self._terminal if shown is None else shown
        self._done = 0
        self._bar: Any = None

    def show(self, done: int) -> None:
        self._done = done
        if self._bar is not None:
            self._bar.update(self._task, completed=done)

    def _tell(self) -> None:
        if not self._terminal:
            print(f"{self.what}: {self._done} of {self.total}", file=sys.stderr, flush=True)
        elif self._bar is None:
            self._start()

    def _start(self) -> None:
        from rich import progress
        from rich.console import Console

        bar = progress.Progress(
            progress.TextColumn("{task.description}"),
            progress.BarColumn(bar_width=24),
            progress.MofNCompleteColumn(),
            progress.TimeElapsedColumn(),
            progress.TimeRemainingColumn(),
            console=Console(stderr=True),
            transient=True,
        )
        self._task = bar.add_task(self.what, total=self.total, completed=self._done)
        self._bar = self.enter_context(bar)

    def __enter__(self) -> Self:
        if self._wanted:
            self.enter_context(repeated(self._tell))
        return self
