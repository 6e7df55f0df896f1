"""What every backend starts a runner with: a command, an environment, and a user for the jobs."""

from __future__ import annotations

import os
import random
from pathlib import Path

from sandbox.runner import CPUS, USER

PACKAGES = ("numpy", "sortedcontainers")  # what programs may import besides the standard library
MOST_DIGITS = 50_000  # of an integer that is read or printed, as LiveCodeBench allows
SMALL_UIDS = range(20_000, 60_000)  # rootless containers have no more than 65,536

# The command of every cage: `python -c BOOT DIRECTORY`. It takes the runner from standard input,
# puts it where `python solution.py` imports it as sitecustomize, and becomes that. Standard input
# and output are then descriptors 3 and 4, and the standard streams are of the kinds that jobs have.
BOOT = """
import os, resource, sys
def take(size):
    data = b""
    while len(data) < size:
        part = os.read(0, size - len(data))
        if not part:
            sys.exit("the host hung up")
        data += part
    return data
boot, job = (os.path.join(sys.argv[1], name) for name in ("boot", "job"))
os.mkdir(boot)
os.mkdir(job)
with open(os.path.join(boot, "sitecustomize.py"), "wb") as file:
    file.write(take(int.from_bytes(take(4), "big")))
os.dup2(0, 3)
os.dup2(1, 4)
os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
os.dup2(2, 1)
os.closerange(5, 64)
os.chdir(job)
hard = resource.getrlimit(resource.RLIMIT_STACK)[1]
if hard < 0 or hard > 8 << 20:
    resource.setrlimit(resource.RLIMIT_STACK, (8 << 20, hard))  # what threads get by default
os.environ["PYTHONPATH"] = boot
os.environ["PYTHONNOUSERSITE"] = "1"
os.execv(sys.executable, [sys.executable, "solution.py"])
"""


def environment(home: str) -> dict[str, str]:
    """All variables that a job sees, the same in every cage but for `home`.

    Hashes are not randomized: verdicts should repeat.
    """
    return {
        "PATH": "/usr/local/bin:/usr/bin:/bin",
        "HOME": home,
        "USER": USER,
        "LOGNAME": USER,
        "TMPDIR": home,
        "LANG": "C.UTF-8",
        "PYTHONHASHSEED": "0",
        "PYTHONINTMAXSTRDIGITS": str(MOST_DIGITS),
        "PYTHON_CPU_COUNT": str(CPUS),  # for interpreters that a job starts
        "MALLOC_ARENA_MAX": "1",  # glibc reserves 64 MiB of address space per thread otherwise
        "OPENBLAS_NUM_THREADS": "1",
        "OMP_NUM_THREADS": "1",
    }


def python_command(executable: str, writable: str) -> list[str]:
    return [executable, "-c", BOOT, writable]


def new_uid() -> int | None:
    """A user of its own for the jobs of one cage, so that RLIMIT_NPROC counts only theirs.

    None if we may not become another user: we are not root, or root of a container that has one.
    """
    if os.geteuid() == 0:
        for users in (range(1 << 29, 1 << 30), SMALL_UIDS):
            if _exists(users[0]) and _exists(users[-1]):
                return random.SystemRandom().choice(users)
    return None


def _exists(uid: int) -> bool:
    """Whether our user namespace has that user."""
    for line in Path("/proc/self/uid_map").read_text().splitlines():
        first, _, count = map(int, line.split())
        if first <= uid < first + count:
            return True
    return False
