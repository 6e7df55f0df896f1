"""What a run starts from, for every preset and algorithm."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

import pytest

from vpd_agent.algorithms import ALGORITHMS
from vpd_agent.train.presets import PRESETS

# Preset → algorithm → the options that are not the defaults of the algorithm's class.
DIFFERENT: dict[str, dict[str, dict[str, Any]]] = {
    "laptop": {
        "vpd": {"teacher": "ema", "alpha": 0.5, "beta": 1.0, "e_step_learning_rate": 1e-4,
                "e_step_optimizer": "own"},
        "sdpo": {"alpha": 0.5, "importance_clip": None},
        "sdpg": {"clip_high": 0.2, "dual_clip": None, "teacher": "ema", "distill_weight": 1.0,
                 "decay_fraction": 1.0, "reference_weight": 0.0},
        "vpd-pg": {"e_step_learning_rate": 1e-4, "e_step_optimizer": "own"},
        "opsd": {"alpha": 0.5},
        "sdar": {"teacher": "ema"},
    },
    "tiny": {
        "vpd": {"teacher": "ema", "e_step_learning_rate": 1e-5, "e_step_optimizer": "own"},
        "vpd-pg": {"e_step_learning_rate": 1e-5, "e_step_optimizer": "own"},
    },
    "code": {
        "vpd": {"top_k": 20},
        "sdpo": {"top_k": 20},
        "vpd-pg": {"top_k": 20, "e_step_every": 5, "beta": 0.1},
        "opsd": {"top_k": 20},
    },
    "science": {
        "vpd": {"top_k": 100},
        "sdpo": {"alpha": 0.5, "top_k": 100},
        "vpd-pg": {"top_k": 100, "e_step_every": 5, "beta": 0.1},
        "opsd": {"top_k": 100},
    },
}  # fmt: skip
LEARNING_RATES = {  # preset → of the algorithms, and of those with another
    "laptop": (4e-4, {"grpo": 2e-4, "sdar": 2e-4, "rft": 2e-4}),
    "tiny": (5e-5, {}),
    "code": (1e-6, {}),
    "science": (1e-5, dict.fromkeys(("grpo", "sdpg", "vpd-pg", "sdar", "rft"), 1e-6)),
}
# What the papers' runs take from the defaults of the classes, which must not change unseen.
DEFAULTS = {
    "vpd": {"e_step_every": 5, "beta": 0.1, "alpha": 1.0, "teacher": "live", "tail": "bucket"},
    "sdpo": {"alpha": 1.0, "teacher": "ema", "ema_rate": 0.05, "tail": "bucket"},
    "vpd-pg": {"e_step_every": 2, "beta": 1.0, "gate_width": 0.15, "ema_rate": 0.05},
}


@pytest.mark.parametrize("name", ALGORITHMS)
@pytest.mark.parametrize("preset", PRESETS)
def test_a_preset_gives_every_algorithm_these_options(preset, name):
    algorithm, plain = PRESETS[preset].algorithm(name), ALGORITHMS[name]()
    assert type(algorithm) is type(plain)
    names = [field.name for field in fields(algorithm)]
    there = {n: getattr(algorithm, n) for n in names if getattr(algorithm, n) != getattr(plain, n)}
    assert there == DIFFERENT[preset].get(name, {})
    usual, others = LEARNING_RATES[preset]
    assert PRESETS[preset].config(name).learning_rate == others.get(name, usual)


@pytest.mark.parametrize("name", DEFAULTS)
def test_the_published_runs_rest_on_these_defaults(name):
    plain = ALGORITHMS[name]()
    assert {field: getattr(plain, field) for field in DEFAULTS[name]} == DEFAULTS[name]
