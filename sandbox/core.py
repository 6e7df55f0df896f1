"""What a sandbox takes and gives: a `Job` goes in, an `Execution` comes out.

A sandbox runs one untrusted Python program and reports what happened. It never judges: expected
outputs do not enter it, so nothing inside a cage can be read, forged or patched into a right
answer.

Three words: a *cage* is a place where one program runs at a time, such as a container; a *backend*
starts cages of one kind; a *sandbox* runs jobs from many threads. `sandbox.make` makes a sandbox of
a backend's cages, or takes a class that is a sandbox itself.
"""

from __future__ import annotations

import contextlib
import math
import threading
from collections.abc import Iterator
from contextvars import ContextVar
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Protocol, TypeGuard, runtime_checkable

MIB = 1 << 20

LARGEST_LIMITS = {
    "wall_seconds": 1_000_000,
    "cpu_seconds": 1_000_000,
    "memory_bytes": 1 << 50,
    "processes": 1 << 22,  # the kernel's
    "output_bytes": 1 << 29,  # it is held in memory, and sent in one piece
    "file_bytes": 1 << 50,
    "open_files": 1 << 20,  # the kernel's
}


class SandboxError(RuntimeError):
    """The infrastructure failed (cage, daemon, disk): nothing is known about the program.

    It is never a verdict. The message says what was expected, what came and what to do.
    """


class Cancelled(Exception):
    """The job is no longer wanted (see `cancelled_by`): it was stopped, or never begun."""


class CageFailure(Exception):
    """A cage, not its program, failed. It is killed, and its job is tried again in another."""


class IdleCageFailure(CageFailure):
    """It failed between two jobs. The new job has nothing to do with it and loses no attempt."""


class ExecutionStatus(StrEnum):
    """How a program ended."""

    OK = "ok"  # exit code 0 (and, for a call, a JSON value came back)
    ERROR = "error"  # non-zero exit code: an uncaught exception, sys.exit(1), a syntax error
    TIMEOUT = "timeout"  # the CPU limit, or the wall-clock limit by sleeping or waiting
    MEMORY = "memory"  # the memory limit
    # Wrote more than Limits.output_bytes to stdout or stderr or as a value, or made more files than
    # a cage with a file system of its own allows (20,000).
    OUTPUT_LIMIT = "output_limit"
    CRASH = "crash"  # killed by a signal that is none of the above
    # It wanted a CPU and did not get one for long enough, also when it was repeated alone: the
    # machine is overloaded, and nothing is known about the program.
    STARVED = "starved"


DEFAULT_SECONDS = 10.0
WALL_FACTOR = 3.0  # wall-clock time that a limit of CPU time alone allows, in multiples of it


@dataclass(frozen=True)
class Limits:
    """What one job may use. All limits are enforced inside the cage, per job.

    The time limit of a problem is `cpu_seconds`: CPU time of all processes of the job together.
    `wall_seconds` ends programs that sleep or wait. Time in which a job wanted a CPU and the
    machine gave it none is not charged to it, so wall-clock time can be longer than the limit, up
    to ten times.

    Given only `cpu_seconds`, `wall_seconds` is three times as much; given only `wall_seconds`,
    `cpu_seconds` is the same. By default, both are 10.
    """

    wall_seconds: float | None = None
    cpu_seconds: float | None = None
    # Of all its processes, a page that they share counted once, and of the kernel for them: page
    # tables, pipes and sockets, each taken as full. What is reserved and never filled does not
    # count, up to 3 GiB per process beyond this.
    memory_bytes: int = 512 * MIB
    processes: int = 128  # processes and threads of the job, itself included
    output_bytes: int = 16 * MIB  # of stdout and of stderr, each
    file_bytes: int = 64 * MIB  # size of any one file it writes
    open_files: int = 256

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if value is None and name in ("wall_seconds", "cpu_seconds"):
                continue
            if not is_number(value) or not 0 < value < math.inf:
                raise ValueError(f"Limits.{name} must be a positive finite number, got {value!r}.")
            if value > LARGEST_LIMITS[name]:
                most = LARGEST_LIMITS[name]
                raise ValueError(f"Limits.{name} may be at most {most:,}, got {value!r}.")
        if self.open_files < 8:
            raise ValueError(f"Limits.open_files must be at least 8, got {self.open_files!r}.")
        self._fill_in_seconds()

    def _fill_in_seconds(self) -> None:
        wall, cpu = self.wall_seconds, self.cpu_seconds
        if wall is None:
            wall = DEFAULT_SECONDS if cpu is None else cpu * WALL_FACTOR
            wall = min(wall, LARGEST_LIMITS["wall_seconds"])
        object.__setattr__(self, "wall_seconds", wall)
        object.__setattr__(self, "cpu_seconds", wall if cpu is None else cpu)


def is_number(value: object) -> TypeGuard[float]:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


