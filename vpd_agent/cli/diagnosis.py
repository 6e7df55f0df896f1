"""`vpd doctor`: what works on this machine and, for what does not, the command that mends it.

Everything is tried, not guessed: a sandbox works if it ran programs just now. What may hang or
crash (an engine, a cage, a GPU's driver) is tried in a child process with a time limit. If a check
itself fails, that is what its row says.
"""

from __future__ import annotations

import contextlib
import grp
import importlib
import json
import os
import platform
import pwd
import re
import shlex
import shutil
import socket
import statistics
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from importlib import metadata, util
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

import sandbox
from sandbox.docker import DEFAULT_ADDRESS, IMAGE, addresses
from sandbox.installation import externally_managed, pip_install, requirements
from sandbox.local import PACKAGES as CAGE_PACKAGES
from sandbox.local import interpreter
from vpd_agent.console import console, say

RUNS = 15  # of the program whose latency is told, after three to warm up
TRIAL_SECONDS = 30.0  # for a backend to start a cage and run these
ENGINE_SECONDS = 10.0  # for a Docker engine to answer
CONNECT_SECONDS = 3.0
GPU_SECONDS = 60.0  # the first import of torch from a slow disk takes long
LEAST_BYTES = 512 << 20  # of free memory, and of free space for temporary files

PROGRAM = "print(int(input()) + 1)"
PACKAGES = (
    *("torch", "transformers", "safetensors", "matplotlib", "vllm", "peft", "accelerate"),
    *("datasets", "math-verify", "reasoning-gym", "trl"),
)
BASE_PACKAGES = ("gymnasium", "numpy", "rich", "tyro")
UNSET = "unset DOCKER_HOST"
GPU_DEVICES = ("/dev/nvidia[0-9]*", "/dev/kfd", "/dev/dxg")  # NVIDIA, AMD, Windows' Linux


class State(StrEnum):
    WORKS = "works"
    ABSENT = "absent"  # optional, and not there
    BROKEN = "broken"


@dataclass(frozen=True)
class Check:
    """What was found of one thing."""

    name: str
    state: State
    found: str
    mend: str = ""  # a command for a shell, or what else to do
    needed: bool = False  # nothing works without it
    facts: dict[str, Any] = field(default_factory=dict)  # numbers, for programs


def main(as_json: bool) -> int:
    """Check, print, and return the exit code: 0 if a sandbox isolates and nothing needed broke."""
    groups: dict[str, list[Check]] = {}
    with console.status("") as status:
        for title, checks in GROUPS.items():
            groups[title] = []
            for name, check in checks.items():
                status.update(f"checking {name} …")
                groups[title] += _guarded(name, check)
    working = [
        check.name
        for check in groups["sandboxes"]
        if check.name in sandbox.factory.BACKENDS and check.state is State.WORKS
    ]
    everything = [check for checks in groups.values() for check in checks]
    needed = [check for check in everything if check.needed and check.state is State.BROKEN]
    isolated = any(name != "local" for name in working)
    ok = isolated and not needed
    if as_json:
        print(
            json.dumps(
                {
                    "ok": ok,
                    "auto": working[0] if working else None,
                    "checks": [
                        {"group": title, **asdict(check)}
                        for title, checks in groups.items()
                        for check in checks
                    ],
                },
                indent=1,
            )
        )
    else:
        _print_table(groups)
        for check in everything:  # once more, to copy: a narrow table breaks lines
            if check.state is State.BROKEN and check.mend:
                say(f"{check.name}:  {check.mend}")
        say(_conclusion(working, isolated, needed))
    return 0 if ok else 1


def _guarded(name: str, check: Callable[[], Iterator[Check]]) -> list[Check]:
    found: list[Check] = []
    try:
        found.extend(check())
    except Exception as error:
        found.append(Check(name, State.BROKEN, f"the check failed: {error!r}"))
    return found


