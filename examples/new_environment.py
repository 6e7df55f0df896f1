"""An environment of one's own: words to sort, with feedback on the first one out of order.

    vpd show --env examples/new_environment.py:SortWords --problem "pear fig kiwi"
    vpd train sdpo --env examples/new_environment.py:SortWords --model tiny --out runs/sort

Arguments of the constructor are options of `--set`. gym.register is needed only for gym.make.
"""

import itertools

import gymnasium as gym

from vpd_envs import Problem, Status, TextEnv, Verdict

WORDS = {"train": ["fig", "pear", "kiwi", "lime"], "test": ["oak", "elm", "ash", "yew"]}


class SortWords(TextEnv):
    """Words to be put in alphabetical order.

    length: words of a problem, at most 4.
    """

    def __init__(self, split="train", length=3, **options):
        orders = [" ".join(words) for words in itertools.permutations(WORDS[split], length)]
        ask = "Put these words in alphabetical order, separated by spaces: "
        super().__init__([Problem(o, ask + o, sorted(o.split())) for o in orders], **options)

    def judge(self, problem, answer):
        words = answer.split()
        if words == problem.target:
            return Verdict(1.0, Status.SOLVED, "In order.")
        if sorted(words) != problem.target:
            return Verdict(0.0, Status.FORMAT_ERROR, "Answer with each of the given words once.")
        wrong = next(a for a, b in zip(words, problem.target, strict=True) if a != b)
        return Verdict(0.0, Status.WRONG_ANSWER, f"The first word out of order is {wrong}.")


gym.register("SortWords-v0", entry_point=SortWords, vector_entry_point=SortWords.vector)
