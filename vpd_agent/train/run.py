"""`make_run`: opens all that a training run needs, for the command and for a notebook."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from sandbox.plugins import unknown
from vpd_agent.algorithms.base import Algorithm
from vpd_agent.console import phase, say
from vpd_agent.distributed.world import Processes
from vpd_agent.engines import Engine
from vpd_agent.engines.make import addresses, check_engine, make_engine
from vpd_agent.model.policy import Policy
from vpd_agent.rollout.critic import PolicyCritic
from vpd_agent.rollout.environment import EnvironmentSpec, critics
from vpd_agent.rollout.teacher_prompt import PlainPrompt, TeacherTemplate
from vpd_agent.runs.identity import model_hashes, problem_fingerprints
from vpd_agent.runs.record import differences, other_software, read_record, same_options, saved
from vpd_agent.runs.run_folder import RunFolder
from vpd_agent.runs.trackers import check_trackers, open_trackers
from vpd_agent.train.config import TrainConfig
from vpd_agent.train.disk import disk_of, too_full
from vpd_agent.train.fit import as_begun, fit, is_fitted, memory_at_hand
from vpd_agent.train.options import TrainOptions, open_sandbox
from vpd_agent.train.presets import PRESETS, TINY_WIDTH, preset_for
from vpd_agent.train.trainer import Trainer

NEVER_CHANGED = {
    "model": "model",
    "teacher_model": "teacher",
    "env": "environment",
    "set": "environment's options",
}


class RunFinished(Exception):
    """There is nothing to do: the run that is resumed has taken all of its steps."""


@contextmanager
def make_run(
    algorithm: str | Algorithm,
    *,
    env: str | EnvironmentSpec,
    model: str | Policy,
    out: str | Path,
    teacher_model: str | Policy | None = None,
    config: TrainConfig | Mapping[str, Any] | None = None,
    template: TeacherTemplate | None = None,
    given: Collection[str] | None = None,
    **options: Any,
) -> Iterator[Trainer]:
    """A `Trainer` with all that a run needs; what was opened for it is closed at the end.

        with make_run("sdpo", env="vpd/MiniCode-v0", model="tiny-warm", out="runs/a") as trainer:
            trainer.train()

    It is what `vpd train` calls: the same arguments give the same run.

    algorithm: an algorithm, or the name of one with the preset's options.
    env: an environment's id, or a spec of an environment with its options and its feedback.
    model, teacher_model: a policy, which is trained in place, or the name of a model.
    config: None: the preset's; a mapping: what differs from the preset's.
    template: None: the preset's.
    given: names of options, and of fields of the configuration, that stay as they are where the run
        is fitted to the memory at hand (see `vpd_agent.train.fit`). None: what is passed here; of a
        TrainConfig, what differs from its defaults.
    options: every other flag of `vpd train`, under its name with underscores, such as feedback,
        engine, eval_split, lora_rank, resume, quiet (see `TrainOptions`).

    Raises ValueError for what does not fit together, before anything large is loaded, and
    RunFinished for a resumed run without steps that are left.
    """
    plan = make_plan(
        algorithm,
        env=env,
        model=model,
        out=out,
        teacher_model=teacher_model,
        config=config,
        template=template,
        given=given,
        **options,
    )
    if plan.options.dry_run:
        raise ValueError("A dry run trains nothing: pass what `make_plan` gives to `dry_run`.")
    begun = plan.check()
    with ExitStack() as stack:
        yield _open(plan, begun, stack)


def make_plan(
    algorithm: str | Algorithm,
    *,
    env: str | EnvironmentSpec,
    model: str | Policy,
    out: str | Path,
    teacher_model: str | Policy | None = None,
    config: TrainConfig | Mapping[str, Any] | None = None,
    template: TeacherTemplate | None = None,
    given: Collection[str] | None = None,
    **options: Any,
) -> Plan:
    """What `make_run` would open with these arguments. Nothing is opened or loaded."""
    chosen = _options(env, model, teacher_model, {**options, "out": Path(out)})
    preset = PRESETS[chosen.preset]
    if isinstance(algorithm, str):
        algorithm = preset.algorithm(algorithm)
    if given is None:
        given = {*options, *_passed(config)}
    if not isinstance(config, TrainConfig):
        config = replace(preset.config(algorithm.name), **(config or {}))
    if chosen.resume and is_fitted(chosen):
        chosen, config = as_begun(chosen, config, given, read_record(chosen.out))
    template = template or preset.template
    if chosen.teacher_prompt == "plain":
        template = PlainPrompt(**vars(template))
    return Plan(
        algorithm=algorithm,
        config=config,
        template=template,
        options=chosen,
        given=frozenset(given),
        spec=env if isinstance(env, EnvironmentSpec) else chosen.spec(chosen.feedback),
        policy=model if isinstance(model, Policy) else None,
        teacher=teacher_model if isinstance(teacher_model, Policy) else None,
    )


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What a run is made from. policy, teacher: given as objects rather than by name. given: the
    names of what stays as it is when the run is fitted to the memory."""

    algorithm: Algorithm
    config: TrainConfig
    template: TeacherTemplate
    options: TrainOptions
    given: frozenset[str]
    spec: EnvironmentSpec
    policy: Policy | None
    teacher: Policy | None

    def check(self) -> dict[str, Any]:
        """The configuration that a resumed run was begun with; empty for a new one.

        Raises ValueError for names and flags that are wrong, or do not fit together or the run that
        is resumed; RunFinished if that has no steps left.
        """
        options = self.options
        if self.policy is None:
            options.check()
        if options.teacher_model is not None and self.teacher is None:
            options.for_teacher(options.teacher_model).check()
        return self.check_without_models()

    def check_without_models(self) -> dict[str, Any]:
        """`check`, but for the models and the device."""
        options = self.options
        options.check_values()
        check_engine(options.engine, options.weight_transfer)
        check_trackers(options.trackers)
        if options.teacher_model is not None and self.algorithm.teacher is None:
            raise ValueError(
                f"{self.algorithm.name} has no teacher: leave --teacher-model out, or choose an "
                f"algorithm with one, such as sdpo."
            )
        plain = options.teacher_prompt == "plain" and options.teacher_model is None
        if plain and self.algorithm.teacher == "live":
            raise ValueError(
                "With the prompt and the weights of the student the teacher would be the student "
                "itself. Choose a --teacher-model, or leave out --teacher-prompt plain."
            )
        if not options.resume:
            return {}
        begun = read_record(options.out)
        _compare_with_saved(options.out, begun, self.record())
        finished = RunFolder.finished_step(options.out)
        if finished is not None and finished >= self.config.steps:
            raise RunFinished(
                f"Nothing to do: the run in {options.out} has finished at step {finished}. To go "
                f"on with it, ask for more --steps than that."
            )
        return begun

    @property
    def is_fitted(self) -> bool:
        """Whether the memory at hand decides on some of it; not of a model given as an object, and
        not of a run that goes on."""
        return self.policy is None and not self.options.resume and is_fitted(self.options)

    def fitted(self, at_hand: float | None, processes: int, *, fetch: bool) -> tuple[Plan, str]:
        """The plan for so many bytes of memory, and in words what was chosen; see `fit`."""
        chosen = fit(
            *(self.algorithm, self.options, self.config, self.given, at_hand, processes),
            fetch=fetch,
        )
        if chosen is None:
            return self, ""
        return replace(self, options=chosen.options, config=chosen.config), chosen.told

    def record(self) -> dict[str, Any]:
        """What the run's config.json says."""
        return saved(self.algorithm, self.config, self.template, self.options)

    def load(self, options: TrainOptions) -> Policy:
        """The model that the options name."""
        # A model that is to be sharded goes to the GPUs in shards.
        device = "cpu" if self.config.sharding == "fsdp" else None
        return options.load(options.quiet, device)


