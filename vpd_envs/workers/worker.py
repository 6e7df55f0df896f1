"""The program inside a worker process of `workers.Workers`: imports a function, then calls it.

Frames on the control channel, both ways: 4 bytes big-endian length, and that many bytes of JSON.
The host sends the arguments of a call as a list. Back comes {"ready": true} or {"failed": TEXT}
once, and for every call {"value": ...}, {"error": [CLASS NAME, TEXT]} or {"memory": true}; "retire"
beside it says whether this process should be replaced.
"""

from __future__ import annotations

import contextlib
import fcntl
import gc
import importlib
import json
import os
import resource
import select
import sys
import traceback
from collections.abc import Callable, Iterator
from typing import Any

from sandbox import seccomp
from sandbox.runner import (
    PR_SET_DUMPABLE,
    PR_SET_NO_NEW_PRIVS,
    add_filter,
    memory_of,
    prctl,
    read_header,
    set_limit,
    write_all,
)

# What a judge has no use for, besides what `seccomp.DENIED` has. name: (x86_64, aarch64); None
# where the machine has no such call.
DENIED = {
    "bind": (49, 200),
    "chmod": (90, None),
    "chown": (92, None),
    "clone": (56, 220),
    "connect": (42, 203),
    "creat": (85, None),
    "execve": (59, 221),
    "execveat": (322, 281),
    "fchmod": (91, 52),
    "fchmodat": (268, 53),
    "fchmodat2": (452, 452),
    "fchown": (93, 55),
    "fchownat": (260, 54),
    "fork": (57, None),
    "fremovexattr": (199, 16),
    "fsetxattr": (190, 7),
    "ftruncate": (77, 46),
    "futimesat": (261, None),
    "kill": (62, 129),
    "lchown": (94, None),
    "link": (86, None),
    "linkat": (265, 37),
    "listen": (50, 201),
    "lremovexattr": (198, 15),
    "lsetxattr": (189, 6),
    "mkdir": (83, None),
    "mkdirat": (258, 34),
    "mknod": (133, None),
    "mknodat": (259, 33),
    "openat2": (437, 437),
    "pidfd_open": (434, 434),
    "pidfd_send_signal": (424, 424),
    "removexattr": (197, 14),
    "rename": (82, None),
    "renameat": (264, 38),
    "renameat2": (316, 276),
    "rmdir": (84, None),
    "rt_sigqueueinfo": (129, 138),
    "rt_tgsigqueueinfo": (297, 240),
    "setxattr": (188, 5),
    "socket": (41, 198),
    "socketpair": (53, 199),
    "symlink": (88, None),
    "symlinkat": (266, 36),
    "tgkill": (234, 131),
    "tkill": (200, 130),
    "truncate": (76, 45),
    "unlink": (87, None),
    "unlinkat": (263, 35),
    "utime": (132, None),
    "utimensat": (280, 88),
    "utimes": (235, None),
    "vfork": (58, None),
}
WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
# Files can be opened for reading only.
RULES = (
    ((2, None), (seccomp.Argument(seccomp.SECOND, (0,), WRITING),), seccomp.ALLOW, seccomp.DENY),
    ((257, 56), (seccomp.Argument(seccomp.THIRD, (0,), WRITING),), seccomp.ALLOW, seccomp.DENY),
)


def main() -> None:
    """`python -P worker.py SETTINGS`, with the control channel as standard input."""
    settings = json.loads(sys.argv[1])
    channel = Channel(os.dup(0))
    silent = os.open(os.devnull, os.O_RDWR)
    for stream in (0, 1):  # what the function prints must not be read as a reply
        os.dup2(silent, stream)
    try:
        function = named(settings["function"])
        if settings["setup"] is not None:
            named(settings["setup"])()
    except Exception:
        channel.send({"failed": traceback.format_exc(limit=-3)})
        return
    confine(settings["memory_bytes"])
    gc.collect()
    gc.freeze()  # the libraries stay: collections need not look at them
    channel.send({"ready": True})
    os.dup2(silent, 2)
    serve(channel, function, settings)


def serve(channel: Channel, function: Callable[..., Any], settings: dict[str, Any]) -> None:
    """Answer calls until the host hangs up or this process should be replaced."""
    most_resident = memory_of("/proc/self")[1] + settings["memory_bytes"] // 2
    retire = False
    calls = 0
    while not retire:
        arguments = channel.receive()
        with channel.hangup_ends_us():
            reply = replied(function, arguments)
        calls += 1
        retire = calls >= settings["calls"] or memory_of("/proc/self")[1] > most_resident
        channel.send(reply | {"retire": retire})


def replied(function: Callable[..., Any], arguments: list[Any]) -> dict[str, Any]:
    try:
        value = function(*arguments)
        json.dumps(value)
        return {"value": value}
    except MemoryError:
        return {"memory": True}
    except Exception as error:
        return {"error": [type(error).__name__, text_of(error)]}


def text_of(error: Exception) -> str:
    try:
        return str(error)[:2000]
    except Exception:  # it is made of what a model wrote
        return "(an exception whose text cannot be made)"


def named(function: str) -> Callable[..., Any]:
    module, _, name = function.partition(":")
    return getattr(importlib.import_module(module), name)


class Channel:
    """The socket to the host."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        fcntl.fcntl(fd, fcntl.F_SETOWN, os.getpid())
        self._usual = fcntl.fcntl(fd, fcntl.F_GETFL)
        self._poll = select.poll()
        self._poll.register(fd, select.POLLIN)

    def send(self, reply: dict[str, Any]) -> None:
        text = json.dumps(reply).encode()
        write_all(self._fd, len(text).to_bytes(4, "big") + text)

    def receive(self) -> list[Any]:
        return read_header(self._fd)

    @contextlib.contextmanager
    def hangup_ends_us(self) -> Iterator[None]:
        """Within this block, the kernel ends this process as soon as the host is gone.

        Nothing comes over the channel during a call, so whatever happens there is the hangup, and
        the default action of SIGIO is to end the process, even within one long operation in C. (A
        parent death signal would not do: it is sent when the *thread* that started us ends.)
        """
        fcntl.fcntl(self._fd, fcntl.F_SETFL, self._usual | os.O_ASYNC)
        if self._poll.poll(0):  # it happened just before
            os._exit(0)
        try:
            yield
        finally:
            fcntl.fcntl(self._fd, fcntl.F_SETFL, self._usual)


# Confinement --------------------------------------------------------------------------------------


def confine(memory_bytes: int) -> None:
    """Give up what a judge does not need. See `workers` for what that covers."""
    set_limit(resource.RLIMIT_AS, memory_of("/proc/self")[0] + memory_bytes)
    for which in (resource.RLIMIT_CORE, resource.RLIMIT_FSIZE, resource.RLIMIT_NPROC):
        set_limit(which, 0)
    prctl(PR_SET_DUMPABLE, 0)
    prctl(PR_SET_NO_NEW_PRIVS, 1)
    machine = os.uname().machine
    if machine in seccomp.MACHINES:
        add_filter(seccomp.program(machine, DENIED.values(), RULES))


if __name__ == "__main__":
    main()
