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

import atexit
import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import weakref
from pathlib import Path
from typing import Any

from sandbox.core import MIB, SandboxError

PROGRAM = Path(__file__).with_name("worker.py")
START_SECONDS = 60.0  # a worker that is not ready by then has failed
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


class Workers:
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
        whole = {"size": size, "memory_bytes": memory_bytes, "calls_per_worker": calls_per_worker}
        for what, number in whole.items():
            if isinstance(number, bool) or not isinstance(number, int) or number < 1:
                raise ValueError(f"{what} must be a positive integer, got {number!r}.")
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
        self._begin()
        _pools.add(self)

    def _begin(self) -> None:
        self._is_free = threading.Condition()
        self._closed = False
        self._live: set[Worker] = set()
        self._rested: list[Worker] = []  # the last one used is taken first: its caches are warm
        self._not_started = self.size

    def call(self, *arguments: Any) -> Any:
        """The function's value.

        Raises:
            WorkerTimeout, WorkerMemory, WorkerError: see there.
            WorkerDied: the infrastructure failed; nothing is known about the value.
            ValueError: the arguments are no JSON values, or the function cannot be imported.
        """
        request = frame(arguments)
        worker = self._take()
        died: WorkerEnded | None = None
        try:
            while True:
                self._check_open()
                worker = worker or self._started()
                fresh = worker.calls == 0
                try:
                    reply = worker.call(request, self.timeout_seconds)
                except WorkerEnded as ended:
                    worker = self._discard(worker)
                    self._check_open()
                    if died is not None:
                        raise WorkerDied(
                            f"Expected a value of {self.function}, but two worker processes ended "
                            f"during the same call ({died}; {ended}). This is not a verdict."
                        ) from ended
                    died = ended
                    continue
                if reply.get("worn") or "memory" in reply:
                    worker = self._discard(worker)
                if "memory" not in reply:
                    break
                if fresh:
                    raise WorkerMemory(
                        f"{self.function} needed more than {self._settings['memory_bytes'] >> 20} "
                        "MB of memory."
                    )
        except BaseException:  # also Ctrl-C: the worker may be in the middle of the call
            worker = self._discard(worker)
            raise
        finally:
            self._give_back(worker)
        if "error" in reply:
            raise WorkerError(*reply["error"])
        return reply["value"]

    def close(self) -> None:
        """Kill all processes. Idempotent; calls that are under way raise SandboxError."""
        with self._is_free:
            self._closed = True
            workers = list(self._live)
        for worker in workers:
            self._discard(worker)

    @property
    def closed(self) -> bool:
        return self._closed

    def _check_open(self) -> None:
        if self._closed:
            raise SandboxError(f"The workers of {self.function} are closed. Make new ones.")

    def _take(self) -> Worker | None:
        """A free process; None stands for one that is to be started."""
        with self._is_free:
            while not self._rested and not self._not_started:
                self._is_free.wait()
            if self._rested:
                return self._rested.pop()
            self._not_started -= 1
            return None

    def _give_back(self, worker: Worker | None) -> None:
        with self._is_free:
            if worker is None:
                self._not_started += 1
            else:
                self._rested.append(worker)
            self._is_free.notify()

    def _started(self) -> Worker:
        worker = Worker(self._settings)
        with self._is_free:
            if not self._closed:
                self._live.add(worker)
                return worker
        worker.kill()
        raise SandboxError(f"The workers of {self.function} were closed.")

    def _discard(self, worker: Worker | None) -> None:
        if worker is not None:
            worker.kill()
            with self._is_free:
                self._live.discard(worker)

    def _begin_again_in_forked_child(self) -> None:
        for worker in self._live:
            worker.forget()
        self._begin()

    def __enter__(self) -> Workers:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def shared_workers(function: str, **options: Any) -> Workers:
    """The one `Workers(function, **options)` of this process, closed at exit."""
    key = (function, *sorted(options.items()))
    with _lock:
        workers = _shared.get(key)
        if workers is None or workers.closed:
            workers = _shared[key] = Workers(function, **options)
        return workers


class WorkerEnded(Exception):
    """A process ended, or sent what is no reply."""


