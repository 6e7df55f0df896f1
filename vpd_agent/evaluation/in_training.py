"""Evaluations of a run on held-out problems, while it trains."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import gymnasium as gym
import torch

from vpd_agent.data.types import Message
from vpd_agent.engines import Engine
from vpd_agent.evaluation.evaluate import Evaluation, OnProgress, answer_each
from vpd_agent.model.policy import Policy
from vpd_agent.rollout.collect import all_problem_ids, generate_and_judge
from vpd_agent.rollout.teacher_prompt import TeacherTemplate, teacher_prompt

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
    policy: Policy,
    engine: Engine,
    environment: gym.vector.VectorEnv,
    problem_ids: Sequence[str],
    config: TrainConfig,
    generator: torch.Generator | None = None,
    on_progress: OnProgress | None = None,
) -> StudentEvaluation:
    """config.eval_samples answers to each problem, as many at once as the environment takes."""
    result = StudentEvaluation()
    answers = [p for p in problem_ids for _ in range(config.eval_samples)]
    for start in range(0, len(answers), environment.num_envs):
        rollouts, errors = answer_each(
            policy,
            engine,
            environment,
            answers[start : start + environment.num_envs],
            max_response_tokens=config.max_response_tokens,
            max_turn_tokens=config.max_turn_tokens,
            temperature=config.temperature,
            generator=generator,
        )
        result.dropped += len(errors)
        for r in rollouts.values():
            solved = r.reward >= config.success_reward
            result.add(r.problem_id, solved=solved, status=r.status)
            if not solved:
                result.failures.append(Failure(r.problem_id, r.messages, r.text, r.feedback))
        if on_progress is not None:
            on_progress(sum(result.judged.values()) + result.dropped, len(answers))
    return result


def evaluate_teacher(
    policy: Policy,
    engine: Engine,
    environment: gym.vector.VectorEnv,
    failures: Sequence[Failure],
    template: TeacherTemplate,
    config: TrainConfig,
    generator: torch.Generator | None = None,
    *,
    max_prompt_tokens: int,
) -> list[bool]:
    """Whether the policy, shown the feedback of a failed attempt, solves its problem: for each
    attempt that has feedback and whose new answer could be judged."""
    prompts = [
        teacher_prompt(
            policy,
            template,
            f.messages,
            f.attempt,
            f.feedback,
            solved=False,
            max_tokens=max_prompt_tokens,
        )
        for f in failures
    ]
    repairable = [(f, p) for f, p in zip(failures, prompts, strict=True) if p is not None]
    results = generate_and_judge(
        policy,
        engine,
        environment,
        [f.problem_id for f, _ in repairable],
        [p for _, p in repairable],
        max_response_tokens=config.max_response_tokens,
        temperature=config.temperature,
        generator=generator,
    )
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
