"""Models, templates and tokens that users brought: each trains and samples right, or is refused."""

from __future__ import annotations

import pytest
import torch
from packaging.version import Version
from tokenizers import AddedToken

from agent.helpers import small_policy
from vpd_agent.data.padding import pad_left, pad_right
from vpd_agent.engines import Generation
from vpd_agent.engines.decoder import OwnCacheDecoder, WholeTextDecoder, fastest_decoder
from vpd_agent.engines.hf import HFEngine
from vpd_agent.model.lora import add_lora
from vpd_agent.model.policy import Policy
from vpd_agent.tiny.model import byte_tokenizer

SMALL = {
    "vocab_size": 260,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "initializer_range": 0.2,
    "pad_token_id": 256,
    "bos_token_id": None,
    "eos_token_id": 258,
}
MAMBA = {"mamba_n_heads": 8, "mamba_d_head": 8, "mamba_d_state": 8, "mamba_n_groups": 1}
DELTA = {
    "head_dim": 8, "linear_num_key_heads": 2, "linear_num_value_heads": 4,
    "linear_key_head_dim": 8, "linear_value_head_dim": 8, "num_hidden_layers": 4,
}  # fmt: skip
EXPERTS = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16}
MODELS = {
    "Qwen3_5Text": ("Qwen3_5ForCausalLM", DELTA),
    "Qwen3Next": (
        "Qwen3NextForCausalLM",
        {**DELTA, **EXPERTS, "shared_expert_intermediate_size": 16, "initializer_range": 0.1},
    ),
    "Lfm2": (
        "Lfm2ForCausalLM",
        {"num_hidden_layers": 2, "layer_types": ["conv", "full_attention"]},
    ),
    "Mamba": ("MambaForCausalLM", {"num_hidden_layers": 2, "state_size": 8}),
    "FalconH1": ("FalconH1ForCausalLM", {**MAMBA, "num_hidden_layers": 2, "mamba_d_ssm": 64}),
    "RecurrentGemma": (
        "RecurrentGemmaForCausalLM",
        {"num_hidden_layers": 3, "lru_width": 32, "attention_window_size": 16},
    ),
    "Rwkv": ("RwkvForCausalLM", {"num_hidden_layers": 2, "attention_hidden_size": 32}),
    "OpenAIGPT": (
        "OpenAIGPTLMHeadModel",
        {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 256},
    ),
    "Gemma3nText": (
        "Gemma3nForCausalLM",
        {
            "num_hidden_layers": 2,
            "head_dim": 8,
            "intermediate_size": [48, 48],
            "layer_types": ["sliding_attention", "full_attention"],
            "num_kv_shared_layers": 0,
            "hidden_size_per_layer_input": 8,
            "vocab_size_per_layer_input": 260,
            "laurel_rank": 4,
            "activation_sparsity_pattern": [0.0, 0.0],
        },
    ),
    "Qwen3Moe": ("Qwen3MoeForCausalLM", {**EXPERTS, "num_hidden_layers": 2, "head_dim": 8}),
}
OWN_NAMES = {"OpenAIGPT"}  # whose configuration has other names for all sizes


def policy_of(name: str) -> Policy:
    import transformers

    kind, own = MODELS[name]
    if not hasattr(transformers, kind):
        pytest.skip(f"transformers {transformers.__version__} has no {kind}")
    common = {"vocab_size": 260} if name in OWN_NAMES else SMALL
    config = getattr(transformers, f"{name}Config")(**(common | own))
    torch.manual_seed(0)
    return Policy(getattr(transformers, kind)(config), byte_tokenizer())


def before_caches_of_all_kinds() -> bool:
    import transformers

    return Version(transformers.__version__) < Version("5.24")


def logprobs_alone(policy: Policy, prompt: list[int], response: list[int]) -> torch.Tensor:
    """Of the tokens of a response, by a plain pass over the text: no padding, no cache."""
    ids = torch.tensor([prompt + response])
    with torch.no_grad():
        logits = policy.model(input_ids=ids).logits[0, len(prompt) - 1 : -1]
    return logits.log_softmax(-1).gather(1, ids[0, len(prompt) :, None])[:, 0]


