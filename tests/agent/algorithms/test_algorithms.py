"""Algorithms as wholes: their losses on a real model, and the trainer that knows none of them."""

from __future__ import annotations

import ast
import inspect
import math
import random
import statistics
from dataclasses import dataclass, fields, replace
from functools import cache, partial
from typing import ClassVar

import pytest
import torch

from agent.helpers import SecretLetter, float64_policy, mixed_rollouts, small_policy
from vpd_agent.algorithms import (
    ALGORITHMS,
    GRPO,
    OPSD,
    RFT,
    RLSD,
    SCSDPO,
    SDAR,
    SDPG,
    SDPO,
    SRPO,
    VPD,
    VPDPG,
    Algorithm,
    DistIL,
    Loss,
    LossInputs,
    Step,
)
from vpd_agent.algorithms.policy_gradient import policy_gradient
from vpd_agent.ops import chunked_logits
from vpd_agent.ops.losses import imitation
from vpd_agent.train import learner as learner_module
from vpd_agent.train import trainer as trainer_module
from vpd_agent.train.config import TrainConfig
from vpd_agent.train.trainer import Trainer

LIMIT = 5  # max_response_tokens
CONFIG = TrainConfig(
    steps=10,
    prompts_per_step=2,
    group_size=3,
    learning_rate=1e-3,
    max_prompt_tokens=64,
    max_teacher_prompt_tokens=256,
    max_response_tokens=LIMIT,
    eval_every=0,
)
STEP = Step(3, 10)
TRUST = {"trust": 0.06}  # 0.4 of a width of 0.15

VARIANTS: dict[str, Algorithm] = {
    "grpo": GRPO(clip_low=0.05, clip_high=0.05),
    "grpo as published": GRPO(normalizer="sequence", kl_to_reference=0.3),
    "grpo with a dual clip": GRPO(dual_clip=1.02),
    "dapo": GRPO(clip_high=0.08, drop_flat_groups=True),
    "dr. grpo": GRPO(scale_advantages=False, normalizer="constant", drop_flat_groups=True),
    "grpo, less of what is worse": GRPO(negative_weight=0.3, clip_low=0.05, clip_high=0.05),
    "gspo": GRPO(clip_low=0.02, clip_high=0.02, ratio="sequence", normalizer="sequence"),
    "cispo": GRPO(clip_low=0.04, clip_high=0.05, objective="cispo"),
    "cispo of verl": GRPO(clip_low=0.04, clip_high=0.05, objective="cispo-both"),
    "sdpo": SDPO(importance_clip=1.01),
    "sdpo jsd on the top": SDPO(alpha=0.5, top_k=7, teacher="frozen"),
    "sdpo forward, renormalized": SDPO(alpha=0.0, top_k=7, tail="renormalize"),
    "sdpo sampled token": SDPO(sampled_token=True),
    "sdpo by tokens": SDPO(distill_normalizer="token", importance_clip=None),
    "sdpo by a constant": SDPO(distill_normalizer="constant", divergence_clip=0.46, alpha=0.0),
    "sdpo hybrid of advantages": SDPO(sampled_token=True, reward_weight=0.3, clip_high=0.05),
    "sdpo hybrid of losses": SDPO(reward_weight=0.3, importance_clip=None),
    "sdpo trust region": SDPO(teacher="trust_region", trust_region=0.4, importance_clip=None),
    "sdpo on failures, gated": SDPO(distill_on="failed", gate_width=0.15, importance_clip=None),
    "sdpg": SDPG(distill_weight=0.7, reference_form="fkl"),
    "sdpg on all": SDPG(
        distill_weight=0.7, reference_weight=0.2, warmup_fraction=0.8, positive_only=False
    ),
    "vpd": VPD(e_step_every=1, beta=0.5, balance=0.3),
    "vpd fixed prior": VPD(e_step_every=3, prior="fixed", teacher="ema", importance_clip=2.0),
    "vpd with reward": VPD(e_step_every=1, alpha=0.5, teacher="frozen", reward_weight=0.4),
    "vpd-pg": VPDPG(e_step_every=3),
    "vpd-pg near its start": VPDPG(e_step_every=2, kl_where_unheard=0.5),
    "vpd-pg without a gate": VPDPG(
        e_step_every=3, gate_width=None, teacher="frozen", kl_where_unheard=0.5
    ),
    "opsd": OPSD(distill_on="solved", on_own_success=True),
    "opsd on the teacher's top": OPSD(top_k=7, support="teacher", tail="renormalize"),
    "sdar": SDAR(distill_weight=0.4),
    "sdar by entropy": SDAR(token_gate="entropy", sharpness=0.2, teacher="frozen"),
    "sdar by both": SDAR(token_gate="both", sharpness=2.0, kl_to_reference=0.0),
    "rft": RFT(),
    "rft, one per group": RFT(one_per_group=True),
    "srpo": SRPO(entropy_sharpness=2.0, gate_width=0.15, clip_high=0.05),
    "sc-sdpo": SCSDPO(alpha=0.5, importance_clip=None),
    "distil": DistIL(future_weight=0.7),
    "rlsd": RLSD(share_decay_steps=8, clip_high=0.05),
}


def make_trainer(algorithm, policy=None, **changes) -> Trainer:
    config = replace(CONFIG, **changes)
    trainer = Trainer(
        policy or small_policy(dtype=torch.float64),
        algorithm,
        SecretLetter.vector(config.rollouts_per_step),
        config,
    )
    trainer.state = dict(TRUST)
    return trainer


def perturb(policy, seed=1, scale=0.02) -> None:
    """Move the weights, so that teacher, reference and student differ."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for p in policy.parameters():
            p.add_(scale * torch.randn(p.shape, generator=generator, dtype=p.dtype))


def varied_rollouts(policy):
    """`mixed_rollouts`, a group that nobody solved, and two rollouts of several turns: tokens in
    their middle are the environment's."""
    rollouts = mixed_rollouts(policy)
    rollouts[0] = replace(rollouts[0], is_policy_token=[True, False, True])
    flat = [replace(r, group=2, reward=0.0, feedback="no") for r in rollouts[3:5]]
    flat[1] = replace(flat[1], is_policy_token=[True, True, False, True])
    return rollouts + flat


def varied_batch(trainer, rollouts):
    """As an engine of other arithmetic would have it: tokens have weights."""
    batch = trainer.make_batch(rollouts)
    wave = torch.sin(batch.response + 3.0 * batch.prompt_mask.sum(1, keepdim=True))
    return replace(batch, sampler_weight=1 + 0.5 * wave)


