"""Each loss equals a naive loop written from its equation, its gradient finite differences, and
both TRL's function wherever TRL has the same quantity."""

from __future__ import annotations

import math
from collections import defaultdict
from types import SimpleNamespace

import pytest
import torch

from vpd_agent.ops import losses

B, T, V = 3, 4, 5
TOLERANCE = {"rtol": 0, "atol": 1e-6}


@pytest.fixture(autouse=True)
def _float64():
    torch.manual_seed(0)
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


@pytest.fixture
def mask() -> torch.Tensor:
    return torch.tensor([[1, 1, 1, 0], [1, 0, 0, 0], [1, 1, 1, 1]], dtype=torch.bool)


def log_distribution(*shape: int) -> torch.Tensor:
    return torch.randn(*shape).log_softmax(-1)


def tokens(mask: torch.Tensor):
    return [(b, t) for b in range(B) for t in range(T) if mask[b, t]]


def assert_gradient(function, x: torch.Tensor) -> None:
    """Automatic against central differences, entry by entry."""
    assert torch.autograd.gradcheck(function, x.clone().requires_grad_(), eps=1e-6, atol=1e-7)


def gradient(function, x: torch.Tensor) -> torch.Tensor:
    return torch.autograd.grad(function(x := x.clone().requires_grad_()), x)[0]


def numeric_gradient(function, x: torch.Tensor, eps: float = 1e-6) -> torch.Tensor:
    """Central differences; for functions in which a stop-gradient is written as a constant."""
    slopes = []
    for i in range(x.numel()):
        step = torch.zeros(x.numel())
        step[i] = eps
        ends = [float(function(x + sign * step.view_as(x))) for sign in (1, -1)]
        slopes.append((ends[0] - ends[1]) / (2 * eps))
    return torch.tensor(slopes).view_as(x)


def naive_group_advantages(rewards, group, eps):
    result = []
    for r, g in zip(rewards, group, strict=True):
        members = [x for x, h in zip(rewards, group, strict=True) if h == g]
        mean = sum(members) / len(members)
        std = math.sqrt(sum((x - mean) ** 2 for x in members) / (len(members) - 1))
        result.append((r - mean) / (std + eps))
    return result


def test_group_advantages_follow_the_equation():
    from vpd_agent.data.batch import group_statistics

    rewards, group = [1.0, 0.0, 0.5, 0.0, 1.0], [7, 7, 7, 2, 2]
    mean, std = group_statistics(torch.tensor(rewards), torch.tensor(group))
    got = losses.group_advantages(torch.tensor(rewards), mean, std, eps=1e-6)
    expected = torch.tensor(naive_group_advantages(rewards, group, 1e-6))
    torch.testing.assert_close(got, expected, **TOLERANCE)


def test_a_group_without_variance_has_no_advantage():
    from vpd_agent.data.batch import group_statistics

    rewards = torch.tensor([1.0, 1.0, 1.0])
    mean, std = group_statistics(rewards, torch.tensor([0, 0, 0]))
    assert losses.group_advantages(rewards, mean, std).tolist() == [0, 0, 0]


LIMIT = 7  # max_response_tokens
NORMALIZERS = ("token", "sequence", "constant")


def naive_weight(mask, normalizer, b):
    length = int(mask[b].sum())
    return {
        "token": 1 / int(mask.sum()),
        "sequence": 1 / (length * B),
        "constant": 1 / (B * LIMIT),
    }[normalizer]


def token_weights(mask, normalizer):
    return losses.token_weights(
        mask, normalizer, num_tokens=int(mask.sum()), num_rollouts=B, max_response_tokens=LIMIT
    )


@pytest.mark.parametrize("normalizer", NORMALIZERS)
def test_token_weights_are_the_three_published_means(mask, normalizer):
    values = torch.randn(B, T)
    rows = [[values[b, t].item() for t in range(T) if mask[b, t]] for b in range(B)]
    flat = [x for row in rows for x in row]
    expected = {
        "token": sum(flat) / len(flat),
        "sequence": sum(sum(row) / len(row) for row in rows) / B,
        "constant": sum(flat) / (B * LIMIT),
    }[normalizer]
    assert (values * token_weights(mask, normalizer)).sum().item() == pytest.approx(expected)


