"""What config.json says of a run, and in what two runs differ."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, is_dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vpd_agent.runs.machine import machine
from vpd_agent.runs.run_folder import CONFIG
from vpd_envs.catalog import parsed_options
from vpd_envs.data.provenance import (
    NOT_JUDGING,
    changed,
    commit,
    field_defaults,
    leaves,
    versions,
)
from vpd_envs.data.provenance import differences as told_differences

if TYPE_CHECKING:
    from vpd_agent.algorithms import Algorithm
    from vpd_agent.rollout.teacher_prompt import TeacherTemplate
    from vpd_agent.train.config import TrainConfig
    from vpd_agent.train.options import TrainOptions

FORMAT = 2  # of a run's folder; 1 had other names of flags, and said no number
# Entries of it that are to be read:
NOT_FLAGS = ("format", "versions", "commit", "machine", "fingerprints")
UNSAVED = ("config", "resume", "dry_run")  # flags that say how a run is begun, not what it is
PACKAGES = (  # whose versions may change what a run does
    *("torch", "transformers", "tokenizers", "gymnasium", "numpy", "accelerate", "peft", "vllm"),
    *("math-verify", "reasoning-gym", "datasets"),
)
INSPECTION = ("inspect_every", "inspect_groups", "inspect_max_mb")
HARMLESS = (
    *("out", "quiet", "trackers", "run_group", "fit", "memory_gb"),
    *("save_every", "samples_every", "samples_all", *INSPECTION),
)


def read_record(folder: Path) -> dict[str, Any]:
    """The config.json of the run in a folder; empty without one.

    Raises ValueError if it is of another format than ours.
    """
    path = folder / CONFIG
    if not path.is_file():
        return {}
    record = json.loads(path.read_text(encoding="utf-8"))
    there = record.get("format", 1)
    if there != FORMAT:
        raise ValueError(
            f"The run in {folder} was made by {'an earlier' if there < FORMAT else 'a later'} "
            f"version of this project, which names flags and files otherwise (format {there}; this "
            f"version has {FORMAT}). Start a new run, or go on with that version."
        )
    return record


def differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    """What the flags of two saved configurations differ in, harmless ones apart:
    name → (old, new).

    A flag that came after `old` was saved counts as having had its default there: new flags come
    with a default that leaves everything as it was.
    """
    flags_of = ({k: v for k, v in c.items() if k not in NOT_FLAGS} for c in (old, new))
    a, b = (dict(leaves(json.loads(json.dumps(c)))) for c in flags_of)
    defaults = {} if b.keys() <= a.keys() else _defaults(new)
    harmless = {f"options.{name}" for name in HARMLESS} | {f"config.{name}" for name in HARMLESS}
    return {
        name.removeprefix("options.").removeprefix("config."): values
        for name, values in changed(a, b, defaults).items()
        if name not in harmless
    }


def _defaults(record: Mapping[str, Any]) -> dict[str, Any]:
    """Of the flags of a saved configuration, those that there are."""
    from vpd_agent.algorithms import algorithm_class
    from vpd_agent.train.config import TrainConfig
    from vpd_agent.train.options import TrainOptions

    classes: dict[str, type] = {"config": TrainConfig, "options": TrainOptions}
    if "name" in record.get("algorithm", {}):
        classes["algorithm"] = algorithm_class(record["algorithm"]["name"])
    return {
        name: default
        for part, its_class in classes.items()
        for name, default in field_defaults(its_class, prefix=f"{part}.").items()
    }


def other_software(old: Mapping[str, Any], new: Mapping[str, Any]) -> str:
    """In words, what else two saved configurations were made with; empty if with the same."""
    return told_differences(*({k: c.get(k) for k in ("versions", "commit")} for c in (old, new)))


def same_options(old: Sequence[str] | None, new: Sequence[str] | None) -> bool:
    """Whether two values of --set mean the same to an environment's verdicts."""
    a, b = (parsed_options(given or ()) for given in (old, new))
    return all(a.get(k) == b.get(k) for k in {*a, *b}.difference(NOT_JUDGING))


def saved(
    algorithm: Algorithm, config: TrainConfig, template: TeacherTemplate, options: TrainOptions
) -> dict[str, Any]:
    """What a run writes into its config.json: all that repeats it when read as a file of flags,
    and the format, the versions, the commit and the machine that it was begun with."""
    chosen = {
        name: str(value) if isinstance(value, Path) else value
        for name, value in asdict(options).items()
        if name not in UNSAVED
    }
    assert is_dataclass(algorithm)
    return {
        "format": FORMAT,
        "algorithm": {"name": algorithm.name, **asdict(algorithm)},
        "config": asdict(config),
        "template": asdict(template),
        "options": chosen,
        "versions": versions(*PACKAGES),
        "commit": commit(),
        "machine": machine(),
    }
