"""Lists of token ids as padded tensors."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


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
