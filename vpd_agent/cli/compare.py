"""vpd compare: algorithms head to head."""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vpd_agent.cli.flags import FlagGroup, parse, refuse_renamed
from vpd_agent.cli.train_flags import read_arguments
from vpd_agent.console import bars, phase, print_table, say
from vpd_agent.runs.record import differences, other_software, read_record, saved
from vpd_agent.train.options import (
    EnvironmentOptions,
    TrainOptions,
    check_model,
    open_sandbox,
    warm_policy,
)
from vpd_envs.data.provenance import differences as told_differences

if TYPE_CHECKING:
    from vpd_agent.evaluation.compare import Run

CHANGES_NOTHING = ("sandbox", "threads", "data")  # in a run; what the data says has a fingerprint


@dataclass(frozen=True, kw_only=True)
class CompareOptions(EnvironmentOptions):
    model: str = "tiny-warm"
    """The model that every run starts from, as in vpd train."""
    algorithms: tuple[str, ...] = ("vpd", "sdpo", "grpo")
    """Each trains once with every seed; your own as module:Class or path/to/file.py:Class."""
    seeds: tuple[int, ...] = (0,)
    """Of the runs."""
    steps: int = 200
    """Training steps of each run."""
    jobs: int = 2
    """Runs side by side, each a process with one torch thread."""
    out: Path = Path("runs/compare")
    """Folder for the runs, report.md, results.json and curves.png; finished runs are kept, if they
    are what this command would train."""


def compare(arguments: list[str]) -> int:
    from vpd_agent.algorithms import algorithm_class
    from vpd_agent.evaluation import compare as head_to_head
    from vpd_agent.tiny.warmup import RECIPES

    own = list(takewhile(lambda argument: argument != "--", arguments))
    extra = arguments[len(own) + 1 :]
    options: CompareOptions = parse(
        "vpd compare",
        own,
        description="Options after '--' go to every vpd train.",
        options=FlagGroup(CompareOptions),
    ).options
    refuse_renamed(extra)
    for name in options.algorithms:
        algorithm_class(name)
    if options.jobs < 1 or options.steps < 1 or not options.seeds or not options.algorithms:
        raise ValueError(
            "--jobs and --steps must be at least 1, and a seed and an algorithm given."
        )
    check_model(options.model)
    runs = head_to_head.plan(options.out, options.algorithms, options.seeds)
    _check_unfinished(runs)
    # An unknown environment, a bad file, a sandbox that does not work: found before any work.
    with phase("Loading the problems"):
        environment = options.spec(options.feedback).make(1)
    with phase("Starting the sandbox"):
        sandbox_name = open_sandbox(environment)
    environment.close()
    if options.model in RECIPES:
        warm_policy(options.model, quiet=False)
    given = ["--env", options.env, "--model", options.model, "--steps", str(options.steps)]
    given += ["--feedback", options.feedback]
    given += ["--data", options.data] if options.data is not None else []
    given += ["--sandbox", sandbox_name] if sandbox_name is not None else []
    given += ["--set", *options.set] if options.set else []
    given += extra
    _check_finished([run for run in runs if run.finished], given)
    with bars() as progress:
        names = {run: f"{run.algorithm} seed {run.seed}" for run in runs}
        for run, name in names.items():
            progress.add(name, options.steps)
            if run.finished:
                progress.show(name, options.steps, run.metrics()[-1])
        failed = head_to_head.run_all(
            runs,
            given,
            jobs=options.jobs,
            on_progress=lambda run, step, row: progress.show(names[run], step, row),
        )
    for run in failed:
        log = head_to_head.log_file(run)
        end = log.read_text(errors="replace").splitlines()[-8:]
        say("\n".join([f"{names[run]} failed; the end of {log}:", *end]))
    done = [run for run in runs if run.finished]
    if not done:
        return 1
    command = shlex.join(["vpd", "compare", *arguments])
    report = head_to_head.write_report(options.out, done, command)
    print_table(
        f"student: pass@1 on held-out problems by training step, {len(options.seeds)} seed(s)",
        *head_to_head.table(done),
    )
    print("\n".join(map(str, report)))
    return 1 if failed else 0


def _check_unfinished(runs: list[Run]) -> None:
    for run in runs:
        if run.path.exists() and not run.finished:
            raise ValueError(
                f"{run.path} holds a run that did not finish. Finish it (vpd train "
                f"{run.algorithm} --resume --out {run.path}), remove that folder to run it again, "
                f"or pass another --out."
            )


def _check_finished(runs: list[Run], arguments: list[str]) -> None:
    """Raises ValueError if a run that would be kept is not what would be trained in its place."""
    fingerprints: dict[str, Any] = {}
    for run in runs:
        there = read_record(run.path)
        new = read_arguments(run.algorithm, [*arguments, *run.arguments()])
        fingerprints = fingerprints or _fingerprints(new.options)
        here = saved(new.algorithm, new.config, new.template, new.options)
        told = [
            f"{name} is {old!r} there, {new!r} here"
            for name, (old, new) in differences(there, here).items()
            if name not in CHANGES_NOTHING
        ]
        known = {k: v for k, v in there.get("fingerprints", {}).items() if v is not None}
        told += filter(None, [told_differences(known, {k: fingerprints[k] for k in known})])
        if told:
            raise ValueError(
                f"{run.path} holds a finished run of another comparison: {'; '.join(told)}. Pass "
                f"another --out, or remove that folder to train it again."
            )
        if others := other_software(there, here):
            say(f"Warning: {run.path}, which is kept, was trained with other software: {others}.")


def _fingerprints(options: TrainOptions) -> dict[str, Any]:
    """Those that a run with these options writes into its config.json."""
    from vpd_agent.runs.identity import fingerprint, model_hashes

    splits = {"train": options.train_split, "eval": options.eval_split}
    found: dict[str, Any] = {}
    with phase("Comparing the finished runs with what would be trained"):
        for name, split in splits.items():
            environment = options.spec(options.feedback).make(1, split)
            found[name] = fingerprint(environment)
            environment.close()
        return {**found, "model": model_hashes(options.load(quiet=True, device="cpu"))}
