"""Every limit is enforced, named in the status, and of no consequence for the next job."""

import os
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from sandbox import MIB, ExecutionStatus, Job, Limits

QUICK = Limits(wall_seconds=5, memory_bytes=128 * MIB)
KILLS_ITSELF = "import os\nos.kill(os.getpid(), 9)"
# Files in memory, beyond what a container of 100 MiB has.
FILLS_MEMORY = "for i in range(5):\n    open(str(i), 'wb').write(bytes(1 << 20) * 40)"


@pytest.fixture(autouse=True)
def the_next_job_is_undisturbed(box):
    yield
    for _ in range(2):
        assert box.run(Job("print(input())", "fine")).stdout == "fine\n"


@pytest.mark.parametrize(
    "code",
    [
        "while True: pass",
        "import time\nprint('before', flush=True)\ntime.sleep(60)",
        "import signal, time\nfor s in range(1, 32):\n    try: signal.signal(s, signal.SIG_IGN)\n"
        "    except OSError: pass\nprint('before', flush=True)\ntime.sleep(60)",
        "x = 7 ** 7 ** 9",
        "import threading, time\nthreading.Thread(target=time.sleep, args=(60,)).start()",
        "import sys, time\nclass A:\n    def __del__(self): time.sleep(60)\na = A()",
    ],
    ids=["spins", "sleeps", "ignores_signals", "huge_integer", "thread", "finalizer"],
)
def test_time_out(box, code):
    got = box.run(Job(code, limits=Limits(wall_seconds=0.5)))
    assert got.status is ExecutionStatus.TIMEOUT
    assert got.exit_code is None
    assert 0.5 <= got.seconds < 5
    assert got.stdout == ("before\n" if "before" in code else "")


def test_cpu_time_counts_even_if_the_clock_allows_more(box):
    got = box.run(Job("while True: pass", limits=Limits(wall_seconds=30, cpu_seconds=0.3)))
    assert got.status is ExecutionStatus.TIMEOUT
    assert got.cpu_seconds >= 0.3
    assert got.seconds < 20


def test_cpu_time_of_child_processes_counts(box):
    code = "import os\nfor _ in range(3):\n    if os.fork() == 0: break\nwhile True: pass"
    got = box.run(Job(code, limits=Limits(wall_seconds=30, cpu_seconds=0.5)))
    assert got.status is ExecutionStatus.TIMEOUT
    assert got.seconds < 20


@pytest.mark.parametrize(
    "code",
    [
        "x = bytearray(1 << 30)",
        "x = []\nwhile True: x.append(bytearray(1 << 20))",
        "x = [0]\nwhile True: x += x",
        "import mmap\nm = mmap.mmap(-1, 1 << 30)\nfor i in range(0, 1 << 30, 4096): m[i] = 1",
        "import os\nfor _ in range(5):\n    if os.fork() == 0: break\n"
        "x = bytearray(b'x') * (60 << 20)\nimport time\ntime.sleep(60)",
    ],
    ids=["one_block", "many_blocks", "list", "mapping", "shared_among_processes"],
)
def test_too_much_memory(box, code):
    got = box.run(Job(code, limits=QUICK))
    # What is refused at once raises in the program; what slips through is seen within moments.
    assert got.status is ExecutionStatus.MEMORY or "OSError" in got.stderr
    assert got.memory_bytes < 1 << 30


@pytest.mark.docker
def test_the_memory_of_a_container_is_a_limit_too(make_box):
    """It holds what no limit of a job sees: files in memory."""
    with make_box("docker", cages=1, memory_bytes=100 * MIB) as box:
        limits = Limits(memory_bytes=64 * MIB, file_bytes=200 * MIB)
        got = box.run(Job("open('x', 'wb').write(bytes(1 << 20) * 40)\n" * 5, limits=limits))
        assert got.status is ExecutionStatus.OK, got
        got = box.run(Job(FILLS_MEMORY, limits=limits))
        assert (got.status, got.signal) == (ExecutionStatus.MEMORY, 9)
        assert box.run(Job("print(42)", limits=limits)).stdout == "42\n"


