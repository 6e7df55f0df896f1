"""Rollouts of the next step collected while this one trains: one step old, and known to be."""

from __future__ import annotations

import threading
import time
from dataclasses import replace

import pytest
import torch

from agent.helpers import SecretLetter, small_policy
from sandbox import SandboxError
from vpd_agent.algorithms import GRPO, SDPO, VPDPG
from vpd_agent.data.batch import RolloutBatch
from vpd_agent.data.types import Rollout
from vpd_agent.engines.hf import HFEngine
from vpd_agent.model.policy import Policy
from vpd_agent.rollout.critic import PolicyCritic
from vpd_agent.runs.run_folder import RunFolder
from vpd_agent.train.config import TrainConfig
from vpd_agent.train.trainer import Trainer
from vpd_envs import SelfCritique, SiblingFeedback, Status, TextVectorEnv, Verdict, compose

CONFIG = TrainConfig(
    steps=5,
    prompts_per_step=3,
    group_size=2,
    learning_rate=1e-2,
    max_prompt_tokens=64,
    max_teacher_prompt_tokens=256,
    max_response_tokens=3,
    eval_every=0,
    overlap=True,
)


class Recording(Trainer):
    """Keeps the policy as it is at the start of each step, and the step's rollouts."""

    def train_step(self, rollouts, *, meanwhile=None):
        if not hasattr(self, "seen"):
            self.seen: list[tuple[Policy, list[Rollout]]] = []
        self.seen.append((self.policy.frozen_copy(), list(rollouts)))
        return super().train_step(rollouts, meanwhile=meanwhile)


def make_trainer(algorithm, *, kind=Trainer, environment=SecretLetter, out=None, **changes):
    config = replace(CONFIG, **changes)
    vector = environment.vector(config.rollouts_per_step)
    return kind(small_policy(), algorithm, vector, config, out=out)


def logprobs(policy: Policy, rollouts: list[Rollout]) -> torch.Tensor:
    """Of all response tokens, one after the other."""
    batch = RolloutBatch.from_rollouts(rollouts, [None] * len(rollouts))
    with torch.no_grad():
        scores = policy.forward(batch.prompt, batch.prompt_mask, batch.response, batch.token_mask)
    return scores.logprobs[batch.loss_mask]


def sampled(rollouts: list[Rollout]) -> torch.Tensor:
    return torch.tensor([x for r in rollouts for x in r.logprobs])


def test_rollouts_are_exactly_one_step_old():
    trainer = make_trainer(SDPO(), kind=Recording)
    trainer.train()
    policies = [policy for policy, _ in trainer.seen]
    for step, (policy, rollouts) in enumerate(trainer.seen):
        old = policies[max(step - 1, 0)]  # those of the first step are of no older policy
        torch.testing.assert_close(sampled(rollouts), logprobs(old, rollouts), atol=1e-4, rtol=0)
        if step:
            assert (sampled(rollouts) - logprobs(policy, rollouts)).abs().max() > 1e-2


def test_the_weights_make_up_for_the_step_between():
    rows = []
    trainer = make_trainer(SDPO(), kind=Recording, sampler_clip=1.01)
    trainer.on_step = rows.append
    trainer.train()
    for row, (policy, rollouts) in zip(rows, trainer.seen, strict=True):
        difference = logprobs(policy, rollouts) - sampled(rollouts)
        gap, kl = difference.abs().mean().item(), -difference.mean().item()
        assert row["sampler/gap"] == pytest.approx(gap, abs=1e-4)
        assert row["sampler/kl"] == pytest.approx(kl, abs=1e-4)
    assert rows[0]["sampler/gap"] < 1e-4 < rows[1]["sampler/gap"]

    policy, rollouts = trainer.seen[-1]
    batch, _ = trainer._corrected(trainer.make_batch(rollouts))
    now = logprobs(trainer.policy, rollouts)
    torch.testing.assert_close(batch.old_logprobs[batch.loss_mask], now)
    weights = (now - sampled(rollouts)).exp().clamp(max=1.01)
    torch.testing.assert_close(batch.sampler_weight[batch.loss_mask], weights)


