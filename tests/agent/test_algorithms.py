"""Algorithms as wholes: their losses on a real model, and the trainer that knows none of them."""

from __future__ import annotations

import ast
import inspect
import random
from dataclasses import dataclass, replace
from functools import partial
from typing import ClassVar

import pytest
import torch

from agent.helpers import SecretLetter, float64_policy, mixed_rollouts, small_policy
from vpd_agent import trainer as trainer_module
from vpd_agent.algorithms import ALGORITHMS, GRPO, SDPG, SDPO, VPD, Algorithm, Loss, Step
from vpd_agent.config import TrainConfig
from vpd_agent.losses import masked_mean
from vpd_agent.trainer import Trainer

CONFIG = TrainConfig(
    steps=10,
    prompts_per_step=2,
    group_size=3,
    learning_rate=1e-3,
    max_prompt_tokens=64,
    max_teacher_prompt_tokens=256,
    max_response_tokens=4,
    eval_every=0,
)

VARIANTS = {
    "grpo": GRPO(),
    "grpo with reference": GRPO(kl_to_reference=0.3, dual_clip=3.0),
    "sdpo": SDPO(),
    "sdpo top-k": SDPO(alpha=0.5, top_k=7, teacher="frozen"),
    "sdpg": SDPG(distill_weight=0.7, reference_weight=0.2),
    "vpd": VPD(e_step_every=1, beta=0.5),
    "vpd fixed prior": VPD(e_step_every=1, prior="fixed", teacher="ema", importance_clip=2.0),
}


def make_trainer(algorithm, policy=None, **changes) -> Trainer:
    config = replace(CONFIG, **changes)
    return Trainer(
        policy or small_policy(dtype=torch.float64),
        algorithm,
        SecretLetter.vector(config.rollouts_per_step),
        config,
    )


def perturb(policy, seed=1, scale=0.02) -> None:
    """Move the weights, so that teacher, reference and student differ."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for p in policy.parameters():
            p.add_(scale * torch.randn(p.shape, generator=generator, dtype=p.dtype))


def gradients_of(algorithm, micro_batch_size=None, rollouts=None):
    """Per loss of the first step: (value, flat gradient), without taking optimiser steps."""
    trainer = make_trainer(algorithm, micro_batch_size=micro_batch_size)
    perturb(trainer.policy)
    batch = trainer.make_batch(rollouts or mixed_rollouts(trainer.policy))
    results = {}
    for loss in algorithm.losses(Step(0, 10)):
        trainer.state, metrics = trainer.updater.gradient(
            loss, partial(trainer.micro_batches, batch), trainer.state
        )
        flat = torch.cat([p.grad.flatten() for p in trainer.policy.parameters()])
        results[loss.name] = (metrics["loss"], flat)
    return results


@pytest.mark.parametrize("name", VARIANTS)
@pytest.mark.parametrize("size", [1, 2, 4])
def test_micro_batches_give_the_full_batch_gradient(name, size):
    whole, parts = gradients_of(VARIANTS[name]), gradients_of(VARIANTS[name], size)
    assert whole.keys() == parts.keys()
    for loss in whole:
        assert whole[loss][1].norm() > 1e-6
        torch.testing.assert_close(parts[loss], whole[loss], rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("name", VARIANTS)
def test_the_order_of_the_batch_changes_no_gradient(name):
    policy = small_policy(dtype=torch.float64)
    rollouts = mixed_rollouts(policy)
    shuffled = random.Random(0).sample(rollouts, len(rollouts))
    a = gradients_of(VARIANTS[name], rollouts=rollouts)
    b = gradients_of(VARIANTS[name], rollouts=shuffled)
    for loss in a:
        torch.testing.assert_close(a[loss], b[loss], rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("name", VARIANTS)
def test_gradients_on_a_real_model_equal_finite_differences(name):
    """Along random directions in weight space. Stop-gradients hold: the teacher's and the
    reference's weights stay where they are, and so do importance weights."""
    algorithm = VARIANTS[name]
    if isinstance(algorithm, VPD | SDPO):
        algorithm = replace(algorithm, importance_clip=None, teacher="frozen")
    if isinstance(algorithm, SDPG):
        algorithm = replace(algorithm, teacher="frozen")
    trainer = make_trainer(algorithm, policy=float64_policy())
    perturb(trainer.policy)
    batch = trainer.make_batch(mixed_rollouts(trainer.policy))
    parameters = trainer.policy.parameters()
    for loss in algorithm.losses(Step(0, 10)):

        def value(loss=loss) -> float:
            with torch.no_grad():
                return float(loss.compute(next(trainer.micro_batches(batch)))[0])

        trainer.policy.model.zero_grad()
        trainer.state, _ = trainer.updater.gradient(
            loss, partial(trainer.micro_batches, batch), trainer.state
        )
        for seed in range(3):
            generator = torch.Generator().manual_seed(seed)
            direction = [torch.randn(p.shape, generator=generator, dtype=p.dtype)
                         for p in parameters]  # fmt: skip
            slope = float(sum((p.grad * d).sum() for p, d in zip(parameters, direction,
                                                                 strict=True)))  # fmt: skip
            eps = 1e-6
            ends = []
            for sign in (1, -1):
                with torch.no_grad():
                    torch._foreach_add_(parameters, direction, alpha=sign * eps)
                    ends.append(value())
                    torch._foreach_add_(parameters, direction, alpha=-sign * eps)
            numeric = (ends[0] - ends[1]) / (2 * eps)
            assert slope == pytest.approx(numeric, rel=1e-4, abs=1e-7)