def _conclusion(working: list[str], isolated: bool, needed: list[Check]) -> str:
    if needed:
        return f"Needed and broken: {', '.join(check.name for check in needed)}."
    if not working:
        return "No sandbox works here, so no program can be judged."
    if not isolated:
        return (
            "No sandbox isolates here: local runs programs, but protects neither your files nor "
            "your processes. Mend docker or bubblewrap."
        )
    return f"Ready. Programs run in {working[0]}, the strongest sandbox that works here."


def _print_table(groups: dict[str, list[Check]]) -> None:
    """To standard output: it is the result."""
    out = Console(highlight=False)
    unicode = out.encoding.lower().startswith("utf")
    marks = {
        State.WORKS: ("✓" if unicode else "ok", "green"),
        State.ABSENT: ("–" if unicode else "--", "dim"),
        State.BROKEN: ("✗" if unicode else "NO", "red"),
    }

    def text(words: str, style: str = "") -> Text:
        return Text(words.encode(out.encoding, "replace").decode(out.encoding), style)

    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    table.add_column("", no_wrap=True, min_width=1 if unicode else 2)
    table.add_column("what", no_wrap=True)
    table.add_column("found", overflow="fold")
    if any(check.mend for checks in groups.values() for check in checks):
        table.add_column("mend it with", overflow="fold")
    for checks in groups.values():
        for check in checks:
            table.add_row(
                text(*marks[check.state]),
                text(check.name),
                text(check.found),
                *[text(check.mend, "bold")][: len(table.columns) - 3],
            )
        table.add_section()
    out.print(table)


# --- the machine --------------------------------------------------------------------------------


def check_python() -> Iterator[Check]:
    version = platform.python_version()
    found = f"{platform.python_implementation()} {version} at {sys.executable}"
    if sys.version_info < (3, 11) or sys.implementation.name != "cpython":
        mend = "make a virtual environment with CPython 3.11 or newer"
        yield Check("Python", State.BROKEN, found, mend, needed=True)
    else:
        yield Check("Python", State.WORKS, found, needed=True)


def check_system() -> Iterator[Check]:
    name = _os_release().get("PRETTY_NAME", platform.system())
    found = f"{name}, {platform.system()} {platform.release()}, {platform.machine()}"
    if platform.system() != "Linux":
        mend = "use Linux, or a Linux virtual machine"
        yield Check("system", State.BROKEN, found, mend, needed=True)
    else:
        yield Check("system", State.WORKS, found, needed=True)


def check_capacity() -> Iterator[Check]:
    cores = len(os.sched_getaffinity(0))
    share = _cpu_share()
    limited = f", held to {share:g} by a control group" if share and share < cores else ""
    total_bytes, free_bytes = _memory()
    found = f"{_count(cores, 'core')}{limited}; {_size(free_bytes)} of {_size(total_bytes)} free"
    facts = {
        "cores": cores,
        "cpu_share": share,
        "memory_bytes": total_bytes,
        "memory_free_bytes": free_bytes,
    }
    if free_bytes < LEAST_BYTES:
        mend = f"free some memory: a program may use {_size(sandbox.Limits().memory_bytes)}"
        yield Check("memory", State.BROKEN, found, mend, needed=True, facts=facts)
    else:
        yield Check("memory", State.WORKS, found, needed=True, facts=facts)


def check_disk() -> Iterator[Check]:
    try:
        with tempfile.TemporaryFile():
            place = tempfile.gettempdir()
    except OSError as error:
        mend = "export TMPDIR=… (a directory that can be written)"
        yield Check("disk", State.BROKEN, str(error), mend, needed=True)
        return
    free_bytes = shutil.disk_usage(place).free
    found, facts = f"{place}: {_size(free_bytes)} free", {"free_bytes": free_bytes}
    if free_bytes < LEAST_BYTES:
        mend = "export TMPDIR=… (a directory with more room)"
        yield Check("disk", State.BROKEN, found, mend, needed=True, facts=facts)
    else:
        yield Check("disk", State.WORKS, found, needed=True, facts=facts)