def test_judging_goes_on_while_the_losses_are_computed():
    """Each waits for the other: the judge of the second batch for the first loss to begin, the
    first loss for that judge to have begun."""
    judging, computing = threading.Event(), threading.Event()
    batches = []

    class Waiting(SecretLetter):
        def judge_batch(self, problems, answers, on_progress=None):
            batches.append(len(answers))
            if len(batches) == 2:
                judging.set()
                assert computing.wait(20)
            return super().judge_batch(problems, answers, on_progress)

    class Meeting(GRPO):
        def policy_loss(self, inputs):
            computing.set()
            assert judging.wait(20)
            return super().policy_loss(inputs)

    assert make_trainer(Meeting(), environment=Waiting, steps=2).train() == "done"
    assert batches == [6, 6]  # none is collected that no step would use


@pytest.mark.parametrize("save_every", [0, 2])
def test_a_collection_ahead_that_fails_stops_the_run_behind_the_step_it_ran_beside(
    tmp_path, save_every
):
    batches = []

    class Failing(SecretLetter):
        def judge_batch(self, problems, answers, on_progress=None):
            batches.append(len(answers))
            if len(batches) == 3:
                raise SandboxError("the cages burnt down")
            return super().judge_batch(problems, answers, on_progress)

    folder, rows = RunFolder(tmp_path / "run"), []
    trainer = make_trainer(SDPO(), environment=Failing, out=folder, save_every=save_every)
    trainer.on_step = rows.append
    with pytest.raises(SandboxError, match="burnt down"):
        trainer.train()
    # The third batch was collected beside the second step, which is whole, reported and saved.
    assert [row["step"] for row in rows] == [1, 2]
    assert RunFolder.latest_checkpoint(folder.path).name == "000002"


def test_demonstrations_that_were_collected_ahead_are_in_the_checkpoint(tmp_path):
    class Generous(SecretLetter):
        def judge(self, problem, answer):
            return Verdict(1.0, Status.SOLVED, "=")

    def make(out):
        saved = {"save_every": 2, "keep_checkpoints": 9}
        trainer = make_trainer(SDPO(), kind=Recording, environment=Generous, out=out, **saved)
        trainer.environment = compose(trainer.environment, SiblingFeedback())
        return trainer

    whole = make(RunFolder(tmp_path / "run"))
    whole.train()
    resumed = make(None)
    resumed.load(tmp_path / "run/checkpoints/000002")
    resumed.train()
    # The third step's rollouts were collected beside the second step, before the checkpoint.
    assert resumed.seen[0][1] == whole.seen[2][1]
    assert any(r.demonstration for r in resumed.seen[0][1])


def test_nobody_uses_the_environment_beside_the_thread(tmp_path):
    """Training, the gate's questions and evaluation share one environment here, which would not
    bear two at once."""

    class Jealous(SecretLetter):
        in_use = threading.Lock()

        def judge_batch(self, problems, answers, on_progress=None):
            assert self.in_use.acquire(blocking=False), "used by two at once"
            try:
                return super().judge_batch(problems, answers, on_progress)
            finally:
                self.in_use.release()

    config = replace(CONFIG, eval_every=1, eval_failures=4)
    one = Jealous()
    rows = []
    trainer = Trainer(
        small_policy(),
        VPDPG(),
        TextVectorEnv(one, config.rollouts_per_step),
        config,
        evaluation=TextVectorEnv(one, 5),
        on_step=rows.append,
    )
    assert trainer.train() == "done"
    assert any(row.get("gate/rows") for row in rows)
    assert len([row for row in rows if "eval/student_pass@1" in row]) == 6


