"""One cage as the host sees it: a `Link` to a runner, and frames that go over it.

What backends differ in is only how a runner is started, reached and killed: they make Links. The
frames are described in runner.py, which is sent over the link when a cage starts; so images and
cages need nothing but a Python interpreter.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import logging
import math
import os
import random
import re
import select
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from sandbox import seccomp
from sandbox.core import Call, Cancelled, Execution, ExecutionStatus, Job, SandboxError
from sandbox.runner import CPUS, MOST_STRETCH, USER

log = logging.getLogger("sandbox")

START_SECONDS = 60.0  # a cage that is not ready by then has failed
MOST_CONTAINERS = 4_000_000  # lists and objects in a value: in memory they are 30 times as large
LARGEST_FRAME_BYTES = 1 << 30
CANCEL_LOOK_SECONDS = 0.05  # how often somebody who may be cancelled looks whether that is so
PACKAGES = ("numpy", "sortedcontainers")  # what programs may import besides the standard library
MOST_DIGITS = 50_000  # of an integer that is read or printed, as LiveCodeBench allows
SMALL_UIDS = range(20_000, 60_000)  # rootless containers have no more than 65,536

# The command of every cage: `python -c BOOT DIRECTORY`. It takes the runner from standard input,
# puts it where `python solution.py` imports it as sitecustomize, and becomes that. Standard input
# and output are then descriptors 3 and 4, and the standard streams are of the kinds that jobs have.
BOOT = """
import os, resource, sys
def take(size):
    data = b""
    while len(data) < size:
        part = os.read(0, size - len(data))
        if not part:
            sys.exit("the host hung up")
        data += part
    return data
boot, job = (os.path.join(sys.argv[1], name) for name in ("boot", "job"))
os.mkdir(boot)
os.mkdir(job)
with open(os.path.join(boot, "sitecustomize.py"), "wb") as file:
    file.write(take(int.from_bytes(take(4), "big")))
os.dup2(0, 3)
os.dup2(1, 4)
os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
os.dup2(2, 1)
os.closerange(5, 64)
os.chdir(job)
hard = resource.getrlimit(resource.RLIMIT_STACK)[1]
if hard < 0 or hard > 8 << 20:
    resource.setrlimit(resource.RLIMIT_STACK, (8 << 20, hard))  # what threads get by default
