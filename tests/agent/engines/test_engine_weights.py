"""What engines take from a policy is what a checkpoint of it would hold."""

from __future__ import annotations

import json
from functools import partial

import pytest
import torch
from safetensors.torch import load_file

from agent.helpers import float64_policy, small_policy
from vpd_agent.engines.weights import checkpoint_weights, save_config, save_weights
from vpd_agent.model.lora import add_lora
from vpd_agent.model.policy import Policy


def adapted(policy: Policy, **changes) -> Policy:
    """With an adapter whose update is not zero."""
    pytest.importorskip("peft")
    adapted = add_lora(policy, 2, **changes)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for weight in adapted.weights.values():
            weight.normal_(0, 0.3, generator=generator)
    return adapted


@pytest.mark.parametrize("make", [small_policy, float64_policy])
def test_names_and_weights_are_those_that_transformers_saves(tmp_path, make):
    policy = make()
    policy.model.save_pretrained(tmp_path)
    saved = load_file(tmp_path / "model.safetensors")
    weights = dict(checkpoint_weights(policy))
    tied = set(weights) - set(saved)  # transformers saves tied weights once
    assert tied == {"lm_head.weight"}
    for name, weight in saved.items():
        assert torch.equal(weights[name], weight)
    assert torch.equal(weights["lm_head.weight"], policy.model.lm_head.weight)


@pytest.mark.parametrize("precision", ["weights", "bfloat16"])
def test_adapters_are_merged_in_float32_and_the_outputs_stay(precision):
    plain = small_policy()
    policy = adapted(Policy(small_policy().model, plain.tokenizer, precision))
    plain.model.load_state_dict(dict(checkpoint_weights(policy)))
    ids = torch.tensor([[1, 2, 3, 4]])
    with torch.no_grad():
        expected = plain.model(input_ids=ids).logits
        policy.precision = "weights"
        with policy.active():
            torch.testing.assert_close(policy.model(input_ids=ids).logits, expected)
        with policy.reference().active():
            assert not torch.allclose(policy.model(input_ids=ids).logits, expected, atol=1e-2)


def test_each_adapter_of_a_model_gives_weights_of_its_own():
    student = adapted(small_policy())
    teacher = student.frozen_copy()
    with torch.no_grad():
        for weight in teacher.weights.values():
            weight.mul_(2)
    name = "model.layers.0.self_attn.q_proj.weight"
    base, one, four = (
        dict(checkpoint_weights(policy))[name] for policy in (student.reference(), student, teacher)
    )
    torch.testing.assert_close(four - base, 4 * (one - base))  # the product of two doubled factors


def test_the_policy_is_not_touched():
    policy = adapted(small_policy())
    before = {name: weight.clone() for name, weight in policy.model.state_dict().items()}
    dict(checkpoint_weights(policy))
    after = policy.model.state_dict()
    assert list(after) == list(before)
    assert all(torch.equal(after[name], weight) for name, weight in before.items())


def test_the_weights_of_a_layer_come_one_after_the_other():
    """With 11 layers: 2 is before 10."""
    from transformers import Qwen3Config, Qwen3ForCausalLM

    small = small_policy()
    changes = {"num_hidden_layers": 11, "layer_types": ["full_attention"] * 11}
    config = Qwen3Config(**small.model.config.to_dict() | changes)
    policy = adapted(Policy(Qwen3ForCausalLM(config), small.tokenizer))
    layers = [name.split(".")[2] for name, _ in checkpoint_weights(policy) if ".layers." in name]
    assert list(dict.fromkeys(layers)) == [str(i) for i in range(11)]
    assert layers == sorted(layers, key=int)


@pytest.mark.parametrize("shard", ["50GB", "5KB"], ids=["one file", "several files"])
def test_what_a_server_loads_holds_every_name_even_of_tied_weights(tmp_path, monkeypatch, shard):
    policy = adapted(small_policy())
    save = policy.model.save_pretrained
    monkeypatch.setattr(policy.model, "save_pretrained", partial(save, max_shard_size=shard))
    save_weights(policy, tmp_path)
    saved: dict[str, torch.Tensor] = {}
    for file in tmp_path.glob("*.safetensors"):
        saved |= load_file(file)
    expected = dict(checkpoint_weights(policy))
    assert set(saved) == set(expected)
    for name, weight in expected.items():
        torch.testing.assert_close(saved[name], weight)
    index = tmp_path / "model.safetensors.index.json"
    assert index.exists() == (shard == "5KB")
    if index.exists():
        assert set(json.loads(index.read_text())["weight_map"]) == set(expected)


def test_a_saved_configuration_says_nothing_about_sampling(tmp_path):
    from transformers import AutoConfig

    policy = small_policy()
    policy.model.generation_config.update(do_sample=True, top_k=1)
    save_config(policy, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["config.json"]
    config = AutoConfig.from_pretrained(tmp_path)
    assert config.architectures == ["Qwen3ForCausalLM"]
    assert config.dtype == torch.float32
    assert config.hidden_size == policy.model.config.hidden_size
    assert "top_k" not in (tmp_path / "config.json").read_text()
