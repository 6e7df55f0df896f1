"""The tiny preset: a Qwen3-shaped model of half a million parameters over bytes.

It trains in seconds on a laptop core, and it is an ordinary transformers model with an ordinary
tokenizer: what is saved loads with `AutoModelForCausalLM` and `AutoTokenizer`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import nn

from vpd_agent.model.policy import Policy

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast, Qwen3Config

GRID = 2.0**-13  # of the weights

PAD, BEGIN, END, ANSWER = "<|pad|>", "<|begin|>", "<|end|>", "<|answer|>"

CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{% if message['role'] == 'assistant' %}"
    "{{ '" + ANSWER + "' + message['content'] + '" + END + "' }}"
    "{% else %}{{ '" + BEGIN + "' + message['content'] }}{% endif %}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '" + ANSWER + "' }}{% endif %}"
)


def tiny_policy(seed: int = 0, *, window: int | None = None) -> Policy:
    """A randomly initialized tiny model: 3 layers of width 128, 4 heads, 260 tokens, float32.

    window: tokens that attention reaches back, in every layer; None: all.
    """
    from transformers import Qwen3ForCausalLM

    tokenizer = byte_tokenizer()
    config = tiny_config(tokenizer, window=window)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = Qwen3ForCausalLM(config)
        _fan_in_init(model)
    return Policy(model, tokenizer)


def tiny_config(tokenizer: PreTrainedTokenizerFast, *, window: int | None = None) -> Qwen3Config:
    """The shape of `tiny_policy`."""
    from transformers import Qwen3Config

    return Qwen3Config(
        vocab_size=len(tokenizer),
        hidden_size=128,
        intermediate_size=256,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=4,
        head_dim=32,
        max_position_embeddings=16384,
        use_sliding_window=window is not None,
        sliding_window=window,
        max_window_layers=0,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=tokenizer.get_added_vocab()[END],
        pad_token_id=tokenizer.get_added_vocab()[PAD],
    )


@torch.no_grad()
def _fan_in_init(model: nn.Module) -> None:
    """Weights ~ N(0, 1/fan_in), embeddings ~ N(0, 0.2²): at this width transformers' N(0, 0.02²)
    is too small: the warm start would not learn to copy from the feedback in its few steps.

    Drawn in float64 and put on the grid: in float32 they depend on the processor."""
    for name, weight in model.named_parameters():
        if weight.dim() == 2:
            scale = 0.2 if "embed" in name else weight.shape[1] ** -0.5
            weight.copy_(on_grid(scale * torch.randn(weight.shape, dtype=torch.float64)))


def on_grid(values: torch.Tensor) -> torch.Tensor:
    """Rounded to multiples of `GRID`, so that differences in the last bits are gone."""
    return (values / GRID).round() * GRID


def byte_tokenizer() -> PreTrainedTokenizerFast:
    """One token per byte, four special tokens, and a minimal chat template."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE(vocab={c: i for i, c in enumerate(alphabet)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    special = [AddedToken(t, special=True) for t in (PAD, BEGIN, END, ANSWER)]
    tokenizer.add_special_tokens(special)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token=PAD,
        eos_token=END,
        additional_special_tokens=[BEGIN, ANSWER],
        chat_template=CHAT_TEMPLATE,
        clean_up_tokenization_spaces=False,
    )
