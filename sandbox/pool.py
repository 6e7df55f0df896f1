"""A sandbox of several cages side by side: retries, recycling, and asyncio."""

from __future__ import annotations

import asyncio
import logging
import threading
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import NoReturn

from sandbox.core import (
    Backend,
    Cage,
    CageFailure,
    Execution,
    Job,
    SandboxError,
    cancellation,
    cancelled_by,
)
from sandbox.killable import KillablePool, check_counts, check_wanted

# A job that the machine gave no CPU is repeated, each time after such a rest.
RESTS_SECONDS = (1.0, 4.0)

log = logging.getLogger("sandbox")


class Pool(KillablePool[Cage]):
    """A `Sandbox` of up to `cages` cages, which are started when they are first needed.

    A cage that fails says nothing about the program: the job is tried again in a fresh one, and
    after `attempts` failures the caller gets a SandboxError that tells them all. After
    `jobs_per_cage` jobs a cage is replaced, so that none lives long enough to fail of age.

    A job that starved, since the machine is overloaded, is repeated after a rest, while no other
    job of the pool runs; and if it starves again, once more.
    """

    def __init__(
        self, backend: Backend, cages: int, *, attempts: int = 3, jobs_per_cage: int = 2000
    ) -> None:
        check_counts(cages=cages, attempts=attempts, jobs_per_cage=jobs_per_cage)
        self.name = backend.name
        self.cages = cages
        self._backend = backend
        self._attempts = attempts
        self._jobs_per_cage = jobs_per_cage
        self._python_version: str | None = None  # until a cage has started
        closed = f"The {self.name} sandbox is closed. Make a new one."
        super().__init__(cages, if_closed=closed, in_turn=True)

    def reset(self) -> None:
        super().reset()
        self._executor = ThreadPoolExecutor(self.cages, f"{self.name}-sandbox")

    def run(self, job: Job) -> Execution:
        cancelled = cancellation()
        attempt = partial(self.use, lambda cage: cage.run(job, cancelled), cancelled)
        execution = attempt()
        for rest_seconds in RESTS_SECONDS:
            if not execution.starved:
                break
            log.warning(
                "A job starved: %.2f s of CPU time in %.1f s. The machine is overloaded; the job "
                "is repeated alone.",
                execution.cpu_seconds,
                execution.seconds,
            )
            (cancelled or threading.Event()).wait(rest_seconds)
            check_wanted(cancelled)
            execution = attempt(alone=True)
        return execution

    def start_member(self) -> Cage:
        try:
            cage = self._backend.start()
        except OSError as error:
            raise CageFailure(f"it could not start: {error}") from error
        self._python_version = cage.python_version
        return cage

    def is_worn(self, member: Cage) -> bool:
        return member.jobs >= self._jobs_per_cage

    def check_failures(self, failures: list[str]) -> None:
        log.warning("%s cage failed: %s", self.name, failures[-1])
        if len(failures) == self._attempts:
            reasons = "; ".join(dict.fromkeys(failures))
            raise SandboxError(
                f"Expected a result from a {self.name} cage, but {self._attempts} of them failed "
                f"on this job ({reasons}). Either the machine is in trouble or the program attacks "
                "its cage: this is not a verdict, so drop the job or try another sandbox."
            )

    async def run_async(self, job: Job) -> Execution:
        """`run` for asyncio: many may be awaited at once, and `cages` of them run side by side.

        A job whose task is cancelled (by `asyncio.wait_for`, say) never begins, or is stopped if it
        has begun.
        """
        self.check_open()
        cancelled = threading.Event()

        def run() -> Execution:
            with cancelled_by(cancelled):
                return self.run(job)

        try:
            return await asyncio.wrap_future(self._executor.submit(run))
        except asyncio.CancelledError:
            cancelled.set()
            raise

    def close(self) -> None:
        self._executor.shutdown(wait=False, cancel_futures=True)
        super().close()

    @property
    def python_version(self) -> str:
        """Of the interpreter in the cages: "3.13", say. Starts a cage if none has been yet."""
        if self._python_version is None:
            self.run(Job("pass"))
            assert self._python_version is not None
        return ".".join(self._python_version.split(".")[:2])

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
