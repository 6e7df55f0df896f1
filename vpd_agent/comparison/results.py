"""What came of the runs that are compared: each run's rows, and each contestant's curves."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from vpd_agent.runs.costs import sampled_tokens
from vpd_agent.runs.files import read_jsonl
from vpd_agent.runs.record import HARMLESS, NOT_FLAGS, read_record
from vpd_agent.runs.run_folder import METRICS
from vpd_envs.data.provenance import leaves

STUDENT, TEACHER = "eval/student_pass@1", "eval/teacher_repair"
RESULTS = "results.json"  # in a report's folder
REPORT = ("report.html", "report.md", RESULTS)  # the files there that every report has
Outcome = Literal["finished", "failed", "missing"]
Curve = dict[int, float]  # step → value


@dataclass(frozen=True)
class RunResult:
    """One contestant with one seed.

    outcome: missing is a run that has not been begun, or is not at its end.
    reason: why it failed, or what is missing.
    rows: of metrics.jsonl. record: of config.json.
    """

    contestant: str
    seed: int
    folder: Path
    outcome: Outcome
    reason: str
    rows: list[dict[str, Any]]
    record: dict[str, Any]
    _curves: dict[str, Curve] = field(default_factory=dict, init=False, repr=False, compare=False)

    def curve(self, metric: str) -> Curve:
        """Its finite values. For a metric of a loss, `divergence` stands for `m_step/divergence`;
        where several losses have it, the last one's counts, which is the one that teaches. A metric
        of that very name comes first: `truncated` is not `sampler/truncated`."""
        if metric not in self._curves:
            ending, found = f"/{metric}", {}
            for row in self.rows:
                of_losses = (v for k, v in row.items() if k.endswith(ending))
                values = [row[metric]] if metric in row else of_losses
                for value in filter(is_number, values):
                    found[row["step"]] = float(value)
            self._curves[metric] = found
        return self._curves[metric]

    @property
    def algorithm(self) -> str:
        """Its name, with which the contestant's begins."""
        return self.record.get("algorithm", {}).get("name") or self.contestant.split()[0]

    @cached_property
    def rollouts(self) -> Curve:
        """Those that were sampled up to each step: the student's, those on the teacher's prompt
        that are trained on, and a trust gate's of the teacher."""
        counts = ("rollouts", "teacher_rollouts/count", "gate/rows")
        return self._summed(lambda row: sum(row.get(name, 0) for name in counts))

    @cached_property
    def tokens(self) -> Curve:
        """The policy's tokens in the rollouts that it was trained on up to each step."""
        return self._summed(sampled_tokens)

    @cached_property
    def seconds(self) -> Curve:
        """Of training up to each step, without start-up and evaluations."""
        return self._summed(lambda row: row.get("seconds/step", 0))

    def _summed(self, cost: Any) -> Curve:
        total, sums = 0.0, {}
        for row in self.rows:
            total += cost(row)
            sums[row["step"]] = total
        return sums


def read_run(
    folder: Path, contestant: str, seed: int, outcome: Outcome, reason: str = ""
) -> RunResult:
    """The run in a folder; without rows and record where there is none."""
    rows, record = read_jsonl(folder / METRICS), read_record(folder)
    return RunResult(contestant, seed, folder, outcome, reason, rows, record)


@dataclass(frozen=True)
class Results:
    """A whole comparison.

    command: what made it.
    contestants, seeds: all that were asked for, whatever became of their runs.
    baseline: the contestant that the others are compared with; "" for none.
    tuning: a dict per trial: contestant, values {flag: value}, seeds, scores (one per seed, None
        for a run that failed), chosen; None: nobody knows what was tuned.
    settings: what all runs share beside the flags that their records have in common.
    threshold: the score whose cost is told; None: where the baseline ends.
    """

    command: str
    contestants: list[str]
    seeds: list[int]
    baseline: str
    runs: list[RunResult]
    tuning: list[dict[str, Any]] | None = field(default_factory=list)
    settings: dict[str, Any] = field(default_factory=dict)
    threshold: float | None = None

    def finished(self, contestant: str) -> list[RunResult]:
        """Its runs that everything is computed from, by seed."""
        mine = [r for r in self.runs if r.contestant == contestant and r.outcome == "finished"]
        return sorted(mine, key=lambda run: run.seed)

    @property
    def left_out(self) -> list[RunResult]:
        """The runs that failed or are missing."""
        return [run for run in self.runs if run.outcome != "finished"]

    @cached_property
    def last_step(self) -> int | None:
        """The last step that all finished runs were evaluated at; None if there is none."""
        evaluated = [set(run.curve(STUDENT)) for run in self.runs if run.outcome == "finished"]
        common = set.intersection(*evaluated) if evaluated else set()
        return max(common, default=None)

    def steps(self, contestant: str, metric: str) -> list[int]:
        """The steps at which all of a contestant's finished runs have a metric, in order."""
        runs = [set(run.curve(metric)) for run in self.finished(contestant)]
        return sorted(set.intersection(*runs)) if runs else []

    @cached_property
    def shared(self) -> dict[str, Any]:
        """The flags that all runs have in common, and the settings that were given."""
        every = [flags(run.record) for run in self.runs if run.record] or [{}]
        common = {k: v for k, v in every[0].items() if all(k in f and f[k] == v for f in every)}
        return {**common, **self.settings}

    def own_flags(self, contestant: str) -> dict[str, Any]:
        """The flags of a contestant that not all runs share."""
        record = next((r.record for r in self.runs if r.contestant == contestant and r.record), {})
        every = [flags(run.record) for run in self.runs if run.record]
        return {
            k: v for k, v in flags(record).items() if not all(k in f and f[k] == v for f in every)
        }

    def scores(self, contestant: str) -> dict[int, float]:
        """Seed → held-out pass@1 at `last_step`, of the finished runs."""
        if self.last_step is None:
            return {}
        return {r.seed: r.curve(STUDENT)[self.last_step] for r in self.finished(contestant)}


def is_number(value: object) -> bool:
    """Whether it is a finite number."""
    return isinstance(value, (int, float)) and math.isfinite(value)


def flags(record: Mapping[str, Any]) -> dict[str, Any]:
    """The flags of a run's config.json, without the groups that they stand in; its seed and what
    changes no result apart."""
    apart = {*HARMLESS, "seed", "sandbox", "threads"}
    found = {}
    for group, values in record.items():
        if group in NOT_FLAGS or not isinstance(values, Mapping):
            continue
        prefix = "template." if group == "template" else ""
        found |= {f"{prefix}{k}": v for k, v in leaves(values) if k not in apart}
    return {"algorithm" if k == "name" else k: v for k, v in found.items()}
