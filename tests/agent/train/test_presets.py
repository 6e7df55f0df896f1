"""What every preset gives to every algorithm, spelled out."""

from __future__ import annotations

from dataclasses import asdict, fields
from typing import Any

import pytest

from vpd_agent.algorithms import ALGORITHMS, Algorithm
from vpd_agent.rollout.teacher_prompt import TeacherTemplate
from vpd_agent.train.config import TrainConfig
from vpd_agent.train.presets import PRESETS

OWN_E_STEP = {"e_step_optimizer": "own"}
# What differs from the defaults of the algorithm's class; what is not named has just those.
OPTIONS: dict[str, dict[str, dict[str, Any]]] = {
    "laptop": {
        "vpd": {
            "alpha": 0.5,
            "beta": 1.0,
            "teacher": "ema",
            "e_step_learning_rate": 1e-4,
            "reward_weight": 0.3,
        }
        | OWN_E_STEP,
        "vpd-pg": {
            "e_step_learning_rate": 1e-4,
            "gate_e_step": False,
            "shut_rate": 0.5,
            "kl_where_unheard": 0.1,
        }
        | OWN_E_STEP,
        "sdpo": {"alpha": 0.5, "importance_clip": None, "reward_weight": 0.3},
        "sc-sdpo": {"alpha": 0.5, "importance_clip": None, "reward_weight": 0.3},
        "srpo": {"importance_clip": None},
        "distil": {"teacher": "ema"},
        "rlsd": {"share_decay_steps": 0},
        "sdpg": {
            "clip_high": 0.2,
            "decay_fraction": 1.0,
            "distill_weight": 1.0,
            "dual_clip": None,
            "positive_only": False,
            "reference_weight": 0.0,
            "teacher": "ema",
            "warmup_fraction": 0.0,
        },
        "grpo": {"kl_to_reference": 0.1},
        "sdar": {"distill_weight": 0.1, "kl_to_reference": 0.0, "teacher": "ema"},
        "past": {"entry_clip": None, "teacher": "ema", "teacher_learning_rate": 1e-4},
    },
    "tiny": {
        "vpd": {"e_step_learning_rate": 1e-5, "teacher": "ema"} | OWN_E_STEP,
        "vpd-pg": {"e_step_learning_rate": 1e-5} | OWN_E_STEP,
    },
    "code": {
        "vpd": {"top_k": 20},
        "vpd-pg": {"beta": 0.1, "e_step_every": 5, "gate_prior_rows": 32, "top_k": 20},
        "sdpo": {"top_k": 20, "ema_rate": 0.01},
        "sc-sdpo": {"top_k": 20, "ema_rate": 0.01},
        "srpo": {"alpha": 1.0, "top_k": 20, "ema_rate": 0.01},
        "grpo": {"clip_high": 0.28, "scale_advantages": False},
    },
    "science": {
        "vpd": {"top_k": 100},
        "vpd-pg": {"beta": 0.1, "e_step_every": 5, "gate_prior_rows": 32, "top_k": 100},
        "sdpo": {"alpha": 0.5, "top_k": 100},
        "sc-sdpo": {"alpha": 0.5, "top_k": 100},
        "srpo": {"top_k": 100},
        "grpo": {"clip_high": 0.28, "scale_advantages": False},
    },
}
OPTIONS["laptop-long"] = OPTIONS["laptop-games"] = OPTIONS["laptop"]
TINY_MODEL = {
    "steps": 200,
    "group_size": 8,
    "learning_rate_decay": 0.5,
    "adam_beta2": 0.95,
}
LAPTOPS = ("laptop", "laptop-long", "laptop-games")
LAPTOP = TINY_MODEL | {
    "prompts_per_step": 8,
    "max_prompt_tokens": 64,
    "max_teacher_prompt_tokens": 96,
    "max_response_tokens": 12,
    "teach_truncated": False,
    "eval_every": 40,
    "save_every": 100,
}
TINY = TINY_MODEL | {
    "prompts_per_step": 2,
    "group_size": 4,
    "max_prompt_tokens": 6144,
    "max_teacher_prompt_tokens": 9216,
    "max_response_tokens": 128,
    "micro_batch_size": 4,
    "eval_every": 0,
    "samples_every": 1,
    "inspect_every": 1,
}
CONFIGS: dict[str, dict[str, Any]] = {
    "laptop": LAPTOP,
    "laptop-long": LAPTOP | {"max_teacher_prompt_tokens": 160, "max_response_tokens": 32},
    "laptop-games": LAPTOP
    | {
        "prompts_per_step": 4,
        "group_size": 4,
        "eval_every": 20,
        "eval_problems": 100,
        "max_prompt_tokens": 576,
        "max_teacher_prompt_tokens": 864,
        "max_response_tokens": 640,
        "max_turn_tokens": 8,
    },
    "tiny": TINY,
    "code": {"micro_batch_size": 1, "weight_decay": 0.01},
    "science": {"micro_batch_size": 1, "weight_decay": 0.01, "warmup_steps": 10},
}
LAPTOP_RATES = dict.fromkeys(("sdar", "rlsd", "rft"), 2e-4) | {"vpd-pg": 8e-4}
RATES = {  # of learning: that of most algorithms, and of those that have another
    "laptop": (4e-4, LAPTOP_RATES),
    "laptop-long": (4e-4, LAPTOP_RATES),
    "laptop-games": (4e-4, LAPTOP_RATES),
    "tiny": (5e-5, {}),
    "code": (1e-6, {"pi-distill": 5e-6}),
    "science": (
        1e-5,
        dict.fromkeys(("grpo", "sdpg", "vpd-pg", "sdar", "rlsd", "rft"), 1e-6)
        | {"srpo": 5e-6, "pi-distill": 5e-6},
    ),
}
OTHER_CHANGES: dict[str, dict[str, dict[str, Any]]] = {
    **{name: {"vpd-pg": {"teach_end": False}} for name in LAPTOPS},
    "code": {
        "sdpo": {"mini_batches": 32},
        "grpo": {"mini_batches": 4},
        "opsd": {"temperature": 1.1},
        "pi-distill": {"temperature": 0.75, "updates_per_batch": 3},
        "sdpg": {"mini_batches": 8, "warmup_steps": 10, "weight_decay": 0.1},
    },
    "science": {
        "grpo": {"mini_batches": 4},
        "opsd": {"temperature": 1.1},
        "pi-distill": {"temperature": 0.75, "updates_per_batch": 3},
        "sdpg": {"mini_batches": 8, "weight_decay": 0.1},
    },
}
SHORT = "{attempt}:{feedback}"
TEMPLATES = dict.fromkeys(PRESETS, TeacherTemplate()) | dict.fromkeys(
    LAPTOPS,
    TeacherTemplate(
        turn="{prompt}|{demonstration}{feedback}",
        demonstration="{demonstration}:=",
        failed=SHORT,
        solved=SHORT,
    ),
)
# What the published runs take from the defaults of the classes, which must not change unseen.
DEFAULTS = {
    "vpd": {"e_step_every": 5, "beta": 0.1, "alpha": 1.0, "teacher": "live", "tail": "bucket"},
    "sdpo": {
        "alpha": 1.0,
        "teacher": "ema",
        "ema_rate": 0.05,
        "tail": "bucket",
        "distill_normalizer": "sequence",
        "importance_clip": 2.0,
        "temper_teacher": True,
    },
    "vpd-pg": {
        "e_step_every": 2,
        "beta": 1.0,
        "alpha": 0.5,
        "reward_weight": 0.3,
        "gate_width": 0.15,
        "gate_e_step": True,
        "shut_rate": 1.0,
        "kl_where_unheard": 0.0,
        "ema_rate": 0.05,
        "distill_normalizer": "sequence",
    },
    "sdpg": {
        "clip_high": 0.28,
        "dual_clip": 10.0,
        "distill_weight": 1e-3,
        "distill_normalizer": "token",
        "divergence_clip": 20.0,
        "temper_teacher": False,
        "positive_only": True,
        "warmup_fraction": 50 / 400,
        "decay_fraction": 350 / 400,
        "reference_weight": 1e-3,
    },
    "opsd": {"alpha": 0.5, "teacher": "frozen", "top_k": None, "support": "student"},
    "sdar": {"distill_weight": 0.01, "kl_to_reference": 0.01, "sharpness": 5.0},
    "srpo": {
        "entropy_sharpness": 1.0,
        "distill_on": "failed",
        "alpha": 0.5,
        "teacher": "ema",
        "ema_rate": 0.05,
        "importance_clip": 2.0,
        "clip_high": 0.28,
        "scale_advantages": False,
        "normalizer": "token",
    },
    "rlsd": {
        "teacher_share": 0.5,
        "share_decay_steps": 60,
        "token_clip": 0.2,
        "teacher": "ema",
        "ema_rate": 1.0,
        "ema_every": 20,
        "clip_low": 0.2,
        "clip_high": 0.28,
        "dual_clip": 3.0,
        "scale_advantages": True,
        "normalizer": "token",
    },
    "distil": {"future_weight": 1.0, "alpha": 0.0, "distill_normalizer": "constant"},
    "grpo": {"clip_low": 0.2, "clip_high": 0.2, "kl_to_reference": 0.0, "reference_rate": 0.0},
}