def test_overlap_changes_no_problem_and_drops_no_step():
    """The same problems in the same order, first rollouts and all."""
    runs = [make_trainer(SDPO(), kind=Recording, overlap=overlap) for overlap in (False, True)]
    for trainer in runs:
        trainer.train()
    plain, overlapped = ([rollouts for _, rollouts in t.seen] for t in runs)
    assert [r.response_ids for r in plain[0]] == [r.response_ids for r in overlapped[0]]
    assert [[r.problem_id for r in step] for step in plain] == [
        [r.problem_id for r in step] for step in overlapped
    ]


def critic_of(policy: Policy, engine: HFEngine) -> PolicyCritic:
    return PolicyCritic(policy, engine, max_tokens=4)


def test_the_policy_can_criticize_through_the_engine_that_has_weights_of_its_own():
    """Its critiques are those of the weights that sampled the attempts: one step old."""
    policy = small_policy()
    asked = []

    class Kept(HFEngine):
        def generate(self, prompts, **settings):
            generations = super().generate(prompts, **settings)
            asked.append((threading.current_thread().name, list(prompts), generations))
            return generations

    engine = Kept(policy.frozen_copy())
    environment = compose(SecretLetter.vector(6), SelfCritique(critic_of(policy, engine)))
    trainer = Recording(policy, SDPO(), environment, CONFIG, engine=engine)
    assert trainer.train() == "done"
    # Of each step's two calls the second is the critic's; but for the first step in the thread.
    assert [name for name, _, _ in asked] == ["MainThread"] * 2 + ["rollouts ahead"] * 8
    policies = [policy for policy, _ in trainer.seen]
    for step in range(1, 5):
        _, prompts, generations = asked[2 * step + 1]
        old = [
            Rollout("", 0, [], prompt, g.ids, g.logprobs, text="", finish="", reward=0, feedback="")
            for prompt, g in zip(prompts, generations, strict=True)
        ]
        expected = logprobs(policies[step - 1], old)
        torch.testing.assert_close(sampled(old), expected, atol=1e-4, rtol=0)


@pytest.mark.parametrize("critic", [None, critic_of(small_policy(), HFEngine(small_policy()))])
def test_a_critic_that_may_read_the_weights_that_change_is_refused(critic):
    environment = compose(SecretLetter.vector(6), SelfCritique(critic))
    with pytest.raises(ValueError, match="overlap needs SelfCritique to have its critic when"):
        Trainer(small_policy(), SDPO(), environment, CONFIG)
    Trainer(small_policy(), SDPO(), environment, replace(CONFIG, overlap=False))


@pytest.mark.parametrize("slow", ["trainer", "sampler", "judge"])
def test_the_idle_shares_tell_who_waits_for_whom(slow):
    class SlowJudge(SecretLetter):
        def judge_batch(self, problems, answers, on_progress=None):
            time.sleep(0.5 * (slow == "judge"))
            return super().judge_batch(problems, answers, on_progress)

    class SlowLoss(GRPO):
        def policy_loss(self, inputs):
            time.sleep(0.5 * (slow == "trainer"))
            return super().policy_loss(inputs)

    class SlowEngine(HFEngine):
        def generate(self, prompts, **settings):
            time.sleep(0.5 * (slow == "sampler"))
            return super().generate(prompts, **settings)

    rows, policy = [], small_policy()
    engine = SlowEngine(policy.frozen_copy())
    environment = SlowJudge.vector(6)
    config = replace(CONFIG, steps=3)
    Trainer(
        policy, SlowLoss(), environment, config, engine=engine, on_step=rows.append
    ).train()  # fmt: skip
    for row in rows:
        shares = {who: row[f"idle/{who}"] for who in ("trainer", "sampler", "judge")}
        assert min(shares, key=shares.get) == slow
        assert all(0 <= share <= 1 for share in shares.values())


# --- older than one step -------------------------------------------------------------------------


