"""What a person sees while something runs: bars on a terminal, plain lines in a log."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Table

console = Console(stderr=True, highlight=False)

NUMBERS = (  # metric, what a person calls it, format
    ("reward", "reward", ".2f"),
    ("eval/student_pass@1", "student", ".2f"),
    ("eval/teacher_repair", "teacher", ".2f"),
    ("response_tokens", "tokens", ".0f"),
)


class Bars:
    """Named progress bars with a few numbers behind each."""

    def __init__(self, progress: Progress, quiet: bool) -> None:
        self._progress = progress
        self._plain = quiet or not progress.console.is_terminal
        self._quiet = quiet
        self._tasks: dict[str, Any] = {}
        self._numbers: dict[str, dict[str, str]] = {}
        self._said: dict[str, int] = {}

    def add(self, name: str, total: int) -> None:
        self._tasks[name] = self._progress.add_task(name, total=total, numbers="")
        self._numbers[name] = {}

    def show(self, name: str, completed: int, row: dict[str, Any] | None = None) -> None:
        """Move a bar. Numbers that a row lacks keep their last value."""
        for key, word, style in NUMBERS:
            if row and row.get(key) is not None:
                self._numbers[name][word] = f"{word} {row[key]:{style}}"
        numbers = "  ".join(self._numbers[name].values())
        task = self._tasks[name]
        self._progress.update(task, completed=completed, numbers=numbers)
        total = self._progress.tasks[task].total
        # A log gets a line per tenth of the way.
        tenth = int(10 * completed / max(total, 1))
        if self._plain and not self._quiet and self._said.get(name) != tenth:
            self._said[name] = tenth
            self._progress.console.print(f"{name}  {completed}/{total:.0f}  {numbers}")


@contextmanager
def bars(*, quiet: bool = False) -> Iterator[Bars]:
    progress = Progress(
        TextColumn("{task.description}"),
        BarColumn(bar_width=24),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[numbers]}"),
        console=console,
        disable=quiet or not console.is_terminal,
    )
    with progress:
        yield Bars(progress, quiet)


def say(message: str) -> None:
    console.print(message, soft_wrap=True, markup=False)


def print_table(title: str, header: list[str], rows: list[list[str]]) -> None:
    """To standard output: it is a result, not a report of progress."""
    table = Table(title=title, title_justify="left", box=SIMPLE_HEAD, pad_edge=False)
    for i, name in enumerate(header):
        table.add_column(name, justify="right" if i else "left", no_wrap=True)
    for row in rows:
        table.add_row(*row)
    Console(highlight=False).print(table)
