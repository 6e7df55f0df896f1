import contextlib
import gc
import os
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import worker_functions

from sandbox import MIB, SandboxError
from vpd_envs.workers.pool import (
    WorkerDied,
    WorkerError,
    WorkerMemory,
    Workers,
    WorkerTimeout,
    shared_workers,
)


def workers(name, **options):
    return Workers(f"worker_functions:{name}", **{"size": 1} | options)


def children(parent="self"):
    """The live processes that a process has started."""
    found = set()
    for task in Path(f"/proc/{parent}/task").iterdir():
        found |= set(map(int, (task / "children").read_text().split()))
    return {pid for pid in found if is_alive(pid)}


def is_alive(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return False


def wait_until(condition, seconds=20.0):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not come true"
        time.sleep(0.01)


@pytest.fixture
def no_child_stays():
    before = children()
    yield
    gc.collect()
    assert children() <= before


@pytest.mark.parametrize(
    "value", [1, 0.5, "", "é\u2028\x00\ud800", None, [1, [2]], {"a": True}, "x" * 3_000_000]
)
def test_json_values_come_and_go_unchanged(value):
    with workers("same") as pool:
        assert pool.call(value, 2) == [value, 2]


def test_no_process_starts_before_the_first_call_and_none_stays(no_child_stays):
    before = children()
    pool = workers("process")
    assert children() == before
    with pool:
        started = pool.call()
        assert children() - before == {started}
    pool.close()


def test_a_call_that_hangs_in_c_is_killed_and_others_go_on(no_child_stays):
    before = children()
    with workers("tower", size=2, timeout_seconds=1.0) as pool:
        assert pool.call(1) == 9**9 % 10
        with ThreadPoolExecutor(1) as threads:
            hanging = threads.submit(pool.call, 9)
            assert [pool.call(1) for _ in range(20)] == [9**9 % 10] * 20
            with pytest.raises(WorkerTimeout, match="1 s"):
                hanging.result()
        assert len(children() - before) <= 1
        assert pool.call(2) == 9**81 % 10


def test_a_call_that_asks_for_too_much_memory_is_told_from_others():
    with workers("allocate", memory_bytes=64 * MIB) as pool:
        assert pool.call(32 * MIB) == 32 * MIB
        with pytest.raises(WorkerMemory, match="64 MB"):
            pool.call(65 * MIB)
        assert pool.call(32 * MIB) == 32 * MIB


def test_what_earlier_calls_kept_is_not_held_against_a_call():
    with workers("keep", memory_bytes=64 * MIB) as pool:
        kept = [pool.call(24 * MIB) for _ in range(6)]
    assert all(1 <= number <= 2 for number in kept)  # three would not fit
    with workers("keep", memory_bytes=64 * MIB) as pool:
        kept = [pool.call(1 * MIB) for _ in range(50)]
    assert max(kept) <= 34  # a process that has grown by half of its memory is replaced


def test_a_worker_is_replaced_after_its_calls():
    with workers("process", calls_per_worker=3) as pool:
        pids = [pool.call() for _ in range(9)]
    assert [pids.count(pid) for pid in dict.fromkeys(pids)] == [3, 3, 3]


def test_a_call_whose_process_is_killed_from_outside_is_repeated():
    before = children()
    with workers("slowly") as pool, ThreadPoolExecutor(1) as threads:
        _, victim = pool.call(0, "warm")
        assert children() - before == {victim}
        result = threads.submit(pool.call, 0.5, "done")
        time.sleep(0.2)
        os.kill(victim, signal.SIGKILL)
        value, pid = result.result()
        assert value == "done"
        assert pid != victim


def test_a_process_that_died_between_calls_costs_nothing():
    with workers("process") as pool:
        first = pool.call()
        os.kill(first, signal.SIGKILL)
        wait_until(lambda: not is_alive(first))
        assert pool.call() != first


def test_a_call_that_ends_two_processes_is_no_verdict():
    with workers("end") as pool, pytest.raises(WorkerDied, match="exit code 7") as caught:
        pool.call(7)
    assert isinstance(caught.value, SandboxError)


def test_the_exception_of_the_function_comes_back_with_its_text(no_child_stays):
    before = children()
    with workers("divide") as pool:
        assert pool.call(7, 2) == 3
        started = children() - before
        with pytest.raises(WorkerError, match="by zero") as caught:
            pool.call(1, 0)
        assert caught.value.kind == "ZeroDivisionError"
        assert children() - before == started  # such a process is as good as before


def test_a_value_that_is_no_json_is_an_error_of_the_function():
    with workers("not_json") as pool, pytest.raises(WorkerError, match="set"):
        pool.call()


def test_what_the_function_prints_is_no_reply():
    with workers("chatty") as pool:
        assert [pool.call(number) for number in range(5)] == list(range(5))


def test_a_worker_sees_no_variable_of_ours(monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "secret")
    with workers("variables") as pool:
        seen = pool.call()
    assert "secret" not in seen.values()
    assert "HOME" not in seen


def test_the_directory_we_are_in_shadows_no_module(tmp_path, monkeypatch):
    (tmp_path / "json.py").write_text("raise SystemExit('shadowed')")
    monkeypatch.chdir(tmp_path)
    with workers("working_directory") as pool:
        directory, path = pool.call()
    assert directory == "/"
    assert str(tmp_path) not in path


@pytest.mark.skipif(
    os.uname().machine not in ("x86_64", "aarch64"), reason="no filter for this machine"
)
@pytest.mark.parametrize(
    "name",
    [
        "write",
        "remove",
        "rename",
        "make_directory",
        "change_mode",
        "fork",
        "run_a_program",
        "start_a_thread",
        "connect",
        "kill_the_host",
    ],
)
def test_a_worker_can_change_nothing_outside(name, tmp_path):
    target = tmp_path / "target"
    if name in ("remove", "rename", "change_mode"):
        target.write_text("kept")
        target.chmod(0o600)
    there = {path.name: path.stat().st_mode for path in tmp_path.iterdir()}
    refused = "start new thread" if name == "start_a_thread" else "not permitted"
    with workers(name) as pool, pytest.raises(WorkerError, match=refused):
        pool.call(str(target))
    assert {path.name: path.stat().st_mode for path in tmp_path.iterdir()} == there


def test_many_threads_get_their_own_values():
    before = children()
    with workers("same", size=3) as pool, ThreadPoolExecutor(12) as threads:
        values = list(threads.map(pool.call, range(400)))
        assert len(children() - before) <= 3
    assert values == [[number] for number in range(400)]


def test_a_forked_child_has_workers_of_its_own_and_leaves_ours_alone():
    with workers("process") as pool:
        ours = pool.call()
        read, write = os.pipe()
        child = os.fork()
        if child == 0:
            with contextlib.suppress(BaseException):
                os.write(write, str(pool.call()).encode())
                pool.close()
            os._exit(0)
        os.close(write)
        with os.fdopen(read) as pipe:
            theirs = int(pipe.read())
        os.waitpid(child, 0)
        assert theirs != ours
        assert not is_alive(theirs)
        assert pool.call() == ours


HOST = """
import contextlib, sys, threading, time
from sandbox import SandboxError
sys.path.insert(0, sys.argv[1])
from vpd_envs.workers.pool import Workers
pool = Workers("worker_functions:tower", size=2, timeout_seconds=600)
idle = Workers("worker_functions:process", size=1)
idle.call()
def hang():
    with contextlib.suppress(SandboxError):  # the pool is closed when the host ends
        pool.call(9)
threading.Thread(target=hang, daemon=True).start()
while len(pool._live) < 1:
    time.sleep(0.01)
time.sleep(0.3)
print("ready", flush=True)
if sys.argv[2] == "wait":
    time.sleep(600)
"""


@pytest.mark.parametrize("ending", ["killed", "normal"])
def test_no_worker_outlives_its_host(ending):
    here = str(Path(worker_functions.__file__).parent)
    wait = "wait" if ending == "killed" else "end"
    host = subprocess.Popen(
        [sys.executable, "-c", HOST, here, wait],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert host.stdout.readline() == "ready\n"
        started = children(host.pid)
        if ending == "killed":
            assert len(started) == 2
            host.kill()
        out, err = host.communicate(timeout=60)
        assert (out, err) == ("", "")
        wait_until(lambda: not any(is_alive(pid) for pid in started))
    finally:
        host.kill()


def test_closing_ends_a_call_that_is_under_way(no_child_stays):
    pool = workers("tower", timeout_seconds=600)
    pool.call(1)
    with ThreadPoolExecutor(1) as threads:
        hanging = threads.submit(pool.call, 9)
        time.sleep(0.2)
        pool.close()
        with pytest.raises(SandboxError, match="closed"):
            hanging.result(timeout=30)
    with pytest.raises(SandboxError, match="closed"):
        pool.call(1)


def test_waiting_callers_are_served_when_a_worker_is_free():
    with workers("slowly", timeout_seconds=0.5) as pool:
        results = []

        def call(seconds):
            try:
                results.append(pool.call(seconds, "late")[0])
            except WorkerTimeout:
                results.append("timeout")

        threads = [threading.Thread(target=call, args=(s,)) for s in (0.0, 600.0, 0.0, 0.0)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(timeout=30)
    assert sorted(results) == ["late", "late", "late", "timeout"]


def test_a_function_that_cannot_be_imported_is_named():
    with pytest.raises(ValueError, match=r"(?s)worker_functions:absent.*has no attribute"):
        workers("absent").call()
    with pytest.raises(ValueError, match="No module named 'no_such_module'"):
        Workers("worker_functions:same", setup="no_such_module:go", size=1).call()


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"function": "same"}, "module:name"),
        ({"size": 0}, "size"),
        ({"timeout_seconds": 0}, "timeout_seconds"),
        ({"memory_bytes": -1}, "memory_bytes"),
        ({"calls_per_worker": 1.5}, "calls_per_worker"),
    ],
)
def test_a_bad_option_is_named(options, named):
    with pytest.raises(ValueError, match=named):
        Workers(**{"function": "worker_functions:same"} | options)


def test_arguments_that_are_no_json_are_refused_without_a_process():
    before = children()
    with workers("same") as pool, pytest.raises(ValueError, match="JSON"):
        pool.call(object())
    assert children() == before


def test_shared_workers_are_one_per_function_and_options():
    ours = shared_workers("worker_functions:same", size=1)
    assert shared_workers("worker_functions:same", size=1) is ours
    assert shared_workers("worker_functions:same", size=2) is not ours
    ours.close()
    again = shared_workers("worker_functions:same", size=1)
    assert again is not ours
    again.close()
