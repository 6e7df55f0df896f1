"""What is compared: algorithms, feedback and settings as contestants, and what tells two
experiments apart."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

from sandbox.plugins import did_you_mean, unknown

EVERY = "*"  # in a setting, for every algorithm
OWN = {  # flags of vpd train that the comparison sets, and how it is asked for them
    "env": "--env",
    "model": "--model",
    "data": "--data",
    "sandbox": "--sandbox",
    "set": "--set",
    "steps": "--steps",
    "seed": "--seeds",
    "feedback": "--feedback",
    "out": "--out",
    "resume": "nothing: the same command goes on by itself",
    "eval_seed": "nothing: it is the same for all runs",
    "set_aside": "--tune",
    "run_group": "nothing: it is the name of the folder --out",
}
_LONGEST_NAME = 80  # of a folder, in characters
Options = tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class Contestant:
    """One method as it is compared.

    label: shown everywhere, and unique: "vpd", "vpd e_step_every=2", "sdpo siblings".
    options: flags of vpd train beyond those that all runs share, as (name, value).
    folder: a name for its runs' folders.
    """

    label: str
    algorithm: str
    feedback: str
    options: Options
    folder: str

    def arguments(self, more: Options = ()) -> list[str]:
        """Its flags for vpd train; `more` wins over its own."""
        flags = [x for key, value in (*self.options, *more) for x in _flag(key, value)]
        return ["--feedback", self.feedback, *flags]


@dataclass(frozen=True)
class Setting:
    """One argument of --set-algorithm: a flag of an algorithm, and the values that it takes."""

    algorithm: str  # or EVERY
    key: str
    values: tuple[str, ...]


def read_settings(
    texts: Sequence[str], algorithms: Sequence[str], known: Mapping[str, Mapping[str, Any]]
) -> list[Setting]:
    """The settings in texts of the form ALGORITHM.KEY=VALUE,VALUE; ALGORITHM may be '*'.

    known: algorithm → the flags of vpd train that it has, by name.
    Raises ValueError for another form, an algorithm that is not compared, a flag that it does not
    have, a flag that the comparison itself sets, and for what is said twice.
    """
    found: dict[tuple[str, str], Setting] = {}
    for text in texts:
        setting = _setting(text, algorithms)
        for name in algorithms if setting.algorithm == EVERY else [setting.algorithm]:
            _check_key(text, setting.key, name, known[name])
        if found.setdefault((setting.algorithm, setting.key), setting) is not setting:
            raise ValueError(
                f"--set-algorithm sets {setting.key} of {setting.algorithm} twice. Give all its "
                f"values at once: {setting.algorithm}.{setting.key}=A,B."
            )
    return list(found.values())


def contestants(
    algorithms: Sequence[str], feedback: Sequence[str], settings: Sequence[Setting]
) -> list[Contestant]:
    """Each algorithm with each feedback and each combination of its settings. A label says only
    what differs."""
    found = []
    for algorithm, source in product(algorithms, feedback):
        chosen = {s.key: s for s in settings if s.algorithm == EVERY}
        chosen |= {s.key: s for s in settings if s.algorithm == algorithm}
        for values in product(*(s.values for s in chosen.values())):
            options = tuple(zip(chosen, values, strict=True))
            words = [algorithm, *([source] if len(feedback) > 1 else [])]
            words += [f"{key}={value}" for key, value in options if len(chosen[key].values) > 1]
            label = " ".join(words)
            found.append(Contestant(label, algorithm, source, options, _folder(label)))
    return found


def check_shared(arguments: Sequence[str], known: Mapping[str, Mapping[str, Any]]) -> None:
    """Raise ValueError for flags for all runs that one of the algorithms does not have, or that the
    comparison itself sets. known: as of `read_settings`."""
    everything = {key for flags in known.values() for key in flags}
    for argument in arguments:
        if not argument.startswith("--") or argument == "--":
            continue
        flag = argument.partition("=")[0]
        key = flag.removeprefix("--").replace("-", "_")
        bare = key.removeprefix("no_")
        key = bare if key not in everything and bare in everything else key
        if key in OWN:
            raise ValueError(f"{flag} stands behind '--', but vpd compare sets it: use {OWN[key]}.")
        if key not in everything:
            hint = did_you_mean(flag, [f"--{name.replace('_', '-')}" for name in everything])
            raise ValueError(
                f"Unknown flag {flag} behind '--'.{hint} See vpd train vpd --help-all."
            )
        having = [name for name, flags in known.items() if key in flags]
        if len(having) < len(known):
            lacking = next(name for name in known if name not in having)
            raise ValueError(
                f"{flag} behind '--' goes to every run, but {lacking} has no such flag. Give it to "
                f"those that have it: --set-algorithm {having[0]}.{key}=…"
            )


def without_doubles(
    what: str, values: Sequence[Any], meaning: Callable[[Any], str] = str
) -> tuple[tuple[Any, ...], str]:
    """Of the values that mean the same the first, in order, and a sentence on those that came more
    than once ("": none)."""
    found: dict[str, list[Any]] = {}
    for value in values:
        found.setdefault(meaning(value), []).append(value)
    twice = [" = ".join(map(str, dict.fromkeys(some))) for some in found.values() if some[1:]]
    said = f"{what}: {', '.join(twice)} is given more than once; it counts once." if twice else ""
    return tuple(some[0] for some in found.values()), said


def feedback_meaning(text: str) -> str:
    """What --feedback names, without the innermost `environment`, which changes nothing below
    another source: siblings and environment+siblings are the same."""
    return text.removeprefix("environment+")


def _setting(text: str, algorithms: Sequence[str]) -> Setting:
    left, equals, right = text.partition("=")
    names = [name for name in (EVERY, *algorithms) if left.startswith(f"{name}.")]
    values = tuple(right.split(","))
    if not equals or "." not in left or not all(values):
        raise ValueError(
            f"--set-algorithm: expected ALGORITHM.KEY=VALUE or ALGORITHM.KEY=VALUE,VALUE, such as "
            f"vpd.e_step_every=1,2, got {text!r}."
        )
    if not names:
        name = left.partition(".")[0]
        raise ValueError(
            f"--set-algorithm {text}: {unknown('algorithm', name, [*algorithms, EVERY])}"
        )
    name = max(names, key=len)
    if len(set(values)) < len(values):
        raise ValueError(f"--set-algorithm {text}: a value is given twice.")
    return Setting(name, left.removeprefix(f"{name}.").replace("-", "_"), values)


def _check_key(text: str, key: str, algorithm: str, known: Collection[str]) -> None:
    if key in OWN:
        raise ValueError(f"--set-algorithm {text}: vpd compare sets {key}: use {OWN[key]}.")
    if key not in known:
        hint = did_you_mean(key, [name for name in known if name not in OWN])
        raise ValueError(
            f"--set-algorithm {text}: {algorithm} has no option {key!r}.{hint} "
            f"vpd train {algorithm} --help-all lists them."
        )


def _flag(key: str, value: str) -> list[str]:
    name = key.replace("_", "-")
    if value.lower() in ("true", "false"):
        return [f"--{name}" if value.lower() == "true" else f"--no-{name}"]
    return [f"--{name}", value]


def _folder(label: str) -> str:
    """A name that is safe on every disk. What it cannot say of the label, a hash does."""
    spaced = label.replace(" ", "_")
    safe = re.sub(r"[^\w.+=-]+", "_", spaced)[:_LONGEST_NAME]
    if safe == spaced:
        return safe
    return f"{safe}-{hashlib.sha256(label.encode()).hexdigest()[:6]}"
