"""The program inside every cage: a warm interpreter that forks one child per job.

It runs on any CPython >= 3.9 and needs nothing but the standard library, because images differ.

The trick that makes a job exact: the cage starts `python solution.py`, and CPython imports this
file as `sitecustomize` just before it would open solution.py. Here it stops and serves jobs. For
each job it forks, and the child simply *returns* from the import, so that CPython itself goes on to
read, run and finish the solution.py of that job: `__main__`, sys.argv, tracebacks, exit codes,
thread joins and finalizers are not imitated, they are CPython's own.

The trick that makes it quick: that child is forked *before* the job comes, when all of the job
before it is dead and removed. It gives up all privileges and waits at the control channel, takes
the job from there by itself, and tells the runner, which from then on watches it.

Frames on the control channel, both ways: 4 bytes big-endian length of a JSON header, the header,
and then the blobs whose lengths it lists under "sizes". The runner sends {"ready": ...} whenever a
child waits, {"goes_on": ...} now and then while a job takes longer than its wall limit since the
machine kept it waiting, and a result for every job. The host sends jobs, and {"cancel": ...} while
one runs that nobody wants any more; if that comes too late, the next child passes over it.
"""

# pathlib and contextlib would only make this process, and so every fork of it, larger.
# ruff: noqa: PTH101, PTH102, PTH104, PTH106, PTH108, PTH110, PTH112, PTH115, PTH116, PTH118, PTH208, SIM105

import atexit
import ctypes
import gc
import grp
import json
import math
import mmap
import os
import pwd
import re
import resource
import select
import signal
import sys
import threading
import time
import traceback
import unicodedata
from decimal import Decimal
from fractions import Fraction
from functools import partial

CONTROL_IN, CONTROL_OUT = 3, 4  # where `boot.BOOT` put the control channel
CALL_RECURSION_LIMIT = 50_000  # as LiveCodeBench's harness sets it; plain programs have CPython's
CALL_MODULE = "solution"  # what `__name__` is in call jobs, so that no `__main__` block runs
VALUE_FD = 3  # where a call job finds the pipe for its value; the control channel is closed there
CHUNK_BYTES = 1 << 16
SAMPLE_SECONDS = 0.025  # how often memory and CPU time of all processes of a job are added up
WITNESSED_SECONDS = 0.05  # the most that one sample says of the time before it
MOST_STRETCH = 10  # times its wall limit: a job that the machine kept waiting gets no longer
GOES_ON_SECONDS = 1.0  # how often the host is told of such a job
# What a clock of the cage counts beyond what the processes of a job are seen to use is theirs, too,
# if it is more than a clock differs by (one that counts what a hypervisor took, for instance).
HIDDEN_SHARE, HIDDEN_SECONDS = 0.5, 0.05
CLEAN_SECONDS = 2.0  # a job that leaves more than this to clean up costs its cage
REMOVE_SECONDS = 60.0  # for all that a vanished host leaves
COUNT_SECONDS = 5.0  # how long a count of this user's processes is good for
SHARED_MEMORY = "/dev/shm"
MOST_FILES = 20_000  # of a job in a file system of its own; their names are kernel memory
STACK_BYTES = 120 << 20  # of the main thread, as contest judges give it; the gap CPython has is 128
# Address space beyond the memory limit: the stacks of threads, arrays that are never filled. What
# is filled is sampled. One allocation of more than this fails at once, with a MemoryError.
ADDRESS_SLACK_BYTES = 3 << 30
MOST_SIGNALS = 4096  # queued; each is kernel memory
MOST_FRAMES = 1000  # of a traceback, as before Python 3.13, which takes seconds for 50,000
CPUS = 2  # that a job is told it has, in every cage and on every machine
USER = "user"  # the name of the user that a job is told it is

# What contest programs import. Imported once here, so that a job's own import costs nothing.
MODULES = """
import array, bisect, cmath, collections, copy, dataclasses, datetime, decimal, enum, fractions
import functools, heapq, io, itertools, json, math, operator, queue, random, re, statistics
import string, sys, threading, time, traceback, typing
"""

# What CPython itself has imported when a program begins, as far as it is written in Python.
OF_CPYTHON = (
    *("__main__", "_collections_abc", "_frozen_importlib", "_frozen_importlib_external"),
    *("_sitebuiltins", "abc", "codecs", "encodings", "genericpath", "io", "os", "posixpath"),
    *("site", "sitecustomize", "stat", "zipimport"),
)

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

# What CPython's finalization does that can be seen from outside depends on these words of a
# program. The exit code: names of what sets it, and ways to reach a name without writing it. What
# objects do when they die: finalizers, unflushed files, weak references.
ODD_ENDING = re.compile(
    rb"(?<!at)exit|Exit|quit|last_(?:value|exc|type|traceback)|excepthook|unraisable"
    rb"|attr|methodcaller|eval|exec|import_|vars|globals|locals|modules|builtins|Formatter"
    rb"|get_field|get_type_hints|ctypes|inspect|importlib|_threading|_active|breakpoint|BREAKPOINT"
    rb"|\bgc\b|_create_fn|(?<!re\.)\bcompile|singledispatch"
    rb"|__(?:annotations|match_args|dict|class|bases|base|mro|subclasses|self|globals|code|closure"
    rb"|func|getattribute|loader|spec|reduce\w*|getstate|setstate)__"
    rb"|coding[:=](?!\s*['\"]?(?i:utf-?8))"
    rb"|del__|finali|weakref|open(?!\(0\)\.read)|detach|IO|Writer|Wrapper|Buffer|async"
)
# Those uses of them that change nothing: exit code 0.
PLAIN_EXIT = re.compile(
    rb"\b(?:exit|quit) {0,9}\( {0,9}0? {0,9}\)"
    rb"|\braise +SystemExit(?: {0,9}\( {0,9}0? {0,9}\)|(?= {0,99}\n))"
    rb"|\bfrom +sys +import +[\w, ]{0,99}\bexit\b(?! *as\b)"
)