@pytest.mark.filterwarnings("ignore:.*keeps no cache")
@pytest.mark.parametrize("name", MODELS)
def test_what_is_sampled_and_scored_is_what_a_plain_pass_computes(name):
    """Prompts of unequal lengths: recurrent layers and positions must not see the padding."""
    policy = policy_of(name)
    if name == "RecurrentGemma" and before_caches_of_all_kinds():
        pytest.skip("known gap: before transformers 5.24 its plain pass gives other numbers")
    generator = torch.Generator().manual_seed(0)
    prompts = [torch.randint(0, 250, (n,), generator=generator).tolist() for n in (2, 30, 7)]
    generations = HFEngine(policy).generate(
        prompts, samples=2, max_tokens=8, generator=torch.Generator().manual_seed(1)
    )
    repeated = [p for p in prompts for _ in range(2)]
    expected = [
        logprobs_alone(policy, p, g.ids) for p, g in zip(repeated, generations, strict=True)
    ]
    response, present = pad_right([g.ids for g in generations], policy.pad_id)
    scores = policy.forward(*pad_left(repeated, policy.pad_id), response, present)
    close = {"rtol": 0, "atol": 1e-4}
    for i, alone in enumerate(expected):
        torch.testing.assert_close(torch.tensor(generations[i].logprobs), alone, **close)
        torch.testing.assert_close(scores.logprobs[i][present[i]].detach(), alone, **close)


@pytest.mark.parametrize("name", ["Qwen3_5Text", "Qwen3Next", "Lfm2", "Mamba", "FalconH1"])
def test_recurrent_layers_are_sampled_with_their_cache(name):
    if before_caches_of_all_kinds():
        pytest.skip("these have no cache that can be repeated before transformers 5.24")
    assert fastest_decoder(policy_of(name)) not in (OwnCacheDecoder, WholeTextDecoder)


def test_a_model_without_a_cache_is_said_to_be_slow():
    with pytest.warns(UserWarning, match="keeps no cache that sampling can use"):
        assert fastest_decoder(policy_of("OpenAIGPT")) is WholeTextDecoder


def test_a_model_that_sees_later_tokens_is_refused(tmp_path):
    from transformers import BertConfig, BertLMHeadModel

    config = BertConfig(**{k: v for k, v in SMALL.items() if "key" not in k}, num_hidden_layers=1)
    BertLMHeadModel(config).save_pretrained(tmp_path)
    byte_tokenizer().save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="is not causal"):
        Policy.load(str(tmp_path))


@pytest.mark.parametrize("name", ["Qwen3Moe", "Qwen3Next", "Mamba", "FalconH1", "Lfm2"])
def test_default_adapters_fit_experts_and_recurrent_layers(name):
    """One step changes adapters, all of which take part, and nothing else."""
    pytest.importorskip("peft")
    policy = add_lora(policy_of(name), rank=2)
    before = {n: t.clone() for n, t in policy.model.state_dict().items()}
    ids = torch.arange(18).view(2, 9)
    mask = torch.ones_like(ids, dtype=torch.bool)
    policy.forward(ids[:, :5], mask[:, :5], ids[:, 5:], mask[:, 5:]).logprobs.sum().backward()
    assert all(p.grad is not None for p in policy.parameters())
    torch.optim.SGD(policy.parameters(), lr=0.1).step()
    after = policy.model.state_dict()
    changed = {n for n, tensor in before.items() if not torch.equal(tensor, after[n])}
    assert changed
    assert all(".lora_" in n for n in changed)


CHATML = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content | trim }}<|im_end|>\n"
    "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
GEMMA = (
    "{% if messages[0].role == 'system' %}{{ raise_exception('System role not supported') }}"
    "{% endif %}{% for m in messages %}"
    "{% if (m.role == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('Conversation roles must alternate') }}{% endif %}"
    "<start_of_turn>{{ m.role }}\n{{ m.content | trim }}<end_of_turn>\n{% endfor %}"
)
INVENTED = "So 4.<|im_end|>\n<|im_start|>user\nNext: 3+4?<|im_end|>\n<|im_start|>assistant\n7"


def with_template(template: str, *tokens: str) -> Policy:
    policy = small_policy()
    policy.tokenizer.add_tokens([AddedToken(t, special=True) for t in tokens])
    policy.tokenizer.chat_template = template
    policy.model.resize_token_embeddings(len(policy.tokenizer))
    return Policy(policy.model, policy.tokenizer)


def user(text: str) -> dict[str, str]:
    return {"role": "user", "content": text}


def generated(policy: Policy, text: str) -> Generation:
    """What the engine makes of a model that would write this text."""
    ids = policy.tokenizer(text).input_ids
    prompt = policy.encode([user("2+2?")])
    writer = Policy(_Writes(policy.model, len(prompt), ids), policy.tokenizer)
    (generation,) = HFEngine(writer).generate([prompt], max_tokens=len(ids))
    return generation


class _Writes(torch.nn.Module):
    """A causal model that goes on with given ids after a prompt, whatever it reads."""

    def __init__(self, model, after: int, ids: list[int]) -> None:
        super().__init__()
        self.config, self.generation_config = model.config, model.generation_config
        self.embeddings, self.after, self.ids = model.get_input_embeddings(), after, ids
        self.device, self.dtype = model.device, model.dtype

    def get_input_embeddings(self):
        return self.embeddings

    def forward(self, input_ids, attention_mask=None):
        from transformers.modeling_outputs import CausalLMOutput

        place = torch.arange(input_ids.shape[1]) - self.after + 1
        token = torch.tensor(self.ids)[place.clamp(0, len(self.ids) - 1)]
        logits = torch.nn.functional.one_hot(token, self.embeddings.num_embeddings) * 1e4
        return CausalLMOutput(logits=logits.expand(len(input_ids), -1, -1))


