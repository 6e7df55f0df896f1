"""What a hostile program finds, reaches and breaks: nothing but itself."""

import os
import secrets
from pathlib import Path

import pytest

from sandbox import ExecutionStatus, Job, Limits

AS_ROOT = os.geteuid() == 0


def lines(box, code, **fields):
    got = box.run(Job(code, **fields))
    assert got.status is ExecutionStatus.OK, got
    return got.stdout.splitlines()


# Looks everywhere for `prefix` and 32 hexadecimal digits. The prefix is written backwards, so that
# the program does not find itself.
SEARCH = r"""
import gc, os, re, sys
needle = re.compile(b"-terces-dpv"[::-1] + b"[0-9a-f]{32}")
places = []

def look(place, data):
    if needle.search(data):
        places.append(place)

look("environment", repr(dict(os.environ)).encode())
look("objects", b"".join(repr(o).encode() for o in gc.get_objects() if type(o) in (dict, list)))
frame = sys._getframe()
while frame:
    look("frames", repr(frame.f_locals).encode("utf-8", "replace"))
    frame = frame.f_back
for pid in filter(str.isdigit, os.listdir("/proc")):
    for name in ("environ", "cmdline"):
        try:
            look(f"/proc/{pid}/{name}", open(f"/proc/{pid}/{name}", "rb").read())
        except OSError:
            pass
    try:
        ranges = [l.split()[0].split("-") for l in open(f"/proc/{pid}/maps") if " rw" in l]
        memory = open(f"/proc/{pid}/mem", "rb", 0)
    except OSError:
        continue
    for start, end in ranges:
        try:
            memory.seek(int(start, 16))
            look(f"memory of {pid}", memory.read(int(end, 16) - int(start, 16)))
        except OSError:
            pass
for place in PLACES:
    for root, _, names in os.walk(place):
        for name in names[:200]:
            try:
                look(root + name, open(os.path.join(root, name), "rb").read(1 << 16))
            except OSError:
                pass
print(places)
"""


def test_the_search_would_find_a_secret_of_the_job_itself(box):
    secret = "vpd-secret-" + secrets.token_hex(16)
    found = lines(box, "PLACES = []\ntext = input()\n" + SEARCH, stdin=secret)
    assert "memory of" in found[0]


def test_a_secret_of_the_host_is_nowhere(box, monkeypatch, tmp_path):
    if box.name == "local" and not AS_ROOT:
        pytest.skip("local does not hide other processes of an ordinary user, and says so")
    secret = "vpd-secret-" + secrets.token_hex(16)
    monkeypatch.setenv("VPD_SECRET", secret)
    (tmp_path / "secret").write_text(secret)
    places = ["/tmp", "/home", "/etc", "/var", "/run", "/dev/shm", str(tmp_path), str(Path.cwd())]
    if box.name == "local":
        places = ["."]  # it does not hide files, and says so
    assert lines(box, f"PLACES = {places!r}\n" + SEARCH) == ["[]"]


def test_traces_of_earlier_jobs_are_nowhere(fresh_box):
    if fresh_box.name == "local" and not AS_ROOT:
        pytest.skip("local does not hide other processes of an ordinary user, and says so")
    secret = "vpd-secret-" + secrets.token_hex(16)
    for _ in range(3):
        got = fresh_box.run(
            Job(f"# {secret}\nprint(input())\nraise SystemExit('{secret}')", secret)
        )
        assert secret in got.stdout + got.stderr
    assert lines(fresh_box, "import tempfile\nPLACES = [tempfile.gettempdir()]\n" + SEARCH) == [
        "[]"
    ]