@pytest.mark.parametrize("normalizer", NORMALIZERS)
def test_token_weights_of_parts_are_those_of_the_whole(mask, normalizer):
    counts = {"num_tokens": int(mask.sum()), "num_rollouts": B, "max_response_tokens": LIMIT}
    parts = [losses.token_weights(part, normalizer, **counts) for part in mask.split(1)]
    assert torch.equal(torch.cat(parts), token_weights(mask, normalizer))


def test_an_empty_response_weighs_nothing():
    empty = torch.zeros(2, T, dtype=torch.bool)
    for normalizer in NORMALIZERS:
        weights = losses.token_weights(
            empty, normalizer, num_tokens=0, num_rollouts=0, max_response_tokens=LIMIT
        )
        assert torch.equal(weights, torch.zeros(2, T))


@pytest.mark.parametrize("normalizer", NORMALIZERS)
@pytest.mark.parametrize("level", ["token", "sequence"])
@pytest.mark.parametrize("dual_clip", [None, 1.5])
@pytest.mark.parametrize("per_token", [False, True])
def test_clipped_policy_gradient_follows_the_equation(
    mask, normalizer, level, dual_clip, per_token
):
    old = -torch.rand(B, T) * 3
    new = old + 0.7 * torch.randn(B, T)  # ratios far inside and far outside the clip range
    advantages = torch.tensor([1.5, -0.7, -1.2])
    if per_token:
        advantages = advantages[:, None] + 0.3 * torch.randn(B, T)
    sampler = torch.rand(B, T) * 2

    def naive(logprobs):
        total = torch.zeros(())
        for b, t in tokens(mask):
            a = advantages[b, t] if per_token else advantages[b]
            log_ratio = logprobs[b, t] - old[b, t]
            if level == "sequence":
                gaps = [logprobs[b, u] - old[b, u] for u in range(T) if mask[b, u]]
                log_ratio = sum(gaps) / len(gaps)
            ratio = log_ratio.exp()
            surrogate = torch.minimum(ratio * a, ratio.clamp(1 - 0.2, 1 + 0.3) * a)
            if dual_clip and a < 0:
                surrogate = torch.maximum(surrogate, dual_clip * a)
            total = total - naive_weight(mask, normalizer, b) * sampler[b, t] * surrogate
        return total

    def ours(logprobs):
        weights = token_weights(mask, normalizer) * sampler
        return losses.clipped_policy_gradient(
            logprobs, old, advantages, mask, int(mask.sum()), weights=weights, level=level,
            clip_low=0.2, clip_high=0.3, dual_clip=dual_clip,
        )[0]  # fmt: skip

    torch.testing.assert_close(ours(new), naive(new), **TOLERANCE)
    if level == "token":
        assert_gradient(ours, new)


def test_the_sequence_ratio_has_the_gradient_of_gspo(mask):
    """Where the advantage is one per response and tokens of a response weigh alike, the sum of the
    tokens' own gradients is that of min(sA, clip(s)A) with s the geometric mean of ratios."""
    old = -torch.rand(B, T) * 3
    new = old + 0.3 * torch.randn(B, T)
    advantages = torch.tensor([1.5, -0.7, -1.2])

    def gspo(logprobs):
        total = 0.0
        for b in range(B):
            gaps = [logprobs[b, t] - old[b, t] for t in range(T) if mask[b, t]]
            s = math.exp(sum(gaps) / len(gaps))
            a = advantages[b].item()
            total -= min(s * a, max(min(s, 1 + 0.2), 1 - 0.2) * a) / B
        return total

    def ours(logprobs):
        return losses.clipped_policy_gradient(
            logprobs, old, advantages, mask, int(mask.sum()), level="sequence",
            weights=token_weights(mask, "sequence"),
        )[0]  # fmt: skip

    assert ours(new).item() == pytest.approx(gspo(new))
    torch.testing.assert_close(gradient(ours, new), numeric_gradient(gspo, new))


