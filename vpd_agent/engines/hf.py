"""Batched sampling in this process with a KV cache, for any causal LM of transformers."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import groupby

import torch
from torch import Tensor, nn

from vpd_agent.engines import Generation, check_counts, up_to_stop_text
from vpd_agent.engines.decoder import Decoder, fastest_decoder
from vpd_agent.model.policy import Policy

STEPS_BETWEEN_LOOKS = 8  # on a GPU: to ask whether all rows have ended waits for its queue


class HFEngine:
    """Samples with the policy's own weights, read anew at every call.

    policy: the student, or a frozen copy of it. A copy takes the student's weights at `sync` only,
        so that the engine can sample while the student trains.

    Each prompt is prefilled once for all of its samples; rows that have ended leave the batch as
    soon as they are a quarter of it, and sampling stops when none is left. The cache grows with
    what is really sampled: at most max_batch rows of the longest response, and each prompt once.

    max_batch: sequences that are decoded side by side.
    places: fewer of them where rows · (longest prompt + longest response) would be more, in tokens;
        None: no such limit.
    """

    def __init__(self, policy: Policy, max_batch: int = 512, places: int | None = None) -> None:
        for name, value in (("max_batch", max_batch), ("places", places)):
            if value is not None and value < 1:
                raise ValueError(f"{name} must be at least 1, got {value}.")
        self.policy = policy  # the one that is sampled from now
        self.max_batch, self.places = max_batch, places
        self._copy = None if policy.parameters() else policy
        self._decoders: dict[nn.Module, type[Decoder]] = {}  # by the model they are chosen for

    @property
    def logprobs_match_trainer(self) -> bool:
        """With fewer bits, decoding token by token rounds otherwise than scoring all at once."""
        return self.policy.precision == "weights" and self.policy.model.dtype.itemsize >= 4

    def sync(self, policy: Policy) -> None:
        """Sample from this policy. Its weights are copied only where it is being trained and this
        engine was made with a frozen copy."""
        if self._copy is not None and policy.parameters():
            self._copy.copy_from(policy)
            policy = self._copy
        self.policy = policy

    def close(self) -> None:
        """There is nothing to release."""

    def generate(
        self,
        prompts: Sequence[list[int]],
        *,
        samples: int = 1,
        max_tokens: int,
        temperature: float = 1.0,
        generator: torch.Generator | None = None,
    ) -> list[Generation]:
        check_counts(samples, max_tokens)
        if temperature <= 0:
            raise ValueError(f"temperature must be positive, got {temperature}.")
        # Prompts of similar length share a batch, so that little of it is padding.
        order = sorted(range(len(prompts)), key=lambda i: len(prompts[i]))
        results: list[list[Generation]] = [[] for _ in prompts]
        rows = self._rows_at_once(max(map(len, prompts), default=0) + max_tokens)
        width = max(1, rows // samples)
        with self.policy.active():
            for chosen in self._batches(order, prompts, width):
                batch = [prompts[i] for i in chosen]
                for done in range(0, samples, rows):
                    share = min(samples - done, rows)
                    generations = self._sample(batch, share, max_tokens, temperature, generator)
                    for k, i in enumerate(chosen):
                        results[i] += generations[k * share : (k + 1) * share]
        return [generation for row in results for generation in row]

    def _rows_at_once(self, tokens: int) -> int:
        """Of at most so many tokens each."""
        if self.places is None:
            return self.max_batch
        return min(self.max_batch, max(1, self.places // tokens))

    def _batches(
        self, order: list[int], prompts: Sequence[list[int]], width: int
    ) -> Iterator[list[int]]:
        """At most `width` prompts each, of one length if padding would change what is sampled."""
        groups = [order]
        if not self._decoder_kind(self.policy).takes_padding:
            groups = [list(same) for _, same in groupby(order, key=lambda i: len(prompts[i]))]
        for group in groups:
            for start in range(0, len(group), width):
                yield group[start : start + width]

    @torch.inference_mode()
    def _sample(
        self,
        prompts: Sequence[list[int]],
        samples: int,
        max_tokens: int,
        temperature: float,
        generator: torch.Generator | None,
    ) -> list[Generation]:
        device = self.policy.device
        decoder = self._new_decoder(max_tokens)
        logits = decoder.prefill(*self.policy.padded(prompts), samples)  # [R, V]

        chat = self.policy.chat
        total = len(prompts) * samples
        tokens = torch.full((total, max_tokens), self.policy.pad_id, device=device)
        logprobs = torch.zeros((total, max_tokens), device=device)
        ends = torch.zeros(logits.shape[-1], dtype=torch.bool, device=device)
        ends[[i for i in self.policy.eos_ids if i < len(ends)]] = True  # [V]
        rows = torch.arange(total, device=device)  # which row of the output each of the R rows is
        ended = torch.zeros(total, dtype=torch.bool, device=device)  # [R]
        look_every = 1 if device.type == "cpu" else STEPS_BETWEEN_LOOKS

        for t in range(max_tokens):
            logp = (logits.float() / temperature).log_softmax(-1)
            token = _draw(logp, generator)  # [R]
            tokens[rows, t] = token
            logprobs[rows, t] = logp.gather(1, token[:, None])[:, 0]
            ended |= ends[token]
            if chat.stop_text is not None:
                ended |= self._have_stop_text(tokens[rows, : t + 1])
            if t + 1 == max_tokens:
                break
            if (t + 1) % look_every == 0:
                num_live = len(rows) - int(ended.sum())
                if num_live == 0:
                    break
                if num_live <= 0.75 * len(rows):
                    keep = (~ended).nonzero()[:, 0]
                    decoder.keep(keep)
                    rows, token, ended = rows[keep], token[keep], ended[keep]
            logits = decoder.step(token)

        if not logprobs.isfinite().all():
            raise FloatingPointError(
                "The model's logits are not finite numbers, so no token can be sampled from them. "
                "Its weights have diverged: go back to an earlier checkpoint."
            )
        is_end = ends[tokens]  # [total, max_tokens]; what follows the first one does not count
        stopped = is_end.any(1)
        length = torch.where(stopped, is_end.int().argmax(1) + 1, max_tokens)
        return [
            up_to_stop_text(Generation(ids[:n], logp[:n], "stop" if stop else "length"), chat)
            for ids, logp, n, stop in zip(
                tokens.tolist(), logprobs.tolist(), length.tolist(), stopped.tolist(), strict=True
            )
        ]

    def _have_stop_text(self, tokens: Tensor) -> Tensor:
        """[R] whether the newest of tokens [R, t] completes the text that ends a turn."""
        ends = [self.policy.chat.ends_with_stop_text(row) for row in tokens.tolist()]
        return torch.tensor(ends, device=tokens.device)

    def _new_decoder(self, max_tokens: int) -> Decoder:
        return self._decoder_kind(self.policy)(self.policy, max_tokens)

    def _decoder_kind(self, policy: Policy) -> type[Decoder]:
        if policy.model not in self._decoders:
            self._decoders[policy.model] = fastest_decoder(policy)
        return self._decoders[policy.model]


def _draw(logp: Tensor, generator: torch.Generator | None) -> Tensor:
    """A token [R] of each row of log-probabilities [R, V]: the first whose cumulative probability
    exceeds a uniform number. One random number per row costs far less than one per token of the
    vocabulary; in float64, where rounding moves no probability by more than 1e-12."""
    cumulative = logp.exp().cumsum(-1, dtype=torch.float64)
    uniform = torch.rand(
        (len(logp), 1), dtype=torch.float64, device=logp.device, generator=generator
    )
    chosen = torch.searchsorted(cumulative, uniform * cumulative[:, -1:], right=True)[:, 0]
    return chosen.clamp_(max=logp.shape[-1] - 1)