def check_cgroups() -> Iterator[Check]:
    root = Path("/sys/fs/cgroup")
    if (root / "cgroup.controllers").exists():
        version = 2
    elif (root / "memory").is_dir():
        version = 1
    else:
        yield Check("cgroups", State.ABSENT, "none: only Docker's limits use them")
        return
    yield Check("cgroups", State.WORKS, f"version {version}", facts={"version": version})


def check_base_packages() -> Iterator[Check]:
    for name in BASE_PACKAGES:
        check = _package(name)
        if check.state is not State.WORKS:
            yield Check(name, State.BROKEN, check.found, check.mend, needed=True)


# --- the sandboxes ------------------------------------------------------------------------------


def check_docker() -> Iterator[Check]:
    problem = _docker_package_problem()
    engines: dict[str, dict] = {}
    problems: list[tuple[str, str]] = []
    for address in () if problem else addresses():
        try:
            engines[address] = _engine(address)
        except _Problem as error:
            problems.append(error.args)
    if not engines:
        found, mend = problem or problems[0]
        yield Check("docker", State.BROKEN, found, mend)
        yield Check("gVisor", State.ABSENT, "optional; needs Docker")
        return
    lacking = [engine for engine in engines.values() if not engine["image"]]
    if lacking:
        found = f"engine {lacking[0]['version']} answers, but has no image {IMAGE}"
        build = _vpd("sandbox", "build")
        if shutil.which("docker") is None:  # the command; a remote engine comes without
            build = f"{_install('docker')} && {build}"
        yield Check("docker", State.BROKEN, found, build)
    else:
        inspect = f"docker run --rm {IMAGE} python3 -c 'print(42)'"
        versions = ", ".join(engine["version"] for engine in engines.values())
        yield _tried("docker", f"engine {versions}", mend=inspect)
    for found, mend in problems:  # of several engines, some
        yield Check("docker host", State.BROKEN, found, mend)
    for engine in engines.values():
        if engine["unlimited"]:
            yield Check(
                "docker limits",
                State.BROKEN,
                f"the engine cannot limit {', '.join(engine['unlimited'])}",
                "https://docs.docker.com/engine/security/rootless/tips/#limiting-resources",
            )
    yield from _gvisor(engines, ready=not lacking)


def check_bubblewrap() -> Iterator[Check]:
    program = shutil.which("bwrap")
    if program is None:
        found = "the program bwrap is not installed"
        yield Check("bubblewrap", State.BROKEN, found, _install("bubblewrap"))
        return
    said = subprocess.run([program, "--version"], capture_output=True, text=True, timeout=10).stdout
    version = _numbers(said.rpartition(" ")[2])
    if version < (0, 8):
        found = f"{said.strip()} at {program}, but 0.8 or newer is needed"
        mend = "https://github.com/containers/bubblewrap/releases"
        yield Check("bubblewrap", State.BROKEN, found, mend)
        return
    check = _tried("bubblewrap", said.removeprefix("bubblewrap").strip())
    problem = _no_namespaces(program) if check.state is State.BROKEN else None
    yield Check("bubblewrap", State.BROKEN, *problem) if problem else check


def check_local() -> Iterator[Check]:
    yield _tried("local", "does not isolate", needed=True)


def _tried(name: str, version: str, *, mend: str = "", needed: bool = False) -> Check:
    """Run programs in a backend. `mend` is for the case that it does not work."""
    try:
        facts = _in_child(try_sandbox, name, {}, seconds=TRIAL_SECONDS)
    except _Problem as error:
        return Check(name, State.BROKEN, error.args[0], mend, needed)
    missing = [package for package, seen in facts["packages"].items() if seen is None]
    parts = [
        version,
        f"{1000 * facts['job_seconds']:.1f} ms a program, {facts['start_seconds']:.1f} s to start",
        f"Python {facts['python']}",
        *(f"{package} {seen}" for package, seen in facts["packages"].items() if seen is not None),
        *(f"no {package}" for package in missing),
    ]
    install = ""
    if missing:
        install = _vpd("sandbox", "build") if name == "docker" else _install_in_cages(missing)
    return Check(name, State.WORKS, "; ".join(parts), install, needed, facts)