def _options(
    env: str | EnvironmentSpec,
    model: str | Policy,
    teacher_model: str | Policy | None,
    given: dict[str, Any],
) -> TrainOptions:
    """The flags that a run with these arguments would have, its preset by name."""
    if isinstance(env, EnvironmentSpec):
        pairs = tuple(f"{key}={json.dumps(v, default=str)}" for key, v in env.kwargs.items())
        given = {**given, "env": env.id, "feedback": env.feedback, "set": pairs}
    else:
        given = {**given, "env": env}
    if isinstance(model, Policy):
        given = {**given, "device": model.device.type}
    options = TrainOptions(
        **given, model=_name(model), teacher_model=teacher_model and _name(teacher_model)
    )
    if options.preset == "auto":
        options = replace(options, preset=_preset_name(options.env, model))
    if options.preset not in PRESETS:
        raise ValueError(unknown("preset", options.preset, PRESETS))
    return options


def _passed(config: TrainConfig | Mapping[str, Any] | None) -> set[str]:
    """The fields that somebody has chosen: of a whole configuration, what differs from its class's
    defaults."""
    if isinstance(config, TrainConfig):
        usual = vars(TrainConfig())
        return {name for name, value in vars(config).items() if value != usual[name]}
    return set(config or {})


def _name(model: str | Policy) -> str:
    if isinstance(model, str):
        return model
    return model.model.name_or_path or type(model.model).__name__


def _preset_name(env: str, model: str | Policy) -> str:
    if isinstance(model, str):
        return preset_for(env, model)
    width = getattr(model.model.config, "hidden_size", None)
    is_tiny = width is not None and width <= TINY_WIDTH
    return preset_for(env, "tiny" if is_tiny else _name(model))


