"""Models in shards: each process holds a part of every weight (FSDP2)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from types import MethodType
from typing import Any

import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard, register_fsdp_forward_method
from torch.distributed.tensor import DTensor, distribute_tensor

from vpd_agent.model.policy import Policy, decoder_layers


def shard(policies: Iterable[Policy]) -> None:
    """Shard the models of these policies in place, over all processes.

    Weights, gradients and, made later, the optimizer's moments are then divided by the number of
    processes. From here on these make the same passes through each model in the same order, except
    within `Policy.gathered()`. Gradients are sums over the processes, as the losses' denominators
    are those of the whole batch.

    Copies (teacher, reference) are to be made before, and handed over too; policies that share a
    model may both come. Raises ValueError where there is one process only.
    """
    if not dist.is_initialized():
        raise ValueError(
            "Sharding needs several processes. Start them with torchrun --nproc-per-node N, or "
            "leave --sharding away."
        )
    done: dict[int, Sharding] = {}
    for policy in policies:
        model = policy.model
        if id(model) not in done:
            done[id(model)] = Sharding(model)
        policy.sharding = done[id(model)]


class Sharding:
    """What shards one model, and gathers it.

    A layer is gathered when a pass reaches it and let go behind it; what is in no layer
    (embeddings, output embedding) from a forward pass to the end of the backward pass.
    """

    def __init__(self, model: nn.Module) -> None:
        # The processes' device, not the model's: one that lies on the CPU is moved to their GPUs
        # layer by layer, so that none of these ever holds it whole.
        device = "cuda" if dist.get_backend() == "nccl" else "cpu"
        mesh = init_device_mesh(device, (dist.get_world_size(),))
        layers = decoder_layers(model)
        for layer in layers:
            fully_shard(layer, mesh=mesh)
        # A loss multiplies with the output embedding after the pass: it must still be there.
        fully_shard(model, mesh=mesh, reshard_after_forward=False)
        self._model, self._layers = model, layers
        self._modules = [model, *layers]
        for module in self._modules:
            module.set_gradient_divide_factor(1.0)
            module.set_force_sum_reduction_for_comms(True)  # gloo knows no scaled sum
        # FSDP gathers around the forward pass of a whole model; this is one that stops short.
        model.last_hidden_states = MethodType(_last_hidden_states, model)
        register_fsdp_forward_method(model, "last_hidden_states")
        self._is_gathered = False

    def last_hidden_states(self, **inputs: Tensor) -> Tensor:
        """[B, L, H]. The output embedding is gathered when this returns."""
        return self._model.last_hidden_states(**inputs)

    @contextmanager
    def gathered(self) -> Iterator[None]:
        """The whole model in every process, and no communication within."""
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
        """Back to the shards, which is what optimizers and averages change: what a pass without a
        backward pass left gathered would be out of date after it."""
        if not self._is_gathered:
            for module in self._modules:
                module.reshard()

    def whole(self, state: Any) -> Any:
        """A state with its shards made whole, in the first process's memory; the others get None
        in their place. All processes must ask."""
        state = _whole(state)
        if self._is_gathered:
            self._gather()  # asking a model for its state has sharded it
        return state

    def cut(self, tensor: Tensor, place: Tensor) -> Tensor:
        """This process's shard of a whole tensor that every process has, if `place` is sharded."""
        tensor = tensor.to(place.device)
        if not isinstance(place, DTensor):
            return tensor
        return distribute_tensor(tensor, place.device_mesh, place.placements, src_data_rank=None)

    def _gather(self) -> None:
        for module in self._modules:
            module.unshard()


def _whole(state: Any) -> Any:
    if isinstance(state, dict):
        return {name: _whole(value) for name, value in state.items()}
    if isinstance(state, list):
        return [_whole(value) for value in state]
    if not isinstance(state, DTensor):
        return state
    tensor = state.full_tensor()
    return tensor.cpu() if dist.get_rank() == 0 else None


def _last_hidden_states(model: nn.Module, **inputs: Tensor) -> Tensor:
    return model.base_model(**inputs).last_hidden_state
