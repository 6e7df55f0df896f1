"""However a process with sandboxes ends, nothing of them stays: process, container, file, mount.

Each test starts a guardian, which starts a host, which has jobs of the worst kinds in its cages
when it ends. The guardian adopts every orphan (PR_SET_CHILD_SUBREAPER), so none can hide from it.
"""

import contextlib
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest
from attacks import ATTACKS, TOOLS

import sandbox

REPOSITORY = Path(sandbox.__file__).parents[1]
SECONDS = 10  # within which all must be gone; most is gone at once

FINISHED = ("daemons", "comet", "grandchildren_without_main_thread", "the_next_program")

# Never ends, ignores signals, has children in sessions of their own, of which some have no main
# thread any more and the last is always a new process, and files that resist.
STUBBORN = (
    TOOLS
    + """
import threading
for number in range(1, 65):
    try:
        signal.signal(number, signal.SIG_IGN)
    except (OSError, ValueError):
        pass
for kind in range(4):
    if os.fork() == 0:
        os.setsid()
        if kind % 2 == 0:
            threading.Thread(target=time.sleep, args=(600,)).start()
            leave_main_thread()
        while kind == 3:
            try:
                if os.fork():
                    os._exit(0)
            except OSError:
                pass
        time.sleep(600)
for number in range(200):
    os.mkdir(f"../{number}")
    os.chmod(f"../{number}", 0)
time.sleep(600)
"""
)

HOST = """
import contextlib, json, os, sys, threading, time
import sandbox

name, ending, finished, stubborn = sys.argv[1:]
box = sandbox.make(name, cages=2)

def run(code, wall_seconds):
    limits = sandbox.Limits(wall_seconds=wall_seconds, processes=16)
    box.run(sandbox.Job(code, '{"pid": 1, "parent": 1}', limits=limits))

def run_and_be_refused_at_last():
    with contextlib.suppress(sandbox.SandboxError):
        run(stubborn, 600)

def mounts():
    if name != "docker":
        return []
    import docker
    from sandbox.docker import LABEL
    api = docker.from_env().api
    return [
        api.inspect_container(container["Id"])["GraphDriver"]["Data"]["MergedDir"]
        for container in api.containers(filters={"label": LABEL})
        if container["Labels"][LABEL].endswith(f":{os.getpid()}")
    ]

for code in json.loads(finished):
    run(code, 5)
if ending not in ("returns", "raises"):
    for _ in range(2):
        threading.Thread(target=run_and_be_refused_at_last, daemon=True).start()
    time.sleep(0.7)
print(json.dumps(mounts()), flush=True)
sys.stdin.readline()
if ending == "returns":
    sys.exit()
if ending == "raises":
    raise ValueError("as the test wants it")
if ending == "leaves":
    os._exit(3)
if ending == "loses_its_cages":
    for cage in list(box._live):
        if name == "docker":
            cage.link._api.kill(cage.link.container)
        else:
            os.kill(cage.link.process.pid, 9)
    time.sleep(0.1)
    box.close()
    sys.exit()
while True:  # CPython loses a signal that comes just before one long sleep
    time.sleep(0.05)
"""

GUARDIAN = """
import ctypes, json, os, signal, subprocess, sys, time
from sandbox.runner import descendants

ctypes.CDLL(None).prctl(36, 1, 0, 0, 0)
seconds, ending, least, *command = sys.argv[1:]
host = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
try:
    mounts = host.stdout.readline()
    deadline = time.monotonic() + float(seconds)
    while (before := len(descendants(os.getpid()))) < int(least) and time.monotonic() < deadline:
        time.sleep(0.01)
    host.stdin.write("\\n")
    host.stdin.flush()
    number = {"terminated": signal.SIGTERM, "killed": signal.SIGKILL, "interrupted": signal.SIGINT}
    if ending in number:
        host.send_signal(number[ending])
    code = host.wait(float(seconds))
finally:
    host.kill()
deadline = time.monotonic() + float(seconds)
while time.monotonic() < deadline:
    try:
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass
    except ChildProcessError:
        break
    time.sleep(0.01)
left = {}
for pid in descendants(os.getpid()):
    with open(f"/proc/{pid}/status") as file:
        left[pid] = file.read()
    os.kill(pid, signal.SIGKILL)
print(json.dumps({"pid": host.pid, "code": code, "before": before, "left": left,
    "mounts": json.loads(mounts)}))
"""

EXIT_CODES = {
    "returns": 0,
    "raises": 1,
    "leaves": 3,
    "loses_its_cages": 0,
    "terminated": -15,
    "killed": -9,
    "interrupted": -2,
}


@pytest.fixture
def temporary():
    """A directory for temporary files that the unprivileged jobs of root can enter."""
    with tempfile.TemporaryDirectory(dir="/tmp") as name:
        Path(name).chmod(0o755)
        yield Path(name)


@pytest.mark.slow
@pytest.mark.parametrize("ending", EXIT_CODES)
def test_nothing_is_left(box, ending, temporary):
    finished = json.dumps([attack.code for attack in ATTACKS if attack.name in FINISHED])
    host = [sys.executable, "-c", HOST, box.name, ending, finished, STUBBORN]
    least = 0 if box.name == "docker" else 2 if ending in ("returns", "raises") else 9
    done = subprocess.run(
        [sys.executable, "-c", GUARDIAN, str(SECONDS), ending, str(least), *host],
        env={"PYTHONPATH": str(REPOSITORY), "TMPDIR": str(temporary), "PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert report["code"] == EXIT_CODES[ending], done.stderr
    assert report["before"] >= least, "no job was seen"
    if box.name == "docker":
        assert report["mounts"], "no container was seen"
    assert report["left"] == {}
    wait_until_nothing_is_left(temporary, report)


SLOW_REMOVAL = """
import sys, threading, time
import sandbox, sandbox.local

remove = sandbox.local.remove
sandbox.local.remove = lambda directory: (time.sleep(0.5), remove(directory))
sandbox.local.QUICK_SECONDS = -1  # every removal takes too long for those who wait
box = sandbox.make("local", cages=1)
box.run(sandbox.Job("pass"))
if sys.argv[1] == "in_a_daemon_thread":
    thread = threading.Thread(target=box.close, daemon=True)
    thread.start()
    thread.join()
"""


@pytest.mark.parametrize("where", ["in_a_daemon_thread", "at_exit"])
def test_a_process_ends_after_the_removal_of_what_jobs_left(where, temporary):
    subprocess.run(
        [sys.executable, "-c", SLOW_REMOVAL, where],
        env={"PYTHONPATH": str(REPOSITORY), "TMPDIR": str(temporary), "PATH": "/usr/bin:/bin"},
        check=True,
        timeout=60,
    )
    assert list(temporary.iterdir()) == []


def wait_until_nothing_is_left(temporary, report):
    deadline = time.monotonic() + SECONDS
    while True:
        files = sorted(map(str, temporary.iterdir()))
        containers = containers_of(report["pid"]) if report["mounts"] else []
        mounts = Path("/proc/self/mountinfo").read_text()
        mounts = [mount for mount in report["mounts"] if f" {mount} " in mounts]
        if not (files or containers or mounts) or time.monotonic() > deadline:
            break
        time.sleep(0.05)
    assert (files, containers, mounts) == ([], [], [])


def containers_of(pid):
    import docker

    from sandbox.docker import LABEL

    with contextlib.closing(docker.from_env().api) as api:
        return [
            container["Id"]
            for container in api.containers(all=True, filters={"label": LABEL})
            if container["Labels"][LABEL].endswith(f":{pid}")
        ]
