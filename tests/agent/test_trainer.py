"""The loop: collection, evaluation, metrics, checkpoints."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch

from agent.helpers import SecretLetter, small_policy
from sandbox import SandboxError
from vpd_agent.algorithms import GRPO, SDPO, VPD
from vpd_agent.collect import collect
from vpd_agent.config import TrainConfig
from vpd_agent.engines.hf import HFEngine
from vpd_agent.evaluate import evaluate_student, evaluate_teacher
from vpd_agent.policy import Policy
from vpd_agent.run_folder import RunFolder
from vpd_agent.teacher import TeacherTemplate
from vpd_agent.trainer import Trainer

CONFIG = TrainConfig(
    steps=6,
    prompts_per_step=3,
    group_size=2,
    learning_rate=1e-2,
    max_prompt_tokens=64,
    max_teacher_prompt_tokens=256,
    max_response_tokens=3,
    eval_every=2,
    eval_failures=5,
    save_every=2,
    samples_every=2,
)


def make_trainer(algorithm, out=None, policy=None, **changes) -> Trainer:
    config = replace(CONFIG, **changes)
    return Trainer(
        policy or small_policy(),
        algorithm,
        SecretLetter.vector(config.rollouts_per_step),
        config,
        evaluation=SecretLetter.vector(5, split="test"),
        out=out,
    )


class Flaky(SecretLetter):
    """Cannot judge problems about vowels: its infrastructure fails there."""

    def judge(self, problem, answer):
        if problem.target in "ae":
            raise SandboxError("the cage burnt down")
        return super().judge(problem, answer)


def test_a_run_writes_what_it_promises(tmp_path):
    folder = RunFolder(tmp_path / "run")
    make_trainer(VPD(e_step_every=2), folder).train()
    rows = folder.read("metrics.jsonl")
    assert [row["step"] for row in rows] == list(range(7))
    assert [r["step"] for r in rows if "eval/student_pass@1" in r] == [0, 2, 4, 6]
    assert [r["step"] for r in rows if "e_step/loss" in r] == [1, 3, 5]
    assert all("m_step/grad_norm" in row for row in rows[1:])
    samples = folder.read("samples.jsonl")
    assert {s["step"] for s in samples} == {1, 3, 5}
    assert all(s["feedback"] in s["teacher_prompt"] for s in samples)
    assert 0 < len(folder.read("failures.jsonl")) <= 5
    checkpoints = sorted(p.name for p in (tmp_path / "run/checkpoints").iterdir())
    assert checkpoints == ["000004", "000006"]
    Policy.load(str(tmp_path / "run/model"))


@pytest.mark.parametrize("algorithm", [GRPO(kl_to_reference=0.1), SDPO(teacher="ema"),
                                       VPD(e_step_every=2, e_step_optimizer="own")])  # fmt: skip
def test_a_resumed_run_equals_an_uninterrupted_one(tmp_path, algorithm):
    whole = make_trainer(algorithm)
    whole.train()

    folder = RunFolder(tmp_path / "run")
    make_trainer(algorithm, folder, steps=4).train()  # as if stopped after step 4
    folder.append("metrics.jsonl", [{"step": 5}])  # and a line that the crash left behind
    folder.close()
    folder = RunFolder(tmp_path / "run", resume=True)
    checkpoint = RunFolder.latest_checkpoint(tmp_path / "run")
    resumed = make_trainer(algorithm, folder, Policy.load(str(checkpoint / "model")))
    resumed.load(checkpoint)
    assert resumed.step == 4
    resumed.train()

    for name, weight in whole.policy.model.state_dict().items():
        assert torch.equal(weight, resumed.policy.model.state_dict()[name]), name
    assert [r["step"] for r in folder.read("metrics.jsonl")] == [0, 1, 2, 3, 4, 5, 6]


def test_the_learning_rate_rises_and_falls_linearly():
    trainer = make_trainer(GRPO(), steps=10, learning_rate=1.0, warmup_steps=2,
                           learning_rate_decay=0.5)  # fmt: skip
    rates = []
    for step in range(10):
        trainer.step = step
        rates.append(trainer._learning_rate(GRPO().losses(None)[0]))
    assert rates == pytest.approx([0.5, 1, 1, 1, 1, 1, 0.8, 0.6, 0.4, 0.2])


def test_a_checkpoint_of_another_algorithm_is_refused(tmp_path):
    folder = RunFolder(tmp_path / "run")
    trainer = make_trainer(SDPO(), folder)
    trainer.save()
    with pytest.raises(ValueError, match="is of 'sdpo', this run is of 'grpo'"):
        make_trainer(GRPO()).load(RunFolder.latest_checkpoint(folder.path))


def test_looking_more_often_does_not_change_what_is_learned():
    often, never = make_trainer(SDPO(), eval_every=1), make_trainer(SDPO(), eval_every=0)
    often.train()
    never.train()
    for a, b in zip(often.policy.parameters(), never.policy.parameters(), strict=True):
        assert torch.equal(a, b)


def test_an_epoch_visits_each_problem_once():
    trainer = make_trainer(GRPO(), prompts_per_step=4)
    ids = trainer.problem_ids
    assert len(ids) == 8
    first = trainer.problems_of_step(0) + trainer.problems_of_step(1)
    second = trainer.problems_of_step(2) + trainer.problems_of_step(3)
    assert sorted(first) == sorted(second) == sorted(ids)
    assert first != second


def test_what_could_not_be_judged_is_dropped_and_counted_and_never_a_zero():
    policy = small_policy()
    environment = Flaky(letters="abcd").vector(8, letters="abcd")
    collected = collect(
        policy, HFEngine(policy), environment, [f"train-{x}" for x in "abcd"],
        group_size=2, max_response_tokens=3, temperature=1.0,
    )  # fmt: skip
    assert len(collected.dropped) == 2
    assert "the cage burnt down" in collected.dropped[0]
    assert [r.problem_id for r in collected.rollouts] == [f"train-{x}" for x in "bbccdd"]


def test_evaluation_counts_dropped_answers_nowhere():
    policy = small_policy()
    environment = Flaky.vector(4, letters="abcd")
    ids = sorted(environment.unwrapped.problem_ids)
    result = evaluate_student(policy, HFEngine(policy), environment, ids, samples=3,
                              max_response_tokens=3)  # fmt: skip
    assert result.dropped == 3
    assert result.judged == {f"train-{x}": 3 for x in "bcd"}
    assert result.statuses.total() == 9


def test_evaluation_pads_the_last_chunk_and_ignores_the_padding():
    policy = small_policy()
    ids = [f"train-{x}" for x in "abcde"]
    wide = SecretLetter.vector(64)
    result = evaluate_student(policy, HFEngine(policy), wide, ids, max_response_tokens=2)
    assert result.judged == dict.fromkeys(ids, 1)


def test_a_teacher_that_copies_from_the_feedback_repairs_everything():
    """An engine that reads the wanted letter off the teacher's prompt."""
    from vpd_agent.engines import Generation

    policy = small_policy()

    class Reader:
        def generate(self, prompts, *, samples=1, **_):
            texts = [policy.tokenizer.decode(p, skip_special_tokens=True) for p in prompts]
            answers = [t.split("want ")[1][0] if "want " in t else "?" for t in texts]
            return [
                Generation(policy.tokenizer(a).input_ids, [0.0], "stop")
                for a in answers
                for _ in range(samples)
            ]

    environment = SecretLetter.vector(5)
    ids = sorted(environment.unwrapped.problem_ids)
    student = evaluate_student(policy, Reader(), environment, ids, max_response_tokens=1)
    assert student.pass_at_1 == 0
    assert len(student.failures) == 8
    repaired = evaluate_teacher(
        policy, Reader(), environment, student.failures, TeacherTemplate(),
        max_prompt_tokens=300, max_response_tokens=1,
    )  # fmt: skip
    assert repaired == 1.0


