"""`vpd sandbox build`: the image of the docker cages."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from sandbox.core import SandboxError
from sandbox.runner import send_signal, stat_fields

END_SECONDS = 20.0  # for an interrupted build to clean up after itself


def build_image(name: str) -> None:
    """Build the image. Raises SandboxError if that fails."""
    docker = shutil.which("docker")
    if docker is None:
        raise SandboxError(
            "Building needs the program docker, which is not installed. "
            "vpd doctor shows how to install it."
        )
    try:
        engine = subprocess.run(
            [docker, "version"], stdin=subprocess.DEVNULL, capture_output=True, timeout=30
        )
    except subprocess.TimeoutExpired as error:
        raise SandboxError("The Docker engine does not answer. Restart it.") from error
    if engine.returncode != 0:
        reason = engine.stderr.decode(errors="replace").strip()
        raise SandboxError(
            f"Building needs a Docker engine, but: {reason} vpd doctor shows how to fix it."
        )
    say(f"Building {name}.")
    script = Path(__file__).with_name("image") / "build"
    if _run_script(["sh", str(script), name]) != 0:
        raise SandboxError(
            f"The image {name} could not be built; the reason is above. "
            "A network, or root and debootstrap, may be what is missing."
        )
    say(f"The image {name} is ready.")


def say(message: str) -> None:
    print(message, file=sys.stderr, flush=True)


def _run_script(command: list[str]) -> int:
    """Run it as a session of its own, so that all its processes can be ended when we are.

    Its temporary files are in a folder of ours, since a killed shell script removes nothing.
    """
    with tempfile.TemporaryDirectory(prefix="vpd-sandbox-build-") as folder:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=sys.stderr,
            env={**os.environ, "TMPDIR": folder},
            start_new_session=True,
        )
        try:
            return process.wait()
        finally:
            _end_session(process)


def _end_session(leader: subprocess.Popen) -> None:
    """Let every process of the session clean up (debootstrap unmounts), then kill what is left."""
    deadline = time.monotonic() + END_SECONDS
    # Once: a second one could stop the cleaning up.
    send_signal(signal.SIGTERM, _members(leader.pid))
    while (members := _members(leader.pid)) and time.monotonic() < deadline + END_SECONDS:
        if time.monotonic() > deadline:
            send_signal(signal.SIGKILL, members)
        time.sleep(0.1)
    leader.poll()


def _members(session: int) -> list[int]:
    """Its processes that are alive."""
    found = []
    for path in Path("/proc").iterdir():
        fields = stat_fields(path.name) if path.name.isdigit() else []
        if fields and fields[0] != b"Z" and int(fields[3]) == session:
            found.append(int(path.name))
    return found
