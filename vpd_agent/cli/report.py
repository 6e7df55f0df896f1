"""vpd report: tables, curves and sentences from runs that exist."""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from pathlib import Path

import tyro

from vpd_agent.cli.flags import FlagGroup, parse


@dataclass(frozen=True, kw_only=True)
class ReportOptions:
    runs: tyro.conf.Positional[tuple[Path, ...]]
    """Folders of vpd train, or of vpd compare. Runs of one algorithm with different seeds are one
    contestant; other flags in which they differ make several of it."""
    out: Path | None = None
    """Folder for report.html, report.md, results.json and figures/; default: the folder given, or
    of several the one that they are in."""
    baseline: str | None = None
    """The contestant that the others are compared with; default: grpo if it is there, else the
    first."""
    threshold: float | None = None
    """The held-out pass@1 whose cost in rollouts and seconds is reported; default: where the
    baseline ends."""


def report(arguments: list[str]) -> int:
    from vpd_agent.comparison.past_runs import check_scored, read_past_runs
    from vpd_agent.comparison.report import summary_lines, write_report

    options: ReportOptions = parse(
        "vpd report",
        arguments,
        description="One run gives its curves; several are compared.",
        options=FlagGroup(ReportOptions),
    ).options
    if not options.runs:
        raise ValueError("Pass at least one folder of a run: vpd report runs/grpo.")
    if options.threshold is not None and not 0 <= options.threshold <= 1:
        raise ValueError(f"--threshold must be between 0 and 1, got {options.threshold}.")
    command = shlex.join(["vpd", "report", *arguments])
    results = read_past_runs(options.runs, command, options.baseline, options.threshold)
    check_scored(results)
    out = options.out or _place(options.runs)
    if out.exists() and not out.is_dir():
        raise ValueError(f"--out {out} is a file; pass a folder.")
    files = write_report(out, results)
    print("\n".join(summary_lines(results)))
    print("\n" + "\n".join(str(path) for path in files if path.parent == out))
    return 0


def _place(runs: tuple[Path, ...]) -> Path:
    """Where the report goes by itself."""
    return runs[0] if len(runs) == 1 else runs[0].resolve().parent
