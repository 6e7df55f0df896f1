"""While many jobs run, cages die and hang at random: no result is lost, and none goes astray."""

import contextlib
import os
import random
import signal
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from sandbox import ExecutionStatus, Job, Limits

JOBS = 2000
CALLERS = 6
STOPS = (3, 9)  # which strikes do not kill
LIMITS = Limits(wall_seconds=5)


def chaotic_job(number: int) -> tuple[Job, tuple[ExecutionStatus, str, str, int]]:
    """A job that nobody else has, and what only it can give."""
    secret = random.Random(number).randbytes(8).hex()
    kind = number % 5
    sleep = "import time\ntime.sleep(0.01)\n" if kind == 1 else ""
    end = f"import sys\nsys.exit('{secret[:4]}')" if kind == 2 else ""
    heavy = 3000 if kind == 3 else 1
    code = f"{sleep}for line in [input()] * {heavy}:\n    print({number}, line[::-1])\n{end}"
    return Job(code, secret, limits=LIMITS), (
        ExecutionStatus.ERROR if end else ExecutionStatus.OK,
        f"{number} {secret[::-1]}\n" * heavy,
        secret[:4] + "\n" if end else "",
        1 if end else 0,
    )


class Reaper:
    """Kills and stops cages of `box` from outside, after every few jobs."""

    def __init__(self, box, seed: int) -> None:
        self.box = box
        self.random = random.Random(seed)
        self.strikes = self.killed = self.stopped = 0
        self.lock = threading.Lock()
        self.jobs_until_next = 20

    def job_done(self) -> None:
        with self.lock:
            self.jobs_until_next -= 1
            if self.jobs_until_next <= 0:
                self.jobs_until_next = self.random.randint(60, 160)
                self.strike()

    def strike(self) -> None:
        with self.box._changed:
            # Not those on their first job: that may be one whose first cage has been killed, and
            # three dead cages in a row are, rightly, an error.
            victims = [cage for cage in self.box._live if cage.jobs > 1]
        if not victims:
            return
        victim = self.random.choice(victims)
        self.strikes += 1
        if self.strikes in STOPS and self.box.name != "docker":  # a few, since each costs a second
            self.stopped += stop(victim)
        else:
            self.killed += kill(victim, self.random)


def kill(cage, chance: random.Random) -> bool:
    if hasattr(cage.link, "container"):
        from docker.errors import APIError

        with contextlib.suppress(APIError):  # it is gone already
            cage.link._api.kill(cage.link.container)
            return True
        return False
    return send(signal.SIGKILL, chance.choice(processes(cage)))


def stop(cage) -> bool:
    """Let it hang in a job. It will be given up after a second instead of many."""
    cage._grace_seconds = 1 - LIMITS.wall_seconds
    begun, deadline = cage.jobs, time.monotonic() + 10
    while cage.jobs == begun and time.monotonic() < deadline:
        time.sleep(0.001)
    return send(signal.SIGSTOP, processes(cage)[-1])


def send(number: int, pid: int) -> bool:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, number)
        return True
    return False


def processes(cage) -> list[int]:
    """The process that we started, and the runner, if that is another one."""
    pid = cage.link.process.pid
    found = [pid]
    if cage._program.startswith(b"/tmp/job/"):  # bwrap's only child is the runner
        with contextlib.suppress(FileNotFoundError):
            found += map(int, Path(f"/proc/{pid}/task/{pid}/children").read_text().split())
    return found


@pytest.mark.slow
def test_every_job_gets_its_own_result_while_cages_die(box):
    reaper = Reaper(box, seed=3)

    def run(number: int):
        job, expected = chaotic_job(number)
        got = box.run(job)  # a SandboxError would fail the test
        reaper.job_done()
        return (got.status, got.stdout, got.stderr, got.exit_code), expected

    with ThreadPoolExecutor(CALLERS) as callers:
        results = list(callers.map(run, range(JOBS)))
    assert [number for number, (got, expected) in enumerate(results) if got != expected] == []
    assert len(results) == JOBS
    assert reaper.killed >= 10
    assert reaper.stopped >= (0 if box.name == "docker" else 1)
