"""vpd train: one run of one algorithm."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vpd_agent.cli.config_file import (
    ConfigEntry,
    as_arguments,
    differences,
    other_software,
    read,
    same_options,
    saved,
)
from vpd_agent.cli.flags import (
    EnvironmentOptions,
    FlagGroup,
    ModelOptions,
    open_sandbox,
    parse,
    unknown,
)
from vpd_agent.console import phase, say
from vpd_agent.runs.run_folder import CONFIG, RunFolder

if TYPE_CHECKING:
    from vpd_agent.model.policy import Policy

NEVER_CHANGED = {"model": "model", "env": "environment", "set": "environment's options"}
EXIT_CODES = {"done": 0, "collapsed": 1, "interrupted": 130}  # by why a run ended


@dataclass(frozen=True, kw_only=True)
class TrainOptions(EnvironmentOptions, ModelOptions):
    out: Path
    """Folder for configuration, metrics, samples, checkpoints and the final model."""
    config: Path | None = None
    """YAML file of flags (learning_rate: 1e-5), or the config.json of another run. Flags that are
    given here win over it; it wins over the preset."""
    preset: str = "auto"
    """Which defaults: laptop, tiny, code, science; auto: by environment and model."""
    train_split: str | None = "train"
    """Split of the environment to train on; None: the environment's own choice."""
    eval_split: str | None = "test"
    """Split to evaluate on, every --eval-every steps."""
    resume: bool = False
    """Go on from the last checkpoint in --out. Flags that are not given are those of that run. One
    that has finished goes on with more --steps."""
    trackers: tuple[str, ...] = ()
    """Where metrics go beside metrics.jsonl: tensorboard, wandb, trackio or another of accelerate's
    trackers. Their files are in --out."""
    quiet: bool = False
    """No progress bars."""


def train(arguments: list[str]) -> int:
    from vpd_agent.algorithms import ALGORITHMS

    if not arguments or arguments[0].startswith("-"):
        say(
            f"usage: vpd train ALGORITHM --env ID --model MODEL --out DIR …\n"
            f"ALGORITHM is one of {', '.join(ALGORITHMS)}; vpd train ALGORITHM --help tells more."
        )
        return 0 if arguments else 2
    name, *rest = arguments
    if name not in ALGORITHMS:
        raise ValueError(unknown("algorithm", name, ALGORITHMS))
    return _train(*read_arguments(name, rest))


def read_arguments(name: str, arguments: Sequence[str]) -> tuple[TrainOptions, Any, Any, Any]:
    """Options, algorithm, configuration and template: flags over files over the preset."""
    from vpd_agent.algorithms import ALGORITHMS
    from vpd_agent.model.teacher import TeacherTemplate
    from vpd_agent.train.config import TrainConfig
    from vpd_agent.train.presets import PRESETS, preset_for

    # The defaults depend on files and on what is trained where, so these are read ahead.
    ahead = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    for option in ("--env", "--model", "--preset", "--config", "--out"):
        ahead.add_argument(option)
    ahead.add_argument("--resume", action="store_true")
    ahead.add_argument("-h", "--help", action="store_true")
    early, _ = ahead.parse_known_args(arguments)
    entries = _entries(name, early)
    from_files = {entry.key: entry.value for entry in entries}
    env, model, chosen = (
        getattr(early, key) or str(from_files.get(key, "")) for key in ("env", "model", "preset")
    )
    preset_name = preset_for(env, model) if chosen in ("", "auto") else chosen
    if preset_name not in PRESETS:
        raise ValueError(unknown("preset", preset_name, PRESETS))
    preset = PRESETS[preset_name]
    parts = {
        "options": FlagGroup(TrainOptions),
        "algorithm": FlagGroup(ALGORITHMS[name], preset.algorithm(name)),
        "config": FlagGroup(TrainConfig, preset.config(name)),
        "template": FlagGroup(TeacherTemplate, preset.template, prefix="template"),
    }
    parsed = parse(f"vpd train {name}", [*as_arguments(entries, parts), *arguments], **parts)
    options = replace(parsed.options, preset=preset_name)
    return options, parsed.algorithm, parsed.config, parsed.template


def _entries(name: str, early: argparse.Namespace) -> list[ConfigEntry]:
    """What files say: the run that is resumed, and over it --config."""
    given = read(Path(early.config)) if early.config is not None else []
    out = early.out or next((str(entry.value) for entry in given if entry.key == "out"), None)
    if early.resume and not early.help:
        if out is None:
            raise ValueError("--resume goes on with the run in a folder: pass it as --out DIR.")
        RunFolder.check_begun(out)
    begun = []
    if early.resume and out is not None and (Path(out) / CONFIG).is_file():
        begun = read(Path(out) / CONFIG)
    for entry in (*begun, *given):
        if entry.key == "algorithm" and entry.value != name:
            raise ValueError(
                f"{entry.place}: this is a configuration of {entry.value!r}, not of {name!r}. "
                f"Run vpd train {entry.value}, or choose another file or folder."
            )
    merged = {entry.key: entry for entry in (*begun, *given) if entry.key != "algorithm"}
    return list(merged.values())


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
