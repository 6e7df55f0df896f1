"""Training at test time: a model learns from its attempts at one problem until it is solved."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import ClassVar

import torch

from vpd_agent.data.types import Rollout
from vpd_agent.evaluation.attempts import Bench, OnAttempts, OneByOne
from vpd_agent.train.learner import Learner


class TestTimeDistillation(OneByOne):
    """Attempts at a problem by the group, a training step on each group in which none solves it.

    That is SDPO's test-time self-distillation (arXiv 2601.20802, section 5) where the learner's
    algorithm is SDPO: what the feedback on failed attempts says moves into the weights. Each
    problem begins with the weights that the learner has now, and they are what it is left with:
    they are kept in memory, so that no model is loaded again.

    budget: attempts at a problem. A last group may be smaller; nothing is learned from it.
    """

    __test__ = False  # for pytest, which takes classes of such a name for tests
    name: ClassVar[str] = "ttd"

    def __init__(self, learner: Learner, bench: Bench, budget: int) -> None:
        self.learner = learner
        self.bench = bench
        self.budget = budget
        self._initial = copy.deepcopy(learner.state_dict())

    def rollouts(
        self, problem_id: str, generator: torch.Generator, on_attempts: OnAttempts
    ) -> list[Rollout]:
        made: list[Rollout] = []
        group_size = self.learner.config.group_size
        while True:
            size = min(group_size, self.budget - len(made))
            group = self.bench.rollouts(problem_id, size, generator, on_attempts)
            made += group
            solved = any(self.bench.is_solved(r.reward) for r in group)
            if solved or len(made) == self.budget:
                return made
            self._learn(group)

    def _learn(self, group: Sequence[Rollout]) -> None:
        """One training step; a step whose numbers are not finite is left out."""
        learner = self.learner
        try:
            learner.train_step(group)
        except FloatingPointError as error:
            learner.warn(f"A step on problem {group[0].problem_id!r} is skipped: {error}.")
            learner.engine.sync(learner.policy)  # an earlier loss may have changed weights
            learner.step += 1

    def restore(self) -> None:
        """Begin anew: the initial weights, and optimizers that have seen nothing."""
        self.learner.updater.optimizers.clear()
        self.learner.load_state_dict(self._initial)