class Worker:
    """One process, on the other end of a socket pair."""

    def __init__(self, settings: dict[str, Any]) -> None:
        self.calls = 0
        self._lock = threading.Lock()
        self._killed = False
        self._socket, theirs = socket.socketpair()
        try:
            # By its path: the package's own imports are not needed. -P: our folder has a math.py.
            self._process = subprocess.Popen(
                [sys.executable, "-P", str(PROGRAM), json.dumps(settings)],
                stdin=theirs,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                env=environment(),
                cwd="/",
                start_new_session=True,
            )
        except OSError as error:
            self._socket.close()
            raise WorkerDied(f"A worker process could not start: {error}.") from error
        finally:
            theirs.close()
        try:
            reply = self._reply(time.monotonic() + START_SECONDS)
            if "failed" in reply:
                raise ValueError(
                    f"{settings['function']} could not be made ready in a worker process. "
                    f"It said:\n{reply['failed']}"
                )
            self._process.stderr.close()
        except (WorkerEnded, OSError) as error:
            words = self._last_words()
            raise WorkerDied(f"A worker process did not start ({error}). {words}") from error
        except BaseException:
            self.kill()
            raise

    def call(self, request: bytes, seconds: float) -> dict[str, Any]:
        self.calls += 1
        deadline = time.monotonic() + seconds
        try:
            self._socket.settimeout(seconds)
            self._socket.sendall(request)
            return self._reply(deadline)
        except TimeoutError:
            raise WorkerTimeout(f"No value within {seconds:g} s.") from None
        except OSError as error:
            raise WorkerEnded(f"the channel broke: {error}") from error

    def _reply(self, deadline: float) -> dict[str, Any]:
        size = int.from_bytes(self._receive(4, deadline), "big")
        if size > LARGEST_REPLY_BYTES:
            raise WorkerEnded(f"it announced {size} bytes")
        try:
            reply = json.loads(self._receive(size, deadline))
        except ValueError as error:
            raise WorkerEnded("it sent something that is no JSON") from error
        if not isinstance(reply, dict) or not reply.keys() & REPLIES:
            raise WorkerEnded(f"it sent {reply!r:.60}")
        return reply

    def _receive(self, size: int, deadline: float) -> bytes:
        data = bytearray()
        while len(data) < size:
            left = deadline - time.monotonic()
            if left <= 0:
                raise TimeoutError("it did not answer in time")
            self._socket.settimeout(left)
            part = self._socket.recv(min(size - len(data), 1 << 20))
            if not part:
                raise WorkerEnded(self._end())
            data += part
        return bytes(data)

    def _end(self) -> str:
        with contextlib.suppress(subprocess.TimeoutExpired):
            code = self._process.wait(STOP_SECONDS)
            return f"signal {-code}" if code < 0 else f"exit code {code}"
        return "it hung up"

    def _last_words(self) -> str:
        """What it wrote to standard error before it was ready. Kills it."""
        os.set_blocking(self._process.stderr.fileno(), False)
        words = self._process.stderr.read() or b""
        self.kill()
        return words.decode("utf-8", "replace")[-2000:].strip()

    def kill(self) -> None:
        """End the process and wait for its end. Idempotent."""
        with self._lock:
            if self._killed:
                return
            self._killed = True
            if self._process.poll() is None:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(self._process.pid, signal.SIGKILL)
                with contextlib.suppress(subprocess.TimeoutExpired):
                    self._process.wait(STOP_SECONDS)
            with contextlib.suppress(OSError):  # wakes a thread that waits for a reply
                self._socket.shutdown(socket.SHUT_RDWR)
            self._close()

    def forget(self) -> None:
        """In a forked child: close our copies of the ends. The process is the parent's."""
        self._process.returncode = 0  # else it would be waited for, and missed with a warning
        self._close()

    def _close(self) -> None:
        self._socket.close()
        self._process.stderr.close()


REPLIES = {"ready", "failed", "value", "error", "memory"}


def frame(arguments: tuple[Any, ...]) -> bytes:
    try:
        text = json.dumps(arguments).encode()
    except (TypeError, ValueError, RecursionError) as error:
        raise ValueError(f"The arguments of a call must be JSON values: {error}.") from error
    return len(text).to_bytes(4, "big") + text


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


_pools: weakref.WeakSet[Workers] = weakref.WeakSet()
_shared: dict[tuple[Any, ...], Workers] = {}
_lock = threading.Lock()


@atexit.register
def _close_all() -> None:
    for workers in list(_pools):
        workers.close()


def _after_fork_in_child() -> None:
    global _lock
    _lock = threading.Lock()
    for workers in list(_pools):
        workers._begin_again_in_forked_child()


os.register_at_fork(after_in_child=_after_fork_in_child)
