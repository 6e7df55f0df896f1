"""The repeated layers of a transformers model, and computing them again in the backward pass."""

from __future__ import annotations

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint


def decoder_layers(model: nn.Module) -> list[nn.Module]:
    """The repeated layers of a model. Raises ValueError if transformers does not mark them."""
    from transformers.modeling_layers import GradientCheckpointingLayer

    layers: list[nn.Module] = [
        m for m in model.modules() if isinstance(m, GradientCheckpointingLayer)
    ]
    if not layers:
        raise ValueError(
            f"{type(model).__name__} has no layers that transformers marks as such, so gradients "
            f"cannot be checkpointed, nor weights sharded. Leave the option out."
        )
    return layers


def checkpoint_layers(model: nn.Module) -> None:
    """Have each layer keep only its inputs for the backward pass and be computed again there.

    Raises ValueError as `decoder_layers` does.
    """
    for layer in decoder_layers(model):
        kind = type(layer)
        if not issubclass(kind, _Checkpointed):
            layer.__class__ = type(kind.__name__, (_Checkpointed, kind), {})


def is_checkpointed(model: nn.Module) -> bool:
    """Whether a backward pass now computes layers of the model again."""
    return torch.is_grad_enabled() and any(isinstance(m, _Checkpointed) for m in model.modules())


class _Checkpointed(nn.Module):
    """Becomes the first base class of a layer.

    Changing the class, as FSDP does, also applies to copies of the layer, and leaves its `forward`
    attribute alone.
    """

    def forward(self, *args, **kwargs):
        if not torch.is_grad_enabled():
            return super().forward(*args, **kwargs)
        return checkpoint(
            super().forward, *args, use_reentrant=False, preserve_rng_state=False, **kwargs
        )