libc = ctypes.CDLL(None, use_errno=True)
setrlimit = resource.setrlimit  # programs get set_limit_as_far_as_allowed

STREAMS = ("stdin", "stdout", "stderr")


class Settings:
    """What the host says about this cage, once."""

    def __init__(self, header):
        self.writable = header["writable"]  # the one directory a job can write; emptied after each
        self.shared_memory = header["shared_memory"]  # another directory that a job can write
        self.directory = header["directory"]  # ours to remove if the host vanishes, or None
        self.modules = header["modules"]  # the third-party ones that programs may import
        self.packages = header["packages"]  # the directory where they are; None: among CPython's
        self.missing = []  # those that are not installed
        self.job_uid = header["job_uid"]  # the user jobs become, or None: they stay who we are
        self.keep_reading = header["keep_reading"]  # jobs keep CAP_DAC_READ_SEARCH (see local.py)
        self.die_with_parent = header["die_with_parent"]
        self.filter = bytes.fromhex(header["filters"].get(os.uname().machine, ""))
        self.owns_processes = os.getpid() == 1  # first of a process namespace: all others are jobs'
        self.owns_network = self.owns_processes  # all sockets in /proc/net/unix are the job's
        self.socket_bytes = bytes_of_a_socket()
        self.rss_bytes = self.address_bytes = 0  # ours, before any job: not charged to jobs
        self.oom = OomKills(own_group=self.owns_processes)
        self.cpu = CpuClock(own_group=self.owns_processes)
        self.other_tasks = 0
        self.counted = -math.inf

    def count_others(self):
        """What RLIMIT_NPROC counts besides the job: all processes and threads of the same user."""
        if self.job_uid is not None:
            self.other_tasks = 0  # the user is the job's alone
        elif self.owns_processes:
            self.other_tasks = 1  # ourselves
        elif time.monotonic() - self.counted > COUNT_SECONDS:
            self.other_tasks = count_tasks_of_user() + 256  # they come and go
            self.counted = time.monotonic()


def main():
    settings, prelude = prepare()
    job = serve(settings)
    # From here on we are the forked child of one job.
    renew_main_module()
    if job.call is not None:
        run_call(job, prelude)  # does not return
    if job.ends_plainly:
        atexit.register(finish_quickly, len(sys.modules) - 1)  # without this one, see below


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
    offer_modules(settings)
    look_plain()
    empty(settings.writable, time.monotonic() + CLEAN_SECONDS)
    prelude = {}
    exec(PRELUDE, prelude)
    for name in STREAMS:  # must die with the program that used them, to be flushed
        del prelude[name]
    # The import fails at its end (see below), and would take all of this apart in every child.
    for kept in (globals(), prelude):
        ctypes.pythonapi.Py_IncRef(ctypes.py_object(kept))
    settings.address_bytes, settings.rss_bytes = memory_of("/proc/self")
    gc.disable()
    gc.collect()
    gc.freeze()  # so that a child's collections do not copy our pages
    return settings, prelude


def offer_modules(settings):
    """Let programs import the standard library and the modules of the list, and nothing else."""
    library = os.__file__.rpartition("/")[0]
    standard = (library, os.path.join(library, "lib-dynload"))
    of_cpython = [path for path in sys.path if path in standard or path.endswith(".zip")]
    places = [path for path in sys.path if path not in of_cpython]
    sys.path[:] = of_cpython
    # Others come with editable installs of the host.
    sys.meta_path[:] = [finder for finder in sys.meta_path if finder.__module__ in IMPORT_SYSTEM]
    finder = ListedModules(settings.modules, [settings.packages] if settings.packages else places)
    sys.meta_path.append(finder)
    settings.missing = [name for name in settings.modules if finder.find_spec(name) is None]


IMPORT_SYSTEM = ("_frozen_importlib", "_frozen_importlib_external")


class ListedModules:
    """Finds these top-level modules in these directories, as a directory on sys.path would."""

    def __init__(self, names, places):
        self.names, self.places = names, places

    def find_spec(self, name, path=None, target=None):
        if path is not None or name not in self.names:
            return None
        return sys.modules["_frozen_importlib_external"].PathFinder.find_spec(name, self.places)


def look_plain():
    """Give jobs what a plain user finds on a plain, small machine, in every cage alike."""
    getaffinity, setaffinity = os.sched_getaffinity, os.sched_setaffinity
    getpwuid, getpwnam, getgrgid = pwd.getpwuid, pwd.getpwnam, grp.getgrgid
    os.cpu_count = lambda: CPUS
    if hasattr(os, "process_cpu_count"):
        os.process_cpu_count = os.cpu_count  # type: ignore
    os.sched_getaffinity = lambda pid: set(sorted(getaffinity(pid))[:CPUS])
    # The filter allows it to the caller itself, which 0 stands for.
    os.sched_setaffinity = lambda pid, cpus: setaffinity(0 if pid == os.getpid() else pid, cpus)
    os.getlogin = lambda: USER
    pwd.getpwuid = lambda uid: this_user() if uid == os.getuid() else getpwuid(uid)
    pwd.getpwnam = lambda name: this_user() if name == USER else getpwnam(name)
    grp.getgrgid = lambda gid: this_group() if gid == os.getgid() else getgrgid(gid)
    resource.setrlimit = set_limit_as_far_as_allowed
    if sys.version_info >= (3, 13):
        sys.tracebacklimit = MOST_FRAMES


def this_user():
    home = os.environ.get("HOME", "/")
    return pwd.struct_passwd((USER, "x", os.getuid(), os.getgid(), "", home, "/bin/sh"))


def this_group():
    return grp.struct_group((USER, "x", os.getgid(), []))


def set_limit_as_far_as_allowed(which, limits):
    """Programs that ask for more than the cage allows get as much as it allows."""
    try:
        setrlimit(which, limits)
    except ValueError:
        most = resource.getrlimit(which)[1]
        setrlimit(which, tuple(least(limit, most) for limit in limits))  # type: ignore


