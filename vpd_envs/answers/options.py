"""The options of an environment: the keyword arguments of its constructor, with what its docstring
says of each.

A docstring explains an option in an entry of its own, as those of this suite do:

    max_turns: answers that an episode may have.
    time_limit_seconds, memory_limit_mb: of one comparison.
        Lines that go on are indented.

What a class does not explain, those that it inherits from do. An entry `see `vpd_envs.data.files``
points to the docstring of that module.
"""

from __future__ import annotations

import importlib
import inspect
import re
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

import gymnasium as gym
from gymnasium.envs.registration import load_env_creator

from sandbox import plugins

REQUIRED = inspect.Parameter.empty  # the default of an option that must be given
MAKERS_OWN = ("max_episode_steps", "disable_env_checker")  # options that `gym.make` itself takes

_ENTRY = re.compile(r"^(\w+(?:, \w+)*): *(.*(?:\n[ \t]+.*)*)", re.MULTILINE)
_POINTER = re.compile(r"see `(\w+(?:\.\w+)+)`[.;]? *")


@dataclass(frozen=True)
class Option:
    """One option. kind: its type, as it is written in the code; meaning: empty if none is told."""

    name: str
    kind: str
    default: Any
    meaning: str

    def __str__(self) -> str:
        kind = f": {self.kind}" if self.kind else ""
        return f"{self.name}{kind}" + ("" if self.default is REQUIRED else f" = {self.default!r}")


def options_of(name: str) -> list[Option]:
    """The options of a registered environment, in the order of its constructor."""
    creator = _creator(name)
    preset = gym.spec(name).kwargs
    meanings = _meanings(creator)
    return [
        Option(
            parameter.name,
            _written(parameter.annotation),
            preset.get(parameter.name, parameter.default),
            meanings.get(parameter.name, ""),
        )
        for parameter in parameters_of(creator)[0].values()
    ]


def about(name: str) -> str:
    """The first paragraph of what an environment's docstring says, in one line."""
    return " ".join(_docstring(_creator(name)).split("\n\n")[0].split())


def check_options(name: str, given: Collection[str]) -> None:
    """Raise ValueError for an option that a registered environment does not take, with the closest
    that it does."""
    parameters, takes_any = parameters_of(_creator(name))
    known = [*parameters, *MAKERS_OWN]
    wrong = next((option for option in given if option not in known), None)
    if wrong is None or takes_any:
        return
    said = plugins.unknown(f"option of {name}:", wrong, parameters)
    raise ValueError(f"{said} vpd envs {name} explains them.")


# --- from a constructor -------------------------------------------------------------------------


def _creator(name: str) -> Callable[..., Any]:
    entry_point = gym.spec(name).entry_point
    if entry_point is None:
        raise ValueError(f"{name} has no entry_point, so it can only be made as a batch.")
    return load_env_creator(entry_point) if isinstance(entry_point, str) else entry_point


def parameters_of(creator: Callable[..., Any]) -> tuple[dict[str, inspect.Parameter], bool]:
    """By name; and whether there may be others, since it hands on any keyword argument.

    A class hands them on to the next of those it inherits from that has a constructor.
    """
    if not inspect.isclass(creator):
        return _named(creator)
    found: dict[str, inspect.Parameter] = {}
    for kind in creator.__mro__:
        if "__init__" not in vars(kind):
            continue
        named, goes_on = _named(vars(kind)["__init__"])
        if kind is not creator:  # what a base class requires, its subclass gives
            named = {key: p for key, p in named.items() if p.default is not REQUIRED}
        found |= {key: p for key, p in named.items() if key not in found}
        if not goes_on:
            return found, False
    return found, True


def _named(function: Callable[..., Any]) -> tuple[dict[str, inspect.Parameter], bool]:
    parameters = inspect.signature(function).parameters.values()
    kinds = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    named = {p.name: p for p in parameters if p.kind in kinds and p.name != "self"}
    return named, any(p.kind is inspect.Parameter.VAR_KEYWORD for p in parameters)


def _written(annotation: Any) -> str:
    if annotation is REQUIRED:
        return ""
    return annotation if isinstance(annotation, str) else inspect.formatannotation(annotation)


# --- from docstrings ----------------------------------------------------------------------------


def _meanings(creator: Callable[..., Any]) -> dict[str, str]:
    found: dict[str, str] = {}
    for kind in creator.__mro__ if inspect.isclass(creator) else (creator,):
        for document in (vars(kind).get("__init__"), kind) if inspect.isclass(kind) else (kind,):
            found = _entries(_docstring(document)) | found
    return found


def _docstring(thing: Any) -> str:
    return inspect.cleandoc(getattr(thing, "__doc__", None) or "")


def _entries(docstring: str) -> dict[str, str]:
    found: dict[str, str] = {}
    for names, text in _ENTRY.findall(docstring):
        found |= _explained(names.split(", "), " ".join(text.split()))
    return found


def _explained(names: list[str], text: str) -> Mapping[str, str]:
    """The text of each; what stands behind a pointer to a module is told of the first."""
    pointer = _POINTER.match(text)
    if pointer is None or find_spec(pointer[1]) is None:
        return dict.fromkeys(names, text)
    there = _entries(_docstring(importlib.import_module(pointer[1])))
    meanings = {name: there.get(name, "") for name in names}
    return meanings | {names[0]: f"{meanings[names[0]]} {text[pointer.end() :]}".strip()}
