"""Bubblewrap as the users of a cluster have it: without root, on the machine itself or in the user
namespace of a container that was started without root, such as Apptainer's.

Apptainer itself is not run here, but namespaces with the mappings that it makes are.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

import sandbox

pytestmark = pytest.mark.bubblewrap

NOBODY = 65534
AS_NOBODY = ["setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups"]
CONTAINERS = {
    "bare": [],
    "container, own user": ["unshare", "--user", "--map-current-user", "--mount"],
    "container, as its root": ["unshare", "--user", "--map-root-user", "--mount"],
}

HOST = """
import json, os, sandbox
limits = sandbox.Limits(cpu_seconds=0.5)
where = f"PATH = {os.environ['PYTHONPATH']!r}"
codes = [f"{where}\\n{code}" for code in json.loads(os.environ["CODES"])]
with sandbox.make("bubblewrap", cages=1, packages=[]) as box:
    results = [box.run(sandbox.Job(code, stdin="41", limits=limits)) for code in codes]
print(json.dumps([[result.status, result.stdout] for result in results]))
"""
NETWORK = """
import socket
try:
    socket.create_connection(("127.0.0.1", 1), 1)
except OSError as error:
    print(error.errno != 111)  # refused would mean that there is a network
"""
CODES = {
    "print(int(input()) + 1)": ("ok", "42\n"),
    "import os; print(os.path.exists(PATH))": ("ok", "False\n"),
    NETWORK: ("ok", "True\n"),
    "while True: pass": ("timeout", ""),
}


@pytest.fixture
def public_copy():
    """The package and an interpreter, where a user without rights can read them."""
    with tempfile.TemporaryDirectory(dir="/tmp") as name:
        Path(name).chmod(0o755)
        shutil.copytree(Path(sandbox.__file__).parent, Path(name, "sandbox"))
        yield Path(name)


def interpreter() -> str:
    """Of this version if a user without rights may run it, else the system's."""
    for path in (Path(sys.base_prefix, "bin/python3"), Path("/usr/bin/python3")):
        parents = path.resolve().parents
        if path.exists() and all(parent.stat().st_mode & 0o001 for parent in parents):
            return str(path)
    pytest.fail("There is no Python that a user without rights may run.")


@pytest.mark.parametrize("container", CONTAINERS)
def test_programs_are_judged_and_isolated_without_root(make_box, public_copy, container):
    make_box("bubblewrap", cages=1).close()  # skipped, or failed, where there is none
    user = AS_NOBODY if os.geteuid() == 0 else []
    done = subprocess.run(
        [*user, *CONTAINERS[container], interpreter(), "-c", HOST],
        env={
            "PATH": "/usr/bin:/bin",
            "PYTHONPATH": str(public_copy),
            "CODES": json.dumps(list(CODES)),
        },
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    results = [tuple(result) for result in json.loads(done.stdout)]
    assert results == list(CODES.values())
