"""A batch of rollouts in the parts that its losses are computed in.

Mini-batches have an optimizer step each; micro-batches are parts of one and change no gradient.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from vpd_agent.algorithms.base import LossInputs
from vpd_agent.data.batch import RolloutBatch
from vpd_agent.distributed.world import Processes


class MicroBatches:
    """The micro-batches of a batch, as `LossInputs`.

    Each iteration makes new ones, so that what is computed for one (the logits of each model) is
    freed before the next one is computed.

    inputs: makes the LossInputs of a micro-batch.
    max_rows, max_tokens: of a micro-batch, see `RolloutBatch.parts`.
    spare: passes that this process makes beyond its own micro-batches. Processes that share a
        model's weights must make equally many; a spare one has no part in any loss.
    """

    def __init__(
        self,
        batch: RolloutBatch,
        inputs: Callable[[RolloutBatch], LossInputs],
        processes: Processes,
        max_rows: int | None = None,
        max_tokens: int | None = None,
    ) -> None:
        self.batch = batch
        self.parts = batch.parts(max_rows, max_tokens)  # row numbers of each micro-batch
        self.spare = processes.max(len(self.parts)) - len(self.parts)
        self._inputs = inputs

    def __iter__(self) -> Iterator[LossInputs]:
        for rows in self.parts:
            yield self._inputs(self.batch.rows(rows).trimmed())
        for _ in range(self.spare):
            yield self._inputs(self.batch.rows(self.parts[-1]).trimmed().silenced())

    @torch.no_grad()
    def logprobs(self, *, on_teacher_prompt: bool = False) -> Tensor:
        """[B, T] log-probabilities of the responses under the policy as it is now."""
        result = torch.zeros_like(self.batch.old_logprobs)
        for number, inputs in enumerate(self):
            logits = inputs.policy_on_teacher_prompt if on_teacher_prompt else inputs.student
            scored = logits.logprobs
            if number < len(self.parts):
                result[self.parts[number], : scored.shape[1]] = scored.float()
        return result


def mini_batches(batch: RolloutBatch, count: int, seed: int) -> Iterator[RolloutBatch]:
    """The rows of a batch in `count` parts of whole groups, in an order that the seed decides.

    Each has the numbers of the whole batch still: those of its own are its `totals`, summed over
    processes. Where rollouts were dropped there may be fewer groups than parts: a part without a
    group is a row that no loss counts.
    """
    groups = batch.group.unique()
    order = torch.randperm(len(groups), generator=torch.Generator().manual_seed(seed))
    for part in groups[order.to(groups.device)].tensor_split(count):
        chosen = torch.isin(batch.group, part)
        yield batch.rows(chosen) if len(part) else batch.rows(slice(1)).silenced()
