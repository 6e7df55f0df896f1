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

import copy
import dataclasses
import difflib
import hashlib
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import cached_property
from itertools import chain, islice, starmap
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space

from sandbox.core import SandboxError, cancelled_by
from vpd_envs.answers.sanitize import sanitize
from vpd_envs.answers.unicode_space import Unicode
from vpd_envs.checks import check_integer
from vpd_envs.data.progress import LateProgress
from vpd_envs.types import Problem, Status, Verdict

_LONGEST_TEXT = 1 << 24  # characters of an observation: far beyond any prompt or feedback
_AHEAD = 16  # answers per worker that may be begun beyond the one whose verdict is due


class TextEnv(gym.Env[str, str]):
    """One problem, one answer, one verdict; or, with `max_turns` > 1, several answers.

    `reset` gives `(prompt, info)` with `info["problem_id"]`, `["messages"]` (the prompt as chat
    messages) and `["metadata"]`. `step(answer)` ends the episode: the observation is the feedback,
    and `info` has `feedback`, `status`, `solved`, `problem_id`, `turn` (1 is the first) and
    `details`.

    With `max_turns` > 1 an answer that does not solve the problem, before the last turn, leaves the
    episode open: its reward is 0, the feedback is what the next answer is asked to heed, and
    `info["messages"]` is what to append to the chat after the answer. The reward of the episode is
    that of its last answer.

    A `SandboxError` out of `step` is no verdict: the episode stays open and may be stepped again.

    Where the chat template ends the prompt in an opened `<think>`, the answer is to be given with
    that tag before it (see `vpd_envs.answers.thinking`), as the trainer does: else an answer that
    was cut off while thinking looks like a finished one.

    max_turns: answers that an episode may have.
    max_answer_length: characters that an answer may have.
    render_mode: "ansi" or None; `render()` gives a text either way.
    """

    metadata: dict[str, Any] = {"render_modes": ["ansi"], "render_fps": 1}  # noqa: RUF012
    workers = 1  # how many answers of a batch are judged side by side
    action_space: Unicode

    def __init__(
        self,
        problems: Iterable[Problem],
        *,
        max_turns: int = 1,
        max_answer_length: int = 1 << 18,
        render_mode: str | None = None,
    ) -> None:
        check_integer("max_turns", max_turns, 1)
        if render_mode not in (None, "ansi"):
            raise ValueError(f"render_mode must be None or 'ansi', got {render_mode!r}.")
        self.render_mode = render_mode
        self.max_turns = max_turns
        self._problems = tuple(problems)
        self._position = {problem.id: i for i, problem in enumerate(self._problems)}
        if not self._problems:
            raise ValueError("There is no problem to ask: the data, split or window is empty.")
        if len(self._position) < len(self._problems):
            ids = [problem.id for problem in self._problems]
            twice = next(id_ for id_ in ids if ids.count(id_) > 1)
            raise ValueError(f"Problem ids must be unique, but {twice!r} came more than once.")
        self.observation_space = Unicode(_LONGEST_TEXT)
        self.action_space = Unicode(max_answer_length)
        self._problem: Problem | None = None  # the open episode
        self._turn = 0  # answers given in it
        self._shown = ""  # what `render` shows

    def judge(self, problem: Problem, answer: str) -> Verdict:
        """Judge one answer; called from several threads. Raises SandboxError, never scores it."""
        raise NotImplementedError(f"{type(self).__name__} must implement judge(problem, answer).")

    def after(self, problem: Problem, answer: str) -> Problem:
        """The problem as the next answer of the episode is judged on it, after an answer that did
        not end it. Here it is the same; where a verdict depends on the answers before, as in a
        game, it is a copy whose `earlier` ends in this one."""
        return problem

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
        options = _checked_options(options, "problem_id")
        if "problem_id" in options:
            problem_id = options["problem_id"]
        else:
            problem_id = self.problem_ids[self.np_random.integers(len(self._problems))]
        self._problem = self.problem(problem_id)
        self._turn = 0
        self._shown = f"Problem {self._problem.id}\n\n{self._problem.prompt}"
        return self._problem.prompt, _reset_info(self._problem)

    def step(self, action: str) -> tuple[str, float, bool, bool, dict[str, Any]]:
        """Judge the answer. Raises SandboxError where the infrastructure failed."""
        if self._problem is None:
            raise gym.error.ResetNeeded("The episode is over: call reset() before step.")
        verdict = self.verdict(self._problem, _checked_answer(action))
        self._turn += 1
        over = self.ends(verdict, self._turn)
        self._shown += f"\n\nAnswer\n\n{action}\n\nVerdict: {verdict.status.value}, "
        self._shown += f"reward {verdict.reward:g}\n\n{verdict.feedback}"
        info = _step_info(self._problem, verdict, self._turn, over)
        self._problem = None if over else self.after(self._problem, action)
        return verdict.feedback, float(verdict.reward) if over else 0.0, over, False, info

    def ends(self, verdict: Verdict, turn: int) -> bool:
        """Whether the episode is over after this verdict on its `turn`-th answer."""
        return verdict.solved or turn >= self.max_turns

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
        """`judge` for answers of any length, with feedback that holds no control token: the one way
        to a verdict, single or batched."""
        start = time.monotonic()
        if len(answer) > self.action_space.max_length:
            verdict = self.too_long(answer)
        else:
            verdict = self.judge(problem, answer)
        return dataclasses.replace(
            verdict, feedback=sanitize(verdict.feedback), seconds=time.monotonic() - start
        )

    def judge_many(
        self, attempts: Iterable[tuple[Problem, str]]
    ) -> Iterator[Verdict | SandboxError]:
        """The verdict on each (problem, answer), in their order, or the SandboxError that
        prevented it; `workers` of them are made side by side.

        Attempts are read no further ahead than keeps the workers busy, so there may be any number.
        Leaving the iterator early stops the programs that still run.
        """
        unwanted = threading.Event()

        def verdict_or_error(problem: Problem, answer: str) -> Verdict | SandboxError:
            try:
                with cancelled_by(unwanted):
                    return self.verdict(problem, answer)
            except SandboxError as error:
                return error

        attempts = iter(attempts)
        workers = self.workers
        first = list(islice(attempts, 2))
        attempts = chain(first, attempts)
        if workers <= 1 or len(first) <= 1:
            yield from starmap(verdict_or_error, attempts)
            return
        pool = ThreadPoolExecutor(workers, thread_name_prefix="judge")
        begun: deque[Future[Verdict | SandboxError]] = deque()
        try:
            for attempt in attempts:
                begun.append(pool.submit(verdict_or_error, *attempt))
                while begun and (begun[0].done() or len(begun) > workers * _AHEAD):
                    yield begun.popleft().result()
            while begun:
                yield begun.popleft().result()
        finally:
            unwanted.set()
            pool.shutdown(cancel_futures=True)

    def judge_batch(
        self,
        problems: Sequence[Problem],
        answers: Sequence[str],
        on_progress: Callable[[int], None] | None = None,
    ) -> list[Verdict | SandboxError]:
        """`judge_many` for a batch. The same answer to the same problem, after the same earlier
        answers where those count, is judged once.

        on_progress: called with the number of answers judged so far, of `len(answers)`.
        """
        keys = [(p.id, p.earlier, answer) for p, answer in zip(problems, answers, strict=True)]
        problem_of = {(problem.id, problem.earlier): problem for problem in problems}
        counts = Counter(keys)
        verdicts: dict[tuple[str, tuple[str, ...], str], Verdict | SandboxError] = {}
        done = 0
        todo = ((problem_of[id_, earlier], answer) for id_, earlier, answer in counts)
        for key, verdict in zip(counts, self.judge_many(todo), strict=True):
            verdicts[key] = verdict
            done += counts[key]
            if on_progress is not None:
                on_progress(done)
        return [verdicts[key] for key in keys]

    @property
    def problem_ids(self) -> tuple[str, ...]:
        return tuple(self._position)

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 over ids, prompts and targets: equal fingerprints ask and judge the same, but for
        what a sandbox differs in."""
        digest = hashlib.sha256()
        for problem in self._problems:
            for text in (problem.id, problem.system or "", problem.prompt, repr(problem.target)):
                encoded = text.encode("utf-8", "surrogatepass")
                digest.update(len(encoded).to_bytes(8) + encoded)
        return digest.hexdigest()

    @classmethod
    def vector(
        cls, num_envs: int = 1, *, progress: bool | None = None, **kwargs: Any
    ) -> TextVectorEnv:
        """The batched form, for `vector_entry_point`: the same keyword arguments, and `progress`
        (see `TextVectorEnv`)."""
        return TextVectorEnv(cls(**kwargs), num_envs, progress=progress)


class TextVectorEnv(VectorEnv):
    """`num_envs` problems at a time, all judged by one `TextEnv`.

    `reset(options={"problem_ids": [...]})` chooses the problems, with repetition for groups of the
    same problem; otherwise they are drawn by `np_random`. `step` takes one answer for each.

    Infos are arrays over the batch, with gymnasium's `_key` masks; texts, and the dicts `metadata`
    and `details`, are in arrays of objects. `infos["judged"][i]` is False where the infrastructure
    failed: that reward is NaN, the episode is truncated instead of terminated, and
    `infos["error"][i]` says why. If no answer at all could be judged, `step` raises SandboxError
    and the batch may be stepped again.

    With `max_turns` > 1 some episodes of a batch end before others. Step until all have: the
    answers of ended ones (None will do) are ignored, their reward is 0 and `infos["active"]` False.
    Or ask them anew with `reset(options={"reset_mask": [True, ...]})`, which leaves the others be.

    `judge_seconds` `[num_envs]` is what judging each answer of the last step took: NaN where there
    was none, or no verdict. It is not in the infos, which are the same each time.

    progress: whether a batch that takes longer than a few seconds shows how far it is, on standard
        error (by default, on a terminal only).
    """

    def __init__(self, env: TextEnv, num_envs: int, *, progress: bool | None = None) -> None:
        check_integer("num_envs", num_envs, 1)
        self.env = env
        self.num_envs = num_envs
        self.progress = progress
        self.render_mode = env.render_mode
        self.metadata = {**env.metadata, "autoreset_mode": AutoresetMode.DISABLED}
        self.single_observation_space = env.observation_space
        self.single_action_space = env.action_space
        self._problems: dict[int, Problem] = {}  # of each episode, as its next answer is judged
        self._active = np.zeros(num_envs, dtype=bool)  # whose episode is open
        self._turns = np.zeros(num_envs, dtype=int)  # answers given in it
        self._shown: tuple[str, ...] = ("",) * num_envs
        self.judge_seconds = np.full(num_envs, np.nan)

    @cached_property
    def observation_space(self) -> gym.Space:
        return batch_space(self.single_observation_space, self.num_envs)

    @cached_property
    def action_space(self) -> gym.Space:
        return batch_space(self.single_action_space, self.num_envs)

    def reset(
        self, *, seed: int | None = None, options: Mapping[str, Any] | None = None
    ) -> tuple[tuple[str, ...], dict[str, Any]]:
        """Ask `options["problem_ids"]` (one id per answer to come), or problems drawn at random.

        With `options["reset_mask"]` (`[num_envs]` of bool), only where it is True; the other
        episodes go on, and have no entry in the infos.
        """
        super().reset(seed=seed)
        options = _checked_options(options, "problem_ids", "reset_mask")
        mask = self._reset_mask(options.get("reset_mask"))
        if "problem_ids" in options:
            ids = options["problem_ids"]
            if isinstance(ids, str) or len(ids) != self.num_envs:
                got = f"the text {ids!r}" if isinstance(ids, str) else f"{len(ids)} ids"
                raise ValueError(f"options['problem_ids'] must be {self.num_envs} ids, got {got}.")
        else:
            known = self.env.problem_ids
            ids = [known[i] for i in self.np_random.integers(len(known), size=self.num_envs)]
        asked = {i: self.env.problem(ids[i]) for i in np.flatnonzero(mask).tolist()}
        self._problems |= asked
        self._shown = tuple(
            asked[i].prompt if i in asked else text for i, text in enumerate(self._shown)
        )
        self._active = self._active | mask
        self._turns = np.where(mask, 0, self._turns)
        infos = [_reset_info(asked[i]) if i in asked else {} for i in range(self.num_envs)]
        return self._shown, _stack_infos(infos)

    def _reset_mask(self, mask: Any) -> np.ndarray:
        if mask is None:
            return np.ones(self.num_envs, dtype=bool)
        mask = np.asarray(mask)
        if mask.dtype != bool or mask.shape != (self.num_envs,) or not mask.any():
            raise ValueError(
                f"options['reset_mask'] must be {self.num_envs} booleans, at least one of them "
                f"True; got {mask.dtype} of shape {mask.shape}."
            )
        return mask

    def step(
        self, actions: Sequence[str | None]
    ) -> tuple[tuple[str, ...], np.ndarray, np.ndarray, np.ndarray, dict[str, Any]]:
        """Judge one answer per open episode. Raises SandboxError only if none could be judged."""
        active: list[int] = np.flatnonzero(self._active).tolist()
        if not active:
            raise gym.error.ResetNeeded(
                "All episodes are over, and they do not reset themselves: call reset() first."
            )
        if isinstance(actions, str) or len(actions) != self.num_envs:
            got = "one text" if isinstance(actions, str) else f"{len(actions)}"
            raise ValueError(f"step takes a sequence of {self.num_envs} answers, got {got}.")
        answers = [_checked_answer(actions[i], f"answer {i}") for i in active]
        problems = [self._problems[i] for i in active]
        with LateProgress("judging", len(active), self.progress) as progress:
            verdicts = self.env.judge_batch(problems, answers, progress.show)
        check_some_judged(verdicts)
        self._turns[active] += 1
        self.judge_seconds = np.full(self.num_envs, np.nan)
        rewards = np.zeros(self.num_envs, dtype=np.float64)
        terminated = ~self._active
        truncated = np.zeros(self.num_envs, dtype=bool)
        infos: list[dict[str, Any]] = [{"active": False}] * self.num_envs
        shown = [""] * self.num_envs
        for i, problem, answer, verdict in zip(active, problems, answers, verdicts, strict=True):
            if isinstance(verdict, Verdict):
                turn = int(self._turns[i])
                terminated[i] = self.env.ends(verdict, turn)
                rewards[i] = verdict.reward if terminated[i] else 0.0
                shown[i] = verdict.feedback
                if not terminated[i]:
                    self._problems[i] = self.env.after(problem, answer)
                self.judge_seconds[i] = verdict.seconds
                infos[i] = _step_info(problem, verdict, turn, terminated[i]) | {"judged": True}
            else:
                truncated[i] = True
                rewards[i] = np.nan
                infos[i] = {"problem_id": problem.id, "judged": False, "error": str(verdict)}
            infos[i]["active"] = True
        self._active = ~(terminated | truncated)
        self._shown = tuple(shown)
        return self._shown, rewards, terminated, truncated, _stack_infos(infos)

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


def _reset_info(problem: Problem) -> dict[str, Any]:
    return {
        "problem_id": problem.id,
        "messages": problem.messages,
        "metadata": copy.deepcopy(dict(problem.metadata)),
    }


def _step_info(problem: Problem, verdict: Verdict, turn: int, over: bool) -> dict[str, Any]:
    info = {
        "problem_id": problem.id,
        "feedback": verdict.feedback,
        "status": verdict.status.value,
        "solved": verdict.solved,
        "turn": turn,
        "details": copy.deepcopy(dict(verdict.details)),
    }
    return info if over else info | {"messages": [{"role": "user", "content": verdict.feedback}]}


def _stack_infos(infos: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
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


def check_some_judged(verdicts: Sequence[Verdict | SandboxError]) -> None:
    """Raise SandboxError if the infrastructure failed for every answer of a batch."""
    errors = [verdict for verdict in verdicts if isinstance(verdict, SandboxError)]
    if errors and len(errors) == len(verdicts):
        raise SandboxError(
            f"None of {len(errors)} answers could be judged. The first failure: {errors[0]}"
        ) from errors[0]


def _checked_answer(answer: Any, name: str = "the answer") -> str:
    if not isinstance(answer, str):
        raise TypeError(f"{name} must be text (str), got {type(answer).__name__}: {answer!r:.80}.")
    return answer


def _checked_options(options: Mapping[str, Any] | None, *known: str) -> Mapping[str, Any]:
    unknown = sorted(set(options or ()) - set(known))
    if unknown:
        names = " and ".join(map(repr, known))
        raise ValueError(f"Unknown reset option {unknown[0]!r}; there is {names}.")
    return options or {}
