"""The loop: collection, evaluation, metrics, checkpoints."""

from __future__ import annotations

import json
import time
from dataclasses import replace
from functools import partial

import pytest
import torch

from agent.helpers import SecretLetter, rollout, small_policy
from sandbox import SandboxError
from vpd_agent.algorithms import GRPO, SDPO, VPD
from vpd_agent.algorithms.base import Loss
from vpd_agent.data.types import Rollout
from vpd_agent.engines.hf import HFEngine
from vpd_agent.evaluation.in_training import evaluate_student, evaluate_teacher
from vpd_agent.model.policy import Policy
from vpd_agent.rollout.collect import Actor, Collected
from vpd_agent.rollout.teacher_prompt import TeacherTemplate, teacher_prompt
from vpd_agent.runs.run_folder import RunFolder
from vpd_agent.train.config import TrainConfig
from vpd_agent.train.problems import problems_of_step
from vpd_agent.train.trainer import Trainer
from vpd_envs import SiblingFeedback, Status, Verdict, compose

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


def actor(policy, environment, engine=None) -> Actor:
    limit = CONFIG.max_response_tokens
    return Actor(policy, engine or HFEngine(policy), environment, limit)


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


@pytest.mark.parametrize(("algorithm", "mini_batches"),
                         [(GRPO(kl_to_reference=0.1, reference_rate=0.2), 1),
                          (SDPO(teacher="ema"), 3),
                          (VPD(e_step_every=2, e_step_optimizer="own"), 1)])  # fmt: skip
def test_a_resumed_run_equals_an_uninterrupted_one(tmp_path, algorithm, mini_batches):
    whole = make_trainer(algorithm, mini_batches=mini_batches)
    whole.train()

    folder = RunFolder(tmp_path / "run")
    make_trainer(
        algorithm, folder, steps=4, mini_batches=mini_batches
    ).train()  # as if stopped after step 4
    folder.append("metrics.jsonl", [{"step": 5}])  # and a line that the crash left behind
    folder.close()
    folder = RunFolder(tmp_path / "run", resume=True)
    checkpoint = RunFolder.latest_checkpoint(tmp_path / "run")
    resumed = make_trainer(
        algorithm, folder, Policy.load(str(checkpoint / "model")), mini_batches=mini_batches
    )
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
        rates.append(trainer.updater.learning_rate(GRPO().losses(None)[0], step, {}))
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
    ids = list("abcdefgh")
    steps = [problems_of_step(ids, step, count=4, seed=0) for step in range(4)]
    first, second = steps[0] + steps[1], steps[2] + steps[3]
    assert sorted(first) == sorted(second) == sorted(ids)
    assert first != second


def test_what_could_not_be_judged_is_dropped_and_counted_and_never_a_zero():
    policy = small_policy()
    environment = Flaky(letters="abcd").vector(8, letters="abcd")
    collected = actor(policy, environment).collect([f"train-{x}" for x in "abcd"], 2)
    assert len(collected.dropped) == 2
    assert "the cage burnt down" in collected.dropped[0]
    assert [r.problem_id for r in collected.rollouts] == [f"train-{x}" for x in "bbccdd"]


class Slow(SecretLetter):
    """Takes its time over one problem."""

    def judge(self, problem, answer):
        time.sleep(0.1 if problem.target == "d" else 0)
        return super().judge(problem, answer)


def test_the_slowest_judge_calls_of_a_step_are_named_in_its_metrics(tmp_path):
    folder = RunFolder(tmp_path / "run")
    trainer = make_trainer(GRPO(), folder, steps=3, eval_every=0)
    trainer.environment = Slow.vector(CONFIG.rollouts_per_step)
    trainer.train()
    for row in folder.read("metrics.jsonl"):
        ids = problems_of_step(trainer.problem_ids, row["step"] - 1, 3, CONFIG.seed)
        asked = "train-d" in ids
        slowest = row.get("seconds/slowest_judged", [])
        assert (slowest[:1] != [] and slowest[0][0] == "train-d") is asked
        assert not asked or slowest[0][1] >= 0.1
    assert row["step"] == 3  # all eight problems were asked


