"""Lists of token ids as padded tensors, and prompts and responses in one tensor."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Bool, Int, Shaped
from torch import Tensor


def pad_left(
    rows: Sequence[list[int]], pad_id: int
) -> tuple[Int[Tensor, "B P"], Bool[Tensor, "B P"]]:
    """Token ids and their mask, padded on the left."""
    return _pad(rows, pad_id, left=True)


def pad_right(
    rows: Sequence[list[int]], pad_id: int
) -> tuple[Int[Tensor, "B T"], Bool[Tensor, "B T"]]:
    """Token ids and their mask, padded on the right."""
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


def join(
    prompt: Int[Tensor, "B P"],
    prompt_mask: Bool[Tensor, "B P"],
    response: Int[Tensor, "B T"],
    token_mask: Bool[Tensor, "B T"],
) -> tuple[Int[Tensor, "B P+T"], Bool[Tensor, "B P+T"]]:
    """Token ids and mask of prompts and their responses, the padding where it was."""
    return torch.cat([prompt, response], 1), torch.cat([prompt_mask, token_mask], 1)


def pad_right_again(
    prompt: Int[Tensor, "B P"],
    prompt_mask: Bool[Tensor, "B P"],
    response: Int[Tensor, "B T"],
    token_mask: Bool[Tensor, "B T"],
) -> tuple[Int[Tensor, "B P+T"], Bool[Tensor, "B P+T"], Int[Tensor, "B T"]]:
    """What `join` gives with all padding moved to the right, and the position of the token
    before each one of the response."""
    ids, mask = join(prompt, prompt_mask, response, token_mask)
    order = mask.logical_not().long().argsort(dim=1, stable=True)
    steps = torch.arange(response.shape[1], device=ids.device)
    before = (prompt_mask.sum(1, keepdim=True) - 1 + steps).clamp(min=0)
    return ids.gather(1, order), mask.gather(1, order), before


def take_positions(
    values: Shaped[Tensor, "B L N"], positions: Int[Tensor, "B T"]
) -> Shaped[Tensor, "B T N"]:
    """Of each row's values those at its positions."""
    return values.gather(1, positions[..., None].expand(-1, -1, values.shape[-1]))
