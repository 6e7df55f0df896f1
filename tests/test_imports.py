"""Dependencies point one way, and heavy ones are loaded only where they are needed."""

from __future__ import annotations

import subprocess
import sys
import warnings
from pathlib import Path

import pytest

HEAVY = ("torch", "transformers", "vllm", "docker", "matplotlib", "datasets")


@pytest.mark.parametrize(
    ("module", "absent"),
    [
        ("sandbox", (*HEAVY, "gymnasium", "vpd_envs", "vpd_agent")),
        ("vpd_envs", (*HEAVY, "vpd_agent")),
        ("vpd_agent.cli.main", HEAVY),
        ("vpd_agent.train.trainer", ("vllm", "docker", "matplotlib", "datasets")),
    ],
)
def test_importing_loads_nothing_it_does_not_need(module, absent):
    program = f"import sys, {module}; print([m for m in {absent!r} if m in sys.modules])"
    result = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=120
    )
    assert result.stdout.strip() == "[]"


EVERY_MODULE = r"""
import importlib, pkgutil, warnings

warnings.filterwarnings("error", module=r"(sandbox|vpd_envs|vpd_agent)(\.|$)")
known, imported = ("verifiers", "trl", "vllm"), 0
for package in ("sandbox", "vpd_envs", "vpd_agent"):
    root = importlib.import_module(package)
    for module in pkgutil.walk_packages(root.__path__, package + "."):
        if module.name.endswith("__main__"):  # it runs a command
            continue
        try:
            importlib.import_module(module.name)
            imported += 1
        except ImportError as error:
            if not any(name in str(error) for name in known):  # what is not in every environment
                raise
print(imported)
"""


@pytest.mark.slow
def test_importing_our_modules_raises_no_warning_of_ours():
    result = subprocess.run(
        [sys.executable, "-c", EVERY_MODULE], capture_output=True, text=True, timeout=300
    )
    assert result.returncode == 0, result.stderr
    assert int(result.stdout) > 150


@pytest.mark.parametrize(
    "words",
    [
        ["-c", "import sandbox"],
        ["-c", "import vpd_envs"],
        pytest.param(["-m", "vpd_agent.cli", "--help"], marks=pytest.mark.slow),
    ],
)
def test_a_start_raises_no_warning_at_all(words):
    command = [sys.executable, "-W", "error", *words]
    result = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert (result.returncode, result.stderr) == (0, "")


def test_our_sources_compile_without_a_warning():
    packages = [Path(__file__).parents[1] / name for name in ("sandbox", "vpd_envs", "vpd_agent")]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for path in (path for package in packages for path in package.rglob("*.py")):
            compile(path.read_text(), str(path), "exec")
