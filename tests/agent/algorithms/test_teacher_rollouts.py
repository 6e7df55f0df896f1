"""Algorithms that train on rollouts of the teacher, and the steps that collect such rollouts."""

from __future__ import annotations

import copy
import math
import statistics
from dataclasses import replace
from functools import partial

import pytest
import torch

from agent.helpers import (
    SecretLetter,
    float64_policy,
    mixed_rollouts,
    rollout,
    small_policy,
)
from vpd_agent.algorithms import GRPO, PAST, Algorithm, PiDistill, Step
from vpd_agent.engines import Generation
from vpd_agent.engines.hf import HFEngine
from vpd_agent.rollout.collect import Actor
from vpd_agent.rollout.teacher_prompt import COMPACT
from vpd_agent.train.config import TrainConfig
from vpd_agent.train.step_batch import StepBatch
from vpd_agent.train.trainer import Trainer

CONFIG = TrainConfig(
    steps=4,
    prompts_per_step=2,
    group_size=4,
    learning_rate=1e-3,
    max_prompt_tokens=64,
    max_teacher_prompt_tokens=256,
    max_response_tokens=5,
    eval_every=0,
)
VARIANTS: dict[str, Algorithm] = {
    "pi-distill": PiDistill(clip_low=0.05, clip_high=0.05),
    "pi-distill, teacher alone": PiDistill(alpha=1.0),
    "pi-distill, student alone, and its own": PiDistill(alpha=0.0, beta=0.4, reward_weight=0.7),
    "pi-distill without KL": PiDistill(alpha=0.3, beta=0.0),
    "past": PAST(failed_weight=0.6, proximity=0.2),
    "past without a clip": PAST(entry_clip=None, clip_low=0.04, clip_high=0.04),
    "past without proximity": PAST(proximity=0.0, teacher_learning_rate=1e-4),
}


def make_trainer(algorithm, policy=None, **changes) -> Trainer:
    config = replace(CONFIG, **changes)
    environment = SecretLetter.vector(config.rollouts_per_step)
    return Trainer(policy or float64_policy(), algorithm, environment, config, template=COMPACT)


def all_rollouts(policy):
    """Two groups of the student's, and of both some that were sampled on a teacher's prompt: those
    of the second group all failed."""
    rows = [
        ("ab", "ab|x:wrong", "xyz", 0, 1.0),
        ("ab", "ab|x:wrong", "zx", 0, 0.0),
        ("ab", "ab|x:wrong", "x", 0, 0.0),
        ("longer prompt", "longer prompt|q:a hint", "yes", 1, 0.0),
        ("longer prompt", "longer prompt|q:a hint", "no!!", 1, 0.0),
    ]
    of_teacher = []
    for i, (plain, shown, response, group, reward) in enumerate(rows):
        draft = rollout(plain, response, policy=policy, group=group, reward=reward)
        prompt = policy.encode([{"role": "user", "content": shown}])
        chosen = chosen_of(table(policy, prompt, draft.response_ids), draft.response_ids)
        logprobs = [float(x) + 0.1 * math.sin(i + t) for t, x in enumerate(chosen)]
        of_teacher.append(
            replace(draft, prompt_ids=prompt, plain_prompt_ids=draft.prompt_ids, logprobs=logprobs)
        )
    return mixed_rollouts(policy) + of_teacher


def step_batch(trainer, rollouts) -> StepBatch:
    own = trainer.make_batch([r for r in rollouts if not r.is_teacher_rollout])
    of_teacher = [r for r in rollouts if r.is_teacher_rollout]
    return StepBatch(own, trainer._batch_of_teacher(of_teacher, own))