@pytest.mark.parametrize("level", ["token", "sequence"])
def test_with_advantages_per_token_each_token_moves_by_its_own(mask, level):
    """At π_θ = π_old the gradient of token t is −w_t·A_t, whatever the level of the ratio."""
    old, advantages, weights = -torch.rand(B, T), torch.randn(B, T), torch.rand(B, T)

    def ours(logprobs):
        return losses.clipped_policy_gradient(
            logprobs, old, advantages, mask, 1, weights=weights, level=level
        )[0]

    torch.testing.assert_close(gradient(ours, old), -weights * advantages * mask)


def test_ratio_and_clip_fraction_are_means_over_tokens(mask):
    old = torch.zeros(B, T)
    ratios = torch.tensor([[1.5, 0.5, 1.1, 9.0], [0.5, 9.0, 9.0, 9.0], [1.5, 0.5, 1.0, 1.0]])
    _, metrics = losses.clipped_policy_gradient(
        ratios.log(), old, torch.tensor([1.0, 1.0, -1.0]), mask, 8, weights=torch.rand(B, T)
    )
    assert metrics["ratio"].item() == pytest.approx((1.5 + 0.5 + 1.1 + 0.5 + 1.5 + 0.5 + 2) / 8)
    # Clipped: above 1.2 where A > 0, below 0.8 where A < 0; one token in rows 0 and 2 each.
    assert metrics["clip_fraction"].item() == pytest.approx(2 / 8)


@pytest.mark.parametrize("level", ["token", "sequence"])
def test_cispo_follows_the_equation(mask, level):
    old = -torch.rand(B, T) * 3
    new = old + torch.randn(B, T)
    advantages, weights = torch.tensor([1.5, -0.7, -1.2]), torch.rand(B, T)

    def naive(logprobs, at):
        """The ratio is a constant, taken at `at`."""
        total = 0.0
        for b, t in tokens(mask):
            log_ratio = at[b, t] - old[b, t]
            if level == "sequence":
                gaps = [at[b, u] - old[b, u] for u in range(T) if mask[b, u]]
                log_ratio = sum(gaps) / len(gaps)
            ratio = min(math.exp(log_ratio), 1 + 0.3)
            total -= weights[b, t] * ratio * advantages[b] * logprobs[b, t]
        return total

    def ours(logprobs):
        return losses.clipped_importance_policy_gradient(
            logprobs, old, advantages, mask, 1, weights=weights, level=level, clip_high=0.3
        )[0]

    torch.testing.assert_close(ours(new), naive(new, new), **TOLERANCE)
    torch.testing.assert_close(
        gradient(ours, new), numeric_gradient(lambda x: naive(x, new), new), rtol=1e-6, atol=1e-8
    )


def test_hybrid_advantages_mix_reward_and_teacher():
    advantages = torch.tensor([1.5, -0.7, -1.2])
    student, teacher = -torch.rand(B, T), -torch.rand(B, T)
    has_teacher = torch.tensor([True, False, True])[:, None].expand(B, T)
    expected = torch.tensor(
        [[0.3 * advantages[b] + 0.7 * (teacher[b, t] - student[b, t]) * (b != 1)
          for t in range(T)] for b in range(B)]
    )  # fmt: skip
    student = student.requires_grad_()
    got = losses.hybrid_advantages(advantages, student, teacher, has_teacher, 0.3)
    torch.testing.assert_close(got, expected, **TOLERANCE)
    assert not got.requires_grad


