"""Logits over a large vocabulary, a few tokens at a time, so that [tokens, V] never exists.

N tokens have a row each in a source of logits; `positions` [n] names some of them. What is written
here by hand, gradients included, is what `scores.py` writes plainly where the table is small.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from vpd_agent.losses import Tail, divergence, top_k_support

CHUNK_ELEMENTS = 1 << 24  # entries of a [tokens, V] table that exist at a time, by measurement:
# 64 MB in float32, 110 tokens of Qwen3's vocabulary. With fewer the weight is read too often.


class Logits(Protocol):
    """Where the logits [N, V] of N tokens come from."""

    @property
    def size(self) -> int:
        """V."""

    @property
    def inputs(self) -> tuple[Tensor | None, ...]:
        """The tensors they are computed from, to which gradients go."""

    def empty(self, *shape: int) -> Tensor:
        """On the device of the logits, in the dtype of the numbers made of them: float32 or wider."""

    def rows(self, positions: Tensor) -> Tensor:
        """[n, V] logits / temperature, differentiable in `inputs`."""

    def rows_into(self, positions: Tensor, out: Tensor) -> Tensor:
        """The same without gradient, written to the first n rows of `out`."""

    def add_gradient(
        self, gradients: list[Tensor | None], positions: Tensor, by_logits: Tensor, scale: Tensor
    ) -> None:
        """Add to the gradients by `inputs` (None: not wanted) what reaches the logits at
        `positions`, which is by_logits [n, V] · scale [n, 1]."""


@dataclass(frozen=True)
class Linear:
    """(hidden @ weight.T + bias) / temperature. The product is in the dtype of hidden."""

    hidden: Tensor  # [N, H]
    weight: Tensor  # [V, H]
    bias: Tensor | None  # [V]
    temperature: float

    @property
    def size(self) -> int:
        return self.weight.shape[0]

    @property
    def inputs(self) -> tuple[Tensor | None, ...]:
        return self.hidden, self.weight, self.bias

    def empty(self, *shape: int) -> Tensor:
        return _empty_like(self.hidden, shape)

    def rows(self, positions: Tensor) -> Tensor:
        hidden = self.hidden.index_select(0, positions)
        logits = torch.nn.functional.linear(hidden, self.weight, self.bias)
        return _tempered(at_least_float32(logits), self.temperature)

    def rows_into(self, positions: Tensor, out: Tensor) -> Tensor:
        out = out[: len(positions)]
        hidden = self.hidden.index_select(0, positions)
        if hidden.dtype != out.dtype:
            out.copy_(torch.nn.functional.linear(hidden, self.weight, self.bias))
        elif self.bias is None:
            torch.mm(hidden, self.weight.T, out=out)
        else:
            torch.addmm(self.bias, hidden, self.weight.T, out=out)
        return out if self.temperature == 1 else out.div_(self.temperature)

    def add_gradient(
        self, gradients: list[Tensor | None], positions: Tensor, by_logits: Tensor, scale: Tensor
    ) -> None:
        by_hidden, by_weight, by_bias = gradients
        dtype, scale = self.hidden.dtype, scale / self.temperature
        table = by_logits.to(dtype)
        if by_hidden is not None:
            rows = (table @ self.weight).to(scale.dtype) * scale
            by_hidden.index_copy_(0, positions, rows.to(dtype))
        if by_weight is not None:
            hidden = (self.hidden.index_select(0, positions) * scale).to(dtype)
            by_weight.addmm_(table.T, hidden)
        if by_bias is not None:
            by_bias += (by_logits.T @ scale)[:, 0].to(dtype)


@dataclass(frozen=True)
class Table:
    """Logits that exist already, [N, V]."""

    logits: Tensor
    temperature: float

    @property
    def size(self) -> int:
        return self.logits.shape[1]

    @property
    def inputs(self) -> tuple[Tensor | None, ...]:
        return (self.logits,)

    def empty(self, *shape: int) -> Tensor:
        return _empty_like(self.logits, shape)

    def rows(self, positions: Tensor) -> Tensor:
        rows = at_least_float32(self.logits.index_select(0, positions))
        return _tempered(rows, self.temperature)

    def rows_into(self, positions: Tensor, out: Tensor) -> Tensor:
        out = out[: len(positions)]
        out.copy_(self.logits.index_select(0, positions))
        return out if self.temperature == 1 else out.div_(self.temperature)

    def add_gradient(
        self, gradients: list[Tensor | None], positions: Tensor, by_logits: Tensor, scale: Tensor
    ) -> None:
        rows = by_logits * (scale / self.temperature)
        gradients[0].index_copy_(0, positions, rows.to(self.logits.dtype))


@dataclass(frozen=True)
class Blend:
    """(1 − weight) · first + weight · second, without gradient."""

    first: Logits
    second: Logits
    weight: float

    @property
    def size(self) -> int:
        return self.first.size

    @property
    def inputs(self) -> tuple[Tensor | None, ...]:
        return ()

    def empty(self, *shape: int) -> Tensor:
        return self.first.empty(*shape)

    @torch.no_grad()
    def rows(self, positions: Tensor) -> Tensor:
        return self.first.rows(positions).lerp(self.second.rows(positions), self.weight)

    def rows_into(self, positions: Tensor, out: Tensor) -> Tensor:
        out = self.first.rows_into(positions, out)
        return out.lerp_(self.second.rows(positions).to(out.dtype), self.weight)

    def add_gradient(
        self, gradients: list[Tensor | None], positions: Tensor, by_logits: Tensor, scale: Tensor
    ) -> None:
        """No gradient reaches a blend."""


class TokenStatistics(NamedTuple):
    """Of some tokens, without gradient: the log-probability of each, and the entropy there."""

    logprobs: Tensor  # [n]
    entropy: Tensor  # [n], nats


def fits(tokens: int, vocabulary: int) -> bool:
    """Whether a table is small enough to be made at once."""
    return tokens * vocabulary <= CHUNK_ELEMENTS


@torch.no_grad()
def statistics(source: Logits, positions: Tensor, response: Tensor) -> TokenStatistics:
    """response: [n] token ids, at `positions` [n]."""
    table = _buffer(source, positions)
    pieces = []
    for place in _chunks(positions, source.size):
        logp = _log_softmax_(source.rows_into(positions[place], table))
        chosen = logp.gather(1, response[place, None])[:, 0]
        pieces.append((chosen, -_dot(logp.exp(), logp)))
    return TokenStatistics(*map(torch.cat, zip(*pieces, strict=True)))


def chosen_logprobs(source: Logits, positions: Tensor, response: Tensor, values: Tensor) -> Tensor:
    """`values` [n], which `statistics` gave, as a function of source.inputs.

    The backward pass makes the logits again: one product more than if they had been kept.
    """
    return _ChosenLogprobs.apply(source, positions, response, values, *source.inputs)


class _ChosenLogprobs(torch.autograd.Function):
    @staticmethod
    def forward(ctx, source, positions, response, values, *inputs):
        ctx.source = source
        ctx.save_for_backward(positions, response)
        return values.clone()

    @staticmethod
    @once_differentiable
    def backward(ctx, by_values):
        source = ctx.source
        positions, response = ctx.saved_tensors
        gradients = _zeros(source.inputs, ctx.needs_input_grad[4:])
        table = _buffer(source, positions)
        for place in _chunks(positions, source.size):
            by_logits = _log_softmax_(source.rows_into(positions[place], table)).exp_().neg_()
            one = torch.ones_like(by_logits[:, :1])
            by_logits.scatter_add_(1, response[place, None], one)
            source.add_gradient(gradients, positions[place], by_logits, by_values[place, None])
        return None, None, None, None, *gradients


class DivergencePass(NamedTuple):
    """What one pass over the vocabulary of student and teacher gives. All but total: no gradient."""

    total: Tensor  # scalar
    per_token: Tensor  # [n]
    student: TokenStatistics
    teacher: TokenStatistics


def weighted_divergence(
    student: Logits,
    teacher: Logits,
    positions: Tensor,
    response: Tensor,
    weight: Tensor,
    *,
    alpha: float,
    top_k: int | None,
    tail: Tail,
) -> DivergencePass:
    """Σ weight · D at `positions`. weight: [n], constants. Differentiable in student.inputs.

    The weights are known and the result is a scalar, so the gradient is computed beside the value,
    while the logits exist: no logits are made twice, and four products with the vocabulary do.
    """
    total, per_token, *by_products = _WeightedDivergence.apply(
        student, teacher, positions, response, weight, alpha, top_k, tail, *student.inputs
    )
    return DivergencePass(
        total, per_token, TokenStatistics(*by_products[:2]), TokenStatistics(*by_products[2:])
    )


class _WeightedDivergence(torch.autograd.Function):
    @staticmethod
    def forward(ctx, student, teacher, positions, response, weight, alpha, top_k, tail, *inputs):
        gradients = _zeros(student.inputs, ctx.needs_input_grad[8:])
        wanted = any(g is not None for g in gradients)
        tables = _buffer(student, positions), _buffer(teacher, positions)
        pieces = []
        for place in _chunks(positions, student.size):
            here = positions[place]
            logp = _log_softmax_(student.rows_into(here, tables[0]))
            logq = _log_softmax_(teacher.rows_into(here, tables[1]))
            chosen = response[place, None]
            chosen_p, chosen_q = logp.gather(1, chosen)[:, 0], logq.gather(1, chosen)[:, 0]
            p = logp.exp()
            entropies = -_dot(p, logp), -_dot(logq.exp(), logq)
            if top_k is not None and top_k < student.size:
                per_token, by_logits = _top_k_divergence(logp, logq, p, alpha, top_k, tail)
            else:
                per_token, by_logits = _full_divergence(logp, logq, p, alpha)
            if wanted:
                student.add_gradient(gradients, here, by_logits, weight[place, None])
            pieces.append((per_token, chosen_p, entropies[0], chosen_q, entropies[1]))
        per_token, *by_products = map(torch.cat, zip(*pieces, strict=True))
        ctx.save_for_backward(*gradients)
        ctx.mark_non_differentiable(per_token, *by_products)
        return (weight * per_token).sum(), per_token, *by_products

    @staticmethod
    @once_differentiable
    def backward(ctx, by_total, *_):
        gradients = ctx.saved_tensors
        if by_total != 1:
            gradients = [None if g is None else g * by_total.to(g.dtype) for g in gradients]
        return *(None,) * 8, *gradients


def _full_divergence(logp: Tensor, logq: Tensor, p: Tensor, alpha: float) -> tuple[Tensor, Tensor]:
    """D [n] and its gradient by the student's logits [n, V]; overwrites all three [n, V].

    The gradient of f(log p) by the logits is f' − p · Σ f'. With m the mixture,
    KL(p‖q): p · (log(p/q) − KL(p‖q)).  KL(q‖p): p − q.  JSD: (1−α) · p · (log(p/m) − KL(p‖m)).
    """
    if alpha == 0:
        q = logq.exp()
        return _dot(q, logq.sub_(logp)), p.sub_(q)
    if alpha == 1:
        ratio = logp.sub_(logq)
        kl = _dot(p, ratio)
        return kl, p.mul_(ratio.sub_(kl[:, None]))
    q = logq.exp()
    tiny = torch.finfo(p.dtype).tiny  # where both are 0, so that 0 · log(0/0) is 0
    log_m = p.lerp(q, alpha).clamp_(min=tiny).log_()
    student_ratio = logp.sub_(log_m)
    student_kl = _dot(p, student_ratio)
    teacher_kl = _dot(q, logq.sub_(log_m))
    by_logits = p.mul_(student_ratio.sub_(student_kl[:, None])).mul_(1 - alpha)
    return (1 - alpha) * student_kl + alpha * teacher_kl, by_logits


def _top_k_divergence(
    logp: Tensor, logq: Tensor, p: Tensor, alpha: float, top_k: int, tail: Tail
) -> tuple[Tensor, Tensor]:
    """The same on the student's most likely tokens. By autograd, which touches only those."""
    with torch.enable_grad():
        logp.requires_grad_()
        per_token = divergence(*top_k_support(logp, logq, top_k, tail), alpha)
        (by_logp,) = torch.autograd.grad(per_token.sum(), logp)
    logp.requires_grad_(False)
    return per_token.detach(), by_logp.addcmul_(p, by_logp.sum(1, keepdim=True), value=-1)


