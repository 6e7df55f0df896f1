"""vpd inspect: a page of a run, on which one sees what each token of an answer was told."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import tyro

from vpd_agent.cli.flags import FlagGroup, parse
from vpd_agent.console import phase, say


@dataclass(frozen=True, kw_only=True)
class InspectOptions:
    run: tyro.conf.Positional[Path]
    """Folder of a run: the --out of a vpd train. The run may still be going on."""
    out: Path | None = None
    """File of the page, NAME.html; default: inspect.html in the run's folder."""


def inspect(arguments: list[str]) -> int:
    from vpd_agent.inspect.page import contents, page
    from vpd_agent.runs.files import write_atomically

    options: InspectOptions = parse(
        "vpd inspect",
        arguments,
        description="One page, for any browser, of the rollouts that a run has kept "
        "(--inspect-every): the tokens of each answer, colored by what the teacher says of them.",
        options=FlagGroup(InspectOptions),
    ).options
    out = options.out or options.run / "inspect.html"
    if options.out is not None and (out.suffix != ".html" or not out.parent.is_dir()):
        raise ValueError(f"--out must be a file NAME.html in a folder that exists, got {out}.")
    with phase("Reading the run"):
        shown = contents(options.run)
    with phase("Writing the page"):
        write_atomically(out, page(shown))
    rollouts = sum(len(group["rollouts"]) for step in shown["steps"] for group in step["groups"])
    say(
        f"{out}: {rollouts} rollouts of {len(shown['steps'])} steps, "
        f"{out.stat().st_size / 1e6:.1f} MB. Open it in a browser."
    )
    return 0
