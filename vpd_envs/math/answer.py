"""Final answers of mathematical texts: finding them, and deciding the plain ones exactly.

Pure parsing of any text; nothing here raises. Answers are decided in their normal form (see
`notation` and `words`). What is more than text or a plain number is left to
`comparison`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache

from vpd_envs.answers.extraction import FinalAnswer, Found, without_thinking
from vpd_envs.math.notation import PLAIN_NUMBER, normal_form, trimmed
from vpd_envs.math.words import (
    choice,
    is_text,
    is_words_alone,
    numbers_of_words,
    split_unit,
    text_key,
    units_agree,
    variables_of,
)

LONGEST_NUMBER = 200  # characters; longer ones are compared by Math-Verify, or as texts
# Math-Verify compares decimals rounded to 6 places, so nothing nearer is decided here.
NEAR = Fraction(1, 100_000)


def boxed_answer(answer: str) -> FinalAnswer:
    r"""What is within the last complete `\boxed{...}` (or `\fbox{...}`) after the thinking.

    Boxes with nothing between them but punctuation, "and" or "or" are one answer of several parts:
    `$\boxed{1}$ and $\boxed{2}$` is read as `1, 2`. Of boxes within boxes the outermost counts.
    """
    text = without_thinking(answer)
    if text is None:
        return FinalAnswer(Found.THINKING)
    text = BARE_BOX.sub(lambda match: f"{match[1]}{{{match[match.lastgroup or 0]}}}", text)
    boxes, truncated = _boxes_of(text)
    if not boxes:
        return FinalAnswer(Found.TRUNCATED if truncated else Found.NONE)
    parts: list[str] = []
    next_start = None
    for box in reversed(boxes):
        if next_start is not None and not _is_separator(text[box.end : next_start]):
            break
        next_start = box.start
        content = INNER_BOX.sub("{", text[box.content : box.end - 1]).strip()
        if content and content not in parts:
            parts.insert(0, content)
    return FinalAnswer.of(", ".join(parts))


def marked_answer(answer: str, marker: str) -> FinalAnswer:
    """The rest of the line, or the first line with something on it, that follows the last `marker`
    after the thinking."""
    text = without_thinking(answer)
    if text is None:
        return FinalAnswer(Found.THINKING)
    _, found, rest = text.rpartition(marker)
    if not found:
        return FinalAnswer(Found.NONE)
    line = rest.strip().partition("\n")[0].strip("*_` \t\r")
    return FinalAnswer.of(line)


def whole_answer(answer: str) -> FinalAnswer:
    """All that follows the thinking."""
    text = without_thinking(answer)
    return FinalAnswer(Found.THINKING) if text is None else FinalAnswer.of(text.strip())


# Boxes --------------------------------------------------------------------------------------------

# A box may have two backslashes (a model that escapes its own text). `\\` and `\{` are no braces.
BRACES = re.compile(r"(?P<box>\\{1,2}(?:boxed|fbox)[ \t]*+\{)|\\\\|\\[{}]|(?P<brace>[{}])")
# A box without braces: `\boxed 5`, `\boxed\frac12`, `\boxed$x$`.
BARE_BOX = re.compile(
    r"(\\{1,2}(?:boxed|fbox))(?:[ \t]*+(?:\$(?P<formula>[^$\n]+)\$"
    r"|(?P<plain>[-+]?\d+(?:[.,/]\d+)*+|[A-Za-z](?![A-Za-z])|\\\{[^{}\n]*\\\}"
    r"|\\left.[^\n]*?\\right\\?.|[-+]?\\(?!left)[A-Za-z]+(?: ?\d{1,2}|(?:\{[^{}]*\}){0,2})))"
    r"|(?P<bracket>\([^()\n]*\)))(?!\{)"
)
INNER_BOX = re.compile(r"\\{1,2}(?:boxed|fbox)[ \t]*+\{")
SEPARATOR = re.compile(
    r"(?:[\s,;&$]|\\[,;:! ()\[\]]|\\\\|\\q?quad|\\(?:text|mathrm|textrm)\{[^{}]*\}|\b(?:and|or)\b)*"
)
LONGEST_SEPARATOR = 80


@dataclass(frozen=True)
class Box:
    start: int
    content: int  # where its content starts
    end: int  # behind its closing brace


def _boxes_of(text: str) -> tuple[list[Box], bool]:
    """The outermost complete boxes in their order, and whether one is opened and never closed."""
    boxes: list[Box] = []
    opened: list[tuple[int, int] | None] = []  # of each open brace: None if it opens no box
    for match in BRACES.finditer(text):
        if match["box"]:
            opened.append(match.span())
        elif match["brace"] == "{":
            opened.append(None)
        elif match["brace"] == "}" and opened:
            span = opened.pop()
            if span is not None:
                while boxes and boxes[-1].start > span[0]:
                    boxes.pop()
                boxes.append(Box(*span, match.end()))
    return boxes, any(opened)


def _is_separator(between: str) -> bool:
    if len(between) > LONGEST_SEPARATOR or re.search(r"\n[ \t]*\n", between):
        return False
    return SEPARATOR.fullmatch(between) is not None


# Plain answers ------------------------------------------------------------------------------------

NUMBER = re.compile(r"[-+]?(?:\d+(?:/\d+)?|\d*\.\d+)")
FRAC = re.compile(r"([-+]?)\\frac\{([-+]?\d+)\}\{(\d+)\}")
IN_BASE = re.compile(r"(\d+)_(?:\{(\d+)\}|(\d+))")


def tidy(text: str) -> str:
    """The answer in its normal form, number words and lists included."""
    if PLAIN_NUMBER.fullmatch(text):
        return text
    text = numbers_of_words(normal_form(text))
    return trimmed(LISTED.sub(both if RELATION.search(text) else ", ", text))


RELATION = re.compile(r"[<>]|\\(?:le|ge|ne)(?![A-Za-z])")
BOTH = r" \wedge "  # between inequalities that hold together


def both(separator: re.Match[str]) -> str:
    """`and` between two inequalities; a comma for any other part of a list."""
    sides = separator.string[: separator.start()], separator.string[separator.end() :]
    is_both = "and" in separator[0] and all(RELATION.search(side) for side in sides)
    return BOTH if is_both else ", "


def compact(text: str) -> str:
    """The text with spaces only where they part two letters or digits: equal ones are the same."""
    return re.sub(r"(?<![A-Za-z0-9]) | (?![A-Za-z0-9])", "", text)


@dataclass(frozen=True)
class Plain:
    value: Fraction
    is_decimal: bool


def plain_number(text: str) -> Plain | None:
    r"""The value of a tidy integer, decimal, `a/b` or `\frac{a}{b}`; None for any other text."""
    if len(text) > LONGEST_NUMBER or not text.isascii():
        return None
    with suppress(ZeroDivisionError):
        if NUMBER.fullmatch(text):
            return Plain(Fraction(text), "." in text)
        if match := FRAC.fullmatch(text):
            value = Fraction(int(match[2]), int(match[3]))
            return Plain(-value if match[1] == "-" else value, False)
    return None


@dataclass(frozen=True)
class Decision:
    equal: bool
    method: str  # "text" or "number"


def decided(gold: str, prediction: str, tolerance: Fraction | None = None) -> Decision | None:
    """Whether two tidy answers are equal, if text or plain numbers decide it; else None."""
    if compact(gold) == compact(prediction):
        return Decision(True, "text")
    return _decided_numbers(gold, prediction, tolerance) or _decided_words(gold, prediction)


def _decided_numbers(gold: str, prediction: str, tolerance: Fraction | None) -> Decision | None:
    a, b = plain_number(gold), plain_number(prediction)
    if a is not None and b is not None:
        apart = abs(a.value - b.value)
        if tolerance is not None:
            return Decision(apart <= tolerance, "number")
        if apart == 0 or apart > NEAR or not (a.is_decimal or b.is_decimal):
            return Decision(apart == 0, "number")
        return None
    # Math-Verify does not look at the base.
    in_base, other = IN_BASE.fullmatch(compact(gold)), IN_BASE.fullmatch(compact(prediction))
    if in_base and other:
        return Decision(_base_and_digits(in_base) == _base_and_digits(other), "number")
    return None


def _decided_words(gold: str, prediction: str) -> Decision | None:
    """Texts, choices, and units that differ."""
    if _is_letter(gold) and (letter := choice(prediction)):
        return Decision(letter == gold, "text")
    if choice(gold) and (_is_letter(prediction) or choice(prediction)):
        return Decision(choice(gold) == (choice(prediction) or prediction), "text")
    are_words = is_words_alone(gold) and is_words_alone(prediction)
    if are_words and text_key(gold) == text_key(prediction):
        return Decision(True, "text")
    wanted, read = measured(gold, prediction)
    if not units_agree(wanted.unit, read.unit):
        return Decision(False, "text")
    if is_text(wanted.text):
        return Decision(text_key(gold) == text_key(prediction), "text")
    if is_text(_value_of(read.text, wanted.text), variables_of(wanted.text)):
        return Decision(False, "text")
    return None


def _is_letter(text: str) -> bool:
    return len(text) == 1 and "A" <= text <= "Z"


@dataclass(frozen=True)
class Measured:
    text: str  # without units
    unit: str  # in one spelling, of each part; "" if there is none


def measured(gold: str, prediction: str) -> tuple[Measured, Measured]:
    """Two tidy answers, parted from their units."""
    wanted = _without_units(gold, letters=False)
    has_letters = re.search(r"(?<![\\A-Za-z])[A-Za-z]", wanted.text)
    return wanted, _without_units(prediction, letters=not has_letters)


@lru_cache(maxsize=1024)  # a gold answer is asked many times
def _without_units(text: str, letters: bool) -> Measured:
    if not re.search(r"\d[^\\]*[A-Za-z]|\\text", text):
        return Measured(text, "")
    split = [split_unit(part, letters) for part in split_outside_brackets(text)]
    if not any(unit for _, unit in split):
        return Measured(text, "")
    units = {unit for _, unit in split if unit}
    return Measured(", ".join(part.strip() for part, _ in split), ",".join(sorted(units)))


def _value_of(prediction: str, gold: str) -> str:
    """What an equation says, if the gold answer is none: `42` of `x = 42`."""
    if re.search(r"[=<>]|\\(?:le|ge|ne)(?![A-Za-z])", gold):
        return prediction
    return prediction.rpartition("=")[2].strip() or prediction


def _base_and_digits(match: re.Match[str]) -> tuple[int, str]:
    return int(match[2] or match[3]), match[1].lstrip("0")


def parts(text: str) -> list[str]:
    """The answers of a list, tidy: the text split at commas, semicolons, "and" and "or" outside of
    all brackets. `100,200` is two answers."""
    return listed(tidy(re.sub(r",(?=\d)", ", ", text)))


def listed(text: str) -> list[str]:
    """The parts of a tidy list, or of a set of plain elements."""
    if text.startswith("\\{") and text.endswith("\\}") and "\\}" not in text[2:-2]:
        text = text[2:-2]
    return [part for part in map(trimmed, split_outside_brackets(text)) if part]


LISTED = re.compile(r"\\(?:text|mathrm|textrm)\{\s*,?\s*(?:and|or)\s*\}|\b(?:and|or)\b")


def split_outside_brackets(text: str) -> Iterator[str]:
    depth, start = 0, 0
    for position, character in enumerate(text):
        if character in "([{":
            depth += 1
        elif character in ")]}":
            depth -= 1
        elif character in ",;" and depth == 0:
            yield text[start:position]
            start = position + 1
    yield text[start:]
