"""Default hyper-parameters, per preset, in one place.

A preset is for a kind of task and a kind of model. `tiny` and those that begin with `laptop` are
for tiny models; real models get `code` or `science`, the published runs. The command line picks one
by `preset_for`, and every option overrides it. An algorithm that a preset does not name keeps its
class's defaults.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from sandbox.plugins import unknown
from vpd_agent.algorithms import Algorithm, algorithm_class
from vpd_agent.model import smollm2
from vpd_agent.rollout.teacher_prompt import COMPACT, TeacherTemplate
from vpd_agent.runs.run_folder import MODEL
from vpd_agent.train.config import TrainConfig


@dataclass(frozen=True)
class Preset:
    """What a run starts from.

    algorithms: name → options, where they differ from the defaults of the algorithm's class.
    train_changes: name → fields of the configuration, where they differ from `train`.
    """

    about: str
    train: TrainConfig
    template: TeacherTemplate
    algorithms: dict[str, dict[str, Any]]
    train_changes: dict[str, dict[str, Any]] = field(default_factory=dict)

    def algorithm(self, name: str) -> Algorithm:
        """name: one of ours, or an algorithm from outside (`algorithm_class`)."""
        return algorithm_class(name)(**self.algorithms.get(name, {}))

    def config(self, algorithm: str) -> TrainConfig:
        return replace(self.train, **self.train_changes.get(algorithm, {}))


_LAPTOP_REWARD = 0.3
# Found on MiniCode rather than taken from the papers, whose models and answers are long: the
# learning rates, one optimizer step per batch, a moving teacher, weights of the distillation that a
# model of half a million parameters feels, and what keeps answers ending: no teacher on answers
# that were cut off, and the reward's term beside the distillation, where the papers have none.
LAPTOP = Preset(
    about="vpd/MiniCode-v0, MiniChoice and MiniArithmetic with a tiny model: minutes on a laptop",
    train=TrainConfig(
        steps=200,
        prompts_per_step=8,
        group_size=8,
        learning_rate=4e-4,
        learning_rate_decay=0.5,  # late in a run full steps break teachers
        adam_beta2=0.95,
        max_prompt_tokens=64,
        max_teacher_prompt_tokens=96,
        max_response_tokens=12,
        teach_truncated=False,
        eval_every=40,
        save_every=100,
    ),
    template=COMPACT,
    algorithms={
        "vpd": {
            "reward_weight": _LAPTOP_REWARD,
            "beta": 1.0,  # short answers: the log-ratio is a sum over few tokens
            "e_step_learning_rate": 1e-4,  # stronger E-steps break the teacher late in the run
            "e_step_optimizer": "own",
            # The JSD is bounded: the reverse KL's gradient explodes here once the teacher is sure
            # of what the student must not say, and the ends of runs scatter.
            "alpha": 0.5,
            "teacher": "ema",  # live teachers collapse here through malformed attempts
        },
        "sdpo": {"alpha": 0.5, "importance_clip": None, "reward_weight": _LAPTOP_REWARD},
        "sdpg": {
            "clip_high": 0.2,
            "dual_clip": None,
            "distill_weight": 1.0,
            "warmup_fraction": 0.0,
            "decay_fraction": 1.0,
            "positive_only": False,
            "reference_weight": 0.0,
            "teacher": "ema",
        },
        # F = 2, β = 1, JSD, gate 0.15, EMA 0.05: its defaults, which were found here. Where the
        # gate is shut, a stronger anchor bears larger steps: MiniCode with a cold start ends at
        # .64 and .78 (seeds 20 and 21); at .41 and .33 with a quarter of the rate and 0.03, at .15
        # and .30 with a quarter and none. E-steps while it is shut do no harm, and open it on
        # multiple choice with a cold start.
        "vpd-pg": {
            "e_step_learning_rate": 1e-4,
            "e_step_optimizer": "own",
            "gate_e_step": False,
            "shut_rate": 0.5,
            "kl_where_unheard": 0.1,
        },
        # The anchor bears twice the rate: MiniCode with a cold start ends at .63 and .68 (seeds 20
        # and 21), where 2e-4 without it ends at .15 and .30.
        "grpo": {"kl_to_reference": 0.1},
        "sdar": {"distill_weight": 0.1, "kl_to_reference": 0.0, "teacher": "ema"},
        "sc-sdpo": {"alpha": 0.5, "importance_clip": None, "reward_weight": _LAPTOP_REWARD},
        "srpo": {"importance_clip": None},
        "distil": {"teacher": "ema"},
        "rlsd": {"share_decay_steps": 0},  # runs are longer than the 60 steps of its script
        # With a live teacher its answers stop ending within 40 steps, with the clip or without it.
        "past": {"entry_clip": None, "teacher": "ema", "teacher_learning_rate": 1e-4},
    },
    train_changes={
        # Twice SDPO's rate, with which a teacher that speaks on ends makes answers run on.
        "vpd-pg": {"learning_rate": 8e-4, "teach_end": False},
        **{name: {"learning_rate": 2e-4} for name in ("sdar", "rlsd", "rft")},
    },
)

LAPTOP_LONG = replace(
    LAPTOP,
    about="vpd/MiniFunction-v0, whose answers and feedback are longer: otherwise as laptop",
    train=replace(LAPTOP.train, max_teacher_prompt_tokens=160, max_response_tokens=32),
)

LAPTOP_GAMES = replace(
    LAPTOP,
    about="vpd/TextArena-v0 with tiny-game-warm: games of four short moves, of which there are a "
    "quarter as many in a step as laptop has answers",
    train=replace(
        LAPTOP.train,
        prompts_per_step=4,
        group_size=4,
        eval_every=20,
        eval_problems=100,
        max_prompt_tokens=576,
        max_teacher_prompt_tokens=864,
        max_response_tokens=640,  # of a whole game: the refusal of a move has 200
        max_turn_tokens=8,
    ),
)

TINY = Preset(
    about="any other environment with a tiny model: to see every part of the loop run on a laptop",
    train=replace(
        LAPTOP.train,
        learning_rate=5e-5,
        prompts_per_step=2,
        group_size=4,
        max_prompt_tokens=6144,
        max_teacher_prompt_tokens=9216,
        max_response_tokens=128,
        teach_truncated=True,  # of random weights nearly every answer is
        eval_every=0,
        save_every=50,
        samples_every=1,
        inspect_every=1,
        micro_batch_size=4,
    ),
    template=TeacherTemplate(),
    algorithms={
        "vpd": {"e_step_learning_rate": 1e-5, "e_step_optimizer": "own", "teacher": "ema"},
        "vpd-pg": {"e_step_learning_rate": 1e-5, "e_step_optimizer": "own"},
    },
)

# VPD's E-steps as published for long answers. Nobody knows beforehand whether a model reads its
# feedback, so the gate begins nearly shut (docs/results/smollm2.md).
_VPD_PG = {"e_step_every": 5, "beta": 0.1, "gate_prior_rows": 32}
# What GRPO is compared with SDPO as, in the code of arXiv 2601.20802 (baseline_grpo.yaml and
# user.yaml): no division by the deviation, a higher upper clip, mini-batches of 8 of 32 prompts.
_GRPO = {"scale_advantages": False, "clip_high": 0.28}
# run_opsd_1b.sh of the code of arXiv 2601.18734, where it is of sampling and loss alike. (Its
# learning rates, 2e-5 and 2e-4, are of adapters.)
_OPSD = {"temperature": 1.1}
# run_qwen3_4b_sdpg_boxed.sh of the code of arXiv 2606.04036: 16 of 128 prompts in a mini-batch.
_SDPG = {"mini_batches": 8, "weight_decay": 0.1}  # with 10 steps of warm-up
# arXiv 2602.04942, table 2: its learning rate on τ-bench, its temperature, 3 steps per batch.
_PI_DISTILL = {"learning_rate": 5e-6, "temperature": 0.75, "updates_per_batch": 3}

# SRPO's runs (arXiv 2604.02288, section 4.1): 5e-6, one optimizer step per batch; the options of
# its SDPO branch are SDPO's, whose runs in code it does not repeat. RLSD's script (arXiv
# 2604.03128): 1e-6, one step per batch. The settings of SC-SDPO (arXiv 2605.27765) and DistIL
# (arXiv 2606.05152) were not to be found: SDPO's, and those of the class. SC-SDPO compares the
# problems of a mini-batch, so it has one step per batch in code too.

# VPD's text (arXiv 2605.15113) names neither mini-batches nor weight decay: it has one optimizer
# step per batch, and otherwise what SDPO has.
CODE = Preset(
    about="rich feedback (code) with real models: SDPO, arXiv 2601.20802; VPD, arXiv 2605.15113",
    # experiments/rich_feedback/run_sdpo.sh; the weight decay is verl's default.
    train=TrainConfig(learning_rate=1e-6, weight_decay=0.01, micro_batch_size=1),
    template=TeacherTemplate(),
    algorithms={
        "vpd": {"top_k": 20},
        "sdpo": {"top_k": 20, "ema_rate": 0.01},
        "sc-sdpo": {"top_k": 20, "ema_rate": 0.01},
        "srpo": {"alpha": 1.0, "top_k": 20, "ema_rate": 0.01},
        "vpd-pg": _VPD_PG | {"top_k": 20},
        "grpo": _GRPO,
    },
    train_changes={
        "sdpo": {"mini_batches": 32},  # one prompt each
        "grpo": {"mini_batches": 4},
        "opsd": _OPSD,
        "pi-distill": _PI_DISTILL,
        "sdpg": {**_SDPG, "warmup_steps": 10},
    },
)

SCIENCE = Preset(
    about="everything else (science, mathematics, tools) with real models: the same papers",
    # experiments/generalization/run_sdpo_all.sh: one optimizer step per batch.
    train=TrainConfig(learning_rate=1e-5, warmup_steps=10, weight_decay=0.01, micro_batch_size=1),
    template=TeacherTemplate(),
    algorithms={
        "vpd": {"top_k": 100},
        "sdpo": {"alpha": 0.5, "top_k": 100},
        "sc-sdpo": {"alpha": 0.5, "top_k": 100},
        "srpo": {"top_k": 100},
        "vpd-pg": _VPD_PG | {"top_k": 100},
        "grpo": _GRPO,
    },
    train_changes={
        # Its authors try learning rates of 1e-5 and 1e-6, and mini-batches of 8 and 32 prompts.
        "grpo": {"learning_rate": 1e-6, "mini_batches": 4},
        "opsd": _OPSD,
        "pi-distill": _PI_DISTILL,
        "sdpg": {**_SDPG, "learning_rate": 1e-6},
        "srpo": {"learning_rate": 5e-6},
        **{name: {"learning_rate": 1e-6} for name in ("vpd-pg", "sdar", "rlsd", "rft")},
    },
)

PRESETS = {
    "laptop": LAPTOP,
    "laptop-long": LAPTOP_LONG,
    "laptop-games": LAPTOP_GAMES,
    "tiny": TINY,
    "code": CODE,
    "science": SCIENCE,
}
CODE_ENVIRONMENTS = tuple(
    f"vpd/{name}-v0" for name in ("LiveCodeBench", "CodeContests", "HumanEval", "MBPP")
)
TINY_WIDTH = 256  # models up to this hidden size are taken for tiny ones


def preset_for(environment: str, model: str) -> str:
    """The name of the preset for this environment and model."""
    if is_tiny(model):
        if environment == "vpd/MiniFunction-v0":
            return "laptop-long"
        if environment == "vpd/TextArena-v0" and model.startswith("tiny-game"):
            return "laptop-games"
        return "laptop" if environment.startswith("vpd/Mini") else "tiny"
    return "code" if environment in CODE_ENVIRONMENTS else "science"


def chosen_preset(preset: str, environment: str, model: str) -> str:
    """The name of a preset, of which "auto" is that for this environment and model. Raises
    ValueError for one that there is not."""
    name = preset_for(environment, model) if preset == "auto" else preset
    if name not in PRESETS:
        raise ValueError(unknown("preset", name, PRESETS))
    return name


def is_tiny(model: str) -> bool:
    """Whether a model is a tiny one, by its name or by its folder's config.json."""
    if model.split("-")[0] == "tiny":
        return True
    if model == smollm2.NAME:  # even beside a folder of that name
        return False
    folder = Path(model, MODEL) if Path(model, MODEL).is_dir() else Path(model)  # a run has it
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return config.get("hidden_size", TINY_WIDTH + 1) <= TINY_WIDTH
