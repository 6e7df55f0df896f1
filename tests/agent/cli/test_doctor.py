"""What `vpd doctor` says is what one finds by trying, and what it tells to type is a command."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import threading
from pathlib import Path

import pytest

import sandbox
from sandbox import Job
from vpd_agent.cli import diagnosis
from vpd_agent.cli.diagnosis import Check, State, install_command
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
        assert checks[name]["mend"]


def test_people_get_a_table_with_a_mark_for_each_thing(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "120")
    monkeypatch.setitem(diagnosis.GROUPS, "training", {"x": lambda: iter([BROKEN])})
    main(["doctor"])
    output = capsys.readouterr()
    rows = [line.split() for line in output.out.splitlines()]
    marked = {row[1]: row[0] for row in rows if row and row[0] in "✓✗–"}
    assert marked["Python"] == "✓"
    assert marked["broken"] == "✗"
    assert "mend it with" in output.out
    assert BROKEN.mend in output.out
    assert f"broken:  {BROKEN.mend}\n" in output.err  # in a line of its own, however narrow


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


def doctor_process(environment: dict[str, str], *flags: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, *flags, "-m", "vpd_agent.cli", "doctor"],
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
    sandboxes = {"x": lambda: iter([Check("bubblewrap", State.WORKS, "fine")])}
    other = {"y": lambda: iter([Check("other", state, "not fine", needed=needed)])}
    monkeypatch.setattr(diagnosis, "GROUPS", {"sandboxes": sandboxes, "other": other})
    assert examined(capsys)[0] == code


def test_local_alone_is_not_enough(monkeypatch, capsys):
    sandboxes = {"x": lambda: iter([Check("local", State.WORKS, "fine")])}
    monkeypatch.setattr(diagnosis, "GROUPS", {"sandboxes": sandboxes})
    assert main(["doctor"]) == 1
    assert "No sandbox isolates here" in capsys.readouterr().err


def test_a_check_that_fails_is_a_finding_and_the_others_go_on(monkeypatch, capsys):
    def fails():
        yield Check("first", State.WORKS, "fine")
        raise LookupError("no such thing")

    sandboxes = {"x": lambda: iter([Check("docker", State.WORKS, "fine")])}
    monkeypatch.setattr(diagnosis, "GROUPS", {"a": {"second": fails}, "sandboxes": sandboxes})
    code, checks, _ = examined(capsys)
    assert code == 0
    assert [check["state"] for check in checks.values()] == ["works", "broken", "works"]
    assert "no such thing" in checks["second"]["found"]


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
    return next(diagnosis.check_docker())


def test_an_address_without_an_engine_is_named(tmp_path, monkeypatch, reasons):
    with socket.socket(socket.AF_UNIX) as closed, socket.socket() as unused:
        closed.bind(str(tmp_path / "closed.sock"))
        unused.bind(("127.0.0.1", 0))
        port = unused.getsockname()[1]
        for address, said in {
            "unix:///nowhere/docker.sock": "No such file or directory",
            f"unix://{tmp_path}/closed.sock": "Connection refused",
            f"tcp://127.0.0.1:{port}": "Connection refused",
            "tcp://no-such-host.invalid:2375": "tcp://no-such-host.invalid:2375",
        }.items():
            check = docker_found(address, monkeypatch)
            assert check.state is State.BROKEN
            assert said in check.found
            assert address.removeprefix("unix://") in check.found
            if reasons["docker"] is None:  # there is one at the usual place
                assert check.mend == "unset DOCKER_HOST"


def test_an_engine_that_does_not_answer_is_not_waited_for(listener, monkeypatch):
    monkeypatch.setattr(diagnosis, "ENGINE_SECONDS", 1.0)
    check = docker_found(f"unix://{listener.getsockname()}", monkeypatch)
    assert check.state is State.BROKEN
    assert "no Docker engine answers" in check.found
    assert check.mend


def test_what_is_no_engine_is_told(listener, monkeypatch):
    monkeypatch.setattr(diagnosis, "ENGINE_SECONDS", 3.0)

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
    assert "no Docker engine answers" in check.found


def test_no_address_at_all_is_told(monkeypatch):
    assert "no Docker engine answers at foo" in docker_found("foo", monkeypatch).found


@pytest.mark.docker
def test_a_missing_image_is_built_by_our_own_command(reasons, monkeypatch):
    if reasons["docker"]:
        pytest.skip(reasons["docker"])
    monkeypatch.setattr(diagnosis, "IMAGE", "vpd-no-such-image:latest")
    check = next(diagnosis.check_docker())
    assert check.state is State.BROKEN
    assert "has no image vpd-no-such-image:latest" in check.found
    assert check.mend.endswith("vpd sandbox build")


def test_a_python_without_the_docker_package_is_told_how_to_install_it(tmp_path):
    """The same packages, linked into a folder, but that one."""
    for folder in map(Path, sys.path):
        for entry in folder.iterdir() if folder.name == "site-packages" else ():
            if not entry.name.lower().startswith("docker") and not (tmp_path / entry.name).exists():
                (tmp_path / entry.name).symlink_to(entry)
    path = os.pathsep.join([str(REPOSITORY), str(tmp_path)])
    done = doctor_process({**os.environ, "PYTHONPATH": path, "COLUMNS": "200"}, "-S")
    assert "the Python package docker: not installed" in done.stdout
    assert "install 'docker<8,>=7.1'" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_docker_package_that_cannot_be_imported_is_installed_anew(monkeypatch):
    monkeypatch.setitem(sys.modules, "docker", None)
    check = next(diagnosis.check_docker())
    assert check.state is State.BROKEN
    assert "cannot be imported" in check.found
    assert "install --force-reinstall 'docker<8,>=7.1'" in check.mend


# --- bubblewrap ---------------------------------------------------------------------------------


def test_a_missing_bubblewrap_is_installed_by_the_distribution(monkeypatch):
    monkeypatch.setenv("PATH", "/nowhere")
    (check,) = diagnosis.check_bubblewrap()
    assert check.state is State.BROKEN
    assert "not installed" in check.found
    assert "bubblewrap" in check.mend


def test_an_old_bubblewrap_is_told_apart(tmp_path, monkeypatch):
    put_program(tmp_path, monkeypatch, "echo bubblewrap 0.4.1")
    (check,) = diagnosis.check_bubblewrap()
    assert check.state is State.BROKEN
    assert "0.4.1" in check.found
    assert "0.8 or newer is needed" in check.found


@pytest.mark.bubblewrap
def test_a_bubblewrap_that_fails_is_quoted(tmp_path, monkeypatch, reasons):
    if reasons["bubblewrap"]:
        pytest.skip(reasons["bubblewrap"])
    real = diagnosis.shutil.which("bwrap")
    script = f'case $1 in --version) ;; *) set -- --bind /nowhere /mnt "$@" ;; esac\n{real} "$@"'
    put_program(tmp_path, monkeypatch, script)
    (check,) = diagnosis.check_bubblewrap()
    assert check.state is State.BROKEN
    assert "/nowhere" in check.found
    assert check.mend


def put_program(folder: Path, monkeypatch, script: str) -> None:
    """A program of that name, first in PATH."""
    (folder / "bwrap").write_text(f"#!/bin/sh\n{script}\n")
    (folder / "bwrap").chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")


# --- packages and commands ----------------------------------------------------------------------


def test_packages_are_those_that_can_be_imported():
    import numpy

    assert diagnosis._package("numpy").found == numpy.__version__
    assert diagnosis._package("rich").state is State.WORKS
    absent = diagnosis._package("no-such-package")
    assert (absent.state, absent.found) == (State.ABSENT, "not installed")
    assert absent.mend.endswith("install no-such-package")


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
def test_versions_keep_to_their_bounds(version, bounds, fits):
    assert diagnosis._fits(version, bounds) == fits


@pytest.mark.parametrize(
    ("release", "command"),
    [
        ({"ID": "debian"}, "apt-get install -y bubblewrap"),
        ({"ID": "linuxmint", "ID_LIKE": "ubuntu debian"}, "apt-get install -y bubblewrap"),
        ({"ID": "fedora"}, "dnf install -y bubblewrap"),
        ({"ID": "rocky", "ID_LIKE": "rhel centos fedora"}, "dnf install -y bubblewrap"),
        ({"ID": "arch"}, "pacman -S --needed bubblewrap"),
        ({"ID": "opensuse-tumbleweed", "ID_LIKE": "opensuse suse"}, "zypper install bubblewrap"),
        ({"ID": "alpine"}, "apk add bubblewrap"),
        ({}, "install bubblewrap with the package manager"),
    ],
)
def test_each_distribution_has_its_own_command(release, command):
    assert command in install_command(["bubblewrap"], release)


def test_a_gpu_is_only_reported_where_there_is_one():
    (check,) = diagnosis.check_gpu()
    devices = any(Path("/dev").glob("nvidia[0-9]*")) or Path("/dev/kfd").exists()
    if not devices and not Path("/dev/dxg").exists():
        assert check.state is State.ABSENT
    else:
        assert check.state is not State.ABSENT
