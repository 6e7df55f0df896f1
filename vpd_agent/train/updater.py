"""From a loss to an optimizer step: micro-batches, processes, clipping, learning rates."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Iterable
from functools import partial
from itertools import islice
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from vpd_agent.algorithms.base import Loss, LossInputs, State
from vpd_agent.distributed.world import Processes
from vpd_agent.model.policy import Policy
from vpd_agent.ops.losses import Metrics
from vpd_agent.train.config import TrainConfig
from vpd_agent.train.step_limit import StepLimit, step_kl

if TYPE_CHECKING:
    from vpd_agent.distributed.fsdp import Sharding

Measure = Callable[[LossInputs], dict[str, torch.Tensor]]
Compute = Callable[[LossInputs], tuple[torch.Tensor, Metrics]]


class NonFiniteGradient(FloatingPointError):
    """A loss whose value or gradient is no finite number. No weight was changed."""


class Updater:
    """The optimizers of a run, by name, and what they do with a loss.

    Each is an AdamW with two moments per trained weight, in the weight's dtype: a float32 model of
    n weights takes 4n bytes for itself, 4n for gradients and 8n for each optimizer (an E-step with
    one of its own is another), all divided by the number of processes where the model is sharded.
    """

    def __init__(self, policy: Policy, config: TrainConfig, processes: Processes) -> None:
        self.policy = policy
        self.config = config
        self.processes = processes
        self.optimizers: dict[str, torch.optim.Optimizer] = {}
        self.limit = StepLimit(config.max_step_kl)

    def update(
        self,
        loss: Loss,
        micro_batches: Iterable[LossInputs],
        state: State,
        step: int,
        of_teacher: Iterable[LossInputs] = (),
    ) -> tuple[State, dict[str, float]]:
        """One optimizer step along `gradient`; returns the state and the metrics that `gradient`
        does, with the norm of the gradient and the learning rate, as LOSS/METRIC. With a limit on
        steps also how far this one has moved the policy, step_kl.

        Raises NonFiniteGradient, with all weights and the optimizer as they were.
        """
        before: list[torch.Tensor] | None = [] if self._limited(loss) else None
        state, metrics = self.gradient(loss, micro_batches, state, of_teacher, before)
        norm = self._clipped(self.policy.parameters())
        if not (math.isfinite(norm) and math.isfinite(metrics["loss"])):
            self.policy.zero_grad()
            raise NonFiniteGradient(
                f"Loss {loss.name!r} is {metrics['loss']:g}, the norm of its gradient {norm:g}"
            )
        rate = self.learning_rate(loss, step, state)
        optimizer = self.optimizer(loss.optimizer)
        for group in optimizer.param_groups:
            group["lr"] = rate
        optimizer.step()
        metrics |= {"grad_norm": norm, "learning_rate": rate}
        if before is not None:
            metrics["step_kl"] = step_kl(before, micro_batches, self.processes)
            self.limit.update(metrics["step_kl"])
        return state, {f"{loss.name}/{key}": value for key, value in metrics.items()}

    def gradient(
        self,
        loss: Loss,
        micro_batches: Iterable[LossInputs],
        state: State,
        of_teacher: Iterable[LossInputs] = (),
        logprobs: list[torch.Tensor] | None = None,
    ) -> tuple[State, dict[str, float]]:
        """Leaves the whole batch's gradient in the parameters' `.grad`. Returns what the algorithm
        remembers after the loss's `measure`, and the loss's metrics of the whole batch.

        micro_batches: iterated several times if the loss measures. of_teacher: of teacher rollouts.
        logprobs: gets the student's log-probabilities of each micro-batch.
        """
        self.policy.zero_grad()
        if loss.measure is not None and loss.update is not None:
            micro_batches, sums = self._measured(loss.measure, micro_batches, state)
            state = loss.update(state, sums)
        metrics: dict[str, float] = defaultdict(float)
        for compute, inputs, seen in (
            (loss.compute, micro_batches, logprobs),
            (loss.on_teacher_rollouts, of_teacher, None),
        ):
            if compute is not None:
                backward = partial(_backward, compute, seen)
                for name, value in self._summed(backward, inputs, state).items():
                    metrics[name] += value
        if self.policy.sharding is None:  # else the backward passes have summed them already
            self.processes.add_gradients(self.policy.parameters())
        return state, dict(metrics)

    def optimizer(self, name: str) -> torch.optim.Optimizer:
        if name not in self.optimizers:
            self.optimizers[name] = torch.optim.AdamW(
                self.policy.parameters(),
                betas=(self.config.adam_beta1, self.config.adam_beta2),
                weight_decay=self.config.weight_decay,
                fused=self.policy.device.type in ("cpu", "cuda", "mps", "xpu"),
            )
        return self.optimizers[name]

    def learning_rate(self, loss: Loss, step: int, state: State) -> float:
        """Of the step with this index: with warm-up, decay, the loss's own share, and the limit on
        steps."""
        config = self.config
        rise = (step + 1) / config.warmup_steps if config.warmup_steps else 1.0
        decay_steps = config.learning_rate_decay * config.steps
        fall = (config.steps - step) / decay_steps if decay_steps else 1.0
        share = loss.learning_rate_share(state) if loss.learning_rate_share else 1.0
        if self._limited(loss):
            share *= self.limit.share
        return share * min(rise, fall, 1.0) * (loss.learning_rate or config.learning_rate)

    def _limited(self, loss: Loss) -> bool:
        """Whether max_step_kl holds for a loss: for all that teach the student on its own rollouts,
        not for those of the whole batch, which teach the teacher."""
        return self.limit.most is not None and loss.compute is not None and not loss.whole_batch

    def state_dict(self) -> dict[str, Any]:
        """With a sharded policy all processes must ask, as of `Policy.state_dict`."""
        state = {name: o.state_dict() for name, o in self.optimizers.items()}
        sharding = self.policy.sharding
        return state if sharding is None else sharding.full_state_dict(state)

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take what `state_dict` gave the first process; every process needs all of it."""
        for name, saved in state.items():
            optimizer = self.optimizer(name)
            if self.policy.sharding is not None:
                saved = saved | {"state": self._sharded(self.policy.sharding, saved["state"])}
            optimizer.load_state_dict(saved)

    def _sharded(
        self, sharding: Sharding, moments: dict[int, dict[str, torch.Tensor]]
    ) -> dict[int, dict[str, torch.Tensor]]:
        """This process's shards of an optimizer's whole moments. moments: by the index of their
        weight in `policy.parameters()`, then by name."""
        parameters = self.policy.parameters()
        return {
            index: {
                name: sharding.shard_like(tensor, parameters[index]) if tensor.dim() else tensor
                for name, tensor in of_weight.items()
            }
            for index, of_weight in moments.items()
        }

    def _clipped(self, parameters: list[nn.Parameter]) -> float:
        """Scale the gradient down to max_grad_norm; returns the norm that it had before."""
        norm = torch.nn.utils.clip_grad_norm_(parameters, self.config.max_grad_norm)
        if self.policy.sharding is not None:
            from torch.distributed.tensor import DTensor

            assert isinstance(norm, DTensor)
            norm = norm.full_tensor()
        return float(norm)

    def _measured(
        self, measure: Measure, micro_batches: Iterable[LossInputs], state: State
    ) -> tuple[Iterable[LossInputs], dict[str, float]]:
        """The sums of a loss's `measure`, and the micro-batches to compute the loss on: a single
        one keeps what was computed for it; several are made anew, to hold one at a time."""
        first, *rest = islice(micro_batches, 2)
        if not rest:
            return [first], self._summed(measure, [first], state)
        with torch.no_grad():
            return micro_batches, self._summed(measure, micro_batches, state)

    def _summed(
        self, measure: Measure, micro_batches: Iterable[LossInputs], state: State
    ) -> dict[str, float]:
        """Sums over micro-batches and processes of what `measure` says of each micro-batch."""
        total: dict[str, float] = defaultdict(float)
        for inputs in micro_batches:
            inputs.state = state
            for name, value in measure(inputs).items():
                total[name] += float(value.detach())
        return self.processes.sum(total)


def _backward(
    compute: Compute, seen: list[torch.Tensor] | None, inputs: LossInputs
) -> dict[str, torch.Tensor]:
    value, metrics = compute(inputs)
    if seen is not None:
        seen.append(inputs.student.logprobs.detach())
    value.backward()
    return {"loss": value.detach(), **metrics}
