"""What prompts of a batch begin with alike: it needs to go through a model only once.

Rollouts of one problem share all of their prompt. Their teacher prompts share the problem and what
the template says before the feedback, and differ from there on.
"""

from __future__ import annotations

from itertools import pairwise
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from vpd_agent.data.padding import pad_left


class CutPrompts(NamedTuple):
    """B prompts, each cut in two: one of D prefixes, and a rest of at least one token."""

    prefix: Tensor  # [D, L] token ids, padded on the left
    prefix_mask: Tensor  # [D, L] True where there is a token
    which: Tensor  # [B] the prefix of each prompt
    rest: Tensor  # [B, S] token ids, padded on the left
    rest_mask: Tensor  # [B, S]

    @property
    def places(self) -> int:
        """What goes through a model, padding included."""
        return self.prefix.numel() + self.rest.numel()


def cut(prompt: Tensor, mask: Tensor) -> CutPrompts | None:
    """Prompts cut so that D·L + B·S is small; None where no two of them begin alike.

    prompt: [B, P] token ids, padded on the left; mask: [B, P] True where there is a token.

    Prompts are put together where at most so many tokens of theirs differ; the number with the
    fewest places is taken.
    """
    lengths = mask.sum(1).tolist()
    rows = [ids[-n:] for ids, n in zip(prompt.cpu().numpy(), lengths, strict=True)]
    # In the order of their bytes, as in any, those that begin alike are next to each other.
    order = sorted(range(len(rows)), key=lambda i: rows[i].tobytes())
    # The last token is left to the rest: it predicts the first one of each row's response.
    most = np.array(lengths)[order] - 1  # [B] how long a prefix can be
    alike = np.array([_in_common(rows[i], rows[j]) for i, j in pairwise(order)], dtype=int)
    alike = np.minimum(alike, np.minimum(most[:-1], most[1:]))  # [B−1] of neighbors
    apart = np.maximum(most[:-1], most[1:]) - alike
    joinable = alike > 0
    if not joinable.any() or most.min() < 1:
        return None
    choices = [
        _together(joinable & (apart <= at_most), alike, most)
        for at_most in np.unique(apart[joinable])
    ]
    which, length = min(choices, key=lambda choice: _places(*choice, most))
    firsts = np.unique(which, return_index=True)[1]  # of the prompts of each prefix, in order
    prefixes = [rows[order[i]][:n].tolist() for i, n in zip(firsts, length, strict=True)]
    of_row = which[np.argsort(order)]
    rests = [row[length[k] :].tolist() for row, k in zip(rows, of_row, strict=True)]
    parts = (*pad_left(prefixes, 0), torch.from_numpy(of_row), *pad_left(rests, 0))
    return CutPrompts(*(part.to(prompt.device) for part in parts))


def _in_common(one: np.ndarray, other: np.ndarray) -> int:
    """Tokens that two prompts begin with alike."""
    size = min(len(one), len(other))
    different = one[:size] != other[:size]
    return int(different.argmax()) if different.any() else size


def _together(
    joined: np.ndarray, alike: np.ndarray, most: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Prompts in order, of which neighbors may be joined [B−1] → the prefix of each [B], and the
    lengths of the prefixes [D]. A prompt that is alone has a prefix of its own."""
    which = np.concatenate([[0], np.cumsum(~joined)])
    shared = most.copy()
    shared[1:][joined] = alike[joined]
    firsts = np.flatnonzero(np.concatenate([[True], ~joined]))
    return which, np.minimum.reduceat(shared, firsts)


def _places(which: np.ndarray, length: np.ndarray, most: np.ndarray) -> int:
    """D·L + B·S."""
    rest = most + 1 - length[which]
    return len(length) * int(length.max()) + len(rest) * int(rest.max())
