"""Reasoning Gym for a model that has not learned to put its answer between tags."""

from __future__ import annotations

import re

from vpd_envs import Problem, Verdict
from vpd_envs.questions.reasoning_gym import ReasoningGym


class Untagged(ReasoningGym):
    """The last number of an answer counts, so that some answers of a group are better than others.

    The verdict, the score and the feedback are those of the dataset's own scorer.
    """

    def judge(self, problem: Problem, answer: str) -> Verdict:
        numbers = re.findall(r"-?\d+", answer)
        return super().judge(problem, f"<answer>{numbers[-1]}</answer>" if numbers else answer)
