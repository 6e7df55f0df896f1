"""vpd doctor: what works on this machine and, for the rest, a command that fixes it.

Everything is tried: a sandbox works if it has just run programs. What may hang or crash (a Docker
engine, a sandbox, the driver of a GPU) is tried in a child process with a time limit. If a check
itself fails, its row says so, and the other checks go on.
"""

from __future__ import annotations

import contextlib
import json
import os
import platform
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field, replace
from enum import StrEnum
from functools import partial
from importlib import metadata
from itertools import zip_longest
from pathlib import Path
from typing import Any

from packaging.requirements import Requirement
from rich.console import Console
from rich.text import Text

import sandbox
from sandbox.cage import PACKAGES as CAGE_PACKAGES
from sandbox.installation import install_hint, pip_install, requirements
from vpd_agent.cli.flags import FlagGroup, parse
from vpd_agent.console import console, say
from vpd_agent.model import smollm2
from vpd_agent.runs.machine import free_memory

SANDBOXES = ("docker", "bubblewrap", "local")  # the strongest first
RUNS = 15  # of the program whose latency is measured, after three to warm up
SANDBOX_SECONDS = 30.0  # for a sandbox to start and run these
RAY_SECONDS = 150.0  # for all nodes to try their sandboxes
GPU_SECONDS = 60.0  # the first import of torch from a slow disk takes long
MIN_BYTES = 512 << 20  # of free memory, and of free space for temporary files

PROGRAM = "print(int(input()) + 1)"
BUILD = "vpd sandbox build"
BASE_PACKAGES = ("gymnasium", "numpy", "rich", "tyro")
TRAINING_PACKAGES = (
    *("torch", "transformers", "safetensors", "matplotlib", "vllm", "peft", "accelerate"),
    *("gguf", "datasets", "math-verify", "reasoning-gym", "textarena", "trl"),
)
OF_DEVELOPERS = "dev"  # the extra that a package is not to be installed by
GPU_DEVICES = ("nvidia[0-9]*", "kfd", "dxg")  # in /dev: NVIDIA, AMD, Linux inside Windows


@dataclass(frozen=True, kw_only=True)
class DoctorOptions:
    json: bool = False
    """Print one JSON object instead of a table."""


class State(StrEnum):
    WORKS = "works"
    ABSENT = "absent"  # optional, and not there
    BROKEN = "broken"


@dataclass(frozen=True)
class Check:
    """What was found out about one thing."""

    name: str
    state: State
    found: str
    fix: str = ""  # a command for a shell, or what else to do
    needed: bool = False  # nothing works without it
    facts: dict[str, Any] = field(default_factory=dict)  # numbers, for programs


def doctor(arguments: list[str]) -> int:
    """Returns the exit code: 0 if a sandbox isolates and nothing that is needed is broken."""
    options: DoctorOptions = parse(
        "vpd doctor",
        arguments,
        description="What works on this machine and, for what does not, the command that fixes "
        "it. Exit code 0 if a sandbox isolates and nothing that is needed is broken, else 1.",
        options=FlagGroup(DoctorOptions),
    ).options
    checks = list(_all_checks())
    works = {check.name for check in checks if check.state is State.WORKS}
    working = [name for name in SANDBOXES if name in works]
    broken = [check.name for check in checks if check.needed and check.state is State.BROKEN]
    ok = working not in ([], ["local"]) and not broken
    if options.json:
        auto = working[0] if working else None
        print(json.dumps({"ok": ok, "auto": auto, "checks": [*map(asdict, checks)]}, indent=1))
    else:
        _print_table(checks)
        say(_conclusion(working, broken))
    return 0 if ok else 1


def _all_checks() -> Iterator[Check]:
    with console.status("") as status:
        for name, check in CHECKS.items():
            status.update(f"checking {name} …")
            try:
                yield from check()
            except Exception as error:
                yield Check(name, State.BROKEN, f"the check failed: {error!r}")


def _conclusion(working: list[str], broken: list[str]) -> str:
    if broken:
        return f"Needed and broken: {', '.join(broken)}."
    if not working:
        return "No sandbox works here, so no program can be judged."
    if working == ["local"]:
        return (
            "No sandbox isolates here: local runs programs, but protects neither your files nor "
            "your processes. Fix docker or bubblewrap."
        )
    return f"Ready. Programs run in {working[0]}, the strongest sandbox that works here."


