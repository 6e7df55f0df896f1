"""Prompts that begin alike: the common beginning goes through a model only once.

Rollouts of one problem share all of their prompt. Their teacher prompts share the problem and what
the template says before the feedback, and differ from there on.
"""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from torch import Tensor

from vpd_agent.data.padding import pad_left
from vpd_agent.model.probe import probe_rows

if TYPE_CHECKING:
    from vpd_agent.model.policy import Policy

WORTH_TWO_PASSES = 0.75
"""Two passes are made only if they read at most this share of the positions that one pass over the
whole prompts reads: then they are clearly faster. (On a CPU, with prompts of 34 to 688 tokens, they
are faster up to 0.8 or 0.9.)"""

SLIDING = "DynamicSlidingWindowLayer"


class SplitPrompts(NamedTuple):
    """B prompts, each split into one of D prefixes and a rest of at least one token."""

    prefix: Tensor  # [D, L] token ids, padded on the left
    prefix_mask: Tensor  # [D, L] True where there is a token
    which: Tensor  # [B] the prefix of each prompt
    rest: Tensor  # [B, S] token ids, padded on the left
    rest_mask: Tensor  # [B, S]

    @property
    def positions(self) -> int:
        """Of both passes together, padding included: D·L + B·S."""
        return self.prefix.numel() + self.rest.numel()


def split_prompts(prompt: Tensor, mask: Tensor) -> SplitPrompts | None:
    """Prompts split so that D·L + B·S is small; None where no two of them begin alike.

    prompt: [B, P] token ids, padded on the left; mask: [B, P] True where there is a token.

    Two neighbors in sorted order get the same prefix if at most n tokens of the longer one come
    after their common beginning. Each n that changes anything is tried, the best is taken.
    """
    lengths = mask.sum(1).tolist()
    rows = [ids[-n:] for ids, n in zip(prompt.cpu().numpy(), lengths, strict=True)]
    # Sorted by their bytes (any order would do), prompts that begin alike are neighbors.
    order = sorted(range(len(rows)), key=lambda i: rows[i].tobytes())
    # The last token is left to the rest: it predicts the first one of each row's response.
    longest = np.array(lengths)[order] - 1  # [B] the most tokens that a prefix can have
    alike = np.array([_num_alike(rows[i], rows[j]) for i, j in pairwise(order)], dtype=int)
    alike = np.minimum(alike, np.minimum(longest[:-1], longest[1:]))  # [B−1] of neighbors
    apart = np.maximum(longest[:-1], longest[1:]) - alike
    joinable = alike > 0
    if not joinable.any() or longest.min() < 1:
        return None
    choices = [
        _join_neighbors(joinable & (apart <= n), alike, longest) for n in np.unique(apart[joinable])
    ]
    which, length = min(choices, key=lambda choice: _num_positions(*choice, longest))
    firsts = np.unique(which, return_index=True)[1]  # the first prompt of each prefix
    prefixes = [rows[order[i]][:n].tolist() for i, n in zip(firsts, length, strict=True)]
    of_row = which[np.argsort(order)]
    rests = [row[length[k] :].tolist() for row, k in zip(rows, of_row, strict=True)]
    parts = (*pad_left(prefixes, 0), torch.from_numpy(of_row), *pad_left(rests, 0))
    return SplitPrompts(*(part.to(prompt.device) for part in parts))


def saves_enough(policy: Policy, split: SplitPrompts, prompt: Tensor) -> bool:
    """Whether two passes over these parts of prompt [B, P] are faster than one, and allowed."""
    if split.positions > WORTH_TWO_PASSES * prompt.numel():
        return False
    # A sliding window counts positions, not tokens: there must be no padding within it.
    return bool(split.rest_mask.all()) or SLIDING not in _cache_kinds(policy)


def hidden_states(
    policy: Policy, split: SplitPrompts, response: Tensor, token_mask: Tensor
) -> Tensor:
    """The hidden states [B, T, H] of the token before each one of the response [B, T].

    One pass over the prefixes fills a cache of keys and values, one over rests and responses
    continues from it.
    """
    cache = policy.new_cache()
    policy.last_hidden_states(split.prefix, split.prefix_mask, cache)
    cache.reorder_cache(split.which)
    ids = torch.cat([split.rest, response[:, :-1]], 1)
    masks = [split.prefix_mask[split.which], split.rest_mask, token_mask[:, :-1]]
    hidden = policy.last_hidden_states(ids, torch.cat(masks, 1), cache)
    return hidden[:, split.rest.shape[1] - 1 :]


@torch.no_grad()
def continues_from_cache(policy: Policy) -> bool:
    """Whether a model reads texts in two parts, by a cache of keys and values and with padding
    between the parts, as it reads them whole. Tried on a few tokens."""
    kinds = _cache_kinds(policy)
    if not kinds or not kinds <= {"DynamicLayer", SLIDING}:
        return False
    # Some differ on long texts only; and padding in a short window is not asked for here.
    cut, end, length = (1, 3, 5) if SLIDING in kinds else (17, 25, 31)
    first, second = probe_rows(policy, (length, length - 1))
    ids, mask = policy.padded([first, first[:cut] + second[cut:]])
    rest_mask = mask[:, cut:end].clone()
    rest_mask[1, 0] = False  # the second prompt is one token shorter
    split = SplitPrompts(
        ids[:1, :cut], mask[:1, :cut], ids.new_zeros(2), ids[:, cut:end], rest_mask
    )
    whole = policy.last_hidden_states(ids, mask)[:, end - 1 : -1]
    try:
        in_two = hidden_states(policy, split, ids[:, end:], mask[:, end:])
    except Exception:  # whatever a model's own code raises at a cache not of its kind
        return False
    single = policy.precision == "weights" and policy.model.dtype.itemsize >= 4
    tolerance = (1e-3 if single else 5e-2) * float(1 + whole.abs().max())
    return torch.allclose(whole.float(), in_two.float(), rtol=0, atol=tolerance)


def _cache_kinds(policy: Policy) -> set[str]:
    """The classes of the layers of the cache that transformers makes for a model."""
    return {type(layer).__name__ for layer in policy.new_cache().layers}


def _num_alike(one: np.ndarray, other: np.ndarray) -> int:
    """The length of two prompts' common beginning."""
    size = min(len(one), len(other))
    different = one[:size] != other[:size]
    return int(different.argmax()) if different.any() else size


def _join_neighbors(
    joined: np.ndarray, alike: np.ndarray, longest: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Sorted prompts, with joined [B−1] True between neighbors that get the same prefix → the
    number of each one's prefix [B], and the lengths of the prefixes [D]. A prompt without such a
    neighbor has a prefix of its own."""
    which = np.concatenate([[0], np.cumsum(~joined)])
    shared = longest.copy()
    shared[1:][joined] = alike[joined]
    firsts = np.flatnonzero(np.concatenate([[True], ~joined]))
    return which, np.minimum.reduceat(shared, firsts)


def _num_positions(which: np.ndarray, length: np.ndarray, longest: np.ndarray) -> int:
    """D·L + B·S."""
    rest = longest + 1 - length[which]
    return len(length) * int(length.max()) + len(rest) * int(rest.max())
