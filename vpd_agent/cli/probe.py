"""vpd probe: before any training, what a teacher with feedback has to teach a model."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import tyro

from vpd_agent.cli.flags import FlagGroup, parse, read_ahead
from vpd_agent.console import bars, is_main_process, phase, print_table, say
from vpd_agent.train.options import EnvironmentOptions, ModelOptions, open_sandbox

if TYPE_CHECKING:
    import gymnasium as gym

    from vpd_agent.data.types import Rollout
    from vpd_agent.engines import Engine
    from vpd_agent.model.policy import Policy
    from vpd_agent.model.teacher import Teacher
    from vpd_agent.rollout.teacher_prompt import TeacherTemplate

REQUIRED: Any = tyro.MISSING
LENGTHS = ("max_response_tokens", "max_turn_tokens", "max_teacher_prompt_tokens")
DESCRIPTION = (
    "The student answers every problem several times; the teacher, the same model that reads the "
    "feedback too, answers after each. Says how much more of what the student fails the teacher "
    "solves than a second try of the student, and how far its next tokens are from the student's."
)


@dataclass(frozen=True, kw_only=True)
class ProbeOptions(EnvironmentOptions, ModelOptions):
    split: str | None = "train"
    """Split of the environment; None: the environment's own choice."""
    problems: int = 100
    """Problems, at most. Which ones is decided by a hash of their ids."""
    samples: int = 4
    """Answers of the student to each of them, at least 2: the others are its second tries. The
    teacher answers once after each."""
    preset: str = "auto"
    """Whose teacher prompts and lengths are the defaults: laptop, laptop-long, laptop-games, tiny,
    code, science; auto: by environment and model, as in vpd train."""
    teacher_model: str | None = None
    """Another model that is the teacher, with the student's tokenizer (see --model)."""
    teacher_prompt: Literal["feedback", "plain"] = "feedback"
    """What the teacher reads: the feedback on the student's attempt; or, with a --teacher-model,
    just the student's own prompt."""
    max_response_tokens: int
    """Of an episode after its first prompt: the answer, or all answers and replies."""
    max_turn_tokens: int | None = None
    """Of one answer, in environments of several turns; default: what is left of the episode."""
    max_teacher_prompt_tokens: int
    """Feedback is cut until the teacher's prompt fits."""
    temperature: float = 1.0
    """Of sampling, and of the distributions that are compared."""
    success_reward: float = 1.0
    """An answer counts as solved from this reward on."""
    batch: int = 64
    """Answers sampled and judged at a time. It is part of what is measured, as in vpd eval."""
    seed: int = 0
    """Of sampling: the same seed gives the same numbers."""
    out: Path | None = None
    """File NAME.json for every number, with the outcome of every answer. Beside it, NAME.html has
    what is printed as a page."""


def probe(arguments: list[str]) -> int:
    from vpd_agent.engines.make import check_engine
    from vpd_agent.rollout.teacher_prompt import PlainPrompt, TeacherTemplate
    from vpd_agent.train.presets import PRESETS

    name = _preset_name(arguments)
    preset = PRESETS[name]
    defaults = ProbeOptions(
        env=REQUIRED,
        model=REQUIRED,
        max_response_tokens=preset.train.max_response_tokens,
        max_teacher_prompt_tokens=preset.train.max_teacher_prompt_tokens,
    )
    parsed = parse(
        "vpd probe",
        arguments,
        description=DESCRIPTION,
        options=FlagGroup(ProbeOptions, defaults),
        template=FlagGroup(TeacherTemplate, preset.template, prefix="template."),
    )
    options: ProbeOptions = replace(parsed.options, preset=name)
    _check(options)
    check_engine(options.engine, options.weight_transfer)
    template: TeacherTemplate = parsed.template
    if options.teacher_prompt == "plain":
        template = PlainPrompt(**vars(template))
    with ExitStack() as stack:
        found = _probed(options, template, stack)
    return _report(options, found)


def _preset_name(arguments: Sequence[str]) -> str:
    """The preset, which decides defaults, so that it is read ahead of the other flags."""
    from vpd_agent.train.presets import chosen_preset

    early = read_ahead(arguments, env="", model="", preset="auto")
    return chosen_preset(early["preset"] or "auto", early["env"], early["model"])


