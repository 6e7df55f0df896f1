"""Which weights teach, in the losses and where the teacher is sampled: for the gate and for the
repair of failed answers."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from agent.helpers import SecretLetter, mixed_rollouts, small_policy
from vpd_agent.algorithms import GRPO, SDPO, VPD
from vpd_agent.algorithms.base import LossInputs
from vpd_agent.engines.hf import HFEngine
from vpd_agent.model.lora import add_lora
from vpd_agent.train.config import TrainConfig
from vpd_agent.train.trainer import Trainer

CONFIG = TrainConfig(
    steps=4,
    prompts_per_step=3,
    group_size=2,
    learning_rate=1e-2,
    max_prompt_tokens=64,
    max_teacher_prompt_tokens=256,
    max_response_tokens=6,
    eval_every=1,
    eval_failures=5,
)
TEACHERS = {
    "live": SDPO(teacher="live"),
    "ema": SDPO(teacher="ema", ema_rate=0.3),
    "frozen": SDPO(teacher="frozen"),
    "trust_region": SDPO(teacher="trust_region", trust_region=0.4),
}


class Recording(HFEngine):
    """Remembers whose weights it sampled from, and how long an answer could be."""

    def __init__(self, policy):
        super().__init__(policy)
        self.sampled: list[tuple] = []

    def generate(self, prompts, **options):
        self.sampled.append((self.policy, options["max_tokens"]))
        return super().generate(prompts, **options)


def make_trainer(algorithm, policy=None, config=CONFIG, **parts) -> Trainer:
    return Trainer(
        policy or small_policy(),
        algorithm,
        SecretLetter.vector(config.rollouts_per_step),
        config,
        evaluation=SecretLetter.vector(8, split="test"),
        **parts,
    )


@torch.no_grad()
def perturb(policy, seed: int) -> None:
    """Move the weights, so that student and teacher differ."""
    generator = torch.Generator().manual_seed(seed)
    for weight in policy.parameters():
        weight.add_(0.2 * torch.randn(weight.shape, generator=generator))


def assert_samples_what_teaches(trainer: Trainer) -> None:
    """The log-probabilities of what is sampled are those that the losses' teacher gives it."""
    rollouts = [r for r in mixed_rollouts(trainer.policy) if r.feedback]
    prompts = [p for p in trainer.prompts_with_feedback(rollouts) if p is not None]
    with trainer.sampling_teacher() as engine:
        answers = engine.generate(prompts, max_tokens=6)
    answered = [
        replace(r, response_ids=a.ids, logprobs=a.logprobs)
        for r, a in zip(rollouts, answers, strict=True)
    ]
    batch = trainer.make_batch(answered)
    inputs = LossInputs(batch, policy=trainer.policy, teacher=trainer.teacher)
    torch.testing.assert_close(batch.old_logprobs, inputs.teacher.logprobs, rtol=0, atol=1e-4)
    if trainer.teacher and trainer.teacher.weights != "live":  # else nothing has been shown
        gap = batch.old_logprobs - inputs.policy_on_teacher_prompt.logprobs.detach()
        assert gap.abs().max() > 0.01


@pytest.mark.parametrize("lora", [False, True])
@pytest.mark.parametrize("kind", TEACHERS)
def test_what_is_sampled_as_the_teacher_is_what_the_losses_listen_to(kind, lora):
    policy = add_lora(small_policy(), rank=2) if lora else small_policy()
    trainer = make_trainer(TEACHERS[kind], policy)
    assert trainer.teacher is not None
    for seed in (1, 2):
        perturb(trainer.policy, seed)
        trainer.teacher.update()
    assert_samples_what_teaches(trainer)


def test_another_model_is_sampled_as_the_teacher_that_it_is():
    student = small_policy()
    algorithm = SDPO()
    teacher = algorithm.make_teacher(student, small_policy(seed=5))
    assert_samples_what_teaches(make_trainer(algorithm, student, teacher=teacher))


@pytest.mark.parametrize("kind", ["live", "ema", "frozen"])
def test_repair_is_measured_with_the_weights_that_teach_in_turns_of_their_length(kind):
    policy = small_policy()
    engine, config = Recording(policy), replace(CONFIG, max_turn_tokens=4)
    trainer = make_trainer(TEACHERS[kind], policy, config, engine=engine)
    teacher = trainer.teacher
    assert teacher is not None
    perturb(policy, 1)
    trainer.evaluate()
    assert engine.sampled[0] == (policy, 4)
    assert set(engine.sampled[1:]) == {(teacher.policy, 4)}
    assert engine.policy is policy  # what the next rollouts are sampled from


def test_without_a_teacher_repair_is_that_of_the_policy():
    policy = small_policy()
    engine = Recording(policy)
    make_trainer(GRPO(), policy, engine=engine).evaluate()
    assert {sampled for sampled, _ in engine.sampled} == {policy}


# --- the E-step and an averaged teacher ----------------------------------------------------------


@pytest.mark.parametrize("hears", [False, True])
def test_the_m_step_hears_the_e_step_of_its_own_step_if_the_e_step_moves_the_teacher(hears):
    """θ_T ← (1−τ)·θ_T + τ·θ, once after each step; and, if asked, once more after the E-step."""
    rate = 0.3
    policy = small_policy()
    start = [w.detach().clone() for w in policy.parameters()]
    seen = []

    class Watched(VPD):
        def m_step(self, inputs, *, weight):
            seen.append([w.detach().clone() for w in inputs._policy.parameters()])
            seen.append([w.detach().clone() for w in inputs._teacher.policy.weights.values()])
            return super().m_step(inputs, weight=weight)

    algorithm = Watched(teacher="ema", ema_rate=rate, e_step_moves_teacher=hears)
    trainer = make_trainer(algorithm, policy)
    assert trainer.teacher is not None
    trainer.train_step(mixed_rollouts(policy))
    after_e_step, taught_by = seen
    assert not torch.equal(after_e_step[0], start[0])
    moved = rate if hears else 0.0
    between = mix(start, after_e_step, moved)
    torch.testing.assert_close(taught_by, between)
    after_step = mix(between, policy.parameters(), rate)
    torch.testing.assert_close(list(trainer.teacher.policy.weights.values()), after_step)


def test_a_teacher_with_a_rate_of_one_is_a_copy_renewed_every_so_many_steps():
    """After the second and fourth step, in a run that is resumed before the fourth too."""
    algorithm = SDPO(teacher="ema", ema_rate=1.0, ema_every=2)
    trainer = make_trainer(algorithm)
    renewed = []
    for step in range(4):
        if step == 3:
            saved = trainer.state_dict()
            trainer = make_trainer(algorithm)
            trainer.load_state_dict(saved)
        assert trainer.teacher is not None
        trainer.train_step(mixed_rollouts(trainer.policy))
        weights = trainer.teacher.policy.weights.values()
        pairs = zip(weights, trainer.policy.parameters(), strict=True)
        renewed.append(all(torch.equal(a, b) for a, b in pairs))
    assert renewed == [False, True, False, True]


def mix(mine, others, rate: float) -> list[torch.Tensor]:
    return [(1 - rate) * a + rate * b.detach() for a, b in zip(mine, others, strict=True)]
