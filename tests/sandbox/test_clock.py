"""Time: what a job used is counted however it hides it, and what the machine took is not its."""

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from dataclasses import replace
from itertools import repeat

import pytest

import sandbox.cage
import sandbox.pool
from sandbox import Cancelled, Execution, ExecutionStatus, Job, Limits, SandboxError, cancelled_by
from sandbox.cage import RUNNER_SOURCE, _frame
from sandbox.judge import StdinTest, judge, judge_many
from sandbox.pool import RESTS_SECONDS, Pool

PRINT_42 = Job("print(42)")
SLEEPER = Job("import time\ntime.sleep(600)", limits=Limits(wall_seconds=300))


def burn(seconds):
    return (
        f"import time\nt = time.process_time()\nwhile time.process_time() - t < {seconds}: pass\n"
    )


# What limits mean ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "wall_seconds", "cpu_seconds"),
    [
        ({}, 10, 10),
        ({"wall_seconds": 2}, 2, 2),
        ({"cpu_seconds": 2}, 6, 2),
        ({"cpu_seconds": 2, "wall_seconds": 3}, 3, 2),
    ],
)
def test_one_of_the_two_time_limits_gives_the_other(given, wall_seconds, cpu_seconds):
    limits = Limits(**given)
    assert (limits.wall_seconds, limits.cpu_seconds) == (wall_seconds, cpu_seconds)


# CPU time that is hidden --------------------------------------------------------------------------

CHILDREN = """
import os, signal, time
def burn(seconds):
    t = time.process_time()
    while time.process_time() - t < seconds: pass
def children():
    end = time.monotonic() + 20
    while time.monotonic() < end:
        r, w = os.pipe()
        pid = os.fork()
        if pid == 0:
            burn(0.012)
            os._exit(0)
        os.close(w)
        os.read(r, 1)
        os.close(r)
        after(pid)
def after(pid): pass
"""
NO_ZOMBIES = """
import ctypes
class Action(ctypes.Structure):
    _fields_ = [("handler", ctypes.c_void_p), ("mask", ctypes.c_ulong * 16),
                ("flags", ctypes.c_int), ("restorer", ctypes.c_void_p)]
assert ctypes.CDLL(None).sigaction(17, ctypes.byref(Action(None, (0,) * 16, 2)), None) == 0
children()
"""
HIDDEN = {
    "waits": "def after(pid): os.waitpid(pid, 0)\nchildren()",
    "ignores_the_end_of_children": "signal.signal(signal.SIGCHLD, signal.SIG_IGN)\nchildren()",
    "wants_no_zombies": NO_ZOMBIES,
    "grandchildren": "signal.signal(signal.SIGCHLD, signal.SIG_IGN)\n"
    "if os.fork() == 0:\n    if os.fork() == 0: children()\n    os._exit(0)\ntime.sleep(20)",
    "sessions": "signal.signal(signal.SIGCHLD, signal.SIG_IGN)\nfor _ in range(6):\n"
    "    if os.fork() == 0:\n        os.setsid()\n        children()\n        os._exit(0)\n"
    "time.sleep(20)",
    "thread_without_main_thread": "import ctypes, threading\n"
    "threading.Thread(target=burn, args=(20,)).start()\nctypes.CDLL(None).pthread_exit(None)",
}


@pytest.mark.parametrize("how", HIDDEN)
def test_cpu_time_cannot_be_hidden_from_its_limit(box, how):
    got = box.run(Job(CHILDREN + HIDDEN[how], limits=Limits(cpu_seconds=0.4, wall_seconds=60)))
    assert got.status is ExecutionStatus.TIMEOUT, got
    assert 0.4 <= got.cpu_seconds < 1.2
    assert box.run(PRINT_42).stdout == "42\n"


