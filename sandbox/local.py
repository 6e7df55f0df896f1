"""Cages that are mere processes with limits. For trusted programs, or where nothing better works.

What it covers: CPU and wall time, memory, output, file size, open files, and (exactly as root,
else roughly) the number of processes; leftover processes and files of a job are removed; no
environment variable of the host reaches a job; it can import no module of the host but those of
`packages`, open no socket but Unix ones and trace no process (seccomp.py). As root, each cage has
a network namespace of its own, which hides the abstract Unix sockets of the host, and what jobs
leave in /dev/shm is removed.

What it does not cover: a program can read all files that this user can read (as root: all, where
the interpreter lies in a closed directory like /root), write those that this user can write (as
root: none but public ones, since jobs are an unprivileged user then), reach local services through
Unix sockets and, unless we are root, send signals to other processes of this user, us included. The
disk of the host can be filled by many files. Unless we are root, processes that a program left may
survive if the runner itself is killed.
"""

from __future__ import annotations

import contextlib
import fcntl
import importlib.util
import logging
import os
import signal
import stat
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from sandbox.boot import PACKAGES, environment, new_uid, python_command
from sandbox.cage import Capacity, RunnerCage, Settings
from sandbox.link import ProcessLink
from sandbox.runner import (
    descendants,
    empty,
    is_alive_without_main_thread,
    send_signal,
    stat_fields,
)

PREFIX = "vpd-sandbox-"  # of the directory of a cage
NEW_SECONDS = 60.0  # a directory so young may not be locked yet
QUICK_SECONDS = 0.5  # for removing a directory while somebody waits
REMOVE_SECONDS = 60.0  # for what the last job of a cage may have left
CLEAR_LOOKS = 10  # one look at /proc can miss a process that forks and ends all the time

log = logging.getLogger("sandbox")


class Local:
    """Starts processes with limits, each of which is a cage.

    Args:
        packages: what programs may import besides the standard library. One that is not installed
            here makes the programs that import it end in a SandboxError.
    """

    name = "local"

    def __init__(self, *, packages: Sequence[str] = PACKAGES) -> None:
        self._modules = packages
        self._packages = find_packages(packages)
        remove_leftovers()

    def start(self) -> RunnerCage:
        directory = Path(tempfile.mkdtemp(prefix=PREFIX, dir=place()))
        lock = os.open(directory, os.O_RDONLY)  # held as long as we live: see remove_leftovers
        fcntl.flock(lock, fcntl.LOCK_EX)

        job_uid = new_uid()

        def clean_up() -> None:
            try:
                empty(str(directory), time.monotonic() + QUICK_SECONDS)
            except TimeoutError:  # what a job left is much, and no caller should wait for it
                if threading.main_thread().is_alive():  # else nobody waits for a new thread
                    with contextlib.suppress(RuntimeError):  # in this moment it ended
                        # Also where a daemon thread calls us: Python does not exit before it ends.
                        threading.Thread(target=finish_removing, daemon=False).start()
                        return
            finish_removing()

        def finish_removing() -> None:
            try:
                remove(directory)
            except OSError as error:
                log.warning("A cage left something behind: %s", error)
            finally:
                os.close(lock)

        try:
            directory.chmod(0o711)
            writable = directory / "work"
            writable.mkdir()
            writable.chmod(0o1777)
            importable = directory / "packages"
            importable.mkdir()
            for path in self._packages:
                (importable / path.name).symlink_to(path)
            link = ProcessLink(
                python_command(interpreter(), str(writable)),
                environment(str(writable)),
                before_kill=lambda runner: kill_jobs(runner, job_uid),
                after_kill=clean_up,
            )
        except BaseException:
            clean_up()
            raise
        settings = Settings(
            writable=str(writable),
            job_uid=job_uid,
            directory=str(directory),
            modules=self._modules,
            packages=str(importable),
            keep_reading=job_uid is not None and not anyone_can_reach(Path(sys.base_prefix)),
        )
        return RunnerCage(link, settings, Capacity())


def find_packages(names: Sequence[str]) -> list[Path]:
    """The folders that make these packages importable, of those that are installed.

    A package that is a directory `name` may have its libraries beside it, in `name.libs`.
    """
    found = []
    for name in names:
        spec = importlib.util.find_spec(name)
        for place in (spec.submodule_search_locations or ()) if spec is not None else ():
            path = Path(place).resolve()
            found += [near for near in (path, path.with_name(name + ".libs")) if near.is_dir()]
    return found


def interpreter() -> str:
    """The path of the interpreter itself, not of a virtual environment's link to it."""
    return os.path.realpath(getattr(sys, "_base_executable", None) or sys.executable)


def anyone_can_reach(path: Path) -> bool:
    path = path.resolve()
    return all(step.stat().st_mode & stat.S_IXOTH for step in (path, *path.parents))


def place() -> Path:
    """The folder for the directories of cages. Jobs of root are another user and must reach it."""
    usual = Path(tempfile.gettempdir())
    return usual if os.geteuid() != 0 or anyone_can_reach(usual) else Path("/tmp")


def kill_jobs(runner: int, job_uid: int | None) -> None:
    """Kill what would outlive a killed runner: its descendants, or all of the jobs' own user."""
    with contextlib.suppress(ProcessLookupError):
        os.kill(runner, signal.SIGSTOP)  # no new jobs, and their orphans still come to it
    deadline = time.monotonic() + REMOVE_SECONDS
    clear = 0  # looks in a row that found nobody
    while clear < CLEAR_LOOKS and time.monotonic() < deadline:
        jobs = descendants(runner)
        send_signal(signal.SIGKILL, jobs)
        for pid in processes_of(job_uid):
            send_signal(signal.SIGKILL, [pid])  # at once: in a moment it may be another
            jobs.append(pid)
        clear = 0 if any(is_alive(stat_fields(pid)) for pid in jobs) else clear + 1
        time.sleep(0.001)


def is_alive(fields: list[bytes]) -> bool:
    return bool(fields) and (fields[0] not in (b"Z", b"X") or is_alive_without_main_thread(fields))


def processes_of(uid: int | None) -> Iterator[int]:
    """A user's processes, the newest first: one that forks and ends all the time is among them."""
    pids = [int(path.name) for path in Path("/proc").iterdir() if path.name.isdigit()]
    for pid in sorted(pids, reverse=True) if uid is not None else ():
        with contextlib.suppress(OSError):
            if Path(f"/proc/{pid}").stat().st_uid == uid:
                yield pid


def remove(directory: Path) -> None:
    empty(str(directory), time.monotonic() + REMOVE_SECONDS)
    directory.rmdir()


def remove_leftovers() -> None:
    """Remove directories of processes that were killed: nobody holds their locks any more."""
    for directory in place().glob(PREFIX + "*"):
        try:
            lock = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
        except OSError:
            continue  # another user's, or gone by now
        try:
            status = os.fstat(lock)
            if status.st_uid == os.geteuid() and time.time() - status.st_mtime > NEW_SECONDS:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                remove(directory)
        except OSError as error:
            log.debug("Leaving %s: %s", directory, error)
        finally:
            os.close(lock)
