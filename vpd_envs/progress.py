"""How far a long batch is: a bar that appears only once the work has taken a few seconds."""

from __future__ import annotations

import sys
import time
from types import TracebackType
from typing import Any

PATIENCE_SECONDS = 3.0
LOG_SECONDS = 30.0  # between the lines where there is no terminal


class LateProgress:
    """`with LateProgress("judging", total) as progress: progress.show(done)`.

    A bar on a terminal, a line now and then elsewhere; on standard error, after PATIENCE_SECONDS.
    shown: None for a terminal only.
    """

    def __init__(self, what: str, total: int | None, shown: bool | None = None) -> None:
        self.what = what
        self.total = total
        self._terminal = sys.stderr.isatty()
        self._wanted = self._terminal if shown is None else shown
        self._bar: Any = None
        self._due = time.monotonic() + PATIENCE_SECONDS

    def show(self, done: int) -> None:
        if not self._wanted:
            return
        if self._bar is not None:
            self._bar.update(self._task, completed=done)
        elif time.monotonic() >= self._due:
            if self._terminal:
                self._start(done)
            else:
                of = "" if self.total is None else f" of {self.total}"
                print(f"{self.what}: {done}{of}", file=sys.stderr, flush=True)
                self._due = time.monotonic() + LOG_SECONDS

    def _start(self, done: int) -> None:
        from rich.console import Console
        from rich.progress import (
            BarColumn,
            MofNCompleteColumn,
            Progress,
            TextColumn,
            TimeElapsedColumn,
            TimeRemainingColumn,
        )

        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            console=Console(stderr=True),
            transient=True,
        )
        self._bar.start()
        self._task = self._bar.add_task(self.what, total=self.total, completed=done)

    def __enter__(self) -> LateProgress:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._bar is not None:
            self._bar.stop()
