"""The loop: collect, score, step. It knows no algorithm by name."""

from __future__ import annotations

import hashlib
import random
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import gymnasium as gym
import torch

from vpd_agent.algorithms.base import Algorithm, LossInputs, State, Step
from vpd_agent.collect import Collected, answer, collect, read_prompts
from vpd_agent.config import TrainConfig
from vpd_agent.correction import sampler_correction
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
from vpd_agent.processes import Processes
from vpd_agent.run_folder import FAILURES, METRICS, SAMPLES, RunFolder
from vpd_agent.teacher import Teacher, TeacherTemplate, teacher_prompts
from vpd_agent.types import Rollout, RolloutBatch
from vpd_agent.update import Updater

if TYPE_CHECKING:
    from vpd_agent.gate import TrustGate


class Trainer:
    """Trains a policy with an algorithm in an environment.

    environment: a vector environment with config.rollouts_per_step sub-environments (divided by
        the number of processes) that takes
        `reset(options={"problem_ids": [...]})`, has `unwrapped.problem_ids`, and whose `step` gives
        rewards and infos["feedback"]: nothing else of it is read.
    evaluation: the same with any number of sub-environments, over held-out problems.
    engine: samples the rollouts; None: HFEngine.
    processes: those of the run; None: this one alone.
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
        processes: Processes | None = None,
        out: RunFolder | None = None,
        on_step: Callable[[dict[str, Any]], None] | None = None,
        warn: Callable[[str], None] = lambda message: None,
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

        self.teacher = (
            Teacher(policy, algorithm.teacher, algorithm.ema_rate, algorithm.trust_region)
            if algorithm.teacher
            else None
        )
        self.reference = policy.frozen_copy() if algorithm.needs_reference else None
        self.updater = Updater(policy, config, self.processes)
        self.state: State = {}
        self.step = 0
        self.generator = torch.Generator(policy.device).manual_seed(self._seed("rollouts"))
        self.seconds: dict[str, float] = defaultdict(float)
        self._ahead: Collected | None = None  # rollouts of the next step, with config.overlap
        self._failures: list[Failure] | None = None
        self._warned_of_no_teacher = False
        self.problem_ids = self._usable_problems()

    # --- one step --------------------------------------------------------------------------------

    def train_step(
        self, rollouts: Sequence[Rollout], *, meanwhile: Callable[[], None] | None = None
    ) -> dict[str, float]:
        """Every loss of the step, each with its optimiser step; metrics of the whole batch.

        meanwhile: done in a thread while the losses are; the engine takes the new weights when both
        have ended.
        """
        prompts = self._teacher_prompts(rollouts)
        batch = self._batch(rollouts, prompts)
        metrics = _describe(batch, self.processes)
        if not self.engine.exact or self.config.overlap:
            batch, gap = self._corrected(batch)
            metrics |= gap
        gate = self.algorithm.gate
        if gate is not None:
            metrics |= self._measure_trust(gate, rollouts, prompts)
        with _beside(meanwhile):
            for update in range(self.config.updates_per_batch):
                for loss in self.algorithm.losses(Step(self.step, self.config.steps, update)):
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
                "No rollout of this batch has feedback, so no row has a teacher and nothing is "
                "learned from it. Does the environment give infos['feedback']?"
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
        limits = self.config.micro_batch_size, self.config.micro_batch_tokens
        with self._timed("correct"):
            for rows in batch.parts(*limits):
                scored = self._inputs(batch.rows(rows).trimmed()).student.logprobs
                old_logprobs[rows, : scored.shape[1]] = scored.float()
        weights, metrics = sampler_correction(
            old_logprobs,
            batch.old_logprobs,
            batch.mask,
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
            with self._timed("gate"):
                sums = self.processes.sum(self._ask_teacher(gate, rollouts, prompts))
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
        live = self.teacher.policy is self.policy
        judged = answer(
            self.policy,
            self.engine if live else HFEngine(self.teacher.policy),
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

    def micro_batches(self, batch: RolloutBatch) -> Iterator[LossInputs]:
        """A batch in the parts that its losses are computed in."""
        parts = list(batch.split(self.config.micro_batch_size, self.config.micro_batch_tokens))
        # Processes that share a model's weights make as many passes as each other.
        spare = self.processes.most(len(parts)) - len(parts)
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

    def train(self) -> None:
        """All steps that are left, with evaluations, metrics, samples and checkpoints."""
        config = self.config
        if self.step == 0 and self._evaluates:
            self._report({"step": 0, **self.evaluate()})
        while self.step < config.steps:
            self.seconds.clear()
            with self._timed("step"):
                collected, self._ahead = self._ahead or self.collect(), None
                metrics = self.train_step(collected.rollouts, meanwhile=self._look_ahead())
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

    def collect(self, step: int | None = None) -> Collected:
        """The rollouts of a step; None: of the current one."""
        step = self.step if step is None else step
        with self._timed("collect"):
            collected = collect(
                self.policy,
                self.engine,
                self.environment,
                self.processes.share(self.problems_of_step(step)),
                group_size=self.config.group_size,
                max_response_tokens=self.config.max_response_tokens,
                max_turn_tokens=self.config.max_turn_tokens,
                temperature=self.config.temperature,
                generator=self.generator,
            )
        if collected.dropped:
            self.warn(
                f"Step {step + 1}: {len(collected.dropped)} rollouts could not be judged and "
                f"were dropped. The first reason: {collected.dropped[0]}"
            )
        return collected

    def _look_ahead(self) -> Callable[[], None] | None:
        """What collects the next step's rollouts, if that is to be done while this one trains."""
        if not self.config.overlap or self.step + 1 >= self.config.steps:
            return None
        step = self.step + 1

        def look_ahead() -> None:
            self._ahead = self.collect(step)

        return look_ahead

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
            "optimizers": self.updater.state_dict(),
            "teacher": self.teacher.state_dict() if self.teacher else None,
            "reference": self.reference.state_dict() if self.reference else None,
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
        self.updater.load_state_dict(saved["optimizers"])
        if self.teacher is not None:
            self.teacher.load_state_dict(saved["teacher"])
        if self.reference is not None:
            self.reference.load_state_dict(saved["reference"])
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


@contextmanager
def _beside(work: Callable[[], None] | None) -> Iterator[None]:
    """Do some work in a thread while the body runs; its error is raised after the body."""
    if work is None:
        yield
        return
    with ThreadPoolExecutor(1) as pool:
        future = pool.submit(work)
        yield
        future.result()


def _describe(batch: RolloutBatch, processes: Processes) -> dict[str, float]:
    """What the batch itself says, whatever the algorithm."""
    rewards = processes.sum({"sum": float(batch.rewards.sum())})["sum"]
    with_teacher = batch.num_solved_with_teacher + batch.num_failed_with_teacher
    return {
        "reward": rewards / batch.num_rollouts,
        "solved": batch.num_solved / batch.num_rollouts,
        "response_tokens": batch.num_tokens / batch.num_rollouts,
        "teacher_fraction": with_teacher / batch.num_rollouts,
        "groups_with_signal": batch.num_signal_rollouts / batch.num_rollouts,
    }
