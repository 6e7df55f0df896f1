"""`solve`: hard problems by several methods at the same budget, for the command and for a lab."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, is_dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from sandbox.plugins import unknown
from vpd_agent.algorithms.base import Algorithm
from vpd_agent.console import bars, phase, say
from vpd_agent.engines import Engine
from vpd_agent.engines.make import check_engine, make_engine
from vpd_agent.evaluation.attempts import (
    AttemptFile,
    Bench,
    BestOfK,
    Method,
    MultiTurn,
    Turns,
    complete_attempts,
)
from vpd_agent.evaluation.evaluate import problem_sample
from vpd_agent.evaluation.solve_report import Report
from vpd_agent.model.policy import Policy
from vpd_agent.rollout.collect import all_problem_ids
from vpd_agent.rollout.teacher_prompt import TeacherTemplate
from vpd_agent.runs.identity import fingerprint, judge_hash, model_hashes
from vpd_agent.train.config import TrainConfig
from vpd_agent.train.learner import Learner
from vpd_agent.train.options import EnvironmentOptions, ModelOptions, open_sandbox
from vpd_agent.train.presets import PRESETS, chosen_preset
from vpd_agent.train.single_problem import TestTimeDistillation
from vpd_envs.data.provenance import field_defaults

if TYPE_CHECKING:
    import gymnasium as gym

MethodName = Literal["ttd", "best-of-k", "multi-turn"]
RESULTS = "results.jsonl"
# Presets whose models can read one attempt.
_FOR_SHORT_ANSWERS = ("laptop", "laptop-long", "laptop-games")
PUBLISHED_GROUP_SIZE = 16  # arXiv 2601.20802, table 12
FROM_PRESET = (  # options that are the preset's where they are not given
    *("group_size", "learning_rate", "micro_batch_size", "temperature", "success_reward"),
    *("max_prompt_tokens", "max_teacher_prompt_tokens", "max_response_tokens"),
)
UNMEASURED = (  # options that change no attempt, or may be added to
    *("out", "methods", "problems", "limit", "seeds", "sandbox", "device", "threads"),
    *("weights_folder", "weight_transfer"),
)


@dataclass(frozen=True, kw_only=True)
class SolveOptions(EnvironmentOptions, ModelOptions):
    out: Path
    """Folder for every attempt (results.jsonl), every number (results.json), the report and its
    picture. The same command goes on where it ended; other --methods, --problems, --limit and
    --seeds may be asked of it."""
    methods: tuple[MethodName, ...] = ("ttd", "best-of-k", "multi-turn")
    """ttd: test-time self-distillation, which trains on its attempts at the one problem, with
    their feedback, from the same initial weights for each. best-of-k: independent attempts of the
    initial model. multi-turn: one attempt after another, each with the feedback on earlier ones."""
    budget: int = 64
    """Attempts at each problem, K: answers that are sampled and judged, of each method and seed."""
    problems: tuple[str, ...] = ()
    """Ids of the problems; default: a sample of --limit of them."""
    split: str | None = "test"
    """Split of the environment; None: the environment's own choice."""
    limit: int = 20
    """Without --problems, how many, at most. Which ones is decided by a hash of their ids."""
    seeds: tuple[int, ...] = (0,)
    """Of what is random. Each method works on each problem once with each."""
    algorithm: str = "sdpo"
    """What trains in ttd, by name; its options are flags as of vpd train."""
    preset: str = "auto"
    """Whose defaults: laptop, laptop-long, laptop-games, tiny, code, science; auto: by environment
    and model."""
    group_size: int | None = None
    """Attempts of one training step of ttd; default: 8 with the laptop presets and the tiny one,
    else 16, as published."""
    learning_rate: float | None = None
    """Of ttd, constant; default: that of vpd train with this algorithm."""
    micro_batch_size: int | None = None
    """Attempts per forward and backward pass of ttd; default: the preset's."""
    temperature: float | None = None
    """Of sampling, and of the distributions that ttd compares; default: the preset's."""
    success_reward: float | None = None
    """An attempt solves its problem from this reward on; default: the preset's."""
    max_prompt_tokens: int | None = None
    """Problems with a longer prompt are left out; default: the preset's."""
    max_teacher_prompt_tokens: int | None = None
    """Of a prompt with feedback: the teacher's in ttd, the next attempt's in multi-turn; default:
    the preset's."""
    max_response_tokens: int | None = None
    """Of one attempt; default: the preset's."""
    turns: Turns | None = None
    """How multi-turn shows feedback. chat: attempts and feedback are the turns of a conversation,
    as many as fit, then a fresh start. all: the problem with the feedback on all earlier attempts,
    the oldest dropped where it is too long (as published). last: the same with the last attempt
    alone. Default: last for the laptop presets, whose models can read one; else all."""
    batch: int = 64
    """Attempts sampled and judged at a time, at most; in multi-turn, problems. It is part of what
    is measured: what is sampled together shares random numbers."""

    def __post_init__(self) -> None:
        for name in ("budget", "limit", "batch", "group_size"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{_flag(name)} must be at least 1, got {value}.")
        for name in ("learning_rate", "temperature", "success_reward"):
            value = getattr(self, name)
            if value is not None and not math.isfinite(value):
                raise ValueError(f"{_flag(name)} must be a finite number, got {value}.")
        for name in ("methods", "seeds", "problems"):
            given = getattr(self, name)
            if not given and name != "problems":
                raise ValueError(f"{_flag(name)} needs at least one value.")
            if twice := next((x for x in given if given.count(x) > 1), None):
                raise ValueError(f"{_flag(name)} has {twice!r} twice.")

    def preset_name(self) -> str:
        """Raises ValueError for one that there is not."""
        return chosen_preset(self.preset, self.env, self.model)

    def train_config(self, algorithm: Algorithm) -> TrainConfig:
        """Of the training on one problem. Raises ValueError for a value that is out of bounds."""
        name = self.preset_name()
        given = {key: getattr(self, key) for key in FROM_PRESET if getattr(self, key) is not None}
        if self.group_size is None and name not in (*_FOR_SHORT_ANSWERS, "tiny"):
            given["group_size"] = PUBLISHED_GROUP_SIZE
        elif self.group_size is None:
            given["group_size"] = PRESETS["laptop"].train.group_size
        return replace(
            PRESETS[name].config(algorithm.name),
            **given,
            steps=-(-self.budget // given["group_size"]),
            prompts_per_step=1,
            mini_batches=1,
            warmup_steps=0,
            learning_rate_decay=0.0,
            seed=0,
        )

    def chosen_turns(self) -> Turns:
        return self.turns or ("last" if self.preset_name() in _FOR_SHORT_ANSWERS else "all")


def _flag(name: str) -> str:
    return f"--{name.replace('_', '-')}"


class Solved(NamedTuple):
    """What `solve` found. failures: what stood in the way of searches that could not be judged."""

    report: Report
    failures: list[str]


def solve(
    options: SolveOptions,
    algorithm: Algorithm | None = None,
    template: TeacherTemplate | None = None,
) -> Solved:
    """Spend the budget of each method on each problem with each seed, as far as the folder of the
    options lacks that; nothing is printed or written beside the file of attempts.

    The prompt-only baseline of a comparison is methods=("best-of-k", "multi-turn") on the held-out
    problems, with the attempts that a trained run had as its budget, shared out:
    `solve(options).report.results["multi-turn"].discovery[-1]`.

    algorithm, template: None: those that the options and their preset name.

    Raises ValueError for what does not fit together, before any work, and for a folder that holds
    another search.
    """
    preset = PRESETS[options.preset_name()]
    algorithm = algorithm or preset.algorithm(options.algorithm)
    template = template or preset.template
    config = options.train_config(algorithm)
    _check(options, algorithm, config)
    with ExitStack() as stack:
        return _solve(options, algorithm, config, template, stack)


def _check(options: SolveOptions, algorithm: Algorithm, config: TrainConfig) -> None:
    """Raise ValueError, before any work, for what could not be done."""
    options.check()
    check_engine(options.engine, options.weight_transfer)
    if options.out.exists() and not options.out.is_dir():
        raise ValueError(f"--out {options.out} is a file; pass a folder.")
    if "ttd" not in options.methods:
        return
    if config.group_size >= options.budget:
        raise ValueError(
            f"ttd learns from --group-size ({config.group_size}) attempts before it makes others, "
            f"so --budget must be larger than that, got {options.budget}. Lower --group-size, or "
            f"leave ttd out of --methods."
        )
    if algorithm.gate is not None:
        raise ValueError(
            f"{algorithm.name} with a gate_width lets its teacher answer the problem too, which "
            f"would be attempts beyond the budget. Pass --gate-width None, or another --algorithm."
        )
    if config.group_size < algorithm.min_group_size:
        raise ValueError(
            f"{algorithm.name} needs a --group-size of at least {algorithm.min_group_size}, got "
            f"{config.group_size}."
        )


def _solve(
    options: SolveOptions,
    algorithm: Algorithm,
    config: TrainConfig,
    template: TeacherTemplate,
    stack: ExitStack,
) -> Solved:
    spec = options.spec(options.feedback)
    with phase("Loading the problems"):
        environment = spec.make(config.group_size, options.split)
    stack.callback(environment.close)
    turns = getattr(getattr(environment.unwrapped, "env", None), "max_turns", 1)
    if turns > 1:
        raise ValueError(
            "vpd solve counts every judged answer as one attempt, so an episode must have one, "
            f"and those of {options.env} may have {turns}: leave max_turns out of --set, or choose "
            "another environment. The method multi-turn makes its own turns."
        )
    ids = _chosen_problems(options, all_problem_ids(environment))
    with phase("Starting the sandbox"):
        open_sandbox(environment)
    policy = options.load(quiet=False)
    engine = _open_engine(options, policy, config, stack)
    with phase("Reading what is solved"):
        measured = _measured(options, algorithm, config, template, policy, environment)
    bench = Bench(
        policy,
        engine,
        lambda count: spec.resized(environment, count, options.split),
        max_response_tokens=config.max_response_tokens,
        temperature=config.temperature,
        success_reward=config.success_reward,
        batch=options.batch,
    )
    ids = _short_enough(ids, bench, config)
    with AttemptFile(options.out / RESULTS, measured, _defaults(algorithm)) as file:
        methods = _methods(options, algorithm, config, template, bench)
        with bars() as progress:
            for method in methods:
                progress.add(method.name, options.budget * len(ids) * len(options.seeds))
            failures = complete_attempts(
                file, methods, ids, options.seeds, options.budget, progress.show
            )
        attempts = file.attempts(ids, options.seeds)
    asked = options.methods, ids, options.seeds, options.budget
    return Solved(Report(attempts, *asked, measured), failures)


def _chosen_problems(options: SolveOptions, known: Sequence[str]) -> list[str]:
    there = set(known)
    for problem_id in options.problems:
        if problem_id not in there:
            raise ValueError(unknown("problem", problem_id, known))
    return list(options.problems) or problem_sample(known, options.limit)


def _short_enough(ids: list[str], bench: Bench, config: TrainConfig) -> list[str]:
    """The problems whose prompts fit. Raises ValueError if none does."""
    longest = min(
        config.max_prompt_tokens, bench.policy.context_length - config.max_response_tokens
    )
    lengths = [len(bench.policy.encode(messages)) for messages in bench.first_messages(ids)]
    kept = [p for p, length in zip(ids, lengths, strict=True) if length <= longest]
    told = f"of {len(ids)} problems have a prompt of more than {longest} tokens"
    if not kept:
        raise ValueError(
            f"All {told}: raise --max-prompt-tokens, or lower --max-response-tokens if the model's "
            f"context ({bench.policy.context_length} tokens) is what is short."
        )
    if len(kept) < len(ids):
        say(f"{len(ids) - len(kept)} {told}: they are left out.")
    return kept


def _methods(
    options: SolveOptions,
    algorithm: Algorithm,
    config: TrainConfig,
    template: TeacherTemplate,
    bench: Bench,
) -> list[Method]:
    """Those asked for, each with what it needs."""
    budget = options.budget

    def ttd() -> Method:
        environment = bench.environment(config.group_size)
        learner = Learner(
            bench.policy, algorithm, environment, config, template=template, engine=bench.engine
        )
        return TestTimeDistillation(learner, bench, budget)

    def multi_turn() -> Method:
        room = bench.policy.context_length - config.max_response_tokens
        longest = min(config.max_teacher_prompt_tokens, room)
        return MultiTurn(bench, budget, options.chosen_turns(), template, longest)

    make: dict[MethodName, Callable[[], Method]] = {
        "ttd": ttd,
        "best-of-k": partial(BestOfK, bench, budget),
        "multi-turn": multi_turn,
    }
    return [make[name]() for name in options.methods]


def _open_engine(
    options: SolveOptions, policy: Policy, config: TrainConfig, stack: ExitStack
) -> Engine:
    most = config.max_teacher_prompt_tokens + config.max_response_tokens
    with phase(f"Starting the engine {options.engine}"):
        engine = make_engine(
            options.engine,
            policy,
            max_tokens=most,
            places=config.sampling_tokens,
            weights_folder=options.weights_folder,
            weight_transfer=options.weight_transfer,
        )
    stack.callback(engine.close)
    engine.sync(policy)  # a server samples from the weights that it was started with
    return engine


def _defaults(algorithm: Algorithm) -> dict[str, Any]:
    """Of what `_measured` says and an older file may lack."""
    return {
        **field_defaults(TrainConfig, SolveOptions),
        **field_defaults(type(algorithm), prefix="algorithm."),
        **field_defaults(TeacherTemplate, prefix="template."),
    }


def _measured(
    options: SolveOptions,
    algorithm: Algorithm,
    config: TrainConfig,
    template: TeacherTemplate,
    policy: Policy,
    environment: gym.vector.VectorEnv,
) -> dict[str, Any]:
    """What the attempts depend on: they are of the same search where this is the same."""
    given = {k: v for k, v in vars(options).items() if k not in UNMEASURED}
    resolved = {key: getattr(config, key) for key in FROM_PRESET}
    assert is_dataclass(algorithm)
    return {
        **given,
        **resolved,
        **{key: list(given[key]) for key in ("set", "lora_target", "template_arguments")},
        "preset": options.preset_name(),
        "turns": options.chosen_turns(),
        "algorithm": {"name": algorithm.name, **asdict(algorithm)},
        "template": asdict(template),
        "problems": fingerprint(environment),
        "judge": judge_hash(environment),
        **model_hashes(policy),
    }
