"""experiment.json: what a folder compares. Another experiment in the same folder is refused; more
seeds and contestants of the same one are not."""

from __future__ import annotations

import fcntl
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from vpd_agent.comparison.runs import Run
from vpd_agent.console import say
from vpd_agent.runs.files import write_atomically
from vpd_agent.runs.record import differences, other_software, read_record
from vpd_envs.data.provenance import leaves

EXPERIMENT = "experiment.json"
FORMAT = 1  # of this file
CHANGES_NOTHING = ("sandbox", "threads", "data")  # in a run; what the data says has a fingerprint
SHARED = (  # flags that must be the same in all runs
    *("env", "set", "model", "train_split", "eval_split", "steps", "success_reward"),
    *("eval_every", "eval_problems", "eval_samples", "max_response_tokens", "temperature"),
)
_LOCK = ".compare.lock"


@contextmanager
def locked(out: Path) -> Iterator[None]:
    """Hold a comparison's folder. Raises ValueError if another comparison does."""
    if out.exists() and not out.is_dir():
        raise ValueError(f"--out {out} is a file; pass a folder.")
    out.mkdir(parents=True, exist_ok=True)
    with (out / _LOCK).open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise ValueError(
                f"Another vpd compare works in {out}. Wait for it, or pass another --out."
            ) from None
        try:
            yield
        finally:
            if {path.name for path in out.iterdir()} == {_LOCK}:  # bad input leaves nothing behind
                (out / _LOCK).unlink()
                out.rmdir()


def read_experiment(out: Path) -> dict[str, Any]:
    """What a folder compares; empty if it is none of a comparison."""
    path = out / EXPERIMENT
    if not path.is_file():
        return {}
    found = json.loads(path.read_text(encoding="utf-8"))
    if found.get("format") != FORMAT:
        raise ValueError(
            f"{path} is of format {found.get('format')}, this version writes {FORMAT}. Pass "
            f"another --out."
        )
    return found


def write_experiment(out: Path, experiment: Mapping[str, Any]) -> None:
    write_atomically(out / EXPERIMENT, json.dumps({"format": FORMAT, **experiment}, indent=1))


def shared_settings(records: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """The flags of SHARED, and the rollouts of a step. records: contestant → its config.json.

    Raises ValueError where two contestants differ in one of them.
    """
    found: dict[str, dict[str, Any]] = {}
    for label, record in records.items():
        flags = {**record["options"], **record["config"]}
        found[label] = {key: flags[key] for key in SHARED}
        found[label]["rollouts per step"] = flags["prompts_per_step"] * flags["group_size"]
    (first, mine), *others = found.items()
    for label, theirs in others:
        for key, value in theirs.items():
            if value != mine[key]:
                raise ValueError(
                    f"{label} has {key} = {value!r}, {first} has {mine[key]!r}: it must be the "
                    f"same for all that are compared."
                )
    return json.loads(json.dumps(mine))


def check_same(out: Path, there: Mapping[str, Any], here: Mapping[str, Any]) -> None:
    """Raise ValueError if a folder holds another experiment: one with other shared settings, other
    problems, another model or another way of tuning."""
    if not there:
        return
    told = []
    for part in ("shared", "fingerprints", "tune"):
        old, new = (dict(leaves(e[part])) for e in (there, here))
        told += [
            f"{name} is {old.get(name)!r} there, {new.get(name)!r} here"
            for name in dict.fromkeys([*old, *new])
            if old.get(name) != new.get(name)
        ]
    if told:
        raise ValueError(
            f"{out} holds another comparison: {'; '.join(told)}. Pass another --out, or remove "
            f"that folder."
        )


def check_runs(
    runs: Sequence[Run],
    records: Mapping[Run, Mapping[str, Any]],
    fingerprints: Mapping[str, Any],
) -> None:
    """Raise ValueError if a run that was begun is not what would be trained in its place, or began
    with other inputs, such as the weights of a model of the same name on another machine.

    fingerprints: of this comparison.
    """
    for run in runs:
        there = read_record(run.path)
        if not there:
            if run.finished:
                raise ValueError(f"{run.path} holds a model without a config.json. Remove it.")
            continue
        here = records[run]
        told = [
            f"{name} is {old!r} there, {new!r} here"
            for name, (old, new) in differences(there, here).items()
            if name not in CHANGES_NOTHING
        ]
        if told:
            raise ValueError(
                f"{run.path} holds a run of another comparison: {'; '.join(told)}. Pass another "
                f"--out, or remove that folder to train it again."
            )
        inputs = other_inputs(there, here, fingerprints)
        if here["options"]["lora_rank"] is not None:  # an adapter's first weights differ by seed
            inputs.pop("model.weights", None)
        told = [
            f"{_INPUTS[name].format(**here['options'])} than there are here (their hash is {old} "
            f"there, {new} here)"
            for name, (old, new) in inputs.items()
            if old and new
        ]
        if told:
            raise ValueError(
                f"{run.path} holds a run that began with other {', other '.join(told)}, so it "
                f"cannot be compared with runs from here. Pass another --out, or remove that "
                f"folder to train it again."
            )
        if others := other_software(there, here):
            say(f"Warning: {run.path}, which is kept, was trained with other software: {others}.")


_INPUTS = {
    "train": "training problems",
    "eval": "held-out problems",
    "model.weights": "weights of {model}",
    "model.model_config": "configuration of {model}",
    "model.tokenizer": "tokenizer of {model}",
}


def other_inputs(
    there: Mapping[str, Any], here: Mapping[str, Any], fingerprints: Mapping[str, Any]
) -> dict[str, tuple[Any, Any]]:
    """What a run began with that is not what a comparison begins with: name → (hash there, here).

    there, here: config.json of the run, and what it would say of one from here. fingerprints: of
    the comparison.
    """
    expected = dict(fingerprints)
    if here["config"]["set_aside"]:  # a trial, which is scored on training problems
        expected["eval"] = expected["train"]
    old, new = dict(leaves(there.get("fingerprints", {}))), dict(leaves(expected))
    return {name: (old.get(name), new[name]) for name in new if old.get(name) != new[name]}