@pytest.mark.parametrize("alpha", [0.0, 0.3, 0.5, 1.0])
def test_divergence_follows_the_equation(alpha):
    student, teacher = log_distribution(B, T, V), log_distribution(B, T, V)

    def kl(p, q):
        return sum(math.exp(a) * (a - b) for a, b in zip(p, q, strict=True))

    def naive(p, q):
        p, q = p.tolist(), q.tolist()
        if alpha == 0:
            return kl(q, p)
        if alpha == 1:
            return kl(p, q)
        m = [
            math.log((1 - alpha) * math.exp(a) + alpha * math.exp(b))
            for a, b in zip(p, q, strict=True)
        ]
        return (1 - alpha) * kl(p, m) + alpha * kl(q, m)

    expected = torch.tensor([[naive(student[b, t], teacher[b, t]) for t in range(T)]
                             for b in range(B)])  # fmt: skip
    torch.testing.assert_close(losses.divergence(student, teacher, alpha), expected, **TOLERANCE)
    assert_gradient(
        lambda x: losses.divergence(x.log_softmax(-1), teacher, alpha).sum(), torch.randn(B, T, V)
    )


@pytest.mark.parametrize("alpha", [0.0, 0.5, 1.0])
def test_divergence_of_equal_distributions_is_zero(alpha):
    p = log_distribution(B, T, V)
    torch.testing.assert_close(losses.divergence(p, p, alpha), torch.zeros(B, T), **TOLERANCE)


def test_top_k_support_with_a_bucket_keeps_all_mass():
    student, teacher = log_distribution(B, T, V), log_distribution(B, T, V)
    for kept, full in zip(losses.top_k_support(student, teacher, 2), (student, teacher),
                          strict=True):  # fmt: skip
        assert kept.shape == (B, T, 3)
        for b, t in tokens(torch.ones(B, T, dtype=torch.bool)):
            best = sorted(range(V), key=lambda v: -student[b, t, v])[:2]
            p = [full[b, t, v].exp().item() for v in best]
            expected = torch.tensor([math.log(p[0]), math.log(p[1]), math.log(1 - sum(p))])
            torch.testing.assert_close(kept[b, t], expected, **TOLERANCE)


def test_top_k_support_renormalized_sums_to_one():
    student, teacher = log_distribution(B, T, V), log_distribution(B, T, V)
    s, t = losses.top_k_support(student, teacher, 2, "renormalize")
    best = student.topk(2).indices
    expected = teacher.gather(-1, best).softmax(-1)
    torch.testing.assert_close(t.exp(), expected, **TOLERANCE)
    torch.testing.assert_close(s.exp().sum(-1), torch.ones(B, T), **TOLERANCE)


def test_top_k_of_the_whole_vocabulary_is_the_whole_vocabulary():
    student, teacher = log_distribution(B, T, V), log_distribution(B, T, V)
    assert losses.top_k_support(student, teacher, V)[0] is student


@pytest.mark.parametrize("tail", ["bucket", "renormalize"])
def test_gradient_through_the_top_k_support_is_right(tail):
    teacher = log_distribution(B, T, V)
    assert_gradient(
        lambda x: losses.divergence(
            *losses.top_k_support(x.log_softmax(-1), teacher, 2, tail), 1.0
        ).sum(),
        torch.randn(B, T, V),
    )


def test_sampled_token_divergence_has_its_value_and_gradient():
    student, teacher = -torch.rand(B, T), -torch.rand(B, T)

    def naive(logprobs):
        return sum(
            (student[b, t] - teacher[b, t]).item() * logprobs[b, t]
            for b in range(B) for t in range(T)
        )  # fmt: skip

    def ours(logprobs):
        return losses.sampled_token_divergence(logprobs, teacher).sum()

    torch.testing.assert_close(ours(student), naive(student), **TOLERANCE)
    torch.testing.assert_close(gradient(ours, student), numeric_gradient(naive, student))


def test_the_sampled_token_gradient_is_that_of_the_reverse_kl_on_average():
    """Summed over every token, weighted by how often it is sampled."""
    logits, teacher = torch.randn(V), torch.randn(V).log_softmax(-1)
    exact = gradient(lambda x: losses.divergence(x.log_softmax(-1), teacher, 1.0), logits)

    def sampled(x):
        logprobs = x.log_softmax(-1)
        probability = logprobs.detach().exp()
        per_token = losses.sampled_token_divergence(logprobs[None], teacher[None])
        return (probability * per_token).sum()

    torch.testing.assert_close(gradient(sampled, logits), exact)


