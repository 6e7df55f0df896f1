"""A causal language model with its tokenizer: prompts and responses in, `ResponseLogits` out."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor, nn

from vpd_agent.data.padding import join, pad_left, pad_right_again, take_positions
from vpd_agent.model import prefix_sharing, probe
from vpd_agent.model.chat_template import tokenizer_with_template
from vpd_agent.model.inputs import ModelInputs, without_adapter
from vpd_agent.model.layers import checkpoint_layers, decoder_layers, is_checkpointed
from vpd_agent.model.response_logits import Head, ResponseLogits
from vpd_agent.model.source import find_model, load_model
from vpd_agent.model.tokenization import Tokenization

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from vpd_agent.distributed.fsdp import Sharding
    from vpd_agent.model.chat import Tokenizer

Precision = Literal["weights", "bfloat16"]
"""What a model computes in: its weights' own type, or bfloat16 whatever the weights are (autocast;
log-probabilities and losses are float32 even then)."""


class Policy(Tokenization):
    """Any causal LM of transformers, with its tokenizer.

    The model is always in evaluation mode: dropout would change probabilities from one pass to the
    next, so that their ratio would not measure a change of the weights. Gradients are as usual.
    """

    def __init__(
        self, model: PreTrainedModel, tokenizer: Tokenizer, precision: Precision = "weights"
    ) -> None:
        super().__init__(model.eval(), tokenizer)
        self.precision: Precision = precision
        self.sharding: Sharding | None = None  # set by `fsdp.shard`
        self._accumulators: dict[str, Tensor] | None = None  # of `ema_update_`
        _silence_progress_bars()
        self.inputs = ModelInputs(model)

    @classmethod
    def load(
        cls,
        name_or_path: str,
        *,
        dtype: str = "auto",
        device: str = "cpu",
        chat_template: str | None = None,
        template_arguments: Mapping[str, Any] | None = None,
        precision: Precision = "weights",
    ) -> Policy:
        """Load from a folder or from the Hugging Face hub; see source.py.

        name_or_path: a folder that save_pretrained wrote, that of a run (its final model), or a
            model of the hub.
        dtype: of the weights; "auto": as they are stored. The usual mixed precision is
            dtype="float32" with precision="bfloat16": weights that are bfloat16 themselves have 8
            bits, too few to hold most updates of a learning rate like 1e-6.
        chat_template: a Jinja file, or "plain" for plain text; None: the model's own.
        template_arguments: values for what the template reads, such as {"enable_thinking": False}
            for Qwen3; they become part of the template (see `set_arguments`).
        Raises ValueError if there is no such model, if it cannot be loaded, if it has no tokenizer
        or chat template, or for an argument that the template does not read.
        """
        _silence_progress_bars()
        source = find_model(name_or_path)
        tokenizer = tokenizer_with_template(source, chat_template, template_arguments)
        policy = cls(load_model(source, dtype, device), tokenizer, precision)
        probe.check_model(policy, name_or_path)
        return policy

    @property
    def device(self) -> torch.device:
        return self.model.device

    def padded(self, rows: Sequence[list[int]]) -> tuple[Tensor, Tensor]:
        """Token ids and their mask on the model's device, padded on the left."""
        ids, mask = pad_left(rows, self.pad_id)
        return ids.to(self.device), mask.to(self.device)

    def new_cache(self) -> Any:
        """An empty DynamicCache with layers of the kinds that the model's configuration names."""
        from transformers import DynamicCache

        return DynamicCache(config=self.model.config)

    @cached_property
    def context_length(self) -> int:
        """The most positions the model was made for."""
        return getattr(self.model.config, "max_position_embeddings", None) or 1 << 30

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
        """What the model predicts for responses after prompts. Row t of the result is about
        response[:, t]: the shift by one token is made here and nowhere else.

        prompt, prompt_mask: [B, P], padded left. response, token_mask: [B, T], padded right.
        loss_mask: [B, T], the tokens that quantities are wanted of; None: all of token_mask.
        """
        wanted = token_mask if loss_mask is None else loss_mask
        with self.active():
            if self._head_is_linear:
                hidden = self._hidden_states(prompt, prompt_mask, response, token_mask)
                head = self.model.get_output_embeddings()
                assert head is not None
                return ResponseLogits.from_hidden(
                    hidden, Head(head.weight, head.bias), response, wanted, temperature=temperature
                )
            if self.takes_padding:
                length = response.shape[1]
                ids, attention = join(prompt, prompt_mask, response, token_mask)
                inputs = self.inputs(ids, attention, logits_to_keep=length + 1)
                logits = self.model(**inputs).logits[:, -length - 1 : -1]
            else:
                ids, attention, before = pad_right_again(prompt, prompt_mask, response, token_mask)
                logits = take_positions(self.model(**self.inputs(ids, attention)).logits, before)
        return ResponseLogits.from_logits(logits, response, wanted, temperature=temperature)

    def _hidden_states(
        self, prompt: Tensor, prompt_mask: Tensor, response: Tensor, token_mask: Tensor
    ) -> Tensor:
        """[B, T, H] of the token before each one of the response: they predict it.

        A beginning that several prompts share goes through the model once where that saves enough
        (prefix_sharing.py).
        """
        if self._shares_prefixes:
            split = prefix_sharing.split_prompts(prompt, prompt_mask)
            if split is not None and prefix_sharing.saves_enough(self, split, prompt):
                return prefix_sharing.hidden_states(self, split, response, token_mask)
        if not self.takes_padding:
            ids, attention, before = pad_right_again(prompt, prompt_mask, response, token_mask)
            return take_positions(self.last_hidden_states(ids, attention), before)
        hidden = self.last_hidden_states(*join(prompt, prompt_mask, response, token_mask))
        return hidden[:, prompt.shape[1] - 1 : -1]

    @property
    def _shares_prefixes(self) -> bool:
        """Not where layers are computed again in the backward pass, which would write to the cache
        a second time; nor where the model is sharded: all processes must then make the same number
        of passes, whatever their prompts."""
        if self.sharding is not None or is_checkpointed(self.model):
            return False
        return self._continues_from_cache

    @cached_property
    def _continues_from_cache(self) -> bool:
        return self.takes_padding and prefix_sharing.continues_from_cache(self)

    @cached_property
    def takes_padding(self) -> bool:
        """Whether padding on the left changes nothing. If it does, rows are padded on the right,
        after everything that is read."""
        return probe.takes_padding(self)

    @cached_property
    def _head_is_linear(self) -> bool:
        """Whether logits are the output embedding times `last_hidden_states` and nothing more."""
        return probe.head_is_linear(self)

    def probe_passes(self) -> None:
        """Find out what the model's passes can do, which is otherwise done before the first one.
        It takes passes itself, so all processes of a sharded model must do it together."""
        _ = self._head_is_linear, self.takes_padding

    def last_hidden_states(self, ids: Tensor, attention: Tensor, cache: Any = None) -> Tensor:
        """[B, L, H], the input of the output embedding. ids: [B, L]; attention: [B, C + L] with C
        the number of positions in the cache."""
        inputs = self._body_inputs(ids, attention, cache)
        if self.sharding is not None:
            return self.sharding.last_hidden_states(**inputs)
        return self.body(**inputs).last_hidden_state

    @property
    def body(self) -> nn.Module:
        """The model up to its last hidden states."""
        return without_adapter(self.model).base_model

    @cached_property
    def _body_inputs(self) -> ModelInputs:
        return ModelInputs(self.body)

    def active(self) -> AbstractContextManager[Any]:
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

    @property
    def layers(self) -> list[nn.Module]:
        """The model's repeated layers. Raises ValueError if transformers does not mark them."""
        return decoder_layers(self.model)

    def enable_gradient_checkpointing(self) -> None:
        """Keep only the inputs of the model's layers for the backward pass and compute the rest
        again: the same gradient in less memory, for about one more forward pass.

        Copies made later do the same. (Transformers' own switch needs training mode, which turns on
        dropout and the noise of some routers.) Raises ValueError for models whose layers
        transformers cannot checkpoint.
        """
        checkpoint_layers(self.model)

    @property
    def weights(self) -> dict[str, nn.Parameter]:
        """What this policy does not share with another, by name; a process's shards if sharded."""
        if self.sharding is not None:
            self.sharding.reshard()
        return dict(self.model.named_parameters())

    def parameters(self) -> list[nn.Parameter]:
        """The weights that are trained."""
        return [p for p in self.weights.values() if p.requires_grad]

    def zero_grad(self) -> None:
        """Drop the gradients; of a sharded model those of the shards. (A pass without gradient
        leaves some weights gathered, and `model.zero_grad()` would drop theirs.)"""
        for weight in self.parameters():
            weight.grad = None

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
            for mine, theirs in zip(self.weights.values(), other.weights.values(), strict=True):
                mine.copy_(theirs)
        self._accumulators = None

    @torch.no_grad()
    def ema_update_(self, other: Policy, rate: float) -> None:
        """θ ← (1−rate)·θ + rate·θ_other, in place.

        Weights of less than 32 bits are accumulated in float32 copies: most steps of an average are
        smaller than what their own dtype resolves, and would be rounded away.
        """
        mine, theirs = self.weights, other.weights.values()
        if self._accumulators is None:
            self._accumulators = {n: w.float() for n, w in mine.items() if w.itemsize < 4}
        for (name, weight), goal in zip(mine.items(), theirs, strict=True):
            average = self._accumulators.get(name, weight)
            average.lerp_(goal.to(average.dtype), rate)
            if average is not weight:
                weight.copy_(average)

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
        saved, expected = ({n: tuple(t.shape) for n, t in x.items()} for x in (state, places))
        if saved != expected:
            raise ValueError(_other_model(saved, expected))
        taken = {name: self._placed(state[name], place) for name, place in places.items()}
        for name, place in places.items():
            place.copy_(taken[name])
        self._accumulators = {
            name: taken[name].clone()
            for name, weight in self.weights.items()
            if weight.itemsize < taken[name].itemsize and not weight.requires_grad
        } or None

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
        return state if self.sharding is None else self.sharding.full_state_dict(state)

    def _placed(self, tensor: Tensor, place: Tensor) -> Tensor:
        """A whole tensor on the device of `place`, sharded as that is."""
        if self.sharding is None:
            return tensor.to(place.device)
        return self.sharding.shard_like(tensor, place)


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
