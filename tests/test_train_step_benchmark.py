"""The benchmark of a training step runs, and compares what is alike."""

import sys
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
    return train_step.run(effort, train_step.CONTESTANTS) | {"command": "python train_step.py"}


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
    assert all(len(turn["steps"]) == train_step.STEPS for (turn,) in part["turns"].values())


@pytest.mark.benchmark
def test_every_target_is_told_reached_or_missed(results):
    text = train_step.report(results)
    (part,) = results["tables"]
    measured = set(part["turns"])
    assert len(train_step.targets(results)) == 2 + len(
        [name for name in ("grpo, TRL", "sdpo, TRL") if name in measured]
    )
    for goal, reached in train_step.targets(results):
        assert f"- {'reached' if reached else '**missed**'}: {goal}" in text
    for name, reason in part["missing"].items():
        assert f"- {name}, responses of 3 tokens: {reason}" in text


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
