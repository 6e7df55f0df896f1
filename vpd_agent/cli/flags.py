"""Options that several commands share, and how a command's flags are read."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields, is_dataclass, make_dataclass
from typing import Annotated, Any, get_type_hints

import tyro

from vpd_agent.console import is_main_process

RENAMED = {  # flags, and keys of configuration files, that have another name now
    "setting": "preset",
    "distil_on": "distill_on",
    "normaliser": "normalizer",
}
ELSEWHERE = {  # what other trainers call a flag of ours
    "lr": "learning_rate",
    "max_steps": "steps",
    "output_dir": "out",
    "num_generations": "group_size",
    "max_completion_length": "max_response_tokens",
    "eval_steps": "eval_every",
}


@dataclass(frozen=True)
class FlagGroup:
    """A dataclass whose fields are flags. Those without a default are required.

    default: an object of the class, in which tyro.MISSING stands for what must be given.
    prefix: before the names of its flags, such as "template." for --template.failed.
    """

    kind: type
    default: Any = None
    prefix: str = ""


def parse(
    prog: str, arguments: Sequence[str], *, description: str = "", **groups: FlagGroup
) -> Any:
    """What the arguments say for each group, as attributes of one object.

    The last of a repeated flag counts.

    Exits with code 2 on a bad flag, with 0 after --help. Raises ValueError for a flag that has
    another name, now or in other trainers.
    """
    refuse_misnamed(arguments, flag_types(groups))
    attributes = []
    for name, group in groups.items():
        kind = Annotated[group.kind, tyro.conf.arg(name=group.prefix.removesuffix("."))]
        given = {} if group.default is None else {"default": group.default}
        attributes.append((name, kind, field(**given)))
    return tyro.cli(
        make_dataclass("Arguments", attributes, frozen=True),
        prog=prog,
        description=description,
        args=list(arguments),
        console_outputs=is_main_process(),
    )


def read_ahead(arguments: Sequence[str], **defaults: str) -> dict[str, str]:
    """The values of a few flags on which the defaults of others depend, so that they are read
    first; where one is not given, its default here."""
    ahead = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    for name, default in defaults.items():
        ahead.add_argument(f"--{name}", default=default)
    return vars(ahead.parse_known_args(arguments)[0])


def flag_types(groups: Mapping[str, FlagGroup]) -> dict[str, Any]:
    """The type of every flag of the groups, by its name in a file: with underscores, and with dots
    between the parts of a nested one."""
    return dict(pair for group in groups.values() for pair in _flag_types(group.kind, group.prefix))


def _flag_types(kind: type, prefix: str) -> Iterator[tuple[str, Any]]:
    hints = get_type_hints(kind)
    for each in fields(kind):
        hint, name = hints[each.name], f"{prefix}{each.name}"
        if isinstance(hint, type) and is_dataclass(hint):
            yield from _flag_types(hint, f"{name}.")
        else:
            yield name, hint


def refuse_misnamed(arguments: Sequence[str], known: Collection[str]) -> None:
    """Raise ValueError for a flag that has another name here; see `other_name`."""
    for argument in arguments:
        name = argument.partition("=")[0].removeprefix("--").replace("-", "_")
        if argument.startswith("--") and (told := other_name(name, known, _flag)):
            raise ValueError(told)


def other_name(name: str, known: Collection[str], shown: Callable[[str], str]) -> str:
    """A sentence on what a flag is called here: one that was renamed, or a known one by the name
    that other trainers have for it. "" for names that are known, and for all others.

    shown: how a name, with underscores, is written in the sentence.
    """
    if name in known:
        return ""
    if name in RENAMED:
        return f"{shown(name)} is now called {shown(RENAMED[name])}."
    if ELSEWHERE.get(name) in known:
        return f"There is no {shown(name)}: it is {shown(ELSEWHERE[name])} here."
    return ""


def _flag(name: str) -> str:
    return f"--{name.replace('_', '-')}"