def gradients_of(algorithm, micro_batch_size=None, rollouts=None, pad=0, spare=False):
    """Per loss of a step: (value, flat gradient), without taking optimizer steps."""
    trainer = make_trainer(algorithm, micro_batch_size=micro_batch_size)
    rollouts = rollouts or varied_rollouts(trainer.policy)
    perturb(trainer.policy)
    batch = varied_batch(trainer, rollouts)
    micro_batches = trainer.micro_batches(batch)
    if pad:
        micro_batches = [inputs_of(trainer, padded(batch, pad))]
    if spare:
        micro_batches.spare = 1
    results = {}
    for loss in algorithm.losses(STEP):
        trainer.state, metrics = trainer.updater.gradient(loss, micro_batches, trainer.state)
        flat = torch.cat([p.grad.flatten() for p in trainer.policy.parameters()])
        results[loss.name] = (metrics["loss"], flat)
    return results


def inputs_of(trainer, batch) -> LossInputs:
    return LossInputs(
        batch,
        policy=trainer.policy,
        teacher=trainer.teacher,
        reference=trainer.reference,
        state=trainer.state,
    )


def padded(batch, columns):
    """Prompts with more padding on their left, responses with more on their right."""
    pad = torch.nn.functional.pad
    left = ("prompt", "prompt_mask", "teacher_prompt", "teacher_prompt_mask")
    right = ("response", "token_mask", "loss_mask", "old_logprobs", "sampler_weight", "skipped")
    wider = {name: pad(getattr(batch, name), (columns, 0)) for name in left}
    wider |= {name: pad(getattr(batch, name), (0, columns)) for name in right}
    return replace(batch, **wider)


def assert_same(a, b, tolerance=1e-6) -> None:
    """Two (value, gradient); the models are float64, but weights of tokens float32."""
    assert a[0] == pytest.approx(b[0], rel=tolerance)
    assert (a[1] - b[1]).norm() < tolerance * b[1].norm()


whole_batch = cache(lambda name: gradients_of(VARIANTS[name]))


# --- equal to the equations ----------------------------------------------------------------------


@dataclass
class Row:
    """One rollout as the equations have it: tables [T, V] of log-probabilities, no padding."""

    ids: list[int]
    written: list[int]  # the places of the tokens that the policy sampled
    reward: float
    group: int
    old: list[float]
    sampler: list[float]
    student: torch.Tensor
    teacher: torch.Tensor | None
    policy_on_teacher_prompt: torch.Tensor | None
    reference: torch.Tensor | None

    @property
    def solved(self) -> bool:
        return self.reward == 1.0

    def ratio(self, t: int) -> float:
        return math.exp(self.chosen(self.student, t) - self.old[t])

    def chosen(self, table: torch.Tensor, t: int) -> float:
        return table[t, self.ids[t]].item()


@torch.no_grad()
def rows_of(trainer, rollouts, batch) -> list[Row]:
    """Each response scored on its own by the models themselves."""

    def table(policy, prompt, response):
        logits = policy.model(torch.tensor([prompt + response])).logits[0]
        return logits[len(prompt) - 1 : -1].log_softmax(-1)

    rows = []
    for i, r in enumerate(rollouts):
        score = partial(table, response=r.response_ids)
        teacher = trained = None
        if batch.has_teacher[i]:
            prompt = batch.teacher_prompt[i][batch.teacher_prompt_mask[i]].tolist()
            trained = score(trainer.policy, prompt)
            speaks = not batch.own_success[i] or trainer.algorithm.on_own_success
            if trainer.teacher is not None and speaks:
                teacher = score(trainer.teacher.policy, prompt)
                share = trainer.teacher.student_share
                teacher = ((1 - share) * teacher + share * trained).log_softmax(-1)
        rows.append(
            Row(
                ids=r.response_ids,
                written=[
                    t for t in range(len(r.response_ids)) if (r.is_policy_token or [True] * 9)[t]
                ],
                reward=r.reward,
                group=r.group,
                old=batch.old_logprobs[i].tolist(),
                sampler=batch.sampler_weight[i].tolist(),
                student=score(trainer.policy, r.prompt_ids),
                teacher=teacher,
                policy_on_teacher_prompt=trained,
                reference=trainer.reference and score(trainer.reference, r.prompt_ids),
            )
        )
    return rows


def mean(values) -> float:
    values = list(values)
    return sum(values) / len(values)


def tokens(rows):
    return [(row, t) for row in rows for t in row.written]


def advantage(row, rows, scale=True, negative=1.0) -> float:
    rewards = [r.reward for r in rows if r.group == row.group]
    std = statistics.stdev(rewards)
    found = (row.reward - mean(rewards)) / (std + 1e-6 if scale else 1)
    return negative * found if row.reward < mean(rewards) else found


def naive_policy_gradient(
    rows, *, low=0.2, high=0.2, dual=None, ratio="token", cispo=False, scale=True,
    negative=1.0, normalizer="token", drop_flat=False, per_token=None,
):  # fmt: skip
    def is_flat(row):
        return len({r.reward for r in rows if r.group == row.group}) == 1

    kept = [row for row in rows if not (drop_flat and is_flat(row))]
    total = 0.0
    for row in kept:
        for t in row.written:
            rho = row.ratio(t)
            if ratio == "sequence":
                rho = math.exp(mean(math.log(row.ratio(u)) for u in row.written))
            a = advantage(row, rows, scale, negative)
            if per_token:
                a = per_token(row, t, a)
            if cispo:
                surrogate = max(min(rho, 1 + high), 1 - low) * a * row.chosen(row.student, t)
            else:
                surrogate = min(rho * a, max(min(rho, 1 + high), 1 - low) * a)
                if dual and a < 0:
                    surrogate = max(surrogate, dual * a)
            weight = {
                "token": 1 / len(tokens(kept)),
                "sequence": 1 / (len(row.written) * len(kept)),
                "constant": 1 / (LIMIT * len(kept)),
            }[normalizer]
            total -= weight * row.sampler[t] * surrogate
    return total


def kl(p, q) -> float:
    return sum(math.exp(a) * (a - b) for a, b in zip(p, q, strict=True))


def naive_divergence(p, q, alpha) -> float:
    if alpha == 0:
        return kl(q, p)
    if alpha == 1:
        return kl(p, q)
    both = zip(p, q, strict=True)
    m = [math.log((1 - alpha) * math.exp(a) + alpha * math.exp(b)) for a, b in both]
    return (1 - alpha) * kl(p, m) + alpha * kl(q, m)


def on_top(p, q, k, tail, support):
    likely = p if support == "student" else q
    best = sorted(range(len(p)), key=lambda v: -likely[v])[:k]
    kept = [[x[v] for v in best] for x in (p, q)]
    if tail == "bucket":
        return [[*x, math.log(1 - sum(map(math.exp, x)))] for x in kept]
    return [[a - math.log(sum(map(math.exp, x))) for a in x] for x in kept]


