"""The flags of vpd train: over files, which are over a preset, which is over the defaults."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from vpd_agent.cli.config_file import ConfigEntry, as_arguments, read
from vpd_agent.cli.flags import EnvironmentOptions, FlagGroup, ModelOptions, parse, unknown
from vpd_agent.runs.run_folder import CONFIG, RunFolder


@dataclass(frozen=True, kw_only=True)
class TrainOptions(EnvironmentOptions, ModelOptions):
    out: Path
    """Folder for configuration, metrics, samples, checkpoints and the final model."""
    config: Path | None = None
    """YAML file of flags (learning_rate: 1e-5), or the config.json of another run. Flags that are
    given here win over it; it wins over the preset."""
    preset: str = "auto"
    """Which defaults: laptop, tiny, code, science; auto: by environment and model."""
    train_split: str | None = "train"
    """Split of the environment to train on; None: the environment's own choice."""
    eval_split: str | None = "test"
    """Split to evaluate on, every --eval-every steps."""
    teacher_model: str | None = None
    """Another model that is the teacher, with the student's tokenizer (see --model): its weights
    are frozen, whatever --teacher says. Default: the teacher is made from the student."""
    teacher_prompt: Literal["feedback", "plain"] = "feedback"
    """What the teacher reads: the feedback on the student's attempt, where there is some; or just
    the student's own prompt, as in plain on-policy distillation from a --teacher-model."""
    resume: bool = False
    """Go on from the last checkpoint in --out. Flags that are not given are those of that run. One
    that has finished goes on with more --steps."""
    trackers: tuple[str, ...] = ()
    """Where metrics go beside metrics.jsonl: tensorboard, wandb, trackio or another of accelerate's
    trackers. Their files are in --out."""
    quiet: bool = False
    """No progress bars."""


def read_arguments(name: str, arguments: Sequence[str]) -> tuple[TrainOptions, Any, Any, Any]:
    """Options, algorithm, configuration and template: flags over files over the preset."""
    from vpd_agent.algorithms import ALGORITHMS
    from vpd_agent.rollout.teacher_prompt import TeacherTemplate
    from vpd_agent.train.config import TrainConfig
    from vpd_agent.train.presets import PRESETS, preset_for

    # The defaults depend on files and on what is trained where, so these are read ahead.
    ahead = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    for option in ("--env", "--model", "--preset", "--config", "--out"):
        ahead.add_argument(option)
    ahead.add_argument("--resume", action="store_true")
    ahead.add_argument("-h", "--help", action="store_true")
    early, _ = ahead.parse_known_args(arguments)
    entries = _entries(name, early)
    from_files = {entry.key: entry.value for entry in entries}
    env, model, chosen = (
        getattr(early, key) or str(from_files.get(key, "")) for key in ("env", "model", "preset")
    )
    preset_name = preset_for(env, model) if chosen in ("", "auto") else chosen
    if preset_name not in PRESETS:
        raise ValueError(unknown("preset", preset_name, PRESETS))
    preset = PRESETS[preset_name]
    parts = {
        "options": FlagGroup(TrainOptions),
        "algorithm": FlagGroup(ALGORITHMS[name], preset.algorithm(name)),
        "config": FlagGroup(TrainConfig, preset.config(name)),
        "template": FlagGroup(TeacherTemplate, preset.template, prefix="template"),
    }
    parsed = parse(f"vpd train {name}", [*as_arguments(entries, parts), *arguments], **parts)
    options = replace(parsed.options, preset=preset_name)
    return options, parsed.algorithm, parsed.config, parsed.template


def _entries(name: str, early: argparse.Namespace) -> list[ConfigEntry]:
    """What files say: the run that is resumed, and over it --config."""
    given = read(Path(early.config)) if early.config is not None else []
    out = early.out or next((str(entry.value) for entry in given if entry.key == "out"), None)
    if early.resume and not early.help:
        if out is None:
            raise ValueError("--resume goes on with the run in a folder: pass it as --out DIR.")
        RunFolder.check_begun(out)
    begun = []
    if early.resume and out is not None and (Path(out) / CONFIG).is_file():
        begun = read(Path(out) / CONFIG)
    for entry in (*begun, *given):
        if entry.key == "algorithm" and entry.value != name:
            raise ValueError(
                f"{entry.place}: this is a configuration of {entry.value!r}, not of {name!r}. "
                f"Run vpd train {entry.value}, or choose another file or folder."
            )
    merged = {entry.key: entry for entry in (*begun, *given) if entry.key != "algorithm"}
    return list(merged.values())