def test_evaluation_counts_dropped_answers_nowhere():
    policy = small_policy()
    environment = Flaky.vector(4, letters="abcd")
    ids = sorted(environment.unwrapped.problem_ids)
    config = replace(CONFIG, eval_samples=3)
    result = evaluate_student(actor(policy, environment), ids, config)
    assert result.dropped == 3
    assert result.judged == {f"train-{x}": 3 for x in "bcd"}
    assert result.statuses.total() == 9


def test_evaluation_pads_the_last_chunk_and_ignores_the_padding():
    policy = small_policy()
    ids = [f"train-{x}" for x in "abcde"]
    wide = SecretLetter.vector(64)
    result = evaluate_student(actor(policy, wide), ids, CONFIG)
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
    reader = actor(policy, environment, Reader())
    student = evaluate_student(reader, ids, CONFIG)
    assert student.pass_at_1 == 0
    assert len(student.failures) == 8
    repaired = evaluate_teacher(
        reader,
        student.failures,
        partial(teacher_prompt, policy, TeacherTemplate(), max_tokens=300),
        CONFIG,
    )
    assert repaired == [True] * 8


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


class Derailed(GRPO):
    """GRPO whose loss goes wrong at its second step."""

    def losses(self, step):
        return [Loss("policy", self.derailed if step.index == 1 else self.policy_loss)]

    def derailed(self, inputs):
        loss, metrics = self.policy_loss(inputs)
        return loss * float("inf"), metrics


class OddValue(Derailed):
    """Its gradient stays finite."""

    def derailed(self, inputs):
        loss, metrics = self.policy_loss(inputs)
        return loss + float("nan"), metrics


@pytest.mark.parametrize("algorithm", [Derailed(), OddValue()])
def test_a_batch_whose_loss_is_not_finite_is_written_down_and_skipped(tmp_path, algorithm):
    folder, said, weights = RunFolder(tmp_path / "run"), [], []
    trainer = make_trainer(algorithm, folder, steps=3, eval_every=0)
    trainer.warn = said.append
    trainer.on_step = lambda row: weights.append(
        torch.cat([p.detach().flatten() for p in trainer.policy.parameters()])
    )
    # Rewards that differ, so that the other steps do learn.
    trainer.environment.env.judge = lambda problem, answer: Verdict(
        hash(answer) % 1000 / 1000, Status.WRONG_ANSWER, "no"
    )
    assert trainer.train() == "done"
    rows = folder.read("metrics.jsonl")
    assert [row.get("skipped") for row in rows] == [None, 1, None]
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[1], weights[2])
    (bad,) = folder.read("bad_batches.jsonl")
    assert bad["step"] == 2
    assert len(bad["rollouts"]) == 6
    assert {"problem_id", "text", "reward", "logprobs"} <= set(bad["rollouts"][0])
    assert len(said) == 1
    assert "Step 2 is skipped" in said[0]
    assert "bad_batches.jsonl" in said[0]


class Generous(SecretLetter):
    """Every answer is right, so that siblings show each rollout another's."""

    def judge(self, problem, answer):
        return Verdict(1.0, Status.SOLVED, "=")


def test_a_batch_that_is_written_down_has_its_demonstrations(tmp_path):
    folder = RunFolder(tmp_path / "run")
    trainer = make_trainer(Derailed(), folder, steps=2, eval_every=0)
    trainer.environment = compose(Generous.vector(6), SiblingFeedback())
    seen = []
    collect = trainer.collect
    trainer.collect = lambda: seen.append(collect()) or seen[-1]
    trainer.warn = lambda text: None
    trainer.train()
    (bad,) = folder.read("bad_batches.jsonl")
    assert [Rollout(**row) for row in bad["rollouts"]] == seen[1].rollouts
    assert any(row["demonstration"] for row in bad["rollouts"])
    assert all(row["feedback"] == "" for row in bad["rollouts"] if row["demonstration"])


