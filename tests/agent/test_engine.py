"""The engine samples from the policy's distribution and reports its own log-probabilities."""

from __future__ import annotations

import pytest
import torch

from agent.helpers import small_policy
from vpd_agent.engines.hf import HFEngine
from vpd_agent.types import pad_left, pad_right


@pytest.fixture(scope="module")
def policy():
    return small_policy()


def prompts_of(policy, *texts):
    return [policy.encode([{"role": "user", "content": t}]) for t in texts]


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("window", [None, 8], ids=["full attention", "sliding window"])
def test_reported_log_probabilities_are_those_of_a_plain_forward_pass(window):
    """Rows of many lengths, some ending early and leaving the batch: the cache must follow."""
    policy = small_policy(window=window)
    prompts = prompts_of(policy, "a", "bb and more", "c" * 40)
    generations = HFEngine(policy).generate(
        prompts, samples=5, max_tokens=60, temperature=0.8, generator=generator()
    )
    assert {g.finish for g in generations} == {"stop", "length"}  # both kinds are covered
    repeated = [p for p in prompts for _ in range(5)]
    prompt, prompt_mask = pad_left(repeated, policy.pad_id)
    response, mask = pad_right([g.ids for g in generations], policy.pad_id)
    with torch.no_grad():
        scores = policy.score(prompt, prompt_mask, response, mask, temperature=0.8)
    for row, g in zip(scores.logprobs, generations, strict=True):
        torch.testing.assert_close(
            torch.tensor(g.logprobs), row[: len(g.ids)], rtol=1e-4, atol=1e-4
        )


def test_a_response_ends_at_its_first_end_token_or_at_the_limit(policy):
    generations = HFEngine(policy).generate(
        prompts_of(policy, "x"), samples=64, max_tokens=30, generator=generator()
    )
    for g in generations:
        ends = [i for i, token in enumerate(g.ids) if token in policy.eos_ids]
        if g.finish == "stop":
            assert ends == [len(g.ids) - 1]
        else:
            assert not ends
            assert len(g.ids) == 30


def test_the_same_generator_state_gives_the_same_samples(policy):
    prompts = prompts_of(policy, "a", "bb")
    first, second, other = (
        HFEngine(policy).generate(prompts, samples=2, max_tokens=8, generator=generator(seed))
        for seed in (3, 3, 4)
    )
    assert first == second
    assert first != other


def test_frequencies_of_first_tokens_match_the_distribution(policy):
    prompt = prompts_of(policy, "q")
    n = 4000
    generations = HFEngine(policy, max_batch=n).generate(
        prompt, samples=n, max_tokens=1, generator=generator()
    )
    with torch.no_grad():
        p = policy.model(input_ids=torch.tensor(prompt)).logits[0, -1].softmax(-1)
    counts = torch.bincount(torch.tensor([g.ids[0] for g in generations]), minlength=len(p))
    error = (counts / n - p).abs()
    # Five standard deviations of a binomial share, for every token.
    assert (error <= 5 * (p * (1 - p) / n).sqrt() + 1e-3).all()


def test_responses_come_prompt_major_whatever_the_batch_size(policy):
    """A prompt that forces its own answer: near-deterministic sampling at a low temperature."""
    prompts = prompts_of(policy, "a", "bbbbbbbb", "cc", "dddd")
    greedy = {"samples": 2, "max_tokens": 4, "temperature": 1e-4}
    wide = HFEngine(policy).generate(prompts, generator=generator(), **greedy)
    narrow = HFEngine(policy, max_batch=2).generate(prompts, generator=generator(), **greedy)
    assert [g.ids for g in wide] == [g.ids for g in narrow]


@pytest.mark.parametrize("bad", [{"max_tokens": 0}, {"samples": 0, "max_tokens": 1},
                                 {"temperature": 0.0, "max_tokens": 1}])  # fmt: skip
def test_senseless_sampling_is_refused(policy, bad):
    with pytest.raises(ValueError, match="must be"):
        HFEngine(policy).generate([[1]], **bad)
