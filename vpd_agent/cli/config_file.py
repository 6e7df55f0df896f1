"""A run's configuration as a file: what a person writes in YAML, and what a run has saved.

The keys of a file are the names of the flags, with hyphens or underscores:

    env: vpd/MiniCode-v0
    model: tiny-warm
    learning_rate: 1e-4
    template: {max_feedback_chars: 500}      # or template.max_feedback_chars: 500
    methods:                                 # what holds for one algorithm only, over the rest
      grpo: {learning_rate: 2e-4}
    base: shared.yaml                        # another file beside it, which this one is over

A run's own config.json is such a file too, its flags in the sections that name their kind.
"""

from __future__ import annotations

import copy
import json
import types
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, fields, is_dataclass, replace
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin

from sandbox.plugins import did_you_mean, is_import, unknown
from vpd_agent.cli.flags import FlagGroup, flag_types, other_name
from vpd_agent.runs.record import NOT_FLAGS, UNSAVED

METHODS = "methods"  # of a file for several algorithms: what holds for one of them
BASE = "base"  # of a file: another one, whose values it has where it says nothing itself
SECTIONS = ("algorithm", "config", "options")  # of a run's config.json, with flags; and "template"
WORDS: dict[Any, str] = {  # for the types of values
    bool: "true or false",
    int: "a whole number",
    float: "a number",
    str: "text",
    Path: "a path",
}


@dataclass(frozen=True)
class ConfigEntry:
    """One value of a file.

    key: its flag's name, with underscores, nested parts joined by dots.
    method: the algorithm that it is for; "" for all.
    """

    key: str
    value: Any
    place: str  # file and, where known, line
    method: str = ""


def read(path: Path, over: tuple[Path, ...] = ()) -> list[ConfigEntry]:
    """The entries of a YAML or JSON file, the algorithm's name under the key `algorithm`; and those
    of its base, where it has one, that it does not have itself.

    over: the files whose base this one is.
    Raises FileNotFoundError without a file, ValueError for one that is no mapping, has a key twice
    or is its own base.
    """
    if path.resolve() in over:
        raise ValueError(f"{path} is its own {BASE!r}.")
    if not path.is_file():
        raise FileNotFoundError(f"There is no configuration file {path}.")
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not UTF-8 text: {error}") from error
    content = _from_json(path, text) if path.suffix == ".json" else _from_yaml(path, text)
    if not isinstance(content, _Mapping) or not content:
        came = f"{content!r:.60}" if content else "nothing"
        raise ValueError(
            f"{path}: expected names of flags and their values (steps: 100), got {came}."
        )
    entries: dict[tuple[str, str], ConfigEntry] = {}
    for entry in _flat(path, content):
        if (entry.method, entry.key) in entries:
            raise ValueError(f"{entry.place}: {entry.key!r} is there twice.")
        entries[entry.method, entry.key] = entry
    base = entries.pop(("", BASE), None)
    if base is not None:
        below = read(path.parent / str(base.value), (*over, path.resolve()))
        entries = {(entry.method, entry.key): entry for entry in below} | entries
    return list(entries.values())


def entries_for(names: tuple[str, str], entries: Iterable[ConfigEntry]) -> list[ConfigEntry]:
    """The entries for all algorithms, then those for one of them, which are over the others.

    names: of that one, as it was typed and its own. Raises ValueError for a method that is none.
    """
    from vpd_agent.algorithms import ALGORITHMS

    entries = list(entries)
    for entry in entries:
        known = entry.method in ("", *ALGORITHMS, *names) or is_import(entry.method)
        if not known:
            raise ValueError(f"{entry.place}: {unknown('algorithm', entry.method, ALGORITHMS)}")
    return [*(e for e in entries if not e.method), *(e for e in entries if e.method in names)]


def with_defaults(
    groups: Mapping[str, FlagGroup], entries: Iterable[ConfigEntry]
) -> dict[str, FlagGroup]:
    """The groups of flags with the values of a file in their defaults, which each of them has.

    Raises ValueError that names the place for a key that is no flag, with the closest that is, and
    for a value of another type than the flag's. What a class checks by itself is checked when the
    command line has been read, as that may change the values again.
    """
    known = flag_types(groups)
    values = {entry.key: _value(entry, known) for entry in entries}
    return {
        name: replace(group, default=_filled(group.default, values, group.prefix))
        for name, group in groups.items()
    }


class _Mapping(list[tuple[str, Any, int | None]]):
    """A mapping of a file as [(key, value, line or None)], so that nothing said twice is lost."""


def _from_json(path: Path, text: str) -> Any:
    def mapping(pairs: list[tuple[str, Any]]) -> _Mapping:
        return _Mapping((key, value, None) for key, value in pairs)

    try:
        return json.loads(text, object_pairs_hook=mapping) if text.strip() else None
    except json.JSONDecodeError as error:
        raise ValueError(f"{path}, line {error.lineno}: {error.msg}.") from error