@pytest.mark.parametrize("num_solved", [0, 1, 8])
@pytest.mark.parametrize("siblings", [False, True])
def test_the_share_that_is_taught(num_solved, siblings):
    """Of a group of 8: the failed ones, and those that are shown another's solved answer."""
    policy = small_policy()
    rows = [
        replace(
            rollout("ab", f"x{i}", policy=policy, reward=float(i < num_solved)),
            demonstration="y" if siblings and num_solved > (i < num_solved) else "",
        )
        for i in range(8)
    ]
    trainer = make_trainer(SDPO(), prompts_per_step=1, group_size=8, eval_every=0, policy=policy)
    metrics = trainer.train_step(rows)
    expected = {0: 1.0, 1: 7 / 8, 8: 1.0 if siblings else 0.0}
    assert metrics["taught_fraction"] == expected[num_solved]
    assert metrics["teacher_fraction"] == 1.0


def test_cut_off_rollouts_have_no_teacher_where_they_are_not_taught():
    """Of 4 rollouts, 3 have feedback, and 1 of these was cut off."""
    policy = small_policy()
    finishes, feedbacks = ["stop", "length", "length", "stop"], ["?", "?", "", "?"]
    rows = [
        replace(rollout("ab", f"x{i}", policy=policy, reward=0.0), finish=finish, feedback=feedback)
        for i, (finish, feedback) in enumerate(zip(finishes, feedbacks, strict=True))
    ]
    for teach_truncated, expected in ((True, [1, 1, 0, 1]), (False, [1, 0, 0, 1])):
        trainer = make_trainer(SDPO(), policy=policy, teach_truncated=teach_truncated)
        assert trainer.make_batch(rows).has_teacher.int().tolist() == expected


def test_the_end_of_an_answer_has_no_teacher_where_ends_are_not_taught():
    """Answers of 3 and 2 tokens of which the last ends them, and one of 2 that was cut off: all 7
    tokens are taught with ends, all but two without."""
    policy = small_policy()
    (end,) = policy.eos_ids
    rows = [
        replace(rollout("ab", "x" * len(ids), policy=policy, reward=0.0), response_ids=ids,
                logprobs=[-1.0] * len(ids), finish=finish, feedback="?")
        for ids, finish in (([5, 6, end], "stop"), ([7, end], "stop"), ([5, 6], "length"))
    ]  # fmt: skip
    taught = {True: [[1, 1, 1], [1, 1, 0], [1, 1, 0]], False: [[1, 1, 0], [1, 0, 0], [1, 1, 0]]}
    for teach_end, expected in taught.items():
        batch = make_trainer(SDPO(), policy=policy, teach_end=teach_end).make_batch(rows)
        assert batch.teacher_mask.int().tolist() == expected
        assert batch.num_failed_teacher_tokens == sum(map(sum, expected))
        assert batch.num_tokens == 7  # the reward's term counts every token
        assert [int(p.teacher_mask.sum()) for p in batch.split(1)] == [*map(sum, expected)]


def test_a_run_gives_up_when_too_many_steps_are_skipped(tmp_path):
    """A learning rate that blows the weights up at once: every later step is not finite."""
    folder = RunFolder(tmp_path / "run")
    trainer = make_trainer(SDPO(), folder, learning_rate=1e30, eval_every=0, save_every=1,
                           max_skipped_steps=2, max_grad_norm=1e30)  # fmt: skip
    with pytest.raises(FloatingPointError, match=r"2 steps were skipped.*Lower the learning rate"):
        trainer.train()
    assert [row["step"] for row in folder.read("bad_batches.jsonl")] == [2, 3, 4]
    folder.close()
    # What was skipped is counted in the checkpoint too.
    folder = RunFolder(tmp_path / "run", resume=True)
    resumed = make_trainer(SDPO(), folder, eval_every=0, save_every=1, max_skipped_steps=2)
    resumed.load(RunFolder.latest_checkpoint(tmp_path / "run"))
    assert resumed.skipped == 2


