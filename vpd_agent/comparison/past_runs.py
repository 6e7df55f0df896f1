"""Runs that exist, made one by one or in a comparison, as the results of a comparison."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from sandbox.plugins import unknown
from vpd_agent.comparison.formats import as_text, counted
from vpd_agent.comparison.results import RESULTS, STUDENT, Results, RunResult, flags, read_run
from vpd_agent.runs.record import read_record
from vpd_agent.runs.run_folder import CONFIG, METRICS, RunFolder

# What must be the same in runs whose scores are compared: the model they begin with, and how they
# are scored.
_SAME = (
    *("env", "set", "model", "lora_rank", "engine", "eval_split", "eval_problems", "eval_samples"),
    *(
        "eval_seed",
        "set_aside",
        "temperature",
        "success_reward",
        "max_response_tokens",
        "max_turn_tokens",
    ),
)
_SAME_PRINTS = {"eval": "the held-out problems", "model": "the model's weights"}
_NO_NAMES = ("out", "preset", "device", "steps", "data")  # flags that name no contestant


def read_past_runs(
    folders: Sequence[Path], command: str, baseline: str | None, threshold: float | None
) -> Results:
    """The runs in these folders, and in the folders right below them.

    Raises ValueError where there are none, for two runs of one contestant with the same seed, for
    runs that cannot be compared, and for a baseline that is none of the contestants.
    """
    found = [path for folder in folders for path in _run_folders(folder)]
    paths = list(dict.fromkeys(path.resolve() for path in found))
    runs = [_read(path, alone=len(paths) == 1) for path in paths]
    _check_comparable(runs)
    names = _labels([run.record for run in runs])
    named = [replace(run, contestant=name) for run, name in zip(runs, names, strict=True)]
    _check_seeds(named)
    contestants = list(dict.fromkeys(names))
    return Results(
        command=command,
        contestants=contestants,
        seeds=sorted({run.seed for run in runs}),
        baseline=chosen_baseline(contestants, baseline),
        runs=named,
        tuning=_tuning(folders, contestants),
        threshold=threshold,
    )


def chosen_baseline(contestants: Sequence[str], asked: str | None) -> str:
    """The one that was asked for; else grpo, if it is there, else the first. Raises ValueError for
    one that is not there."""
    if asked is not None and asked not in contestants:
        raise ValueError(unknown("--baseline", asked, contestants))
    return asked or ("grpo" if "grpo" in contestants else contestants[0])


def _run_folders(folder: Path) -> list[Path]:
    if not folder.is_dir():
        raise ValueError(f"There is no folder {folder}; pass the folders of runs.")
    if _is_run(folder):
        return [folder]
    below = [path for path in sorted(folder.iterdir()) if _is_run(path) and not _is_trial(path)]
    if not below:
        raise ValueError(
            f"{folder} holds no run, neither itself nor in a folder right below it: a run has a "
            f"{CONFIG} and a {METRICS}."
        )
    return below


def _is_run(folder: Path) -> bool:
    return (folder / CONFIG).is_file()


def _is_trial(folder: Path) -> bool:
    """Whether a run only served to choose settings, scored on problems of the training split."""
    return bool(read_record(folder)["config"].get("set_aside"))


def _tuning(folders: Sequence[Path], contestants: Sequence[str]) -> list[dict[str, Any]] | None:
    """The trials that an earlier report in one of the folders names, if they are of these
    contestants."""
    for path in (folder / RESULTS for folder in folders):
        trials = json.loads(path.read_text(encoding="utf-8"))["tuning"] if path.is_file() else None
        if trials and all(trial["contestant"] in contestants for trial in trials):
            return trials
    return None


def _read(folder: Path, *, alone: bool) -> RunResult:
    """A run, its contestant still to be named. One that has not come to its end is left out of what
    is compared, but not where it is all there is."""
    run = read_run(folder, "", 0, "finished")
    config = run.record["config"]
    run = replace(run, seed=config["seed"])
    if RunFolder.finished_step(folder) is not None:
        return run
    at = run.rows[-1]["step"] if run.rows else 0
    outcome = "finished" if alone and run.rows else "missing"
    return replace(run, outcome=outcome, reason=f"at step {at} of {config['steps']}")


def _labels(records: Sequence[Mapping[str, Any]]) -> list[str]:
    """The algorithm, and behind it the flags in which the runs of this algorithm differ."""
    every = [flags(record) for record in records]
    labels = []
    for mine in every:
        same = [f for f in every if f["algorithm"] == mine["algorithm"]]
        differs = [k for k in mine if k not in _NO_NAMES and any(f.get(k) != mine[k] for f in same)]
        named = [f"{k}={as_text(mine[k])}" for k in differs]
        labels.append(" ".join([mine["algorithm"], *named]))
    return labels


def _check_comparable(runs: Sequence[RunResult]) -> None:
    """Raise ValueError for runs of other problems, another model or another way of scoring than the
    first one's."""
    first, *others = runs
    there = _what_scores(first.record)
    for run in others:
        here = _what_scores(run.record)
        for name in there | here:
            old, new = there.get(name), here.get(name)
            if old != new:
                raise ValueError(
                    f"The runs in {first.folder} and {run.folder} cannot be compared: {name} is "
                    f"{as_text(old)} in the first and {as_text(new)} in the second. Report on them "
                    f"one at a time."
                )


def _what_scores(record: Mapping[str, Any]) -> dict[str, Any]:
    known, prints = flags(record), record.get("fingerprints", {})
    return {k: known[k] for k in _SAME if k in known} | {
        what: prints[k] for k, what in _SAME_PRINTS.items() if prints.get(k)
    }


def _check_seeds(runs: Sequence[RunResult]) -> None:
    seen: dict[tuple[str, int], RunResult] = {}
    for run in runs:
        other = seen.setdefault((run.contestant, run.seed), run)
        if other is not run:
            raise ValueError(
                f"Two runs of {run.contestant} have the seed {run.seed}: {other.folder} and "
                f"{run.folder}. Pass one of them."
            )


def check_scored(results: Results) -> None:
    """Raise ValueError where no run was evaluated even once: there is nothing to report."""
    if not any(run.curve(STUDENT) for run in results.runs):
        raise ValueError(
            f"None of {counted(len(results.runs), 'run')} was evaluated ({STUDENT} is in no row): "
            f"train with --eval-every above 0."
        )
