"""Pictures for reports, where matplotlib is installed."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sandbox.installation import install_hint
from vpd_agent.console import say


@contextmanager
def missing_matplotlib_is_told(without: str, then: str) -> Iterator[None]:
    """Where matplotlib turns out to be missing within, a line says what to install: measurements
    must not be lost because of a picture. without, then: how that line begins and ends."""
    try:
        yield
    except ImportError as error:
        say(f"{without} matplotlib ({install_hint('report')}; {error}). {then}")


def draw_if_possible(path: Path, draw: Callable[[Path], None]) -> bool:
    """Call `draw` with the path, and return whether it could draw."""
    without = f"Without the picture {path.name}: it needs"
    then = "The same command draws it then, without any other work."
    with missing_matplotlib_is_told(without, then):
        draw(path)
        return True
    return False


def pyplot() -> Any:
    """matplotlib.pyplot, without a window. Raises ImportError where it is missing."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    return pyplot
