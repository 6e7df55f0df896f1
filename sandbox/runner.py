"""The program inside every cage: a warm interpreter that forks one child per job.

It runs on any CPython >= 3.9 and needs nothing but the standard library, because images differ.

The trick that makes a job both quick and exact: the cage starts `python solution.py`, and CPython
imports this file as `sitecustomize` just before it would open solution.py. Here it stops and serves
jobs. For each job it forks, and the child simply *returns* from the import, so that CPython itself
goes on to read, run and finish the solution.py of that job: `__main__`, sys.argv, tracebacks, exit
codes, thread joins and finalisers are not imitated, they are CPython's own.

Frames on the control channel, both ways: 4 bytes big-endian length of a JSON header, the header,
and then the blobs whose lengths it lists under "sizes".
"""

# pathlib and contextlib would only make this process, and so every fork of it, larger.
# ruff: noqa: PTH101, PTH102, PTH104, PTH106, PTH108, PTH110, PTH116, PTH118, PTH208, SIM105

import atexit
import ctypes
import gc
import json
import math
import mmap
import os
import re
import resource
import select
import signal
import sys
import threading
import time
import weakref
from functools import partial

CONTROL_IN, CONTROL_OUT = 3, 4  # where `cage.BOOT` put the control channel
VALUE_FD = 3  # where a call job finds the pipe for its value; the control channel is closed there
CHUNK_BYTES = 1 << 16
SAMPLE_SECONDS = 0.025  # how often memory and CPU time of all processes of a job are added up
CLEAN_SECONDS = 2.0  # a job that leaves more than this to clean up costs its cage
COUNT_SECONDS = 5.0  # how long a count of this user's processes is good for
STACK_BYTES = 120 << 20  # of the main thread, as contest judges give it; the gap CPython has is 128
ADDRESS_SLACK_BYTES = 256 << 20  # address space beyond the memory limit: thread stacks, mappings

# What contest programs import. Imported once here, so that a job's own import costs nothing.
MODULES = """
import array, bisect, cmath, collections, copy, dataclasses, datetime, decimal, enum, fractions
import functools, heapq, io, itertools, json, math, operator, queue, random, re, statistics
import string, sys, threading, time, traceback, typing
"""

# The names that LeetCode and LiveCodeBench put before a program that defines a function. Only call
# jobs get them. typing comes first, so that Counter is the class and not its alias.
PRELUDE = f"""
from typing import *
from string import *
from re import *
from datetime import *
from collections import *
from heapq import *
from bisect import *
from copy import *
from math import *
from random import *
from statistics import *
from itertools import *
from functools import *
from operator import *
from io import *
from sys import *
from json import *
from builtins import *
{MODULES}
"""

# Words by which a program may end with an exit code that only CPython knows, or pretend to; and the
# uses of them that stand for exit code 0. If all are of the second kind, the end is plain.
ODD_ENDING = re.compile(rb"(?<!at)exit|Exit|quit|last_(?:value|exc|type)")
PLAIN_EXIT = re.compile(
    rb"\b(?:exit|quit)\s*\(\s*0?\s*\)"
    rb"|\braise\s+SystemExit(?:\s*\(\s*0?\s*\)|(?=\s*\n))"
    rb"|\bfrom\s+sys\s+import\s+[\w, ]*\bexit\b(?!\s*as\b)"
)

libc = ctypes.CDLL(None, use_errno=True)


class Settings:
    """What the host says about this cage, once."""

    def __init__(self, header):
        self.writable = header["writable"]  # the one directory a job can write; emptied after each
        self.job_directory = os.path.join(self.writable, "job")
        self.job_uid = header["job_uid"]  # the user jobs become, or None: they stay who we are
        self.keep_reading = header["keep_reading"]  # jobs keep CAP_DAC_READ_SEARCH (see local.py)
        self.die_with_parent = header["die_with_parent"]
        self.filter = bytes.fromhex(header["filters"].get(os.uname().machine, ""))
        self.owns_processes = os.getpid() == 1  # first of a process namespace: all others are jobs'
        self.rss_bytes = self.address_bytes = 0  # ours, before any job: not charged to jobs
        self.oom = OomKills()
        self.other_tasks = 0
        self.counted = -math.inf

    def tasks_of_others(self):
        """What RLIMIT_NPROC counts besides the job: all processes and threads of the same user."""
        if self.job_uid is not None:
            return 0  # the user is the job's alone
        if self.owns_processes:
            return 1  # ourselves
        if time.monotonic() - self.counted > COUNT_SECONDS:
            self.other_tasks, self.counted = count_tasks_of_user(), time.monotonic()
        return self.other_tasks + 256  # they come and go


