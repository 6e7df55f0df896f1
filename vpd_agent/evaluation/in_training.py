"""Evaluations of a run on held-out problems, while it trains."""

from __future__ import annotations

import math
import random
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import gymnasium as gym
import torch

from vpd_agent.data.batch import RolloutBatch
from vpd_agent.data.types import Message, Rollout
from vpd_agent.evaluation.evaluate import Evaluation, OnProgress, answer_each
from vpd_agent.model.policy import Policy
from vpd_agent.rollout.collect import Actor, all_problem_ids

if TYPE_CHECKING:
    from vpd_agent.train.config import TrainConfig

PASS_1 = "eval/student_pass@1"
REPAIR = "eval/teacher_repair"


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
    """Outcomes per problem, the answers that failed, and the first ones that solved theirs."""

    failures: list[Failure] = field(default_factory=list)
    successes: list[Rollout] = field(default_factory=list)


def held_out_problems(environment: gym.vector.VectorEnv, config: TrainConfig) -> list[str]:
    """The problems that a run is evaluated on: all, or a sample of config.eval_problems."""
    ids = sorted(all_problem_ids(environment))
    if config.set_aside:
        ids = problems_set_aside(ids, config.set_aside)
    if len(ids) <= config.eval_problems:
        return ids
    seed = config.seed if config.eval_seed is None else config.eval_seed
    return random.Random(seed).sample(ids, config.eval_problems)


def problems_set_aside(ids: Sequence[str], share: float) -> list[str]:
    """This share of the problems, sorted; the same ones for every seed. Raises ValueError if that
    is none of them, or all."""
    count = round(share * len(ids))
    if not 0 < count < len(ids):
        raise ValueError(
            f"set_aside = {share} of {len(ids)} training problems sets {count} aside: choose a "
            f"share that leaves some to train on and some to evaluate on."
        )
    return sorted(random.Random("set aside").sample(sorted(ids), count))


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
            if solved:
                result.successes.append(r)
            else:
                said = r.text, r.feedback, r.demonstration
                result.failures.append(Failure(r.problem_id, r.messages, *said))
        del result.successes[config.eval_successes :]
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
    attempt that has feedback and whose new answer could be judged. It answers once, however many
    turns an episode may have.

    teacher_prompt: the function of this name, with policy, template and max_tokens given.
    """
    ids, prompts = [], []
    for failure in failures:
        given = failure.messages, failure.attempt, failure.feedback
        prompt = teacher_prompt(*given, solved=False, demonstration=failure.demonstration)
        if prompt is not None:
            ids.append(failure.problem_id)
            prompts.append(prompt)
    limit = actor.max_answer_tokens
    results = actor.answer(ids, prompts, max_tokens=limit, generator=generator)
    return [r.reward >= config.success_reward for r in results if r.error is None]


def forms_changed(
    actor: Actor,
    successes: Sequence[Rollout],
    teacher_prompts: Sequence[list[int] | None],
    generator: torch.Generator | None = None,
) -> list[bool]:
    """Whether the actor, told that a solved attempt was right, answers in another form than that:
    for each attempt with a teacher prompt. The answers are not judged."""
    shown = [(r, p) for r, p in zip(successes, teacher_prompts, strict=True) if p is not None]
    if not shown:
        return []
    answers = actor.engine.generate(
        [prompt for _, prompt in shown],
        max_tokens=actor.max_answer_tokens,
        temperature=actor.temperature,
        generator=generator,
    )
    texts = [
        actor.policy.answer_text(prompt, answer.ids)
        for (_, prompt), answer in zip(shown, answers, strict=True)
    ]
    return [form(text) != form(r.text) for text, (r, _) in zip(texts, shown, strict=True)]


def form(answer: str) -> str:
    """What is left of an answer when its numbers are left out: every run of digits, with its
    decimal point, becomes `#`, and white space a single blank.

    x*7+3 and x*4+12 have one form, 7*x+3 has another. Two answers of one form may still differ in
    what they say where that is a letter or a word (the options A and B have two forms); and free
    text of more than a few words is hardly ever of one form twice.
    """
    return " ".join(_NUMBER.sub("#", answer).split())


_NUMBER = re.compile(r"\d+(?:\.\d+)?")


def with_logprobs(
    policy: Policy, rollouts: Sequence[Rollout], config: TrainConfig
) -> list[Rollout]:
    """The rollouts with the log-probabilities that the policy gives its own tokens in them, at the
    run's temperature; 0 for the environment's."""
    if not rollouts:
        return []
    batch = RolloutBatch.from_rollouts(rollouts, [None] * len(rollouts), pad_id=policy.pad_id)
    scored = list(rollouts)
    for rows in batch.parts(config.micro_batch_size, config.micro_batch_tokens):
        part = batch.rows(rows).trimmed().to(policy.device)
        prompts, responses = (part.prompt, part.prompt_mask), (part.response, part.token_mask)
        with torch.no_grad():
            result = policy.forward(
                *prompts, *responses, part.loss_mask, temperature=config.temperature
            )
        for row, logprobs in zip(rows.tolist(), result.logprobs.float().tolist(), strict=True):
            count = len(rollouts[row].response_ids)
            scored[row] = replace(rollouts[row], logprobs=logprobs[:count])
    return scored


def distance(policy: Policy, initial: Sequence[Rollout], config: TrainConfig) -> dict[str, float]:
    """Sums over the policy's own tokens of log π_0 − log π_θ, "distance", and their number,
    "tokens". initial: what π_0 sampled, with its log-probabilities (`with_logprobs`).

    Their quotient estimates KL(π_0‖π_θ) per token, on those answers of π_0 that are given; it is
    not their KL where these are chosen, such as the solved ones.
    """
    now = with_logprobs(policy, initial, config)
    pairs = [(a.logprobs, b.logprobs) for a, b in zip(initial, now, strict=True)]
    return {
        "distance": float(sum(sum(before) - sum(after) for before, after in pairs)),
        "tokens": float(sum(sum(r.is_policy_token or [True] * len(r.response_ids)) for r in now)),
    }


def merged(parts: Sequence[StudentEvaluation]) -> StudentEvaluation:
    """The evaluations of different problems as one."""
    whole = StudentEvaluation()
    for part in parts:
        whole.solved |= part.solved
        whole.judged |= part.judged
        whole.statuses += part.statuses
        whole.failures += part.failures
        whole.successes += part.successes
        whole.dropped += part.dropped
    return whole


def eval_metrics(
    student: Evaluation,
    repaired: Sequence[bool],
    changed: Sequence[bool],
    moved: Mapping[str, float],
) -> dict[str, float]:
    """The metrics of an evaluation; NaN where there was nothing to measure on.

    repaired: whether the teacher solved each of the failures; changed: whether it answered in
    another form after each of the successes; moved: `distance` on these.
    """
    return {
        PASS_1: student.pass_at_1,
        REPAIR: _share(repaired),
        "eval/form_changed": _share(changed),
        "eval/distance_solved": moved["distance"] / moved["tokens"]
        if moved["tokens"]
        else math.nan,
        "eval/dropped": student.dropped,
        **{
            f"eval/status/{name}": count / max(student.statuses.total(), 1)
            for name, count in sorted(student.statuses.items())
        },
    }


def _share(outcomes: Sequence[bool]) -> float:
    return sum(outcomes) / len(outcomes) if outcomes else math.nan
