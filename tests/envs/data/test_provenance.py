"""What results were made with: told, compared, and never guessed."""

import os
import shutil
import subprocess
import sys
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path

import pytest

from vpd_envs.data.provenance import differences, field_defaults, versions

ROOT = Path(__file__).parents[3]


def test_differences_are_told_by_name_on_both_sides():
    there = {"env": "a", "options": {"seed": 0, "gone": 1}, "same": [1]}
    here = {"env": "b", "options": {"seed": 0}, "same": [1], "new": "x"}
    assert differences(there, here).split("; ") == [
        "env is 'a' there, 'b' here",
        "options.gone is 1 there, None here",
        "new is None there, 'x' here",
    ]
    assert differences(there, dict(there)) == ""


def test_an_option_that_came_later_had_its_default_there():
    there = {"env": "a", "options": {"seed": 0}}
    defaults = {"new": "x", "options.late": False, "options.seed": 7, "of another command": 1}
    same = {"env": "a", "options": {"seed": 0, "late": False}, "new": "x"}
    assert differences(there, same, defaults) == ""
    changed = {"env": "a", "options": {"seed": 0, "late": True}, "new": "y"}
    assert differences(there, changed, defaults).split("; ") == [
        "new is 'x' there, 'y' here",
        "options.late is False there, True here",
    ]


@dataclass
class Options:
    name: str
    rate: float = 0.5
    words: tuple[str, ...] = ("a", "b")
    made: dict = field(default_factory=dict)


def test_defaults_are_as_they_are_read_from_a_file():
    assert field_defaults(Options) == {"rate": 0.5, "words": ["a", "b"]}
    assert field_defaults(Options, prefix="of.") == {"of.rate": 0.5, "of.words": ["a", "b"]}


def test_versions_are_those_of_what_is_installed():
    found = versions("gymnasium", "no-such-distribution")
    assert found["gymnasium"] == version("gymnasium")
    assert found["python"] == ".".join(map(str, sys.version_info[:3]))
    assert "no-such-distribution" not in found


@pytest.mark.skipif(shutil.which("git") is None, reason="git is not installed")
def test_the_commit_is_that_of_this_source_and_of_no_repository_around_it(tmp_path):
    for package in ("vpd_envs", "sandbox"):
        ignored = shutil.ignore_patterns("__pycache__")
        shutil.copytree(ROOT / package, tmp_path / package, ignore=ignored)

    def git(*arguments: str) -> str:
        identity = ("-c", "user.name=n", "-c", "user.email=e@example.org")
        done = subprocess.run(["git", *identity, *arguments], cwd=tmp_path, check=True,
                              capture_output=True, text=True)  # fmt: skip
        return done.stdout.strip()

    def commit() -> str:
        program = "from vpd_envs.data.provenance import commit; print(commit())"
        environment = os.environ | {"PYTHONPATH": str(tmp_path)}
        done = subprocess.run([sys.executable, "-c", program], cwd=tmp_path, check=True,
                              capture_output=True, text=True, env=environment)  # fmt: skip
        return done.stdout.strip()

    git("init", "-q")
    (tmp_path / "mine.txt").write_text("of somebody else")
    git("add", "mine.txt")
    git("commit", "-qm", "mine")
    assert commit() == "None"
    git("add", ".")
    git("commit", "-qm", "the source")
    assert commit() == git("rev-parse", "HEAD")
    (tmp_path / "vpd_envs/types.py").open("a").write("# changed\n")
    assert commit() == git("rev-parse", "HEAD") + "+changes"
