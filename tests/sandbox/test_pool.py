"""Failures of cages are retried, told apart from failures of programs, and leave nothing behind."""

import asyncio
import contextlib
import copy
import gc
import os
import pickle
import signal
import subprocess
import sys
import tempfile
import textwrap
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

import sandbox
from sandbox import Job, Limits, SandboxError
from sandbox.local import Local
from sandbox.pool import Pool
from sandbox.runner import descendants, empty

PRINT_42 = Job("print(42)")


def kill_cage(box):
    """As the kernel would do when memory runs out: from outside, at once."""
    for cage in list(box._live):
        if box.name == "docker":
            cage.link._api.kill(cage.link.container)
        else:
            os.kill(cage.link.process.pid, signal.SIGKILL)


def wait_until(condition, seconds=20):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.01)


def test_a_cage_killed_during_a_job_is_replaced_and_the_job_repeated(fresh_box):
    job = Job("import time\ntime.sleep(0.7)\nprint(input())", "once")
    with ThreadPoolExecutor(1) as executor:
        result = executor.submit(fresh_box.run, job)
        time.sleep(0.3)
        kill_cage(fresh_box)
        assert result.result(timeout=60).stdout == "once\n"


def test_a_cage_killed_between_jobs_is_replaced(fresh_box):
    kill_cage(fresh_box)
    assert fresh_box.run(PRINT_42).stdout == "42\n"


def test_a_hung_runner_is_noticed(fresh_box):
    if fresh_box.name == "docker":
        pytest.skip("the same code; pausing a container takes long")
    (cage,) = fresh_box._live
    cage._grace_seconds = 0.5
    os.kill(descendant_or_self(cage.link.process.pid), signal.SIGSTOP)
    got = fresh_box.run(Job("print(42)", limits=Limits(wall_seconds=0.5)))
    assert got.stdout == "42\n"


def descendant_or_self(pid):
    """bwrap's child, or the runner itself."""
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return int(children[0]) if children else pid


def test_after_all_retries_the_error_says_what_happened(fresh_box):
    stop = threading.Event()

    def keep_killing():
        while not stop.is_set():
            kill_cage_quietly()
            time.sleep(0.05)

    def kill_cage_quietly():
        with contextlib.suppress(Exception):  # it has gone already, or is not there yet
            kill_cage(fresh_box)

    killer = threading.Thread(target=keep_killing)
    killer.start()
    try:
        with pytest.raises(SandboxError, match="3 of them failed on this job"):
            fresh_box.run(Job("import time\ntime.sleep(30)", limits=Limits(wall_seconds=60)))
    finally:
        stop.set()
        killer.join()
    assert fresh_box.run(PRINT_42).stdout == "42\n"


def test_a_cage_is_replaced_after_its_jobs(fresh_box):
    fresh_box._jobs_per_cage = 3
    (first,) = fresh_box._live
    assert [fresh_box.run(PRINT_42).stdout for _ in range(5)] == ["42\n"] * 5
    assert first not in fresh_box._live


def test_the_number_of_attempts_can_be_chosen(make_box, backend):
    with make_box(backend, cages=1, attempts=1) as box, ThreadPoolExecutor(1) as executor:
        result = executor.submit(box.run, Job("import time\ntime.sleep(5)"))
        time.sleep(0.5)
        kill_cage(box)
        with pytest.raises(SandboxError, match="1 of them failed on this job"):
            result.result(timeout=60)


def test_what_cannot_be_removed_costs_the_cage_and_no_job():
    with sandbox.make("local", cages=1, attempts=1) as box:
        (first,) = box._live
        if first_job_uid(box) == os.getuid():
            pytest.skip("needs jobs that are another user than we")
        path = box.run(Job("import os\nprint(os.getcwd())")).stdout.strip()
        # Ours, so the user of the jobs cannot remove it.
        (Path(path).parent / "ours").mkdir()
        (Path(path).parent / "ours" / "file").touch()
        assert box.run(PRINT_42).stdout == "42\n"  # after which cleaning fails
        assert box.run(Job("import os\nprint(os.listdir('..'))")).stdout == "['job']\n"
        assert first not in box._live


def first_job_uid(box):
    return int(box.run(Job("import os\nprint(os.getuid())")).stdout)


def test_a_single_caller_keeps_two_cages_at_work_and_starts_no_more(make_box, backend):
    """While one cleans up, the next job runs in the other."""
    with make_box(backend, cages=3) as box:
        for _ in range(6):
            assert box.run(PRINT_42).stdout == "42\n"
        assert sorted(cage.jobs for cage in box._live) == [3, 4]  # the first one was the probe


def test_many_jobs_can_be_awaited(box):
    async def echo(number):
        return (await box.run_async(Job("print(input())", str(number)))).stdout

    async def everything():
        return await asyncio.gather(*map(echo, range(50)))

    assert asyncio.run(everything()) == [f"{i}\n" for i in range(50)]


