"""Several cages side by side: dispatch, retries, recycling, and an orderly end."""

from __future__ import annotations

import asyncio
import atexit
import contextlib
import logging
import os
import threading
import time
import weakref
from collections import deque
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import NoReturn

from sandbox.cage import START_SECONDS
from sandbox.core import (
    Backend,
    Cage,
    CageFailure,
    Cancelled,
    Execution,
    IdleCageFailure,
    Job,
    SandboxError,
    cancellation,
    cancelled_by,
)
from sandbox.link import CANCEL_LOOK_SECONDS

# A job that the machine gave no CPU is repeated, each time after such a rest.
RESTS_SECONDS = (1.0, 4.0)

log = logging.getLogger("sandbox")


class Pool:
    """A `Sandbox` of up to `cages` cages, which are started when they are first needed.

    A cage that fails says nothing about the program: the job is tried again in a fresh one, and
    after `attempts` failures the caller gets a SandboxError that tells them all.

    A job that starved, since the machine is overloaded, is repeated after a rest, while no other
    job of the pool runs; and if it starves again, once more.

    Jobs go to the cage that has rested longest: while one cleans up after a job, the next job of a
    single caller runs in another.

    A forked child may go on using the pool it inherited: it starts cages of its own there and
    never touches those of its parent.
    """

    def __init__(
        self,
        backend: Backend,
        cages: int,
        *,
        attempts: int = 3,
        jobs_per_cage: int = 2000,
    ) -> None:
        numbers = {"cages": cages, "attempts": attempts, "jobs_per_cage": jobs_per_cage}
        for what, number in numbers.items():
            if isinstance(number, bool) or not isinstance(number, int) or number < 1:
                raise ValueError(f"{what} must be a positive integer, got {number!r}.")
        self.name = backend.name
        self.cages = cages
        self._start = backend.start
        self._attempts = attempts
        self._jobs_per_cage = jobs_per_cage
        self._python_version: str | None = None  # until a cage has started
        self._begin()
        _pools.add(self)
        atexit.register(self.close)

    def _begin(self) -> None:
        self._lock = threading.Lock()
        self._closed = False
        self._live: set[Cage] = set()
        self._is_free = threading.Condition(self._lock)
        self._rested: deque[Cage] = deque()  # the free ones, the longest free first
        self._not_started = self.cages
        self._starting = 0  # in some thread, just now
        self._is_quiet = False  # a starved job is repeated: no other may begin
        self._executor: ThreadPoolExecutor | None = None

    def run(self, job: Job) -> Execution:
        cancelled = cancellation()
        execution = self._run(job, cancelled)
        for rest_seconds in RESTS_SECONDS:
            if not execution.starved:
                break
            log.warning(
                "A job starved: %.2f s of CPU time in %.1f s. The machine is overloaded; the job "
                "is repeated alone.",
                execution.cpu_seconds,
                execution.seconds,
            )
            _rest(rest_seconds, cancelled)
            with self._quiet(cancelled):
                execution = self._run(job, cancelled, alone=True)
        return execution

    def _run(self, job: Job, cancelled: threading.Event | None, alone: bool = False) -> Execution:
        failures: list[str] = []
        cage = self._take(cancelled, alone)
        try:
            while True:
                self._check_open()
                _check_wanted(cancelled)
                try:
                    cage = cage or self._started()
                    execution = cage.run(job, cancelled)
                    break
                except IdleCageFailure as failure:
                    cage = self._discard(cage)
                    log.debug("%s cage ended between jobs: %s", self.name, failure)
                except CageFailure as failure:
                    cage = self._discard(cage)
                    self._check_open()
                    log.warning("%s cage failed: %s", self.name, failure)
                    failures.append(str(failure))
                    if len(failures) == self._attempts:
                        raise self._exhausted(failures) from failure
            if cage.jobs >= self._jobs_per_cage:
                cage = self._discard(cage)
            return execution
        except (ValueError, SandboxError, Cancelled):  # the cage is none the worse for it
            raise
        except BaseException:  # also Ctrl-C: the cage may be in the middle of a job
            cage = self._discard(cage)
            raise
        finally:
            self._give_back(cage)

    async def run_async(self, job: Job) -> Execution:
        """`run` for asyncio: many may be awaited at once, and `cages` of them run side by side.

        A job whose task is cancelled (by `asyncio.wait_for`, say) never begins, or is stopped if it
        has begun.
        """
        cancelled = threading.Event()
        with self._lock:
            if self._executor is None:
                self._executor = ThreadPoolExecutor(self.cages, f"{self.name}-sandbox")
            future = self._executor.submit(self._run_unless, cancelled, job)
        try:
            return await asyncio.wrap_future(future)
        except asyncio.CancelledError:
            cancelled.set()
            raise

    def _run_unless(self, cancelled: threading.Event, job: Job) -> Execution:
        with cancelled_by(cancelled):
            return self.run(job)

    def close(self) -> None:
        with self._lock:
            self._closed = True
            cages = list(self._live)
            executor = self._executor
        if executor is not None:
            executor.shutdown(wait=False, cancel_futures=True)
        for cage in cages:
            self._discard(cage)
        with self._is_free:  # a cage that is starting is killed by the thread that starts it
            self._is_free.wait_for(lambda: not self._starting, START_SECONDS)
        atexit.unregister(self.close)

    @contextlib.contextmanager
    def _quiet(self, cancelled: threading.Event | None) -> Iterator[None]:
        """Let no other job begin, once no other caller does the same."""
        with self._is_free:
            while self._is_quiet:
                self._wait(cancelled)
            self._is_quiet = True
        try:
            yield
        finally:
            with self._is_free:
                self._is_quiet = False
                self._is_free.notify_all()

    def _take(self, cancelled: threading.Event | None = None, alone: bool = False) -> Cage | None:
        """A free cage; None stands for one that is to be started."""
        with self._is_free:
            while True:
                in_use = self.cages - self._not_started - len(self._rested)
                may_begin = not in_use if alone else not self._is_quiet
                a_spare_one_runs = self.cages - self._not_started >= 2
                if may_begin and self._rested and (a_spare_one_runs or not self._not_started):
                    return self._rested.popleft()
                if may_begin and self._not_started:
                    self._not_started -= 1
                    return None
                self._wait(cancelled)

    def _wait(self, cancelled: threading.Event | None) -> None:
        self._is_free.wait(None if cancelled is None else CANCEL_LOOK_SECONDS)
        _check_wanted(cancelled)

    def _give_back(self, cage: Cage | None) -> None:
        with self._is_free:
            if cage is None:
                self._not_started += 1
            else:
                self._rested.append(cage)
            self._is_free.notify_all()

    @property
    def closed(self) -> bool:
        return self._closed

    @property
    def python_version(self) -> str:
        """Of the interpreter in the cages: "3.13", say. Starts a cage if none has been yet."""
        if self._python_version is None:
            self.run(Job("pass"))
        return ".".join(self._python_version.split(".")[:2])

    def _check_open(self) -> None:
        if self._closed:
            raise SandboxError(f"The {self.name} sandbox is closed. Make a new one.")

    def _started(self) -> Cage:
        with self._lock:
            self._starting += 1
        try:
            cage = self._start()
            self._python_version = cage.python_version
            with self._lock:
                if not self._closed:
                    self._live.add(cage)
                    return cage
            cage.kill()
            raise CageFailure("the sandbox was closed")
        except OSError as error:
            raise CageFailure(f"it could not start: {error}") from error
        finally:
            with self._is_free:
                self._starting -= 1
                self._is_free.notify_all()

    def _discard(self, cage: Cage | None) -> None:
        if cage is not None:
            cage.kill()
            with self._lock:  # only now, so that `close` waits for a cage that is being killed
                self._live.discard(cage)

    def _exhausted(self, failures: list[str]) -> SandboxError:
        reasons = "; ".join(dict.fromkeys(failures))
        return SandboxError(
            f"Expected a result from a {self.name} cage, but {self._attempts} of them failed on "
            f"this job ({reasons}). Either the machine is in trouble or the program attacks its "
            "cage: this is not a verdict, so drop the job or try another sandbox."
        )

    def _begin_again_in_forked_child(self) -> None:
        for cage in self._live:
            cage.detach()
        self._begin()

    def __enter__(self) -> Pool:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __copy__(self) -> Pool:
        return self

    def __deepcopy__(self, _: dict) -> Pool:
        """Gymnasium deep-copies the arguments of environments. Live processes stay one."""
        return self

    def __reduce__(self) -> NoReturn:
        raise TypeError(
            "A sandbox holds live processes and cannot be pickled. "
            "Call sandbox.shared(name) in the process that needs it."
        )


def _check_wanted(cancelled: threading.Event | None) -> None:
    if cancelled is not None and cancelled.is_set():
        raise Cancelled("The job is no longer wanted.")


def _rest(seconds: float, cancelled: threading.Event | None) -> None:
    if cancelled is None:
        time.sleep(seconds)
    else:
        cancelled.wait(seconds)
        _check_wanted(cancelled)


_pools: weakref.WeakSet[Pool] = weakref.WeakSet()


def _after_fork_in_child() -> None:
    for pool in list(_pools):
        pool._begin_again_in_forked_child()


os.register_at_fork(after_in_child=_after_fork_in_child)
