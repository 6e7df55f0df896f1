"""vpd lab: named experiments with tiny models, and one page of what they found."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from itertools import takewhile
from pathlib import Path

import tyro

from sandbox import SandboxError
from vpd_agent.cli.compare import compare, planned
from vpd_agent.cli.flags import FlagGroup, parse
from vpd_agent.cli.solve import solve
from vpd_agent.comparison.formats import counted
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
    """Trials for each algorithm, as in vpd compare, before all else. The setting that falls least
    short of the best one on any task of --tune-on holds everywhere, but for what an experiment
    varies. 0 or 1: none."""
    tune_on: tuple[str, ...] = ()
    """Tasks that the trials are made on; default: all with a warm start."""
    jobs: int | None = None
    """Runs side by side, as in vpd compare."""
    retry_failed: bool = False
    """Run again what failed when this command was last called."""
    out: Path = Path("runs/lab")
    """The lab's folder: OUT/EXPERIMENT/TASK for each comparison, and the summary, OUT/index.html.
    The same command goes on with what is not finished."""
    publish: Path | None = None
    """Write the summary into this folder too, without the reports of the single comparisons, and
    the finished comparisons, packed: small enough to be committed. What is packed there already is
    taken over first, so the same command goes on with a lab that another machine has begun."""
    dry_run: bool = False
    """Train nothing: print the commands that the experiments consist of, with the number of runs
    and about how long they take."""

    @property
    def for_compare(self) -> tuple[str, ...]:
        """What goes on to every vpd compare."""
        words = ["--jobs", str(self.jobs)] if self.jobs is not None else []
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
    plan = _Plan(options, arguments[len(own) + 1 :])
    if options.dry_run:
        return _dry_run(plan)
    plan.take_published()
    with phase("Checking the experiments"):
        for command in (*plan.tuning.values(), *plan.commands.values()):
            planned(command)
    return _run(plan)


def _listing() -> str:
    from vpd_agent.lab.experiments import EXPERIMENTS

    width = max(map(len, EXPERIMENTS))
    return "\n".join(
        f"{name:{width}}  {e.question}\n{'':{width}}  {', '.join(e.tasks)}"
        for name, e in EXPERIMENTS.items()
    )


class _Plan:
    """The comparisons that the options ask for."""

    def __init__(self, options: LabOptions, extra: list[str]) -> None:
        from vpd_agent.lab.experiments import TUNED_ON, Request, chosen
        from vpd_agent.lab.tasks import check_tasks

        self._experiments = chosen(options.names)  # misspelled names are told before torch comes
        self.out, self.publish = options.out, options.publish
        for flag, folder in (("out", self.out), ("publish", self.publish)):
            if folder is not None and folder.exists() and not folder.is_dir():
                raise ValueError(f"--{flag} {folder} is a file; pass a folder.")
        self._request = Request(
            out=self.out,
            seeds=options.seeds,
            steps=options.steps,
            tasks=options.tasks,
            algorithms=options.algorithms,
            options=options.for_compare,
            extra=extra,
        )
        self._trials = options.tune
        check_tasks(options.tune_on)
        self._tuned_on = tuple(dict.fromkeys(options.tune_on)) or TUNED_ON
        self._tunes = options.tune not in (0, 1)  # vpd compare refuses a negative one

    @property
    def archive(self) -> Path | None:
        """The runs that are packed where the summary is to be published."""
        from vpd_agent.lab.archive import ARCHIVE

        path = self.publish / ARCHIVE if self.publish is not None else None
        return path if path is not None and path.is_file() else None

    def pack(self) -> None:
        """What has finished so far, where it is to be published."""
        from vpd_agent.lab.archive import ARCHIVE, pack

        if self.publish is not None:
            self.publish.mkdir(parents=True, exist_ok=True)
            pack(self.out, self.publish / ARCHIVE)

    def take_published(self) -> None:
        from vpd_agent.lab.archive import unpack

        if self.archive is not None and (taken := unpack(self.archive, self.out)):
            say(f"{counted(taken, 'folder')} of {self.archive} taken over into {self.out}.")

    @property
    def tuning(self) -> _Commands:
        """The comparisons that come first, or none."""
        from vpd_agent.lab.experiments import TUNING, tuning_command
        from vpd_agent.lab.readings import read_trials

        found = {}
        for task in self._tuned_on if self._tunes else ():
            before = (trial["contestant"] for trial in read_trials(self.out, task))
            asked = self._experiments, self._request, task, self._trials, before
            found[TUNING, task] = tuning_command(*asked)
        return found

    @property
    def commands(self) -> _Commands:
        """The others, with what was chosen if the tuning has finished."""
        from vpd_agent.lab.experiments import commands

        return commands(self._experiments, replace(self._request, tuned=self._tuned()))

    def prompt_only(self, experiment: str, task: str) -> list[str] | None:
        """The arguments of the vpd solve beside a comparison of methods; None beside others, and
        where it has finished."""
        from vpd_agent.lab.prize import REGIMES
        from vpd_agent.lab.prompt_only import command, has_finished

        if experiment not in REGIMES or has_finished(task, self._request):
            return None
        return command(task, self._request)

    @property
    def is_tuned(self) -> bool:
        """On every task that is to be tuned on."""
        from vpd_agent.lab.readings import read_trials

        return all(read_trials(self.out, task) for task in self._tuned_on)

    def _tuned(self) -> dict[str, dict[str, str]]:
        from vpd_agent.lab.readings import chosen_values, read_tuning

        return chosen_values(read_tuning(self.out)) if self._tunes else {}


def _dry_run(plan: _Plan) -> int:
    from vpd_agent.lab.estimate import Planned, estimate

    commands = {**plan.tuning, **plan.commands}
    with phase("Looking at the runs that there are"):
        plans = []
        for (experiment, task), command in commands.items():
            found = planned(command)
            plans.append(Planned(experiment, task, found.runs(), found.trial_runs(), found.jobs))
        estimated = estimate(plans)
    for one, command in zip(plans, commands.values(), strict=True):
        print(f"# {estimated.sentence(one)}\n{shlex.join(['vpd', 'compare', *command])}")
        if words := plan.prompt_only(one.experiment, one.task):
            print(shlex.join(["vpd", "solve", *words]))
        print()
    if plan.tuning and not plan.is_tuned:
        print("# What the tuning chooses is added to the other commands when it has finished.")
    if plan.archive is not None:
        print(f"# What has finished is taken over from {plan.archive} first, which is not counted.")
    print(f"# {estimated.summary(plans)}")
    return 0


def _run(plan: _Plan) -> int:
    """Call the comparisons one after the other, with a summary after each experiment."""
    from vpd_agent.lab.summary import write_summary

    for key, command in plan.tuning.items():
        say(" on ".join(key))
        if code := _called(compare, command):
            if code != 130:
                say("The tuning could not be finished, so nothing that depends on it was begun.")
            return code
        plan.pack()
    failed, files, commands = [], [], plan.commands
    for experiment in dict.fromkeys(name for name, _ in commands):
        for (name, task), command in commands.items():
            if name == experiment:
                say(f"{name} on {task}")
                code = _called(compare, command)
                if code == 130:
                    return code
                words = plan.prompt_only(name, task)
                code = (_called(solve, words) if words else 0) or code
                failed += [f"{name} on {task}"] if code else []
                plan.pack()
        files = write_summary(plan.out) if any(plan.out.glob("*/*/results.json")) else []
    if plan.publish is not None and files:
        files = [*files, *write_summary(plan.out, plan.publish)]
    print("\n".join(map(str, files)))
    if failed:
        say(
            f"Not all of {', '.join(failed)} could be done; see above why. To run again what "
            f"failed: the same command with --retry-failed."
        )
    return 1 if failed else 0


def _called(command: Callable[[list[str]], int], arguments: list[str]) -> int:
    """The exit code. What ends one comparison ends none of the others."""
    try:
        return command(arguments)
    except (ValueError, SandboxError, OSError) as error:
        say_error(f"vpd {command.__name__}: {error}")
        return 1
