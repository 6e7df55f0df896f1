"""What a run would be, without running it: everything resolved, prompts measured, cost estimated.

Nothing is written, no sandbox is started, and nothing is fetched: what is not here is not measured,
and the report says so.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import MISSING, dataclass, field, fields, replace
from statistics import mean, median
from typing import TYPE_CHECKING, Any

import gymnasium as gym

from vpd_agent.console import phase
from vpd_agent.rollout.collect import all_problem_ids
from vpd_agent.rollout.environment import EnvironmentSpec
from vpd_agent.train.estimate import FULL, H100, Disk, ModelShape, Workload, disk, memory, seconds
from vpd_agent.train.fit import memory_at_hand
from vpd_agent.train.known_model import BYTES_PER_TOKEN, KnownModel, known_model, loaded_bytes
from vpd_agent.train.learner import check_sizes
from vpd_agent.train.problems import prompt_lengths

if TYPE_CHECKING:
    from vpd_agent.train.run import Plan

MEASURED_AT_ONCE = 64  # problems
OFTEN_USED = (4, 8)  # GPUs, with sharding, for what one cannot hold
ALWAYS_TOLD = ("steps", "prompts_per_step", "group_size", "learning_rate", "max_response_tokens")


@dataclass
class Report:
    """facts: what a person calls it → what it is. costs: the rows of a table whose columns are
    `columns`; empty where nothing can be estimated."""

    facts: dict[str, str] = field(default_factory=dict)
    columns: list[str] = field(default_factory=list)
    costs: list[list[str]] = field(default_factory=list)
    note: str = ""


@dataclass(frozen=True)
class _Lengths:
    """Tokens of prompts. most: a longer one is left out. measured: of every problem, where the
    problems are here."""

    most: int
    measured: list[int]

    @property
    def usable(self) -> list[int]:
        return [n for n in self.measured if n <= self.most]

    @property
    def longest(self) -> int:
        return max(self.usable, default=self.most)

    @property
    def usual(self) -> float:
        return mean(self.usable or [self.most])


def dry_run(plan: Plan) -> Report:
    """What `make_run` would do with the same plan, as far as it can be told from what is here.

    Raises ValueError as `make_run` does, but for what depends on the model's weights, the device
    and problems that are not here; RunFinished as it does.
    """
    plan.check_without_models()
    processes = int(os.environ.get("WORLD_SIZE", "1"))
    plan, told = _fitted(plan, processes)
    config, options = plan.config, plan.options
    check_sizes(plan.algorithm, config, processes)
    if config.sharding == "fsdp" and processes == 1:
        raise ValueError(
            "Sharding needs several processes. Start them with torchrun --nproc-per-node N, or "
            "leave --sharding out: the report tells what it would save."
        )
    model = known_model(options, options.model)
    other = None
    if options.teacher_model is not None:
        other = known_model(options.for_teacher(options.teacher_model), options.teacher_model)
    report = Report(_resolved(plan, model, other))
    if told:
        report.facts["fitted"] = told
    context = model.shape.context if model.shape else 1 << 30
    room = context - config.max_response_tokens
    lengths, report.facts["problems"] = _problems(plan, model, min(config.max_prompt_tokens, room))
    if config.eval_every and config.eval_problems:
        report.facts["evaluation"] = _evaluation(plan)
    longest_teacher = min(config.max_teacher_prompt_tokens, room)
    if plan.algorithm.teacher is not None:
        report.facts["teacher's prompt"] = _teacher_room(plan, lengths, longest_teacher)
    if model.shape is None:
        report.note = (
            f"Memory and time cannot be estimated: the shape of {options.model} is not known here. "
            f"Pass a folder with its config.json, of the families of vpd_agent/train/estimate.py."
        )
        return report
    work = _workload(plan, model, lengths, longest_teacher, processes)
    other_shape = other.shape if other else None
    report.facts["disk"] = _room(disk(model.shape, work, other_shape))
    _add_costs(report, model.shape, work, other_shape)
    return report


def _fitted(plan: Plan, processes: int) -> tuple[Plan, str]:
    """The plan for the memory of --memory-gb, or of the GPU that is here, else for the model's
    context alone, and what was chosen. It may be made on a laptop, for the GPU that the whole
    report is about."""
    device = plan.options.device
    if not plan.is_fitted:
        return plan, ""
    if plan.options.memory_gb is None and plan.options.chosen_device == "cpu":
        return plan.fitted(None, processes, fetch=False)
    if device == "auto":
        plan = replace(plan, options=replace(plan.options, device="cuda"))
    plan, told = plan.fitted(memory_at_hand(plan.options), processes, fetch=False)
    return replace(plan, options=replace(plan.options, device=device)), told


# --- what is here -------------------------------------------------------------------------------


def _problems(plan: Plan, model: KnownModel, most: int) -> tuple[_Lengths, str]:
    """The lengths of the training problems' prompts, and what there is to say of them."""
    options = plan.options
    environment = _opened(plan.spec, options.train_split)
    if environment is None:
        return _Lengths(most, []), _not_here(plan, most)
    with phase("Measuring the prompts"):
        lengths = _Lengths(most, [*prompt_lengths(environment, model.length).values()])
    environment.close()
    how = "" if model.tokenizer else f" (estimated, a token for {BYTES_PER_TOKEN} bytes)"
    sizes, too_long = lengths.measured, len(lengths.measured) - len(lengths.usable)
    if not lengths.usable and model.tokenizer:
        raise ValueError(
            f"No problem is left to train on: of {too_long}, none has a prompt of at most {most} "
            f"tokens (max_prompt_tokens, and the model's context less max_response_tokens)."
        )
    return lengths, (
        f"{len(sizes)} of {_split(options.train_split)}; prompts have {min(sizes)} to {max(sizes)} "
        f"tokens, half of them at most {median(sizes):.0f}{how}; {too_long} are longer than {most} "
        f"and left out"
    )