def least(limit, most):
    """The lower of two resource limits, of which RLIM_INFINITY is a negative number."""
    if limit == resource.RLIM_INFINITY or most == resource.RLIM_INFINITY:
        return max(limit, most)
    return min(limit, most)


def serve(settings):
    """Run jobs until the host hangs up. Returns only in a forked child: the job it is to become."""
    while True:
        settings.count_others()
        out, err, value, start = os.pipe(), os.pipe(), os.pipe(), os.pipe()
        for fd in (out[1], err[1]):
            os.fchmod(fd, 0o666)  # /dev/stdout can be opened, whoever the job is
        settings.cpu.begin()
        pid = os.fork()
        if pid == 0:
            return become_a_job(settings, out[1], err[1], value[1], start[1])
        for pipe in (out, err, value, start):
            os.close(pipe[1])
        write_frame({"ready": sys.version.split()[0], "missing": settings.missing})
        job = started_job(settings, start[0])
        settings.oom.begin()
        watch = Watch(job, settings, pid, out[0], err[0], value[0])
        watch.until_it_ends()
        write_frame(watch.result(), watch.out, watch.err, watch.value)
        clean(settings)


def started_job(settings, start):
    """Wait until our child has a job. If it fails to, nothing is known about the program."""
    poll = select.poll()
    poll.register(start, select.POLLIN)
    poll.register(CONTROL_IN, select.POLLHUP)
    if any(fd == CONTROL_IN for fd, _ in poll.poll()):
        leave(settings)
    header = json.loads(read_file(start) or b"{}")
    if "started" not in header:
        raise RuntimeError(f"a job could not be set up: {header.get('failure', 'killed')}")
    return Job(header)


def leave(settings):
    """The host is gone: take the jobs along, and remove what nobody else would."""
    try:
        if not settings.owns_processes:  # else the kernel does it
            kill_children()
    except OSError:
        pass
    try:
        if settings.directory is not None:
            empty(settings.directory, time.monotonic() + REMOVE_SECONDS)
            os.rmdir(settings.directory)
    finally:
        os._exit(0)


class Job:
    def __init__(self, header):
        self.wall_seconds = header["wall_seconds"]
        self.cpu_seconds = header["cpu_seconds"]
        self.memory_bytes = int(header["memory_bytes"])
        self.processes = int(header["processes"])
        self.output_bytes = int(header["output_bytes"])
        self.file_bytes = int(header["file_bytes"])
        self.open_files = int(header["open_files"])
        self.started = header.get("started", 0.0)  # time.monotonic()
        self.spent = header.get("spent", 0.0)  # CPU seconds of its process before that
        # Of the child only:
        self.call = None
        self.ends_plainly = False  # see finish_quickly
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


def become_a_job(settings, out, err, value, start):
    """Turn this forked child into the process of a job, up to the moment when its program begins.

    What does not depend on the job comes first: nobody is waiting for it yet.
    """
    try:
        # Its own group, so that it can signal that without ours; and where the kernel gives each
        # session a share of the CPU, a share of its own, so that it cannot make ours smaller.
        os.setsid()
        os.dup2(out, 1)
        os.dup2(err, 2)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        drop_privileges(settings)
        if os.path.exists("/proc/self/oom_score_adj"):  # not everywhere, with gVisor for one
            write_file("/proc/self/oom_score_adj", b"1000")  # out of memory, jobs go first
        directory = os.path.join(settings.writable, "job")
        os.mkdir(directory, 0o700)
        os.chdir(directory)

        header = read_header()
        while "cancel" in header:  # of an earlier job, which had ended by then
            header = read_header()
        job = Job(header)
        code, stdin, call = (Buffer.received(size) for size in header["sizes"])
        write_file("solution.py", code.view)
        job.directory = directory
        os.dup2(anonymous_file("../stdin", stdin.view), 0)
        if call.size:
            job.call = json_of_any_length(bytes(call.view))
        for buffer in (stdin, call):
            buffer.close()
        set_limits(job, settings)
        gc.enable()
        header |= {"started": time.monotonic(), "spent": time.process_time()}
        write_all(start, json.dumps(header).encode())
        os.close(start)
        # From here on all time and memory is the job's.
        try:
            program = bytes(code.view)
            job.ends_plainly = job.call is None and ends_plainly(program)
            if job.call is None and b".py" in program:
                forget_modules()
        except MemoryError:
            pass
        code.close()
        if job.call is not None:
            os.dup2(value, VALUE_FD)
        os.closerange(VALUE_FD if job.call is None else VALUE_FD + 1, 1024)
        return job
    except BaseException as error:
        write_all(start, json.dumps({"failure": repr(error)}).encode())
        os._exit(1)


def forget_modules():
    """Let the program import anew what CPython had not imported when it began.

    For one that may write a random.py of its own and import that. It would otherwise get ours.
    """
    for name, module in list(sys.modules.items()):
        written_in_python = (getattr(module, "__file__", None) or "").endswith(".py")
        if written_in_python and name.partition(".")[0] not in OF_CPYTHON:
            del sys.modules[name]


def json_of_any_length(data):
    """Integers may have more digits than CPython takes from programs."""
    if not hasattr(sys, "set_int_max_str_digits"):
        return json.loads(data)
    usual = sys.get_int_max_str_digits()
    sys.set_int_max_str_digits(0)
    try:
        return json.loads(data)
    finally:
        sys.set_int_max_str_digits(usual)