def _check(options: ProbeOptions) -> None:
    """Raise ValueError, before any work, for what could not be measured."""
    least = {"samples": 2}
    for name in ("problems", "samples", "batch", *LENGTHS):
        value = getattr(options, name)
        if value is not None and value < least.get(name, 1):
            raise ValueError(f"--{name.replace('_', '-')} must be at least {least.get(name, 1)}.")
    for name in ("temperature", "success_reward"):
        if not math.isfinite(getattr(options, name)):
            raise ValueError(f"--{name.replace('_', '-')} must be a finite number.")
    if options.temperature <= 0:
        raise ValueError(f"--temperature must be positive, got {options.temperature}.")
    if options.teacher_prompt == "plain" and options.teacher_model is None:
        raise ValueError(
            "With the prompt and the weights of the student the teacher would be the student "
            "itself. Choose a --teacher-model, or leave out --teacher-prompt plain."
        )
    if options.out is not None and options.out.suffix != ".json":
        raise ValueError(f"--out must be a file NAME.json, got {options.out}.")
    if options.out is not None and not options.out.absolute().parent.is_dir():
        raise ValueError(f"The folder of --out {options.out} does not exist: make it first.")
    options.check()
    if options.teacher_model is not None:
        options.for_teacher(options.teacher_model).check()


