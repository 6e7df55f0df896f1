"""What a model thinks of given responses: log-probabilities, entropies, distributions."""

from __future__ import annotations

from functools import cached_property

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

CHUNK_TOKENS = 1024  # rows of the [tokens, vocabulary] table that are in float32 at a time


class TokenScores:
    """What a model thinks of given responses. Row t scores response[:, t].

    logits: [B, T, V], divided by the sampling temperature.
    """

    def __init__(self, logits: Tensor, response: Tensor) -> None:
        self.logits = logits
        self.response = response

    @cached_property
    def logprobs(self) -> Tensor:
        """[B, T] log-probability of each response token, float32 or wider."""
        return chosen_logprobs(self.logits, self.response)

    @cached_property
    def distribution(self) -> Tensor:
        """[B, T, V] log-probabilities over the vocabulary, float32 or wider."""
        return _at_least_float32(self.logits).log_softmax(-1)

    @cached_property
    def entropy(self) -> Tensor:
        """[B, T] entropy of the distribution in nats, without gradient."""
        pieces = self.logits.detach().flatten(0, 1).split(CHUNK_TOKENS)
        return torch.cat([_entropy(piece) for piece in pieces]).view(self.response.shape)


def chosen_logprobs(logits: Tensor, response: Tensor) -> Tensor:
    """[B, T] log softmax(logits)[response], without a float32 copy of the whole [B, T, V]."""
    flat_logits, flat_response = logits.flatten(0, 1), response.flatten()
    pieces = zip(flat_logits.split(CHUNK_TOKENS), flat_response.split(CHUNK_TOKENS), strict=True)
    if flat_logits.shape[0] <= CHUNK_TOKENS or not logits.requires_grad:
        chosen = [_chosen(piece, tokens) for piece, tokens in pieces]
    else:  # recomputed in backward, so the float32 chunk is not kept
        chosen = [checkpoint(_chosen, piece, ids, use_reentrant=False) for piece, ids in pieces]
    return torch.cat(chosen).view(response.shape)


def _chosen(logits: Tensor, response: Tensor) -> Tensor:
    logits = _at_least_float32(logits)
    return logits.gather(-1, response[:, None])[:, 0] - logits.logsumexp(-1)


def _entropy(logits: Tensor) -> Tensor:
    logp = _at_least_float32(logits).log_softmax(-1)
    return -(logp.exp() * logp).sum(-1)


def _at_least_float32(x: Tensor) -> Tensor:
    return x if x.dtype == torch.float64 else x.float()
