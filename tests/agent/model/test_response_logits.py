"""Quantities over the vocabulary: the plain way equals naive loops, and chunks equal the plain way
in value and gradient without ever making the table."""

from __future__ import annotations

import itertools
import math
from contextlib import contextmanager
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from vpd_agent.model.response_logits import Head, ResponseLogits
from vpd_agent.ops import chunked_logits

B, T, H, V = 3, 5, 4, 11
FORMS = [
    {"alpha": alpha, **support}
    for alpha, support in itertools.product(
        (0.0, 0.3, 1.0),
        (
            {},
            {"top_k": 3},
            {"top_k": 3, "tail": "renormalize"},
            {"top_k": V + 2},
            {"top_k": 3, "support": "teacher"},
            {"entry_clip": 0.05},
            {"clip": 1.5},
            {"top_k": 3, "entry_clip": 0.05},
        ),
    )
]


@dataclass
class Case:
    """Hidden states and heads of a student and a teacher, in float64 unless converted."""

    hidden: Tensor
    weight: Tensor
    bias: Tensor
    teacher_hidden: Tensor
    teacher_weight: Tensor
    response: Tensor
    mask: Tensor
    token_weight: Tensor  # 0 at some tokens, and in the whole second row

    def student(self, **kwargs) -> ResponseLogits:
        head = Head(self.weight, self.bias)
        return ResponseLogits.from_hidden(self.hidden, head, self.response, self.mask, **kwargs)

    def teacher(self, **kwargs) -> ResponseLogits:
        head = Head(self.teacher_weight)
        with torch.no_grad():
            return ResponseLogits.from_hidden(
                self.teacher_hidden, head, self.response, self.mask, **kwargs
            )

    @property
    def inputs(self) -> tuple[Tensor, Tensor, Tensor]:
        return self.hidden, self.weight, self.bias


@pytest.fixture
def case() -> Case:
    return make_case()


def make_case(dtype: torch.dtype = torch.float64) -> Case:
    generator = torch.Generator().manual_seed(0)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64).to(dtype)

    token_weight = torch.rand(B, T, generator=generator, dtype=torch.float64)
    token_weight[0, 0] = 0
    token_weight[1] = 0
    return Case(
        hidden=normal(B, T, H).requires_grad_(),
        weight=normal(V, H).requires_grad_(),
        bias=normal(V).requires_grad_(),
        teacher_hidden=normal(B, T, H).requires_grad_(),
        teacher_weight=normal(V, H).requires_grad_(),
        response=torch.randint(0, V, (B, T), generator=generator),
        mask=torch.tensor([[1, 1, 1, 1, 0], [1, 1, 1, 0, 0], [1, 1, 0, 1, 1]], dtype=torch.bool),
        token_weight=token_weight,
    )