def test_log_probabilities_that_are_not_finite_stop_before_the_weights_change():
    trainer = make_trainer(GRPO())
    rollouts = trainer.collect().rollouts
    broken = [replace(r, logprobs=[float("nan")] * len(r.response_ids)) for r in rollouts]
    before = [p.clone() for p in trainer.policy.parameters()]
    with pytest.raises(FloatingPointError, match=f"problem {rollouts[0].problem_id!r}"):
        trainer.train_step(broken)
    assert all(torch.equal(a, b)
               for a, b in zip(before, trainer.policy.parameters(), strict=True))  # fmt: skip


def test_a_reward_that_is_no_number_is_named_and_the_run_is_saved(tmp_path):
    folder = RunFolder(tmp_path / "run")
    trainer = make_trainer(GRPO(), folder, eval_every=0, save_every=0)
    answers = []

    def judge(problem, answer):
        answers.append(answer)
        late = len(answers) > 2 * trainer.config.rollouts_per_step
        return Verdict(float("nan") if late else 0.0, Status.WRONG_ANSWER, "no")

    trainer.environment.env.judge = judge
    with pytest.raises(ValueError, match=r"an answer to problem 'train-.' the reward nan"):
        trainer.train()
    assert RunFolder.latest_checkpoint(folder.path).name == f"{trainer.step:06d}"


def test_weights_that_are_not_finite_are_refused_at_the_start():
    policy = small_policy()
    with torch.no_grad():
        policy.model.model.layers[0].mlp.up_proj.weight[3, 2] = float("inf")
    with pytest.raises(ValueError, match=r"mlp.up_proj.weight holds numbers that are not finite"):
        make_trainer(GRPO(), policy=policy)


def test_an_environment_that_can_judge_nothing_stops_the_run():
    trainer = make_trainer(GRPO(), eval_every=0)
    collected = Collected([], ["the cage burnt down"] * 6)
    trainer.collect = lambda: collected
    with pytest.raises(SandboxError, match=r"No rollout of step 1 .*the cage burnt down"):
        trainer.train()


def test_all_rollouts_of_a_step_may_be_kept_with_their_groups(tmp_path):
    folder = RunFolder(tmp_path / "run")
    make_trainer(SDPO(), folder, steps=3, samples_all=True).train()
    samples = folder.read("samples.jsonl")
    kept = [(s["step"], s["group"], s["problem_id"]) for s in samples]
    assert len(kept) == 2 * CONFIG.rollouts_per_step  # of steps 1 and 3
    assert {kept.count(row) for row in kept} == {CONFIG.group_size}
    assert {(s["process"], s["teacher_rollout"]) for s in samples} == {(0, False)}
    assert all(s["feedback"] in s["teacher_prompt"] for s in samples)


def test_samples_of_several_turns_show_the_whole_conversation(tmp_path):
    folder = RunFolder(tmp_path / "run")
    config = replace(CONFIG, steps=1, max_response_tokens=40, max_turn_tokens=3, eval_every=0)
    environment = SecretLetter.vector(config.rollouts_per_step, max_turns=2)
    Trainer(small_policy(), SDPO(), environment, config, out=folder).train()
    samples = folder.read("samples.jsonl")
    assert len(samples) == 2
    for sample in samples:
        letter = sample["problem_id"][-1]
        assert f"want {letter}" in sample["response"]  # what the environment replied
        (first,) = sample["earlier"]
        conversation = sample["response"]
        assert conversation.startswith(first)
        assert conversation.index(f"want {letter}") >= len(first)
        assert sample["answer"] in conversation
        assert len(sample["answer"]) < len(sample["response"])
        assert f"train-{letter}?" in sample["prompt"]
        assert sample["feedback"] in sample["teacher_prompt"]


