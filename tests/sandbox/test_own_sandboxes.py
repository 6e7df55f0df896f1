"""Sandboxes and backends from outside the package work wherever ours do."""

import json
import subprocess
import sys
import threading
from contextlib import closing
from pathlib import Path

import pytest

import sandbox
from sandbox import CageFailure, Execution, ExecutionStatus, Job
from sandbox.command import main

EXAMPLES = Path(sandbox.__file__).parents[1] / "examples"

COUNTED = """
from sandbox.local import Local

class Counted(Local):
    name = "counted"
    started = 0

    def start(self):
        type(self).started += 1
        return super().start()

class Neither:
    pass
"""


@pytest.fixture
def module(tmp_path, monkeypatch):
    """A folder with a module of one's own, which we are in."""
    (tmp_path / "my_cages.py").write_text(COUNTED)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path, str(tmp_path)])
    yield "my_cages"
    sys.modules.pop("my_cages", None)


@pytest.mark.parametrize("form", ["my_cages", "./my_cages.py"])
def test_a_backend_gets_a_pool_of_its_cages(module, form):
    with sandbox.make(f"{form}:Counted", cages=2, jobs_per_cage=1) as box:
        assert (box.name, box.cages) == ("counted", 2)
        assert [box.run(Job("print(42)")).stdout for _ in range(3)] == ["42\n"] * 3
    assert sys.modules[module].Counted.started == 4  # one a job, the probe's included


def run(*arguments, cwd):
    command = [sys.executable, "-W", "error", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, cwd=cwd)


def test_the_example_writes_down_each_job(tmp_path):
    done = run(EXAMPLES / "new_cage.py", cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    probe = len("print(6 * 7)")
    counts = [f"{probe} characters: ok", "14 characters: ok", "5 characters: error"]
    assert done.stdout.splitlines() == counts


@pytest.mark.parametrize("name", ["new_cage:Logged", f"{EXAMPLES}/new_cage.py:Logged"])
def test_vpd_sandbox_run_takes_a_sandbox_of_ones_own(tmp_path, name):
    program = tmp_path / "program.py"
    program.write_text("print(input())")
    arguments = ("-m", "sandbox", "run", program, "--sandbox", name, "--json", "--stdin", program)
    done = run(*arguments, cwd=EXAMPLES if ":" in name[:9] else tmp_path)
    assert done.stderr.splitlines() == ["12 characters: ok", "14 characters: ok"]
    got = json.loads(done.stdout)
    assert (got["backend"], got["stdout"]) == ("logged", "print(input())\n")


def test_an_environment_of_programs_takes_a_sandbox_of_ones_own(tmp_path):
    answer = tmp_path / "answer"
    answer.write_text("a+b")
    options = ("--env", "vpd/MiniCode-v0", "--sandbox", "new_cage:Logged", "--answer", answer)
    judged = run("-m", "vpd_agent.cli", "show", *options, cwd=EXAMPLES)
    assert judged.returncode == 0, judged.stderr
    probe, program, *_ = judged.stderr.splitlines()
    assert probe == "12 characters: ok"
    assert program.endswith(("characters: ok", "characters: error"))


def test_shared_makes_a_sandbox_of_ones_own_once(monkeypatch):
    monkeypatch.syspath_prepend(str(EXAMPLES))
    box = sandbox.shared("new_cage:Logged", 1)
    assert sandbox.shared("new_cage:Logged", 1) is box
    with closing(box):
        assert box.run(Job("print(1)")).stdout == "1\n"


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("my_cages:Absent", "Unknown sandbox in my_cages: 'Absent'.*Counted, Neither"),
        ("my_cages:Neither", r"neither the method start\(\) of a backend nor run\(\)"),
        ("no_such_module:Cage", "no module 'no_such_module'"),
        (
            "jail",
            r"There are auto, docker, bubblewrap, local, ray; or module:Class or path/to/file.py",
        ),
    ],
)
def test_what_is_no_sandbox_is_refused(module, name, said):
    with pytest.raises(ValueError, match=said):
        sandbox.make(name)


def test_the_command_refuses_an_unknown_module_in_one_line(capsys):
    with pytest.raises(SystemExit):
        main(["run", __file__, "--sandbox", "no_such_module:Cage"])
    (line,) = capsys.readouterr().err.splitlines()
    assert "no module 'no_such_module'" in line


class Forgetful:
    """Cages that lose their first job, in a class that knows nothing of runners."""

    name = "forgetful"

    def __init__(self):
        self.jobs, self.python_version, self.killed = 0, "3.13.5", threading.Event()

    def start(self):
        return self

    def run(self, job, cancelled=None):
        self.jobs += 1
        if self.jobs == 1:
            raise CageFailure("it forgot the job")
        return Execution(ExecutionStatus.OK, "42\n", "", 0, 0.1, 0.1, 1)

    def kill(self):
        self.killed.set()

    def detach(self):
        pass


def test_a_cage_needs_no_runner_and_a_lost_job_is_tried_again(caplog):
    with sandbox.make(f"{__name__}:Forgetful", cages=1) as box:
        assert box.python_version == "3.13"
        assert "it forgot the job" in caplog.text
        assert box.run(Job("print(42)")).stdout == "42\n"