def _chunks(positions: Tensor, vocabulary: int) -> Iterator[slice]:
    """Slices of `positions`, alike in size, whose tables have at most CHUNK_ELEMENTS entries."""
    count = len(positions)
    size = _chunk_size(count, vocabulary)
    for start in range(0, max(count, 1), size):
        yield slice(start, start + size)


def _chunk_size(count: int, vocabulary: int) -> int:
    pieces = math.ceil(count / max(CHUNK_ELEMENTS // vocabulary, 1))
    return max(math.ceil(count / max(pieces, 1)), 1)


def _buffer(source: Logits, positions: Tensor) -> Tensor:
    """For `rows_into`: one table, used again and again, is cheaper than a new one each time."""
    return source.empty(_chunk_size(len(positions), source.size), source.size)


def _empty_like(x: Tensor, shape: tuple[int, ...]) -> Tensor:
    dtype = torch.float64 if x.dtype == torch.float64 else torch.float32
    return torch.empty(shape, dtype=dtype, device=x.device)


def _zeros(inputs: tuple[Tensor | None, ...], wanted: tuple[bool, ...]) -> list[Tensor | None]:
    return [torch.zeros_like(x) if w else None for x, w in zip(inputs, wanted, strict=True)]


def _log_softmax_(logits: Tensor) -> Tensor:
    """In place."""
    return torch.log_softmax(logits, -1, out=logits)


def _dot(x: Tensor, y: Tensor) -> Tensor:
    """Σ_v x y, [n, V] → [n], without a table of products."""
    return torch.bmm(x[:, None], y[:, :, None])[:, 0, 0]


def _tempered(logits: Tensor, temperature: float) -> Tensor:
    return logits if temperature == 1 else logits / temperature


def at_least_float32(x: Tensor) -> Tensor:
    return x if x.dtype == torch.float64 else x.float()
