"""Every algorithm trains a tiny model until its loss has done what it is for.

The task is `SecretLetter` with eight letters: chance is 1/8, and the feedback names the letter. The
tiny model is warm-started to answer some letter, and to heed feedback in 6 of 10 cases, so that a
teacher is better than the student and far from right.
"""

from __future__ import annotations

import random
from dataclasses import replace

import pytest
import torch

from agent.helpers import SecretLetter
from vpd_agent.algorithms import (
    GRPO,
    OPSD,
    RFT,
    RLSD,
    SDAR,
    SDPG,
    SDPO,
    SRPO,
    VPD,
    VPDPG,
    DistIL,
    LossInputs,
)
from vpd_agent.model.policy import Policy
from vpd_agent.rollout.teacher_prompt import COMPACT
from vpd_agent.tiny.model import tiny_policy
from vpd_agent.tiny.warmup import Example, supervised_loss
from vpd_agent.train.config import TrainConfig
from vpd_agent.train.trainer import Trainer
from vpd_envs import Verdict

LETTERS = "abcdefgh"
HEEDED = 0.6
CONFIG = TrainConfig(
    steps=24,
    prompts_per_step=8,
    group_size=8,
    learning_rate=5e-4,
    adam_beta2=0.95,
    max_prompt_tokens=64,
    max_teacher_prompt_tokens=96,
    max_response_tokens=2,
    eval_every=0,
    save_every=0,
    samples_every=0,
)


def warm_started(*, steps: int, teacher_share: float, known: float = 0.0) -> Policy:
    """The tiny model after supervised steps on prompts of students, who are told the letter in a
    share `known` of them, and of teachers."""
    policy, rng = tiny_policy(1), random.Random(0)
    optimizer = torch.optim.AdamW(policy.parameters(), lr=2e-3, betas=(0.9, 0.95), fused=True)

    def draw() -> Example:
        letter, guess, attempt = rng.choices(LETTERS, k=3)
        prompt = [{"role": "user", "content": f"train-{letter}?"}]
        if rng.random() >= teacher_share:
            return Example(prompt, letter if rng.random() < known else guess)
        right = attempt == letter
        feedback = "=" if right else f"want {letter}"
        messages = COMPACT.messages(prompt, attempt, feedback, solved=right)
        return Example(messages, letter if rng.random() < HEEDED else guess)

    for _ in range(steps):
        loss = supervised_loss(policy, [draw() for _ in range(48)])
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(policy.parameters(), 1.0)
        optimizer.step()
    return policy


@pytest.fixture(scope="module")
def warm() -> Policy:
    return warm_started(steps=100, teacher_share=0.6)


@pytest.fixture(scope="module")
def cold() -> Policy:
    """Knows a little of the task and has never seen a teacher's prompt."""
    return warm_started(steps=60, teacher_share=0.0, known=0.3)


def make_trainer(policy: Policy, algorithm, environment=SecretLetter, **changes) -> Trainer:
    """Of a copy of the policy."""
    config = replace(CONFIG, **changes)
    trained = policy.frozen_copy()
    trained.model.requires_grad_(True)
    vector = environment.vector(config.rollouts_per_step)
    return Trainer(trained, algorithm, vector, config, template=COMPACT)


class Run:
    """What the steps of a trainer reported."""

    def __init__(self, trainer: Trainer) -> None:
        self.rows: list[dict] = []
        trainer.on_step = self.rows.append
        trainer.train()

    def first(self, name: str) -> float:
        return next(row[name] for row in self.rows if name in row)

    def last(self, name: str, count: int = 5) -> float:
        """Mean over the last steps that report it."""
        values = [row[name] for row in self.rows if name in row][-count:]
        return sum(values) / len(values)


def probability_of_the_wanted(policy: Policy, feedback: str = "") -> float:
    """Mean over letters and wrong attempts of π(the right letter); with the feedback as a teacher
    sees it."""
    total = []
    for letter in LETTERS:
        wrong = LETTERS[(LETTERS.index(letter) + 3) % len(LETTERS)]
        messages = [{"role": "user", "content": f"train-{letter}?"}]
        if feedback:
            messages = COMPACT.messages(messages, wrong, f"{feedback}{letter}", solved=False)
        with torch.no_grad():
            logits = policy.model(torch.tensor([policy.encode(messages)])).logits[0, -1]
        total.append(logits.softmax(-1)[policy.tokenizer(letter).input_ids[0]].item())
    return sum(total) / len(total)


