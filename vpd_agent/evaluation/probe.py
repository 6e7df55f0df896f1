"""What a teacher with feedback has to teach a student, measured before any training.

The student answers problems, several times each; the teacher answers once after each of these, with
what was said of it. Two things decide whether a student can learn from such a teacher: whether it
solves more of what the student fails than the student does by trying again (arXiv 2605.30070 finds
that this first gap predicts the final gain), and how far its next-token distributions are from the
student's on the student's answers, since the divergence is all that is learned from.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from vpd_agent.algorithms.base import LossInputs
from vpd_agent.algorithms.trust_gate import solve_rates_of_others
from vpd_agent.data.batch import RolloutBatch
from vpd_agent.data.types import Rollout
from vpd_agent.evaluation.evaluate import OnProgress
from vpd_agent.evaluation.random_numbers import generator_for
from vpd_agent.model.policy import Policy
from vpd_agent.model.teacher import Teacher
from vpd_agent.rollout.collect import Actor, StepResult
from vpd_agent.statistics.rates import Interval, difference
from vpd_envs.types import Status

FEW_FAILURES = 20  # failed answers, and
FEW_PROBLEMS = 8  # problems they are to, from which on the teacher is judged
INACTIVE = 0.01  # nats a token
"""A divergence below which a teacher is nearly inactive. By Pinsker's inequality a KL of 0.01 nat
lets the probability of no set of next tokens differ by more than √(0.01 / 2) = 0.07."""

MANY_FORMAT_ERRORS = 0.5  # share of answers from which on they are worth a word
SMALL_GAP = 0.05
"""A share of failed answers that is too small to learn much from its repair."""

TeacherPrompts = Callable[[Sequence[Rollout]], Sequence[list[int] | None]]
QUANTILES = (0.5, 0.9, 0.99)
PLACES = 1 << 15  # tokens that go through the models at once
ROWS = 64  # rollouts, at most


@dataclass(frozen=True)
class Answered:
    """An answer of the student, and what the teacher makes of the feedback on it.

    solved: by the student. other_rate: share of the other answers to the problem that are.
    prompt: the teacher's; None without feedback. teacher: what the environment says of the
    teacher's answer; None without a prompt, or if it could not be judged.
    divergence: KL(student‖teacher) at each of the student's tokens, in nats; none without a prompt.
    """

    rollout: Rollout
    solved: bool
    other_rate: float
    prompt: list[int] | None = None
    teacher: StepResult | None = None
    teacher_solved: bool = False
    divergence: tuple[float, ...] = ()


def student_answers(
    actor: Actor,
    problem_ids: Sequence[str],
    samples: int,
    seed: int,
    success_reward: float = 1.0,
    on_progress: OnProgress | None = None,
) -> list[Answered]:
    """`samples` answers to each problem, at least 2, together with what says how good a second try
    is. Answers that could not be judged, and ones without others to compare with, are left out.
    The environment takes a multiple of `samples` of them at once."""
    size = actor.environment.num_envs // samples
    rollouts: list[Rollout] = []
    for start in range(0, len(problem_ids), size):
        ids = list(problem_ids[start : start + size])
        padding = ids[:1] * (size - len(ids))
        generator = generator_for(actor.policy.device, seed, "student", start)
        found = actor.collect([*ids, *padding], samples, generator).rollouts
        rollouts += [replace(r, group=r.group + start) for r in found if r.group < len(ids)]
        if on_progress is not None:
            on_progress((start + len(ids)) * samples, len(problem_ids) * samples)
    solved = [r.reward >= success_reward for r in rollouts]
    rates = solve_rates_of_others([r.group for r in rollouts], solved)
    known = zip(rollouts, solved, rates, strict=True)
    return [Answered(r, success, rate) for r, success, rate in known if rate is not None]


def with_teacher(
    answers: Sequence[Answered],
    actor: Actor,
    teacher_prompts: TeacherPrompts,
    seed: int,
    success_reward: float = 1.0,
    on_progress: OnProgress | None = None,
) -> list[Answered]:
    """The answers with their teacher prompts, and one answer of the teacher to each prompt."""
    prompts = teacher_prompts([a.rollout for a in answers])
    result = [replace(a, prompt=p) for a, p in zip(answers, prompts, strict=True)]
    asked = [i for i, a in enumerate(result) if a.prompt is not None]
    size = actor.environment.num_envs
    for start in range(0, len(asked), size):
        chunk = asked[start : start + size]
        judged = actor.answer(
            [result[i].rollout.problem_id for i in chunk],
            [result[i].prompt or [] for i in chunk],
            max_tokens=actor.max_answer_tokens,
            generator=generator_for(actor.policy.device, seed, "teacher", start),
        )
        for i, said in zip(chunk, judged, strict=True):
            if said.error is None:
                success = said.reward >= success_reward
                result[i] = replace(result[i], teacher=said, teacher_solved=success)
        if on_progress is not None:
            on_progress(start + len(chunk), len(asked))
    return result


def with_divergence(
    answers: Sequence[Answered],
    student: Policy,
    teacher: Teacher,
    temperature: float = 1.0,
    on_progress: OnProgress | None = None,
) -> list[Answered]:
    """The answers with their divergence, on the full vocabulary, where they have a prompt."""
    result = list(answers)
    asked = [i for i, a in enumerate(answers) if a.prompt is not None]
    if not asked:
        return result
    batch = RolloutBatch.from_rollouts(
        [answers[i].rollout for i in asked],
        [answers[i].prompt for i in asked],
        pad_id=student.pad_id,
    )
    done = 0
    for rows in batch.parts(ROWS, PLACES):
        part = batch.rows(rows).trimmed().to(student.device)
        inputs = LossInputs(part, policy=student, teacher=teacher, temperature=temperature)
        mask = part.teacher_mask
        with torch.no_grad():
            found = inputs.student.divergence(inputs.teacher, mask.float(), alpha=1.0).per_token
        for row, values, own in zip(rows.tolist(), found, mask, strict=True):
            kept = tuple(values[own].clamp(min=0).tolist())  # rounding makes some negative
            result[asked[row]] = replace(result[asked[row]], divergence=kept)
        done += len(rows)
        if on_progress is not None:
            on_progress(done, len(asked))
    return result


# --- what the answers say ------------------------------------------------------------------------


@dataclass(frozen=True)
class Advantage:
    """The teacher beside a second try of the student, on the failed answers with a teacher's.

    repair: share of them after which the teacher solves the problem; retry: mean over them of the
    share of the other answers to their problem that are right. difference: `difference` of these.
    failures: answers; problems: theirs.
    """

    repair: Interval
    retry: Interval
    difference: Interval
    failures: int

    @property
    def problems(self) -> int:
        return self.repair.count

    @property
    def is_known(self) -> bool:
        """Whether there are enough failures to judge the teacher by."""
        return self.failures >= FEW_FAILURES and self.problems >= FEW_PROBLEMS


def advantage(answers: Iterable[Answered]) -> Advantage:
    """Each failed answer counts the same, so a teacher exactly as good as the student has a sum of
    differences of 0 in expectation (see `TrustGate`)."""
    failed = [a for a in answers if a.teacher is not None and not a.solved]
    groups = _by_problem(failed)
    counts = [float(len(group)) for group in groups]
    repaired = [float(sum(a.teacher_solved for a in group)) for group in groups]
    retried = [math.fsum(a.other_rate for a in group) for group in groups]
    gains = [one - other for one, other in zip(repaired, retried, strict=True)]
    repair, retry = Interval.of_ratio(repaired, counts), Interval.of_ratio(retried, counts)
    return Advantage(repair, retry, difference(repair, retry, gains, counts), len(failed))


def findings(answers: Sequence[Answered], wanted: int, turns: int = 1) -> dict[str, Any]:
    """Every number of a probe, as JSON has it. wanted: answers that were asked of the student.
    turns: that an episode may have.

    Rates are means over problems, but those of the failed answers (`Advantage`). The difference of
    teacher and student is over problems too, on the answers with a teacher's.
    """
    both = [a for a in answers if a.teacher is not None]
    groups = _by_problem(both)
    own = [_mean([a.solved for a in group]) for group in groups]
    taught = [_mean([a.teacher_solved for a in group]) for group in groups]
    gains = [one - other for one, other in zip(taught, own, strict=True)]
    gap = advantage(answers)
    divergence = {
        outcome: _divergence([a for a in answers if a.prompt and a.solved is solved])
        for outcome, solved in (("failed", False), ("right", True))
    }
    kind, sentence = verdict(answers, gap, divergence["failed"]["mean"])
    student = _outcomes([(a, a.solved, a.rollout.status) for a in answers])
    if turns > 1:
        sentence += (
            f" But the student has {turns} turns, and the teacher answers once: its success is "
            f"that of a first turn."
        )
    if student["format_errors"] > MANY_FORMAT_ERRORS:
        sentence += (
            f" Of the student's answers {100 * student['format_errors']:.0f} % are not in the "
            f"environment's format: let it learn that first, or show it in the prompt."
        )
    return {
        "verdict": kind,
        "sentence": sentence,
        "answers": len(answers),
        "not_judged": wanted - len(answers),
        "teacher_not_judged": sum(a.prompt is not None for a in answers) - len(both),
        "student": student | {"truncated": _mean([a.rollout.finish == "length" for a in answers])},
        "teacher": _outcomes([(a, a.teacher_solved, a.teacher.status) for a in both if a.teacher]),
        "difference": vars(
            difference(Interval.of(taught), Interval.of(own), gains, [1.0] * len(gains))
        ),
        "failed": {
            "answers": gap.failures,
            "problems": gap.problems,
            "repair": vars(gap.repair),
            "retry": vars(gap.retry),
            "difference": vars(gap.difference),
        },
        "kept": _mean([a.teacher_solved for a in both if a.solved]),
        "feedback": _mean([a.prompt is not None for a in answers]),
        "divergence": divergence,
        "tokens": {
            "prompt": _lengths([len(a.rollout.prompt_ids) for a in answers]),
            "teacher_prompt": _lengths([len(a.prompt) for a in answers if a.prompt]),
            "response": _lengths([len(a.rollout.response_ids) for a in answers]),
        },
        "problems": [
            {
                "problem_id": group[0].rollout.problem_id,
                "student": [a.solved for a in group],
                "teacher": [a.teacher_solved if a.teacher else None for a in group],
            }
            for group in _by_problem(answers)
        ],
    }


def verdict(answers: Sequence[Answered], gap: Advantage, divergence: float) -> tuple[str, str]:
    """Whether distillation from this teacher has anything to teach here: a word and a sentence.

    no_feedback: no answer has a teacher prompt. too_few: fewer than FEW_FAILURES failed answers, or
    to fewer than FEW_PROBLEMS problems. teaches: the interval of repair − retry is above 0.
    misleads: it is below 0. inactive: it holds 0, and on failed answers the mean divergence is
    below INACTIVE. nothing: it holds 0 and ends below SMALL_GAP. unclear: none of these.

    divergence: mean over the tokens of failed answers, in nats.
    """
    if not any(a.prompt for a in answers):
        return "no_feedback", (
            "No answer got feedback, so the teacher has nothing that the student has not: "
            "distillation teaches nothing here. Choose other --feedback."
        )
    if not gap.is_known:
        return "too_few", (
            f"Too few failures to tell: {gap.failures} failed answers with feedback, to "
            f"{gap.problems} problems. It takes {FEW_FAILURES}, to {FEW_PROBLEMS}: ask for more "
            f"--problems, or for harder ones."
        )
    moved = f"the teacher moves by {divergence:.2g} nats a token on them"
    measured = (
        f"The teacher repairs {percent(gap.repair)} of what the student fails, where a second "
        f"try of the student solves {percent(gap.retry)}"
    )
    if gap.difference.low > 0:
        weak = f", though {moved}" if divergence < INACTIVE else ""
        return "teaches", f"{measured}: there is something to teach{weak}."
    if gap.difference.high < 0:
        return "misleads", (
            f"{measured}: the teacher would teach what is worse. A teacher that is trained too "
            f"(vpd) or a reward beside it (vpd-pg, grpo) may help."
        )
    if divergence < INACTIVE:
        return "inactive", (
            f"{measured}, and {moved}: distillation alone stays nearly inactive here. Richer "
            f"--feedback, a larger model or a reward (vpd-pg, grpo) may help."
        )
    if gap.difference.high < SMALL_GAP:
        return "nothing", (
            f"{measured}: there is next to nothing to teach, though {moved}. Try other --feedback, "
            f"a larger model, or a reward (vpd-pg, grpo)."
        )
    return "unclear", (
        f"{measured}: the two cannot be told apart (difference {percent(gap.difference)}), while "
        f"{moved}. More --problems or --samples would tell more."
    )


def percent(interval: Interval) -> str:
    """The mean with its interval, such as 28 % (21 to 36)."""
    low, high = f"{100 * interval.low:.0f}", f"{100 * interval.high:.0f}"
    return f"{100 * interval.mean:.0f} % ({low} to {high})"


def _by_problem(answers: Iterable[Answered]) -> list[list[Answered]]:
    groups: dict[int, list[Answered]] = defaultdict(list)
    for answer in answers:
        groups[answer.rollout.group].append(answer)
    return list(groups.values())


def _outcomes(judged: Sequence[tuple[Answered, bool, str]]) -> dict[str, Any]:
    """Of answers with whether they are right and the environment's word for it."""
    shares: dict[int, list[bool]] = defaultdict(list)
    for answer, solved, _ in judged:
        shares[answer.rollout.group].append(solved)
    statuses = Counter(status for *_, status in judged if status)
    errors = sum(count for status, count in statuses.items() if status in _FORMAT_ERRORS)
    return {
        "pass@1": vars(Interval.of([_mean(solved) for solved in shares.values()])),
        "format_errors": errors / len(judged) if judged else math.nan,
        "statuses": dict(statuses.most_common()),
    }


def _divergence(answers: Sequence[Answered]) -> dict[str, Any]:
    """Over the tokens of these answers; per_answer is the mean of their sums."""
    values = [value for answer in answers for value in answer.divergence]
    found = np.quantile(values, QUANTILES).tolist() if values else [math.nan] * len(QUANTILES)
    return {
        "tokens": len(values),
        "mean": _mean(values),
        "quantiles": dict(zip(map(str, QUANTILES), found, strict=True)),
        "per_answer": _mean([math.fsum(a.divergence) for a in answers]),
    }


def _lengths(lengths: Sequence[int]) -> dict[str, float]:
    if not lengths:
        return {"mean": math.nan, "median": math.nan, "max": 0}
    return {"mean": _mean(lengths), "median": float(np.median(lengths)), "max": max(lengths)}


def _mean(values: Sequence[float]) -> float:
    return math.fsum(values) / len(values) if values else math.nan


_FORMAT_ERRORS = frozenset(status.value for status in Status if status.is_format)