def _open(plan: Plan, begun: dict[str, Any], stack: ExitStack) -> Trainer:
    """Open everything of a run, put it together, and bring it to its last checkpoint."""
    processes = Processes.join(plan.options.chosen_device)
    stack.callback(processes.leave)
    if plan.is_fitted:
        at_hand = min(processes.gather(memory_at_hand(plan.options)))
        plan, told = plan.fitted(at_hand, processes.size, fetch=True)
        if told:
            say(told)
    options, config = plan.options, plan.config
    if processes.is_first:
        _check_disk(plan)
    checkpoint = RunFolder.latest_checkpoint(options.out) if options.resume else None
    environment, evaluation = _open_environments(plan, processes, stack)
    out = RunFolder(options.out, resume=options.resume, processes=processes)
    stack.callback(out.close)
    if options.resume and checkpoint is None:
        say(f"The run in {options.out} had come to no checkpoint yet: it begins anew.")
    with processes.main_process_first():  # it downloads, or makes, what the others then find
        policy = plan.policy or plan.load(options)
        teacher = None  # the trainer makes one from the student, unless it is another model
        if options.teacher_model is not None:
            other = plan.teacher or plan.load(options.for_teacher(options.teacher_model))
            teacher = plan.algorithm.make_teacher(policy, other)
    record = plan.record()
    if processes.is_first:
        with phase("Reading the model's weights", quiet=options.quiet):
            known = begun.get("fingerprints", {}) if checkpoint is not None else {}
            record["fingerprints"] = {
                **problem_fingerprints(environment, evaluation),
                "model": known.get("model") or model_hashes(policy),
                **({"teacher_model": teacher.model_hash} if teacher else {}),
            }
    engine = _open_engine(plan, policy, stack)
    teacher_engine = None
    if teacher is not None and (evaluation is not None or plan.algorithm.gate is not None):
        teacher_engine = _open_engine(plan, teacher.policy, stack, is_teacher=True)
    for one in (environment, evaluation):
        for source in critics(one) if one is not None else ():
            source.critic = PolicyCritic(policy, engine, config.max_response_tokens)
    trainer = Trainer(
        policy,
        plan.algorithm,
        environment,
        config,
        template=plan.template,
        evaluation=evaluation,
        engine=engine,
        teacher=teacher,
        teacher_engine=teacher_engine,
        out=out,
        processes=processes,
        progress=not options.quiet,
    )
    if checkpoint is not None:
        trainer.load(checkpoint)
    else:  # a server samples from the weights that it was started with
        engine.sync(policy)
    out.write_config(record)
    names = options.trackers if processes.is_first else ()
    trackers = open_trackers(
        names, options.out, options.out.absolute().name, record, options.run_group
    )
    stack.callback(trackers.close)
    trainer.on_step = trackers.log
    return trainer


def _check_disk(plan: Plan) -> None:
    """Say so if the run will not find room for what it writes: it would end at a checkpoint."""
    needed = disk_of(plan.algorithm, plan.options, plan.config)
    if needed is not None and (reason := too_full(plan.options.out, needed.at_most)):
        say(
            f"Warning: {reason} Make room, pass an --out on another disk, or keep fewer: "
            f"--keep-checkpoints 1, or --save-every 0 for none."
        )


def _open_environments(plan: Plan, processes: Processes, stack: ExitStack) -> tuple[Any, Any]:
    """The environment to train in and that of the evaluation, None without one."""
    options, config = plan.options, plan.config
    prompts = max(config.prompts_per_step // processes.size, 1)
    with phase("Loading the problems", quiet=options.quiet):
        environment = plan.spec.make(prompts * config.group_size, options.train_split)
    stack.callback(environment.close)
    with phase("Starting the sandbox", quiet=options.quiet):
        open_sandbox(environment)
    if not (config.eval_every and config.eval_problems):
        return environment, None
    with phase("Loading the problems of the evaluation", quiet=options.quiet):
        split = options.train_split if config.set_aside else options.eval_split
        evaluation = plan.spec.make_for(config.eval_samples, config.eval_problems, split)
    stack.callback(evaluation.close)
    return environment, evaluation


def _open_engine(
    plan: Plan, policy: Policy, stack: ExitStack, *, is_teacher: bool = False
) -> Engine:
    """What samples for the student, or for a teacher that is another model."""
    name, config = plan.options.engine, plan.config
    if is_teacher and addresses(name):
        say(f"{name} samples for the student only; for the teacher, the engine is hf.")
        name = "hf"
    most = config.max_teacher_prompt_tokens + config.max_response_tokens
    apart = config.overlap and not is_teacher
    with phase(f"Starting the engine {name}", quiet=plan.options.quiet):
        engine = make_engine(
            name,
            policy,
            max_tokens=most,
            apart=apart,
            places=config.sampling_tokens,
            weights_folder=plan.options.weights_folder,
            weight_transfer=plan.options.weight_transfer,
        )
    stack.callback(engine.close)
    return engine


def _compare_with_saved(out: Path, begun: dict[str, Any], record: dict[str, Any]) -> None:
    """Say in what a resumed run differs from the one that was begun. Raises ValueError if it would
    be a run of another model, or in another environment."""
    if not begun:
        return
    changed = differences(begun, record)
    for name, what in NEVER_CHANGED.items():
        old, new = changed.get(name, (None, None))
        if old != new and not (name == "set" and same_options(old, new)):
            raise ValueError(f"{out} holds a run of the {what} {old}; it cannot go on as {new}.")
    for name, (old, new) in changed.items():
        say(f"Warning: resuming with {name} = {new}; the run was begun with {old}.")
    if others := other_software(begun, record):
        say(f"Warning: resuming with other software: {others}.")
