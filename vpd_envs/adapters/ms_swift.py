"""The environments of this suite in ms-swift (4.6): rewards, and the feedback as teacher prompts.

ms-swift's trainers with a teacher that is told more than the student (GRPO with a teacher, RLSD,
SDAR; GKD as on-policy self-distillation) read what it is told from the data set's column
`teacher_prompt`, one text per problem. Here each attempt has its own, made of the feedback on it.
A plugin is two lines:

    # vpd_plugin.py
    from vpd_envs.adapters.ms_swift import register
    register("vpd/MiniCode-v0")

and the data set is written once:

    python -c 'from vpd_envs.adapters.ms_swift import write_dataset
    write_dataset("problems.jsonl", "vpd/MiniCode-v0")'

    swift rlhf --rlhf_type grpo --advantage_reweight rlsd --external_plugins vpd_plugin.py \\
        --reward_funcs vpd --dataset problems.jsonl --model ...
    swift rlhf --rlhf_type gkd --lmbda 1 --external_plugins vpd_plugin.py \\
        --remove_unused_columns false --dataset problems.jsonl --model ...

Run with ms-swift 4.6.0 on a CPU, both commands, with a tiny model, one process, and answers sampled
by transformers. Not run: vLLM, several processes, answers of several turns. Its trainers on
Megatron and on Ray are others, and do not read the feedback.
"""

# pyright: reportMissingImports=false
# ms-swift is not among the packages that this project is developed with.

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import gymnasium as gym
from gymnasium.vector import VectorEnv
from packaging.version import Version

from sandbox.core import SandboxError
from sandbox.installation import pip_install
from vpd_envs.adapters import installed_version, text_env
from vpd_envs.text_env import TextEnv, check_some_judged
from vpd_envs.types import Verdict

if TYPE_CHECKING:
    from torch import Tensor

FAILED = (
    "{prompt}\nThe following is feedback from your unsuccessful earlier attempt:\n\n{feedback}\n\n"
    "Correctly solve the original question."
)
"""SDPO's wording, arXiv 2601.20802."""

_EMPTY_THINKING = re.compile(r"\A<think>\s*</think>\s*")
_NEEDED = "ms-swift>=4.6,<5"


class Sample(Protocol):
    """What is read and changed of ms-swift's `OnPolicySample`, an attempt at a row."""

    messages: list[dict[str, Any]]
    """The row's, and behind them the attempt as the assistant's."""
    extra: dict[str, Any]
    """The row's other columns."""
    teacher_prompt: Any
    """What the teacher reads in the place of the last user message."""


def write_dataset(
    path: str | Path,
    env: str | gym.Env | VectorEnv,
    *,
    problem_ids: Iterable[str] | None = None,
    **options: Any,
) -> int:
    """Writes a line {"messages", "problem_id"} per problem, in the environment's order; gives the
    number of lines. The file has them all, or is as it was before.

    problem_ids: these problems only, in this order. Raises ValueError for an unknown one.
    """
    env = text_env(env, **options)
    problems = [
        env.problem(id_) for id_ in (env.problem_ids if problem_ids is None else problem_ids)
    ]
    rows = [json.dumps({"messages": p.messages, "problem_id": p.id}) for p in problems]
    unfinished = Path(f"{path}.unfinished")
    unfinished.write_text("".join(f"{row}\n" for row in rows))
    unfinished.replace(path)
    return len(rows)


def register(
    env: str | gym.Env | VectorEnv, *, name: str = "vpd", failed: str = FAILED, **options: Any
) -> VPDReward:
    """Makes the environment's reward known to ms-swift by `name`, and lets its trainers `grpo` and
    `gkd` make teacher prompts of the feedback. For a plugin file.

    failed: the teacher's prompt for an attempt that failed: a text with {prompt}, {answer} and
        {feedback}. For any other attempt it is the student's prompt.
    Raises ImportError unless ms-swift 4.6 or a newer 4 is installed.
    """
    _require_swift()
    from swift.rewards import orms
    from swift.rlhf_trainers import GKDTrainer, GRPOTrainer
    from swift.trainers import TrainerFactory

    reward = VPDReward(text_env(env, **options), failed)
    orms[name] = lambda args=None: reward
    trainers = {"grpo": grpo_with_feedback(GRPOTrainer, reward)}
    trainers["gkd"] = gkd_with_feedback(GKDTrainer, reward)
    for method, trainer in trainers.items():
        globals()[trainer.__name__] = trainer  # ms-swift finds a trainer by module and name
        TrainerFactory.TRAINER_MAPPING[method] = f"{__name__}.{trainer.__name__}"
    return reward


