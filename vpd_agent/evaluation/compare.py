"""Head to head: algorithms × seeds on the same problems, with the same number of rollouts."""

from __future__ import annotations

import json
import math
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import cycle
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

from scipy.special import stdtrit

from vpd_agent.evaluation.report import markdown
from vpd_agent.runs.files import read_jsonl, write_atomically
from vpd_agent.runs.pictures import draw_if_possible, pyplot
from vpd_agent.runs.run_folder import CONFIG, METRICS, MODEL

STUDENT, TEACHER = "eval/student_pass@1", "eval/teacher_repair"
_COLORS = {"vpd": "C3", "sdpo": "C0", "grpo": "C7", "sdpg": "C2"}  # the same in every report


@dataclass(frozen=True)
class Run:
    """One algorithm with one seed, in a folder of its own."""

    algorithm: str
    seed: int
    path: Path

    @property
    def finished(self) -> bool:
        return (self.path / MODEL).is_dir()

    def arguments(self) -> list[str]:
        """What `vpd train ALGORITHM` gets besides the options that all runs share."""
        return ["--seed", str(self.seed), "--out", str(self.path), "--quiet"]

    def metrics(self) -> list[dict[str, Any]]:
        return read_jsonl(self.path / METRICS)


@dataclass(frozen=True)
class Estimate:
    """A mean over seeds and the half-width of its 95 % confidence interval (NaN for one seed),
    t · s / √n, with Student's t for n − 1 degrees of freedom."""

    mean: float
    half_width: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Estimate:
        n = len(values)
        if n == 1:
            return cls(values[0], math.nan)
        t = float(stdtrit(n - 1, 0.975))
        return cls(fmean(values), t * stdev(values) / math.sqrt(n))

    def __str__(self) -> str:
        interval = "" if math.isnan(self.half_width) else f"±{_short(self.half_width)}"
        return f"{_short(self.mean)}{interval}"


def plan(out: Path, algorithms: Sequence[str], seeds: Sequence[int]) -> list[Run]:
    """Seed after seed, so that every algorithm has its first curve before any has a second one."""
    names = {a: re.sub(r"[^\w.-]+", "_", a) for a in algorithms}  # module:Class is no folder's name
    return [Run(a, s, out / f"{names[a]}-seed{s}") for s in seeds for a in algorithms]


def run_all(
    runs: Sequence[Run],
    options: Sequence[str],
    *,
    jobs: int,
    on_progress: Callable[[Run, int, dict[str, Any]], None],
) -> list[Run]:
    """Train all runs, `jobs` at a time, each in a process of its own; returns those that failed.

    Runs that are finished are left as they are; on_progress(run, step, last metrics) is called
    about once a second. Each process has one torch thread: on two cores, two processes of one
    thread beat one of two.
    """
    waiting = [run for run in runs if not run.finished]
    running: dict[Run, subprocess.Popen] = {}
    failed: list[Run] = []
    environment = os.environ | {"OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}
    try:
        while waiting or running:
            while waiting and len(running) < jobs:
                run = waiting.pop(0)
                running[run] = _start(run, options, environment)
            time.sleep(0.5)
            for run, process in list(running.items()):
                rows = run.metrics()
                if rows:
                    on_progress(run, rows[-1]["step"], rows[-1])
                if process.poll() is not None:
                    del running[run]
                    if process.returncode:
                        failed.append(run)
    finally:
        for process in running.values():
            process.terminate()
        for process in running.values():
            process.wait(timeout=30)
    return failed


def _start(run: Run, options: Sequence[str], environment: dict[str, str]) -> subprocess.Popen:
    run.path.parent.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-m", "vpd_agent.cli", "train", run.algorithm, *options]
    command += run.arguments()
    with log_file(run).open("w") as log:
        return subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, env=environment)


def log_file(run: Run) -> Path:
    return run.path.with_suffix(".log")


def curves(runs: Sequence[Run], key: str) -> dict[str, dict[int, Estimate]]:
    """Algorithm → step → estimate over its seeds, at the steps that all its seeds evaluated;
    algorithms without such a step are left out."""
    result: dict[str, dict[int, Estimate]] = {}
    for algorithm, seeds in _by_algorithm(runs).items():
        per_seed = [
            {row["step"]: row[key] for row in run.metrics() if _is_number(row.get(key))}
            for run in seeds
        ]
        if steps := sorted(set.intersection(*map(set, per_seed))):
            result[algorithm] = {step: Estimate.of([s[step] for s in per_seed]) for step in steps}
    return result


