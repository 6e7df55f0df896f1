"""What a causal language model can do, tried on a few tokens rather than assumed.

All is compared with the simplest pass: one text alone, without padding and without a cache.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from vpd_agent.model.inputs import without_adapter

if TYPE_CHECKING:
    from vpd_agent.model.policy import Policy

PROBE_LENGTHS = (3, 29, 40)  # convolutions, windows and chunks of tiny models see the padding
TOLERANCE, HALF_PRECISION_TOLERANCE = 1e-4, 5e-2


def check_model(policy: Policy, name: str) -> None:
    """Raise ValueError, in a sentence, for a model that no text can be sampled from token by token.

    name: what the user called the model.
    """
    model = without_adapter(policy.model)
    what = f"Model {name!r} ({type(model).__name__})"
    if getattr(model.config, "is_encoder_decoder", False):
        raise ValueError(
            f"{what} is an encoder-decoder, which has no prompt that an answer continues. Choose a "
            f"causal language model."
        )
    rows = probe_rows(policy)
    try:
        alone = logits_alone(policy, rows)
    except Exception as error:  # whatever a model's own code raises
        said = next(iter(str(error).strip().splitlines()), "no message")
        raise ValueError(
            f"{what} cannot read text alone: its forward pass ended with {type(error).__name__}: "
            f"{said}. Choose a causal language model that needs nothing but token ids."
        ) from error
    shortened = logits_alone(policy, [row[: len(row) // 2] for row in rows])
    for whole, part in zip(alone, shortened, strict=True):
        if not agree(part, whole[: len(part)], policy):
            raise ValueError(
                f"{what} is not causal: what it predicts at a token depends on later tokens, so "
                f"it cannot write an answer. Choose a causal language model."
            )


@torch.inference_mode(False)  # where it is asked in that mode, no gradient could be computed
def takes_padding(policy: Policy) -> bool:
    """Whether texts that are padded on the left get the logits that they get alone, and a finite
    gradient. Recurrent layers may read the padding, positions may count it, and the attention of a
    position that sees no token may have no gradient."""
    rows = probe_rows(policy)
    ids, mask = policy.padded(rows)
    with torch.no_grad(), exact_arithmetic(policy):
        try:
            padded = policy.model(**policy.inputs(ids, mask)).logits
        except Exception:  # whatever a model's own code raises at a mask
            return False
    pairs = zip(padded, logits_alone(policy, rows), strict=True)
    same = all(agree(got[-len(own) :], own, policy) for got, own in pairs)
    return same and _has_finite_gradient(policy, ids, mask)


def _has_finite_gradient(policy: Policy, ids: Tensor, mask: Tensor) -> bool:
    """Whether the gradient of logits with respect to the input embeddings is finite, where other
    positions are padding. True where the model has none. Not asked of a sharded model."""
    embeddings: list[Tensor] = []

    def keep(module: nn.Module, inputs: object, output: Tensor) -> None:
        embeddings.append(output.requires_grad_())

    if policy.sharding is not None:
        return True
    hook = policy.model.get_input_embeddings().register_forward_hook(keep)
    try:
        with torch.enable_grad(), exact_arithmetic(policy):
            logits = policy.model(**policy.inputs(ids, mask)).logits[mask]
            total = logits.float().logsumexp(-1).sum()
            gradients = torch.autograd.grad(total, embeddings, allow_unused=True)
    except Exception:  # whatever a model's own code raises in its backward pass
        return True
    finally:
        hook.remove()
    return all(bool(g.isfinite().all()) for g in gradients if g is not None)


@torch.no_grad()
def head_is_linear(policy: Policy) -> bool:
    """Whether a model's logits are its output embedding times its last hidden states and nothing
    more: some models scale or cap them."""
    head = policy.model.get_output_embeddings()
    if type(head) is not nn.Linear or policy.body is policy.model:
        return False
    rows = probe_rows(policy)
    ids, attention = policy.padded(rows if policy.takes_padding else rows[-1:])
    logits = policy.model(**policy.inputs(ids, attention)).logits[attention].float()
    try:
        mine = head(policy.last_hidden_states(ids, attention)[attention]).float()
    except AttributeError:  # no part of the model says what its last hidden states are
        return False
    # A cap at 30 moves logits near 1 by less than a thousandth.
    single = policy.precision == "weights" and policy.model.dtype.itemsize >= 4
    tolerance = 1e-5 if single else 1e-3
    return torch.allclose(logits, mine, rtol=tolerance, atol=tolerance)


def probe_rows(policy: Policy, lengths: Sequence[int] = PROBE_LENGTHS) -> list[list[int]]:
    """Texts of these lengths, of token ids that every vocabulary has."""
    highest = min(without_adapter(policy.model).config.get_text_config().vocab_size, 1000)
    return [[(5 + 37 * k + 11 * i * (i + 1)) % highest for i in range(n)]
            for k, n in enumerate(lengths)]  # fmt: skip


@torch.no_grad()
def logits_alone(policy: Policy, rows: Sequence[list[int]]) -> list[Tensor]:
    """Logits [L, V] of each text, read alone."""
    ids = [torch.tensor([row], device=policy.device) for row in rows]
    with exact_arithmetic(policy):
        return [policy.model(**policy.inputs(x, torch.ones_like(x))).logits[0] for x in ids]


def exact_arithmetic(policy: Policy) -> torch.autocast:
    """Within, the model computes in its weights' type: rounding would hide small differences."""
    return torch.autocast(policy.device.type, enabled=False)


def agree(got: Tensor, expected: Tensor, policy: Policy) -> bool:
    """Whether two ways to compute logits differ by no more than rounding.

    True where the logits are no finite numbers: then nothing can be said of the way.
    In half precision whole rows are compared: a router that rounds otherwise may change a token.
    """
    got, expected = got.double(), expected.double()
    if not expected.isfinite().all():
        return True
    if policy.model.dtype.itemsize < 4:
        return bool((got - expected).norm() <= HALF_PRECISION_TOLERANCE * expected.norm())
    return bool((got - expected).abs().max() <= TOLERANCE * (1 + expected.abs().max()))