os.environ["PYTHONPATH"] = boot
os.environ["PYTHONNOUSERSITE"] = "1"
os.execv(sys.executable, [sys.executable, "solution.py"])
"""

RUNNER_SOURCE = Path(__file__).with_name("runner.py").read_bytes()


def environment(home: str) -> dict[str, str]:
    """All variables that a job sees, the same in every cage but for `home`.

    Hashes are not randomized: verdicts should repeat.
    """
    return {
        "PATH": "/usr/local/bin:/usr/bin:/bin",
        "HOME": home,
        "USER": USER,
        "LOGNAME": USER,
        "TMPDIR": home,
        "LANG": "C.UTF-8",
        "PYTHONHASHSEED": "0",
        "PYTHONINTMAXSTRDIGITS": str(MOST_DIGITS),
        "PYTHON_CPU_COUNT": str(CPUS),  # for interpreters that a job starts
        "MALLOC_ARENA_MAX": "1",  # glibc reserves 64 MiB of address space per thread otherwise
        "OPENBLAS_NUM_THREADS": "1",
        "OMP_NUM_THREADS": "1",
    }


@dataclass(frozen=True)
class Capacity:
    """The most that a cage as such can give a job."""

    memory_bytes: float = math.inf
    processes: float = math.inf
    file_bytes: float = math.inf  # of all files together, the program and its input included

    def check(self, job: Job, input_bytes: int) -> None:
        """
        Raises:
            ValueError: the job asks for more. In the cage it would look like the program's failure.
        """
        for what, asked, most, option in (
            ("Limits.memory_bytes", job.limits.memory_bytes, self.memory_bytes, "memory_bytes"),
            ("Limits.processes", job.limits.processes, self.processes, "pids"),
            ("The program and its input, in bytes,", input_bytes, self.file_bytes, "tmp_bytes"),
        ):
            if asked > most:
                raise ValueError(
                    f"{what} may be at most {most} in this cage, got {asked}. "
                    f"Ask for less, or make the sandbox with a larger {option}=…."
                )


class CageFailure(Exception):
    """This cage is of no more use. The pool replaces it and tries the job again."""


class CageWornOut(CageFailure):
    """It failed between two jobs, so the new one has nothing to do with it."""


class Link(Protocol):
    """A started runner. Each call ends by `deadline` (time.monotonic) or raises OSError."""

    def send(self, data: bytes, deadline: float) -> None: ...

    def receive(self, size: int, deadline: float) -> bytes:
        """Between 1 and `size` bytes, or b"" if the runner is gone."""
        ...

    def wait(self, seconds: float) -> bool:
        """Whether there is something to receive, or the end, after so long at most."""
        ...

    def kill(self) -> None:
        """End the runner and all its jobs, and remove what they left. Idempotent."""
        ...

    def forget(self) -> None:
        """Close our ends and nothing else: in a forked child the cage belongs to the parent."""
        ...

    def last_words(self) -> str:
        """The end of what the runner wrote to its standard error."""
        ...


class Cage:
    """A warm runner. Runs one job at a time."""

    def __init__(
        self,
        link: Link,
        *,
        writable: str,
        job_uid: int | None = None,
        keep_reading: bool = False,
        die_with_parent: bool = False,
        shared_memory: str | None = None,
        directory: str | None = None,
        modules: Sequence[str] = PACKAGES,
        packages: str | None = None,
        capacity: Capacity | None = None,
        grace_seconds: float = 10.0,
    ) -> None:
        self.link = link
        self.jobs = 0
        self.python_version = ""  # "3.13.5", as the runner says when it is ready
        self._modules = tuple(modules)
        self._missing: list[str] = []  # of these; the runner says that, too
        self._is_ready = False
        self._capacity = capacity or Capacity()
        self._grace_seconds = grace_seconds
        self._program = f"{writable}/job/solution.py".encode()
        settings = {
            "writable": writable,
            "job_uid": job_uid,
            "keep_reading": keep_reading,
            "die_with_parent": die_with_parent,
            "filters": seccomp.programs(),
            "shared_memory": shared_memory,
            "directory": directory,
            "modules": list(modules),
            "packages": packages,
        }
        deadline = time.monotonic() + START_SECONDS
        try:
            self._send(len(RUNNER_SOURCE).to_bytes(4, "big") + RUNNER_SOURCE, deadline)
            self._send(_frame(settings), deadline)
            self._await_ready(deadline)
        except BaseException:
            self.kill()
            raise

    def run(self, job: Job, cancelled: threading.Event | None = None) -> Execution:
        """Run it, or stop it once `cancelled` is set; then the cage is as good as after any job.

        Raises:
            ValueError: the job cannot be sent as it is; the cage has not noticed.
            SandboxError: it needs a module that should be here and is not; likewise.
            CageFailure: the cage, not the program, failed.
            Cancelled: as asked.
        """
        limits = job.limits
        code = job.code.encode("utf-8", "surrogatepass")
        stdin = job.stdin.encode() if isinstance(job.stdin, str) else job.stdin
        self._capacity.check(job, len(code) + len(stdin))
        self._check_modules(job)
        self.jobs += 1
        frame = _frame(vars(limits), code, stdin, _call_bytes(job.call))
        deadline = time.monotonic() + limits.wall_seconds + self._grace_seconds
        # It may still be cleaning up after the last job. Where it cannot, it is gone instead.
        try:
            self._send(frame, deadline)
            self._await_ready(deadline)
        except CageFailure as failure:
            raise (failure if self._is_ready else CageWornOut(str(failure))) from failure
        self._is_ready = False
        result, blobs = self._result(limits.wall_seconds, cancelled)
        try:
            # In tracebacks, name the program as the caller knows it.
            out, err, value = blobs
            err = err.replace(self._program, b"solution.py")
            return self._explained(_execution(job, result, out, err, value))
        except (KeyError, TypeError, ValueError) as error:
            raise CageFailure(f"its answer made no sense: {result!r}") from error

    def _result(
        self, wall_seconds: float, cancelled: threading.Event | None
    ) -> tuple[dict[str, Any], list[bytes]]:
        """The runner says when a job takes longer than its wall limit, so it need not be waited for
        much longer than that if it is silent."""
        now = time.monotonic()
        deadline = now + wall_seconds + self._grace_seconds
        last_deadline = now + wall_seconds * MOST_STRETCH + self._grace_seconds
        while True:
            if cancelled is not None:
                self._answer_or_cancel(cancelled, deadline)
            result, blobs = self._receive_frame(deadline)
            if "goes_on" not in result:
                break
            deadline = min(time.monotonic() + self._grace_seconds, last_deadline)
        if cancelled is not None and cancelled.is_set():
            raise Cancelled("The job is no longer wanted.")
        return result, blobs

    def _answer_or_cancel(self, cancelled: threading.Event, deadline: float) -> None:
        """Wait for an answer; if the job is cancelled before, tell the runner, and it answers."""
        while time.monotonic() < deadline and not self._has_answer():
            if cancelled.is_set():
                self._send(_frame({"cancel": True}), deadline)
                return

    def _has_answer(self) -> bool:
        try:
            return self.link.wait(CANCEL_LOOK_SECONDS)
        except (OSError, ValueError) as error:  # closed meanwhile, by another thread
            raise CageFailure("it was closed") from error

    def _check_modules(self, job: Job) -> None:
        """A program gets the same verdict in every cage, or none."""
        arguments = job.call.arguments if job.call is not None else ()
        texts = [job.code, *(text for text in arguments if isinstance(text, str))]
        for name in self._missing:
            if any(_imports(name, text) for text in texts):
                raise SandboxError(
                    f"The program imports {name}, which programs may, but this cage's Python "
                    f"{self.python_version} has no such module. Install it (pip install {name}; "
                    "for Docker, `vpd sandbox build`), or drop the job: this is no verdict."
                )

    def _explained(self, execution: Execution) -> Execution:
        """Says of a module that no cage has that it is not the program's mistake to hope for it."""
        last_line = execution.stderr.rstrip().rpartition("\n")[2]
        found = re.match(r"ModuleNotFoundError: No module named '(\w+)[.\w]*'", last_line)
        if not found or found[1] in (*self._modules, *sys.stdlib_module_names):
            return execution
        *most, last = ("the standard library", *self._modules)
        importable = f"{', '.join(most)} and {last}" if most else last
        note = f"({found[1]} is not part of the judge: programs can import {importable}.)\n"
        return dataclasses.replace(execution, stderr=execution.stderr.rstrip() + "\n" + note)

    def _await_ready(self, deadline: float) -> None:
        if not self._is_ready:
            header, _ = self._receive_frame(deadline)
            if "ready" not in header:
                raise CageFailure(f"it should be ready, but said {header!r}")
            self.python_version, self._missing = header["ready"], header["missing"]
            self._is_ready = True

    def kill(self) -> None:
        self.link.kill()

    def forget(self) -> None:
        self.link.forget()

    def _send(self, data: bytes, deadline: float) -> None:
        try:
            self.link.send(data, deadline)
        except OSError as error:
            raise self._failure(error) from error

    def _receive_frame(self, deadline: float) -> tuple[dict[str, Any], list[bytes]]:
        size = int.from_bytes(self._receive(4, deadline), "big")
        try:
            header = json.loads(self._receive(size, deadline))
            sizes = header.get("sizes", [])
            if not isinstance(header, dict) or not all(isinstance(size, int) for size in sizes):
                raise ValueError("sizes")
        except (ValueError, AttributeError) as error:
            raise CageFailure("it sent something that is no frame") from error
        return header, [self._receive(size, deadline) for size in sizes]

    def _receive(self, size: int, deadline: float) -> bytes:
        if not 0 <= size <= LARGEST_FRAME_BYTES:
            raise CageFailure(f"it announced {size} bytes")
        data = bytearray()
        while len(data) < size:
            try:
                part = self.link.receive(min(size - len(data), 1 << 20), deadline)
            except OSError as error:
                raise self._failure(error) from error
            if not part:
                raise self._failure(None)
            data += part
        return bytes(data)

    def _failure(self, error: OSError | None) -> CageFailure:
        if isinstance(error, TimeoutError):
            return CageFailure("it did not answer in time")
        words = self.link.last_words().strip()
        return CageFailure("it ended" + (f", saying: {words}" if words else " without a word"))


