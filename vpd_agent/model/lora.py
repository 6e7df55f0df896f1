"""Low-rank adapters (LoRA, arXiv 2106.09685): few trained weights beside a frozen model.

There is one model in memory. Student and averaged teacher are adapters of it, the reference is the
model without an adapter. `Policy.active` turns the right one on.
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor, nn

from sandbox.installation import install_hint
from vpd_agent.model.inputs import without_adapter
from vpd_agent.model.policy import Policy, Precision
from vpd_agent.model.probe import logits_alone, probe_rows

if TYPE_CHECKING:
    from peft import PeftModel
    from peft.tuners.tuners_utils import BaseTunerLayer
    from transformers import PreTrainedModel

    from vpd_agent.model.chat import Tokenizer

_READ_BY_MAMBA = {"out_proj", "conv1d"}
"""Layers whose weights Mamba's kernels read directly; peft refuses them in these models."""

_OF_EXPERTS = {"gate_proj", "up_proj", "down_proj", "w1", "w2", "w3", "gate"}
"""Names that peft takes for those of experts where these are fused into one weight."""

STUDENT = "default"  # peft's name of an adapter that is loaded without one


def add_lora(
    policy: Policy,
    rank: int,
    alpha: float | None = None,
    *,
    target: str | Collection[str] = "all-linear",
    seed: int = 0,
) -> Policy:
    """The policy with an adapter, the only part that is trained. Until then its outputs are the
    given policy's.

    The adapter is put into the given policy's model, whose own weights take no gradient from then
    on. The adapter's weights are float32 whatever the model's are. It has no dropout, for the
    reason that `Policy` names.

    rank: r of W + alpha/r · B·A. alpha: None for 2 · rank.
    target: the linear layers that get one, by the ends of their names ("q_proj", "v_proj" …);
        "all-linear": all but the output embedding, and but layers whose weights the model reads
        without calling them (fused experts, their routers, parts of Mamba).
    seed: of A; B begins at 0.
    Raises ValueError for bad numbers and layers, ModuleNotFoundError without peft.
    """
    try:
        from peft import LoraConfig, get_peft_model
        from peft.tuners.lora import Linear
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            f"LoRA needs peft, which is not installed: {install_hint('lora')}", name=error.name
        ) from error
    alpha = 2.0 * rank if alpha is None else alpha
    if rank < 1 or alpha <= 0:
        raise ValueError(f"rank must be at least 1 and alpha positive, got {rank} and {alpha}.")
    targets = _linear_layers(policy) if target == "all-linear" else target
    config = LoraConfig(
        r=rank,
        lora_alpha=alpha,  # pyright: ignore[reportArgumentType] (peft takes any number)
        target_modules=targets if isinstance(targets, str) else list(targets),
        task_type="CAUSAL_LM",
    )
    with torch.random.fork_rng(), warnings.catch_warnings():
        torch.manual_seed(seed)
        warnings.simplefilter("ignore")  # peft's remarks on its own defaults
        try:
            adapted = get_peft_model(policy.model, config)
        except ValueError as error:
            raise ValueError(f"LoRA cannot be added to {target!r}: {error}") from error
    others = [name for name, layer in adapted_layers(adapted).items() if type(layer) is not Linear]
    if others:
        raise ValueError(f"target must name linear layers, which {', '.join(others)} are not.")
    switch = _Switch()
    switch.install(adapted)
    return _LoRAPolicy(adapted, policy.tokenizer, policy.precision, STUDENT, switch)


def _linear_layers(policy: Policy) -> list[str]:
    """Ends of the names of the layers that get an adapter by default: linear ones that the model
    calls, found by a pass over a few tokens. Adapters of others would change nothing.

    Raises ValueError where there is none.
    """
    from transformers.pytorch_utils import Conv1D

    model = policy.model
    kinds: dict[str, set[type]] = {}  # of the layers whose names end so
    called: set[str] = set()
    hooks = []
    for name, module in model.named_modules():
        end = name.rpartition(".")[2]
        kinds.setdefault(end, set()).add(type(module))
        if module is not model.get_output_embeddings():
            hooks.append(module.register_forward_pre_hook(lambda *_, end=end: called.add(end)))
    logits_alone(policy, probe_rows(policy))
    for hook in hooks:
        hook.remove()
    unfit = _unfit(model)
    ends = [e for e in kinds if e in called and kinds[e] <= {nn.Linear, Conv1D} and e not in unfit]
    if not ends:
        raise ValueError(
            f"{type(model).__name__} has no linear layers that it calls, so LoRA has no place in "
            f"it. Train the model itself: leave --lora-rank out."
        )
    return ends


def _unfit(model: nn.Module) -> set[str]:
    """Ends of names that peft does not take in this model, or takes for something else."""
    unfit: set[str] = set()
    if any("mamba" in f"{name} {type(m).__name__}".lower() for name, m in model.named_modules()):
        unfit |= _READ_BY_MAMBA
    if any("expert" in name and weight.dim() == 3 for name, weight in model.named_parameters()):
        unfit |= _OF_EXPERTS
    return unfit


