"""What the benchmarks share: the machine they ran on, tables, and where the tables go."""

from __future__ import annotations

import datetime
import os
import platform
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.progress import Progress

HERE = Path(__file__).parent
README = HERE / "README.md"
CORES = len(os.sched_getaffinity(0))


def machine() -> dict[str, Any]:
    model = Path("/proc/cpuinfo").read_text().partition("model name")[2].split("\n")[0]
    memory = Path("/proc/meminfo").read_text().split("MemTotal:")[1].split()[0]
    return {
        "cpu": model.strip("\t :") or platform.machine(),
        "cores": CORES,
        "memory_bytes": int(memory) << 10,
        "kernel": platform.release(),
        "load_average": os.getloadavg()[0],
        "python": platform.python_version(),
        "commit": commit(),
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    }


def commit() -> str:
    """Ours, with a + if files differ from it."""
    git = ["git", "-C", str(HERE)]
    try:
        head = subprocess.run([*git, "rev-parse", "--short=12", "HEAD"], **TEXT).stdout.strip()
        changed = subprocess.run([*git, "status", "--porcelain", "-uno"], **TEXT).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return "unknown"
    return head + ("+" if changed else "")


TEXT: dict[str, Any] = {"capture_output": True, "text": True, "check": True, "timeout": 60}


def table(head: list[str], rows: list[list[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in lines)


def number(value: float) -> str:
    """Three significant digits, without an exponent."""
    digits = 2 if abs(value) < 10 else 1 if abs(value) < 100 else 0
    return f"{value:,.{digits}f}"


def progress_bar() -> Progress:
    # Imported here: the contestants' processes import this module, too, and their memory counts.
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        console=Console(stderr=True),
    )


def renew(name: str, text: str, readme: Path = README) -> None:
    """Put the tables of a benchmark between its two markers."""
    marks = f"<!-- {name} begins -->", f"<!-- {name} ends -->"
    before, begin, rest = readme.read_text().partition(marks[0])
    _, end, after = rest.partition(marks[1])
    if not begin or not end:
        sys.exit(
            f"{readme} was expected to have the lines {marks[0]} and {marks[1]}. Put them back."
        )
    readme.write_text(f"{before}{begin}\n{text}{end}{after}")
