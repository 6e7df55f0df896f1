"""The commands as a person types them, and what they say to bad input."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from agent.helpers import small_policy
from vpd_agent.algorithms import ALGORITHMS
from vpd_agent.cli.main import main
from vpd_agent.tiny.model import tiny_policy
from vpd_agent.train.presets import PRESETS, preset_for
from vpd_envs.feedback import SOURCES

PROBLEMS = Path(__file__).parents[2] / "fixtures" / "problems.jsonl"


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> str:
    """A saved model that is no tiny preset by name."""
    path = tmp_path_factory.mktemp("model")
    small_policy().save(path)
    return str(path)


def run(*arguments: object) -> int:
    """The exit code, also where the option parser exits by itself."""
    try:
        return main([str(a) for a in arguments])
    except SystemExit as stop:
        return stop.code


def rows(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_training_on_real_code_problems_puts_the_judges_words_into_teacher_prompts(tmp_path, model):
    out = tmp_path / "run"
    code = run("train", "vpd", "--env", "vpd/LiveCodeBench-v0", "--data", PROBLEMS,
               "--model", model, "--sandbox", "local", "--train-split", "all", "--steps", 3,
               "--prompts-per-step", 2, "--group-size", 2, "--max-response-tokens", 8,
               "--micro-batch-size", 2, "--e-step-every", 2, "--quiet",
               "--out", out)  # fmt: skip
    assert code == 0
    metrics = rows(out / "metrics.jsonl")
    assert [row["step"] for row in metrics] == [1, 2, 3]
    assert "e_step/loss" in metrics[0]
    assert "e_step/loss" not in metrics[1]
    assert all("m_step/divergence" in row for row in metrics)
    for sample in rows(out / "samples.jsonl"):
        assert sample["feedback"][:20] in sample["teacher_prompt"]
    config = json.loads((out / "config.json").read_text())
    assert config["algorithm"]["e_step_every"] == 2
    AutoModelForCausalLM.from_pretrained(out / "model")
    AutoTokenizer.from_pretrained(out / "model")


def test_an_environment_of_ones_own_is_named_by_its_module(tmp_path, model, monkeypatch):
    """The guide's example, from a file in the current folder."""
    guide = (Path(__file__).parents[3] / "docs/guide/own-parts.md").read_text()
    source = guide[guide.index("# shout.py") :]
    (tmp_path / "shout.py").write_text(source[: source.index("```")])
    monkeypatch.chdir(tmp_path)
    code = run("train", "sdpo", "--env", "shout:Shout-v0", "--model", model, "--steps", 2,
               "--prompts-per-step", 2, "--group-size", 2, "--max-response-tokens", 4,
               "--out", "out")  # fmt: skip
    assert code == 0
    assert all(
        "use capital letters" in s["teacher_prompt"] for s in rows(tmp_path / "out/samples.jsonl")
    )


def test_a_stopped_run_resumes(tmp_path, model):
    common = ("--env", "vpd/MiniCode-v0", "--sandbox", "local", "--prompts-per-step", 2,
              "--group-size", 2, "--eval-every", 0, "--save-every", 1, "--quiet",
              "--out", tmp_path / "run")  # fmt: skip
    assert run("train", "sdpo", "--model", model, "--steps", 2, *common) == 0
    assert run("train", "sdpo", "--model", model, "--steps", 3, "--resume", *common) == 0
    assert [row["step"] for row in rows(tmp_path / "run/metrics.jsonl")] == [1, 2, 3]


def test_a_finished_run_has_nothing_to_do_and_goes_on_with_more_steps(tmp_path, model, capsys):
    """Its last step is none of those that --save-every names."""
    out = tmp_path / "run"
    common = ("--model", model, "--prompts-per-step", 2, "--group-size", 2, "--eval-every", 0,
              "--learning-rate-decay", 0, "--quiet", "--out", out)  # fmt: skip
    assert run("train", "sdpo", *CHOICE, *common, "--steps", 3, "--save-every", 2) == 0
    written = {path: path.stat().st_mtime_ns for path in out.rglob("*") if path.is_file()}
    assert json.loads((out / "model/metrics.json").read_text())["step"] == 3
    for steps in (3, 2):
        capsys.readouterr()
        assert run("train", "sdpo", "--resume", "--out", out, "--steps", steps) == 0
        assert "Nothing to do: the run in" in capsys.readouterr().err
    assert written == {path: path.stat().st_mtime_ns for path in out.rglob("*") if path.is_file()}
    # A run of four steps in one go is the same as one that went on after three.
    assert run("train", "sdpo", "--resume", "--out", out, "--steps", 4) == 0
    whole = tmp_path / "whole"
    arguments = ("train", "sdpo", *CHOICE, *common[:-1], whole, "--steps", 4, "--save-every", 2)
    assert run(*arguments) == 0
    weights = [path / "model/model.safetensors" for path in (out, whole)]
    assert weights[0].read_bytes() == weights[1].read_bytes()
    assert [row["step"] for row in rows(out / "metrics.jsonl")] == [1, 2, 3, 4]


