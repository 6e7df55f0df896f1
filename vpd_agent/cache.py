"""Where models that were made or fetched here are kept."""

from __future__ import annotations

import os
from pathlib import Path


def cache_root() -> Path:
    """$VPD_CACHE, or the folder vpd in the user's cache. It need not be there yet."""
    root = os.environ.get("VPD_CACHE")
    if root:
        return Path(root)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache", "vpd")
