"""The wheel and the source archive have what they should, and the wheel works outside this folder.

Nothing is fetched: the wheel is installed without its dependencies beside those of this Python.
"""

import json
import os
import shutil
import subprocess
import sys
import tarfile
import tomllib
import venv
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = ("sandbox", "vpd_envs", "vpd_agent")
VERSION = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
NOT_COPIED = shutil.ignore_patterns("__pycache__", "*.egg-info", ".*", "results")  # at any depth

pytestmark = pytest.mark.slow


def run(*command, cwd: Path, **kwargs) -> str:
    environment = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "PYTHONHOME")}
    result = subprocess.run(
        command, cwd=cwd, env=environment, capture_output=True, text=True, timeout=900, **kwargs
    )
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout


def not_copied(folder: str, names: list[str]) -> set[str]:
    """What a build does not need, and what a user of this folder may have in it besides."""
    besides = {"runs", "build", "dist"} if Path(folder) == ROOT else set()
    return set(NOT_COPIED(folder, names)) | besides


@pytest.fixture(scope="module")
def built(tmp_path_factory) -> Path:
    """The folder with both archives, built from a copy of this folder."""
    folder = tmp_path_factory.mktemp("package")
    source = folder / "source"
    shutil.copytree(ROOT, source, ignore=not_copied)
    run(sys.executable, "-m", "build", "--no-isolation", "--outdir", folder / "dist", cwd=source)
    return folder / "dist"


@pytest.fixture(scope="module")
def wheel(built) -> Path:
    return built / f"vpd_rl-{VERSION}-py3-none-any.whl"


def ours() -> set[str]:
    """The files of the packages, in this folder."""
    files = (path for name in PACKAGES for path in (ROOT / name).rglob("*") if path.is_file())
    names = (path.relative_to(ROOT).as_posix() for path in files)
    return {name for name in names if "__pycache__" not in name}


def test_the_wheel_has_every_file_of_the_packages_and_nothing_else(wheel):
    names = zipfile.ZipFile(wheel).namelist()
    record = f"vpd_rl-{VERSION}.dist-info/"
    assert {name for name in names if not name.startswith(record)} == ours()
    assert {"sandbox/image/Dockerfile", "vpd_envs/py.typed", "vpd_agent/inspect/page.js"} <= {
        *names
    }
    assert f"{record}licenses/LICENSE" in names


def test_the_source_archive_has_what_the_wheel_is_built_from_and_no_tests(built):
    root = f"vpd_rl-{VERSION}/"
    with tarfile.open(built / f"vpd_rl-{VERSION}.tar.gz") as archive:
        names = {name.removeprefix(root) for name in archive.getnames()}
    assert ours() | {"pyproject.toml", "README.md", "LICENSE"} <= names
    others = ("tests", "benchmarks", "docs", "recipes")
    assert {name.split("/")[0] for name in names}.isdisjoint(others)


@pytest.fixture(scope="module")
def programs(wheel, tmp_path_factory) -> Path:
    """The folder of programs of an environment with the wheel."""
    folder = tmp_path_factory.mktemp("installed")
    venv.create(folder, with_pip=False, symlinks=True)
    python = folder / "bin" / "python"
    words = ["--no-deps", "--no-index", "--quiet", "--disable-pip-version-check", wheel]
    run(sys.executable, "-m", "pip", "--python", python, "install", *words, cwd=folder)
    [packages] = (folder / "lib").glob("python*/site-packages")
    # A line of a .pth is a folder of modules; what stands in .pth files there, such as our editable
    # install, is not read.
    places = [place for place in sys.path if place.endswith("site-packages")]
    (packages / "dependencies.pth").write_text("\n".join(places) + "\n")
    return folder / "bin"


def test_the_wheel_is_what_runs(programs, tmp_path):
    code = "import sandbox, vpd_agent, vpd_envs; print(sandbox.__file__, vpd_agent.__file__)"
    for file in run(programs / "python", "-c", code, cwd=tmp_path).split():
        assert Path(file).is_relative_to(programs.parent)
    assert run(programs / "vpd", "--version", cwd=tmp_path).startswith(f"vpd {VERSION}\n")


def test_vpd_envs_names_every_environment_outside_the_repository(programs, tmp_path):
    listed = run(programs / "vpd", "envs", cwd=tmp_path)
    assert {"vpd/MiniCode-v0", "vpd/LiveCodeBench-v0", "vpd/Math-v0"} <= set(listed.split())


def test_the_judge_runs_programs_outside_the_repository(programs, tmp_path):
    problem, right = "sum-of-two", "print(sum(map(int, input().split())))"
    answers = [(right, 1.0), ("print(input())", 0.0)]
    rows = [{"problem_id": problem, "answer": f"```python\n{code}\n```"} for code, _ in answers]
    (tmp_path / "answers.jsonl").write_text("\n".join(map(json.dumps, rows)))
    run(
        *(programs / "vpd", "judge", "--env", "vpd/LiveCodeBench-v0", "--sandbox", "local"),
        *("--data", ROOT / "examples/data/programs.jsonl"),
        *("--answers", "answers.jsonl", "--out", "verdicts.jsonl"),
        cwd=tmp_path,
    )
    verdicts = [json.loads(line) for line in (tmp_path / "verdicts.jsonl").read_text().splitlines()]
    assert [verdict["reward"] for verdict in verdicts] == [reward for _, reward in answers]


def test_one_program_runs_outside_the_repository(programs, tmp_path):
    (tmp_path / "add.py").write_text("print(int(input()) + 1)")
    command = [programs / "vpd", "sandbox", "run", "add.py", "--sandbox", "local"]
    assert run(*command, cwd=tmp_path, input="41") == "42\n"


def test_the_doctor_the_probe_and_the_quickstart_run_outside_the_repository(programs, tmp_path):
    done = subprocess.run(
        [programs / "vpd", "doctor", "--json"], cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode in (0, 1), done.stderr  # 1 where local is the only sandbox that works
    assert "checks" in json.loads(done.stdout)
    task = ("--env", "vpd/MiniCode-v0", "--model", "tiny-warm", "--sandbox", "local")
    said = run(programs / "vpd", "probe", *task, "--problems", "8", cwd=tmp_path)
    assert "of what the student fails" in " ".join(said.split())
    words = ("--algorithms", "vpd", "sdpo", "grpo", "--seeds", "0", "--steps", "2")
    run(programs / "vpd", "compare", *task, *words, "--out", "quickstart", cwd=tmp_path)
    results = json.loads((tmp_path / "quickstart/results.json").read_text())
    assert [run_["outcome"] for run_ in results["runs"]] == ["finished"] * 3
    assert (tmp_path / "quickstart/report.html").exists()
