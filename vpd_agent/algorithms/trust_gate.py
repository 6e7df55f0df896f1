"""How far a teacher is to be trusted: by whether it solves what the student did not.

The trainer samples the teacher on a few failed rollouts and says how many it solved; what follows
from that is here, and is arithmetic only. From our own measurements; no paper has it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from vpd_agent.algorithms.base import State, check

TRUST = "trust"  # its key in an algorithm's state


@dataclass(frozen=True)
class TrustGate:
    """Weight of what the teacher says: clip(a / width, 0, 1).

    a is the moving average of the teacher's success rate on failed rollouts less the rate of the
    other rollouts of their groups, which is what the student reaches there by trying again. A
    teacher that cannot read its feedback gets no say; one that has nothing left to add fades out by
    itself.

    Of a teacher exactly as good as the student the sum of these differences over the failed
    rollouts of a batch is 0 in expectation. Their mean is about p / (N − 1) lower, with N rollouts
    and a pass rate of p: a batch with few failures counts as much as one with many.
    """

    width: float = 0.15  # the advantage from which the teacher is trusted fully
    every: int = 2  # steps between measurements; the first is at step 0
    rows: int = 16  # failed rollouts per measurement, at most
    momentum: float = 0.9  # of the moving average

    def __post_init__(self) -> None:
        check(self.width > 0, "gate_width", "positive", self.width)
        check(self.every >= 1, "gate_every", "at least 1", self.every)
        check(self.rows >= 1, "gate_rows", "at least 1", self.rows)
        check(0 <= self.momentum < 1, "gate_momentum", "in [0, 1)", self.momentum)

    def due(self, step: int) -> bool:
        """Whether the step with this index, from 0, is to measure."""
        return step % self.every == 0

    def update(self, state: State, sums: Mapping[str, float]) -> State:
        """The state after a measurement; as it was if nothing was left to measure on.

        sums: "rows" measured; how many of them the teacher solved, "teacher"; the rates of the
        others of their groups, "student". The first measurement sets the average.
        """
        if not sums["rows"]:
            return state
        advantage = (sums["teacher"] - sums["student"]) / sums["rows"]
        average = state.get(TRUST, advantage)
        return state | {TRUST: self.momentum * average + (1 - self.momentum) * advantage}

    def weight(self, state: State) -> float:
        """Between 0 and 1; 0 before any measurement."""
        return min(max(state.get(TRUST, 0.0) / self.width, 0.0), 1.0)


def solve_rates_of_others(groups: Sequence[int], solved: Sequence[bool]) -> list[float | None]:
    """For each rollout the share of the *other* rollouts of its group that solved the problem; None
    where there are no others.

    It is what the student reaches by trying again, p. The rate of the whole group is lower: a
    failed rollout is in it, as one that is known to have failed.
    """
    size, successes = Counter(groups), Counter(g for g, s in zip(groups, solved, strict=True) if s)
    return [
        (successes[group] - success) / (size[group] - 1) if size[group] > 1 else None
        for group, success in zip(groups, solved, strict=True)
    ]