def _by_algorithm(runs: Sequence[Run]) -> dict[str, list[Run]]:
    result: dict[str, list[Run]] = {}
    for run in runs:
        result.setdefault(run.algorithm, []).append(run)
    return result


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and math.isfinite(value)


def _seconds_per_run(runs: Sequence[Run]) -> dict[str, float]:
    """Mean wall-clock seconds of an algorithm's runs: steps and evaluations, without start-up."""
    result = {}
    for algorithm, seeds in _by_algorithm(runs).items():
        rows = [row for run in seeds for row in run.metrics()]
        total = sum(r.get("seconds/step", 0) + r.get("seconds/evaluate", 0) for r in rows)
        result[algorithm] = total / len(seeds)
    return result


def table(runs: Sequence[Run], key: str = STUDENT) -> tuple[list[str], list[list[str]]]:
    """Header and rows: algorithms by their last mean, best first; a column per evaluated step, and
    the seconds (s) of a run."""
    all_curves = curves(runs, key)
    steps = sorted({step for curve in all_curves.values() for step in curve})
    seconds = _seconds_per_run(runs)
    rows = []
    for algorithm, curve in sorted(all_curves.items(), key=lambda c: -c[1][max(c[1])].mean):
        cells = [str(curve[s]) if s in curve else "" for s in steps]
        rows.append([algorithm, *cells, f"{seconds[algorithm]:.0f}"])
    return ["algorithm", *map(str, steps), "s"], rows


def write_report(out: Path, runs: Sequence[Run], command: str) -> list[Path]:
    """report.md, results.json and, where matplotlib is installed, curves.png: those it wrote."""
    sections = [f"# Comparison\n\n`{command}`\n"]
    seeds = sorted({run.seed for run in runs})
    sections.append(
        f"Mean over {len(seeds)} seed(s) {seeds}; ± is the 95 % confidence interval of the mean "
        f"(Student's t).\n"
    )
    for title, key in (
        ("Student: pass@1 on held-out problems, by training step", STUDENT),
        ("Teacher: repair rate on fixed failed attempts, by training step", TEACHER),
    ):
        sections.append(f"## {title}\n\n{markdown(*table(runs, key))}\n")
    write_atomically(out / "report.md", "\n".join(sections))
    results = {
        "command": command,
        "seconds": _seconds_per_run(runs),
        "runs": [
            {
                "algorithm": run.algorithm,
                "seed": run.seed,
                "config": json.loads((run.path / CONFIG).read_text()),
                **{
                    k: {r["step"]: r[k] for r in run.metrics() if k in r}
                    for k in (STUDENT, TEACHER)
                },
            }
            for run in runs
        ],
    }
    write_atomically(out / "results.json", json.dumps(results, indent=1))
    files = [out / "report.md", out / "results.json", out / "curves.png"]
    return files if draw_if_possible(files[-1], partial(_draw, runs=runs)) else files[:-1]


def _draw(path: Path, runs: Sequence[Run]) -> None:
    """Both curves side by side: lines are means, bands 95 % confidence intervals."""
    plt = pyplot()
    spare = cycle(("C1", "C4", "C5", "C6", "C8", "C9"))
    colors = {a: _COLORS.get(a) or next(spare) for a in _by_algorithm(runs)}
    figure, axes = plt.subplots(1, 2, figsize=(11, 4.2), sharey=True, layout="constrained")
    for axis, key, title in zip(
        axes,
        (STUDENT, TEACHER),
        ("student: pass@1 on held-out problems", "teacher: repair of fixed failed attempts"),
        strict=True,
    ):
        for algorithm, curve in curves(runs, key).items():
            color = colors[algorithm]
            steps, points = list(curve), list(curve.values())
            means = [p.mean for p in points]
            axis.plot(steps, means, color=color, label=algorithm.upper(), marker="o", ms=3)
            if not any(math.isnan(p.half_width) for p in points):
                low = [max(p.mean - p.half_width, 0) for p in points]
                high = [min(p.mean + p.half_width, 1) for p in points]
                axis.fill_between(steps, low, high, color=color, alpha=0.15, lw=0)
        axis.set(title=title, xlabel="training step", ylim=(0, 1))
        axis.grid(alpha=0.3)
    axes[0].set_ylabel("share solved")
    axes[0].legend()
    seeds = len({run.seed for run in runs})
    figure.suptitle(
        f"{seeds} seed{'s' if seeds > 1 else ''}"
        + ("; bands: 95 % confidence interval of the mean" if seeds > 1 else ""),
        fontsize=9,
    )
    figure.savefig(path, dpi=150)
    plt.close(figure)


def _short(x: float) -> str:
    return f"{x:.2f}".removeprefix("0") if 0 <= x < 1 else f"{x:.2f}"