@pytest.mark.docker
def test_a_process_killed_for_want_of_memory_is_not_held_against_the_next_job(make_box):
    """Of the job itself only a child was killed, so it went on."""
    code = (
        "import os\nopen('x', 'wb').write(bytes(1 << 20) * 40)\n"
        "if os.fork() == 0:\n    x = bytearray(b'x') * (80 << 20)\n    os._exit(0)\n"
        "print(os.waitstatus_to_exitcode(os.wait()[1]))"
    )
    with make_box("docker", cages=1, memory_bytes=100 * MIB) as box:
        limits = Limits(memory_bytes=100 * MIB, file_bytes=100 * MIB)
        assert box.run(Job(code, limits=limits)).stdout == "-9\n"
        got = box.run(Job(KILLS_ITSELF, limits=limits))
        assert (got.status, got.signal) == (ExecutionStatus.CRASH, 9)


@pytest.mark.docker
def test_a_lack_of_memory_elsewhere_is_no_verdict(box, make_box, caplog):
    """A container knows that it was elsewhere; others take another cage, to be sure."""
    seen = 'open("/proc/vmstat").read().partition("oom_kill ")[2].split()[0]'
    waits = f"import time\nbefore = input()\nwhile {seen} == before: time.sleep(0.01)\n"
    with make_box("docker", cages=1, memory_bytes=100 * MIB) as other, ThreadPoolExecutor(1) as one:
        limits = Limits(memory_bytes=64 * MIB, file_bytes=200 * MIB)
        before = other.run(Job(f"print({seen})", limits=limits)).stdout
        job = Job(waits + KILLS_ITSELF, before, limits=Limits(wall_seconds=60))
        result = one.submit(box.run, job)
        time.sleep(1)  # it has begun
        assert other.run(Job(FILLS_MEMORY, limits=limits)).status is ExecutionStatus.MEMORY
        got = result.result(timeout=60)
    assert (got.status, got.signal) == (ExecutionStatus.CRASH, 9)
    assert ("machine was out of memory" in caplog.text) is (box.name != "docker")


def test_a_program_that_kills_itself_crashed(box):
    got = box.run(Job(KILLS_ITSELF))
    assert (got.status, got.signal) == (ExecutionStatus.CRASH, 9)


def test_memory_within_the_limit_is_there(box):
    code = "x = bytearray(b'x') * (100 << 20)\nprint(len(x) >> 20)"
    got = box.run(Job(code, limits=QUICK))
    assert (got.status, got.stdout) == (ExecutionStatus.OK, "100\n")
    assert got.memory_bytes > 100 * MIB


def test_a_caught_memory_error_is_no_verdict(box):
    code = "try:\n    bytearray(1 << 32)\nexcept MemoryError:\n    print('caught')"
    got = box.run(Job(code, limits=QUICK))
    assert (got.status, got.stdout) == (ExecutionStatus.OK, "caught\n")


@pytest.mark.parametrize("stream", ["stdout", "stderr"])
def test_endless_output(box, stream):
    code = f"import sys\nwhile True: sys.{stream}.write('x' * 1000)"
    got = box.run(Job(code, limits=Limits(wall_seconds=20, output_bytes=100_000)))
    assert got.status is ExecutionStatus.OUTPUT_LIMIT
    assert getattr(got, stream) == "x" * 100_000
    assert getattr(got, stream + "_bytes") > 100_000


def test_output_at_the_limit_is_allowed(box):
    code = "print('x' * 99_999)"
    got = box.run(Job(code, limits=Limits(output_bytes=100_000)))
    assert (got.status, got.stdout_bytes) == (ExecutionStatus.OK, 100_000)


def test_both_streams_are_drained_at_once(box):
    code = (
        "import sys\nfor _ in range(1000):\n"
        "    sys.stdout.write('o' * 1000)\n    sys.stderr.write('e' * 1000)"
    )
    got = box.run(Job(code))
    assert (got.stdout, got.stderr) == ("o" * 1_000_000, "e" * 1_000_000)


def test_a_file_may_not_grow_beyond_its_limit(box):
    code = "f = open('big', 'wb')\nfor _ in range(100): f.write(bytes(1 << 20))"
    got = box.run(Job(code, limits=Limits(file_bytes=MIB)))
    assert got.status is ExecutionStatus.ERROR
    assert "File too large" in got.stderr