@pytest.mark.parametrize(
    "algorithm",
    [
        pytest.param(GRPO(), id="grpo"),
        pytest.param(
            GRPO(scale_advantages=False, normalizer="constant", kl_to_reference=1e-3),
            id="dr. grpo",
            marks=pytest.mark.slow,
        ),
        pytest.param(
            GRPO(ratio="sequence", objective="cispo", clip_high=0.28, drop_flat_groups=True),
            id="gspo, cispo and dapo",
            marks=pytest.mark.slow,
        ),
        pytest.param(SDAR(), id="sdar", marks=pytest.mark.slow),
        pytest.param(SRPO(), id="srpo", marks=pytest.mark.slow),
        pytest.param(RLSD(), id="rlsd", marks=pytest.mark.slow),
        pytest.param(
            SDPG(distill_weight=1.0, decay_fraction=1.0, teacher="ema"),
            id="sdpg",
            marks=pytest.mark.slow,
        ),
    ],
)
def test_methods_with_a_reward_raise_it_far_above_chance(warm, algorithm):
    run = Run(make_trainer(warm, algorithm))
    assert run.first("reward") < 0.35  # chance is 1/8; 64 rollouts
    assert run.last("reward") > 0.7


def test_imitation_of_solved_rollouts_makes_them_likely_and_frequent(warm):
    run = Run(make_trainer(warm, RFT()))
    assert run.last("imitate/loss") < run.first("imitate/loss") / 3
    assert run.last("reward") > 0.7


class NeverRight(SecretLetter):
    """Says what it wants and rewards nothing."""

    def judge(self, problem, answer) -> Verdict:
        return replace(
            super().judge(problem, answer), reward=0.0, feedback=f"want {problem.target}"
        )


@pytest.mark.parametrize(
    "algorithm",
    [
        pytest.param(SDPO(), id="reverse kl"),
        pytest.param(SDPO(alpha=0.5, top_k=3), id="jsd on the top", marks=pytest.mark.slow),
        pytest.param(DistIL(), id="distil", marks=pytest.mark.slow),
    ],
)
def test_sdpo_copies_its_teacher_where_every_rollout_fails(warm, algorithm):
    """Without any reward the student comes to answer as its teacher did after reading."""
    teacher_before = probability_of_the_wanted(warm, "want ")
    student_before = probability_of_the_wanted(warm)
    assert teacher_before > student_before + 0.2
    trainer = make_trainer(warm, algorithm, NeverRight, steps=20)
    run = Run(trainer)
    assert run.last("reward") == 0
    gap = abs(run.first("distill/teacher_gap"))
    assert abs(run.last("distill/teacher_gap")) < gap / 2
    assert probability_of_the_wanted(trainer.policy) > teacher_before - 0.1


@pytest.mark.slow
def test_the_hybrid_of_sdpo_ends_above_its_teacher(warm):
    run = Run(make_trainer(warm, SDPO(reward_weight=0.5, sampled_token=True)))
    assert run.last("reward") > 0.8
    assert run.last("reward") > probability_of_the_wanted(warm, "want ") + 0.1


@pytest.mark.slow
def test_opsd_reaches_its_frozen_teacher_and_leaves_it_as_it_was(warm):
    trainer = make_trainer(warm, OPSD(), steps=20)
    run = Run(trainer)
    assert run.last("distill/divergence") < run.first("distill/divergence") / 4
    teacher = trainer.teacher.policy.model.state_dict()
    assert all(torch.equal(w, teacher[name]) for name, w in warm.model.state_dict().items())
    assert probability_of_the_wanted(trainer.policy) == pytest.approx(
        probability_of_the_wanted(warm, "want "), abs=0.15
    )


def test_vpd_teaches_its_teacher_to_judge_and_its_student_to_answer(warm):
    """On the first step's rollouts the teacher comes to tell solved from failed more surely."""
    algorithm = VPD(beta=1.0, e_step_every=2, e_step_learning_rate=2e-4, e_step_optimizer="own",
                    teacher="ema")  # fmt: skip
    trainer = make_trainer(warm, algorithm)
    batch = trainer.make_batch(trainer.collect().rollouts)

    def margin() -> float:
        with torch.no_grad():
            inputs = LossInputs(batch, policy=trainer.policy)
            sums = algorithm.measure(inputs)
        solved, failed = (sums[f"{x}_sum"] / sums[f"{x}_count"] for x in ("solved", "failed"))
        return float(solved - failed)

    before = margin()
    run = Run(trainer)
    assert margin() > before + 1
    assert run.last("e_step/accuracy") > 0.9
    assert run.last("reward") > 0.6


def test_vpd_pg_solves_the_task_and_trusts_a_teacher_that_reads(warm):
    algorithm = VPDPG(e_step_learning_rate=2e-4, e_step_optimizer="own")
    run = Run(make_trainer(warm, algorithm))
    assert run.first("gate/weight") == 1
    assert run.last("reward") > 0.9


@pytest.mark.slow
def test_vpd_pg_survives_the_cold_start_in_which_sdpo_unlearns_the_task(cold):
    """No teacher that cannot read is trusted; the reward does the work."""
    start = probability_of_the_wanted(cold)
    gated = Run(make_trainer(cold, VPDPG(e_step_learning_rate=2e-4, e_step_optimizer="own")))
    assert gated.first("gate/weight") == 0
    assert gated.last("reward") > 0.8
    passive = Run(make_trainer(cold, SDPO(importance_clip=None)))
    assert passive.last("reward") < start
