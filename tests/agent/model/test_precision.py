"""bfloat16, averages in it, and layers that are computed again."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

from agent.helpers import float64_policy, mixed_rollouts, small_policy
from vpd_agent.data.batch import RolloutBatch
from vpd_agent.engines.hf import HFEngine
from vpd_agent.model.policy import Policy
from vpd_agent.model.response_logits import ResponseLogits


def scored(policy: Policy, rows: int = 6) -> ResponseLogits:
    batch = RolloutBatch.from_rollouts(mixed_rollouts(small_policy())[:rows], [None] * rows)
    return policy.forward(batch.prompt, batch.prompt_mask, batch.response, batch.token_mask)


def gradients(policy: Policy) -> list[Tensor]:
    policy.model.zero_grad()
    scored(policy).logprobs.sum().backward()
    return [p.grad for p in policy.parameters()]


def test_mixed_precision_computes_in_bfloat16_and_keeps_everything_else_in_float32():
    exact = small_policy()
    mixed = Policy(small_policy().model, exact.tokenizer, precision="bfloat16")
    scored(mixed)  # measures what the model can do, in the weights' type
    kinds = []
    mixed.model.model.layers[0].mlp.register_forward_hook(lambda *a: kinds.append(a[2].dtype))
    scores, expected = scored(mixed), scored(exact)
    assert set(kinds) == {torch.bfloat16}
    assert scores.logprobs.dtype == scores.entropy.dtype == torch.float32
    error = (scores.logprobs - expected.logprobs).abs().max()
    assert 0 < error < 0.2  # 8 bits of logits of a few units
    for gradient, near in zip(gradients(mixed), gradients(exact), strict=True):
        assert gradient.dtype == torch.float32
        assert nn.functional.cosine_similarity(gradient.flatten(), near.flatten(), 0) > 0.99


def test_mixed_precision_ends_with_the_score():
    mixed = Policy(small_policy().model, small_policy().tokenizer, precision="bfloat16")
    scored(mixed)
    assert not torch.is_autocast_enabled("cpu")
    with mixed.active():
        assert torch.is_autocast_enabled("cpu")
    with Policy(mixed.model, mixed.tokenizer).active():
        assert not torch.is_autocast_enabled("cpu")


def test_copies_compute_in_the_precision_of_their_original():
    mixed = Policy(small_policy().model, small_policy().tokenizer, precision="bfloat16")
    for other in (mixed.frozen_copy(), mixed.reference()):
        torch.testing.assert_close(scored(other).logprobs, scored(mixed).logprobs, rtol=0, atol=0)


def test_updates_smaller_than_bfloat16_resolves_are_kept_in_mixed_precision():
    """Adam's step is about the learning rate, whatever the gradient: 1e-6 of a weight of 1."""
    moved = {}
    for name, dtype in (("mixed", torch.float32), ("pure", torch.bfloat16)):
        policy = Policy(small_policy(dtype=dtype).model, small_policy().tokenizer, "bfloat16")
        weight = policy.model.model.norm.weight  # ones
        optimizer = torch.optim.AdamW([weight], lr=1e-6)
        scored(policy).logprobs.sum().backward()
        optimizer.step()
        moved[name] = (weight.detach().float() - 1).abs().max()
    assert moved["mixed"] == pytest.approx(1e-6, rel=0.1)
    assert moved["pure"] == 0


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float64])
def test_an_average_follows_whatever_its_weights_are_stored_in(dtype):
    """θ_T after n steps towards a fixed goal: goal − (1−rate)ⁿ · (goal − start)."""
    student, rate, steps = small_policy(dtype=dtype), 0.01, 100
    teacher = student.frozen_copy()
    start = {n: w.double().clone() for n, w in teacher.weights.items()}
    with torch.no_grad():
        for weight in student.parameters():
            weight.add_(0.05)
    for _ in range(steps):
        teacher.ema_update_(student, rate)
    for name, weight in teacher.weights.items():
        assert weight.dtype == dtype
        goal = student.weights[name].double()
        expected = goal - (1 - rate) ** steps * (goal - start[name])
        resolution = torch.finfo(dtype).eps
        torch.testing.assert_close(weight.double(), expected, rtol=resolution, atol=1e-6)


def test_a_bfloat16_average_goes_on_from_a_checkpoint_as_if_never_stopped():
    student = small_policy(dtype=torch.bfloat16)
    teacher = student.frozen_copy()
    with torch.no_grad():
        for weight in student.parameters():
            weight.add_(0.05)
    for _ in range(5):
        teacher.ema_update_(student, 0.01)
    state = copy.deepcopy(teacher.state_dict())
    resumed = small_policy(dtype=torch.bfloat16).frozen_copy()
    resumed.load_state_dict(state)
    for policy in (teacher, resumed):
        for _ in range(20):
            policy.ema_update_(student, 0.01)
    for mine, theirs in zip(teacher.weights.values(), resumed.weights.values(), strict=True):
        assert torch.equal(mine, theirs)


