"""A run's configuration as a file: what a person writes in YAML, and what a run has saved.

The keys of a file are the names of the flags, with hyphens or underscores:

    env: vpd/MiniCode-v0
    model: tiny-warm
    learning_rate: 1e-4
    template: {max_feedback_chars: 500}      # or template.max_feedback_chars: 500

A run's own config.json is such a file too, its flags in the sections that name their kind.
"""

from __future__ import annotations

import difflib
import io
import json
import math
import types
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import redirect_stderr
from dataclasses import asdict, dataclass, fields, is_dataclass, make_dataclass
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

import tyro

from vpd_agent.cli.flags import FlagGroup
from vpd_envs.catalog import parsed_options
from vpd_envs.data.provenance import NOT_JUDGING, commit, versions
from vpd_envs.data.provenance import differences as told_differences

SECTIONS = ("algorithm", "config", "options")  # of a run's config.json, with flags; and "template"
NOT_FLAGS = ("versions", "commit", "fingerprints")  # entries of it that are there to be read
UNSAVED = ("config", "resume")  # flags that say how a run is begun, not what it is
PACKAGES = (  # whose versions may change what a run does
    *("torch", "transformers", "tokenizers", "gymnasium", "numpy", "accelerate", "peft", "vllm"),
    *("math-verify", "reasoning-gym", "datasets"),
)
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


def as_arguments(entries: Iterable[ConfigEntry], parts: Mapping[str, FlagGroup]) -> list[str]:
    """The entries as a command line, to stand before what a person typed.

    Raises ValueError that names the place for a key that is no flag, with the closest that is, and
    for a value that the flag does not take.
    """
    known = flags(parts)
    result = []
    for entry in entries:
        if entry.key in UNSAVED or entry.key not in known:
            raise ValueError(f"{entry.place}: unknown key {entry.key!r}. {_hint(entry.key, known)}")
        result += _as_flag(entry, known[entry.key])
    return result


def flags(parts: Mapping[str, FlagGroup]) -> dict[str, Any]:
    """The type of every flag of the parts, by the name that a file has for it."""
    return dict(kv for part in parts.values() for kv in _flags(part.kind, part.prefix))


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


def saved(algorithm: Any, config: Any, template: Any, options: Any) -> dict[str, Any]:
    """What a run writes into its config.json: all that repeats it when read as a file of flags,
    and the versions and the commit that it was begun with."""
    chosen = {k: _plain(v) for k, v in asdict(options).items() if k not in UNSAVED}
    return {
        "algorithm": {"name": algorithm.name, **asdict(algorithm)},
        "config": asdict(config),
        "template": asdict(template),
        "options": chosen,
        "versions": versions(*PACKAGES),
        "commit": commit(),
    }


# --- files → entries ----------------------------------------------------------------------------


class _Mapping(list):
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
    except yaml.MarkedYAMLError as error:
        line = f", line {error.problem_mark.line + 1}" if error.problem_mark else ""
        raise ValueError(f"{path}{line}: {error.problem or error.context}.") from error
    except yaml.YAMLError as error:
        raise ValueError(f"{path}: {' '.join(str(error).split())}.") from error


def _flat(path: Path, content: _Mapping, prefix: str = "") -> Iterator[ConfigEntry]:
    for name, value, line in content:
        key = str(name).replace("-", "_")
        place = f"{path}, line {line}" if line is not None else str(path)
        if not prefix and key in NOT_FLAGS:
            continue
        if not isinstance(value, _Mapping):
            yield ConfigEntry(prefix + key, value, place)
        elif prefix or key not in SECTIONS:
            yield from _flat(path, value, f"{prefix}{key}.")
        elif key == "algorithm":
            names = _Mapping(("algorithm", v, n) for k, v, n in value if k == "name")
            rest = _Mapping(row for row in value if row[0] != "name")
            yield from _flat(path, names + rest)
        else:
            yield from _flat(path, value)


# --- entries → flags ----------------------------------------------------------------------------


def _flags(kind: type, prefix: str) -> Iterator[tuple[str, Any]]:
    hints = get_type_hints(kind)
    for field in fields(kind):
        name = f"{prefix}.{field.name}" if prefix else field.name
        if is_dataclass(hints[field.name]):
            yield from _flags(hints[field.name], name)
        else:
            yield name, hints[field.name]


def _hint(key: str, known: Iterable[str]) -> str:
    if key in UNSAVED:
        return "It belongs on the command line."
    close = difflib.get_close_matches(key, [name for name in known if name not in UNSAVED], n=1)
    return f"Did you mean {close[0]!r}?" if close else "--help lists the flags."


def _as_flag(entry: ConfigEntry, kind: Any) -> list[str]:
    flag = "--" + entry.key.replace("_", "-")
    if isinstance(entry.value, bool) and kind is bool:
        head, dot, last = flag.rpartition(".")
        off = f"{head}.no-{last}" if dot else f"--no-{flag[2:]}"
        return [flag if entry.value else off]
    words = [str(v) for v in entry.value] if isinstance(entry.value, list) else [str(entry.value)]
    written = [f"{flag}={words[0]}"] if len(words) == 1 else [flag, *words]
    if not _takes(kind, entry.value, flag, written):
        raise ValueError(
            f"{entry.place}: {entry.key} must be {_described(kind)}, got {entry.value!r}."
        )
    return written


def _takes(kind: Any, value: Any, flag: str, written: Sequence[str]) -> bool:
    """Whether a flag of this type can be given this value, in tyro's judgment. YAML's `no` and
    `off` must not become texts, nor texts truths."""
    if isinstance(value, bool) or kind is bool:
        return isinstance(value, bool) and bool in (kind, *get_args(kind))
    name = flag.removeprefix("--").replace("-", "_").replace(".", "_")
    one = make_dataclass("One", [(name, kind)])
    trial = [written[0].replace(flag, "--" + name.replace("_", "-"), 1), *written[1:]]
    try:
        with redirect_stderr(io.StringIO()):  # it explains; so do we, with file and line
            tyro.cli(one, args=trial)
    except SystemExit:
        return False
    return True


def _described(kind: Any) -> str:
    """A type in words: `a number or null`."""
    words = {bool: "true or false", int: "a whole number", float: "a number", str: "text"}
    words |= {Path: "a path", type(None): "null"}
    origin, inner = get_origin(kind), get_args(kind)
    if origin in (Union, types.UnionType):
        return " or ".join(map(_described, inner))
    if origin is Literal:
        return " or ".join(map(repr, inner))
    if origin is tuple:
        return f"a list of {_described(inner[0])}"
    return words.get(kind, getattr(kind, "__name__", str(kind)))


# --- what is saved ------------------------------------------------------------------------------


def _plain(value: Any) -> Any:
    return str(value) if isinstance(value, Path) else value


def _leaves(value: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    if not isinstance(value, dict):
        yield name, None if isinstance(value, float) and math.isnan(value) else value
        return
    for key, inner in value.items():
        yield from _leaves(inner, f"{name}.{key}" if name else key)
