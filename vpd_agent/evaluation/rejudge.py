"""The rollouts that a run has kept, judged again: by another judge, or with other feedback."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import groupby
from typing import Any, ClassVar

import gymnasium as gym

from sandbox import SandboxError
from vpd_agent.evaluation.answer_file import AnswerFile
from vpd_agent.rollout.collect import StepResult, judge, start_episodes
from vpd_agent.rollout.critic import PolicyCritic
from vpd_agent.rollout.environment import EnvironmentSpec, critics, sources
from vpd_agent.runs.samples import Sample
from vpd_envs import JudgeFeedback

WORDS = ("status", "feedback", "demonstration")  # of a verdict, beside its reward


class VerdictFile(AnswerFile):
    """New verdicts on the rollouts of a run, a line each, written as soon as their batch is judged:
    {"line" (of samples.jsonl), "step", "problem_id", "group", "answers", "old", "new"}, where old
    and new are {"reward", "status", "feedback", "demonstration"}; "error" in place of "new" if the
    rollout could not be judged. The first line says by which judge."""

    header: ClassVar[str] = "judge"
    keys: ClassVar[tuple[str, ...]] = ("line",)
    content: ClassVar[str] = "verdicts"
    command: ClassVar[str] = "vpd rejudge"

    def verdict(self, sample: Sample) -> dict[str, Any] | None:
        """The line of a rollout; None where it is not judged yet. Raises ValueError if it is on
        another rollout."""
        row = self.judged.get((sample.line,))
        if row is None or _what(sample) == {key: row.get(key) for key in _what(sample)}:
            return row
        raise ValueError(
            f"{self.path} has a verdict on another rollout than line {sample.line} of the run's "
            f"samples.jsonl: that was written anew. Pass another --out."
        )


@dataclass
class Judge:
    """Judges batches of rollouts in environments of one spec.

    environment: one of these, of any size. critic: of sources that ask the policy.
    """

    spec: EnvironmentSpec
    split: str | None
    environment: gym.vector.VectorEnv
    critic: PolicyCritic | None = None
    _sized: dict[int, gym.vector.VectorEnv] = field(default_factory=dict)

    def results(self, batch: Sequence[Sample]) -> list[StepResult]:
        """What the environment says of each rollout: of its last answer, with the sum of the
        rewards of all. `error` where it could say nothing, or where a model that was to write
        feedback did not answer.

        The answers of several turns are given one after the other. What comes after an answer that
        ends the episode is not judged, and an episode that is open after the last one ends as it
        stands, as in training.
        """
        environment = self._of_size(len(batch))
        failed = _failed_critiques(environment)
        results = _episodes(environment, batch)
        if count := _failed_critiques(environment) - failed:
            error = f"{count} questions to a model that writes feedback on the batch had no answer"
            results = [_not_judged(error) for _ in results]
        return results

    def _of_size(self, count: int) -> gym.vector.VectorEnv:
        if count not in self._sized:
            made = self._sized[count] = self.spec.resized(self.environment, count, self.split)
            for source in critics(made):
                source.critic = self.critic
        return self._sized[count]


def rejudge(
    judge: Judge, samples: Sequence[Sample], file: VerdictFile, on_progress: Callable[[int], None]
) -> list[str]:
    """Judge the rollouts that the file lacks; those that were judged together in the run are again.
    Returns why each of the others could not be judged.

    on_progress: called with the number of rollouts that are done with.
    """
    done, errors = 0, []
    for batch in batches(samples):
        if any(file.verdict(sample) is None for sample in batch):
            results = judge.results(batch)
            file.append(_row(s, result) for s, result in zip(batch, results, strict=True))
            errors += [result.error for result in results if result.error is not None]
        done += len(batch)
        on_progress(done)
    return errors


def batches(samples: Sequence[Sample]) -> Iterator[list[Sample]]:
    """Rollouts that were judged together, in the order of the run."""
    for _, batch in groupby(sorted(samples, key=lambda s: s.batch), key=lambda s: s.batch):
        yield list(batch)


def _episodes(environment: gym.vector.VectorEnv, batch: Sequence[Sample]) -> list[StepResult]:
    start_episodes(environment, [sample.problem_id for sample in batch])
    turns = [sample.answers or () for sample in batch]
    results = [StepResult(0.0, "", "", None, done=False, reply="")] * len(batch)
    for turn in range(max(map(len, turns))):
        going = [len(own) > turn and not r.done for own, r in zip(turns, results, strict=True)]
        if not any(going):
            break
        answers = [own[turn] if on else "" for own, on in zip(turns, going, strict=True)]
        try:
            said = judge(environment, answers)
        except SandboxError as error:
            said = [_not_judged(str(error))] * len(batch)
        results = [
            _after(old, new) if on else old
            for old, new, on in zip(results, said, going, strict=True)
        ]
    return results


def _after(old: StepResult, new: StepResult) -> StepResult:
    """The result of an episode after a further answer."""
    if new.error is not None:
        return _not_judged(new.error)
    return replace(new, reward=old.reward + new.reward)


def _not_judged(error: str) -> StepResult:
    return StepResult(0.0, "", "", error, done=True, reply="")


def _failed_critiques(environment: gym.vector.VectorEnv) -> int:
    """Attempts that kept their inner feedback, so far, for want of an answer of a model."""
    return sum(s.failures for s in sources(environment) if isinstance(s, JudgeFeedback))


def _row(sample: Sample, result: StepResult) -> dict[str, Any]:
    row = _what(sample) | {"old": _verdict(sample)}
    if result.error is not None:
        return row | {"error": result.error}
    return row | {"new": _verdict(result)}


def _what(sample: Sample) -> dict[str, Any]:
    names = ("line", "step", "problem_id", "group")
    answers = list(sample.answers or ())
    return {name: getattr(sample, name) for name in names} | {"answers": answers}


def _verdict(judged: Sample | StepResult) -> dict[str, Any]:
    return {"reward": judged.reward} | {word: getattr(judged, word) for word in WORDS}