def test_trained_bfloat16_weights_have_no_second_copy_that_could_go_stale():
    student = small_policy(dtype=torch.bfloat16)
    student.load_state_dict(small_policy(seed=1).state_dict())
    with torch.no_grad():
        for weight in student.parameters():
            weight.add_(1)
    for name, tensor in student.state_dict().items():
        assert torch.equal(tensor, student.model.state_dict()[name])


@pytest.mark.parametrize("make", [small_policy, float64_policy])
def test_layers_computed_again_give_the_same_scores_and_gradient(make):
    plain, again = make(), make()
    again.enable_gradient_checkpointing()
    again.enable_gradient_checkpointing()  # twice is once
    close = {"rtol": 1e-4, "atol": 1e-4} if make is small_policy else {}
    torch.testing.assert_close(scored(again).logprobs, scored(plain).logprobs, **close)
    torch.testing.assert_close(gradients(again), gradients(plain), **close)


def test_layers_computed_again_keep_less_for_the_backward_pass():
    kept = {}
    for name in ("plain", "again"):
        policy = small_policy()
        if name == "again":
            policy.enable_gradient_checkpointing()
        batch = RolloutBatch.from_rollouts(mixed_rollouts(policy), [None] * 6)
        inputs = batch.prompt, batch.prompt_mask, batch.response, batch.token_mask
        with torch.no_grad():
            policy.forward(*inputs)  # the first time it also tries what the model can do
        sizes = []
        with torch.autograd.graph.saved_tensors_hooks(
            lambda tensor, sizes=sizes: sizes.append(tensor.numel()) or tensor,
            lambda tensor: tensor,
        ):
            policy.forward(*inputs).logprobs.sum()
        kept[name] = sum(sizes)
    assert kept["again"] < 0.5 * kept["plain"]


def test_layers_are_computed_once_where_no_gradient_is_wanted():
    policy = small_policy()
    policy.enable_gradient_checkpointing()
    with torch.no_grad():
        scored(policy)  # the first time it also tries what the model can do
    calls = []
    policy.model.model.layers[0].mlp.register_forward_pre_hook(lambda *_: calls.append(1))
    with torch.no_grad():
        scored(policy, rows=1)
    assert len(calls) == 1
    scored(policy, rows=1).logprobs.sum().backward()
    assert len(calls) == 3


def test_copies_compute_their_own_layers_again():
    """Not those of the model that they were copied from."""
    policy = small_policy()
    policy.enable_gradient_checkpointing()
    copied = policy.frozen_copy()
    before = scored(copied).logprobs
    with torch.no_grad():
        for weight in policy.parameters():
            weight.mul_(2)
    copied.model.requires_grad_(True)
    torch.testing.assert_close(scored(copied).logprobs, before, rtol=0, atol=0)


def test_dropout_is_off_while_gradients_flow():
    """The ratio π/π_old is of weights, not of what dropout happened to leave out."""
    from transformers import GPT2Config, GPT2LMHeadModel

    config = GPT2Config(vocab_size=300, n_embd=16, n_layer=1, n_head=2, n_positions=512,
                        resid_pdrop=0.5, embd_pdrop=0.5, attn_pdrop=0.5)  # fmt: skip
    policy = Policy(GPT2LMHeadModel(config).train(), small_policy().tokenizer)
    policy.enable_gradient_checkpointing()
    first, second = scored(policy).logprobs, scored(policy).logprobs
    assert first.requires_grad
    assert torch.equal(first, second)


def test_a_model_without_known_layers_is_refused():
    policy = small_policy()
    policy.model.model.layers = nn.ModuleList()
    with pytest.raises(ValueError, match="no layers that transformers marks"):
        policy.enable_gradient_checkpointing()


def test_engines_sample_in_the_precision_of_their_policy():
    mixed = Policy(small_policy().model, small_policy().tokenizer, precision="bfloat16")
    engine = HFEngine(mixed)
    engine.generate([[5, 6, 7]], max_tokens=4)  # measures what the model can do, in its own type
    kinds = []
    mixed.model.model.layers[0].mlp.register_forward_hook(lambda *a: kinds.append(a[2].dtype))
    engine.generate([[5, 6, 7]], max_tokens=4)
    assert set(kinds) == {torch.bfloat16}
