"""The finished runs of a lab in one small file, so that another machine can go on with it.

Of a run are kept config.json, metrics.jsonl with a row for each evaluation, and the file that says
that it has finished: enough for the reports, and for other comparisons to take it over. Weights and
samples are not kept.
"""

from __future__ import annotations

import json
import lzma
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any

from vpd_agent.comparison.results import RESULTS, STUDENT
from vpd_agent.console import phase
from vpd_agent.lab.prompt_only import FOLDER as PROMPT_ONLY
from vpd_agent.runs.files import discard_folder, finish_folder, new_folder, read_jsonl
from vpd_agent.runs.run_folder import CONFIG, METRICS, MODEL, MODEL_METRICS, RunFolder

ARCHIVE = "runs.jsonl.xz"
_FINISHED = f"{MODEL}/{MODEL_METRICS}"
_COUNTED = ("rollouts", "seconds/")  # how the names of what a step spends begin

Files = dict[str, str]  # path below a folder → text


def pack(out: Path, archive: Path) -> None:
    """Write the finished runs below a lab's folder, and its prompt-only baselines, into an archive:
    a line of JSON for each folder. The same runs give the same bytes."""
    with phase(f"Packing the finished runs into {archive}"):
        lines = [
            json.dumps({"folder": folder.relative_to(out).as_posix(), "files": files}) + "\n"
            for folder, files in _finished(out)
        ]
        new = archive.with_name(f".{archive.name}")
        new.write_bytes(lzma.compress("".join(lines).encode()))
        new.replace(archive)


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
                (new / name).parent.mkdir(exist_ok=True)
                (new / name).write_text(text, encoding="utf-8")
            finish_folder(folder)
        finally:
            discard_folder(folder)
    return len(missing)


def _finished(out: Path) -> Iterator[tuple[Path, Files]]:
    for path in sorted(metrics.parent for metrics in out.rglob(METRICS)):
        if RunFolder.finished_step(path) is not None:
            kept = {name: (path / name).read_text(encoding="utf-8") for name in (CONFIG, _FINISHED)}
            yield path, {**kept, METRICS: _evaluations(path / METRICS)}
    for path in sorted((out / PROMPT_ONLY).glob(f"*/{RESULTS}")):
        yield path.parent, {RESULTS: path.read_text(encoding="utf-8")}


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
