"""The flags of vpd train and compare: those with new names, runs of before, and an algorithm from a
file of one's own."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import pytest

from agent.helpers import small_policy
from vpd_agent.algorithms import ALGORITHMS, GRPO, Algorithm, algorithm_class
from vpd_agent.cli.flags import ELSEWHERE, RENAMED
from vpd_agent.cli.main import main
from vpd_agent.runs.record import FORMAT
from vpd_agent.train.run import make_run

EXAMPLE = Path(__file__).parents[3] / "examples" / "new_algorithm.py"
OLD_VALUES = {"setting": "laptop", "distil_on": "failed", "normaliser": "token"}
SMALL = ("--prompts-per-step", 2, "--group-size", 2, "--max-response-tokens", 4,
         "--eval-every", 0, "--save-every", 1, "--quiet")  # fmt: skip
CHOICE = ("--env", "vpd/MiniChoice-v0")
CODE = ("--env", "vpd/MiniCode-v0", "--sandbox", "local")
OTHERS = """
from dataclasses import dataclass
from vpd_agent.algorithms import Algorithm, Loss

class Nothing:
    pass

class Plain(Algorithm):
    rate: float = 0.1

@dataclass(frozen=True)
class Needy(Algorithm):
    rate: float

@dataclass(frozen=True)
class Taken(Algorithm):
    steps: int = 3
"""


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> str:
    path = tmp_path_factory.mktemp("model")
    small_policy().save(path)
    return str(path)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """The current folder, with modules of one's own."""
    shutil.copy(EXAMPLE, tmp_path)
    (tmp_path / "others.py").write_text(OTHERS)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])  # the command adds the current folder
    modules = ("new_algorithm", "others")
    for name in modules:
        sys.modules.pop(name, None)
    yield tmp_path
    for name in modules:
        sys.modules.pop(name, None)


def run(*given: object) -> int:
    try:
        return main([str(a) for a in given])
    except SystemExit as stop:
        return stop.code


def said(capsys) -> str:
    return " ".join(capsys.readouterr().err.replace("│", " ").split())


def rows(out: Path) -> list[dict]:
    return [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]


def flag(name: str) -> str:
    return f"--{name.replace('_', '-')}"


def test_these_flags_have_new_names():
    """All that differ from the first format of a run's folder."""
    assert RENAMED == {
        "setting": "preset",
        "distil_on": "distill_on",
        "normaliser": "normalizer",
    }


@pytest.mark.parametrize("old", RENAMED)
@pytest.mark.parametrize("joined", [False, True])
@pytest.mark.parametrize("before", ["train vpd", "compare", "compare --"])
def test_a_renamed_flag_is_refused_with_its_new_name(old, joined, before, tmp_path, capsys):
    command, *rest = before.split()
    given = [f"{flag(old)}={OLD_VALUES[old]}"] if joined else [flag(old), OLD_VALUES[old]]
    common = [*CHOICE, "--model", "tiny", "--out", tmp_path / "out"]
    arguments = [*common, *rest, *given] if command == "compare" else [*rest, *common, *given]
    assert run(command, *arguments) == 2
    assert said(capsys) == f"vpd {command}: {flag(old)} is now called {flag(RENAMED[old])}."
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("other", ELSEWHERE)
def test_a_flag_of_another_trainer_is_refused_with_our_name(other, tmp_path, capsys):
    common = (*CHOICE, "--model", "tiny", "--out", tmp_path / "out")
    for given in ([flag(other), "1"], [f"{flag(other)}=1"]):
        assert run("train", "vpd", *common, *given) == 2
        told = f"There is no {flag(other)}: it is {flag(ELSEWHERE[other])} here."
        assert said(capsys) == f"vpd train: {told}"
    assert not (tmp_path / "out").exists()


def test_a_name_of_another_trainer_is_known_behind_the_dashes_and_in_a_file(tmp_path, capsys):
    common = (*CHOICE, "--model", "tiny", "--out", tmp_path / "out")
    assert run("compare", *common, "--algorithms", "grpo", "--", "--lr", "1") == 2
    assert said(capsys) == "vpd compare: There is no --lr: it is --learning-rate here."
    file = tmp_path / "run.yaml"
    file.write_text("lr: 1\n")
    assert run("train", "grpo", *common, "--config", file) == 2
    assert said(capsys).endswith("There is no 'lr': it is 'learning_rate' here.")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("old", RENAMED)
