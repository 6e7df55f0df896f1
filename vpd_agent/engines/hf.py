"""Batched sampling in plain torch with a KV cache, for any causal LM of transformers."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from vpd_agent.engines import Generation
from vpd_agent.policy import Policy
from vpd_agent.types import pad_left


class HFEngine:
    """Samples with the policy's own weights.

    Each prompt is prefilled once and its cache repeated for its samples; rows that have ended
    leave the batch as soon as they are a quarter of it, and sampling stops when none is left.
    """

    exact = True

    def __init__(self, policy: Policy, max_batch: int = 512) -> None:
        if max_batch < 1:
            raise ValueError(f"max_batch must be at least 1, got {max_batch}.")
        self.policy = policy
        self.max_batch = max_batch  # sequences that are decoded side by side

    def sync(self, policy: Policy) -> None:
        """Nothing to do for the policy it samples from; the weights of another are copied."""
        if policy is not self.policy:
            self.policy.model.load_state_dict(policy.model.state_dict())

    def close(self) -> None:
        """There is nothing to let go of."""

    def generate(
        self,
        prompts: Sequence[list[int]],
        *,
        samples: int = 1,
        max_tokens: int,
        temperature: float = 1.0,
        generator: torch.Generator | None = None,
    ) -> list[Generation]:
        if samples < 1 or max_tokens < 1:
            raise ValueError(
                f"samples and max_tokens must be at least 1, got {samples} and {max_tokens}."
            )
        if temperature <= 0:
            raise ValueError(f"temperature must be positive, got {temperature}.")
        was_training = self.policy.model.training
        self.policy.model.eval()
        # Prompts of similar length share a batch, so that little of it is padding.
        order = sorted(range(len(prompts)), key=lambda i: len(prompts[i]))
        results: list[list[Generation]] = [[] for _ in prompts]
        width = max(1, self.max_batch // samples)
        try:
            for start in range(0, len(order), width):
                chosen = order[start : start + width]
                generations = self._sample(
                    [prompts[i] for i in chosen], samples, max_tokens, temperature, generator
                )
                for k, i in enumerate(chosen):
                    results[i] = generations[k * samples : (k + 1) * samples]
        finally:
            self.policy.model.train(was_training)
        return [generation for row in results for generation in row]

    @torch.inference_mode()
    def _sample(
        self,
        prompts: Sequence[list[int]],
        samples: int,
        max_tokens: int,
        temperature: float,
        generator: torch.Generator | None,
    ) -> list[Generation]:
        from transformers import DynamicCache

        model, device = self.policy.model, self.policy.device
        prompt, mask = pad_left(prompts, self.policy.pad_id)
        prompt, mask = prompt.to(device), mask.to(device).long()
        cache = DynamicCache(config=model.config)
        logits = model(
            input_ids=prompt,
            attention_mask=mask,
            position_ids=(mask.cumsum(1) - 1).clamp(min=0),
            past_key_values=cache,
            use_cache=True,
            **self.policy.last_logits_only,
        ).logits[:, -1]
        cache.batch_repeat_interleave(samples)
        logits = logits.repeat_interleave(samples, 0)  # [R, V], R rows still sampling
        mask = mask.repeat_interleave(samples, 0)
        position = mask.sum(1, keepdim=True)  # [R, 1] of the next token

        total = len(prompts) * samples
        tokens = torch.full((total, max_tokens), self.policy.pad_id, device=device)
        logprobs = torch.zeros((total, max_tokens), device=device)
        length = torch.full((total,), max_tokens, device=device)
        ended = torch.zeros(total, dtype=torch.bool, device=device)
        rows = torch.arange(total, device=device)  # which row of the output each live row is
        eos = torch.tensor(sorted(self.policy.eos_ids), device=device, dtype=torch.long)

        for t in range(max_tokens):
            logp = (logits.float() / temperature).log_softmax(-1)
            token = _gumbel_argmax(logp, generator)  # [R]
            tokens[rows, t] = token
            logprobs[rows, t] = logp.gather(1, token[:, None])[:, 0]
            stops = torch.isin(token, eos) & ~ended[rows]
            length[rows[stops]] = t + 1
            ended[rows] |= stops
            live = ~ended[rows]
            num_live = int(live.sum())
            if num_live == 0 or t + 1 == max_tokens:
                break
            if num_live <= 0.75 * len(rows):
                keep = live.nonzero()[:, 0]
                cache.batch_select_indices(keep)
                rows, token = rows[keep], token[keep]
                mask, position = mask[keep], position[keep]
            mask = torch.cat([mask, mask.new_ones(len(rows), 1)], 1)
            logits = model(
                input_ids=token[:, None],
                attention_mask=mask,
                position_ids=position,
                past_key_values=cache,
                use_cache=True,
            ).logits[:, -1]
            position = position + 1

        return [
            Generation(ids[:n], logp[:n], "stop" if stopped else "length")
            for ids, logp, n, stopped in zip(
                tokens.tolist(), logprobs.tolist(), length.tolist(), ended.tolist(), strict=True
            )
        ]


def _gumbel_argmax(logp: torch.Tensor, generator: torch.Generator | None) -> torch.Tensor:
    """A sample from each row: argmax(log p + Gumbel noise), the noise being −log Exp(1)."""
    noise = torch.empty_like(logp).exponential_(generator=generator).log_()
    return (logp - noise).argmax(-1)
