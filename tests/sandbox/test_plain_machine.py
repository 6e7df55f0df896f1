"""What works for a plain user on a small machine works in every cage, with the same result."""

import os
import subprocess
import sys

import pytest

from sandbox import MIB, Call, ExecutionStatus, Job, Limits, SandboxError
from sandbox.boot import PACKAGES

ADDS = "print(sum(map(int, input().split())))"

# Each must print the sum of the two numbers it is given, 3.
PROGRAMS = {
    "stack_unlimited": "import resource as r\n"
    f"r.setrlimit(r.RLIMIT_STACK, (r.RLIM_INFINITY, r.RLIM_INFINITY))\n{ADDS}",
    "stack_of_512_mb": "import resource as r, sys\nr.setrlimit(r.RLIMIT_STACK, (2**29, -1))\n"
    f"sys.setrecursionlimit(10**6)\n{ADDS}",
    "stack_within_hard_limit": "import resource as r\n"
    f"r.setrlimit(r.RLIMIT_STACK, (2**26, r.getrlimit(r.RLIMIT_STACK)[1]))\n{ADDS}",
    "address_space": f"import resource as r\nr.setrlimit(r.RLIMIT_AS, (2**30, 2**30))\n{ADDS}",
    "address_space_unlimited": f"import resource as r\nr.setrlimit(r.RLIMIT_AS, (-1, -1))\n{ADDS}",
    "cpu_time": f"import resource as r\nr.setrlimit(r.RLIMIT_CPU, (100, 100))\n{ADDS}",
    "open_files": "import resource as r\n"
    f"r.setrlimit(r.RLIMIT_NOFILE, (4096, r.getrlimit(r.RLIMIT_NOFILE)[1]))\n{ADDS}",
    "thread_stack_of_1_gb": "import threading\nthreading.stack_size(2**30)\n"
    f"t = threading.Thread(target=lambda: {ADDS})\nt.start()\nt.join()",
    "deep_recursion_in_a_thread": "import sys, threading\nthreading.stack_size(2**29)\n"
    "sys.setrecursionlimit(10**6)\ndef depth(n): return n and 1 + depth(n - 1)\n"
    "def main():\n    assert depth(100_000) == 100_000\n"
    f"    {ADDS}\nt = threading.Thread(target=main)\nt.start()\nt.join()",
    "memory_never_filled": "import mmap\nm = mmap.mmap(-1, 3 << 29, mmap.MAP_PRIVATE)\n"
    f"m[5] = 1\n{ADDS}",
    "threads": "from concurrent.futures import ThreadPoolExecutor\n"
    "with ThreadPoolExecutor(64) as pool:\n"
    f"    assert sum(pool.map(abs, range(200))) == 19_900\n{ADDS}",
    "threads_as_on_64_cpus": "import os, time\nos.cpu_count = lambda: 64\n"
    "from concurrent.futures import ThreadPoolExecutor\n"
    f"with ThreadPoolExecutor() as pool: list(pool.map(time.sleep, [0.01] * 64))\n{ADDS}",
    "processes": "import multiprocessing as mp\nif __name__ == '__main__':\n"
    "    with mp.Pool() as pool: print(sum(pool.map(int, input().split())))",
    "processes_as_on_32_cpus": "import os, multiprocessing as mp\nos.cpu_count = lambda: 32\n"
    "if __name__ == '__main__':\n"
    "    with mp.Pool() as pool: print(sum(pool.map(int, input().split())))",
    "manager": "import multiprocessing as mp\nif __name__ == '__main__':\n"
    "    with mp.Manager() as manager:\n"
    "        numbers = manager.list(map(int, input().split()))\n        print(sum(numbers))",
    "asyncio": f"import asyncio\nasync def main(): {ADDS}\nasyncio.run(main())",
    "socket_pair": "import socket\na, b = socket.socketpair()\n"
    "a.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 20)\na.sendall(input().encode())\n"
    "print(sum(map(int, b.recv(9).split())))",
    "nice": "import os\nbefore = os.nice(0)\n"  # that of the tests
    "assert os.nice(3) == before + 3\nos.setpriority(os.PRIO_PROCESS, 0, before + 5)\n"
    f"{ADDS}",
    "affinity": "import os\nfirst = min(os.sched_getaffinity(0))\n"
    "os.sched_setaffinity(os.getpid(), {first})\n"
    f"assert os.sched_getaffinity(0) == {{first}}\n{ADDS}",
    "cpus": "import multiprocessing as mp, os\nassert os.cpu_count() == mp.cpu_count() == 2\n"
    f"assert len(os.sched_getaffinity(0)) <= 2\n{ADDS}",
    "user": "import getpass, os, pwd\nfrom pathlib import Path\n"
    "name = pwd.getpwuid(os.getuid()).pw_name\n"
    "assert name == getpass.getuser() == os.getlogin() == Path(__file__).owner()\n"
    "assert pwd.getpwnam(name).pw_uid == os.getuid()\n"
    "assert os.path.expanduser('~' + name) == os.path.expanduser('~')\n"
    f"assert Path(__file__).group()\n{ADDS}",
    "temporary_files": "import locale, tempfile\nlocale.setlocale(locale.LC_ALL, '')\n"
    "with tempfile.NamedTemporaryFile('w+') as file:\n    file.write(input())\n"
    "    file.seek(0)\n    print(sum(map(int, file.read().split())))",
    "no_stdout_at_the_end": f"import sys\n{ADDS}\ndel sys.stdout",
    "no_streams_at_the_end": f"import sys\n{ADDS}\ndel sys.stdout, sys.stderr, sys.__stdout__",
    "numpy": f"import numpy\nassert numpy.linalg.det(numpy.eye(3)) == 1\n{ADDS}",
    "sortedcontainers": "from sortedcontainers import SortedList\n"
    "print(sum(SortedList(map(int, input().split()))))",
    "its_own_random": "open('random.py', 'w').write('def total(numbers): return sum(numbers)')\n"
    "import random\nprint(random.total(map(int, input().split())))",
    "its_own_queue_in_a_library": "open('heapq.py', 'w').write('heappush = heappop = 3')\n"
    "import queue, threading\nassert queue.heappush == 3\n"
    f"t = threading.Thread(target=lambda: {ADDS})\nt.start()\nt.join()",
}


