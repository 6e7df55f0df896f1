"""How this project was installed, and so the command that adds a package or an extra to it.

The import packages are `sandbox`, `vpd_envs` and `vpd_agent`; on a package index their distribution
is `vpd-rl`.
"""

from __future__ import annotations

import json
import shlex
import shutil
import sys
import sysconfig
from importlib import metadata, util
from pathlib import Path

DISTRIBUTION = "vpd-rl"
SOURCE = Path(__file__).resolve().parents[1]  # the folder that has these packages


def install_hint(*extras: str) -> str:
    """The command that installs extras of this project, such as `pip install 'vpd-rl[math]'`.

    What was installed from a checkout, a file or a repository is installed from there again.
    """
    named = f"[{','.join(extras)}]"
    if (SOURCE / "pyproject.toml").is_file():
        folder = "." if Path.cwd() == SOURCE else str(SOURCE)
        return pip_install("-e", folder + named)
    origin = _origin()
    return pip_install(f"{DISTRIBUTION}{named}" + (f" @ {origin}" if origin else ""))


def pip_install(*words: str) -> str:
    """The command `pip install ...` for the Python that runs us, by its own pip or else by uv."""
    if sys.prefix == sys.base_prefix and externally_managed():
        words = ("--break-system-packages", *words)  # as this project must have been installed
    if util.find_spec("pip") is None and shutil.which("uv"):
        return shlex.join(["uv", "pip", "install", "--python", sys.executable, *words])
    pip = shutil.which("pip")
    if pip is not None and Path(pip).parent == Path(sys.executable).parent:
        return shlex.join(["pip", "install", *words])
    return shlex.join([sys.executable, "-m", "pip", "install", *words])


def externally_managed() -> bool:
    """Whether a distribution manages the packages of this interpreter (PEP 668)."""
    return Path(sysconfig.get_path("stdlib"), "EXTERNALLY-MANAGED").exists()


def requirements() -> list[str]:
    """The requirements in this project's metadata, with its extras; empty if not installed."""
    try:
        return list(metadata.requires(DISTRIBUTION) or ())
    except metadata.PackageNotFoundError:
        return []


def _origin() -> str | None:
    """The address that it was installed from, if that was no index (PEP 610)."""
    try:
        written = metadata.distribution(DISTRIBUTION).read_text("direct_url.json")
    except metadata.PackageNotFoundError:
        return None
    if written is None:
        return None
    origin = json.loads(written)
    repository = origin.get("vcs_info")
    if repository is None:
        return origin["url"]
    return f"{repository['vcs']}+{origin['url']}@{repository['commit_id']}"
