"""From a loss to an optimiser step: micro-batches, processes, clipping, learning rates."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from typing import Any

import torch

from vpd_agent.algorithms.base import Loss, LossInputs, State
from vpd_agent.config import TrainConfig
from vpd_agent.policy import Policy
from vpd_agent.processes import Processes

MicroBatches = Callable[[], Iterator[LossInputs]]  # the same ones each time it is called


class NonFiniteGradient(FloatingPointError):
    """A loss whose gradient holds an infinity or a NaN. No weight was changed."""

    def __init__(self, loss: str, norm: float) -> None:
        super().__init__(f"The gradient of loss {loss!r} is {norm}")
        self.loss = loss


class Updater:
    """The optimisers of a run, by name, and what they do with a loss."""

    def __init__(self, policy: Policy, config: TrainConfig, processes: Processes) -> None:
        self.policy = policy
        self.config = config
        self.processes = processes
        self.optimizers: dict[str, torch.optim.Optimizer] = {}

    def update(
        self, loss: Loss, micro_batches: MicroBatches, state: State, step: int
    ) -> tuple[State, dict[str, float]]:
        """One optimiser step on `gradient`; returns what that returns, and the step's own metrics.

        Raises NonFiniteGradient, with all weights and the optimiser as they were.
        """
        state, metrics = self.gradient(loss, micro_batches, state)
        optimizer, parameters = self.optimizer(loss.optimizer), self.policy.parameters()
        norm = torch.nn.utils.clip_grad_norm_(parameters, self.config.max_grad_norm).item()
        if not math.isfinite(norm):
            self.policy.model.zero_grad(set_to_none=True)
            raise NonFiniteGradient(loss.name, norm)
        rate = self.learning_rate(loss, step)
        for group in optimizer.param_groups:
            group["lr"] = rate
        optimizer.step()
        metrics |= {"grad_norm": norm, "learning_rate": rate}
        return state, {f"{loss.name}/{key}": value for key, value in metrics.items()}

    def gradient(
        self, loss: Loss, micro_batches: MicroBatches, state: State
    ) -> tuple[State, dict[str, float]]:
        """Leaves the whole batch's gradient in the parameters' `.grad`. Returns what the algorithm
        remembers after the loss's `measure`, and the loss's metrics of the whole batch."""
        if loss.measure is not None:
            micro_batches, sums = self._measured(loss, micro_batches)
            state = loss.update(state, sums)
        self.policy.model.zero_grad(set_to_none=True)
        metrics = self._summed(_backward(loss, inputs, state) for inputs in micro_batches())
        self.processes.add_gradients(self.policy.parameters())
        return state, metrics

    def optimizer(self, name: str) -> torch.optim.Optimizer:
        if name not in self.optimizers:
            self.optimizers[name] = torch.optim.AdamW(
                self.policy.parameters(),
                betas=(self.config.adam_beta1, self.config.adam_beta2),
                weight_decay=self.config.weight_decay,
                fused=True,
            )
        return self.optimizers[name]

    def learning_rate(self, loss: Loss, step: int) -> float:
        """Of the step with this index, warm-up and decay included."""
        config = self.config
        rise = (step + 1) / config.warmup_steps if config.warmup_steps else 1.0
        decay_steps = config.learning_rate_decay * config.steps
        fall = (config.steps - step) / decay_steps if decay_steps else 1.0
        return min(rise, fall, 1.0) * (loss.learning_rate or config.learning_rate)

    def state_dict(self) -> dict[str, Any]:
        return {name: o.state_dict() for name, o in self.optimizers.items()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        for name, optimizer_state in state.items():
            self.optimizer(name).load_state_dict(optimizer_state)

    def _measured(
        self, loss: Loss, micro_batches: MicroBatches
    ) -> tuple[MicroBatches, dict[str, float]]:
        """The sums of a loss's `measure`, and the micro-batches to go on with: a single one keeps
        what was computed for it, several would need the memory of all."""
        first, *rest = islice(micro_batches(), 2)
        if not rest:
            return lambda: iter([first]), self._summed([loss.measure(first)])
        with torch.no_grad():
            sums = self._summed(loss.measure(inputs) for inputs in micro_batches())
        return micro_batches, sums

    def _summed(self, parts: Iterable[dict[str, torch.Tensor]]) -> dict[str, float]:
        """Sums of shares over micro-batches and processes."""
        total: dict[str, float] = defaultdict(float)
        for part in parts:
            for name, value in part.items():
                total[name] += float(value.detach())
        return self.processes.sum(total)


def _backward(loss: Loss, inputs: LossInputs, state: State) -> dict[str, torch.Tensor]:
    inputs.state = state
    value, metrics = loss.compute(inputs)
    value.backward()
    return {"loss": value.detach(), **metrics}