class VPDReward:
    """A reward of ms-swift (its `ORM`): judges the answers of a batch side by side, by the column
    `problem_id` of the data set. None where the infrastructure failed.

    last_verdicts: of the last batch, in its order.
    """

    def __init__(self, env: TextEnv, failed: str = FAILED) -> None:
        failed.format(prompt="", answer="", feedback="")
        self.env = env
        self.failed = failed
        self.last_verdicts: list[Verdict | SandboxError] = []

    def __call__(
        self,
        completions: Sequence[str],
        *,
        problem_id: Sequence[str | None] | None = None,
        **_other_columns: Any,  # ms-swift passes every column and more
    ) -> list[float | None]:
        """Raises SandboxError if none of the answers could be judged, ValueError for a data set
        that does not belong to the environment."""
        if problem_id is None or None in problem_id:
            raise ValueError(
                "The reward finds problems by the column 'problem_id', which rows of the data set "
                "lack. Train on what vpd_envs.adapters.ms_swift.write_dataset writes, with "
                "--remove_unused_columns false."
            )
        problems = [self.env.problem(id_) for id_ in problem_id if id_ is not None]
        answers = [without_empty_thinking(completion) for completion in completions]
        self.last_verdicts = self.env.judge_batch(problems, answers)
        check_some_judged(self.last_verdicts)
        return [v.reward if isinstance(v, Verdict) else None for v in self.last_verdicts]

    def judge(self, samples: Sequence[Sample]) -> None:
        """For trainers that ask for no reward."""
        ids = [sample.extra.get("problem_id") for sample in samples]
        self([sample.messages[-1]["content"] for sample in samples], problem_id=ids)

    def tell_teacher(self, samples: Sequence[Sample]) -> None:
        """Gives each of the samples of the last batch its `teacher_prompt`.

        In a batch where one sample has a teacher prompt, ms-swift needs one of every other. Where
        the attempt solved the problem, or could not be judged, it is the student's prompt: then a
        teacher with the student's weights tells the student nothing.
        """
        for sample, verdict in zip(samples, self.last_verdicts, strict=True):
            sample.teacher_prompt = self._teacher_prompt(sample, verdict)

    def _teacher_prompt(self, sample: Sample, verdict: Verdict | SandboxError) -> str:
        prompt = asked(sample)
        if isinstance(verdict, SandboxError) or verdict.solved:
            return prompt
        return self.failed.format(prompt=prompt, answer=answer(sample), feedback=verdict.feedback)


def answer(sample: Sample) -> str:
    return without_empty_thinking(sample.messages[-1]["content"])


def without_empty_thinking(completion: str) -> str:
    """ms-swift counts the empty `<think></think>` that ends the prompt of a model which is not to
    think as the beginning of its answer."""
    return _EMPTY_THINKING.sub("", completion)


def asked(sample: Sample) -> str:
    return next(m["content"] for m in reversed(sample.messages) if m["role"] == "user")


def grpo_with_feedback(trainer: type[Any], reward: VPDReward) -> type[Any]:
    """ms-swift's GRPO trainer, whose teacher reads the feedback on each attempt.

    ms-swift counts an answer without any reward as 0. Here it has the mean of its group's others,
    and so no advantage. (It still counts for the group's standard deviation, which is smaller by
    √((k - 1) / (n - 1)) where k of n were judged.)
    """

    _check_has(trainer, "_compute_rewards_per_func")

    class FeedbackGRPOTrainer(trainer):
        def _compute_rewards_per_func(self, samples: list[Any]) -> Tensor:
            rewards = super()._compute_rewards_per_func(samples)
            if reward not in self.reward_funcs:
                reward.judge(samples)
            reward.tell_teacher(samples)
            training = self.model.training
            size = self.num_generations if training else self.num_generations_eval
            return without_gaps(rewards, size)

    return FeedbackGRPOTrainer


def gkd_with_feedback(trainer: type[Any], reward: VPDReward) -> type[Any]:
    """ms-swift's GKD trainer, whose teacher reads the feedback on each attempt."""

    _check_has(trainer, "_score_completions")

    class FeedbackGKDTrainer(trainer):
        def _score_completions(self, samples: list[Any]) -> list[Any]:
            samples = super()._score_completions(samples)
            reward.judge(samples)
            reward.tell_teacher(samples)
            return samples

    return FeedbackGKDTrainer


def without_gaps(rewards: Tensor, size: int) -> Tensor:
    """Answers that no function has scored get the mean of their group, of each function.

    rewards: [N, functions], N a multiple of `size`; NaN where a function gave none.
    """
    groups = rewards.unflatten(0, (len(rewards) // size, size))
    unknown = groups.isnan().all(dim=2, keepdim=True)
    means = groups.nanmean(dim=1, keepdim=True)
    return groups.where(~unknown, means).flatten(0, 1)


def _check_has(trainer: type[Any], method: str) -> None:
    if not hasattr(trainer, method):
        raise ImportError(
            f"The trainer {trainer.__name__} of the installed ms-swift has no {method}, which this "
            f"adapter extends: {pip_install('ms-swift==4.6.0')}"
        )


def _require_swift() -> None:
    version = installed_version("ms-swift", "ms-swift", _NEEDED)
    if not Version("4.6") <= version < Version("5"):
        raise ImportError(
            f"This adapter is for ms-swift 4.6 and later versions of 4, {version} is installed: "
            f"{pip_install(_NEEDED)}"
        )
