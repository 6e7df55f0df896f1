"""The processes of a run: one, or as many as torchrun or accelerate started."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

PATIENCE = timedelta(hours=2)
"""How long a process waits for the others: they sample and judge for different times."""


class Processes:
    """This process among those of a run. Alone, every method is what it is for one process.

    Each has its own rollouts; gradients, metrics and the denominators of the losses are summed, so
    that the number of processes changes no gradient. Each has the whole model (or its shards, see
    `fsdp.py`), and as weights begin equal and take the same steps, they stay equal: what
    DistributedDataParallel does, but gradients are sent once per optimizer step, not once per
    micro-batch, and as sums. They are not sent while the last backward pass still runs.
    """

    def __init__(self) -> None:
        self.size = dist.get_world_size() if dist.is_initialized() else 1
        self.rank = dist.get_rank() if dist.is_initialized() else 0

    @classmethod
    def join(cls, device: str = "cpu") -> Processes:
        """Join the processes that torchrun or `accelerate launch` started beside this one, if one
        of them did. With device "cuda" each takes the GPU of its number, as the current one.

        Raises ValueError if there are more processes than GPUs, or a single GPU is named.
        """
        if int(os.environ.get("WORLD_SIZE", "1")) == 1 or dist.is_initialized():
            return cls()
        on_gpu = device.startswith("cuda")
        if on_gpu:
            place, count = int(os.environ.get("LOCAL_RANK", "0")), torch.cuda.device_count()
            if device != "cuda" or place >= count:
                raise ValueError(
                    f"Each process needs a GPU of its own: got --device {device} for process "
                    f"{place} on a machine with {count}. Start one process per GPU with --device "
                    f"cuda, or pass --device cpu."
                )
            torch.cuda.set_device(place)
        dist.init_process_group("nccl" if on_gpu else "gloo", timeout=PATIENCE)
        return cls()

    def leave(self) -> None:
        if dist.is_initialized():
            dist.destroy_process_group()

    @property
    def is_first(self) -> bool:
        """Whether this process is the one that writes and shows."""
        return self.rank == 0

    def local_shard(self, items: list) -> list:
        """This process's part of a list that divides evenly."""
        size = len(items) // self.size
        return items[self.rank * size : (self.rank + 1) * size]

    def sum(self, values: Mapping[str, float]) -> dict[str, float]:
        """Sums over the processes, which must all give the same names in the same order."""
        if self.size == 1:
            return dict(values)
        total = torch.tensor(list(values.values()), dtype=torch.float64, device=_device())
        dist.all_reduce(total)
        return dict(zip(values, total.tolist(), strict=True))

    def max(self, value: int) -> int:
        """The largest of the processes' values."""
        if self.size == 1:
            return value
        tensor = torch.tensor(value, device=_device())
        dist.all_reduce(tensor, dist.ReduceOp.MAX)
        return int(tensor)

    def gather(self, value: Any) -> list[Any]:
        """The values of all processes, by rank."""
        if self.size == 1:
            return [value]
        values: list[Any] = [None] * self.size
        dist.all_gather_object(values, value)
        return values

    def wait(self) -> None:
        """Until all processes are here."""
        if self.size > 1:
            dist.barrier()

    @contextmanager
    def main_process_first(self) -> Iterator[None]:
        """The first process goes before the others, which then find what it has made: a download,
        a cache."""
        if not self.is_first:
            self.wait()
        try:
            yield
        finally:
            if self.is_first:
                self.wait()

    def broadcast_(self, tensors: Iterable[Tensor]) -> None:
        """Give all processes the first one's tensors, in place."""
        if self.size == 1:
            return
        for tensor in tensors:
            sent = tensor.detach().to(_device())
            dist.broadcast(sent, src=0)
            tensor.detach().copy_(sent)

    def add_gradients(self, parameters: Iterable[nn.Parameter]) -> None:
        """Replace each gradient by its sum over the processes."""
        if self.size == 1:
            return
        gradients = [_gradient(p) for p in parameters]
        for bucket in _buckets(gradients):
            flat = torch.cat([g.flatten() for g in bucket])
            dist.all_reduce(flat)
            for gradient, total in zip(
                bucket, flat.split([g.numel() for g in bucket]), strict=True
            ):
                gradient.copy_(total.view_as(gradient))


def _gradient(parameter: nn.Parameter) -> Tensor:
    if parameter.grad is None:
        parameter.grad = torch.zeros_like(parameter)
    return parameter.grad


def _buckets(gradients: list[Tensor], max_elements: int = 1 << 25) -> Iterable[list[Tensor]]:
    """Gradients of one type, together large enough that sending them is one large message."""
    for dtype in dict.fromkeys(g.dtype for g in gradients):
        bucket: list[Tensor] = []
        for gradient in (g for g in gradients if g.dtype == dtype):
            if bucket and sum(g.numel() for g in bucket) + gradient.numel() > max_elements:
                yield bucket
                bucket = []
            bucket.append(gradient)
        if bucket:
            yield bucket


def _device() -> torch.device:
    return torch.device("cuda" if dist.get_backend() == "nccl" else "cpu")
