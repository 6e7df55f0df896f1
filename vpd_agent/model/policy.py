"""A causal language model with its tokenizer: prompts in, response-aligned scores out."""

from __future__ import annotations

import copy
import re
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import cached_property
from itertools import takewhile
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from vpd_agent.data.padding import pad_left
from vpd_agent.data.types import Message
from vpd_agent.model.chat import MARK, Chat
from vpd_agent.model.inputs import ModelInputs, without_adapter
from vpd_agent.model.prefix_sharing import CutPrompts, cut
from vpd_agent.model.probe import check_model, probe_rows, takes_padding
from vpd_agent.model.response_logits import Head, ResponseLogits
from vpd_agent.model.source import find_model, load_model, load_tokenizer
from vpd_envs.answers.thinking import TAGS, opened_thinking

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from vpd_agent.distributed.fsdp import Sharding

Precision = Literal["weights", "bfloat16"]
"""What a model computes in: its weights' own type, or bfloat16 whatever the weights are (autocast;
log-probabilities and losses are float32 even then)."""

PLAIN = "{% for message in messages %}{{ message['content'] }}\n\n{% endfor %}"
"""The chat template of models that were never taught one: the texts, one after the other."""

WORTH_TWO_PASSES = 0.75
"""How many of the places of its prompts a batch may be left with for two passes, the second on from
the keys and values of the first, to be clearly faster than one. (On a CPU with prompts of 34 to 688
tokens: even at 0.8 to 0.9.)"""

PROMPT_END = 32
"""So many last tokens of a prompt hold an opened `<think>` and the white space after it."""