def try_sandbox(name: str, options: dict[str, Any]) -> dict[str, Any]:
    """What a backend does, measured by running programs in it; for a child process."""
    begin = time.perf_counter()
    with contextlib.closing(sandbox.make(name, cages=1, **options)) as box:
        start_seconds = time.perf_counter() - begin
        seconds = []
        for number in range(3 + RUNS):
            begin = time.perf_counter()
            execution = box.run(sandbox.Job(PROGRAM, stdin=str(number)))
            seconds.append(time.perf_counter() - begin)
            if execution.stdout != f"{number + 1}\n":
                raise sandbox.SandboxError(f"{PROGRAM} with {number} gave {execution}")
        python = box.run(sandbox.Job("import platform; print(platform.python_version())"))
        packages = {}
        for package in CAGE_PACKAGES:
            seen = box.run(sandbox.Job(f"import {package}; print({package}.__version__)"))
            packages[package] = seen.stdout.strip() or None
    return {
        "start_seconds": start_seconds,
        "job_seconds": statistics.median(seconds[3:]),
        "python": python.stdout.strip(),
        "packages": packages,
    }


# --- why Docker does not work -------------------------------------------------------------------


def _docker_package_problem() -> tuple[str, str] | None:
    check = _package("docker")
    if check.state is not State.WORKS:
        return f"the Python package docker: {check.found}", check.mend
    try:
        importlib.import_module("docker")
    except Exception as error:  # whatever a damaged installation raises
        again = pip_install("--force-reinstall", _requirement("docker"))
        return f"the Python package docker cannot be imported: {error}", again
    return None


def _engine(address: str) -> dict[str, Any]:
    """What the engine at `address` says of itself; raises _Problem with the reason and the cure."""
    scheme, _, place = address.partition("://")
    if scheme == "unix":
        _connect_unix(place)
    elif scheme == "tcp":
        _connect_tcp(address)
    elif scheme == "ssh" and util.find_spec("paramiko") is None:
        raise _Problem(f"{address} needs the Python package paramiko", pip_install("paramiko"))
    try:
        return _in_child(ask_engine, address, IMAGE, ENGINE_SECONDS / 2, seconds=ENGINE_SECONDS)
    except _Problem as error:
        reason = f"no Docker engine answers at {address}: {error.args[0]}"
        again = _restart() if address == DEFAULT_ADDRESS else f"restart it, or: {UNSET}"
        raise _Problem(reason, _other_address(place) or again) from error


def ask_engine(address: str, image: str, seconds: float) -> dict[str, Any]:
    """For a child process: an engine can hang, and ssh can ask for a password.

    Args:
        seconds: for each of its answers.
    """
    import docker
    from docker.errors import ImageNotFound

    environment = {**os.environ, "DOCKER_HOST": address}
    client = docker.from_env(timeout=seconds, environment=environment)
    with contextlib.closing(client):
        info = client.api.info()
        try:
            client.api.inspect_image(image)
            built = True
        except ImageNotFound:
            built = False
    limits = {"MemoryLimit": "memory", "PidsLimit": "processes", "CpuCfsQuota": "CPU"}
    return {
        "version": info.get("ServerVersion", "of unknown version"),
        "image": built,
        "runtimes": sorted(info.get("Runtimes") or ()),
        "unlimited": [name for key, name in limits.items() if info.get(key) is False],
    }


