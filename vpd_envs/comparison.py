"""When two results are the same, as LiveCodeBench defines it. Pure functions of any texts."""

from __future__ import annotations

import json
from decimal import Decimal, InvalidOperation
from typing import Any


def same_output(output: str, expected: str) -> bool:
    """Whether two programs' stdout agree: strip the whole, then line by line.

    Lines agree if they are equal after stripping, or are lists of equal decimals (1.0 is 1.00;
    no tolerance). Source: `grade_stdio` of LiveCodeBench's testing_util.py.
    """
    lines, expected_lines = stripped_lines(output), stripped_lines(expected)
    return len(lines) == len(expected_lines) and all(map(same_line, lines, expected_lines))


def stripped_lines(text: str) -> list[str]:
    return [line.strip() for line in text.strip().split("\n")]


def same_line(line: str, expected: str) -> bool:
    if line == expected:
        return True
    words, expected_words = line.split(), expected.split()
    if len(words) != len(expected_words):
        return False
    try:
        # NaN equals nothing, and a signalling NaN raises InvalidOperation on comparison.
        return all(Decimal(a) == Decimal(b) for a, b in zip(words, expected_words, strict=True))
    except InvalidOperation:
        return False


def same_json(text: str, expected: str) -> bool:
    """Whether two JSON texts hold the same value; False if either is no JSON."""
    try:
        return same_value(json.loads(text), json.loads(expected))
    except (ValueError, RecursionError):  # malformed, too many digits, too deeply nested
        return False


def same_value(value: Any, expected: Any) -> bool:
    """Python's ==, except that true is not 1, and that a tuple is a list.

    1 == 1.0 holds, as in LiveCodeBench. Works without recursion, so any depth is fine.
    """
    pairs = [(value, expected)]
    while pairs:
        a, b = pairs.pop()
        if isinstance(a, (list, tuple)) and isinstance(b, (list, tuple)):
            if len(a) != len(b):
                return False
            pairs.extend(zip(a, b, strict=True))
        elif isinstance(a, dict) and isinstance(b, dict):
            if a.keys() != b.keys():
                return False
            pairs.extend((a[key], b[key]) for key in a)
        elif isinstance(a, bool) is not isinstance(b, bool) or a != b:
            return False
    return True
