"""Rollouts, and the one place where they are padded into tensors."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields, replace

import torch
from torch import Tensor

Message = dict[str, str]  # {"role": ..., "content": ...}


@dataclass(frozen=True)
class Rollout:
    """One answer to one problem, with what the environment said of it."""

    problem_id: str
    group: int  # rollouts of one problem in one batch share it
    messages: list[Message]  # the prompt, as the environment gave it
    prompt_ids: list[int]
    response_ids: list[int]  # ends with the end-of-sequence token if finish == "stop"
    logprobs: list[float]  # of response_ids, under the policy that sampled them
    text: str  # the decoded response, what the environment judged
    finish: str  # "stop" or "length"
    reward: float
    feedback: str
    status: str = ""  # the environment's word for the outcome, for reports only


@dataclass(frozen=True)
class RolloutBatch:
    """B rollouts as tensors: prompts padded on the left, responses on the right.

    P, Q: lengths of the longest student and teacher prompt; T: of the longest response.
    The last block of fields describes the *whole* batch and survives `split`, so that losses of
    micro-batches add up to the loss of the batch and no gradient depends on how it was split.
    """

    prompt: Tensor  # [B, P] token ids
    prompt_mask: Tensor  # [B, P] True where there is a token
    response: Tensor  # [B, T] token ids
    mask: Tensor  # [B, T] True where the loss applies
    old_logprobs: Tensor  # [B, T] under the policy that sampled them
    rewards: Tensor  # [B]
    solved: Tensor  # [B] bool
    group_mean: Tensor  # [B] mean reward of the row's group
    group_std: Tensor  # [B] standard deviation (unbiased=False) of the row's group
    teacher_prompt: Tensor  # [B, Q] token ids
    teacher_prompt_mask: Tensor  # [B, Q]
    has_teacher: Tensor  # [B] bool: there was feedback to build a teacher prompt from

    num_rollouts: int
    num_tokens: int  # response tokens
    num_teacher_tokens: int  # response tokens of rows with a teacher
    num_solved_with_teacher: int
    num_failed_with_teacher: int

    def __len__(self) -> int:
        return self.response.shape[0]

    @property
    def teacher_mask(self) -> Tensor:
        """[B, T] True where a loss against the teacher applies."""
        return self.mask & self.has_teacher[:, None]

    def rows(self, index: slice | Tensor) -> RolloutBatch:
        """The same batch, these rows only; whole-batch numbers are kept."""
        tensors = {f.name: getattr(self, f.name) for f in fields(self)}
        return replace(self, **{k: v[index] for k, v in tensors.items() if torch.is_tensor(v)})

    def split(self, size: int) -> Iterator[RolloutBatch]:
        """Micro-batches of at most `size` rows, each without the padding it does not need."""
        for start in range(0, len(self), size):
            yield self.rows(slice(start, start + size)).trimmed()

    def trimmed(self) -> RolloutBatch:
        """Without columns that are padding in every row."""
        p = _leading_padding(self.prompt_mask)
        q = _leading_padding(self.teacher_prompt_mask)
        t = max(int(self.mask.sum(1).max()), 1)
        return replace(
            self,
            prompt=self.prompt[:, p:],
            prompt_mask=self.prompt_mask[:, p:],
            response=self.response[:, :t],
            mask=self.mask[:, :t],
            old_logprobs=self.old_logprobs[:, :t],
            teacher_prompt=self.teacher_prompt[:, q:],
            teacher_prompt_mask=self.teacher_prompt_mask[:, q:],
        )

    def to(self, device: torch.device | str) -> RolloutBatch:
        tensors = {f.name: getattr(self, f.name) for f in fields(self)}
        return replace(self, **{k: v.to(device) for k, v in tensors.items() if torch.is_tensor(v)})

    @classmethod
    def from_rollouts(
        cls,
        rollouts: Sequence[Rollout],
        teacher_prompts: Sequence[list[int] | None],
        *,
        success_reward: float = 1.0,
        pad_id: int = 0,
    ) -> RolloutBatch:
        """Pad rollouts into a batch.

        teacher_prompts: token ids per rollout, None where there was no feedback.
        success_reward: a rollout counts as solved from this reward on.
        """
        if not rollouts:
            raise ValueError("A batch needs at least one rollout, got none.")
        if len(teacher_prompts) != len(rollouts):
            raise ValueError(
                f"Expected one teacher prompt (or None) per rollout: "
                f"{len(rollouts)} rollouts, {len(teacher_prompts)} teacher prompts."
            )
        for rollout in rollouts:
            if not rollout.response_ids:
                raise ValueError(f"Rollout of problem {rollout.problem_id!r} has no tokens.")
            if not torch.isfinite(torch.tensor(rollout.reward)):
                raise ValueError(
                    f"Reward of problem {rollout.problem_id!r} is {rollout.reward}; expected a "
                    f"finite number. Drop rollouts that could not be judged before batching."
                )
        prompt, prompt_mask = pad_left([r.prompt_ids for r in rollouts], pad_id)
        response, mask = pad_right([r.response_ids for r in rollouts], pad_id)
        old_logprobs = torch.zeros(mask.shape)
        old_logprobs[mask] = torch.tensor([x for r in rollouts for x in r.logprobs])
        # A row without feedback keeps its own prompt as a stand-in; has_teacher masks it out.
        stand_in = [t or r.prompt_ids for t, r in zip(teacher_prompts, rollouts, strict=True)]
        teacher_prompt, teacher_prompt_mask = pad_left(stand_in, pad_id)
        has_teacher = torch.tensor([t is not None for t in teacher_prompts])
        rewards = torch.tensor([r.reward for r in rollouts], dtype=torch.float32)
        group_mean, group_std = group_statistics(rewards, torch.tensor([r.group for r in rollouts]))
        solved = rewards >= success_reward
        return cls(
            prompt=prompt,
            prompt_mask=prompt_mask,
            response=response,
            mask=mask,
            old_logprobs=old_logprobs,
            rewards=rewards,
            solved=solved,
            group_mean=group_mean,
            group_std=group_std,
            teacher_prompt=teacher_prompt,
            teacher_prompt_mask=teacher_prompt_mask,
            has_teacher=has_teacher,
            num_rollouts=len(rollouts),
            num_tokens=int(mask.sum()),
            num_teacher_tokens=int((mask & has_teacher[:, None]).sum()),
            num_solved_with_teacher=int((solved & has_teacher).sum()),
            num_failed_with_teacher=int((~solved & has_teacher).sum()),
        )


def group_statistics(rewards: Tensor, group: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and (biased) standard deviation of each row's group. rewards, group: [B] → [B], [B]."""
    _, index = group.unique(return_inverse=True)
    count = torch.zeros(int(index.max()) + 1).index_add_(0, index, torch.ones_like(rewards))
    mean = torch.zeros_like(count).index_add_(0, index, rewards) / count
    deviation = (rewards - mean[index]).square()
    variance = torch.zeros_like(count).index_add_(0, index, deviation) / count
    return mean[index], variance.sqrt()[index]


def pad_left(rows: Sequence[list[int]], pad_id: int) -> tuple[Tensor, Tensor]:
    """Token ids [B, P] and their mask, padded on the left."""
    return _pad(rows, pad_id, left=True)


def pad_right(rows: Sequence[list[int]], pad_id: int) -> tuple[Tensor, Tensor]:
    """Token ids [B, T] and their mask, padded on the right."""
    return _pad(rows, pad_id, left=False)


def _pad(rows: Sequence[list[int]], pad_id: int, *, left: bool) -> tuple[Tensor, Tensor]:
    width = max(len(row) for row in rows)
    ids = torch.full((len(rows), width), pad_id, dtype=torch.long)
    mask = torch.zeros((len(rows), width), dtype=torch.bool)
    for i, row in enumerate(rows):
        place = slice(width - len(row), width) if left else slice(0, len(row))
        ids[i, place] = torch.tensor(row, dtype=torch.long)
        mask[i, place] = True
    return ids, mask


def _leading_padding(mask: Tensor) -> int:
    """Columns on the left that are padding in every row."""
    return int((~mask.any(0)).int().cumprod(0).sum())