def _probed(options: ProbeOptions, template: TeacherTemplate, stack: ExitStack) -> dict[str, Any]:
    """What student and teacher answer, and what that says: `findings`."""
    from vpd_agent.evaluation.evaluate import problem_sample
    from vpd_agent.evaluation.probe import (
        findings,
        student_answers,
        with_divergence,
        with_teacher,
    )
    from vpd_agent.rollout.collect import Actor, all_problem_ids

    each = options.samples
    with phase("Loading the problems"):
        most = min(options.problems, max(options.batch // each, 1))
        environment = options.spec(options.feedback).make_for(each, most, options.split)
    stack.callback(environment.close)
    with phase("Starting the sandbox"):
        open_sandbox(environment)
    ids = problem_sample(all_problem_ids(environment), options.problems)
    models = _models(options, environment, stack)
    limits = options.max_response_tokens, options.max_turn_tokens, options.temperature
    student = Actor(models.student, models.engine, environment, *limits)
    # Without wrappers: its reward is all that is wanted of the teacher's answers.
    reader = Actor(models.student, models.teacher_engine, environment.unwrapped, *limits)
    seed, success, count = options.seed, options.success_reward, len(ids) * each
    with bars() as progress:

        def shown(name: str) -> Callable[[int, int], None]:
            progress.add(name, count)
            # Fewer are to be done where answers have no feedback.
            return lambda done, total: progress.show(name, count if done == total else done)

        shows = [shown(name) for name in ("student", "teacher", "divergence")]
        answers = student_answers(student, ids, each, seed, success, shows[0])
        prompts = partial(_teacher_prompts, options, template, models.student)
        answers = with_teacher(answers, reader, prompts, seed, success, shows[1])
        pair = models.student, models.teacher
        answers = with_divergence(answers, *pair, options.temperature, shows[2])
    turns = getattr(getattr(environment.unwrapped, "env", None), "max_turns", 1)
    return findings(answers, count, turns)


class _Models(NamedTuple):
    """Student and teacher, and what samples from each."""

    student: Policy
    engine: Engine
    teacher: Teacher
    teacher_engine: Engine


def _models(options: ProbeOptions, environment: gym.vector.VectorEnv, stack: ExitStack) -> _Models:
    from vpd_agent.engines.make import addresses, make_engine
    from vpd_agent.model.teacher import Teacher
    from vpd_agent.rollout.critic import PolicyCritic
    from vpd_agent.rollout.environment import critics

    def open_engine(name: str, policy: Policy) -> Engine:
        most = options.max_teacher_prompt_tokens + options.max_response_tokens
        with phase(f"Starting the engine {name}"):
            engine = make_engine(
                name,
                policy,
                max_tokens=most,
                weights_folder=options.weights_folder,
                weight_transfer=options.weight_transfer,
            )
        stack.callback(engine.close)
        return engine

    policy = options.load(quiet=False)
    engine = open_engine(options.engine, policy)
    engine.sync(policy)  # a server samples from the weights that it was started with
    for source in critics(environment):
        source.critic = PolicyCritic(policy, engine, options.max_response_tokens)
    if options.teacher_model is None:
        return _Models(policy, engine, Teacher(policy, "live", rate=1.0), engine)
    other = options.for_teacher(options.teacher_model).load(quiet=False)
    teacher = Teacher(policy, "frozen", rate=1.0, model=other)
    name = "hf" if addresses(options.engine) else options.engine
    return _Models(policy, engine, teacher, open_engine(name, other))


def _teacher_prompts(
    options: ProbeOptions, template: TeacherTemplate, policy: Policy, rollouts: Sequence[Rollout]
) -> list[list[int] | None]:
    from vpd_agent.rollout.teacher_prompt import teacher_prompt

    room = policy.context_length - options.max_response_tokens
    longest = min(options.max_teacher_prompt_tokens, room)
    return [
        teacher_prompt(
            policy,
            template,
            *(r.messages, r.text, r.feedback),
            solved=r.reward >= options.success_reward,
            demonstration=r.demonstration,
            max_tokens=longest,
        )
        for r in rollouts
    ]


def _report(options: ProbeOptions, found: dict[str, Any]) -> int:
    """Print what came out, write it, and return the exit code."""
    from vpd_agent.runs.files import finite, write_atomically

    for title, header, rows in _tables(found):
        print_table(title, header, rows)
    if is_main_process():
        print(found["sentence"])
    if options.out is not None and is_main_process():
        measured = {k: v for k, v in vars(options).items() if k != "out"}
        text = json.dumps(finite({**found, "measured": measured}), indent=1, ensure_ascii=False)
        write_atomically(options.out, text + "\n")
        page = options.out.with_suffix(".html")
        write_atomically(page, _page(found, measured))
        print(f"{options.out}\n{page}")
    lost = found["not_judged"] + found["teacher_not_judged"]
    if lost:
        say(f"{lost} answers could not be judged, and are left out.")
    return 1 if lost else 0


def _page(found: dict[str, Any], measured: dict[str, Any]) -> str:
    from vpd_agent.comparison.page import page
    from vpd_agent.comparison.sections import Section, Table

    options = [[name, str(value)] for name, value in measured.items() if value is not None]
    sections = [
        Section("What it says", [[found["sentence"]]]),
        *(Section(title, [Table(header, rows)]) for title, header, rows in _tables(found)),
        Section("Measured with", [Table(["option", "value"], options, words=2)]),
    ]
    title = f"{measured['model']} in {measured['env']}, before any training"
    return page(title, DESCRIPTION, sections, Path())


def _tables(found: dict[str, Any]) -> list[tuple[str, list[str], list[list[str]]]]:
    """Title, header and rows of each table."""
    student, teacher, failed = found["student"], found["teacher"], found["failed"]
    rates = [
        ("student: pass@1", student["pass@1"]),
        ("teacher: pass@1, where there is feedback", teacher["pass@1"]),
        ("teacher − student, there", found["difference"]),
        ("teacher: repairs of failed answers", failed["repair"]),
        ("student: second tries at them", failed["retry"]),
        ("repairs − second tries", failed["difference"]),
    ]
    shares = [
        ("answers with feedback", found["feedback"]),
        ("student: format errors", student["format_errors"]),
        ("teacher: format errors", teacher["format_errors"]),
        ("student: answers cut off", student["truncated"]),
        ("teacher: right after a right answer", found["kept"]),
    ]
    per_cent = [
        [name, *(_number(100 * i[part]) for part in ("mean", "low", "high")), str(i["count"])]
        for name, i in rates
    ] + [[name, _number(100 * share), "", "", ""] for name, share in shares]
    nats = [
        [
            f"{word} answers",
            *(_number(value, 3) for value in (d["mean"], *d["quantiles"].values())),
            _number(d["per_answer"], 2),
            str(d["tokens"]),
        ]
        for word, d in found["divergence"].items()
    ]
    tokens = [
        [name.replace("_", " "), _number(t["mean"]), _number(t["median"], 0), str(t["max"])]
        for name, t in found["tokens"].items()
    ]
    quantiles = [f"{100 * float(q):g} %" for q in found["divergence"]["failed"]["quantiles"]]
    return [
        (
            f"{len(found['problems'])} problems, {found['answers']} answers, 95 % intervals",
            ["%", "estimate", "low", "high", "problems"],
            per_cent,
        ),
        (
            "KL(student‖teacher) on the student's answers, nats a token",
            ["", "mean", *quantiles, "per answer", "tokens"],
            nats,
        ),
        ("tokens", ["", "mean", "median", "max"], tokens),
        ("statuses", ["", "student", "teacher"], _statuses(student, teacher)),
    ]


def _statuses(student: dict[str, Any], teacher: dict[str, Any]) -> list[list[str]]:
    counts = student["statuses"], teacher["statuses"]
    names = dict.fromkeys([*counts[0], *counts[1]])
    return [[name, *(str(each.get(name, 0)) for each in counts)] for name in names]


def _number(value: float, digits: int = 1) -> str:
    return f"{value:.{digits}f}" if math.isfinite(value) else "-"
