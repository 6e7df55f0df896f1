"""The environments of the suite: what each asks, who judges it and where its problems come from.

Importing vpd_envs registers them; `vpd envs` prints this table.
"""

from __future__ import annotations

from dataclasses import dataclass

import gymnasium as gym


@dataclass(frozen=True)
class Entry:
    """One environment of the suite."""

    id: str
    target: str  # "module:Class" in vpd_envs; the module's `vector` is the batched form
    asks: str
    judge: str
    data: str  # a data set of the hub, or "procedural"
    size: str  # problems, as published

    @property
    def module(self) -> str:
        return f"vpd_envs.{self.target.partition(':')[0]}"

    @property
    def class_name(self) -> str:
        return self.target.partition(":")[2]


CATALOGUE = (
    Entry(
        "vpd/LiveCodeBench-v0",
        "livecodebench:LiveCodeBench",
        "dated competition problems, as programs or functions",
        "sandbox",
        "livecodebench/code_generation_lite",
        "400 (v1) to 1,055 (v6)",
    ),
    Entry(
        "vpd/CodeContests-v0",
        "code_contests:CodeContests",
        "competition problems with one right output",
        "sandbox",
        "deepmind/code_contests",
        "165 test, 13,328 train",
    ),
    Entry(
        "vpd/HumanEval-v0",
        "humaneval:HumanEval",
        "a function from its docstring",
        "sandbox, assertions",
        "openai/openai_humaneval",
        "164",
    ),
    Entry(
        "vpd/MBPP-v0",
        "mbpp:MBPP",
        "a function from a sentence and an assertion",
        "sandbox, assertions",
        "google-research-datasets/mbpp",
        "974 (427 sanitized)",
    ),
    Entry(
        "vpd/SciKnowEval-v0",
        "science:SciKnowEval",
        "multiple choice: biology, chemistry, material, physics",
        "last <answer>",
        "hicai-zju/SciKnowEval",
        "4,335 of level L3",
    ),
    Entry(
        "vpd/ToolUse-v0",
        "tool_use:ToolUse",
        "the calls of tools that answer a question",
        "JSON comparison",
        "a file",
        "of the file",
    ),
    Entry(
        "vpd/Math-v0",
        "math:Math",
        "math500, gsm8k, aime24, aime25, amc23, dapo, olympiadbench",
        "Math-Verify in worker processes",
        "by dataset=",
        "30 to 17,000",
    ),
    Entry(
        "vpd/ReasoningGym-v0",
        "reasoning_gym:ReasoningGym",
        "puzzles of about 100 kinds",
        "the puzzle's own scorer, in worker processes",
        "procedural (reasoning-gym)",
        "any",
    ),
    Entry(
        "vpd/MiniCode-v0",
        "mini:MiniCode",
        "an expression for two names; for tiny models",
        "sandbox",
        "procedural",
        "600 train, 300 test",
    ),
    Entry(
        "vpd/MiniChoice-v0",
        "mini_choice:MiniChoice",
        "multiple choice with one bit of feedback; for tiny models",
        "exact",
        "procedural",
        "600 train, 300 test",
    ),
    Entry(
        "vpd/MiniArithmetic-v0",
        "mini_arithmetic:MiniArithmetic",
        "long arithmetic with a mark for each digit; for tiny models",
        "exact",
        "procedural",
        "600 train, 300 test",
    ),
)


def register() -> None:
    """Make the ids known to Gymnasium. No environment's module is imported."""
    for entry in CATALOGUE:
        gym.register(
            id=entry.id,
            entry_point=f"{entry.module}:{entry.class_name}",
            vector_entry_point=f"{entry.module}:vector",
        )
