"""Configuration files: read, refused, saved, read again."""

from __future__ import annotations

import json
import re
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import pytest
import tyro

from agent.helpers import small_policy
from vpd_agent.algorithms import ALGORITHMS, VPD
from vpd_agent.cli.compare import CompareOptions
from vpd_agent.cli.config_file import read, with_defaults
from vpd_agent.cli.doctor import DoctorOptions
from vpd_agent.cli.evaluate import EvalOptions
from vpd_agent.cli.flags import FlagGroup, flag_types, parse
from vpd_agent.cli.main import main
from vpd_agent.cli.train_flags import flag_groups
from vpd_agent.cli.train_help import flags_of
from vpd_agent.cli.warmup import WarmupOptions
from vpd_agent.rollout.teacher_prompt import TeacherTemplate
from vpd_agent.runs.record import differences, saved
from vpd_agent.train.config import TrainConfig
from vpd_agent.train.options import TrainOptions
from vpd_agent.train.presets import PRESETS

CHOICE = ("--env", "vpd/MiniChoice-v0")
QUICK = """
steps: 2
prompts-per-step: 2
group_size: 2
eval_every: 0
save_every: 1
quiet: true
"""


@dataclass(frozen=True)
class Inner:
    width: float = 0.5
    on: bool = True


@dataclass(frozen=True, kw_only=True)
class Everything:
    """A field of every kind that a configuration has."""

    path: Path
    count: int = 1
    rate: float = 0.1
    flag: bool = False
    words: tuple[str, ...] = ()
    pair: tuple[float, float] = (0.0, 1.0)
    maybe: int | None = None
    switch: bool | None = None
    choice: Literal["a", "b-c"] = "a"
    text: str = ""
    inner: Inner = Inner()


REQUIRED: Any = tyro.MISSING
GROUPS = {
    "all": FlagGroup(Everything, Everything(path=REQUIRED)),
    "template": FlagGroup(TeacherTemplate, TeacherTemplate(), "template."),
}


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> str:
    path = tmp_path_factory.mktemp("model")
    small_policy().save(path)
    return str(path)


def parsed(tmp_path: Path, text: str, *typed: str, name: str = "c.yaml"):
    file = tmp_path / name
    file.write_text(text, encoding="utf-8")
    return parse("test", typed, **with_defaults(GROUPS, read(file)))


def run_flags(algorithm: str, preset: str) -> dict[str, FlagGroup]:
    """The flags of vpd train."""
    return flag_groups(ALGORITHMS[algorithm], PRESETS[preset])


def run(*given: object) -> int:
    try:
        return main([str(a) for a in given])
    except SystemExit as stop:
        return stop.code


def said(capsys) -> str:
    return " ".join(capsys.readouterr().err.replace("│", " ").split())


def metrics(out: Path) -> list[dict]:
    """What a run measured, but for its seconds."""
    rows = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    timed = ("seconds/", "idle/", "tokens_per_second")
    return [{k: v for k, v in row.items() if not k.startswith(timed)} for row in rows]


def test_every_kind_of_value_arrives_as_what_it_is(tmp_path):
    file = """
        path: some where/x
        count: -3
        rate: 1e-4            # a text to YAML 1.1, a number to everybody else
        flag: yes
        words: [a=1, "-b=2", 'c d']
        pair: [0.25, -1]
        maybe: 7
        switch: false
        choice: b-c
        text: "-- é 💡"
        inner: {width: 2, on: no}
        template:
          max-feedback-chars: 5
    """
    result = parsed(tmp_path, file.replace("\n        ", "\n").replace('"-b=2", ', ""))
    assert result.all == Everything(
        path=Path("some where/x"), count=-3, rate=1e-4, flag=True, words=("a=1", "c d"),
        pair=(0.25, -1.0), maybe=7, switch=False, choice="b-c", text="-- é 💡",
        inner=Inner(2.0, False),
    )  # fmt: skip
    assert result.template == TeacherTemplate(max_feedback_chars=5)


def test_json_is_read_as_well_with_its_sections(tmp_path):
    file = {"options": {"path": "p", "words": [], "maybe": None}, "config": {"count": 2},
            "template": {"failed": "{prompt} 💡\n"}, "versions": {"torch": "0"}}  # fmt: skip
    result = parsed(tmp_path, json.dumps(file), name="config.json")
    assert result.all == Everything(path=Path("p"), count=2)
    assert result.template == TeacherTemplate(failed="{prompt} 💡\n")


