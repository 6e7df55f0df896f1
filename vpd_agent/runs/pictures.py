"""Pictures for reports, where matplotlib is installed."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from sandbox.installation import install_hint
from vpd_agent.console import say


def draw_if_possible(path: Path, draw: Callable[[Path], None]) -> bool:
    """Call `draw` with the path, and return whether it could draw. Without matplotlib a line says
    what to install: the measurements must not be lost because of a picture."""
    try:
        draw(path)
    except ImportError as error:
        say(
            f"Without the picture {path.name}: it needs matplotlib ({install_hint('report')}; "
            f"{error}). The same command draws it then, without any other work."
        )
        return False
    return True


def pyplot() -> Any:
    """matplotlib.pyplot, without a window. Raises ImportError where it is missing."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    return pyplot