@pytest.mark.parametrize("name", PROGRAMS)
def test_a_program_works_as_on_a_plain_machine(box, name):
    limits = Limits(wall_seconds=30, memory_bytes=256 * MIB)
    got = box.run(Job(PROGRAMS[name], "1 2\n", limits=limits))
    assert (got.status, got.stdout, got.stderr) == (ExecutionStatus.OK, "3\n", "")


def test_an_allocation_beyond_all_measure_fails_at_once_and_can_be_caught(box):
    code = "try: [0] * 10**12\nexcept MemoryError: print('caught')"
    assert box.run(Job(code)).stdout == "caught\n"


def test_limits_that_make_no_sense_are_refused_as_by_the_kernel(box):
    got = box.run(Job("import resource as r\nr.setrlimit(r.RLIMIT_CPU, (3, 2))"))
    assert got.stderr.endswith("ValueError: current limit exceeds maximum limit\n")


def test_pages_that_processes_share_count_once(box):
    code = (
        "import os, time\nblock = bytearray(b'x') * (150 << 20)\n"
        "children = []\nfor _ in range(3):\n    pid = os.fork()\n"
        "    if pid == 0:\n        time.sleep(0.3)\n        os._exit(block[7] != 120)\n"
        "    children.append(pid)\n"
        "print([os.waitpid(pid, 0)[1] for pid in children])"
    )
    limits = Limits(wall_seconds=30, memory_bytes=256 * MIB)  # four times 150 MB would be too much
    got = box.run(Job(code, limits=limits))
    assert (got.status, got.stdout) == (ExecutionStatus.OK, "[0, 0, 0]\n")


def test_pages_that_processes_write_count_for_each(box):
    code = (
        "import os, time\nblock = bytearray(b'x') * (150 << 20)\n"
        "for _ in range(3):\n    if os.fork() == 0: break\n"
        "for at in range(0, len(block), 4096): block[at] = 1\ntime.sleep(60)"
    )
    got = box.run(Job(code, limits=Limits(wall_seconds=30, memory_bytes=256 * MIB)))
    assert got.status is ExecutionStatus.MEMORY


def test_integers_may_have_50_000_digits(box):
    code = "print(len(str(10**49_999)), int(input()) % 9)\nprint(10**60_000)"
    got = box.run(Job(code, "1" * 20_000))
    assert got.stdout == f"50000 {20_000 % 9}\n"
    assert "ValueError: Exceeds the limit (50000 digits)" in got.stderr


