"""Attempts at hard problems without training: independent ones, and conversations with feedback."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any, ClassVar, Literal, Protocol

import gymnasium as gym
import torch

from sandbox import SandboxError
from vpd_agent.data.types import Message, Rollout
from vpd_agent.engines import Engine
from vpd_agent.evaluation.answer_file import AnswerFile
from vpd_agent.evaluation.discovery import Attempts
from vpd_agent.evaluation.random_numbers import generator_for
from vpd_agent.model.policy import Policy
from vpd_agent.rollout.collect import Actor, StepResult, judge, start_episodes
from vpd_agent.rollout.critic import PolicyCritic
from vpd_agent.rollout.environment import critics
from vpd_agent.rollout.teacher_prompt import TeacherTemplate, cut, teacher_prompt

FAILED_BATCHES = 3  # in a row: then the attempts at a problem are given up
Turns = Literal["chat", "all", "last"]
OnAttempts = Callable[[int], None]  # called with how many more attempts were made
OnProgress = Callable[[str, int], None]  # a method's name, and its attempts that are done with


class AttemptFile(AnswerFile):
    """The attempts of each method at each problem with each seed, a line as soon as they end."""

    header: ClassVar[str] = "search"
    keys: ClassVar[tuple[str, ...]] = ("problem_id", "seed", "method")
    content: ClassVar[str] = "attempts"
    command: ClassVar[str] = "vpd solve"

    def attempts(self, problem_ids: Sequence[str], seeds: Sequence[int]) -> list[Attempts]:
        """Those at these problems with these seeds."""
        wanted = (row for (p, s, _), row in self.judged.items() if p in problem_ids and s in seeds)
        return [
            Attempts(**{**row, "solved": tuple(row["solved"]), "tokens": tuple(row["tokens"])})
            for row in wanted
        ]


@dataclass
class Bench:
    """A policy and environments for as many of its answers at a time as are wanted.

    sized: makes an environment for a number of answers.
    batch: answers sampled and judged at a time, at most.
    """

    policy: Policy
    engine: Engine
    sized: Callable[[int], gym.vector.VectorEnv]
    max_response_tokens: int
    temperature: float = 1.0
    success_reward: float = 1.0
    batch: int = 64
    _environments: dict[int, gym.vector.VectorEnv] = field(default_factory=dict)

    def environment(self, count: int) -> gym.vector.VectorEnv:
        if count not in self._environments:
            made = self._environments[count] = self.sized(count)
            for source in critics(made):
                source.critic = PolicyCritic(self.policy, self.engine, self.max_response_tokens)
        return self._environments[count]

    def rollouts(
        self, problem_id: str, count: int, generator: torch.Generator, on_attempts: OnAttempts
    ) -> list[Rollout]:
        """`count` judged attempts at a problem. One that could not be judged is no attempt: another
        is made in its place. Raises SandboxError where nothing of several batches in a row could
        be judged."""
        found: list[Rollout] = []
        patience = _Patience()
        while len(found) < count:
            size = min(self.batch, count - len(found))
            limits = self.max_response_tokens, None, self.temperature
            actor = Actor(self.policy, self.engine, self.environment(size), *limits)
            with patience:
                judged = actor.collect([problem_id], size, generator).rollouts
                found += judged
                on_attempts(len(judged))
        return found

    def judge(self, problem_ids: Sequence[str], answers: Sequence[str]) -> list[StepResult]:
        environment = self.environment(len(answers))
        start_episodes(environment, problem_ids)
        return judge(environment, answers)

    def first_messages(self, problem_ids: Sequence[str]) -> list[list[Message]]:
        """The prompt of each problem, as chat messages."""
        found: list[list[Message]] = []
        for start in range(0, len(problem_ids), self.batch):
            chunk = problem_ids[start : start + self.batch]
            found += start_episodes(self.environment(len(chunk)), chunk)
        return found

    def generator(self, *purpose: object) -> torch.Generator:
        """Random numbers of their own for each purpose."""
        return generator_for(self.policy.device, *purpose)

    def is_solved(self, reward: float) -> bool:
        return reward >= self.success_reward


class _Patience:
    """Lets a SandboxError of its body pass, until there were FAILED_BATCHES of them in a row."""

    def __init__(self) -> None:
        self.failed = 0

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> bool:
        self.failed = self.failed + 1 if isinstance(error, SandboxError) else 0
        return 0 < self.failed < FAILED_BATCHES


class Method(Protocol):
    """A way to spend a budget of attempts on a problem."""

    name: ClassVar[str]

    @property
    def width(self) -> int:
        """Problems that it works on side by side, at most."""
        ...

    def solve(
        self, problem_ids: Sequence[str], seed: int, on_attempts: OnAttempts
    ) -> list[Attempts | SandboxError]:
        """What came of each problem, or why its attempts could not be judged."""
        ...


class OneByOne(ABC):
    """A method that works on one problem at a time."""

    name: ClassVar[str]

    bench: Bench

    @property
    def width(self) -> int:
        return 1

    def solve(
        self, problem_ids: Sequence[str], seed: int, on_attempts: OnAttempts
    ) -> list[Attempts | SandboxError]:
        (problem_id,) = problem_ids
        generator = self.bench.generator(self.name, seed, problem_id)
        start = time.perf_counter()
        try:
            made = self.rollouts(problem_id, generator, on_attempts)
            seconds = time.perf_counter() - start
        except SandboxError as error:
            return [error]
        finally:
            self.restore()
        return [_attempts_of(self.bench, made, seed, self.name, seconds)]

    @abstractmethod
    def rollouts(
        self, problem_id: str, generator: torch.Generator, on_attempts: OnAttempts
    ) -> list[Rollout]:
        """The judged attempts at a problem, of which there is one at least. Raises SandboxError
        where they could not be judged."""

    def restore(self) -> None:  # noqa: B027  # most methods change nothing
        """Undo what the attempts at a problem changed."""


@dataclass(frozen=True)
class BestOfK(OneByOne):
    """K independent attempts of the model as it is, all of them made whatever comes of the first:
    pass@k is then estimated without bias."""

    name: ClassVar[str] = "best-of-k"

    bench: Bench
    budget: int

    def rollouts(
        self, problem_id: str, generator: torch.Generator, on_attempts: OnAttempts
    ) -> list[Rollout]:
        return self.bench.rollouts(problem_id, self.budget, generator, on_attempts)


def _attempts_of(
    bench: Bench, rollouts: Sequence[Rollout], seed: int, method: str, seconds: float
) -> Attempts:
    """What a method's rollouts at a problem amount to."""
    solved = [i for i, r in enumerate(rollouts, 1) if bench.is_solved(r.reward)]
    return Attempts(
        rollouts[0].problem_id,
        seed,
        method,
        tuple(solved),
        tuple(len(r.response_ids) for r in rollouts),
        seconds,
        rollouts[solved[0] - 1].text if solved else None,
    )


