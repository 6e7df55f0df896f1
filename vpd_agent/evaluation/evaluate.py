"""How good are the student and the teacher on held-out problems?"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field

import gymnasium as gym
import torch

from vpd_agent.data.types import Message, Rollout
from vpd_agent.engines import Engine
from vpd_agent.evaluation.answer_file import AnswerFile
from vpd_agent.evaluation.statistics import Interval, pass_at_k
from vpd_agent.model.policy import Policy
from vpd_agent.rollout.collect import collect, generate_and_judge
from vpd_agent.rollout.teacher_prompt import TeacherTemplate, teacher_prompt

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


def evaluate_student(
    policy: Policy,
    engine: Engine,
    environment: gym.vector.VectorEnv,
    problem_ids: Sequence[str],
    *,
    samples: int = 1,
    max_response_tokens: int,
    max_turn_tokens: int | None = None,
    temperature: float = 1.0,
    success_reward: float = 1.0,
    generator: torch.Generator | None = None,
    on_progress: OnProgress | None = None,
) -> Evaluation:
    """`samples` answers to each problem, in chunks of as many as the environment takes."""
    result = Evaluation()
    answers = [p for p in problem_ids for _ in range(samples)]
    for start in range(0, len(answers), environment.num_envs):
        chunk = answers[start : start + environment.num_envs]
        rollouts, errors = _answered(
            policy,
            engine,
            environment,
            chunk,
            max_response_tokens=max_response_tokens,
            max_turn_tokens=max_turn_tokens,
            temperature=temperature,
            generator=generator,
        )
        result.dropped += len(errors)
        for r in rollouts.values():
            solved = r.reward >= success_reward
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
    *,
    max_prompt_tokens: int,
    max_response_tokens: int,
    temperature: float = 1.0,
    success_reward: float = 1.0,
    generator: torch.Generator | None = None,
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
    judged = generate_and_judge(
        policy,
        engine,
        environment,
        [f.problem_id for f, _ in repairable],
        [p for _, p in repairable],
        max_response_tokens=max_response_tokens,
        temperature=temperature,
        generator=generator,
    )
    return [j.reward >= success_reward for j in judged if j.error is None]


def complete_answers(
    file: AnswerFile,
    policy: Policy,
    engine: Engine,
    environment: gym.vector.VectorEnv,
    problem_ids: Sequence[str],
    *,
    samples: int,
    seed: int,
    max_response_tokens: int,
    max_turn_tokens: int | None = None,
    temperature: float = 1.0,
    on_progress: OnProgress | None = None,
) -> None:
    """Add the answers that a file lacks, `samples` to each problem: those that no one has given
    yet, and those that could not be judged.

    The answers are given in calls of as many as the environment takes, first one to each problem,
    then a second one, so that a part of them says something already. What a call is and what its
    generator is seeded with depend on nothing that is in the file: a call that was cut short is
    made again and gives the same answers, wherever it was cut.
    """
    wanted = [(p, sample) for sample in range(samples) for p in problem_ids]
    for start in range(0, len(wanted), environment.num_envs):
        call = wanted[start : start + environment.num_envs]
        if any(key not in file.judged for key in call):
            rollouts, errors = _answered(
                policy,
                engine,
                environment,
                [p for p, _ in call],
                max_response_tokens=max_response_tokens,
                max_turn_tokens=max_turn_tokens,
                temperature=temperature,
                generator=_generator(policy.device, seed, call),
            )
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


def failure_to_json(failure: Failure) -> dict:
    return asdict(failure)


def failure_from_json(data: dict) -> Failure:
    return Failure(**data)


def _answered(
    policy: Policy,
    engine: Engine,
    environment: gym.vector.VectorEnv,
    problem_ids: list[str],
    *,
    max_response_tokens: int,
    max_turn_tokens: int | None,
    temperature: float,
    generator: torch.Generator | None,
) -> tuple[dict[int, Rollout], dict[int, str]]:
    """An answer to each problem, of which there are no more than the environment takes; by the
    place in the list, and the errors of those that could not be judged."""
    padding = environment.num_envs - len(problem_ids)
    collected = collect(
        policy,
        engine,
        environment,
        problem_ids + problem_ids[:1] * padding,
        group_size=1,
        max_response_tokens=max_response_tokens,
        max_turn_tokens=max_turn_tokens,
        temperature=temperature,
        generator=generator,
    )
    rollouts = {r.group: r for r in collected.rollouts}
    lost = (i for i in range(environment.num_envs) if i not in rollouts)
    errors = dict(zip(lost, collected.dropped, strict=True))
    count = len(problem_ids)
    return (
        {i: r for i, r in rollouts.items() if i < count},
        {i: error for i, error in errors.items() if i < count},
    )


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
    }


def _generator(device: torch.device, seed: int, call: Sequence[tuple[str, int]]) -> torch.Generator:
    """Of random numbers that belong to these samples of these problems."""
    digest = hashlib.sha256(repr((seed, list(call))).encode("utf-8", "surrogatepass")).digest()
    return torch.Generator(device).manual_seed(int.from_bytes(digest[:7]))
