"""Each loss equals a naive loop written from its equation, and its gradient finite differences."""

from __future__ import annotations

import math

import pytest
import torch

from vpd_agent import losses

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
    x = x.clone().requires_grad_()
    function(x).backward()
    numeric = torch.zeros_like(x)
    eps = 1e-6
    for i in range(x.numel()):
        step = torch.zeros_like(x).view(-1)
        step[i] = eps
        step = step.view_as(x)
        with torch.no_grad():
            numeric.view(-1)[i] = (function(x + step) - function(x - step)) / (2 * eps)
    torch.testing.assert_close(x.grad, numeric, rtol=1e-5, atol=1e-7)


def naive_group_advantages(rewards, group, eps):
    result = []
    for r, g in zip(rewards, group, strict=True):
        members = [x for x, h in zip(rewards, group, strict=True) if h == g]
        mean = sum(members) / len(members)
        std = math.sqrt(sum((x - mean) ** 2 for x in members) / len(members))
        result.append((r - mean) / (std + eps))
    return result


def test_group_advantages_follow_the_equation():
    from vpd_agent.types import group_statistics

    rewards, group = [1.0, 0.0, 0.5, 0.0, 1.0], [7, 7, 7, 2, 2]
    mean, std = group_statistics(torch.tensor(rewards), torch.tensor(group))
    got = losses.group_advantages(torch.tensor(rewards), mean, std, eps=1e-6)
    expected = torch.tensor(naive_group_advantages(rewards, group, 1e-6))
    torch.testing.assert_close(got, expected, **TOLERANCE)


def test_a_group_without_variance_has_no_advantage():
    from vpd_agent.types import group_statistics

    rewards = torch.tensor([1.0, 1.0, 1.0])
    mean, std = group_statistics(rewards, torch.tensor([0, 0, 0]))
    assert losses.group_advantages(rewards, mean, std).tolist() == [0, 0, 0]


@pytest.mark.parametrize("dual_clip", [None, 1.5])
def test_clipped_policy_gradient_follows_the_equation(mask, dual_clip):
    old = -torch.rand(B, T) * 3
    new = old + torch.randn(B, T)  # ratios far inside and far outside the clip range
    advantages = torch.tensor([1.5, -0.7, -1.2])

    def naive(logprobs):
        total = torch.zeros(())
        for b, t in tokens(mask):
            ratio, a = (logprobs[b, t] - old[b, t]).exp(), advantages[b]
            surrogate = torch.minimum(ratio * a, ratio.clamp(1 - 0.2, 1 + 0.3) * a)
            if dual_clip and a < 0:
                surrogate = torch.maximum(surrogate, dual_clip * a)
            total = total - surrogate
        return total / 11

    def ours(logprobs):
        return losses.clipped_policy_gradient(
            logprobs, old, advantages, mask, 11, clip_low=0.2, clip_high=0.3, dual_clip=dual_clip
        )[0]

    torch.testing.assert_close(ours(new), naive(new), **TOLERANCE)
    assert_gradient(ours, new)


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


def test_top_k_support_renormalised_sums_to_one():
    student, teacher = log_distribution(B, T, V), log_distribution(B, T, V)
    s, t = losses.top_k_support(student, teacher, 2, "renormalise")
    best = student.topk(2).indices
    expected = teacher.gather(-1, best).softmax(-1)
    torch.testing.assert_close(t.exp(), expected, **TOLERANCE)
    torch.testing.assert_close(s.exp().sum(-1), torch.ones(B, T), **TOLERANCE)


def test_top_k_of_the_whole_vocabulary_is_the_whole_vocabulary():
    student, teacher = log_distribution(B, T, V), log_distribution(B, T, V)
    assert losses.top_k_support(student, teacher, V)[0] is student


@pytest.mark.parametrize("tail", ["bucket", "renormalise"])
def test_gradient_through_the_top_k_support_is_right(tail):
    teacher = log_distribution(B, T, V)
    assert_gradient(
        lambda x: losses.divergence(
            *losses.top_k_support(x.log_softmax(-1), teacher, 2, tail), 1.0
        ).sum(),
        torch.randn(B, T, V),
    )


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


def test_binary_classifier_follows_the_equation():
    reward = torch.tensor([0.3, -1.2, 2.0, 0.9, -0.4])
    solved = torch.tensor([True, False, True, False, True])
    include = torch.tensor([True, True, True, True, False])
    delta = 0.25

    def naive(r):
        def log_sigmoid(x):
            return -(1 + (-x).exp()).log()

        positive = [r[i] for i in range(5) if include[i] and solved[i]]
        negative = [r[i] for i in range(5) if include[i] and not solved[i]]
        return -sum(log_sigmoid(x - delta) for x in positive) / len(positive) - sum(
            log_sigmoid(delta - x) for x in negative
        ) / len(negative)

    def ours(r):
        return losses.binary_classifier(r, solved, include, delta, 2, 2)[0]

    torch.testing.assert_close(ours(reward), naive(reward), **TOLERANCE)
    assert_gradient(ours, reward)


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