@pytest.mark.parametrize("form", ["gap", "entropy", "both"])
def test_the_gated_term_follows_the_equation(form):
    student, teacher, entropy = -torch.rand(B, T), -torch.rand(B, T), torch.rand(B, T)

    def naive(logprobs, at):
        """The gate is a constant, taken at `at`."""
        total = 0.0
        for b in range(B):
            for t in range(T):
                by_gap = 1 / (1 + math.exp(-5 * (teacher[b, t] - at[b, t])))
                by_entropy = 1 / (1 + math.exp(-5 * entropy[b, t]))
                gate = {"gap": by_gap, "entropy": by_entropy, "both": by_gap * by_entropy}[form]
                total += gate * (teacher[b, t] - logprobs[b, t])
        return total

    def ours(logprobs):
        gate = losses.token_gate(teacher - logprobs, entropy, form, sharpness=5.0)
        return losses.gated_gap(logprobs, teacher, gate).sum()

    torch.testing.assert_close(ours(student), naive(student, student), **TOLERANCE)
    torch.testing.assert_close(
        gradient(ours, student), numeric_gradient(lambda x: naive(x, student), student)
    )


def test_imitation_is_the_weighted_mean_negative_log_likelihood(mask):
    logprobs, weights = -torch.rand(B, T), torch.rand(B, T) * mask
    expected = -sum((weights * logprobs)[b, t].item() for b, t in tokens(mask)) / 0.7
    assert losses.imitation(logprobs, weights, 0.7).item() == pytest.approx(expected)
    assert_gradient(lambda x: losses.imitation(x, weights, 0.7), logprobs)
    assert losses.imitation(logprobs, 0 * weights, 0.0).item() == 0


def test_sequence_importance_weights_are_products_over_the_response(mask):
    old = -torch.rand(B, T)
    new = (old + torch.randn(B, T)).requires_grad_()
    got = losses.sequence_importance_weights(new, old, mask, maximum=2.0)
    assert got.shape == (B, T)
    assert not got.requires_grad
    gap = (new - old).detach()
    for b in range(B):
        product = math.prod(math.exp(gap[b, t]) for t in range(T) if mask[b, t])
        torch.testing.assert_close(got[b], torch.full((T,), min(product, 2.0)), **TOLERANCE)


def test_importance_weights_are_truncated_and_carry_no_gradient():
    old = torch.zeros(1, 3)
    new = torch.tensor([[math.log(1.5), math.log(3.0), -50.0]], requires_grad=True)
    weights = losses.importance_weights(new, old, maximum=2.0)
    expected = torch.tensor([[1.5, 2.0, math.exp(-20)]])
    torch.testing.assert_close(weights, expected, **TOLERANCE)
    assert not weights.requires_grad


def test_implicit_rewards_are_sums_of_log_ratios_over_response_tokens(mask):
    teacher, prior = -torch.rand(B, T), -torch.rand(B, T)
    expected = [0.7 * sum((teacher[b, t] - prior[b, t]).item() for t in range(T) if mask[b, t])
                for b in range(B)]  # fmt: skip
    got = losses.implicit_rewards(teacher, prior, mask, beta=0.7)
    torch.testing.assert_close(got, torch.tensor(expected), **TOLERANCE)
    assert_gradient(lambda x: losses.implicit_rewards(x, prior, mask, 0.7).sum(), teacher)


def test_no_gradient_reaches_the_prior_of_implicit_rewards(mask):
    prior = torch.zeros(B, T, requires_grad=True)
    reward = losses.implicit_rewards(torch.zeros(B, T, requires_grad=True), prior, mask, 1.0)
    reward.sum().backward()
    assert prior.grad is None


