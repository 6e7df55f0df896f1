"""The loop: collect, score, step. It knows no algorithm by name."""

from __future__ import annotations

import hashlib
import json
import math
import random
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from threading import Thread
from typing import TYPE_CHECKING, Any, Literal, TypeVar

import gymnasium as gym
import torch

from sandbox import SandboxError
from vpd_agent.algorithms.base import Algorithm, LossInputs, State, Step
from vpd_agent.console import Bars, bars, phase, say
from vpd_agent.data.batch import RolloutBatch
from vpd_agent.data.types import Rollout
from vpd_agent.distributed.world import Processes
from vpd_agent.engines import Engine, sampling_from
from vpd_agent.engines.hf import HFEngine
from vpd_agent.evaluation.evaluate import (
    Evaluation,
    Failure,
    evaluate_student,
    evaluate_teacher,
    failure_to_json,
)
from vpd_agent.model.policy import Policy
from vpd_agent.model.teacher import Teacher, make_teacher
from vpd_agent.ops.importance_sampling import sampler_correction
from vpd_agent.rollout.collect import Collected, collect, generate_and_judge, start_episodes
from vpd_agent.rollout.environment import critics
from vpd_agent.rollout.teacher_prompt import TeacherTemplate, teacher_prompts
from vpd_agent.runs.run_folder import (
    BAD_BATCHES,
    FAILURES,
    METRICS,
    MODEL_METRICS,
    SAMPLES,
    RunFolder,
)
from vpd_agent.train import checkpoint
from vpd_agent.train.config import TrainConfig
from vpd_agent.train.graceful_shutdown import Interruption
from vpd_agent.train.monitor import PASS_1, CollapseMonitor, describe, slowest_judged, why_slow
from vpd_agent.train.updater import Updater
from vpd_envs import TextVectorEnv

if TYPE_CHECKING:
    from vpd_agent.algorithms.trust_gate import TrustGate

Ending = Literal["done", "interrupted", "collapsed"]
Result = TypeVar("Result")