def _connect_unix(path: str) -> None:
    with socket.socket(socket.AF_UNIX) as probe:
        probe.settimeout(CONNECT_SECONDS)
        try:
            probe.connect(path)
        except PermissionError as error:
            raise _Problem(*_no_permission(path)) from error
        except OSError as error:
            named = " (from DOCKER_HOST)" if "DOCKER_HOST" in os.environ else ""
            reason = f"no engine listens at {path}{named}: {error.strerror or error}"
            raise _Problem(reason, _other_address(path) or _start_engine()) from error


def _connect_tcp(address: str) -> None:
    try:
        place = urlsplit(address)
        host, port = place.hostname or "", place.port or 2375
        socket.create_connection((host, port), timeout=CONNECT_SECONDS).close()
    except (OSError, ValueError) as error:
        reason = f"no engine listens at {address} (from DOCKER_HOST): {error}"
        mend = _other_address("") or f"start the engine there, or: {UNSET}"
        raise _Problem(reason, mend) from error


def _no_permission(path: str) -> tuple[str, str]:
    try:
        status = Path(path).stat()
        group = grp.getgrgid(status.st_gid)
    except (OSError, KeyError):  # in a closed directory: another user's engine
        return f"this user may not reach {path}", _other_address(path) or _start_engine()
    try:
        user = pwd.getpwuid(os.geteuid()).pw_name
    except KeyError:
        reason = f"this user, who has no name, may not use {path}"
        return reason, f"docker run --group-add {status.st_gid} … (for the container we are in)"
    if status.st_gid == 0 or not status.st_mode & 0o020:
        setup = f"sudo groupadd --force docker && sudo usermod -aG docker {user} && {_restart()}"
        return f"only root may use {path}; log in again afterwards", setup
    if user in group.gr_mem:
        reason = f"{user} is in the group {group.gr_name}, but this login began before"
        return reason, f"newgrp {group.gr_name}"
    reason = f"{user} may not use {path}; log in again afterwards"
    return reason, f"sudo usermod -aG {group.gr_name} {user}"


def _other_address(path: str) -> str | None:
    """A command that leads to an engine that does listen, at a usual place other than `path`."""
    default = DEFAULT_ADDRESS.removeprefix("unix://")
    home, runtime = (os.environ.get(name, "/nonexistent") for name in ("HOME", "XDG_RUNTIME_DIR"))
    usual = [
        default,
        f"{runtime}/docker.sock",  # rootless
        f"{home}/.docker/run/docker.sock",  # Docker Desktop
        f"{home}/.docker/desktop/docker.sock",
        f"{runtime}/podman/podman.sock",
    ]
    for other in usual:
        with socket.socket(socket.AF_UNIX) as probe, contextlib.suppress(OSError):
            probe.settimeout(CONNECT_SECONDS)
            if other != path:
                probe.connect(other)
                return f"export DOCKER_HOST=unix://{other}" if other != default else UNSET
    return None


def _start_engine() -> str:
    if shutil.which("dockerd") is None and not Path("/usr/sbin/dockerd").exists():
        return _install("docker")
    if Path("/run/systemd/system").is_dir():
        return _root("systemctl enable --now docker")
    if Path("/etc/init.d/docker").exists():
        return _root("service docker start")
    return _root("sh -c 'dockerd >/var/log/dockerd.log 2>&1 &'")


def _restart() -> str:
    if Path("/run/systemd/system").is_dir():
        return _root("systemctl restart docker")
    return _root("service docker restart")


def _gvisor(engines: dict[str, dict], *, ready: bool) -> Iterator[Check]:
    if not all("runsc" in engine["runtimes"] for engine in engines.values()):
        there = shutil.which("runsc") is not None
        mend = f"{_root('runsc install')} && {_restart()}"
        yield Check(
            "gVisor",
            State.ABSENT,
            "optional; installed, but the engine does not know it" if there else "optional",
            mend if there else "https://gvisor.dev/docs/user_guide/install/",
        )
    elif not ready:
        yield Check("gVisor", State.ABSENT, "optional; the engine has it, but no image to try")
    else:
        try:
            facts = _in_child(try_sandbox, "docker", {"runtime": "runsc"}, seconds=TRIAL_SECONDS)
        except _Problem as error:
            mend = f"docker run --rm --runtime runsc {IMAGE} python3 -c 'print(42)'"
            yield Check("gVisor", State.BROKEN, error.args[0], mend)
        else:
            found = f"runsc; {1000 * facts['job_seconds']:.1f} ms a program"
            yield Check("gVisor", State.WORKS, found, facts=facts)


