"""Whatever a program does: it gets the status it deserves, in time, and nobody else notices.

The programs are in attacks.py. Before a session's first attack, every sandbox is asked once what a
job sees there; after each attack a new job must see the same.
"""

import contextlib
import json
import os
import secrets
import select
import shutil
import socket
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

import pytest
from attacks import ATTACKS

from sandbox import ExecutionStatus, Job
from sandbox.runner import MOST_STRETCH

AS_ROOT = os.geteuid() == 0
# A job ends within its wall limit, as far as the machine allows its time to stretch, and this.
END_SECONDS = 1.0
CLEAN_SECONDS = 2.0  # until its caller has the result: the cage may be emptied first


@dataclass
class Host:
    """What attackers are after, and a way to see whether they got there."""

    directory: Path
    process: subprocess.Popen
    listeners: dict[str, socket.socket]

    @property
    def file(self) -> Path:
        return self.directory / "canary"

    @property
    def targets(self) -> str:
        """What attackers are told."""
        return json.dumps(
            {
                "pid": self.process.pid,
                "parent": os.getpid(),
                "file": str(self.file),
                "socket": str(self.directory / "socket"),
                "abstract": self.directory.name,
                "tcp": self.listeners["tcp"].getsockname()[1],
                "udp": self.listeners["udp"].getsockname()[1],
            }
        )

    def check(self) -> None:
        content = self.file.read_text()
        self.file.write_text("unchanged")
        assert content == "unchanged"
        assert sorted(path.name for path in self.directory.iterdir()) == ["canary", "socket"]
        assert self.process.poll() is None
        state = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(") ")[2][0]
        assert state == "S", "the canary was stopped or traced"
        assert [name for name in self.listeners if self.somebody_came(name)] == []

    def somebody_came(self, name: str) -> bool:
        listener = self.listeners[name]
        came = bool(select.select([listener], [], [], 0)[0])
        if came:  # let it go, so that this is not held against the next attack
            listener.recv(1) if name == "udp" else listener.accept()[0].close()
        return came


@pytest.fixture(scope="session")
def host() -> Iterator[Host]:
    # Not tmp_path, which no other user can enter: here permissions do not stand in for the cage.
    with contextlib.ExitStack() as stack:
        directory = Path(tempfile.mkdtemp(prefix="canary-", dir="/tmp"))
        stack.callback(shutil.rmtree, directory)
        directory.chmod(0o755)
        # It waits for us, and ends with us, however that comes.
        process = stack.enter_context(subprocess.Popen(["cat"], stdin=subprocess.PIPE))
        listeners = {
            "tcp": socket.create_server(("127.0.0.1", 0)),
            "udp": socket.socket(socket.AF_INET, socket.SOCK_DGRAM),
            "socket": socket.socket(socket.AF_UNIX),
            "abstract": socket.socket(socket.AF_UNIX),
        }
        listeners["udp"].bind(("127.0.0.1", 0))
        listeners["socket"].bind(str(directory / "socket"))
        listeners["abstract"].bind("\0" + directory.name)
        for name, listener in listeners.items():
            stack.enter_context(listener)
            listener.setblocking(False)
            if name != "udp":
                listener.listen()
        (directory / "socket").chmod(0o777)
        host = Host(directory, process, listeners)
        host.file.write_text("unchanged")
        host.file.chmod(0o666)
        yield host


