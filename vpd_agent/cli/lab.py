"""vpd lab: named experiments with tiny models, and one page of what they found."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path

import tyro

from sandbox import SandboxError
from vpd_agent.cli.compare import compare, planned
from vpd_agent.cli.flags import FlagGroup, parse
from vpd_agent.console import phase, say, say_error

_Commands = Mapping[tuple[str, str], list[str]]  # (experiment, task) → arguments of vpd compare


@dataclass(frozen=True, kw_only=True)
class LabOptions:
    names: tyro.conf.Positional[tuple[str, ...]] = ()
    """Experiments, or 'all'; none: they are listed."""
    list: bool = False
    """Say which experiments there are, and end."""
    tasks: tuple[str, ...] = ()
    """Only these tasks of the experiments; default: all that they have."""
    algorithms: tuple[str, ...] = ()
    """What main, cold-start and rigid compare; default: every method there is."""
    seeds: tuple[int, ...] = tuple(range(8))
    """Of the runs."""
    steps: int = 200
    """Training steps of each run."""
    tune: int = 0
    """Trials for each contestant before its runs, as in vpd compare. 0 or 1: none."""
    jobs: int | None = None
    """Runs side by side, as in vpd compare."""
    retry_failed: bool = False
    """Run again what failed when this command was last called."""
    out: Path = Path("runs/lab")
    """The lab's folder: OUT/EXPERIMENT/TASK for each comparison, and the summary, OUT/index.html.
    The same command goes on with what is not finished."""
    dry_run: bool = False
    """Train nothing: print the commands that the experiments consist of, with the number of runs
    and about how long they take."""

    @property
    def for_compare(self) -> tuple[str, ...]:
        """What goes on to every vpd compare."""
        words = ["--tune", str(self.tune)] if self.tune else []
        words += ["--jobs", str(self.jobs)] if self.jobs is not None else []
        return (*words, *(["--retry-failed"] if self.retry_failed else []))


def lab(arguments: list[str]) -> int:
    own = list(takewhile(lambda argument: argument != "--", arguments))
    options: LabOptions = parse(
        "vpd lab",
        own,
        description="Options after '--' go to every vpd train.",
        options=FlagGroup(LabOptions),
    ).options
    if options.list or not options.names:
        print(_listing())
        return 0
    commands = _commands(options, arguments[len(own) + 1 :])
    if options.dry_run:
        return _dry_run(commands)
    with phase("Checking the experiments"):
        for command in commands.values():
            planned(command)
    return _run(commands, options.out)


def _listing() -> str:
    from vpd_agent.lab.experiments import EXPERIMENTS

    width = max(map(len, EXPERIMENTS))
    return "\n".join(
        f"{name:{width}}  {e.question}\n{'':{width}}  {', '.join(e.tasks)}"
        for name, e in EXPERIMENTS.items()
    )


def _commands(options: LabOptions, extra: list[str]) -> _Commands:
    from vpd_agent.lab.experiments import Request, chosen, commands

    experiments = chosen(options.names)  # a misspelled name is told before torch is imported
    if options.out.exists() and not options.out.is_dir():
        raise ValueError(f"--out {options.out} is a file; pass a folder.")
    request = Request(
        out=options.out,
        seeds=options.seeds,
        steps=options.steps,
        tasks=options.tasks,
        algorithms=options.algorithms,
        options=options.for_compare,
        extra=extra,
    )
    return commands(experiments, request)


def _dry_run(commands: _Commands) -> int:
    from vpd_agent.lab.estimate import Planned, estimate

    with phase("Looking at the runs that there are"):
        plans = []
        for (experiment, task), command in commands.items():
            plan = planned(command)
            plans.append(Planned(experiment, task, plan.runs(), plan.num_trial_runs, plan.jobs))
        found = estimate(plans)
    for plan, command in zip(plans, commands.values(), strict=True):
        print(f"# {found.sentence(plan)}\n{shlex.join(['vpd', 'compare', *command])}\n")
    print(f"# {found.summary(plans)}")
    return 0


def _run(commands: _Commands, out: Path) -> int:
    """Call the comparisons one after the other, with a summary after each experiment."""
    from vpd_agent.lab.summary import write_summary

    failed, files = [], []
    for experiment in dict.fromkeys(name for name, _ in commands):
        for (name, task), command in commands.items():
            if name == experiment:
                say(f"{name} on {task}")
                code = _compare(command)
                if code == 130:
                    return code
                failed += [f"{name} on {task}"] if code else []
        files = write_summary(out) if any(out.glob("*/*/results.json")) else []
    print("\n".join(map(str, files)))
    if failed:
        say(
            f"Not all of {', '.join(failed)} could be done; see above why. To run again what "
            f"failed: the same command with --retry-failed."
        )
    return 1 if failed else 0


def _compare(command: list[str]) -> int:
    """The exit code. What ends one comparison ends none of the others."""
    try:
        return compare(command)
    except (ValueError, SandboxError, OSError) as error:
        say_error(f"vpd compare: {error}")
        return 1