# --- why bubblewrap does not work ---------------------------------------------------------------


def _no_namespaces(program: str) -> tuple[str, str] | None:
    """If bwrap cannot make namespaces here: why, and the command that allows them."""
    nothing = [sys.executable, "-c", ""]
    for user in ([], ["--unshare-user"]):  # root may need none of its own
        command = [program, *user, "--unshare-all", "--ro-bind", "/", "/", "--proc", "/proc"]
        done = subprocess.run([*command, *nothing], capture_output=True, text=True, timeout=10)
        if done.returncode != 0:
            break
    else:
        return None
    for name, forbidding, allowing in (
        ("kernel.unprivileged_userns_clone", 0, 1),  # Debian and Arch, hardened
        ("user.max_user_namespaces", 0, 15000),  # RHEL 7
        ("kernel.apparmor_restrict_unprivileged_userns", 1, 0),  # Ubuntu since 23.10
    ):
        if _number(Path("/proc/sys", *name.split("."))) == forbidding:
            reason = f"user namespaces are disabled: {name} is {forbidding}"
            return reason, _root(f"sysctl -w {name}={allowing}")
    if not Path("/proc/self/ns/user").exists():
        return "this kernel has no user namespaces", "use Docker, or another kernel"
    if any(Path(mark).exists() for mark in ("/.dockerenv", "/run/.containerenv")):
        options = ("seccomp=unconfined", "apparmor=unconfined", "systempaths=unconfined")
        return (
            f"we are in a container that may make no namespaces of its own ({_last_line(done)})",
            " ".join(["docker run", *(f"--security-opt {option}" for option in options), "…"]),
        )
    return f"bwrap cannot make namespaces: {_last_line(done)}", shlex.join([*command, "true"])


# --- training -----------------------------------------------------------------------------------


def check_packages() -> Iterator[Check]:
    for name in PACKAGES:
        yield _package(name)


def check_gpu() -> Iterator[Check]:
    if not any(any(Path("/").glob(pattern.lstrip("/"))) for pattern in GPU_DEVICES):
        yield Check("GPU", State.ABSENT, "none: the CPU trains tiny models")
        return
    torch = _package("torch")
    if torch.state is not State.WORKS:
        yield Check("GPU", State.BROKEN, "there is one, but torch does not work", torch.mend)
        return
    try:
        seen = _in_child(ask_torch, seconds=GPU_SECONDS)
    except _Problem as error:
        yield Check("GPU", State.BROKEN, f"torch fails: {error.args[0]}", "nvidia-smi")
        return
    if seen["devices"]:
        yield Check("GPU", State.WORKS, ", ".join(seen["devices"]), facts=seen)
    elif seen["built_for"] is None:
        again = pip_install("--force-reinstall", _requirement("torch"))
        yield Check("GPU", State.BROKEN, "there is one, but this torch is for CPUs only", again)
    else:
        found = f"there is one, but torch (for {seen['built_for']}) cannot use it"
        yield Check("GPU", State.BROKEN, found, "nvidia-smi")


def ask_torch() -> dict[str, Any]:
    """For a child process: the import takes seconds and a driver can crash."""
    import torch

    built_for = f"CUDA {torch.version.cuda}" if torch.version.cuda else None
    if torch.version.hip:
        built_for = f"ROCm {torch.version.hip}"
    devices = [torch.cuda.get_device_properties(i) for i in range(torch.cuda.device_count())]
    return {
        "built_for": built_for,
        "devices": [f"{device.name}, {_size(device.total_memory)}" for device in devices],
    }