class _LoRAPolicy(Policy):
    """A frozen model and one of its adapters, or none."""

    def __init__(
        self,
        adapted: PeftModel,
        tokenizer: Tokenizer,
        precision: Precision,
        adapter: str | None,
        switch: _Switch,
    ) -> None:
        model: PreTrainedModel = without_adapter(adapted)
        super().__init__(model, tokenizer, precision)
        self._adapted = adapted
        self._adapter = adapter
        self._switch = switch

    @contextmanager
    def active(self) -> Iterator[None]:
        with self._switch.on(self._adapter), super().active():
            yield

    @property
    def weights(self) -> dict[str, nn.Parameter]:
        return self._own(super().weights)

    def frozen_copy(self) -> Policy:
        """A second adapter of the same model, frozen, with the same weights."""
        if self._adapter is None:
            return self.reference()
        name = f"copy{len(self._adapted.peft_config)}"
        self._adapted.add_adapter(name, self._adapted.peft_config[STUDENT])
        self._switch.install(self._adapted)
        copy = _LoRAPolicy(self._adapted, self.tokenizer, self.precision, name, self._switch)
        for weight in copy.weights.values():
            weight.requires_grad_(False)
        copy.copy_from(self)
        return copy

    def reference(self) -> Policy:
        """The model without adapter."""
        return _LoRAPolicy(self._adapted, self.tokenizer, self.precision, None, self._switch)

    def save(self, path: str | Path | None) -> None:
        """Write the model with the adapter merged into its weights, and the adapter itself, as peft
        loads it, in the folder `adapter`.

        Of a sharded policy all processes must ask: the first with a path, the others with None.
        """
        state = self._whole(super()._state())
        if path is None:
            return
        self.model.save_pretrained(path, state_dict=self._merged(state))
        self.tokenizer.save_pretrained(path)
        self._adapted.save_pretrained(
            str(Path(path) / "adapter"),
            state_dict={f"base_model.model.{name}": tensor for name, tensor in state.items()},
            selected_adapters=[STUDENT],
            save_embedding_layers=False,
        )

    def _state(self) -> dict[str, Tensor]:
        return self._own(super()._state())

    def _own(self, tensors: dict[str, Any]) -> dict[str, Any]:
        """Of the model's tensors the adapter's, under names that all adapters share."""
        place = f".{self._adapter}."
        return {n.replace(place, "."): t for n, t in tensors.items() if place in n}

    def _merged(self, state: dict[str, Tensor]) -> dict[str, Tensor]:
        """The model's state, under the names it has without adapters: W + alpha/r · B·A."""
        from peft.tuners.lora import Linear

        merged = {n.replace(".base_layer.", "."): t for n, t in state.items() if ".lora_" not in n}
        for name, layer in adapted_layers(self.model).items():
            assert isinstance(layer, Linear)  # as `add_lora` has checked
            a, b = (state[f"{name}.lora_{x}.{self._adapter}.weight"] for x in "AB")
            change = b @ a * layer.scaling[self._adapter]  # in float32 or wider, as both are
            weight = merged[f"{name}.weight"]
            change = change.T if layer.fan_in_fan_out else change
            merged[f"{name}.weight"] = (weight + change).to(weight.dtype)
        return merged


class _Switch:
    """The names of the adapters that are on, which all of peft's layers read: the student's, unless
    this thread is within `on`.

    Peft's own switch visits every layer and also changes what takes gradient. This one costs
    nothing, ends with its `with` block, and is set per thread, so that one thread can sample while
    another trains. Threads that autograd starts to compute a layer again see the student's adapter,
    which is right: nothing else takes gradient.
    """

    def __init__(self) -> None:
        self._names: ContextVar[tuple[str, ...]] = ContextVar("adapters", default=(STUDENT,))

    def install(self, model: nn.Module) -> None:
        """Replace the names that peft sets in each layer whenever it adds an adapter."""
        for layer in adapted_layers(model).values():
            layer._active_adapter = cast("list[str]", self)  # peft only iterates over it

    @contextmanager
    def on(self, adapter: str | None) -> Iterator[None]:
        token = self._names.set(() if adapter is None else (adapter,))
        try:
            yield
        finally:
            self._names.reset(token)

    def __iter__(self) -> Iterator[str]:
        return iter(self._names.get())

    def __deepcopy__(self, memo: dict) -> _Switch:
        return self


def adapted_layers(model: nn.Module) -> dict[str, BaseTunerLayer]:
    """The layers with adapters of peft, by name."""
    if "peft" not in sys.modules:
        return {}
    from peft.tuners.tuners_utils import BaseTunerLayer

    return {name: m for name, m in model.named_modules() if isinstance(m, BaseTunerLayer)}
