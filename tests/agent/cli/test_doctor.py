"""What `vpd doctor` says is what one finds by trying, and what it tells to type is a command."""

from __future__ import annotations

import json
import os
import re
import shutil
import socket
import subprocess
import sys
import threading
from importlib import metadata
from pathlib import Path

import pytest

import sandbox
from sandbox import Job
from sandbox.installation import install_hint
from vpd_agent.cli import doctor
from vpd_agent.cli.doctor import BUILD, Check, State, bubblewrap_fix, check_sandbox, docker_fix
from vpd_agent.cli.main import main

REPOSITORY = Path(__file__).parents[3]
SECONDS = 60


def examined(capsys) -> tuple[int, dict[str, dict], dict]:
    """Exit code, checks by name, and all of the JSON."""
    code = main(["doctor", "--json"])
    output = json.loads(capsys.readouterr().out)
    return code, {check["name"]: check for check in output["checks"]}, output


@pytest.fixture(scope="module")
def reasons():
    """Why each backend does not work here; None where it does."""
    return sandbox.backends()


# --- the whole --------------------------------------------------------------------------------


def test_the_doctor_finds_what_trying_finds(reasons, capsys):
    code, checks, output = examined(capsys)
    working = [name for name, reason in reasons.items() if reason is None]
    assert [name for name in reasons if checks[name]["state"] == "works"] == working
    assert output["auto"] == working[0]
    assert output["ok"] == (working != ["local"]) == (code == 0)
    for name in working:
        facts = checks[name]["facts"]
        assert facts["job_seconds"] > 0
        assert facts["start_seconds"] > 0
        with sandbox.make(name, cages=1) as box:
            for package, version in facts["packages"].items():
                seen = box.run(Job(f"import {package}; print({package}.__version__)"))
                assert seen.stdout == ("" if version is None else f"{version}\n")
    for name in set(reasons) - set(working) - {"local"}:
        assert checks[name]["fix"]


def test_people_get_a_line_with_a_mark_for_each_thing_and_the_fix_below(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "40")
    monkeypatch.setitem(doctor.CHECKS, "packages for training", lambda: iter([BROKEN]))
    main(["doctor"])
    lines = capsys.readouterr().out.splitlines()
    marked = {line.split()[1]: line[0] for line in lines if line[0] in "✓✗–"}
    assert marked["Python"] == "✓"
    assert marked["broken"] == "✗"
    below = lines[next(i for i, line in enumerate(lines) if "broken" in line) + 1]
    assert below.strip() == BROKEN.fix  # however narrow the terminal is


BROKEN = Check("broken", State.BROKEN, "it is", "make it-work '[a]'")


@pytest.mark.parametrize("columns", ["40", "300"])
def test_a_terminal_of_any_width_and_encoding_will_do(columns):
    environment = {**os.environ, "COLUMNS": columns, "PYTHONIOENCODING": "ascii"}
    done = doctor_process(environment)
    assert done.returncode in (0, 1)
    assert "Traceback" not in done.stderr
    assert "ok" in done.stdout
    assert "✓" not in done.stdout


def test_nothing_in_the_environment_is_needed():
    done = doctor_process({})
    assert done.returncode in (0, 1)
    assert "Traceback" not in done.stderr
    assert "local" in done.stdout


def doctor_process(environment: dict[str, str]) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "-m", "vpd_agent.cli", "doctor"],
        cwd=REPOSITORY,
        env=environment,
        capture_output=True,
        text=True,
        timeout=SECONDS,
    )


@pytest.mark.parametrize(
    ("state", "needed", "code"),
    [(State.BROKEN, True, 1), (State.BROKEN, False, 0), (State.ABSENT, False, 0)],
)
def test_only_what_is_needed_decides_the_exit_code(monkeypatch, capsys, state, needed, code):
    checks = [Check("bubblewrap", State.WORKS, "fine"), Check("y", state, "not", needed=needed)]
    monkeypatch.setattr(doctor, "CHECKS", {"x": lambda: iter(checks)})
    assert examined(capsys)[0] == code


def test_local_alone_is_not_enough(monkeypatch, capsys):
    only = {"x": lambda: iter([Check("local", State.WORKS, "fine")])}
    monkeypatch.setattr(doctor, "CHECKS", only)
    assert main(["doctor"]) == 1
    assert "No sandbox isolates here" in capsys.readouterr().err


def test_a_check_that_fails_is_a_finding_and_the_others_go_on(monkeypatch, capsys):
    def fails():
        yield Check("first", State.WORKS, "fine")
        raise LookupError("no such thing")

    works = lambda: iter([Check("docker", State.WORKS, "fine")])  # noqa: E731
    monkeypatch.setattr(doctor, "CHECKS", {"second": fails, "docker": works})
    code, checks, _ = examined(capsys)
    assert code == 0
    assert [check["state"] for check in checks.values()] == ["works", "broken", "works"]
    assert "no such thing" in checks["second"]["found"]