def test_a_renamed_key_of_a_file_is_refused_with_its_place(old, tmp_path, capsys):
    written = old.replace("_", "-")
    (tmp_path / "c.yaml").write_text(f"steps: 2\n{written}: {OLD_VALUES[old]}\n")
    section = "options" if old == "setting" else "algorithm"
    saved = {"algorithm": {"name": "vpd"}, "options": {"model": "m"}}
    saved[section][old] = OLD_VALUES[old]
    (tmp_path / "config.json").write_text(json.dumps(saved))
    for name, place in (("c.yaml", ", line 2"), ("config.json", "")):
        file = tmp_path / name
        common = (*CHOICE, "--model", "tiny", "--out", tmp_path / "out")
        assert run("train", "vpd", *common, "--config", file) == 2
        told = f"{file}{place}: {old!r} is now called {RENAMED[old]!r}."
        assert said(capsys) == f"vpd train: {told}"
    assert not (tmp_path / "out").exists()


def test_an_algorithm_from_outside_may_have_an_option_of_an_old_name(folder, capsys):
    (folder / "others.py").write_text(
        EXAMPLE.read_text().replace("entropy_bonus", "normaliser").replace("Reinforce", "Old")
    )
    common = (*CHOICE, "--model", "tiny", "--out", "out")
    assert run("train", "others:Old", *common, "--normaliser", 0.1, "--steps", -1) == 2
    assert "steps must be at least 0, got -1" in said(capsys)


@pytest.fixture(scope="module")
def finished(tmp_path_factory, model) -> Path:
    """The folder of a comparison with one finished run, of grpo with seed 0."""
    out = tmp_path_factory.mktemp("compared")
    common = (*CHOICE, "--model", model, "--steps", 1, *SMALL)
    assert run("train", "grpo", *common, "--out", out / "grpo-seed0") == 0
    return out


@pytest.mark.parametrize(("there", "age"), [(None, "an earlier"), (FORMAT + 1, "a later")])
def test_a_run_of_another_format_is_refused_wherever_it_would_go_on(
    there, age, finished, model, tmp_path, capsys
):
    shutil.copytree(finished, tmp_path / "c")
    out = tmp_path / "c/grpo-seed0"
    config = json.loads((out / "config.json").read_text())
    del config["format"]
    if there is None:  # as before there were numbers, with the names of flags of that time
        config["options"]["setting"] = config["options"].pop("preset")
        config["algorithm"]["normaliser"] = config["algorithm"].pop("normalizer")
    else:
        config["format"] = there
    (out / "config.json").write_text(json.dumps(config))
    before = {path: path.stat().st_mtime_ns for path in out.rglob("*")}
    sentence = (
        f"The run in {out} was made by {age} version of this project, which names flags and files "
        f"otherwise (format {there or 1}; this version has {FORMAT}). Start a new run, or go on "
        f"with that version."
    )
    capsys.readouterr()
    assert run("train", "grpo", "--resume", "--out", out, "--steps", 3) == 2
    assert said(capsys) == f"vpd train: {sentence}"
    shared = (*CHOICE, "--model", model, "--steps", 1, "--out", tmp_path / "c")
    assert run("compare", *shared, "--algorithms", "grpo", "--", *SMALL) == 2
    assert said(capsys).endswith(f"vpd compare: {sentence}")
    with (
        pytest.raises(ValueError) as error,  # noqa: PT011  the whole message is compared
        make_run("grpo", env=CHOICE[1], model=model, out=out, resume=True),
    ):
        pass
    assert str(error.value) == sentence
    assert {path: path.stat().st_mtime_ns for path in out.rglob("*")} == before


@pytest.mark.parametrize("form", ["new_algorithm:Reinforce", "new_algorithm.py:Reinforce",
                                  "{folder}/new_algorithm.py:Reinforce"])  # fmt: skip
