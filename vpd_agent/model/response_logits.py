"""What a model predicts for given responses: log-probabilities, entropies, and divergences from a
teacher, which are the second half of most losses (`algorithms.base.LossInputs` gives the first).

A model's prediction is kept as its hidden states and output embedding. A small table of logits
[B, T, V] is made once, by plain PyTorch; a large one is never made (ops/chunked_logits.py).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from vpd_agent.ops import chunked_logits
from vpd_agent.ops.chunked_logits import DenseLogits, HeadLogits, Logits, MixedLogits
from vpd_agent.ops.losses import DivergenceForm, Support, Tail


@dataclass(frozen=True)
class Head:
    """The output embedding: logits = hidden @ weight.T + bias."""

    weight: Float[Tensor, "V H"]
    bias: Float[Tensor, " V"] | None = None


class Divergence(NamedTuple):
    """total: Σ weight · D, with gradient. per_token: D, without."""

    total: Float[Tensor, ""]
    per_token: Float[Tensor, "B T"]


class ResponseLogits:
    """What a model predicts for given responses. Row t is its prediction of response[:, t].

    Nothing is computed where `mask` is False, and every quantity is 0 there. The logits are
    computed in the dtype of `hidden` (under autocast, in autocast's), everything after them in
    float32, or float64 if they are. An object made under `torch.no_grad` has no gradients, wherever
    it is read.

    On large tables the first read of `logprobs` or `entropy` is a pass over the vocabulary.
    `divergence` computes both as well, for student and teacher, so read them after it.
    """

    def __init__(self, source: Logits, response: Tensor, mask: Tensor) -> None:
        """source: of B·T rows; response, mask: [B, T]."""
        if mask.shape != response.shape or mask.dtype != torch.bool:
            raise ValueError(
                f"mask must be boolean and like the response {list(response.shape)}, got "
                f"{mask.dtype} {list(mask.shape)}."
            )
        self.response, self.mask = response, mask
        self._source = source
        self._tokens = response.flatten()
        self._positions = mask.flatten().nonzero()[:, 0]  # [N], where the mask is True
        # Of large tables: log-probabilities and entropies [2, B·T], and where they are known.
        self._statistics = source.empty(2, mask.numel()).zero_()
        self._known = ~mask.flatten()

    @classmethod
    def from_hidden(
        cls, hidden: Tensor, head: Head, response: Tensor, mask: Tensor, *, temperature: float = 1.0
    ) -> ResponseLogits:
        """hidden: [B, T, H], row t predicts response[:, t]; response, mask: [B, T].

        temperature: what the logits are divided by.
        Raises ValueError for shapes that do not belong together.
        """
        if hidden.shape[:2] != response.shape or hidden.shape[2:] != head.weight.shape[1:]:
            raise ValueError(
                f"hidden must be [B, T, H] for a response [B, T] and a head [V, H], got "
                f"{list(hidden.shape)}, {list(response.shape)} and {list(head.weight.shape)}."
            )
        dtype = _dtype_of_product(hidden)
        rows, weight = (_with_gradient(x).to(dtype) for x in (hidden.flatten(0, 1), head.weight))
        bias = None if head.bias is None else _with_gradient(head.bias).to(dtype)
        return cls(HeadLogits(rows, weight, bias, temperature), response, mask)

    @classmethod
    def from_logits(
        cls, logits: Tensor, response: Tensor, mask: Tensor, *, temperature: float = 1.0
    ) -> ResponseLogits:
        """From logits [B, T, V] that exist: of models whose head is not a plain linear layer."""
        if logits.dim() != 3 or logits.shape[:2] != response.shape:
            raise ValueError(
                f"logits must be [B, T, V] for a response [B, T], got {list(logits.shape)} and "
                f"{list(response.shape)}."
            )
        rows = _with_gradient(logits.flatten(0, 1))
        return cls(DenseLogits(rows, temperature), response, mask)

    def blend(self, other: ResponseLogits, weight: float) -> ResponseLogits:
        """Those of the logits (1 − weight) · self + weight · other, without gradient."""
        self._check_alike(other)
        source = MixedLogits(self._source, other._source, weight)
        return ResponseLogits(source, self.response, self.mask & other.mask)

    @cached_property
    def logprobs(self) -> Float[Tensor, "B T"]:
        """Log-probability of each response token."""
        response = self._tokens[self._positions]
        with torch.enable_grad():  # if first read without gradient, it may be needed with one
            if self._is_small:
                values = self._table.gather(1, response[:, None])[:, 0]
            else:
                known = self._complete_statistics()[0, self._positions]
                values = chunked_logits.chosen_logprobs(
                    self._source, self._positions, response, known
                )
            return self._spread(values, self._positions)

    @cached_property
    def entropy(self) -> Float[Tensor, "B T"]:
        """Entropy of the distribution in nats, without gradient."""
        if not self._is_small:
            return self._complete_statistics()[1].unflatten(0, self.mask.shape).clone()
        logp = self._table.detach()
        return self._spread(-(logp.exp() * logp).sum(-1), self._positions)

    @cached_property
    def distribution(self) -> Float[Tensor, "B T V"]:
        """Log-probabilities over the vocabulary, however large the table: for inspection."""
        with torch.enable_grad():
            return self._spread(self._table, self._positions)

    def divergence(
        self,
        teacher: ResponseLogits,
        weight: Tensor,
        *,
        alpha: float = 1.0,
        top_k: int | None = None,
        tail: Tail = "bucket",
        support: Support = "student",
        entry_clip: float | None = None,
        clip: float | None = None,
    ) -> Divergence:
        """Σ weight · D with D = `losses.DivergenceForm(alpha, …)` of self and sg[teacher].

        weight: [B, T], constants; nothing is computed where they are 0. Constant factors of the
        loss belong in them: on large tables the gradient is ready when this returns, and scaling
        it afterwards takes time.
        """
        self._check_alike(teacher)
        form = DivergenceForm(alpha, top_k, tail, support, entry_clip, clip)
        if weight.shape != self.mask.shape:
            raise ValueError(
                f"weight must be like the response {list(self.mask.shape)}, got "
                f"{list(weight.shape)}."
            )
        weight = weight.detach().flatten()
        positions = ((self.mask & teacher.mask).flatten() & (weight != 0)).nonzero()[:, 0]
        weight = weight[positions].to(self._statistics.dtype)
        if self._is_small and teacher._is_small:
            per_token = form(self._table_at(positions), teacher._table_at(positions).detach())
            total = (weight * per_token).sum()
        else:
            total, found = chunked_logits.weighted_divergence(
                self._source,
                teacher._source,
                positions,
                self._tokens[positions],
                weight,
                form,
            )
            per_token = found[0]
            self._learn(positions, found[1:3])
            teacher._learn(positions, found[3:5])
        return Divergence(total, self._spread(per_token.detach(), positions))

    @property
    def _is_small(self) -> bool:
        return chunked_logits.fits(len(self._positions), self._source.size)

    @cached_property
    def _table(self) -> Tensor:
        """[N, V] log-probabilities at `_positions`."""
        with torch.enable_grad():
            return self._source.rows(self._positions).log_softmax(-1)

    def _table_at(self, positions: Tensor) -> Tensor:
        """[n, V] of `_table`, for positions where the mask is True."""
        if len(positions) == len(self._positions):
            return self._table
        rank = self.mask.flatten().cumsum(0) - 1  # of a position among `_positions`
        return self._table.index_select(0, rank[positions])

    def _complete_statistics(self) -> Tensor:
        """`_statistics`, after a pass over the vocabulary where they are not known."""
        missing = (~self._known).nonzero()[:, 0]
        if len(missing):
            response = self._tokens[missing]
            self._learn(missing, chunked_logits.statistics(self._source, missing, response))
        return self._statistics

    def _learn(self, positions: Tensor, found: Tensor) -> None:
        self._statistics[:, positions] = found.to(self._statistics.dtype)
        self._known[positions] = True

    def _spread(self, values: Tensor, positions: Tensor) -> Tensor:
        """values [n, ...] of n positions → [B, T, ...], 0 elsewhere."""
        everywhere = values.new_zeros(self.mask.numel(), *values.shape[1:])
        return everywhere.index_copy(0, positions, values).unflatten(0, self.mask.shape)

    def _check_alike(self, other: ResponseLogits) -> None:
        mine = [*self.response.shape, self._source.size]
        theirs = [*other.response.shape, other._source.size]
        if mine != theirs:
            raise ValueError(
                f"Both must be of the same responses and vocabulary, got [B, T, V] = {mine} "
                f"and {theirs}."
            )


def _with_gradient(tensor: Tensor) -> Tensor:
    """Detached under `torch.no_grad`, so that what is computed from it later has no gradient."""
    return tensor if torch.is_grad_enabled() else tensor.detach()


def _dtype_of_product(hidden: Tensor) -> torch.dtype:
    """In which a linear layer would compute the logits."""
    kind = hidden.device.type
    return torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else hidden.dtype
