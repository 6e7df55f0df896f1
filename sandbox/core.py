"""What a sandbox takes and gives: a `Job` goes in, an `Execution` comes out.

A sandbox runs one untrusted Python program and reports what happened. It never judges: expected
outputs do not enter it, so nothing inside a cage can be read, forged or patched into a right
answer.
"""

from __future__ import annotations

import contextlib
import importlib
import logging
import math
import os
import threading
import warnings
from collections.abc import Iterator
from contextvars import ContextVar
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Protocol, runtime_checkable

MIB = 1 << 20
ATTEMPTS = 3  # of one job, each in a fresh cage but the first
JOBS_PER_CAGE = 2000  # then it is replaced: no runner lives long enough to wear out

LARGEST_LIMITS = {
    "wall_seconds": 1_000_000,
    "cpu_seconds": 1_000_000,
    "memory_bytes": 1 << 50,
    "processes": 1 << 22,  # the kernel's
    "output_bytes": 1 << 29,  # it is held in memory, and sent in one piece
    "file_bytes": 1 << 50,
    "open_files": 1 << 20,  # the kernel's
}

log = logging.getLogger("sandbox")


class SandboxError(RuntimeError):
    """The infrastructure failed (cage, daemon, disk): nothing is known about the program.

    It is never a verdict. The message says what was expected, what came and what to do.
    """


class Cancelled(Exception):
    """The job is no longer wanted (see `cancelled_by`): it was stopped, or never begun."""


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
            number = isinstance(value, (int, float)) and not isinstance(value, bool)
            if not number or not 0 < value < math.inf:
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
    """Runs jobs. `run` is safe to call from many threads; it blocks until a cage is free."""

    name: str  # "docker", "bubblewrap" or "local"
    cages: int  # how many jobs run side by side
    python_version: str  # of the interpreter that runs the programs, such as "3.13"

    def run(self, job: Job) -> Execution:
        """Run one job.

        Raises:
            SandboxError: the infrastructure failed, after its retries.
            Cancelled: see `cancelled_by`.
        """
        ...

    def close(self) -> None:
        """Kill every cage and remove what they left. Idempotent."""
        ...


# The strongest first; that is the order in which "auto" tries them.
BACKENDS = {
    "docker": "sandbox.docker:Docker",
    "bubblewrap": "sandbox.bubblewrap:Bubblewrap",
    "local": "sandbox.local:Local",
}


def make(
    name: str = "auto",
    *,
    cages: int | None = None,
    attempts: int = ATTEMPTS,
    jobs_per_cage: int = JOBS_PER_CAGE,
    **options: Any,
) -> Sandbox:
    """Make a sandbox and run a tiny job in it, so that what is returned is known to work.

    Args:
        name: "docker", "bubblewrap", "local", or "auto" for the strongest of these that works.
        cages: how many jobs may run side by side; by default, one per usable CPU.
        attempts: how many cages may fail on a job before it ends in a SandboxError.
        jobs_per_cage: then a cage is replaced by a fresh one.
        **options: of the backend (see its class); not with "auto".

    Raises:
        ValueError: an unknown name.
        SandboxError: the named backend does not work here.
    """
    if cages is None:
        cages = len(os.sched_getaffinity(0))
    if name == "auto":
        if options:
            raise ValueError(f"Options {sorted(options)} need a named sandbox, not 'auto'.")
        return _make_strongest(cages, attempts, jobs_per_cage)
    if name not in BACKENDS:
        raise ValueError(f"Unknown sandbox {name!r}. Choose one of: auto, {', '.join(BACKENDS)}.")
    return _make_working(name, cages, attempts, jobs_per_cage, options)


def _make_strongest(cages: int, attempts: int, jobs_per_cage: int) -> Sandbox:
    reasons = {}
    for name in BACKENDS:
        try:
            sandbox = _make_working(name, cages, attempts, jobs_per_cage, {})
        except SandboxError as error:
            reasons[name] = str(error)
            continue
        log.info("Sandbox: %s, %d cages.", name, cages)
        log.debug("Stronger ones that do not work: %s", reasons)
        if name == "local":
            warnings.warn(
                "The local sandbox protects neither files nor other processes of this user from "
                "the programs. Use bubblewrap or Docker for untrusted ones; "
                "`vpd doctor` tells what each of them lacks here.",
                stacklevel=3,
            )
        return sandbox
    raise SandboxError("No sandbox works here. " + " ".join(reasons.values()))


def _make_working(
    name: str, cages: int, attempts: int, jobs_per_cage: int, options: dict[str, Any]
) -> Sandbox:
    from sandbox.pool import Pool

    module, _, attribute = BACKENDS[name].partition(":")
    backend = getattr(importlib.import_module(module), attribute)(**options)
    pool = Pool(name, backend.start, cages, attempts=attempts, jobs_per_cage=jobs_per_cage)
    try:
        probe = pool.run(Job(code="print(6 * 7)", limits=Limits(memory_bytes=32 * MIB)))
        if probe.stdout != "42\n":
            raise SandboxError(
                f"A {name} sandbox was expected to print 42, but: {probe}. Choose another sandbox."
            )
    except BaseException:
        pool.close()
        raise
    return pool


def backends() -> dict[str, str | None]:
    """For each backend: None if it works here, else the reason why it does not."""
    reasons: dict[str, str | None] = {}
    for name in BACKENDS:
        try:
            make(name, cages=1).close()
            reasons[name] = None
        except SandboxError as error:
            reasons[name] = str(error)
    return reasons


_shared: dict[tuple[str, int | None], Sandbox] = {}
_shared_lock = threading.Lock()


def shared(name: str = "auto", cages: int | None = None) -> Sandbox:
    """The one sandbox of this process with that name and number of cages, closed at exit.

    In a forked child it has cages of its own (see `Pool`).
    """
    with _shared_lock:
        sandbox = _shared.get((name, cages))
        if sandbox is None or sandbox.closed:
            sandbox = _shared[name, cages] = make(name, cages=cages)
        return sandbox


def _unlock_after_fork() -> None:
    global _shared_lock
    _shared_lock = threading.Lock()


os.register_at_fork(after_in_child=_unlock_after_fork)