@contextmanager
def in_chunks(tokens: int = 2):
    """Chunks of so many tokens, each worked on token by token."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(chunked_logits, "CHUNK_ELEMENTS", tokens * V)
        patch.setattr(chunked_logits, "BLOCK_ELEMENTS", V)
        yield


@pytest.fixture(params=["plain", "chunked"])
def way(request):
    if request.param == "plain":
        yield request.param
        return
    with in_chunks():
        yield request.param


# Values, from the definitions ---------------------------------------------------------------------


def naive_distribution(hidden: Tensor, weight: Tensor, bias: Tensor | None, temperature: float):
    """Log-probabilities as a list of numbers, from one row of hidden states."""
    hidden, weight = hidden.tolist(), weight.tolist()
    bias = [0.0] * len(weight) if bias is None else bias.tolist()
    logits = [
        (sum(x * y for x, y in zip(hidden, row, strict=True)) + b) / temperature
        for row, b in zip(weight, bias, strict=True)
    ]
    log_total = math.log(sum(math.exp(x) for x in logits))
    return [x - log_total for x in logits]


def naive_divergence(
    student, teacher, alpha, top_k=None, tail="bucket", support="student", entry_clip=math.inf,
    clip=math.inf,
):  # fmt: skip
    if top_k is not None and top_k < len(student):
        likely = student if support == "student" else teacher
        kept = sorted(range(len(student)), key=lambda v: -likely[v])[:top_k]
        pair = []
        for logp in (student, teacher):
            p = [math.exp(logp[v]) for v in kept]
            p = [x / sum(p) for x in p] if tail == "renormalize" else [*p, 1 - sum(p)]
            pair.append([math.log(x) for x in p])
        student, teacher = pair

    def entry(x, y):
        p, q = math.exp(x), math.exp(y)
        if alpha in (0, 1):
            return p * (x - y) if alpha == 1 else q * (y - x)
        m = math.log((1 - alpha) * p + alpha * q)
        return (1 - alpha) * p * (x - m) + alpha * q * (y - m)

    entries = [min(entry(x, y), entry_clip) for x, y in zip(student, teacher, strict=True)]
    return min(sum(entries), clip)


def test_every_quantity_equals_a_naive_loop(case, way):
    student, teacher = case.student(temperature=0.7), case.teacher(temperature=0.7)
    results = [student.divergence(teacher, case.token_weight, **form) for form in FORMS]
    totals = [0.0] * len(FORMS)
    for b, t in itertools.product(range(B), range(T)):
        if not case.mask[b, t]:
            for x in (student.logprobs, student.entropy, student.distribution, teacher.logprobs):
                assert (x[b, t] == 0).all()
            assert all(result.per_token[b, t] == 0 for result in results)
            continue
        logp = naive_distribution(case.hidden[b, t], case.weight, case.bias, 0.7)
        logq = naive_distribution(case.teacher_hidden[b, t], case.teacher_weight, None, 0.7)
        token, weight = case.response[b, t], float(case.token_weight[b, t])
        for scores, row in ((student, logp), (teacher, logq)):
            assert scores.logprobs[b, t].item() == pytest.approx(row[token], abs=1e-9)
            entropy = -sum(math.exp(x) * x for x in row)
            assert scores.entropy[b, t].item() == pytest.approx(entropy, abs=1e-9)
            assert scores.distribution[b, t].tolist() == pytest.approx(row, abs=1e-9)
        for i, form in enumerate(FORMS):
            expected = naive_divergence(logp, logq, **form) if weight else 0.0
            assert results[i].per_token[b, t].item() == pytest.approx(expected, abs=1e-9)
            totals[i] += weight * expected
    assert [result.total.item() for result in results] == pytest.approx(totals, abs=1e-9)


def test_a_blend_interpolates_the_logits(case, way):
    other = ResponseLogits.from_hidden(
        case.teacher_hidden, Head(case.teacher_weight), case.response, case.mask, temperature=0.5
    )
    blend = other.blend(case.student(), 0.3)
    first = case.teacher_hidden @ case.teacher_weight.T / 0.5
    second = case.hidden @ case.weight.T + case.bias
    expected = (0.7 * first + 0.3 * second).log_softmax(-1)
    chosen = expected.gather(-1, case.response[..., None])[..., 0]
    torch.testing.assert_close(blend.logprobs, (chosen * case.mask).detach())
    torch.testing.assert_close(blend.entropy, entropy_of(expected, case.mask))
    torch.testing.assert_close(
        blend.distribution, (expected * case.mask[..., None]).detach(), rtol=0, atol=1e-12
    )


def entropy_of(logp: Tensor, mask: Tensor) -> Tensor:
    return (-(logp.exp() * logp).sum(-1) * mask).detach()


# Gradients ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", FORMS, ids=str)
def test_the_divergence_has_the_gradient_of_finite_differences(case, way, form):
    teacher = case.teacher(temperature=0.7)

    def total(hidden, weight, bias):
        scores = ResponseLogits.from_hidden(
            hidden, Head(weight, bias), case.response, case.mask, temperature=0.7
        )
        return scores.divergence(teacher, case.token_weight, **form).total

    assert torch.autograd.gradcheck(total, case.inputs, fast_mode=True)


def test_log_probabilities_have_the_gradient_of_finite_differences(case, way):
    def logprobs(hidden, weight, bias):
        head = Head(weight, bias)
        return ResponseLogits.from_hidden(
            hidden, head, case.response, case.mask, temperature=0.7
        ).logprobs

    assert torch.autograd.gradcheck(logprobs, case.inputs, fast_mode=True)


def everything(case: Case, form: dict, *, from_logits: bool, blended: bool, temperature: float):
    """Values, and the gradient of a loss that has a divergence and log-probabilities in it."""
    student, teacher = (x(temperature=temperature) for x in (case.student, case.teacher))
    if from_logits:
        logits = case.hidden @ case.weight.T + case.bias
        student = ResponseLogits.from_logits(
            logits, case.response, case.mask, temperature=temperature
        )
    if blended:
        teacher = teacher.blend(student, 0.3)
    found = student.divergence(teacher, case.token_weight, **form)
    values = [*found, student.logprobs, student.entropy, teacher.logprobs, teacher.entropy]
    loss = 3 * found.total + (student.logprobs * case.token_weight).sum()
    return [x.detach() for x in values], torch.autograd.grad(loss, case.inputs)


@pytest.mark.parametrize("form", FORMS, ids=str)
@pytest.mark.parametrize("blended", [False, True])
@pytest.mark.parametrize("from_logits", [False, True])
def test_chunks_give_values_and_gradients_of_the_whole(case, form, blended, from_logits):
    how = {"from_logits": from_logits, "blended": blended, "temperature": 1.3}
    whole = everything(case, form, **how)
    for tokens in (1, 4, 5):
        with in_chunks(tokens):
            torch.testing.assert_close(everything(case, form, **how), whole)


@pytest.mark.parametrize("form", FORMS, ids=str)
def test_what_takes_no_gradient_gets_none_and_leaves_the_others_theirs(case, way, form):
    teacher, weight = case.teacher(), case.token_weight
    both = torch.autograd.grad(case.student().divergence(teacher, weight, **form).total,
                               case.inputs)  # fmt: skip
    case.weight.requires_grad_(False)  # a frozen head, as with LoRA
    case.bias.requires_grad_(False)
    student = case.student()
    (student.divergence(teacher, weight, **form).total + student.logprobs.sum()).backward()
    assert case.weight.grad is None
    by_logprobs = torch.autograd.grad(case.student().logprobs.sum(), case.hidden)[0]
    torch.testing.assert_close(case.hidden.grad, both[0] + by_logprobs)
    assert case.teacher_hidden.grad is None
    assert case.teacher_weight.grad is None


def test_a_tied_embedding_gets_the_gradient_of_both_its_uses(case):
    def gradient() -> Tensor:
        hidden = case.weight[case.response].tanh()
        scores = ResponseLogits.from_hidden(hidden, Head(case.weight), case.response, case.mask)
        loss = scores.divergence(case.teacher(), case.token_weight).total + scores.logprobs.sum()
        return torch.autograd.grad(loss, case.weight)[0]

    whole = gradient()
    with in_chunks():
        torch.testing.assert_close(gradient(), whole)


def test_the_weights_of_a_divergence_are_constants(case, way):
    weight = case.token_weight.requires_grad_()
    total = case.student().divergence(case.teacher(), weight).total
    assert torch.autograd.grad(total, weight, allow_unused=True) == (None,)


def test_whether_there_are_gradients_is_decided_where_scores_are_made(case, way):
    with torch.no_grad():
        read_without = case.student()
    frozen = [read_without.logprobs, read_without.distribution]
    frozen.append(read_without.divergence(case.teacher(), case.token_weight).total)
    assert not any(x.requires_grad for x in frozen)
    student = case.student()
    with torch.no_grad():
        live = [student.logprobs, student.distribution]
    assert all(x.requires_grad for x in live)
    assert not student.entropy.requires_grad


def test_a_kept_graph_gives_its_gradient_again_at_any_scale(case):
    with in_chunks():
        total = case.student().divergence(case.teacher(), case.token_weight).total
        once = torch.autograd.grad(total, case.inputs, retain_graph=True)
        expected = [2 * x for x in once]
        twice = torch.autograd.grad(2 * total, case.inputs, retain_graph=True)
        torch.testing.assert_close(list(twice), expected)
        torch.testing.assert_close([2 * x for x in once], expected)  # what was given is not ours
    with in_chunks():
        total = case.student().divergence(case.teacher(), case.token_weight).total
        torch.autograd.grad(2 * total, case.inputs, retain_graph=True)
        with pytest.raises(RuntimeError, match="modified by an inplace operation"):
            torch.autograd.grad(total, case.inputs)


def test_changing_the_head_before_the_backward_pass_is_refused(case):
    with in_chunks():
        loss = case.student().logprobs.sum()
        with torch.no_grad():
            case.weight.mul_(2)
        with pytest.raises(RuntimeError, match="modified by an inplace operation"):
            loss.backward()


# What is not computed -----------------------------------------------------------------------------


@pytest.mark.parametrize("form", FORMS, ids=str)
def test_nothing_is_computed_where_it_does_not_count(case, way, form):
    """Not-a-number at masked places goes nowhere, nor the teacher's where the weight is 0."""
    expected = everything(case, form, from_logits=False, blended=False, temperature=1.0)
    with torch.no_grad():
        case.hidden[~case.mask] = math.nan
        case.teacher_hidden[~case.mask] = math.nan
    found = everything(case, form, from_logits=False, blended=False, temperature=1.0)
    torch.testing.assert_close(found, expected)
    assert (found[1][0][~case.mask] == 0).all()
    with torch.no_grad():
        case.teacher_hidden[case.token_weight == 0] = math.nan
    total, per_token = case.student().divergence(case.teacher(), case.token_weight, **form)
    torch.testing.assert_close([total.detach(), per_token], list(expected[0][:2]))
    by_hidden = torch.autograd.grad(total, case.hidden)[0]
    assert (by_hidden[case.token_weight == 0] == 0).all()
    assert by_hidden.isfinite().all()


