"""A source of feedback of one's own: how many attempts of the batch solved the same problem.

    python examples/new_source.py

A subclass of FeedbackSource gives a new text for each attempt of a batch.
"""

from collections import Counter

import gymnasium as gym
import new_environment  # noqa: F401 (registers SortWords-v0)

from vpd_envs import EnvironmentFeedback, FeedbackSource, compose


class PassRate(FeedbackSource):
    def feedback(self, attempts):
        asked = Counter(attempt.problem_id for attempt in attempts)
        solved = Counter(attempt.problem_id for attempt in attempts if attempt.solved)
        return [
            f"{a.feedback} ({solved[a.problem_id]} of {asked[a.problem_id]} attempts are correct.)"
            for a in attempts
        ]


if __name__ == "__main__":
    envs = gym.make_vec("SortWords-v0", num_envs=3)
    envs = compose(envs, EnvironmentFeedback("status"), PassRate())  # PassRate is the outermost
    envs.reset(options={"problem_ids": ["pear fig kiwi", "pear fig kiwi", "lime kiwi fig"]})
    for text in envs.step(["fig kiwi pear", "fig pear kiwi", "no idea"])[0]:
        print(text)
