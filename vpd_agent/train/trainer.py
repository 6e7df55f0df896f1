"""The loop of a run: for each step collect, train, evaluate, log, save."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import asdict
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any, Literal, Unpack

import gymnasium as gym

from sandbox import SandboxError
from vpd_agent.algorithms.base import Algorithm
from vpd_agent.console import Bars, bars, phase, say
from vpd_agent.data.types import Rollout
from vpd_agent.evaluation.evaluate import OnProgress
from vpd_agent.evaluation.in_training import (
    Failure,
    StudentEvaluation,
    distance,
    eval_metrics,
    evaluate_student,
    evaluate_teacher,
    forms_changed,
    held_out_problems,
    merged,
    problems_set_aside,
    with_logprobs,
)
from vpd_agent.model.policy import Policy
from vpd_agent.rollout.collect import Collected, all_problem_ids
from vpd_agent.runs.costs import sampled_tokens
from vpd_agent.runs.identity import problem_fingerprints
from vpd_agent.runs.run_folder import (
    BAD_BATCHES,
    FAILURES,
    INSPECT,
    METRICS,
    MODEL,
    MODEL_METRICS,
    SAMPLES,
    RunFolder,
)
from vpd_agent.runs.samples import sample_rows, worst_and_best
from vpd_agent.train import checkpoint
from vpd_agent.train.ahead import Batch, RolloutsAhead
from vpd_agent.train.config import TrainConfig
from vpd_agent.train.graceful_shutdown import graceful_shutdown
from vpd_agent.train.inspection import Inspection
from vpd_agent.train.learner import Learner, Parts, Result, num_teacher_rollouts
from vpd_agent.train.monitor import (
    CollapseMonitor,
    quiet_divergence,
    slowest_judged,
    why_slow,
)
from vpd_agent.train.problems import problems_of_step, usable_problems
from vpd_envs import TextVectorEnv

Ending = Literal["done", "interrupted", "collapsed"]


class Trainer(Learner):
    """Trains a policy with an algorithm in an environment.

    environment: a vector environment with config.rollouts_per_step sub-environments (divided by
        the number of processes) that takes
        `reset(options={"problem_ids": [...]})`, has `unwrapped.problem_ids`, and whose `step` gives
        rewards and infos["feedback"]: nothing else of it is needed. Where it has
        `unwrapped.judge_seconds` (of each answer of the last step), the slowest are named in the
        metrics, as `seconds/slowest_judged`.
    evaluation: the same with any number of sub-environments, over held-out problems.
    out: a RunFolder (in every process, made with the same `processes`), which gets metrics,
        checkpoints and at last the model; None writes nothing: the trained model is `policy`.
    on_step: called with the metrics of each step, in the first process.
    progress: whether `train` shows how far it is, on standard error: by a bar on a terminal, by a
        line now and then in a log or a notebook.
    parts: template, engine, teacher, processes and others, see `Parts`.
    """

    def __init__(
        self,
        policy: Policy,
        algorithm: Algorithm,
        environment: gym.vector.VectorEnv,
        config: TrainConfig,
        *,
        evaluation: gym.vector.VectorEnv | None = None,
        out: RunFolder | None = None,
        on_step: Callable[[dict[str, Any]], None] | None = None,
        progress: bool = True,
        **parts: Unpack[Parts],
    ) -> None:
        super().__init__(policy, algorithm, environment, config, **parts)
        for one in (environment, evaluation):
            if one is not None and isinstance(one.unwrapped, TextVectorEnv):
                one.unwrapped.progress = False  # a run has a bar of its own
        self.evaluation = evaluation
        self.out = out
        self.on_step = on_step
        self.progress = progress
        has_teacher, quiet = self.teacher is not None, quiet_divergence(algorithm)
        self.monitor = CollapseMonitor(config, has_teacher=has_teacher, quiet=quiet)
        self.skipped = 0  # steps
        self.failures: list[Failure] | None = None  # of the first evaluation
        self.successes: list[Rollout] = []  # of it, with the log-probabilities of the policy then
        # Metrics of the last step while its evaluation is still to come: of step 0 at the start,
        # and in the checkpoint that a run makes whose evaluation fails.
        self.unlogged: dict[str, Any] | None = {"step": 0}
        self._ahead: RolloutsAhead | None = None
        if config.overlap:
            self._ahead = RolloutsAhead(
                self.collect, steps=config.steps, max_staleness=config.max_staleness
            )
        self._inspection = Inspection(self, out) if out and config.inspect_every else None
        self._saved_step: int | None = None
        self._bars: Bars | None = None  # while it trains
        with phase("Reading the problems", quiet=not progress):
            longest = min(config.max_prompt_tokens, self.max_tokens_before_response)
            self.problem_ids = usable_problems(policy, environment, longest, self.warn)
        if config.set_aside:
            apart = set(problems_set_aside(all_problem_ids(environment), config.set_aside))
            self.problem_ids = [p for p in self.problem_ids if p not in apart]

    # --- a run -----------------------------------------------------------------------------------

    def train(self) -> Ending:
        """All steps that are left, with evaluations, metrics, samples and checkpoints.

        Returns "done", or "interrupted": a SIGINT or SIGTERM lets the step end and saves (a second
        one raises KeyboardInterrupt at once); or, with config.stop_on_collapse, "collapsed".
        What fails while rollouts are collected or judged is raised once the last finished step is
        saved. Raises FloatingPointError where more steps than config.max_skipped_steps would have
        to be skipped, and SaveError where the run's folder cannot be written to.
        """
        with graceful_shutdown(self.warn) as shutdown_requested, self._progress_bar():
            if self.unlogged is not None and not self._has_collapsed:
                self._evaluate_log_and_save(self.unlogged)
            for _ in range(self.step, self.config.steps):
                if self._has_collapsed:
                    break
                # A signal may have reached one of the processes only.
                if self.processes.max(int(shutdown_requested())):
                    self._save_once()
                    return "interrupted"
                self.seconds.clear()
                self.busy_seconds.clear()
                with self.timed("step"):
                    with self.policy.gathered():
                        batch = self.fail_together(self._next_rollouts)
                    collected = batch.collected
                    if self._inspection is not None:
                        with self.timed("inspect"):
                            own = [r for r in collected.rollouts if not r.is_teacher_rollout]
                            self._inspection.keep(own)
                    metrics = self._train_or_skip(collected)
                if self._ahead is not None:
                    metrics["staleness"] = batch.step - batch.weights
                metrics = self._with_costs(metrics, collected)
                self._write_samples(collected)
                self._evaluate_log_and_save(metrics)
        if self._has_collapsed:
            self._save_once()
            return "collapsed"
        if self._ahead is not None and self._ahead.weights != self.step:
            self._give_weights(self._ahead)
        self._save_model()
        return "done"

    def _next_rollouts(self) -> Batch:
        """Those of the current step. Raises where there are none, or none that can be used."""
        batch = self._ahead.take(self.step) if self._ahead is not None else None
        if batch is None:
            batch = Batch(self.step, self.step, self.collect())
        _check_usable(batch.collected, self.step)
        return batch

    def collect(self, step: int | None = None) -> Collected:
        """The rollouts of a step; None: of the current one. Their random numbers are the step's
        own, so a step that is taken again after a crash is the same."""
        step, config = self.step if step is None else step, self.config
        ids = problems_of_step(self.problem_ids, step, config.prompts_per_step, config.seed)
        with self.timed("collect"):
            collected = self.actor(self.environment).collect(
                self.processes.local_shard(ids),
                config.group_size,
                self.generator("rollouts", step),
                teacher_rollouts=num_teacher_rollouts(self.algorithm, config),
                teacher_prompt=self.second_prompt,
            )
        if collected.dropped:
            self.warn(
                f"Step {step + 1}: {len(collected.dropped)} rollouts could not be judged and "
                f"were dropped. The first reason: {collected.dropped[0]}"
            )
        return collected

    def _train_or_skip(self, collected: Collected) -> dict[str, float]:
        meanwhile = self._collecting_ahead() if self._ahead is not None else None
        try:
            return self.train_step(collected.rollouts, meanwhile=meanwhile)
        except FloatingPointError as error:
            return self._skip(collected, str(error))

    @contextmanager
    def _collecting_ahead(self) -> Iterator[None]:
        """Within, the rollouts of the next steps are collected. The engine gets the policy's
        weights before, unless it still samples in one of the processes."""
        assert self._ahead is not None
        if not self.processes.max(int(self._ahead.is_busy)):
            self._give_weights(self._ahead)
        with self._ahead.collecting(self.step + 1):
            yield

    @contextmanager
    def sampler_to_itself(self) -> Iterator[None]:
        if self._ahead is not None:
            self._ahead.wait()
            self._give_weights(self._ahead)
        yield

    def _give_weights(self, ahead: RolloutsAhead) -> None:
        with self.timed("sync"):
            self.engine.sync(self.policy)
        ahead.weights = self.step

    def _skip(self, collected: Collected, reason: str) -> dict[str, float]:
        """Leave out what is left of a step whose numbers are not finite; write down its batch."""
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
        if self._ahead is None:
            self.engine.sync(self.policy)  # an earlier loss of the step may have changed weights
        self.step += 1
        return {"skipped": self.skipped}

    def _with_costs(self, metrics: dict[str, float], collected: Collected) -> dict[str, Any]:
        """A step's metrics with its number, its dropped rollouts, and what took long."""
        dropped = self.processes.sum({"dropped": float(len(collected.dropped))})["dropped"]
        row: dict[str, Any] = {"step": self.step, "dropped": int(dropped), **metrics}
        if "rollouts" in metrics:
            row["tokens_per_second"] = round(sampled_tokens(metrics) / self.seconds["step"], 1)
        row |= {
            f"idle/{who}": round(max(1 - self.busy_seconds[who] / self.seconds["step"], 0.0), 3)
            for who in ("trainer", "sampler", "judge")
        }
        if calls := slowest_judged(collected.rollouts, self.processes):
            row["seconds/slowest_judged"] = calls
        if slow := why_slow(calls, self.seconds["step"]):
            self.warn(f"Step {self.step}: {slow}")
        return row

    def _evaluate_log_and_save(self, metrics: dict[str, Any]) -> None:
        """What follows a step, and step 0: each of the three if it is due."""
        config, self.unlogged = self.config, metrics
        due = config.eval_every and self.step % config.eval_every == 0
        if self.evaluation and config.eval_every and (due or self.step == config.steps):
            with self.timed("evaluate"):
                metrics = metrics | self.evaluate()
        seconds = dict(self.seconds)  # rollouts that are being collected ahead may add to it
        metrics = metrics | {f"seconds/{name}": round(s, 4) for name, s in seconds.items()}
        self._log(metrics)
        if self.out is None or self.step == 0:
            return
        if self.step == self.monitor.best_step:
            self.out.save_best(partial(_write_model, self.policy, metrics))
        if config.save_every and self.step % config.save_every == 0:
            self.save()

    def _log(self, metrics: dict[str, Any]) -> None:
        if len(metrics) > 1:  # there is nothing to say of step 0 without an evaluation
            if self.out is not None:
                self.out.append(METRICS, [metrics])
            if self._bars is not None:
                self._bars.show(self.algorithm.name, metrics["step"], metrics)
            if self.on_step is not None and self.processes.is_first:
                self.on_step(metrics)
        self.unlogged = self._saved_step = None
        for message in self.monitor.observe(metrics):
            self.warn(message)

    @property
    def _has_collapsed(self) -> bool:
        return self.monitor.collapsed is not None and self.config.stop_on_collapse

    def fail_together(self, work: Callable[[], Result]) -> Result:
        """As of `Learner`; if it fails, the last finished step is saved."""
        try:
            return super().fail_together(work)
        except Exception:
            self._save_once()
            raise

    def evaluate(self) -> dict[str, float]:
        """Metrics of student and teacher on held-out problems, shared out to the processes. The
        random numbers are the evaluation's own, so how often one evaluates does not change what is
        learned."""
        if self.evaluation is None:
            raise ValueError("This trainer was given no environment for evaluation.")
        config, generator = self.config, self.generator("evaluation", seed=self.config.eval_seed)
        student = self.actor(self.evaluation)
        own = slice(self.processes.rank, None, self.processes.size)
        ids = held_out_problems(self.evaluation, config)
        with self.sampler_to_itself(), self.policy.gathered():
            with self._phase("evaluating the student") as show:
                part = self.fail_together(
                    lambda: evaluate_student(student, ids[own], config, generator, show)
                )
            result = merged(self.processes.gather(part))
            if self.failures is None:
                self.failures = self._keep_attempts(result)
            # Of the first evaluation, so that all others compare.
            failures, successes = self.failures[own], self.successes[own]
            moved = self.fail_together(lambda: distance(self.policy, successes, config))
            with self._phase("evaluating the teacher"), self.sampling_teacher() as engine:
                teacher = self.actor(self.evaluation, engine)
                parts = self.fail_together(
                    lambda: (
                        evaluate_teacher(teacher, failures, self.teacher_prompt, config, generator),
                        forms_changed(
                            teacher, successes, self.prompts_with_feedback(successes), generator
                        ),
                    )
                )
        repaired, changed = zip(*self.processes.gather(parts), strict=True)
        outcomes = [*chain.from_iterable(repaired)], [*chain.from_iterable(changed)]
        return eval_metrics(result, *outcomes, self.processes.sum(moved))

    def _keep_attempts(self, first: StudentEvaluation) -> list[Failure]:
        """Keep attempts of the first evaluation, for all others; returns those that failed."""
        kept = first.successes[: self.config.eval_successes]
        self.successes = self.fail_together(lambda: with_logprobs(self.policy, kept, self.config))
        failures = first.failures[: self.config.eval_failures]
        if self.out is not None:
            self.out.append(FAILURES, map(asdict, failures))
        return failures

    # --- what is shown and written ---------------------------------------------------------------

    @contextmanager
    def _progress_bar(self) -> Iterator[None]:
        with bars(quiet=not self.progress or not self.processes.is_first) as self._bars:
            self._bars.add(self.algorithm.name, self.config.steps)
            if self.step:
                self._bars.show(self.algorithm.name, self.step)
            try:
                yield
            finally:
                self._bars = None

    def _phase(self, what: str) -> AbstractContextManager[OnProgress]:
        """Something that a step does not always do; its body tells how much of how much is done."""
        if self._bars is None:
            return nullcontext(lambda done, total: None)
        return self._bars.phase(self.algorithm.name, what)

    def _write_samples(self, collected: Collected) -> None:
        """The worst and the best rollout of the first process, or all of all processes, every so
        often."""
        every = self.config.samples_every
        if self.out is None or not every or (self.step - 1) % every:
            return
        shown = collected.rollouts
        if not self.config.samples_all:
            shown = worst_and_best(shown) if self.processes.is_first else []
        prompts, decode = self.prompts_with_feedback(shown), self.policy.tokenizer.decode
        rows = sample_rows(self.step, shown, prompts, decode, process=self.processes.rank)
        self.out.append(SAMPLES, chain.from_iterable(self.processes.gather(rows)))

    def _save_model(self) -> None:
        """What a run ends with."""
        if self.out is not None:
            if self.config.save_every:  # what more steps can go on from
                self._save_once()
            rows = self.out.read(METRICS)
            last = rows[-1] if rows and rows[-1]["step"] == self.step else {"step": self.step}
            self.out.save_model(partial(_write_model, self.policy, last))
        elif self.progress:
            say(
                f"Trained {self.step} steps. There is no output folder, so nothing was saved: "
                f"trainer.policy.save(FOLDER) keeps the model."
            )

    # --- checkpoints -----------------------------------------------------------------------------

    def save(self) -> None:
        """Write a checkpoint: everything that `load` needs to go on. Every process must call it."""
        if self.out is None:
            raise ValueError("This trainer has no output folder to save to.")
        state = self.state_dict()

        def write(path: Path | None) -> None:
            self.policy.save(path and path / MODEL)
            if path is not None:
                checkpoint.write(path, state)

        self.out.save_checkpoint(self.step, write, keep=self.config.keep_checkpoints)
        self._saved_step = self.step

    def _save_once(self) -> None:
        """Save the last finished step, if there is where to and it has not been."""
        if self.out is not None and self._saved_step != self.step:
            self.save()

    def load(self, path: Path) -> None:
        """Go on from a checkpoint, in a trainer made as the one that saved it; rows of the run's
        folder that it will write again are dropped.

        Raises ValueError, before anything is changed, if there is no whole checkpoint or if it is
        of another algorithm, model, tokenizer or set of problems.
        """
        saved = checkpoint.read(path)
        checkpoint.check_that_it_fits(saved, self._identity(), path)
        self.load_state_dict(saved)
        if self.out is not None:
            for name in (METRICS, SAMPLES, INSPECT, BAD_BATCHES):
                self.out.truncate(name, lambda row: row["step"] <= self.step)
            for row in self.out.read(METRICS):
                self.monitor.observe(row)

    def state_dict(self) -> dict[str, Any]:
        """All that the run's next steps depend on. Every process must call it; the first one's is
        whole."""
        batches = []
        if self._ahead is not None:
            self._ahead.wait()
            batches = self._ahead.ready(self.step)
        own = {
            "random": checkpoint.random_states(self.policy.device),
            "batches": list(map(asdict, batches)),
        }
        return {
            **self._identity(),
            **super().state_dict(),
            "unlogged": self.unlogged,
            "skipped": self.skipped,
            "failures": None if self.failures is None else list(map(asdict, self.failures)),
            "successes": list(map(asdict, self.successes)),
            "processes": self.processes.gather(own),
        }

    def load_state_dict(self, saved: dict[str, Any]) -> None:
        super().load_state_dict(saved)
        self.unlogged = saved["unlogged"]
        self.skipped = saved["skipped"]
        failures = saved["failures"]
        self.failures = None if failures is None else [Failure(**row) for row in failures]
        self.successes = [Rollout(**row) for row in saved["successes"]]
        before = len(saved["processes"])
        if before != self.processes.size:
            self.warn(
                f"This run had {before} processes and has {self.processes.size} now: it goes on "
                f"with other random numbers."
            )
            return
        own = saved["processes"][self.processes.rank]
        checkpoint.set_random_states(own["random"], self.policy.device)
        if self._ahead is not None:
            self._ahead.put([_batch(**saved) for saved in own.get("batches", ())])

    def _identity(self) -> dict[str, Any]:
        """What must be the same in a run that goes on from a checkpoint of this one."""
        problems = problem_fingerprints(self.environment, self.evaluation)
        return checkpoint.identity(self.algorithm.name, self.policy, problems)


def _batch(step: int, weights: int, collected: dict[str, Any]) -> Batch:
    """From what `asdict` made of it."""
    rollouts = [Rollout(**row) for row in collected["rollouts"]]
    return Batch(step, weights, Collected(rollouts, collected["dropped"]))


def _check_usable(collected: Collected, step: int) -> None:
    """Raise SandboxError if there are no rollouts, ValueError for a reward that is no number."""
    if not collected.rollouts:
        reason = f" The first reason: {collected.dropped[0]}" if collected.dropped else ""
        raise SandboxError(f"No rollout of step {step + 1} could be judged.{reason}")
    for rollout in collected.rollouts:
        if not math.isfinite(rollout.reward):
            raise ValueError(
                f"The environment gave an answer to problem {rollout.problem_id!r} the reward "
                f"{rollout.reward}; expected a finite number. For an answer that cannot be "
                f"judged set infos['judged'] to False."
            )


def _write_model(policy: Policy, metrics: dict[str, Any], path: Path | None) -> None:
    """The model, and the metrics of its step."""
    policy.save(path)
    if path is not None:
        (path / MODEL_METRICS).write_text(json.dumps(metrics, indent=2) + "\n")