# --- packages and the commands that install them ------------------------------------------------


def _package(name: str) -> Check:
    """Whether a package is installed, and in a version that we can use; nothing is imported."""
    requirement = _requirement(name)
    for distribution in (name, f"{name}-cpu"):  # vllm has two names
        with contextlib.suppress(metadata.PackageNotFoundError):
            version = metadata.version(distribution)
            break
    else:
        return Check(name, State.ABSENT, "not installed", pip_install(requirement))
    if not _fits(version, requirement.removeprefix(name)):
        found = f"{version}, but {requirement} is needed"
        return Check(name, State.BROKEN, found, pip_install(requirement))
    return Check(name, State.WORKS, version, facts={"version": version})


def _requirement(name: str) -> str:
    """As our own metadata has it, such as torch<2.14,>=2.11; else just the name."""
    for line in requirements():
        requirement = line.partition(";")[0].strip()
        if re.match(r"[\w.-]+", requirement)[0].lower() == name:
            return requirement
    return name


def _fits(version: str, bounds: str) -> bool:
    """Whether a version keeps to bounds such as `<2.14,>=2.11`, the only kinds that we use."""
    for bound in filter(None, bounds.split(",")):
        limit = _numbers(bound.lstrip("<>="))
        below = _numbers(version) < limit
        if (bound.startswith("<") and not below) or (bound.startswith(">=") and below):
            return False
    return True


def _install_in_cages(packages: list[str]) -> str:
    """For the interpreter itself: that is the one in the cages, not a virtual environment."""
    if externally_managed() and _family(_os_release()) == "debian":
        return install_command([f"python3-{package}" for package in packages], _os_release())
    words = [interpreter(), "-m", "pip", "install"]
    if externally_managed():
        words.append("--break-system-packages")
    command = shlex.join([*words, *packages])
    return command if os.access(sysconfig.get_path("stdlib"), os.W_OK) else _root(command)


MANAGERS = {  # by the ID or ID_LIKE of /etc/os-release: how to install, and the package of Docker
    "debian": ("apt-get install -y", "docker.io"),
    "fedora": ("dnf install -y", "moby-engine"),
    "arch": ("pacman -S --needed", "docker"),
    "suse": ("zypper install", "docker"),
    "alpine": ("apk add", "docker"),
}


def install_command(packages: list[str], release: dict[str, str]) -> str:
    """How a distribution installs packages. "docker" stands for the package with the engine.

    Args:
        release: the fields of its /etc/os-release.
    """
    family = _family(release)
    if family is None:
        if packages == ["docker"]:
            return "https://docs.docker.com/engine/install/"
        return f"install {' '.join(packages)} with the package manager"
    command, docker = MANAGERS[family]
    names = [docker if package == "docker" else package for package in packages]
    install = _root(" ".join([command, *names]))
    if family == "debian" and not any(Path("/var/lib/apt/lists").glob("*_Packages*")):
        return f"{_root('apt-get update')} && {install}"
    return install


def _install(package: str) -> str:
    return install_command([package], _os_release())


def _family(release: dict[str, str]) -> str | None:
    for name in f"{release.get('ID', '')} {release.get('ID_LIKE', '')}".split():
        for family in MANAGERS:
            if name == family or name.startswith(f"open{family}"):
                return family
    return None


def _os_release() -> dict[str, str]:
    try:
        return platform.freedesktop_os_release()
    except OSError:
        return {}


def _root(command: str) -> str:
    return command if os.geteuid() == 0 else f"sudo {command}"


def _vpd(*words: str) -> str:
    """Our own command, as it can be typed here."""
    there = shutil.which("vpd") is not None
    return shlex.join(["vpd" if there else str(Path(sys.executable).with_name("vpd")), *words])


# --- small things -------------------------------------------------------------------------------


class _Problem(Exception):
    """Its arguments are what is wrong and, where it is known, what mends it."""


