"""The benchmark of a training step runs, and compares what is alike."""

import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parent.parent / "benchmarks"
sys.path.append(str(BENCHMARKS))

import train_step  # noqa: E402
from step_contestants import (  # noqa: E402
    Setting,
    feedback_text,
    policy_of,
    prompt_text,
    reward_of,
)

SMALLEST = Setting(3, **train_step.SHORT, prompts=2, group=2)


@pytest.fixture(scope="module")
def results():
    effort = train_step.Effort(1, (SMALLEST,))
    names = (*train_step.CONTESTANTS, train_step.FLOOR)
    return train_step.run(effort, names) | {"command": "python train_step.py"}


@pytest.mark.benchmark
def test_all_contestants_do_the_same_work(results):
    pytest.importorskip("trl")
    (part,) = results["tables"]
    assert part["missing"] == {}
    for name, about in part["about"].items():
        assert (about["rollouts"], about["response_tokens"]) == (4, SMALLEST.tokens), name
        if name.startswith(("grpo", "sdpo", "vpd")):
            assert about["prompt_tokens"] == SMALLEST.prompt_characters + 2, name
    lengths = {a["teacher_prompt_tokens"] for n, a in part["about"].items() if "sdpo" in n}
    assert len(lengths) == 1
    assert all(len(turn["steps"]) == SMALLEST.steps for (turn,) in part["turns"].values())


@pytest.mark.benchmark
def test_every_target_is_told_reached_or_missed(results):
    text = train_step.report(results)
    (part,) = results["tables"]
    measured = set(part["turns"])
    assert len(train_step.targets(results)) == 3 + len(
        [name for name in ("grpo, TRL", "sdpo, TRL") if name in measured]
    )
    for goal, reached in train_step.targets(results):
        assert f"- {'reached' if reached else '**missed**'}: {goal}" in text
    for name, reason in part["missing"].items():
        assert f"- {name}, responses of 3 tokens: {reason}" in text


@pytest.mark.benchmark
def test_what_goes_through_the_model_is_counted(results):
    """Four rollouts of two problems: three tokens are sampled, one position at a time after the
    prompt, of which the last is never read; the teacher reads prompts and responses, the student's
    prompts and responses take a gradient. A prompt that two rollouts share is read once."""
    (part,) = results["tables"]
    (turn,) = part["turns"]["grpo, ours"]
    about = part["about"]["grpo, ours"]
    prompts, rollouts = 2, about["rollouts"]
    for step in turn["steps"]:
        assert step["read"] == prompts * about["prompt_tokens"] + 2 * rollouts
        assert step["trained"] >= prompts * (about["prompt_tokens"] - 1) + 3 * rollouts
    rows = train_step.floor_rows(part)
    assert [row[1] for row in rows][:2] == ["grpo, ours", "sdpo, ours"]
    assert part["about"][train_step.FLOOR]["flops"] > 0


def test_the_arithmetic_of_products_is_counted_and_can_be_repeated():
    import torch
    from step_products import Recorded, Replay

    a, b = torch.randn(5, 7, requires_grad=True), torch.randn(7, 11)
    query, key = torch.randn(2, 3, 6, 8), torch.randn(2, 3, 9, 8)
    with Recorded() as recorded:
        (a @ b).sum().backward()
        with torch.inference_mode():
            torch.nn.functional.linear(torch.randn(4, 7), torch.randn(11, 7))
            torch.nn.functional.scaled_dot_product_attention(query, key, key)
    one, attention = 2 * 5 * 7 * 11, 2 * 2 * (2 * 3) * 6 * 9 * 8
    assert recorded.flops == 2 * one + 2 * 4 * 7 * 11 + attention  # b takes no gradient
    Replay(recorded.calls)()


def test_ratios_and_overheads_are_those_of_each_round():
    def turn(*steps):
        return {"steps": [dict(step) for step in steps]}

    sdpo = {"collect": 2.0, "sdpo": 2.0, "seconds": 9.0}
    cycle = turn({**sdpo, "vpd": 5.0, "e_steps": 1}, {**sdpo, "vpd": 1.0, "e_steps": 0})
    part = {
        "turns": {
            "grpo, TRL": [turn({"seconds": 1.0}, {"seconds": 5.0}), turn({"seconds": 8.0})],
            "grpo, ours": [turn({"seconds": 2.0}, {"seconds": 1.0}), turn({"seconds": 2.0})],
            "vpd beside sdpo": [cycle],
        }
    }
    assert train_step.ratios(part, "grpo, TRL", "grpo, ours") == [2.0, 4.0]
    assert train_step.overheads(part) == [(3.0 - 2.0) / (2.0 + 2.0)]
    assert train_step.e_step_seconds(cycle) == 4.0


def test_prompts_and_feedback_have_the_lengths_asked_for_and_differ_between_problems():
    setting = Setting(8, **train_step.LONG)
    for texts, length in (
        ([prompt_text(i, setting) for i in range(9)], setting.prompt_characters),
        ([feedback_text(i, setting) for i in range(9)], setting.feedback_characters),
        ([feedback_text(0, setting, a) for a in "abc"], setting.feedback_characters),
    ):
        assert {len(text) for text in texts} == {length}
        assert len(set(texts)) == len(texts)
    assert {reward_of(answer) for answer in "abcdefgh"} == {0.0, 1.0}


def test_no_token_that_the_model_can_say_ends_a_response():
    policy = policy_of(SMALLEST)
    assert min(policy.eos_ids) >= policy.model.config.vocab_size
    assert policy.model.get_input_embeddings().num_embeddings == policy.model.config.vocab_size


@pytest.mark.parametrize("option", ["--model-size tiny", "--tokens 9", "--micro-batch 4"])
def test_options_of_a_device_are_refused_without_one(option, capsys):
    with pytest.raises(SystemExit):
        train_step.parsed(option.split())
    assert "go with --device" in capsys.readouterr().err


def test_a_contestant_that_cannot_take_part_is_named_with_the_reason():
    with (
        closing(train_step.Remote("no-such, ours", SMALLEST)) as remote,
        pytest.raises(train_step.Missing, match="no-such"),
    ):
        remote.ready()


def test_a_contestant_ends_with_a_benchmark_that_is_killed_during_a_step():
    program = f"""
import sys
sys.path.append({str(BENCHMARKS)!r})
from step_contestants import Remote, Setting
remote = Remote("generation, bare", {SMALLEST!r})
remote.ready()
print(remote.pid, flush=True)
remote.turn(10**9)
"""
    benchmark = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE)
    assert benchmark.stdout is not None
    with benchmark:
        contestant = Path("/proc", benchmark.stdout.readline().decode().strip())
        assert contestant.is_dir()
        benchmark.kill()
    deadline = time.monotonic() + 60
    while contestant.is_dir() and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not contestant.is_dir()
