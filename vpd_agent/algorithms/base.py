"""What an algorithm is: a frozen dataclass whose `losses(step)` names the losses of a step.

A loss is a function of `LossInputs`: a micro-batch, and what each model predicts for its responses
(a `ResponseLogits`, model/response_logits.py), computed when it is first read. From these it makes
a scalar with the functions of ops/losses.py. The trainer knows nothing else of an algorithm.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar

import torch
from torch import Tensor

from vpd_agent.algorithms.trust_gate import TrustGate
from vpd_agent.data.batch import RolloutBatch
from vpd_agent.model.policy import Policy
from vpd_agent.model.response_logits import ResponseLogits
from vpd_agent.model.teacher import Teacher, TeacherWeights
from vpd_agent.ops.losses import Metrics

State = dict[str, float]  # what an algorithm remembers between steps; saved in checkpoints


@dataclass(frozen=True)
class Step:
    """Where a run is. index counts from 0; update counts the passes over one batch from 0."""

    index: int
    total: int
    update: int = 0


@dataclass(frozen=True)
class Loss:
    """One loss of a step, and its own optimizer step.

    compute: micro-batch → (its share of the whole batch's loss, its share of the metrics); of the
        rollouts that were sampled on the plain prompt. None: the loss has no part there.
    on_teacher_rollouts: the same of those sampled on the teacher's prompt
        (`Algorithm.teacher_rollouts`), which are a batch of their own with denominators of its own:
        `old_logprobs` are those on `teacher_prompt`, and `prompt` is the plain one. The gradients
        of both add up in one optimizer step. None: the loss has no part there.
    measure: run without gradient over all micro-batches of `compute` before any is computed; its
        sums go to `update`, which returns what the state becomes. For whole-batch quantities that a
        loss needs, such as a moving average.
    when: whether the loss is taken at all, by the state; None: it is.
    whole_batch: take it in one optimizer step on the whole batch, before the mini-batches of the
        losses that are not (TrainConfig.mini_batches).
    optimizer: losses that name the same one share its moments. Each name has its own.
    learning_rate: None for the run's. learning_rate_share: of that rate, by the state; None: all.
    moves_teacher: an averaged teacher follows the student right after this loss, so that the losses
        behind it hear what it has changed; as after each step, by one step of its average.
    """

    name: str
    compute: Callable[[LossInputs], tuple[Tensor, Metrics]] | None
    on_teacher_rollouts: Callable[[LossInputs], tuple[Tensor, Metrics]] | None = None
    measure: Callable[[LossInputs], dict[str, Tensor]] | None = None
    update: Callable[[State, dict[str, float]], State] | None = None
    when: Callable[[State], bool] | None = None
    whole_batch: bool = False
    optimizer: str = "policy"
    learning_rate: float | None = None
    learning_rate_share: Callable[[State], float] | None = None
    moves_teacher: bool = False

    def __post_init__(self) -> None:
        if (self.measure is None) != (self.update is None):
            raise ValueError(
                f"Loss {self.name!r} must have both `measure` and `update`, which takes its sums, "
                f"or neither."
            )
        if self.compute is None and (self.on_teacher_rollouts is None or self.measure is not None):
            raise ValueError(
                f"Loss {self.name!r} must have `compute` if it has `measure` or no "
                f"`on_teacher_rollouts`."
            )


class Algorithm:
    """Base of the algorithms: the defaults of what the trainer asks for.

    name: what the command line calls it; by default the name of the class.
    teacher: whose weights answer the teacher's prompt; None if the algorithm has no teacher.
    ema_rate: of teacher="ema", and ema_every: it moves after every so many steps.
    trust_region: of teacher="trust_region".
    temper_teacher: whether the run's temperature divides the teacher's logits as it does the
        student's.
    needs_reference: keep a reference, a frozen copy of the initial policy, or, with a
        reference_rate above 0, a moving average: θ_ref ← (1−rate)·θ_ref + rate·θ after each step.
    teacher_rollouts: share of each group that the policy samples on the teacher's prompt, with the
        feedback on a failed attempt of the same group. Where none failed, or none has feedback,
        they are sampled on the plain prompt: the number of rollouts is the same.
    min_group_size: rollouts of a problem without which nothing can be learned.
    gate: how far the teacher is to be trusted, measured on its own answers; None: fully.
    tuned_field: the one field that is the method's own in a comparison with equal tuning, beside
        the learning rate, and tuned_values: what is tried for it; "" and () for none.
    """

    name: ClassVar[str]
    teacher: TeacherWeights | None = None
    ema_rate: float = 0.05
    ema_every: int = 1
    trust_region: float = 0.1
    temper_teacher: bool = True
    needs_reference: bool = False
    reference_rate: float = 0.0
    teacher_rollouts: float = 0.0
    min_group_size: ClassVar[int] = 1
    tuned_field: ClassVar[str] = ""
    tuned_values: ClassVar[tuple[float, ...]] = ()

    def __init_subclass__(cls) -> None:
        if "name" not in vars(cls):
            cls.name = cls.__name__

    @property
    def gate(self) -> TrustGate | None:
        return None

    def losses(self, step: Step) -> Sequence[Loss]:
        raise NotImplementedError

    def make_teacher(self, student: Policy, model: Policy | None = None) -> Teacher | None:
        """The teacher, from the student as it is now; None if the algorithm has none.

        model: another model that is the teacher; see `Teacher`. Raises ValueError if the algorithm
        has no teacher, or the model another vocabulary.
        """
        if self.teacher is not None:
            return Teacher(student, self.teacher, self.ema_rate, self.trust_region, model=model)
        if model is not None:
            raise ValueError(f"{self.name} has no teacher, so no other model can be it.")
        return None

    def token_values(self, inputs: LossInputs) -> dict[str, Tensor]:
        """What the algorithm makes of each token, [B, T], by name: for `vpd inspect`. It shows
        divergence, implicit_reward, token_advantage, and taught (where the teacher's term applies).
        """
        return {}


class LossInputs:
    """A micro-batch and, computed on first use, what each model predicts for its responses."""

    def __init__(
        self,
        batch: RolloutBatch,
        *,
        policy: Policy,
        teacher: Teacher | None = None,
        reference: Policy | None = None,
        state: State | None = None,
        temperature: float = 1.0,
        teacher_temperature: float | None = None,
    ) -> None:
        """temperature: what logits are divided by. teacher_temperature: what those of `teacher`
        are; None: by the same."""
        self.batch = batch
        self.state = state if state is not None else {}
        self._policy = policy
        self._teacher = teacher
        self._reference = reference
        self._temperature = temperature
        self._teacher_temperature = teacher_temperature or temperature

    @cached_property
    def student(self) -> ResponseLogits:
        """The policy on the plain prompt; carries gradient."""
        return self._forward(self._policy, teacher_prompt=False)

    @cached_property
    def policy_on_teacher_prompt(self) -> ResponseLogits:
        """The policy on the teacher's prompt; carries gradient. Zero in rows without one."""
        return self._forward(self._policy, teacher_prompt=True)

    @cached_property
    def teacher(self) -> ResponseLogits:
        """The teacher's weights on the teacher's prompt; no gradient. Zero in rows without one."""
        if self._teacher is None:
            raise ValueError("This loss asks for a teacher, but its algorithm's `teacher` is None.")
        with torch.no_grad():
            heat = self._teacher_temperature
            logits = self._forward(self._teacher.policy, teacher_prompt=True, temperature=heat)
            if self._teacher.student_share:
                student = self._forward(self._policy, teacher_prompt=True, temperature=heat)
                logits = logits.blend(student, self._teacher.student_share)
            return logits

    @cached_property
    def reference(self) -> ResponseLogits:
        """The reference policy on the plain prompt; no gradient."""
        if self._reference is None:
            raise ValueError(
                "This loss asks for the reference policy, but its algorithm's `needs_reference` "
                "is False."
            )
        with torch.no_grad():
            return self._forward(self._reference, teacher_prompt=False)

    def _forward(
        self, policy: Policy, *, teacher_prompt: bool, temperature: float | None = None
    ) -> ResponseLogits:
        b = self.batch
        prompt, mask = (b.prompt, b.prompt_mask), b.loss_mask
        if teacher_prompt:
            prompt, mask = (b.teacher_prompt, b.teacher_prompt_mask), b.teacher_mask
        temperature = temperature or self._temperature
        return policy.forward(*prompt, b.response, b.token_mask, mask, temperature=temperature)
