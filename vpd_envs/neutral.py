"""Text that a program or a model wrote, made harmless for a terminal and for a chat template."""

from __future__ import annotations

import re

# Escape sequences of terminals: CSI (colours, cursor), OSC (titles, links), and two-byte ones.
ESCAPES = re.compile(
    r"(?:\x1b\[|\x9b)[0-?]*[ -/]*[@-~]"
    r"|\x1b[\]PX^_][^\x07\x1b]*(?:\x07|\x1b\\)?"
    r"|\x1b[ -/]*[0-~]?"
)
# All but tab and newline, the invisible marks that reorder a line, and what no encoding holds.
CONTROLS = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u2028\u2029\u202a-\u202e\u2066-\u2069\ufeff\ud800-\udfff]"
)
# What chat templates and tokenizers read as structure: <|im_end|>, <｜User｜>, <s>, [INST], ...
TOKENS = re.compile(
    r"<[|｜][^\s<>]{0,64}?[|｜]>"
    r"|</?(?:s|bos|eos|pad|unk|mask|think|tool_call|tool_response|tools?|start_of_turn|end_of_turn"
    r"|start_of_image|end_of_utterance|fim_(?:prefix|middle|suffix)|turn)>"
    r"|\[/?(?:INST|SYSTEM_PROMPT|AVAILABLE_TOOLS|TOOL_CALLS|TOOL_RESULTS|SEP|CLS|MASK|PAD)\]"
    r"|</?<SYS>>|<</?SYS>>"
)


def neutral(text: str) -> str:
    """The text without terminal escapes and control characters, and with a space inside every
    control token (`<|im_end|>` becomes `< |im_end|>`), so that it is read as the text it is.

    Tabs and newlines stay; `\\r\\n` and `\\r` become newlines. Lone surrogates become `?`.
    Applied twice it gives what it gives once.
    """
    text = ESCAPES.sub("", text)
    text = text.replace("\r\n", "\n").replace("\r", "\n")
    text = CONTROLS.sub(lambda match: "?" if "\ud800" <= match[0] <= "\udfff" else "", text)
    return TOKENS.sub(lambda match: f"{match[0][0]} {match[0][1:]}", text)