class Policy:
    """Any causal LM of transformers, its tokenizer, and how prompts become tokens.

    The model is always in evaluation mode: with dropout, the ratio of two passes' probabilities
    would say nothing of the weights. Gradients flow all the same.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        precision: Precision = "weights",
    ) -> None:
        self.model = model.eval()
        self.tokenizer = tokenizer
        self.precision = precision
        self.sharding: Sharding | None = None  # set by `sharding.shard`
        self._accumulators: dict[str, Tensor] | None = None  # of `ema_update_`
        _silence_progress_bars()
        self.inputs = ModelInputs(model)
        self.chat = Chat(tokenizer)
        # Also those that a tokenizer does not call special, such as Qwen's <think>.
        added = [t for t in map(str, tokenizer.get_added_vocab()) if t.strip()]
        self._control_tokens = re.compile("|".join(map(re.escape, added))) if added else None

    @classmethod
    def load(
        cls,
        name_or_path: str,
        *,
        dtype: str = "auto",
        device: str = "cpu",
        chat_template: str | None = None,
        precision: Precision = "weights",
    ) -> Policy:
        """Load from a folder or from the Hugging Face hub; see `model_source`.

        name_or_path: a folder that save_pretrained wrote, that of a run (its final model), or a
            model of the hub.
        dtype: of the weights; "auto": as they are stored. The usual mixed precision is
            dtype="float32" with precision="bfloat16": weights that are bfloat16 themselves have 8
            bits, too few to hold most updates of a learning rate like 1e-6.
        chat_template: a Jinja file, or "plain" for plain text; None: the model's own.
        Raises ValueError if there is no such model, if it cannot be loaded, or if it has no
        tokenizer or chat template.
        """
        _silence_progress_bars()
        source = find_model(name_or_path)
        tokenizer = load_tokenizer(source)
        if chat_template is not None:
            tokenizer.chat_template = _read_template(chat_template)
        if tokenizer.chat_template is None:
            raise ValueError(
                f"Model {name_or_path!r} has no chat template, so its prompts have no form. Pass "
                f"--chat-template FILE.jinja, or --chat-template plain for plain text."
            )
        policy = cls(load_model(source, dtype).to(device), tokenizer, precision)
        check_model(policy, name_or_path)
        return policy

    @property
    def device(self) -> torch.device:
        return self.model.device

    @cached_property
    def eos_ids(self) -> frozenset[int]:
        """Tokens that end a response."""
        configured = self.model.generation_config.eos_token_id
        ids = configured if isinstance(configured, list) else [configured]
        ids = [*ids, self.tokenizer.eos_token_id, self.chat.end_id]
        return frozenset(i for i in ids if i is not None)

    @property
    def pad_id(self) -> int:
        """A token of the model's, for places that are masked."""
        named = (self.tokenizer.pad_token_id, self.tokenizer.eos_token_id)
        known = [i for i in named if i is not None and i < self._num_embeddings]
        return known[0] if known else 0

    @cached_property
    def _num_embeddings(self) -> int:
        return self.model.get_input_embeddings().weight.shape[0]

    @cached_property
    def context_length(self) -> int:
        """The most positions the model was made for."""
        return getattr(self.model.config, "max_position_embeddings", None) or 1 << 30

    def encode(self, messages: Sequence[Message]) -> list[int]:
        """Chat messages → prompt ids, generation header included.

        Control tokens inside a message ("<|im_end|>" in a program's output, say) become plain
        text: no content can end its turn or open another. Where the template has no system role, a
        system message is put before the first user's.

        Raises ValueError for messages that the template does not take, and for tokens that the
        model has no embedding of.
        """
        ids = self._encode(self.chat.without_system(messages))
        if max(ids, default=0) >= self._num_embeddings:
            token = self.tokenizer.convert_ids_to_tokens(max(ids))
            raise ValueError(
                f"The prompt has the token {token!r} of number {max(ids)}, the model has only "
                f"{self._num_embeddings} embeddings. Pass the model's own tokenizer, or enlarge "
                f"the model with resize_token_embeddings."
            )
        return ids

    def _encode(self, messages: Sequence[Message]) -> list[int]:
        contents = [m["content"] for m in messages]
        if not any(map(self._has_control_tokens, contents)):
            return self._tokens(self.chat.render(messages))
        marks = [MARK.format(i) for i in range(len(messages))]
        hidden = [{**m, "content": mark} for m, mark in zip(messages, marks, strict=True)]
        ids: list[int] = []
        for piece in re.split(f"({'|'.join(marks)})", self.chat.render(hidden)):
            if piece in marks:
                ids += self._plain_tokens(contents[marks.index(piece)])
            else:
                ids += self._tokens(piece)
        return ids

    def continuation(self, reply: Message, after: Sequence[int] = ()) -> list[int]:
        """What follows an answer in a conversation of several turns: the end of the policy's turn,
        the reply, and the header of its next answer. What the policy wrote is never tokenized anew.

        after: the tokens of the answer; what ended it is not repeated.

        Taken from the chat template by rendering a short conversation with a marked answer. Begins
        with the end-of-sequence token where the template ends a turn with it.
        """
        answer, content = MARK.format("answer"), MARK.format("reply")
        conversation = [
            {"role": "user", "content": "."},
            {"role": "assistant", "content": answer},
            {**reply, "content": content},
        ]
        head, tail = self.chat.render(conversation).split(answer, 1)[1].split(content, 1)
        if self.chat.ends_with_stop_text(after):
            head = head.replace(self.chat.stop_text, "", 1)
        text = reply["content"]
        if self._has_control_tokens(text):
            ids = self._tokens(head) + self._plain_tokens(text) + self._tokens(tail)
        else:
            ids = self._tokens(head + text + tail)
        has_ended = bool(after) and after[-1] in self.eos_ids and ids[0] in self.eos_ids
        return ids[1:] if has_ended else ids

    def _tokens(self, text: str) -> list[int]:
        return self.tokenizer(text, add_special_tokens=False).input_ids

    def _has_control_tokens(self, text: str) -> bool:
        return self._control_tokens is not None and bool(self._control_tokens.search(text))

    def _plain_tokens(self, text: str) -> list[int]:
        """Token ids of a text whose control tokens are nothing but text: each is cut behind its
        first character, and the parts are tokenized apart."""
        ids: list[int] = []
        start = 0
        while found := self._control_tokens.search(text, start):
            ids += self._tokens(text[start : found.start() + 1])
            start = found.start() + 1
        return ids + self._tokens(text[start:])

    def decode(self, ids: Sequence[int]) -> str:
        """Response ids → answer text, without special tokens, up to the end of the turn. Tags of
        thinking stay in the text, special or not: they say where the answer begins."""
        answer = list(takewhile(lambda i: i not in self.eos_ids, ids))
        hidden = self._hidden_ids
        if hidden is None:
            text = self.tokenizer.decode(answer, skip_special_tokens=True)
        else:
            answer = [i for i in answer if i not in hidden]
            text = self.tokenizer.decode(answer, skip_special_tokens=False)
        return text if self.chat.stop_text is None else text.partition(self.chat.stop_text)[0]

    def answer_text(self, prompt_ids: Sequence[int], ids: Sequence[int]) -> str:
        """The text to judge of a response: decoded, behind `<think>` if its prompt has opened the
        thinking, so that an answer that is cut off while thinking can be told from a finished one.
        """
        end = self.tokenizer.decode(list(prompt_ids[-PROMPT_END:]), skip_special_tokens=False)
        return opened_thinking(end) + self.decode(ids)

    @cached_property
    def _hidden_ids(self) -> frozenset[int] | None:
        """The special tokens that are no tags of thinking; None if no such tag is special."""
        added = self.tokenizer.added_tokens_decoder.items()
        special = {i: str(token) for i, token in added if token.special}
        if not set(special.values()) & set(TAGS):
            return None
        return frozenset(i for i, token in special.items() if token not in TAGS)

    def forward(
        self,
        prompt: Tensor,
        prompt_mask: Tensor,
        response: Tensor,
        token_mask: Tensor,
        loss_mask: Tensor | None = None,
        *,
        temperature: float = 1.0,
    ) -> ResponseLogits:
        """Scores of responses after prompts; shifting happens here and nowhere else.

        prompt, prompt_mask: [B, P], padded left. response, token_mask: [B, T], padded right.
        loss_mask: [B, T], the tokens that quantities are wanted of; None: all of token_mask.
        """
        scored = token_mask if loss_mask is None else loss_mask
        with self.active():
            if self._head_is_linear:
                hidden = self._hidden_states(prompt, prompt_mask, response, token_mask)
                head = self.model.get_output_embeddings()
                return ResponseLogits(
                    hidden, Head(head.weight, head.bias), response, scored, temperature=temperature
                )
            if self.takes_padding:
                length = response.shape[1]
                ids, attention = _joined(prompt, prompt_mask, response, token_mask)
                inputs = self.inputs(ids, attention, logits_to_keep=length + 1)
                logits = self.model(**inputs).logits[:, -length - 1 : -1]
            else:
                ids, attention, before = _padded_right(prompt, prompt_mask, response, token_mask)
                logits = _at(self.model(**self.inputs(ids, attention)).logits, before)
        return ResponseLogits.from_logits(logits, response, scored, temperature=temperature)

    def active(self) -> AbstractContextManager[None]:
        """Within, calling `model` directly computes what this policy does: in its precision, and
        with its adapter where several policies share a model."""
        if self.precision == "weights":
            return nullcontext()
        return torch.autocast(self.device.type, torch.bfloat16)

    def gathered(self) -> AbstractContextManager[None]:
        """Within, every process has all of the weights, however the model is sharded: for passes
        that the processes do not make alike, such as sampling. All processes must enter and leave
        it together, and take no gradient within."""
        return nullcontext() if self.sharding is None else self.sharding.gathered()

    def _hidden_states(
        self, prompt: Tensor, prompt_mask: Tensor, response: Tensor, token_mask: Tensor
    ) -> Tensor:
        """[B, T, H] of the tokens before those of the response: they predict them.

        What prompts begin with alike goes through the model once where that saves enough, and the
        rest of each goes on from its keys and values.
        """
        if self._shares_prompts:
            parts = cut(prompt, prompt_mask)
            if parts is not None and self._is_worth_two_passes(parts, prompt):
                return self._after_prefixes(parts, response, token_mask)
        if not self.takes_padding:
            ids, attention, before = _padded_right(prompt, prompt_mask, response, token_mask)
            return _at(self._last_hidden_states(ids, attention), before)
        hidden = self._last_hidden_states(*_joined(prompt, prompt_mask, response, token_mask))
        return hidden[:, prompt.shape[1] - 1 : -1]

    def _is_worth_two_passes(self, parts: CutPrompts, prompt: Tensor) -> bool:
        if parts.places > WORTH_TWO_PASSES * prompt.numel():
            return False
        # A sliding window counts places, not tokens: there must be no padding within it.
        return bool(parts.rest_mask.all()) or "DynamicSlidingWindowLayer" not in self._cache_kinds

    def _after_prefixes(self, parts: CutPrompts, response: Tensor, token_mask: Tensor) -> Tensor:
        from transformers import DynamicCache

        cache = DynamicCache(config=self.model.config)
        self._last_hidden_states(parts.prefix, parts.prefix_mask, cache)
        for layer in cache.layers:  # index_select: its gradient is twice as fast as indexing's
            layer.keys = layer.keys.index_select(0, parts.which)
            layer.values = layer.values.index_select(0, parts.which)
        ids = torch.cat([parts.rest, response[:, :-1]], 1)
        masks = [parts.prefix_mask[parts.which], parts.rest_mask, token_mask[:, :-1]]
        hidden = self._last_hidden_states(ids, torch.cat(masks, 1), cache)
        return hidden[:, parts.rest.shape[1] - 1 :]

    @property
    def _shares_prompts(self) -> bool:
        """A layer that is computed again would write to the cache again; and the processes of a
        sharded model make as many passes as each other, whatever their prompts."""
        if self.sharding is not None:
            return False
        again = torch.is_grad_enabled() and any(
            isinstance(module, _Checkpointed) for module in self.model.modules()
        )
        return not again and self._goes_on_from_cache

    @cached_property
    def _goes_on_from_cache(self) -> bool:
        """Whether the model reads texts in two parts as it reads the whole, by a cache of keys and
        values, with padding between the parts. Tried on a few tokens rather than assumed."""
        kinds = {"DynamicLayer", "DynamicSlidingWindowLayer"}
        if not (self.takes_padding and self._cache_kinds and self._cache_kinds <= kinds):
            return False
        # Some differ on long texts only; and padding in a short window is not asked for here.
        has_window = "DynamicSlidingWindowLayer" in self._cache_kinds
        cut, end, length = (1, 3, 5) if has_window else (17, 25, 31)
        first, second = probe_rows(self, (length, length - 1))
        padded = pad_left([first, first[:cut] + second[cut:]], self.pad_id)
        ids, mask = (t.to(self.device) for t in padded)
        rest_mask = mask[:, cut:end].clone()
        rest_mask[1, 0] = False  # the second prompt is one token shorter
        parts = CutPrompts(
            ids[:1, :cut], mask[:1, :cut], ids.new_zeros(2), ids[:, cut:end], rest_mask
        )
        with torch.no_grad():
            whole = self._last_hidden_states(ids, mask)[:, end - 1 : -1]
            try:
                in_two = self._after_prefixes(parts, ids[:, end:], mask[:, end:])
            except Exception:  # whatever a model's own code raises at a cache not of its kind
                return False
        single = self.precision == "weights" and self.model.dtype.itemsize >= 4
        tolerance = (1e-3 if single else 5e-2) * float(1 + whole.abs().max())
        return torch.allclose(whole.float(), in_two.float(), rtol=0, atol=tolerance)

    @cached_property
    def _cache_kinds(self) -> set[str]:
        from transformers import DynamicCache

        return {type(layer).__name__ for layer in DynamicCache(config=self.model.config).layers}

    def _last_hidden_states(self, ids: Tensor, attention: Tensor, cache=None) -> Tensor:
        """[B, L, H], as the output embedding gets them. ids: [B, L]; attention: [B, L] and, before
        that, what is in the cache."""
        inputs = self._body_inputs(ids, attention, cache)
        if self.sharding is not None:
            return self.sharding.last_hidden_states(**inputs)
        return self._body(**inputs).last_hidden_state

    @property
    def _body(self) -> nn.Module:
        """The model up to its last hidden states."""
        return without_adapter(self.model).base_model

    @cached_property
    def _body_inputs(self) -> ModelInputs:
        return ModelInputs(self._body)

    @cached_property
    def takes_padding(self) -> bool:
        """Whether padding on the left changes nothing. If it does, rows are padded on the right,
        where nothing that counts comes after."""
        return takes_padding(self)

    @cached_property
    def _head_is_linear(self) -> bool:
        """Whether logits are the output embedding times the last hidden states and nothing more
        (some models scale or cap them). Tried on a few tokens rather than assumed."""
        head = self.model.get_output_embeddings()
        if type(head) is not nn.Linear or self._body is self.model:
            return False
        rows = probe_rows(self)
        padded = pad_left(rows if self.takes_padding else rows[-1:], self.pad_id)
        ids, attention = (t.to(self.device) for t in padded)
        with torch.no_grad():
            logits = self.model(**self.inputs(ids, attention)).logits[attention].float()
            try:
                mine = head(self._last_hidden_states(ids, attention)[attention]).float()
            except AttributeError:  # no part of the model says what its last hidden states are
                return False
        # A cap at 30 moves logits near 1 by less than a thousandth.
        single = self.precision == "weights" and self.model.dtype.itemsize >= 4
        tolerance = 1e-5 if single else 1e-3
        return torch.allclose(logits, mine, rtol=tolerance, atol=tolerance)

    def enable_gradient_checkpointing(self) -> None:
        """Keep the inputs of the model's layers for the backward pass and compute the rest again:
        the same gradient in less memory, for about one forward pass more.

        Copies made later do the same. (Transformers' own switch acts in training mode only, which
        brings back dropout and the noise of some routers.) Raises ValueError for models whose
        layers transformers cannot checkpoint.
        """
        for layer in decoder_layers(self.model):
            kind = type(layer)
            if not issubclass(kind, _Checkpointed):
                layer.__class__ = type(kind.__name__, (_Checkpointed, kind), {})

    @property
    def weights(self) -> dict[str, nn.Parameter]:
        """What this policy does not share with another, by name; a process's shards if sharded."""
        if self.sharding is not None:
            self.sharding.reshard()
        return dict(self.model.named_parameters())

    def parameters(self) -> list[nn.Parameter]:
        """The weights that are trained."""
        return [p for p in self.weights.values() if p.requires_grad]

    def frozen_copy(self) -> Policy:
        """A copy whose weights take no gradient. To be made before the model is sharded."""
        model = copy.deepcopy(self.model).requires_grad_(False)
        return Policy(model, self.tokenizer, self.precision)

    def reference(self) -> Policy:
        """The policy as it is before any training. To be asked for at the start of a run."""
        return self.frozen_copy()

    @torch.no_grad()
    def copy_from(self, other: Policy) -> None:
        """θ ← θ_other, in place. If only the other is sharded, all processes must ask."""
        with nullcontext() if self.sharding is not None else other.gathered():
            torch._foreach_copy_(list(self.weights.values()), list(other.weights.values()))
        self._accumulators = None

    @torch.no_grad()
    def ema_update_(self, other: Policy, rate: float) -> None:
        """θ ← (1−rate)·θ + rate·θ_other, in place.

        Weights of less than 32 bits are accumulated beside themselves in float32: most steps of an
        average are smaller than their resolution, and would leave it where it is.
        """
        mine, theirs = self.weights, other.weights.values()
        if self._accumulators is None:
            self._accumulators = {n: w.float() for n, w in mine.items() if w.itemsize < 4}
        exact = [self._accumulators.get(name, weight) for name, weight in mine.items()]
        goals = [g.to(w.dtype) for g, w in zip(theirs, exact, strict=True)]
        torch._foreach_lerp_(exact, goals, rate)
        for name, accumulator in self._accumulators.items():
            mine[name].copy_(accumulator)

    def state_dict(self) -> dict[str, Tensor]:
        """Everything that this policy does not share with another.

        Of a sharded policy all processes must ask: the first gets whole tensors, the others None
        in their place.
        """
        return self._whole(self._state() | (self._accumulators or {}))

    @torch.no_grad()
    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Take what `state_dict` gave the first process; every process needs all of it.

        Raises ValueError if it is of another model.
        """
        places = self._state()
        shapes = {name: tuple(tensor.shape) for name, tensor in state.items()}
        if shapes != {name: tuple(place.shape) for name, place in places.items()}:
            raise ValueError(_other_model(shapes, {n: tuple(p.shape) for n, p in places.items()}))
        taken = {name: self._placed(state[name], place) for name, place in places.items()}
        for name, place in places.items():
            place.copy_(taken[name])
        averages = [
            name
            for name, weight in self.weights.items()
            if weight.itemsize < taken[name].itemsize and not weight.requires_grad
        ]
        self._accumulators = {name: taken[name].clone() for name in averages} or None

    def save(self, path: str | Path | None) -> None:
        """Write model and tokenizer so that transformers and vLLM load them.

        Of a sharded policy all processes must ask: the first with a path, the others with None.
        """
        state = self._whole(self.model.state_dict()) if self.sharding is not None else None
        if path is not None:
            self.model.save_pretrained(path, state_dict=state)
            self.tokenizer.save_pretrained(path)

    def _state(self) -> dict[str, Tensor]:
        if self.sharding is not None:
            self.sharding.reshard()
        return self.model.state_dict()

    def _whole(self, state: dict[str, Tensor]) -> dict[str, Tensor]:
        return state if self.sharding is None else self.sharding.whole(state)

    def _placed(self, tensor: Tensor, place: Tensor) -> Tensor:
        """A whole tensor where `place` is, cut as that is."""
        return (
            tensor.to(place.device) if self.sharding is None else self.sharding.cut(tensor, place)
        )


def _joined(
    prompt: Tensor, prompt_mask: Tensor, response: Tensor, token_mask: Tensor
) -> tuple[Tensor, Tensor]:
    """Token ids and attention mask [B, P+T], with the padding where it was."""
    return torch.cat([prompt, response], 1), torch.cat([prompt_mask, token_mask], 1)


def _padded_right(
    prompt: Tensor, prompt_mask: Tensor, response: Tensor, token_mask: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Token ids and attention mask [B, P+T] with all padding on the right, and the places [B, T]
    of the tokens before those of the response."""
    ids, attention = _joined(prompt, prompt_mask, response, token_mask)
    order = attention.logical_not().long().argsort(dim=1, stable=True)
    steps = torch.arange(response.shape[1], device=ids.device)
    before = (prompt_mask.sum(1, keepdim=True) - 1 + steps).clamp(min=0)
    return ids.gather(1, order), attention.gather(1, order), before


