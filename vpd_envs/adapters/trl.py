"""TRL's trainers on the environments of this suite.

One answer per problem:

    env = gym.make("vpd/MiniCode-v0")
    reward = reward_function(env)
    GRPOTrainer(model=..., reward_funcs=reward, train_dataset=dataset(env), args=...)

Several answers, each after the feedback on the one before, handed in through a tool:

    env = gym.make("vpd/LiveCodeBench-v0", data="problems.jsonl", max_turns=3)
    GRPOTrainer(model=..., environment_factory=environment_factory(env),
                train_dataset=dataset(env), args=...)

The second needs a chat template with tools. Wherever an `env` is taken, so is an id (or
`module:Class`) with its options; but each such call loads the data again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from statistics import fmean
from typing import TYPE_CHECKING, Any

import gymnasium as gym
from gymnasium.vector import VectorEnv

from sandbox.core import SandboxError
from sandbox.installation import pip_install
from vpd_envs.adapters import installed_version, text_env
from vpd_envs.feedback import FeedbackSource, compose
from vpd_envs.text_env import TextEnv, TextVectorEnv, check_some_judged
from vpd_envs.types import Verdict

if TYPE_CHECKING:
    import datasets

# TRL 1.6 is the first that leaves an answer without a reward out of its group instead of counting
# it as 0, TRL 1.8 the first whose environments have a reward.
_OLDEST_TRL = (1, 8)
_NEEDED = "trl>=1.8,<2"

Completion = str | Sequence[Mapping[str, Any]]  # plain, or the messages that answer a chat


def dataset(
    env: str | gym.Env | VectorEnv, *, problem_ids: Iterable[str] | None = None, **options: Any
) -> datasets.Dataset:
    """A row per problem, in the environment's order: `prompt` (chat messages), `problem_id`.

    problem_ids: these problems only, in this order. Raises ValueError for an unknown one.
    """
    require_trl()
    from datasets import Dataset

    env = text_env(env, **options)
    ids = env.problem_ids if problem_ids is None else problem_ids
    problems = [env.problem(id_) for id_ in ids]
    columns = {"prompt": [p.messages for p in problems], "problem_id": [p.id for p in problems]}
    return Dataset.from_dict(columns)


def reward_function(
    env: str | gym.Env | VectorEnv, *, name: str | None = None, **options: Any
) -> RewardFunction:
    """What TRL takes as one of its `reward_funcs`.

    name: what TRL's logs call it; by default the environment's class.
    """
    require_trl()
    env = text_env(env, **options)
    return RewardFunction(env, type(env).__name__ if name is None else name)


def environment_factory(
    env: str | gym.Env | VectorEnv, *sources: FeedbackSource, **options: Any
) -> Callable[[], ToolEnvironment]:
    """What TRL takes as `environment_factory`. All rollouts share `env`, its data and its judge.

    sources: sources of feedback around the environment, as for `compose`. They are shown one answer
        at a time: ValueError for one that compares the answers of a batch.
    """
    require_trl()
    for source in sources:
        if source.needs_batch:
            raise ValueError(
                f"{type(source).__name__} compares the attempts of a batch, but rollouts of TRL do "
                "not see each other. Take a source that reads one attempt."
            )
    return partial(ToolEnvironment, text_env(env, **options), *sources)


class RewardFunction:
    """Judges the answers of a batch side by side, by the column `problem_id` of `dataset`.

    The reward of an answer is its verdict's, or None where the infrastructure failed: then nothing
    is known of the answer, and TRL leaves it out of its group, unless another reward function has
    scored it. Rows without a `problem_id` (of another task in a mixed data set) get None too.
    Raises SandboxError if none of the answers could be judged, ValueError for a data set that does
    not belong to the environment.

    TRL logs `rewards/NAME/mean`, `NAME/solved` and `NAME/unjudged` (shares of the answers) and,
    with `log_completions=True`, the columns `NAME/feedback` and `NAME/status`.

    last_answers: the text of each answer of the last batch.
    last_verdicts: of the last batch: a Verdict, a SandboxError, or None for a row of another task.
    """

    def __init__(self, env: TextEnv, name: str) -> None:
        self.env = env
        self.__name__ = name  # TRL names the reward by it
        self.last_answers: list[str] = []
        self.last_verdicts: list[Verdict | SandboxError | None] = []

    @property
    def last_feedback(self) -> list[str | None]:
        """The feedback on each answer of the last batch, None where there is no verdict."""
        return [v.feedback if isinstance(v, Verdict) else None for v in self.last_verdicts]

    def __call__(
        self,
        prompts: Sequence[Any],
        completions: Sequence[Completion],
        *,
        problem_id: Sequence[str | None] | None = None,
        log_extra: Callable[[str, list[Any]], None] | None = None,
        log_metric: Callable[[str, float], None] | None = None,
        **_other_columns: Any,  # TRL passes every column and more, and adds to them
    ) -> list[float | None]:
        if problem_id is None:
            raise ValueError(
                f"The reward {self.__name__} finds problems by the column 'problem_id', which the "
                "data set lacks. Train on vpd_envs.adapters.trl.dataset(env)."
            )
        ours = {i: self.env.problem(id_) for i, id_ in enumerate(problem_id) if id_ is not None}
        self.last_answers = answers = [answer_text(completion) for completion in completions]
        judged = self.env.judge_batch(list(ours.values()), [answers[i] for i in ours])
        check_some_judged(judged)
        verdict_of = dict(zip(ours, judged, strict=True))
        self.last_verdicts = verdicts = [verdict_of.get(i) for i in range(len(completions))]
        if log_extra is not None:
            log_extra(f"{self.__name__}/feedback", self.last_feedback)
            log_extra(f"{self.__name__}/status", [_status_text(verdict) for verdict in verdicts])
        if log_metric is not None and judged:
            known = [verdict for verdict in judged if isinstance(verdict, Verdict)]
            log_metric(f"{self.__name__}/solved", fmean(verdict.solved for verdict in known))
            log_metric(f"{self.__name__}/unjudged", 1 - len(known) / len(judged))
        return [float(v.reward) if isinstance(v, Verdict) else None for v in verdicts]


class ToolEnvironment:
    """An episode in which the model hands in its answers through the tool `submit`.

    TRL resets it with each row of `dataset`, offers its public methods but `reset` and `get_reward`
    to the model as tools, and asks for the reward when the model has stopped calling them.

    feedback: what `submit` has said of the answers judged so far; other reward functions get the
        environments of a batch as `environments`.
    """

    def __init__(self, env: TextEnv, *sources: FeedbackSource) -> None:
        self.feedback: list[str] = []
        self._env = compose(TextVectorEnv(env, 1, progress=False), *sources)
        self._max_turns = env.max_turns
        self._over = False
        self._reward: float | None = 0.0

    def reset(self, problem_id: str | None = None, **_other_columns: Any) -> str:
        """Begin the episode of a row; gives what TRL appends to the row's prompt."""
        if problem_id is None:
            raise ValueError(
                "The environment finds its problem by the column 'problem_id', which the data set "
                "lacks. Train on vpd_envs.adapters.trl.dataset(env): without a data set the "
                "answers of a group would be to different problems."
            )
        self._env.reset(options={"problem_ids": [problem_id]})
        self.feedback = []
        self._over = False
        self._reward = 0.0
        if self._max_turns == 1:
            return "\n\nHand in your answer with the tool `submit`."
        return (
            "\n\nHand in your answer with the tool `submit`. If it is not right you are told why, "
            f"and may hand in another: {self._max_turns} answers at most."
        )

    def submit(self, answer: str) -> str:
        """Hand in an answer to the task.

        Args:
            answer: The complete answer, in the format that the task asks for.

        Returns:
            What is right or wrong about the answer.
        """
        if self._over:
            return "No more answers are taken."
        try:
            _, rewards, terminated, _, infos = self._env.step([answer])
        except SandboxError:
            self._reward = None
            return "The answer could not be judged, and does not count. Hand it in again."
        self._over, self._reward = bool(terminated[0]), float(rewards[0])
        self.feedback.append(infos["feedback"][0])
        return self.feedback[-1]

    def get_reward(self) -> float | None:
        """The reward of the answer that ended the episode; 0 if none did, because the model stopped
        before; None, which TRL leaves out, if the last answer could not be judged."""
        return self._reward


def answer_text(completion: Completion) -> str:
    """A plain completion, or the text of the last message that the model wrote."""
    if isinstance(completion, str):
        return completion
    written = [message for message in completion if message.get("role") == "assistant"]
    content = (written[-1].get("content") if written else None) or ""
    if isinstance(content, str):
        return content
    return "".join(block.get("text") or "" for block in content)


def _status_text(verdict: Verdict | SandboxError | None) -> str | None:
    if isinstance(verdict, SandboxError):
        return f"not judged: {verdict}"
    return None if verdict is None else verdict.status.value


def require_trl() -> None:
    """Raises ImportError unless a TRL is installed that treats answers without reward rightly."""
    version = installed_version("trl", "TRL", _NEEDED)
    if version.release < _OLDEST_TRL:
        raise ImportError(
            f"This adapter needs TRL 1.8 or newer, {version} is installed (older ones train on an "
            f"answer that could not be judged as if it were wrong): {pip_install(_NEEDED)}"
        )