def _print_table(checks: list[Check]) -> None:
    """To standard output: it is the result. A fix has a line of its own, to copy; one that mends
    several rows in a row stands below the last."""
    out = Console(highlight=False, soft_wrap=True)
    unicode = out.encoding.lower().startswith("utf")
    marks = {
        State.WORKS: ("✓" if unicode else "ok", "green"),
        State.ABSENT: ("–" if unicode else "--", "dim"),
        State.BROKEN: ("✗" if unicode else "NO", "red"),
    }
    for check, below in zip_longest(checks, checks[1:]):
        fix = "" if below is not None and below.fix == check.fix else check.fix
        words = f" {check.name:<13} {check.found}\n" + (f"     {fix}\n" if fix else "")
        plain = words.encode(out.encoding, "replace").decode(out.encoding)
        out.print(Text.assemble(marks[check.state], plain), end="")


# --- the machine and the packages ---------------------------------------------------------------


def check_machine() -> Iterator[Check]:
    found = f"{platform.python_implementation()} {platform.python_version()} at {sys.executable}"
    cpython = sys.implementation.name == "cpython"
    yield _needed("Python", cpython, found, "make a virtual environment with CPython")
    found = f"{platform.system()} {platform.release()}, {platform.machine()}"
    linux = platform.system() == "Linux"
    yield _needed("system", linux, found, "use Linux, or a Linux virtual machine")
    free, cores = free_memory(), len(os.sched_getaffinity(0))
    found = f"{_size(free)} free; cores: {cores}"
    fix = f"free some memory: a program may use {_size(sandbox.Limits().memory_bytes)}"
    yield _needed("memory", free >= MIN_BYTES, found, fix)
    folder = tempfile.gettempdir()  # raises an error with a clear message if there is none
    free, fix = shutil.disk_usage(folder).free, "export TMPDIR=… (a folder with free space)"
    yield _needed("disk", free >= MIN_BYTES, f"{folder}: {_size(free)} free", fix)


def check_base_packages() -> Iterator[Check]:
    for check in map(check_package, BASE_PACKAGES):
        if check.state is not State.WORKS:
            yield replace(check, state=State.BROKEN, needed=True)


def check_package(name: str) -> Check:
    """Whether a package is installed, in a version that we can use. It is not imported. One that is
    absent is installed with the others of its extra."""
    ours = (Requirement(line) for line in requirements())
    requirement = next((r for r in ours if r.name.lower() == name), Requirement(name))
    words = f"{name}{requirement.specifier}"
    for distribution in (name, f"{name}-cpu"):  # vllm has two names
        with contextlib.suppress(metadata.PackageNotFoundError):
            version = metadata.version(distribution)
            if requirement.specifier.contains(version, prereleases=True):
                return Check(name, State.WORKS, version, facts={"version": version})
            found = f"{version}, but {words} is needed"
            return Check(name, State.BROKEN, found, pip_install(words))
    extra = re.search(r'extra == "(\w+)"', str(requirement.marker))
    fix = pip_install(words)
    if extra is not None and extra[1] != OF_DEVELOPERS:
        fix = install_hint(extra[1])
    return Check(name, State.ABSENT, "not installed", fix)


def _needed(name: str, works: bool, found: str, fix: str) -> Check:
    state = State.WORKS if works else State.BROKEN
    return Check(name, state, found, "" if works else fix, needed=True)


def _size(size_bytes: int) -> str:
    return f"{size_bytes / (1 << 30):.1f} GB"


def check_smollm2() -> Iterator[Check]:
    """Whether --model smollm2 is in the cache, and what is missing to make it."""
    fetch = f"vpd warmup --model {smollm2.NAME}"
    folder, missing = smollm2.cache_folder(), smollm2.what_is_missing()
    if smollm2.cached() is not None:
        size = sum(path.stat().st_size for path in folder.iterdir())
        yield Check(smollm2.NAME, State.WORKS, f"{_size(size)} in {folder}")
        return
    damage = smollm2.damage(folder) if folder.exists() else ""
    problem, fix = missing or ("", fetch)
    found = "; ".join(filter(None, [damage or "not fetched yet", problem]))
    yield Check(smollm2.NAME, State.BROKEN if damage else State.ABSENT, found, fix)


# --- the sandboxes ------------------------------------------------------------------------------


