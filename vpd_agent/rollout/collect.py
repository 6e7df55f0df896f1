"""From problems to rollouts that the environment has judged."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import gymnasium as gym
import numpy as np
import torch

from sandbox import SandboxError
from vpd_agent.data.types import Message, Rollout
from vpd_agent.engines import Engine, Generation
from vpd_agent.model.policy import Policy

# A context in which somebody works: "sampler" or "judge".
Busy = Callable[[str], AbstractContextManager[object]]
# From what was tried at a problem to the prompt of the next tries, or None for the plain one.
TeacherPrompt = Callable[[Sequence[Rollout]], list[int] | None]


@dataclass
class Collected:
    """What came of a batch of answers. Dropped ones could not be judged (infrastructure)."""

    rollouts: list[Rollout]
    dropped: list[str]  # one error message each


@dataclass(frozen=True)
class StepResult:
    """What the environment says of one answer; `error` if it could say nothing."""

    reward: float
    feedback: str  # beside the demonstration
    status: str
    error: str | None
    done: bool  # the episode ends with this answer
    reply: str  # what the environment says next if it does not
    seconds: float = 0.0  # that judging took, where the environment tells
    demonstration: str = ""  # a solved answer of another


def all_problem_ids(environment: gym.vector.VectorEnv) -> list[str]:
    """The ids of the problems that an environment can be asked for."""
    inner: Any = environment.unwrapped
    return list(inner.problem_ids)


def start_episodes(
    environment: gym.vector.VectorEnv,
    problem_ids: Sequence[str],
    which: Sequence[bool] | None = None,
) -> list[list[Message]]:
    """Start an episode for each problem; chat messages of each. One problem per sub-environment.

    which: only of these sub-environments, by `reset`'s "reset_mask"; the others have no messages.
    """
    if len(problem_ids) != environment.num_envs:
        raise ValueError(
            f"Expected one problem id per sub-environment: the environment has "
            f"{environment.num_envs}, got {len(problem_ids)}."
        )
    options: dict[str, Any] = {"problem_ids": list(problem_ids)}
    if which is not None:
        options["reset_mask"] = np.array(which, dtype=bool)
    observations, infos = environment.reset(options=options)
    if "messages" in infos:
        return [list(m or ()) for m in infos["messages"]]
    return [[{"role": "user", "content": text}] for text in observations]


def judge(environment: gym.vector.VectorEnv, answers: Sequence[str]) -> list[StepResult]:
    """Step the environment with one answer per sub-environment."""
    replies, rewards, terminated, truncated, infos = environment.step(list(answers))
    n = len(answers)
    feedback, status = infos.get("feedback", [""] * n), infos.get("status", [""] * n)
    comment, demonstration = infos.get("comment", feedback), infos.get("demonstration", [""] * n)
    judged = infos.get("judged", [True] * n)
    errors = infos.get("error", [None] * n)
    seconds = getattr(environment.unwrapped, "judge_seconds", [math.nan] * n)
    return [
        StepResult(
            reward=float(rewards[i]),
            feedback=str(comment[i] or ""),
            status=str(status[i] or ""),
            error=None if judged[i] else str(errors[i]),
            done=bool(terminated[i] or truncated[i]),
            reply=str(replies[i] or ""),
            seconds=0.0 if math.isnan(seconds[i]) else float(seconds[i]),
            demonstration=str(demonstration[i] or ""),
        )
        for i in range(n)
    ]


@dataclass(frozen=True)
class Actor:
    """A policy that answers the problems of an environment; an engine samples for it.

    max_response_tokens: of a whole episode after its first prompt; max_turn_tokens: of one answer.
    busy: entered with "sampler" around the engine's work, and with "judge" around the
        environment's.
    """

    policy: Policy
    engine: Engine
    environment: gym.vector.VectorEnv
    max_response_tokens: int
    max_turn_tokens: int | None = None
    temperature: float = 1.0
    busy: Busy = lambda who: nullcontext()

    @property
    def max_answer_tokens(self) -> int:
        """Of one answer."""
        return min(self.max_turn_tokens or self.max_response_tokens, self.max_response_tokens)

    def collect(
        self,
        problem_ids: Sequence[str],
        group_size: int = 1,
        generator: torch.Generator | None = None,
        *,
        teacher_rollouts: int = 0,
        teacher_prompt: TeacherPrompt = lambda attempts: None,
    ) -> Collected:
        """`group_size` rollouts of each problem, judged at once.

        Episodes of several turns go on until the environment ends them or they are
        max_response_tokens long. The environment must have len(problem_ids) · group_size
        sub-environments. Raises SandboxError if nothing at all could be judged.

        teacher_rollouts: how many of each group are sampled once the others are judged, on the
            prompt that `teacher_prompt` makes of those (`Rollout.is_teacher_rollout`), or, where it
            gives None, on the plain prompt as the others. The environment's `reset` must take
            "reset_mask" then, as Gymnasium has it.
        """
        policy, longest = self.policy, self.max_response_tokens
        own = group_size - teacher_rollouts
        repeated = [p for p in problem_ids for _ in range(group_size)]
        is_own = [i % group_size < own for i in range(len(repeated))]
        messages = start_episodes(self.environment, repeated, is_own if teacher_rollouts else None)
        prompts = [policy.encode(m) for m in messages[::group_size]]
        episodes = []
        for i, problem_id in enumerate(repeated):
            group = i // group_size
            asked = problem_id, group, messages[group * group_size], prompts[group]
            rollout = Rollout(*asked, [], [], text="", finish="", reward=0.0, feedback="")
            episodes.append(_Episode(rollout, longest, open=is_own[i]))
        sample = partial(self._sample, generator=generator)

        generations = sample(prompts, samples=own, max_tokens=self.max_answer_tokens)
        self._judge(episodes, [e for e in episodes if e.open], generations)
        self._go_on(episodes, sample)
        if teacher_rollouts:
            start_episodes(self.environment, repeated, [not mine for mine in is_own])
            groups = [episodes[i : i + group_size] for i in range(0, len(episodes), group_size)]
            shown = [_begin_rest(group[:own], group[own:], teacher_prompt) for group in groups]
            generations = sample(shown, samples=teacher_rollouts, max_tokens=self.max_answer_tokens)
            self._judge_or_drop(episodes, [e for e in episodes if e.open], generations)
            self._go_on(episodes, sample)

        return Collected(
            [e.finished() for e in episodes if e.error is None],
            [e.error for e in episodes if e.error is not None],
        )

    def _go_on(self, episodes: Sequence[_Episode], sample: Callable[..., list[Generation]]) -> None:
        """The further turns of the episodes that are open."""
        while answering := [e for e in episodes if e.open and e.append_observation(self.policy)]:
            most = min(self.max_answer_tokens, max(e.tokens_left for e in answering))
            generations = sample([e.ids for e in answering], max_tokens=most)
            self._judge_or_drop(episodes, answering, generations)

    def _judge_or_drop(
        self,
        episodes: Sequence[_Episode],
        answering: Sequence[_Episode],
        generations: Sequence[Generation],
    ) -> None:
        """As `_judge`; where nothing could be judged, only these episodes are lost."""
        try:
            self._judge(episodes, answering, generations)
        except SandboxError as error:
            for episode in answering:
                episode.open, episode.error = False, str(error)

    def _judge(
        self,
        episodes: Sequence[_Episode],
        answering: Sequence[_Episode],
        generations: Sequence[Generation],
    ) -> None:
        """Append the answers of the episodes that are open, and step the environment with them."""
        for episode, generation in zip(answering, generations, strict=True):
            episode.append_answer(generation, self.policy)
        # Every sub-environment needs an answer; what it says of one that is not open is not used.
        answers = [episode.rollout.text if episode.open else "" for episode in episodes]
        with self.busy("judge"):
            results = judge(self.environment, answers)
        for episode, result in zip(episodes, results, strict=True):
            if episode.open:
                episode.take_result(result)

    def answer(
        self,
        problem_ids: Sequence[str],
        prompts: Sequence[list[int]],
        *,
        max_tokens: int,
        generator: torch.Generator | None = None,
    ) -> list[StepResult]:
        """What the environment says of one answer of at most `max_tokens` to each problem, given
        after a prompt of one's own choice (a teacher's, say).

        Any number of them: the environment takes them in as many batches as it needs.
        """
        results: list[StepResult] = []
        for start in range(0, len(prompts), self.environment.num_envs):
            chunk = slice(start, start + self.environment.num_envs)
            generations = self._sample(prompts[chunk], max_tokens=max_tokens, generator=generator)
            ids = list(problem_ids[chunk])
            padding = self.environment.num_envs - len(ids)
            start_episodes(self.environment, ids + ids[:1] * padding)
            texts = [
                self.policy.answer_text(prompt, g.ids)
                for prompt, g in zip(prompts[chunk], generations, strict=True)
            ]
            with self.busy("judge"):
                results += judge(self.environment, texts + [""] * padding)[: len(ids)]
        return results

    def _sample(self, prompts: Sequence[list[int]], **settings: Any) -> list[Generation]:
        with self.busy("sampler"):
            return self.engine.generate(prompts, temperature=self.temperature, **settings)


@dataclass
class _Episode:
    """One conversation with the environment, as the rollout that it is so far."""

    rollout: Rollout
    max_response_tokens: int
    is_policy_token: list[bool] = field(default_factory=list)
    answers: list[str] = field(default_factory=list)
    reply: str = ""  # the environment's last words
    error: str | None = None
    open: bool = True

    @property
    def ids(self) -> list[int]:
        return self.rollout.prompt_ids + self.rollout.response_ids

    @property
    def tokens_left(self) -> int:
        """Tokens that the next answer may have."""
        return self.max_response_tokens - len(self.rollout.response_ids)

    def append_answer(self, generation: Generation, policy: Policy) -> None:
        """Append what the policy said, cut to `tokens_left`."""
        ids = generation.ids[: self.tokens_left]
        finish = generation.finish if len(ids) == len(generation.ids) else "length"
        text = policy.answer_text(self.ids, ids)
        self.rollout = replace(self.rollout, text=text, finish=finish)
        self.answers.append(text)
        self._append(ids, generation.logprobs[: len(ids)], is_policy_token=True)

    def take_result(self, result: StepResult) -> None:
        self.rollout = replace(
            self.rollout,
            reward=self.rollout.reward + result.reward,
            feedback=result.feedback,
            status=result.status,
            demonstration=result.demonstration,
            judge_seconds=max(self.rollout.judge_seconds, result.seconds),
        )
        self.reply, self.error = result.reply, result.error
        self.open = not result.done and result.error is None

    def append_observation(self, policy: Policy) -> bool:
        """Append the environment's reply, and return True. If it leaves no token for an answer, it
        is not appended, and the episode ends as it stands."""
        message = {"role": "user", "content": self.reply}
        ids = policy.continuation(message, after=self.rollout.response_ids)
        self.open = len(ids) < self.tokens_left
        if self.open:
            self._append(ids, [0.0] * len(ids), is_policy_token=False)
        return self.open

    def finished(self) -> Rollout:
        mask = None if all(self.is_policy_token) else self.is_policy_token
        return replace(self.rollout, is_policy_token=mask, earlier=self.answers[:-1])

    def _append(self, ids: list[int], logprobs: list[float], *, is_policy_token: bool) -> None:
        self.rollout.response_ids.extend(ids)
        self.rollout.logprobs.extend(logprobs)
        self.is_policy_token += [is_policy_token] * len(ids)


def _begin_rest(
    tried: Sequence[_Episode], rest: Sequence[_Episode], teacher_prompt: TeacherPrompt
) -> list[int]:
    """Open the episodes of a group that have waited for the others; the prompt they begin with."""
    prompt = teacher_prompt([e.finished() for e in tried if e.error is None])
    for episode in rest:
        episode.open = True
        if prompt is not None:
            plain = episode.rollout.prompt_ids
            episode.rollout = replace(episode.rollout, prompt_ids=prompt, plain_prompt_ids=plain)
    return rest[0].rollout.prompt_ids