def test_what_is_typed_wins_over_the_file(tmp_path):
    result = parsed(tmp_path, "path: p\ncount: 2\nflag: true\nwords: [a, b]\n",
                    "--count", "3", "--no-flag", "--words", "c")  # fmt: skip
    assert result.all == Everything(path=Path("p"), count=3, words=("c",))


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("path: p\ncuont: 1", "line 2: unknown key 'cuont'. Did you mean 'count'?"),
        ("inner: {widht: 1}", "line 1: unknown key 'inner.widht'. Did you mean 'inner.width'?"),
        ("count: many", "line 1: count must be a whole number, got 'many'"),
        ("count: 1.5", "count must be a whole number, got 1.5"),
        ("count: true", "count must be a whole number, got True"),
        ("rate: [1, 2]", "rate must be a number, got [1, 2]"),
        ("flag: 'yes'", "flag must be true or false, got 'yes'"),
        ("flag: 1", "flag must be true or false, got 1"),
        ("text: off", "text must be text, got False"),
        ("maybe: x", "maybe must be a whole number or null, got 'x'"),
        ("choice: c", "choice must be 'a' or 'b-c', got 'c'"),
        ("pair: [1]", "pair must be a list of a number, got [1]"),
        ("count: 1\n\ncount: 2", "line 3: 'count' is there twice"),
        ("text: a\nte-xt: b", "line 2: unknown key 'te_xt'"),
        ("a: [1", "line 1: expected ',' or ']'"),
        ("a: 1\n\tb: 2", "line 2: found character '\\t' that cannot start any token"),
        ("a: 1\n--- \nb: 2", "line 2: but found another document"),
        ("a: \x07", "c.yaml: unacceptable character #x0007"),
        ("", "expected names of flags and their values (steps: 100), got nothing"),
        ("# nothing yet\n", "got nothing"),
        ("{}", "got nothing"),
        ("[a, b]", "got ['a', 'b']"),
        ("just words", "got 'just words'"),
    ],
)
def test_a_bad_file_is_refused_with_its_place(tmp_path, content, expected):
    with pytest.raises(ValueError, match=r"c\.yaml") as error:
        parsed(tmp_path, content)
    assert expected in str(error.value)


def test_bad_json_bytes_and_absent_files_are_told_apart(tmp_path):
    with pytest.raises(ValueError, match=r"c\.json, line 2: Expecting"):
        parsed(tmp_path, '{"a": 1,\n]', name="c.json")
    (tmp_path / "c.yaml").write_bytes(b"\xff\xfe")
    with pytest.raises(ValueError, match="is not UTF-8 text"):
        read(tmp_path / "c.yaml")
    for nothing in (tmp_path / "none.yaml", tmp_path):
        with pytest.raises(FileNotFoundError, match="There is no configuration file"):
            read(nothing)


@pytest.mark.parametrize("name", ALGORITHMS)
@pytest.mark.parametrize("preset", PRESETS)
def test_what_a_run_saves_reads_back_as_the_same_run(tmp_path, name, preset):
    """Every preset of every algorithm, with no default left where it can be changed."""
    chosen = PRESETS[preset]
    options = TrainOptions(env="e:E-v0", model="m", out=Path("o"), preset=preset, threads=2,
                           set=("a=1", "b={}"), trackers=("wandb",), train_split=None)  # fmt: skip
    config = saved(chosen.algorithm(name), chosen.config(name), chosen.template, options)
    file = tmp_path / "config.json"
    file.write_text(json.dumps(config, indent=2))
    other = "science" if preset != "science" else "laptop"  # whose defaults are to be overruled
    groups = run_flags(name, other)
    entries = [e for e in read(file) if e.key != "algorithm"]
    again = parse("test", [], **with_defaults(groups, entries))
    assert again.algorithm == chosen.algorithm(name)
    assert again.config == chosen.config(name)
    assert again.template == chosen.template
    assert again.options == options


@pytest.mark.parametrize("name", ALGORITHMS)
def test_every_flag_of_a_run_is_explained(name):
    groups = run_flags(name, "laptop").values()
    assert not [flag.name for group in groups for flag in flags_of(group)
                if not re.search("[a-z]", flag.meaning)]  # fmt: skip


@pytest.mark.parametrize("kind", [EvalOptions, CompareOptions, WarmupOptions, DoctorOptions])
def test_every_flag_of_the_other_commands_is_explained(kind, capsys):
    assert not unexplained({"options": FlagGroup(kind)}, capsys)


