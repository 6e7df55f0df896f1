"""One training step: from rollouts to new weights. It knows no algorithm by name."""

from __future__ import annotations

import hashlib
import math
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any, TypedDict, TypeVar, Unpack

import gymnasium as gym
import torch

from sandbox import SandboxError
from vpd_agent.algorithms.base import Algorithm, Loss, LossInputs, State, Step
from vpd_agent.algorithms.distillation import WithTeacher, num_taught_rollouts
from vpd_agent.console import say
from vpd_agent.data.batch import RolloutBatch
from vpd_agent.data.types import Rollout
from vpd_agent.distributed.world import Processes
from vpd_agent.engines import Engine, sampling_from
from vpd_agent.engines.blended import BlendedEngine
from vpd_agent.engines.hf import HFEngine
from vpd_agent.model.policy import Policy
from vpd_agent.model.teacher import Teacher
from vpd_agent.ops.losses import sampler_correction
from vpd_agent.rollout.collect import Actor
from vpd_agent.rollout.critic import PolicyCritic
from vpd_agent.rollout.environment import critics
from vpd_agent.rollout.teacher_prompt import TeacherTemplate, teacher_prompt
from vpd_agent.train.config import TrainConfig
from vpd_agent.train.micro_batches import MicroBatches
from vpd_agent.train.monitor import describe, describe_teacher_rollouts
from vpd_agent.train.step_batch import StepBatch, silent
from vpd_agent.train.trust_probe import ask_teacher
from vpd_agent.train.updater import Updater

if TYPE_CHECKING:
    from vpd_agent.algorithms.trust_gate import TrustGate

Result = TypeVar("Result")


class Parts(TypedDict, total=False):
    """What a run may be given besides its policy, algorithm, environment and configuration.

    template: of the teacher's prompts; None: the default one.
    engine: samples the rollouts, and for a teacher with weights of the same model; None: HFEngine.
    teacher: None: the one that the algorithm asks for, see `Algorithm.make_teacher`.
    teacher_engine: samples for a teacher that is another model; None: HFEngine.
    reference: the policy that the algorithm's `needs_reference` means; None: a copy of the policy.
    processes: those of the run; None: this one alone.
    warn: called with a line for a person to read, in every process.
    """

    template: TeacherTemplate | None
    engine: Engine | None
    teacher: Teacher | None
    teacher_engine: Engine | None
    reference: Policy | None
    processes: Processes | None
    warn: Callable[[str], None]