def main():
    settings, prelude = prepare()
    job = serve(settings)
    # From here on we are the forked child of one job.
    renew_main_module()
    if job.call is not None:
        run_call(job, prelude)  # does not return
    if job.ends_plainly:
        atexit.register(finish_quickly, frozenset(sys.modules))


def prepare():
    os.umask(0o022)
    os.chdir("/")
    signal.pthread_sigmask(signal.SIG_SETMASK, [])
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    settings = Settings(read_header())
    become_unreachable(settings)
    for variable in ("PYTHONPATH", "PYTHONNOUSERSITE", "PWD", "HOSTNAME"):
        os.environ.pop(variable, None)
    boot = sys.path.pop(0)
    sys.path_importer_cache.pop(boot, None)
    empty(settings.writable, time.monotonic() + CLEAN_SECONDS)
    prelude = {}
    exec(PRELUDE, prelude)
    settings.rss_bytes, settings.address_bytes = own_memory()
    gc.disable()
    gc.collect()
    gc.freeze()  # so that a child's collections do not copy our pages
    write_frame({"ready": sys.version.split()[0]})
    return settings, prelude


def serve(settings):
    """Run jobs until the host hangs up. Returns only in a forked child: the job it is to become."""
    while True:
        job = Job(read_header())
        code, stdin_data, call = (Buffer.received(size) for size in job.sizes)
        job.ends_plainly = len(ODD_ENDING.findall(code.view)) == len(PLAIN_EXIT.findall(code.view))
        job.tasks_of_others = settings.tasks_of_others()
        with as_job_user(settings):
            os.mkdir(settings.job_directory, 0o700)
            write_file(os.path.join(settings.job_directory, "solution.py"), code.view)
            stdin = anonymous_file(os.path.join(settings.writable, "stdin"), stdin_data.view)
        code.close()
        stdin_data.close()
        out, err, value, setup = os.pipe(), os.pipe(), os.pipe(), os.pipe()
        for fd in (out[1], err[1]):
            os.fchmod(fd, 0o666)  # /dev/stdout can be opened, whoever the job is
        started = time.monotonic()
        pid = os.fork()
        if pid == 0:
            try:
                if call.size:
                    job.call = json.loads(bytes(call.view))
                call.close()
                become(job, settings, stdin, out[1], err[1], value[1])
                return job
            except BaseException as error:
                write_all(setup[1], repr(error).encode())
                os._exit(1)
        call.close()
        for fd in (stdin, out[1], err[1], value[1], setup[1]):
            os.close(fd)
        watch = Watch(job, settings, pid, started, out[0], err[0], value[0])
        watch.until_it_ends()
        failure = read_all(setup[0])
        if failure:  # nothing is known about the program: the cage fails, not the job
            raise RuntimeError("a job could not be set up: " + failure.decode())
        header = watch.result()
        header["tainted"] = not clean(settings)
        write_frame(header, watch.out, watch.err, watch.value)


class Job:
    def __init__(self, header):
        self.sizes = header["sizes"]  # of code, standard input and call
        self.wall_seconds = header["wall_seconds"]
        self.cpu_seconds = header["cpu_seconds"]
        self.memory_bytes = int(header["memory_bytes"])
        self.processes = int(header["processes"])
        self.output_bytes = int(header["output_bytes"])
        self.file_bytes = int(header["file_bytes"])
        self.open_files = int(header["open_files"])
        self.ends_plainly = False  # see finish_quickly
        self.tasks_of_others = 0
        self.call = None
        self.directory = ""


