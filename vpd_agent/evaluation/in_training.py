"""Evaluations of a run on held-out problems, while it trains."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import gymnasium as gym
import torch

from vpd_agent.data.types import Message
from vpd_agent.evaluation.evaluate import Evaluation, OnProgress, answer_each
from vpd_agent.rollout.collect import Actor, all_problem_ids

if TYPE_CHECKING:
    from vpd_agent.train.config import TrainConfig

PASS_1 = "eval/student_pass@1"


@dataclass(frozen=True)
class Failure:
    """An answer that did not solve its problem, with what was said of it."""

    problem_id: str
    messages: list[Message]
    attempt: str
    feedback: str
    demonstration: str = ""


@dataclass
class StudentEvaluation(Evaluation):
    """Outcomes per problem, and the answers that failed."""

    failures: list[Failure] = field(default_factory=list)


def held_out_problems(environment: gym.vector.VectorEnv, config: TrainConfig) -> list[str]:
    """The problems that a run is evaluated on: all, or a sample of config.eval_problems."""
    ids = sorted(all_problem_ids(environment))
    if len(ids) <= config.eval_problems:
        return ids
    return random.Random(config.seed).sample(ids, config.eval_problems)


def evaluate_student(
    actor: Actor,
    problem_ids: Sequence[str],
    config: TrainConfig,
    generator: torch.Generator | None = None,
    on_progress: OnProgress | None = None,
) -> StudentEvaluation:
    """config.eval_samples answers to each problem, as many at once as the environment takes."""
    result, size = StudentEvaluation(), actor.environment.num_envs
    answers = [p for p in problem_ids for _ in range(config.eval_samples)]
    for start in range(0, len(answers), size):
        rollouts, errors = answer_each(actor, answers[start : start + size], generator)
        result.dropped += len(errors)
        for r in rollouts.values():
            solved = r.reward >= config.success_reward
            result.add(r.problem_id, solved=solved, status=r.status)
            if not solved:
                said = r.text, r.feedback, r.demonstration
                result.failures.append(Failure(r.problem_id, r.messages, *said))
        if on_progress is not None:
            on_progress(sum(result.judged.values()) + result.dropped, len(answers))
    return result


def evaluate_teacher(
    actor: Actor,
    failures: Sequence[Failure],
    teacher_prompt: Callable[..., list[int] | None],
    config: TrainConfig,
    generator: torch.Generator | None = None,
) -> list[bool]:
    """Whether the actor, shown the feedback of a failed attempt, solves its problem: for each
    attempt that has feedback and whose new answer could be judged.

    teacher_prompt: the function of this name, with policy, template and max_tokens given.
    """
    ids, prompts = [], []
    for failure in failures:
        given = failure.messages, failure.attempt, failure.feedback
        prompt = teacher_prompt(*given, solved=False, demonstration=failure.demonstration)
        if prompt is not None:
            ids.append(failure.problem_id)
            prompts.append(prompt)
    limit = config.max_response_tokens
    results = actor.answer(ids, prompts, max_tokens=limit, generator=generator)
    return [r.reward >= config.success_reward for r in results if r.error is None]


def merged(parts: Sequence[StudentEvaluation]) -> StudentEvaluation:
    """The evaluations of different problems as one."""
    whole = StudentEvaluation()
    for part in parts:
        whole.solved |= part.solved
        whole.judged |= part.judged
        whole.statuses += part.statuses
        whole.failures += part.failures
        whole.dropped += part.dropped
    return whole


def eval_metrics(student: Evaluation, repaired: Sequence[bool]) -> dict[str, float]:
    """The metrics of an evaluation. repaired: whether the teacher solved each of the failures."""
    return {
        PASS_1: student.pass_at_1,
        "eval/teacher_repair": sum(repaired) / len(repaired) if repaired else math.nan,
        "eval/dropped": student.dropped,
        **{
            f"eval/status/{name}": count / max(student.statuses.total(), 1)
            for name, count in sorted(student.statuses.items())
        },
    }