def naive_distillation(
    rows, *, alpha=1.0, top_k=None, tail="bucket", support="student", sampled=False, clip=None,
    on=lambda row: True, counted=lambda row: True, normalizer="sequence", most=math.inf,
    times=lambda row, t: 1.0,
):  # fmt: skip
    spoken = [row for row in rows if row.teacher is not None and on(row)]
    total = 0.0
    for row, t in tokens([row for row in spoken if counted(row)]):
        p, q = row.student[t].tolist(), row.teacher[t].tolist()
        if sampled:
            log_p = row.chosen(row.student, t)
            value = (log_p - row.chosen(row.teacher, t)) * log_p
        else:
            pair = on_top(p, q, top_k, tail, support) if top_k else (p, q)
            value = min(naive_divergence(*pair, alpha), most)
        weight = times(row, t) * row.sampler[t] * (min(row.ratio(t), clip) if clip else 1)
        total += (
            weight
            * value
            / {
                "token": len(tokens(spoken)),
                "sequence": len(row.written) * len(rows),
                "constant": LIMIT * len(rows),
            }[normalizer]
        )
    return total


def naive_e_step(rows, *, beta, prior="dynamic", balance=0.5):
    def reward(row):
        def prior_logprob(t):
            return row.old[t] if prior == "dynamic" else row.chosen(row.reference, t)

        return beta * sum(
            row.chosen(row.policy_on_teacher_prompt, t) - prior_logprob(t) for t in row.written
        )

    taught = [row for row in rows if row.policy_on_teacher_prompt is not None]
    solved = [reward(row) for row in taught if row.solved]
    failed = [reward(row) for row in taught if not row.solved]
    delta = (mean(solved) + mean(failed)) / 2

    def softplus(x):  # −log σ(−x)
        return math.log(1 + math.exp(x))

    return 2 * balance * mean(softplus(delta - r) for r in solved) + 2 * (1 - balance) * mean(
        softplus(r - delta) for r in failed
    )


def naive_reference_penalty(rows, f):
    def w(row, t):
        return math.exp(row.chosen(row.student, t) - row.chosen(row.reference, t))

    return mean(row.sampler[t] * f(w(row, t)) for row, t in tokens(rows))


def naive_anchor(rows, heard=0):
    """heard: how far the teacher is, on the rows that have a prompt for it."""
    return mean(
        (1 - heard * (row.policy_on_teacher_prompt is not None))
        * row.sampler[t]
        * kl(row.student[t].tolist(), row.reference[t].tolist())
        for row, t in tokens(rows)
    )


def naive_gated(rows, form, b):
    def sigmoid(x):
        return 1 / (1 + math.exp(-x))

    total, spoken = 0.0, [row for row in rows if row.teacher is not None]
    for row, t in tokens(spoken):
        gap = row.chosen(row.teacher, t) - row.chosen(row.student, t)
        entropy = -sum(math.exp(a) * a for a in row.student[t].tolist())
        by = {"gap": sigmoid(b * gap), "entropy": sigmoid(b * entropy)}
        gate = by["gap"] * by["entropy"] if form == "both" else by[form]
        total += row.sampler[t] * gate * gap / len(tokens(spoken))
    return total


def naive_imitation(rows, one_per_group=False):
    def weight(row, t):
        share = mean(r.solved for r in rows if r.group == row.group)
        return row.sampler[t] / (share if one_per_group else 1)

    solved = [row for row in rows if row.solved]
    total = sum(weight(row, t) * row.chosen(row.student, t) for row, t in tokens(solved))
    return -total / sum(weight(row, t) for row, t in tokens(solved))


def naive_hybrid(rows, share):
    def per_token(row, t, a):
        if row.teacher is None:
            return share * a
        gap = row.chosen(row.teacher, t) - row.chosen(row.student, t)
        return share * a + (1 - share) * gap

    return naive_policy_gradient(rows, high=0.05, per_token=per_token)


def naive_routed(rows, *, beta, trust):
    def is_taught(row):
        return row.teacher is not None and not row.solved

    def weight(row, t):
        entropy = -sum(math.exp(a) * a for a in row.teacher[t].tolist())
        return math.exp(-beta * entropy)

    def to_grpo(row, t, a):
        return a * (1 - trust) if is_taught(row) else a

    taught = tokens(row for row in rows if is_taught(row))
    mean_weight = mean(weight(row, t) for row, t in taught)
    sdpo = naive_distillation(rows, alpha=0.5, clip=2.0, on=is_taught, normalizer="token",
                              times=lambda row, t: weight(row, t) / mean_weight)  # fmt: skip
    grpo = naive_policy_gradient(rows, high=0.05, scale=False, per_token=to_grpo)
    return grpo + trust * sdpo * len(taught) / len(tokens(rows))


def naive_curriculum(rows):
    def scale(row):
        p = mean(r.solved for r in rows if r.group == row.group)
        return math.sqrt(p * (1 - p))

    usual = mean(scale(row) for row in rows if row.teacher is not None)
    return naive_distillation(rows, alpha=0.5, times=lambda row, t: scale(row) / usual)


def cross_entropy(row, t) -> float:
    student, teacher = row.student[t].tolist(), row.teacher[t].tolist()
    return -sum(math.exp(q) * p for p, q in zip(student, teacher, strict=True))


def naive_cross_entropy(rows):
    taught = tokens(row for row in rows if row.teacher is not None)
    return sum(row.sampler[t] * cross_entropy(row, t) for row, t in taught) / (LIMIT * len(rows))


def naive_reweighted(rows, share):
    def per_token(row, t, a):
        if row.teacher is None or a == 0:
            return a
        gap = row.chosen(row.teacher, t) - row.chosen(row.student, t)
        weight = math.exp(gap if a > 0 else -gap)
        return a * (1 - share + share * max(min(weight, 1.2), 0.8))

    return naive_policy_gradient(rows, high=0.05, dual=3.0, per_token=per_token)