class Paced(SecretLetter):
    """Judges a batch when the test lets it."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.allowed = threading.Semaphore(0)

    def judge_batch(self, problems, answers, on_progress=None):
        assert self.allowed.acquire(timeout=20)
        return super().judge_batch(problems, answers, on_progress)


def test_sampling_goes_on_with_old_weights_no_longer_than_is_allowed():
    """The judge is so quick that the sampler is always ahead as far as it may be: three steps."""
    loss_may_go_on, batches = threading.Event(), []

    class Counting(SecretLetter):
        def judge_batch(self, problems, answers, on_progress=None):
            batches.append(len(answers))
            if len(batches) == 4:  # its own step's, and three ahead of it
                loss_may_go_on.set()
            return super().judge_batch(problems, answers, on_progress)

    class Waiting(GRPO):
        def policy_loss(self, inputs):
            assert loss_may_go_on.wait(20)
            return super().policy_loss(inputs)

    rows = []
    trainer = make_trainer(
        Waiting(), kind=Recording, environment=Counting, steps=6, max_staleness=3
    )
    trainer.on_step = rows.append
    assert trainer.train() == "done"
    assert len(batches) == 6  # none is collected twice, or that no step would use
    # During step 0 the batches of steps 1 to 3 are sampled with its weights.
    staleness = [row["staleness"] for row in rows]
    assert staleness[:4] == [0, 1, 2, 3]
    assert all(1 <= old <= 3 for old in staleness[4:])
    policies = [policy for policy, _ in trainer.seen]
    for step, (_, rollouts) in enumerate(trainer.seen):
        old = policies[step - int(staleness[step])]
        torch.testing.assert_close(sampled(rollouts), logprobs(old, rollouts), atol=1e-4, rtol=0)


def test_a_batch_of_a_slow_judge_is_of_the_weights_that_its_staleness_tells():
    """A batch is let through whenever a step has ended, so that steps end while one is judged."""
    environment = Paced.vector(CONFIG.rollouts_per_step)
    judge = environment.unwrapped.env
    trainer = Recording(
        small_policy(), SDPO(), environment, replace(CONFIG, steps=4, max_staleness=2)
    )
    rows = []

    def after_step(row):
        rows.append(row)
        judge.allowed.release()  # one batch more

    trainer.on_step = after_step
    judge.allowed.release(2)  # those of steps 0 and 1
    assert trainer.train() == "done"
    assert all(row["staleness"] <= 2 for row in rows)
    policies = [policy for policy, _ in trainer.seen]
    for step, (row, (_, rollouts)) in enumerate(zip(rows, trainer.seen, strict=True)):
        old = policies[step - int(row["staleness"])]
        torch.testing.assert_close(sampled(rollouts), logprobs(old, rollouts), atol=1e-4, rtol=0)


def test_all_that_was_sampled_ahead_is_in_the_checkpoint(tmp_path):
    def make(out):
        return make_trainer(
            SDPO(), kind=Recording, out=out, steps=8, save_every=3, max_staleness=3,
            keep_checkpoints=9,
        )  # fmt: skip

    whole = make(RunFolder(tmp_path / "run"))
    whole.train()
    resumed = make(None)
    resumed.load(tmp_path / "run/checkpoints/000003")
    ahead = resumed._ahead.ready(3)
    assert ahead
    for batch in ahead:
        assert whole.seen[batch.step][1] == batch.collected.rollouts
    rows = []
    resumed.on_step = rows.append
    resumed.train()
    assert [row["step"] for row in rows] == [4, 5, 6, 7, 8]
    for batch in ahead:
        assert resumed.seen[batch.step - 3][1] == batch.collected.rollouts
        assert rows[batch.step - 3]["staleness"] == batch.step - batch.weights


def test_a_staleness_without_overlap_is_refused():
    with pytest.raises(ValueError, match=r"max_staleness says how old .* got 3 without it"):
        replace(CONFIG, overlap=False, max_staleness=3)
    with pytest.raises(ValueError, match="max_staleness must be at least 1, got 0"):
        replace(CONFIG, max_staleness=0)
