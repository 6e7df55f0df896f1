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

from vpd_agent.scores import TokenScores
from vpd_agent.types import Message

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


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
    def load(cls, name_or_path: str, *, dtype: str = "auto", device: str = "cpu") -> Policy:
        """Load from a folder or from the Hugging Face hub.

        Raises ValueError if there is no such model, or it has no tokenizer.
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
            return self.tokenizer(self._render(messages), add_special_tokens=False).input_ids
        marks = [
            f"\N{SYMBOL FOR UNIT SEPARATOR}{i}\N{SYMBOL FOR UNIT SEPARATOR}"
            for i in range(len(messages))
        ]
        hidden = [{**m, "content": mark} for m, mark in zip(messages, marks, strict=True)]
        ids: list[int] = []
        for piece in re.split(f"({'|'.join(marks)})", self._render(hidden)):
            text = contents[marks.index(piece)] if piece in marks else piece
            plain = piece in marks
            ids += self.tokenizer(
                text, add_special_tokens=False, split_special_tokens=plain
            ).input_ids
        return ids

    def _render(self, messages: Sequence[Message]) -> str:
        if self.tokenizer.chat_template is None:  # a base model: plain text
            return "\n\n".join(m["content"] for m in messages) + "\n"
        return self.tokenizer.apply_chat_template(
            list(messages), tokenize=False, add_generation_prompt=True
        )

    def decode(self, ids: Sequence[int]) -> str:
        """Response ids → answer text, without special tokens."""
        return self.tokenizer.decode(list(ids), skip_special_tokens=True)

    def score(
        self,
        prompt: Tensor,
        prompt_mask: Tensor,
        response: Tensor,
        mask: Tensor,
        *,
        temperature: float = 1.0,
    ) -> TokenScores:
        """Scores of responses after prompts; shifting happens here and nowhere else.

        prompt, prompt_mask: [B, P], padded left. response, mask: [B, T], padded right.
        """
        ids = torch.cat([prompt, response], 1)  # [B, P+T]
        attention = torch.cat([prompt_mask, mask], 1)
        length = response.shape[1]
        extra = {"logits_to_keep": length + 1} if self._takes_logits_to_keep else {}
        logits = self.model(
            input_ids=ids,
            attention_mask=attention.long(),
            position_ids=(attention.cumsum(1) - 1).clamp(min=0),
            use_cache=False,
            **extra,
        ).logits
        logits = logits[:, -length - 1 : -1]  # the row before a token predicts it
        return TokenScores(logits / temperature if temperature != 1.0 else logits, response)

    def frozen_copy(self) -> Policy:
        """A copy whose weights take no gradient."""
        model = copy.deepcopy(self.model).requires_grad_(False).eval()
        return Policy(model, self.tokenizer)

    def parameters(self) -> list[nn.Parameter]:
        return [p for p in self.model.parameters() if p.requires_grad]

    def save(self, path: str | Path) -> None:
        """Write model and tokenizer so that transformers loads them."""
        self.model.save_pretrained(path)
        self.tokenizer.save_pretrained(path)


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