EQUATIONS = {
    "grpo": lambda rows: {"policy": naive_policy_gradient(rows, low=0.05, high=0.05)},
    "grpo as published": lambda rows: {
        "policy": naive_policy_gradient(rows, normalizer="sequence") + 0.3 * naive_anchor(rows)
    },
    "grpo with a dual clip": lambda rows: {"policy": naive_policy_gradient(rows, dual=1.02)},
    "dapo": lambda rows: {"policy": naive_policy_gradient(rows, high=0.08, drop_flat=True)},
    "dr. grpo": lambda rows: {
        "policy": naive_policy_gradient(rows, scale=False, normalizer="constant", drop_flat=True)
    },
    "grpo, less of what is worse": lambda rows: {
        "policy": naive_policy_gradient(rows, negative=0.3, low=0.05, high=0.05)
    },
    "gspo": lambda rows: {
        "policy": naive_policy_gradient(
            rows, low=0.02, high=0.02, ratio="sequence", normalizer="sequence"
        )
    },
    "cispo": lambda rows: {"policy": naive_policy_gradient(rows, low=1, high=0.05, cispo=True)},
    "cispo of verl": lambda rows: {
        "policy": naive_policy_gradient(rows, low=0.04, high=0.05, cispo=True)
    },
    "sdpo": lambda rows: {"distill": naive_distillation(rows, clip=1.01)},
    "sdpo jsd on the top": lambda rows: {
        "distill": naive_distillation(rows, alpha=0.5, top_k=7, clip=2.0)
    },
    "sdpo forward, renormalized": lambda rows: {
        "distill": naive_distillation(rows, alpha=0.0, top_k=7, tail="renormalize", clip=2.0)
    },
    "sdpo sampled token": lambda rows: {
        "distill": naive_distillation(rows, sampled=True, clip=2.0)
    },
    "sdpo by tokens": lambda rows: {"distill": naive_distillation(rows, normalizer="token")},
    "sdpo by a constant": lambda rows: {
        "distill": naive_distillation(rows, normalizer="constant", most=0.46, alpha=0, clip=2.0)
    },
    "sdpo hybrid of advantages": lambda rows: {"distill": naive_hybrid(rows, 0.3)},
    "sdpo hybrid of losses": lambda rows: {
        "distill": 0.3 * naive_policy_gradient(rows) + 0.7 * naive_distillation(rows)
    },
    "sdpo trust region": lambda rows: {"distill": naive_distillation(rows)},
    "sdpo on failures, gated": lambda rows: {
        "distill": 0.4 * naive_distillation(rows, on=lambda row: not row.solved)
    },
    "sdpg": lambda rows: {  # in the fourth of ten steps: 6 are left of the 8.75 of the decay
        "policy": naive_policy_gradient(rows, high=0.28, dual=10)
        + 0.7 * 6 / 8.75 * naive_distillation(
            rows, normalizer="token", counted=lambda row: advantage(row, rows) > 0
        )
        + 1e-3 * naive_reference_penalty(rows, lambda w: 1 / w)
    },
    "sdpg on all": lambda rows: {  # half of a warm-up of 8 steps is over, too
        "policy": naive_policy_gradient(rows, high=0.28, dual=10)
        + 0.7 * (4 / 8) * (6 / 8.75) * naive_distillation(rows, normalizer="token")
        + 0.2 * naive_reference_penalty(rows, lambda w: 0.5 * math.log(w) ** 2)
    },
    "vpd": lambda rows: {
        "e_step": naive_e_step(rows, beta=0.5, balance=0.3),
        "m_step": naive_distillation(rows),
    },
    "vpd fixed prior": lambda rows: {
        "e_step": naive_e_step(rows, beta=0.1, prior="fixed"),
        "m_step": naive_distillation(rows, clip=2.0),
    },
    "vpd with reward": lambda rows: {
        "e_step": naive_e_step(rows, beta=0.1),
        "m_step": 0.4 * naive_policy_gradient(rows) + naive_distillation(rows, alpha=0.5),
    },
    "vpd-pg": lambda rows: {
        "e_step": naive_e_step(rows, beta=1.0),
        "m_step": 0.3 * naive_policy_gradient(rows) + 0.4 * naive_distillation(rows, alpha=0.5),
    },
    "vpd-pg near its start": lambda rows: {
        "m_step": 0.3 * (naive_policy_gradient(rows) + 0.5 * naive_anchor(rows, heard=0.4))
        + 0.4 * naive_distillation(rows, alpha=0.5)
    },
    "vpd-pg without a gate": lambda rows: {
        "e_step": naive_e_step(rows, beta=1.0),
        "m_step": 0.3 * (naive_policy_gradient(rows) + 0.5 * naive_anchor(rows, heard=1))
        + (1 - 4 / 10) * naive_distillation(rows, alpha=0.5),
    },
    "opsd": lambda rows: {
        "distill": naive_distillation(rows, alpha=0.5, on=lambda row: row.solved)
    },
    "opsd on the teacher's top": lambda rows: {
        "distill": naive_distillation(
            rows, alpha=0.5, top_k=7, support="teacher", tail="renormalize"
        )
    },
    "sdar": lambda rows: {
        "policy": naive_policy_gradient(rows)
        + 0.4 * naive_gated(rows, "gap", 5) + 0.01 * naive_anchor(rows)
    },
    "sdar by entropy": lambda rows: {
        "policy": naive_policy_gradient(rows)
        + 0.01 * naive_gated(rows, "entropy", 0.2) + 0.01 * naive_anchor(rows)
    },
    "sdar by both": lambda rows: {
        "policy": naive_policy_gradient(rows) + 0.01 * naive_gated(rows, "both", 2)
    },
    "rft": lambda rows: {"imitate": naive_imitation(rows)},
    "rft, one per group": lambda rows: {"imitate": naive_imitation(rows, one_per_group=True)},
    "srpo": lambda rows: {"policy": naive_routed(rows, beta=2.0, trust=0.4)},
    "sc-sdpo": lambda rows: {"distill": naive_curriculum(rows)},
    "distil": lambda rows: {"distill": naive_cross_entropy(rows)},
    # In the fourth step: of 8 in which λ falls, half are over.
    "rlsd": lambda rows: {"policy": naive_reweighted(rows, 0.5 * 4 / 8)},
}  # fmt: skip


@pytest.mark.parametrize("name", VARIANTS)
def test_each_loss_equals_a_loop_written_from_its_equation(name):
    trainer = make_trainer(VARIANTS[name], policy=float64_policy())
    rollouts = varied_rollouts(trainer.policy)
    perturb(trainer.policy)
    batch = varied_batch(trainer, rollouts)
    values = {}
    for loss in VARIANTS[name].losses(STEP):
        trainer.state, metrics = trainer.updater.gradient(
            loss, trainer.micro_batches(batch), trainer.state
        )
        values[loss.name] = metrics["loss"]
    expected = EQUATIONS[name](rows_of(trainer, rollouts, batch))
    assert values == pytest.approx(expected, rel=1e-6, abs=1e-7)


# --- gradients -----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", VARIANTS)
@pytest.mark.parametrize("size", [1, 3])
def test_micro_batches_give_the_full_batch_gradient(name, size):
    whole, parts = whole_batch(name), gradients_of(VARIANTS[name], size)
    assert whole.keys() == parts.keys()
    for loss in whole:
        assert whole[loss][1].norm() > 1e-6
        assert_same(parts[loss], whole[loss])


