"""Lists of token ids as padded tensors, and prompts and responses in one tensor."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Bool, Int, Shaped
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence


def pad_left(
    rows: Sequence[list[int]], pad_id: int
) -> tuple[Int[Tensor, "B P"], Bool[Tensor, "B P"]]:
    """Token ids and their mask, padded on the left."""
    return _pad(rows, pad_id, "left")


def pad_right(
    rows: Sequence[list[int]], pad_id: int
) -> tuple[Int[Tensor, "B T"], Bool[Tensor, "B T"]]:
    """Token ids and their mask, padded on the right."""
    return _pad(rows, pad_id, "right")


def _pad(rows: Sequence[list[int]], pad_id: int, side: str) -> tuple[Tensor, Tensor]:
    ids = [torch.tensor(row, dtype=torch.long) for row in rows]
    present = [torch.ones_like(row, dtype=torch.bool) for row in ids]
    return pad_sequence(ids, True, pad_id, side), pad_sequence(present, True, 0, side)


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