def test_an_algorithm_from_a_file_trains_and_goes_on(form, folder, model, capsys):
    name = form.format(folder=folder)
    given = (*CODE, "--model", model, *SMALL, "--out", "run", "--entropy-bonus", 0.5)
    assert run("train", name, *given, "--steps", 2) == 0
    assert run("train", name, "--resume", "--out", "run", "--steps", 3) == 0
    assert "resuming with steps = 3; the run was begun with 2." in said(capsys)
    config = json.loads((folder / "run/config.json").read_text())
    assert config["algorithm"] == {"name": name, "entropy_bonus": 0.5}
    assert config["options"]["preset"] == "laptop"
    assert [row["step"] for row in rows(folder / "run")] == [1, 2, 3]
    # Nothing is solved, so that the entropy alone is trained for.
    assert all(row["reward"] == 0 and row["policy/grad_norm"] > 0 for row in rows(folder / "run"))
    assert run("train", "grpo", "--resume", "--out", "run", "--steps", 4) == 2
    assert f"this is a configuration of {name!r}, not of 'grpo'" in said(capsys)


def test_options_of_an_algorithm_from_outside_are_flags_with_their_meaning(folder, capsys):
    common = (*CODE, "--model", "tiny", "--help")
    assert run("train", "new_algorithm:Reinforce", *common, "losses") == 0
    shown = " ".join(capsys.readouterr().out.replace("│", " ").split())
    assert (
        "--entropy-bonus FLOAT Weight of the policy's entropy, which keeps it from settling early. "
        "(default: 0.0)"
    ) in shown
    assert "--clip-low" not in shown  # an option of grpo


@pytest.mark.slow
def test_compare_trains_an_algorithm_from_outside_beside_ours(folder, model):
    name = "new_algorithm:Reinforce"
    arguments = ("compare", *CHOICE, "--model", model, "--steps", 1, "--algorithms", name, "rft",
                 "--out", "c", "--", *SMALL[:6], "--eval-every", 1,
                 "--eval-problems", 2)  # fmt: skip
    assert run(*arguments) == 0
    results = json.loads((folder / "c/results.json").read_text())
    assert [each["contestant"] for each in results["runs"]] == [name, "rft"]
    assert results["runs"][0]["config"]["algorithm"]["name"] == name
    (path,) = (folder / "c").glob("new_algorithm_Reinforce-*-seed0")
    assert (path / "model").is_dir()
    assert f"| {name} |" in (folder / "c/report.md").read_text()


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("reinforce", "Unknown algorithm 'reinforce'. There are vpd, vpd-pg, sdpo, sc-sdpo, "
                      "sdpg, srpo, opsd, distil, pi-distill, past, sdar, rlsd, grpo, rft; or "
                      "module:Class or path/to/file.py:Class, your own."),
        ("gropo", "Unknown algorithm 'gropo'. Did you mean 'grpo'"),
        ("no_module:A", "There is no module 'no_module' to import the algorithm from: neither "
                        "installed nor in the current folder"),
        ("no/file.py:A", "There is no file no/file.py to import the algorithm from."),
        ("new_algorithm:Reinforcement", "Unknown algorithm in new_algorithm: 'Reinforcement'. Did "
                                        "you mean 'Reinforce'? There are Reinforce."),
        ("others:Nothing", "others:Nothing is no algorithm: it must be a subclass of "
                           "vpd_agent.algorithms.Algorithm."),
        ("others:dataclass", "others:dataclass is no algorithm"),
        ("others:Plain", "others:Plain must be a dataclass: write @dataclass(frozen=True) above"),
        ("others:Needy", "others:Needy: every option must have a default: "),
        ("others:Taken", "vpd train has other flags of the name steps: rename these options of "),
    ],
)  # fmt: skip
def test_what_is_no_algorithm_is_explained(name, expected, folder, capsys):
    assert run("train", name, *CHOICE, "--model", "tiny", "--out", "out") == 2
    assert expected in said(capsys)
    assert not (folder / "out").exists()
    assert run("compare", *CHOICE, "--algorithms", name, "--out", "out") == 2
    assert expected in said(capsys)


def test_one_of_ours_keeps_its_name_however_it_is_given():
    assert algorithm_class("vpd_agent.algorithms.grpo:GRPO") is GRPO
    assert {name: kind.name for name, kind in ALGORITHMS.items()} == {n: n for n in ALGORITHMS}


def test_a_class_without_a_name_is_called_as_it_is_in_python():
    class Nameless(Algorithm):
        pass

    assert Nameless.name == "Nameless"
