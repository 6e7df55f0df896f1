"""Rollouts as tensors, and the one place where they are padded into them."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, fields, replace

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from vpd_agent.data.padding import pad_left, pad_right
from vpd_agent.data.types import Rollout


@dataclass(frozen=True)
class RolloutBatch:
    """B rollouts as tensors: prompts padded on the left, responses on the right.

    P, Q: lengths of the longest student and teacher prompt; T: of the longest response.
    The last block of fields describes the *whole* batch, of all processes, and survives `split`,
    so that losses of micro-batches add up to the loss of the batch and no gradient depends on how
    it was split.
    """

    prompt: Int[Tensor, "B P"]  # token ids
    prompt_mask: Bool[Tensor, "B P"]  # True where there is a token
    response: Int[Tensor, "B T"]  # token ids
    token_mask: Bool[Tensor, "B T"]  # True where there is a token
    loss_mask: Bool[Tensor, "B T"]  # True where the policy sampled the token: where a loss applies
    old_logprobs: Float[Tensor, "B T"]  # under the policy at the start of the training step
    sampler_weight: Float[Tensor, "B T"]  # truncated π_old/π_sampler; 1 where they are the same
    rewards: Float[Tensor, " B"]
    solved: Bool[Tensor, " B"]
    group: Int[Tensor, " B"]  # rollouts of one problem share it
    group_mean: Float[Tensor, " B"]  # mean reward of the row's group
    group_std: Float[Tensor, " B"]  # standard deviation of the row's group, with n − 1
    group_solve_rate: Float[Tensor, " B"]  # share of the row's group that is solved
    teacher_prompt: Int[Tensor, "B Q"]  # token ids
    teacher_prompt_mask: Bool[Tensor, "B Q"]
    has_teacher: Bool[Tensor, " B"]  # there was something to build a teacher prompt from
    own_success: Bool[Tensor, " B"]  # solved, and its teacher is shown nothing but that
    skipped: Bool[Tensor, "B T"]  # True at tokens on which no teacher is to speak

    max_response_tokens: int  # what a response could have had
    num_rollouts: float
    num_tokens: float  # response tokens where the loss applies, as in all token counts below
    num_solved: float  # rollouts
    num_signal_rollouts: float  # rollouts of groups whose rewards differ
    num_signal_tokens: float
    num_solved_with_teacher: float  # rollouts
    num_failed_with_teacher: float
    num_solved_teacher_tokens: float
    num_failed_teacher_tokens: float
    num_own_success_with_teacher: float  # rollouts
    num_own_success_teacher_tokens: float

    def __len__(self) -> int:
        return self.response.shape[0]

    @property
    def teacher_mask(self) -> Bool[Tensor, "B T"]:
        """True where a loss against the teacher applies."""
        return self.loss_mask & self.has_teacher[:, None] & ~self.skipped

    @property
    def num_teacher_tokens(self) -> float:
        return self.num_solved_teacher_tokens + self.num_failed_teacher_tokens

    @property
    def lengths(self) -> Int[Tensor, " B"]:
        """Response tokens where the loss applies."""
        return self.loss_mask.sum(1)

    @property
    def share(self) -> float:
        """This micro-batch's share of all rollouts: metrics that are the same for every rollout are
        reported in shares, which add up."""
        return float(self.loss_mask.any(1).sum()) / self.num_rollouts

    def totals(self) -> dict[str, float]:
        """The numbers that describe the whole batch, counted in the rows of this one."""
        outcome = self.solved, self.has_teacher, self.own_success
        return _totals(self.loss_mask, self.skipped, *outcome, self.group_std)

    def rows(self, index: slice | Tensor) -> RolloutBatch:
        """The same batch, these rows only; whole-batch numbers are kept."""
        return self._map(lambda tensor: tensor[index])

    def split(
        self, max_rows: int | None = None, max_tokens: int | None = None
    ) -> Iterator[RolloutBatch]:
        """Micro-batches (see `parts`) without the padding they do not need."""
        for part in self.parts(max_rows, max_tokens):
            yield self.rows(part).trimmed()

    def parts(self, max_rows: int | None = None, max_tokens: int | None = None) -> list[Tensor]:
        """Row numbers of micro-batches.

        max_rows: the most rows of one. max_tokens: the most positions of one, padding included:
        rows · (longest prompt + longest response); a single row may have more. Rows of similar
        length are put into the same micro-batch.
        """
        size = max_rows or len(self)
        if max_tokens is None:
            return list(torch.arange(len(self), device=self.response.device).split(size))
        prompts = torch.maximum(self.prompt_mask.sum(1), self.teacher_prompt_mask.sum(1)).tolist()
        responses = _ends(self.token_mask).tolist()
        parts: list[list[int]] = [[]]
        prompt = response = 0  # the longest of the part
        for i in sorted(range(len(self)), key=lambda i: prompts[i] + responses[i]):
            prompt, response = max(prompt, prompts[i]), max(response, responses[i])
            full = (len(parts[-1]) + 1) * (prompt + response) > max_tokens
            if parts[-1] and (full or len(parts[-1]) == size):
                parts.append([])
                prompt, response = prompts[i], responses[i]
            parts[-1].append(i)
        return [torch.tensor(part, device=self.response.device) for part in parts]

    def silenced(self) -> RolloutBatch:
        """The same rows, which no loss counts: for a process that has no rows left while others
        still make passes that all must make together."""
        return replace(
            self,
            loss_mask=torch.zeros_like(self.loss_mask),
            has_teacher=torch.zeros_like(self.has_teacher),
        )

    def trimmed(self) -> RolloutBatch:
        """Without columns that are padding in every row."""
        p = _leading_padding(self.prompt_mask)
        q = _leading_padding(self.teacher_prompt_mask)
        t = max(int(_ends(self.token_mask).max()), 1)
        return replace(
            self,
            prompt=self.prompt[:, p:],
            prompt_mask=self.prompt_mask[:, p:],
            response=self.response[:, :t],
            token_mask=self.token_mask[:, :t],
            loss_mask=self.loss_mask[:, :t],
            old_logprobs=self.old_logprobs[:, :t],
            sampler_weight=self.sampler_weight[:, :t],
            skipped=self.skipped[:, :t],
            teacher_prompt=self.teacher_prompt[:, q:],
            teacher_prompt_mask=self.teacher_prompt_mask[:, q:],
        )

    def to(self, device: torch.device | str) -> RolloutBatch:
        return self._map(lambda tensor: tensor.to(device))

    def _map(self, change: Callable[[Tensor], Tensor]) -> RolloutBatch:
        values = {f.name: getattr(self, f.name) for f in fields(self)}
        return replace(self, **{k: change(v) for k, v in values.items() if torch.is_tensor(v)})

    @classmethod
    def from_rollouts(
        cls,
        rollouts: Sequence[Rollout],
        teacher_prompts: Sequence[list[int] | None],
        *,
        success_reward: float = 1.0,
        pad_id: int = 0,
        max_response_tokens: int | None = None,
        teacher_sees_outcome: bool = True,
        skipped_ids: Collection[int] = (),
    ) -> RolloutBatch:
        """Pad rollouts into a batch.

        teacher_prompts: token ids per rollout, None where there was nothing to show.
        success_reward: a rollout counts as solved from this reward on.
        max_response_tokens: what a response could have had; None: as many as the longest has.
        teacher_sees_outcome: whether those prompts show a rollout's own outcome; without it no row
            is an own success.
        skipped_ids: tokens of the response on which no teacher is to speak.
        `prompt` is the student's, also of a teacher rollout; `old_logprobs` are those of the
        rollouts, which a teacher rollout has on the teacher's prompt.
        """
        if not rollouts:
            raise ValueError("A batch needs at least one rollout, got none.")
        if len(teacher_prompts) != len(rollouts):
            raise ValueError(
                f"Expected one teacher prompt (or None) per rollout: "
                f"{len(rollouts)} rollouts, {len(teacher_prompts)} teacher prompts."
            )
        for rollout in rollouts:
            _check(rollout)
        prompt, prompt_mask = pad_left(
            [r.plain_prompt_ids or r.prompt_ids for r in rollouts], pad_id
        )
        response, token_mask = pad_right([r.response_ids for r in rollouts], pad_id)
        old_logprobs = torch.zeros(token_mask.shape)
        old_logprobs[token_mask] = torch.tensor([x for r in rollouts for x in r.logprobs])
        loss_mask = token_mask.clone()
        if any(r.is_policy_token is not None for r in rollouts):
            sampled = [
                x for r in rollouts for x in r.is_policy_token or [True] * len(r.response_ids)
            ]
            loss_mask[token_mask] = torch.tensor(sampled)
        # A row without feedback keeps its own prompt as a stand-in; has_teacher masks it out.
        stand_in = [t or r.prompt_ids for t, r in zip(teacher_prompts, rollouts, strict=True)]
        teacher_prompt, teacher_prompt_mask = pad_left(stand_in, pad_id)
        has_teacher = torch.tensor([t is not None for t in teacher_prompts])
        rewards = torch.tensor([r.reward for r in rollouts], dtype=torch.float32)
        solved = rewards >= success_reward
        own_success = solved & torch.tensor(
            [teacher_sees_outcome and not r.demonstration.strip() for r in rollouts]
        )
        silent = torch.tensor([*skipped_ids], dtype=response.dtype)
        skipped = loss_mask & torch.isin(response, silent)
        group = torch.tensor([r.group for r in rollouts])
        group_mean, group_std = group_statistics(rewards, group)
        group_solve_rate, _ = group_statistics(solved.float(), group)
        return cls(
            prompt=prompt,
            prompt_mask=prompt_mask,
            response=response,
            token_mask=token_mask,
            loss_mask=loss_mask,
            old_logprobs=old_logprobs * loss_mask,
            sampler_weight=torch.ones(loss_mask.shape),
            rewards=rewards,
            solved=solved,
            group=group,
            group_mean=group_mean,
            group_std=group_std,
            group_solve_rate=group_solve_rate,
            teacher_prompt=teacher_prompt,
            teacher_prompt_mask=teacher_prompt_mask,
            has_teacher=has_teacher,
            own_success=own_success,
            skipped=skipped,
            max_response_tokens=max_response_tokens or response.shape[1],
            **_totals(loss_mask, skipped, solved, has_teacher, own_success, group_std),
        )


def _totals(
    loss_mask: Bool[Tensor, "B T"],
    skipped: Bool[Tensor, "B T"],
    solved: Bool[Tensor, " B"],
    has_teacher: Bool[Tensor, " B"],
    own_success: Bool[Tensor, " B"],
    group_std: Float[Tensor, " B"],
) -> dict[str, float]:
    """The `num_` fields of a batch of these rows; one that no loss counts is not counted either."""
    tokens, counts = loss_mask.sum(1), loss_mask.any(1)
    taught = (loss_mask & ~skipped).sum(1)
    taught_solved, taught_failed = solved & has_teacher & counts, ~solved & has_teacher & counts
    own = own_success & has_teacher & counts
    signal = (group_std > 0) & counts
    return {
        "num_rollouts": float(counts.sum()),
        "num_tokens": float(tokens.sum()),
        "num_solved": float((solved & counts).sum()),
        "num_signal_rollouts": float(signal.sum()),
        "num_signal_tokens": float(tokens[signal].sum()),
        "num_solved_with_teacher": float(taught_solved.sum()),
        "num_failed_with_teacher": float(taught_failed.sum()),
        "num_solved_teacher_tokens": float(taught[taught_solved].sum()),
        "num_failed_teacher_tokens": float(taught[taught_failed].sum()),
        "num_own_success_with_teacher": float(own.sum()),
        "num_own_success_teacher_tokens": float(taught[own].sum()),
    }


def _check(rollout: Rollout) -> None:
    """Raise ValueError for a rollout that nothing can be learned from."""
    where, count = f"of problem {rollout.problem_id!r}", len(rollout.response_ids)
    if not math.isfinite(rollout.reward):
        raise ValueError(
            f"The reward {where} is {rollout.reward}; expected a finite number. Drop rollouts that "
            f"could not be judged before batching."
        )
    marks = len(rollout.is_policy_token or rollout.response_ids)
    if len(rollout.logprobs) != count or marks != count:
        raise ValueError(
            f"The rollout {where} has {count} response tokens; expected as many log-probabilities "
            f"and entries of is_policy_token, got {len(rollout.logprobs)} and {marks}."
        )
    if not count or not any(rollout.is_policy_token or [True]):
        raise ValueError(f"The rollout {where} has no tokens.")


def group_statistics(
    rewards: Float[Tensor, " B"], group: Int[Tensor, " B"]
) -> tuple[Float[Tensor, " B"], Float[Tensor, " B"]]:
    """Mean and standard deviation of each row's group, the latter with n − 1 as in verl and TRL
    (torch.std's default); 0 for a group of one.

    In float64: rounding must not make a group of equal rewards look as if they differed. (Σ r / n
    of n equal float32 rewards is exact there for any n below 2²⁹, so their deviation is 0.)
    """
    _, index, count = group.unique(return_inverse=True, return_counts=True)
    exact = rewards.double()
    mean = index.bincount(exact) / count
    variance = index.bincount((exact - mean[index]).square()) / (count - 1).clamp(min=1)
    return mean[index].to(rewards.dtype), variance.sqrt()[index].to(rewards.dtype)


def _ends(token_mask: Tensor) -> Tensor:
    """[B, T] → [B] one past the last True of each row."""
    places = torch.arange(1, token_mask.shape[1] + 1, device=token_mask.device)
    return (token_mask * places).amax(1)


def _leading_padding(mask: Tensor) -> int:
    """Columns on the left that are padding in every row."""
    return int((~mask.any(0)).int().cumprod(0).sum())
