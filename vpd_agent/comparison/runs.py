"""The runs of a comparison: a process of `vpd train` each, so many side by side, which go on where
they were when the comparison is called again."""

from __future__ import annotations

import fcntl
import json
import os
import signal
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

from vpd_agent.comparison.child import Command, context_for, run_command
from vpd_agent.comparison.experiment import Contestant, Options
from vpd_agent.comparison.results import Outcome, RunResult, read_run
from vpd_agent.console import Bars, bars, phase, say
from vpd_agent.runs.files import write_atomically
from vpd_agent.runs.run_folder import CONFIG, LOCK, METRICS, RunFolder

_TOTAL = "all runs"


@dataclass(frozen=True)
class Run:
    """One contestant with one seed.

    path: its folder. Beside it are its output, PATH.log, and if it failed, why: PATH.failed.
    options: flags of vpd train that win over the contestant's.
    keeps_weights: whether it leaves models when it has finished.
    """

    contestant: Contestant
    seed: int
    path: Path
    steps: int
    options: Options = ()
    keeps_weights: bool = True

    @property
    def name(self) -> str:
        return f"{self.contestant.label} seed {self.seed}"

    @property
    def log(self) -> Path:
        return self.path.with_name(f"{self.path.name}.log")

    @property
    def failure(self) -> Path:
        return self.path.with_name(f"{self.path.name}.failed")

    @property
    def finished(self) -> bool:
        return RunFolder.finished_step(self.path) is not None

    @property
    def outcome(self) -> Outcome:
        if self.finished:
            return "finished"
        return "failed" if self.failure.is_file() else "missing"

    @property
    def begun(self) -> bool:
        return (self.path / CONFIG).is_file()

    def drop_weights(self) -> None:
        """If it has finished and does not keep them."""
        if not self.keeps_weights and self.finished:
            RunFolder.remove_weights(self.path)

    def arguments(self, shared: Sequence[str]) -> list[str]:
        """Those of vpd train behind the algorithm's name."""
        own = ["--seed", str(self.seed), "--steps", str(self.steps), "--out", str(self.path)]
        return [*shared, *self.contestant.arguments(self.options), *own, "--quiet"]

    def result(self) -> RunResult:
        outcome = self.outcome
        reason = {"finished": "", "missing": "it has not come to its end"}.get(outcome)
        if reason is None:
            reason = self.failure.read_text(encoding="utf-8").strip()
        return read_run(self.path, self.contestant.label, self.seed, outcome, reason)


class Interrupted(Exception):
    """The comparison was asked to end. Its runs have saved what they had."""


def run_all(
    runs: Sequence[Run],
    shared: Sequence[str],
    command: Command,
    *,
    jobs: int,
    gpus: Sequence[str],
) -> None:
    """Train the runs that are neither finished nor failed, `jobs` at a time.

    command: what `vpd` does with its arguments.

    Each process has one torch thread: on two cores, two processes of one thread beat one of two.
    gpus: as CUDA_VISIBLE_DEVICES names them; each run sees one of them. Empty: no choice is made.

    Raises Interrupted after a SIGINT or SIGTERM, which each run gets as one SIGTERM, so that it
    finishes its step and saves; a second signal kills the runs.
    """
    for run in runs:
        run.drop_weights()  # of one that finished while its comparison was interrupted
    waiting = [run for run in runs if run.outcome == "missing"]
    if not waiting:
        return
    pool = _Pool(shared, command, jobs, gpus)
    with bars() as progress, _signals_interrupt():
        progress.add(_TOTAL, sum(run.steps for run in runs))
        try:
            while waiting or pool.running:
                while waiting and pool.has_room:
                    run = waiting.pop(0)
                    pool.start(run)
                    progress.add(run.name, run.steps)
                time.sleep(0.25)
                for run in pool.take_ended():
                    progress.remove(run.name)
                _show(progress, runs, pool.running)
        except KeyboardInterrupt:
            pool.stop()
            raise Interrupted from None
        finally:
            pool.kill()


