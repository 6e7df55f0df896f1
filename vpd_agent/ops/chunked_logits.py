"""Sums over a large vocabulary, a few tokens at a time, so that no table [tokens, V] ever exists.

A source of logits has N rows, one for each token of a batch; `positions` [n] selects some of them.
Where the table is small, response_logits.py leaves gradients to autograd. Here they are computed by
hand: values and gradients of one chunk of the table, then those of the next in the same memory.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor
from torch.autograd.function import once_differentiable

from vpd_agent.ops.losses import DivergenceForm, divergence, renormalized, with_rest

# Entries of a chunk: 128 MB in float32, 220 tokens of Qwen3's vocabulary. The head is read once
# per chunk: half as many cost 9 % more time on a CPU, twice as many gain 4 %.
CHUNK_ELEMENTS = 1 << 25
# Entries for what is done entry by entry: intermediate results stay in the cache of a CPU. A GPU
# takes eight times as many, to be busy.
BLOCK_ELEMENTS = 1 << 21

Gradients = Sequence[Tensor | None]  # None where it is not wanted


class Logits(ABC):
    """Where the logits [N, V] come from: `unscaled` / `temperature`."""

    temperature: float

    @property
    @abstractmethod
    def size(self) -> int:
        """V."""

    @property
    def inputs(self) -> tuple[Tensor | None, ...]:
        """The tensors they are computed from, to which gradients go; none by default."""
        return ()

    @abstractmethod
    def empty(self, *shape: int) -> Tensor:
        """On their device, in the dtype of what is computed from them: float32 or wider."""

    @abstractmethod
    def unscaled(self, positions: Int[Tensor, " n"]) -> Float[Tensor, "n V"]:
        """Differentiable in `inputs`."""

    def unscaled_into(self, table: Tensor, positions: Tensor) -> Tensor:
        """The same without gradient, in a table [n, V]."""
        return table.copy_(self.unscaled(positions))

    def rows(self, positions: Int[Tensor, " n"]) -> Float[Tensor, "n V"]:
        """The logits, differentiable in `inputs`."""
        logits = self.unscaled(positions)
        logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
        return logits if self.temperature == 1 else logits / self.temperature

    def rows_into(self, table: Tensor, positions: Tensor) -> Tensor:
        """The same without gradient, in the first n rows of `table`."""
        table = self.unscaled_into(table[: len(positions)], positions)
        return table if self.temperature == 1 else table.div_(self.temperature)

    def zero_gradients(self, wanted: Sequence[bool]) -> Gradients:
        """What `add_gradient` adds to, one for each of `inputs`.

        All but the first are sums over chunks, in float32 even where the input is not: rounded to
        bfloat16 after each of 64 chunks their error is a sixth larger than that of one product,
        after each of 256 more than half.
        """
        return [
            torch.zeros_like(x, dtype=self.empty(0).dtype if i else None)
            if x is not None and wanted[i]
            else None
            for i, x in enumerate(self.inputs)
        ]

    def add_gradient(
        self, gradients: Gradients, positions: Tensor, by_rows: Tensor, scale: Tensor
    ) -> None:
        """Add the gradient of a loss whose gradient by `rows(positions)` is by_rows · scale.

        by_rows: [n, V]; scale: [n, 1]. No position comes twice.
        """
        raise NotImplementedError  # by those without `inputs`


@dataclass(frozen=True)
class HeadLogits(Logits):
    """(hidden @ weight.T + bias) / temperature, the product in the dtype of hidden and weight."""

    hidden: Float[Tensor, "N H"]
    weight: Float[Tensor, "V H"]
    bias: Float[Tensor, " V"] | None
    temperature: float

    @property
    def size(self) -> int:
        return self.weight.shape[0]

    @property
    def inputs(self) -> tuple[Tensor | None, ...]:
        return self.hidden, self.weight, self.bias

    def empty(self, *shape: int) -> Tensor:
        return _empty(self.hidden, shape)

    def unscaled(self, positions: Int[Tensor, " n"]) -> Float[Tensor, "n V"]:
        return F.linear(self.hidden.index_select(0, positions), self.weight, self.bias)

    def unscaled_into(self, table: Tensor, positions: Tensor) -> Tensor:
        if self.hidden.dtype != table.dtype:
            return super().unscaled_into(table, positions)
        hidden = self.hidden.index_select(0, positions)
        if self.bias is None:
            return torch.mm(hidden, self.weight.T, out=table)
        return torch.addmm(self.bias, hidden, self.weight.T, out=table)

    def add_gradient(
        self, gradients: Gradients, positions: Tensor, by_rows: Tensor, scale: Tensor
    ) -> None:
        by_hidden, by_weight, by_bias = gradients
        dtype, scale = self.hidden.dtype, scale / self.temperature
        if by_hidden is not None:
            by_hidden[positions] = ((by_rows.to(dtype) @ self.weight) * scale).to(dtype)
        if by_weight is not None:
            hidden = self.hidden.index_select(0, positions) * scale
            if by_weight.is_cuda and by_weight.dtype != dtype:  # one product, summed in float32
                factors = by_rows.T.to(dtype), hidden.to(dtype)
                torch.addmm(by_weight, *factors, out_dtype=by_weight.dtype, out=by_weight)
            else:
                by_weight.addmm_(by_rows.T, hidden)
        if by_bias is not None:
            by_bias.addmv_(by_rows.T, scale[:, 0])


@dataclass(frozen=True)
class DenseLogits(Logits):
    """logits / temperature, of logits that exist."""

    logits: Float[Tensor, "N V"]
    temperature: float

    @property
    def size(self) -> int:
        return self.logits.shape[1]

    @property
    def inputs(self) -> tuple[Tensor | None, ...]:
        return (self.logits,)

    def empty(self, *shape: int) -> Tensor:
        return _empty(self.logits, shape)

    def unscaled(self, positions: Int[Tensor, " n"]) -> Float[Tensor, "n V"]:
        return self.logits.index_select(0, positions)

    def add_gradient(
        self, gradients: Gradients, positions: Tensor, by_rows: Tensor, scale: Tensor
    ) -> None:
        by_logits = gradients[0]
        assert by_logits is not None  # only asked for where it is wanted
        by_logits[positions] = (by_rows * (scale / self.temperature)).to(by_logits.dtype)


@dataclass(frozen=True)
class MixedLogits(Logits):
    """(1 − weight) · first + weight · second, without gradient."""

    first: Logits
    second: Logits
    weight: float
    temperature = 1.0

    @property
    def size(self) -> int:
        return self.first.size

    def empty(self, *shape: int) -> Tensor:
        return self.first.empty(*shape)

    @torch.no_grad()
    def unscaled(self, positions: Int[Tensor, " n"]) -> Float[Tensor, "n V"]:
        return self.first.rows(positions).lerp(self.second.rows(positions), self.weight)

    @torch.no_grad()
    def unscaled_into(self, table: Tensor, positions: Tensor) -> Tensor:
        second = self.second.rows(positions)
        return self.first.rows_into(table, positions).lerp_(second, self.weight)


def fits(tokens: int, vocabulary: int) -> bool:
    """Whether a table is so small that chunks of it gain neither time nor much memory."""
    return tokens * vocabulary <= CHUNK_ELEMENTS // 2


@torch.no_grad()
def statistics(
    source: Logits, positions: Int[Tensor, " n"], response: Int[Tensor, " n"]
) -> Float[Tensor, "2 n"]:
    """Of the tokens `response` at `positions` the log-probability, and the entropy there (nats)."""
    found = source.empty(2, len(positions))
    table, scratch = _table(source, positions), _scratch(source, 2)
    for chunk in _slices(len(positions), len(table)):
        logp = _log_softmax_(source.rows_into(table, positions[chunk]))
        for block in _slices(len(logp), scratch.shape[1]):
            tokens = response[chunk][block]
            p, product = scratch[:, : len(tokens)]
            torch.exp(logp[block], out=p)
            _statistics_into(found[:, chunk][:, block], logp[block], p, tokens, product)
    return found


def chosen_logprobs(
    source: Logits,
    positions: Int[Tensor, " n"],
    response: Int[Tensor, " n"],
    known: Float[Tensor, " n"],
) -> Float[Tensor, " n"]:
    """log π(response) at `positions`, differentiable in source.inputs.

    known: their values, which `statistics` gave. The backward pass makes the logits again: one
    product with the head more than if they had been kept.
    """
    return _ChosenLogprobs.apply(source, positions, response, known, *source.inputs)


class _ChosenLogprobs(torch.autograd.Function):
    @staticmethod
    def forward(ctx, source, positions, response, known, *inputs):
        ctx.source = source
        ctx.save_for_backward(positions, response, *inputs)
        return known.clone()

    @staticmethod
    @once_differentiable
    def backward(ctx, by_logprobs):
        source = ctx.source
        # Autograd refuses to unpack them if the inputs were changed since the forward pass.
        positions, response, *_ = ctx.saved_tensors
        gradients = source.zero_gradients(ctx.needs_input_grad[4:])
        table = _table(source, positions)
        for chunk in _slices(len(positions), len(table)):
            rows = source.rows_into(table, positions[chunk])
            by_rows = torch.softmax(rows, -1, out=rows).neg_()
            by_rows.scatter_add_(1, response[chunk, None], torch.ones_like(by_rows[:, :1]))
            source.add_gradient(gradients, positions[chunk], by_rows, by_logprobs[chunk, None])
        return None, None, None, None, *_like(source.inputs, gradients)


def weighted_divergence(
    student: Logits,
    teacher: Logits,
    positions: Int[Tensor, " n"],
    response: Int[Tensor, " n"],
    weight: Float[Tensor, " n"],
    form: DivergenceForm,
) -> tuple[Float[Tensor, ""], Float[Tensor, "5 n"]]:
    """Divergences D at `positions`, whose tokens are `response`: Σ weight · D, differentiable in
    the student's inputs; and D with what the pass over the vocabulary gave besides, the
    `statistics` of the student and of the teacher.

    The weights are constants and the result is a scalar, so the gradient is computed together with
    it, while the logits exist: four products with the head in all, as many as without chunks.
    """
    return _WeightedDivergence.apply(
        student, teacher, positions, response, weight, form, *student.inputs
    )


class _WeightedDivergence(torch.autograd.Function):
    @staticmethod
    def forward(ctx, student, teacher, positions, response, weight, form, *inputs):
        gradients = student.zero_gradients(ctx.needs_input_grad[6:])
        found = student.empty(5, len(positions))
        tables, scratch = [_table(student, positions) for _ in "pq"], _scratch(student, 4)
        for chunk in _slices(len(positions), len(tables[0])):
            here = positions[chunk]
            logp = _log_softmax_(student.rows_into(tables[0], here))  # [n, V]
            logq = _log_softmax_(teacher.rows_into(tables[1], here))
            for block in _slices(len(logp), scratch.shape[1]):
                pair, tokens = (logp[block], logq[block]), response[chunk][block]
                into = found[:, chunk][:, block]  # [5, n]
                p, q, log_m, product = scratch[:, : len(tokens)]
                torch.exp(pair[0], out=p)
                torch.exp(pair[1], out=q)
                _statistics_into(into[1:3], pair[0], p, tokens, log_m)
                _statistics_into(into[3:5], pair[1], q, tokens, log_m)
                if form.top_k is not None and form.top_k < student.size:
                    into[0] = _top_k_divergence(*pair, p, product, form, form.top_k)
                elif form.entry_clip is not None:
                    memory, clip = (p, q, log_m, product), form.entry_clip
                    into[0] = _clipped_divergence(*pair, *memory, form.alpha, clip)
                else:
                    into[0] = _full_divergence(*pair, p, q, log_m, product, form.alpha)
            scale = weight[chunk]
            if form.clip is not None:
                scale = scale * (found[0, chunk] <= form.clip)
                found[0, chunk].clamp_(max=form.clip)
            if any(g is not None for g in gradients):
                by_rows = logp  # the divergences have overwritten it
                student.add_gradient(gradients, here, by_rows, scale[:, None])
        ctx.save_for_backward(*_like(inputs, gradients))
        ctx.handed_out = False
        ctx.mark_non_differentiable(found)
        return (weight * found[0]).sum(), found

    @staticmethod
    @once_differentiable
    def backward(ctx, by_total, _):
        gradients = ctx.saved_tensors
        if by_total != 1:  # in place unless somebody has them: one is as large as the head
            multiply = torch.mul if ctx.handed_out else Tensor.mul_
            gradients = [None if g is None else multiply(g, by_total) for g in gradients]
        ctx.handed_out = True
        return None, None, None, None, None, None, *gradients


def _full_divergence(
    logp: Tensor, logq: Tensor, p: Tensor, q: Tensor, log_m: Tensor, product: Tensor, alpha: float
) -> Tensor:
    """`losses.divergence` [n]. Its gradient by the student's logits overwrites logp; the others,
    of which log_m and product are only scratch memory, are overwritten too. All: [n, V].

    The gradient of f(log p) by the logits is f′ − p · Σ f′. So with m = (1−α)·p + α·q that of
    KL(p‖q) is p · (log p/q − KL(p‖q)), of KL(q‖p) it is p − q, and of the generalized
    Jensen–Shannon divergence (1−α) · p · (log p/m − KL(p‖m)).
    """
    if alpha == 0:
        kl = _dot(q, logq.sub_(logp), product)
        torch.sub(p, q, out=logp)
        return kl
    if alpha == 1:
        ratio = logp.sub_(logq)
        kl = _dot(p, ratio, product)
        ratio.sub_(kl[:, None]).mul_(p)
        return kl
    smallest = torch.finfo(p.dtype).tiny  # where p = q = 0: they count for nothing, log 0 for NaN
    torch.lerp(p, q, alpha, out=log_m).clamp_(min=smallest).log_()
    ratio = logp.sub_(log_m)
    student_kl, teacher_kl = _dot(p, ratio, product), _dot(q, logq.sub_(log_m), product)
    ratio.sub_(student_kl[:, None]).mul_(p).mul_(1 - alpha)
    return (1 - alpha) * student_kl + alpha * teacher_kl


def _clipped_divergence(
    logp: Tensor,
    logq: Tensor,
    p: Tensor,
    q: Tensor,
    log_m: Tensor,
    product: Tensor,
    alpha: float,
    clip: float,
) -> Tensor:
    """The same with an `entry_clip`: where an entry of the sum is beyond it, f′ is 0."""
    if alpha == 0:  # f′ = −q
        entries = torch.mul(q, logq.sub_(logp), out=product)
        q.masked_fill_(entries > clip, 0)
        torch.mul(p, q.sum(1, keepdim=True), out=logp).sub_(q)
        return entries.clamp_(max=clip).sum(1)
    if alpha == 1:  # f′ = p · (log p/q + 1)
        ratio = logp.sub_(logq)
        entries, slope = torch.mul(p, ratio, out=product), ratio.add_(1)
    else:  # f′ = (1−α) · p · log p/m
        torch.lerp(p, q, alpha, out=log_m).clamp_(min=torch.finfo(p.dtype).tiny).log_()
        slope = logp.sub_(log_m).mul_(1 - alpha)
        entries = torch.mul(p, slope, out=product).add_(q.mul_(logq.sub_(log_m)), alpha=alpha)
    slope.masked_fill_(entries > clip, 0).mul_(p)
    slope.sub_(p.mul_(slope.sum(1, keepdim=True)))
    return entries.clamp_(max=clip).sum(1)


def _top_k_divergence(
    logp: Tensor, logq: Tensor, p: Tensor, product: Tensor, form: DivergenceForm, top_k: int
) -> Tensor:
    """The same after `losses.top_k_support`, by autograd on the few entries that are kept.

    The gradient of f(log p_1 … log p_k, log r), r being the mass of the rest, by the logits is f′
    of the entries kept and f′_r · p/r of the others, less p · Σ f′ (with f′_r) everywhere.
    """
    index = (logp if form.support == "student" else logq).topk(top_k, dim=-1).indices  # [n, k]
    bucket = form.tail == "bucket"
    kept, of_teacher = (with_rest(x, index) if bucket else x.gather(1, index) for x in (logp, logq))
    with torch.enable_grad():
        kept.requires_grad_()
        pair = (kept, of_teacher) if bucket else (renormalized(kept), renormalized(of_teacher))
        per_token = divergence(*pair, form.alpha, form.entry_clip)
        (by_kept,) = torch.autograd.grad(per_token.sum(), kept)
    if bucket:
        torch.sub(logp, kept.detach()[:, -1:], out=product).exp_().mul_(by_kept[:, -1:])
        product.scatter_(1, index, 0)
    torch.mul(p, -by_kept.sum(1, keepdim=True), out=logp)
    logp.scatter_add_(1, index, by_kept[:, : index.shape[1]])
    if bucket:
        logp.add_(product)
    return per_token.detach()


def _statistics_into(
    found: Tensor, logp: Tensor, p: Tensor, response: Tensor, product: Tensor
) -> None:
    """Log-probabilities and entropies to found [2, n]; product [n, V] is scratch memory."""
    found[0] = logp.gather(1, response[:, None])[:, 0]
    found[1] = -_dot(p, logp, product)


def _dot(x: Tensor, y: Tensor, product: Tensor) -> Tensor:
    """Σ_v x · y, [n, V] → [n]. In a cache this is faster than a batch of matrix products, its error
    is a fiftieth of theirs, and autocast leaves it alone."""
    return torch.mul(x, y, out=product).sum(1)


def _slices(total: int, size: int) -> Iterator[slice]:
    """At least one."""
    for start in range(0, max(total, 1), size):
        yield slice(start, start + size)


def _table(source: Logits, positions: Tensor) -> Tensor:
    """Memory for one chunk, which all chunks use: on a CPU, allocating memory takes longer than
    filling it, and freed memory is not always used again. The chunks are alike in size, and of at
    most CHUNK_ELEMENTS entries."""
    count = math.ceil(len(positions) / max(CHUNK_ELEMENTS // source.size, 1))
    return source.empty(math.ceil(len(positions) / count) if count else 1, source.size)


def _scratch(source: Logits, count: int) -> Tensor:
    """Memory for intermediate results, one block [n, V] for each of them."""
    elements = BLOCK_ELEMENTS * (1 if source.empty(0).is_cpu else 8)
    return source.empty(count, max(elements // source.size, 1), source.size)


def _log_softmax_(logits: Tensor) -> Tensor:
    return torch.log_softmax(logits, -1, out=logits)


def _like(inputs: Sequence[Tensor | None], gradients: Gradients) -> Iterator[Tensor | None]:
    """Gradients in the dtype of what they belong to."""
    for x, gradient in zip(inputs, gradients, strict=True):
        yield None if gradient is None or x is None else gradient.to(x.dtype)


def _empty(like: Tensor, shape: tuple[int, ...]) -> Tensor:
    dtype = torch.promote_types(like.dtype, torch.float32)
    return torch.empty(shape, dtype=dtype, device=like.device)
