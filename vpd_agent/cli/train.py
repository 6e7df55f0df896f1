"""vpd train: one run of one algorithm."""

from __future__ import annotations

import textwrap
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sandbox.plugins import FORM
from vpd_agent.cli.train_flags import read_arguments
from vpd_agent.console import is_main_process, print_table, say

if TYPE_CHECKING:
    from vpd_agent.train.dry_run import Report

EXIT_CODES = {"done": 0, "collapsed": 1, "interrupted": 130}  # by why a run ended


def train(arguments: list[str]) -> int:
    from vpd_agent.algorithms import ALGORITHMS

    if not arguments or arguments[0].startswith("-"):
        say(
            f"usage: vpd train ALGORITHM --env ID --model MODEL --out DIR …\n"
            f"ALGORITHM is one of {', '.join(ALGORITHMS)}, or your own: {FORM}; "
            f"vpd train ALGORITHM --help says more."
        )
        return 0 if arguments else 2
    name, *rest = arguments
    options, algorithm, config, template, given = read_arguments(name, rest)

    from vpd_agent.train.run import RunFinished, make_plan, make_run

    # The configuration stands in for the file that --config names.
    flags: dict[str, Any] = vars(options) | {"config": config, "given": given}
    try:
        if options.dry_run:
            from vpd_agent.train.dry_run import dry_run

            _show(dry_run(make_plan(algorithm, template=template, **flags)))
            return 0
        with make_run(algorithm, template=template, **flags) as trainer:
            reason = trainer.train()
    except RunFinished as finished:
        say(str(finished))
        return 0
    say(_farewell(reason, options.out, trainer.step, config.steps))
    return EXIT_CODES[reason]


def _show(report: Report) -> None:
    """To standard output: it is the result."""
    if not is_main_process():
        return
    width = max(map(len, report.facts)) + 2
    for name, fact in report.facts.items():
        print(_filled(f"{name:<{width}}{fact}", indent=width))
    if report.costs:
        print_table("", report.columns, report.costs)
    print(_filled(f"{report.note} Nothing was trained, written or fetched."))


def _filled(text: str, indent: int = 0) -> str:
    return textwrap.fill(
        text, 100, subsequent_indent=" " * indent, break_on_hyphens=False, break_long_words=False
    )


def _farewell(reason: str, out: Path, step: int, steps: int) -> str:
    if reason == "interrupted":
        return f"Stopped after step {step} of {steps}. To go on: the same command with --resume."
    if reason == "collapsed":
        return (
            f"Stopped at step {step} of {steps}: training has collapsed. The best checkpoint, "
            f"metrics and samples are in {out}."
        )
    return f"Trained {step} steps; metrics, samples and the model are in {out}."