@dataclass(frozen=True)
class Call:
    """Ask for one function call instead of a plain program run.

    `function` is looked up as a method of `Solution()` if the program defines a class of that name
    with it, else as a module-level function. `arguments` are JSON values. So must be what it
    returns, or something that equals one in Python: a numpy number, `Fraction(6, 2)`. A tuple
    counts as a list. Infinity is JSON here as it is for Python's `json`; NaN, which equals nothing,
    is not.

    The program is a module named "solution", not `__main__`: its `__main__` block does not run.

    strict: whether a tuple inside of the value, or a key of it that is no text, is an error: in
        Python it equals no JSON value. By default, these become lists and texts.
    """

    function: str
    arguments: tuple[Any, ...] = ()
    strict: bool = False


@dataclass(frozen=True)
class Job:
    """One program and its input. The program runs as `__main__` from a real file."""

    code: str
    stdin: str | bytes = b""
    call: Call | None = None
    limits: Limits = field(default_factory=Limits)

    def __post_init__(self) -> None:
        if not isinstance(self.code, str):
            raise ValueError(f"Job.code must be text (str), got {type(self.code).__name__}.")
        if not isinstance(self.stdin, (str, bytes)):
            raise ValueError(f"Job.stdin must be str or bytes, got {type(self.stdin).__name__}.")


@dataclass(frozen=True)
class Execution:
    """What happened. Text is UTF-8, undecodable bytes replaced by U+FFFD."""

    status: ExecutionStatus
    stdout: str  # at most Limits.output_bytes of it
    stderr: str  # likewise
    exit_code: int | None  # None if killed; -N is never used, see `signal`
    seconds: float  # wall clock
    cpu_seconds: float
    memory_bytes: int  # peak, with about 15 MB of interpreter that are not charged
    value: str | None = None  # JSON text of what a Call returned; None for a plain run or a failure
    signal: int | None = None  # the signal that killed it, if one did
    stdout_bytes: int = 0  # length before the cap
    stderr_bytes: int = 0

    @property
    def starved(self) -> bool:
        """Whether the machine had no CPU for the program, so that nothing is known about it."""
        return self.status is ExecutionStatus.STARVED

    def check_not_starved(self) -> None:
        """For all who judge by an execution. Raises SandboxError if it is no verdict."""
        if self.starved:
            raise SandboxError(
                f"Expected a CPU for the program, but the machine is overloaded: it got "
                f"{self.cpu_seconds:.2f} s of CPU time in {self.seconds:.1f} s, also when it was "
                "repeated alone. This is not a verdict: judge it again when there is less load, or "
                "use fewer cages."
            )


_cancelled: ContextVar[threading.Event | None] = ContextVar("cancelled", default=None)


@contextlib.contextmanager
def cancelled_by(event: threading.Event) -> Iterator[None]:
    """Within this block, `Sandbox.run` ends with `Cancelled` soon after `event` is set.

    The program is stopped, and its cage goes on with other jobs. This holds for the thread (or
    asyncio task) that runs the block, not for threads that it starts.
    """
    token = _cancelled.set(event)
    try:
        yield
    finally:
        _cancelled.reset(token)


def cancellation() -> threading.Event | None:
    """The event of the innermost `cancelled_by`: for those who implement a `Sandbox`."""
    return _cancelled.get()


@runtime_checkable
class Sandbox(Protocol):
    """Runs jobs. `run` is safe to call from many threads; it blocks until a cage is free.

    A class of your own that has this, such as a judge on another machine, is a sandbox for
    `sandbox.make("module:Class")`. It is made as `Class(**options)`, and with `cages=...` where
    the caller chose a number. In a forked child it must open its own connections.
    """

    name: str  # "docker", "bubblewrap", "local", or your own
    cages: int  # how many jobs run side by side

    @property
    def python_version(self) -> str:
        """Of the interpreter that runs the programs, such as "3.13"."""
        ...

    def run(self, job: Job) -> Execution:
        """Run one job.

        Raises:
            SandboxError: the infrastructure failed, after its retries.
            Cancelled: see `cancelled_by`.
            ValueError: the job cannot be run as it is; a mistake of the caller.
        """
        ...

    def close(self) -> None:
        """Kill every cage and remove what they left. Idempotent."""
        ...


class Killable(Protocol):
    """A process, container or the like that belongs to a pool."""

    def kill(self) -> None:
        """End it and all its jobs, and remove what they left. Idempotent."""
        ...

    def detach(self) -> None:
        """In a forked child: close our ends of its connections. It is the parent's."""
        ...


class Cage(Killable, Protocol):
    """Where programs run, one at a time. `sandbox.cage.RunnerCage` is one."""

    jobs: int  # that it was given so far
    python_version: str  # of its interpreter, such as "3.13.5"

    def run(self, job: Job, cancelled: threading.Event | None = None) -> Execution:
        """Run one job, or stop it once `cancelled` is set.

        Raises:
            CageFailure: the cage, not the program, failed. The job is tried again in another.
            Cancelled, SandboxError, ValueError: see `Sandbox.run`. The cage goes on.
        """
        ...


class Backend(Protocol):
    """Starts cages of one kind.

    A class of your own that has this is a backend for `sandbox.make("module:Class")`: it is made as
    `Class(**options)`, and its cages get the retries, the recycling and the orderly end of ours.
    """

    name: str  # "docker", "bubblewrap", "local", or your own

    def start(self) -> Cage:
        """A cage that is ready for jobs. Called from many threads.

        Raises:
            CageFailure, OSError: it did not start; this is tried again.
        """
        ...
