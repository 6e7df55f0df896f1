"""Decoding with a KV cache: prompts go in once, then one token per row and step.

Decoders with one interface. `TransformersDecoder` calls the model as it is and suits nearly every
causal language model. `PlainDecoder` is for those of Llama's build: transformers spends much of a
step on what a row of one token does not need (masks, cache objects, copies of the cache), so there
the decoder calls the model's own modules (projections, norms, MLPs: adapters and quantized layers
included) and does only the attention between them itself. The others are for models that padding
changes, or that have a cache of their own kind, or none.
"""

from __future__ import annotations

import warnings
from abc import ABC, abstractmethod
from typing import Any

import torch
from torch import Tensor, nn

from vpd_agent.model.inputs import without_adapter
from vpd_agent.model.policy import Policy
from vpd_agent.model.probe import PROBE_LENGTHS, agree, exact_arithmetic, logits_alone, probe_rows

BLOCK = 128  # tokens by which the cache grows: what is allocated follows what is sampled
WHOLE_TEXT_PLACES = 1 << 15  # tokens that go through a model without a cache at once
SMALL_PRODUCT = 400  # multiplications below which torch's bmm on a CPU is several times slower


class Decoder(ABC):
    """R rows decoded side by side, those of one prompt next to each other."""

    takes_padding = True  # whether the prompts of a batch may be of unequal lengths

    def __init__(self, policy: Policy, max_tokens: int) -> None:
        self.policy = policy
        self.max_tokens = max_tokens

    @abstractmethod
    def prefill(self, prompt: Tensor, mask: Tensor, samples: int) -> Tensor:
        """Logits [R, V] of the first tokens, R = B·samples.

        prompt, mask: [B, P], padded on the left; mask is True where there is a token.
        """

    @abstractmethod
    def step(self, tokens: Tensor) -> Tensor:
        """Logits [R, V] of what follows after tokens [R]."""

    @abstractmethod
    def keep(self, rows: Tensor) -> None:
        """Go on with these rows only: ascending indices into the present ones."""


def fastest_decoder(policy: Policy) -> type[Decoder]:
    """The first of the decoders that computes what passes over whole texts do, tried on short
    prompts. `PlainDecoder` is tried where the classes that the model is made of let it be right.
    """
    plain = [PlainDecoder] if _has_llama_build(policy.model) else []
    padded = [*plain, TransformersDecoder, RecurrentDecoder] if policy.takes_padding else []
    for kind in [*padded, UnpaddedDecoder, OwnCacheDecoder]:
        if _decodes_like_whole_texts(policy, kind):
            return kind
    warnings.warn(
        f"{type(without_adapter(policy.model)).__name__} keeps no cache that sampling can use, so "
        f"each token takes a pass over its whole text: right, but slow.",
        stacklevel=2,
    )
    return WholeTextDecoder


