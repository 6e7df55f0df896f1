"""vpd train --dry-run: what it tells, and what it leaves alone."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from agent.helpers import small_policy
from sandbox.core import Job, SandboxError
from vpd_agent.cli.main import main
from vpd_agent.rollout.environment import EnvironmentSpec
from vpd_agent.tiny.model import tiny_policy
from vpd_agent.train.dry_run import dry_run
from vpd_agent.train.problems import prompt_lengths
from vpd_agent.train.run import make_plan, make_run

PROGRAMS = Path(__file__).parents[3] / "examples" / "data" / "programs.jsonl"


def report_of(algorithm="grpo", env="vpd/MiniChoice-v0", model="tiny", **options):
    return dry_run(make_plan(algorithm, env=env, model=model, out="runs/none", **options))


def run(*given: object) -> int:
    try:
        return main([str(a) for a in given])
    except SystemExit as stop:
        return stop.code


@pytest.fixture
def alone(tmp_path, monkeypatch):
    """An empty current folder, and no way to another machine or into a sandbox."""

    def refused(*args, **kwargs):
        raise AssertionError("A dry run connects to nothing and starts nothing.")

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(socket.socket, "connect", refused)
    monkeypatch.setattr("vpd_envs.code.sandboxed.shared", refused)
    return tmp_path


def test_nothing_is_written_started_or_fetched(alone, capsys):
    given = ["--env", "vpd/LiveCodeBench-v0", "--data", PROGRAMS, "--out", "runs/a"]
    assert run("train", "vpd", *given, "--model", "Qwen/Qwen3-8B", "--dry-run") == 0
    assert not list(alone.iterdir())
    told = capsys.readouterr().out
    assert "Nothing was trained, written or fetched." in " ".join(told.split())
    assert "8.19 billion weights" in told
    assert "all while training" in told


def test_what_is_on_the_hub_is_not_needed(alone):
    report = report_of(env="vpd/SciKnowEval-v0", model="Qwen/Qwen3-1.7B")
    assert report.facts["problems"].startswith("on the hub: pass --data")
    missing = report_of(env="vpd/ToolUse-v0", model="Qwen/Qwen3-1.7B", data="nowhere")
    assert missing.facts["problems"].startswith("no nowhere here")
    assert report.costs


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"set": ("feedback_tests=haf",)}, "feedback_tests must be"),
        ({"set": ("feedback_test=half",)}, "Did you mean 'feedback_tests'"),
        ({"sandbox": "dcoker"}, "Unknown sandbox 'dcoker'. Did you mean 'docker'"),
        ({"feedback": "contrats"}, "Did you mean 'contrast'"),
        ({"model": "/nowhere/at/all"}, "There is no model folder"),
        ({"engine": "vlm"}, "Did you mean 'vllm'"),
        ({"config": {"group_size": 1}}, "group_size must be at least 2"),
        ({"config": {"sharding": "fsdp"}}, "Sharding needs several processes"),
    ],
)
def test_what_a_run_would_refuse_is_refused(alone, options, said):
    with pytest.raises(ValueError, match=said):
        report_of(**{"env": "vpd/LiveCodeBench-v0", "model": "Qwen/Qwen3-8B", **options})


def test_prompts_are_measured_with_the_models_tokenizer():
    environment = EnvironmentSpec("vpd/MiniChoice-v0").make(4, "train")
    policy = tiny_policy()
    lengths = prompt_lengths(environment, lambda messages: len(policy.encode(messages)))
    told = report_of().facts["problems"]
    assert f"{min(lengths.values())} to {max(lengths.values())} tokens" in told
    assert told.startswith(f"{len(lengths)} of the split train")


def test_without_the_tokenizer_bytes_are_counted(alone):
    short = report_of(
        env="vpd/LiveCodeBench-v0", model="Qwen/Qwen3-8B", data=str(PROGRAMS), train_split=None
    )
    environment = EnvironmentSpec("vpd/LiveCodeBench-v0", kwargs={"data": str(PROGRAMS)})
    opened = environment.make_at_hand(2)
    assert opened is not None
    sizes = prompt_lengths(
        opened, lambda messages: sum(len(m["content"].encode()) for m in messages)
    )
    longest = -(-max(sizes.values()) // 3)
    assert f"to {longest} tokens" in short.facts["problems"]
    assert "estimated, a token for 3 bytes" in short.facts["problems"]


def test_problems_too_long_are_counted_and_none_left_is_refused(alone):
    data = {"env": "vpd/LiveCodeBench-v0", "data": str(PROGRAMS), "train_split": None}
    lengths = sorted(
        prompt_lengths(
            EnvironmentSpec("vpd/LiveCodeBench-v0", kwargs={"data": str(PROGRAMS)}).make_at_hand(1),
            lambda messages: len(small_policy().encode(messages)),
        ).values()
    )
    limit = lengths[len(lengths) // 2]
    told = report_of(**data, config={"max_prompt_tokens": limit}).facts["problems"]
    longer = sum(n > limit for n in lengths)
    assert f"{longer} are longer than {limit} and left out" in told
    with pytest.raises(ValueError, match="No problem is left to train on"):
        report_of(**data, config={"max_prompt_tokens": 3})


def test_lengths_are_fitted_to_the_context_where_no_memory_is_known(alone):
    """The preset's answers alone have as many tokens as SmolLM2's context, 8192. They get half of
    it, and the teacher's prompt the other half, of which the problem has half."""
    data = {"env": "vpd/LiveCodeBench-v0", "data": str(PROGRAMS), "train_split": None}
    report = report_of("sdpo", model="smollm2", device="cpu", **data)
    assert "--max-response-tokens 4096" in report.facts["fitted"]
    assert report.facts["problems"].endswith("0 are longer than 2048 and left out")


