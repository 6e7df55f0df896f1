"""How far a teacher is to be trusted: by whether it solves what the student did not.

The trainer samples the teacher on a few failed rollouts and says how many it solved; what follows
from that is here, and is arithmetic only. From our own measurements; no paper has it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from vpd_agent.algorithms.checks import check

# Its keys in an algorithm's state: the advantage a, and the sums that `prior_rows` works with.
TRUST, TRUST_SUM, TRUST_ROWS = "trust", "trust_sum", "trust_rows"


@dataclass(frozen=True)
class TrustGate:
    """Weight of what the teacher says: clip(a / width, 0, 1).

    a is the moving average of the teacher's success rate on failed rollouts less the rate of the
    other rollouts of their groups, which is what the student reaches there by trying again. A
    teacher that cannot read its feedback gets no say; one that has nothing left to add fades out by
    itself.

    With `prior_rows` the average begins at 0, as if so many failed rollouts had been measured
    before on which the teacher was as good as the student, and every rollout counts alike:
    a = S / (R + prior_rows), where S sums the differences of all rollouts so far, R is their
    number, and what is older counts less by the momentum. One measurement has 16 rollouts and a
    standard error of about 0.1: without the prior a lucky first one opens the gate for 20 steps.

    Of a teacher exactly as good as the student the sum of these differences over the failed
    rollouts of a batch is 0 in expectation. Without `prior_rows` a batch with few failures counts
    as much as one with many, and the mean is about p / (N − 1) lower, with N rollouts and a pass
    rate of p.
    """

    width: float = 0.15  # the advantage from which the teacher is trusted fully
    every: int = 2  # steps between measurements; the first is at step 0
    rows: int = 16  # failed rollouts per measurement, at most
    momentum: float = 0.9  # of the moving average
    prior_rows: int | None = None  # None: the first measurement sets the average

    def __post_init__(self) -> None:
        check(self.width > 0, "gate_width", "positive", self.width)
        check(self.every >= 1, "gate_every", "at least 1", self.every)
        check(self.rows >= 1, "gate_rows", "at least 1", self.rows)
        check(0 <= self.momentum < 1, "gate_momentum", "in [0, 1)", self.momentum)
        prior = self.prior_rows
        check(prior is None or prior >= 0, "gate_prior_rows", "at least 0", prior)

    def due(self, step: int) -> bool:
        """Whether the step with this index, from 0, is to measure."""
        return step % self.every == 0

    def update(self, state: dict[str, float], sums: Mapping[str, float]) -> dict[str, float]:
        """The state after a measurement; as it was if nothing was left to measure on.

        sums: "rows" measured; how many of them the teacher solved, "teacher"; the rates of the
        others of their groups, "student".
        """
        if not sums["rows"]:
            return state
        difference = sums["teacher"] - sums["student"]
        if self.prior_rows is not None:
            total = self.momentum * state.get(TRUST_SUM, 0.0) + difference
            rows = self.momentum * state.get(TRUST_ROWS, 0.0) + sums["rows"]
            advantage = total / (rows + self.prior_rows)
            return state | {TRUST: advantage, TRUST_SUM: total, TRUST_ROWS: rows}
        advantage = difference / sums["rows"]
        average = state.get(TRUST, advantage)
        return state | {TRUST: self.momentum * average + (1 - self.momentum) * advantage}

    def weight(self, state: Mapping[str, float]) -> float:
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
