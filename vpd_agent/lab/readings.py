"""What the comparisons of a lab have found, read from their results.json."""

from __future__ import annotations

import json
import math
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
    """Values of an algorithm that were tried.

    scores: task → one of each tuning seed, None of a run that failed. shortfall: the most, over
    these tasks, that their mean is below that of the best values of this algorithm on the task.
    """

    algorithm: str
    values: dict[str, str]
    scores: dict[str, list[float | None]]
    shortfall: float = math.nan
    chosen: bool = False

    @property
    def mean(self) -> float:
        """The mean over tasks of the mean over their seeds; −∞ where a run failed."""
        return fmean(map(worth, self.scores.values()))


def read_tuning(out: Path) -> list[Tried]:
    """What was tried on any task, and what was chosen for each algorithm; [] where nothing was.

    One setting is to hold on every task. So of the values that were tried on most tasks those are
    chosen whose shortfall is smallest: a mean over tasks would let one task pay for the others.
    """
    found: dict[tuple[str, tuple[tuple[str, str], ...]], Tried] = {}
    for task in TASKS:
        for trial in read_trials(out, task):
            values = {flag: str(value) for flag, value in trial["values"].items()}
            key = trial["contestant"], tuple(values.items())
            tried = found.setdefault(key, Tried(trial["contestant"], values, {}))
            tried.scores[task] = trial["scores"]
    return [
        tried
        for algorithm in dict.fromkeys(tried.algorithm for tried in found.values())
        for tried in _with_choice([t for t in found.values() if t.algorithm == algorithm])
    ]


def _with_choice(tried: Sequence[Tried]) -> list[Tried]:
    """All that was tried for one algorithm."""
    best = {
        task: max(worth(t.scores[task]) for t in tried if task in t.scores)
        for task in dict.fromkeys(task for t in tried for task in t.scores)
    }
    told = [
        replace(t, shortfall=max(_behind(t, task, best[task]) for task in t.scores)) for t in tried
    ]
    chosen = max(told, key=lambda t: (len(t.scores), -t.shortfall, t.mean))
    return [replace(t, chosen=t is chosen) for t in told]


def _behind(tried: Tried, task: str, best: float) -> float:
    """0 where all trials of the task failed."""
    return best - worth(tried.scores[task]) if math.isfinite(best) else 0.0


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
