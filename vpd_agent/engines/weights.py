"""The weights and the configuration of a policy as a checkpoint has them: for engines that have a
model of their own."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from vpd_agent.model.lora import adapted_layers

if TYPE_CHECKING:
    from peft.tuners.tuners_utils import BaseTunerLayer
    from transformers import PreTrainedModel

    from vpd_agent.model.policy import Policy


def checkpoint_weights(policy: Policy) -> Iterator[tuple[str, Tensor]]:
    """Names and weights as `save_pretrained` would write them; tied weights come under each name.

    Adapters of peft are merged in a copy of one layer at a time: the policy's own weights are not
    changed (adding and subtracting an update would round them), and there is never a second model
    in memory. Without adapters nothing is copied, so use the weights before the next step. Of a
    sharded policy: within `policy.gathered()`.
    """
    from transformers.core_model_loading import revert_weight_conversion

    model = policy.model
    adapted = adapted_layers(model)
    inside = tuple(f"{name}." for name in adapted)
    plain = {name: weight for name, weight in _state(policy).items() if not name.startswith(inside)}
    plain = revert_weight_conversion(model, plain)
    for name in sorted({*plain, *adapted}, key=_layer_order):  # vLLM wants whole layers in turn
        if name in adapted:
            merged = _merged(policy, adapted[name]).state_dict(prefix=f"{name}.")
            yield from revert_weight_conversion(model, merged).items()
        else:
            yield name, plain[name]


def save_weights(policy: Policy, folder: Path | None) -> None:
    """Write the weights for a running server to load.

    For a sharded policy all processes must call this: the first with a folder, the others with
    None.
    """
    policy.save(folder)
    if folder is not None:
        _write_tied(policy.model, folder)


def save_config(policy: Policy, folder: Path) -> None:
    """Write `config.json`, without generation settings: the caller decides how to sample."""
    config = copy.deepcopy(policy.model.config)
    config.architectures = [type(policy.model).__name__]
    config.dtype = policy.model.dtype
    config.save_pretrained(folder)


def _state(policy: Policy) -> dict[str, Tensor]:
    """The model's `state_dict`, which FSDP makes of shards, also where the weights are gathered."""
    model = policy.model
    if policy.sharding is None:
        return model.state_dict()
    kept = {
        f"{prefix}.{name}".lstrip("."): buffer
        for prefix, module in model.named_modules()
        for name, buffer in module._buffers.items()
        if buffer is not None and name not in module._non_persistent_buffers_set
    }
    return {**dict(model.named_parameters(remove_duplicate=False)), **kept}


def _write_tied(model: PreTrainedModel, folder: Path) -> None:
    """Write tied weights under their other names too, in a separate file: vLLM 0.32, when it
    reloads a checkpoint that has no output layer, keeps the old one."""
    from safetensors import safe_open
    from safetensors.torch import save_file

    index_path = folder / "model.safetensors.index.json"
    index = json.loads(index_path.read_text()) if index_path.exists() else None
    tied: dict[str, Tensor] = {}
    for name, source in model.all_tied_weights_keys.items():
        file = index["weight_map"][source] if index else "model.safetensors"
        with safe_open(folder / file, "pt") as weights:
            tied[name] = weights.get_tensor(source)
    if tied:
        save_file(tied, folder / "tied.safetensors", metadata={"format": "pt"})
    if tied and index:
        index["weight_map"] |= dict.fromkeys(tied, "tied.safetensors")
        index_path.write_text(json.dumps(index))


def _layer_order(name: str) -> list[tuple[int, str]]:
    """A key for sorting that puts layer 2 before layer 10."""
    return [(int(part), "") if part.isdigit() else (-1, part) for part in name.split(".")]


def _merged(policy: Policy, layer: BaseTunerLayer) -> nn.Module:
    """A copy of the layer without peft, with the policy's adapter added to its weights."""
    merged = copy.deepcopy(layer)
    with policy.active(), torch.autocast(policy.device.type, enabled=False):
        merged.merge()
    return merged.get_base_layer()