def test_without_a_token_that_counts_everything_is_zero(case, way):
    student = case.student()
    total, per_token = student.divergence(case.teacher(), torch.zeros(B, T))
    assert total == 0
    assert (per_token == 0).all()
    case.mask[:] = False
    empty = case.student()
    loss = total + empty.divergence(case.teacher(), case.token_weight).total + empty.logprobs.sum()
    assert loss == 0
    assert (empty.entropy == 0).all()
    assert all((x == 0).all() for x in torch.autograd.grad(loss, case.inputs))


class Watch(TorchDispatchMode):
    """Notes the largest tensor made, and how often the head is multiplied with something."""

    def __init__(self) -> None:
        super().__init__()
        self.largest = 0
        self.products = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        if isinstance(result, Tensor):
            self.largest = max(self.largest, result.numel())
        self.products += function.overloadpacket.__name__ in ("mm", "addmm", "addmm_")
        return result


@pytest.mark.parametrize("form", FORMS, ids=str)
def test_a_divergence_makes_no_table_and_four_products_per_chunk(case, form):
    """As many as the plain way: logits of both, gradients of hidden states and head."""
    counted = int((case.mask & (case.token_weight != 0)).sum())
    chunks = math.ceil(counted / 2)
    with in_chunks(), Watch() as watch:
        case.student().divergence(case.teacher(), case.token_weight, **form).total.backward()
    assert watch.largest <= max(2 * V, V * H, B * T * H)
    assert watch.products == 4 * chunks
    case.weight.requires_grad_(False)
    with in_chunks(), Watch() as watch:
        case.student().divergence(case.teacher(), case.token_weight, **form).total.backward()
    assert watch.products == 3 * chunks