@pytest.mark.parametrize(("solved_weight", "failed_weight"), [(1.0, 1.0), (0.4, 1.6)])
def test_binary_classifier_follows_the_equation(solved_weight, failed_weight):
    reward = torch.tensor([0.3, -1.2, 2.0, 0.9, -0.4])
    solved = torch.tensor([True, False, True, False, True])
    include = torch.tensor([True, True, True, True, False])
    delta = 0.25

    def naive(r):
        def log_sigmoid(x):
            return -(1 + (-x).exp()).log()

        positive = [r[i] for i in range(5) if include[i] and solved[i]]
        negative = [r[i] for i in range(5) if include[i] and not solved[i]]
        return -solved_weight * sum(log_sigmoid(x - delta) for x in positive) / len(
            positive
        ) - failed_weight * sum(log_sigmoid(delta - x) for x in negative) / len(negative)

    def ours(r):
        return losses.binary_classifier(
            r, solved, include, delta, 2, 2,
            solved_weight=solved_weight, failed_weight=failed_weight,
        )[0]  # fmt: skip

    torch.testing.assert_close(ours(reward), naive(reward), **TOLERANCE)
    assert_gradient(ours, reward)


def test_accuracy_and_margin_of_the_classifier_are_means_over_the_included_rows():
    reward = torch.tensor([0.3, -1.2, 2.0, 0.9, -0.4])
    solved = torch.tensor([True, False, True, False, True])
    include = torch.tensor([True, True, True, True, False])
    _, metrics = losses.binary_classifier(reward, solved, include, 0.25, 2, 2)
    margins = [0.3 - 0.25, 0.25 + 1.2, 2.0 - 0.25, 0.25 - 0.9]
    assert metrics["margin"].item() == pytest.approx(sum(margins) / 4)
    assert metrics["accuracy"].item() == pytest.approx(3 / 4)


def test_binary_classifier_without_positives_still_learns_from_failures():
    reward = torch.tensor([0.5, -0.5], requires_grad=True)
    solved, include = torch.zeros(2, dtype=torch.bool), torch.ones(2, dtype=torch.bool)
    loss, _ = losses.binary_classifier(reward, solved, include, 0.0, 0, 2)
    loss.backward()
    assert (reward.grad > 0).all()  # descent lowers both


@pytest.mark.parametrize(
    ("form", "f"),
    [
        ("fkl", lambda w: 1 / w),
        ("rkl", lambda w: 0.5 * (math.log(w) + 1) ** 2),
        ("ufkl", lambda w: 1 / w + math.log(w)),
        ("urkl", lambda w: 0.5 * math.log(w) ** 2),
    ],
)
def test_reference_penalty_follows_the_equation(form, f):
    new, reference = -torch.rand(B, T), -torch.rand(B, T)
    expected = torch.tensor([[f(math.exp(new[b, t] - reference[b, t])) for t in range(T)]
                             for b in range(B)])  # fmt: skip
    torch.testing.assert_close(
        losses.reference_penalty(new, reference, form), expected, **TOLERANCE
    )
    assert_gradient(lambda x: losses.reference_penalty(x, reference, form).sum(), new)


# --- TRL, where it has the same quantity ---------------------------------------------------------


def trl_grpo_loss(
    new, old, advantages, mask, *, loss_type, level="token", delta=None, sampler=None
):
    """GRPOTrainer's own method on given log-probabilities; its model is the identity."""
    grpo_trainer = pytest.importorskip("trl.trainer.grpo_trainer")
    settings = SimpleNamespace(
        importance_sampling_level=level,
        loss_type=loss_type,
        epsilon_low=0.2,
        epsilon_high=1.3 if loss_type == "cispo" else 0.3,  # CISPO's is the cap itself
        args=SimpleNamespace(delta=delta),
        beta=0.0,
        top_entropy_quantile=1.0,
        off_policy_mask_threshold=None,
        use_vllm=sampler is not None,
        vllm_importance_sampling_correction=True,
        current_gradient_accumulation_steps=1,
        max_completion_length=LIMIT,
        aux_loss_enabled=False,
        _entropy_bonus_enabled=False,
        model=SimpleNamespace(training=False),
        accelerator=SimpleNamespace(
            num_processes=1, gather=lambda x: x, reduce=lambda x, reduction: x
        ),
        _metrics=defaultdict(lambda: defaultdict(list)),
        _get_per_token_logps_and_entropies=lambda *a, **k: (new, torch.zeros_like(new), None),
    )
    ids = torch.zeros(B, T, dtype=torch.long)
    inputs = {
        "prompt_ids": ids,
        "prompt_mask": mask,
        "completion_ids": ids,
        "completion_mask": mask,
        "advantages": advantages,
        "old_per_token_logps": old,
        "num_items_in_batch": mask.sum(),
        "importance_sampling_ratio": sampler,
    }
    return grpo_trainer.GRPOTrainer._compute_loss(settings, None, inputs)


