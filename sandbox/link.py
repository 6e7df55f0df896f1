"""How the host reaches what it started: `Link`, the one to a process of ours, and frames."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import select
import socket
import subprocess
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any

from sandbox.core import CageFailure

START_SECONDS = 60.0  # a process that is not ready by then has failed
CANCEL_LOOK_SECONDS = 0.05  # how often a caller who may be cancelled looks whether that is so
LARGEST_FRAME_BYTES = 1 << 30

log = logging.getLogger("sandbox")


class Link(ABC):
    """A started runner on the other end of a socket.

    Each call ends by `deadline` (time.monotonic) or raises OSError.
    """

    def __init__(self, connection: socket.socket) -> None:
        self._socket = connection
        self._lock, self._killed = threading.Lock(), False

    def send(self, data: bytes, deadline: float) -> None:
        self._limit_to(deadline)
        self._socket.sendall(data)

    def receive(self, size: int, deadline: float) -> bytes:
        """Between 1 and `size` bytes, or b"" if the runner is gone."""
        self._limit_to(deadline)
        return self._socket.recv(size)

    def wait(self, seconds: float) -> bool:
        """Whether there is something to receive, or the end, after so long at most."""
        poll = select.poll()
        poll.register(self._socket, select.POLLIN)
        return bool(poll.poll(seconds * 1000))

    def kill(self) -> None:
        """End the runner and all its jobs, and remove what they left. Idempotent."""
        with self._lock:
            if not self._killed:
                self._killed = True
                self._end()

    @abstractmethod
    def _end(self) -> None:
        """`kill`, the first time."""

    @abstractmethod
    def detach(self) -> None:
        """Close our ends and nothing else: in a forked child the cage belongs to the parent."""

    @abstractmethod
    def stderr_tail(self) -> str:
        """The end of what the runner wrote to its standard error."""

    def _limit_to(self, deadline: float) -> None:
        self._socket.settimeout(max(0.001, deadline - time.monotonic()))


class ProcessLink(Link):
    """A process of ours, whose standard input is the other end of a socket pair.

    stdout: its standard output; by default, the socket as well.
    before_kill: called with its number before it is killed.
    after_kill: called once it is dead.
    """

    def __init__(
        self,
        command: list[str],
        environment: dict[str, str],
        *,
        stdout: int | None = None,
        before_kill: Callable[[int], None] = lambda pid: None,
        after_kill: Callable[[], None] = lambda: None,
    ) -> None:
        self._before_kill = before_kill
        self._after_kill = after_kill
        ours, theirs = socket.socketpair()
        super().__init__(ours)
        try:
            self.process = subprocess.Popen(
                command,
                stdin=theirs.fileno(),
                stdout=theirs.fileno() if stdout is None else stdout,
                stderr=subprocess.PIPE,
                env=environment,
                cwd="/",
                start_new_session=True,
            )
        except BaseException:
            ours.close()
            raise
        finally:
            theirs.close()
        assert self.process.stderr is not None
        self._stderr = self.process.stderr

    def _end(self) -> None:
        self._before_kill(self.process.pid)
        self.process.kill()
        try:
            self.process.wait(timeout=30)
            self._after_kill()
        except (subprocess.TimeoutExpired, OSError) as error:
            log.warning("A process left something behind: %s", error)
        self._close()

    def detach(self) -> None:
        self.process.returncode = 0  # or it would be waited for, and missed with a warning
        self._close()

    def _close(self) -> None:
        self._socket.close()
        self._stderr.close()

    def stderr_tail(self) -> str:
        said = b""
        with contextlib.suppress(OSError, ValueError):  # closed meanwhile, by another thread
            while len(said) < 4000 and select.select([self._stderr], [], [], 0.2)[0]:
                part = os.read(self._stderr.fileno(), 4000)
                if not part:
                    break
                said += part
        return said.decode("utf-8", "replace")


# Frames -------------------------------------------------------------------------------------------
#
# 4 bytes big-endian length, and that many bytes of JSON; then, in the frames of cages, blobs whose
# lengths the JSON lists.


def frame(text: bytes, *blobs: bytes) -> bytes:
    return b"".join((len(text).to_bytes(4, "big"), text, *blobs))


def json_bytes(what: str, value: object) -> bytes:
    """Raises ValueError for what is no JSON."""
    try:
        return json.dumps(value).encode()
    except (TypeError, ValueError, RecursionError) as error:
        raise ValueError(f"{what} must be JSON values: {error}.") from error


def receive_json(
    receive: Callable[[int, float], bytes], deadline: float, most_bytes: int = LARGEST_FRAME_BYTES
) -> dict[str, Any]:
    """The object at the beginning of a frame. Raises as `receive_exactly`."""
    size = int.from_bytes(receive_exactly(receive, 4, deadline), "big")
    try:
        value = json.loads(receive_exactly(receive, size, deadline, most_bytes))
    except ValueError as error:
        raise CageFailure("it sent something that is no frame") from error
    if not isinstance(value, dict):
        raise CageFailure("it sent something that is no frame")
    return value


def receive_exactly(
    receive: Callable[[int, float], bytes],
    size: int,
    deadline: float,
    most_bytes: int = LARGEST_FRAME_BYTES,
) -> bytes:
    """So many bytes, by `receive` of a Link.

    Raises OSError as that does, EOFError if the other end is gone, and CageFailure if it announced
    more than `most_bytes`.
    """
    if not 0 <= size <= most_bytes:
        raise CageFailure(f"it announced {size} bytes")
    data = bytearray()
    while len(data) < size:
        if data and time.monotonic() > deadline:  # it sends little by little
            raise TimeoutError("it did not answer in time")
        part = receive(min(size - len(data), 1 << 20), deadline)
        if not part:
            raise EOFError
        data += part
    return bytes(data)