def _from_yaml(path: Path, text: str) -> Any:
    import yaml

    loader = yaml.SafeLoader("")

    def value_of(node: yaml.Node) -> Any:
        if not isinstance(node, yaml.MappingNode):
            return loader.construct_object(node, deep=True)
        # A key is what is written there, even where YAML would take it for a truth or a number.
        return _Mapping(
            (key.value, value_of(value), key.start_mark.line + 1) for key, value in node.value
        )

    try:
        node = yaml.compose(text, yaml.SafeLoader)
        return value_of(node) if node is not None else None
    except yaml.YAMLError as error:
        mark, problem = (getattr(error, name, None) for name in ("problem_mark", "problem"))
        line = f", line {mark.line + 1}" if mark else ""
        raise ValueError(f"{path}{line}: {problem or ' '.join(str(error).split())}.") from error


def _flat(
    path: Path, content: _Mapping, section: str = "", prefix: str = ""
) -> Iterator[ConfigEntry]:
    for name, value, line in content:
        key = prefix + str(name).replace("-", "_")
        outermost = not section and not prefix
        if outermost and key in NOT_FLAGS:
            continue
        if not isinstance(value, _Mapping):
            key = "algorithm" if (section, key) == ("algorithm", "name") else key
            yield ConfigEntry(key, value, f"{path}, line {line}" if line else str(path))
        elif outermost and key in SECTIONS:
            yield from _flat(path, value, section=key)
        elif outermost and key == METHODS:
            yield from _of_methods(path, value)
        else:
            yield from _flat(path, value, section, f"{key}.")


def _of_methods(path: Path, methods: _Mapping) -> Iterator[ConfigEntry]:
    for name, flags, line in methods:
        if not isinstance(flags, _Mapping):
            place = f"{path}, line {line}" if line else str(path)
            raise ValueError(
                f"{place}: {METHODS}.{name} must be names of flags and their values, got {flags!r}."
            )
        for entry in _flat(path, flags, section=METHODS):
            yield replace(entry, method=str(name))


def _value(entry: ConfigEntry, known: Mapping[str, Any]) -> Any:
    """The value of an entry, of the type of its flag."""
    key, place = entry.key, entry.place
    if key in UNSAVED:
        raise ValueError(f"{place}: unknown key {key!r}. It belongs on the command line.")
    if told := other_name(key, known, repr):
        raise ValueError(f"{place}: {told}")
    if key not in known:
        hint = did_you_mean(key, [name for name in known if name not in UNSAVED], n=1)
        raise ValueError(f"{place}: unknown key {key!r}.{hint or ' --help-all lists the flags.'}")
    try:
        return _typed(entry.value, known[key])
    except (TypeError, ValueError):
        raise ValueError(
            f"{place}: {key} must be {_described(known[key])}, got {entry.value!r}."
        ) from None


def _typed(value: Any, kind: Any) -> Any:
    """The value as one of the type. Raises TypeError or ValueError for what is none.

    Text that reads as a number is one, as YAML 1.1 takes 1e-4 for a text. YAML's `no` and `off` are
    truths, which never become texts.
    """
    origin, inner = get_origin(kind), get_args(kind)
    if origin in (Union, types.UnionType):
        for choice in sorted(inner, key=lambda each: each is not type(None)):
            with suppress(TypeError, ValueError):
                return _typed(value, choice)
    elif origin in (tuple, list):
        values = value if isinstance(value, list) else [value]
        kinds = [inner[0]] * len(values) if origin is list or inner[-1] is ... else inner
        return origin(_typed(v, k) for v, k in zip(values, kinds, strict=True))
    elif kind is type(None) and value in (None, "None"):
        return None
    elif isinstance(value, bool) and kind is bool:
        return value
    elif not isinstance(value, bool | list | None):
        if origin is Literal:
            return inner[[str(choice) for choice in inner].index(str(value))]
        if kind in (int, float, str, Path):
            return kind(str(value))
    raise TypeError


def _described(kind: Any) -> str:
    """A type in words: `a number or null`."""
    origin, inner = get_origin(kind), get_args(kind)
    if origin in (Union, types.UnionType):
        return " or ".join(map(_described, inner))
    if origin is Literal:
        return " or ".join(map(repr, inner))
    if origin in (tuple, list):
        return f"a list of {_described(inner[0])}"
    return "null" if kind is type(None) else WORDS.get(kind, str(kind))


def _filled(default: Any, values: Mapping[str, Any], prefix: str = "") -> Any:
    """A copy of a dataclass's object with the values of a file, which its class has not checked."""
    filled = copy.copy(default)
    for field in fields(default):
        name, value = f"{prefix}{field.name}", getattr(default, field.name)
        if is_dataclass(value):
            value = _filled(value, values, f"{name}.")
        object.__setattr__(filled, field.name, values.get(name, value))  # it may be frozen
    return filled
