"""Folders of runs as `vpd train` leaves them, with curves that are made up."""

from __future__ import annotations

import json
import math
import random
from pathlib import Path
from typing import Any

from vpd_agent.comparison.results import Results, RunResult, read_run


def record(algorithm: str, seed: int, **changes: Any) -> dict[str, Any]:
    """What config.json says, as far as a report reads it."""
    config = {"steps": 40, "seed": seed, "learning_rate": 2e-4, "eval_problems": 300}
    flags = {"env": "vpd/MiniCode-v0", "model": "tiny-warm", "feedback": "environment", "set": []}
    own = {"name": algorithm, "beta": 1.0, **changes.pop("algorithm", {})}
    return {
        "format": 2,
        "algorithm": own,
        "config": {k: changes.pop(k, v) for k, v in config.items()},
        "template": {"failed": "{feedback}"},
        "options": {**flags, "out": "/home/somebody/runs/here", **changes},
        "versions": {"python": "3.11.9", "torch": "2.11.0"},
        "commit": "0123456789abcdef",
        "machine": {"processor": "Some CPU", "cores": 2},
        "fingerprints": {"train": "aaaa", "eval": "bbbb", "model": {"weights": "cccc"}},
    }


def rows(end: float, seed: int = 0, *, steps: int = 40, teacher: bool = True) -> list[dict]:
    """A line per step, an evaluation every ten of them, from .14 to `end`."""
    noise = random.Random(repr((end, seed)))
    found: list[dict] = []
    for step in range(steps + 1):
        row: dict[str, Any] = {"step": step}
        if step:
            row |= {
                "rollouts": 64,
                "reward": 0.2 + 0.01 * step,
                "solved": 0.2 + 0.01 * step,
                "response_tokens": 6 + noise.random(),
                "truncated": 0.01,
                "format_errors": 0.02,
                "teacher_fraction": 0.75 if teacher else 0.0,
                "groups_with_signal": 0.9,
                "policy/entropy": 1.2 * math.exp(-step / 30) + 0.05 * noise.random(),
                "policy/grad_norm": 0.4 + 0.2 * noise.random(),
                "seconds/collect": 0.25,
                "seconds/policy": 0.1,
                "seconds/sync": 0.01,
                "seconds/step": 0.4 + 0.02 * noise.random(),
            }
            row |= {"m_step/divergence": 0.3 / step} if teacher else {}
        if step % 10 == 0:
            share = step / steps if steps else 1.0
            row["eval/student_pass@1"] = 0.14 + (end - 0.14) * share
            row["eval/teacher_repair"] = 0.28 + 0.5 * share if teacher else math.nan
            row["seconds/evaluate"] = 0.8
        found.append(row)
    return found


def write_run(folder: Path, record: dict[str, Any], rows: list[dict], *, done: bool = True) -> Path:
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(record))
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    if done:
        (folder / "model").mkdir()
        (folder / "model" / "metrics.json").write_text(json.dumps({"step": rows[-1]["step"]}))
    return folder


def made_up(folder: Path, ends: dict[str, list[float | None]], **options: Any) -> Results:
    """A comparison whose contestants end at these scores, seed by seed; None: the run failed."""
    runs: list[RunResult] = []
    for name, scores in ends.items():
        for seed, end in enumerate(scores):
            where = folder / f"{name.replace(' ', '_')}-seed{seed}"
            told = record(name.split()[0], seed)
            if end is None:
                write_run(where, told, rows(0.2, seed)[:15], done=False)
                runs.append(read_run(where, name, seed, "failed", "exit code 1: out of memory"))
            else:
                write_run(where, told, rows(end, seed, teacher=name != "grpo"))
                runs.append(read_run(where, name, seed, "finished"))
    chosen = {"baseline": "grpo" if "grpo" in ends else "", **options}
    seeds = list(range(max(map(len, ends.values()))))
    return Results(command="vpd compare", contestants=list(ends), seeds=seeds, runs=runs, **chosen)