def test_asyncio_goes_on_while_a_job_runs(fresh_box):
    async def ticks_during_a_job():
        job = asyncio.create_task(fresh_box.run_async(Job("import time\ntime.sleep(0.5)")))
        ticks = 0
        while not job.done():
            await asyncio.sleep(0.01)
            ticks += 1
        return ticks, (await job).status

    ticks, status = asyncio.run(ticks_during_a_job())
    assert ticks > 3
    assert status == "ok"


def test_a_closed_sandbox_tells_those_who_await_it(fresh_box):
    fresh_box.close()
    with pytest.raises(SandboxError, match="closed"):
        asyncio.run(fresh_box.run_async(PRINT_42))


def test_a_job_too_large_for_its_cage_is_a_callers_mistake(make_box, backend):
    with make_box(backend, cages=1) as box:
        (cage,) = box._live
        if backend != "local":
            too_long = "x" * (cage._capacity.file_bytes + 1)
            with pytest.raises(ValueError, match="tmp_bytes"):
                box.run(Job("", stdin=too_long))
        if backend == "docker":
            with pytest.raises(ValueError, match="memory_bytes"):
                box.run(Job("", limits=Limits(memory_bytes=1 << 40)))
        assert box.run(PRINT_42).stdout == "42\n"
        assert box._live == {cage}


def test_emptying_a_directory_copes_with_depth_locks_and_links(tmp_path):
    (tmp_path / "keep").write_text("x")
    top = tmp_path / "top"
    program = (
        "import os, sys\nos.mkdir(sys.argv[1])\nos.chdir(sys.argv[1])\n"
        "os.symlink('..', 'link')\n"
        "for _ in range(1200):\n    os.mkdir('d')\n    os.chdir('d')\n    open('f', 'w').close()\n"
        "os.chmod('.', 0)\nos.chmod(sys.argv[1] + '/d', 0)"
    )
    subprocess.run([sys.executable, "-c", program, str(top)], check=True)
    with pytest.raises(TimeoutError):
        empty(str(top), deadline=time.monotonic())
    empty(str(top), deadline=time.monotonic() + 60)
    assert list(top.iterdir()) == []
    assert (tmp_path / "keep").read_text() == "x"


def test_concurrent_callers_get_their_own_results(box):
    def echo(number):
        return box.run(Job("print(input())", str(number))).stdout

    with ThreadPoolExecutor(8) as executor:
        assert list(executor.map(echo, range(100))) == [f"{i}\n" for i in range(100)]


def test_cages_work_side_by_side(box):
    with ThreadPoolExecutor(2) as executor:
        list(executor.map(box.run, [PRINT_42] * 2))  # both cages are up
        when = "import time\nprint(time.time())\ntime.sleep(1)\nprint(time.time())"
        results = list(executor.map(box.run, [Job(when)] * 2))
    (begun, ended), (other_begun, other_ended) = (map(float, got.stdout.split()) for got in results)
    assert begun < other_ended
    assert other_begun < ended


@pytest.mark.parametrize("while_running", [False, True])
def test_close_leaves_nothing(fresh_box, while_running):
    (cage,) = fresh_box._live
    exists = trace_of(cage)
    assert exists()
    if while_running:
        close_while_jobs_run(fresh_box, cage)
    fresh_box.close()
    fresh_box.close()
    wait_until(lambda: not exists())
    with pytest.raises(SandboxError, match="closed"):
        fresh_box.run(PRINT_42)


def test_a_pool_that_is_closed_meanwhile_starts_no_cage(monkeypatch):
    """Its caller may be a thread that does not live to kill it."""
    started = []
    box = Pool(Local(), cages=1)
    monkeypatch.setattr(box, "start_member", lambda: started.append(1))
    (place,) = box._places
    with ThreadPoolExecutor(2) as threads:
        with place.starting:
            job = threads.submit(box.run, PRINT_42)
            wait_until(lambda: not box._free)  # it is about to start a cage, and waits
            closing = threads.submit(box.close)
            wait_until(lambda: box.closed)
        closing.result(timeout=30)
        with pytest.raises(SandboxError, match="closed"):
            job.result(timeout=30)
    assert started == []


def close_while_jobs_run(box, cage):
    job = Job(
        "import os, time\nif os.fork() == 0: os.setsid()\ntime.sleep(60)",
        limits=Limits(wall_seconds=90),
    )
    refused = []

    def run():
        with pytest.raises(SandboxError, match="closed"):
            box.run(job)
        refused.append(True)

    callers = [threading.Thread(target=run) for _ in range(3)]
    for caller in callers:
        caller.start()
    time.sleep(0.5)
    processes = [] if box.name == "docker" else descendants(cage.link.process.pid)
    assert len(processes) >= 2 or box.name == "docker"
    box.close()
    for caller in callers:
        caller.join(timeout=30)
    assert refused == [True] * 3
    wait_until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in processes))