# --- Ray ----------------------------------------------------------------------------------------


def test_of_each_node_of_a_cluster_it_is_told_what_works_there(monkeypatch):
    offers = [
        {"name": "a", "cores": 8.0, "sandboxes": {"docker": None, "local": None}, "problem": None},
        {"name": "b", "cores": 4.0, "sandboxes": {"docker": "no", "local": None}, "problem": None},
        {"name": "c", "cores": 2.0, "sandboxes": {}, "problem": "no module named sandbox"},
    ]
    monkeypatch.setenv("RAY_ADDRESS", "head:6379")
    monkeypatch.setattr(doctor, "check_package", lambda name: Check(name, State.WORKS, "2.60.0"))
    monkeypatch.setattr(doctor, "_in_child", lambda *args, **kwargs: {"nodes": offers})
    checks = list(doctor.check_ray())
    assert [(check.state, check.found) for check in checks] == [
        (State.WORKS, "a: 8 cores; docker, local work"),
        (State.BROKEN, "b: 4 cores; local works"),
        (State.BROKEN, "c: 2 cores; no module named sandbox"),
    ]
    assert checks[1].fix == "vpd doctor  # on b"


# --- Docker -------------------------------------------------------------------------------------


@pytest.fixture
def listener(tmp_path):
    """A Unix socket of ours where an engine is looked for; nobody accepts."""
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(tmp_path / "engine.sock"))
        server.listen()
        yield server


def docker_found(address: str, monkeypatch) -> Check:
    monkeypatch.setenv("DOCKER_HOST", address)
    return next(check_sandbox("docker", docker_fix))


def test_an_address_without_an_engine_is_named(tmp_path, monkeypatch):
    with socket.socket(socket.AF_UNIX) as closed, socket.socket() as unused:
        closed.bind(str(tmp_path / "closed.sock"))
        unused.bind(("127.0.0.1", 0))
        port = unused.getsockname()[1]
        for address, said in {
            "unix:///nowhere/docker.sock": "No such file or directory",
            f"unix://{tmp_path}/closed.sock": "Connection refused",
            f"tcp://127.0.0.1:{port}": "Connection refused",
            "tcp://no-such-host.invalid:2375": "tcp://no-such-host.invalid:2375",
            "foo": "not reachable at foo",
        }.items():
            check = docker_found(address, monkeypatch)
            assert check.state is State.BROKEN
            assert said in check.found
            assert address in check.found
            assert check.fix.startswith("unset DOCKER_HOST")


def test_an_engine_that_does_not_answer_is_not_waited_for(listener, monkeypatch):
    monkeypatch.setattr(doctor, "SANDBOX_SECONDS", 3.0)
    check = docker_found(f"unix://{listener.getsockname()}", monkeypatch)
    assert check.state is State.BROKEN
    assert "no answer within 3 seconds" in check.found
    assert check.fix


def test_what_is_no_engine_is_told(listener, monkeypatch):
    def greet():
        while True:
            try:
                connection, _ = listener.accept()
                with connection:
                    connection.recv(1000)
                    connection.sendall(b"SSH-2.0-OpenSSH\r\n")
            except OSError:
                return

    threading.Thread(target=greet, daemon=True).start()
    check = docker_found(f"unix://{listener.getsockname()}", monkeypatch)
    assert check.state is State.BROKEN
    assert "Docker is not reachable" in check.found


@pytest.mark.docker
def test_a_missing_image_is_built_by_our_own_command(reasons):
    if reasons["docker"]:
        pytest.skip(reasons["docker"])
    check = next(check_sandbox("docker", docker_fix, image="vpd-no-such-image:latest"))
    assert check.state is State.BROKEN
    assert "has no image 'vpd-no-such-image:latest'" in check.found
    assert check.fix == BUILD


@pytest.mark.parametrize(
    ("problem", "fix"),
    [
        ("PermissionError(13, 'Permission denied')", "usermod -aG docker"),
        ("FileNotFoundError(2, 'No such file or directory')", "docker"),
    ],
)
def test_an_engine_that_cannot_be_used_has_a_command(monkeypatch, problem, fix):
    monkeypatch.delenv("DOCKER_HOST", raising=False)
    assert fix in docker_fix(f"Docker is not reachable ({problem}).")