@pytest.mark.parametrize(
    ("loss_type", "normalizer", "level"),
    [
        ("grpo", "sequence", "token"),
        ("grpo", "sequence", "sequence"),  # GSPO
        ("bnpo", "token", "token"),
        ("dapo", "token", "token"),
        ("dr_grpo", "constant", "token"),
        ("cispo", "token", "token"),
    ],
)
@pytest.mark.parametrize("delta", [None, 1.6])
@pytest.mark.parametrize("corrected", [False, True])
def test_the_policy_gradients_equal_trl(mask, loss_type, normalizer, level, delta, corrected):
    """TRL's `delta` caps the ratio where the surrogate would be c·A: the dual clip. With a ratio
    per response TRL's gradient mixes the tokens' corrections, so they are one per response too."""
    old = -torch.rand(B, T) * 3
    new = old + 0.7 * torch.randn(B, T)
    advantages = torch.tensor([1.5, -0.7, -1.2])
    sampler = torch.rand(B, T if level == "token" else 1) * 2 if corrected else None

    def ours(logprobs):
        weights = token_weights(mask, normalizer)
        weights = weights * sampler if corrected else weights
        given = (logprobs, old, advantages, mask, int(mask.sum()))
        if loss_type == "cispo":
            return losses.clipped_importance_policy_gradient(
                *given, weights=weights, clip_high=0.3
            )[0]
        return losses.clipped_policy_gradient(
            *given, weights=weights, level=level, clip_low=0.2, clip_high=0.3, dual_clip=delta
        )[0]

    def theirs(logprobs):
        return trl_grpo_loss(
            logprobs, old, advantages, mask.long(),
            loss_type=loss_type, level=level, delta=delta, sampler=sampler,
        )  # fmt: skip

    torch.testing.assert_close(ours(new), theirs(new), **TOLERANCE)
    torch.testing.assert_close(gradient(ours, new), gradient(theirs, new), **TOLERANCE)


@pytest.mark.parametrize("alpha", [0.0, 0.3, 0.5, 1.0])
def test_the_divergence_equals_trl(alpha):
    gkd = pytest.importorskip("trl.experimental.gkd.gkd_trainer").GKDTrainer
    sdpo = pytest.importorskip("trl.experimental.sdpo.loss_utils")
    student, teacher = torch.randn(B, T, V), torch.randn(B, T, V)

    def ours(logits):
        return losses.divergence(logits.log_softmax(-1), teacher.log_softmax(-1), alpha).sum()

    for theirs in (
        lambda x: gkd.generalized_jsd_loss(x, teacher, beta=alpha, reduction="sum"),
        lambda x: sdpo.compute_full_logit_self_distillation_loss(
            x, teacher, distillation_alpha=alpha
        ).sum(),
    ):
        torch.testing.assert_close(ours(student), theirs(student), **TOLERANCE)
        torch.testing.assert_close(gradient(ours, student), gradient(theirs, student), **TOLERANCE)