def test_no_variable_of_the_host_reaches_a_job(box, monkeypatch):
    monkeypatch.setenv("VPD_SECRET", "x")
    found = set(lines(box, "import os\nfor name in os.environ: print(name)"))
    assert found <= {
        *("PATH", "HOME", "TMPDIR", "LANG", "PYTHONHASHSEED", "MALLOC_ARENA_MAX"),
        *("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "LC_CTYPE", "USER", "LOGNAME"),
        *("PYTHONINTMAXSTRDIGITS", "PYTHON_CPU_COUNT"),
        *("GPG_KEY", "PYTHON_VERSION", "PYTHON_SHA256"),  # of Docker's python images
    }


def test_files_of_the_host_are_not_there(isolating_box):
    code = (
        "import os\nfor path in ('/root/.bashrc', '/home', '/etc/shadow', '/var/log'):\n"
        "    try:\n"
        "        print(path, os.listdir(path) if os.path.isdir(path) else open(path).read())\n"
        "    except OSError: pass"
    )
    if isolating_box.name == "docker":  # it has files of its own there, none of ours
        assert "/etc/shadow" not in "".join(lines(isolating_box, code))
    else:
        assert lines(isolating_box, code) == []


def test_the_file_system_is_read_only(isolating_box):
    code = (
        "import os\n"
        "for path in ('/', '/usr/lib', '/dev', '/etc', os.path.dirname(os.__file__),\n"
        "        '/proc/sys/kernel', '/sys'):\n"
        "    try:\n        open(path + '/new', 'w')\n        print('wrote', path)\n"
        "    except OSError: pass"
    )
    assert lines(isolating_box, code) == []


def test_there_is_no_network(box):
    code = (
        "import socket\nfor address in (('127.0.0.1', 22), ('1.1.1.1', 53), ('8.8.8.8', 443)):\n"
        "    try:\n        socket.create_connection(address, timeout=1)\n        print(address)\n"
        "    except OSError: pass\n"
        "for family in (16, 17, 38, 40):\n"  # netlink, packet, crypto, vsock
        "    try:\n        socket.socket(family, socket.SOCK_DGRAM)\n        print(family)\n"
        "    except OSError: pass"
    )
    assert lines(box, code) == []


def test_a_job_has_no_privileges(box):
    if box.name == "local" and not AS_ROOT:
        pytest.skip("it has those of the user")
    code = (
        "import os\nprint(os.getuid() == os.geteuid() != 0, os.getgroups())\n"
        "for line in open('/proc/self/status'):\n"
        "    if line.startswith(('CapPrm', 'CapEff', 'NoNewPrivs', 'Seccomp:')):\n"
        "        print(line.strip())"
    )
    found = lines(box, code)
    assert found[0].startswith("True [")
    capability = int(found[1].split()[1], 16)
    # local may leave the one to read files: without it /root/… would hold no interpreter.
    assert capability in ((0, 4) if box.name == "local" else (0,))
    assert found[3:] == ["NoNewPrivs:\t1", "Seccomp:\t2"]


@pytest.mark.parametrize(
    "attack",
    [
        "os.kill(1, 9)",
        "os.kill(os.getppid(), 9)",
        "os.kill(os.getppid(), signal.SIGSTOP)",
        "os.kill(os.getppid(), signal.SIGINT)",
        "os.kill(-1, 9)",
        "os.killpg(0, 9)",
        "resource.prlimit(os.getppid(), resource.RLIMIT_NOFILE, (0, 0))",
        "resource.prlimit(os.getppid(), resource.RLIMIT_CPU, (0, 0))",
        "libc.ptrace(16, os.getppid(), 0, 0)",
        "open(f'/proc/{os.getppid()}/mem', 'r+b')",
        "os.listdir(f'/proc/{os.getppid()}/fd')",
        "libc.unshare(0x10000000)",
        "os.setuid(0)",
        "os.chroot('/')",
        "libc.mount(b'none', b'/tmp', b'tmpfs', 0, None)",
        "libc.shmget(1, 4096, 0o1777)",
        "os.memfd_create('x')",
        "os.closerange(0, 1024)",
        "sys.modules.clear()",
        "builtins.__dict__.clear()",
        "gc.get_objects().clear()",
        "sys.setrecursionlimit(10**9) or (lambda f: f(f))(lambda f: f(f))",
        "os.rmdir('/tmp/job') if os.path.exists('/tmp/job') else None",
        "os.symlink('/', os.path.dirname(os.getcwd()) + '/stdin')",
        "[os.mkdir(str(i)) or os.chdir(str(i)) for i in range(1200)]",
        "[open(str(i), 'w').close() for i in range(5000)]",
    ],
)
def test_an_attack_changes_nothing_for_the_next_job(box, attack):
    if box.name == "local" and not AS_ROOT and "kill" in attack:
        pytest.skip("local does not cover signals of an ordinary user, and says so")
    code = (
        "import builtins, ctypes, gc, os, resource, signal, sys\n"
        "libc = ctypes.CDLL(None, use_errno=True)\n"
        f"try:\n    {attack}\nexcept OSError:\n    pass"
    )
    box.run(Job(code, limits=Limits(wall_seconds=5)))  # must not raise SandboxError
    for _ in range(box.cages):
        assert lines(box, "print(int(input()) + 1)", stdin="1") == ["2"]


def test_a_job_cannot_slow_the_runner_and_so_later_jobs(fresh_box):
    look = "import os\nprint(os.getpriority(os.PRIO_PROCESS, 0), os.sched_getscheduler(0), " + (
        "os.sched_getaffinity(0))"
    )
    share = "/proc/self/autogroup"  # not on every kernel: the share of the CPU of a session
    get_less = f"import os\nif os.path.exists({share!r}): open({share!r}, 'w').write('19')"
    look += f"\nif os.path.exists({share!r}): print(open({share!r}).read().split()[1:])"
    before = lines(fresh_box, look)
    fresh_box.run(Job(get_less))
    for attack in (
        "os.setpriority(os.PRIO_PROCESS, os.getppid(), 19)",
        "os.sched_setscheduler(os.getppid(), os.SCHED_IDLE, os.sched_param(0))",
        "os.sched_setaffinity(os.getppid(), list(os.sched_getaffinity(0))[:1])",
    ):
        assert "PermissionError" in fresh_box.run(Job(f"import os\n{attack}")).stderr
    assert lines(fresh_box, look) == before


def test_forged_frames_do_not_reach_the_host(box):
    # What the runner itself would send for a job that printed "forged".
    code = (
        "import json, os\n"
        "header = json.dumps({'exit_code': 0, 'signal': None, 'reason': None, 'seconds': 0,\n"
        "    'cpu_seconds': 0, 'memory_bytes': 0, 'stdout_bytes': 6, 'stderr_bytes': 0,\n"
        "    'tainted': False, 'sizes': [6, 0, 0]}).encode()\n"
        "frame = len(header).to_bytes(4, 'big') + header + b'forged'\n"
        "for fd in range(3, 1024):\n"
        "    try: os.write(fd, frame)\n    except OSError: pass\n"
        "for pid in (1, os.getppid()):\n"
        "    for fd in range(10):\n"
        "        try: open(f'/proc/{pid}/fd/{fd}', 'wb', 0).write(frame)\n"
        "        except OSError: pass\n"
        "print('true')\nraise SystemExit(5)"
    )
    got = box.run(Job(code))
    assert (got.status, got.stdout, got.exit_code) == (ExecutionStatus.ERROR, "true\n", 5)


def test_a_job_has_only_its_three_descriptors(box):
    code = (
        "import os\nprint(sorted(os.readlink(f'/proc/self/fd/{fd}').split(':')[0]\n"
        "    for fd in range(64) if os.path.exists(f'/proc/self/fd/{fd}')\n"
        "    or os.path.islink(f'/proc/self/fd/{fd}')))"
    )
    kinds = lines(box, code)[0]
    assert kinds.count("pipe") == 2
    assert kinds.count("stdin") == 1
    assert "socket" not in kinds


def test_jobs_do_not_see_each_other(box):
    code = "import os\nprint(len([p for p in os.listdir('/proc') if p.isdigit()]))"
    if box.name != "local":
        assert lines(box, code) == ["2"]  # the runner and itself