def check_sandbox(
    name: str,
    fix: Callable[[str], str] = lambda reason: "",
    *,
    needed: bool = False,
    note: str = "",
    **options: Any,
) -> Iterator[Check]:
    """Run programs in a sandbox. `fix` gets the reason if it does not work."""
    try:
        facts = _in_child("try_sandbox", name, options, seconds=SANDBOX_SECONDS)
    except _ChildError as error:
        yield Check(name, State.BROKEN, str(error), fix(str(error)), needed)
        return
    packages: dict[str, str | None] = facts["packages"]
    missing = [package for package, version in packages.items() if version is None]
    parts = [
        f"{1000 * facts['job_seconds']:.1f} ms a program, {facts['start_seconds']:.1f} s to start",
        f"Python {facts['python']}",
        *(f"{p} {version}" if version else f"no {p}" for p, version in packages.items()),
    ]
    install = "" if not missing else BUILD if name == "docker" else pip_install(*missing)
    yield Check(name, State.WORKS, note + "; ".join(parts), install, needed, facts)


def try_sandbox(name: str, options: dict[str, Any]) -> dict[str, Any]:
    """Run programs in a sandbox, and measure it. For a child process."""
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

        def printed(program: str) -> str | None:
            return box.run(sandbox.Job(program)).stdout.strip() or None

        def version(package: str) -> str | None:
            """None if the cage has no such package: a program that imports it gets no verdict."""
            try:
                return printed(f"import {package}; print({package}.__version__)")
            except sandbox.SandboxError as error:
                if "has no such module" in str(error):
                    return None
                raise

        return {
            "start_seconds": start_seconds,
            "job_seconds": statistics.median(seconds[3:]),
            "python": printed("import platform; print(platform.python_version())"),
            "packages": {package: version(package) for package in CAGE_PACKAGES},
        }


def check_ray() -> Iterator[Check]:
    """What each node of the cluster that RAY_ADDRESS names can offer to --sandbox ray."""
    package = check_package("ray")
    if package.state is not State.WORKS:
        yield package
        return
    address = os.environ.get("RAY_ADDRESS")
    if not address:
        yield replace(package, found=f"{package.found}; RAY_ADDRESS names no cluster")
        return
    try:
        offers = _in_child("ask_ray", seconds=RAY_SECONDS)["nodes"]
    except _ChildError as error:
        yield Check("ray", State.BROKEN, str(error), "ray status  # or unset RAY_ADDRESS")
        return
    for offer in offers:
        works = [name for name, reason in offer["sandboxes"].items() if reason is None]
        found = f"{offer['name']}: {offer['cores']:g} cores; "
        found += offer["problem"] or f"{', '.join(works)} work{'s' * (len(works) == 1)}"
        fix = f"vpd doctor  # on {offer['name']}"
        if offer["problem"] is None and works not in ([], ["local"]):
            yield Check("ray", State.WORKS, found, facts=offer)
        else:
            yield Check("ray", State.BROKEN, found, fix, facts=offer)


def ask_ray() -> dict[str, Any]:
    """For a child process: a cluster may not answer."""
    from sandbox.ray import nodes

    return {"nodes": [asdict(offer) for offer in nodes()]}


def docker_fix(problem: str) -> str:
    if "has no image" in problem:
        return BUILD
    if "not installed" in problem:
        return check_package("docker").fix or pip_install("--force-reinstall", "docker")
    if os.environ.get("DOCKER_HOST"):
        return "unset DOCKER_HOST  # or start an engine there"
    if "PermissionError" in problem:
        return "sudo usermod -aG docker $USER && newgrp docker"
    if shutil.which("dockerd") is None:
        return "https://docs.docker.com/engine/install/"
    systemd = Path("/run/systemd/system").is_dir()
    return _root("systemctl restart docker" if systemd else "service docker restart")


