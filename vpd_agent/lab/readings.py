"""What the comparisons of a lab have found, read from their results.json."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from statistics import fmean
from typing import Any

from vpd_agent.comparison.results import RESULTS, STUDENT, TEACHER, Results, RunResult
from vpd_agent.comparison.tuning import TRIALS, worth
from vpd_agent.lab.experiments import EXPERIMENTS, TUNING, folder_of
from vpd_agent.lab.tasks import TASKS

# The curves of a run that the lab reads from a results.json.
SCORES, SPENT = (STUDENT, TEACHER), ("rollouts", "seconds")


@dataclass(frozen=True)
class Reading:
    """One comparison: an experiment on a task.

    standings: where each contestant ends, as in its results.json.
    """

    experiment: str
    task: str
    results: Results
    standings: list[dict[str, Any]]

    @property
    def name(self) -> str:
        return f"{self.experiment} on {self.task}"


Lab = Mapping[tuple[str, str], Reading]  # (experiment, task) → what was found


def read_lab(out: Path) -> dict[tuple[str, str], Reading]:
    """The comparisons that are there, by experiment and task, in the lab's order."""
    return {
        (name, task): reading
        for name in EXPERIMENTS
        for task in TASKS
        if (reading := _read(out, name, task)) is not None
    }


@dataclass(frozen=True)
class Tried:
    """Values of an algorithm that were tried. scores: task → one of each tuning seed, None of a run
    that failed."""

    algorithm: str
    values: dict[str, str]
    scores: dict[str, list[float | None]]
    chosen: bool = False

    @property
    def mean(self) -> float:
        """The mean over tasks of the mean over their seeds; −∞ where a run failed."""
        return fmean(map(worth, self.scores.values()))


def read_tuning(out: Path) -> list[Tried]:
    """What was tried on any task, and for each algorithm which values were best on all tasks that
    they were tried on; [] where nothing was."""
    found: dict[tuple[str, tuple[tuple[str, str], ...]], Tried] = {}
    for task in TASKS:
        for trial in read_trials(out, task):
            values = {flag: str(value) for flag, value in trial["values"].items()}
            key = trial["contestant"], tuple(values.items())
            tried = found.setdefault(key, Tried(trial["contestant"], values, {}))
            tried.scores[task] = trial["scores"]
    chosen = {}
    for tried in found.values():
        best = chosen.get(tried.algorithm)
        if best is None or (len(tried.scores), tried.mean) > (len(best.scores), best.mean):
            chosen[tried.algorithm] = tried
    return [replace(tried, chosen=tried is chosen[tried.algorithm]) for tried in found.values()]


def read_trials(out: Path, task: str) -> list[dict[str, Any]]:
    """Those of a task, a dict each as in `Results.tuning`; [] where there are none or not all."""
    path = folder_of(out, TUNING, task) / TRIALS
    return json.loads(path.read_text(encoding="utf-8"))["tuning"] if path.is_file() else []


def chosen_values(tuning: Sequence[Tried]) -> dict[str, dict[str, str]]:
    """Algorithm → the flags of vpd train that its best trial had."""
    return {tried.algorithm: tried.values for tried in tuning if tried.chosen}


def _read(out: Path, experiment: str, task: str) -> Reading | None:
    folder = folder_of(out, experiment, task)
    if not (folder / RESULTS).is_file():
        return None
    raw = json.loads((folder / RESULTS).read_text(encoding="utf-8"))
    runs = [
        RunResult(
            run["contestant"],
            run["seed"],
            folder / run["folder"],
            run["outcome"],
            run["reason"],
            list(_rows(run["curves"])),
            run["config"],
        )
        for run in raw["runs"]
    ]
    results = Results(
        command=raw["command"],
        contestants=raw["contestants"],
        seeds=raw["seeds"],
        baseline=raw["baseline"],
        runs=runs,
        tuning=raw["tuning"],
        threshold=raw["threshold"] if raw["threshold_given"] else None,
    )
    return Reading(experiment, task, results, raw["standings"])


def _rows(curves: Mapping[str, Mapping[str, list[Any]]]) -> Iterator[dict[str, Any]]:
    """A row per evaluation: the scores, and the rollouts and seconds since the last one."""
    known = {
        name: dict(zip(curve["step"], curve["value"], strict=True))
        for name, curve in curves.items()
        if name in (*SCORES, *SPENT)
    }
    steps = sorted({step for name in SCORES for step in known.get(name, ())})
    for before, step in pairwise([None, *steps]):
        row = {"step": step}
        for name in SCORES:
            if step in known.get(name, ()):
                row[name] = known[name][step]
        for name, key in (("rollouts", "rollouts"), ("seconds", "seconds/step")):
            spent = known.get(name, {})
            row[key] = spent.get(step, 0) - spent.get(before, 0)
        yield row
