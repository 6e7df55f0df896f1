"""Several cages side by side: dispatch, retries, recycling, and an orderly end."""

from __future__ import annotations

import atexit
import logging
import os
import queue
import threading
import weakref
from collections.abc import Callable
from typing import NoReturn

from sandbox.cage import Cage, CageFailure
from sandbox.core import Execution, Job, SandboxError

ATTEMPTS = 3  # of one job, each in a fresh cage but the first
JOBS_PER_CAGE = 2000  # then it is replaced: no runner lives long enough to wear out

log = logging.getLogger("sandbox")


class Pool:
    """A `Sandbox` of up to `cages` cages, which are started when they are first needed.

    A cage that fails says nothing about the program: the job is tried again in a fresh one, and
    after three failures the caller gets a SandboxError that tells them all.

    A forked child may go on using the pool it inherited: it starts cages of its own there and
    never touches those of its parent.
    """

    def __init__(
        self,
        name: str,
        start: Callable[[], Cage],
        cages: int,
        *,
        jobs_per_cage: int = JOBS_PER_CAGE,
    ) -> None:
        if isinstance(cages, bool) or not isinstance(cages, int) or cages < 1:
            raise ValueError(f"cages must be a positive integer, got {cages!r}.")
        self.name = name
        self.cages = cages
        self._start = start
        self._jobs_per_cage = jobs_per_cage
        self._begin()
        _pools.add(self)
        atexit.register(self.close)

    def _begin(self) -> None:
        self._lock = threading.Lock()
        self._closed = False
        self._live: set[Cage] = set()
        # One entry per slot. None: no cage is running there yet. The cage used last comes first.
        self._free: queue.LifoQueue[Cage | None] = queue.LifoQueue()
        for _ in range(self.cages):
            self._free.put(None)

    def run(self, job: Job) -> Execution:
        failures: list[str] = []
        cage = self._free.get()
        try:
            while True:
                self._check_open()
                try:
                    cage = cage or self._started()
                    execution = cage.run(job)
                    break
                except CageFailure as failure:
                    cage = self._discard(cage)
                    self._check_open()
                    log.warning("%s cage failed: %s", self.name, failure)
                    failures.append(str(failure))
                    if len(failures) == ATTEMPTS:
                        raise self._exhausted(failures) from failure
            if cage.tainted or cage.jobs >= self._jobs_per_cage:
                cage = self._discard(cage)
            return execution
        except ValueError:
            raise
        except BaseException:  # also Ctrl-C: the cage may be in the middle of a job
            cage = self._discard(cage)
            raise
        finally:
            self._free.put(cage)

    def close(self) -> None:
        with self._lock:
            self._closed = True
            cages = list(self._live)
        for cage in cages:
            self._discard(cage)
        atexit.unregister(self.close)

    @property
    def closed(self) -> bool:
        return self._closed

    def _check_open(self) -> None:
        if self._closed:
            raise SandboxError(f"The {self.name} sandbox is closed. Make a new one.")

    def _started(self) -> Cage:
        try:
            cage = self._start()
        except OSError as error:
            raise CageFailure(f"it could not start: {error}") from error
        with self._lock:
            if not self._closed:
                self._live.add(cage)
                return cage
        cage.kill()
        raise CageFailure("the sandbox was closed")

    def _discard(self, cage: Cage | None) -> None:
        if cage is not None:
            with self._lock:
                self._live.discard(cage)
            cage.kill()

    def _exhausted(self, failures: list[str]) -> SandboxError:
        reasons = "; ".join(dict.fromkeys(failures))
        return SandboxError(
            f"Expected a result from a {self.name} cage, but {ATTEMPTS} of them failed on this job "
            f"({reasons}). Either the machine is in trouble or the program attacks its cage: "
            "this is not a verdict, so drop the job or try another sandbox."
        )

    def _begin_again_in_forked_child(self) -> None:
        for cage in self._live:
            cage.forget()
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


_pools: weakref.WeakSet[Pool] = weakref.WeakSet()


def _after_fork_in_child() -> None:
    for pool in list(_pools):
        pool._begin_again_in_forked_child()


os.register_at_fork(after_in_child=_after_fork_in_child)
