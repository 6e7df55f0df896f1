"""Algorithms from a folder outside of the package, as the command line names them."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import pytest

from agent.helpers import small_policy
from vpd_agent.algorithms import ALGORITHMS, GRPO, SDPO, Algorithm, algorithm_class
from vpd_agent.cli.main import main
from vpd_agent.evaluation.compare import plan
from vpd_agent.train.presets import PRESETS

EXAMPLE = Path(__file__).parents[3] / "examples" / "new_algorithm.py"
OTHERS = """
from dataclasses import dataclass

from vpd_agent.algorithms import SDPO, Algorithm

number = 1

class NoAlgorithm:
    pass

class NoDataclass(Algorithm):
    gamma: float = 1.0

@dataclass(frozen=True)
class NoDefault(Algorithm):
    gamma: float

@dataclass(frozen=True)
class Taken(Algorithm):
    steps: int = 3

@dataclass(frozen=True)
class Mine(SDPO):
    alpha: float = 0.25
"""


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    """The current folder, with the example and other classes in it."""
    shutil.copy(EXAMPLE, tmp_path / "own_reinforce.py")
    (tmp_path / "own_others.py").write_text(OTHERS)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))  # the commands add the current folder
    yield tmp_path
    for name in ("own_reinforce", "own_others"):
        sys.modules.pop(name, None)


def run(*arguments: object) -> int | str | None:
    try:
        return main([str(a) for a in arguments])
    except SystemExit as stop:
        return stop.code


def said(capsys) -> str:
    output = capsys.readouterr()
    return " ".join((output.out + output.err).replace("│", " ").split())


@pytest.mark.parametrize("name", ["own_reinforce:Reinforce", "own_reinforce.py:Reinforce"])
def test_it_trains_with_its_option_and_is_resumed_by_the_name_it_was_given(name, folder, capsys):
    small_policy().save(folder / "model")
    flags = ("--prompts-per-step", 2, "--group-size", 2, "--max-response-tokens", 4,
             "--eval-every", 0, "--quiet")  # fmt: skip
    begin = ("--env", "vpd/MiniChoice-v0", "--model", "model", "--steps", 1, "--no-baseline")
    assert run("train", name, *begin, *flags, "--out", "run") == 0
    config = json.loads(Path("run/config.json").read_text())
    assert config["algorithm"] == {"name": name, "baseline": False}
    assert run("train", name, "--resume", "--out", "run", "--steps", 2) == 0
    rows = [json.loads(line) for line in Path("run/metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == [1, 2]
    assert all("policy/loss" in row for row in rows)
    capsys.readouterr()
    assert run("train", "grpo", "--resume", "--out", "run") == 2
    assert f"this is a configuration of {name!r}, not of 'grpo'" in said(capsys)


def test_its_options_are_flags_of_help(capsys):
    assert run("train", "own_reinforce:Reinforce", "--help") == 0
    text = said(capsys)
    assert "--baseline, --no-baseline Take the mean reward of a problem's rollouts for b" in text
    assert "--learning-rate" in text


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("own_others:NoAlgorithm", "it must be a subclass of vpd_agent.algorithms.Algorithm"),
        ("own_others:number", "it must be a subclass of vpd_agent.algorithms.Algorithm"),
        ("own_others:NoDataclass", "must be a dataclass: write @dataclass(frozen=True) above it"),
        ("own_others:NoDefault", "every option must have a default"),
        ("own_others:Mein", "Did you mean 'Mine'"),
        ("own_nowhere:Mine", "There is no module 'own_nowhere'"),
        ("own_nowhere.py:Mine", "There is no file own_nowhere.py"),
        ("sdpq", "or module:Class or path/to/file.py:Class, your own"),
    ],
)
@pytest.mark.parametrize("command", ["train", "compare"])
def test_what_is_no_algorithm_is_explained(command, name, expected, capsys):
    given = ("--algorithms", name) if command == "compare" else ()
    options = ("--env", "vpd/MiniChoice-v0", "--model", "tiny", "--out", "out")
    code = run(command, *(() if given else (name,)), *options, *given)
    assert code == 2
    assert expected in said(capsys)
    assert not Path("out").exists()


def test_an_option_with_the_name_of_another_flag_is_explained(capsys):
    options = ("--env", "vpd/MiniChoice-v0", "--model", "tiny", "--out", "out")
    assert run("train", "own_others:Taken", *options) == 2
    assert "vpd train has other flags of the name steps" in said(capsys)


def test_a_preset_leaves_it_the_defaults_of_its_class():
    mine = PRESETS["science"].algorithm("own_others:Mine")
    assert isinstance(mine, SDPO)
    assert (mine.alpha, mine.top_k) == (0.25, SDPO().top_k)
    assert mine.name == "own_others:Mine"
    rate = PRESETS["science"].train.learning_rate
    assert PRESETS["science"].config("own_others:Mine").learning_rate == rate


def test_one_of_ours_keeps_its_name_however_it_is_given():
    assert algorithm_class("vpd_agent.algorithms.grpo:GRPO") is GRPO
    assert {name: kind.name for name, kind in ALGORITHMS.items()} == {n: n for n in ALGORITHMS}


def test_a_class_without_a_name_is_called_as_it_is_in_python():
    class Nameless(Algorithm):
        pass

    assert Nameless.name == "Nameless"


def test_runs_of_a_comparison_have_folders_of_safe_names(tmp_path):
    names = ["vpd", "mine:Own", "../up/mine.py:Own"]
    runs = plan(tmp_path, names, [0])
    assert [run.algorithm for run in runs] == names
    assert [run.path.parent for run in runs] == [tmp_path] * 3
    assert [run.path.name for run in runs] == [
        "vpd-seed0",
        "mine_Own-seed0",
        ".._up_mine.py_Own-seed0",
    ]
