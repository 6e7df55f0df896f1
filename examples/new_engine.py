"""An engine of your own: it samples as the engine hf does, and says how fast it was.

vpd train grpo --engine new_engine:Counting --env vpd/MiniCode-v0 --model tiny-warm --out run
"""

from __future__ import annotations

import sys
import time

from vpd_agent import Generation, HFEngine, Policy


class Counting:
    def __init__(self, policy: Policy, max_tokens: int) -> None:
        self.inner = HFEngine(policy)
        self.tokens, self.seconds = 0, 0.0

    @property
    def logprobs_match_trainer(self) -> bool:
        return self.inner.logprobs_match_trainer

    def sync(self, policy: Policy) -> None:
        self.inner.sync(policy)

    def generate(self, prompts: list[list[int]], **options) -> list[Generation]:
        start = time.perf_counter()
        generations = self.inner.generate(prompts, **options)
        self.seconds += time.perf_counter() - start
        self.tokens += sum(len(generation.ids) for generation in generations)
        return generations

    def close(self) -> None:
        rate = self.tokens / max(self.seconds, 1e-9)
        print(f"sampled {self.tokens} tokens, {rate:.0f} a second", file=sys.stderr)