class Scripted(SecretLetter):
    """Solved are as many of the five answers of its k-th batch as are written down for it."""

    script = ()

    def judge_batch(self, problems, answers, on_progress=None):
        solved, *Scripted.script = Scripted.script
        right = Verdict(1.0, Status.SOLVED, "="), Verdict(0.0, Status.WRONG_ANSWER, "no")
        return [right[i >= solved] for i in range(len(answers))]


def train_scripted(folder, script, **changes) -> tuple[str, list[str], dict[int, torch.Tensor]]:
    """A run whose evaluations, from step 0 or from where the folder's run is, go by a script: its
    ending, its warnings, a weight at each step."""
    checkpoint = RunFolder.latest_checkpoint(folder.path)
    steps = len(script) + (int(checkpoint.name) if checkpoint else -1)
    Scripted.script, said, weights = script, [], {}
    config = replace(CONFIG, steps=steps, eval_every=1, eval_failures=0, **changes)
    trainer = Trainer(
        small_policy(),
        SDPO(),
        SecretLetter.vector(config.rollouts_per_step),
        config,
        evaluation=Scripted.vector(5, letters="abcde", split="test"),
        out=folder,
        warn=said.append,
    )
    if checkpoint is not None:
        trainer.load(checkpoint)
    weight = trainer.policy.model.model.embed_tokens.weight
    trainer.on_step = lambda row: weights.update({row["step"]: weight.detach().clone()})
    return trainer.train(), said, weights


def test_the_best_model_is_kept_besides_the_last_ones(tmp_path):
    folder = RunFolder(tmp_path / "run")
    ending, _, weights = train_scripted(folder, [1, 2, 4, 1, 4, 3], save_every=1)
    assert ending == "done"
    best = Policy.load(str(folder.path / "best"))
    assert torch.equal(best.model.model.embed_tokens.weight, weights[2])
    row = json.loads((folder.path / "best/metrics.json").read_text())
    assert (row["step"], row["eval/student_pass@1"]) == (2, 0.8)
    assert sorted(p.name for p in (folder.path / "checkpoints").iterdir()) == ["000004", "000005"]


def test_a_run_that_never_beats_its_start_has_no_best_model(tmp_path):
    folder = RunFolder(tmp_path / "run")
    train_scripted(folder, [3, 2, 3])
    assert not (folder.path / "best").exists()


@pytest.mark.parametrize("stop", [False, True])
def test_a_collapse_is_warned_of_once_and_ends_the_run_if_asked(tmp_path, stop):
    folder = RunFolder(tmp_path / "run")
    ending, said, _ = train_scripted(
        folder, [1, 5, 2, 2, 2, 1, 1], stop_on_collapse=stop, save_every=0
    )
    assert len(said) == 1
    assert "step 4: held-out pass@1 has been below 0.5 of its best (1.000) 3 times" in said[0]
    steps = [row["step"] for row in folder.read("metrics.jsonl")]
    if stop:
        assert (ending, steps[-1]) == ("collapsed", 4)
        assert RunFolder.latest_checkpoint(folder.path).name == "000004"
        assert not (folder.path / "model").exists()
    else:
        assert (ending, steps[-1]) == ("done", 6)


def test_a_resumed_run_knows_of_its_best_model_and_of_a_fall_that_has_begun(tmp_path):
    folder = RunFolder(tmp_path / "run")
    train_scripted(folder, [1, 5, 2], save_every=1)
    folder.close()
    folder = RunFolder(tmp_path / "run", resume=True)
    ending, said, _ = train_scripted(folder, [2, 2, 4], save_every=1, stop_on_collapse=True)
    assert ending == "collapsed"
    assert "step 4: held-out pass@1 has been below 0.5 of its best (1.000)" in said[0]
    assert json.loads((folder.path / "best/metrics.json").read_text())["step"] == 1


def test_the_number_of_sub_environments_must_fit():
    with pytest.raises(ValueError, match="must have 6 sub-environments"):
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