def test_open_files_are_limited(box):
    code = "files = [open('/dev/null') for _ in range(100)]"
    got = box.run(Job(code, limits=Limits(open_files=32)))
    assert "Too many open files" in got.stderr


def test_a_fork_bomb_is_contained(box):
    code = (
        "import os, time\nuntil = time.time() + 0.7\n"
        "while time.time() < until:\n    try:\n        os.fork()\n    except OSError:\n        pass"
    )
    got = box.run(Job(code, limits=Limits(wall_seconds=5, processes=16)))
    assert got.status in (ExecutionStatus.OK, ExecutionStatus.TIMEOUT)


def skip_if_only_rough(box):
    if box.name == "local" and os.geteuid() != 0:
        pytest.skip("local counts all processes of an ordinary user, and says so")


def test_processes_are_limited(box):
    skip_if_only_rough(box)
    code = (
        "import os, time\nstarted = 1\n"
        "try:\n    while started < 200:\n        if os.fork() == 0:\n            time.sleep(60)\n"
        "        started += 1\nexcept OSError:\n    pass\nprint(started)"
    )
    got = box.run(Job(code, limits=Limits(processes=8)))
    assert int(got.stdout) == 8


def test_threads_are_limited(box):
    skip_if_only_rough(box)
    code = (
        "import threading, time\nfor started in range(1, 200):\n"
        "    try:\n        threading.Thread(target=time.sleep, args=(60,), daemon=True).start()\n"
        "    except RuntimeError:\n        break\n"
        "print(started, flush=True)\nimport os\nos._exit(0)"
    )
    got = box.run(Job(code, limits=Limits(processes=8)))
    assert int(got.stdout) == 8


@pytest.mark.parametrize("how", ["orphan", "own_session", "double_fork"])
def test_nothing_of_a_job_survives_it(box, how):
    detach = {
        "orphan": "",
        "own_session": "os.setsid()",
        "double_fork": "os.setsid()\n    if os.fork(): os._exit(0)",
    }[how]
    code = (
        "import os, time\nif os.fork() == 0:\n"
        f"    {detach or 'pass'}\n"
        "    for fd in range(3): os.close(fd)\n"
        "    time.sleep(60)\n"
        "time.sleep(0.2)\nprint('main is done')"
    )
    got = box.run(Job(code))
    assert (got.status, got.stdout) == (ExecutionStatus.OK, "main is done\n")
    assert got.seconds < 10
    assert others_of_this_user(box) == 0


def others_of_this_user(box):
    """How many processes a job sees that have its own user: only in these can it leave any."""
    code = (
        "import os\nfound = 0\n"
        "for pid in filter(str.isdigit, os.listdir('/proc')):\n"
        "    try:\n        mine = os.stat('/proc/' + pid).st_uid == os.getuid()\n"
        "    except OSError:\n        continue\n"
        "    found += mine and int(pid) not in (1, os.getpid())\n"
        "print(found)"
    )
    if box.name == "local" and os.geteuid() != 0:
        pytest.skip("an ordinary user's other processes cannot be told apart")
    return int(box.run(Job(code)).stdout)


def test_files_of_a_job_are_gone_for_the_next(box):
    code = (
        "import os, tempfile\nroot = tempfile.gettempdir()\nprint(sorted(os.listdir(root)))\n"
        "os.makedirs(root + '/a/b')\nopen(root + '/a/b/c', 'w').write('x')\n"
        "os.symlink('/', root + '/link')\nos.chmod(root + '/a', 0)"
    )
    for _ in range(4):
        assert box.run(Job(code)).stdout == "['job']\n"


def test_disk_space_is_limited(isolating_box):
    code = (
        "import itertools\nfor i in itertools.count():\n"
        "    with open(f'/tmp/{i}', 'wb') as f: f.write(bytes(16 << 20))"
    )
    got = isolating_box.run(Job(code, limits=Limits(wall_seconds=20)))
    assert "No space left on device" in got.stderr


def test_measurements_are_filled_in(box):
    code = "import time\nuntil = time.process_time() + 0.2\nwhile time.process_time() < until: pass"
    got = box.run(Job(code))
    assert 0.2 <= got.cpu_seconds < 5
    assert 0.2 <= got.seconds < 10
    assert 5 * MIB < got.memory_bytes < 200 * MIB
    assert (got.exit_code, got.signal) == (0, None)