def test_a_docker_package_that_cannot_be_imported_is_installed_anew(tmp_path, monkeypatch):
    (tmp_path / "docker.py").write_text("raise ImportError('it is damaged')\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    check = next(check_sandbox("docker", docker_fix))
    assert check.state is State.BROKEN
    assert "it is damaged" in check.found
    assert check.fix.endswith("install --force-reinstall docker")


# --- bubblewrap ---------------------------------------------------------------------------------


def bubblewrap_found() -> Check:
    return next(check_sandbox("bubblewrap", bubblewrap_fix))


def test_a_missing_bubblewrap_is_installed_by_the_distribution(monkeypatch):
    monkeypatch.setenv("PATH", "/nowhere")
    check = bubblewrap_found()
    assert check.state is State.BROKEN
    assert "not installed" in check.found
    assert "bubblewrap" in check.fix


def test_an_old_bubblewrap_is_told_which_version_is_needed(tmp_path, monkeypatch):
    script = "case $1 in --version) echo bubblewrap 0.4.1 ;; *) exit 1 ;; esac"
    put_program(tmp_path, monkeypatch, script)
    check = bubblewrap_found()
    assert check.state is State.BROKEN
    assert "bwrap >= 0.8" in check.found


@pytest.mark.bubblewrap
def test_a_bubblewrap_that_fails_is_quoted(tmp_path, monkeypatch, reasons):
    if reasons["bubblewrap"]:
        pytest.skip(reasons["bubblewrap"])
    real = shutil.which("bwrap")
    script = f'case $1 in --version) ;; *) set -- --bind /nowhere /mnt "$@" ;; esac\n{real} "$@"'
    put_program(tmp_path, monkeypatch, script)
    check = bubblewrap_found()
    assert check.state is State.BROKEN
    assert "/nowhere" in check.found
    assert check.fix


def put_program(folder: Path, monkeypatch, script: str) -> None:
    """A program of that name, first in PATH."""
    (folder / "bwrap").write_text(f"#!/bin/sh\n{script}\n")
    (folder / "bwrap").chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")


# --- packages and the GPU -----------------------------------------------------------------------


def test_packages_are_those_that_can_be_imported():
    import numpy

    assert doctor.check_package("numpy").found == numpy.__version__
    assert doctor.check_package("rich").state is State.WORKS
    absent = doctor.check_package("no-such-package")
    assert (absent.state, absent.found) == (State.ABSENT, "not installed")
    assert absent.fix.endswith("install no-such-package")


def test_what_is_absent_is_installed_with_the_others_of_its_extra(monkeypatch, capsys):
    """One command for torch and transformers, below the second; trl, which only developers need, by
    itself."""

    def not_there(name: str) -> str:
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(metadata, "version", not_there)
    checks = [doctor.check_package(name) for name in ("torch", "transformers", "peft", "trl")]
    together, of_lora = install_hint("train"), install_hint("lora")
    assert [check.fix for check in checks[:3]] == [together, together, of_lora]
    assert re.search(r"install '?trl[<>=]", checks[3].fix)
    doctor._print_table(checks)
    lines = [line.strip() for line in capsys.readouterr().out.splitlines()]
    assert [line for line in lines if "install" in line and "not" not in line] == [
        together,
        of_lora,
        checks[3].fix,
    ]


@pytest.mark.parametrize(
    ("version", "bounds", "fits"),
    [
        ("2.13.0+cpu", "<2.14,>=2.11", True),
        ("2.14.0", "<2.14,>=2.11", False),
        ("2.14.0.dev1", "<2.14,>=2.11", False),
        ("2.9.1", "<2.14,>=2.11", False),
        ("5.0", ">=5,<6", True),
        ("10.0", ">=9.1", True),
        ("1.0rc1", "", True),
    ],
)
def test_versions_keep_to_their_bounds(monkeypatch, version, bounds, fits):
    monkeypatch.setattr(doctor, "requirements", lambda: [f"a{bounds}; extra == 'x'"])
    monkeypatch.setattr(doctor.metadata, "version", lambda name: version)
    check = doctor.check_package("a")
    assert check.state is (State.WORKS if fits else State.BROKEN)
    assert version in check.found


def test_a_gpu_is_only_reported_where_there_is_one():
    (check,) = doctor.check_gpu()
    devices = any(Path("/dev").glob("nvidia[0-9]*")) or Path("/dev/kfd").exists()
    if not devices and not Path("/dev/dxg").exists():
        assert check.state is State.ABSENT
    else:
        assert check.state is not State.ABSENT


def test_a_package_that_a_cage_lacks_is_told_with_the_command_that_installs_it(monkeypatch):
    packages = ("numpy", "no_such_package")
    monkeypatch.setattr(doctor, "CAGE_PACKAGES", packages)
    facts = doctor.try_sandbox("local", {"packages": packages})
    assert facts["packages"]["no_such_package"] is None
    assert facts["packages"]["numpy"] is not None
    monkeypatch.setattr(doctor, "_in_child", lambda *_, **__: facts)
    (check,) = check_sandbox("local")
    assert check.state is State.WORKS
    assert "no no_such_package" in check.found
    assert check.fix.endswith("no_such_package")
