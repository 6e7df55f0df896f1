"""Cages of Linux namespaces, made by `bwrap`. No daemon, no image; works for ordinary users.

Inside there is a process tree, a network without interfaces, and a file system with nothing but a
Python interpreter (the one that runs us, without its virtual environment), the shared libraries
and a small /tmp in memory. A system call filter (seccomp.py) narrows the kernel. The runner is the
first process of the cage: signals from inside cannot reach it.

As root, each job becomes an unprivileged user and the runner keeps only the capabilities to make
it one and to kill it. As an ordinary user there is just one user inside, and the runner hides
behind being process 1 and not traceable.

Jobs have no network at all, not even 127.0.0.1. Their Unix sockets reach nobody outside.

Memory and processes are limited per job by the runner, not by a control group: files in /tmp count
on top, up to `tmp_bytes`. A job that fills memory faster than the runner looks, every 25 ms, may
hold more than its limit for that long.
"""

from __future__ import annotations

import os
import queue
import shutil
import sys
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from pathlib import Path

from sandbox.boot import PACKAGES, environment, new_uid, python_command
from sandbox.cage import Capacity, RunnerCage, Settings
from sandbox.core import MIB, CageFailure, SandboxError
from sandbox.link import ProcessLink
from sandbox.local import find_packages, interpreter

CAP_SYS_ADMIN = 21
IMPORTABLE = "/packages"


class Bubblewrap:
    """Starts processes in namespaces of their own, each of which is a cage.

    Args:
        tmp_bytes: how much all files of a job may take together.
        packages: what programs may import besides the standard library. One that is not installed
            here makes the programs that import it end in a SandboxError.
        command: the bwrap program.
    """

    name = "bubblewrap"

    def __init__(
        self,
        *,
        tmp_bytes: int = 256 * MIB,
        packages: Sequence[str] = PACKAGES,
        command: str = "bwrap",
    ) -> None:
        found = shutil.which(command)
        if found is None:
            raise SandboxError(
                f"bubblewrap needs the program {command!r}, which is not installed. "
                "Install the package bubblewrap (>= 0.8), or choose another sandbox; "
                "`vpd doctor` shows what works here."
            )
        self._program = found
        self._tmp_bytes = tmp_bytes
        self._modules = packages
        self._packages = find_packages(packages)
        self._as_root = new_uid() is not None and _may_administer()

    def start(self) -> RunnerCage:
        link = _in_lasting_thread(lambda: ProcessLink(self._arguments(), environment("/tmp")))
        settings = Settings(
            writable="/tmp",
            job_uid=new_uid() if self._as_root else None,
            die_with_parent=True,
            modules=self._modules,
            packages=IMPORTABLE,
        )
        try:
            return RunnerCage(link, settings, Capacity(file_bytes=self._tmp_bytes))
        except CageFailure as failure:
            raise CageFailure(
                f"{failure}; are user namespaces enabled, and is bwrap >= 0.8?"
            ) from failure

    def _arguments(self) -> list[str]:
        python = interpreter()
        arguments = [self._program, "--die-with-parent", "--new-session", "--as-pid-1"]
        arguments += ["--unshare-pid", "--unshare-net", "--unshare-ipc", "--unshare-uts"]
        arguments += ["--unshare-cgroup-try", "--hostname", "sandbox"]
        if self._as_root:
            arguments += ["--cap-drop", "ALL"]
            for capability in ("CAP_SETUID", "CAP_SETGID", "CAP_KILL"):
                arguments += ["--cap-add", capability]
        else:
            arguments += ["--unshare-user", "--uid", "65534", "--gid", "65534"]
        arguments += _file_system(Path(os.path.realpath(sys.base_prefix)), Path(python))
        arguments += ["--perms", "0755", "--dir", IMPORTABLE]
        for path in self._packages:
            arguments += ["--ro-bind", str(path), f"{IMPORTABLE}/{path.name}"]
        arguments += ["--perms", "1777", "--size", str(self._tmp_bytes), "--tmpfs", "/tmp"]
        arguments += ["--proc", "/proc", "--remount-ro", "/", "--"]
        return arguments + python_command(python, "/tmp")


def _may_administer() -> bool:
    """Whether we may mount and the like. Root of a container often may not."""
    status = Path("/proc/self/status").read_text()
    capabilities = int(status.partition("CapEff:")[2].split()[0], 16)
    return bool(capabilities >> CAP_SYS_ADMIN & 1)


def _file_system(prefix: Path, python: Path) -> list[str]:
    """The interpreter, shared libraries and a few devices, all read-only."""
    links = []
    binds = [Path("/etc/ld.so.cache"), Path("/etc/localtime"), Path("/usr/share/zoneinfo")]
    for path in map(Path, ("/usr/lib", "/usr/lib32", "/usr/lib64", "/lib", "/lib32", "/lib64")):
        (links if path.is_symlink() else binds).append(path)
    binds += [python, Path("/usr/local/lib")] if prefix == Path("/usr") else [prefix]
    arguments = []
    for parent in sorted({parent for path in binds for parent in path.parents[:-1]}):
        # Made by bwrap on the way, they would be closed to other users than root.
        arguments += ["--perms", "0755", "--dir", str(parent)]
    for path in links:
        arguments += ["--symlink", str(path.readlink()), str(path)]
    for path in binds:
        arguments += ["--ro-bind-try", str(path), str(path)]
    arguments += ["--perms", "0755", "--tmpfs", "/dev"]
    for device in ("null", "zero", "full", "random", "urandom"):
        arguments += ["--dev-bind", f"/dev/{device}", f"/dev/{device}"]
    for name, target in (("fd", ""), ("stdin", "/0"), ("stdout", "/1"), ("stderr", "/2")):
        arguments += ["--symlink", f"/proc/self/fd{target}", f"/dev/{name}"]
    arguments += ["--symlink", "/tmp", "/dev/shm"]  # semaphores of multiprocessing are files there
    return [*arguments, "--remount-ro", "/dev"]


_requests: queue.SimpleQueue | None = None  # for the launcher thread of this process
_requests_lock = threading.Lock()


def _in_lasting_thread(start: Callable[[], ProcessLink]) -> ProcessLink:
    """Call `start` in a thread that never ends: bwrap dies with the *thread* that started it."""
    global _requests
    with _requests_lock:
        if _requests is None:
            _requests = queue.SimpleQueue()
            threading.Thread(target=_launch, args=(_requests,), daemon=True).start()
    result: Future[ProcessLink] = Future()
    _requests.put((start, result))
    return result.result()


def _launch(requests: queue.SimpleQueue) -> None:
    while True:
        start, result = requests.get()
        try:
            result.set_result(start())
        except BaseException as error:
            result.set_exception(error)


def _forget_launcher() -> None:
    """A forked child has none of the threads of its parent."""
    global _requests, _requests_lock
    _requests, _requests_lock = None, threading.Lock()


os.register_at_fork(after_in_child=_forget_launcher)