def unexplained(groups: dict[str, FlagGroup], capsys) -> list[str]:
    """Flags of which --help says no word."""
    with pytest.raises(SystemExit):
        parse("test", ["--help"], **groups)
    text = " ".join(capsys.readouterr().out.replace("│", " ").split())
    silent = []
    for flag in flag_types(groups):
        shown = "--" + flag.replace("_", "-")
        entry = re.search(rf" {re.escape(shown)}[, ](.*?)\((default|required)", text)
        words = re.sub(r"--\S+|\{.*?\}", "", entry[1])  # without flag and choices
        if not re.search("[a-z]", words):
            silent.append(flag)
    return silent


def test_no_two_flags_of_a_run_have_the_same_name():
    for algorithm in ALGORITHMS:
        groups = run_flags(algorithm, "laptop").values()
        names = [name for group in groups for name in flag_types({"": group})]
        assert len(names) == len(set(names))


def test_differences_leave_out_what_harms_nothing():
    old = {"algorithm": {"name": "vpd", "beta": 1.0}, "config": {"steps": 2, "save_every": 1},
           "options": {"out": "a", "model": "m", "set": ["a"]}}  # fmt: skip
    new = json.loads(json.dumps(old))
    assert differences(old, new) == {}
    new["options"] |= {"out": "b", "set": ("a",), "data": "d"}
    new["config"] |= {"steps": 3, "save_every": 5}
    new["algorithm"]["beta"] = 2.0
    assert differences(old, new) == {
        "algorithm.beta": (1.0, 2.0), "steps": (2, 3), "data": (None, "d")
    }  # fmt: skip


def test_a_flag_that_came_later_had_its_default():
    """`teach_end` is True unless said otherwise, and VPD's β is 0.1."""
    old = {"algorithm": {"name": "vpd"}, "config": {"steps": 2}}
    assert TrainConfig().teach_end
    assert VPD().beta == 0.1
    same = {"algorithm": {"name": "vpd", "beta": 0.1}, "config": {"steps": 2, "teach_end": True}}
    assert differences(old, same) == {}
    other = {"algorithm": {"name": "vpd", "beta": 1.0}, "config": {"steps": 2, "teach_end": False}}
    assert differences(old, other) == {"algorithm.beta": (0.1, 1.0), "teach_end": (True, False)}
    unknown = old | {"options": {"of_tomorrow": 1}}
    assert differences(old, unknown) == {"of_tomorrow": (None, 1)}


def test_a_saved_configuration_gives_the_same_run(tmp_path, model):
    (tmp_path / "c.yaml").write_text(
        f"{QUICK}\nenv: vpd/MiniChoice-v0\nmodel: {model}\npreset: tiny\nbeta: 0.3\n"
        f"max_response_tokens: 4\nmax_prompt_tokens: 300\nfeedback: outcome\n"
        f"template: {{failed: '{{prompt}}! {{feedback}}'}}\n"
    )
    first, second = tmp_path / "first", tmp_path / "second"
    assert run("train", "vpd", "--config", tmp_path / "c.yaml", "--seed", 5, "--out", first) == 0
    config = json.loads((first / "config.json").read_text())
    assert config["algorithm"]["beta"] == 0.3
    assert config["template"]["failed"] == "{prompt}! {feedback}"
    assert config["config"]["seed"] == 5
    assert config["options"]["preset"] == "tiny"
    assert config["options"]["feedback"] == "outcome"
    assert {"python", "vpd", "torch", "transformers", "gymnasium"} <= set(config["versions"])
    assert {"commit", "fingerprints"} <= set(config)
    assert len(config["fingerprints"]["train"]) == 64
    assert set(config["fingerprints"]["model"]) == {"weights", "model_config", "tokenizer"}
    assert run("train", "vpd", "--config", first / "config.json", "--out", second) == 0
    assert metrics(first) == metrics(second)
    again = json.loads((second / "config.json").read_text())
    assert again.pop("options") == config.pop("options") | {"out": str(second)}
    assert again == config


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("lerning_rate: 1", "line 1: unknown key 'lerning_rate'. Did you mean 'learning_rate'?"),
        ("learning_rate: fast", "line 1: learning_rate must be a number, got 'fast'."),
        ("resume: true", "unknown key 'resume'. It belongs on the command line."),
        ("algorithm: sdpo", "this is a configuration of 'sdpo', not of 'vpd'"),
        ("preset: lapto", "Did you mean 'laptop'"),
        ("engine: vlm", "Did you mean 'vllm'?"),
        ("trackers: [tensorbord]", "Did you mean 'tensorboard'?"),
        ("steps: -1", "steps must be at least 0, got -1"),
        ("env: vpd/MiniCod-v0", "Did you mean 'vpd/MiniCode-v0'"),
        ("", "got nothing"),
        ("- steps", "got ['steps']"),
    ],
)
def test_a_bad_file_ends_a_run_before_it_begins(tmp_path, monkeypatch, capsys, content, expected):
    monkeypatch.chdir(tmp_path)
    Path("c.yaml").write_text(content)
    env = () if content.startswith("env") else CHOICE
    code = run("train", "vpd", *env, "--model", "tiny", "--config", "c.yaml", "--out", "out")
    assert code == 2
    message = said(capsys)
    assert expected in message
    assert "Traceback" not in message
    assert [p.name for p in tmp_path.iterdir()] == ["c.yaml"]


