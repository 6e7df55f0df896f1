"""The limit that generation is measured against: a bare torch loop with a KV cache.

A Qwen3 written out in plain torch functions, with the weights of a transformers model: prompts of
one length are prefilled once, their cache is repeated for the samples, and every row runs to the
last token. No padding, no end of sequence, no log-probabilities, no temperature.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


@torch.inference_mode()
def generate(model, prompts: Tensor, samples: int, max_tokens: int) -> Tensor:
    """Sampled ids [B·samples, max_tokens], prompt-major, of a Qwen3 or Llama model for causal LM.

    prompts: [B, P] token ids.
    """
    config = model.config
    rows, width = prompts.shape[0] * samples, prompts.shape[1]
    shape = (rows, config.num_key_value_heads, width + max_tokens, config.head_dim)
    cache = [
        (
            torch.empty(shape, dtype=model.dtype, device=prompts.device),
            torch.empty(shape, dtype=model.dtype, device=prompts.device),
        )
        for _ in model.model.layers
    ]  # keys and values of each layer
    rope = _rope_table(config, width + max_tokens, prompts.device)

    logits = _forward(model, prompts, rope, cache, 0, samples)
    ids = prompts.new_empty(rows, max_tokens)
    for t in range(max_tokens):
        ids[:, t : t + 1] = torch.multinomial(logits.softmax(-1), 1)
        if t + 1 < max_tokens:
            logits = _forward(model, ids[:, t : t + 1], rope, cache, width + t, 1)
    return ids


def _forward(model, ids: Tensor, rope: tuple[Tensor, Tensor], cache, start: int, repeats: int):
    """Logits [R, V] after the last column of ids, whose rows are repeated into the cache."""
    eps, head_dim = model.config.rms_norm_eps, model.config.head_dim
    end = start + ids.shape[1]
    cos, sin = rope[0][start:end], rope[1][start:end]
    x = F.embedding(ids, model.model.embed_tokens.weight)  # [B, T, D]
    for layer, (keys, values) in zip(model.model.layers, cache, strict=True):
        attention, mlp = layer.self_attn, layer.mlp
        h = _norm(x, layer.input_layernorm, eps)
        split = (*ids.shape, -1, head_dim)
        q = F.linear(h, attention.q_proj.weight).view(split)
        k = F.linear(h, attention.k_proj.weight).view(split)
        if hasattr(attention, "q_norm"):  # of Qwen3
            q, k = _norm(q, attention.q_norm, eps), _norm(k, attention.k_norm, eps)
        v = F.linear(h, attention.v_proj.weight).view(split).transpose(1, 2)  # [B, H, T, d]
        q, k = _rotate(q.transpose(1, 2), cos, sin), _rotate(k.transpose(1, 2), cos, sin)
        keys[:, :, start:end] = k.repeat_interleave(repeats, 0) if repeats > 1 else k
        values[:, :, start:end] = v.repeat_interleave(repeats, 0) if repeats > 1 else v
        if start == 0:
            a = F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True)
        else:
            past = keys[:, :, :end], values[:, :, :end]
            a = F.scaled_dot_product_attention(q, *past, enable_gqa=True)
        x = x + F.linear(a.transpose(1, 2).flatten(2), attention.o_proj.weight)
        h = _norm(x, layer.post_attention_layernorm, eps)
        gated = F.silu(F.linear(h, mlp.gate_proj.weight)) * F.linear(h, mlp.up_proj.weight)
        x = x + F.linear(gated, mlp.down_proj.weight)
    last = _norm(x[:, -1], model.model.norm, eps)
    return F.linear(last, model.lm_head.weight).repeat_interleave(repeats, 0)


def _norm(x: Tensor, norm, eps: float) -> Tensor:
    return F.rms_norm(x, norm.weight.shape, norm.weight, eps)


def _rope_table(config, length: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """cos and sin [length, d] of the rotary embedding."""
    exponent = torch.arange(0, config.head_dim, 2, device=device) / config.head_dim
    frequency = config.rope_parameters["rope_theta"] ** -exponent
    angle = torch.outer(torch.arange(length, device=device), frequency).repeat(1, 2)
    return angle.cos(), angle.sin()


def _rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    first, second = x.chunk(2, -1)
    return x * cos + torch.cat([-second, first], -1) * sin
