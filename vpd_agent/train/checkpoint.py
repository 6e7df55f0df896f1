"""What a run needs to go on exactly where it was: everything that the trainer and chance remember.

A checkpoint is a folder. `model/` holds the student as transformers loads it, for people; a run
goes on from `trainer.pt`: weights, optimizers, teacher, reference, the algorithm's state, all
random states, rollouts that were collected ahead. What follows from the configuration and the step
(data order, learning rate, seeds of a step's rollouts) is not stored.
"""

from __future__ import annotations

import pickle
import random
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from vpd_agent.data.types import Rollout
from vpd_agent.evaluation.evaluate import failure_from_json, failure_to_json
from vpd_agent.rollout.collect import Collected
from vpd_agent.runs.identity import problem_fingerprints, tokenizer_hash
from vpd_agent.runs.run_folder import BAD_BATCHES, METRICS, MODEL, SAMPLES

if TYPE_CHECKING:
    from vpd_agent.train.trainer import Trainer

STATE = "trainer.pt"


def save(trainer: Trainer) -> None:
    """Write a checkpoint of the last finished step. Every process of the run must call it."""
    state = _state(trainer)

    def write(path: Path | None) -> None:
        trainer.policy.save(path and path / MODEL)
        if path is not None:
            with (path / STATE).open("wb") as file:  # so that a full disk is an OSError
                torch.save(state, file)

    trainer.out.save_checkpoint(trainer.step, write, keep=trainer.config.keep_checkpoints)


def load(trainer: Trainer, path: Path) -> None:
    """Bring a trainer, made as the one that saved, to where that was; rows of the run's folder that
    it will write again are dropped.

    Raises ValueError, before anything is changed, if there is no whole checkpoint or if it is of
    another algorithm, model, tokenizer or set of problems.
    """
    saved = _read(path)
    _check_that_it_fits(trainer, saved, path)
    trainer.policy.load_state_dict(saved["policy"])
    trainer.updater.load_state_dict(saved["optimizers"])
    if trainer.teacher is not None:
        trainer.teacher.load_state_dict(saved["teacher"])
    if trainer.reference is not None:
        trainer.reference.load_state_dict(saved["reference"])
    trainer.engine.sync(trainer.policy)

    trainer.step = saved["step"]
    trainer.row = saved["row"]
    trainer.state = saved["state"]
    trainer.skipped = saved["skipped"]
    failures = saved["failures"]
    trainer.failures = None if failures is None else [failure_from_json(row) for row in failures]
    _load_own(trainer, saved["processes"])
    _load_rows(trainer)


def _state(trainer: Trainer) -> dict[str, Any]:
    failures = trainer.failures
    return {
        "algorithm": trainer.algorithm.name,
        "model": _shapes(trainer),
        "tokenizer": tokenizer_hash(trainer.policy.tokenizer),
        "problems": problem_fingerprints(trainer.environment, trainer.evaluation),
        "step": trainer.step,
        "row": trainer.row,
        "state": trainer.state,
        "skipped": trainer.skipped,
        "policy": trainer.policy.state_dict(),
        "optimizers": trainer.updater.state_dict(),
        "teacher": trainer.teacher.state_dict() if trainer.teacher else None,
        "reference": trainer.reference.state_dict() if trainer.reference else None,
        "failures": None if failures is None else [failure_to_json(f) for f in failures],
        "processes": trainer.processes.gather(_own(trainer)),
    }


def _own(trainer: Trainer) -> dict[str, Any]:
    """What each process has for itself."""
    ahead = trainer.rollouts_ahead
    return {
        "random": _random_states(trainer.policy.device),
        "ahead": None if ahead is None else asdict(ahead),
    }


def _load_own(trainer: Trainer, saved: list[dict[str, Any]]) -> None:
    if len(saved) != trainer.processes.size:
        trainer.warn(
            f"This run had {len(saved)} processes and has {trainer.processes.size} now: it goes on "
            f"with other random numbers."
        )
        return
    mine = saved[trainer.processes.rank]
    _set_random_states(mine["random"], trainer.policy.device)
    if mine["ahead"] is not None and trainer.config.overlap:
        rollouts = [Rollout(**row) for row in mine["ahead"]["rollouts"]]
        trainer.rollouts_ahead = Collected(rollouts, mine["ahead"]["dropped"])


def _load_rows(trainer: Trainer) -> None:
    if trainer.out is None:
        return
    for name in (METRICS, SAMPLES, BAD_BATCHES):
        trainer.out.truncate(name, lambda row: row["step"] <= trainer.step)
    for row in trainer.out.read(METRICS):
        trainer.monitor.observe(row)


def _read(path: Path) -> dict[str, Any]:
    try:
        return torch.load(path / STATE, map_location="cpu", weights_only=True)
    except FileNotFoundError as error:
        raise ValueError(f"{path} is no checkpoint: it has no {STATE}.") from error
    except (RuntimeError, EOFError, pickle.UnpicklingError) as error:
        raise ValueError(
            f"The checkpoint {path} cannot be read ({str(error).splitlines()[0]}). Remove it, and "
            f"--resume goes on from the one before."
        ) from error


def _check_that_it_fits(trainer: Trainer, saved: dict[str, Any], path: Path) -> None:
    name = trainer.algorithm.name
    if saved["algorithm"] != name:
        raise ValueError(
            f"The checkpoint {path} is of {saved['algorithm']!r}, this run is of {name!r}. Resume "
            f"with the same algorithm."
        )
    here, there = _shapes(trainer), saved["model"]
    if here != there:
        weight = next(n for n in [*here, *there] if here.get(n) != there.get(n))
        raise ValueError(
            f"The checkpoint {path} is of another model: {weight} is {there.get(weight, 'missing')}"
            f" there, {here.get(weight, 'missing')} here. Resume with the same model and dtype."
        )
    if saved["tokenizer"] != tokenizer_hash(trainer.policy.tokenizer):
        raise ValueError(
            f"The checkpoint {path} was trained with another tokenizer or chat template. Resume "
            f"with the same ones."
        )
    _check_problems(trainer, saved, path)


def _check_problems(trainer: Trainer, saved: dict[str, Any], path: Path) -> None:
    there = saved.get("problems", {})
    for use, here in problem_fingerprints(trainer.environment, trainer.evaluation).items():
        if None not in (here, there.get(use)) and here != there[use]:
            raise ValueError(
                f"The checkpoint {path} is of a run with other problems to {use} on: their "
                f"fingerprint was {there[use]:.12}…, it is {here:.12}… now. Resume with the data "
                f"that the run was begun with, or start another from the checkpoint's model/."
            )


def _shapes(trainer: Trainer) -> dict[str, str]:
    """Every weight's shape and type."""
    weights = trainer.policy.model.named_parameters()
    return {name: f"{tuple(w.shape)} {w.dtype}" for name, w in weights}


def _random_states(device: torch.device) -> dict[str, Any]:
    _, keys, *rest = np.random.get_state()
    return {
        "python": random.getstate(),
        "numpy": [keys.tolist(), *rest],
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state(device) if device.type == "cuda" else None,
    }


def _set_random_states(states: dict[str, Any], device: torch.device) -> None:
    random.setstate(states["python"])
    np.random.set_state(("MT19937", *states["numpy"]))
    torch.set_rng_state(states["torch"])
    if device.type == "cuda" and states["cuda"] is not None:
        torch.cuda.set_rng_state(states["cuda"], device)