def gradients_of(algorithm, micro_batch_size=None):
    """Per loss of a first step: its value, and the flat gradient."""
    trainer = make_trainer(algorithm, micro_batch_size=micro_batch_size)
    batch = step_batch(trainer, all_rollouts(trainer.policy))
    perturb(trainer.policy)
    parts = [trainer.micro_batches(b) for b in batch]
    results = {}
    for loss in algorithm.losses(Step(0, 4)):
        _, metrics = trainer.updater.gradient(loss, parts[0], {}, parts[1])
        flat = torch.cat([p.grad.flatten() for p in trainer.policy.parameters()])
        results[loss.name] = (metrics["loss"], flat)
    return results


def perturb(policy, scale=0.02) -> None:
    """Move the weights, so that ratios to the sampler's differ from 1."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for p in policy.parameters():
            p.add_(scale * torch.randn(p.shape, generator=generator, dtype=p.dtype))


# --- loops written from the equations ------------------------------------------------------------


@torch.no_grad()
def table(policy, prompt, response):
    """[T, V] log-probabilities of a model for one response."""
    logits = policy.model(torch.tensor([prompt + response])).logits[0]
    return logits[len(prompt) - 1 : -1].log_softmax(-1)


def chosen_of(logp, response):
    return [logp[t, token] for t, token in enumerate(response)]


def kl(p, q, most=math.inf) -> float:
    return float((p.exp() * (p - q)).clamp(max=most).sum())


def clipped(ratio, advantage, a) -> float:
    bounded = min(max(ratio, 1 - a.clip_low), 1 + a.clip_high)
    return min(ratio * advantage, bounded * advantage)


def advantage(row, rows, scale) -> float:
    rewards = [r.reward for r in rows if r.group == row.group]
    centered = row.reward - statistics.mean(rewards)
    return centered / (statistics.stdev(rewards) + 1e-6) if scale else centered


def reinforced(rows, a, logps, olds) -> float:
    """−Σ min(ρA, clip(ρ)A) over the tokens of `rows`."""
    total = 0.0
    for row, logp, old in zip(rows, logps, olds, strict=True):
        for t, x in enumerate(chosen_of(logp, row.response_ids)):
            A = advantage(row, rows, a.scale_advantages)
            total -= clipped(math.exp(x - old[t]), A, a)
    return total


def naive_pi_distill(a, rows, moved, fixed):
    """moved, fixed: tables of (student, teacher) with the weights that move, and with those under
    stop-gradients, for each kind of rollout."""
    own, of_teacher = rows
    count = sum(len(r.response_ids) for r in of_teacher)
    (S, T), (S0, T0) = moved["teacher"], fixed["teacher"]
    teacher = reinforced(of_teacher, a, T, [r.logprobs for r in of_teacher])
    old = [chosen_of(logp, r.response_ids) for r, logp in zip(of_teacher, T0, strict=True)]
    student = reinforced(of_teacher, a, S, old)
    for s, t, s0, t0 in zip(S, T, S0, T0, strict=True):
        for n in range(len(s)):
            teacher += a.beta * kl(t[n], s0[n])
            student += a.beta * kl(t0[n], s[n])
    total = (a.alpha * teacher + (1 - a.alpha) * student) / count
    reinforce = reinforced(own, a, moved["own"][0], [r.logprobs for r in own])
    return {"policy": total + a.reward_weight * reinforce / sum(len(r.response_ids) for r in own)}


def naive_past(a, rows, moved, fixed):
    own, of_teacher = rows
    (S, T), (S0, T0) = moved["own"], fixed["own"]
    preserve, distill = [], []
    for row, s, t, s0, t0 in zip(own, S, T, S0, T0, strict=True):
        if t is None:
            continue
        for n in range(len(s)):
            distill.append(kl(t0[n], s[n], a.entry_clip or math.inf))
            if row.reward == 1:
                preserve.append(kl(s0[n], t[n]))
    (_, T), (S0, _) = moved["teacher"], fixed["teacher"]
    near = [kl(t[n], s0[n]) for t, s0 in zip(T, S0, strict=True) for n in range(len(t))]
    mixed = [r for r in of_teacher if r.group == 0]  # the others all failed
    adapt = reinforced(mixed, a, T[: len(mixed)], [r.logprobs for r in mixed])
    adapt /= sum(len(r.response_ids) for r in mixed)
    return {
        "teacher": statistics.mean(preserve)
        + a.failed_weight * (adapt + a.proximity * statistics.mean(near)),
        "student": statistics.mean(distill),
    }


def naive_losses(trainer, rollouts, moved, fixed):
    """The losses with the weights of `moved`, those of `fixed` under stop-gradients."""
    own = [r for r in rollouts if not r.is_teacher_rollout]
    of_teacher = [r for r in rollouts if r.is_teacher_rollout]
    prompts = trainer.prompts_with_feedback(own)

    def tables(policy):
        of = partial(table, policy)
        return {
            "own": (
                [of(r.prompt_ids, r.response_ids) for r in own],
                [p and of(p, r.response_ids) for p, r in zip(prompts, own, strict=True)],
            ),
            "teacher": (
                [of(r.plain_prompt_ids, r.response_ids) for r in of_teacher],
                [of(r.prompt_ids, r.response_ids) for r in of_teacher],
            ),
        }

    naive = naive_past if isinstance(trainer.algorithm, PAST) else naive_pi_distill
    return naive(trainer.algorithm, (own, of_teacher), tables(moved), tables(fixed))


def values_of(results) -> dict[str, float]:
    return {name: value for name, (value, _) in results.items()}


whole = dict.fromkeys(VARIANTS)


def gradients(name):
    if whole[name] is None:
        whole[name] = gradients_of(VARIANTS[name])
    return whole[name]


@pytest.mark.parametrize("name", VARIANTS)
def test_each_loss_equals_a_loop_written_from_its_equation(name):
    trainer = make_trainer(VARIANTS[name])
    rollouts = all_rollouts(trainer.policy)
    perturb(trainer.policy)
    expected = naive_losses(trainer, rollouts, trainer.policy, trainer.policy)
    assert values_of(gradients(name)) == pytest.approx(expected, rel=1e-6, abs=1e-8)


@pytest.mark.parametrize("name", VARIANTS)
def test_gradients_equal_finite_differences_of_the_loop(name):
    """Where the equations stop the gradient, the loop keeps the weights from before."""
    trainer = make_trainer(VARIANTS[name])
    rollouts = all_rollouts(trainer.policy)
    perturb(trainer.policy)
    fixed = trainer.policy.frozen_copy()
    parameters = trainer.policy.parameters()
    generator = torch.Generator().manual_seed(0)
    direction = [torch.randn(p.shape, generator=generator, dtype=p.dtype) for p in parameters]
    flat = torch.cat([d.flatten() for d in direction])
    eps, ends = 1e-6, []
    for sign in (1, -2):
        with torch.no_grad():
            torch._foreach_add_(parameters, direction, alpha=sign * eps)
        ends.append(naive_losses(trainer, rollouts, trainer.policy, fixed))
    for loss, (_, gradient) in gradients(name).items():
        numeric = (ends[0][loss] - ends[1][loss]) / (2 * eps)
        assert float(gradient @ flat) == pytest.approx(numeric, rel=1e-4, abs=1e-7)


@pytest.mark.parametrize("name", VARIANTS)
def test_micro_batches_give_the_full_batch_gradient(name):
    parts = gradients_of(VARIANTS[name], micro_batch_size=2)
    for loss, (value, gradient) in gradients(name).items():
        assert gradient.norm() > 1e-6
        assert parts[loss][0] == pytest.approx(value, rel=1e-6)
        assert (parts[loss][1] - gradient).norm() < 1e-6 * gradient.norm()


# --- whole steps ---------------------------------------------------------------------------------


def weights(trainer):
    return [p.detach().clone() for p in trainer.policy.parameters()]


def same(mine, other) -> bool:
    pairs = zip(mine, other, strict=True)
    return all(torch.allclose(a, b, rtol=1e-9, atol=1e-11) for a, b in pairs)


@pytest.mark.parametrize("algorithm", [PiDistill(reward_weight=0.5), PAST()])
def test_mini_batches_are_steps_on_the_same_groups_of_both_kinds(algorithm):
    def by_hand(*order):
        trainer = make_trainer(algorithm)
        rollouts = all_rollouts(trainer.policy)
        for loss in algorithm.losses(Step(0, 4)):
            for group in [None] if loss.whole_batch else order:
                chosen = [r for r in rollouts if group in (None, r.group)]
                parts = [trainer.micro_batches(b) for b in step_batch(trainer, chosen)]
                trainer.updater.update(loss, parts[0], {}, 0, parts[1])
        return weights(trainer)

    first, second = by_hand(0, 1), by_hand(1, 0)
    assert not same(first, second)
    found = []
    for seed in range(4):
        trainer = make_trainer(algorithm, mini_batches=2, micro_batch_size=2, seed=seed)
        trainer.train_step(all_rollouts(trainer.policy))
        found.append((same(weights(trainer), first), same(weights(trainer), second)))
    assert set(found) == {(True, False), (False, True)}


class Counting(HFEngine):
    """Counts what it samples."""

    sampled = 0

    def generate(self, prompts, *, samples=1, **options):
        self.sampled += len(prompts) * samples
        return super().generate(prompts, samples=samples, **options)


@pytest.mark.parametrize(
    ("algorithm", "of_teacher"),
    [(GRPO(), 0), (PAST(teacher_rollouts=0.5), 4), (PiDistill(teacher_rollouts=0.75), 6)],
)
def test_a_step_samples_as_many_rollouts_with_the_teacher_s_as_without(algorithm, of_teacher):
    """Nobody guesses a letter here, so each problem has a failed attempt."""
    trainer = make_trainer(algorithm, small_policy())
    trainer.engine = Counting(trainer.policy)
    collected = trainer.collect()
    assert trainer.engine.sampled == len(collected.rollouts) == 8
    assert not any(r.reward for r in collected.rollouts)
    assert sum(r.is_teacher_rollout for r in collected.rollouts) == of_teacher
    metrics = trainer.train_step(collected.rollouts)
    assert metrics["rollouts"] == 8 - of_teacher
    assert metrics.get("teacher_rollouts/count", 0) == of_teacher
    assert trainer.engine.sampled == 8


def test_teacher_rollouts_are_of_the_policy_on_the_teacher_s_prompt():
    trainer = make_trainer(PAST(), small_policy())
    batch = step_batch(trainer, trainer.collect().rollouts)
    assert batch.of_teacher is not None
    assert batch.of_teacher.prompt.equal(batch.own.prompt)
    on_both = [
        trainer.micro_batches(batch.of_teacher).logprobs(on_teacher_prompt=shown)
        for shown in (True, False)
    ]
    sampled = batch.of_teacher.old_logprobs
    assert torch.allclose(on_both[0], sampled, atol=1e-4)
    assert not torch.allclose(on_both[1], sampled, atol=1e-2)
    corrected, _ = trainer._corrected(batch.of_teacher, on_teacher_prompt=True)
    assert corrected.old_logprobs.equal(on_both[0])


@pytest.mark.parametrize("algorithm", [PiDistill(), PAST(teacher="ema")])
@pytest.mark.parametrize("overlap", [False, True])
def test_a_run_goes_on_bit_for_bit(algorithm, overlap):
    def made():
        return make_trainer(algorithm, small_policy(), overlap=overlap)

    def take(trainer, steps):
        for _ in range(steps):
            trainer._train_or_skip(trainer._next_rollouts().collected)

    whole, before, after = made(), made(), made()
    take(whole, 4)
    take(before, 2)
    after.load_state_dict(copy.deepcopy(before.state_dict()))
    take(after, 2)
    assert all(map(torch.equal, weights(after), weights(whole)))


# --- collecting ----------------------------------------------------------------------------------


class Scripted:
    """Says what it is told to, a line for each call; notes what it was shown."""

    logprobs_match_trainer = True

    def __init__(self, policy, *calls: list[str]) -> None:
        self.policy, self.calls = policy, list(calls)
        self.shown: list[list[list[int]]] = []

    def generate(self, prompts, *, samples=1, max_tokens, temperature=1.0, generator=None):
        self.shown.append([p for p in prompts for _ in range(samples)])
        ids = [self.policy.tokenizer(text).input_ids for text in self.calls.pop(0)]
        assert len(ids) == len(self.shown[-1])
        return [Generation(i, [-0.5] * len(i), "stop") for i in ids]

    def sync(self, policy) -> None:
        pass

    def close(self) -> None:
        pass


def test_of_a_group_the_first_failed_attempt_is_shown_and_where_none_failed_nothing_is():
    policy = small_policy()
    engine = Scripted(policy, ["xy", "b", "b", "b"], ["a", "z", "c", "b"])
    trainer = make_trainer(PAST(), policy)
    trainer.engine = engine
    actor = Actor(policy, engine, trainer.environment, max_response_tokens=5)
    rollouts = actor.collect(
        ["train-a", "train-b"], 4, teacher_rollouts=2, teacher_prompt=trainer.second_prompt
    ).rollouts
    plain = [policy.encode([{"role": "user", "content": f"train-{x}?"}]) for x in "ab"]
    shown = policy.encode([{"role": "user", "content": "train-a?|xy:want a"}])
    assert engine.shown == [
        [plain[0], plain[0], plain[1], plain[1]],
        [shown, shown, plain[1], plain[1]],
    ]
    assert [(r.group, r.text, r.reward, r.is_teacher_rollout) for r in rollouts] == [
        (0, "xy", 0.0, False), (0, "b", 0.0, False), (0, "a", 1.0, True), (0, "z", 0.0, True),
        (1, "b", 1.0, False), (1, "b", 1.0, False), (1, "c", 0.0, False), (1, "b", 1.0, False),
    ]  # fmt: skip
    assert [r.prompt_ids for r in rollouts[2:4]] == [shown, shown]
    assert [r.plain_prompt_ids for r in rollouts[1:5]] == [None, plain[0], plain[0], None]
    assert rollouts[3].feedback == "want a"


def test_episodes_of_several_turns_begin_with_the_teacher_s_prompt_too():
    policy = small_policy()
    engine = Scripted(policy, ["x", "a"], ["y"], ["z", "a", "b", "a"], ["a", "a"])
    environment = SecretLetter.vector(6, max_turns=2)
    prompt = policy.encode([{"role": "user", "content": "try again"}])
    rollouts = Actor(policy, engine, environment, max_response_tokens=99).collect(
        ["train-a", "train-a"], 3, teacher_rollouts=2, teacher_prompt=lambda attempts: prompt
    ).rollouts  # fmt: skip
    assert [r.reward for r in rollouts] == [0.0, 1.0, 1.0, 1.0, 1.0, 1.0]
    second = rollouts[1].response_ids[:-1]  # up to the last answer, which is "a"
    assert engine.shown[2] == [prompt] * 4
    assert engine.shown[3][0] == prompt + second
    assert second[0] == policy.tokenizer("z").input_ids[0]


@pytest.mark.parametrize(("share", "size"), [(0.3, 4), (0.5, 2), (0.95, 4)])
def test_a_share_that_leaves_one_kind_too_few_rollouts_is_explained(share, size):
    with pytest.raises(ValueError, match=rf"teacher_rollouts={share:g} of a group_size of {size}"):
        make_trainer(PAST(teacher_rollouts=share), small_policy(), group_size=size)


@pytest.mark.parametrize("kind", [PiDistill, PAST])
@pytest.mark.parametrize("share", [0.0, 1.0, math.nan])
def test_a_share_must_be_between_0_and_1(kind, share):
    with pytest.raises(ValueError, match="teacher_rollouts must be between 0 and 1"):
        kind(teacher_rollouts=share)