def test_problems_with_too_long_prompts_are_left_out_and_said():
    said = []
    config = replace(CONFIG, max_prompt_tokens=10)
    problems = SecretLetter.vector(6, letters="abc")
    problems.env._problems = tuple(
        replace(p, prompt=p.prompt + "x" * 20) if p.target == "b" else p
        for p in problems.env._problems
    )
    trainer = Trainer(small_policy(), GRPO(), problems, config, warn=said.append)
    assert trainer.problem_ids == ["train-a", "train-c"]
    assert "1 of 3 problems" in said[0]
    with pytest.raises(ValueError, match="No problem is left"):
        Trainer(small_policy(), GRPO(), problems, replace(config, max_prompt_tokens=3))


def test_a_run_without_any_feedback_warns():
    said = []
    trainer = make_trainer(SDPO())
    trainer.warn = said.append
    rollouts = [replace(r, feedback="") for r in trainer.collect().rollouts]
    trainer.train_step(rollouts)
    assert "no row has a teacher" in said[0]


def test_a_gradient_that_is_not_finite_stops_before_the_weights_change():
    trainer = make_trainer(GRPO())
    rollouts = trainer.collect().rollouts
    rollouts = [replace(r, reward=float(i)) for i, r in enumerate(rollouts)]
    broken = [replace(r, logprobs=[float("nan")] * len(r.response_ids)) for r in rollouts]
    before = [p.clone() for p in trainer.policy.parameters()]
    with pytest.raises(FloatingPointError, match="step 0"):
        trainer.train_step(broken)
    assert all(torch.equal(a, b)
               for a, b in zip(before, trainer.policy.parameters(), strict=True))  # fmt: skip


def test_the_number_of_sub_environments_must_fit():
    with pytest.raises(ValueError, match="prompts_per_step · group_size = 6"):
        Trainer(small_policy(), GRPO(), SecretLetter.vector(5), CONFIG)


def test_a_folder_in_use_is_refused(tmp_path):
    first = RunFolder(tmp_path / "run")
    first.write_config({"a": 1})
    assert json.loads((tmp_path / "run/config.json").read_text()) == {"a": 1}
    with pytest.raises(ValueError, match="is in use"):
        RunFolder(tmp_path / "run")
    first.save_checkpoint(1, lambda path: (path / "x").write_text("1"))
    with pytest.raises(ValueError, match="running process"):
        RunFolder(tmp_path / "run", resume=True)
    with pytest.raises(ValueError, match="nothing to resume"):
        RunFolder(tmp_path / "other", resume=True)
    assert not (tmp_path / "other").exists()


def test_an_interrupted_save_leaves_the_last_checkpoint_whole(tmp_path):
    folder = RunFolder(tmp_path / "run")
    folder.save_checkpoint(1, lambda path: (path / "x").write_text("1"))

    def fail(path):
        (path / "x").write_text("half")
        raise OSError("no space left on device")

    with pytest.raises(OSError, match="no space"):
        folder.save_checkpoint(2, fail)
    checkpoint = RunFolder.latest_checkpoint(folder.path)
    assert checkpoint.name == "000001"
    assert [p.name for p in checkpoint.parent.iterdir()] == ["000001"]
