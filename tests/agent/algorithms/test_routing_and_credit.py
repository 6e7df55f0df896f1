"""What the newer methods come to in special cases, and the gradient of DistIL on every sequence."""

from __future__ import annotations

from dataclasses import replace
from itertools import product

import pytest
import torch

from agent.algorithms.test_algorithms import gradients_of
from agent.helpers import mixed_rollouts, small_policy
from vpd_agent.algorithms import GRPO, RLSD, SCSDPO, SDPO, SRPO, DistIL, LossInputs, Step
from vpd_agent.data.batch import RolloutBatch
from vpd_agent.data.types import Rollout
from vpd_agent.model.response_logits import ResponseLogits


def same(a, b) -> None:
    (a,), (b,) = a.values(), b.values()
    assert a[1].norm() > 1e-6
    torch.testing.assert_close(a[1], b[1], rtol=1e-6, atol=1e-9)


@pytest.fixture
def rollouts():
    return mixed_rollouts(small_policy(dtype=torch.float64))


def test_srpo_without_feedback_is_grpo(rollouts):
    silent = [replace(r, feedback="") for r in rollouts]
    plain = GRPO(clip_high=0.28, scale_advantages=False)
    same(gradients_of(SRPO(), rollouts=silent), gradients_of(plain, rollouts=silent))


def test_srpo_is_sdpo_where_all_fail_and_its_weights_are_off(rollouts):
    failed = [replace(r, reward=0.0, feedback="no") for r in rollouts]
    routed = gradients_of(SRPO(entropy_sharpness=0.0), rollouts=failed)
    same(routed, gradients_of(SDPO(alpha=0.5, distill_normalizer="token"), rollouts=failed))


def test_sc_sdpo_is_sdpo_where_all_problems_are_as_hard(rollouts):
    """One of three and two of three have the same p(1 − p)."""
    same(gradients_of(SCSDPO(), rollouts=rollouts), gradients_of(SDPO(), rollouts=rollouts))


def test_sc_sdpo_learns_nothing_where_every_group_is_all_solved_or_all_failed(rollouts):
    flat = [replace(r, reward=float(r.group), feedback="no") for r in rollouts]
    assert gradients_of(SCSDPO(), rollouts=flat)["distill"][1].norm() == 0
    assert gradients_of(SDPO(), rollouts=flat)["distill"][1].norm() > 0


def test_rlsd_is_grpo_once_its_teacher_has_no_share_left(rollouts):
    """The steps of the test are the fourth; λ is 0 from the fourth of four on."""
    plain = GRPO(clip_high=0.28, dual_clip=3.0)
    same(gradients_of(RLSD(share_decay_steps=4), rollouts=rollouts),
         gradients_of(plain, rollouts=rollouts))  # fmt: skip


def test_the_share_of_rlsds_teacher_falls_as_in_its_code():
    """λ·max(0, 1 − k/60) in the k-th step."""
    shares = [RLSD().share(Step(k - 1, 100)) for k in (1, 30, 59, 60, 99)]
    assert shares == pytest.approx([0.5 * 59 / 60, 0.25, 0.5 / 60, 0, 0])
    assert RLSD(share_decay_steps=0).share(Step(99, 100)) == 0.5


def test_distil_without_the_future_has_the_gradient_of_forward_sdpo(rollouts):
    forward = SDPO(alpha=0.0, distill_normalizer="constant", importance_clip=None)
    same(gradients_of(DistIL(future_weight=0.0), rollouts=rollouts),
         gradients_of(replace(forward, teacher="live"), rollouts=rollouts))  # fmt: skip


@pytest.mark.parametrize(("future_weight", "is_exact"), [(1.0, True), (0.0, False)])
def test_distil_has_the_gradient_of_its_expectation_over_all_sequences(future_weight, is_exact):
    """All 27 sequences of three of three tokens, each weighted by its probability: the gradient of
    Σ_y π(y) Σ_t H×_t, the probabilities differentiated too, which γ = 0 leaves out."""
    torch.manual_seed(0)
    sequences = list(product(range(3), repeat=3))
    prefixes = sorted({y[:t] for y in sequences for t in range(3)})
    rows = torch.tensor([[prefixes.index(y[:t]) for t in range(3)] for y in sequences])  # [27, 3]
    response = torch.tensor(sequences)
    table = torch.randn(len(prefixes), 3, dtype=torch.float64, requires_grad=True)
    teacher = torch.randn(len(prefixes), 3, dtype=torch.float64)

    logp = table[rows].log_softmax(-1)  # [27, 3, 3]
    chance = logp.gather(-1, response[..., None]).sum((1, 2)).exp()  # π(y) [27]
    cost = -(teacher[rows].softmax(-1) * logp).sum((1, 2))
    (expected,) = torch.autograd.grad((chance * cost).sum(), table)

    batch = all_sequences(sequences)
    weight = (27 * chance.detach())[:, None].expand(27, 3)
    mask = torch.ones(27, 3, dtype=torch.bool)
    inputs = LossInputs(replace(batch, sampler_weight=weight), policy=small_policy())
    inputs.__dict__["student"] = ResponseLogits.from_logits(table[rows], response, mask)
    inputs.__dict__["teacher"] = ResponseLogits.from_logits(teacher[rows], response, mask)
    loss, _ = DistIL(future_weight=future_weight).distill(inputs)
    (found,) = torch.autograd.grad(3 * loss, table)  # it is divided by max_response_tokens
    assert 3 * loss.item() == pytest.approx((chance * cost).sum().item(), rel=1e-6)
    assert torch.allclose(found, expected, rtol=1e-6, atol=1e-8) == is_exact


def all_sequences(sequences) -> RolloutBatch:
    rollouts = [
        Rollout(problem_id="p", group=0, messages=[], prompt_ids=[0], response_ids=list(y),
                logprobs=[0.0] * 3, text="", finish="stop", reward=0.0, feedback="no")
        for y in sequences
    ]  # fmt: skip
    return RolloutBatch.from_rollouts(rollouts, [[0]] * len(rollouts))
