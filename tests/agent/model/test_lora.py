"""Adapters: student, averaged teacher and reference in one model."""

from __future__ import annotations

import threading
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from agent.helpers import SecretLetter, float64_policy, mixed_rollouts, small_policy
from vpd_agent.algorithms import SDPO, VPD, Step
from vpd_agent.data.batch import RolloutBatch
from vpd_agent.engines.hf import HFEngine
from vpd_agent.engines.weights import checkpoint_weights
from vpd_agent.model.lora import add_lora
from vpd_agent.model.policy import Policy
from vpd_agent.model.teacher import Teacher
from vpd_agent.train.config import TrainConfig
from vpd_agent.train.trainer import Trainer

CONFIG = TrainConfig(
    steps=3,
    prompts_per_step=2,
    group_size=3,
    learning_rate=1e-2,
    max_prompt_tokens=64,
    max_teacher_prompt_tokens=256,
    max_response_tokens=4,
    eval_every=0,
)
TARGETS = ("q_proj", "v_proj")


def scores(policy: Policy) -> Tensor:
    """[B, T] log-probabilities of some responses."""
    batch = RolloutBatch.from_rollouts(mixed_rollouts(small_policy()), [None] * 6)
    return policy.forward(
        batch.prompt, batch.prompt_mask, batch.response, batch.token_mask
    ).logprobs


def perturb(policy: Policy, scale: float = 0.2, seed: int = 0) -> None:
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for weight in policy.parameters():
            weight.add_(scale * torch.randn(weight.shape, generator=generator))


def test_a_new_adapter_changes_nothing_and_alone_is_trained():
    plain = small_policy()
    before = scores(plain).detach()
    policy = add_lora(plain, rank=2)
    torch.testing.assert_close(scores(policy), before, rtol=0, atol=0)
    scores(policy).sum().backward()
    with_gradient = {id(p) for p in policy.model.parameters() if p.grad is not None}
    assert with_gradient == {id(p) for p in policy.parameters()}


