"""The prompt-only baseline: attempts of the initial model, with feedback in the context or without,
as many at the held-out problems as a run has rollouts."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from vpd_agent.lab.experiments import Request, folder_of
from vpd_agent.lab.tasks import TASKS
from vpd_agent.statistics.estimates import Estimate
from vpd_agent.train.config import TrainConfig
from vpd_agent.train.presets import PRESETS, preset_for

_FOLDER = "prompt-only"
_METHODS = ("best-of-k", "multi-turn")


@dataclass(frozen=True)
class Discovery:
    """The share of problems that the first attempt solved, and that any of them did."""

    first: float
    any: Estimate


@dataclass(frozen=True)
class PromptOnly:
    """What each method discovered on a task. budget: attempts at each problem."""

    task: str
    budget: int
    methods: dict[str, Discovery]


def command(task: str, request: Request) -> list[str]:
    """The words of its `vpd solve`, without these two."""
    config = _config(task)
    return [
        *TASKS[task].flags,
        *("--methods", *_METHODS),
        *("--split", "test", "--limit", str(config.eval_problems)),
        *("--budget", str(_budget(config, request))),
        *("--out", str(folder_of(request.out, _FOLDER, task))),
    ]


def has_finished(task: str, request: Request) -> bool:
    """Whether every problem was searched to the end. That is kept, as a run that has finished is,
    even where the judge's code has changed since, with which `vpd solve` would not go on."""
    path = _results(request.out, task)
    if not path.is_file():
        return False
    told = json.loads(path.read_text(encoding="utf-8"))
    whole = len(told["pairs"]) == len(told["problems"]) * len(told["seeds"])
    return whole and told["budget"] == _budget(_config(task), request)


def _config(task: str) -> TrainConfig:
    return PRESETS[preset_for(TASKS[task].env, TASKS[task].model)].train


def _budget(config: TrainConfig, request: Request) -> int:
    return -(-request.steps * config.rollouts_per_step // config.eval_problems)


def read(out: Path, tasks: Sequence[str]) -> list[PromptOnly]:
    """What there is of these tasks."""
    paths = {task: _results(out, task) for task in tasks}
    return [_read(task, path) for task, path in paths.items() if path.is_file()]


def _results(out: Path, task: str) -> Path:
    return folder_of(out, _FOLDER, task) / "results.json"


def _read(task: str, path: Path) -> PromptOnly:
    told = json.loads(path.read_text(encoding="utf-8"))
    found = {}
    for method, numbers in told["methods"].items():
        mean, low, high = (numbers["discovery"][part] for part in ("mean", "low", "high"))
        found[method] = Discovery(mean[0], Estimate(mean[-1], low[-1], high[-1]))
    return PromptOnly(task, told["budget"], found)
