"""Answers of a model to problems, and what they say of it."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch

from vpd_agent.data.types import Rollout
from vpd_agent.evaluation.answer_file import AnswerFile
from vpd_agent.evaluation.random_numbers import generator_for
from vpd_agent.rollout.collect import Actor
from vpd_agent.statistics.rates import Interval, pass_at_k

OnProgress = Callable[[int, int], None]  # answers judged so far, answers in all


@dataclass
class Evaluation:
    """Outcomes per problem.

    solved, judged: numbers of answers, by problem. statuses: numbers of answers with each.
    dropped: answers that could not be judged; they count nowhere else.
    """

    solved: dict[str, int] = field(default_factory=dict)
    judged: dict[str, int] = field(default_factory=dict)
    statuses: Counter[str] = field(default_factory=Counter)
    dropped: int = 0

    def add(self, problem_id: str, *, solved: bool, status: str) -> None:
        self.judged[problem_id] = self.judged.get(problem_id, 0) + 1
        self.solved[problem_id] = self.solved.get(problem_id, 0) + solved
        self.statuses[status] += 1

    @property
    def pass_at_1(self) -> float:
        """Mean over problems of the share of answers that solved it, which is also avg@k of k
        answers each; NaN if none was judged."""
        return self.pass_at(1).mean

    def pass_at(self, k: int) -> Interval:
        """Unbiased pass@k, over the problems of which at least k answers were judged."""
        return Interval.of(
            [pass_at_k(n, self.solved[p], k) for p, n in self.judged.items() if n >= k]
        )


def problem_sample(problem_ids: Sequence[str], count: int) -> list[str]:
    """At most `count` of the problems, which a hash of their ids decides: fewer are a fair sample
    of more."""

    def digest(problem_id: str) -> bytes:
        return hashlib.sha256(problem_id.encode("utf-8", "surrogatepass")).digest()

    return sorted(problem_ids, key=digest)[:count]


def answer_each(
    actor: Actor, problem_ids: Sequence[str], generator: torch.Generator | None = None
) -> tuple[dict[int, Rollout], dict[int, str]]:
    """Answer each problem once. There may be no more of them than the environment takes.

    Returns the rollouts, and the errors of the answers that could not be judged, both by the place
    of the problem in the list.
    """
    count = len(problem_ids)
    padding = [problem_ids[0]] * (actor.environment.num_envs - count)
    collected = actor.collect([*problem_ids, *padding], generator=generator)
    rollouts = {r.group: r for r in collected.rollouts if r.group < count}
    lost = (i for i in range(count) if i not in rollouts)
    # The errors come in the order of the answers: behind these are those of the padding.
    return rollouts, dict(zip(lost, collected.dropped, strict=False))


def complete_answers(
    file: AnswerFile,
    actor: Actor,
    problem_ids: Sequence[str],
    *,
    samples: int,
    seed: int,
    on_progress: OnProgress | None = None,
) -> None:
    """Add the answers that a file lacks of `samples` to each problem: those that were never given,
    and those that could not be judged.

    A call answers as many problems as the environment takes: first each problem once, then each a
    second time, so that the first part of the answers is already an estimate. Which answers belong
    to a call, and the seed of its generator, do not depend on what is in the file: a call that was
    interrupted is made again and gives the same answers.
    """
    wanted = [(p, sample) for sample in range(samples) for p in problem_ids]
    for start in range(0, len(wanted), actor.environment.num_envs):
        call = wanted[start : start + actor.environment.num_envs]
        if any(key not in file.judged for key in call):
            generator = generator_for(actor.policy.device, seed, call)
            rollouts, errors = answer_each(actor, [p for p, _ in call], generator)
            rows = [
                {"problem_id": p, "sample": sample, **_row(rollouts.get(i), errors.get(i))}
                for i, (p, sample) in enumerate(call)
                if (p, sample) not in file.judged
            ]
            file.append(rows)
        if on_progress is not None:
            on_progress(start + len(call), len(wanted))


def summarize(
    file: AnswerFile, problem_ids: Sequence[str], samples: int, success_reward: float = 1.0
) -> Evaluation:
    """What a file says of `samples` answers to each problem; dropped are those it lacks."""
    result = Evaluation()
    for problem_id in problem_ids:
        for sample in range(samples):
            row = file.judged.get((problem_id, sample))
            if row is None:
                result.dropped += 1
                continue
            solved = row["reward"] >= success_reward
            result.add(problem_id, solved=solved, status=row["status"])
    return result


def _row(rollout: Rollout | None, error: str | None) -> dict:
    if rollout is None:
        return {"error": error}
    return {
        "reward": rollout.reward,
        "status": rollout.status,
        "finish": rollout.finish,
        "tokens": len(rollout.response_ids),
        "answer": rollout.text,
        "feedback": rollout.feedback,
        **({"demonstration": shown} if (shown := rollout.demonstration) else {}),
    }
