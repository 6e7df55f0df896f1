"""What a person sees while something runs: bars on a terminal, plain lines in a log.

Where several processes train together, one of them speaks: the one of rank 0. Errors are the
exception, since only one of the processes may have met them.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console, RenderableType
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    Task,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Table


def is_main_process() -> bool:
    """Whether this is the process that speaks, by the rank that torchrun gives each."""
    return os.environ.get("RANK", "0") == "0"


console = Console(stderr=True, highlight=False)

NUMBERS = (  # what a person calls it, the metric or the last part of its name, format
    ("reward", "reward", ".2f"),
    ("student", "eval/student_pass@1", ".2f"),
    ("teacher", "eval/teacher_repair", ".2f"),
    ("divergence", "divergence", ".3f"),
    ("entropy", "entropy", ".2f"),
    ("tokens", "response_tokens", ".0f"),
    ("s/step", "seconds/step", ".2g"),
    ("pass@1", "pass@1", ".3f"),
)


class Bars:
    """Named progress bars with a few numbers behind each."""

    def __init__(self, progress: Progress, quiet: bool) -> None:
        self._progress = progress
        self._plain = not quiet and not progress.console.is_terminal
        self._tasks: dict[str, Any] = {}
        self._numbers: dict[str, dict[str, str]] = {}
        self._said: dict[str, int] = {}

    def add(self, name: str, total: int) -> None:
        self._numbers[name] = {}
        self._tasks[name] = self._progress.add_task(name, total=total, numbers=self._numbers[name])

    def show(self, name: str, completed: int, row: dict[str, Any] | None = None) -> None:
        """Move a bar. Numbers that a row lacks keep their last value."""
        numbers = self._numbers[name]
        numbers.update(_numbers(row or {}))
        task = self._tasks[name]
        self._progress.update(task, completed=completed, refresh=row is not None)
        total = self._progress.tasks[task].total
        # A log gets a line per tenth of the way.
        tenth = int(10 * completed / max(total, 1))
        if self._plain and self._said.get(name) != tenth:
            self._said[name] = tenth
            words = [f"{word} {numbers[word]}" for word, *_ in NUMBERS if word in numbers]
            say("  ".join([name, f"{completed}/{total:.0f}", *words]))


def _numbers(row: dict[str, Any]) -> dict[str, str]:
    """The numbers of a row that matter. A metric of a loss, `m_step/entropy`, counts as `entropy`;
    the first one does where several losses have it."""
    found = {}
    for word, metric, style in NUMBERS:
        values = (v for k, v in row.items() if k == metric or k.endswith(f"/{metric}"))
        value = next(values, None)
        if value is not None and math.isfinite(value):
            found[word] = f"{value:{style}}"
    return found


class _Progress(Progress):
    """The bars, and below them a table of their numbers, a row for each that has some."""

    def get_renderables(self) -> Iterable[RenderableType]:
        yield self.make_tasks_table(self.tasks)
        shown = [task for task in self.tasks if task.fields["numbers"]]
        if shown:
            yield _number_table(shown)


def _number_table(tasks: list[Task]) -> Table:
    table = Table(box=None, pad_edge=False, header_style="dim")
    words = [w for w, *_ in NUMBERS if any(w in task.fields["numbers"] for task in tasks)]
    table.add_column("", no_wrap=True)
    for word in words:
        table.add_column(word, justify="right", no_wrap=True)
    for task in tasks:
        table.add_row(task.description, *(task.fields["numbers"].get(word, "") for word in words))
    return table


@contextmanager
def bars(*, quiet: bool = False) -> Iterator[Bars]:
    quiet = quiet or not is_main_process()
    drawn = console.is_terminal and not quiet
    progress = _Progress(
        TextColumn("{task.description}"),
        BarColumn(bar_width=24),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        console=console,
        disable=not drawn,
    )
    # Of one that is not drawn, rich 13 would write the end of a line.
    with progress if drawn else nullcontext():
        yield Bars(progress, quiet)


def say(message: str) -> None:
    """A line of a report, from the process that speaks."""
    if is_main_process():
        console.print(message, soft_wrap=True, markup=False)


def say_error(message: str) -> None:
    """A line that must not be lost, from any process."""
    rank = "" if is_main_process() else f"[rank {os.environ['RANK']}] "
    console.print(rank + message, soft_wrap=True, markup=False)


def print_table(title: str, header: list[str], rows: list[list[str]]) -> None:
    """To standard output: it is a result, not a report of progress."""
    if not is_main_process():
        return
    table = Table(title=title, title_justify="left", box=SIMPLE_HEAD, pad_edge=False)
    for i, name in enumerate(header):
        table.add_column(name, justify="right" if i else "left", no_wrap=True)
    for row in rows:
        table.add_row(*row)
    Console(highlight=False).print(table)