@pytest.mark.parametrize("name", VARIANTS)
def test_the_order_of_the_batch_changes_no_gradient(name):
    rollouts = varied_rollouts(small_policy(dtype=torch.float64))
    shuffled = random.Random(0).sample(rollouts, len(rollouts))
    b = gradients_of(VARIANTS[name], rollouts=shuffled)
    for loss, a in whole_batch(name).items():
        assert_same(b[loss], a)


@pytest.mark.parametrize("name", VARIANTS)
def test_padding_changes_no_gradient(name):
    b = gradients_of(VARIANTS[name], pad=3)
    for loss, a in whole_batch(name).items():
        assert_same(b[loss], a)


@pytest.mark.parametrize("name", VARIANTS)
def test_a_vocabulary_read_in_pieces_changes_no_gradient(name, monkeypatch):
    """A few tokens at a time, as where a table of all logits would not fit."""
    monkeypatch.setattr(chunked_logits, "CHUNK_ELEMENTS", 3 * 260)
    b = gradients_of(VARIANTS[name])
    for loss, a in whole_batch(name).items():
        assert_same(b[loss], a)


@pytest.mark.parametrize("name", VARIANTS)
def test_a_silenced_micro_batch_adds_nothing(name):
    """What a process does to keep in step with others."""
    b = gradients_of(VARIANTS[name], spare=True)
    for loss, a in whole_batch(name).items():
        assert_same(b[loss], a, 1e-9)


SMOOTH = {  # as they are, or without the quantities whose gradient is stopped
    "grpo as published": {},
    "dapo": {},
    "dr. grpo": {},
    "grpo, less of what is worse": {},
    "sdpo": {"importance_clip": None, "teacher": "frozen"},
    "sdpo jsd on the top": {"importance_clip": None},
    "sdpo hybrid of losses": {"teacher": "frozen"},
    "sdpo by a constant": {"importance_clip": None, "teacher": "frozen"},
    "sdpg": {"teacher": "frozen"},
    "sdpg on all": {"teacher": "frozen"},
    "vpd": {"teacher": "frozen"},
    "vpd fixed prior": {"importance_clip": None},
    "vpd with reward": {},
    "vpd-pg": {},
    "vpd-pg near its start": {},
    "opsd": {},
    "opsd on the teacher's top": {},
    "rft": {},
    "rft, one per group": {},
    "srpo": {"importance_clip": None, "teacher": "frozen"},
    "sc-sdpo": {"teacher": "frozen"},
    "distil": {"future_weight": 0.0, "teacher": "frozen"},
}


@pytest.mark.parametrize("name", SMOOTH)
def test_gradients_on_a_real_model_equal_finite_differences(name):
    """Along random directions in weight space. Stop-gradients hold: the teacher's and the
    reference's weights stay where they are."""
    algorithm = replace(VARIANTS[name], **SMOOTH[name])
    trainer = make_trainer(algorithm, policy=float64_policy())
    rollouts = varied_rollouts(trainer.policy)
    perturb(trainer.policy)
    batch = varied_batch(trainer, rollouts)
    for loss in algorithm.losses(STEP):
        trainer.state, _ = trainer.updater.gradient(
            loss, trainer.micro_batches(batch), trainer.state
        )
        assert_slopes(
            trainer.policy.parameters(), lambda f=loss.compute: f(inputs_of(trainer, batch))[0]
        )


def assert_slopes(parameters, value) -> None:
    """The parameters' gradients are those of `value()`: central differences along three random
    directions."""
    for seed in range(3):
        generator = torch.Generator().manual_seed(seed)
        direction = [torch.randn(p.shape, generator=generator, dtype=p.dtype)
                     for p in parameters]  # fmt: skip
        slope = float(sum((p.grad * d).sum() for p, d in zip(parameters, direction,
                                                             strict=True)))  # fmt: skip
        eps = 1e-6
        ends = []
        for sign in (1, -1):
            with torch.no_grad():
                torch._foreach_add_(parameters, direction, alpha=sign * eps)
                ends.append(float(value()))
                torch._foreach_add_(parameters, direction, alpha=-sign * eps)
        numeric = (ends[0] - ends[1]) / (2 * eps)
        assert slope == pytest.approx(numeric, rel=1e-4, abs=1e-7)


def test_gradients_of_rlsd_equal_finite_differences_with_the_weights_of_its_tokens_held():
    algorithm = RLSD(share_decay_steps=8)
    trainer, rollouts, batch = frozen_task(algorithm)
    trainer.updater.gradient(algorithm.losses(STEP)[0], trainer.micro_batches(batch), {})
    held = algorithm.token_advantages(inputs_of(trainer, batch), 0.25).detach()
    assert held[batch.loss_mask].unique().numel() > len(rollouts)

    def value():
        return policy_gradient(inputs_of(trainer, batch), algorithm, held)[0]

    assert_slopes(trainer.policy.parameters(), value)


def test_gradients_of_distil_equal_finite_differences_with_the_later_costs_held():
    trainer, rollouts, batch = frozen_task(DistIL(future_weight=0.7))
    loss = trainer.algorithm.losses(STEP)[0]
    trainer.updater.gradient(loss, trainer.micro_batches(batch), {})
    credit = torch.zeros(batch.loss_mask.shape, dtype=torch.float64)
    for i, row in enumerate(rows_of(trainer, rollouts, batch)):
        for t in row.written if row.teacher is not None else ():
            later = sum(cross_entropy(row, u) for u in row.written if u > t)
            credit[i, t] = 0.7 * row.sampler[t] * later / (LIMIT * len(rollouts))

    def value():
        inputs = inputs_of(trainer, batch)
        return loss.compute(inputs)[0] + (credit * inputs.student.logprobs).sum()

    assert_slopes(trainer.policy.parameters(), value)


def frozen_task(algorithm):
    """A trainer with a teacher that stays, rollouts and their batch."""
    trainer = make_trainer(replace(algorithm, teacher="frozen"), policy=float64_policy())
    rollouts = varied_rollouts(trainer.policy)
    perturb(trainer.policy)
    return trainer, rollouts, varied_batch(trainer, rollouts)


