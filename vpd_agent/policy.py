"""A causal language model with its tokenizer: prompts in, response-aligned scores out."""

from __future__ import annotations

import copy
import inspect
import re
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from vpd_agent.scores import Head, TokenScores
from vpd_agent.types import Message

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


PLAIN = "{% for message in messages %}{{ message['content'] }}\n\n{% endfor %}"
"""The chat template of models that were never taught one: the texts, one after the other."""

_MARK = "\N{SYMBOL FOR UNIT SEPARATOR}{}\N{SYMBOL FOR UNIT SEPARATOR}"  # no text of a template


class Policy:
    """Any causal LM of transformers, its tokenizer, and how prompts become tokens."""

    def __init__(self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> None:
        self.model = model
        self.tokenizer = tokenizer
        _silence_progress_bars()
        self._takes_logits_to_keep = "logits_to_keep" in inspect.signature(model.forward).parameters
        special = sorted(map(str, tokenizer.get_added_vocab()), key=len, reverse=True)
        self._control_tokens = re.compile("|".join(map(re.escape, special))) if special else None

    @classmethod
    def load(
        cls,
        name_or_path: str,
        *,
        dtype: str = "auto",
        device: str = "cpu",
        chat_template: str | None = None,
    ) -> Policy:
        """Load from a folder or from the Hugging Face hub.

        chat_template: a Jinja file, or "plain" for plain text; None: the model's own.
        Raises ValueError if there is no such model, or it has no tokenizer or chat template.
        """
        from transformers import AutoModelForCausalLM, AutoTokenizer

        _silence_progress_bars()
        path = Path(name_or_path)
        looks_local = path.exists() or name_or_path.startswith((".", "/", "~"))
        if looks_local and not (path / "config.json").is_file():
            raise ValueError(
                f"Model folder {name_or_path!r} has no config.json. Pass a folder that "
                f"save_pretrained wrote, a model name of the Hugging Face hub, or 'tiny'."
            )
        try:
            tokenizer = AutoTokenizer.from_pretrained(name_or_path)
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise ValueError(_unloadable("tokenizer", name_or_path, looks_local, error)) from error
        if not len(tokenizer) or not tokenizer("a b").input_ids:
            raise ValueError(
                f"Model {name_or_path!r} has no tokenizer. Save one beside it with "
                f"tokenizer.save_pretrained({name_or_path!r})."
            )
        if chat_template is not None:
            tokenizer.chat_template = _read_template(chat_template)
        if tokenizer.chat_template is None:
            raise ValueError(
                f"Model {name_or_path!r} has no chat template, so its prompts have no form. Pass "
                f"--chat-template FILE.jinja, or --chat-template plain for plain text."
            )
        try:
            model = AutoModelForCausalLM.from_pretrained(name_or_path, dtype=dtype)
        except (OSError, ValueError, KeyError) as error:
            raise ValueError(_unloadable("model", name_or_path, looks_local, error)) from error
        return cls(model.to(device), tokenizer)

    @property
    def device(self) -> torch.device:
        return self.model.device

    @cached_property
    def eos_ids(self) -> frozenset[int]:
        """Tokens that end a response."""
        configured = self.model.generation_config.eos_token_id
        ids = configured if isinstance(configured, list) else [configured]
        return frozenset(i for i in [*ids, self.tokenizer.eos_token_id] if i is not None)

    @property
    def pad_id(self) -> int:
        pad, eos = self.tokenizer.pad_token_id, self.tokenizer.eos_token_id
        return pad if pad is not None else (eos or 0)

    @cached_property
    def context_length(self) -> int:
        """The most positions the model was made for."""
        return getattr(self.model.config, "max_position_embeddings", None) or 1 << 30

    @property
    def last_logits_only(self) -> dict[str, int]:
        """Arguments that spare the model the logits of all positions but the last."""
        return {"logits_to_keep": 1} if self._takes_logits_to_keep else {}

    def encode(self, messages: Sequence[Message]) -> list[int]:
        """Chat messages → prompt ids, generation header included.

        Control tokens inside a message ("<|im_end|>" in a program's output, say) become plain
        text: no content can end its turn or open another.
        """
        contents = [m["content"] for m in messages]
        if self._control_tokens is None or not any(map(self._control_tokens.search, contents)):
            return self._tokens(self._render(messages))
        marks = [_MARK.format(i) for i in range(len(messages))]
        hidden = [{**m, "content": mark} for m, mark in zip(messages, marks, strict=True)]
        ids: list[int] = []
        for piece in re.split(f"({'|'.join(marks)})", self._render(hidden)):
            if piece in marks:
                ids += self._tokens(contents[marks.index(piece)], plain=True)
            else:
                ids += self._tokens(piece)
        return ids

    def continuation(self, reply: Message) -> list[int]:
        """What follows an answer in a conversation of several turns: the end of the policy's turn,
        the reply, and the header of its next answer. What the policy wrote is never tokenised anew.

        Taken from the chat template by rendering a short conversation with a marked answer. Begins
        with the end-of-sequence token where the template ends a turn with it.
        """
        answer, content = _MARK.format("answer"), _MARK.format("reply")
        conversation = [
            {"role": "user", "content": "."},
            {"role": "assistant", "content": answer},
            {**reply, "content": content},
        ]
        head, tail = self._render(conversation).split(answer, 1)[1].split(content, 1)
        return [
            *self._tokens(head),
            *self._tokens(reply["content"], plain=True),
            *self._tokens(tail),
        ]

    def _render(self, messages: Sequence[Message]) -> str:
        return self.tokenizer.apply_chat_template(
            list(messages), tokenize=False, add_generation_prompt=True
        )

    def _tokens(self, text: str, *, plain: bool = False) -> list[int]:
        """Token ids of a text; control tokens in a plain one are nothing but text."""
        return self.tokenizer(text, add_special_tokens=False, split_special_tokens=plain).input_ids

    def decode(self, ids: Sequence[int]) -> str:
        """Response ids → answer text, without special tokens."""
        return self.tokenizer.decode(list(ids), skip_special_tokens=True)

    def score(
        self,
        prompt: Tensor,
        prompt_mask: Tensor,
        response: Tensor,
        present: Tensor,
        mask: Tensor | None = None,
        *,
        temperature: float = 1.0,
    ) -> TokenScores:
        """Scores of responses after prompts; shifting happens here and nowhere else.

        prompt, prompt_mask: [B, P], padded left. response, present: [B, T], padded right.
        mask: [B, T], the tokens that are to be scored; None: all that are present.
        """
        length = response.shape[1]
        attention = torch.cat([prompt_mask, present], 1)
        inputs = {
            "input_ids": torch.cat([prompt, response], 1),  # [B, P+T]
            "attention_mask": attention.long(),
            "position_ids": (attention.cumsum(1) - 1).clamp(min=0),
            "use_cache": False,
        }
        scored = present if mask is None else mask
        before = slice(-length - 1, -1)  # the row before a token predicts it
        if self._head_is_linear:
            body, head = self._body_and_head
            hidden = body(**inputs).last_hidden_state[:, before]
            return TokenScores(
                hidden, Head(head.weight, head.bias), response, scored, temperature=temperature
            )
        extra = {"logits_to_keep": length + 1} if self._takes_logits_to_keep else {}
        logits = self.model(**inputs, **extra).logits[:, before]
        return TokenScores.from_logits(logits, response, scored, temperature=temperature)

    @property
    def _body_and_head(self) -> tuple[nn.Module, nn.Module]:
        """The model up to its last hidden states, and its output embedding."""
        model = self.model
        if hasattr(model, "get_base_model"):  # peft's wrapper
            model = model.get_base_model()
        return model.base_model, model.get_output_embeddings()

    @cached_property
    def _head_is_linear(self) -> bool:
        """Whether logits are the output embedding times the last hidden states and nothing more
        (some models scale or cap them). Tried on two tokens rather than assumed."""
        body, head = self._body_and_head
        if type(head) is not nn.Linear or body is self.model:
            return False
        ids = torch.tensor([[0, 1]], device=self.device)
        with torch.no_grad():
            logits = self.model(input_ids=ids, use_cache=False).logits
            mine = head(body(input_ids=ids, use_cache=False).last_hidden_state)
        return torch.allclose(logits.float(), mine.float(), rtol=1e-3, atol=1e-3)

    def frozen_copy(self) -> Policy:
        """A copy whose weights take no gradient."""
        model = copy.deepcopy(self.model).requires_grad_(False).eval()
        return Policy(model, self.tokenizer)

    def approach(self, other: Policy, rate: float) -> None:
        """θ ← (1−rate)·θ + rate·θ_other, in place."""
        mine, theirs = list(self.model.parameters()), list(other.model.parameters())
        torch._foreach_lerp_(mine, theirs, rate)

    def state_dict(self) -> dict[str, Tensor]:
        """Everything that this policy does not share with another."""
        return self.model.state_dict()

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        self.model.load_state_dict(state)

    def parameters(self) -> list[nn.Parameter]:
        return [p for p in self.model.parameters() if p.requires_grad]

    def save(self, path: str | Path) -> None:
        """Write model and tokenizer so that transformers loads them."""
        self.model.save_pretrained(path)
        self.tokenizer.save_pretrained(path)


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


def _unloadable(what: str, name: str, looks_local: bool, error: Exception) -> str:
    reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
    if looks_local:
        return f"The {what} in folder {name!r} could not be loaded: {reason}"
    return (
        f"Found no {what} for {name!r}: it is neither a folder here nor reachable on the Hugging "
        f"Face hub ({reason}). Pass a folder that save_pretrained wrote, or 'tiny' for a randomly "
        f"initialised tiny model."
    )
