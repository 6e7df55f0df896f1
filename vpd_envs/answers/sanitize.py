"""Text that a program or a model wrote, made harmless for a terminal and for a chat template."""

from __future__ import annotations

import re

# Escape sequences of terminals: CSI (colors, cursor), OSC and its like (titles, links; only with
# their end, or an unclosed one would swallow the text behind it), and two-byte ones.
ESCAPES = re.compile(
    r"(?:\x1b\[|\x9b)[0-?]*[ -/]*[@-~]"
    r"|\x1b[\]PX^_](?:[^\x07\x1b\n]{0,4096}(?:\x07|\x1b\\))?"
    r"|\x1b[ -/]*[0-~]?"
)
# All but tab and newline, the invisible marks that reorder a line or spell text that nobody sees,
# and what no encoding holds.
CONTROLS = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028\u2029\u202a-\u202e\u2066-\u2069\ufeff"
    "\ud800-\udfff\U000e0000-\U000e007f]"
)
# What chat templates and tokenizers read as structure. No pattern looks beyond its token, so a
# piece of a text without tokens has none either: cutting never makes one.
ANGLE = (  # <s>, </think>, <start_of_turn> ...
    r"s|bos|eos|pad|unk|mask|cls|sep|sop|eop|bod|eod|role"
    r"|BOS_TOKEN|EOS_TOKEN|EOP_TOKEN|MASK_TOKEN|PAD|UNK|CLS|SEP"
    r"|think|think_on|think_off|tools?|tool_calls?|tool_responses?|function_calls?|functions"
    r"|arg_key|arg_value|(?:start|end)_of_(?:turn|image|audio|utterance)|turn|image_soft_token"
    r"|(?:start|end)_function_(?:call|declaration|response)|escape|nofim"
    r"|(?:beginning|begin|end)_of_(?:sentence|text|document)|endoftext|osagent_mode"
    r"|fim_(?:prefix|middle|suffix|pad)|reponame|filename|gh_stars|file_sep|repo_name"
    r"|issue_(?:start|comment|closed)|jupyter_(?:start|text|code|output|script|error)|empty_output"
    r"|commit_(?:before|msg|after|message)|tts_text_(?:bos|eod|pad)|longcat_\w{1,64}"
    r"|unused\d{1,6}|extra_id_\d{1,6}|reserved_\d{1,6}|SPECIAL_\d{1,6}"
    r"|(?:seed|mm|minimax):\w{1,64}"
)
SQUARE = (  # [INST], [/INST], [gMASK] ...
    r"INST|SYSTEM_PROMPT|AVAILABLE_TOOLS|TOOL_CALLS|TOOL_RESULTS|TOOL_CONTENT|ARGS|CALL_ID|THINK"
    r"|MODEL_SETTINGS|IMG|IMG_BREAK|IMG_END|AUDIO|BEGIN_AUDIO|TRANSCRIBE|PREFIX|MIDDLE|SUFFIX"
    r"|[gs]?MASK|BOS|EOS|EOT|PAD|UNK|SEP|CLS|@BOS@|(?:start|end)_header_id"
    r"|extra_id_\d{1,6}|control_\d{1,6}"
)
# The first character of each token: the rest is only looked at, so that tokens may overlap.
TOKENS = re.compile(
    r"<(?="
    r"[|｜][^\s<>]{0,64}?[|｜]>"  # <|im_end|>, <｜User｜>
    r'|\|["\w]{1,64}>|["\w]{1,64}\|>'  # <|turn>, <turn|>
    rf"|/?(?:{ANGLE})>"
    r"|</?SYS>>|/<?SYS>>"
    r")"
    rf"|\[(?=/?(?:{SQUARE})\]|\|\w{{1,64}}\|\]|e~\[)"  # [INST], [|endofturn|], [e~[
    r"|\](?=~!?b[\[\]]|!p~\[|<\]\w{1,64}\[>\[)"  # ]~b], ]<]image[>[
    r"|｜(?=DSML｜)|/(?=nothink)"
)


def sanitize(text: str) -> str:
    """The text without terminal escapes and control characters, and with a space inside every
    control token (`<|im_end|>` becomes `< |im_end|>`), so that it is read as the text it is.

    Tabs and newlines stay; `\\r\\n` and `\\r` become newlines. Lone surrogates become `?`.
    Applied twice it gives what it gives once, and a piece of what it gives it leaves as it is.
    """
    text = ESCAPES.sub("", text)
    text = text.replace("\r\n", "\n").replace("\r", "\n")
    text = CONTROLS.sub(lambda match: "?" if "\ud800" <= match[0] <= "\udfff" else "", text)
    return TOKENS.sub(r"\g<0> ", text)