def test_a_model_at_hand_is_read_from_its_folder(tmp_path):
    policy = small_policy()
    policy.save(tmp_path)
    count = sum(p.numel() for p in policy.model.parameters())
    report = report_of("sdpo", model=str(tmp_path))
    assert f"{count / 1e9:.3g} billion weights, {tmp_path}" in report.facts["model"]
    assert ["weights", f"{4 * count / 1e3:.1f} kB"] in report.costs


def test_a_model_of_unknown_shape_has_no_estimate(alone, tmp_path):
    report = report_of(model="someone/Some-13B")
    assert not report.costs
    assert "cannot be estimated" in report.note


def test_several_processes_are_counted_as_torchrun_says(alone, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "4")
    report = report_of(model="Qwen/Qwen3-8B", config={"sharding": "fsdp"})
    assert report.columns == ["of one process", "4 sharded"]
    with pytest.raises(ValueError, match="multiple of the 4 processes"):
        report_of(config={"prompts_per_step": 6})


def test_a_run_cannot_be_made_dry():
    with (
        pytest.raises(ValueError, match="make_plan"),
        make_run("grpo", env="vpd/MiniChoice-v0", model="tiny", out="runs/none", dry_run=True),
    ):
        pass


def test_the_flag_is_not_saved(tmp_path, capsys):
    file = tmp_path / "a.yaml"
    file.write_text("dry_run: true\n")
    given = ["--env", "vpd/MiniChoice-v0", "--model", "tiny", "--out", tmp_path / "run"]
    assert run("train", "grpo", *given, "--config", file) == 2
    assert "It belongs on the command line" in " ".join(capsys.readouterr().err.split())


def test_a_sandbox_that_was_not_started_runs_nothing():
    spec = EnvironmentSpec("vpd/LiveCodeBench-v0", kwargs={"data": str(PROGRAMS)})
    opened = spec.make_at_hand(1)
    assert opened is not None
    with pytest.raises(SandboxError, match="not started"):
        opened.unwrapped.env.sandbox.run(Job("print(1)"))


def test_tokens_of_the_teacher_fit_beside_the_longest_problem(alone):
    changes = {"max_teacher_prompt_tokens": 500, "max_prompt_tokens": 100}
    told = report_of("sdpo", model="Qwen/Qwen3-8B", env="vpd/Math-v0", config=changes).facts
    assert told["teacher's prompt"].startswith("at most 500 tokens, 400 beside the longest problem")
    assert "teacher's prompt" not in report_of().facts


def test_what_differs_from_the_defaults_is_told():
    told = report_of("vpd", preset="code", config={"seed": 7}).facts
    assert told["algorithm"] == "vpd top_k=20"
    assert "seed=7" in told["training"]