def _at(values: Tensor, places: Tensor) -> Tensor:
    """Of values [B, L, N] those at places [B, T]."""
    return values.gather(1, places[..., None].expand(-1, -1, values.shape[-1]))


def decoder_layers(model: nn.Module) -> list[nn.Module]:
    """The layers of a model that repeat. Raises ValueError if transformers does not mark them."""
    from transformers.modeling_layers import GradientCheckpointingLayer

    layers = [m for m in model.modules() if isinstance(m, GradientCheckpointingLayer)]
    if not layers:
        raise ValueError(
            f"{type(model).__name__} has no layers that transformers marks as such, so gradients "
            f"cannot be checkpointed, nor weights sharded. Leave the option away."
        )
    return layers


class _Checkpointed:
    """Mixed into the class of a layer that is to be computed again in the backward pass.

    In the class, as FSDP does it: copies of a layer get it too, and nobody sees another `forward`.
    """

    def forward(self, *args, **kwargs):
        if not torch.is_grad_enabled():
            return super().forward(*args, **kwargs)
        return checkpoint(
            super().forward, *args, use_reentrant=False, preserve_rng_state=False, **kwargs
        )


def _read_template(name: str) -> str:
    if name == "plain":
        return PLAIN
    try:
        return Path(name).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(
            f"The chat template {name!r} could not be read ({error}); expected a Jinja file or "
            f"'plain'."
        ) from error


def _silence_progress_bars() -> None:
    """Transformers draws bars for reading and writing weights, across those of a run."""
    from transformers.utils import logging

    logging.disable_progress_bar()


def _other_model(shapes: dict[str, tuple[int, ...]], expected: dict[str, tuple[int, ...]]) -> str:
    name = next(n for n in [*expected, *shapes] if n not in shapes or shapes[n] != expected.get(n))
    return (
        f"The saved weights are of another model: {name} is {expected.get(name, 'no weight')} in "
        f"this one, {shapes.get(name, 'missing')} in what was saved. Load the model they were "
        f"saved from, with the same --lora-rank if it has adapters."
    )
