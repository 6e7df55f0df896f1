"""Comparing answers with Math-Verify: what runs in the worker processes of `math`.

Some comparisons never end, and Math-Verify's own time limit is a signal, which only works in a main
thread: it is switched off here, and the process is killed instead (see `workers`).
"""

from __future__ import annotations

import logging
import re
from collections.abc import Sequence
from fractions import Fraction
from functools import lru_cache
from typing import Any

from vpd_envs.math_answer import decided, parts, tidy

MATHEMATICS = re.compile(r"\$|\\\[|\\\(|\\boxed|\\begin")
PROSE = re.compile(r"(?<![\\A-Za-z])[A-Za-z]{2,}[ \t]+[A-Za-z]{2,}(?!\()")
LONGEST_BARE = 300  # characters of a response that may be one expression


def warm_up() -> None:
    """Imports what the comparison needs, and builds the parser's tables."""
    logging.disable(logging.CRITICAL)
    compare(r"\frac{1}{2}", r"x^2+\sqrt{2}")


def compare(
    gold: str,
    prediction: str,
    several: bool = False,
    tolerances: Sequence[str] = (),
) -> dict[str, Any]:
    """Compares two answers, each without the text around it.

    several: both are lists of answers, in any order.
    tolerances: the largest difference from the gold number, as texts; one for all, or one for each
        of several answers.

    Returns {"equal": bool, "readable": bool}; readable is False if the prediction could not be
    parsed, though the gold answer could.
    """
    margins = [Fraction(text) for text in tolerances]
    if several:
        result = compare_lists(parts(gold), parts(prediction), margins)
        if result["equal"] or margins:
            return result
        # One part may stand for two answers: 1 ± √5. Math-Verify compares lists as sets.
    return compare_single(tidy(gold), tidy(prediction), margins[0] if margins else None)


def compare_response(gold: str, response: str) -> dict[str, Any]:
    """Compares the final answer of a whole response, as Math-Verify extracts it.

    A response or gold answer that is nothing but an expression needs no `$`.

    Returns {"equal": bool, "readable": bool, "extracted": str}.
    """
    from math_verify import verify

    wanted, read = read_response(gold), read_response(response)
    equal = bool(read) and verify(list(wanted), list(read), timeout_seconds=None)
    extracted = next((value for value in reversed(read) if isinstance(value, str)), "")
    return {"equal": equal, "readable": bool(read), "extracted": extracted}


def compare_single(gold: str, prediction: str, tolerance: Fraction | None) -> dict[str, Any]:
    from math_verify import verify

    quick = decided(gold, prediction, tolerance)
    if quick is not None:
        return {"equal": quick.equal, "readable": True}
    wanted, read = read_gold(gold), read_expression(prediction)
    equal = verify(list(wanted), list(read), timeout_seconds=None)
    if not equal and tolerance is not None:
        equal = is_within(wanted, read, tolerance)
    return {"equal": equal, "readable": equal or is_parsed(read) or not is_parsed(wanted)}


def compare_lists(
    golds: list[str], predictions: list[str], margins: list[Fraction]
) -> dict[str, Any]:
    """Whether each gold answer has a prediction of its own that equals it."""
    if len(golds) != len(predictions):
        some = predictions[: len(golds)]
        return {"equal": False, "readable": all(is_parsed(read_expression(text)) for text in some)}
    each = margins if len(margins) == len(golds) else margins[:1] * len(golds)
    left = list(predictions)
    readable = True
    for number, gold in enumerate(golds):
        for prediction in left:
            result = compare_single(gold, prediction, each[number] if each else None)
            readable &= result["readable"]
            if result["equal"]:
                left.remove(prediction)
                break
    return {"equal": not left, "readable": not left or readable}


def is_within(wanted: tuple[Any, ...], read: tuple[Any, ...], tolerance: Fraction) -> bool:
    if not (is_parsed(wanted) and is_parsed(read)):
        return False
    try:
        apart = abs((wanted[0] - read[0]).doit().evalf(30))
        return bool(apart <= tolerance.numerator / tolerance.denominator * (1 + 1e-9))
    except (TypeError, ValueError, AttributeError, ArithmeticError, RuntimeError):
        return False  # no numbers


def is_parsed(read: tuple[Any, ...]) -> bool:
    return bool(read) and not isinstance(read[0], str)


@lru_cache(maxsize=1024)  # a problem is asked many times
def read_gold(text: str) -> tuple[Any, ...]:
    return read_expression(text)


def read_expression(text: str) -> tuple[Any, ...]:
    """The text as one LaTeX expression: (SymPy object, text) or, if it is none, (text,) or ()."""
    from math_verify import LatexExtractionConfig, parse

    only_all_of_it = LatexExtractionConfig(boxed_match_priority=0, try_extract_without_anchor=False)
    return tuple(
        parse(
            rf"\boxed{{{text}}}",
            [only_all_of_it],
            extraction_mode="first_match",
            parsing_timeout=None,
        )
    )


def read_response(text: str) -> tuple[Any, ...]:
    from math_verify import parse

    bare = len(text) <= LONGEST_BARE and not MATHEMATICS.search(text) and not PROSE.search(text)
    if bare and text.strip():
        read = read_expression(tidy(text))
        if is_parsed(read):
            return read
    return tuple(parse(text, parsing_timeout=None))
