"""Is the run well? What a batch says of itself, and the signs of a collapse."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from vpd_agent.algorithms.base import Algorithm
from vpd_agent.algorithms.distillation import Distillation
from vpd_agent.data.batch import RolloutBatch
from vpd_agent.data.types import Rollout
from vpd_agent.distributed.world import Processes
from vpd_agent.evaluation.in_training import PASS_1, REPAIR
from vpd_agent.evaluation.probe import INACTIVE
from vpd_agent.train.config import TrainConfig
from vpd_envs.types import Status

STEPS_PER_LOOK = 10  # steps whose numbers are averaged before they are judged
LEAST_FALL = 0.1  # scores are shares of 1; a smaller fall may be noise
NO_GRADIENT = 1e-9
TRUNCATED_RISE = 3.0  # times what it was at first
MOSTLY_SOLVED = 0.9  # from there on a teacher may well have nothing left to say
SLOWEST_CALLS = 3  # of a step that are named
SLOW_CALL_SECONDS, SLOW_CALL_SHARE = 10.0, 0.3  # of a step: from there on one is worth a line

Row = dict[str, Any]  # metrics of a step, as in metrics.jsonl


def describe(
    batch: RolloutBatch, rollouts: Sequence[Rollout], processes: Processes
) -> dict[str, float]:
    """What a batch says, whatever the algorithm; of all processes together.

    response_tokens and response_tokens_max: mean and maximum of the policy's tokens per rollout.
    prompt_tokens: mean of the first prompt's; teacher_prompt_tokens: mean over the rollouts with a
    teacher prompt, which is there if one has.
    truncated: share of rollouts that were cut. format_errors: share whose answer was not understood
    (`Status.is_format`). status/NAME: share of each of the environment's words for an outcome.
    groups_with_signal: share of rollouts whose group's rewards differ.
    """
    statuses: Counter[str] = Counter()
    for words in processes.gather([r.status for r in rollouts if r.status]):
        statuses.update(words)
    count = batch.num_rollouts
    sums = processes.sum(
        {
            "reward": float(batch.rewards.sum()),
            "truncated": float(sum(r.finish == "length" for r in rollouts)),
            "prompt": float(batch.prompt_mask.sum()),
            "teacher_prompt": float(batch.teacher_prompt_mask[batch.has_teacher].sum()),
        }
    )
    with_teacher = batch.num_solved_with_teacher + batch.num_failed_with_teacher
    prompts = {"prompt_tokens": sums["prompt"] / count}
    if with_teacher:
        prompts["teacher_prompt_tokens"] = sums["teacher_prompt"] / with_teacher
    return {
        "rollouts": count,
        "reward": sums["reward"] / count,
        "solved": batch.num_solved / count,
        "response_tokens": batch.num_tokens / count,
        "response_tokens_max": float(processes.max(int(batch.lengths.max()))),
        **prompts,
        "truncated": sums["truncated"] / count,
        "format_errors": sum(n for s, n in statuses.items() if s in _FORMAT_ERRORS) / count,
        "teacher_fraction": with_teacher / count,
        "groups_with_signal": batch.num_signal_rollouts / count,
        **{f"status/{name}": n / count for name, n in sorted(statuses.items())},
    }


def describe_teacher_rollouts(batch: RolloutBatch | None) -> dict[str, float]:
    """How many rollouts of a step were sampled on the teacher's prompt, of all processes together,
    and, where there are any, the share that is solved and their mean length. `describe` is of the
    others."""
    if batch is None:
        return {"teacher_rollouts/count": 0.0}
    count = batch.num_rollouts
    return {
        "teacher_rollouts/count": count,
        "teacher_rollouts/solve_rate": batch.num_solved / count,
        "teacher_rollouts/mean_tokens": batch.num_tokens / count,
    }


def slowest_judged(rollouts: Sequence[Rollout], processes: Processes) -> list[tuple[str, float]]:
    """The problems and seconds of the judge calls that took longest, the slowest first; of all
    processes together, and none where the environment does not tell."""
    mine = [(r.problem_id, round(r.judge_seconds, 3)) for r in rollouts]
    calls = [call for each in processes.gather(_slowest(mine)) for call in each if call[1] > 0]
    return _slowest(calls)


def why_slow(calls: Sequence[tuple[str, float]], step_seconds: float) -> str | None:
    """What there is to say where one judge call took a good part of a step, else None."""
    if not calls or calls[0][1] < max(SLOW_CALL_SECONDS, SLOW_CALL_SHARE * step_seconds):
        return None
    problem_id, seconds = calls[0]
    return (
        f"judging one answer to {problem_id} took {seconds:.0f} s of its {step_seconds:.0f} s. "
        "Lower limits or fewer tests for such problems would make steps quicker."
    )


@dataclass
class CollapseMonitor:
    """Reads the rows of metrics.jsonl, one after the other, and says what is wrong.

    A run has collapsed when its score has been below config.collapse_ratio times its best for
    config.collapse_patience looks in a row, or its entropy outside its bounds for as many. The
    score is held-out pass@1, each evaluation being a look; of runs that are never evaluated it is
    the mean reward of ten steps. Nothing is read but the rows, so a resumed run reads those of its
    folder and is as wise as one that was never stopped.

    Two more signs are warned of, without being a collapse. More answers are cut off: their share
    over ten steps is three times that of the first ten, or half way from there to 1. Answers that
    never end are the first sign of a drifting style. And a teacher that is nearly inactive: over
    ten steps the mean divergence is below `quiet`, fewer than nine in ten rollouts are solved, and
    at the last evaluation, if there was one, the teacher repaired no larger a share of the failed
    attempts than the student solves of all held-out problems, which are no harder than these.

    quiet: nats a token, see `quiet_divergence`.
    """

    config: TrainConfig
    has_teacher: bool = True  # whether the algorithm has one
    quiet: float = INACTIVE

    collapsed: str | None = field(default=None, init=False)  # why, once it has
    best: float = field(default=-math.inf, init=False)  # score
    best_step: int | None = field(default=None, init=False)  # of the best evaluation
    _evaluated: bool = field(default=False, init=False)
    _repair: float = field(default=math.nan, init=False)  # less pass@1, at the last evaluation
    _truncated: float | None = field(default=None, init=False)  # share in the first ten steps
    _steps: list[Row] = field(default_factory=list, init=False)  # since the last look at them
    _streaks: Counter[str] = field(default_factory=Counter, init=False)
    _said: set[str] = field(default_factory=set, init=False)

    def observe(self, row: Row) -> list[str]:
        """What there is to warn of after this row. Each thing is said once."""
        found: list[str] = []
        score = row.get(PASS_1)
        if score is not None and math.isfinite(score):
            if not self._evaluated:
                self._evaluated, self.best = True, -math.inf
            if score > self.best:
                self.best_step = row["step"]
            found += self._judge_score(score, "held-out pass@1", row["step"])
            self._repair = row.get(REPAIR, math.nan) - score
        if "reward" in row:
            self._steps.append(row)
        if len(self._steps) == STEPS_PER_LOOK:
            found += self._judge_steps()
            self._steps = []
        return found

    def _judge_score(self, score: float, name: str, step: int) -> list[str]:
        self.best = max(self.best, score)
        ratio, patience = self.config.collapse_ratio, self.config.collapse_patience
        fallen = score < ratio * self.best and self.best - score >= LEAST_FALL
        return self._collapse_if(
            fallen,
            "score",
            f"step {step}: {name} has been below {ratio:g} of its best ({self.best:.3f}) "
            f"{patience} times in a row and is {score:.3f} now",
        )

    def _judge_steps(self) -> list[str]:
        step = self._steps[-1]["step"]
        found: list[str] = []
        if not self._evaluated:
            reward = _mean([row["reward"] for row in self._steps])
            found += self._judge_score(reward, "the mean reward of ten steps", step)
        entropy = _mean(_values(self._steps, "/entropy"))
        least, most = self.config.min_entropy, self.config.max_entropy
        for outside, word, bound, limit in (
            (least is not None and entropy < least, "below", "min", least),
            (most is not None and entropy > most, "above", "max", most),
        ):
            text = f"step {step}: the entropy of the policy is {entropy:.3g} nats a token"
            found += self._collapse_if(outside, bound, f"{text}, {word} {bound}_entropy = {limit}")
        norms = _values(self._steps, "/grad_norm")
        if norms and max(norms) < NO_GRADIENT:
            found += self._once("gradient", _why_no_gradient(self._steps, self.has_teacher))
        return found + self._judge_truncated(step) + self._judge_teacher(step)

    def _judge_truncated(self, step: int) -> list[str]:
        share = _mean([row["truncated"] for row in self._steps])
        if self._truncated is None:
            self._truncated = share
        first = self._truncated
        if share < first + LEAST_FALL or share < min(TRUNCATED_RISE * first, (1 + first) / 2):
            return []
        return self._once(
            "truncated",
            f"step {step}: {100 * share:.0f} % of the last answers were cut off, of the first ones "
            f"{100 * first:.0f} %. Answers that do not end are an early sign of a collapse; where "
            f"they are really that long, raise --max-response-tokens.",
        )

    def _judge_teacher(self, step: int) -> list[str]:
        divergence = _mean(_values(self._steps, "/divergence"))
        solved = _mean([row["solved"] for row in self._steps])
        if not (divergence < self.quiet and solved < MOSTLY_SOLVED) or self._repair > 0:
            return []
        repair = "" if math.isnan(self._repair) else " It repairs no more than the student solves."
        return self._once(
            "teacher",
            f"step {step}: distillation is nearly inactive: where the teacher is heard, it differs "
            f"from the student by {divergence:.2g} nats a token over ten steps (below "
            f"{self.quiet:.2g}).{repair} Richer --feedback, a larger model or a reward (vpd-pg, "
            f"grpo) may help; vpd probe measures it before a run.",
        )

    def _collapse_if(self, bad: bool, sign: str, text: str) -> list[str]:
        self._streaks[sign] = self._streaks[sign] + 1 if bad else 0
        if self._streaks[sign] < self.config.collapse_patience:
            return []
        found = self._once(sign, f"Training seems to have collapsed; {text}.")
        if found:
            self.collapsed = self.collapsed or found[0]
        return found

    def _once(self, what: str, text: str) -> list[str]:
        found = [] if what in self._said else [text]
        self._said.add(what)
        return found


def quiet_divergence(algorithm: Algorithm) -> float:
    """The mean divergence, in nats a token, below which a teacher is nearly inactive: INACTIVE for
    a KL (evaluation/probe.py). The generalized JSD of distributions that are near each other is
    about α(1−α) times their KL, so its bound is as much lower."""
    alpha = algorithm.alpha if isinstance(algorithm, Distillation) else 1.0
    return INACTIVE * (alpha * (1 - alpha) if 0 < alpha < 1 else 1.0)


_FORMAT_ERRORS = frozenset(status.value for status in Status if status.is_format)


def _why_no_gradient(rows: Sequence[Row], has_teacher: bool) -> str:
    reasons = []
    if not any(row["groups_with_signal"] for row in rows):
        reasons.append("Within every group all rewards were the same.")
    if has_teacher and not any(row["teacher_fraction"] for row in rows):
        reasons.append("No row had a teacher, which needs the environment's infos['feedback'].")
    text = f"The gradient of the last {len(rows)} steps was zero: nothing is learned."
    return " ".join([text, *reasons])


def _values(rows: Sequence[Row], ending: str) -> list[float]:
    return [value for row in rows for key, value in row.items() if key.endswith(ending)]


def _slowest(calls: Sequence[tuple[str, float]]) -> list[tuple[str, float]]:
    return sorted(calls, key=lambda call: call[1], reverse=True)[:SLOWEST_CALLS]


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values) if values else math.nan