def _imports(name: str, code: str) -> bool:
    statement = rf"^[^#\n]*\bimport\b.*\b{name}\b|^\s*from\s+{name}\b"
    return re.search(statement, code, re.MULTILINE) is not None


def _frame(header: dict[str, Any], *blobs: bytes) -> bytes:
    text = json.dumps({**header, "sizes": [len(blob) for blob in blobs]}).encode()
    return b"".join((len(text).to_bytes(4, "big"), text, *blobs))


def _call_bytes(call: Call | None) -> bytes:
    if call is None:
        return b""
    try:
        return json.dumps({**vars(call), "arguments": list(call.arguments)}).encode()
    except (TypeError, ValueError, RecursionError) as error:
        raise ValueError(f"Call.arguments must be JSON values: {error}.") from error


def _execution(job: Job, result: dict[str, Any], out: bytes, err: bytes, value: bytes) -> Execution:
    stderr = err.decode("utf-8", "replace")
    status = _status(result, stderr)
    text = None
    if job.call is not None and status is ExecutionStatus.OK:
        text = _json_text(value)
        if text is None:
            status = ExecutionStatus.ERROR
            stderr += (
                f"{job.call.function}() gave no JSON value: the program ended before, or it has "
                f"more than {MOST_CONTAINERS:,} lists and objects.\n"
            )
    return Execution(
        status=status,
        stdout=out.decode("utf-8", "replace"),
        stderr=stderr,
        exit_code=result["exit_code"],
        seconds=result["seconds"],
        cpu_seconds=result["cpu_seconds"],
        memory_bytes=result["memory_bytes"],
        value=text,
        signal=result["signal"],
        stdout_bytes=result["stdout_bytes"],
        stderr_bytes=result["stderr_bytes"],
    )


