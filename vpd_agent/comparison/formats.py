"""How the report writes numbers: the same in tables, sentences, pictures and on the terminal."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from typing import Any

from vpd_agent.statistics.estimates import Estimate

NONE = "–"  # where there is no number


def score(value: float) -> str:
    """.47, 1.00, −.06; a dash for NaN."""
    if not math.isfinite(value):
        return NONE
    text = f"{abs(value):.2f}".removeprefix("0")
    return text if value >= 0 or text == ".00" else f"−{text}"


def signed(value: float) -> str:
    """A difference: +.03, −.06, .00."""
    text = score(value)
    return f"+{text}" if value > 0 and text != ".00" else text


def interval(estimate: Estimate, write: Callable[[float], str] = score) -> str:
    """.47 (.38 to .55); the number alone where it has no interval."""
    bounds = f" ({write(estimate.low)} to {write(estimate.high)})" if estimate.has_interval else ""
    return write(estimate.value) + bounds


def whole(value: float) -> str:
    """12,800; a dash for NaN and infinity."""
    return f"{value:,.0f}" if math.isfinite(value) else NONE


def seconds(value: float) -> str:
    """Whole from ten on."""
    return f"{value:.1f}" if value < 9.95 else whole(value)


def counted(number: int, what: str) -> str:
    """1 run, 2 runs."""
    return f"{number} {what}{'' if number == 1 else 's'}"


def listed(words: list[str]) -> str:
    """a, b and c."""
    return " and ".join(filter(None, [", ".join(words[:-1]), *words[-1:]]))


def as_text(value: Any) -> str:
    """A flag's value, as the command line takes it."""
    if isinstance(value, (list, tuple)):
        return " ".join(map(as_text, value)) or NONE
    return "none" if value is None else str(value)


def without_folders(text: str) -> str:
    """A text whose absolute paths are cut to their last part: a report may go anywhere, and the
    folders of the machine that made it are nobody's business."""
    return re.sub(r"(?<![\w.:/~])/(?:[\w.+@~-]+/)+([\w.+@-]+)/?", r"\1", text)
