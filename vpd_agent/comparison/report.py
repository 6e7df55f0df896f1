"""The report on a comparison: results.json, report.md, report.html and the figures."""

from __future__ import annotations

import json
import textwrap
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from vpd_agent.comparison.figures import STABILITY, draw
from vpd_agent.comparison.formats import (
    NONE,
    counted,
    interval,
    listed,
    score,
    signed,
    without_folders,
)
from vpd_agent.comparison.page import page
from vpd_agent.comparison.results import REPORT, STUDENT, TEACHER, Results, RunResult
from vpd_agent.comparison.sections import (
    Block,
    Figure,
    Links,
    Section,
    Table,
    mean_score,
    origins,
    sections,
)
from vpd_agent.comparison.standings import Standings, collapses, phase_seconds
from vpd_agent.comparison.words import cautions, findings, limits, verdicts
from vpd_agent.console import phase
from vpd_agent.runs.files import finite, write_atomically
from vpd_agent.runs.pictures import missing_matplotlib_is_told

FIGURES = "figures"  # the folder
_FORMAT = 1  # of results.json
_WIDTH = 100  # columns of a terminal


def write_report(out: Path, results: Results) -> list[Path]:
    """Write results.json, report.md, report.html and, where matplotlib is installed, the figures;
    returns the files. The texts come first, so that nothing a picture does can lose them."""
    standings = Standings(results)
    out.mkdir(parents=True, exist_ok=True)
    with phase("Writing the report"):
        said = collapses(results)
        files = [out / name for name in REPORT]
        write_record(files[2], _record(standings, said, out))
        _write_texts(out, standings, said, [])
        figures: list[Figure] = []
        without = "The report is without its figures: they need"
        with missing_matplotlib_is_told(without, "vpd report draws them then."):
            figures = draw(standings, out / FIGURES)
            _write_texts(out, standings, said, figures)
    return files + [out / FIGURES / f"{f.name}.{e}" for f in figures for e in ("png", "svg")]


def summary_lines(results: Results) -> list[str]:
    """What the terminal shows: where each contestant ends, and the main sentences."""
    standings = Standings(results)
    compared = any(s.difference is not None for s in standings.all)
    difference = [f"− {_short(results.baseline, 14)}"] if compared else []
    rows = [["held-out pass@1", "runs", "end", *difference, "area"]]
    for s in standings.all:
        d = s.difference
        to_baseline = interval(d, signed) if d is not None and d.count else NONE
        row = [_short(s.contestant, 34), str(s.runs), interval(s.final)]
        row += [to_baseline] if compared else []
        rows.append([*row, score(s.area.value)])
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ["  ".join(_aligned(row, widths)).rstrip() for row in rows]
    sentences = list(dict.fromkeys([*verdicts(standings), *cautions(standings)]))
    told = [line for sentence in sentences for line in textwrap.wrap(sentence, _WIDTH)]
    return [*lines, "", *told]


def _aligned(row: list[str], widths: list[int]) -> list[str]:
    first, *others = [(cell, width) for cell, width in zip(row, widths, strict=True)]
    return [first[0].ljust(first[1]), *(cell.rjust(width) for cell, width in others)]


def _short(text: str, most: int) -> str:
    return text if len(text) <= most else text[: most - 1] + "…"


def _write_texts(
    out: Path, standings: Standings, said: list[dict[str, Any]], figures: list[Figure]
) -> None:
    title, about = _title(standings.results)
    found = sections(standings, said, figures)
    text = markdown(title, about, found)
    write_atomically(out / "report.md", without_folders(text))
    html = page(title, about, found, out / FIGURES)
    write_atomically(out / "report.html", without_folders(html))


def _title(results: Results) -> tuple[str, str]:
    names, shared = results.contestants, results.shared
    title = listed(names) if len(names) < 5 else counted(len(names), "contestant")
    where = f" in {shared['env']}" if "env" in shared else ""
    parts = [counted(len(results.seeds), "seed")]
    parts += [f"{results.last_step} steps"] if results.last_step is not None else []
    parts += [f"from {shared['model']}"] if "model" in shared else []
    parts += [f"baseline {results.baseline}"] if len(names) > 1 and results.baseline else []
    return title + where, ", ".join(parts)


def markdown(title: str, about: str, found: list[Section]) -> str:
    """The report as text; its pictures are in FIGURES."""
    lines = [f"# {title}", about]
    for section in found:
        lines.append(f"## {section.title}")
        lines += [_markdown_block(block) for block in section.blocks]
    return "\n\n".join(lines) + "\n"


def _markdown_block(block: Block) -> str:
    match block:
        case str():
            return block
        case Table():
            rule = ["---"] * block.words + ["---:"] * (len(block.header) - block.words)
            rows = [[cell.replace("|", "\\|") for cell in row] for row in block.rows]
            return "\n".join("| " + " | ".join(r) + " |" for r in [block.header, rule, *rows])
        case Figure():
            return f"![{block.name}]({FIGURES}/{block.name}.png)\n\n*{block.caption}*"
        case Links():
            return " · ".join(f"[{words}]({to})" for words, to in block.targets.items())
        case _:
            return "\n".join(f"- {item}" for item in block)


def _record(standings: Standings, said: list[dict[str, Any]], out: Path) -> dict[str, Any]:
    """results.json: every number of the report, and what it was computed from."""
    results = standings.results
    spent = {c: phase_seconds(results, c) for c in results.contestants}
    return {
        "format": _FORMAT,
        "command": results.command,
        "contestants": results.contestants,
        "seeds": results.seeds,
        "baseline": results.baseline,
        "threshold": standings.threshold,
        "threshold_given": results.threshold is not None,
        "last_step": results.last_step,
        "confidence": {"percent": 95, "method": "see report.md"},
        "standings": [asdict(s) for s in standings.all],
        "best_against_next": standings.best_against_next and asdict(standings.best_against_next),
        "seconds": {c: parts | {"all": sum(parts.values())} for c, parts in spent.items()},
        "findings": findings(standings, said),
        "limits": limits(standings),
        "monitor": said,
        "tuning": results.tuning
        and [trial | {"mean": mean_score(trial)} for trial in results.tuning],
        "settings": results.shared,
        "made_with": origins(results),
        "runs": [_run_record(run, out) for run in results.runs],
    }


def _run_record(run: RunResult, out: Path) -> dict[str, Any]:
    folder = run.folder
    if folder.is_relative_to(out):
        folder = folder.relative_to(out)
    costs = {"rollouts": run.rollouts, "tokens": run.tokens, "seconds": run.seconds}
    metrics = {m: run.curve(m) for m in (STUDENT, TEACHER, "reward", *STABILITY)}
    return {
        "contestant": run.contestant,
        "algorithm": run.algorithm,
        "seed": run.seed,
        "folder": str(folder) if not folder.is_absolute() else folder.name,
        "outcome": run.outcome,
        "reason": run.reason,
        "curves": {
            name: {"step": list(curve), "value": list(curve.values())}
            for name, curve in {**costs, **metrics}.items()
            if curve
        },
        "config": run.record,
    }


def write_record(path: Path, record: Mapping[str, Any]) -> None:
    """Write numbers as JSON, without the folders of this machine."""
    text = json.dumps(finite(record), ensure_ascii=False)
    write_atomically(path, without_folders(text) + "\n")
