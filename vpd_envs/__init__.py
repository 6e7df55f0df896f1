"""Reinforcement learning environments with language feedback, judged by real execution.

Importing this package registers its environments with Gymnasium:

    env = gym.make("vpd/LiveCodeBench-v0", data="problems.jsonl")
    envs = gym.make_vec("vpd/MiniCode-v0", num_envs=64)  # judges 64 answers at once

`make` takes your own as `module:Class`, too, and explains what is wrong with an id or an option.
"""

from vpd_envs.answers.unicode_space import Unicode
from vpd_envs.catalog import make, register
from vpd_envs.feedback import (
    Attempt,
    EnvironmentFeedback,
    FeedbackBudget,
    FeedbackSource,
    FeedbackWrapper,
    JudgeFeedback,
    NoisyFeedback,
    Reflection,
    SelfCritique,
    SiblingFeedback,
    VectorFeedbackWrapper,
    compose,
    named_sources,
)
from vpd_envs.text_env import TextEnv, TextVectorEnv
from vpd_envs.types import Problem, Status, Verdict

__all__ = [
    "Attempt",
    "EnvironmentFeedback",
    "FeedbackBudget",
    "FeedbackSource",
    "FeedbackWrapper",
    "JudgeFeedback",
    "NoisyFeedback",
    "Problem",
    "Reflection",
    "SelfCritique",
    "SiblingFeedback",
    "Status",
    "TextEnv",
    "TextVectorEnv",
    "Unicode",
    "VectorFeedbackWrapper",
    "Verdict",
    "compose",
    "make",
    "named_sources",
]

register()