def test_at_the_sampling_policy_the_two_hybrids_have_one_gradient_on_average():
    """Where every token of the vocabulary is a response, weighted by its probability, the sampled
    tokens' advantages have the gradient of the reverse KL. (No reward counts as solved, so that
    all have the same teacher.)"""
    policy = float64_policy()
    trainer = make_trainer(SDPO(reward_weight=0.3, importance_clip=None, teacher="frozen"), policy)
    perturb(policy)
    template = mixed_rollouts(policy)[0]
    every = [replace(template, response_ids=[v], logprobs=[0.0], reward=0.5 * (v % 2))
             for v in range(len(policy.tokenizer))]  # fmt: skip
    batch = trainer.make_batch(every)
    with torch.no_grad():
        inputs = inputs_of(trainer, batch)
        old = inputs.student.logprobs
    batch = replace(batch, old_logprobs=old, sampler_weight=old.exp() * len(every))
    gradients = []
    for sampled in (False, True):
        algorithm = replace(trainer.algorithm, sampled_token=sampled)
        policy.model.zero_grad()
        algorithm.losses(STEP)[0].compute(inputs_of(trainer, batch))[0].backward()
        gradients.append(torch.cat([p.grad.flatten() for p in policy.parameters()]))
    torch.testing.assert_close(*gradients, rtol=1e-5, atol=1e-7)


def test_rows_without_feedback_give_sdpo_no_gradient():
    rollouts = [replace(r, feedback="") for r in mixed_rollouts(small_policy())]
    assert gradients_of(SDPO(), rollouts=rollouts)["distill"][1].norm() == 0


# --- schedules, steps, gates ---------------------------------------------------------------------


def test_sdpg_weight_rises_and_falls_as_in_the_paper():
    """T_warm = 50 and T_decay = 350 of 400 steps, the first being 1; where the two overlap, the
    product."""
    weights = [SDPG(distill_weight=2.0).weight(Step(k - 1, 400)) for k in range(1, 401)]
    expected = [2 * (k / 50 if k <= 50 else (400 - k) / 350) for k in range(1, 401)]
    assert weights == pytest.approx(expected)
    overlapping = SDPG(distill_weight=1.0, warmup_fraction=1.0, decay_fraction=1.0)
    assert overlapping.weight(Step(3, 16)) == pytest.approx(4 / 16 * 12 / 16)


def test_vpd_pg_fades_its_teacher_out_by_gate_or_by_schedule():
    def weights(algorithm):
        return [algorithm.weight(Step(k, 5)) for k in range(5)]

    assert weights(VPDPG()) == [1, 1, 1, 1, 1]
    assert weights(VPDPG(gate_width=None)) == pytest.approx([0.8, 0.6, 0.4, 0.2, 0])
    assert weights(VPDPG(decay_fraction=0.4, distill_weight=3.0)) == [3, 3, 3, 1.5, 0]


@pytest.mark.parametrize("weights", ["frozen", "trust_region"])
@pytest.mark.parametrize(("algorithm", "heat"), [(SDPO, 0.5), (SDPG, 1.0)])
def test_the_temperature_divides_the_teachers_logits_as_the_algorithm_says(
    algorithm, heat, weights
):
    trainer = make_trainer(algorithm(teacher=weights), policy=float64_policy(), temperature=0.5)
    perturb(trainer.policy)
    batch = trainer.make_batch(mixed_rollouts(trainer.policy))
    (inputs,) = trainer.micro_batches(batch)

    def logprobs(policy, prompt, mask, heat):
        given = (prompt, mask, batch.response, batch.token_mask)
        return policy.forward(*given, temperature=heat).distribution

    teacher, *others = (
        logprobs(policy, batch.teacher_prompt, batch.teacher_prompt_mask, heat)
        for policy in (trainer.teacher.policy, trainer.policy)
    )
    if weights == "trust_region":
        teacher = teacher.lerp(others[0], trainer.algorithm.trust_region).log_softmax(-1)
    student = logprobs(trainer.policy, batch.prompt, batch.prompt_mask, 0.5)
    taught, places = batch.teacher_mask, batch.loss_mask
    torch.testing.assert_close(inputs.teacher.distribution[taught], teacher[taught].detach())
    torch.testing.assert_close(inputs.student.distribution[places], student[places])


def test_the_reference_is_the_initial_policy_or_an_average_of_all_batches():
    initial, averaged = (
        make_trainer(GRPO(kl_to_reference=0.1, reference_rate=rate), policy=float64_policy())
        for rate in (0.0, 0.3)
    )
    start = float64_policy().weights
    expected = {name: weight.detach().clone() for name, weight in start.items()}
    rollouts = mixed_rollouts(initial.policy)
    for _ in range(3):
        for trainer in (initial, averaged):
            trainer.train_step(rollouts)
        for name, weight in averaged.policy.weights.items():
            expected[name] = 0.7 * expected[name] + 0.3 * weight.detach()
    for name, weight in start.items():
        assert torch.equal(initial.reference.weights[name], weight)
        torch.testing.assert_close(averaged.reference.weights[name].detach(), expected[name])
        assert not averaged.reference.weights[name].requires_grad


def test_a_reference_that_is_given_is_not_averaged():
    policy = small_policy()
    with pytest.raises(ValueError, match="reference_rate would move it"):
        Trainer(policy, GRPO(kl_to_reference=0.1, reference_rate=0.1), SecretLetter.vector(6),
                CONFIG, reference=policy.reference())  # fmt: skip


@pytest.mark.parametrize("trust", [{}, {"trust": -0.3}])
def test_a_closed_gate_leaves_vpd_pg_the_reward_alone(trust, monkeypatch):
    monkeypatch.setitem(globals(), "TRUST", trust)
    _, gated = gradients_of(VPDPG(e_step_every=100, reward_weight=0.5))["m_step"]
    _, alone = gradients_of(GRPO())["policy"]
    torch.testing.assert_close(gated, 0.5 * alone)


@pytest.mark.parametrize("trust", [{}, {"trust": -0.3}])
def test_a_closed_gate_leaves_vpd_pg_grpo_with_its_anchor(trust, monkeypatch):
    monkeypatch.setitem(globals(), "TRUST", trust)
    algorithm = VPDPG(e_step_every=100, reward_weight=0.5, kl_where_unheard=0.2)
    _, gated = gradients_of(algorithm)["m_step"]
    _, alone = gradients_of(GRPO(kl_to_reference=0.2))["policy"]
    torch.testing.assert_close(gated, 0.5 * alone)


@pytest.mark.parametrize("skipped", [False, True])
def test_an_open_gate_leaves_vpd_pg_an_anchor_where_the_teacher_is_silent(skipped):
    """On tokens of rows without a teacher, and on those that are skipped."""
    algorithm = VPDPG(e_step_every=100, kl_where_unheard=0.2, reward_weight=0.5)
    trainer = make_trainer(algorithm)
    trainer.state = {"trust": 0.15}
    rollouts = varied_rollouts(trainer.policy)
    perturb(trainer.policy)
    batch = varied_batch(trainer, rollouts)
    if skipped:
        batch = replace(batch, skipped=batch.loss_mask)
    value = algorithm.m_step(inputs_of(trainer, batch), weight=1.0)[0]
    free = replace(algorithm, kl_where_unheard=0.0).m_step(inputs_of(trainer, batch), weight=1.0)[0]
    inputs = inputs_of(trainer, batch)
    kl = inputs.student.divergence(
        inputs.reference, torch.ones_like(batch.sampler_weight)
    ).per_token
    silent = batch.loss_mask & ~batch.teacher_mask
    assert silent.any()
    assert batch.teacher_mask.any() != skipped
    expected = 0.5 * 0.2 * (kl * batch.sampler_weight * silent).sum() / batch.loss_mask.sum()
    assert expected > 0
    assert (value - free).item() == pytest.approx(expected.item(), rel=1e-6)