@torch.inference_mode()
def _decodes_like_whole_texts(policy: Policy, kind: type[Decoder]) -> bool:
    """Prompts with two rows each, the first of which leaves after two steps."""
    lengths = PROBE_LENGTHS if kind.takes_padding else (24, 24)
    prompts = probe_rows(policy, lengths)
    count = 2 * len(prompts)
    responses = torch.tensor(probe_rows(policy, [4] * count), device=policy.device)  # [R, steps]
    texts = [prompts[i // 2] + row for i, row in enumerate(responses.tolist())]
    expected = torch.stack([x[-5:] for x in logits_alone(policy, texts)])  # [R, steps + 1, V]
    decoder = kind(policy, max_tokens=5)
    rows = torch.arange(count, device=policy.device)
    with exact_arithmetic(policy):
        try:
            logits = decoder.prefill(*policy.padded(prompts), samples=2)
            for t in range(5):
                if not agree(logits, expected[rows, t], policy):
                    return False
                if t == 2:
                    decoder.keep(rows[1:])
                    rows = rows[1:]
                if t < 4:
                    logits = decoder.step(responses[rows, t])
        except Exception:  # whatever a model's own code raises at a cache not of its kind
            return False
    return True


class TransformersDecoder(Decoder):
    """Any causal language model of transformers that takes padding and a cache."""

    def prefill(self, prompt: Tensor, mask: Tensor, samples: int) -> Tensor:
        logits, self.cache = _prefill(self.policy, prompt, mask, self._new_cache())
        rows = torch.arange(len(prompt), device=prompt.device).repeat_interleave(samples)
        self.mask = mask.long()  # [R, P and what was sampled]
        self.keep(rows)
        return logits[rows]

    def step(self, tokens: Tensor) -> Tensor:
        self.mask = torch.cat([self.mask, self.mask.new_ones(len(tokens), 1)], 1)
        inputs = self.policy.inputs(tokens[:, None], self.mask, self.cache)
        return self.policy.model(**inputs).logits[:, -1]

    def keep(self, rows: Tensor) -> None:
        self.cache.reorder_cache(rows)  # every kind of layer can, recurrent ones too
        self.mask = self.mask[rows]

    def _new_cache(self) -> Any:
        return self.policy.new_cache()


class RecurrentDecoder(TransformersDecoder):
    """Models without attention, whose state is past the padding after the prompt: some would take
    the mask of a whole text for one of the newest token."""

    def step(self, tokens: Tensor) -> Tensor:
        newest = self.mask.new_ones(len(tokens), 1)
        inputs = self.policy.inputs(tokens[:, None], newest, self.cache)
        return self.policy.model(**inputs).logits[:, -1]


class UnpaddedDecoder(TransformersDecoder):
    """Models that padding changes: the prompts of a batch must be of one length."""

    takes_padding = False


class OwnCacheDecoder(UnpaddedDecoder):
    """Models with a cache of their own kind, which they make themselves."""

    def _new_cache(self) -> None:
        return None


class WholeTextDecoder(Decoder):
    """Models without a usable cache: all of a text goes through the model for each of its tokens.

    The prompts of a batch must be of one length.
    """

    takes_padding = False

    def prefill(self, prompt: Tensor, mask: Tensor, samples: int) -> Tensor:
        self.ids = prompt  # [R, P and what was sampled]
        logits = self._last_logits()
        self.ids = prompt.repeat_interleave(samples, 0)
        return logits.repeat_interleave(samples, 0)

    def step(self, tokens: Tensor) -> Tensor:
        self.ids = torch.cat([self.ids, tokens[:, None]], 1)
        return self._last_logits()

    def keep(self, rows: Tensor) -> None:
        self.ids = self.ids[rows]

    def _last_logits(self) -> Tensor:
        logits = []
        for ids in self.ids.split(max(1, WHOLE_TEXT_PLACES // self.ids.shape[1])):
            inputs = self.policy.inputs(ids, torch.ones_like(ids), logits_to_keep=1)
            logits.append(self.policy.model(**inputs).logits[:, -1])
        return torch.cat(logits)


class PlainDecoder(Decoder):
    """Models of Llama's build: Llama, Mistral, Qwen2, Qwen3; sliding windows and adapters too.

    It is here for its speed: on a CPU, small models take 1.2 to 2.1 times as long with
    `TransformersDecoder`, and 1.4 to 3.2 times with transformers' own `generate`.
    `benchmarks/train_step.py` compares it with a bare torch loop.

    x += o_proj(attention(norm(x))); x += mlp(norm(x)), with the model's own modules. The keys and
    values of a prompt exist once, for all of its samples: attention to them is one product of
    matrices per prompt rather than one of a vector per row.
    """

    def prefill(self, prompt: Tensor, mask: Tensor, samples: int) -> Tensor:
        logits, cache = _prefill(self.policy, prompt, mask, self.policy.new_cache())
        self.model = without_adapter(self.policy.model)  # its layers are of the classes in _LAYERS
        self.groups = _Groups(torch.arange(len(prompt), device=prompt.device), samples)
        self.position = mask.sum(1).repeat_interleave(samples, 0)[:, None]  # [R, 1] of the next
        padding = None if mask.all() else ~mask
        self.caches = [
            _LayerCache(layer, padding, samples, min(self.max_tokens, BLOCK))
            for layer in cache.layers
        ]
        return logits.repeat_interleave(samples, 0)

    def step(self, tokens: Tensor) -> Tensor:
        body = self.model.model
        x = body.embed_tokens(tokens)  # [R, D]
        cos, sin = body.rotary_emb(x, self.position)  # [R, 1, d]
        sin = torch.cat([-sin[..., : sin.shape[-1] // 2], sin[..., sin.shape[-1] // 2 :]], -1)
        for layer, cache in zip(body.layers, self.caches, strict=True):
            x = x + self._attention(layer.self_attn, layer.input_layernorm(x), cache, cos, sin)
            x = x + layer.mlp(layer.post_attention_layernorm(x))
        self.position = self.position + 1
        return self.model.lm_head(body.norm(x))

    def _attention(
        self, attention: Any, x: Tensor, cache: _LayerCache, cos: Tensor, sin: Tensor
    ) -> Tensor:
        split = (len(x), -1, attention.head_dim)
        q = attention.q_proj(x).view(split)  # [R, query heads, d]
        k = attention.k_proj(x).view(split)  # [R, H, d]
        v = attention.v_proj(x).view(split)
        if hasattr(attention, "q_norm"):
            q, k = attention.q_norm(q), attention.k_norm(k)
        q, k = _rotate(torch.cat([q, k], 1), cos, sin).split([q.shape[1], k.shape[1]], 1)
        cache.append(k, v)
        return attention.o_proj(cache.attend(q, self.groups, attention.scaling))

    def keep(self, rows: Tensor) -> None:
        prompts = self.groups.keep(rows)
        self.position = self.position[rows]
        for cache in self.caches:
            cache.keep(rows, prompts)


class _Groups:
    """Which rows continue the same prompt: B prompts with at most `size` rows each.

    Tensors of rows [R, H, G, x] and of prompts [B, H, size·G, x] are turned into each other. Once
    rows have left, prompts have unequal numbers of them, and some of the places are empty.
    """

    def __init__(self, prompts: Tensor, samples: int) -> None:
        self.prompt = prompts.repeat_interleave(samples)  # [R]
        self.num_prompts, self.size = len(prompts), samples
        self.place: Tensor | None = None  # [R] of B·size; None: all are taken, in order

    def by_prompt(self, x: Tensor) -> Tensor:
        places = x
        if self.place is not None:
            places = x.new_zeros(self.num_prompts * self.size, *x.shape[1:])
            places[self.place] = x
        grouped = places.view(self.num_prompts, self.size, *x.shape[1:])
        return grouped.transpose(1, 2).flatten(2, 3)

    def by_row(self, x: Tensor) -> Tensor:
        grouped = x.unflatten(2, (self.size, -1)).transpose(1, 2).flatten(0, 1)
        return grouped if self.place is None else grouped[self.place]

    def keep(self, rows: Tensor) -> Tensor | None:
        """The prompts that are left, as indices into the present ones; None: all of them."""
        left, self.prompt, count = self.prompt[rows].unique_consecutive(
            return_inverse=True, return_counts=True
        )
        everyone = len(left) == self.num_prompts
        self.num_prompts, self.size = len(left), int(count.max())
        first = (count.cumsum(0) - count)[self.prompt]  # row at which the row's prompt begins
        rank = torch.arange(len(rows), device=rows.device) - first
        self.place = self.prompt * self.size + rank
        return None if everyone else left


class _LayerCache:
    """Keys and values of one layer: each prompt's once, and what the rows have sampled.

    H heads of width d; P prompt tokens, of which a sliding window may have left a few; columns of
    the rows' tensors beyond `length` are room to grow.
    """

    def __init__(self, filled, padding: Tensor | None, samples: int, room: int) -> None:
        """filled: the layer of transformers' cache; padding: [B, P] True where nothing is."""
        self.prompt_keys, self.prompt_values = filled.keys, filled.values  # [B, H, P, d]
        self.window = getattr(filled, "sliding_window", None)
        self.bias = None  # [B, 1, 1, P], −∞ where there is padding
        if padding is not None:
            zeros = torch.zeros(padding.shape, device=padding.device)
            bias = zeros.masked_fill_(padding, float("-inf"))[:, -filled.keys.shape[2] :]
            self.bias = bias[:, None, None]
        prompts, heads, _, width = filled.keys.shape
        shape = (prompts * samples, heads, room, width)
        self.keys, self.values = filled.keys.new_empty(shape), filled.values.new_empty(shape)
        self.length = 0

    def append(self, k: Tensor, v: Tensor) -> None:
        """k, v: [R, H, d] of one token per row."""
        if self.length == self.keys.shape[2]:
            rows, heads, _, width = self.keys.shape
            room = (rows, heads, BLOCK, width)
            self.keys = torch.cat([self.keys, self.keys.new_empty(room)], 2)
            self.values = torch.cat([self.values, self.values.new_empty(room)], 2)
        self.keys[:, :, self.length] = k
        self.values[:, :, self.length] = v
        self.length += 1

    def attend(self, q: Tensor, groups: _Groups, scaling: float) -> Tensor:
        """softmax(scaling · q·keys) · values of each head [R, query heads · d]; q: [R, heads, d]"""
        rows, heads = self.keys.shape[:2]
        own, of_prompt = self._in_window()
        q = q.reshape(rows, heads, -1, q.shape[-1])  # [R, H, G, d]: G queries share a key
        scores = [_products(q, self.keys[:, :, own])]  # [R, H, G, T]
        if of_prompt is not None:
            of_prompts = _products(groups.by_prompt(q), self.prompt_keys[:, :, of_prompt])
            if self.bias is not None:
                of_prompts += self.bias[..., of_prompt]
            scores.append(groups.by_row(of_prompts))  # [R, H, G, P]
        weights = torch.cat(scores, -1).mul_(scaling).softmax(-1).to(q.dtype)
        split = scores[0].shape[-1]
        output = _weighted_sum(weights[..., :split], self.values[:, :, own])
        if of_prompt is not None:
            weights = groups.by_prompt(weights[..., split:])
            output += groups.by_row(weights @ self.prompt_values[:, :, of_prompt])
        return output.flatten(1)

    def _in_window(self) -> tuple[slice, slice | None]:
        """The columns that the newest token attends to: of the rows, of the prompts if any."""
        if self.window is None:
            return slice(self.length), slice(None)
        if self.length >= self.window:
            return slice(self.length - self.window, self.length), None
        return slice(self.length), slice(self.length - self.window, None)

    def keep(self, rows: Tensor, prompts: Tensor | None) -> None:
        self.keys, self.values = self.keys[rows], self.values[rows]
        if prompts is not None:
            self.prompt_keys = self.prompt_keys[prompts]
            self.prompt_values = self.prompt_values[prompts]
            self.bias = None if self.bias is None else self.bias[prompts]


def _prefill(policy: Policy, prompt: Tensor, mask: Tensor, cache: Any) -> tuple[Tensor, Any]:
    """Logits [B, V] after the prompts, and the cache of them. cache: None for the model's own."""
    inputs = policy.inputs(prompt, mask, cache, use_cache=True, logits_to_keep=1)
    output = policy.model(**inputs)
    return output.logits[:, -1], getattr(output, policy.inputs.cache_name)


def _products(q: Tensor, keys: Tensor) -> Tensor:
    """q·keys [..., queries, keys], in float32 for the softmax that follows."""
    return (q @ keys.mT).float()


def _weighted_sum(weights: Tensor, values: Tensor) -> Tensor:
    """weights [R, H, G, T] @ values [R, H, T, d]."""
    size = weights.shape[-2] * values.shape[-2] * values.shape[-1]
    if size < SMALL_PRODUCT:
        return (weights[..., None] * values[:, :, None]).sum(-2)
    return weights @ values


def _rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotary embedding of x [R, heads, d]; cos, sin: [R, 1, d], the first half of sin negated."""
    return x * cos + x.roll(x.shape[-1] // 2, -1) * sin


_LAYERS = {"LlamaDecoderLayer", "MistralDecoderLayer", "Qwen2DecoderLayer", "Qwen3DecoderLayer"}


def _has_llama_build(model: nn.Module) -> bool:
    """Whether its layers are of a known class, and calling their parts skips nothing.

    Wrappers that shard or move weights (FSDP, accelerate's device maps) hook into whole layers:
    they change the class, register hooks, or replace `forward`.
    """
    inner = without_adapter(model)
    layers = getattr(getattr(inner, "model", None), "layers", [])
    if not layers or not {type(layer).__name__ for layer in layers} <= _LAYERS:
        return False
    skipped = [model, inner, inner.model, *layers, *(layer.self_attn for layer in layers)]
    return not any(
        module._forward_hooks or module._forward_pre_hooks or "forward" in vars(module)
        for module in skipped
    )
