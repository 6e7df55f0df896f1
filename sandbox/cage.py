"""A cage as the host sees it: a `Link` to a runner, and frames that go over it.

Our backends differ only in how a runner is started, reached and killed: they make Links. The
frames are described in runner.py, which is sent over the link when a cage starts; so images and
cages need nothing but a Python interpreter.
"""

from __future__ import annotations

import json
import math
import re
import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sandbox import seccomp
from sandbox.boot import PACKAGES
from sandbox.core import (
    CageFailure,
    Cancelled,
    Execution,
    ExecutionStatus,
    IdleCageFailure,
    Job,
    SandboxError,
)
from sandbox.link import (
    CANCEL_LOOK_SECONDS,
    START_SECONDS,
    Link,
    frame,
    json_bytes,
    receive_exactly,
    receive_json,
)
from sandbox.runner import MOST_STRETCH

MOST_CONTAINERS = 4_000_000  # lists and objects in a value: in memory they are 30 times as large

RUNNER_SOURCE = Path(__file__).with_name("runner.py").read_bytes()


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


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What the runner is told about its cage, once."""

    writable: str  # the one directory a job can write; emptied after each
    shared_memory: str | None = None  # another directory that a job can write
    directory: str | None = None  # the runner's to remove if we vanish
    modules: Sequence[str] = PACKAGES  # the third-party ones that programs may import
    packages: str | None = None  # the directory where they are; None: among CPython's
    job_uid: int | None = None  # the user that jobs become, or None: they stay who the runner is
    keep_reading: bool = False  # jobs keep CAP_DAC_READ_SEARCH (see local.py)
    die_with_parent: bool = False


class RunnerCage:
    """A warm runner. Runs one job at a time."""

    def __init__(self, link: Link, settings: Settings, capacity: Capacity) -> None:
        self.link = link
        self.jobs = 0
        self.python_version = ""  # "3.13.5", as the runner says when it is ready
        self._modules = settings.modules
        self._missing: list[str] = []  # of these; the runner says that, too
        self._is_ready = False
        self._capacity = capacity
        self._grace_seconds = 10.0
        self._program = f"{settings.writable}/job/solution.py".encode()
        deadline = time.monotonic() + START_SECONDS
        try:
            self._send(frame(RUNNER_SOURCE), deadline)
            self._send(_frame({**vars(settings), "filters": seccomp.programs()}), deadline)
            self._await_ready(deadline)
        except BaseException:
            self.kill()
            raise

    def run(self, job: Job, cancelled: threading.Event | None = None) -> Execution:
        """See `core.Cage`. Raises SandboxError for a job that needs a module that should be here
        and is not."""
        wall_seconds = job.limits.wall_seconds
        assert wall_seconds is not None  # `Limits` has filled it in
        code = job.code.encode("utf-8", "surrogatepass")
        stdin = job.stdin.encode() if isinstance(job.stdin, str) else job.stdin
        self._capacity.check(job, len(code) + len(stdin))
        self._check_modules(job)
        self.jobs += 1
        call = b"" if job.call is None else json_bytes("Call.arguments", vars(job.call))
        request = _frame(vars(job.limits), code, stdin, call)
        deadline = time.monotonic() + wall_seconds + self._grace_seconds
        # It may still be cleaning up after the last job. Where it cannot, it is gone instead.
        try:
            self._send(request, deadline)
            self._await_ready(deadline)
        except CageFailure as failure:
            raise (failure if self._is_ready else IdleCageFailure(str(failure))) from failure
        self._is_ready = False
        result, blobs = self._result(wall_seconds, cancelled)
        try:
            # In tracebacks, name the program as the caller knows it.
            out, err, value = blobs
            stderr = err.replace(self._program, b"solution.py").decode("utf-8", "replace")
            return _execution(job, result, out, self._with_hint(stderr), value)
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
        try:
            while time.monotonic() < deadline and not self.link.wait(CANCEL_LOOK_SECONDS):
                if cancelled.is_set():
                    self._send(_frame({"cancel": True}), deadline)
                    return
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

    def _with_hint(self, stderr: str) -> str:
        """Adds to a ModuleNotFoundError which modules programs can import."""
        last_line = stderr.rstrip().rpartition("\n")[2]
        found = re.match(r"ModuleNotFoundError: No module named '(\w+)[.\w]*'", last_line)
        if not found or found[1] in (*self._modules, *sys.stdlib_module_names):
            return stderr
        *most, last = ("the standard library", *self._modules)
        importable = f"{', '.join(most)} and {last}" if most else last
        note = f"({found[1]} is not part of the judge: programs can import {importable}.)\n"
        return stderr.rstrip() + "\n" + note

    def _await_ready(self, deadline: float) -> None:
        if not self._is_ready:
            header, _ = self._receive_frame(deadline)
            if "ready" not in header:
                raise CageFailure(f"it should be ready, but said {header!r}")
            self.python_version, self._missing = header["ready"], header["missing"]
            self._is_ready = True

    def kill(self) -> None:
        self.link.kill()

    def detach(self) -> None:
        self.link.detach()

    def _send(self, data: bytes, deadline: float) -> None:
        try:
            self.link.send(data, deadline)
        except OSError as error:
            raise self._failure(error) from error

    def _receive_frame(self, deadline: float) -> tuple[dict[str, Any], list[bytes]]:
        receive = self.link.receive
        try:
            header = receive_json(receive, deadline)
            sizes = header.get("sizes", [])
            return header, [receive_exactly(receive, size, deadline) for size in sizes]
        except TypeError as error:
            raise CageFailure("it sent something that is no frame") from error
        except (OSError, EOFError) as error:
            raise self._failure(error) from error

    def _failure(self, error: OSError | EOFError) -> CageFailure:
        if isinstance(error, TimeoutError):
            return CageFailure("it did not answer in time")
        said = self.link.stderr_tail().strip()
        return CageFailure("it ended" + (f", saying: {said}" if said else " without a word"))


def _imports(name: str, code: str) -> bool:
    statement = rf"^[^#\n]*\bimport\b.*\b{name}\b|^\s*from\s+{name}\b"
    return re.search(statement, code, re.MULTILINE) is not None


def _frame(header: dict[str, Any], *blobs: bytes) -> bytes:
    return frame(json.dumps({**header, "sizes": [len(blob) for blob in blobs]}).encode(), *blobs)


def _execution(
    job: Job, result: dict[str, Any], out: bytes, stderr: str, value: bytes
) -> Execution:
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
    measured = {name: each for name, each in result.items() if name not in ("reason", "sizes")}
    stdout = out.decode("utf-8", "replace")
    return Execution(status=status, stdout=stdout, stderr=stderr, value=text, **measured)


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
