"""The flags of vpd train: over files, which are over a preset, which is over the defaults."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import tyro

from vpd_agent.cli.config_file import ConfigEntry, entries_for, read, with_defaults
from vpd_agent.cli.flags import FlagGroup, flag_types, parse
from vpd_agent.cli.train_help import ALL, COMMON, check_topic, print_help
from vpd_agent.runs.record import read_record
from vpd_agent.runs.run_folder import CONFIG, RunFolder
from vpd_agent.train.options import TrainOptions

if TYPE_CHECKING:
    from vpd_agent.algorithms import Algorithm
    from vpd_agent.rollout.teacher_prompt import TeacherTemplate
    from vpd_agent.train.config import TrainConfig
    from vpd_agent.train.presets import Preset

REQUIRED: Any = tyro.MISSING


class TrainArguments(NamedTuple):
    """What the command line and the files of vpd train say. given: the names of what they name, the
    rest being the preset's."""

    options: TrainOptions
    algorithm: Algorithm
    config: TrainConfig
    template: TeacherTemplate
    given: frozenset[str]


def read_arguments(name: str, arguments: Sequence[str]) -> TrainArguments:
    """The flags behind the algorithm's name, over files, which are over the preset.

    Raises ValueError for an unknown algorithm or preset, a bad file, or a folder that cannot be
    resumed. Exits as `parse` does.
    """
    from vpd_agent.algorithms import algorithm_class
    from vpd_agent.train.presets import PRESETS, chosen_preset

    algorithm = algorithm_class(name)
    # The defaults depend on files and on what is trained where, so these are read ahead.
    ahead = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    for option in ("--env", "--model", "--preset", "--config", "--out"):
        ahead.add_argument(option)
    ahead.add_argument("--resume", action="store_true")
    ahead.add_argument("-h", "--help", nargs="?", const=COMMON)
    ahead.add_argument("--help-all", dest="help", action="store_const", const=ALL)
    early, _ = ahead.parse_known_args(arguments)
    if early.help is not None:
        check_topic(early.help)
    entries = _entries((name, algorithm.name), early)
    from_files = {entry.key: entry.value for entry in entries}
    env, model, chosen = (
        getattr(early, key) or str(from_files.get(key, "")) for key in ("env", "model", "preset")
    )
    preset = chosen_preset(chosen or "auto", env, model)
    groups = flag_groups(algorithm, PRESETS[preset])
    if (env and model) or early.help is not None:
        folder = _usual_folder(algorithm.name, env or "ENVIRONMENT", model or "MODEL")
        usual = replace(groups["options"].default, out=folder)
        groups["options"] = replace(groups["options"], default=usual)
    groups = with_defaults(groups, entries)
    if early.help is not None:
        print_help(f"vpd train {name}", groups, early.help, preset)
        raise SystemExit(0)
    parsed = parse(f"vpd train {name}", arguments, description="", **groups)
    options = replace(parsed.options, preset=preset)
    given = frozenset(from_files) | {
        word.removeprefix("--").removeprefix("no-").partition("=")[0].replace("-", "_")
        for word in arguments
        if word.startswith("--")
    }
    return TrainArguments(options, parsed.algorithm, parsed.config, parsed.template, given)


def flag_groups(algorithm: type[Algorithm], preset: Preset) -> dict[str, FlagGroup]:
    """The flags of vpd train. Raises ValueError if an option of the algorithm has the name of one
    of them."""
    from vpd_agent.rollout.teacher_prompt import TeacherTemplate
    from vpd_agent.train.config import TrainConfig

    name = algorithm.name
    own = FlagGroup(algorithm, preset.algorithm(name))
    others = {
        "options": FlagGroup(
            TrainOptions, TrainOptions(env=REQUIRED, model=REQUIRED, out=REQUIRED)
        ),
        "config": FlagGroup(TrainConfig, preset.config(name)),
        "template": FlagGroup(TeacherTemplate, preset.template, prefix="template."),
    }
    taken = {"name", *flag_types(others)}.intersection(flag_types({"": own}))
    if taken:
        raise ValueError(
            f"{name}: vpd train has other flags of the name {', '.join(sorted(taken))}: rename "
            f"these options of the algorithm."
        )
    return {"options": others.pop("options"), "algorithm": own, **others}


def _usual_folder(algorithm: str, env: str, model: str) -> Path:
    """Of a run that is not told one: named by what trains which model where."""
    parts = (algorithm, env.rpartition("/")[2], model.rstrip("/").rpartition("/")[2])
    return Path("runs", "-".join(parts))


def _entries(names: tuple[str, str], early: argparse.Namespace) -> list[ConfigEntry]:
    """What files say: the run that is resumed, and over it --config.

    names: the algorithm's, as it was typed and its own.
    """
    given = entries_for(names, read(Path(early.config))) if early.config is not None else []
    begun: list[ConfigEntry] = []
    if early.resume and early.help is None:
        said = {entry.key: str(entry.value) for entry in given}
        env, model = (getattr(early, key) or said.get(key) for key in ("env", "model"))
        out = early.out or said.get("out")
        if out is None and env and model:
            out = _usual_folder(names[1], env, model)
        if out is None:
            raise ValueError("--resume goes on with the run in a folder: pass it as --out DIR.")
        RunFolder.check_begun(out)
        if read_record(Path(out)):
            begun = read(Path(out) / CONFIG)
    for entry in (*begun, *given):
        if entry.key == "algorithm" and entry.value != names[1]:
            raise ValueError(
                f"{entry.place}: this is a configuration of {entry.value!r}, not of {names[1]!r}. "
                f"Run vpd train {entry.value}, or choose another file or folder."
            )
    merged = {entry.key: entry for entry in (*begun, *given) if entry.key != "algorithm"}
    return list(merged.values())
