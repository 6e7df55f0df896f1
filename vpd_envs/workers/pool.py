"""Killable worker processes, for judges that may hang, eat memory or run what a model wrote.

    workers = Workers("package.module:compare", timeout_seconds=2.0)
    workers.call("1/2", "0.5")      # from any thread: compare("1/2", "0.5") in another process

Math-Verify, SymPy and the scorers of puzzles are such judges: some answers keep them busy for ever,
a signal can stop them in the main thread only, and SymPy's parser evaluates what it reads.

A worker is a fresh Python process with a session of its own; it imports the function, gives up what
it does not need, and then answers calls, one at a time.

What is covered: A call beyond its time is killed, even within one long operation in C; so is one
whose caller is gone. A call can have so much memory and no more. Code that a model smuggles into
the function can start no process or thread, send no signal, open no socket, and write, make, rename
or remove no file (a seccomp filter, on x86_64 and aarch64 Linux; elsewhere only the limits for
memory, file size and processes hold). It sees no environment variable of ours. What the function
prints is dropped.

What is not covered: such code can read the files that this user can read, and it decides what its
own call, and later ones of that process, return. Programs belong into the `sandbox`.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

from sandbox.core import MIB, CageFailure, IdleCageFailure, SandboxError
from sandbox.killable import KillablePool, check_counts, shared
from sandbox.link import START_SECONDS, ProcessLink, frame, json_bytes, receive_json

PROGRAM = Path(__file__).with_name("worker.py")
STOP_SECONDS = 30.0  # the kernel may take a while for a killed process with much memory
LARGEST_REPLY_BYTES = 64 * MIB


class WorkerFailure(Exception):
    """The function gave no value for these arguments: for the caller to judge."""


class WorkerTimeout(WorkerFailure):
    """The call took too long, and its process was killed."""


class WorkerMemory(WorkerFailure):
    """The call needed more memory than it may have, in a fresh process."""


class WorkerError(WorkerFailure):
    """The function raised an exception. `kind` is its class name; our text is its text."""

    def __init__(self, kind: str, text: str) -> None:
        super().__init__(text)
        self.kind = kind


class WorkerDied(SandboxError):
    """Two fresh processes ended during the same call, or one could not start. No verdict."""


class Workers(KillablePool["Worker"]):
    """Up to `size` processes that call one function, started when they are first needed.

    function: "module:name" of a function whose arguments and value are JSON values. It is found on
        the `sys.path` of this process.
    setup: "module:name" of a function without arguments that is called once in each process before
        it is confined, such as one that imports what is heavy.
    size: how many calls may run side by side; by default, one per usable CPU.
    timeout_seconds: wall clock, of one call.
    memory_bytes: address space that calls may take beyond that of a process with the function
        loaded. What the function caches counts; a call that fails for the lack of it is repeated in
        a fresh process.
    calls_per_worker: then a process is replaced, and earlier if it has grown by half of
        `memory_bytes`: caches of libraries have no bound of their own.

    `call` is safe from many threads. A forked child may go on using what it inherited: it starts
    processes of its own there. No process outlives this one.
    """

    def __init__(
        self,
        function: str,
        *,
        setup: str | None = None,
        size: int | None = None,
        timeout_seconds: float = 5.0,
        memory_bytes: int = 512 * MIB,
        calls_per_worker: int = 10_000,
    ) -> None:
        size = len(os.sched_getaffinity(0)) if size is None else size
        for name in (function, setup):
            if name is not None and (not isinstance(name, str) or name.count(":") != 1):
                raise ValueError(f"Name a function as 'package.module:name', got {name!r}.")
        check_counts(size=size, memory_bytes=memory_bytes, calls_per_worker=calls_per_worker)
        if not 0 < timeout_seconds < threading.TIMEOUT_MAX:
            raise ValueError(f"timeout_seconds must be a positive number, got {timeout_seconds!r}.")
        self.function = function
        self.size = size
        self.timeout_seconds = timeout_seconds
        self._settings = {
            "function": function,
            "setup": setup,
            "memory_bytes": memory_bytes,
            "calls": calls_per_worker,
        }
        closed = f"The workers of {function} are closed. Make new ones."
        super().__init__(size, if_closed=closed, in_turn=False)

    def call(self, *arguments: Any) -> Any:
        """The function's value.

        Raises:
            WorkerTimeout, WorkerMemory, WorkerError: see there.
            WorkerDied: the infrastructure failed; nothing is known about the value.
            ValueError: the arguments are no JSON values, or the function cannot be imported.
        """
        request = frame(json_bytes("The arguments of a call", arguments))
        reply = self.use(lambda worker: worker.call(request))
        if "error" in reply:
            raise WorkerError(*reply["error"])
        return reply["value"]

    def start_member(self) -> Worker:
        return Worker(self._settings, self.timeout_seconds)

    def is_worn(self, member: Worker) -> bool:
        return member.is_worn

    def check_failures(self, failures: list[str]) -> None:
        if len(failures) == 2:
            raise WorkerDied(
                f"Expected a value of {self.function}, but two worker processes ended during the "
                f"same call ({'; '.join(failures)}). This is not a verdict."
            )


def shared_workers(function: str, **options: Any) -> Workers:
    """The one `Workers(function, **options)` of this process, closed at exit."""
    return shared((function, *sorted(options.items())), lambda: Workers(function, **options))


class Worker(ProcessLink):
    """One process that answers calls."""

    def __init__(self, settings: dict[str, Any], timeout_seconds: float) -> None:
        self.is_worn = False
        self._calls = 0
        self._settings = settings
        self._timeout_seconds = timeout_seconds
        try:
            # By its path: the package's own imports are not needed. -P: our folder has a math.py.
            super().__init__(
                [sys.executable, "-P", str(PROGRAM), json.dumps(settings)],
                environment(),
                stdout=subprocess.DEVNULL,
                before_kill=self._kill_session,
            )
        except OSError as error:
            raise WorkerDied(f"A worker process could not start: {error}.") from error
        try:
            reply = self._reply(time.monotonic() + START_SECONDS)
            if "failed" in reply:
                raise ValueError(
                    f"{settings['function']} could not be made ready in a worker process. "
                    f"It said:\n{reply['failed']}"
                )
        except (CageFailure, OSError) as error:
            said = self.stderr_tail()[-2000:].strip()
            self.kill()
            raise WorkerDied(f"A worker process did not start ({error}). {said}") from error
        except BaseException:
            self.kill()
            raise

    def call(self, request: bytes) -> dict[str, Any]:
        """The reply to a framed request.

        Raises:
            WorkerTimeout, WorkerMemory: see there. The process is of no more use.
            CageFailure: the process ended, sent what is no reply, or may have had too little memory
                because of what earlier calls left.
        """
        self._calls += 1
        deadline = time.monotonic() + self._timeout_seconds
        try:
            self.send(request, deadline)
            reply = self._reply(deadline)
        except TimeoutError:
            raise WorkerTimeout(f"No value within {self._timeout_seconds:g} s.") from None
        except OSError as error:
            raise CageFailure(f"the channel broke: {error}") from error
        if "memory" not in reply:
            self.is_worn = reply.get("retire", False)
            return reply
        if self._calls > 1:
            raise IdleCageFailure("it had too little memory left")
        raise WorkerMemory(
            f"{self._settings['function']} needed more than "
            f"{self._settings['memory_bytes'] >> 20} MB of memory."
        )

    def _reply(self, deadline: float) -> dict[str, Any]:
        try:
            reply = receive_json(self.receive, deadline, LARGEST_REPLY_BYTES)
        except EOFError:
            raise CageFailure(self._exit()) from None
        if not reply.keys() & REPLIES:
            raise CageFailure(f"it sent {reply!r:.60}")
        return reply

    def _exit(self) -> str:
        with contextlib.suppress(subprocess.TimeoutExpired):
            code = self.process.wait(STOP_SECONDS)
            return f"signal {-code}" if code < 0 else f"exit code {code}"
        return "it hung up"

    def _kill_session(self, leader: int) -> None:
        if self.process.poll() is None:  # else the number may be another's by now
            with contextlib.suppress(ProcessLookupError):
                os.killpg(leader, signal.SIGKILL)


REPLIES = {"ready", "failed", "value", "error", "memory"}


def environment() -> dict[str, str]:
    """All that a worker sees of ours. Hashes are not randomized: verdicts should repeat."""
    kept = ("LD_LIBRARY_PATH", "PYTHONHOME", "VIRTUAL_ENV")
    return {name: os.environ[name] for name in kept if name in os.environ} | {
        "PYTHONPATH": os.pathsep.join(str(path or Path.cwd()) for path in sys.path),
        "PYTHONHASHSEED": "0",
        "PYTHONDONTWRITEBYTECODE": "1",
        "LANG": "C.UTF-8",
        "OPENBLAS_NUM_THREADS": "1",
        "OMP_NUM_THREADS": "1",
        # GMP ends the process where Python's integers raise a MemoryError.
        "SYMPY_GROUND_TYPES": "python",
        "MPMATH_NOGMPY": "1",
    }
