"""How good are the student and the teacher on held-out problems?"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field

import gymnasium as gym
import torch

from vpd_agent.collect import collect, judge, read_prompts
from vpd_agent.engines import Engine
from vpd_agent.policy import Policy
from vpd_agent.teacher import TeacherTemplate, teacher_prompt
from vpd_agent.types import Message

OnProgress = Callable[[int, int], None]  # answers judged so far, answers in all


@dataclass(frozen=True)
class Failure:
    """An answer that did not solve its problem, with what was said of it."""

    problem_id: str
    messages: list[Message]
    attempt: str
    feedback: str


@dataclass
class Evaluation:
    """Outcomes per problem. `dropped` answers could not be judged and count nowhere."""

    solved: dict[str, int] = field(default_factory=dict)
    judged: dict[str, int] = field(default_factory=dict)
    statuses: Counter[str] = field(default_factory=Counter)
    failures: list[Failure] = field(default_factory=list)
    dropped: int = 0

    @property
    def pass_at_1(self) -> float:
        """Mean over problems of the share of answers that solved it; NaN if none was judged."""
        shares = [self.solved[p] / n for p, n in self.judged.items() if n]
        return sum(shares) / len(shares) if shares else float("nan")


def evaluate_student(
    policy: Policy,
    engine: Engine,
    environment: gym.vector.VectorEnv,
    problem_ids: Sequence[str],
    *,
    samples: int = 1,
    max_response_tokens: int,
    temperature: float = 1.0,
    success_reward: float = 1.0,
    generator: torch.Generator | None = None,
    on_progress: OnProgress | None = None,
) -> Evaluation:
    """`samples` answers to each problem, in chunks of as many as the environment takes."""
    result = Evaluation()
    answers = [p for p in problem_ids for _ in range(samples)]
    for chunk, padding in _chunks(answers, environment.num_envs):
        collected = collect(
            policy,
            engine,
            environment,
            chunk + chunk[:1] * padding,
            group_size=1,
            max_response_tokens=max_response_tokens,
            temperature=temperature,
            generator=generator,
        )
        rollouts = [r for r in collected.rollouts if r.group < len(chunk)]
        result.dropped += len(chunk) - len(rollouts)
        for r in rollouts:
            solved = r.reward >= success_reward
            result.judged[r.problem_id] = result.judged.get(r.problem_id, 0) + 1
            result.solved[r.problem_id] = result.solved.get(r.problem_id, 0) + solved
            result.statuses[r.status] += 1
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
    *,
    max_prompt_tokens: int,
    max_response_tokens: int,
    temperature: float = 1.0,
    success_reward: float = 1.0,
    generator: torch.Generator | None = None,
) -> float:
    """The repair rate: the share of failed attempts whose problem the policy solves when it is
    shown the attempt's feedback. NaN without failures that have feedback."""
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
    outcomes: list[bool] = []
    for chunk, padding in _chunks(repairable, environment.num_envs):
        generations = engine.generate(
            [p for _, p in chunk],
            max_tokens=max_response_tokens,
            temperature=temperature,
            generator=generator,
        )
        ids = [f.problem_id for f, _ in chunk]
        read_prompts(environment, ids + ids[:1] * padding)
        texts = [policy.decode(g.ids) for g in generations]
        judged = judge(environment, texts + [""] * padding)[: len(chunk)]
        outcomes += [j.reward >= success_reward for j in judged if j.error is None]
    return sum(outcomes) / len(outcomes) if outcomes else float("nan")


def failure_to_json(failure: Failure) -> dict:
    return asdict(failure)


def failure_from_json(data: dict) -> Failure:
    return Failure(**data)


def _chunks(rows: list, size: int) -> list[tuple[list, int]]:
    """Rows in chunks of `size`, and how many rows each chunk lacks."""
    chunks = [rows[i : i + size] for i in range(0, len(rows), size)]
    return [(chunk, size - len(chunk)) for chunk in chunks]
