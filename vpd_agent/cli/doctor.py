"""vpd doctor: what works on this machine."""

from __future__ import annotations

from dataclasses import dataclass

from vpd_agent.cli.flags import FlagGroup, parse


@dataclass(frozen=True, kw_only=True)
class DoctorOptions:
    json: bool = False
    """Print one JSON object instead of a table."""


def doctor(arguments: list[str]) -> int:
    from vpd_agent.cli.diagnosis import main as examine

    options: DoctorOptions = parse(
        "vpd doctor",
        arguments,
        description="What works on this machine and, for what does not, the command that mends "
        "it. Exit code 0 if a sandbox isolates and nothing that is needed is broken, else 1.",
        options=FlagGroup(DoctorOptions),
    ).options
    return examine(options.json)