LOOK_AROUND = """
import json, os, random, sys
secret = input()
mine = []
known = {1, os.getpid(), os.getppid()}
for pid in {*map(int, filter(str.isdigit, os.listdir("/proc")))} - known:
    try:
        if os.stat(f"/proc/{pid}").st_uid == os.getuid():
            mine.append(open(f"/proc/{pid}/cmdline").read())
    except OSError:
        pass
objects = []
for kind in ("shm", "sem", "msg"):
    if os.path.exists("/proc/sysvipc/" + kind):
        objects += open("/proc/sysvipc/" + kind).read().splitlines()[1:]
wanted = ("Sig", "Cap", "Cpus_allowed_list", "NoNewPrivs", "Seccomp:", "Groups", "Umask")
print(secret)
print(json.dumps({
    "input": sys.stdin.read(),
    "environment": sorted(os.environ),
    "around": sorted(os.listdir("..")),
    "shared": sorted(os.listdir("/dev/shm")) if os.path.exists("/dev/shm") else [],
    "here": sorted(os.listdir(".")),
    "program": len(open(__file__).read()),
    "modules": [json.__name__, random.__name__, len(sys.path)],
    "processes": mine,
    "objects": objects,
    "status": [line for line in open("/proc/self/status") if line.startswith(wanted)],
    "nice": os.getpriority(os.PRIO_PROCESS, 0),
    "policy": os.sched_getscheduler(0),
    "descriptors": sorted(map(int, os.listdir("/proc/self/fd"))),
    "hostname": os.uname().nodename,
    "mode": oct(os.stat(".").st_mode),
}))
"""


def look_around(box) -> dict:
    """What a job sees. It must also get the right result: the secret it was given."""
    secret = secrets.token_hex(16)
    got = box.run(Job(LOOK_AROUND, secret + "\nmore"))
    assert got.status is ExecutionStatus.OK, got
    answer, _, report = got.stdout.partition("\n")
    assert answer == secret
    assert got.stderr == ""
    report = json.loads(report)
    if box.name == "local":
        del report["shared"]  # everybody's
        if not AS_ROOT:
            del report["processes"]  # its user has others
    return report


@pytest.fixture(scope="session")
def undisturbed(box) -> dict:
    """What a job sees before any attack."""
    return look_around(box)


@contextlib.contextmanager
def a_witness(box) -> Iterator[None]:
    """Meanwhile, another caller runs jobs, and all of them get their own right results."""
    stop = threading.Event()
    results: list[tuple[str, str]] = []

    def run() -> None:
        while not (results and stop.is_set()):
            text = secrets.token_hex(16)
            code = "import hashlib\nprint(hashlib.sha256(input().encode()).hexdigest())"
            got = box.run(Job(code, text))
            results.append((got.stdout, sha256(text.encode()).hexdigest() + "\n"))
            stop.wait(0.05)

    with ThreadPoolExecutor(1) as executor:
        running = executor.submit(run)
        try:
            yield
        finally:
            stop.set()
        running.result(timeout=60)
    assert [got for got, _ in results] == [expected for _, expected in results]


@pytest.mark.parametrize("attack", ATTACKS, ids=[attack.name for attack in ATTACKS])
def test_an_attack_gets_what_it_deserves_and_harms_nobody(box, host, undisturbed, attack, caplog):
    if box.name == "local" and (attack.local == "none" or (attack.local == "root" and not AS_ROOT)):
        pytest.skip("local does not cover this, and says so")
    job = Job(attack.code, host.targets, attack.job_call, attack.job_limits)

    with a_witness(box) if attack.hogs else contextlib.nullcontext():
        started = time.monotonic()
        got = box.run(job)
        elapsed = time.monotonic() - started

    assert got.status in attack.statuses, got
    assert "BREACH" not in got.stdout, got.stdout
    assert got.value in (None, attack.value)
    assert (got.status is ExecutionStatus.OK) or got.value is None
    assert len(got.stdout) <= job.limits.output_bytes >= len(got.stderr)
    longest_seconds = MOST_STRETCH * attack.wall_seconds + END_SECONDS
    assert got.seconds <= longest_seconds
    if "starved" not in caplog.text:
        assert elapsed <= longest_seconds + CLEAN_SECONDS
    # Not even its own cage failed: it was not repeated.
    assert "cage failed" not in caplog.text
    for _ in range(box.cages):
        assert look_around(box) == undisturbed
    host.check()


def test_an_attack_that_succeeds_would_be_seen(box, host):
    if box.name == "local":
        pytest.skip("shown once, where there are no files of the host, is enough")
    code = next(attack.code for attack in ATTACKS if attack.name == "files_of_the_host")
    targets = json.dumps({**json.loads(host.targets), "file": "/tmp/job/solution.py"})
    assert "BREACH" in box.run(Job(code, targets)).stdout