def test_a_closed_gate_leaves_sdpo_nothing(monkeypatch):
    monkeypatch.setitem(globals(), "TRUST", {})
    assert gradients_of(SDPO(gate_width=0.15))["distill"][1].norm() == 0


@pytest.mark.parametrize(("trust", "learns"), [(0.1, True), (0.0, False)])
def test_with_gate_e_step_a_closed_gate_stops_the_e_step(trust, learns):
    for algorithm, expected in ((VPDPG(), learns), (VPDPG(gate_e_step=False), True)):
        trainer = make_trainer(replace(algorithm, gate_every=100))
        trainer.step, trainer.state = 2, {"trust": trust}  # E-steps are due in even steps
        metrics = trainer.train_step(mixed_rollouts(trainer.policy))
        assert ("e_step/loss" in metrics) == expected
        assert "m_step/loss" in metrics


@pytest.mark.parametrize(
    ("gate_width", "trust", "share"),
    [(0.2, -0.1, 0.25), (0.2, 0.05, 0.25 + 0.75 * 0.05 / 0.2), (0.2, 0.3, 1.0), (None, 0.0, 1.0)],
)
def test_the_m_step_gets_smaller_steps_where_the_gate_is_shut(gate_width, trust, share):
    """The E-step has a learning rate of its own, which stays as it is."""
    algorithm = VPDPG(
        shut_rate=0.25, gate_width=gate_width, gate_every=100, gate_e_step=False,
        e_step_learning_rate=1e-5,
    )  # fmt: skip
    trainer = make_trainer(algorithm, learning_rate=1e-3)
    trainer.step, trainer.state = 2, {"trust": trust}
    metrics = trainer.train_step(mixed_rollouts(trainer.policy))
    assert metrics["m_step/learning_rate"] == pytest.approx(1e-3 * share)
    assert metrics["e_step/learning_rate"] == pytest.approx(1e-5)


@pytest.mark.parametrize("algorithm", [VPD, VPDPG])
def test_an_e_step_is_taken_every_f_steps_and_once_per_batch(algorithm):
    algorithm = algorithm(e_step_every=3)

    def names(**step):
        return [loss.name for loss in algorithm.losses(Step(total=9, **step))]

    assert [names(index=k) for k in range(7)] == [
        ["e_step", "m_step"] if k % 3 == 0 else ["m_step"] for k in range(7)
    ]
    assert names(index=3, update=1) == ["m_step"]


def test_the_e_step_separates_solved_from_failed_responses_under_the_teacher_prompt():
    """A toy with a known answer: each prompt has one solved and one failed response, which the
    teacher finds equally likely at first; after the E-steps it tells all of them apart."""
    algorithm = VPD(e_step_every=1, beta=1.0)
    trainer = make_trainer(algorithm, learning_rate=3e-3)
    draft = mixed_rollouts(trainer.policy)[1]  # one token
    rollouts = []
    for group, (right, wrong) in enumerate(["ab", "cd", "ef"]):
        for letter, reward in ((right, 1.0), (wrong, 0.0)):
            ids = trainer.policy.tokenizer(letter).input_ids
            rollouts.append(replace(draft, group=group, response_ids=ids, text=letter,
                                    reward=reward, feedback="=" if reward else "no"))  # fmt: skip
    batch = trainer.make_batch(rollouts)

    def likelihoods():
        with torch.no_grad():
            return inputs_of(trainer, batch).policy_on_teacher_prompt.logprobs[:, 0]

    before = likelihoods()
    for step in range(60):
        e_step = algorithm.losses(Step(step, 60))[0]
        trainer.state, metrics = trainer.updater.update(
            e_step, trainer.micro_batches(batch), trainer.state, step
        )
    change = likelihoods() - before
    assert (change[batch.solved] > 0).all()
    assert (change[~batch.solved] < 0).all()
    assert metrics["e_step/accuracy"] == 1
    assert metrics["e_step/margin"] > 1


def test_delta_is_the_moving_average_of_the_midpoints():
    algorithm = VPD(delta_momentum=0.9)
    sums = {"solved_sum": 6.0, "solved_count": 3.0, "failed_sum": -8.0, "failed_count": 2.0}
    first = algorithm.update_delta({}, sums)
    assert first == {"delta": (6 / 3 - 8 / 2) / 2}
    second = algorithm.update_delta(first, {**sums, "solved_sum": 12.0})
    assert second["delta"] == pytest.approx(0.9 * -1.0 + 0.1 * (12 / 3 - 8 / 2) / 2)
    one_sided = algorithm.update_delta(second, {**sums, "solved_count": 0.0})
    assert one_sided == second


def test_the_dynamic_prior_is_the_sampling_policy_and_the_fixed_one_the_initial():
    for prior in ("dynamic", "fixed"):
        algorithm = VPD(prior=prior, beta=1.0)
        trainer = make_trainer(algorithm)
        initial = trainer.policy.frozen_copy()
        rollouts = mixed_rollouts(trainer.policy)
        perturb(trainer.policy)
        batch = trainer.make_batch(rollouts)
        inputs = inputs_of(trainer, batch)
        prior_logprobs = batch.old_logprobs if prior == "dynamic" else initial.forward(
            batch.prompt, batch.prompt_mask, batch.response, batch.loss_mask).logprobs  # fmt: skip
        difference = (inputs.policy_on_teacher_prompt.logprobs - prior_logprobs) * batch.loss_mask
        expected = difference.sum(1) * batch.has_teacher
        torch.testing.assert_close(algorithm.implicit_reward(inputs), expected)