def test_a_finished_run_without_a_checkpoint_is_not_begun_anew(tmp_path, model, capsys):
    out = tmp_path / "run"
    assert run("train", "sdpo", *CHOICE, "--model", model, "--prompts-per-step", 2, "--group-size",
               2, "--eval-every", 0, "--quiet", "--out", out, "--steps", 1, "--save-every",
               0) == 0  # fmt: skip
    before = (out / "metrics.jsonl").read_text()
    assert run("train", "sdpo", "--resume", "--out", out) == 0
    assert "Nothing to do" in capsys.readouterr().err
    assert run("train", "sdpo", "--resume", "--out", out, "--steps", 2) == 2
    assert "left no checkpoint to go on from" in " ".join(capsys.readouterr().err.split())
    assert (out / "metrics.jsonl").read_text() == before


def test_eval_counts_every_answer(tmp_path, model, capsys):
    code = run("eval", "--env", "vpd/MiniCode-v0", "--model", model, "--sandbox", "local",
               "--problems", 5, "--samples", 3, "--max-response-tokens", 4,
               "--out", tmp_path / "eval.jsonl")  # fmt: skip
    assert code == 0
    outcome = json.loads((tmp_path / "eval.json").read_text())
    assert len(outcome["problems"]) == 5
    assert sum(outcome["statuses"].values()) == 15
    assert "pass@1 = avg@3" in capsys.readouterr().out