every_preset = pytest.mark.parametrize("preset", PRESETS)
every_algorithm = pytest.mark.parametrize("name", ALGORITHMS)


@every_algorithm
@every_preset
def test_an_algorithm_has_its_class_defaults_but_for_these_options(preset, name):
    kind = ALGORITHMS[name]
    expected = asdict(kind()) | OPTIONS[preset].get(name, {})
    chosen = PRESETS[preset].algorithm(name)
    assert type(chosen) is kind
    assert asdict(chosen) == expected


@pytest.mark.parametrize("name", DEFAULTS)
def test_the_published_runs_rest_on_these_defaults(name):
    plain = ALGORITHMS[name]()
    assert {field: getattr(plain, field) for field in DEFAULTS[name]} == DEFAULTS[name]


@every_algorithm
@every_preset
def test_a_run_has_the_default_configuration_but_for_these_fields(preset, name):
    most, others = RATES[preset]
    changed = CONFIGS[preset] | {"learning_rate": others.get(name, most)}
    changed |= OTHER_CHANGES.get(preset, {}).get(name, {})
    assert asdict(PRESETS[preset].config(name)) == asdict(TrainConfig()) | changed


@every_preset
def test_a_preset_has_this_template(preset):
    assert PRESETS[preset].template == TEMPLATES[preset]