class Buffer:
    """Memory of its own that goes back to the kernel when closed.

    Everything that one job brings or writes is kept in these, so that no later job inherits traces
    of it with our memory.
    """

    def __init__(self, capacity):
        self.memory = mmap.mmap(-1, max(1, capacity), mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        self.view = memoryview(self.memory)[:capacity]
        self.size = capacity

    @classmethod
    def received(cls, size):
        buffer = cls(size)
        at = 0
        while at < size:
            got = os.readv(CONTROL_IN, [buffer.view[at:]])
            if not got:
                os._exit(0)  # the host is gone
            at += got
        return buffer

    def close(self):
        self.view.release()
        self.memory.close()


# The child ---------------------------------------------------------------------------------------


def become(job, settings, stdin, out, err, value):
    """Turn this forked child into the process of the job: its files, limits, user and directory."""
    os.setpgid(0, 0)  # so that it can signal its own group without ours
    os.dup2(stdin, 0)
    os.dup2(out, 1)
    os.dup2(err, 2)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    set_limits(job, settings)
    drop_privileges(settings)
    if os.path.exists("/proc/self/oom_score_adj"):  # not everywhere, with gVisor for one
        write_file("/proc/self/oom_score_adj", b"1000")  # if memory runs out, the job goes first
    job.directory = settings.job_directory
    os.chdir(job.directory)
    gc.enable()
    if job.call is not None:
        os.dup2(value, VALUE_FD)
    os.closerange(VALUE_FD if job.call is None else VALUE_FD + 1, 1024)


def set_limits(job, settings):
    cpu = int(-(-job.cpu_seconds // 1))
    set_limit(resource.RLIMIT_CPU, cpu, cpu + 1)  # SIGXCPU, and SIGKILL a second later
    set_limit(resource.RLIMIT_AS, settings.address_bytes + job.memory_bytes + ADDRESS_SLACK_BYTES)
    set_limit(resource.RLIMIT_FSIZE, job.file_bytes)
    set_limit(resource.RLIMIT_NOFILE, job.open_files)
    set_limit(resource.RLIMIT_NPROC, job.tasks_of_others + job.processes)
    set_limit(resource.RLIMIT_STACK, STACK_BYTES)
    set_limit(resource.RLIMIT_CORE, 0)
    set_limit(resource.RLIMIT_MSGQUEUE, 0)


def set_limit(which, soft, hard=None):
    hard = soft if hard is None else hard
    allowed = resource.getrlimit(which)[1]
    if allowed != resource.RLIM_INFINITY:
        soft, hard = min(soft, allowed), min(hard, allowed)
    resource.setrlimit(which, (soft, hard))


def drop_privileges(settings):
    uid = settings.job_uid
    if uid is not None:
        prctl(PR_SET_KEEPCAPS, 1)
        os.setgroups([])
        os.setresgid(uid, uid, uid)
        os.setresuid(uid, uid, uid)
        keep_capabilities(1 << CAP_DAC_READ_SEARCH if settings.keep_reading else 0)
        if settings.keep_reading:  # also across execve
            prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE, CAP_DAC_READ_SEARCH)
    if not settings.owns_processes:
        prctl(PR_SET_PDEATHSIG, signal.SIGKILL)  # if something kills us, the job goes, too
    prctl(PR_SET_DUMPABLE, 1)  # else /proc/self, and with it /dev/stdin, belongs to root


def renew_main_module():
    """The first one is frozen with all that was there before, so its cycles would never end."""
    old = sys.modules["__main__"]
    new = sys.modules["__main__"] = type(sys)("__main__")
    new.__dict__.update(old.__dict__)


def finish_quickly(modules):
    """End a plain job with the exit code and the effects that full finalisation would have.

    Registered first, so it runs last of all atexit handlers. CPython's own finalisation touches
    almost every page of the warm interpreter and costs twice what the rest of the job does. Where
    anything is unusual we just return, and CPython finishes by itself. Unusual is: Ctrl-C ended the
    program, other threads are alive, or the exit code is not known here, since the program names
    an odd way to end (see ODD_ENDING) or imported modules that may know one.
    """
    error = getattr(sys, "last_value", None)  # of the exception that ended the program
    if isinstance(error, KeyboardInterrupt) or len(threading.enumerate()) > 1:
        return
    if not modules.issuperset(sys.modules):
        return
    exit_code = 0 if error is None else 1
    try:
        sys.stdout.flush()
        sys.stderr.flush()
        main = weakref.ref(sys.modules.pop("__main__"))
    except Exception:  # a closed or replaced stream, a full pipe: CPython knows what to say
        return
    # What follows is the order of CPython's finalize_modules.
    error = sys.last_type = sys.last_value = sys.last_traceback = sys.last_exc = None
    gc.collect()  # the globals of the program go, and what they own: __del__, unflushed files
    if main() is not None:
        forget_names(main().__dict__)
    try:
        for stream in (sys.stdout, sys.stderr, sys.__stdout__, sys.__stderr__):
            if stream is not None and not getattr(stream, "closed", False):
                stream.flush()
    except Exception:
        pass  # so late, CPython does not mind either
    os._exit(exit_code)


def forget_names(names):
    """What CPython does to modules that are still referred to: private names go first."""
    private = [name for name in names if name[:1] == "_" and name[1:2] != "_"]
    for name in [*private, *(name for name in names if name != "__builtins__")]:
        names[name] = None


def run_call(job, prelude):
    """Run the program as a module body, call its function and write the value as JSON.

    This cannot be left to CPython: the call comes after the body, and before threads are joined.
    """
    exit_code = 1
    try:
        exit_code = call(job, prelude)
        threading._shutdown()
        atexit._run_exitfuncs()
        for stream in (sys.stdout, sys.stderr):
            if stream is not None and not stream.closed:
                stream.flush()
    finally:
        os._exit(exit_code)  # whatever the program broke: never return into the interpreter


def call(job, prelude):
    """The exit code; the value went to VALUE_FD."""
    dumps, write = json.dumps, write_all
    main = sys.modules["__main__"]
    path = os.path.join(job.directory, "solution.py")
    sys.path.insert(0, job.directory)
    names = main.__dict__
    names.update((name, value) for name, value in prelude.items() if name != "__builtins__")
    names["__file__"] = path
    with open(path, "rb") as file:
        code = file.read()
    try:
        exec(compile(code, path, "exec", dont_inherit=True), names)
        value = find_function(names, job.call["function"], prelude)(*job.call["arguments"])
    except SystemExit as end:
        return exit_code_of(end)
    except BaseException as error:
        show(error)
        return 1
    if hasattr(sys, "set_int_max_str_digits"):
        sys.set_int_max_str_digits(0)  # integers of any size are JSON
    try:
        text = dumps(value, allow_nan=False)
    except (TypeError, ValueError, RecursionError) as error:
        name = type(value).__name__
        say(f"TypeError: {job.call['function']}() returned {name}, not a JSON value: {error}")
        return 1
    write(VALUE_FD, text.encode())
    return 0


def find_function(names, name, prelude):
    solution = names.get("Solution")
    if isinstance(solution, type) and hasattr(solution, name):
        return getattr(solution(), name)
    function = names.get(name)
    if function is None or function is prelude.get(name):
        raise SystemExit(
            f"AttributeError: the program defines neither Solution.{name} nor a function {name}"
        )
    return function


def show(error):
    """Print an uncaught exception as CPython does, without our own frames at its beginning."""
    trace = error.__traceback__
    while trace is not None and trace.tb_frame.f_code.co_filename == show.__code__.co_filename:
        trace = trace.tb_next
    error.__traceback__ = trace
    sys.excepthook(type(error), error, trace)


def exit_code_of(end):
    if end.code is None:
        return 0
    if isinstance(end.code, int):
        return end.code & 0xFF
    say(end.code)
    return 1


def say(text):
    print(text, file=sys.stderr, flush=True)


# The parent --------------------------------------------------------------------------------------


class Capture:
    """What came through one pipe: the first `limit` bytes, and the length of it all."""

    def __init__(self, fd, limit):
        self.fd, self.limit = fd, limit
        self.total = 0
        self.buffer = None

    def read(self):
        """Read what is there. False at the end of the pipe."""
        if self.buffer is None:
            self.buffer = Buffer(self.limit + CHUNK_BYTES)  # the end is for what we only count
        at = min(self.total, self.limit)
        got = os.readv(self.fd, [self.buffer.view[at : at + CHUNK_BYTES]])
        self.total += got
        return got > 0

    @property
    def size(self):
        return min(self.total, self.limit)

    def send_and_close(self):
        if self.size:
            write_all(CONTROL_OUT, self.buffer.view[: self.size])
        if self.buffer is not None:
            self.buffer.close()


class Watch:
    """Looks after the process of one job until nothing of it is left."""

    def __init__(self, job, settings, pid, started, out, err, value):
        self.job, self.settings, self.pid, self.started = job, settings, pid, started
        self.out = Capture(out, job.output_bytes)
        self.err = Capture(err, job.output_bytes)
        self.value = Capture(value, job.output_bytes)
        self.reason = None  # why we killed it: "wall", "cpu", "memory" or "output"
        self.status = None  # of the main process, once it is reaped
        self.seconds = self.cpu_seconds = 0.0
        self.peak_bytes = 0

    def until_it_ends(self):
        captures = {capture.fd: capture for capture in (self.out, self.err, self.value)}
        for fd in captures:
            os.set_blocking(fd, False)
        poll = select.poll()
        for fd in captures:
            poll.register(fd, select.POLLIN)
        poll.register(CONTROL_IN, select.POLLHUP)
        try:
            pidfd = os.pidfd_open(self.pid)
            poll.register(pidfd, select.POLLIN)
        except OSError:  # not on every kernel: then we look often
            pidfd = None
        deadline = self.started + self.job.wall_seconds
        next_sample = self.started + SAMPLE_SECONDS
        while self.status is None and self.reason is None:
            wait = min(next_sample, deadline) - time.monotonic()
            if pidfd is None:
                wait = min(wait, 0.003)
            for fd, _ in poll.poll(max(0, wait * 1000 + 0.5)):
                if fd == CONTROL_IN:
                    self.kill()
                    os._exit(0)  # the host is gone
                if fd == pidfd:
                    continue
                if not captures[fd].read():
                    poll.unregister(fd)
                if captures[fd].total > captures[fd].limit:
                    self.reason = "output"
            self.reap()
            now = time.monotonic()
            if now >= deadline:
                self.reason = self.reason or "wall"
            elif now >= next_sample:
                self.sample()
                next_sample = now + SAMPLE_SECONDS
        if self.status is not None:
            self.reason = None if self.reason == "wall" else self.reason
        self.kill()
        self.seconds = time.monotonic() - self.started
        if pidfd is not None:
            os.close(pidfd)
        for fd, capture in captures.items():
            drain(capture)
            os.close(fd)

    def reap(self):
        """Collect processes that ended, orphans too: they reparent to us."""
        while True:
            try:
                pid, status, usage = os.wait4(-1, os.WNOHANG)
            except ChildProcessError:
                return False
            if pid == 0:
                return True
            self.account(pid, status, usage)

    def account(self, pid, status, usage):
        if pid == self.pid:
            self.status = status
        self.cpu_seconds += usage.ru_utime + usage.ru_stime
        self.peak_bytes = max(self.peak_bytes, usage.ru_maxrss * 1024)

    def sample(self):
        """Add up what all processes of the job use now; setrlimit only sees them one by one."""
        tick = os.sysconf("SC_CLK_TCK")
        page = os.sysconf("SC_PAGE_SIZE")
        memory, cpu = 0, self.cpu_seconds
        for pid in self.processes():
            fields = stat_fields(pid)
            if fields:
                memory += max(0, int(fields[21]) * page - self.settings.rss_bytes)
                cpu += sum(map(int, fields[11:15])) / tick
        self.peak_bytes = max(self.peak_bytes, memory + self.settings.rss_bytes)
        if memory > self.job.memory_bytes:
            self.reason = self.reason or "memory"
        elif cpu > self.job.cpu_seconds:
            self.reason = self.reason or "cpu"

    def processes(self):
        if self.settings.owns_processes:
            return [int(name) for name in os.listdir("/proc") if name.isdigit() and name != "1"]
        return descendants(os.getpid())

    def kill(self):
        """Kill all processes of the job, and return when none is left."""
        while True:
            if self.settings.owns_processes:
                try:
                    os.kill(-1, signal.SIGKILL)  # everything but us, in one step
                except ProcessLookupError:
                    pass
            elif not self.reap():
                return
            else:
                for pid in self.processes():
                    try:
                        os.kill(pid, signal.SIGKILL)
                    except ProcessLookupError:
                        pass
            try:
                self.account(*os.wait4(-1, 0))
            except ChildProcessError:
                return

    def result(self):
        code = os.waitstatus_to_exitcode(self.status)
        reason = self.reason
        if reason is None:
            if self.peak_bytes - self.settings.rss_bytes > self.job.memory_bytes:
                reason = "memory"
            elif self.cpu_seconds > self.job.cpu_seconds or code == -signal.SIGXCPU:
                reason = "cpu"
            elif max(self.out.total, self.err.total) > self.job.output_bytes:
                reason = "output"
            elif code == -signal.SIGKILL and self.settings.oom.happened():
                reason = "memory"
        return {
            "exit_code": code if code >= 0 else None,
            "signal": -code if code < 0 else None,
            "reason": reason,
            "seconds": self.seconds,
            "cpu_seconds": self.cpu_seconds,
            "memory_bytes": self.peak_bytes,
            "stdout_bytes": self.out.total,
            "stderr_bytes": self.err.total,
        }


def drain(capture):
    """Read the rest of a pipe: nobody is left to write, so it ends."""
    try:
        while capture.read():
            pass
    except BlockingIOError:
        pass


def stat_fields(pid):
    """/proc/PID/stat from the third field on (state, ppid, ...), or [] if it is gone."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            return file.read().rpartition(b")")[2].split()
    except OSError:
        return []


def descendants(root):
    """All processes below `root`."""
    if os.path.exists(f"/proc/{root}/task/{root}/children"):
        children_of = listed_children
    else:  # a kernel without these lists: build them
        parents = {}
        for name in os.listdir("/proc"):
            fields = stat_fields(name) if name.isdigit() else None
            if fields:
                parents.setdefault(int(fields[1]), []).append(int(name))
        children_of = partial(dict.get, parents)
    found, todo = [], [root]
    while todo:
        children = children_of(todo.pop()) or []
        found += children
        todo += children
    return found


def listed_children(pid):
    children = []
    try:
        for thread in os.listdir(f"/proc/{pid}/task"):
            with open(f"/proc/{pid}/task/{thread}/children", "rb") as file:
                children += map(int, file.read().split())
    except OSError:
        pass  # it ended meanwhile
    return children


def clean(settings):
    """Remove what the job left. False if something stays, and the cage should go with it."""
    try:
        with as_job_user(settings):
            empty(settings.writable, time.monotonic() + CLEAN_SECONDS)
    except OSError:
        return False
    return not (settings.owns_processes and system_v_objects())


def empty(directory, deadline):
    """Remove all that is in `directory`, however deep and locked, one level at a time.

    Directories in directories are first moved up, so neither paths nor the stack grow.
    """
    moved = 0
    while True:
        with os.scandir(directory) as entries:
            level = list(entries)
        if not level:
            return
        for entry in level:
            if time.monotonic() > deadline:
                raise TimeoutError(f"too much to remove in {directory}")
            if not entry.is_dir(follow_symlinks=False):
                os.unlink(entry.path)
                continue
            os.chmod(entry.path, 0o700)
            with os.scandir(entry.path) as inner:
                for child in inner:
                    if child.is_dir(follow_symlinks=False):
                        os.chmod(child.path, 0o700)
                        while os.path.lexists(f"{directory}/{moved}"):
                            moved += 1
                        os.rename(child.path, f"{directory}/{moved}")
                    else:
                        os.unlink(child.path)
            os.rmdir(entry.path)


def system_v_objects():
    """Shared memory, semaphores and queues outlive their processes."""
    for kind in ("shm", "sem", "msg"):
        try:
            with open(f"/proc/sysvipc/{kind}", "rb") as file:
                if len(file.read().splitlines()) > 1:
                    return True
        except OSError:
            pass
    return False


# Privileges --------------------------------------------------------------------------------------

PR_SET_PDEATHSIG, PR_SET_DUMPABLE, PR_SET_KEEPCAPS = 1, 4, 8
PR_SET_CHILD_SUBREAPER, PR_SET_NO_NEW_PRIVS = 36, 38
PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE = 47, 2
PR_SET_SECCOMP, SECCOMP_MODE_FILTER = 22, 2
CAP_DAC_READ_SEARCH = 2


class SockFprog(ctypes.Structure):
    _fields_ = (("length", ctypes.c_ushort), ("filter", ctypes.c_void_p))


def prctl(option, value, more=0):
    if libc.prctl(option, *(ctypes.c_ulong(number) for number in (value, more, 0, 0))) != 0:
        raise OSError(ctypes.get_errno(), f"prctl({option}, {value})")


def become_unreachable(settings):
    """Nobody may trace us or read our memory, even as the same user. The filter is for the jobs."""
    prctl(PR_SET_DUMPABLE, 0)
    prctl(PR_SET_NO_NEW_PRIVS, 1)
    if not settings.owns_processes:
        prctl(PR_SET_CHILD_SUBREAPER, 1)
    if settings.filter:
        program = ctypes.create_string_buffer(settings.filter, len(settings.filter))
        pointed = SockFprog(len(settings.filter) // 8, ctypes.addressof(program))
        prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, ctypes.addressof(pointed))


def keep_capabilities(bits):
    header = (ctypes.c_uint32 * 2)(0x20080522, 0)  # the version of the structure, this process
    data = (ctypes.c_uint32 * 6)(bits, bits, bits, 0, 0, 0)  # effective, permitted, inheritable
    if libc.capset(header, data) != 0:
        raise OSError(ctypes.get_errno(), "capset")


class as_job_user:
    """Make and remove files as the user of the jobs, since nothing else may touch theirs."""

    def __init__(self, settings):
        self.uid = settings.job_uid
        self.die_with_parent = settings.die_with_parent

    def __enter__(self):
        if self.uid is not None:
            os.seteuid(self.uid)

    def __exit__(self, *_):
        if self.uid is not None:
            os.seteuid(0)
            if self.die_with_parent:  # the kernel forgets this when the user changes
                prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


# Small things ------------------------------------------------------------------------------------


def read_header():
    return json.loads(read_exactly(int.from_bytes(read_exactly(4), "big")))


def read_exactly(size):
    data = b""
    while len(data) < size:
        part = os.read(CONTROL_IN, size - len(data))
        if not part:
            os._exit(0)  # the host is gone
        data += part
    return data


def write_frame(header, *captures):
    header["sizes"] = [capture.size for capture in captures]
    text = json.dumps(header).encode()
    write_all(CONTROL_OUT, len(text).to_bytes(4, "big") + text)
    for capture in captures:
        capture.send_and_close()


def write_all(fd, data):
    written = 0
    with memoryview(data) as view:
        while written < len(data):
            written += os.write(fd, view[written:])


def read_all(fd):
    with open(fd, "rb") as file:
        return file.read()


def write_file(path, data):
    fd = os.open(path, os.O_WRONLY | os.O_CREAT, 0o644)
    try:
        write_all(fd, data)
    finally:
        os.close(fd)


def anonymous_file(path, data):
    """A file that only its descriptor leads to, opened for reading: what `< input` gives."""
    write_file(path, data)
    fd = os.open(path, os.O_RDONLY)
    os.unlink(path)
    return fd


def own_memory():
    """Resident and virtual bytes of this process."""
    with open("/proc/self/statm", "rb") as file:
        pages, resident = map(int, file.read().split()[:2])
    page = os.sysconf("SC_PAGE_SIZE")
    return resident * page, pages * page


class OomKills:
    """Tells whether the kernel killed for want of memory since it was last asked."""

    def __init__(self):
        self.here, self.anywhere = self.counts()

    def happened(self):
        """In this cage. If on the machine, nothing is known about the program: the cage fails."""
        here, anywhere = self.here, self.anywhere
        self.here, self.anywhere = self.counts()
        if self.here == here and self.anywhere > anywhere:
            raise RuntimeError("a job was killed while the machine was out of memory")
        return self.here > here

    @staticmethod
    def counts():
        # Control groups, version 2 and 1, and the whole machine.
        cgroups = ("/sys/fs/cgroup/memory.events", "/sys/fs/cgroup/memory/memory.oom_control")
        return max(map(oom_count, cgroups)), oom_count("/proc/vmstat")


def oom_count(path):
    try:
        with open(path, "rb") as file:
            for line in file:
                if line.startswith(b"oom_kill "):
                    return int(line.split()[1])
    except OSError:
        pass
    return 0


def count_tasks_of_user():
    tasks = 0
    for name in os.listdir("/proc"):
        try:
            if name.isdigit() and os.stat(f"/proc/{name}").st_uid == os.getuid():
                tasks += len(os.listdir(f"/proc/{name}/task"))
        except OSError:
            pass
    return tasks


if __name__ == "sitecustomize":
    main()
    # Only a child gets here. `site` takes this for "there is no sitecustomize" and forgets us.
    raise ImportError(name="sitecustomize")
