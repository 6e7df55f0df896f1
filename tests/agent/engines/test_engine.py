"""The engine samples from the policy's distribution and reports its own log-probabilities."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch

from agent.helpers import float64_policy, small_policy
from vpd_agent.data.padding import pad_left, pad_right
from vpd_agent.engines import sampling_from
from vpd_agent.engines.hf import HFEngine
from vpd_agent.tiny.model import tiny_policy

sys.path.append(str(Path(__file__).parents[3] / "benchmarks"))

import bare_generation


@pytest.fixture(scope="module")
def policy():
    return small_policy()


def prompts_of(policy, *texts):
    return [policy.encode([{"role": "user", "content": t}]) for t in texts]


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


POLICIES = {
    "full attention": small_policy,
    "a window shorter than the prompts": lambda: small_policy(window=8),
    "the tiny model with a window of 64": lambda: tiny_policy(window=64),
    "GPT-2, which transformers decodes": float64_policy,
}


@pytest.mark.parametrize("make", POLICIES.values(), ids=POLICIES)
def test_reported_log_probabilities_are_those_of_a_plain_forward_pass(make):
    """Rows of many lengths, some ending early and leaving the batch: the cache must follow."""
    policy = make()
    prompts = prompts_of(policy, "a", "bb and more", "c" * 90)
    policy.eos_ids = frozenset(range(0, 260, 20))  # so that some end early and some do not
    generations = HFEngine(policy).generate(
        prompts, samples=5, max_tokens=40, temperature=0.8, generator=generator()
    )
    assert {g.finish for g in generations} == {"stop", "length"}  # both kinds are covered
    repeated = [p for p in prompts for _ in range(5)]
    prompt, prompt_mask = pad_left(repeated, policy.pad_id)
    response, mask = pad_right([g.ids for g in generations], policy.pad_id)
    policy.model.eval()
    with torch.no_grad():
        scores = policy.forward(prompt, prompt_mask, response, mask, temperature=0.8)
    for row, g in zip(scores.logprobs.float(), generations, strict=True):
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
    for max_batch in (1, 2, 3):  # 1: less than the samples of a single prompt
        narrow = HFEngine(policy, max_batch).generate(prompts, generator=generator(), **greedy)
        assert [g.ids for g in wide] == [g.ids for g in narrow]


def test_no_more_places_are_decoded_at_once_than_asked_for(policy, monkeypatch):
    """Rows of the longest prompt and the longest response, and at least one."""
    prompts = prompts_of(policy, "a", "bbbbbbbb", "cc")
    asked = {"samples": 3, "max_tokens": 4, "temperature": 1e-4, "generator": generator()}
    longest = max(map(len, prompts)) + asked["max_tokens"]
    at_once, sample = [], HFEngine._sample

    def counted(self, prompts, samples, *rest):
        at_once.append(len(prompts) * samples)
        return sample(self, prompts, samples, *rest)

    monkeypatch.setattr(HFEngine, "_sample", counted)
    free = HFEngine(policy).generate(prompts, **asked)
    for places, most in ((1, 1), (2 * longest, 2), (7 * longest - 1, 6)):
        at_once.clear()
        narrow = HFEngine(policy, places=places).generate(prompts, **asked)
        assert [g.ids for g in narrow] == [g.ids for g in free]
        assert max(at_once) == most
        assert sum(at_once) == len(free)
    with pytest.raises(ValueError, match="places must be at least 1, got 0"):
        HFEngine(policy, places=0)


def test_at_a_vanishing_temperature_the_likeliest_tokens_are_chosen(policy):
    (prompt,) = prompts_of(policy, "hello")
    (generation,) = HFEngine(policy).generate([prompt], max_tokens=12, temperature=1e-5)
    ids = list(prompt)
    for token in generation.ids:
        with torch.no_grad():
            likeliest = policy.model(input_ids=torch.tensor([ids])).logits[0, -1].argmax()
        assert token == likeliest
        ids.append(token)


def test_the_bare_loop_of_the_benchmarks_generates_what_the_engine_does():
    """With logits this large both choose the likeliest token, almost surely."""
    policy = tiny_policy()
    policy.eos_ids = frozenset()  # the bare loop knows no end
    with torch.no_grad():
        policy.model.model.norm.weight.mul_(1e5)
    prompts = [[1, 2, 3, 4, 5], [250, 40, 30, 20, 10]]
    bare = bare_generation.generate(policy.model, torch.tensor(prompts), 3, 20)
    engine = HFEngine(policy).generate(prompts, samples=3, max_tokens=20, generator=generator())
    assert bare.tolist() == [g.ids for g in engine]


def test_an_optimizer_step_is_seen_by_the_next_call():
    """Training on a token makes the engine, made before, report it as likelier."""
    policy = small_policy()
    engine = HFEngine(policy)
    prompts = prompts_of(policy, "a")
    before = engine.generate(prompts, max_tokens=3, generator=generator())[0]
    optimizer = torch.optim.SGD(policy.parameters(), lr=0.01)
    ids = torch.tensor([prompts[0] + before.ids[:1]])
    (-policy.model(input_ids=ids).logits[0, -2].log_softmax(-1)[before.ids[0]]).backward()
    optimizer.step()
    with torch.no_grad():
        logp = policy.model(input_ids=ids).logits[0, -2].log_softmax(-1)
    assert logp[before.ids[0]] > before.logprobs[0] + 0.01
    after = engine.generate(prompts, max_tokens=1, generator=generator())[0]
    assert after.logprobs[0] == pytest.approx(float(logp[after.ids[0]]), abs=1e-5)


@pytest.mark.parametrize("apart", [False, True])
def test_a_students_engine_samples_from_its_teacher_and_then_from_the_student_again(apart):
    student, teacher = small_policy(seed=0), small_policy(seed=1).frozen_copy()
    before = [w.clone() for w in student.model.parameters()]
    prompts = prompts_of(student, "a", "bc")

    def sample(engine):
        generations = engine.generate(prompts, max_tokens=6, generator=generator())
        return [generation.ids for generation in generations]

    of_student, of_teacher = sample(HFEngine(student)), sample(HFEngine(teacher))
    assert of_student != of_teacher
    engine = HFEngine(student.frozen_copy() if apart else student)
    with sampling_from(engine, teacher, student) as same:
        assert same is engine
        assert sample(engine) == of_teacher
    assert sample(engine) == of_student
    with pytest.raises(KeyError), sampling_from(engine, teacher, student):
        raise KeyError
    assert sample(engine) == of_student
    assert all(map(torch.equal, before, student.model.parameters()))


def test_an_engine_with_a_copy_sees_the_students_weights_when_it_is_synced():
    student = small_policy()
    engine = HFEngine(student.frozen_copy())
    prompts = prompts_of(student, "a")

    def sample(engine):
        return engine.generate(prompts, max_tokens=6, generator=generator())[0].ids

    before = sample(engine)
    with torch.no_grad():
        for weight in student.model.parameters():
            weight.mul_(-1.0)
    assert sample(engine) == before
    engine.sync(student)
    assert sample(engine) == sample(HFEngine(student)) != before


def generate_and_count_rows(policy, max_tokens: int):
    """20 responses to each of two prompts, and the rows the model was run with at each step."""
    rows: list[int] = []
    prompts = prompts_of(policy, "a", "b")
    engine = HFEngine(policy)
    engine.generate(prompts, max_tokens=1)  # the first call compares two decoders
    handle = policy.model.lm_head.register_forward_hook(
        lambda head, inputs, logits: rows.append(logits.shape[0])
    )
    generations = engine.generate(prompts, samples=20, max_tokens=max_tokens, generator=generator())
    handle.remove()
    return generations, rows


def test_sampling_stops_when_all_rows_have_ended():
    policy = small_policy()
    policy.eos_ids = frozenset(range(260))  # whatever comes first ends the response
    _, rows = generate_and_count_rows(policy, max_tokens=50)
    assert rows == [2]  # the two prompts, and no step


def test_rows_that_have_ended_leave_the_batch():
    """At no step are a quarter of the rows ones that have ended."""
    policy = small_policy()
    policy.eos_ids = frozenset(range(0, 260, 10))
    generations, rows = generate_and_count_rows(policy, max_tokens=200)
    for t, count in enumerate(rows[1:], start=1):  # the step that reads token t
        live = sum(len(g.ids) > t for g in generations)
        assert 0.75 * count < live <= count
    assert max(len(g.ids) for g in generations) == len(rows)


@pytest.mark.parametrize("training", [True, False])
def test_the_model_is_left_in_the_mode_it_was_in(training):
    policy = small_policy()
    policy.model.train(training)
    HFEngine(policy).generate([[1, 2]], max_tokens=2)
    assert all(module.training is training for module in policy.model.modules())


def test_a_model_whose_weights_are_no_numbers_is_not_sampled_from():
    policy = small_policy()
    with torch.no_grad():
        policy.model.lm_head.weight[7, 3] = torch.nan
    with pytest.raises(FloatingPointError, match="not finite"):
        HFEngine(policy).generate([[1, 2]], max_tokens=3)


def test_no_prompts_give_no_responses(policy):
    assert HFEngine(policy).generate([], max_tokens=3) == []


@pytest.mark.parametrize("bad", [{"max_tokens": 0}, {"samples": 0, "max_tokens": 1},
                                 {"temperature": 0.0, "max_tokens": 1}])  # fmt: skip
def test_senseless_sampling_is_refused(policy, bad):
    with pytest.raises(ValueError, match="must be"):
        HFEngine(policy).generate([[1]], **bad)