def test_hidden_cpu_time_of_one_job_is_not_charged_to_the_next(fresh_box):
    limits = Limits(cpu_seconds=0.4, wall_seconds=60)
    fresh_box.run(Job(CHILDREN + HIDDEN["ignores_the_end_of_children"], limits=limits))
    got = fresh_box.run(Job(burn(0.1), limits=limits))
    assert got.status is ExecutionStatus.OK
    assert 0.1 <= got.cpu_seconds < 0.3


@pytest.fixture
def box_without_clock(monkeypatch, backend, make_box):
    """As where neither a control group nor a counter of the kernel tells."""
    source = RUNNER_SOURCE.replace(b"self.file = os.open(path", b"raise OSError(path")
    assert source != RUNNER_SOURCE
    source = source.replace(b'PERF_EVENT_OPEN = {"x86_64"', b'PERF_EVENT_OPEN = {"none"')
    monkeypatch.setattr(sandbox.cage, "RUNNER_SOURCE", source)
    with make_box(backend, cages=1) as box:
        yield box


@pytest.mark.parametrize("how", HIDDEN)
def test_cpu_time_cannot_be_hidden_where_only_processes_can_be_asked(box_without_clock, how):
    """Those programs that would hide it end with an error: SIGCHLD stays as it is."""
    limits = Limits(cpu_seconds=0.4, wall_seconds=60)
    got = box_without_clock.run(Job(CHILDREN + HIDDEN[how], limits=limits))
    expected = (
        ExecutionStatus.TIMEOUT
        if how in ("waits", "thread_without_main_thread")
        else ExecutionStatus.ERROR
    )
    assert got.status is expected, got
    assert got.cpu_seconds < 1.2


# Load ---------------------------------------------------------------------------------------------

LOAD = """
import os, sys, time
processes = int(sys.argv[1])
end = time.monotonic() + 600  # if nobody ends them
for _ in range(processes):
    if os.fork() == 0:
        os.setsid()  # each with a share of its own
        while time.monotonic() < end: pass
        os._exit(0)
print("ready", flush=True)
for _ in range(processes): os.wait()
"""


@contextlib.contextmanager
def on_one_cpu():
    """This thread and all processes that it starts meanwhile."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(before)})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


@contextlib.contextmanager
def load(processes):
    """So many that compute for as long as this lasts. A cage starts before it, or takes long to."""
    command = [sys.executable, "-c", LOAD, str(processes)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, start_new_session=True) as busy:
        try:
            assert busy.stdout.readline() == b"ready\n"
            yield
        finally:
            children = sandbox.runner.descendants(busy.pid)
            sandbox.runner.send_signal(signal.SIGKILL, children)


@pytest.fixture(params=["local", pytest.param("bubblewrap", marks=pytest.mark.bubblewrap)])
def loaded_box(request, make_box):
    """A cage on one CPU with much else. Containers are not started by us, so not there either."""
    with on_one_cpu(), make_box(request.param, cages=1) as box, load(processes=4):
        yield box


@pytest.mark.slow
def test_load_is_no_time_limit(loaded_box):
    limits = Limits(wall_seconds=1)
    got = loaded_box.run(Job(burn(0.7) + "print('right')", limits=limits))
    assert (got.status, got.stdout) == (ExecutionStatus.OK, "right\n"), got
    assert got.seconds > limits.wall_seconds  # else there was no load


@pytest.mark.slow
@pytest.mark.parametrize(
    "code",
    [
        "import time\ntime.sleep(600)",
        "import time\nwhile True: time.sleep(0.01)",
        "import threading\nlock = threading.Lock()\nlock.acquire()\nlock.acquire()",
        "import os\nos.read(os.pipe()[0], 1)",
    ],
    ids=["sleeps", "sleeps_again_and_again", "deadlock", "waits_for_input"],
)
def test_a_program_that_waits_is_late_under_load_too(loaded_box, code):
    got = loaded_box.run(Job(code, limits=Limits(wall_seconds=0.5)))
    assert got.status is ExecutionStatus.TIMEOUT, got
    assert got.cpu_seconds < 0.5


@pytest.mark.docker
def test_a_paused_container_is_no_time_limit(make_box):
    with make_box("docker", cages=1) as box:
        (cage,) = box._live
        api, container = cage.link._api, cage.link.container
        begun, results = cage.jobs, []
        job = Job(burn(0.4) + "print('right')", limits=Limits(wall_seconds=0.6))
        thread = threading.Thread(target=lambda: results.append(box.run(job)))
        thread.start()
        while cage.jobs == begun:
            time.sleep(0.001)
        api.pause(container)
        time.sleep(1.5)
        api.unpause(container)
        thread.join()
    assert (results[0].status, results[0].stdout) == (ExecutionStatus.OK, "right\n")


# Beside others it gets next to nothing, whether the kernel shares by process or by session.
HUMBLE = """
import os
os.nice(19)
if os.path.exists("/proc/self/autogroup"):
    open("/proc/self/autogroup", "w").write("19")