def set_limits(job, settings):
    settings.count_others()
    cpu = int(-(-job.cpu_seconds // 1))
    set_limit(resource.RLIMIT_CPU, cpu, cpu + 1)  # SIGXCPU, and SIGKILL a second later
    set_limit(resource.RLIMIT_AS, settings.address_bytes + job.memory_bytes + ADDRESS_SLACK_BYTES)
    set_limit(resource.RLIMIT_FSIZE, job.file_bytes)
    set_limit(resource.RLIMIT_NOFILE, job.open_files)
    set_limit(resource.RLIMIT_NPROC, settings.other_tasks + job.processes)
    set_limit(resource.RLIMIT_STACK, STACK_BYTES, resource.RLIM_INFINITY)  # programs may raise it
    set_limit(resource.RLIMIT_CORE, 0)
    set_limit(resource.RLIMIT_MSGQUEUE, 0)
    set_limit(resource.RLIMIT_SIGPENDING, MOST_SIGNALS)


def set_limit(which, soft, hard=None):
    hard = soft if hard is None else hard
    allowed = resource.getrlimit(which)[1]
    setrlimit(which, (least(soft, allowed), least(hard, allowed)))


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


def ends_plainly(code):
    """Whether all that finalization of this program can do is to flush the standard streams."""
    if len(ODD_ENDING.findall(code)) != len(PLAIN_EXIT.findall(code)):
        return False
    if b"yield" in code and re.search(rb"finally|with|except", code):
        return False  # a suspended generator goes on when it dies
    if code.isascii():
        return True
    text = code.decode("utf-8", "replace")
    return unicodedata.is_normalized("NFKC", text)  # identifiers are what they normalize to


def finish_quickly(modules):
    """End the process of a program that ends plainly, with the exit code CPython would give it.

    CPython's own finalization touches almost every page of the warm interpreter and costs more than
    all the rest of a small job. Registered first, this runs last of all atexit handlers. Where
    anything is unusual it just returns, and CPython goes on: Ctrl-C ended the program, other
    threads are alive, a standard stream was replaced or cannot be flushed, or the program imported
    modules, which may know other ways to end.
    """
    error = getattr(sys, "last_value", None)  # of the exception that ended the program
    if isinstance(error, KeyboardInterrupt) or len(threading._active) > 1:  # type: ignore
        return
    if len(sys.modules) != modules:
        return
    for name in ("stdout", "stderr"):
        if getattr(sys, name, None) is not getattr(sys, f"__{name}__", None):
            return
    try:
        sys.stdout.flush()
        sys.stderr.flush()
    except Exception:
        return
    os._exit(0 if error is None else 1)


def run_call(job, prelude):
    """Run the program as a module body, call its function and write the value as JSON.

    This cannot be left to CPython: the call comes after the body, and before threads are joined.
    """
    exit_code = 1
    try:
        exit_code = call(job, prelude)
        threading._shutdown()  # type: ignore
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
    names.update((name, getattr(sys, name)) for name in STREAMS)
    names["__file__"] = path
    names["__name__"] = CALL_MODULE
    sys.modules[CALL_MODULE] = main  # as well, where pickle, dataclasses and others look
    sys.setrecursionlimit(CALL_RECURSION_LIMIT)
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
    if isinstance(value, tuple):
        value = list(value)
    try:
        text = dumps(value, default=equal_json)
        if "NaN" in text and holds_nan(value):
            raise ValueError("NaN equals nothing")
        if job.call["strict"]:
            check_equals_json(value)
    except (TypeError, ValueError, RecursionError) as error:
        name = type(value).__name__
        say(f"TypeError: {job.call['function']}() returned {name}, not a JSON value: {error}")
        return 1
    write(VALUE_FD, text.encode())
    return 0


def equal_json(value):
    """The JSON value that an object of another kind equals. Raises TypeError if there is none."""
    numpy = sys.modules.get("numpy")
    if isinstance(value, getattr(numpy, "generic", ())):
        return value.item()
    if isinstance(value, getattr(numpy, "ndarray", ())) and value.size == 1:
        return value.tolist()
    if isinstance(value, complex) and value.imag == 0:
        return value.real
    if isinstance(value, (Decimal, Fraction)):
        for number in (int(value), float(value)):
            if number == value:
                return number
    raise TypeError(f"{type(value).__name__} equals none")


def holds_nan(value):
    return any(each != each for level in levels(value) for each in level)


def check_equals_json(value):
    """Raises TypeError for a value that in Python equals none that JSON has."""
    for level in levels(value):
        for kind in set(map(type, level)):
            if issubclass(kind, tuple):
                raise TypeError("a tuple inside of it equals no list")
            if issubclass(kind, dict):
                maps = (each for each in level if isinstance(each, dict))
                if not all(isinstance(key, str) for each in maps for key in each):
                    raise TypeError("in JSON, all keys are texts")


def levels(value):
    """[value], all that is in it, all that is in that, ..."""
    level = [value]
    while level:
        yield level
        if not any(issubclass(kind, (list, tuple, dict)) for kind in set(map(type, level))):
            break
        holders = (each for each in level if isinstance(each, (list, tuple, dict)))
        inner = (each.values() if isinstance(each, dict) else each for each in holders)
        level = [each for part in inner for each in part]


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
        if self.buffer is not None:
            write_all(CONTROL_OUT, self.buffer.view[: self.size])
            self.buffer.close()


class Watch:
    """Looks after the process of one job until nothing of it is left."""

    def __init__(self, job, settings, pid, out, err, value):
        self.job, self.settings, self.pid = job, settings, pid
        self.out = Capture(out, job.output_bytes)
        self.err = Capture(err, job.output_bytes)
        self.value = Capture(value, job.output_bytes)
        # Why we killed it: "wall", "starved", "cpu", "memory", "output" or "cancelled".
        self.reason = None
        self.status = None  # of the main process, once it is reaped
        self.seconds, self.cpu_seconds = 0.0, -job.spent  # the latter: of reaped processes
        self.used_seconds = 0.0  # CPU time of all its processes, at the last sample
        self.asleep_seconds = 0.0  # while none of its threads wanted a CPU
        self.sampled = job.started  # when that was
        self.deadline = job.started + job.wall_seconds
        self.told = self.deadline  # when the host last expected the end, or heard of it
        self.peak_bytes = 0
        self.meter = MemoryMeter(settings, job)

    def until_it_ends(self):
        captures = {capture.fd: capture for capture in (self.out, self.err, self.value)}
        for fd in captures:
            os.set_blocking(fd, False)
        poll = select.poll()
        for fd in captures:
            poll.register(fd, select.POLLIN)
        poll.register(CONTROL_IN, select.POLLIN)
        try:
            pidfd = os.pidfd_open(self.pid)
            poll.register(pidfd, select.POLLIN)
        except OSError:  # not on every kernel: then we look often
            pidfd = None
        next_sample = self.job.started + SAMPLE_SECONDS
        while self.status is None and self.reason is None:
            wait = min(next_sample, self.deadline) - time.monotonic()
            if pidfd is None:
                wait = min(wait, 0.003)
            for fd, event in poll.poll(max(0, wait * 1000 + 0.5)):
                if fd == CONTROL_IN:
                    self.hear(event)
                    continue
                if fd == pidfd:
                    continue
                if not captures[fd].read():
                    poll.unregister(fd)
                if captures[fd].total > captures[fd].limit:
                    self.reason = "output"
            self.reap()
            now = time.monotonic()
            if now >= min(next_sample, self.deadline):
                self.sample(now)
                next_sample = time.monotonic() + SAMPLE_SECONDS
            if now >= self.deadline:
                self.look_at_the_clock(now)
        if self.status is not None:
            self.reason = None if self.reason in ("wall", "starved") else self.reason
        self.kill()
        if self.sampled > self.job.started:  # what ends sooner can have hidden next to nothing
            self.cpu_seconds = max(self.used_seconds, self.charged(self.cpu_seconds))
        if self.reason == "starved" and self.cpu_seconds > self.job.cpu_seconds:
            self.reason = "cpu"  # known exactly only now
        self.seconds = time.monotonic() - self.job.started
        if pidfd is not None:
            os.close(pidfd)
        for fd, capture in captures.items():
            drain(capture)
            os.close(fd)

    def hear(self, event):
        """The host is gone, or the job is no longer wanted."""
        if event & select.POLLHUP or "cancel" not in read_header():
            leave(self.settings)
        self.reason = self.reason or "cancelled"

    def look_at_the_clock(self, now):
        """The wall limit has come. Time in which the job could not have a CPU is not charged to it.

        Whoever sleeps, or waits for what does not come, is charged for it on the busiest machine.
        """
        limit = self.job.wall_seconds
        if self.asleep_seconds + self.used_seconds >= limit:
            self.reason = self.reason or "wall"
        elif now >= self.job.started + MOST_STRETCH * limit:
            slept = self.asleep_seconds >= limit / 2
            self.reason = self.reason or ("wall" if slept else "starved")
        else:
            self.deadline = now + SAMPLE_SECONDS
            if now >= self.told + GOES_ON_SECONDS:
                write_frame({"goes_on": now - self.job.started})
                self.told = now

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

    def sample(self, now):
        """Add up what all processes of the job use now; setrlimit only sees them one by one."""
        tick = os.sysconf("SC_CLK_TCK")
        cpu, processes, runs = self.cpu_seconds, [], False
        for pid in self.processes():
            fields = stat_fields(pid)
            if fields:
                processes.append(Process(pid, fields))
                cpu += sum(map(int, fields[11:15])) / tick
                runs = runs or wants_a_cpu(pid, fields)
        self.used_seconds = max(self.used_seconds, self.charged(cpu))
        if not runs:
            self.asleep_seconds += min(now - self.sampled, WITNESSED_SECONDS)
        self.sampled = now
        memory = self.meter.measure(processes)
        self.peak_bytes = max(self.peak_bytes, memory + self.settings.rss_bytes)
        if memory > self.job.memory_bytes:
            self.reason = self.reason or "memory"
        elif self.used_seconds > self.job.cpu_seconds:
            self.reason = self.reason or "cpu"
        if self.settings.owns_processes and files_in(self.settings.writable) > MOST_FILES:
            self.reason = self.reason or "output"

    def charged(self, seen):
        """CPU seconds of the job, of whose processes `seen` are known; the rest may be hidden."""
        counted = self.settings.cpu.since_begin() - self.job.spent
        return counted if counted > seen + HIDDEN_SHARE * seen + HIDDEN_SECONDS else seen

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
                send_signal(signal.SIGKILL, self.processes())
            try:
                self.account(*os.wait4(-1, 0))
            except ChildProcessError:
                return

    def result(self):
        assert self.status is not None
        code = os.waitstatus_to_exitcode(self.status)
        reason = self.reason
        if reason is None:
            if self.peak_bytes - self.settings.rss_bytes > self.job.memory_bytes:
                reason = "memory"
            elif self.cpu_seconds > self.job.cpu_seconds or code == -signal.SIGXCPU:
                reason = "cpu"
            elif max(self.out.total, self.err.total, self.value.total) > self.job.output_bytes:
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


def send_signal(number, pids):
    """To those that are still there."""
    for pid in pids:
        try:
            os.kill(pid, number)
        except ProcessLookupError:
            pass


def kill_children():
    """Kill all processes below us, whatever they fork meanwhile: it comes to us in the end."""
    while True:
        send_signal(signal.SIGKILL, descendants(os.getpid()))
        try:
            while os.waitpid(-1, os.WNOHANG)[0] != 0:
                pass
        except ChildProcessError:
            return
        time.sleep(0.001)


def drain(capture):
    """Read the rest of a pipe: nobody is left to write, so it ends."""
    try:
        while capture.read():
            pass
    except BlockingIOError:
        pass


def stat_fields(pid):
    """/proc/PID/stat from the third field on (state, ppid, ...), or [] if it is gone."""
    return read_file(f"/proc/{pid}/stat").rpartition(b")")[2].split()


def wants_a_cpu(pid, fields):
    """Whether a thread of this process runs, or would if there were a CPU for it."""
    if fields[0] == b"R" or fields[17] == b"1":
        return fields[0] == b"R"
    threads = names_in(f"/proc/{pid}/task")
    return any(stat_fields(f"{pid}/task/{thread}")[:1] == [b"R"] for thread in threads)


def is_alive_without_main_thread(fields):
    """/proc shows such a process as a zombie without memory, but its other threads go on."""
    return fields[0] in (b"Z", b"X") and int(fields[17]) > 1


def files_in(place):
    """How many files and directories there are on the file system that `place` is."""
    status = os.statvfs(place)
    return status.f_files - status.f_ffree


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
    lists = (f"/proc/{pid}/task/{thread}/children" for thread in names_in(f"/proc/{pid}/task"))
    return [int(child) for path in lists for child in read_file(path).split()]


# Memory ------------------------------------------------------------------------------------------

PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")
PAGES_OF_A_TABLE = 512  # that one page of page tables maps
PIPE_BYTES = 16 * PAGE_BYTES  # the filter lets nobody enlarge it
MESSAGES = 12  # in a datagram socket, each of another sender, which may be gone by now
DATAGRAM = b"0002"  # in /proc/net/unix
SHARED_MAPPING = re.compile(rb"^\S+ ..[x-]s .* /dev/zero \(deleted\)$", re.MULTILINE)
PROPORTIONAL = re.compile(rb"^(Pss|Pss_Shmem): +(\d+) kB$", re.MULTILINE)


class Process:
    """What a process has mapped, and what of it is in memory, in bytes."""

    def __init__(self, pid, fields):
        self.pid, self.places = pid, [f"/proc/{pid}"]  # that tell of it
        self.mapped, self.resident = int(fields[20]), int(fields[21]) * PAGE_BYTES
        if is_alive_without_main_thread(fields):
            self.ask_threads()

    def ask_threads(self):
        tasks = f"/proc/{self.pid}/task"
        self.places = [f"{tasks}/{thread}" for thread in names_in(tasks)] or self.places
        for place in self.places:
            mapped, resident = memory_of(place)
            self.mapped = max(self.mapped, mapped)
            self.resident = max(self.resident, resident)

    def read(self, name):
        """b"" of one that ended meanwhile, or hides from its own user."""
        return next(filter(None, (read_file(f"{place}/{name}") for place in self.places)), b"")

    def proportional(self):
        """What is in memory, where a page that N share is an Nth each; and of that what is shared
        memory. Of a process that hides: all that it has, none of it shared."""
        found = dict(PROPORTIONAL.findall(self.read("smaps_rollup")))
        if found:
            return int(found[b"Pss"]) << 10, int(found.get(b"Pss_Shmem", 0)) << 10
        fields = stat_fields(self.pid)
        return Process(self.pid, fields).resident if fields else 0, 0

    def descriptors(self):
        """How many; 0 where the kernel does not tell."""
        try:
            return os.stat(f"{self.places[0]}/fd").st_size
        except OSError:
            return 0

    def descriptor_names(self):
        for place in self.places:
            try:
                for fd in os.listdir(f"{place}/fd"):
                    yield os.readlink(f"{place}/fd/{fd}")
            except OSError:
                pass


class MemoryMeter:
    """Adds up what a job holds: in its processes, and for them in the kernel.

    One look at each process and two at the machine give a sum that is never too low: it counts
    shared pages once per process, and the kernel's buffers as if they were full. Only if that is
    over the limit, we look closely.
    """

    def __init__(self, settings, job):
        self.settings, self.limit, self.open_files = settings, job.memory_bytes, job.open_files
        self.shared_before = None  # shared memory of the machine at our first look, in bytes
        self.sockets_before = 0  # and its sockets, where they are not all the job's

    def measure(self, processes):
        settings = self.settings
        mapped = sum(max(0, one.mapped - settings.address_bytes) for one in processes)
        tables = mapped // PAGES_OF_A_TABLE
        resident = sum(max(0, one.resident - settings.rss_bytes) for one in processes)
        shared, sockets = shared_memory(), unix_sockets()
        if self.shared_before is None:
            self.shared_before = shared
            self.sockets_before = 0 if settings.owns_network else len(sockets)
        shared = max(0, shared - self.shared_before)
        buffers = self.socket_bytes(sockets[self.sockets_before :])
        files = sum(one.descriptors() or self.open_files for one in processes)
        if resident + tables + buffers + shared + files * PIPE_BYTES <= self.limit:
            return resident + tables + (buffers if settings.owns_network else 0)
        # Nothing grows meanwhile, and we need not wait for a CPU.
        self.signal(signal.SIGSTOP, processes)
        try:
            with as_job_user(settings, to_look=True):
                return tables + self.exactly(processes, resident, shared, sockets)
        finally:
            self.signal(signal.SIGCONT, processes)

    def exactly(self, processes, resident, shared, sockets):
        names = {name for one in processes for name in one.descriptor_names()}
        if not self.settings.owns_network:
            sockets = sockets_of({name[8:-1].encode() for name in names if name[:8] == "socket:["})
        kernel = self.socket_bytes(sockets)
        kernel += PIPE_BYTES * sum(name.startswith("pipe:") for name in names)
        if shared and not any(SHARED_MAPPING.search(one.read("maps")) for one in processes):
            shared = 0
        if resident + shared + kernel <= self.limit:
            return resident + kernel
        owned = -self.settings.rss_bytes
        for one in sorted(processes, key=lambda one: -one.resident):
            proportional, in_sight = one.proportional()
            owned += proportional
            shared -= in_sight
            if owned + kernel > self.limit:  # no need to know by how much
                break
        return min(resident, max(0, owned)) + max(0, shared) + kernel

    def signal(self, number, processes):
        if not self.settings.owns_processes:
            send_signal(number, [one.pid for one in processes])
        elif processes:
            send_signal(number, [-1])  # all but us, in one step

    def socket_bytes(self, sockets):
        return sum(
            self.settings.socket_bytes * (MESSAGES if kind == DATAGRAM else 1)
            for kind, _, _ in sockets
        )


def shared_memory():
    """Of the whole machine, in bytes, with the pages that a mapping keeps and no process shows."""
    found = re.search(rb"^Shmem: +(\d+) kB", read_file("/proc/meminfo"), re.MULTILINE)
    return int(found[1]) << 10 if found else 0


def unix_sockets():
    """Type, inode and name of all in our network namespace, those too that wait to be accepted."""
    lines = [line.split(None, 7) for line in read_file("/proc/net/unix").split(b"\n")[1:-1]]
    return [(line[4], line[6], line[7] if len(line) > 7 else b"") for line in lines]


def sockets_of(inodes):
    """Those with these inodes, and those that wait to be accepted there."""
    found = unix_sockets()
    names = {name for _, inode, name in found if inode in inodes and name}
    return [one for one in found if one[1] in inodes or (one[1] == b"0" and one[2] in names)]


def bytes_of_a_socket():
    """The most that one can have sent without anybody receiving it: its buffer and one message."""
    fd = libc.socket(1, 1, 0)  # AF_UNIX, SOCK_STREAM
    size, length = ctypes.c_int(0), ctypes.c_uint32(4)
    libc.getsockopt(fd, 1, 7, ctypes.byref(size), ctypes.byref(length))  # SOL_SOCKET, SO_SNDBUF
    os.close(fd)
    return size.value * 3 // 2


def clean(settings):
    """Remove what the job left. If something stays, we go, too: the host takes a new cage."""
    with as_job_user(settings):
        try:  # all there is, as a rule
            os.unlink(os.path.join(settings.writable, "job/solution.py"))
            os.rmdir(os.path.join(settings.writable, "job"))
        except OSError:
            pass
        for place in filter(None, (settings.writable, settings.shared_memory)):
            empty(place, time.monotonic() + CLEAN_SECONDS)
        if settings.job_uid is not None and not settings.owns_processes:
            remove_shared_memory_of(settings.job_uid)
    if settings.owns_processes and system_v_objects():
        raise RuntimeError("a job left shared memory, semaphores or message queues")


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


def remove_shared_memory_of(uid):
    """Shared memory with a name outlives its processes, and here the directory is everybody's."""
    if not os.path.isdir(SHARED_MEMORY):
        return
    with os.scandir(SHARED_MEMORY) as entries:
        left = [one for one in entries if one.stat(follow_symlinks=False).st_uid == uid]
    for entry in left:
        if entry.is_dir(follow_symlinks=False):
            empty(entry.path, time.monotonic() + CLEAN_SECONDS)
            os.rmdir(entry.path)
        else:
            os.unlink(entry.path)


def system_v_objects():
    """Shared memory, semaphores and queues outlive their processes."""
    lists = (read_file(f"/proc/sysvipc/{kind}") for kind in ("shm", "sem", "msg"))
    return any(text.count(b"\n") > 1 for text in lists)


# Privileges --------------------------------------------------------------------------------------

PR_SET_PDEATHSIG, PR_SET_DUMPABLE, PR_SET_KEEPCAPS = 1, 4, 8
PR_SET_CHILD_SUBREAPER, PR_SET_NO_NEW_PRIVS = 36, 38
PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE = 47, 2
PR_SET_SECCOMP, SECCOMP_MODE_FILTER = 22, 2
CAP_DAC_READ_SEARCH = 2
CLONE_NEWNET = 0x40000000
RT_SIGACTION = {"x86_64": 13, "aarch64": 134}


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
        settings.owns_network = libc.unshare(CLONE_NEWNET) == 0  # as root
    if settings.filter:
        add_filter(settings.filter)
        if not settings.cpu.works:
            add_filter(filter_against_hidden_children())


def add_filter(program):
    """Of system calls: classic BPF. All filters that a process has must allow a call."""
    kept = ctypes.create_string_buffer(program, len(program))
    pointed = SockFprog(len(program) // 8, ctypes.addressof(kept))
    prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, ctypes.addressof(pointed))


def filter_against_hidden_children():
    """Refuses every change of what SIGCHLD does: an action that ignores it cannot be told apart.

    Only for cages without a clock (see CpuClock), which would not notice what is hidden.
    """
    load, jump_if_equal, give_back, allow, refuse = 0x20, 0x15, 0x06, 0x7FFF0000, 0x00050001
    number, signal_number, action, action_high = 0, 16, 24, 28  # offsets in struct seccomp_data
    steps = (
        (load, 0, 0, number),
        (jump_if_equal, 0, 6, RT_SIGACTION[os.uname().machine]),
        (load, 0, 0, signal_number),
        (jump_if_equal, 0, 4, signal.SIGCHLD),
        (load, 0, 0, action),
        (jump_if_equal, 0, 3, 0),
        (load, 0, 0, action_high),
        (jump_if_equal, 0, 1, 0),  # no action: it only asks
        (give_back, 0, 0, allow),
        (give_back, 0, 0, refuse),
    )
    return b"".join(
        code.to_bytes(2, sys.byteorder) + bytes((true, false)) + k.to_bytes(4, sys.byteorder)
        for code, true, false, k in steps
    )


def keep_capabilities(bits):
    header = (ctypes.c_uint32 * 2)(0x20080522, 0)  # the version of the structure, this process
    data = (ctypes.c_uint32 * 6)(bits, bits, bits, 0, 0, 0)  # effective, permitted, inheritable
    if libc.capset(header, data) != 0:
        raise OSError(ctypes.get_errno(), "capset")


class as_job_user:
    """Make and remove files as the user of the jobs, since nothing else may touch theirs.

    And look into their processes. With keep_reading we are root, who may, and their user may not.
    """

    def __init__(self, settings, to_look=False):
        self.uid = None if to_look and settings.keep_reading else settings.job_uid
        self.die_with_parent = settings.die_with_parent

    def __enter__(self):
        if self.uid is not None:
            os.setegid(self.uid)
            os.seteuid(self.uid)

    def __exit__(self, *_):
        if self.uid is not None:
            os.seteuid(0)
            os.setegid(0)
            if self.die_with_parent:  # the kernel forgets this when the user changes
                prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


# Small things ------------------------------------------------------------------------------------


def read_header(fd=CONTROL_IN):
    return json.loads(read_exactly(fd, int.from_bytes(read_exactly(fd, 4), "big")))


def read_exactly(fd, size):
    data = b""
    while len(data) < size:
        part = os.read(fd, size - len(data))
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


def read_file(path):
    """b"" if it is not there, or no longer, as with those of a process."""
    try:
        with open(path, "rb") as file:
            return file.read()
    except OSError:
        return b""


def names_in(directory):
    """Empty if it is not there."""
    try:
        return os.listdir(directory)
    except OSError:
        return []


def memory_of(process):
    """Virtual and resident bytes of one, by its directory in /proc; 0 if it has ended."""
    pages = read_file(f"{process}/statm").split() or (0, 0)
    return int(pages[0]) * PAGE_BYTES, int(pages[1]) * PAGE_BYTES


class CpuClock:
    """The CPU time of all processes below us, also of those that nobody waited for.

    The kernel reaps the children of a program that ignores SIGCHLD by itself, and charges nobody.
    What counts them nevertheless is the control group of a container, or a counter of the perf
    subsystem that all our children inherit. Where neither can be had it stands still, the processes
    of a job are only added up one by one, and SIGCHLD may not be ignored.
    """

    GROUP = "/sys/fs/cgroup"
    MICROSECONDS, NANOSECONDS = rb"^usage_usec (\d+)", rb"^(\d+)"

    def __init__(self, own_group):
        self.file = None
        sources = [
            (f"{self.GROUP}/cpu.stat", self.MICROSECONDS, 1e-6),
            (f"{self.GROUP}/cpuacct/cpuacct.usage", self.NANOSECONDS, 1e-9),
        ]
        for path, self.pattern, self.unit in sources if own_group else ():
            try:
                self.file = os.open(path, os.O_RDONLY)
                break
            except OSError:
                pass
        if self.file is None:
            self.file, self.pattern, self.unit = inherited_task_clock(), None, 1e-9
        self.begin()

    @property
    def works(self):
        return self.file is not None

    def begin(self):
        """The process of the next job is about to be forked: what was before is not its."""
        self.begun = self.seconds()

    def since_begin(self):
        return self.seconds() - self.begun

    def seconds(self):
        if self.file is None:
            return 0.0
        if self.pattern is None:
            count = int.from_bytes(os.read(self.file, 8), sys.byteorder)
        else:
            text = os.pread(self.file, CHUNK_BYTES, 0)
            count = int(re.search(self.pattern, text, re.MULTILINE)[1])  # type: ignore
        return count * self.unit - time.process_time()  # without us


PERF_EVENT_OPEN = {"x86_64": 298, "aarch64": 241}
PERF_TYPE_SOFTWARE, PERF_COUNT_SW_TASK_CLOCK, PERF_FLAG_FD_CLOEXEC = 1, 1, 8
PERF_INHERIT, PERF_EXCLUDE_KERNEL, PERF_EXCLUDE_HV = 1 << 1, 1 << 5, 1 << 6
PERF_ATTR_BYTES = 64  # the first version of the structure, which every kernel knows


def inherited_task_clock():
    """A descriptor to read the nanoseconds of CPU from that we and all below us used; or None.

    The time counts kernel mode, too. We must say that it need not: others may not be observed in it
    by ordinary users.
    """
    number = PERF_EVENT_OPEN.get(os.uname().machine)
    if number is None:
        return None
    attributes = (ctypes.c_uint64 * (PERF_ATTR_BYTES // 8))()
    words = (ctypes.c_uint32 * 2).from_buffer(attributes)
    words[:] = PERF_TYPE_SOFTWARE, PERF_ATTR_BYTES
    attributes[1] = PERF_COUNT_SW_TASK_CLOCK
    attributes[5] = PERF_INHERIT | PERF_EXCLUDE_KERNEL | PERF_EXCLUDE_HV
    fd = libc.syscall(number, attributes, 0, -1, -1, PERF_FLAG_FD_CLOEXEC)
    return fd if fd >= 0 else None


class OomKills:
    """Tells whether a job was killed because its cage has no more memory to give.

    A cage with a control group of its own asks that. In version 2 it tells how often its limit was
    reached, too: a kill without that comes of a want of memory on the machine. Version 1 does not
    tell, and a kill is taken for the job's. Other cages can only ask for kills on the machine, of
    whatever process.
    """

    GROUP, MACHINE = "/sys/fs/cgroup", "/proc/vmstat"
    KILLS = rb"^oom_kill (\d+)"

    def __init__(self, own_group):
        self.file = None
        sources = [
            (f"{self.GROUP}/memory.events", rb"^oom (\d+)"),
            (f"{self.GROUP}/memory/memory.oom_control", self.KILLS),
            (self.MACHINE, None),
        ]
        for path, self.reached in sources if own_group else sources[-1:]:
            try:
                self.file = os.open(path, os.O_RDONLY)
                break
            except OSError:
                pass
        self.begin()

    def begin(self):
        """A job begins: what was before is not its."""
        self.kills, self.limits = self.counts()

    def happened(self):
        """Raises where the machine had none: nothing is known about the program, the cage fails."""
        kills, limits = self.counts()
        if kills == self.kills:
            return False
        if limits == self.limits:
            raise RuntimeError("a job was killed while the machine was out of memory")
        return True

    def counts(self):
        """Of kills, and of how often the limit was reached, as far as the file tells."""
        text = b"" if self.file is None else os.pread(self.file, CHUNK_BYTES, 0)
        patterns = (self.KILLS, self.reached)
        found = (pattern and re.search(pattern, text, re.MULTILINE) for pattern in patterns)
        return [int(match[1]) if match else 0 for match in found]


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
    try:
        main()
    except BaseException:  # `site` would go on after an Exception, and run a program as it is
        traceback.print_exc()
        os._exit(1)
    # Only a child gets here. `site` takes this for "there is no sitecustomize" and forgets us.
    raise ImportError(name="sitecustomize")
