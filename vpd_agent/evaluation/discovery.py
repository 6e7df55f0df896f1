"""discovery@k: how many attempts a method needs until it solves a problem.

The discovery time of a problem is the number of the first attempt that solves it; discovery@k is
the chance that it is at most k, over all that is random in a method (arXiv 2601.20802, definition
5.1). For independent attempts of one model it is pass@k.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from vpd_agent.statistics.estimates import Estimate, paired_difference
from vpd_agent.statistics.rates import Interval

INDEPENDENT = ("best-of-k",)  # methods whose attempts have nothing to do with one another
ESTIMATORS = {
    True: "pass@k, 1 − C(n−c, k)/C(n, k) from c solved of the n attempts of all seeds: unbiased",
    False: "the share of seeds with a solved attempt among the first k: unbiased",
}
Pair = tuple[str, int]  # a problem's id and a seed


@dataclass(frozen=True)
class Attempts:
    """What a method did at one problem with one seed.

    solved: the attempts that solved the problem, counted from 1.
    tokens: how many were sampled, of each attempt.
    seconds: of sampling, judging and training.
    answer: the first one that solved the problem; None if none did.
    """

    problem_id: str
    seed: int
    method: str
    solved: tuple[int, ...]
    tokens: tuple[int, ...]
    seconds: float
    answer: str | None = None

    @property
    def discovered(self) -> int | None:
        """The number of the first attempt that solved the problem."""
        return min(self.solved, default=None)

    @property
    def is_independent(self) -> bool:
        return self.method in INDEPENDENT

    @property
    def tokens_spent(self) -> int:
        """Tokens sampled until the method would stop: of independent attempts, which all are made
        for the sake of the estimate, those up to the first that solved the problem."""
        return sum(self.tokens[: self.discovered] if self.is_independent else self.tokens)

    @property
    def seconds_spent(self) -> float:
        """Seconds until the method would stop; of independent attempts, their share of all."""
        if not self.is_independent or self.discovered is None:
            return self.seconds
        return self.seconds * self.discovered / len(self.tokens)


@dataclass(frozen=True)
class MethodResult:
    """How one method did on the pairs of a problem and a seed.

    values: [problems, budget], each problem's estimate of discovery@1 … discovery@budget.
    """

    method: str
    attempts: Mapping[Pair, Attempts]
    values: np.ndarray

    @cached_property
    def discovery(self) -> list[Interval]:
        """discovery@k for k = 1 … budget, a mean over problems."""
        return [Interval.of(column.tolist()) for column in self.values.T]

    @property
    def mean_attempts(self) -> float:
        """Mean number of attempts until the first that solved the problem, the budget where none
        did: Σ_{k < budget} (1 − discovery@k), with discovery@0 = 0."""
        return 1.0 + float((1.0 - self.values[:, :-1]).sum(1).mean())

    @property
    def mean_tokens(self) -> float:
        return float(np.mean([a.tokens_spent for a in self.attempts.values()]))

    @property
    def mean_seconds(self) -> float:
        return float(np.mean([a.seconds_spent for a in self.attempts.values()]))

    def minus(self, other: MethodResult) -> Estimate:
        """The difference in discovery@budget, over the problems, which both methods have."""
        return paired_difference(self.values[:, -1].tolist(), other.values[:, -1].tolist())


def results_of(
    attempts: Sequence[Attempts], methods: Sequence[str], budget: int
) -> dict[str, MethodResult]:
    """The result of each method, on the pairs of a problem and a seed that every one of them has;
    empty if there is no such pair."""
    found: dict[str, dict[Pair, Attempts]] = {method: {} for method in methods}
    for each in attempts:
        if each.method in found:
            found[each.method][each.problem_id, each.seed] = each
    first, *others = found.values()
    pairs = [pair for pair in first if all(pair in other for other in others)]
    if not pairs:
        return {}
    return {
        method: _result(method, {pair: of_pair[pair] for pair in pairs}, budget)
        for method, of_pair in found.items()
    }


def _result(method: str, attempts: Mapping[Pair, Attempts], budget: int) -> MethodResult:
    by_problem = defaultdict(list)
    for each in attempts.values():
        by_problem[each.problem_id].append(each)
    estimate = _pooled if method in INDEPENDENT else _share_of_seeds
    values = np.array([estimate(of_one, budget) for of_one in by_problem.values()])
    return MethodResult(method, attempts, values)


def _share_of_seeds(attempts: Sequence[Attempts], budget: int) -> np.ndarray:
    """[budget] the share of seeds that had solved the problem by each attempt."""
    times = np.array([a.discovered or budget + 1 for a in attempts])
    return (times[:, None] <= np.arange(1, budget + 1)).mean(0)


def _pooled(attempts: Sequence[Attempts], budget: int) -> np.ndarray:
    """[budget] pass@k from the attempts of all seeds."""
    return pass_at_each_k(
        sum(len(a.tokens) for a in attempts), sum(len(a.solved) for a in attempts), budget
    )


def pass_at_each_k(answers: int, solved: int, most: int) -> np.ndarray:
    """[most] `statistics.pass_at_k` for k = 1 … most, in one pass."""
    drawn = np.arange(most)
    failed = np.maximum(answers - solved - drawn, 0)
    return 1.0 - np.cumprod(failed / (answers - drawn))


def summary(results: Mapping[str, MethodResult], budget: int) -> dict[str, Any]:
    """The numbers of results.json, by the name of the method."""
    told: dict[str, Any] = {}
    baseline = results.get(INDEPENDENT[0])
    for method, result in results.items():
        curve = result.discovery
        told[method] = {
            "estimator": ESTIMATORS[method in INDEPENDENT],
            f"discovery@{budget}": vars(curve[-1]),
            "discovery": {
                part: [getattr(point, part) for point in curve] for part in ("mean", "low", "high")
            },
            "attempts": result.mean_attempts,
            "tokens": result.mean_tokens,
            "seconds": result.mean_seconds,
        }
        if baseline is not None and result is not baseline:
            gain = result.minus(baseline)
            told[method][f"minus {baseline.method}"] = {
                "mean": gain.value,
                "low": gain.low,
                "high": gain.high,
            }
    return told
