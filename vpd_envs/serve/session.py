"""A session of one OpenEnv client: one episode after another, of one environment."""

from __future__ import annotations

import asyncio
import json
import uuid
from typing import Any, TypeVar

import numpy as np
from gymnasium.utils import seeding
from pydantic import BaseModel, ValidationError

from sandbox.core import SandboxError
from vpd_envs.serve.judging import Judging, Refused
from vpd_envs.serve.messages import (
    Action,
    BadMessage,
    Code,
    Observation,
    Reset,
    State,
    reply,
)
from vpd_envs.types import Problem, Verdict

Model = TypeVar("Model", bound=BaseModel)


class Session:
    """Episodes as those of `TextEnv`: the same rewards, and the same problems for the same seeds.

    longest_answer: characters of the longest answer that is taken.
    """

    def __init__(self, judging: Judging, longest_answer: int) -> None:
        self.judging = judging
        self.longest_answer = longest_answer
        self._state = State(max_turns=judging.env.max_turns)
        self._problem: Problem | None = None  # the open episode, as its next answer is judged
        self._random: np.random.Generator | None = None

    async def replied(self, text: str) -> dict[str, Any] | None:
        """What to say to a message; None if it ends the session. It may be an error, after which
        the session goes on: an answer that could not be judged may be given again."""
        try:
            message = _read(text)
            if message["type"] == "close":
                return None
            return await self._handle(message["type"], message.get("data", {}))
        except BadMessage as error:
            return reply("error", message=str(error), code=error.code)
        except Refused as error:
            return reply("error", message=str(error), code=Code.CAPACITY_REACHED)
        except SandboxError as error:
            return reply("error", message=str(error), code=Code.EXECUTION_ERROR)

    async def _handle(self, kind: Any, data: Any) -> dict[str, Any]:
        if kind == "reset":
            return await self._reset(_checked(Reset, data))
        if kind == "step":
            return await self._step(_checked(Action, data))
        if kind == "state":
            return reply("state", **self._state.model_dump())
        raise BadMessage(
            Code.UNKNOWN_TYPE,
            f"Expected a message of type reset, step, state or close; got {kind!r:.80}.",
        )

    async def _reset(self, asked: Reset) -> dict[str, Any]:
        problem_id = self._drawn(asked.seed) if asked.problem_id is None else asked.problem_id
        try:
            observation = await asyncio.to_thread(self._begun, problem_id)
        except ValueError as error:
            raise BadMessage(Code.VALIDATION_ERROR, str(error)) from error
        self._state = State(
            episode_id=asked.episode_id or str(uuid.uuid4()),
            problem_id=problem_id,
            done=False,
            max_turns=self.judging.env.max_turns,
        )
        return _observed(observation, None, False)

    def _drawn(self, seed: int | None) -> str:
        """The id of a problem, drawn as `TextEnv.reset` draws it."""
        if seed is not None or self._random is None:
            self._random, _ = seeding.np_random(seed)
        known = self.judging.env.problem_ids
        return known[self._random.integers(len(known))]

    def _begun(self, problem_id: str) -> Observation:
        """The problem as it is asked, which may have to be made first."""
        problem = self.judging.env.problem(problem_id)
        observation = Observation(
            problem_id=problem.id, text=problem.prompt, messages=problem.messages
        )
        self._problem = problem
        return observation

    async def _step(self, action: Action) -> dict[str, Any]:
        problem = self._problem
        if problem is None:
            raise BadMessage(Code.VALIDATION_ERROR, "No episode is open: reset before this step.")
        if len(action.text) > self.longest_answer:
            raise BadMessage(
                Code.VALIDATION_ERROR,
                f"Expected an answer of at most {self.longest_answer} characters, got "
                f"{len(action.text)}.",
            )
        with self.judging.places(1):
            (verdict,) = await self.judging.verdicts([(problem, action.text)])
        if isinstance(verdict, SandboxError):
            raise SandboxError(f"The answer was not judged, and may be given again: {verdict}")
        return self._judged(problem, action.text, verdict)

    def _judged(self, problem: Problem, answer: str, verdict: Verdict) -> dict[str, Any]:
        env, state = self.judging.env, self._state
        state.step_count += 1
        state.done = env.ends(verdict, state.step_count)
        self._problem = None if state.done else env.after(problem, answer)
        heard = [] if state.done else [{"role": "user", "content": verdict.feedback}]
        observation = Observation(
            problem_id=problem.id,
            text=verdict.feedback,
            messages=heard,
            turn=state.step_count,
            feedback=verdict.feedback,
            status=verdict.status.value,
            solved=verdict.solved,
        )
        return _observed(observation, verdict.reward if state.done else 0.0, state.done)


def _observed(observation: Observation, reward: float | None, done: bool) -> dict[str, Any]:
    return reply("observation", observation=observation.model_dump(), reward=reward, done=done)


def _read(text: str) -> dict[str, Any]:
    """The message in a text. Raises BadMessage if there is none."""
    expected = 'Expected a JSON object {"type": ..., "data": {...}}'
    try:
        message = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise BadMessage(Code.INVALID_JSON, f"{expected}; it is no JSON: {error}") from error
    if not isinstance(message, dict) or "type" not in message:
        raise BadMessage(Code.VALIDATION_ERROR, f"{expected}; got {text!r:.80}.")
    return message


def _checked(kind: type[Model], data: Any) -> Model:
    try:
        return kind.model_validate(data)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, ("data", *first["loc"])))
        known = ", ".join(kind.model_fields)
        text = f"{place}: {first['msg']}. The data of this message may have {known}."
        raise BadMessage(Code.VALIDATION_ERROR, text) from error