@pytest.mark.slow
def test_an_interrupted_run_ends_with_130_and_goes_on_with_resume(tmp_path, model):
    out = tmp_path / "run"
    command = [sys.executable, "-m", "vpd_agent.cli", "train", "grpo", "--out", str(out)]
    first = subprocess.Popen(
        [*command, "--env", "vpd/MiniChoice-v0", "--model", model, "--steps", "100000",
         "--prompts-per-step", "2", "--group-size", "2", "--eval-every", "0", "--save-every", "0",
         "--quiet"],
        env=os.environ | {"OMP_NUM_THREADS": "1"}, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    metrics = out / "metrics.jsonl"
    deadline = time.monotonic() + 120
    while not (metrics.exists() and metrics.read_text().count("\n") > 1):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    first.send_signal(signal.SIGINT)
    _, told = first.communicate(timeout=120)
    assert first.returncode == 130
    done = rows(metrics)[-1]["step"]
    assert f"Stopped after step {done} of 100000" in " ".join(told.split())
    assert run("train", "grpo", "--out", out, "--resume", "--steps", done + 1) == 0
    assert rows(metrics)[-1]["step"] == done + 1


def test_a_collapsed_run_ends_with_1_and_says_so(tmp_path, model, capsys):
    code = run("train", "grpo", "--env", "vpd/MiniChoice-v0", "--model", model, "--steps", 50,
               "--prompts-per-step", 2, "--group-size", 2, "--eval-every", 0, "--quiet",
               "--min-entropy", 100, "--collapse-patience", 1, "--stop-on-collapse",
               "--out", tmp_path / "run")  # fmt: skip
    assert code == 1
    assert "of 50: training has collapsed" in " ".join(capsys.readouterr().err.split())
    assert len(rows(tmp_path / "run/metrics.jsonl")) < 50


def test_help_names_every_algorithm(capsys):
    assert run("--help") == 0
    listed = capsys.readouterr().out.split("algorithms:")[1].split(";")[0]
    assert {word.strip() for word in listed.split(",")} == set(ALGORITHMS)
    assert run() == 2


def test_help_is_a_command_too(capsys):
    assert run("help") == run("--help") == 0
    listed = capsys.readouterr().out
    assert listed[: len(listed) // 2] == listed[len(listed) // 2 :]
    for words in (("eval",), ("judge",), ("sandbox", "run"), ("train",), ("train", "vpd")):
        assert run("help", *words) == run(*words, "--help") == 0
        output = capsys.readouterr()
        shown = output.out or output.err
        assert shown[: len(shown) // 2] == shown[len(shown) // 2 :]
    assert run("help", "trian") == 2
    assert "Did you mean 'train'?" in capsys.readouterr().err


def test_the_version_names_what_it_runs_on(capsys):
    assert run("--version") == 0
    shown = dict(line.split(" ", 1) for line in capsys.readouterr().out.splitlines())
    assert {"vpd", "python", "torch", "transformers"} <= set(shown)
    assert shown["torch"] == torch.__version__


def test_help_explains_every_source_of_feedback(capsys):
    assert run("train", "vpd", *MINI, "--help") == 0
    text = " ".join(capsys.readouterr().out.replace("│", " ").split())
    assert all(f"{name}: {source.meaning}" in text for name, source in SOURCES.items())


def test_a_log_has_plain_lines_and_only_the_first_process_writes_them(model, monkeypatch, capsys):
    command = ("eval", "--env", "vpd/MiniChoice-v0", "--model", model, "--problems", 4,
               "--max-response-tokens", 2)  # fmt: skip
    assert run(*command) == 0
    first = capsys.readouterr()
    assert "pass@1" in first.out
    assert "eval  4/4  pass@1" in first.err
    assert not set(map(chr, range(32))) & set((first.out + first.err).replace("\n", ""))
    monkeypatch.setenv("RANK", "1")
    assert run(*command) == 0
    assert capsys.readouterr() == ("", "")


def test_an_error_of_any_process_is_told_with_its_rank(monkeypatch, capsys):
    monkeypatch.setenv("RANK", "3")
    assert run("train", "vpq") == 2
    assert capsys.readouterr().err.startswith("[rank 3] vpd train: Unknown algorithm 'vpq'")


CHOICE = ("--env", "vpd/MiniChoice-v0")
MINI = ("--env", "vpd/MiniCode-v0", "--model", "tiny", "--sandbox", "local")
LCB = ("--env", "vpd/LiveCodeBench-v0", "--model", "tiny", "--sandbox", "local")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["trian"], "Did you mean 'train'?"),
        (["train", "vpq", *MINI], f"There are {', '.join(ALGORITHMS)}; or module:Class"),
        (["train", "vpd", "--env", "vpd/MiniCod-v0", "--model", "tiny"],
         "Did you mean 'vpd/MiniCode-v0'"),
        (["train", "vpd", "--env", "nosuch:Env-v0", "--model", "tiny"], "no module 'nosuch'"),
        (["train", "vpd", *MINI, "--betta", "1"], "Perhaps you meant: --beta FLOAT"),
        (["train", "vpd", *MINI, "--lerning-rate", "1"], "Perhaps you meant: --learning-rate"),
        (["train", "vpd", *MINI, "--engine", "vlm"], "Did you mean 'vllm'?"),
        (["train", "vpd", *MINI, "--resume"], "There is nothing to resume in out"),
        (["train", "vpd", "--resume"], "nothing to resume in out: there is no such folder"),
        (["train", "vpd", *MINI, "--set", "split=test"], "--train-split and --eval-split"),
        (["train", "vpd", *MINI[:2], "--model", "tiny-warn"], "Did you mean 'tiny-warm'?"),
        (["compare", *MINI[:2], "--model", "tiny-warn"], "Did you mean 'tiny-warm'?"),
        (["train", "vpd", *MINI, "--beta", "-1"], "beta must be positive"),
        (["train", "vpd", *MINI, "--max-prompt-tokens", "2"], "No problem is left"),
        (["train", "vpd", *MINI, "--preset", "lapto"], "Did you mean 'laptop'"),
        (["train", "vpd", *MINI, "--feedback", "gossip"], "environment, siblings"),
        (["train", "vpd", *MINI[:4], "--sandbox", "jail"], "There are auto, docker, bubblewrap"),
        (["train", "vpd", *MINI, "--data", "x.jsonl"], "Unknown option of vpd/MiniCode-v0: 'data'"),
        (["train", "vpd", *MINI[:2], "--model", "./nowhere"], "no model folder './nowhere'"),
        (["train", "vpd", *LCB, "--data", "nowhere.jsonl"], "nowhere.jsonl"),
        (["train", "vpd", "--model", "tiny"], "--env"),
        (["eval", *MINI, "--problems", "0"], "--problems must be at least 1"),
        (["compare", *MINI, "--algorithms", "vpq"], "or module:Class or path/to/file.py:Class"),
    ],
)  # fmt: skip
def test_bad_input_is_explained_with_exit_code_2_and_nothing_is_written(
    tmp_path, monkeypatch, capsys, arguments, said
):
    monkeypatch.chdir(tmp_path)
    if arguments[0] in ("train", "compare"):
        arguments = [*arguments, "--out", "out"]
    assert run(*arguments) == 2
    output = capsys.readouterr()
    text = " ".join((output.out + output.err).replace("│", " ").split())
    assert said in text
    assert "Traceback" not in text
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "empty"),
        (b'{"question_id": "a", "question_content": "b"', "line 1"),
        (b'{"a": 1}\n', "question_id"),
        (b"\x89PNG\r\n\x1a\n\x00\x00", "line 1"),
    ],
)
def test_a_bad_data_file_is_explained(tmp_path, capsys, content, said):
    data = tmp_path / "problems.jsonl"
    data.write_bytes(content)
    assert run("train", "vpd", *LCB, "--data", data, "--out", tmp_path / "out") == 2
    assert said in " ".join(capsys.readouterr().err.split())
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("package", "extra", "arguments"),
    [
        ("peft", "lora", ("--env", "vpd/MiniChoice-v0", "--lora-rank", 2)),
        ("vllm", "vllm", ("--env", "vpd/MiniChoice-v0", "--engine", "vllm")),
        ("accelerate", "trackers", ("--env", "vpd/MiniChoice-v0", "--trackers", "tensorboard")),
        ("datasets", "hub", ("--env", "vpd/HumanEval-v0")),
        ("pyarrow", "hub", ("--env", "vpd/HumanEval-v0", "--data", "rows.parquet")),
        ("math_verify", "math", ("--env", "vpd/Math-v0", "--data", "rows.jsonl")),
        ("reasoning_gym", "reasoning", ("--env", "vpd/ReasoningGym-v0", "--set", "dataset=maze")),
        ("textarena", "games", ("--env", "vpd/TextArena-v0", "--set", "game=Sokoban")),
        ("yaml", "train", ("--env", "vpd/MiniChoice-v0", "--config", "c.yaml")),
    ],
)
def test_a_missing_package_is_named_with_its_extra_before_any_work(
    tmp_path, monkeypatch, capsys, package, extra, arguments
):
    monkeypatch.chdir(tmp_path)
    for name in ("rows.parquet", "rows.jsonl", "c.yaml"):
        Path(name).write_text("{}\n")
    monkeypatch.setitem(sys.modules, package, None)
    assert run("train", "vpd", *arguments, "--model", "tiny", "--out", "out") == 2
    message = " ".join(capsys.readouterr().err.split())
    assert "pip install" in message
    assert f"[{extra}" in message
    assert "Traceback" not in message
    assert not Path("out").exists()


