"""Sharded models: each process holds a part of every weight (FSDP2)."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from types import MethodType
from typing import Any, Protocol

import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard, register_fsdp_forward_method
from torch.distributed.tensor import DTensor, distribute_tensor


class Shardable(Protocol):
    """What is used of a policy."""

    sharding: Sharding | None

    @property
    def model(self) -> nn.Module: ...

    @property
    def layers(self) -> list[nn.Module]: ...

    def probe_passes(self) -> None: ...


def shard(policies: Iterable[Shardable]) -> None:
    """Shard the models of these policies in place, over all processes.

    Each process then holds its part of weights, gradients and the moments of optimizers that are
    made later. All processes must make the same passes through each model in the same order, except
    within `Policy.gathered()`. Gradients are sums over the processes, as the losses' denominators
    are those of the whole batch.

    Make copies (teacher, reference) before, and pass them too; several policies may share a model.
    Raises ValueError if there is only one process.
    """
    if not dist.is_initialized():
        raise ValueError(
            "Sharding needs several processes. Start them with torchrun --nproc-per-node N, or "
            "leave --sharding out."
        )
    done: dict[int, Sharding] = {}
    policies = list(policies)
    for policy in policies:
        model = policy.model
        if id(model) not in done:
            done[id(model)] = Sharding(model, policy.layers)
        policy.sharding = done[id(model)]
    for policy in policies:
        policy.probe_passes()  # now, since later one process may make a pass that others do not


class Sharding:
    """Shards one model, and gathers it.

    A layer is gathered when a pass reaches it and resharded after it. What is in no layer
    (embeddings, output embedding) stays gathered from a forward pass to the end of the backward
    pass.
    """

    def __init__(self, model: nn.Module, layers: list[nn.Module]) -> None:
        # The processes' device, not the model's: a model on the CPU is moved to the GPUs layer by
        # layer, so that no GPU ever holds all of it.
        device = "cuda" if dist.get_backend() == "nccl" else "cpu"
        mesh = init_device_mesh(device, (dist.get_world_size(),))
        self._layers = [fully_shard(layer, mesh=mesh) for layer in layers]
        # A loss multiplies with the output embedding after the pass: it must still be there.
        self._model = fully_shard(model, mesh=mesh, reshard_after_forward=False)
        self._modules = [self._model, *self._layers]
        for module in self._modules:
            module.set_gradient_divide_factor(1.0)
            module.set_force_sum_reduction_for_comms(True)  # gloo knows no scaled sum
        # FSDP gathers around the forward pass of a whole model; this one stops before its head.
        vars(model)["last_hidden_states"] = MethodType(_last_hidden_states, model)
        register_fsdp_forward_method(model, "last_hidden_states")
        self.last_hidden_states: Callable[..., Tensor] = vars(model)["last_hidden_states"]
        """Inputs of the model → [B, L, H]. The output embedding is gathered when it returns."""
        self._is_gathered = False

    @contextmanager
    def gathered(self) -> Iterator[None]:
        """Within, every process has the whole model, and passes need no communication."""
        if self._is_gathered:
            yield
            return
        self._gather()
        self._model.set_reshard_after_forward(False)
        self._is_gathered = True
        try:
            yield
        finally:
            self._is_gathered = False
            for layer in self._layers:
                layer.set_reshard_after_forward(True, recurse=False)
            self.reshard()

    def reshard(self) -> None:
        """Back to the shards, which is what optimizers and averages change. Weights that a pass
        without a backward pass has left gathered would be out of date after that."""
        if not self._is_gathered:
            for module in self._modules:
                module.reshard()

    def full_state_dict(self, state: Any) -> Any:
        """A state of whole tensors in place of shards, in the first process's memory; the others
        get None in their place. All processes must call it."""
        state = _full(state)
        if self._is_gathered:
            self._gather()  # a model's state_dict() has resharded it
        return state

    def shard_like(self, tensor: Tensor, place: Tensor) -> Tensor:
        """This process's shard of a whole tensor that every process has, if `place` is sharded."""
        tensor = tensor.to(place.device)
        if not isinstance(place, DTensor):
            return tensor
        return distribute_tensor(tensor, place.device_mesh, place.placements, src_data_rank=None)

    def _gather(self) -> None:
        for module in self._modules:
            module.unshard()


def _full(state: Any) -> Any:
    if isinstance(state, dict):
        return {name: _full(value) for name, value in state.items()}
    if isinstance(state, list):
        return [_full(value) for value in state]
    if not isinstance(state, DTensor):
        return state
    tensor = state.full_tensor()
    return tensor.cpu() if dist.get_rank() == 0 else None


def _last_hidden_states(model: Any, **inputs: Tensor) -> Tensor:
    return model.base_model(**inputs).last_hidden_state