def test_log_probabilities_make_no_table_and_one_product_more_than_the_plain_way(case):
    chunks = math.ceil(int(case.mask.sum()) / 2)
    with in_chunks(), Watch() as watch:
        logprobs = case.student().logprobs
        assert watch.products == chunks
        logprobs.sum().backward()
    assert watch.largest <= max(2 * V, V * H, B * T * H)
    assert watch.products == 4 * chunks


def test_after_a_divergence_the_metrics_cost_no_product(case):
    student, teacher = case.student(), case.teacher()
    with in_chunks():
        student.divergence(teacher, torch.ones(B, T))
        with Watch() as watch:
            for scores in (student, teacher):
                assert (scores.logprobs < 0).sum() == case.mask.sum()
                assert (scores.entropy > 0).sum() == case.mask.sum()
    assert watch.products == 0


# Precision ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", FORMS, ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_certainty_leaves_values_and_gradients_finite(way, form, dtype):
    """Logits so far apart that all but one probability is rounded to 0."""
    case = make_case(dtype)
    with torch.no_grad():
        for x in (case.weight, case.teacher_weight):
            x.mul_(3000)
    values, gradients = everything(case, form, from_logits=False, blended=False, temperature=1.0)
    assert all(x.isfinite().all() for x in (*values, *gradients))


