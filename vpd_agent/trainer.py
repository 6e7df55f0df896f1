"""The loop: collect, score, step. It knows no algorithm by name."""

from __future__ import annotations

import random
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import gymnasium as gym
import torch

from vpd_agent.algorithms.base import Algorithm, Loss, LossInputs, State, Step
from vpd_agent.collect import Collected, collect, read_prompts
from vpd_agent.config import TrainConfig
from vpd_agent.engines import Engine
from vpd_agent.engines.hf import HFEngine
from vpd_agent.evaluate import (
    Failure,
    evaluate_student,
    evaluate_teacher,
    failure_from_json,
    failure_to_json,
)
from vpd_agent.policy import Policy
from vpd_agent.run_folder import FAILURES, METRICS, SAMPLES, RunFolder
from vpd_agent.teacher import Teacher, TeacherTemplate, teacher_prompts
from vpd_agent.types import Rollout, RolloutBatch


class Trainer:
    """Trains a policy with an algorithm in an environment.

    environment: a vector environment with config.rollouts_per_step sub-environments that takes
        `reset(options={"problem_ids": [...]})`, has `unwrapped.problem_ids`, and whose `step` gives
        rewards and infos["feedback"]: nothing else of it is read.
    evaluation: the same with any number of sub-environments, over held-out problems.
    out: a RunFolder; None keeps everything in memory.
    on_step: called with the metrics of each step.
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
        out: RunFolder | None = None,
        on_step: Callable[[dict[str, Any]], None] | None = None,
        warn: Callable[[str], None] = lambda message: None,
    ) -> None:
        if environment.num_envs != config.rollouts_per_step:
            raise ValueError(
                f"The environment must have prompts_per_step · group_size = "
                f"{config.rollouts_per_step} sub-environments, it has {environment.num_envs}."
            )
        self.policy = policy
        self.algorithm = algorithm
        self.environment = environment
        self.config = config
        self.template = template or TeacherTemplate()
        self.evaluation = evaluation
        self.engine = engine or HFEngine(policy)
        self.out = out
        self.on_step = on_step
        self.warn = warn

        self.teacher = (
            Teacher(policy, algorithm.teacher, algorithm.ema_rate) if algorithm.teacher else None
        )
        self.reference = policy.frozen_copy() if algorithm.needs_reference else None
        self.optimizers: dict[str, torch.optim.Optimizer] = {}
        self.state: State = {}
        self.step = 0
        self.generator = torch.Generator(policy.device).manual_seed(config.seed)
        self.seconds: dict[str, float] = defaultdict(float)
        self._failures: list[Failure] | None = None
        self._warned_of_no_teacher = False
        self.problem_ids = self._usable_problems()

    # --- one step --------------------------------------------------------------------------------

    def train_step(self, rollouts: Sequence[Rollout]) -> dict[str, float]:
        """Every loss of the step, each with its optimiser step; metrics of the whole batch."""
        batch = self.make_batch(rollouts)
        step = Step(self.step, self.config.steps)
        metrics: dict[str, float] = {}
        for _ in range(self.config.updates_per_batch):
            for loss in self.algorithm.losses(step):
                with self._timed(loss.name):
                    metrics |= self._optimise(loss, batch)
        if self.teacher is not None:
            self.teacher.update()
        self.step += 1
        return metrics | _describe(batch)

    def make_batch(self, rollouts: Sequence[Rollout]) -> RolloutBatch:
        """Rollouts with their teacher prompts, as tensors."""
        prompts: list[list[int] | None] = [None] * len(rollouts)
        if self.teacher is not None:
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
                    "No rollout of this batch has feedback, so no row has a teacher and nothing is "
                    "learned from it. Does the environment give infos['feedback']?"
                )
        batch = RolloutBatch.from_rollouts(
            rollouts,
            prompts,
            success_reward=self.config.success_reward,
            pad_id=self.policy.pad_id,
        )
        return batch.to(self.policy.device)

    def _optimise(self, loss: Loss, batch: RolloutBatch) -> dict[str, float]:
        if loss.measure is not None:
            with torch.no_grad():
                sums = _added(loss.measure(inputs) for inputs in self._micro_batches(batch))
            self.state = loss.update(self.state, sums)
        optimizer = self._optimizer(loss.optimizer)
        for group in optimizer.param_groups:
            group["lr"] = self._learning_rate(loss)
        optimizer.zero_grad(set_to_none=True)
        metrics = _added(self._backward(loss, inputs) for inputs in self._micro_batches(batch))
        norm = torch.nn.utils.clip_grad_norm_(self.policy.parameters(), self.config.max_grad_norm)
        if not torch.isfinite(norm):
            raise FloatingPointError(
                f"The gradient of loss {loss.name!r} is {norm.item()} at step {self.step}. No "
                f"weight was changed; lower the learning rate or resume from the last checkpoint."
            )
        optimizer.step()
        metrics["grad_norm"] = norm.item()
        return {f"{loss.name}/{key}": value for key, value in metrics.items()}

    def _backward(self, loss: Loss, inputs: LossInputs) -> dict[str, torch.Tensor]:
        value, metrics = loss.compute(inputs)
        value.backward()
        return {"loss": value.detach(), **metrics}

    def _micro_batches(self, batch: RolloutBatch) -> Iterator[LossInputs]:
        for part in batch.split(self.config.micro_batch_size or len(batch)):
            yield LossInputs(
                part,
                policy=self.policy,
                teacher=self.teacher.policy if self.teacher else None,
                reference=self.reference,
                state=self.state,
                temperature=self.config.temperature,
            )

    def _optimizer(self, name: str) -> torch.optim.Optimizer:
        if name not in self.optimizers:
            self.optimizers[name] = torch.optim.AdamW(
                self.policy.parameters(),
                betas=(self.config.adam_beta1, self.config.adam_beta2),
                weight_decay=self.config.weight_decay,
                fused=True,
            )
        return self.optimizers[name]

    def _learning_rate(self, loss: Loss) -> float:
        config = self.config
        rise = (self.step + 1) / config.warmup_steps if config.warmup_steps else 1.0
        decay_steps = config.learning_rate_decay * config.steps
        fall = (config.steps - self.step) / decay_steps if decay_steps else 1.0
        return min(rise, fall, 1.0) * (loss.learning_rate or config.learning_rate)

    # --- a run -----------------------------------------------------------------------------------

    def train(self) -> None:
        """All steps that are left, with evaluations, metrics, samples and checkpoints."""
        config = self.config
        if self.step == 0 and self._evaluates:
            self._report({"step": 0, **self.evaluate()})
        while self.step < config.steps:
            self.seconds.clear()
            with self._timed("step"):
                collected = self.collect()
                metrics = self.train_step(collected.rollouts)
            self._write_samples(collected)
            row = {"step": self.step, "dropped": len(collected.dropped), **metrics}
            due = config.eval_every and self.step % config.eval_every == 0
            if self._evaluates and (due or self.step == config.steps):
                with self._timed("evaluate"):
                    row |= self.evaluate()
            row |= {f"seconds/{name}": round(s, 4) for name, s in self.seconds.items()}
            self._report(row)
            if self.out is not None and config.save_every and self.step % config.save_every == 0:
                self.save()
        if self.out is not None:
            self.out.save_model(self.policy.save)

    def collect(self) -> Collected:
        """The rollouts of the current step."""
        with self._timed("collect"):
            collected = collect(
                self.policy,
                self.engine,
                self.environment,
                self.problems_of_step(self.step),
                group_size=self.config.group_size,
                max_response_tokens=self.config.max_response_tokens,
                temperature=self.config.temperature,
                generator=self.generator,
            )
        if collected.dropped:
            self.warn(
                f"Step {self.step + 1}: {len(collected.dropped)} rollouts could not be judged and "
                f"were dropped. The first reason: {collected.dropped[0]}"
            )
        return collected

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
        """Student and teacher on held-out problems. Its random numbers are its own, so how often
        one looks does not change what is learned."""
        config = self.config
        generator = torch.Generator(self.policy.device).manual_seed(config.seed + 1)
        ids = sorted(self.evaluation.unwrapped.problem_ids)
        if len(ids) > config.eval_problems:
            ids = random.Random(config.seed).sample(ids, config.eval_problems)
        common = {
            "max_response_tokens": config.max_response_tokens,
            "temperature": config.temperature,
            "success_reward": config.success_reward,
            "generator": generator,
        }
        student = evaluate_student(
            self.policy, self.engine, self.evaluation, ids, samples=config.eval_samples, **common
        )
        if self._failures is None:
            self._failures = self._first_failures(student.failures)
        repaired = evaluate_teacher(
            self.policy,
            self.engine,
            self.evaluation,
            self._failures,
            self.template,
            max_prompt_tokens=self.max_teacher_prompt_tokens,
            **common,
        )
        statuses = {
            f"eval/status/{name}": count / max(student.statuses.total(), 1)
            for name, count in sorted(student.statuses.items())
        }
        return {
            "eval/student_pass@1": student.pass_at_1,
            "eval/teacher_repair": repaired,
            "eval/dropped": student.dropped,
            **statuses,
        }

    def _first_failures(self, failures: list[Failure]) -> list[Failure]:
        """The failures of the run's first evaluation, kept so that all later ones compare."""
        if self.out is None:
            return failures[: self.config.eval_failures]
        stored = [failure_from_json(row) for row in self.out.read(FAILURES)]
        if not stored:
            stored = failures[: self.config.eval_failures]
            self.out.append(FAILURES, map(failure_to_json, stored))
        return stored

    def _usable_problems(self) -> list[str]:
        """Problems whose prompts fit."""
        limit = min(self.config.max_prompt_tokens, self._room_for_prompts)
        ids, n = list(self.environment.unwrapped.problem_ids), self.environment.num_envs
        lengths: dict[str, int] = {}
        for start in range(0, len(ids), n):
            chunk = ids[start : start + n]
            messages = read_prompts(self.environment, chunk + ids[:1] * (n - len(chunk)))
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
        if self.on_step is not None:
            self.on_step(row)

    def _write_samples(self, collected: Collected, count: int = 2) -> None:
        every = self.config.samples_every
        if self.out is None or not every or (self.step - 1) % every:
            return
        shown = sorted(collected.rollouts, key=lambda r: r.reward)[:count]
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
                    "response": r.text,
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
        self.out.save_checkpoint(self.step, self._write_checkpoint)

    def _write_checkpoint(self, path: Path) -> None:
        self.policy.save(path / "model")
        state = {
            "step": self.step,
            "algorithm": self.algorithm.name,
            "optimizers": {name: o.state_dict() for name, o in self.optimizers.items()},
            "teacher": self.teacher.state_dict() if self.teacher else None,
            "reference": self.reference.model.state_dict() if self.reference else None,
            "state": self.state,
            "generator": self.generator.get_state(),
        }
        torch.save(state, path / "trainer.pt")

    def load(self, path: Path) -> None:
        """Go on from a checkpoint. The policy must have been loaded from its `model` folder."""
        saved = torch.load(path / "trainer.pt", map_location="cpu", weights_only=True)
        if saved["algorithm"] != self.algorithm.name:
            raise ValueError(
                f"The checkpoint {path} is of {saved['algorithm']!r}, this run is of "
                f"{self.algorithm.name!r}. Resume with the same algorithm."
            )
        self.step = saved["step"]
        self.state = saved["state"]
        self.generator.set_state(saved["generator"])
        for name, state in saved["optimizers"].items():
            self._optimizer(name).load_state_dict(state)
        if self.teacher is not None:
            self.teacher.load_state_dict(saved["teacher"])
        if self.reference is not None:
            self.reference.model.load_state_dict(saved["reference"])
        if self.out is not None:
            for name in (METRICS, SAMPLES):
                self.out.truncate(name, lambda row: row["step"] <= self.step)

    @contextmanager
    def _timed(self, name: str) -> Iterator[None]:
        start = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[name] += time.perf_counter() - start


def _added(parts: Iterator[dict[str, torch.Tensor]]) -> dict[str, float]:
    """Sums of shares over micro-batches."""
    total: dict[str, float] = defaultdict(float)
    for part in parts:
        for name, value in part.items():
            total[name] += float(value)
    return dict(total)


def _describe(batch: RolloutBatch) -> dict[str, float]:
    """What the batch itself says, whatever the algorithm."""
    return {
        "reward": batch.rewards.mean().item(),
        "solved": batch.solved.float().mean().item(),
        "response_tokens": batch.num_tokens / batch.num_rollouts,
        "teacher_fraction": batch.has_teacher.float().mean().item(),
        "groups_with_signal": (batch.group_std > 0).float().mean().item(),
    }