def trace_of(cage):
    """A function that tells whether something of the cage is there."""
    if hasattr(cage.link, "container"):
        return lambda: cage.link.container in containers()
    pid = descendant_or_self(cage.link.process.pid)
    directory = Path(cage._program.decode()).parents[1]
    return lambda: (
        Path(f"/proc/{pid}").exists() or (directory != Path("/tmp") and directory.exists())
    )


def containers():
    import docker

    with contextlib.closing(docker.from_env().api) as api:
        return [container["Id"] for container in api.containers(all=True)]


def test_cages_end_with_a_process_that_is_killed(fresh_box):
    program = f"""
        import sys, time
        sys.path.insert(0, {str(Path(sandbox.__file__).parents[1])!r})
        import sandbox
        box = sandbox.make({fresh_box.name!r}, cages=1)
        (cage,) = box._live
        print(getattr(cage.link, "container", None) or cage.link.process.pid, flush=True)
        box.run(sandbox.Job("import time; time.sleep(60)", limits=sandbox.Limits(wall_seconds=90)))
    """
    with subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(program)], stdout=subprocess.PIPE, text=True
    ) as process:
        name = process.stdout.readline().strip()
        pid = None if fresh_box.name == "docker" else descendant_or_self(int(name))

        def alive():
            return name in containers() if pid is None else Path(f"/proc/{pid}").exists()

        assert alive()
        time.sleep(0.3)
        process.kill()
    wait_until(lambda: not alive())


@pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork:DeprecationWarning")
def test_a_forked_child_uses_cages_of_its_own(fresh_box):
    pid = os.fork()
    if pid == 0:
        try:
            parents = set(fresh_box._live)
            ok = fresh_box.run(PRINT_42).stdout == "42\n" and not parents & fresh_box._live
            fresh_box.close()
            os._exit(0 if ok else 1)
        finally:
            os._exit(2)
    (cage,) = fresh_box._live
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    assert fresh_box.run(PRINT_42).stdout == "42\n"
    assert cage in fresh_box._live


def test_a_cage_outlives_the_thread_that_started_it(make_box, backend):
    with ThreadPoolExecutor(1) as executor:
        box = executor.submit(make_box, backend, cages=1).result()
    with box:
        time.sleep(0.2)
        (cage,) = box._live
        assert box.run(PRINT_42).stdout == "42\n"
        assert cage in box._live


def test_copies_are_the_same_sandbox_and_pickles_are_refused(box):
    assert copy.deepcopy({"sandbox": box})["sandbox"] is box
    assert copy.copy(box) is box
    with pytest.raises(TypeError, match="shared"):
        pickle.dumps(box)


def test_it_can_be_used_until_the_very_end_of_the_process(fresh_box):
    program = f"""
        import sys
        sys.path.insert(0, {str(Path(sandbox.__file__).parents[1])!r})
        import sandbox
        box = sandbox.shared({fresh_box.name!r}, 1)
        print(box.run(sandbox.Job("print(42)")).stdout)
    """
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", textwrap.dedent(program)],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "42\n\n", "")


def test_a_pool_holds_no_more_descriptors_than_it_needs(fresh_box):
    def descriptors():
        gc.collect()
        return len(list(Path("/proc/self/fd").iterdir()))

    before = descriptors()
    for _ in range(3):
        (place,) = fresh_box._places
        fresh_box._discard(place)
        assert fresh_box.run(PRINT_42).stdout == "42\n"
    assert descriptors() <= before + 1


@pytest.fixture
def public_directory():
    """Unlike tmp_path, one that the unprivileged jobs of root can enter."""
    with tempfile.TemporaryDirectory(dir="/tmp") as name:
        Path(name).chmod(0o755)
        yield Path(name)


def test_directories_of_killed_processes_are_removed_later(public_directory, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(public_directory))
    left, others = public_directory / "vpd-sandbox-left", public_directory / "something"
    for directory in (left, others):
        (directory / "work").mkdir(parents=True)
        os.utime(directory, (0, 0))
    with sandbox.make("local", cages=1) as box:
        assert not left.exists()
        assert others.exists()
        (mine,) = public_directory.glob("vpd-sandbox-*")
        os.utime(mine, (0, 0))
        sandbox.make("local", cages=1).close()  # leaves the one in use alone
        assert mine.exists()
        assert box.run(PRINT_42).stdout == "42\n"
    assert list(public_directory.iterdir()) == [others]


def test_a_closed_temporary_directory_does_not_matter(tmp_path, monkeypatch):
    tmp_path.chmod(0o700)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    with sandbox.make("local", cages=1) as box:
        assert box.run(PRINT_42).stdout == "42\n"
