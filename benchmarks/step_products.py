"""What a training step cannot do without: its matrix products and attention, and nothing else.

`Recorded` notes every call of these kernels that some code makes; `Replay` makes the same calls
again, on random tensors of the same shapes, with nothing in between. Its time is the floor of that
code on this machine: the products run at the rate that the cores reach for these shapes.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map

aten = torch.ops.aten
# Kernel → which of its arguments has the dimension that is summed over as its last. In inference
# mode `linear` and `matmul` arrive whole, elsewhere as the products that they are made of.
PRODUCTS = {aten.mm: 0, aten.bmm: 0, aten.linear: 0, aten.matmul: 0, aten.addmm: 1, aten.baddbmm: 1}
# Kernel → products of queries × keys that it makes, and the first of query and key.
ATTENTION = {
    aten.scaled_dot_product_attention: (2, 0),
    aten._scaled_dot_product_flash_attention_for_cpu: (2, 0),
    aten._scaled_dot_product_flash_attention_for_cpu_backward: (5, 1),
}
Call = tuple[Callable[..., Any], Any, Any]


class Recorded(TorchDispatchMode):
    """Within, every product and attention is noted.

    flops: their arithmetic, of attention without regard to what is masked.
    """

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[Call] = []
        self.flops = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        out = func(*args, **kwargs)
        kernel = func.overloadpacket
        if kernel in PRODUCTS:
            self.flops += 2 * out.numel() * args[PRODUCTS[kernel]].shape[-1]
        elif kernel in ATTENTION:
            count, first = ATTENTION[kernel]
            query, key = args[first], args[first + 1]
            self.flops += 2 * count * query.numel() * key.shape[-2]
        else:
            return out
        self.calls.append((func, tree_map(_shape, args), tree_map(_shape, kwargs)))
        return out


class Replay:
    """Calls that were recorded, to be made as often as one likes."""

    def __init__(self, calls: list[Call]) -> None:
        self._tensors: dict[Any, Tensor] = {}
        self._calls = [
            (function, tree_map(self._filled, args), tree_map(self._filled, kwargs))
            for function, args, kwargs in calls
        ]

    @torch.inference_mode()
    def __call__(self) -> None:
        for function, args, kwargs in self._calls:
            function(*args, **kwargs)

    def _filled(self, value: Any) -> Any:
        """A tensor like the one that was there, always the same of one shape."""
        if not isinstance(value, _Shape):
            return value
        if value.key not in self._tensors:
            sizes, strides, dtype = value.key
            reach = 1 + sum((n - 1) * s for n, s in zip(sizes, strides, strict=True))
            memory = torch.randn(reach).to(dtype)  # a masked position more or less costs the same
            self._tensors[value.key] = memory.as_strided(sizes, strides)
        return self._tensors[value.key]


class _Shape:
    """Of a tensor: sizes, strides, dtype."""

    def __init__(self, tensor: Tensor) -> None:
        self.key = tuple(tensor.shape), tensor.stride(), tensor.dtype


def _shape(value: Any) -> Any:
    return _Shape(value) if isinstance(value, Tensor) else value