@dataclass(frozen=True)
class MultiTurn:
    """One attempt after another, each with the feedback on earlier ones, until one solves the
    problem. No weight changes.

    turns: chat: attempts and feedback are the turns of a conversation, as many as fit into
        max_prompt_tokens; then a fresh start with the problem alone. all: the problem with the
        feedback on all earlier attempts in one turn, worded by the template of teacher prompts, of
        which the default one leaves the attempts out; the oldest feedback is dropped where the
        prompt is too long (the baseline of arXiv 2601.20802, section 5). last: the same with the
        feedback on the last attempt alone, which is all that the tiny models can read.
    max_prompt_tokens: of a prompt with feedback.
    """

    name: ClassVar[str] = "multi-turn"

    bench: Bench
    budget: int
    turns: Turns
    template: TeacherTemplate
    max_prompt_tokens: int

    @property
    def width(self) -> int:
        return self.bench.batch

    def solve(
        self, problem_ids: Sequence[str], seed: int, on_attempts: OnAttempts
    ) -> list[Attempts | SandboxError]:
        bench = self.bench
        talks = [
            _Talk(p, messages, bench.policy.encode(messages))
            for p, messages in zip(problem_ids, bench.first_messages(problem_ids), strict=True)
        ]
        generator = bench.generator(self.name, seed, list(problem_ids))
        patience = _Patience()
        try:
            while going := [t for t in talks if not t.is_over(self.budget)]:
                with patience:
                    self._take_turn(going, generator, on_attempts)
        except SandboxError as error:
            return [t.attempts(seed, self.name) if t not in going else error for t in talks]
        return [t.attempts(seed, self.name) for t in talks]

    def _take_turn(
        self, talks: Sequence[_Talk], generator: torch.Generator, on_attempts: OnAttempts
    ) -> None:
        """One more attempt in each of these. Raises SandboxError if none could be judged."""
        bench, policy = self.bench, self.bench.policy
        start = time.perf_counter()
        generations = bench.engine.generate(
            [t.prompt for t in talks],
            max_tokens=bench.max_response_tokens,
            temperature=bench.temperature,
            generator=generator,
        )
        texts = [
            policy.answer_text(t.prompt, g.ids) for t, g in zip(talks, generations, strict=True)
        ]
        results = bench.judge([t.problem_id for t in talks], texts)
        judged = 0
        for talk, generation, text, result in zip(talks, generations, texts, results, strict=True):
            if result.error is None:
                talk.append(generation.ids, text, bench.is_solved(result.reward))
                talk.prompt = self._next_prompt(talk, generation.ids, text, result.feedback)
                judged += 1
        for talk in talks:
            talk.seconds += (time.perf_counter() - start) / len(talks)
        if not judged:
            raise SandboxError(f"No attempt could be judged: {results[0].error}")
        on_attempts(judged)

    def _next_prompt(self, talk: _Talk, ids: list[int], text: str, feedback: str) -> list[int]:
        if self.turns == "chat":
            reply = {"role": "user", "content": feedback}
            longer = talk.prompt + ids + self.bench.policy.continuation(reply, after=ids)
            return longer if len(longer) <= self.max_prompt_tokens else talk.first
        if self.turns == "last":
            talk.feedback.clear()
        if feedback.strip():
            talk.feedback.append(cut(feedback, self.template.max_feedback_chars))
        return self._prompt_with_feedback(talk, text)

    def _prompt_with_feedback(self, talk: _Talk, attempt: str) -> list[int]:
        policy = self.bench.policy
        while len(talk.feedback) > 1:
            joined = "\n\n".join(talk.feedback)
            uncut = replace(self.template, max_feedback_chars=len(joined))
            messages = uncut.messages(talk.messages, attempt, joined, solved=False)
            ids = policy.encode(messages)
            if len(ids) <= self.max_prompt_tokens:
                return ids
            del talk.feedback[0]
        shown = "".join(talk.feedback)
        limit, messages = self.max_prompt_tokens, talk.messages
        found = teacher_prompt(
            policy, self.template, messages, attempt, shown, solved=False, max_tokens=limit
        )
        return talk.first if found is None else found


