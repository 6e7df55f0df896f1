"""vpd compare: algorithms head to head."""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from pathlib import Path

from vpd_agent.commands.options import (
    EnvironmentOptions,
    Part,
    check_model,
    open_sandbox,
    parse,
    unknown,
    warm_policy,
)
from vpd_agent.console import bars, print_table, say


@dataclass(frozen=True, kw_only=True)
class CompareOptions(EnvironmentOptions):
    model: str = "tiny-warm"
    """The model that every run starts from, as in vpd train."""
    algorithms: tuple[str, ...] = ("vpd", "sdpo", "grpo")
    """Each trains once with every seed."""
    seeds: tuple[int, ...] = (0,)
    """Of the runs."""
    steps: int = 200
    """Training steps of each run."""
    jobs: int = 2
    """Runs side by side, each a process with one torch thread."""
    out: Path = Path("runs/compare")
    """Folder for the runs, report.md, results.json and curves.png; finished runs are kept."""


def compare(arguments: list[str]) -> int:
    from vpd_agent import compare as head_to_head
    from vpd_agent.algorithms import ALGORITHMS
    from vpd_agent.warmup import RECIPES

    own, extra = _split_at(arguments, "--")
    options: CompareOptions = parse(
        "vpd compare",
        own,
        description="Options after '--' go to every vpd train.",
        options=Part(CompareOptions),
    ).options
    for name in options.algorithms:
        if name not in ALGORITHMS:
            raise ValueError(unknown("algorithm", name, ALGORITHMS))
    if options.jobs < 1 or options.steps < 1 or not options.seeds or not options.algorithms:
        raise ValueError(
            "--jobs and --steps must be at least 1, and a seed and an algorithm given."
        )
    check_model(options.model)
    runs = head_to_head.plan(options.out, options.algorithms, options.seeds)
    _check_unfinished(runs)
    # An unknown environment, a bad file, a sandbox that does not work: found before any work.
    sandbox_name = open_sandbox(options.spec(options.feedback).make(1))
    if options.model in RECIPES:
        warm_policy(options.model, quiet=False)
    given = ["--env", options.env, "--model", options.model, "--steps", str(options.steps)]
    for name, value in (
        ("data", options.data),
        ("sandbox", sandbox_name),
        ("feedback", options.feedback),
    ):
        given += [f"--{name}", value] if value is not None else []
    given += ["--set", *options.set] if options.set else []
    with bars() as progress:
        names = {run: f"{run.algorithm} seed {run.seed}" for run in runs}
        for run, name in names.items():
            progress.add(name, options.steps)
            if run.finished:
                progress.show(name, options.steps, run.metrics()[-1])
        failed = head_to_head.run_all(
            runs,
            [*given, *extra],
            jobs=options.jobs,
            on_progress=lambda run, step, row: progress.show(names[run], step, row),
        )
    for run in failed:
        log = head_to_head.log_file(run)
        say(f"{names[run]} failed; the end of {log}:\n{_tail(log)}")
    done = [run for run in runs if run.finished]
    if not done:
        return 1
    report = head_to_head.write_report(
        options.out, done, shlex.join(["vpd", "compare", *arguments])
    )
    print_table(
        f"student: pass@1 on held-out problems by training step, {len(options.seeds)} seed(s)",
        *head_to_head.table(done),
    )
    print(f"{report}\n{options.out / 'curves.png'}")
    return 1 if failed else 0


def _check_unfinished(runs: list) -> None:
    for run in runs:
        if run.path.exists() and not run.finished:
            raise ValueError(
                f"{run.path} holds a run that did not finish. Remove that folder to run it again, "
                f"or pass another --out."
            )


def _split_at(arguments: list[str], mark: str) -> tuple[list[str], list[str]]:
    if mark not in arguments:
        return arguments, []
    at = arguments.index(mark)
    return arguments[:at], arguments[at + 1 :]


def _tail(path: Path, lines: int = 8) -> str:
    return "\n".join(path.read_text(errors="replace").splitlines()[-lines:])