class Learner:
    """Student, teacher and reference of a run, and how a batch of rollouts changes them.

    environment: judges what the teacher answers, for a `TrustGate`.
    """

    def __init__(
        self,
        policy: Policy,
        algorithm: Algorithm,
        environment: gym.vector.VectorEnv,
        config: TrainConfig,
        **parts: Unpack[Parts],
    ) -> None:
        self.processes = parts.get("processes") or Processes()
        _check_setup(algorithm, environment, config, self.processes, parts.get("reference"))
        _check_weights(policy)
        self.processes.broadcast_(policy.weights.values())
        if config.gradient_checkpointing:
            policy.enable_gradient_checkpointing()
        self.policy = policy
        self.algorithm = algorithm
        self.environment = environment
        self.config = config
        self.template = parts.get("template") or TeacherTemplate()
        longest = min(config.max_teacher_prompt_tokens, self.max_tokens_before_response)
        self.teacher_prompt = partial(teacher_prompt, policy, self.template, max_tokens=longest)
        self.warn = parts.get("warn", say)
        # What samples while weights change needs weights of its own.
        self.engine = parts.get("engine") or HFEngine(
            policy.frozen_copy() if config.overlap else policy, places=config.sampling_tokens
        )
        if config.overlap:
            _check_critics(environment, self.engine)
        self.teacher = parts.get("teacher") or algorithm.make_teacher(policy)
        self.teacher_engine = parts.get("teacher_engine")
        if self.teacher_engine is None and self.teacher and self.teacher.is_other_model:
            self.teacher_engine = HFEngine(self.teacher.policy, places=config.sampling_tokens)
        self.reference = parts.get("reference")
        if self.reference is None and algorithm.needs_reference:
            is_moving = algorithm.reference_rate > 0
            self.reference = policy.frozen_copy() if is_moving else policy.reference()
        if config.sharding == "fsdp":
            from vpd_agent.distributed.fsdp import shard

            copies = [self.teacher.policy if self.teacher else None, self.reference]
            shard([policy, *(copy for copy in copies if copy is not None)])
        self.updater = Updater(policy, config, self.processes)
        self.state: State = {}
        self.step = 0  # finished ones
        self.seconds: dict[str, float] = defaultdict(float)  # of the current step, by its parts
        self.busy_seconds: dict[str, float] = defaultdict(float)  # of it, by who worked
        self._warned_of_no_teacher = False

    def train_step(
        self,
        rollouts: Sequence[Rollout],
        *,
        meanwhile: AbstractContextManager[None] | None = None,
    ) -> dict[str, float]:
        """Every loss of the step, with its optimizer steps; metrics of the whole batch, where there
        are mini-batches the means over them.

        meanwhile: entered while the losses are computed. The engine then keeps the weights that it
        has; else it takes the new ones.

        Raises FloatingPointError where log-probabilities, a loss or its gradient are not finite.
        """
        self._check_logprobs(rollouts)
        own = [r for r in rollouts if not r.is_teacher_rollout]
        prompts = self._teacher_prompts(own)
        batch = self._batch(own, prompts)
        metrics = describe(batch, own, self.processes)
        of_teacher = self._batch_of_teacher([r for r in rollouts if r.is_teacher_rollout], batch)
        if self.algorithm.teacher_rollouts:
            metrics |= describe_teacher_rollouts(of_teacher)
        if isinstance(self.algorithm, WithTeacher):
            taught = num_taught_rollouts(batch, self.algorithm)
            metrics["taught_fraction"] = taught / batch.num_rollouts
        if not self.engine.logprobs_match_trainer or self.config.overlap:
            with self.busy("trainer"):
                batch, gap = self._corrected(batch)
                metrics |= gap
                if of_teacher is not None:
                    of_teacher, _ = self._corrected(of_teacher, on_teacher_prompt=True)
        if self.algorithm.gate is not None:
            metrics |= self._measure_trust(self.algorithm.gate, own, prompts)
        with meanwhile or nullcontext(), self.busy("trainer"):
            for update in range(self.config.updates_per_batch):
                metrics |= self._pass_over(StepBatch(batch, of_teacher), update)
            if self.teacher is not None and (self.step + 1) % self.algorithm.ema_every == 0:
                self.teacher.update()
            if self.reference is not None and self.algorithm.reference_rate:
                self.reference.ema_update_(self.policy, self.algorithm.reference_rate)
        if meanwhile is None:
            with self.timed("sync"), self.busy("trainer"):
                self.engine.sync(self.policy)
        self.step += 1
        return metrics

    def _pass_over(self, batch: StepBatch, update: int) -> dict[str, float]:
        """The step's losses on a batch: first those of the whole batch, then the others, mini-batch
        by mini-batch. Returns their metrics."""
        losses = self.algorithm.losses(Step(self.step, self.config.steps, update))
        on_all = [loss for loss in losses if loss.whole_batch]
        others = [loss for loss in losses if not loss.whole_batch]
        metrics = self._take(on_all, batch) if on_all else {}
        seed = self._seed("mini_batches", self.step, update)
        parts = batch.mini_batches(self.config.mini_batches, seed, self._counted)
        return metrics | _means([self._take(others, part) for part in parts])

    def _take(self, losses: Sequence[Loss], batch: StepBatch) -> dict[str, float]:
        """One optimizer step per loss; returns their metrics."""
        metrics: dict[str, float] = {}
        own, of_teacher = (self.micro_batches(b) if b is not None else () for b in batch)
        for loss in losses:
            has_part = loss.compute is not None or batch.of_teacher is not None
            if not has_part or (loss.when is not None and not loss.when(self.state)):
                continue
            with self.timed(loss.name):
                self.state, more = self.updater.update(loss, own, self.state, self.step, of_teacher)
            metrics |= more
            if loss.moves_teacher and self.teacher is not None:
                self.teacher.update()
        return metrics

    def make_batch(self, rollouts: Sequence[Rollout]) -> RolloutBatch:
        """Rollouts with their teacher prompts, as tensors."""
        return self._batch(rollouts, self._teacher_prompts(rollouts))

    def micro_batches(self, batch: RolloutBatch) -> MicroBatches:
        """A batch in the parts that its losses are computed in."""
        inputs = partial(
            LossInputs,
            policy=self.policy,
            teacher=self.teacher,
            reference=self.reference,
            temperature=self.config.temperature,
            teacher_temperature=self.config.temperature if self.algorithm.temper_teacher else 1.0,
        )
        size, tokens = self.config.micro_batch_size, self.config.micro_batch_tokens
        return MicroBatches(batch, inputs, self.processes, size, tokens)

    def _check_logprobs(self, rollouts: Sequence[Rollout]) -> None:
        """Raise FloatingPointError, in all processes, for rollouts nobody can have sampled."""
        bad = next((r for r in rollouts if not torch.tensor(r.logprobs).isfinite().all()), None)
        if self.processes.max(int(bad is not None)):
            whose = f"an answer to problem {bad.problem_id!r}" if bad else "an answer"
            raise FloatingPointError(
                f"The engine gave tokens of {whose} a log-probability that is not finite"
            )

    def _teacher_prompts(self, rollouts: Sequence[Rollout]) -> list[list[int] | None]:
        if self.teacher is None:
            return [None] * len(rollouts)
        prompts = self.prompts_with_feedback(rollouts)
        taught = map(self.may_be_taught, rollouts)
        prompts = [p if may else None for p, may in zip(prompts, taught, strict=True)]
        if not any(prompts) and not self._warned_of_no_teacher:
            self._warned_of_no_teacher = True
            self.warn(
                "No rollout of this batch has feedback, so no row has a teacher, and nothing is "
                "learned from one. Does the environment give infos['feedback']?"
            )
        return prompts

    def may_be_taught(self, rollout: Rollout) -> bool:
        """Whether a teacher may speak on it, if there is something to show the teacher."""
        return self.config.teach_truncated or rollout.finish != "length"

    def prompts_with_feedback(self, rollouts: Sequence[Rollout]) -> list[list[int] | None]:
        """The teacher's prompt of each rollout; None where `teacher_prompt` gives none."""
        success = self.config.success_reward
        return [
            self.teacher_prompt(
                r.messages,
                r.text,
                r.feedback,
                solved=r.reward >= success,
                demonstration=r.demonstration,
            )
            for r in rollouts
        ]

    def actor(self, environment: gym.vector.VectorEnv, engine: Engine | None = None) -> Actor:
        """The policy in an environment, as the run's engine samples from it, or another one."""
        c = self.config
        limits = c.max_response_tokens, c.max_turn_tokens
        engine = engine or self.engine
        return Actor(self.policy, engine, environment, *limits, c.temperature, self.busy)

    def second_prompt(self, attempts: Sequence[Rollout]) -> list[int] | None:
        """The teacher's prompt of the first of these attempts that failed and has one."""
        failed = [r for r in attempts if r.reward < self.config.success_reward]
        return next((p for p in self.prompts_with_feedback(failed) if p is not None), None)

    @contextmanager
    def sampler_to_itself(self) -> Iterator[None]:
        """Within, nobody samples or judges beside this thread, and the engine has the policy's
        weights. All processes must enter and leave it together."""
        yield

    @contextmanager
    def sampling_teacher(self) -> Iterator[Engine]:
        """Within, an engine that samples from the weights that teach: the run's engine, with the
        teacher's weights for as long; that of another model; or, for the interpolated logits of a
        trust-region teacher, one in this process. Without a teacher, from the policy. All processes
        must enter and leave it together, and take no gradient within."""
        teacher = self.teacher
        with self.policy.gathered(), (teacher.policy if teacher else self.policy).gathered():
            if teacher is None:
                yield self.engine
            elif teacher.student_share:
                share, places = teacher.student_share, self.config.sampling_tokens
                yield BlendedEngine(teacher.policy, self.policy, share, places)
            elif self.teacher_engine is not None:
                yield self.teacher_engine
            else:
                with sampling_from(self.engine, teacher.policy, self.policy) as engine:
                    yield engine

    @property
    def max_tokens_before_response(self) -> int:
        return self.policy.context_length - self.config.max_response_tokens

    def _batch_of_teacher(
        self, rollouts: Sequence[Rollout], own: RolloutBatch
    ) -> RolloutBatch | None:
        """Of teacher rollouts; None where no process has any. own: any batch of this process."""
        if not self.algorithm.teacher_rollouts or not self.processes.max(len(rollouts)):
            return None
        if not rollouts:
            return self._counted(silent(own))
        return self._batch(rollouts, [r.prompt_ids for r in rollouts], shows_outcome=False)

    def _batch(
        self,
        rollouts: Sequence[Rollout],
        prompts: Sequence[list[int] | None],
        shows_outcome: bool = True,
    ) -> RolloutBatch:
        """As `as_tensors`, counted over all processes and on the policy's device."""
        batch = self.as_tensors(rollouts, prompts, shows_outcome)
        return self._counted(batch).to(self.policy.device)

    def as_tensors(
        self,
        rollouts: Sequence[Rollout],
        prompts: Sequence[list[int] | None],
        shows_outcome: bool = True,
    ) -> RolloutBatch:
        """Rollouts with these teacher prompts, as this run counts them, in this process alone.

        shows_outcome: whether the prompts may show a rollout's own outcome.
        """
        return RolloutBatch.from_rollouts(
            rollouts,
            prompts,
            success_reward=self.config.success_reward,
            pad_id=self.policy.pad_id,
            max_response_tokens=self.config.max_response_tokens,
            teacher_sees_outcome=shows_outcome and self.template.needs_feedback,
            skipped_ids=() if self.config.teach_end else self.policy.eos_ids,
        )

    def _counted(self, batch: RolloutBatch) -> RolloutBatch:
        """With the numbers of these rows, of all processes together."""
        totals: dict[str, Any] = self.processes.sum(batch.totals())
        return replace(batch, **totals)

    def _corrected(
        self, batch: RolloutBatch, *, on_teacher_prompt: bool = False
    ) -> tuple[RolloutBatch, dict[str, float]]:
        """The batch with log-probabilities of the policy as it is, and weights that correct for a
        sampler that had other ones; metrics of the difference."""
        with self.timed("correct"):
            micro_batches = self.micro_batches(batch)
            old_logprobs = micro_batches.logprobs(on_teacher_prompt=on_teacher_prompt)
        weights, metrics = sampler_correction(
            old_logprobs,
            batch.old_logprobs,
            batch.loss_mask,
            batch.num_tokens,
            level=self.config.sampler_correction,
            maximum=self.config.sampler_clip,
        )
        summed = self.processes.sum({f"sampler/{k}": v.item() for k, v in metrics.items()})
        return replace(batch, old_logprobs=old_logprobs, sampler_weight=weights), summed

    def _measure_trust(
        self,
        gate: TrustGate,
        rollouts: Sequence[Rollout],
        prompts: Sequence[list[int] | None],
    ) -> dict[str, float]:
        """Where it is due, ask the teacher for answers to failed rollouts; the gate's metrics."""
        metrics: dict[str, float] = {}
        if gate.due(self.step) and self.teacher is not None:
            with self.timed("gate"), self.sampler_to_itself(), self.sampling_teacher() as engine:
                asked = self.fail_together(
                    lambda: ask_teacher(
                        # Without wrappers: its reward is all that is wanted.
                        self.actor(self.environment.unwrapped, engine),
                        rollouts,
                        prompts,
                        self.config,
                        rows=-(-gate.rows // self.processes.size),
                        seed=self._seed("gate", self.step),
                    )
                )
            sums = self.processes.sum(asked)
            self.state = gate.update(self.state, sums)
            metrics = {
                "gate/rows": sums["rows"],
                "gate/teacher_solved": sums["teacher"] / max(sums["rows"], 1),
                "gate/student_solved": sums["student"] / max(sums["rows"], 1),
            }
        return metrics | {"gate/weight": gate.weight(self.state)}

    def generator(self, *purpose: object, seed: int | None = None) -> torch.Generator:
        """seed: in place of the run's own."""
        return torch.Generator(self.policy.device).manual_seed(self._seed(*purpose, seed=seed))

    def _seed(self, *purpose: object, seed: int | None = None) -> int:
        """A seed of its own for each purpose, process and step."""
        seed = self.config.seed if seed is None else seed
        text = repr((seed, self.processes.rank, *purpose))
        return int.from_bytes(hashlib.sha256(text.encode()).digest()[:7])

    def fail_together(self, work: Callable[[], Result]) -> Result:
        """Do work that comes before any weight of a step changes. If it fails in one process, it
        fails in all."""
        error: Exception | None = None
        results: list[Result] = []
        try:
            results.append(work())
        except Exception as failure:
            error = failure
        if self.processes.max(int(error is not None)):
            raise error or SandboxError("Another process failed; its message says why.")
        return results[0]

    @contextmanager
    def timed(self, name: str) -> Iterator[None]:
        start = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[name] += time.perf_counter() - start

    @contextmanager
    def busy(self, who: str) -> Iterator[None]:
        """Within, "trainer", "sampler" or "judge" works: for their idle shares of a step."""
        start = time.perf_counter()
        try:
            yield
        finally:
            self.busy_seconds[who] += time.perf_counter() - start

    def state_dict(self) -> dict[str, Any]:
        """All that the next steps depend on. Every process must call it; the first one's is
        whole."""
        return {
            "step": self.step,
            "state": self.state,
            "policy": self.policy.state_dict(),
            "optimizers": self.updater.state_dict(),
            "rate_share": self.updater.limit.share,
            "teacher": self.teacher.state_dict() if self.teacher else None,
            "reference": self.reference.state_dict() if self.reference else None,
        }

    def load_state_dict(self, saved: dict[str, Any]) -> None:
        """Take what `state_dict` gave the first process; every process needs all of it."""
        self.policy.load_state_dict(saved["policy"])
        self.updater.load_state_dict(saved["optimizers"])
        self.updater.limit.share = saved.get("rate_share", 1.0)
        if self.teacher is not None:
            self.teacher.load_state_dict(saved["teacher"])
        if self.reference is not None:
            self.reference.load_state_dict(saved["reference"])
        self.engine.sync(self.policy)
        self.step = saved["step"]
        self.state = saved["state"]


def check_sizes(algorithm: Algorithm, config: TrainConfig, processes: int) -> None:
    """Raise ValueError for sizes of batches that do not fit the algorithm or the number of
    processes."""
    prompts, rest = divmod(config.prompts_per_step, processes)
    if rest:
        raise ValueError(
            f"prompts_per_step must be a multiple of the {processes} processes, got "
            f"{config.prompts_per_step}."
        )
    if prompts % config.mini_batches:
        raise ValueError(
            f"Each of {processes} processes has {prompts} of the prompts_per_step, which "
            f"mini_batches must divide, got {config.mini_batches}. Lower it to "
            f"{math.gcd(prompts, config.mini_batches)}, or change prompts_per_step."
        )
    if algorithm.gate is not None and config.group_size < 2:
        raise ValueError(
            f"gate_width compares the teacher with the other rollouts of a group, so group_size "
            f"must be at least 2, got {config.group_size}. Leave gate_width out, or sample more."
        )
    if config.group_size < algorithm.min_group_size:
        raise ValueError(
            f"{algorithm.name} compares the rollouts of a group, so group_size must be at "
            f"least {algorithm.min_group_size}, got {config.group_size}."
        )
    if algorithm.teacher_rollouts:
        count = num_teacher_rollouts(algorithm, config)
        if not 2 <= count < config.group_size:
            raise ValueError(
                f"Of each group at least 2 rollouts must be the teacher's and at least 1 the "
                f"student's: teacher_rollouts={algorithm.teacher_rollouts:g} of a group_size of "
                f"{config.group_size} are {count}. Change one of the two."
            )


def _check_setup(
    algorithm: Algorithm,
    environment: gym.vector.VectorEnv,
    config: TrainConfig,
    processes: Processes,
    reference: Policy | None,
) -> None:
    """Raise ValueError for parts of a run that do not fit each other."""
    prompts = config.prompts_per_step // processes.size
    check_sizes(algorithm, config, processes.size)
    if environment.num_envs != prompts * config.group_size:
        raise ValueError(
            f"The environment must have {prompts * config.group_size} sub-environments "
            f"(prompts_per_step · group_size / processes), it has {environment.num_envs}."
        )
    if algorithm.reference_rate and reference is not None:
        raise ValueError(
            "A reference that is given stays as it is, and reference_rate would move it. Leave out "
            "one of the two."
        )


def _check_critics(environment: gym.vector.VectorEnv, engine: Engine) -> None:
    """Raise ValueError for a critic that would read weights while they change. The run's engine has
    weights of its own; what is no `PolicyCritic` has none of the policy's."""
    for source in critics(environment):
        critic = source.critic
        if critic is None or (isinstance(critic, PolicyCritic) and critic.engine is not engine):
            raise ValueError(
                f"overlap needs {type(source).__name__} to have its critic when the trainer is "
                f"made, and a PolicyCritic to ask the engine of the run: another would read "
                f"weights while they change."
            )


def num_teacher_rollouts(algorithm: Algorithm, config: TrainConfig) -> int:
    """Of each group."""
    return round(algorithm.teacher_rollouts * config.group_size)


def _means(rows: Sequence[dict[str, float]]) -> dict[str, float]:
    """Of each metric, over the rows that have it."""
    found = {name: [row[name] for row in rows if name in row] for row in rows for name in row}
    return {name: sum(values) / len(values) for name, values in found.items()}


def _check_weights(policy: Policy) -> None:
    for name, weight in policy.model.named_parameters():
        if not weight.isfinite().all():
            raise ValueError(
                f"The model's weight {name} holds numbers that are not finite: nothing can be "
                f"learned from here. Load another checkpoint of it."
            )