@every_preset
def test_a_preset_names_only_what_differs(preset):
    """Options and fields with other values than the defaults, of algorithms there are."""
    chosen = PRESETS[preset]
    for name, options in chosen.algorithms.items():
        defaults = {field.name: field.default for field in fields(ALGORITHMS[name])}
        assert options
        assert all(defaults[option] != value for option, value in options.items())
    assert set(chosen.train_changes) <= set(ALGORITHMS)
    for changes in chosen.train_changes.values():
        assert changes
        assert all(getattr(chosen.train, name) != value for name, value in changes.items())


@every_preset
def test_an_algorithm_that_no_preset_names_keeps_its_defaults(preset, tmp_path):
    file = tmp_path / "elsewhere.py"
    file.write_text(
        "from dataclasses import dataclass\n"
        "from vpd_agent.algorithms import GRPO\n\n"
        "@dataclass(frozen=True)\n"
        "class Mine(GRPO):\n"
        "    clip_low: float = 0.3\n"
    )
    name = f"{file}:Mine"
    chosen = PRESETS[preset].algorithm(name)
    assert isinstance(chosen, Algorithm)
    assert (chosen.name, asdict(chosen)) == (name, asdict(ALGORITHMS["grpo"]()) | {"clip_low": 0.3})
    assert PRESETS[preset].config(name) == PRESETS[preset].train