def test_an_output_folder_in_use_is_left_as_it_is(tmp_path, capsys):
    out = tmp_path / "out"
    out.mkdir()
    (out / "thesis.txt").write_text("do not lose me")
    assert run("train", "vpd", *MINI, "--out", out) == 2
    assert "is in use" in " ".join(capsys.readouterr().err.split())
    assert [p.name for p in out.iterdir()] == ["thesis.txt"]


def test_presets_of_tiny_models_are_not_those_of_real_ones(tmp_path):
    tiny_policy().save(tmp_path / "tiny-saved")
    (tmp_path / "real").mkdir()
    (tmp_path / "real/config.json").write_text('{"hidden_size": 4096}')
    assert preset_for("vpd/MiniCode-v0", "tiny-warm") == "laptop"
    assert preset_for("vpd/MiniFunction-v0", "tiny-function-warm") == "laptop-long"
    assert preset_for("vpd/TextArena-v0", "tiny-game-warm") == "laptop-games"
    assert preset_for("vpd/TextArena-v0", "tiny") == "tiny"
    assert preset_for("vpd/MiniCode-v0", str(tmp_path / "tiny-saved")) == "laptop"
    assert preset_for("vpd/LiveCodeBench-v0", "tiny") == "tiny"
    assert preset_for("vpd/LiveCodeBench-v0", str(tmp_path / "real")) == "code"
    assert preset_for("vpd/LiveCodeBench-v0", "Qwen/Qwen3-8B") == "code"
    assert preset_for("vpd/MiniCode-v0", "Qwen/Qwen3-8B") == "science"
    assert PRESETS["code"].config("vpd").learning_rate == 1e-6


@pytest.mark.parametrize("words", [["--help"], ["--version"], ["envs"]])
def test_a_reader_that_has_gone_gets_no_traceback(words):
    reader, writer = os.pipe()
    os.close(reader)
    command = [sys.executable, "-m", "vpd_agent.cli", *words]
    done = subprocess.run(command, stdout=writer, stderr=subprocess.PIPE, text=True, check=False)
    os.close(writer)
    assert (done.returncode, done.stderr) == (1, "")