class _Pool:
    """The processes that run."""

    def __init__(
        self, shared: Sequence[str], command: Command, jobs: int, gpus: Sequence[str]
    ) -> None:
        self._shared, self._command, self._gpus = shared, command, gpus
        self._context = context_for(with_gpus=bool(gpus))
        self._free = list(range(jobs))
        self._running: dict[Run, tuple[BaseProcess, int]] = {}

    @property
    def running(self) -> list[Run]:
        return list(self._running)

    @property
    def has_room(self) -> bool:
        return bool(self._free)

    def start(self, run: Run) -> None:
        run.path.parent.mkdir(parents=True, exist_ok=True)
        _wait_for_lock(run)
        slot = self._free.pop(0)
        variables = {"TOKENIZERS_PARALLELISM": "false"}
        if self._gpus:
            variables["CUDA_VISIBLE_DEVICES"] = self._gpus[slot % len(self._gpus)]
        arguments = ["train", run.contestant.algorithm, *run.arguments(self._shared)]
        arguments += ["--resume"] if run.begun else []
        given = self._command, arguments, run.log, variables
        process = self._context.Process(target=run_command, args=given)
        with _environment(OMP_NUM_THREADS="1"):  # read when torch is imported
            process.start()
        self._running[run] = process, slot

    def take_ended(self) -> list[Run]:
        """The runs that have ended since. Why one failed is written down."""
        ended = [run for run, (process, _) in self._running.items() if process.exitcode is not None]
        for run in ended:
            process, slot = self._running.pop(run)
            self._free.append(slot)
            run.drop_weights()
            if not run.finished:
                write_atomically(run.failure, _reason(process.exitcode or 0, run.log) + "\n")
        return ended

    def stop(self) -> None:
        """Let the runs save. A second interrupt kills them."""
        say(
            f"Stopping: {len(self._running)} runs finish their step and save. Once more to stop "
            f"them at once."
        )
        for process, _ in self._running.values():
            process.terminate()
        try:
            for process, _ in self._running.values():
                process.join()
        except KeyboardInterrupt:
            say("Stopping the runs at once.")

    def kill(self) -> None:
        """End what still runs, with the processes that it started."""
        for process, _ in self._running.values():
            if process.exitcode is None and process.pid is not None:
                with suppress(ProcessLookupError):  # it has no group of its own yet
                    os.killpg(process.pid, signal.SIGKILL)
                process.kill()
                process.join()


@contextmanager
def _environment(**variables: str) -> Iterator[None]:
    """Variables that a process started within inherits."""
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name)
            if value is not None:
                os.environ[name] = value


@contextmanager
def _signals_interrupt() -> Iterator[None]:
    """SIGTERM raises KeyboardInterrupt too, as SIGINT does."""

    def interrupt(number: int, frame: object) -> None:
        raise KeyboardInterrupt

    previous = {n: signal.signal(n, interrupt) for n in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def _wait_for_lock(run: Run) -> None:
    """A run whose comparison was killed may still be about to end."""
    with phase(f"Waiting for the process that still holds {run.path}"):
        for _ in range(1200):
            if not is_held(run.path / LOCK):
                return
            time.sleep(0.1)
    raise ValueError(f"{run.path} is in use by a running process. Wait for it, or end it.")


def is_held(lock: Path) -> bool:
    """Whether a process holds this lock."""
    if not lock.is_file():
        return False
    with lock.open() as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            return True
    return False


def _reason(code: int, log: Path) -> str:
    """Why a run ended, in a line: the last that it said."""
    how = f"exit code {code}" if code >= 0 else f"ended by {signal.Signals(-code).name}"
    lines = [line for line in log.read_text(errors="replace").splitlines() if line.strip()]
    return f"{how}: {lines[-1].strip()}" if lines else how


def _show(progress: Bars, runs: Sequence[Run], running: Sequence[Run]) -> None:
    passed = {run: run.steps if run.outcome != "missing" else 0 for run in runs}
    for run in running:
        if row := _last_row(run.path):
            progress.show(run.name, row["step"], row)
            passed[run] = row["step"]
    progress.show(_TOTAL, sum(passed.values()))
    ended = [run.outcome for run in runs if run not in running]
    progress.describe(
        _TOTAL,
        f"{len(runs)} runs: {ended.count('finished')} finished, {ended.count('failed')} failed, "
        f"{len(running)} running, {ended.count('missing')} left",
    )


def _last_row(folder: Path) -> dict[str, Any] | None:
    """The last whole line of metrics.jsonl, without reading what is before it."""
    try:
        with (folder / METRICS).open("rb") as file:
            file.seek(max(file.seek(0, os.SEEK_END) - 65536, 0))
            lines = file.read().split(b"\n")
        return json.loads(lines[-2])
    except (OSError, IndexError, ValueError):
        return None