@pytest.mark.filterwarnings("ignore:.*keeps no cache")
@pytest.mark.parametrize("tokens", [("<|im_start|>", "<|im_end|>"), ()])
def test_an_answer_ends_where_the_template_ends_a_turn(tokens):
    """Be it one token of the tokenizer, which is not its eos, or a text of several."""
    policy = with_template(CHATML, *tokens)
    generation = generated(policy, INVENTED)
    assert generation.finish == "stop"
    assert policy.tokenizer.decode(generation.ids) == "So 4.<|im_end|>"
    assert policy.decode(generation.ids) == "So 4."
    assert policy.decode(policy.tokenizer(INVENTED).input_ids) == "So 4."


@pytest.mark.parametrize("tokens", [("<|im_start|>", "<|im_end|>"), ()])
def test_the_end_of_a_turn_is_not_repeated_by_what_follows(tokens):
    policy = with_template(CHATML, *tokens)
    answer = policy.tokenizer("4<|im_end|>").input_ids
    text = policy.tokenizer.decode(answer + policy.continuation(user("Next"), after=answer))
    assert text == "4<|im_end|>\n<|im_start|>user\nNext<|im_end|>\n<|im_start|>assistant\n"


def test_the_header_of_the_next_message_ends_an_answer_that_nothing_else_ends():
    policy = with_template(
        "{% for m in messages %}### {{ m.role }}:\n{{ m.content }}\n\n{% endfor %}"
    )
    assert policy.chat.stop_text == "\n\n### user:"


@pytest.mark.parametrize("template", [CHATML, GEMMA])
def test_control_tokens_in_a_message_stay_where_a_template_trims(template):
    policy = with_template(template, "<|im_end|>", "<end_of_turn>")
    ids = policy.encode([user("say <|im_end|><end_of_turn> twice")])
    assert "say <|im_end|><end_of_turn> twice" in policy.tokenizer.decode(ids)


def test_a_system_message_is_put_before_the_user_where_the_template_has_none():
    policy = with_template(GEMMA)
    system = {"role": "system", "content": "Be brief."}
    with pytest.warns(UserWarning, match="no system role"):
        ids = policy.encode([system, user("2+2?")])
    assert ids == policy.encode([user("Be brief.\n\n2+2?")])


def test_messages_that_a_template_does_not_take_are_said_plainly():
    with pytest.raises(ValueError, match="does not take messages of the roles user, user"):
        with_template(GEMMA).encode([user("a"), user("b")])


def test_padding_is_a_token_that_the_model_has():
    policy = small_policy()
    policy.tokenizer.add_special_tokens({"pad_token": "[PAD]"})
    policy = Policy(policy.model, policy.tokenizer)
    assert policy.tokenizer.pad_token_id == 260
    assert policy.pad_id == policy.tokenizer.eos_token_id


def test_a_prompt_with_a_token_that_the_model_has_not_is_refused():
    policy = small_policy()
    policy.tokenizer.add_tokens(["[NEW]"])
    policy.tokenizer.chat_template = "[NEW]"
    with pytest.raises(ValueError, match=r"'\[NEW\]' of number 260, the model has only 260"):
        policy.encode([user("a")])


def test_a_model_whose_padding_has_no_gradient_is_trained_with_padding_on_the_right():
    """In Gemma 3n's attention a position that sees no token gives NaN gradients to every weight."""
    policy = policy_of("Gemma3nText")
    with torch.inference_mode():
        assert not Policy(policy.model, policy.tokenizer).takes_padding
    assert not fastest_decoder(policy).takes_padding  # an engine asks first, without gradients
    assert not policy.takes_padding
    prompts, answers = [[5, 6, 7], [5, 6, 7, 8, 9, 10, 11]], [[20, 21], [22, 23]]

    def gradients(rows: list[int]) -> list[torch.Tensor]:
        policy.model.zero_grad()
        prompt = pad_left([prompts[i] for i in rows], policy.pad_id)
        response = pad_right([answers[i] for i in rows], policy.pad_id)
        policy.forward(*prompt, *response).logprobs.sum().backward()
        trained = policy.parameters()
        return [torch.zeros_like(w) if w.grad is None else w.grad.clone() for w in trained]

    together, first, second = gradients([0, 1]), gradients([0]), gradients([1])
    for both, a, b in zip(together, first, second, strict=True):
        torch.testing.assert_close(both, a + b, rtol=1e-3, atol=1e-4)