class Trainer:
    """Trains a policy with an algorithm in an environment.

    environment: a vector environment with config.rollouts_per_step sub-environments (divided by
        the number of processes) that takes
        `reset(options={"problem_ids": [...]})`, has `unwrapped.problem_ids`, and whose `step` gives
        rewards and infos["feedback"]: nothing else of it is needed. Where it has
        `unwrapped.judge_seconds` (of each answer of the last step), the slowest are named in the
        metrics, as `seconds/slowest_judged`.
    evaluation: the same with any number of sub-environments, over held-out problems.
    engine: samples the rollouts, and for the teacher; None: HFEngine.
    teacher: None: the one that the algorithm asks for.
    teacher_engine: samples for a teacher that is another model; None: HFEngine.
    reference: a frozen copy of the initial policy; None: made where the algorithm needs it.
    processes: those of the run; None: this one alone.
    out: a RunFolder (in every process, made with the same `processes`), which gets metrics,
        checkpoints and at last the model; None writes nothing: the trained model is `policy`.
    on_step: called with the metrics of each step, in the first process.
    warn: called with a line for a person to read, in every process.
    progress: whether `train` shows how far it is, on standard error: by a bar on a terminal, by a
        line now and then in a log or a notebook.
    """

    def __init__(
        self,
        policy: Policy,
        algorithm: Algorithm,
        environment: gym.vector.VectorEnv,
        config: TrainConfig,
        *,
        template: TeacherTemplate | None = None,
        evaluation: gym.vector.VectorEnv | None = None,
        engine: Engine | None = None,
        teacher: Teacher | None = None,
        teacher_engine: Engine | None = None,
        reference: Policy | None = None,
        processes: Processes | None = None,
        out: RunFolder | None = None,
        on_step: Callable[[dict[str, Any]], None] | None = None,
        warn: Callable[[str], None] = say,
        progress: bool = True,
    ) -> None:
        self.processes = processes or Processes()
        mine, rest = divmod(config.prompts_per_step, self.processes.size)
        if rest:
            raise ValueError(
                f"prompts_per_step must be a multiple of the {self.processes.size} processes, got "
                f"{config.prompts_per_step}."
            )
        if environment.num_envs != mine * config.group_size:
            raise ValueError(
                f"The environment must have {mine * config.group_size} sub-environments "
                f"(prompts_per_step · group_size / processes), it has {environment.num_envs}."
            )
        if config.overlap and critics(environment):
            raise ValueError(
                "overlap cannot be used with feedback by self-critique: the critic would read "
                "weights while they change. Leave one of both away."
            )
        if config.group_size < algorithm.min_group_size:
            raise ValueError(
                f"{algorithm.name} compares the rollouts of a group, so group_size must be at "
                f"least {algorithm.min_group_size}, got {config.group_size}."
            )
        for one in (environment, evaluation):
            if one is not None and isinstance(one.unwrapped, TextVectorEnv):
                one.unwrapped.progress = False  # a run has a bar of its own
        _check_weights(policy)
        self.processes.broadcast_(policy.weights.values())
        if config.gradient_checkpointing:
            policy.enable_gradient_checkpointing()
        self.policy = policy
        self.algorithm = algorithm
        self.environment = environment
        self.config = config
        self.template = template or TeacherTemplate()
        self.evaluation = evaluation
        # What samples while weights change needs weights of its own.
        self.engine = engine or HFEngine(policy.frozen_copy() if config.overlap else policy)
        self.out = out
        self.on_step = on_step
        self.warn = warn
        self.progress = progress
        self._bars: Bars | None = None  # while it trains

        self.teacher = teacher or make_teacher(policy, algorithm)
        self.teacher_engine = teacher_engine
        if teacher_engine is None and self.teacher is not None and self.teacher.is_other_model:
            self.teacher_engine = HFEngine(self.teacher.policy)
        if reference is None and algorithm.needs_reference:
            reference = policy.reference()
        self.reference = reference
        if config.sharding == "fsdp":
            self._shard()
        self.updater = Updater(policy, config, self.processes)
        self.monitor = CollapseMonitor(
            config.collapse_ratio,
            config.collapse_patience,
            config.min_entropy,
            config.max_entropy,
            has_teacher=self.teacher is not None,
        )
        self.state: State = {}
        self.step = 0  # finished ones
        self.row: dict[str, Any] | None = {"step": 0}  # of the last one, until it is reported
        self.skipped = 0  # steps
        self.failures: list[Failure] | None = None  # of the first evaluation
        self.seconds: dict[str, float] = defaultdict(float)
        # With config.overlap: rollouts of the step of that number, or why there are none.
        self._ahead: tuple[int, Collected] | None = None
        self._failed_ahead: Exception | None = None
        self._saved_step: int | None = None
        self._warned_of_no_teacher = False
        with phase("Reading the problems", quiet=not progress):
            self.problem_ids = self._usable_problems()

    def _shard(self) -> None:
        from vpd_agent.distributed.fsdp import shard

        copies = [self.teacher.policy if self.teacher else None, self.reference]
        shard([self.policy, *(copy for copy in copies if copy is not None)])

    # --- one step --------------------------------------------------------------------------------

    def train_step(
        self, rollouts: Sequence[Rollout], *, meanwhile: Callable[[], None] | None = None
    ) -> dict[str, float]:
        """Every loss of the step, each with its optimizer step; metrics of the whole batch.

        meanwhile: done in a thread while the losses are, and keeps what goes wrong there to itself;
        the engine takes the new weights when both have ended.

        Raises FloatingPointError where log-probabilities, a loss or its gradient are not finite.
        """
        self._check_logprobs(rollouts)
        prompts = self._teacher_prompts(rollouts)
        batch = self._batch(rollouts, prompts)
        metrics = describe(batch, rollouts, self.processes)
        if not self.engine.logprobs_match_trainer or self.config.overlap:
            batch, gap = self._corrected(batch)
            metrics |= gap
        gate = self.algorithm.gate
        if gate is not None:
            metrics |= self._measure_trust(gate, rollouts, prompts)
        with _beside(meanwhile):
            for update in range(self.config.updates_per_batch):
                for loss in self.algorithm.losses(Step(self.step, self.config.steps, update)):
                    if loss.when is not None and not loss.when(self.state):
                        continue
                    with self._timed(loss.name):
                        self.state, more = self.updater.update(
                            loss, partial(self.micro_batches, batch), self.state, self.step
                        )
                    metrics |= more
            if self.teacher is not None:
                self.teacher.update()
        with self._timed("sync"):
            self.engine.sync(self.policy)
        self.step += 1
        return metrics

    def make_batch(self, rollouts: Sequence[Rollout]) -> RolloutBatch:
        """Rollouts with their teacher prompts, as tensors."""
        return self._batch(rollouts, self._teacher_prompts(rollouts))

    def _teacher_prompts(self, rollouts: Sequence[Rollout]) -> list[list[int] | None]:
        if self.teacher is None:
            return [None] * len(rollouts)
        prompts = teacher_prompts(
            self.policy,
            self.template,
            rollouts,
            success_reward=self.config.success_reward,
            max_tokens=self.max_teacher_prompt_tokens,
        )
        if not any(prompts) and not self._warned_of_no_teacher:
            self._warned_of_no_teacher = True
            self.warn(
                "No rollout of this batch has feedback, so no row has a teacher, and nothing is "
                "learned from one. Does the environment give infos['feedback']?"
            )
        return prompts

    def _batch(
        self, rollouts: Sequence[Rollout], prompts: Sequence[list[int] | None]
    ) -> RolloutBatch:
        batch = RolloutBatch.from_rollouts(
            rollouts,
            prompts,
            success_reward=self.config.success_reward,
            pad_id=self.policy.pad_id,
            max_response_tokens=self.config.max_response_tokens,
        )
        batch = replace(batch, **self.processes.sum(batch.totals()))
        return batch.to(self.policy.device)

    @torch.no_grad()
    def _corrected(self, batch: RolloutBatch) -> tuple[RolloutBatch, dict[str, float]]:
        """Log-probabilities of the policy as it is, and the weights that make up for a sampler with
        other ones."""
        old_logprobs = torch.zeros_like(batch.old_logprobs)
        parts = batch.parts(self.config.micro_batch_size, self.config.micro_batch_tokens)
        # Processes that share a model's weights make as many passes as each other.
        parts += parts[-1:] * (self.processes.max(len(parts)) - len(parts))
        with self._timed("correct"):
            for rows in parts:
                scored = self._inputs(batch.rows(rows).trimmed()).student.logprobs
                old_logprobs[rows, : scored.shape[1]] = scored.float()
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
        if gate.due(self.step):
            with self._timed("gate"), self.teacher.policy.gathered():
                asked = self._together(partial(self._ask_teacher, gate, rollouts, prompts))
            sums = self.processes.sum(asked)
            self.state = gate.update(
                self.state, sums["teacher"], sums["student"], int(sums["rows"])
            )
            metrics = {
                "gate/rows": sums["rows"],
                "gate/teacher_solved": sums["teacher"] / max(sums["rows"], 1),
                "gate/student_solved": sums["student"] / max(sums["rows"], 1),
            }
        return metrics | {"gate/weight": gate.weight(self.state)}

    def _ask_teacher(
        self,
        gate: TrustGate,
        rollouts: Sequence[Rollout],
        prompts: Sequence[list[int] | None],
    ) -> dict[str, float]:
        """How many of some failed rollouts the teacher solves, and how many their groups do."""
        solved = [r.reward >= self.config.success_reward for r in rollouts]
        outcomes: dict[int, list[bool]] = defaultdict(list)
        for rollout, success in zip(rollouts, solved, strict=True):
            outcomes[rollout.group].append(success)
        failed = [i for i, p in enumerate(prompts) if p is not None and not solved[i]]
        rows = min(-(-gate.rows // self.processes.size), len(failed))
        chosen = random.Random(self._seed("gate", self.step)).sample(failed, rows)
        with self._teacher_sampling() as engine:
            judged = generate_and_judge(
                self.policy,
                engine,
                self.environment.unwrapped,  # its reward is all that is wanted
                [rollouts[i].problem_id for i in chosen],
                [prompts[i] for i in chosen],
                max_response_tokens=self.config.max_turn_tokens or self.config.max_response_tokens,
                temperature=self.config.temperature,
                generator=torch.Generator(self.policy.device).manual_seed(
                    self._seed("gate", self.step)
                ),
            )
        known = [(i, j) for i, j in zip(chosen, judged, strict=True) if j.error is None]
        groups = [outcomes[rollouts[i].group] for i, _ in known]
        return {
            "teacher": float(sum(j.reward >= self.config.success_reward for _, j in known)),
            "student": sum(sum(group) / len(group) for group in groups),
            "rows": float(len(known)),
        }

    def _teacher_sampling(self) -> AbstractContextManager[Engine]:
        """The engine, while it samples from the teacher's weights."""
        if self.teacher_engine is not None:
            return nullcontext(self.teacher_engine)
        return sampling_from(self.engine, self.teacher.policy, self.policy)

    def micro_batches(self, batch: RolloutBatch) -> Iterator[LossInputs]:
        """A batch in the parts that its losses are computed in."""
        parts = list(batch.split(self.config.micro_batch_size, self.config.micro_batch_tokens))
        # Processes that share a model's weights make as many passes as each other.
        spare = self.processes.max(len(parts)) - len(parts)
        for part in parts + [parts[-1].silenced()] * spare:
            yield self._inputs(part)

    def _inputs(self, part: RolloutBatch) -> LossInputs:
        return LossInputs(
            part,
            policy=self.policy,
            teacher=self.teacher,
            reference=self.reference,
            state=self.state,
            temperature=self.config.temperature,
        )

    def _seed(self, *what: object) -> int:
        """A seed of its own for each purpose, process and step."""
        text = repr((self.config.seed, self.processes.rank, *what))
        return int.from_bytes(hashlib.sha256(text.encode()).digest()[:7])

    # --- a run -----------------------------------------------------------------------------------

    def train(self) -> Ending:
        """All steps that are left, with evaluations, metrics, samples and checkpoints.

        Returns "done", or "interrupted": a SIGINT or SIGTERM lets the step end and saves (a second
        one raises KeyboardInterrupt at once); or, with config.stop_on_collapse, "collapsed".
        What fails while rollouts are collected or judged is raised once the last finished step is
        saved. Raises FloatingPointError where more steps than config.max_skipped_steps would have
        to be skipped, and SaveError where the run's folder cannot be written to.
        """
        with Interruption(self.warn) as interruption, self._shown():
            while not self._is_stopped and (self.row is not None or self.step < self.config.steps):
                if self.row is None:
                    self._take_step()
                self._finish_step()
                # A signal may have reached one of the processes only.
                asked = self.processes.max(int(interruption.asked))
                if asked and self.step < self.config.steps and not self._is_stopped:
                    self._save_once()
                    return "interrupted"
        if self._is_stopped:
            self._save_once()
            return "collapsed"
        if self.out is not None:
            if self.config.save_every:  # what more steps can go on from
                self._save_once()
            self.out.save_model(partial(self._write_model, self._last_row()))
        elif self.progress:
            say(
                f"Trained {self.step} steps. There is no output folder, so nothing was saved: "
                f"trainer.policy.save(FOLDER) keeps the model."
            )
        return "done"

    @contextmanager
    def _shown(self) -> Iterator[None]:
        """The run's bar."""
        with bars(quiet=not self.progress or not self.processes.is_first) as self._bars:
            self._bars.add(self.algorithm.name, self.config.steps)
            if self.step:
                self._bars.show(self.algorithm.name, self.step)
            try:
                yield
            finally:
                self._bars = None

    @contextmanager
    def _phase(self, what: str) -> Iterator[Callable[[int, int], None]]:
        """Something that a step does not always do; its body tells how much of how much is done."""
        if self._bars is None:
            yield lambda done, total: None
            return
        with self._bars.phase(self.algorithm.name, what) as show:
            yield show

    @property
    def _is_stopped(self) -> bool:
        return self.monitor.collapsed is not None and self.config.stop_on_collapse

    def _take_step(self) -> None:
        """Collect, train, and begin the step's row of metrics."""
        self.seconds.clear()
        with self._timed("step"):
            with self.policy.gathered():
                collected = self._together(self._next_rollouts)
            try:
                metrics = self.train_step(collected.rollouts, meanwhile=self._look_ahead())
            except FloatingPointError as error:
                metrics = self._skip(collected, str(error))
        dropped = self.processes.sum({"dropped": float(len(collected.dropped))})["dropped"]
        self.row = {"step": self.step, "dropped": int(dropped), **metrics}
        if "rollouts" in metrics:
            tokens = metrics["rollouts"] * metrics["response_tokens"]
            self.row["tokens_per_second"] = round(tokens / self.seconds["step"], 1)
        self._name_slowest_judged(collected.rollouts)
        self._write_samples(collected)

    def _name_slowest_judged(self, rollouts: Sequence[Rollout]) -> None:
        calls = slowest_judged(rollouts, self.processes)
        if calls:
            self.row["seconds/slowest_judged"] = calls
        slow = why_slow(calls, self.seconds["step"])
        if slow is not None:
            self.warn(f"Step {self.step}: {slow}")

    def _finish_step(self) -> None:
        """Evaluate and save if it is time, and report the step's row."""
        config, row = self.config, self.row
        due = config.eval_every and self.step % config.eval_every == 0
        if self._evaluates and (due or self.step == config.steps):
            with self._timed("evaluate"):
                row = row | self.evaluate()
        row = row | {f"seconds/{name}": round(s, 4) for name, s in self.seconds.items()}
        if len(row) > 1:  # there is nothing to say of step 0 without an evaluation
            self._report(row)
        self.row = self._saved_step = None
        for message in self.monitor.observe(row):
            self.warn(message)
        if self.out is None or self.step == 0:
            return
        if self.step == self.monitor.best_step:
            self.out.save_best(partial(self._write_model, row))
        if config.save_every and self.step % config.save_every == 0:
            self.save()

    def _next_rollouts(self) -> Collected:
        """Those of this step. Raises where there are none, or none that can be used."""
        error, self._failed_ahead = self._failed_ahead, None
        if error is not None:
            raise error
        collected = self.rollouts_ahead or self.collect()
        if not collected.rollouts:
            reason = f" The first reason: {collected.dropped[0]}" if collected.dropped else ""
            raise SandboxError(f"No rollout of step {self.step + 1} could be judged.{reason}")
        for rollout in collected.rollouts:
            if not math.isfinite(rollout.reward):
                raise ValueError(
                    f"The environment gave an answer to problem {rollout.problem_id!r} the reward "
                    f"{rollout.reward}; expected a finite number. For an answer that cannot be "
                    f"judged set infos['judged'] to False."
                )
        return collected

    @property
    def rollouts_ahead(self) -> Collected | None:
        """This step's rollouts, if they were collected while the last one trained."""
        return self._ahead[1] if self._ahead and self._ahead[0] == self.step else None

    @rollouts_ahead.setter
    def rollouts_ahead(self, collected: Collected) -> None:
        self._ahead = self.step, collected

    def _look_ahead(self) -> Callable[[], None] | None:
        """What collects the next step's rollouts, if that is to be done while this one trains."""
        if not self.config.overlap or self.step + 1 >= self.config.steps:
            return None
        step = self.step + 1

        def look_ahead() -> None:
            try:
                self._ahead = step, self.collect(step)
            except Exception as error:
                self._failed_ahead = error

        return look_ahead

    def collect(self, step: int | None = None) -> Collected:
        """The rollouts of a step; None: of the current one. Their random numbers are the step's
        own, so a step that is taken again after a crash is the same."""
        step = self.step if step is None else step
        with self._timed("collect"):
            collected = collect(
                self.policy,
                self.engine,
                self.environment,
                self.processes.local_shard(self.problems_of_step(step)),
                group_size=self.config.group_size,
                max_response_tokens=self.config.max_response_tokens,
                max_turn_tokens=self.config.max_turn_tokens,
                temperature=self.config.temperature,
                generator=torch.Generator(self.policy.device).manual_seed(
                    self._seed("rollouts", step)
                ),
            )
        if collected.dropped:
            self.warn(
                f"Step {step + 1}: {len(collected.dropped)} rollouts could not be judged and "
                f"were dropped. The first reason: {collected.dropped[0]}"
            )
        return collected

    def _together(self, work: Callable[[], Result]) -> Result:
        """Work before any weight of a step changes. If it fails in one process it fails in all,
        and what was finished before is saved."""
        error: Exception | None = None
        try:
            result = work()
        except Exception as failure:
            error = failure
        if self.processes.max(int(error is not None)):
            self._save_once()
            raise error or SandboxError("Another process failed; its message says why.")
        return result

    def _skip(self, collected: Collected, reason: str) -> dict[str, float]:
        """Leave what is left of a step whose numbers are not finite; its batch is written down."""
        self.skipped += 1
        if self.out is not None:
            rollouts = self.processes.gather([asdict(r) for r in collected.rollouts])
            batch = [rollout for some in rollouts for rollout in some]
            row = {"step": self.step + 1, "reason": reason, "rollouts": batch}
            self.out.append(BAD_BATCHES, [row])
        allowed, where = self.config.max_skipped_steps, self.out and self.out.path / BAD_BATCHES
        seen = f" The rollouts are in {where}." if where else ""
        if self.skipped > allowed:
            raise FloatingPointError(
                f"Step {self.step + 1}: {reason}.{seen} {allowed} steps were skipped for such a "
                f"reason already (max_skipped_steps). Lower the learning rate, or look at the data."
            )
        self.warn(f"Step {self.step + 1} is skipped: {reason}.{seen}")
        self.engine.sync(self.policy)  # an earlier loss of the step may have changed weights
        self.step += 1
        return {"skipped": self.skipped}

    def _check_logprobs(self, rollouts: Sequence[Rollout]) -> None:
        """Raise FloatingPointError, in all processes, for rollouts nobody can have sampled."""
        bad = next((r for r in rollouts if not torch.tensor(r.logprobs).isfinite().all()), None)
        if self.processes.max(int(bad is not None)):
            whose = f"an answer to problem {bad.problem_id!r}" if bad else "an answer"
            raise FloatingPointError(
                f"The engine gave tokens of {whose} a log-probability that is not finite"
            )

    def problems_of_step(self, index: int) -> list[str]:
        """Each problem once per epoch, in an order that seed and epoch decide."""
        ids, n = self.problem_ids, self.config.prompts_per_step
        places = [divmod(position, len(ids)) for position in range(index * n, (index + 1) * n)]
        orders = {
            epoch: random.Random(f"{self.config.seed}/{epoch}").sample(ids, len(ids))
            for epoch in {epoch for epoch, _ in places}
        }
        return [orders[epoch][place] for epoch, place in places]

    @property
    def _evaluates(self) -> bool:
        return self.evaluation is not None and self.config.eval_every > 0

    def evaluate(self) -> dict[str, float]:
        """Student and teacher on held-out problems, shared out to the processes. Its random numbers
        are its own, so how often one looks does not change what is learned."""
        config = self.config
        ids = sorted(self.evaluation.unwrapped.problem_ids)
        if len(ids) > config.eval_problems:
            ids = random.Random(config.seed).sample(ids, config.eval_problems)
        common = {
            "max_response_tokens": config.max_response_tokens,
            "temperature": config.temperature,
            "success_reward": config.success_reward,
            "generator": torch.Generator(self.policy.device).manual_seed(self._seed("evaluation")),
        }
        with self.policy.gathered():
            with self._phase("evaluating the student") as show:
                student = self._together(
                    lambda: evaluate_student(
                        self.policy,
                        self.engine,
                        self.evaluation,
                        ids[self.processes.rank :: self.processes.size],
                        samples=config.eval_samples,
                        max_turn_tokens=config.max_turn_tokens,
                        on_progress=show,
                        **common,
                    )
                )
            student = _merged(self.processes.gather(student))
            if self.failures is None:
                self._keep_failures(student.failures)
            failures = self.failures[self.processes.rank :: self.processes.size]
            apart = self.teacher.policy if self.teacher and self.teacher_engine else self.policy
            with self._phase("evaluating the teacher"), apart.gathered():
                repaired = self._together(
                    lambda: evaluate_teacher(
                        self.policy,
                        self.teacher_engine or self.engine,
                        self.evaluation,
                        failures,
                        self.template,
                        max_prompt_tokens=self.max_teacher_prompt_tokens,
                        **common,
                    )
                )
            repaired = [one for part in self.processes.gather(repaired) for one in part]
        statuses = {
            f"eval/status/{name}": count / max(student.statuses.total(), 1)
            for name, count in sorted(student.statuses.items())
        }
        return {
            PASS_1: student.pass_at_1,
            "eval/teacher_repair": sum(repaired) / len(repaired) if repaired else math.nan,
            "eval/dropped": student.dropped,
            **statuses,
        }

    def _keep_failures(self, failures: list[Failure]) -> None:
        """The failures of the run's first evaluation are kept so that all later ones compare."""
        self.failures = failures[: self.config.eval_failures]
        if self.out is not None:
            self.out.append(FAILURES, map(failure_to_json, self.failures))

    def _usable_problems(self) -> list[str]:
        """Problems whose prompts fit."""
        limit = min(self.config.max_prompt_tokens, self._room_for_prompts)
        ids, n = list(self.environment.unwrapped.problem_ids), self.environment.num_envs
        lengths: dict[str, int] = {}
        for start in range(0, len(ids), n):
            chunk = ids[start : start + n]
            messages = start_episodes(self.environment, chunk + ids[:1] * (n - len(chunk)))
            for problem_id, message in zip(chunk, messages, strict=False):
                lengths[problem_id] = len(self.policy.encode(message))
        usable = [p for p in ids if lengths[p] <= limit]
        if not usable:
            shortest = min(lengths.values(), default=0)
            raise ValueError(
                f"No problem is left to train on: of {len(ids)}, none has a prompt of at most "
                f"{limit} tokens (max_prompt_tokens, and the model's context less "
                f"max_response_tokens); the shortest has {shortest}."
            )
        if len(usable) < len(ids):
            self.warn(
                f"{len(ids) - len(usable)} of {len(ids)} problems are left out: their prompts are "
                f"longer than {limit} tokens."
            )
        return usable

    @property
    def _room_for_prompts(self) -> int:
        return self.policy.context_length - self.config.max_response_tokens

    @property
    def max_teacher_prompt_tokens(self) -> int:
        return min(self.config.max_teacher_prompt_tokens, self._room_for_prompts)

    # --- what is written -------------------------------------------------------------------------

    def _report(self, row: dict[str, Any]) -> None:
        if self.out is not None:
            self.out.append(METRICS, [row])
        if self._bars is not None:
            self._bars.show(self.algorithm.name, row["step"], row)
        if self.on_step is not None and self.processes.is_first:
            self.on_step(row)

    def _write_samples(self, collected: Collected) -> None:
        """The worst and the best rollout of the first process, every so often."""
        every = self.config.samples_every
        if self.out is None or not every or (self.step - 1) % every:
            return
        by_reward = sorted(collected.rollouts, key=lambda r: r.reward)
        shown = [by_reward[0], by_reward[-1]] if len(by_reward) > 1 else by_reward
        prompts = teacher_prompts(
            self.policy,
            self.template,
            shown,
            success_reward=self.config.success_reward,
            max_tokens=self.max_teacher_prompt_tokens,
        )
        decode = self.policy.tokenizer.decode
        self.out.append(
            SAMPLES,
            [
                {
                    "step": self.step,
                    "problem_id": r.problem_id,
                    "prompt": decode(r.prompt_ids),
                    # Everything after the prompt: of several turns, replies and all.
                    "response": r.text if r.is_policy_token is None else decode(r.response_ids),
                    "answer": r.text,
                    "finish": r.finish,
                    "reward": r.reward,
                    "status": r.status,
                    "feedback": r.feedback,
                    "teacher_prompt": decode(ids) if ids is not None else None,
                }
                for r, ids in zip(shown, prompts, strict=True)
            ],
        )

    def save(self) -> None:
        """Write a checkpoint: everything that `load` needs to go on."""
        if self.out is None:
            raise ValueError("This trainer has no output folder to save to.")
        checkpoint.save(self)
        self._saved_step = self.step

    def _save_once(self) -> None:
        """Save the last finished step, if there is where to and it has not been."""
        if self.out is not None and self._saved_step != self.step:
            self.save()

    def load(self, path: Path) -> None:
        """Go on from a checkpoint; see `checkpoint.load`."""
        checkpoint.load(self, path)

    def _write_model(self, row: dict[str, Any], path: Path | None) -> None:
        """The model, and the row of its step."""
        self.policy.save(path)
        if path is not None:
            (path / MODEL_METRICS).write_text(json.dumps(row, indent=2) + "\n")

    def _last_row(self) -> dict[str, Any]:
        rows = self.out.read(METRICS)
        return rows[-1] if rows and rows[-1]["step"] == self.step else {"step": self.step}

    @contextmanager
    def _timed(self, name: str) -> Iterator[None]:
        start = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[name] += time.perf_counter() - start


@contextmanager
def _beside(work: Callable[[], None] | None) -> Iterator[None]:
    """Do some work in a thread while the body runs, and wait for it, unless a person is in a
    hurry."""
    if work is None:
        yield
        return
    thread = Thread(target=work, name="rollouts ahead", daemon=True)
    thread.start()
    try:
        yield
    except Exception:
        thread.join()
        raise
    thread.join()


def _check_weights(policy: Policy) -> None:
    for name, weight in policy.model.named_parameters():
        if not weight.isfinite().all():
            raise ValueError(
                f"The model's weight {name} holds numbers that are not finite: nothing can be "
                f"learned from here. Load another checkpoint of it."
            )


def _merged(parts: Sequence[Evaluation]) -> Evaluation:
    """The evaluations of different problems as one."""
    whole = Evaluation(statuses=Counter())
    for part in parts:
        whole.solved |= part.solved
        whole.judged |= part.judged
        whole.statuses += part.statuses
        whole.failures += part.failures
        whole.dropped += part.dropped
    return whole
