"""What can be known of a model without its weights: its shape, its tokenizer, its numbers' size."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vpd_agent.console import phase
from vpd_agent.data.types import Message
from vpd_agent.model import smollm2
from vpd_agent.model.chat import Chat
from vpd_agent.model.chat_template import tokenizer_with_template
from vpd_agent.model.source import PRESETS, model_at_hand
from vpd_agent.train.estimate import FULL, HALF, KNOWN_SHAPES, ModelShape, shape_of

if TYPE_CHECKING:
    from vpd_agent.model.chat import Tokenizer
    from vpd_agent.train.options import ModelOptions

BYTES_PER_TOKEN = 3
"""Of prompts, where the model's tokenizer is not here: English has about 4.5, code and formulas
about 3, so that most estimates are too long."""


@dataclass(frozen=True)
class KnownModel:
    """shape: None where it is not known, or is none that the estimates count. weight_bytes: of a
    number, as it is stored. source: where all this is from, in words."""

    shape: ModelShape | None
    weight_bytes: int
    tokenizer: Tokenizer | None
    source: str

    def length(self, messages: Sequence[Message]) -> int:
        """Tokens of a prompt."""
        if self.tokenizer is None:
            size = sum(len(m["content"].encode()) for m in messages)
            return -(-size // BYTES_PER_TOKEN)
        chat = Chat(self.tokenizer)
        return len(chat.tokens(chat.render(chat.without_system(messages))))


def known_model(options: ModelOptions, name: str) -> KnownModel:
    """What is known of a model that the options name. Nothing is fetched."""
    if name in PRESETS:
        from vpd_agent.tiny.model import byte_tokenizer

        return KnownModel(*_preset(), byte_tokenizer(), "a preset")
    folder = model_at_hand(name)
    if folder is None:
        return KnownModel(*_published(name), None, "not here; its published shape")
    with phase(f"Reading the tokenizer of {name}"):
        is_cached = not Path(name).expanduser().exists()
        tokenizer = None
        if not is_cached or any(folder.glob("tokenizer*")):
            tokenizer = tokenizer_with_template(
                str(folder), options.chat_template, options.arguments()
            )
    return KnownModel(*_of_config(str(folder)), tokenizer, str(folder))


def known_shape(name: str, *, fetch: bool) -> tuple[ModelShape | None, int]:
    """The shape of a model and the size of its numbers in bytes. Of one that is on the hub only its
    configuration is fetched, or what is published of it is told."""
    if name in PRESETS:
        return _preset()
    folder = model_at_hand(name)
    if folder is None and (name == smollm2.NAME or not fetch):
        return _published(name)
    return _of_config(str(folder or name))


def loaded_bytes(dtype: str, stored: int) -> int:
    """Of a number of weights that are loaded with this --dtype. stored: as they are stored."""
    return {"auto": stored, "float32": FULL, "bfloat16": HALF}[dtype]


def _preset() -> tuple[ModelShape | None, int]:
    from vpd_agent.tiny.model import byte_tokenizer, tiny_config

    return shape_of(tiny_config(byte_tokenizer())), FULL


def _published(name: str) -> tuple[ModelShape | None, int]:
    return KNOWN_SHAPES.get(name), FULL if name == smollm2.NAME else HALF


def _of_config(name: str) -> tuple[ModelShape | None, int]:
    from transformers import AutoConfig

    config: Any = AutoConfig.from_pretrained(name)
    # Newer transformers warn of the old name.
    stored = getattr(config, "dtype" if hasattr(config, "dtype") else "torch_dtype", None)
    return shape_of(config), HALF if "16" in str(stored) else FULL
