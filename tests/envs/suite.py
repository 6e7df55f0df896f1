"""Every environment of the suite, on small data of our own making."""

import os
import subprocess
import sys
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from lcb_rows import FIXTURE, block

FIXTURES = Path(__file__).parent.parent / "fixtures"
CODE = (block("print(1)"), block("1/0"), block(""), "```python\nprint(", "no code")
TAGGED = (
    "<answer>B</answer>",
    "<answer>\nA\n</answer>",
    "<answer>",
    "B",
    "<answer>A or B</answer>",
)


@dataclass(frozen=True)
class Case:
    """An environment, its options, and answers of many kinds to any of its problems."""

    id: str
    options: dict[str, Any] = field(default_factory=dict)
    answers: tuple[str, ...] = ()

    @property
    def sandboxed(self) -> bool:
        return "sandbox" in self.options


LOCAL = {"sandbox": "local"}
CASES = (
    Case("vpd/MiniCode-v0", LOCAL, ("x*3+4", "y", "1/0", "x" * 70, "(", "x*0+0")),
    Case(
        "vpd/MiniFunction-v0",
        LOCAL,
        (
            "def f(x):\n y=x*3\n return y+4",
            "y",
            "def f(x):\n return y",
            "1/0",
            "x" * 70,
            "f(",
            "f=0",
        ),
    ),
    Case("vpd/LiveCodeBench-v0", LOCAL | {"data": str(FIXTURE), "time_limit_seconds": 1.0}, CODE),
    Case("vpd/CodeContests-v0", LOCAL | {"data": str(FIXTURES / "code_contests.jsonl")}, CODE),
    Case("vpd/HumanEval-v0", LOCAL | {"data": str(FIXTURES / "humaneval.jsonl")}, CODE),
    Case("vpd/MBPP-v0", LOCAL | {"data": str(FIXTURES / "mbpp.jsonl")}, CODE),
    Case("vpd/SciKnowEval-v0", {"data": str(FIXTURES / "science_papers.jsonl")}, TAGGED),
    Case(
        "vpd/ToolUse-v0",
        {"data": str(FIXTURES / "tool_use.jsonl")},
        ("Action: x\nAction Input: {}", "Action: x", "Action Input: {", "call it", "Thought: hm"),
    ),
    Case(
        "vpd/Math-v0",
        {"data": str(FIXTURES / "math_problems.jsonl")},
        (
            r"\boxed{42}",
            r"\boxed{\frac{6}{8}}",
            r"\boxed{",
            r"\boxed{}",
            "42",
            r"\boxed{\frac{1}{}",
        ),
    ),
    Case("vpd/ReasoningGym-v0", {"size": 20}, (*TAGGED, "<answer>12</answer>")),
    Case(
        "vpd/TextArena-v0",
        {"game": "Mastermind", "size": 20, "max_turns": 1},
        ("[1 2 3 4]", "1 2 3 4", "[1 1 1 1]", "[1 2]", "[", "1 2 3 9", "x" * 70),
    ),
    Case("vpd/MiniChoice-v0", {}, ("A", "B", "C", "D", "E", "AB")),
    Case("vpd/MiniArithmetic-v0", {}, ("12", "100", "x", "1234567", "9" * 70)),
)
# An environment whose package may be missing: what the package is to be imported as.
OPTIONAL = {"vpd/ReasoningGym-v0": "reasoning_gym", "vpd/TextArena-v0": "textarena"}
each_env = pytest.mark.parametrize(
    "case",
    [
        pytest.param(
            case,
            id=case.id[4:-3],
            marks=pytest.mark.skipif(
                case.id in OPTIONAL and find_spec(OPTIONAL[case.id]) is None,
                reason=f"{OPTIONAL.get(case.id)} is not installed",
            ),
        )
        for case in CASES
    ],
)
each_sandboxed_env = pytest.mark.parametrize(
    "case",
    [case for case in CASES if case.sandboxed],
    ids=[case.id[4:-3] for case in CASES if case.sandboxed],
)


def printed_with_other_hashes(program: str) -> str:
    """What a Python program prints in a process with another seed of its hashes than this one."""
    other = "1" if os.environ.get("PYTHONHASHSEED") != "1" else "2"
    return subprocess.run(
        [sys.executable, "-c", program],
        env=os.environ | {"PYTHONHASHSEED": other},
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
    ).stdout
