"""Finding the answer in what a model wrote: pure parsing that takes any text and never raises."""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import StrEnum

# CommonMark fences, with liberties that models need: any indentation, prose before an opening fence
# (`Here it is: ```python`), a tag after a closing one (`</answer>`). The possessive `}+` keeps
# matching linear.
OPENING = re.compile(r"(?P<indent>[ \t]*)(?P<fence>`{3,}+|~{3,}+)(?P<info>[^`<]*)\Z")
OPENING_AFTER_PROSE = re.compile(r"[^`~]*(?P<fence>`{3,}+|~{3,}+)(?P<info>[\w+#.-]*)[ \t]*\Z")
CLOSING = re.compile(r"(?P<indent>[ \t]*)(?P<fence>`{3,}+|~{3,}+)[ \t]*(?:<[^`]*)?\Z")
DEEPER = 4  # a fence indented this much more than the opening one is part of the code
LANGUAGE = re.compile(r"[^\w+#]*([\w+#.-]*)")  # the word in `python`, `{.python}`, `python:main.py`

# A minus behind a digit or a closing bracket subtracts; one behind a letter is a hyphen.
NUMBER = re.compile(
    r"(?:(?<![\w)\]])[-\N{MINUS SIGN}])?(?:[0-9]{1,3}(?:,[0-9]{3})+(?![0-9])|[0-9]+)(?:\.[0-9]+)?"
)

# Fences may stand in a string of the code. After so many of them the string is one without an end.
FENCES_IN_A_STRING = 8
QUOTED = re.compile(r"""#.*|\"{3}|'{3}|"(?:\\.|[^"\\])*+"?|'(?:\\.|[^'\\])*+'?""")
REST_OF_STRING = {
    quote: re.compile(rf"(?:\\.|(?!{quote})[^\\])*+{quote}") for quote in ('"""', "'''")
}


class Found(StrEnum):
    COMPLETE = "complete"
    EMPTY = "empty"  # complete blocks have nothing but white space
    TRUNCATED = "truncated"  # the block that counts is opened and never closed
    THINKING = "thinking"  # <think> was opened and never closed
    OTHER_LANGUAGE = "other_language"  # the tag of each block names one that is not asked for
    NONE = "none"


@dataclass(frozen=True)
class FinalAnswer:
    """Where the final answer of a text was looked for, and what stands there."""

    found: Found
    text: str = ""  # without the white space around it; only if COMPLETE

    @classmethod
    def of(cls, text: str) -> FinalAnswer:
        """What stands there: COMPLETE, or EMPTY where that is nothing."""
        return cls(Found.COMPLETE if text else Found.EMPTY, text)


@dataclass(frozen=True)
class FencedBlock:
    language: str  # the first word of its tag in lower case; "" if it has none
    code: str  # its lines, each with its end
    closed: bool = True


def without_thinking(answer: str) -> str | None:
    """What follows the last `</think>`; None if a `<think>` was not closed.

    The opening tag may be missing: many chat templates put it into the prompt.
    """
    text = answer.rpartition("</think>")[2]
    return None if re.search(r"^[ \t]*<think>", text, re.MULTILINE) else text


def last_number(answer: str) -> FinalAnswer:
    """The last number after the thinking, whatever stands around it: COMPLETE, NONE or THINKING. It
    is in decimal digits, without the commas that may group them by three."""
    text = without_thinking(answer)
    if text is None:
        return FinalAnswer(Found.THINKING)
    found = [match.group() for match in NUMBER.finditer(text)]
    if not found:
        return FinalAnswer(Found.NONE)
    return FinalAnswer.of(found[-1].replace(",", "").replace("\N{MINUS SIGN}", "-"))


def fenced_blocks(text: str) -> list[FencedBlock]:
    """The fenced blocks of a text in their order. Only the last one may be unclosed.

    A tagged fence inside an open block means that the model gave the block up and began anew: the
    open one is left out.
    """
    lines = [line.rstrip("\r") for line in text.split("\n")]
    blocks: list[FencedBlock] = []
    at = 0
    while at < len(lines):
        opening = OPENING.match(lines[at]) or OPENING_AFTER_PROSE.match(lines[at])
        at += 1
        if not opening:
            continue
        indent = _width(opening.groupdict().get("indent") or "")
        end = _end_of_block(lines, at, opening["fence"], indent)
        closed = end < len(lines) and CLOSING.match(lines[end]) is not None
        if closed or end == len(lines):
            code = "".join(f"{_dedented(line, indent)}\n" for line in lines[at:end])
            language = LANGUAGE.findall(opening["info"])[0].lower()
            blocks.append(FencedBlock(language, code, closed))
        at = end + 1 if closed else end
    return blocks


def _end_of_block(lines: list[str], start: int, fence: str, indent: int) -> int:
    """The number of the line that closes a block or gives it up; `len(lines)` if none does.

    Fences in strings of the code are passed over, if the string ends before the block does.
    """
    quote = ""  # of the string that is open
    in_string: list[int] = []  # lines with fences
    for at in range(start, len(lines)):
        closing = CLOSING.match(lines[at])
        found = closing or OPENING.match(lines[at])
        if found and (closing or found["info"].strip()) and _is_counterpart(found, fence, indent):
            if not quote:
                return at
            in_string.append(at)
            if len(in_string) == FENCES_IN_A_STRING:
                break
        if any(mark in lines[at] for mark in REST_OF_STRING):
            quote = _quote_after(lines[at], quote)
    return in_string[0] if in_string else len(lines)


def _is_counterpart(match: re.Match[str], fence: str, indent: int) -> bool:
    """Whether a fence line is the counterpart of an opening `fence`, not a line of the code."""
    same_kind = match["fence"][0] == fence[0] and len(match["fence"]) >= len(fence)
    return same_kind and _width(match["indent"]) < indent + DEEPER


def _quote_after(line: str, quote: str) -> str:
    """The triple quote of the string that is open after a line of Python; "" if none is.

    `quote` is the one that is open before the line.
    """
    at = 0
    while True:
        if quote:
            rest = REST_OF_STRING[quote].match(line, at)
            if rest is None:
                return quote
            quote, at = "", rest.end()
        token = QUOTED.search(line, at)
        if token is None:
            return ""
        quote, at = token[0] if token[0] in REST_OF_STRING else "", token.end()


def _width(indent: str) -> int:
    return len(indent.expandtabs(4))


def _dedented(line: str, indent: int) -> str:
    """The line without the indentation of its block's fence, as far as it has it."""
    column = 0
    for position, character in enumerate(line):
        if character not in " \t":
            return line[position:]
        column += 1 if character == " " else 4 - column % 4
        if column > indent:
            return line[position:]
    return ""
