"""Dependencies point one way, and heavy ones are loaded only where they are needed."""

from __future__ import annotations

import subprocess
import sys

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
