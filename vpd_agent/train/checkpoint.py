"""Files of a checkpoint, and whether one is of the run that would go on from it.

A checkpoint is a folder. `model/` holds the student as transformers loads it, for people; a run
goes on from `trainer.pt`, which holds `Trainer.state_dict()`: weights, optimizers, teacher,
reference, the algorithm's state, all random states, rollouts that were collected ahead. What
follows from the configuration and the step (data order, learning rate, seeds of a step's rollouts)
is not stored.
"""

from __future__ import annotations

import pickle
import random
from pathlib import Path
from typing import Any

import numpy as np
import torch

from vpd_agent.model.policy import Policy
from vpd_agent.runs.identity import tokenizer_hash

STATE = "trainer.pt"
FORMAT = 3  # of the state; 2: before it held solved attempts of the first evaluation


def write(folder: Path, state: dict[str, Any]) -> None:
    with (folder / STATE).open("wb") as file:  # an open file, so that a full disk is an OSError
        torch.save(state | {"format": FORMAT}, file)


def read(folder: Path) -> dict[str, Any]:
    """What was written. Raises ValueError if there is no whole checkpoint, or an older one."""
    try:
        state = torch.load(folder / STATE, map_location="cpu", weights_only=True)
    except FileNotFoundError as error:
        raise ValueError(f"{folder} is no checkpoint: it has no {STATE}.") from error
    except (RuntimeError, EOFError, pickle.UnpicklingError) as error:
        raise ValueError(
            f"The checkpoint {folder} cannot be read ({str(error).splitlines()[0]}). Remove it, "
            f"and --resume goes on from the one before."
        ) from error
    if state.get("format") != FORMAT:
        raise ValueError(
            f"The checkpoint {folder} was written by another version of this program, which keeps "
            f"other things. Resume with that version, or start a run from the checkpoint's model/."
        )
    return state


def check_that_it_fits(saved: dict[str, Any], own: dict[str, Any], folder: Path) -> None:
    """Raise ValueError if a checkpoint is of another algorithm, model, tokenizer or set of
    problems than the run. own: `identity` of the run; saved: a state that has that of its own."""
    if saved["algorithm"] != own["algorithm"]:
        raise ValueError(
            f"The checkpoint {folder} is of {saved['algorithm']!r}, this run is of "
            f"{own['algorithm']!r}. Resume with the same algorithm."
        )
    here, there = own["model"], saved["model"]
    if here != there:
        weight = next(n for n in [*here, *there] if here.get(n) != there.get(n))
        raise ValueError(
            f"The checkpoint {folder} is of another model: {weight} is "
            f"{there.get(weight, 'missing')} there, {here.get(weight, 'missing')} here. Resume "
            f"with the same model and dtype."
        )
    if saved["tokenizer"] != own["tokenizer"]:
        raise ValueError(
            f"The checkpoint {folder} was trained with another tokenizer or chat template. Resume "
            f"with the same ones."
        )
    for use, here in own["problems"].items():
        there = saved["problems"].get(use)
        if None not in (here, there) and here != there:
            raise ValueError(
                f"The checkpoint {folder} is of a run with other problems to {use} on: their "
                f"fingerprint was {there:.12}…, it is {here:.12}… now. Resume with the data "
                f"that the run was begun with, or start another from the checkpoint's model/."
            )


def identity(algorithm: str, policy: Policy, problems: dict[str, str | None]) -> dict[str, Any]:
    """What must be the same in a run that goes on from a checkpoint.

    problems: fingerprints of those to train and to evaluate on, see `problem_fingerprints`.
    """
    weights = policy.model.named_parameters()
    return {
        "algorithm": algorithm,
        "model": {name: f"{tuple(w.shape)} {w.dtype}" for name, w in weights},
        "tokenizer": tokenizer_hash(policy.tokenizer),
        "problems": problems,
    }


def random_states(device: torch.device) -> dict[str, Any]:
    """Of the generators that code uses which asks for none of its own."""
    numpy: Any = np.random.get_state()
    _, keys, *rest = numpy
    return {
        "python": random.getstate(),
        "numpy": [keys.tolist(), *rest],
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state(device) if device.type == "cuda" else None,
    }


def set_random_states(states: dict[str, Any], device: torch.device) -> None:
    random.setstate(states["python"])
    np.random.set_state(("MT19937", *states["numpy"]))
    torch.set_rng_state(states["torch"])
    if device.type == "cuda" and states["cuda"] is not None:
        torch.cuda.set_rng_state(states["cuda"], device)
