"""What a model thinks of given responses: log-probabilities, entropies, distributions, divergences.

A model is held as its hidden states and its output embedding. Where the table of logits [B, T, V] is
small it is made once, plainly; where it is large it never exists (`vocabulary.py`).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import torch
from torch import Tensor

from vpd_agent import losses, vocabulary
from vpd_agent.losses import Tail
from vpd_agent.vocabulary import Blend, Linear, Logits, Table


@dataclass(frozen=True)
class Head:
    """The output embedding: logits = hidden @ weight.T + bias."""

    weight: Tensor  # [V, H]
    bias: Tensor | None = None  # [V]


class Divergence(NamedTuple):
    """total: Σ weight · D, a scalar with gradient. per_token: D [B, T], without."""

    total: Tensor
    per_token: Tensor


class TokenScores:
    """What a model thinks of given responses. Row t scores response[:, t].

    Nothing is computed where `mask` is False, and every quantity is 0 there. Numbers are float32,
    or float64 if the logits are; the logits themselves are computed in the dtype of `hidden`.
    Whether gradients flow is decided where the scores are made: under `torch.no_grad` they never do.
    """

    def __init__(
        self,
        hidden: Tensor,
        head: Head,
        response: Tensor,
        mask: Tensor,
        *,
        temperature: float = 1.0,
    ) -> None:
        """hidden: [B, T, H], row t predicts response[:, t]; response, mask: [B, T].

        temperature: what the logits are divided by.
        """
        if hidden.shape[:2] != response.shape or hidden.shape[2:] != head.weight.shape[1:]:
            raise ValueError(
                f"hidden must be [B, T, H] for a response [B, T] and a head [V, H], got "
                f"{list(hidden.shape)}, {list(response.shape)} and {list(head.weight.shape)}."
            )
        dtype = _compute_dtype(hidden)
        bias = None if head.bias is None else head.bias.to(dtype)
        rows = hidden.flatten(0, 1).to(dtype)
        source = Linear(*_with_gradient(rows, head.weight.to(dtype), bias), temperature)
        self._set(source, response, mask)

    @classmethod
    def from_logits(
        cls, logits: Tensor, response: Tensor, mask: Tensor, *, temperature: float = 1.0
    ) -> TokenScores:
        """From logits [B, T, V] that exist: of models whose head is not a plain linear layer."""
        if logits.shape[:2] != response.shape:
            raise ValueError(
                f"logits must be [B, T, V] for a response [B, T], got {list(logits.shape)} and "
                f"{list(response.shape)}."
            )
        rows = logits.flatten(0, 1)
        return cls._of(Table(*_with_gradient(rows), temperature), response, mask)

    def blend(self, other: TokenScores, weight: float) -> TokenScores:
        """Scores by the logits (1 − weight) · self + weight · other, without gradient."""
        self._check_alike(other)
        source = Blend(self._source, other._source, weight)
        return self._of(source, self.response, self.mask & other.mask)

    @classmethod
    def _of(cls, source: Logits, response: Tensor, mask: Tensor) -> TokenScores:
        scores = cls.__new__(cls)
        scores._set(source, response, mask)
        return scores

    def _set(self, source: Logits, response: Tensor, mask: Tensor) -> None:
        if mask.shape != response.shape or mask.dtype != torch.bool:
            raise ValueError(
                f"mask must be bool and {list(response.shape)} like the response, got "
                f"{mask.dtype} and {list(mask.shape)}."
            )
        self.response, self.mask = response, mask
        self._source = source
        self._tokens = response.flatten()
        self._positions = mask.flatten().nonzero()[:, 0]  # [N] of the B·T rows
        # By-products of passes over the vocabulary [B·T], and where they are not known yet.
        self._values = source.empty(2, mask.numel()).zero_()
        self._unknown = mask.flatten().clone()

    @cached_property
    def logprobs(self) -> Tensor:
        """[B, T] log-probability of each response token."""
        response = self._tokens[self._positions]
        with torch.enable_grad():  # first asked for without gradient, it may be needed with one
            if self._is_small:
                values = self._table.gather(1, response[:, None])[:, 0]
            else:
                self._complete()
                known = self._values[0, self._positions]
                values = vocabulary.chosen_logprobs(self._source, self._positions, response, known)
            return self._spread(values)

    @cached_property
    def entropy(self) -> Tensor:
        """[B, T] entropy of the distribution in nats, without gradient."""
        if self._is_small:
            logp = self._table.detach()
            return self._spread(-(logp.exp() * logp).sum(-1))
        self._complete()
        return self._values[1].view(self.mask.shape)

    @cached_property
    def distribution(self) -> Tensor:
        """[B, T, V] log-probabilities over the vocabulary. The whole table: for inspection."""
        with torch.enable_grad():
            return self._spread(self._table)

    def divergence(
        self,
        teacher: TokenScores,
        weight: Tensor,
        *,
        alpha: float = 1.0,
        top_k: int | None = None,
        tail: Tail = "bucket",
    ) -> Divergence:
        """Σ weight · D(self, sg[teacher]) with D of `losses.divergence`, after
        `losses.top_k_support` if top_k is given.

        weight: [B, T], taken as constants; nothing is computed where it is 0. What else the result
        is multiplied with belongs in here, too: the gradient is ready when this returns, and
        scaling it takes time.
        """
        self._check_alike(teacher)
        if not 0 <= alpha <= 1:
            raise ValueError(f"alpha must be between 0 and 1, got {alpha}.")
        if top_k is not None and top_k < 1:
            raise ValueError(f"top_k must be at least 1, got {top_k}.")
        weight = weight.detach().flatten()
        positions = (self.mask & teacher.mask).flatten().logical_and(weight != 0).nonzero()[:, 0]
        weight = weight[positions].to(self._values.dtype)
        response = self._tokens[positions]
        if self._is_small and teacher._is_small:
            pair = self._table_at(positions), teacher._table_at(positions).detach()
            if top_k is not None:
                pair = losses.top_k_support(*pair, top_k, tail)
            per_token = losses.divergence(*pair, alpha)
            total = (weight * per_token).sum()
        else:
            result = vocabulary.weighted_divergence(
                self._source, teacher._source, positions, response, weight,
                alpha=alpha, top_k=top_k, tail=tail,
            )  # fmt: skip
            total, per_token = result.total, result.per_token
            self._learn(positions, result.student)
            teacher._learn(positions, result.teacher)
        return Divergence(total, self._spread(per_token.detach(), positions))

    @property
    def _is_small(self) -> bool:
        return vocabulary.fits(len(self._positions), self._source.size)

    @cached_property
    def _table(self) -> Tensor:
        """[N, V] log-probabilities at `_positions`."""
        with torch.enable_grad():
            return self._source.rows(self._positions).log_softmax(-1)

    def _table_at(self, positions: Tensor) -> Tensor:
        if len(positions) == len(self._positions):
            return self._table
        place = self.mask.flatten().cumsum(0) - 1  # of a position among `_positions`
        return self._table.index_select(0, place[positions])

    def _complete(self) -> None:
        """Compute the by-products that no pass has left yet."""
        positions = self._unknown.nonzero()[:, 0]
        if len(positions):
            tokens = self._tokens[positions]
            self._learn(positions, vocabulary.statistics(self._source, positions, tokens))

    def _learn(self, positions: Tensor, found: vocabulary.TokenStatistics) -> None:
        self._values[:, positions] = torch.stack(found)
        self._unknown[positions] = False

    def _spread(self, values: Tensor, positions: Tensor | None = None) -> Tensor:
        """[N, ...] at positions → [B, T, ...], 0 elsewhere."""
        positions = self._positions if positions is None else positions
        spread = values.new_zeros(self.mask.numel(), *values.shape[1:])
        return spread.index_copy(0, positions, values).unflatten(0, self.mask.shape)

    def _check_alike(self, other: TokenScores) -> None:
        mine = (*self.response.shape, self._source.size)
        theirs = (*other.response.shape, other._source.size)
        if mine != theirs:
            raise ValueError(
                f"Two scores of the same responses are expected, over the same vocabulary: got "
                f"[B, T, V] = {list(mine)} and {list(theirs)}."
            )


def _with_gradient(*tensors: Tensor | None) -> list[Tensor | None]:
    """Detached under `torch.no_grad`, so that what is computed from them later has no gradient."""
    if torch.is_grad_enabled():
        return list(tensors)
    return [None if x is None else x.detach() for x in tensors]


def _compute_dtype(hidden: Tensor) -> torch.dtype:
    """Of the product with the head: under autocast what a linear layer would use there."""
    kind = hidden.device.type
    return torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else hidden.dtype
