"""vpd train: one run of one algorithm."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from sandbox.plugins import FORM
from vpd_agent.cli.train_flags import read_arguments
from vpd_agent.console import say

EXIT_CODES = {"done": 0, "collapsed": 1, "interrupted": 130}  # by why a run ended


def train(arguments: list[str]) -> int:
    from vpd_agent.algorithms import ALGORITHMS

    if not arguments or arguments[0].startswith("-"):
        say(
            f"usage: vpd train ALGORITHM --env ID --model MODEL --out DIR …\n"
            f"ALGORITHM is one of {', '.join(ALGORITHMS)}, or your own: {FORM}; "
            f"vpd train ALGORITHM --help tells more."
        )
        return 0 if arguments else 2
    name, *rest = arguments
    options, algorithm, config, template = read_arguments(name, rest)

    from vpd_agent.train.run import RunFinished, make_run

    # The configuration stands in for the file that --config names.
    flags: dict[str, Any] = vars(options) | {"config": config}
    try:
        with make_run(algorithm, template=template, **flags) as trainer:
            reason = trainer.train()
    except RunFinished as finished:
        say(str(finished))
        return 0
    say(_farewell(reason, options.out, trainer.step, config.steps))
    return EXIT_CODES[reason]


def _farewell(reason: str, out: Path, step: int, steps: int) -> str:
    if reason == "interrupted":
        return f"Stopped after step {step} of {steps}. To go on: the same command with --resume."
    if reason == "collapsed":
        return (
            f"Stopped at step {step} of {steps}: training has collapsed. The best checkpoint, "
            f"metrics and samples are in {out}."
        )
    return f"Trained {step} steps; metrics, samples and the model are in {out}."
