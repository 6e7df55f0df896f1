"""What a person sees while something runs: bars on a terminal, plain lines in a log.

Where several processes train together, one of them speaks: the one of rank 0. Errors are the
exception, since only one of the processes may have met them.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
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
    """Named progress bars with a few numbers behind each.

    A log gets lines instead: one per tenth of the way, and now and then where that takes long.
    """

    def __init__(self, progress: Progress, quiet: bool) -> None:
        self._progress = progress
        self._plain = not quiet and not progress.console.is_terminal
        self._tasks: dict[str, Task] = {}
        self._phases: dict[str, Task] = {}  # by the name of their bar
        self._said: dict[str, int] = {}

    def add(self, name: str, total: int) -> None:
        self._tasks[name] = self._new_task(name, total)

    def show(self, name: str, completed: int, row: dict[str, Any] | None = None) -> None:
        """Move a bar. Numbers that a row lacks keep their last value."""
        task = self._tasks[name]
        task.fields["numbers"].update(_numbers(row or {}))
        self._progress.update(task.id, completed=completed, refresh=row is not None)
        tenth = int(10 * completed / max(task.total or 0, 1))
        if self._plain and self._said.get(name) != tenth:
            self._said[name] = tenth
            self._say(name)

    def remove(self, name: str) -> None:
        """Draw a bar no more."""
        self._progress.remove_task(self._tasks.pop(name).id)

    def describe(self, name: str, text: str) -> None:
        """Write another text before a bar."""
        self._progress.update(self._tasks[name].id, description=text)

    @contextmanager
    def phase(self, name: str, what: str) -> Iterator[Callable[[int, int], None]]:
        """What the work of a bar does beside its steps. The body may call what it gets with how
        much of how much is done."""
        task = self._phases[name] = self._new_task(what, None)
        try:
            yield lambda done, total: self._progress.update(task.id, completed=done, total=total)
        finally:
            del self._phases[name]
            self._progress.remove_task(task.id)

    def say_where(self) -> None:
        """A line for each bar that is on its way; for the first one that is not, if none is. May be
        called from another thread."""
        left = [name for name, task in list(self._tasks.items()) if not task.finished]
        for name in [n for n in left if self._tasks[n].completed or n in self._phases] or left[:1]:
            self._say(name, again=True)

    def _new_task(self, what: str, total: int | None) -> Task:
        self._progress.add_task(what, total=total, numbers={})
        return self._progress.tasks[-1]

    def _say(self, name: str, again: bool = False) -> None:
        """again: the line may have been said before, so it says how long it all has taken."""
        task, phase = self._tasks[name], self._phases.get(name)
        numbers = task.fields["numbers"]
        words = [f"{word} {numbers[word]}" for word, *_ in NUMBERS if word in numbers]
        if phase is not None:
            done = "" if phase.total is None else f": {phase.completed}/{phase.total}"
            words.append(f"{phase.description}{done} ({phase.elapsed:.0f} s so far)")
        elif again and task.elapsed is not None:
            words.append(f"({task.elapsed:.0f} s so far)")
        say("  ".join([name, f"{task.completed}/{task.total}", *words]))


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
            words = [w for w, *_ in NUMBERS if any(w in task.fields["numbers"] for task in shown)]
            rows = [
                [task.description, *(task.fields["numbers"].get(word, "") for word in words)]
                for task in shown
            ]
            yield _table(["", *words], rows, box=None, header_style="dim")


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
    shown = Bars(progress, quiet)
    with ExitStack() as stack:
        if drawn:  # else rich 13 would write the end of a line
            stack.enter_context(progress)
        if not quiet and not console.is_terminal:
            from vpd_envs.data.progress import repeated

            stack.enter_context(repeated(shown.say_where))
        yield shown


def phase(what: str, *, quiet: bool = False) -> AbstractContextManager[None]:
    """Tells what is being done in its body, if that takes more than a few seconds."""
    from vpd_envs.data.progress import told_if_slow

    return told_if_slow(what, shown=is_main_process() and not quiet)


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
    table = _table(header, rows, title=title, title_justify="left", box=SIMPLE_HEAD)
    Console(highlight=False).print(table)


def _table(header: list[str], rows: list[list[str]], **style: Any) -> Table:
    """Its first column is of text, the others are of numbers."""
    table = Table(pad_edge=False, **style)
    for i, name in enumerate(header):
        table.add_column(name, justify="right" if i else "left", no_wrap=True)
    for row in rows:
        table.add_row(*row)
    return table
