"""vpd warmup: make a warm-started tiny model."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from vpd_agent.cli.flags import FlagGroup, parse
from vpd_agent.console import say
from vpd_agent.train.options import warm_policy


@dataclass(frozen=True, kw_only=True)
class WarmupOptions:
    model: Literal["tiny-warm", "tiny-code"] = "tiny-warm"
    """tiny-warm: for vpd/MiniCode-v0; tiny-code: writes short programs."""
    out: Path | None = None
    """Folder for a copy of the model; without it, it stays in the cache under its name."""


def warmup(arguments: list[str]) -> int:
    options: WarmupOptions = parse(
        "vpd warmup", arguments, options=FlagGroup(WarmupOptions)
    ).options
    if options.out is not None and options.out.exists():
        raise ValueError(f"The output {options.out} exists; pass another --out or remove it.")
    policy = warm_policy(options.model, quiet=False)
    if options.out is not None:
        policy.save(options.out)
    say(f"The warm-started model is ready: --model {options.out or options.model}")
    return 0