@pytest.mark.parametrize("alpha", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("thin", ["student", "teacher", "both"])
def test_a_tail_too_small_for_one_minus_the_rest_has_its_gradient(way, thin, alpha):
    """Top-3 with a bucket where the other probabilities sum to about 1e-8, in float32: 1 − Σ p has
    no correct digit there. The reference is the same in float64."""
    generator = torch.Generator().manual_seed(0)
    response, mask = torch.zeros(1, T, dtype=torch.long), torch.ones(1, T, dtype=torch.bool)

    def logits(is_thin):
        x = torch.randn(1, T, V, generator=generator, dtype=torch.float64)
        x[..., 3:] -= 21 if is_thin else 6  # so that the same three are on top of both
        return x

    student, teacher = logits(thin != "teacher"), logits(thin != "student")
    if thin != "teacher":
        assert 1e-10 < student.softmax(-1)[..., 3:].sum(-1).max() < 1e-7

    def gradient(dtype):
        given = student.to(dtype).requires_grad_()
        scores = [ResponseLogits.from_logits(x, response, mask)
                  for x in (given, teacher.to(dtype))]  # fmt: skip
        found = scores[0].divergence(scores[1], mask.double(), alpha=alpha, top_k=3)
        return torch.autograd.grad(found.total, given)[0]

    exact = gradient(torch.float64)
    found = gradient(torch.float32).double()
    assert exact[..., 3:].abs().min() > 0
    torch.testing.assert_close(found[..., 3:], exact[..., 3:], rtol=1e-3, atol=0)
    torch.testing.assert_close(found[..., :3], exact[..., :3], rtol=1e-4, atol=1e-7)


def test_the_forms_clip_some_of_what_they_are_tested_on(case):
    counted = case.mask & (case.token_weight != 0)
    plain, clipped = (
        case.student().divergence(case.teacher(), case.token_weight, alpha=0.0, **clip).per_token
        for clip in ({}, {"entry_clip": 0.05})
    )
    assert (plain[counted] > 1.5).any()
    assert (plain[counted] < 1.5).any()
    assert (clipped < plain)[counted].all()


def test_bfloat16_logits_and_float32_from_there_on(way):
    case = make_case(torch.bfloat16)
    logits = (case.hidden @ case.weight.T + case.bias).float()
    logp = logits.log_softmax(-1)
    student = case.student()
    assert student.logprobs.dtype == student.entropy.dtype == torch.float32
    expected = logp.gather(-1, case.response[..., None])[..., 0] * case.mask
    torch.testing.assert_close(student.logprobs, expected, rtol=0, atol=0.05)
    total = student.divergence(case.teacher(), case.token_weight).total
    assert total.dtype == torch.float32
    gradients = torch.autograd.grad(total + student.logprobs.sum(), case.inputs)
    assert all(x.dtype == torch.bfloat16 for x in gradients)


def test_the_gradient_of_a_bfloat16_head_is_summed_in_float32():
    """Its error, against float64, is that of one product over all tokens, however many chunks."""
    torch.manual_seed(0)
    tokens, width, size = 512, 16, 50
    hidden, teacher_hidden = torch.randn(2, 1, tokens, width).bfloat16()
    weight = torch.randn(size, width).bfloat16()
    response, mask = torch.zeros(1, tokens, dtype=torch.long), torch.ones(1, tokens).bool()

    def gradient(dtype: torch.dtype) -> Tensor:
        head = Head(weight.to(dtype, copy=True).requires_grad_())
        student = ResponseLogits.from_hidden(hidden.to(dtype), head, response, mask)
        with torch.no_grad():
            teacher = ResponseLogits.from_hidden(teacher_hidden.to(dtype), head, response, mask)
        total = student.divergence(teacher, torch.full((1, tokens), 1 / tokens)).total
        return torch.autograd.grad(total, head.weight)[0].double()

    exact = gradient(torch.float64)
    plain = (gradient(torch.bfloat16) - exact).norm()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(chunked_logits, "CHUNK_ELEMENTS", 2 * size)  # 256 chunks
        chunked = (gradient(torch.bfloat16) - exact).norm()
    assert chunked < 1.05 * plain


def test_under_autocast_the_product_is_in_its_dtype(way):
    case, halved = make_case(torch.float32), make_case(torch.bfloat16)
    with torch.autocast("cpu", torch.bfloat16):
        student, teacher = case.student(), case.teacher()
        found = student.divergence(teacher, case.token_weight).total + student.logprobs.sum()
    student, teacher = halved.student(), halved.teacher()
    expected = student.divergence(teacher, case.token_weight).total + student.logprobs.sum()
    torch.testing.assert_close(found, expected)
    gradients = torch.autograd.grad(found, case.inputs)
    assert all(x.dtype == torch.float32 for x in gradients)
    for x, y in zip(gradients, torch.autograd.grad(expected, halved.inputs), strict=True):
        torch.testing.assert_close(x, y.float())


# TRL ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("alpha", [0.0, 0.3, 1.0])
def test_divergence_and_its_gradient_equal_those_of_trl(case, way, alpha):
    gkd = pytest.importorskip("trl.experimental.gkd.gkd_trainer").GKDTrainer
    student_logits = case.hidden @ case.weight.T + case.bias
    teacher_logits = case.teacher_hidden @ case.teacher_weight.T
    expected = gkd.generalized_jsd_loss(
        student_logits,
        teacher_logits.detach(),
        labels=torch.where(case.mask, case.response, -100),
        beta=alpha,
        temperature=0.7,
        num_items_in_batch=1,  # the sum
    )
    student, teacher = case.student(temperature=0.7), case.teacher(temperature=0.7)
    found = student.divergence(teacher, torch.ones(B, T), alpha=alpha).total
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(
        torch.autograd.grad(found, case.inputs), torch.autograd.grad(expected, case.inputs)
    )


@pytest.mark.parametrize("alpha", [0.0, 0.3, 1.0])
def test_divergence_and_its_gradient_equal_those_of_trl_in_chunks(way, alpha):
    trl = pytest.importorskip("trl.kernels.chunked_divergence")
    case = make_case(torch.float32)
    per_token, entropy = trl.ChunkedDivergenceFunction.apply(
        case.hidden.flatten(0, 1),
        case.weight,
        case.bias,
        case.teacher_hidden.detach().flatten(0, 1),
        case.teacher_weight.detach(),
        None,
        alpha,
        0.7,
    )
    expected = (per_token.view(B, T) * case.mask * case.token_weight.float()).sum()
    student, teacher = case.student(temperature=0.7), case.teacher(temperature=0.7)
    found = student.divergence(teacher, case.token_weight, alpha=alpha).total
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(student.entropy, entropy.view(B, T) * case.mask)
    torch.testing.assert_close(
        torch.autograd.grad(found, case.inputs), torch.autograd.grad(expected, case.inputs)
    )


# Mistakes -----------------------------------------------------------------------------------------


def test_shapes_that_do_not_fit_are_named(case):
    head, ones = Head(case.weight), torch.ones(B, T)
    with pytest.raises(ValueError, match=r"hidden must be \[B, T, H\].*\[3, 4, 4\]"):
        ResponseLogits.from_hidden(case.hidden[:, 1:], head, case.response, case.mask)
    with pytest.raises(ValueError, match=r"hidden must be \[B, T, H\].*\[11, 3\]"):
        ResponseLogits.from_hidden(case.hidden, Head(case.weight[:, 1:]), case.response, case.mask)
    with pytest.raises(ValueError, match="mask must be boolean"):
        ResponseLogits.from_hidden(case.hidden, head, case.response, ones)
    with pytest.raises(ValueError, match=r"logits must be \[B, T, V\]"):
        ResponseLogits.from_logits(torch.zeros(B, T + 1, V), case.response, case.mask)
    smaller = ResponseLogits.from_hidden(
        case.hidden, Head(case.weight[1:]), case.response, case.mask
    )
    with pytest.raises(ValueError, match=r"same responses and vocabulary.*11\] and \[3, 5, 10\]"):
        case.student().divergence(smaller, ones)
    with pytest.raises(
        ValueError, match=r"weight must be like the response \[3, 5\], got \[3, 1\]"
    ):
        case.student().divergence(case.teacher(), ones[:, :1])
    with pytest.raises(ValueError, match="alpha must be between 0 and 1, got 2"):
        case.student().divergence(case.teacher(), ones, alpha=2)
    with pytest.raises(ValueError, match="top_k must be at least 1, got 0"):
        case.student().divergence(case.teacher(), ones, top_k=0)


def test_there_is_no_divergence_where_the_teacher_has_no_prediction():
    generator = torch.Generator().manual_seed(0)
    mine, theirs = torch.randn(2, 1, 2, 5, generator=generator)
    response, everywhere = torch.zeros(1, 2, dtype=torch.long), torch.ones(1, 2, dtype=torch.bool)
    student = ResponseLogits.from_logits(mine, response, everywhere)
    teacher = ResponseLogits.from_logits(theirs, response, torch.tensor([[True, False]]))
    whole = student.divergence(
        ResponseLogits.from_logits(theirs, response, everywhere), torch.ones(1, 2)
    )
    result = student.divergence(teacher, torch.ones(1, 2))
    assert whole.per_token.min() > 0
    assert result.per_token.tolist() == [[pytest.approx(float(whole.per_token[0, 0])), 0.0]]
    assert float(result.total) == pytest.approx(float(whole.per_token[0, 0]))
