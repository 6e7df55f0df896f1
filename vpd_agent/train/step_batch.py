"""What the losses of a step are computed on: two batches, by what the policy was shown."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from vpd_agent.data.batch import RolloutBatch
from vpd_agent.train.micro_batches import mini_batches

Count = Callable[[RolloutBatch], RolloutBatch]


class StepBatch(NamedTuple):
    """own: rollouts on the plain prompt. of_teacher: those on the teacher's prompt, whose groups
    are groups of `own`; None where no process has any."""

    own: RolloutBatch
    of_teacher: RolloutBatch | None = None

    def mini_batches(self, count: int, seed: int, counted: Count) -> Iterator[StepBatch]:
        """Parts of whole groups, the same ones in both batches; one without any rollout is left
        out. counted: a batch with the numbers of its own rows, of all processes together."""
        if count == 1:
            yield self
            return
        for own in map(counted, mini_batches(self.own, count, seed)):
            if own.num_rollouts:
                yield StepBatch(own, self._of_groups(own.group, counted))

    def _of_groups(self, groups: Tensor, counted: Count) -> RolloutBatch | None:
        """The teacher rollouts of these groups."""
        if self.of_teacher is None:
            return None
        chosen = torch.isin(self.of_teacher.group, groups)
        part = self.of_teacher.rows(chosen) if chosen.any() else silent(self.of_teacher)
        part = counted(part)
        return part if part.num_rollouts else None


def silent(batch: RolloutBatch) -> RolloutBatch:
    """A row that no loss counts, for a process that has none where others have some."""
    return batch.rows(slice(1)).silenced()