def bubblewrap_fix(problem: str) -> str:
    """The command for the most likely cause; else one that shows what bwrap itself says."""
    if shutil.which("bwrap") is None:
        apt = _root("apt-get install -y bubblewrap")
        return apt if shutil.which("apt-get") else "install bubblewrap with the package manager"
    for name, forbidding, allowing in (
        ("kernel.unprivileged_userns_clone", 0, 1),  # Debian and Arch, hardened
        ("user.max_user_namespaces", 0, 15000),  # RHEL 7
        ("kernel.apparmor_restrict_unprivileged_userns", 1, 0),  # Ubuntu since 23.10
    ):
        with contextlib.suppress(OSError, ValueError):
            if int(Path("/proc/sys", *name.split(".")).read_text()) == forbidding:
                return _root(f"sysctl -w {name}={allowing}")
    if any(Path(mark).exists() for mark in ("/.dockerenv", "/run/.containerenv")):
        options = ("seccomp=unconfined", "apparmor=unconfined", "systempaths=unconfined")
        return " ".join(["docker run", *(f"--security-opt {option}" for option in options), "…"])
    return "bwrap --version; bwrap --unshare-all --ro-bind / / --proc /proc true"


def _root(command: str) -> str:
    return command if os.geteuid() == 0 else f"sudo {command}"


# --- the GPU ------------------------------------------------------------------------------------


def check_gpu() -> Iterator[Check]:
    if not any(any(Path("/dev").glob(pattern)) for pattern in GPU_DEVICES):
        yield Check("GPU", State.ABSENT, "none: the CPU trains tiny models")
        return
    try:
        seen = _in_child("ask_torch", seconds=GPU_SECONDS)
    except _ChildError as error:
        fix = check_package("torch").fix or "nvidia-smi"
        yield Check("GPU", State.BROKEN, f"there is one, but torch fails: {error}", fix)
        return
    if seen["devices"]:
        yield Check("GPU", State.WORKS, ", ".join(seen["devices"]), facts=seen)
    else:
        found = f"there is one, but torch {seen['version']} cannot use it"
        again = pip_install("--force-reinstall", "torch")  # a build for CPUs
        yield Check("GPU", State.BROKEN, found, "nvidia-smi" if seen["for_gpu"] else again)


def ask_torch() -> dict[str, Any]:
    """For a child process: the import takes seconds, and a driver can crash."""
    import torch

    devices = [torch.cuda.get_device_properties(i) for i in range(torch.cuda.device_count())]
    return {
        "version": torch.__version__,
        "for_gpu": bool(torch.version.cuda or torch.version.hip),
        "devices": [f"{device.name}, {_size(device.total_memory)}" for device in devices],
    }


# --- child processes ----------------------------------------------------------------------------


class _ChildError(Exception):
    """What a child process reports, or that it did not answer."""


_CHILD = """
import json, sys
from vpd_agent.cli import doctor
name, arguments = json.loads(sys.argv[1])
try:
    answer = getattr(doctor, name)(*arguments)
except Exception as error:
    answer = {"problem": f"{error}" or repr(error)}
print(end="\\n" + json.dumps(answer))
"""


def _in_child(function: str, *arguments: Any, seconds: float) -> dict[str, Any]:
    """Call a function of this module in a process that may hang or crash. Raises _ChildError."""
    path = [str(Path(__file__).parents[2]), os.environ.get("PYTHONPATH")]
    try:
        done = subprocess.run(
            # -P: files in the current folder must not be imported in place of modules.
            [sys.executable, "-P", "-W", "ignore", "-c", _CHILD, json.dumps([function, arguments])],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=seconds,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, path))},
            start_new_session=True,  # without a terminal, nobody can be asked for a password
        )
    except subprocess.TimeoutExpired as error:
        raise _ChildError(f"no answer within {seconds:g} seconds") from error
    try:
        answer = json.loads(done.stdout.rpartition("\n")[2])
    except ValueError as error:
        last_line = done.stderr.strip().rpartition("\n")[2]
        raise _ChildError(f"exit code {done.returncode}: {last_line}") from error
    if "problem" in answer:
        words = " ".join(answer["problem"].split())
        raise _ChildError(words if len(words) < 500 else f"{words[:400]} … {words[-80:]}")
    return answer


CHECKS: dict[str, Callable[[], Iterator[Check]]] = {
    "the machine": check_machine,
    "packages": check_base_packages,
    "docker": partial(check_sandbox, "docker", docker_fix),
    "bubblewrap": partial(check_sandbox, "bubblewrap", bubblewrap_fix),
    "local": partial(check_sandbox, "local", needed=True, note="does not isolate; "),
    "ray": check_ray,
    "packages for training": partial(map, check_package, TRAINING_PACKAGES),
    "smollm2": check_smollm2,
    "GPU": check_gpu,
}