while True: pass
"""


@pytest.mark.slow
def test_a_job_that_got_no_cpu_is_repeated_and_then_said_to_have_starved(
    make_box, monkeypatch, caplog
):
    monkeypatch.setattr(sandbox.pool, "RESTS_SECONDS", (0.1, 0.1))
    with on_one_cpu(), make_box("local", cages=1) as box, load(processes=2):
        got = box.run(Job(HUMBLE, limits=Limits(wall_seconds=0.2)))
    # Not the cage's count of jobs: a cage that is kept waiting too long is replaced.
    repeated = [record for record in caplog.records if "A job starved" in record.message]
    assert len(repeated) == 2, got
    assert got.status is ExecutionStatus.STARVED, got
    assert got.starved
    with pytest.raises(SandboxError, match="overloaded"):
        got.check_not_starved()


# A starved job ------------------------------------------------------------------------------------

DONE = Execution(ExecutionStatus.OK, "", "", 0, seconds=0, cpu_seconds=0, memory_bytes=0)
STARVED = replace(DONE, status=ExecutionStatus.STARVED, exit_code=None, signal=9)


class Cages:
    """Cages that run no programs. The job "hungry" starves so many times."""

    name = "cages"

    def __init__(self, starves):
        self.starves, self.jobs, self.python_version = starves, 0, ""
        self.lock, self.running = threading.Lock(), []
        self.beside_hungry = []  # what ran beside it, each time

    def start(self):
        return self

    def run(self, job, cancelled=None):
        with self.lock:
            self.running.append(job.code)
        time.sleep(0.05)
        with self.lock:
            if job.code == "hungry":
                self.beside_hungry.append([code for code in self.running if code != "hungry"])
            self.running.remove(job.code)
            if job.code == "hungry" and self.starves > 0:
                self.starves -= 1
                return STARVED
            return DONE

    def kill(self):
        pass


def test_a_starved_job_is_repeated_alone(monkeypatch):
    monkeypatch.setattr(sandbox.pool, "RESTS_SECONDS", (0.05, 0.05))
    cages = Cages(starves=1)
    with Pool(cages, 4) as pool:
        over = threading.Event()

        def others():
            while not over.is_set():
                pool.run(Job("other"))

        threads = [threading.Thread(target=others) for _ in range(3)]
        for thread in threads:
            thread.start()
        assert pool.run(Job("hungry")) == DONE
        over.set()
        for thread in threads:
            thread.join()
    first, second = cages.beside_hungry
    assert first
    assert not second


@pytest.mark.parametrize("starves", [1, 2, 3])
def test_a_starved_job_is_repeated_so_often_and_not_more(starves, monkeypatch):
    monkeypatch.setattr(sandbox.pool, "RESTS_SECONDS", (0.0,) * len(RESTS_SECONDS))
    cages = Cages(starves)
    with Pool(cages, 2) as pool:
        assert pool.run(Job("hungry")).starved is (starves > len(RESTS_SECONDS))
    assert len(cages.beside_hungry) == 1 + min(starves, len(RESTS_SECONDS))


class Starving:
    """A sandbox on a machine that has no time for some programs."""

    name, cages = "starving", 2

    def run(self, job):
        return STARVED if job.stdin == "hungry" else DONE

    def close(self):
        pass


def test_a_starved_program_is_not_judged():
    tests = [StdinTest("", ""), StdinTest("hungry", "")]
    with pytest.raises(SandboxError, match="overloaded"):
        judge(Starving(), "code", tests)
    first, second = judge_many(Starving(), [("code", tests[:1]), ("code", tests)])
    assert first.passed
    assert "overloaded" in str(second.failure)


# Jobs that are no longer wanted -------------------------------------------------------------------


def test_a_job_whose_caller_gave_up_is_stopped_and_its_cage_goes_on(fresh_box):
    (cage,) = fresh_box._live
    before = cage.jobs

    async def give_up():
        task = asyncio.create_task(fresh_box.run_async(SLEEPER))
        while cage.jobs == before:
            await asyncio.sleep(0.01)
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(task, 0.1)
        return await fresh_box.run_async(PRINT_42)

    got = asyncio.run(asyncio.wait_for(give_up(), 60))
    assert got.stdout == "42\n"
    assert fresh_box._live == {cage}
    assert cage.jobs - before == 2


def test_cancelled_tasks_stop_what_runs_and_never_begin_what_waits(fresh_box):
    (cage,) = fresh_box._live
    before = cage.jobs

    async def change_mind():
        tasks = [asyncio.create_task(fresh_box.run_async(SLEEPER)) for _ in range(5)]
        while cage.jobs == before:
            await asyncio.sleep(0.01)
        for task in tasks:
            task.cancel()
        return await asyncio.gather(*tasks, return_exceptions=True)

    ends = asyncio.run(change_mind())
    assert all(isinstance(end, asyncio.CancelledError) for end in ends)
    assert fresh_box.run(PRINT_42).stdout == "42\n"
    assert cage.jobs - before == 2


def test_a_thread_can_cancel_what_another_runs(box):
    stop = threading.Event()
    threading.Timer(0.3, stop.set).start()
    with cancelled_by(stop), pytest.raises(Cancelled):
        box.run(SLEEPER)
    with cancelled_by(stop), pytest.raises(Cancelled):
        box.run(PRINT_42)
    assert box.run(PRINT_42).stdout == "42\n"


def test_processes_of_a_cancelled_job_are_gone(fresh_box):
    code = (
        "import os, time\nfor _ in range(3):\n    if os.fork() == 0: os.setsid()\ntime.sleep(600)"
    )
    stop = threading.Event()
    threading.Timer(0.5, stop.set).start()
    with cancelled_by(stop), pytest.raises(Cancelled):
        fresh_box.run(replace(SLEEPER, code=code))
    count = (
        "import os\nmine = lambda pid: os.stat('/proc/' + pid).st_uid == os.getuid()\n"
        "print(sum(mine(pid) for pid in os.listdir('/proc') if pid.isdigit() and pid != '1'))"
    )
    if fresh_box.name != "local" or os.geteuid() == 0:  # else they cannot be told apart
        assert fresh_box.run(Job(count)).stdout == "1\n"


def test_a_cancellation_that_comes_too_late_is_passed_over(fresh_box):
    (cage,) = fresh_box._live
    for _ in range(2):
        cage._send(_frame({"cancel": True}), time.monotonic() + 10)
    assert fresh_box.run(PRINT_42).stdout == "42\n"
    assert fresh_box._live == {cage}


def test_leaving_judge_many_stops_the_programs_that_run(box):
    tests = [StdinTest("", "")]
    quick, slow = ("pass", tests), (SLEEPER.code, tests)
    judgments = judge_many(box, [quick, *repeat(slow, 5)], limits=SLEEPER.limits)
    start = time.monotonic()
    assert next(judgments).passed
    judgments.close()
    assert time.monotonic() - start < SLEEPER.limits.wall_seconds / 2
    assert box.run(PRINT_42).stdout == "42\n"
