"""The plain decoder computes what the model does, or leaves the model to transformers."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from agent.helpers import float64_policy, small_policy
from vpd_agent.data.padding import pad_left, pad_right
from vpd_agent.engines.decoder import PlainDecoder, TransformersDecoder, fastest_decoder
from vpd_agent.model.policy import Policy
from vpd_agent.tiny.model import byte_tokenizer, tiny_policy

SHAPE = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
    "initializer_range": 0.2,
}
FAMILIES = {
    "Qwen3": ("Qwen3", {"head_dim": 16}),  # wider than hidden_size / heads
    "Qwen2 with biases": ("Qwen2", {}),
    "Qwen2 with a window in its last layers": (
        "Qwen2",
        {"use_sliding_window": True, "sliding_window": 9, "max_window_layers": 1},
    ),
    "Llama with a head of its own": ("Llama", {"tie_word_embeddings": False}),
    "Llama with scaled positions": (
        "Llama",
        {"rope_parameters": {"rope_type": "linear", "factor": 4.0, "rope_theta": 10000.0}},
    ),
    "Llama with positions that depend on the length": (
        "Llama",
        {
            "rope_parameters": {
                "rope_type": "llama3", "factor": 8.0, "rope_theta": 10000.0,
                "low_freq_factor": 1.0, "high_freq_factor": 4.0,
                "original_max_position_embeddings": 32,
            }
        },
    ),
    "Mistral": ("Mistral", {"sliding_window": None}),
    "Mistral with a window": ("Mistral", {"sliding_window": 9}),
    "one head for all": ("Llama", {"num_key_value_heads": 1}),
}  # fmt: skip


def policy_of(family: str, **changes) -> Policy:
    import transformers

    tokenizer = byte_tokenizer()
    config = getattr(transformers, f"{family}Config")(
        vocab_size=len(tokenizer), eos_token_id=tokenizer.eos_token_id, **(SHAPE | changes)
    )
    torch.manual_seed(0)
    model = getattr(transformers, f"{family}ForCausalLM")(config)
    for name, weight in model.named_parameters():  # biases are born zero, norms one
        if weight.dim() == 1:
            nn.init.normal_(weight, mean=float("norm" in name), std=0.2)
    return Policy(model.eval(), tokenizer)


def tokens_of(*lengths: int) -> list[list[int]]:
    generator = torch.Generator().manual_seed(len(lengths))
    return [torch.randint(0, 256, (n,), generator=generator).tolist() for n in lengths]


def assert_decodes_like_one_forward_pass(kind, policy: Policy) -> None:
    """Three prompts, three rows each, of which some leave after 4 and 9 steps, all of the second
    prompt's among them. Expected: logits of whole sequences in one forward pass, without a cache.
    """
    prompts, samples, steps = tokens_of(3, 11, 24), 3, 14
    responses = torch.tensor(tokens_of(*[steps] * 9))  # [9, steps]
    sequences = [
        p + responses[i].tolist() for i, p in enumerate(p for p in prompts for _ in range(samples))
    ]
    ids, present = pad_right(sequences, policy.pad_id)
    with torch.inference_mode():
        expected = policy.model(input_ids=ids, attention_mask=present.long()).logits
        decoder = kind(policy, steps)
        logits = decoder.prefill(*pad_left(prompts, policy.pad_id), samples)
        rows = torch.arange(9)
        leaving = {4: [0, 2, 3, 4, 5, 6, 7, 8], 9: [0, 1, 5, 6]}  # kept, of the present ones
        for t in range(steps):
            for k, row in enumerate(rows.tolist()):
                at = len(sequences[row]) - steps + t - 1
                torch.testing.assert_close(logits[k], expected[row, at], rtol=1e-4, atol=2e-4)
            if t in leaving:
                keep = torch.tensor(leaving[t])
                decoder.keep(keep)
                rows = rows[keep]
            logits = decoder.step(responses[rows, t])
    assert rows.tolist() == [0, 2, 6, 7]  # the second prompt has left


@pytest.mark.parametrize("kind", [PlainDecoder, TransformersDecoder])
@pytest.mark.parametrize("family", FAMILIES)
def test_decoding_gives_the_logits_of_one_forward_pass(family, kind):
    name, changes = FAMILIES[family]
    assert_decodes_like_one_forward_pass(kind, policy_of(name, **changes))


@pytest.mark.parametrize("family", FAMILIES)
def test_models_of_llama_build_are_decoded_plainly(family):
    name, changes = FAMILIES[family]
    assert fastest_decoder(policy_of(name, **changes)) is PlainDecoder


def test_a_response_longer_than_a_block_of_the_cache_is_decoded_right(monkeypatch):
    monkeypatch.setattr("vpd_agent.engines.decoder.BLOCK", 5)
    assert_decodes_like_one_forward_pass(PlainDecoder, policy_of("Qwen3"))


def test_what_the_tiny_model_sees_moves_on_with_its_window():
    assert_decodes_like_one_forward_pass(PlainDecoder, tiny_policy(window=16))


def test_half_precision_is_decoded_plainly():
    policy = tiny_policy()
    policy.model.to(torch.bfloat16).eval()
    assert fastest_decoder(policy) is PlainDecoder


@pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing:FutureWarning")  # asked by peft
def test_adapters_take_part():
    peft = pytest.importorskip("peft")
    plain = policy_of("Qwen3")
    before = fastest_decoder(plain)
    config = peft.LoraConfig(r=4, target_modules=["q_proj", "v_proj", "down_proj"])
    model = peft.get_peft_model(plain.model, config).eval()
    for name, weight in model.named_parameters():
        if "lora_B" in name:  # born zero: an adapter that changes nothing
            nn.init.normal_(weight, std=0.3)
    policy = Policy(model, plain.tokenizer)
    assert before is fastest_decoder(policy) is PlainDecoder
    assert_decodes_like_one_forward_pass(PlainDecoder, policy)
    with model.disable_adapter():
        assert_decodes_like_one_forward_pass(PlainDecoder, policy)


def test_unknown_architectures_are_left_to_transformers():
    gpt2 = float64_policy()
    gpt2.model.eval()
    assert fastest_decoder(gpt2) is TransformersDecoder
    gemma = policy_of("Gemma2", head_dim=8, sliding_window=9)  # more norms, and capped logits
    assert fastest_decoder(gemma) is TransformersDecoder
    assert_decodes_like_one_forward_pass(TransformersDecoder, gemma)


def test_a_model_that_only_looks_like_a_known_one_is_left_to_transformers():
    """The class is right, the arithmetic is not: the comparison must notice."""
    policy = policy_of("Llama")
    attention = policy.model.model.layers[1].self_attn
    assert fastest_decoder(policy) is PlainDecoder
    attention.q_norm = attention.k_norm = nn.LayerNorm(8)  # which its own forward does not call
    assert fastest_decoder(policy) is TransformersDecoder


@pytest.mark.parametrize("where", ["model.layers.1", "model.layers.0.self_attn", "model"])
def test_a_hook_on_what_would_be_skipped_is_not_skipped(where):
    """FSDP gathers a layer's weights in such a hook, a device map moves its inputs."""
    policy = policy_of("Llama")
    handle = policy.model.get_submodule(where).register_forward_pre_hook(lambda module, args: None)
    assert fastest_decoder(policy) is TransformersDecoder
    handle.remove()
    assert fastest_decoder(policy) is PlainDecoder


def test_a_replaced_forward_is_not_skipped():
    policy = policy_of("Llama")
    layer = policy.model.model.layers[0]
    layer.forward = layer.forward  # as accelerate's device maps do
    assert fastest_decoder(policy) is TransformersDecoder


def test_the_small_test_model_is_decoded_plainly():
    """So that the tests of the engine and of the trainer run what runs elsewhere."""
    policy = small_policy()
    policy.model.eval()
    assert fastest_decoder(policy) is PlainDecoder
