"""Sampling from two models at once: from the interpolated logits of a trust-region teacher."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from vpd_agent.engines.decoder import Decoder
from vpd_agent.engines.hf import HFEngine
from vpd_agent.model.policy import Policy


class BlendedEngine(HFEngine):
    """Samples from the logits (1 − share) · those of `policy` + share · those of `other`, in this
    process; the two are of one architecture. Their weights are read anew at every call."""

    def __init__(
        self, policy: Policy, other: Policy, share: float, places: int | None = None
    ) -> None:
        super().__init__(policy, places=places)
        self._other, self._share = other, share

    def _new_decoder(self, max_tokens: int) -> Decoder:
        one, other = (self._decoder_kind(p)(p, max_tokens) for p in (self.policy, self._other))
        return _BlendedDecoder(one, other, self._share)


class _BlendedDecoder(Decoder):
    """Two decoders side by side, each of which computes within its own policy's `active`."""

    def __init__(self, one: Decoder, other: Decoder, share: float) -> None:
        super().__init__(one.policy, one.max_tokens)
        self._parts, self._share = (one, other), share

    def prefill(self, prompt: Tensor, mask: Tensor, samples: int) -> Tensor:
        return self._blend(lambda part: part.prefill(prompt, mask, samples))

    def step(self, tokens: Tensor) -> Tensor:
        return self._blend(lambda part: part.step(tokens))

    def keep(self, rows: Tensor) -> None:
        for part in self._parts:
            part.keep(rows)

    def _blend(self, logits_of: Callable[[Decoder], Tensor]) -> Tensor:
        one, other = (self._within(part, logits_of) for part in self._parts)
        return torch.lerp(one, other, self._share)

    def _within(self, part: Decoder, logits_of: Callable[[Decoder], Tensor]) -> Tensor:
        with part.policy.active():
            return logits_of(part).float()
