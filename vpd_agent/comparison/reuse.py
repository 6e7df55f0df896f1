"""Runs that another comparison has finished, and that this one would train again."""

from __future__ import annotations

import shutil
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from vpd_agent.comparison.formats import counted
from vpd_agent.comparison.record import CHANGES_NOTHING, other_inputs
from vpd_agent.comparison.runs import Run
from vpd_agent.console import phase, say
from vpd_agent.runs.files import discard_folder, finish_folder, new_folder
from vpd_agent.runs.record import differences, read_record
from vpd_agent.runs.run_folder import CHECKPOINTS, METRICS, RunFolder

_Record = Mapping[str, Any]  # of a run's config.json


def take_finished(
    runs: Sequence[Run],
    folder: Path,
    record_of: Callable[[Run], _Record],
    fingerprints: Mapping[str, Any],
) -> None:
    """Copy from below `folder` the finished runs that are what these would be, without checkpoints.

    A run is the same if its flags and its seed are, those that change nothing apart, and if it had
    the same problems and began with the same weights. Runs of `runs` that are begun stay as they
    are.

    record_of: what config.json would say of a run. fingerprints: of this comparison.
    """
    missing = [run for run in runs if run.outcome == "missing" and not run.path.exists()]
    if not missing:
        return
    taken = 0
    with phase(f"Looking for finished runs in {folder}"):
        there = _finished_runs(folder)
        for run in missing:
            for path, record in there[run.contestant.algorithm, run.seed]:
                if _is_same(record, record_of(run), fingerprints):
                    _copy(path, run.path)
                    taken += 1
                    break
    if taken:
        say(f"{counted(taken, 'finished run')} of {folder} taken over.")


def _finished_runs(folder: Path) -> dict[tuple[str, int], list[tuple[Path, _Record]]]:
    """The finished runs below a folder with their records, by algorithm and seed."""
    found = defaultdict(list)
    for path in sorted(metrics.parent for metrics in folder.rglob(METRICS)):
        if RunFolder.finished_step(path) is None:
            continue
        try:
            record = read_record(path)
        except ValueError:  # of another version of this project
            continue
        if record:
            found[record["algorithm"]["name"], record["config"]["seed"]].append((path, record))
    return found


def _is_same(there: _Record, here: _Record, fingerprints: Mapping[str, Any]) -> bool:
    flags = differences(there, here).keys() - set(CHANGES_NOTHING)
    return not flags and not other_inputs(there, here, fingerprints)


def _copy(source: Path, target: Path) -> None:
    new = new_folder(target)
    try:
        without = shutil.ignore_patterns(CHECKPOINTS, ".*")
        shutil.copytree(source, new, ignore=without, dirs_exist_ok=True)
        finish_folder(target)
    finally:
        discard_folder(target)