def test_one_per_group_is_the_mean_over_picks():
    """The gradient is that of one solved rollout drawn from each solved group, averaged over all
    ways to draw."""
    policy = float64_policy()
    rollouts = [replace(r, response_ids=r.response_ids[:1], logprobs=r.logprobs[:1])
                for r in mixed_rollouts(policy)]  # fmt: skip
    weightless = replace(VARIANTS["rft, one per group"])

    def gradient(chosen, algorithm):
        trainer = make_trainer(algorithm, policy=float64_policy())
        batch = trainer.make_batch(chosen)
        trainer.updater.gradient(algorithm.losses(STEP)[0], trainer.micro_batches(batch), {})
        return torch.cat([p.grad.flatten() for p in trainer.policy.parameters()])

    # Group 0 was solved by row 0, group 1 by rows 4 and 5.
    picks = [gradient([rollouts[0], rollouts[i]], RFT()) for i in (4, 5)]
    torch.testing.assert_close(gradient(rollouts, weightless), sum(picks) / 2)


def test_teacher_metrics_are_means_over_the_tokens_with_a_teacher():
    trainer = make_trainer(SDPO(distill_on="failed", teacher="frozen"), policy=float64_policy())
    rollouts = varied_rollouts(trainer.policy)
    perturb(trainer.policy)
    batch = varied_batch(trainer, rollouts)
    loss = trainer.algorithm.losses(STEP)[0]
    _, metrics = trainer.updater.gradient(loss, trainer.micro_batches(batch), {})
    rows = rows_of(trainer, rollouts, batch)
    taught = tokens(row for row in rows if row.teacher is not None and not row.solved)
    gaps = [row.chosen(row.teacher, t) - row.chosen(row.student, t) for row, t in taught]
    assert metrics["teacher_gap"] == pytest.approx(mean(gaps))
    assert metrics["teacher_agrees"] == pytest.approx(mean(gap > 0 for gap in gaps))
    assert metrics["mask_fraction"] == pytest.approx(len(taught) / len(tokens(rows)))
    assert metrics["divergence"] == pytest.approx(
        mean(kl(row.student[t].tolist(), row.teacher[t].tolist()) for row, t in taught)
    )


def test_a_batch_without_a_taught_token_says_nothing_of_the_teacher():
    """Such a mini-batch must not pull the means of the step towards 0."""
    rollouts = [replace(r, feedback="") for r in mixed_rollouts(small_policy())]
    metrics = make_trainer(SDPO()).train_step(rollouts)
    assert metrics["distill/mask_fraction"] == 0
    assert metrics["distill/entropy"] > 0
    for name in ("divergence", "teacher_gap", "teacher_agrees", "teacher_entropy"):
        assert f"distill/{name}" not in metrics


# --- one interface -------------------------------------------------------------------------------


@dataclass(frozen=True)
class Imitate(Algorithm):
    """Raise the likelihood of solved responses: an algorithm in one dataclass."""

    name: ClassVar[str] = "imitate"

    def losses(self, step):
        return [Loss("imitate", self.loss)]

    def loss(self, inputs):
        batch = inputs.batch
        mask = batch.loss_mask & batch.solved[:, None]
        return imitation(inputs.student.logprobs, mask, batch.num_tokens), {}


@pytest.mark.parametrize("name", ALGORITHMS)
def test_each_algorithm_names_a_field_of_its_own_to_tune_and_values_for_it(name):
    kind = ALGORITHMS[name]
    assert kind.tuned_field in {field.name for field in fields(kind)}
    found = [getattr(kind(**{kind.tuned_field: x}), kind.tuned_field) for x in kind.tuned_values]
    assert found == list(kind.tuned_values)
    assert len(set(found)) == len(found) > 1
    assert getattr(kind(), kind.tuned_field) in found


def test_an_algorithm_from_outside_need_not_name_one():
    assert (Imitate.tuned_field, Imitate.tuned_values) == ("", ())


def test_a_new_algorithm_is_one_dataclass():
    trainer = make_trainer(Imitate())
    rollouts = mixed_rollouts(trainer.policy)
    losses = [trainer.train_step(rollouts)["imitate/loss"] for _ in range(10)]
    assert losses[-1] < losses[0]


@pytest.mark.parametrize(
    "half", [{"measure": lambda inputs: {}}, {"update": lambda state, sums: state}]
)
def test_a_loss_that_measures_for_nothing_or_updates_from_nothing_is_refused(half):
    with pytest.raises(ValueError, match="'imitate' must have both `measure` and `update`"):
        Loss("imitate", Imitate().loss, **half)


@pytest.mark.parametrize("module", [trainer_module, learner_module])
def test_the_trainer_names_no_algorithm(module):
    """No branch on the algorithm: neither a name nor a class of one."""
    source = inspect.getsource(module)
    words = {node.id for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Name)}
    words |= {n.value for n in ast.walk(ast.parse(source))
              if isinstance(n, ast.Constant) and isinstance(n.value, str)}  # fmt: skip
    assert not words & {*ALGORITHMS, *(a.__name__ for a in ALGORITHMS.values())}


@pytest.mark.parametrize(
    ("algorithm", "field"),
    [
        (GRPO, {"clip_low": 2.0}),
        (GRPO, {"dual_clip": 0.5}),
        (GRPO, {"negative_weight": -0.1}),
        (GRPO, {"dual_clip": 3.0, "objective": "cispo"}),
        (SDPO, {"alpha": 1.5}),
        (SDPO, {"alpha": 0.5, "sampled_token": True}),
        (SDPO, {"top_k": 0}),
        (SDPO, {"reward_weight": 1.5}),
        (SDPO, {"clip_high": -1.0}),
        (SDPG, {"decay_fraction": -0.1}),
        (SDPG, {"gate_width": 0.0}),
        (VPD, {"beta": 0.0}),
        (VPD, {"balance": 1.1}),
        (VPD, {"e_step_every": 0}),
        (VPD, {"ema_rate": 0.0}),
        (VPDPG, {"gate_every": 0}),
        (VPDPG, {"kl_where_unheard": -0.1}),
        (OPSD, {"importance_clip": 0.0}),
        (OPSD, {"entry_clip": 0.0}),
        (SDPG, {"divergence_clip": math.nan}),
        (GRPO, {"reference_rate": 1.5}),
        (SDAR, {"kl_to_reference": -0.1}),
        (SDAR, {"sharpness": 0.0}),
        (SDAR, {"trust_region": 2.0}),
        (SDPO, {"ema_every": 0}),
        (SRPO, {"entropy_sharpness": math.nan}),
        (SRPO, {"distill_normalizer": "sequence"}),
        (SRPO, {"drop_flat_groups": True}),
        (DistIL, {"alpha": 0.5}),
        (DistIL, {"sampled_token": True, "alpha": 0.0}),
        (DistIL, {"future_weight": -1.0}),
        (RLSD, {"teacher_share": 1.1}),
        (RLSD, {"token_clip": math.nan}),
        (RLSD, {"share_decay_steps": -1}),
    ],
)
def test_a_senseless_hyper_parameter_is_refused_by_name(algorithm, field):
    with pytest.raises(ValueError, match=next(iter(field))):
        algorithm(**field)