def test_sdpg_is_its_three_terms():
    algorithm = SDPG(distill_weight=0.7, reference_weight=0.2, clip_high=0.2, dual_clip=None)
    parts = [
        (1.0, GRPO(), "policy"),
        (0.7, SDPO(importance_clip=None, teacher="live"), "distil"),
    ]
    joint = gradients_of(algorithm)["policy"][1]
    without_reference = gradients_of(replace(algorithm, reference_weight=0.0))["policy"][1]
    summed = sum(w * gradients_of(a)[loss][1] for w, a, loss in parts)
    torch.testing.assert_close(without_reference, summed)
    assert (joint - without_reference).norm() > 1e-6


def test_sdpg_weight_rises_and_falls_linearly():
    algorithm = SDPG(distill_weight=2.0, warmup_fraction=0.25, decay_fraction=0.5)
    weights = [algorithm.weight(Step(k, 9)) for k in range(9)]
    expected = [2 * min(k / 8 / 0.25, (8 - k) / 8 / 0.5, 1) for k in range(9)]
    assert weights == pytest.approx(expected)


def test_vpd_takes_an_e_step_every_f_steps():
    names = [[loss.name for loss in VPD(e_step_every=3).losses(Step(k, 9))] for k in range(7)]
    assert names == [["e_step", "m_step"] if k % 3 == 0 else ["m_step"] for k in range(7)]


def test_the_e_step_raises_solved_and_lowers_failed_responses_under_the_teacher_prompt():
    algorithm = VPD(e_step_every=1, beta=1.0)
    trainer = make_trainer(algorithm)
    batch = trainer.make_batch(mixed_rollouts(trainer.policy))
    e_step = algorithm.losses(Step(0, 10))[0]

    def likelihoods():
        with torch.no_grad():
            inputs = next(trainer.micro_batches(batch))
            return (inputs.trained_teacher.logprobs * batch.mask).sum(1)

    before = likelihoods()
    for _ in range(20):
        trainer.state, _ = trainer.updater.update(
            e_step, partial(trainer.micro_batches, batch), trainer.state, 0
        )
    change = likelihoods() - before
    assert change[batch.solved & batch.has_teacher].mean() > 0
    assert change[~batch.solved & batch.has_teacher].mean() < 0


def test_delta_is_the_moving_average_of_the_midpoints():
    algorithm = VPD(delta_momentum=0.9)
    sums = {"solved_sum": 6.0, "solved_count": 3.0, "failed_sum": -8.0, "failed_count": 2.0}
    first = algorithm.update_delta({}, sums)
    assert first == {"delta": (6 / 3 - 8 / 2) / 2}
    second = algorithm.update_delta(first, {**sums, "solved_sum": 12.0})
    assert second["delta"] == pytest.approx(0.9 * -1.0 + 0.1 * (12 / 3 - 8 / 2) / 2)
    one_sided = algorithm.update_delta(second, {**sums, "solved_count": 0.0})
    assert one_sided == second


def test_the_dynamic_prior_is_the_sampling_policy_and_the_fixed_one_the_initial():
    for prior in ("dynamic", "fixed"):
        algorithm = VPD(prior=prior, beta=1.0)
        trainer = make_trainer(algorithm)
        initial = trainer.policy.frozen_copy()
        perturb(trainer.policy)
        batch = trainer.make_batch(mixed_rollouts(trainer.policy))
        inputs = next(trainer.micro_batches(batch))
        prior_logprobs = batch.old_logprobs if prior == "dynamic" else initial.score(
            batch.prompt, batch.prompt_mask, batch.response, batch.mask).logprobs  # fmt: skip
        expected = ((inputs.trained_teacher.logprobs - prior_logprobs) * batch.mask).sum(1)
        torch.testing.assert_close(algorithm.implicit_reward(inputs), expected)


def test_rows_without_feedback_give_sdpo_no_gradient():
    rollouts = [replace(r, feedback="") for r in mixed_rollouts(small_policy())]
    assert gradients_of(SDPO(), rollouts=rollouts)["distil"][1].norm() == 0


@dataclass(frozen=True)
class Imitate(Algorithm):
    """Raise the likelihood of solved responses: an algorithm in one dataclass."""

    name: ClassVar[str] = "imitate"

    def losses(self, step):
        return [Loss("imitate", self.loss)]

    def loss(self, inputs):
        batch = inputs.batch
        mask = batch.mask & batch.solved[:, None]
        return -masked_mean(inputs.student.logprobs, mask, batch.num_tokens), {}


def test_a_new_algorithm_is_one_dataclass():
    trainer = make_trainer(Imitate())
    rollouts = mixed_rollouts(trainer.policy)
    losses = [trainer.train_step(rollouts)["imitate/loss"] for _ in range(10)]
    assert losses[-1] < losses[0]


def test_the_trainer_names_no_algorithm():
    """No branch on the algorithm: neither a name, a class nor an isinstance of one."""
    source = inspect.getsource(trainer_module)
    words = {node.id for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Name)}
    words |= {n.value for n in ast.walk(ast.parse(source))
              if isinstance(n, ast.Constant) and isinstance(n.value, str)}  # fmt: skip
    assert not words & {"isinstance", *ALGORITHMS, *(a.__name__ for a in ALGORITHMS.values())}


@pytest.mark.parametrize(
    ("algorithm", "field"),
    [
        (GRPO, {"clip_low": 2.0}),
        (GRPO, {"dual_clip": 0.5}),
        (SDPO, {"alpha": 1.5}),
        (SDPO, {"top_k": 0}),
        (SDPG, {"decay_fraction": -0.1}),
        (VPD, {"beta": 0.0}),
        (VPD, {"e_step_every": 0}),
        (VPD, {"ema_rate": 0.0}),
    ],
)
def test_a_senseless_hyper_parameter_is_refused_by_name(algorithm, field):
    with pytest.raises(ValueError, match=next(iter(field))):
        algorithm(**field)