def test_an_absent_file_and_an_unknown_flag_are_explained(tmp_path, capsys):
    common = ("train", "vpd", *CHOICE, "--model", "tiny", "--out", tmp_path / "out")
    assert run(*common, "--config", tmp_path / "none.yaml") == 2
    assert "There is no configuration file" in said(capsys)
    assert run(*common, "--lerning-rate", 1) == 2
    assert "Perhaps you meant: --learning-rate" in said(capsys)
    assert not (tmp_path / "out").exists()


def test_a_flag_may_put_right_what_a_file_leaves_invalid(tmp_path):
    """A class checks its values when all are known, not those of the file by themselves."""
    (tmp_path / "c.yaml").write_text("sampled_token: true\nalpha: 0.5\n")
    groups = with_defaults(run_flags("sdpo", "tiny"), read(tmp_path / "c.yaml"))
    needed = ["--env", "e", "--model", "m", "--out", "o"]
    assert parse("test", [*needed, "--alpha", "1"], **groups).algorithm.sampled_token
    with pytest.raises(ValueError, match="alpha must be 1 with sampled_token"):
        parse("test", needed, **groups)


def test_resuming_needs_no_flags_and_says_what_differs(tmp_path, model, capsys):
    (tmp_path / "c.yaml").write_text(f"{QUICK}\nenv: vpd/MiniChoice-v0\nmodel: {model}\n")
    out = tmp_path / "run"
    assert run("train", "sdpo", "--config", tmp_path / "c.yaml", "--alpha", 0.7, "--out", out) == 0
    capsys.readouterr()

    assert run("train", "sdpo", "--resume", "--out", out, "--steps", 3, "--save-every", 2) == 0
    message = said(capsys)
    assert "resuming with steps = 3; the run was begun with 2." in message
    assert message.count("Warning: resuming") == 1
    assert [row["step"] for row in metrics(out)] == [1, 2, 3]
    config = json.loads((out / "config.json").read_text())
    assert (config["algorithm"]["alpha"], config["config"]["steps"]) == (0.7, 3)

    # Other software is told of.
    old = config | {"versions": config["versions"] | {"torch": "1.0"}}
    (out / "config.json").write_text(json.dumps(old))
    assert run("train", "sdpo", "--resume", "--out", out) == 0
    assert "resuming with other software: versions.torch is '1.0' there" in said(capsys)
    (out / "config.json").write_text(json.dumps(config))

    # A file may name the folder; what was typed at first is not forgotten.
    (tmp_path / "c.yaml").write_text(f"out: {out}\nsteps: 3\n")
    assert run("train", "sdpo", "--resume", "--config", tmp_path / "c.yaml") == 0
    assert "Warning: resuming" not in said(capsys)
    assert json.loads((out / "config.json").read_text())["algorithm"]["alpha"] == 0.7

    before = (out / "metrics.jsonl").read_text()
    for changed, expected in (
        (("--env", "vpd/MiniCode-v0"), "cannot go on as vpd/MiniCode-v0"),
        (("--set", "table_seed=7"), "cannot go on as ['table_seed=7']"),
        (("--train-split", "test", "--steps", 4), "other problems to train on"),
    ):
        assert run("train", "sdpo", "--resume", "--out", out, *changed) == 2
        assert expected in said(capsys)
    assert run("train", "vpd", "--resume", "--out", out) == 2
    assert "this is a configuration of 'sdpo', not of 'vpd'" in said(capsys)
    assert run("train", "sdpo", "--resume", "--out", out, "--model", "tiny") == 2
    assert f"holds a run of the model {model}; it cannot go on as tiny" in said(capsys)
    assert (out / "metrics.jsonl").read_text() == before


def test_asdict_of_a_saved_configuration_is_plain_json():
    options = TrainOptions(env="e", model="m", out=Path("a/b"), config=Path("c"), resume=True)
    preset = PRESETS["laptop"]
    config = saved(preset.algorithm("vpd"), preset.config("vpd"), preset.template, options)
    assert json.loads(json.dumps(config))["options"]["out"] == "a/b"
    assert not {"config", "resume"} & set(config["options"])
    assert config["config"] == asdict(preset.config("vpd"))