def _evaluation(plan: Plan) -> str:
    config, options = plan.config, plan.options
    split = options.train_split if config.set_aside else options.eval_split
    environment = _opened(plan.spec, split)
    there = "problems"
    if environment is not None:
        there = f"{len(all_problem_ids(environment))} problems"
        environment.close()
    return (
        f"{there} of {_split(split)}, at most {config.eval_problems}; {config.eval_samples} "
        f"answers to each, every {config.eval_every} steps"
    )


def _split(name: str | None) -> str:
    return f"the split {name}" if name else "the environment's own choice"


def _opened(spec: EnvironmentSpec, split: str | None) -> gym.vector.VectorEnv | None:
    with phase("Loading the problems"):
        return spec.make_at_hand(MEASURED_AT_ONCE, split)


def _not_here(plan: Plan, most: int) -> str:
    data = plan.spec.kwargs.get("data")
    where = "on the hub: pass --data to have them measured" if data is None else f"no {data} here"
    return f"{where}; a prompt is taken to have {most} tokens, the most that one may have"


def _teacher_room(plan: Plan, lengths: _Lengths, longest: int) -> str:
    template = plan.template
    characters = template.max_feedback_chars + template.max_attempt_chars
    return (
        f"at most {longest} tokens, {longest - lengths.longest} beside the longest problem; "
        f"feedback and a solved attempt have at most {characters} characters"
    )


def _room(needed: Disk) -> str:
    return (
        f"a model takes {_size(needed.model)}, a checkpoint {_size(needed.checkpoint)}; "
        f"{_size(needed.at_most)} at most while the run goes on, {_size(needed.left)} at its end"
    )


# --- what was resolved --------------------------------------------------------------------------


def _resolved(plan: Plan, model: KnownModel, other: KnownModel | None) -> dict[str, str]:
    """What differs from the defaults of the classes, in words."""
    options = plan.options
    given = [f"{name}={value}" for name, value in plan.spec.kwargs.items()]
    found = {
        "algorithm": f"{plan.algorithm.name} {_told(plan.algorithm)}",
        "environment": " ".join([plan.spec.id, *given]),
        "feedback": plan.spec.feedback,
        "model": _described(options.model, model),
        "training": f"{_told(plan.config, ALWAYS_TOLD)} (preset {options.preset})",
        "folder": str(options.out),
    }
    if other is not None:
        found["teacher's model"] = _described(str(options.teacher_model), other)
    return found


