"""vpd train: one run of one algorithm."""

from __future__ import annotations

import json
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sandbox.plugins import FORM
from vpd_agent.cli.config_file import (
    differences,
    other_software,
    same_options,
    saved,
)
from vpd_agent.cli.flags import open_sandbox
from vpd_agent.cli.train_flags import TrainOptions, read_arguments
from vpd_agent.console import phase, say
from vpd_agent.runs.run_folder import CONFIG, RunFolder

if TYPE_CHECKING:
    from vpd_agent.model.policy import Policy

NEVER_CHANGED = {"model": "model", "env": "environment", "set": "environment's options"}
EXIT_CODES = {"done": 0, "collapsed": 1, "interrupted": 130}  # by why a run ended


def train(arguments: list[str]) -> int:
    from vpd_agent.algorithms import ALGORITHMS

    if not arguments or arguments[0].startswith("-"):
        say(
            f"usage: vpd train ALGORITHM --env ID --model MODEL --out DIR …\n"
            f"ALGORITHM is one of {', '.join(ALGORITHMS)}, or your own: {FORM}; "
            f"vpd train ALGORITHM --help tells more."
        )
        return 0 if arguments else 2
    name, *rest = arguments
    return _train(*read_arguments(name, rest))


def _train(options: TrainOptions, algorithm: Any, config: Any, template: Any) -> int:
    from vpd_agent.distributed.world import Processes
    from vpd_agent.engines.make import check_engine, make_engine
    from vpd_agent.runs.identity import model_hashes, problem_fingerprints
    from vpd_agent.runs.trackers import check_trackers, open_trackers
    from vpd_agent.train.trainer import Trainer

    options.check()
    check_engine(options.engine)
    check_trackers(options.trackers)
    resolved = saved(algorithm, config, template, options)
    checkpoint, begun = None, {}
    if options.resume:
        checkpoint = RunFolder.latest_checkpoint(options.out)
        begun = _begun(options.out)
        _compare_with_saved(options.out, begun, resolved)
        finished = RunFolder.finished_step(options.out)
        if finished is not None and finished >= config.steps:
            say(
                f"Nothing to do: the run in {options.out} has finished at step {finished}. To go "
                f"on with it, ask for more --steps than that."
            )
            return 0
    with ExitStack() as stack:
        processes = Processes.join(options.chosen_device)
        stack.callback(processes.leave)
        spec = options.spec(options.feedback)
        prompts = max(config.prompts_per_step // processes.size, 1)
        with phase("Loading the problems", quiet=options.quiet):
            environment = spec.make(prompts * config.group_size, options.train_split)
        stack.callback(environment.close)
        with phase("Starting the sandbox", quiet=options.quiet):
            open_sandbox(environment)
        evaluation = None
        if config.eval_every and config.eval_problems:
            with phase("Loading the problems of the evaluation", quiet=options.quiet):
                evaluation = spec.make_for(
                    config.eval_samples, config.eval_problems, options.eval_split
                )
            stack.callback(evaluation.close)
        out = RunFolder(options.out, resume=options.resume, processes=processes)
        stack.callback(out.close)
        if options.resume and checkpoint is None:
            say(f"The run in {options.out} had come to no checkpoint yet: it begins anew.")
        with (
            processes.main_process_first()
        ):  # the first one downloads, or makes, what the others then find
            # A model that is sharded comes to the GPUs in shards.
            policy = options.load(options.quiet, "cpu" if config.sharding == "fsdp" else None)
        if processes.is_first:
            with phase("Reading the model's weights", quiet=options.quiet):
                there = begun.get("fingerprints", {}) if checkpoint is not None else {}
                model = there.get("model") or model_hashes(policy)
            problems = problem_fingerprints(environment, evaluation)
            resolved["fingerprints"] = {**problems, "model": model}
        _bind_critics(policy, config.max_response_tokens, environment, evaluation)
        with phase(f"Starting the engine {options.engine}", quiet=options.quiet):
            engine = make_engine(
                options.engine,
                policy,
                max_tokens=config.max_teacher_prompt_tokens + config.max_response_tokens,
                apart=config.overlap,
            )
        stack.callback(engine.close)
        trainer = Trainer(
            policy,
            algorithm,
            environment,
            config,
            template=template,
            evaluation=evaluation,
            engine=engine,
            out=out,
            processes=processes,
            progress=not options.quiet,
        )
        if checkpoint is not None:
            trainer.load(checkpoint)
        else:  # a server samples from the weights that it was started with
            engine.sync(policy)
        out.write_config(resolved)
        names = options.trackers if processes.is_first else ()
        trackers = open_trackers(names, options.out, options.out.absolute().name, resolved)
        stack.callback(trackers.close)
        trainer.on_step = trackers.log
        reason = trainer.train()
    say(_farewell(reason, options.out, trainer.step, config.steps))
    return EXIT_CODES[reason]


def _farewell(reason: str, out: Path, step: int, steps: int) -> str:
    if reason == "interrupted":
        return f"Stopped after step {step} of {steps}. To go on: the same command with --resume."
    if reason == "collapsed":
        return (
            f"Stopped at step {step} of {steps}: training has collapsed. The best checkpoint, "
            f"metrics and samples are in {out}."
        )
    return f"Trained {step} steps; metrics, samples and the model are in {out}."


def _begun(out: Path) -> dict[str, Any]:
    """The configuration of the run in a folder; empty without one."""
    path = out / CONFIG
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}


def _compare_with_saved(out: Path, begun: dict[str, Any], resolved: dict[str, Any]) -> None:
    """Say in what a resumed run differs from the one that was begun. Raises ValueError if it would
    be a run of another model, or in another environment."""
    if not begun:
        return
    changed = differences(begun, resolved)
    for name, what in NEVER_CHANGED.items():
        old, new = changed.get(name, (None, None))
        if old != new and not (name == "set" and same_options(old, new)):
            raise ValueError(f"{out} holds a run of the {what} {old}; it cannot go on as {new}.")
    for name, (old, new) in changed.items():
        say(f"Warning: resuming with {name} = {new}; the run was begun with {old}.")
    if others := other_software(begun, resolved):
        say(f"Warning: resuming with other software: {others}.")


def _bind_critics(policy: Policy, max_tokens: int, *environments: Any) -> None:
    """Let the policy write the critiques that the feedback of an environment asks for."""
    from vpd_agent.rollout.critic import PolicyCritic
    from vpd_agent.rollout.environment import critics

    for environment in environments:
        for source in critics(environment):
            source.critic = PolicyCritic(policy, max_tokens)