def test_an_adapter_computes_w_plus_alpha_over_rank_times_b_times_a():
    """Against the same model with that sum as its weights."""
    policy = add_lora(small_policy(), rank=2, alpha=3.0, target=TARGETS)
    perturb(policy)
    merged = small_policy()
    attention = merged.model.model.layers[0].self_attn
    with torch.no_grad():
        for name in TARGETS:
            a, b = (policy.weights[f"model.layers.0.self_attn.{name}.lora_{x}.weight"]
                    for x in "AB")  # fmt: skip
            getattr(attention, name).weight += 3.0 / 2 * b @ a
    assert len(policy.weights) == 4
    torch.testing.assert_close(scores(policy), scores(merged), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("make", [small_policy, float64_policy])
def test_the_saved_model_is_merged_and_loads_without_peft(tmp_path, make):
    """GPT-2 has its weights the other way round."""
    policy = add_lora(make(), rank=2)
    perturb(policy)
    policy.save(tmp_path / "model")
    loaded = Policy.load(str(tmp_path / "model"))
    assert not any("lora" in name for name in loaded.model.state_dict())
    torch.testing.assert_close(scores(loaded), scores(policy), rtol=1e-4, atol=1e-5)


@pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing:FutureWarning")  # asked by peft
def test_the_saved_adapter_loads_with_peft(tmp_path):
    from peft import PeftModel

    policy = add_lora(small_policy(), rank=2)
    perturb(policy)
    policy.save(tmp_path / "model")
    loaded = PeftModel.from_pretrained(small_policy().model, tmp_path / "model" / "adapter")
    mine = Policy(loaded, policy.tokenizer)
    torch.testing.assert_close(scores(mine), scores(policy), rtol=1e-5, atol=1e-6)


def test_copies_share_the_model_and_the_reference_is_the_adapter_switched_off():
    plain = small_policy()
    before = scores(plain).detach()
    student = add_lora(plain, rank=2)
    perturb(student)
    reference, copy = student.reference(), student.frozen_copy()
    assert reference.model is copy.model is student.model
    assert (reference.weights, reference.parameters(), copy.parameters()) == ({}, [], [])
    now = scores(student).detach()
    torch.testing.assert_close(scores(reference), before, rtol=0, atol=0)
    torch.testing.assert_close(scores(copy), now, rtol=0, atol=0)
    perturb(student, seed=1)
    assert not torch.equal(scores(student), now)
    torch.testing.assert_close(scores(reference), before, rtol=0, atol=0)
    torch.testing.assert_close(scores(copy), now, rtol=0, atol=0)


def test_the_average_is_of_the_adapter():
    student = add_lora(small_policy(), rank=2)
    perturb(student)
    teacher = Teacher(student, "ema", 0.25)
    expected = {n: w.detach().clone() for n, w in student.weights.items()}
    for step in range(3):
        perturb(student, seed=step)
        teacher.update()
        expected = {n: 0.75 * expected[n] + 0.25 * w for n, w in student.weights.items()}
    torch.testing.assert_close(dict(teacher.policy.weights), expected)
    assert not any(w.requires_grad for w in teacher.policy.weights.values())
    assert all(w.requires_grad for w in student.weights.values())


def test_state_is_the_adapters_and_goes_back_in():
    student = add_lora(small_policy(), rank=2)
    perturb(student)
    state = {n: t.clone() for n, t in student.state_dict().items()}
    assert len(state) == 14
    assert student.reference().state_dict() == {}
    other = add_lora(small_policy(), rank=2)
    other.load_state_dict(state)
    torch.testing.assert_close(scores(other), scores(student), rtol=0, atol=0)
    with pytest.raises(ValueError, match=r"of another model.*--lora-rank"):
        add_lora(small_policy(), rank=3).load_state_dict(state)


def test_a_copy_takes_its_students_adapter():
    """As an engine with weights of its own does after each step."""
    student = add_lora(small_policy(), rank=2)
    copy = student.frozen_copy()
    perturb(student)
    copy.copy_from(student)
    torch.testing.assert_close(scores(copy), scores(student), rtol=0, atol=0)


def test_threads_see_the_adapter_that_they_have_switched_on():
    """One samples with a copy while another trains: neither may see the other's adapter."""
    student = add_lora(small_policy(), rank=2)
    copy = student.frozen_copy()
    perturb(student)
    mine, theirs = scores(student).detach(), scores(copy).detach()
    assert not torch.equal(mine, theirs)
    inside, done = threading.Event(), threading.Event()
    seen = []

    def other() -> None:
        with copy.active():
            inside.set()
            done.wait(10)
            seen.append(scores(copy).detach())

    thread = threading.Thread(target=other)
    thread.start()
    inside.wait(10)
    torch.testing.assert_close(scores(student), mine, rtol=0, atol=0)
    done.set()
    thread.join()
    torch.testing.assert_close(seen[0], theirs, rtol=0, atol=0)


def test_scopes_of_adapters_nest_and_end_with_an_error():
    student = add_lora(small_policy(), rank=2)
    perturb(student)
    expected = scores(student).detach()
    with pytest.raises(RuntimeError), student.reference().active(), student.frozen_copy().active():
        raise RuntimeError
    with student.reference().active():
        torch.testing.assert_close(scores(student), expected, rtol=0, atol=0)
    torch.testing.assert_close(scores(student), expected, rtol=0, atol=0)


def test_layers_computed_again_see_the_students_adapter():
    """The backward pass computes them after the scope of `score` has ended."""
    gradients = []
    for checkpointed in (False, True):
        student = add_lora(small_policy(), rank=2)
        perturb(student)
        if checkpointed:
            student.enable_gradient_checkpointing()
        teacher = student.reference()
        loss = (scores(student) - scores(teacher).detach()).square().sum()
        loss.backward()
        gradients.append([p.grad for p in student.parameters()])
    torch.testing.assert_close(gradients[0], gradients[1], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("algorithm", [SDPO(), VPD(e_step_every=1, prior="fixed", teacher="ema")])
def test_training_moves_the_adapter_and_nothing_else(algorithm):
    policy = add_lora(small_policy(), rank=2)
    frozen = {n: p.detach().clone() for n, p in policy.model.named_parameters() if "lora" not in n}
    trainer = Trainer(policy, algorithm, SecretLetter.vector(6), CONFIG)
    before = [p.detach().clone() for p in policy.parameters()]
    trainer.train()
    assert not any(torch.equal(a, b) for a, b in zip(before, policy.parameters(), strict=True))
    for name, weight in policy.model.named_parameters():
        if name in frozen:
            assert torch.equal(weight, frozen[name])


def test_an_adapter_has_the_gradient_that_the_chain_rule_gives_it():
    """Of W + s·B·A the gradients are s·Bᵀ·G and s·G·Aᵀ, G being that of W."""
    lora = add_lora(float64_policy(), rank=2, alpha=2.0, target=["c_fc"])
    perturb(lora)
    full = float64_policy()
    layer = full.model.transformer.h[0].mlp.c_fc
    a, b = lora.weights.values()
    with torch.no_grad():
        layer.weight += (b @ a).T  # GPT-2 has its weights the other way round
    rollouts = mixed_rollouts(full)
    for policy in (lora, full):
        trainer = Trainer(policy, SDPO(teacher="live"), SecretLetter.vector(6), CONFIG)
        loss = trainer.algorithm.losses(Step(0, 3))[0]
        batch = trainer.make_batch(rollouts)
        trainer.updater.gradient(loss, trainer.micro_batches(batch), {})
    gradient = layer.weight.grad.T
    torch.testing.assert_close(a.grad, b.T @ gradient)
    torch.testing.assert_close(b.grad, gradient @ a.T)


def test_bad_adapters_are_refused():
    with pytest.raises(ValueError, match="rank must be at least 1"):
        add_lora(small_policy(), rank=0)
    with pytest.raises(ValueError, match="cannot be added to"):
        add_lora(small_policy(), rank=2, target=["no_such_layer"])
    with pytest.raises(ValueError, match=r"linear layers, which .*embed_tokens are not"):
        add_lora(small_policy(), rank=2, target=["embed_tokens"])


def test_engines_sample_with_the_adapter_of_their_policy():
    """Log-probabilities of what an engine samples are those of the policy that it samples for."""
    student = add_lora(small_policy(), rank=2)
    copy = student.frozen_copy()
    perturb(student, scale=0.5)
    for policy in (student, copy, student.reference()):
        sampled = HFEngine(policy).generate([[5, 6, 7]], samples=2, max_tokens=4)
        for one in sampled:
            prompt, response = torch.tensor([[5, 6, 7]]), torch.tensor([one.ids])
            masks = torch.ones_like(prompt).bool(), torch.ones_like(response).bool()
            own = policy.forward(prompt, masks[0], response, masks[1]).logprobs[0]
            torch.testing.assert_close(torch.tensor(one.logprobs), own.detach(),
                                       rtol=1e-4, atol=1e-4)  # fmt: skip


def test_overlapping_runs_sample_from_an_adapter_of_their_own():
    student = add_lora(small_policy(), rank=2)
    trainer = Trainer(student, SDPO(), SecretLetter.vector(6), replace(CONFIG, overlap=True))
    assert trainer.engine.policy.model is student.model
    before = scores(trainer.engine.policy).detach()
    trainer.train()
    assert not torch.equal(scores(trainer.engine.policy), before)
    torch.testing.assert_close(scores(trainer.engine.policy), scores(student), rtol=0, atol=0)


def test_engines_with_a_model_of_their_own_get_merged_weights(tmp_path):
    policy = add_lora(small_policy(), rank=2)
    policy.frozen_copy()
    perturb(policy)
    policy.save(tmp_path)
    expected = Policy.load(str(tmp_path)).model.state_dict()
    for name, weight in checkpoint_weights(policy):
        torch.testing.assert_close(weight.detach(), expected[name], rtol=1e-5, atol=1e-6)
