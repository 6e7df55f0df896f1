"""Choosing a sandbox: what is refused, what the errors say, and what an import costs."""

import importlib.metadata
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

import sandbox
from sandbox import Job, Limits, SandboxError
from sandbox.docker import recipe
from sandbox.factory import BACKENDS

REPOSITORY = Path(sandbox.__file__).parents[1]


def test_an_unknown_name_is_refused_with_the_choices():
    with pytest.raises(ValueError, match="auto, docker, bubblewrap, local"):
        sandbox.make("chroot")


@pytest.mark.parametrize("cages", [0, -1, 1.5, True])
def test_a_number_of_cages_must_be_one(cages):
    with pytest.raises(ValueError, match="cages must be a positive integer"):
        sandbox.make("local", cages=cages)


def test_options_need_a_named_sandbox():
    with pytest.raises(ValueError, match="named sandbox"):
        sandbox.make("auto", image="x")
    with pytest.raises(TypeError):
        sandbox.make("local", image="x")


@pytest.mark.parametrize("value", [0, -1, float("nan"), float("inf"), True, "1"])
@pytest.mark.parametrize("name", ["wall_seconds", "memory_bytes", "processes", "output_bytes"])
def test_limits_must_be_positive_numbers(name, value):
    with pytest.raises(ValueError, match=f"Limits.{name} must be a positive finite number"):
        Limits(**{name: value})


def test_jobs_must_be_text():
    with pytest.raises(ValueError, match=r"Job.code must be text .*got bytes"):
        Job(b"print(1)")
    with pytest.raises(ValueError, match=r"Job.stdin must be str or bytes, got int"):
        Job("print(1)", 5)


def test_code_that_is_not_unicode_is_an_error_of_the_program(box):
    assert "SyntaxError" in box.run(Job("print('\ud800')")).stderr


def test_an_engine_that_is_not_there_is_named(monkeypatch):
    monkeypatch.setenv("DOCKER_HOST", "unix:///nowhere/docker.sock")
    with pytest.raises(SandboxError, match=r"not reachable at unix:///nowhere.*vpd doctor"):
        sandbox.make("docker")


def test_a_missing_docker_package_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "docker", None)
    with pytest.raises(SandboxError, match="pip install 'docker"):
        sandbox.make("docker")


@pytest.mark.docker
def test_an_image_that_is_not_there_is_named(fresh_docker):
    with pytest.raises(SandboxError, match="vpd sandbox build"):
        sandbox.make("docker", image="vpd-no-such-image:latest")


@pytest.mark.docker
def test_an_image_of_another_recipe_is_told_of(fresh_docker, monkeypatch, caplog):
    sandbox.make("docker", cages=1).close()
    assert not caplog.records  # it is the one that image/build makes
    monkeypatch.setattr("sandbox.docker.recipe", lambda: "another")
    sandbox.make("docker", cages=1).close()
    assert "Run `vpd sandbox build`" in caplog.text


def test_an_image_is_labeled_with_the_recipe_that_is_looked_for():
    build = REPOSITORY / "sandbox/image/build"
    said = subprocess.run([build, "--recipe"], capture_output=True, text=True, check=True)
    assert said.stdout == f"{recipe()}\n"


@pytest.fixture
def fresh_docker():
    reason = sandbox.backends()["docker"]
    if reason:
        pytest.skip(reason)


def test_a_program_that_is_not_there_is_named():
    with pytest.raises(SandboxError, match="Install the package bubblewrap"):
        sandbox.make("bubblewrap", command="no-such-bwrap")


def test_auto_takes_the_strongest_that_works(recwarn):
    working = [name for name, reason in sandbox.backends().items() if reason is None]
    with sandbox.make("auto", cages=1) as box:
        assert box.name == working[0] == next(n for n in BACKENDS if n in working)
    assert (len(user_warnings(recwarn)) > 0) == (box.name == "local")


def test_falling_back_to_local_is_said_once(monkeypatch):
    monkeypatch.setenv("DOCKER_HOST", "unix:///nowhere/docker.sock")
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.warns(UserWarning, match="vpd doctor") as warned:
        sandbox.make("auto", cages=1).close()
    (warning,) = user_warnings(warned)
    assert "\n" not in str(warning.message)


def user_warnings(recorded):
    """Without those of the docker package about its own sockets."""
    return [warning for warning in recorded if warning.category is UserWarning]


def test_shared_is_made_once_and_again_after_it_was_closed():
    first = sandbox.shared("local", 1)
    assert sandbox.shared("local", 1) is first
    assert sandbox.shared("local", 2) is not first
    first.close()
    second = sandbox.shared("local", 1)
    assert second is not first
    assert second.run(Job("print(1)")).stdout == "1\n"
    second.close()
    sandbox.shared("local", 2).close()


def test_a_sandbox_is_what_the_protocol_says(box):
    assert isinstance(box, sandbox.Sandbox)
    assert (box.name in BACKENDS, box.cages) == (True, 2)


def test_an_import_loads_neither_docker_nor_torch():
    program = (
        "import sandbox, sys; print([m for m in ('docker', 'torch', 'numpy') if m in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=REPOSITORY, capture_output=True, text=True, check=True
    )
    assert done.stdout == "[]\n"


def test_numpy_is_there_for_programs(box):
    code = "import sys, numpy\nprint(numpy.arange(5).sum())\nprint(numpy.__version__)"
    got = box.run(Job(code)).stdout.split()
    assert got[0] == "10"
    if box.name != "docker":  # an image has its own
        assert got[1] == importlib.metadata.version("numpy")


@pytest.mark.bubblewrap
def test_packages_can_be_chosen(make_box, monkeypatch):
    code = "import vpd_test_package\nprint(vpd_test_package.WHERE)"
    with tempfile.TemporaryDirectory(dir="/tmp") as directory:
        Path(directory).chmod(0o755)
        (Path(directory) / "vpd_test_package").mkdir()
        (Path(directory) / "vpd_test_package" / "__init__.py").write_text("WHERE = 'here'\n")
        monkeypatch.syspath_prepend(directory)
        for backend in ("bubblewrap", "local"):
            with make_box(backend, cages=1) as box:
                assert "ModuleNotFoundError" in box.run(Job(code)).stderr
            with make_box(backend, cages=1, packages=["vpd_test_package"]) as box:
                assert box.run(Job(code)).stdout == "here\n"


def test_a_sandbox_names_the_python_that_runs_the_programs(box):
    code = "import sys\nprint(f'{sys.version_info.major}.{sys.version_info.minor}')"
    assert box.run(Job(code)).stdout == box.python_version + "\n"