def _in_child(function: Callable[..., dict], *arguments: Any, seconds: float) -> dict[str, Any]:
    """Call a function of this module in a process that can hang and crash. May raise _Problem."""
    package = str(Path(__file__).parents[2])
    call = json.dumps([function.__name__, arguments])
    path = os.pathsep.join(filter(None, [package, os.environ.get("PYTHONPATH")]))
    try:
        done = subprocess.run(
            # -P: files in the current folder must not pass for modules.
            [sys.executable, "-P", "-W", "ignore", "-c", CHILD, call],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=seconds,
            env={**os.environ, "PYTHONPATH": path},
            start_new_session=True,  # without a terminal nobody can be asked for a password
        )
    except subprocess.TimeoutExpired as error:
        raise _Problem(f"no answer within {seconds:g} seconds") from error
    try:
        answer = json.loads(done.stdout.rpartition("\n")[2])
    except ValueError as error:
        raise _Problem(f"exit code {done.returncode}: {_last_line(done)}") from error
    if "problem" in answer:
        words = " ".join(answer["problem"].split())
        raise _Problem(words if len(words) < 300 else f"{words[:200]} … {words[-80:]}")
    return answer


CHILD = """
import json, sys
from vpd_agent.cli import diagnosis
name, arguments = json.loads(sys.argv[1])
try:
    answer = getattr(diagnosis, name)(*arguments)
except Exception as error:
    answer = {"problem": f"{error}" or repr(error)}
print(end="\\n" + json.dumps(answer))
"""


def _last_line(done: subprocess.CompletedProcess) -> str:
    return done.stderr.strip().rpartition("\n")[2]


def _memory() -> tuple[int, int]:
    """Bytes in all and free, as far as this process may use them."""
    lines = Path("/proc/meminfo").read_text().splitlines()
    sizes = {line.partition(":")[0]: int(line.split()[1]) << 10 for line in lines}
    total, free = sizes["MemTotal"], sizes["MemAvailable"]
    for limit, used in (
        ("memory.max", "memory.current"),
        ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes"),
    ):
        limit_bytes = _number(Path("/sys/fs/cgroup", limit))
        used_bytes = _number(Path("/sys/fs/cgroup", used))
        if limit_bytes is not None and used_bytes is not None and limit_bytes < total:
            total, free = limit_bytes, min(free, max(0, limit_bytes - used_bytes))
    return total, free


def _cpu_share() -> float | None:
    """Of how many CPUs the control group may use the time, if it is limited."""
    with contextlib.suppress(OSError, ValueError):
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text().split()
        return int(quota) / int(period)
    quota = _number(Path("/sys/fs/cgroup/cpu/cpu.cfs_quota_us"))
    period = _number(Path("/sys/fs/cgroup/cpu/cpu.cfs_period_us"))
    return quota / period if quota and period and quota > 0 else None


def _number(path: Path) -> int | None:
    try:
        return int(path.read_text())
    except (OSError, ValueError):
        return None


def _numbers(version: str) -> tuple[int, ...]:
    """2.13.0+cpu is (2, 13, 0)."""
    found = re.match(r"\d+(?:\.\d+)*", version)
    return tuple(map(int, found[0].split("."))) if found else ()


def _size(size_bytes: int) -> str:
    return f"{size_bytes / (1 << 30):.1f} GB"


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" + ("s" if number != 1 else "")


GROUPS: dict[str, dict[str, Callable[[], Iterator[Check]]]] = {
    "machine": {
        "Python": check_python,
        "the system": check_system,
        "cores and memory": check_capacity,
        "temporary files": check_disk,
        "control groups": check_cgroups,
        "packages": check_base_packages,
    },
    "sandboxes": {
        "docker": check_docker,
        "bubblewrap": check_bubblewrap,
        "local": check_local,
    },
    "training": {"packages for training": check_packages, "GPU": check_gpu},
}
