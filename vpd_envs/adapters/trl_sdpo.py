"""TRL's SDPO trainer whose teacher reads the feedback on each attempt.

TRL's own trainer takes feedback from the data set (the column `privileged_context`): one text per
problem, written before anything was sampled. Here it is what the environment says of the attempt:

    env = gym.make("vpd/MiniCode-v0")
    trainer = FeedbackSDPOTrainer(
        model=...,
        reward_funcs=reward_function(env),
        train_dataset=dataset(env),
        args=SDPOConfig(include_environment_feedback=True, ...),
    )

For TRL 1.8 to 1.16, run with both; the trainer is one of TRL's experimental ones.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from typing import Any

from sandbox.core import SandboxError
from sandbox.installation import pip_install
from vpd_envs.adapters.trl import RewardFunction, require_trl
from vpd_envs.types import Verdict

_WRONG_TRL = (
    "This adapter extends how TRL 1.8 to 1.16 build the prompts of SDPO's teacher; the installed "
    f"version does it in another way (the trainer is experimental): {pip_install('trl>=1.8,<1.17')}"
)

try:
    import torch
    from torch import Tensor

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # TRL's, that its trainer is experimental: said above
        from trl.experimental.sdpo import SDPOTrainer
        from trl.experimental.sdpo.sdpo_trainer import SuccessfulRolloutTeacherContextBuilder
except ImportError as error:
    require_trl()
    raise ImportError(_WRONG_TRL) from error


Wording = Callable[[str, Verdict], str]


def feedback_alone(answer: str, verdict: Verdict) -> str:
    return verdict.feedback


class FeedbackSDPOTrainer(SDPOTrainer):
    """SDPO with the verdict's feedback on each attempt in the prompt of its teacher.

    An attempt that failed has the feedback on itself, as `feedback_template` words it, and a solved
    attempt of its group if there is one. An attempt that solved the problem has no feedback of its
    own, since the template calls it unsuccessful; its teacher reads another's solution, if there is
    one, and else it is not distilled. One that could not be judged is left out: it has no
    advantage, no teacher, and is nobody's solution. (TRL would count it as a reward of 0; the mean
    reward in TRL's logs still does.) Rows of another task keep their `privileged_context`.

    Takes the arguments of TRL's trainer, and

    wording: what stands for {feedback_raw} in `feedback_template`, made of an answer that failed
        and its verdict; by default the verdict's feedback. SDPO does not show the answer.

    Raises ValueError unless exactly one of the `reward_funcs` is a
    `vpd_envs.adapters.trl.reward_function`, or if the config lacks
    `include_environment_feedback=True`.
    """

    def __init__(self, *arguments: Any, wording: Wording = feedback_alone, **options: Any) -> None:
        super().__init__(*arguments, **options)
        if not getattr(self.args, "include_environment_feedback", False):
            raise ValueError(
                "The teacher would not read the feedback: set "
                "SDPOConfig(include_environment_feedback=True)."
            )
        if not hasattr(self, "teacher_context_builder"):
            raise ImportError(_WRONG_TRL)
        self.teacher_context_builder = AttemptFeedback(self, _ours(self.reward_funcs), wording)


class AttemptFeedback(SuccessfulRolloutTeacherContextBuilder):
    """Builds teacher prompts with the verdicts of the batch that `reward` has just judged."""

    def __init__(self, trainer: SDPOTrainer, reward: RewardFunction, wording: Wording) -> None:
        super().__init__(trainer)
        self.reward = reward
        self.wording = wording

    def build(
        self,
        output: dict[str, Any],
        prompts: list[Any],
        rewards: Tensor,
        feedbacks: list[Any] | None = None,
    ) -> dict[str, Tensor]:
        """What TRL's builder gives for the attempts of this process; changes the advantages in
        `output` where an attempt could not be judged.

        rewards: [B], one per prompt; feedbacks: the texts of the data set, or None.
        """
        answers, verdicts = self.reward.last_answers, self.reward.last_verdicts
        given = feedbacks or [None] * len(prompts)
        shown = [self._shown(*of_one) for of_one in zip(answers, verdicts, given, strict=True)]
        mask = torch.tensor([not isinstance(verdict, SandboxError) for verdict in verdicts])
        mask = mask.to(rewards.device)
        known = torch.where(mask, rewards, torch.nan)
        self._leave_out_of_groups(output, known)
        built = super().build(output, prompts, known, feedbacks=shown)
        built["self_distillation_mask"] = built["self_distillation_mask"] * mask
        return built

    def _shown(self, answer: str, verdict: Verdict | SandboxError | None, given: Any) -> Any:
        """What the teacher reads beside a solution; `given` is of the data set."""
        if verdict is None:
            return given
        if isinstance(verdict, SandboxError) or verdict.solved:
            return None
        return self.wording(answer, verdict)

    def _leave_out_of_groups(self, output: dict[str, Any], rewards: Tensor) -> None:
        """Takes the advantages from the attempts with a reward alone; the others get 0.

        rewards: [B], NaN where nothing is known.
        """
        trainer = self.trainer
        everywhere = trainer.accelerator.gather(rewards)
        if not everywhere.isnan().any():
            return
        training = trainer.model.training
        size = trainer.num_generations if training else trainer.num_generations_eval
        start = trainer.accelerator.process_index * len(rewards)
        advantages = group_advantages(everywhere, size, trainer.scale_rewards)
        output["advantages"] = advantages[start : start + len(rewards)]


def group_advantages(rewards: Tensor, size: int, scale: str) -> Tensor:
    """TRL's advantages (r - mean) / (std + 1e-4) [N] of groups of `size`, where a NaN is left out
    of the mean and of the deviation and gets 0.

    scale: "group", "batch" or "none", as TRL's `scale_rewards`.
    """
    groups = rewards.view(-1, size)
    centered = (groups - groups.nanmean(dim=1, keepdim=True)).flatten()
    if scale == "group":
        deviation = torch.stack([_deviation(group) for group in groups]).repeat_interleave(size)
    else:
        deviation = _deviation(rewards) if scale == "batch" else torch.ones_like(rewards)
    return (centered / (deviation + 1e-4)).nan_to_num(0.0)


def _deviation(rewards: Tensor) -> Tensor:
    """The sample standard deviation of what is known; 0 of fewer than two."""
    known = rewards[~rewards.isnan()]
    return known.std() if len(known) > 1 else torch.zeros_like(rewards[0])


def _ours(reward_funcs: Sequence[Any]) -> RewardFunction:
    ours = [function for function in reward_funcs if isinstance(function, RewardFunction)]
    if len(ours) != 1:
        raise ValueError(
            f"Expected one reward function of vpd_envs.adapters.trl.reward_function(env) among the "
            f"reward_funcs, whose verdicts the teacher reads; got {len(ours)}."
        )
    return ours[0]