@pytest.mark.parametrize("alpha", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("tail", ["bucket", "renormalize"])
def test_the_divergence_on_top_k_equals_trl(alpha, tail):
    sdpo = pytest.importorskip("trl.experimental.sdpo.loss_utils")
    student, teacher = torch.randn(B, T, V), torch.randn(B, T, V)

    def ours(logits):
        pair = losses.top_k_support(logits.log_softmax(-1), teacher.log_softmax(-1), 2, tail)
        return losses.divergence(*pair, alpha).sum()

    def theirs(logits):
        return sdpo.compute_topk_self_distillation_loss(
            logits, teacher, distillation_topk=2, distillation_alpha=alpha,
            distillation_add_tail=tail == "bucket",
        ).sum()  # fmt: skip

    torch.testing.assert_close(ours(student), theirs(student), **TOLERANCE)
    torch.testing.assert_close(gradient(ours, student), gradient(theirs, student), **TOLERANCE)


def test_the_sampled_token_form_and_its_importance_weights_equal_trl():
    sdpo = pytest.importorskip("trl.experimental.sdpo.loss_utils")
    student, teacher, old = torch.randn(B, T, V), torch.randn(B, T, V), -torch.rand(B, T) * 3
    response = torch.randint(V, (B, T))

    def chosen(logits):
        return logits.log_softmax(-1).gather(-1, response[..., None])[..., 0]

    def ours(logits):
        logprobs = chosen(logits)
        per_token = losses.sampled_token_divergence(logprobs, chosen(teacher))
        return (losses.importance_weights(logprobs, old, 2.0) * per_token).sum()

    def theirs(logits):
        per_token = sdpo.compute_sampled_token_self_distillation_loss(
            logits, teacher, response, distillation_alpha=1.0
        )
        return sdpo.apply_importance_sampling_clipping(per_token, chosen(logits), old, 2.0).sum()

    torch.testing.assert_close(ours(student), theirs(student), **TOLERANCE)
    torch.testing.assert_close(gradient(ours, student), gradient(theirs, student), **TOLERANCE)


def test_the_hybrid_equals_trl_where_the_rollouts_are_on_policy(mask):
    """TRL mixes the two losses, the paper the two advantages: one gradient at π_θ = π_old."""
    trainer = pytest.importorskip("trl.experimental.sdpo.sdpo_trainer").SDPOTrainer
    student, teacher = torch.randn(B, T, V), torch.randn(B, T, V)
    response, advantages = torch.randint(V, (B, T)), torch.tensor([1.5, -0.7, -1.2])
    weight = 0.3  # of the reward

    def chosen(logits):
        return logits.log_softmax(-1).gather(-1, response[..., None])[..., 0]

    settings = SimpleNamespace(
        importance_sampling_level="token",
        epsilon_low=0.2,
        epsilon_high=0.2,
        loss_type="grpo",
        model=SimpleNamespace(training=True),
        accelerator=SimpleNamespace(gather=lambda x: x),
        args=SimpleNamespace(
            distillation_mode="sampled_token", distillation_alpha=1.0, distillation_is_clip=None
        ),
        _metrics=defaultdict(lambda: defaultdict(list)),
        _log_self_distillation_metric=lambda *a: None,
    )
    inputs = {
        "completion_ids": response,
        "completion_mask": mask.long(),
        "advantages": advantages,
    }

    def theirs(logits):
        both = SimpleNamespace(
            completion_ids=response, loss_mask=mask.long(), student_logits=logits,
            teacher_logits=teacher,
        )  # fmt: skip
        policy = trainer._compute_policy_loss(settings, inputs, logits)
        return weight * policy + (1 - weight) * trainer._compute_self_distillation_loss(
            settings, settings.model, inputs, both
        )

    def ours(logits):
        logprobs = chosen(logits)
        mixed = losses.hybrid_advantages(advantages, logprobs, chosen(teacher), mask, weight)
        return losses.clipped_policy_gradient(
            logprobs, logprobs.detach(), mixed, mask, 1, weights=token_weights(mask, "sequence")
        )[0]

    torch.testing.assert_close(gradient(ours, student), gradient(theirs, student), **TOLERANCE)