def test_a_called_function_may_read_and_write_such_integers(box):
    got = box.run(
        Job("def f(n): return len(str(10**n)), int('9' * n) % 9", call=Call("f", (5000,)))
    )
    assert got.value == "[5001, 0]"


SERVER = """
import socket
with socket.create_server(("127.0.0.1", 8000)) as server:
    print("served")
"""


def test_there_is_no_network_and_a_server_program_is_told_so_each_time(box):
    for _ in range(3 * box.cages):
        got = box.run(Job(SERVER))
        assert (got.status, got.stdout) == (ExecutionStatus.ERROR, "")
        assert "OSError: [Errno 97] Address family not supported by protocol" in got.stderr


def test_no_kind_of_socket_but_unix_ones_can_be_made(box):
    code = (
        "import socket\nfor family in range(64):\n"
        "    for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM, socket.SOCK_RAW):\n"
        "        for make in (socket.socket, socket.socketpair):\n"
        "            try:\n                make(family, kind)\n            except OSError:\n"
        "                continue\n            print(family)"
    )
    got = box.run(Job(code))
    assert (got.status, set(got.stdout.split())) == (ExecutionStatus.OK, {"1"})


def test_a_name_that_a_job_bound_is_free_for_the_next(box):
    code = (
        "import socket\nserver = socket.socket(socket.AF_UNIX)\nserver.bind('\\0vpd-test')\n"
        "server.listen()\nclient = socket.socket(socket.AF_UNIX)\nclient.connect('\\0vpd-test')\n"
        "print('bound')"
    )
    for _ in range(2 * box.cages):
        assert box.run(Job(code)).stdout == "bound\n"


def test_shared_memory_with_a_name_is_gone_for_the_next_job(box):
    if box.name == "local" and os.geteuid() != 0:
        pytest.skip("an ordinary user's shared memory may be another program's")
    code = (
        "from multiprocessing import resource_tracker, shared_memory\n"
        "resource_tracker.register = lambda *_: None\n"  # which would remove it
        "shared_memory.SharedMemory('vpd-test', create=True, size=1 << 20)\nprint('made')"
    )
    for _ in range(2 * box.cages):
        assert box.run(Job(code)).stdout == "made\n"


@pytest.mark.parametrize("name", ["scipy", "sympy.ntheory", "networkx", "torch", "pip", "docker"])
def test_a_module_that_is_not_on_the_list_is_nowhere_and_said_to_be_no_part_of_the_judge(box, name):
    got = box.run(Job(f"import {name}"))
    assert got.status is ExecutionStatus.ERROR
    top = name.partition(".")[0]
    *_, error, note = got.stderr.splitlines()
    assert error == f"ModuleNotFoundError: No module named '{top}'"
    assert note == (
        f"({top} is not part of the judge: programs can import the standard library, "
        "numpy and sortedcontainers.)"
    )


def test_a_program_can_ask_for_a_module_and_do_without_it(box):
    code = (
        "import importlib.util\nprint(importlib.util.find_spec('torch'))\n"
        "try: import scipy\nexcept ImportError as error: print(error.name)"
    )
    assert box.run(Job(code)).stdout == "None\nscipy\n"


def test_a_mistake_in_a_name_of_the_programs_own_is_only_that(box):
    got = box.run(Job("import numpy.nothing"))
    assert got.stderr.endswith("ModuleNotFoundError: No module named 'numpy.nothing'\n")


def test_a_module_of_the_list_that_is_not_installed_is_no_verdict(backend, make_box):
    with make_box(backend, cages=1, packages=(*PACKAGES, "not_here")) as box:
        for line in ("import not_here", "try:\n    from not_here import x\nexcept ImportError: 0"):
            with pytest.raises(SandboxError, match="pip install not_here"):
                box.run(Job(line))
        assert box.run(Job("# import not_here\nprint(42)")).stdout == "42\n"


def test_programs_that_import_what_they_write_get_it_as_from_plain_python(box, tmp_path):
    code = PROGRAMS["its_own_queue_in_a_library"]
    program = tmp_path / "solution.py"
    program.write_text(code)
    plain = subprocess.run(
        [sys.executable, "-I", "-c", f"import sys; sys.path.insert(0, '.'); exec({code!r})"],
        cwd=tmp_path,
        input="1 2\n",
        capture_output=True,
        text=True,
    )
    assert box.run(Job(code, "1 2\n")).stdout == plain.stdout == "3\n"
