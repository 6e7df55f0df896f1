"""How many runs a lab would train, and about how long that takes."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cache
from statistics import fmean
from typing import Any

from vpd_agent.comparison.formats import counted, whole
from vpd_agent.comparison.runs import Run
from vpd_agent.lab.tasks import TASKS
from vpd_agent.runs.files import read_jsonl
from vpd_agent.runs.run_folder import METRICS
from vpd_agent.train.presets import PRESETS, preset_for

_SECONDS_PER_STEP = 0.275  # of a run beside another one, on two cores: 55 s for 200 steps
_START_SECONDS = 10.0  # of a process, before its first step and after its last
_MEASURED = 2  # finished runs of an algorithm on a task that are read: they take about the same


@dataclass(frozen=True)
class Planned:
    """A comparison as it is asked for.

    runs: all of them, without those that tune, which are the trials. jobs: runs side by side.
    """

    experiment: str
    task: str
    runs: Sequence[Run]
    trials: Sequence[Run]
    jobs: int

    @property
    def name(self) -> str:
        return f"{self.experiment} on {self.task}"


@dataclass
class Estimate:
    """Of a whole lab, whose comparisons share the runs that are the same.

    seconds: of a run, measured. left, hours: by the comparison's name.
    """

    left: dict[str, int] = field(default_factory=dict)
    hours: dict[str, float] = field(default_factory=dict)
    measured: int = 0

    def sentence(self, planned: Planned) -> str:
        total, left = len(planned.runs) + len(planned.trials), self.left[planned.name]
        return (
            f"{planned.name}: {counted(total, 'run')}, {left} to train, "
            f"{_duration(self.hours[planned.name])}"
        )

    def summary(self, planned: Sequence[Planned]) -> str:
        total = sum(len(p.runs) + len(p.trials) for p in planned)
        basis = (
            f"measured in {counted(self.measured, 'finished run')}"
            if self.measured
            else f"at {_SECONDS_PER_STEP} s a step; no run has finished here"
        )
        jobs = max((p.jobs for p in planned), default=1)
        return (
            f"{counted(len(planned), 'comparison')}, {whole(total)} runs, "
            f"{whole(sum(self.left.values()))} to train, {_duration(sum(self.hours.values()))} "
            f"with {jobs} side by side ({basis})"
        )


def estimate(planned: Sequence[Planned]) -> Estimate:
    """Of these comparisons, one after the other: the runs that are neither finished nor trained for
    one before."""
    seconds, found = _Seconds(planned), Estimate()
    known = {_key(p, run) for p in planned for run in p.runs if run.finished}
    found.measured = seconds.count
    for p in planned:
        left = [run for run in p.runs if not run.finished and _key(p, run) not in known]
        known.update(_key(p, run) for run in left)
        left += [run for run in p.trials if not run.finished]
        spent = sum(seconds.of(p.task, run) for run in left)
        found.left[p.name] = len(left)
        found.hours[p.name] = spent / max(p.jobs, 1) / 3600
    return found


class _Seconds:
    """How long a run takes: as finished ones of its algorithm did, on its task or else on any; or
    as any finished ones did; or as is assumed."""

    def __init__(self, planned: Sequence[Planned]) -> None:
        self._per_step: dict[tuple[str, ...], list[float]] = defaultdict(list)
        taken: Counter[tuple[str, str]] = Counter()
        self.count = 0
        for p in planned:
            for run in (*p.runs, *p.trials):
                key = p.task, run.contestant.algorithm
                if taken[key] < _MEASURED and run.finished and run.steps:
                    taken[key] += 1
                    self.count += 1
                    for group in (key, key[1:], ()):
                        self._per_step[group].append(_spent(run) / run.steps)

    def of(self, task: str, run: Run) -> float:
        algorithm = run.contestant.algorithm
        for group in ((task, algorithm), (algorithm,), ()):
            if found := self._per_step.get(group):
                return _START_SECONDS + fmean(found) * run.steps
        return _START_SECONDS + _SECONDS_PER_STEP * run.steps


def _spent(run: Run) -> float:
    """Seconds of a run's steps and evaluations."""
    rows = read_jsonl(run.path / METRICS)
    return sum(row.get("seconds/step", 0) + row.get("seconds/evaluate", 0) for row in rows)


def _key(planned: Planned, run: Run) -> tuple[Any, ...]:
    """The same for runs that are the same: options that only say a default are left out."""
    task, contestant = planned.task, run.contestant
    defaults = _defaults(task, contestant.algorithm)
    own = frozenset(
        (key, value.lower())
        for key, value in contestant.options
        if str(defaults.get(key)).lower() != value.lower()
    )
    return task, contestant.algorithm, contestant.feedback, own, run.seed, run.steps


@cache
def _defaults(task: str, algorithm: str) -> dict[str, Any]:
    preset = PRESETS[preset_for(TASKS[task].env, TASKS[task].model)]
    return {**vars(preset.config(algorithm)), **vars(preset.algorithm(algorithm))}


def _duration(hours: float) -> str:
    if hours < 1 / 60:
        return "seconds" if hours else "nothing"
    minutes = round(60 * hours)
    return f"about {minutes} min" if minutes < 90 else f"about {hours:.1f} h"