def _described(name: str, model: KnownModel) -> str:
    size = f"{model.shape.parameters / 1e9:.3g} billion weights, " if model.shape else ""
    template = "" if model.tokenizer else "; its template's arguments are not checked"
    return f"{name}: {size}{model.source if model.shape else 'not here'}{template}"


def _told(settings: Any, always: Sequence[str] = ()) -> str:
    """The fields of a dataclass that differ from their defaults."""
    found = []
    for each in fields(settings):
        default = each.default_factory() if callable(each.default_factory) else each.default
        value = getattr(settings, each.name)
        if each.name in always or default is MISSING or value != default:
            found.append(f"{each.name}={value}")
    return " ".join(found) or "as its class has it"


# --- what it costs ------------------------------------------------------------------------------


def _workload(
    plan: Plan, model: KnownModel, lengths: _Lengths, longest_teacher: int, processes: int
) -> Workload:
    options = plan.options
    size = loaded_bytes(options.dtype, model.weight_bytes)
    feedback = plan.template.max_feedback_chars / BYTES_PER_TOKEN
    return Workload(
        plan.algorithm,
        plan.config,
        longest_prompt=lengths.longest,
        longest_teacher_prompt=longest_teacher,
        prompt=lengths.usual,
        teacher_prompt=min(lengths.usual + feedback, longest_teacher),
        weight_bytes=size,
        autocast=options.precision == "bfloat16" and size == FULL,
        processes=processes,
        lora_rank=options.lora_rank,
        engine=options.engine,
    )


def _add_costs(
    report: Report, shape: ModelShape, work: Workload, other_teacher: ModelShape | None
) -> None:
    """Memory by its parts and time: of the run as it is and, where one GPU cannot hold it, sharded
    over several."""
    works = {_column(work): work}
    alone = memory(shape, work, other_teacher)
    if work.processes == 1 and max(alone.while_training, alone.while_sampling) > H100.memory:
        for count in OFTEN_USED:
            if work.config.prompts_per_step % count == 0:
                sharded = replace(work.config, sharding="fsdp")
                several = replace(work, processes=count, config=sharded)
                works[_column(several)] = several
    costs = [memory(shape, each, other_teacher) for each in works.values()]
    report.columns = ["of one process", *works]
    parts: dict[str, Callable[[Any], dict[str, float]]] = {
        "": lambda cost: cost.always,
        " (training)": lambda cost: cost.training,
        " (sampling)": lambda cost: cost.sampling,
    }
    for when, part in parts.items():
        for name in dict.fromkeys(name for cost in costs for name in part(cost)):
            values = [part(cost).get(name, 0.0) for cost in costs]
            report.costs.append([f"{name}{when}", *map(_size, values)])
    report.costs.append(["all while training", *(_size(cost.while_training) for cost in costs)])
    report.costs.append(["all while sampling", *(_size(cost.while_sampling) for cost in costs)])
    most = work.config.max_response_tokens
    for response in (most, most // 4):
        each = [seconds(shape, one, response) for one in works.values()]
        name = f"a step, answers of {response} tokens"
        report.costs.append([name, *(_time(sum(parts.values())) for parts in each)])
        for part in each[0]:
            report.costs.append([f"  {part}", *(_time(parts[part]) for parts in each)])
    report.note = (
        f"Estimates. Memory: at most, with every answer at its longest; the framework takes about "
        f"a tenth more. Time: {H100.describe()}; without judging, evaluations and the "
        f"exchange between processes."
    )
    if not work.samples_here:
        report.note += f" What {work.engine} takes to sample is not counted."


def _column(work: Workload) -> str:
    if work.processes == 1:
        return "1 process"
    return f"{work.processes} {'sharded' if work.config.sharding == 'fsdp' else 'processes'}"


def _size(size: float) -> str:
    for unit, name in ((1e9, "GB"), (1e6, "MB")):
        if size >= unit:
            return f"{size / unit:.1f} {name}"
    return f"{size / 1e3:.1f} kB" if size else "–"


def _time(duration: float) -> str:
    if duration >= 120:
        return f"{duration / 60:.0f} min"
    return f"{duration:.0f} s" if duration >= 10 else f"{duration:.2g} s"
