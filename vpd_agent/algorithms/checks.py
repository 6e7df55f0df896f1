"""Hyper-parameters that are out of bounds, in the same words everywhere."""

from __future__ import annotations


def check(condition: bool, field: str, expected: str, value: object) -> None:
    """Raise ValueError unless the condition holds: `field must be expected, got value.`"""
    if not condition:
        raise ValueError(f"{field} must be {expected}, got {value!r}.")