@dataclass
class _Talk:
    """The attempts at a problem so far, and the prompt of the next one."""

    problem_id: str
    messages: list[Message]
    first: list[int]  # the problem alone
    prompt: list[int] = field(init=False)
    feedback: list[str] = field(default_factory=list)  # what the next prompt is to show of it
    tokens: list[int] = field(default_factory=list)
    answer: str | None = None
    seconds: float = 0.0

    def __post_init__(self) -> None:
        self.prompt = self.first

    def append(self, ids: Sequence[int], text: str, solved: bool) -> None:
        self.tokens.append(len(ids))
        self.answer = text if solved else None

    def is_over(self, budget: int) -> bool:
        return self.answer is not None or len(self.tokens) >= budget

    def attempts(self, seed: int, method: str) -> Attempts:
        solved = () if self.answer is None else (len(self.tokens),)
        tokens = tuple(self.tokens)
        return Attempts(self.problem_id, seed, method, solved, tokens, self.seconds, self.answer)


def complete_attempts(
    file: AttemptFile,
    methods: Sequence[Method],
    problem_ids: Sequence[str],
    seeds: Sequence[int],
    budget: int,
    on_progress: OnProgress,
) -> list[str]:
    """Add what a file lacks of each method's attempts at each problem with each seed. Returns what
    stood in the way of those that could not be judged, which the file still lacks.

    What is done side by side, and the seed of its random numbers, does not depend on where an
    earlier call was interrupted: the file becomes the same, but for the seconds.
    """
    failures: list[str] = []
    for method in methods:
        done = 0
        for seed in seeds:
            for start in range(0, len(problem_ids), method.width):
                chunk = problem_ids[start : start + method.width]
                missing = [p for p in chunk if (p, seed, method.name) not in file.judged]
                if missing:
                    made = _Counter(method.name, done, on_progress)
                    found = method.solve(missing, seed, made)
                    file.append(_row(each) for each in found if isinstance(each, Attempts))
                    failures += [str(each) for each in found if isinstance(each, SandboxError)]
                done += budget * len(chunk)
                on_progress(method.name, done)
    return failures


@dataclass
class _Counter:
    """Adds attempts to those that were done before."""

    name: str
    done: int
    show: OnProgress

    def __call__(self, more: int) -> None:
        self.done += more
        self.show(self.name, self.done)


def _row(attempts: Attempts) -> dict[str, Any]:
    return {**asdict(attempts), "seconds": round(attempts.seconds, 4)}
