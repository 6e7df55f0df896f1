"""Reinforcement learning environments with language feedback, judged by real execution.

Importing this package registers its environments with Gymnasium:

    env = gym.make("vpd/LiveCodeBench-v0", data="problems.jsonl")
    envs = gym.make_vec("vpd/MiniCode-v0", num_envs=64)  # judges 64 answers at once
"""

import gymnasium as gym

from vpd_envs.feedback import FeedbackWrapper, SiblingFeedback, VectorFeedbackWrapper
from vpd_envs.text_env import TextEnv, TextVectorEnv
from vpd_envs.types import Problem, Status, Verdict
from vpd_envs.unicode_space import Unicode

__all__ = [
    "FeedbackWrapper",
    "Problem",
    "SiblingFeedback",
    "Status",
    "TextEnv",
    "TextVectorEnv",
    "Unicode",
    "VectorFeedbackWrapper",
    "Verdict",
]

gym.register(
    id="vpd/LiveCodeBench-v0",
    entry_point="vpd_envs.livecodebench:LiveCodeBench",
    vector_entry_point="vpd_envs.livecodebench:live_code_bench_vector",
)
gym.register(
    id="vpd/MiniCode-v0",
    entry_point="vpd_envs.mini:MiniCode",
    vector_entry_point="vpd_envs.mini:mini_code_vector",
)
