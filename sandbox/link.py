"""How the host reaches what it started: `Link`, and the one to a process of ours."""

from __future__ import annotations

import contextlib
import logging
import os
import select
import socket
import subprocess
import threading
import time
from collections.abc import Callable
from typing import Protocol

START_SECONDS = 60.0  # a process that is not ready by then has failed
CANCEL_LOOK_SECONDS = 0.05  # how often a caller who may be cancelled looks whether that is so

log = logging.getLogger("sandbox")


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

    def detach(self) -> None:
        """Close our ends and nothing else: in a forked child the cage belongs to the parent."""
        ...

    def stderr_tail(self) -> str:
        """The end of what the runner wrote to its standard error."""
        ...


def receive_exactly(link: Link, size: int, deadline: float) -> bytes:
    """So many bytes. Raises OSError as `Link.receive`, and EOFError if the other end is gone."""
    data = bytearray()
    while len(data) < size:
        if data and time.monotonic() > deadline:  # it sends little by little
            raise TimeoutError("it did not answer in time")
        part = link.receive(min(size - len(data), 1 << 20), deadline)
        if not part:
            raise EOFError
        data += part
    return bytes(data)


class ProcessLink:
    """A process of ours, on the other end of a socket pair, which is its standard input.

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
        self._lock, self._killed = threading.Lock(), False
        self._socket, theirs = socket.socketpair()
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
            self._socket.close()
            raise
        finally:
            theirs.close()
        assert self.process.stderr is not None
        self._stderr = self.process.stderr

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


def readable(connection: socket.socket, seconds: float) -> bool:
    """Whether there is something to receive, or the end, after so long at most."""
    poll = select.poll()
    poll.register(connection, select.POLLIN)
    return bool(poll.poll(seconds * 1000))
