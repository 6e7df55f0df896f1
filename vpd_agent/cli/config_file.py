"""A run's configuration as a file: what a person writes in YAML, and what a run has saved.

The keys of a file are the names of the flags, with hyphens or underscores:

    env: vpd/MiniCode-v0
    model: tiny-warm
    learning_rate: 1e-4
    template: {max_feedback_chars: 500}      # or template.max_feedback_chars: 500

A run's own config.json is such a file too, its flags in the sections that name their kind.
"""

from __future__ import annotations

import copy
import json
import types
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, fields, is_dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Union, get_args, get_origin

from sandbox.plugins import did_you_mean
from vpd_agent.cli.flags import RENAMED, FlagGroup, flag_types
from vpd_agent.runs.run_folder import CONFIG
from vpd_envs.catalog import parsed_options
from vpd_envs.data.provenance import NOT_JUDGING, commit, versions
from vpd_envs.data.provenance import differences as told_differences

if TYPE_CHECKING:
    from vpd_agent.algorithms import Algorithm
    from vpd_agent.cli.train_flags import TrainOptions
    from vpd_agent.model.teacher import TeacherTemplate
    from vpd_agent.train.config import TrainConfig

FORMAT = 2  # of a run's folder; 1 had other names of flags, and said no number
SECTIONS = ("algorithm", "config", "options")  # of a run's config.json, with flags; and "template"
NOT_FLAGS = ("format", "versions", "commit", "fingerprints")  # entries of it that are to be read
UNSAVED = ("config", "resume")  # flags that say how a run is begun, not what it is
PACKAGES = (  # whose versions may change what a run does
    *("torch", "transformers", "tokenizers", "gymnasium", "numpy", "accelerate", "peft", "vllm"),
    *("math-verify", "reasoning-gym", "datasets"),
)
WORDS: dict[Any, str] = {  # for the types of values
    bool: "true or false",
    int: "a whole number",
    float: "a number",
    str: "text",
    Path: "a path",
}
HARMLESS = ("out", "quiet", "trackers", "save_every", "samples_every")


@dataclass(frozen=True)
class ConfigEntry:
    """One value of a file. key: its flag's name, with underscores, nested parts joined by dots."""

    key: str
    value: Any
    place: str  # file and, where known, line


def read(path: Path) -> list[ConfigEntry]:
    """The entries of a YAML or JSON file, the algorithm's name under the key `algorithm`.

    Raises FileNotFoundError without a file, ValueError for one that is no mapping or has a key
    twice.
    """
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
    entries: dict[str, ConfigEntry] = {}
    for entry in _flat(path, content):
        if entry.key in entries:
            raise ValueError(f"{entry.place}: {entry.key!r} is there twice.")
        entries[entry.key] = entry
    return list(entries.values())


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


def check_format(folder: Path) -> None:
    """Raise ValueError if the run in a folder is of another format than ours."""
    there = json.loads((folder / CONFIG).read_text(encoding="utf-8")).get("format", 1)
    if there != FORMAT:
        raise ValueError(
            f"The run in {folder} was made by {'an earlier' if there < FORMAT else 'a later'} "
            f"version of this project, which names flags and files otherwise (format {there}; this "
            f"version has {FORMAT}). Start a new run, or go on with that version."
        )


def differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    """What the flags of two saved configurations differ in, harmless ones apart:
    name → (old, new)."""
    flags_of = ({k: v for k, v in c.items() if k not in NOT_FLAGS} for c in (old, new))
    a, b = (dict(_leaves(json.loads(json.dumps(c)))) for c in flags_of)
    harmless = {f"options.{name}" for name in HARMLESS} | {f"config.{name}" for name in HARMLESS}
    return {
        name.removeprefix("options.").removeprefix("config."): (a.get(name), b.get(name))
        for name in dict.fromkeys([*a, *b])
        if name not in harmless and a.get(name) != b.get(name)
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
    and the format, the versions and the commit that it was begun with."""
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
        else:
            yield from _flat(path, value, section, f"{key}.")


def _value(entry: ConfigEntry, known: Mapping[str, Any]) -> Any:
    """The value of an entry, of the type of its flag."""
    key, place = entry.key, entry.place
    if key in UNSAVED:
        raise ValueError(f"{place}: unknown key {key!r}. It belongs on the command line.")
    if key in RENAMED and key not in known:
        raise ValueError(f"{place}: {key!r} is now called {RENAMED[key]!r}.")
    if key not in known:
        hint = did_you_mean(key, [name for name in known if name not in UNSAVED], n=1)
        raise ValueError(f"{place}: unknown key {key!r}.{hint or ' --help lists the flags.'}")
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
        for plain in (int, float, str, Path):
            if kind is plain:
                return plain(str(value))
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


def _leaves(value: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    if not isinstance(value, dict):
        yield name, value
        return
    for key, inner in value.items():
        yield from _leaves(inner, f"{name}.{key}" if name else key)
