"""The finished comparisons of a lab in one small file, so that another machine can go on with it.

Of a comparison is kept what the lab's page needs. Of its runs are kept config.json, metrics.jsonl
with a row for each evaluation, and the file that says that a run has finished: enough for the
comparison's report, and for other comparisons to take the runs over. Weights and samples are not
kept; nor is a comparison that was interrupted, whose runs would go on from another machine's model.
"""

from __future__ import annotations

import json
import lzma
from collections import defaultdict
from collections.abc import Container, Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from vpd_agent.comparison.results import RESULTS, STUDENT
from vpd_agent.comparison.tuning import TRIALS
from vpd_agent.console import phase
from vpd_agent.lab.readings import SCORES, SPENT
from vpd_agent.runs.files import (
    discard_folder,
    finish_folder,
    new_folder,
    read_jsonl,
    write_atomically,
)
from vpd_agent.runs.run_folder import CONFIG, METRICS, MODEL, MODEL_METRICS, RunFolder

ARCHIVE = "runs.jsonl.xz"
_FINISHED = f"{MODEL}/{MODEL_METRICS}"
_COUNTED = ("rollouts", "seconds/")  # how the names of what a step spends begin

Files = dict[str, str]  # path below a folder → text


def pack(out: Path, archive: Path) -> None:
    """Write the finished comparisons below a lab's folder, and its prompt-only baselines, into an
    archive: a line of JSON for each. The same results give the same bytes."""
    with phase(f"Packing what has finished into {archive}"):
        lines = [
            json.dumps({"folder": path.parent.relative_to(out).as_posix(), "files": _files(path)})
            + "\n"
            for path in sorted([*out.glob(f"*/*/{RESULTS}"), *out.glob(f"*/*/{TRIALS}")])
        ]
        write_atomically(archive, lzma.compress("".join(lines).encode()))


def unpack(archive: Path, out: Path) -> int:
    """Put the folders of an archive below `out`, but for those that are there. Returns how many
    there were to put. Each is put as a whole or not at all.

    Raises ValueError for a file that is no such archive or was cut off, before anything is put.
    """
    folders = _read(archive)
    missing = [(out / name, files) for name, files in folders.items() if not (out / name).exists()]
    for folder, files in missing:
        try:
            new = new_folder(folder)
            for name, text in files.items():
                (new / name).parent.mkdir(parents=True, exist_ok=True)
                (new / name).write_text(text, encoding="utf-8")
            finish_folder(folder)
        finally:
            discard_folder(folder)
    return len(missing)


def _files(results: Path) -> Files:
    """Of a comparison, of the trials of a tuning, or of a prompt-only baseline, which has no runs.
    results: the file that each ends with."""
    folder = results.parent
    found = {results.name: _results(results)}
    for run in sorted(metrics.parent for metrics in folder.rglob(METRICS)):
        if RunFolder.finished_step(run) is not None:
            kept = {name: (run / name).read_text(encoding="utf-8") for name in (CONFIG, _FINISHED)}
            kept[METRICS] = _evaluations(run / METRICS)
            place = run.relative_to(folder)
            found |= {(place / name).as_posix(): text for name, text in kept.items()}
    return found


def _results(path: Path) -> str:
    """That file, of whose curves only the lab's are kept, at the steps of evaluations."""
    told = json.loads(path.read_text(encoding="utf-8"))
    for run in told.get("runs", ()):
        curves = run["curves"]
        steps = {step for name in SCORES if name in curves for step in curves[name]["step"]}
        run["curves"] = {
            name: _at(curves[name], steps) for name in (*SCORES, *SPENT) if name in curves
        }
    return json.dumps(told)


def _at(curve: Mapping[str, list[Any]], steps: Container[int]) -> dict[str, list[Any]]:
    kept = [pair for pair in zip(curve["step"], curve["value"], strict=True) if pair[0] in steps]
    return {"step": [step for step, _ in kept], "value": [value for _, value in kept]}


def _evaluations(metrics: Path) -> str:
    """The rows with a score, each with what was spent since the last one."""
    kept, spent = [], defaultdict[str, float](float)
    for row in read_jsonl(metrics):
        for name, value in row.items():
            if name.startswith(_COUNTED) and isinstance(value, int | float):
                spent[name] += value
        if STUDENT in row:
            kept.append({**row, **{name: round(value, 4) for name, value in spent.items()}})
            spent.clear()
    return "".join(json.dumps(row) + "\n" for row in kept)


def _read(archive: Path) -> dict[str, Files]:
    try:
        with lzma.open(archive, "rt", encoding="utf-8") as lines:
            rows = [json.loads(line) for line in lines]
        folders: dict[str, Files] = {row["folder"]: row["files"] for row in rows}
        for folder, files in folders.items():
            for name in (folder, *files):
                _check_inside(name)
    except (lzma.LZMAError, EOFError, OSError, ValueError, KeyError, TypeError) as error:
        raise ValueError(
            f"{archive} cannot be read as the runs of a lab: {error}. Fetch it again, or remove it "
            f"to begin without them."
        ) from error
    return folders


def _check_inside(name: Any) -> None:
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts:
        raise ValueError(f"it names {name!r}, which is outside its folder")
