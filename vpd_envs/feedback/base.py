"""Sources of feedback: what they are given, and how they are put around an environment.

A source replaces `info["feedback"]`, the complete text for anybody; the observation that follows an
answer is its feedback, so it follows suit. `info["demonstration"]` (a solved answer of another
attempt) and `info["comment"]` (what is said of this attempt besides) are its parts, for a learner
that words them itself (see `FeedbackSource.parts`). Sources stack: the text that a source is given
is that of the source, or environment, inside it. A new source is a class with one method:

    class Polite(FeedbackSource):
        def feedback(self, attempts):
            return [f"Thank you for your answer. {attempt.feedback}" for attempt in attempts]

    env = Polite(env)                                    # one answer at a time, or a batch
    envs = compose(envs, SiblingFeedback(), Polite())    # the first is the innermost

Whatever a source says passes through `sanitize`: what it quotes of an answer holds no control
token. Answers that were not judged, and the rows of a batch whose episode is over, are not shown to
it.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, SupportsFloat, overload

import gymnasium as gym
import numpy as np
from gymnasium.vector import VectorEnv, VectorWrapper

from vpd_envs.answers.sanitize import sanitize

_READS = ("problem_id", "status", "feedback", "details")  # of the infos of a step
_PARTS = ("feedback", "comment", "demonstration")


@dataclass(frozen=True)
class Attempt:
    """One judged answer, and what has been said of it so far."""

    problem_id: str
    prompt: str
    answer: str
    reward: float
    solved: bool
    status: str  # a `Status`
    feedback: str
    details: Mapping[str, Any]
    comment: str  # the feedback without the demonstration
    demonstration: str = ""  # a solved answer of another attempt at the problem


@dataclass(frozen=True)
class Parts:
    """The complete text that is said of an attempt, and what a learner makes its own text from."""

    feedback: str
    comment: str
    demonstration: str = ""


class FeedbackSource:
    """Subclass and write `feedback`; or `parts`, if the text shows a solved answer of another.

    The one that counts is that of the class nearest to the source's own: a subclass of our sources
    that writes only `feedback` is heard, and what it says is all there is (see `parts`).

    Called with an environment first, a source class gives that environment (single or batched) with
    the source around it, a `FeedbackWrapper` or `VectorFeedbackWrapper`. Without one it gives the
    source itself, for `compose`.
    """

    needs_batch = False  # whether it compares attempts, so that one answer at a time will not do

    def __new__(cls, *arguments: Any, **options: Any) -> Any:
        if "env" in options:
            arguments = (options.pop("env"), *arguments)
        if arguments and isinstance(arguments[0], gym.Env | VectorEnv):
            env, *rest = arguments
            return cls(*rest, **options).around(env)
        return super().__new__(cls)

    def feedback(self, attempts: Sequence[Attempt]) -> Sequence[str]:
        """The new text for each attempt. One attempt, or all judged ones of a batch."""
        if type(self).parts is FeedbackSource.parts:
            raise NotImplementedError(f"{type(self).__name__} must implement feedback(attempts).")
        return [parts.feedback for parts in self.parts(attempts)]

    def parts(self, attempts: Sequence[Attempt]) -> Sequence[Parts]:
        """The new text for each attempt with its parts.

        Here a text that is the same as before keeps its parts. Any other is all there is: it is the
        comment, and a demonstration from inside is gone, as the text may quote or replace it.
        """
        texts = _checked_texts(self, attempts)
        return [
            parts_of(attempt) if text == attempt.feedback else Parts(text, text)
            for attempt, text in zip(attempts, texts, strict=True)
        ]

    def around(self, env: gym.Env | VectorEnv) -> FeedbackWrapper | VectorFeedbackWrapper:
        """The environment with this source around it. Raises ValueError for a single environment
        if the source needs a batch."""
        if isinstance(env, VectorEnv):
            return VectorFeedbackWrapper(env, self)
        if self.needs_batch:
            raise ValueError(
                f"{type(self).__name__} compares the attempts of a batch, but got an environment "
                "of one answer. Make a batched one: gym.make_vec(ID, num_envs=N, "
                "vectorization_mode='vector_entry_point')."
            )
        return FeedbackWrapper(env, self)


@overload
def compose(env: VectorEnv, *sources: FeedbackSource | Callable[[Any], Any]) -> VectorEnv: ...
@overload
def compose(env: gym.Env, *sources: FeedbackSource | Callable[[Any], Any]) -> gym.Env: ...
def compose(env: Any, *sources: FeedbackSource | Callable[[Any], Any]) -> Any:
    """The environment with the sources around it; the first is the innermost, so the text of the
    last is what a learner sees. A source is an object, a source class, or any wrapper."""
    for source in sources:
        env = source.around(env) if isinstance(source, FeedbackSource) else source(env)
    return env


class FeedbackWrapper(gym.Wrapper[str, str, str, str]):
    """A source around an environment of one answer."""

    def __init__(self, env: gym.Env[str, str], source: FeedbackSource) -> None:
        super().__init__(env)
        self.source = source
        self._prompt = ""

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[str, dict[str, Any]]:
        self._prompt, info = self.env.reset(seed=seed, options=options)
        return self._prompt, info

    def step(self, action: str) -> tuple[str, SupportsFloat, bool, bool, dict[str, Any]]:
        observation, reward, terminated, truncated, info = self.env.step(action)
        (parts,) = _parts(self.source, [_attempt(self._prompt, action, float(reward), info)])
        before, text = info["feedback"], parts.feedback
        observation = text if observation == before else observation
        changed: dict[str, Any] = vars(parts).copy()
        if "messages" in info:
            changed["messages"] = _replaced(info["messages"], before, text)
        return observation, reward, terminated, truncated, info | changed


class VectorFeedbackWrapper(VectorWrapper):
    """A source around a batched environment."""

    def __init__(self, env: VectorEnv, source: FeedbackSource) -> None:
        super().__init__(env)
        self.source = source
        self._prompts = ("",) * env.num_envs
        self._shown = self._prompts  # the last observations

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[tuple[str, ...], dict[str, Any]]:
        prompts, infos = self.env.reset(seed=seed, options=options)
        mask = (options or {}).get("reset_mask")
        if mask is None:
            self._prompts = self._shown = tuple(prompts)
        else:  # the other episodes go on: what was shown of them was our text, not the inner one
            rows = list(zip(mask, prompts, self._prompts, self._shown, strict=True))
            self._prompts = tuple(new if chosen else old for chosen, new, old, _ in rows)
            self._shown = tuple(new if chosen else shown for chosen, new, _, shown in rows)
        return self._shown, infos

    def step(
        self, actions: Sequence[str | None]
    ) -> tuple[tuple[str, ...], np.ndarray, np.ndarray, np.ndarray, dict[str, Any]]:
        observations, rewards, terminations, truncations, infos = self.env.step(actions)
        if "judged" not in infos:
            raise ValueError(
                f"{type(self.source).__name__} needs a batched environment whose infos have "
                "'judged', as gym.make_vec(ID, num_envs=N, "
                "vectorization_mode='vector_entry_point') makes it; got "
                f"{', '.join(infos)}. Around a sync or async vector environment, put a source "
                "around each environment inside: gym.make_vec(..., wrappers=[SOURCE])."
            )
        judged = [i for i, done in enumerate(infos["judged"]) if done]
        attempts = []
        for i in judged:
            info = {key: infos[key][i] for key in (*_READS, *_PARTS, "solved") if key in infos}
            attempts.append(_attempt(self._prompts[i], actions[i] or "", rewards[i], info))
        shown = list(observations)
        changed = {key: infos[key].copy() for key in ("feedback", "messages") if key in infos}
        for key in ("comment", "demonstration"):
            changed[key] = np.full(self.num_envs, None, dtype=object)
            changed[f"_{key}"] = infos["judged"].copy()
        for i, parts in zip(judged, _parts(self.source, attempts), strict=True):
            before, text = infos["feedback"][i], parts.feedback
            for key in _PARTS:
                changed[key][i] = getattr(parts, key)
            shown[i] = text if shown[i] == before else shown[i]
            if "messages" in infos and infos["_messages"][i]:
                changed["messages"][i] = _replaced(infos["messages"][i], before, text)
        self._shown = tuple(shown)
        return self._shown, rewards, terminations, truncations, infos | changed


def retold(attempts: Sequence[Attempt], sources: Iterable[FeedbackSource]) -> Sequence[Attempt]:
    """The attempts of a batch as the sources tell them, without an environment around which the
    sources are put; the first source is the innermost."""
    for source in sources:
        parts = _parts(source, attempts)
        attempts = [replace(a, **vars(p)) for a, p in zip(attempts, parts, strict=True)]
    return attempts


def parts_of(attempt: Attempt) -> Parts:
    """What has been said of an attempt so far."""
    return Parts(attempt.feedback, attempt.comment, attempt.demonstration)


def rng_for(seed: int, attempts: Sequence[Attempt]) -> random.Random:
    """A stream of random numbers that depends on the seed and on the problems and answers of these
    attempts in their order, and on nothing that came before.

    So the same batch gets the same numbers, another batch fresh ones, and a run that goes on from a
    checkpoint gets those it would have got.
    """
    digest = hashlib.sha256(str(seed).encode())
    for attempt in attempts:
        for text in (attempt.problem_id, attempt.answer):
            encoded = text.encode("utf-8", "surrogatepass")
            digest.update(len(encoded).to_bytes(8) + encoded)
    return random.Random(int.from_bytes(digest.digest()))


def is_text_each(texts: Any, count: int) -> bool:
    """Whether it is a sequence of `count` texts."""
    fit = isinstance(texts, Sequence) and not isinstance(texts, str) and len(texts) == count
    return fit and all(isinstance(text, str) for text in texts)


def _attempt(prompt: str, answer: str, reward: float, info: Mapping[str, Any]) -> Attempt:
    said = {key: info[key] for key in _READS}
    said["comment"] = info.get("comment", info["feedback"])
    said["demonstration"] = info.get("demonstration", "")
    solved = bool(info["solved"])
    return Attempt(prompt=prompt, answer=answer, reward=float(reward), solved=solved, **said)


def _parts(source: FeedbackSource, attempts: Sequence[Attempt]) -> list[Parts]:
    """What the source says, sanitized. Raises TypeError for anything but parts of texts for each
    attempt."""
    nearest = next(c for c in type(source).__mro__ if {"feedback", "parts"} & vars(c).keys())
    says_parts = "parts" in vars(nearest)
    found = source.parts(attempts) if says_parts else FeedbackSource.parts(source, attempts)
    if not (
        isinstance(found, Sequence)
        and len(found) == len(attempts)
        and all(isinstance(p, Parts) and is_text_each([*vars(p).values()], 3) for p in found)
    ):
        raise TypeError(
            f"{type(source).__name__}.parts must return a list of {len(attempts)} Parts of texts, "
            f"one for each attempt; got {found!r:.120}."
        )
    return [Parts(*map(sanitize, vars(p).values())) for p in found]


def _checked_texts(source: FeedbackSource, attempts: Sequence[Attempt]) -> Sequence[str]:
    """What the source's `feedback` says. Raises TypeError for anything but a text each."""
    texts = source.feedback(attempts)
    if not is_text_each(texts, len(attempts)):
        raise TypeError(
            f"{type(source).__name__}.feedback must return a list of {len(attempts)} texts, one "
            f"for each attempt; got {texts!r:.120}."
        )
    return texts


def _replaced(messages: Sequence[dict[str, str]], before: str, after: str) -> list[dict[str, str]]:
    """The messages with the text of the feedback replaced."""
    return [m | {"content": after} if m["content"] == before else m for m in messages]
