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


class Found(StrEnum):
    COMPLETE = "complete"
    EMPTY = "empty"  # the last complete block has nothing but white space
    TRUNCATED = "truncated"  # a block is opened, none is closed
    THINKING = "thinking"  # <think> was opened and never closed
    NONE = "none"


@dataclass(frozen=True)
class CodeBlock:
    found: Found
    code: str = ""  # only if COMPLETE


def code_block(answer: str) -> CodeBlock:
    """The last complete fenced code block, whatever its language tag.

    A block after the thinking is preferred; only if nothing is fenced there, one within it counts.
    """
    text = without_thinking(answer)
    if text is None:
        return CodeBlock(Found.THINKING)
    block = last_block(text)
    return last_block(answer) if block.found is Found.NONE else block


def without_thinking(answer: str) -> str | None:
    """What follows the last `</think>`; None if a `<think>` was not closed.

    The opening tag may be missing: many chat templates put it into the prompt.
    """
    text = answer.rpartition("</think>")[2]
    return None if re.search(r"^[ \t]*<think>", text, re.MULTILINE) else text


def last_block(text: str) -> CodeBlock:
    last: list[str] | None = None
    lines: list[str] | None = None  # of the block that is open
    fence, indent = "", 0
    for raw_line in text.split("\n"):
        line = raw_line.rstrip("\r")
        if lines is not None:
            closing = CLOSING.match(line)
            if closing and closes(closing, fence, indent):
                last, lines = lines, None
                continue
            restart = OPENING.match(line)
            # A tagged fence inside a block: the model gave the open block up and began anew.
            if not (restart and restart["info"].strip() and closes(restart, fence, indent)):
                lines.append(dedented(line, indent))
                continue
        opening = OPENING.match(line) or OPENING_AFTER_PROSE.match(line)
        if opening:
            fence = opening["fence"]
            indent = width(opening.groupdict().get("indent") or "")
            lines = []
    if last is None:
        return CodeBlock(Found.NONE if lines is None else Found.TRUNCATED)
    code = "\n".join(last)
    return CodeBlock(Found.COMPLETE, code + "\n") if code.strip() else CodeBlock(Found.EMPTY)


def closes(match: re.Match[str], fence: str, indent: int) -> bool:
    """Whether a fence line is the counterpart of an opening `fence`, not a line of the code."""
    same_kind = match["fence"][0] == fence[0] and len(match["fence"]) >= len(fence)
    return same_kind and width(match["indent"]) < indent + DEEPER


def width(indent: str) -> int:
    return len(indent.expandtabs(4))


def dedented(line: str, indent: int) -> str:
    """The line without the indentation of its block's fence, as far as it has it."""
    column = 0
    for position, character in enumerate(line):
        if character not in " \t":
            return line[position:]
        column += 1 if character == " " else 4 - column % 4
        if column > indent:
            return line[position:]
    return ""
