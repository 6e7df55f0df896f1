"""Language tasks as Gymnasium environments: a prompt is observed, an answer is the action.

`TextEnv` asks one problem at a time, `TextVectorEnv` judges a batch of answers at once. A new task
family is a subclass of `TextEnv` that says how an answer is judged:

    class Reversal(TextEnv):
        def judge(self, problem, answer):
            right = answer == problem.target
            status = Status.SOLVED if right else Status.WRONG_ANSWER
            return Verdict(float(right), status, "Correct." if right else "That is not reversed.")

    gym.register("Reversal-v0", entry_point=Reversal, vector_entry_point=Reversal.vector)
"""

from __future__ import annotations

import difflib
import hashlib
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space

from sandbox.core import SandboxError
from vpd_envs.types import Problem, Status, Verdict
from vpd_envs.unicode_space import Unicode

LONGEST_TEXT = 1 << 24  # characters of an observation: far beyond any prompt or feedback


class TextEnv(gym.Env[str, str]):
    """One problem, one answer, one verdict.

    `reset` gives `(prompt, info)` with `info["problem_id"]`, `["messages"]` (the prompt as chat
    messages) and `["metadata"]`. `step(answer)` ends the episode: the observation is the feedback,
    and `info` has `feedback`, `status`, `solved`, `problem_id` and `details`.

    A `SandboxError` out of `step` is no verdict: the episode stays open and may be stepped again.
    """

    metadata: dict[str, Any] = {"render_modes": ["ansi"], "render_fps": 1}  # noqa: RUF012
    workers = 1  # how many answers of a batch are judged side by side

    def __init__(
        self,
        problems: Iterable[Problem],
        *,
        max_answer_length: int = 1 << 18,
        render_mode: str | None = None,
    ) -> None:
        if render_mode not in (None, "ansi"):
            raise ValueError(f"render_mode must be None or 'ansi', got {render_mode!r}.")
        self.render_mode = render_mode
        self._problems = tuple(problems)
        self._position = {problem.id: i for i, problem in enumerate(self._problems)}
        if not self._problems:
            raise ValueError("There is no problem to ask: the data, split or window is empty.")
        if len(self._position) < len(self._problems):
            ids = [problem.id for problem in self._problems]
            twice = next(id_ for id_ in ids if ids.count(id_) > 1)
            raise ValueError(f"Problem ids must be unique, but {twice!r} came more than once.")
        self.observation_space = Unicode(LONGEST_TEXT)
        self.action_space = Unicode(max_answer_length)
        self._problem: Problem | None = None  # the open episode
        self._shown = ""  # what `render` shows

    def judge(self, problem: Problem, answer: str) -> Verdict:
        """Judge one answer; called from several threads. Raises SandboxError, never scores it."""
        raise NotImplementedError(f"{type(self).__name__} must implement judge(problem, answer).")

    def too_long(self, answer: str) -> Verdict:
        """The verdict on an answer beyond the action space; it is not judged."""
        limit = self.action_space.max_length
        feedback = f"Answer too long: {len(answer)} characters, at most {limit} are allowed."
        return Verdict(0.0, Status.NO_ANSWER, feedback)

    def reset(
        self, *, seed: int | None = None, options: Mapping[str, Any] | None = None
    ) -> tuple[str, dict[str, Any]]:
        """Ask `options["problem_id"]`, or a problem drawn by `np_random`."""
        super().reset(seed=seed)
        options = checked_options(options, "problem_id")
        if "problem_id" in options:
            self._problem = self.problem(options["problem_id"])
        else:
            self._problem = self._problems[self.np_random.integers(len(self._problems))]
        self._shown = f"Problem {self._problem.id}\n\n{self._problem.prompt}"
        return self._problem.prompt, reset_info(self._problem)

    def step(self, action: str) -> tuple[str, float, bool, bool, dict[str, Any]]:
        """Judge the answer. Raises SandboxError where the infrastructure failed."""
        if self._problem is None:
            raise gym.error.ResetNeeded("An episode is one answer long: call reset() before step.")
        check_answer(action)
        verdict = self.verdict(self._problem, action)
        self._shown += f"\n\nAnswer\n\n{action}\n\nVerdict: {verdict.status.value}, "
        self._shown += f"reward {verdict.reward:g}\n\n{verdict.feedback}"
        info = step_info(self._problem, verdict)
        self._problem = None
        return verdict.feedback, float(verdict.reward), True, False, info

    def render(self) -> str:
        """The prompt and, after a step, the answer and its verdict."""
        return self._shown

    def problem(self, problem_id: str) -> Problem:
        """The problem of that id. Raises ValueError, with close matches, if there is none."""
        if problem_id in self._position:
            return self._problems[self._position[problem_id]]
        close = difflib.get_close_matches(str(problem_id), self._position, n=3)
        hint = f"Close matches: {', '.join(close)}." if close else f"One id: {self.problem_ids[0]}."
        raise ValueError(
            f"No problem has the id {problem_id!r} ({len(self._problems)} problems). {hint} "
            "All ids are in env.unwrapped.problem_ids."
        )

    def verdict(self, problem: Problem, answer: str) -> Verdict:
        """`judge` for answers of any length: the one way to a verdict, single or batched."""
        if len(answer) > self.action_space.max_length:
            return self.too_long(answer)
        return self.judge(problem, answer)

    def judge_batch(
        self, problems: Sequence[Problem], answers: Sequence[str]
    ) -> list[Verdict | SandboxError]:
        """One verdict per answer, in their order, or the SandboxError that prevented it.

        The same answer to the same problem is judged once, however often the batch has it.
        """

        def verdict_or_error(problem: Problem, answer: str) -> Verdict | SandboxError:
            try:
                return self.verdict(problem, answer)
            except SandboxError as error:
                return error

        keys = [(problem.id, answer) for problem, answer in zip(problems, answers, strict=True)]
        problem_of = {problem.id: problem for problem in problems}
        todo = list(dict.fromkeys(keys))
        todo_problems = [problem_of[problem_id] for problem_id, _ in todo]
        todo_answers = [answer for _, answer in todo]
        workers = min(self.workers, len(todo))
        if workers <= 1:
            verdicts = list(map(verdict_or_error, todo_problems, todo_answers))
        else:
            pool = ThreadPoolExecutor(workers, thread_name_prefix="judge")
            try:
                verdicts = list(pool.map(verdict_or_error, todo_problems, todo_answers))
            finally:
                pool.shutdown(cancel_futures=True)
        verdict_of = dict(zip(todo, verdicts, strict=True))
        return [verdict_of[key] for key in keys]

    @property
    def problem_ids(self) -> tuple[str, ...]:
        return tuple(self._position)

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 over ids, prompts and targets: equal fingerprints ask and judge the same."""
        digest = hashlib.sha256()
        for problem in self._problems:
            for text in (problem.id, problem.system or "", problem.prompt, repr(problem.target)):
                encoded = text.encode("utf-8", "surrogatepass")
                digest.update(len(encoded).to_bytes(8) + encoded)
        return digest.hexdigest()

    @classmethod
    def vector(cls, num_envs: int = 1, **kwargs: Any) -> TextVectorEnv:
        """The batched form, for `vector_entry_point`: the same keyword arguments."""
        return TextVectorEnv(cls(**kwargs), num_envs)


class TextVectorEnv(VectorEnv):
    """`num_envs` problems at a time, all judged by one `TextEnv`.

    `reset(options={"problem_ids": [...]})` chooses the problems, with repetition for groups of the
    same problem; otherwise they are drawn by `np_random`. `step` takes one answer for each.

    Infos are arrays over the batch, with gymnasium's `_key` masks; texts, and the dicts `metadata`
    and `details`, are in arrays of objects. `infos["judged"][i]` is False where the infrastructure
    failed: that reward is NaN, the episode is truncated instead of terminated, and
    `infos["error"][i]` says why. If no answer at all could be judged, `step` raises SandboxError
    and the batch may be stepped again.
    """

    def __init__(self, env: TextEnv, num_envs: int) -> None:
        if isinstance(num_envs, bool) or not isinstance(num_envs, int) or num_envs < 1:
            raise ValueError(f"num_envs must be a positive integer, got {num_envs!r}.")
        self.env = env
        self.num_envs = num_envs
        self.render_mode = env.render_mode
        self.metadata = {**env.metadata, "autoreset_mode": AutoresetMode.DISABLED}
        self.single_observation_space = env.observation_space
        self.single_action_space = env.action_space
        self._problems: list[Problem] | None = None  # the open episodes
        self._shown: tuple[str, ...] = ("",) * num_envs

    @cached_property
    def observation_space(self) -> gym.Space:
        return batch_space(self.single_observation_space, self.num_envs)

    @cached_property
    def action_space(self) -> gym.Space:
        return batch_space(self.single_action_space, self.num_envs)

    def reset(
        self, *, seed: int | None = None, options: Mapping[str, Any] | None = None
    ) -> tuple[tuple[str, ...], dict[str, Any]]:
        """Ask `options["problem_ids"]` (one id per answer to come), or problems drawn at random."""
        super().reset(seed=seed)
        options = checked_options(options, "problem_ids")
        if "problem_ids" in options:
            ids = options["problem_ids"]
            if isinstance(ids, str) or len(ids) != self.num_envs:
                got = f"the text {ids!r}" if isinstance(ids, str) else f"{len(ids)} ids"
                raise ValueError(f"options['problem_ids'] must be {self.num_envs} ids, got {got}.")
            self._problems = [self.env.problem(problem_id) for problem_id in ids]
        else:
            ids = self.env.problem_ids
            drawn = self.np_random.integers(len(ids), size=self.num_envs)
            self._problems = [self.env.problem(ids[i]) for i in drawn]
        self._shown = tuple(problem.prompt for problem in self._problems)
        return self._shown, stack_infos([reset_info(problem) for problem in self._problems])

    def step(
        self, actions: Sequence[str]
    ) -> tuple[tuple[str, ...], np.ndarray, np.ndarray, np.ndarray, dict[str, Any]]:
        """Judge one answer per problem. Raises SandboxError only if none could be judged."""
        if self._problems is None:
            raise gym.error.ResetNeeded(
                "Episodes are one answer long and do not reset themselves: call reset() first."
            )
        if isinstance(actions, str) or len(actions) != self.num_envs:
            got = "one text" if isinstance(actions, str) else f"{len(actions)}"
            raise ValueError(f"step takes a sequence of {self.num_envs} answers, got {got}.")
        for i, answer in enumerate(actions):
            check_answer(answer, f"answer {i}")
        verdicts = self.env.judge_batch(self._problems, actions)
        judged = np.array([isinstance(verdict, Verdict) for verdict in verdicts])
        if not judged.any():
            raise SandboxError(
                f"None of {self.num_envs} answers could be judged. The first failure: {verdicts[0]}"
            ) from verdicts[0]
        infos = stack_infos(
            [
                step_info(problem, verdict) | {"judged": True}
                if isinstance(verdict, Verdict)
                else {"problem_id": problem.id, "judged": False, "error": str(verdict)}
                for problem, verdict in zip(self._problems, verdicts, strict=True)
            ]
        )
        rewards = np.array([v.reward if isinstance(v, Verdict) else np.nan for v in verdicts])
        feedback = tuple(v.feedback if isinstance(v, Verdict) else "" for v in verdicts)
        self._problems = None
        self._shown = feedback
        return feedback, rewards.astype(np.float64), judged, ~judged, infos

    def render(self) -> tuple[str, ...]:
        """The last observations: prompts after a reset, feedback after a step."""
        return self._shown

    def close_extras(self, **kwargs: Any) -> None:
        self.env.close()

    @property
    def problem_ids(self) -> tuple[str, ...]:
        return self.env.problem_ids

    @property
    def fingerprint(self) -> str:
        return self.env.fingerprint


def reset_info(problem: Problem) -> dict[str, Any]:
    return {
        "problem_id": problem.id,
        "messages": problem.messages,
        "metadata": dict(problem.metadata),
    }


def step_info(problem: Problem, verdict: Verdict) -> dict[str, Any]:
    return {
        "problem_id": problem.id,
        "feedback": verdict.feedback,
        "status": verdict.status.value,
        "solved": verdict.solved,
        "details": dict(verdict.details),
    }


def stack_infos(infos: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """A batch of infos as one dict of arrays `[len(infos)]`, each with its mask under `_key`.

    Values that are bool in every info that has them give a bool array (False where absent),
    all others an array of objects (None where absent).
    """
    stacked: dict[str, Any] = {}
    for key in dict.fromkeys(key for info in infos for key in info):
        present = np.array([key in info for info in infos])
        flags = all(isinstance(info[key], bool) for info in infos if key in info)
        absent = False if flags else None
        values = (info.get(key, absent) for info in infos)
        stacked[key] = np.fromiter(values, dtype=bool if flags else object, count=len(infos))
        stacked[f"_{key}"] = present
    return stacked


def check_answer(answer: Any, name: str = "the answer") -> None:
    if not isinstance(answer, str):
        raise TypeError(f"{name} must be text (str), got {type(answer).__name__}: {answer!r:.80}.")


def checked_options(options: Mapping[str, Any] | None, known: str) -> Mapping[str, Any]:
    unknown = sorted(set(options or ()) - {known})
    if unknown:
        raise ValueError(f"Unknown reset option {unknown[0]!r}: the only option is {known!r}.")
    return options or {}