REASONS = {
    "wall": ExecutionStatus.TIMEOUT,
    "starved": ExecutionStatus.STARVED,
    "cpu": ExecutionStatus.TIMEOUT,
    "memory": ExecutionStatus.MEMORY,
    "output": ExecutionStatus.OUTPUT_LIMIT,
}


def _status(result: dict[str, Any], stderr: str) -> ExecutionStatus:
    if result["reason"] is not None:
        return REASONS[result["reason"]]
    if result["signal"] is not None:
        return ExecutionStatus.CRASH
    if result["exit_code"] == 0:
        return ExecutionStatus.OK
    last_line = stderr.rstrip().rpartition("\n")[2]
    if re.match(r"[\w.]*MemoryError\b", last_line):  # numpy has its own
        return ExecutionStatus.MEMORY
    return ExecutionStatus.ERROR


def _json_text(value: bytes) -> str | None:
    """The text of `value` if it is JSON. The program could write anything there."""
    if value.count(b"[") + value.count(b"{") > MOST_CONTAINERS:
        return None
    try:
        text = value.decode()
        json.loads(text, parse_int=len, parse_constant=_infinity)
    except (ValueError, RecursionError):
        return None
    return text


def _infinity(constant: str) -> float:
    if constant == "NaN":
        raise ValueError("NaN is not JSON")
    return float(constant)


class ProcessLink:
    """A runner that is a process of ours, on the other end of a socket pair."""

    def __init__(
        self,
        command: list[str],
        environment: dict[str, str],
        *,
        before_kill: Callable[[int], None] = lambda pid: None,
        after_kill: Callable[[], None] = lambda: None,
    ) -> None:
        self._before_kill = before_kill
        self._after_kill = after_kill
        self._lock, self._killed = threading.Lock(), False
        self._socket, theirs = socket.socketpair()
        try:
            self.process = subprocess.Popen(
                command,
                stdin=theirs,
                stdout=theirs,
                stderr=subprocess.PIPE,
                env=environment,
                cwd="/",
                start_new_session=True,
            )
        except BaseException:
            self._socket.close()
            raise
        finally:
            theirs.close()

    def send(self, data: bytes, deadline: float) -> None:
        self._socket.settimeout(max(0.001, deadline - time.monotonic()))
        self._socket.sendall(data)

    def receive(self, size: int, deadline: float) -> bytes:
        self._socket.settimeout(max(0.001, deadline - time.monotonic()))
        return self._socket.recv(size)

    def wait(self, seconds: float) -> bool:
        return readable(self._socket, seconds)

    def kill(self) -> None:
        with self._lock:
            if not self._killed:
                self._killed = True
                self._before_kill(self.process.pid)
                self.process.kill()
                try:
                    self.process.wait(timeout=30)
                    self._after_kill()
                except (subprocess.TimeoutExpired, OSError) as error:
                    log.warning("A cage left something behind: %s", error)
                self.forget()

    def forget(self) -> None:
        self._socket.close()
        self.process.stderr.close()

    def last_words(self) -> str:
        words = b""
        with contextlib.suppress(OSError, ValueError):  # closed meanwhile, by another thread
            while len(words) < 4000 and select.select([self.process.stderr], [], [], 0.2)[0]:
                part = os.read(self.process.stderr.fileno(), 4000)
                if not part:
                    break
                words += part
        return words.decode("utf-8", "replace")


def readable(connection: socket.socket, seconds: float) -> bool:
    """Whether there is something to receive, or the end, after so long at most."""
    poll = select.poll()
    poll.register(connection, select.POLLIN)
    return bool(poll.poll(seconds * 1000))


def python_command(executable: str, writable: str) -> list[str]:
    return [executable, "-c", BOOT, writable]


def new_uid() -> int | None:
    """A user of its own for the jobs of one cage, so that RLIMIT_NPROC counts only theirs.

    None if we may not become another user: we are not root, or root of a container that has one.
    """
    if os.geteuid() == 0:
        for users in (range(1 << 29, 1 << 30), SMALL_UIDS):
            if _exists(users[0]) and _exists(users[-1]):
                return random.SystemRandom().choice(users)
    return None


def _exists(uid: int) -> bool:
    """Whether our user namespace has that user."""
    for line in Path("/proc/self/uid_map").read_text().splitlines():
        first, _, count = map(int, line.split())
        if first <= uid < first + count:
            return True
    return False
