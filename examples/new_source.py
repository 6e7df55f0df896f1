r"""A source of feedback of one's own: how many attempts of the batch solved the same problem.

    python examples/new_source.py
    vpd train sdpo --env vpd/MiniCode-v0 --model tiny-warm --out runs/rate \
        --feedback status+examples/new_source.py:PassRate:called=tries

From the folder of this file, or where it is installed, it is `--feedback new_source:PassRate`.
A subclass of FeedbackSource gives a new text for each attempt of a batch; the arguments of its
constructor are the options behind its name.
"""

from collections import Counter

from vpd_envs import EnvironmentFeedback, FeedbackSource, compose


class PassRate(FeedbackSource):
    def __init__(self, called="attempts"):
        self.called = called

    def feedback(self, attempts):
        asked = Counter(attempt.problem_id for attempt in attempts)
        solved = Counter(attempt.problem_id for attempt in attempts if attempt.solved)
        return [
            f"{a.feedback} ({solved[a.problem_id]} of {asked[a.problem_id]} "
            f"{self.called} are correct.)"
            for a in attempts
        ]


if __name__ == "__main__":
    from new_environment import SortWords

    envs = compose(SortWords.vector(3), EnvironmentFeedback("status"), PassRate())
    envs.reset(options={"problem_ids": ["pear fig kiwi", "pear fig kiwi", "lime kiwi fig"]})
    for text in envs.step(["fig kiwi pear", "fig pear kiwi", "no idea"])[0]:
        print(text)
