"""Options of a run that nobody has given, as the model's context and the memory at hand have them.

A real model's presets are those of published runs, on GPUs of 80 GB and more. What makes them fit
elsewhere is chosen here before anything is loaded, from the estimates of estimate.py: where the
lengths end, in which precision and of what share of the model the weights are trained, and how many
tokens a pass takes. What was given is left as it is.
"""

from __future__ import annotations

import os
from bisect import bisect_left
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, replace
from importlib.util import find_spec
from typing import Any

from sandbox.installation import install_hint
from vpd_agent.algorithms.base import Algorithm
from vpd_agent.model.source import PRESETS
from vpd_agent.runs.machine import free_memory
from vpd_agent.train.config import TrainConfig
from vpd_agent.train.estimate import FULL, Memory, ModelShape, Workload, memory
from vpd_agent.train.known_model import known_shape, loaded_bytes
from vpd_agent.train.options import TrainOptions

FITTED_PRESETS = ("code", "science")
USABLE = 0.9  # of the memory at hand; the framework loses about a tenth between allocations
LORA_RANK = 32
LORA_LEARNING_RATE = 10.0
"""Times the learning rate of full training: what Schulman et al. found best for adapters, whatever
the rank and the model ("LoRA Without Regret", Thinking Machines Lab, 2025)."""
MOST_ON_CPU, MOST_ON_GPU = 4096, 32768  # tokens of a pass: with more, each takes no less time
LEAST_RESPONSE = 512  # tokens, down to which answers are made shorter as a last resort
_PRECISION = frozenset({"dtype", "precision", "lora_rank"})
_PASSES = frozenset({"micro_batch_size", "micro_batch_tokens"})
_LENGTHS = frozenset({"max_prompt_tokens", "max_teacher_prompt_tokens", "max_response_tokens"})
CHOSEN = (
    _PRECISION
    | _PASSES
    | _LENGTHS
    | {"gradient_checkpointing", "sharding", "sampling_tokens", "learning_rate"}
)
"""Everything that may be chosen: options, and fields of the configuration."""


@dataclass(frozen=True)
class Fitted:
    """told: what was chosen and why, in words."""

    options: TrainOptions
    config: TrainConfig
    told: str


@dataclass(frozen=True)
class _Choice:
    """A way to train that may fit."""

    options: TrainOptions
    config: TrainConfig


def is_fitted(options: TrainOptions) -> bool:
    """Whether anything of a run with these options is chosen here: not that of a tiny model, and
    not with --no-fit."""
    return options.fit and options.preset in FITTED_PRESETS and options.model not in PRESETS


def memory_at_hand(options: TrainOptions) -> float:
    """Bytes for this process: of the GPU that the model goes to, or its share of the machine's."""
    if options.memory_gb is not None:
        return options.memory_gb * 1e9
    device = options.chosen_device
    if device == "cpu":
        return free_memory() / int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    import torch

    return float(torch.cuda.mem_get_info(device)[0])


def fit(
    algorithm: Algorithm,
    options: TrainOptions,
    config: TrainConfig,
    given: Collection[str],
    at_hand: float | None,
    processes: int = 1,
    fetch: bool = True,
) -> Fitted | None:
    """What a run becomes; None if estimate.py does not count the model's shape.

    given: the names of the options and fields of the configuration that stay as they are.
    at_hand: bytes of memory for each process; None: not known, so only the lengths are fitted, to
        the model's context.
    fetch: whether the configuration of a model of the hub may be fetched.

    Raises ValueError where nothing that may be chosen makes the run fit.
    """
    shape, stored = known_shape(options.model, fetch=fetch)
    if shape is None:
        return None
    fitting = _lengths(algorithm, config, given, shape.context)
    if at_hand is None:
        changed = _flags(options, config, _Choice(options, fitting))
        told = (
            f"Chosen for a context of {shape.context} tokens: {changed}. A run chooses more for "
            f"the memory at hand: --memory-gb shows what."
        )
        return Fitted(options, fitting, told if changed else "")
    teacher = None
    if options.teacher_model is not None:
        teacher, _ = known_shape(options.teacher_model, fetch=fetch)
    most = MOST_ON_CPU if options.chosen_device == "cpu" else MOST_ON_GPU
    least: tuple[float, _Choice] | None = None
    for shorter in _shorter(fitting, given):
        for way in _ways(_Choice(options, shorter), stored, given, processes):
            work = _workload(algorithm, shape, way, stored, at_hand, processes)
            if _PASSES.isdisjoint(given):
                work = _with_passes(shape, work, teacher, most)
            if "sampling_tokens" not in given and work.engine == "hf":
                work = _with_samples(shape, work, teacher)
            choice, cost = replace(way, config=work.config), memory(shape, work, teacher)
            needed = max(cost.while_training, cost.while_sampling)
            if needed <= USABLE * at_hand:
                changed = _flags(options, config, choice)
                told = _told(changed, cost, at_hand, shape.context) if changed else ""
                return Fitted(choice.options, choice.config, told)
            if least is None or needed < least[0]:
                least = needed, choice
    assert least is not None
    needed, choice = least
    flags = _flags(options, config, choice)
    raise ValueError(
        f"This run does not fit into {at_hand / 1e9:.1f} GB: {algorithm.name} with {options.model} "
        f"takes {needed / USABLE / 1e9:.1f} GB at least, as estimated"
        f"{f' with {flags}' if flags else ''}.{_without_peft()} Choose a smaller model, an "
        f"algorithm with fewer copies of it, or smaller lengths; --memory-gb says how much memory "
        f"there is, and --no-fit lets the run try as it is."
    )


def as_begun(
    options: TrainOptions, config: TrainConfig, given: Collection[str], begun: Mapping[str, Any]
) -> tuple[TrainOptions, TrainConfig]:
    """What a resumed run was begun with, where it is not given and may have been chosen here."""
    taken = CHOSEN.difference(given)
    in_options, in_config = (
        {name: value for name, value in begun.get(part, {}).items() if name in taken}
        for part in ("options", "config")
    )
    return replace(options, **in_options), replace(config, **in_config)


def _lengths(
    algorithm: Algorithm, config: TrainConfig, given: Collection[str], context: int
) -> TrainConfig:
    """With prompts and answers that the model's context holds: half of it for each."""
    has_teacher = algorithm.teacher is not None
    prompt = config.max_teacher_prompt_tokens if has_teacher else config.max_prompt_tokens
    if prompt + config.max_response_tokens <= context:
        return config
    if "max_response_tokens" not in given:
        response = min(config.max_response_tokens, max(context // 2, context - prompt))
        config = replace(config, max_response_tokens=response)
    room = max(context - config.max_response_tokens, 1)  # a run without any says so itself
    most = {"max_teacher_prompt_tokens": room, "max_prompt_tokens": room}
    if has_teacher:  # whose prompt has the feedback and a solved attempt beside the problem
        most["max_prompt_tokens"] = max(room // 2, 1)
    changed = {
        name: min(getattr(config, name), tokens)
        for name, tokens in most.items()
        if name not in given
    }
    return replace(config, **changed)


def _shorter(config: TrainConfig, given: Collection[str]) -> Iterator[TrainConfig]:
    """As it is, and with ever shorter answers where their length was not given."""
    yield config
    while "max_response_tokens" not in given and config.max_response_tokens > LEAST_RESPONSE:
        shorter = max(config.max_response_tokens // 2, LEAST_RESPONSE)
        config = replace(config, max_response_tokens=shorter)
        yield config


def _ways(start: _Choice, stored: int, given: Collection[str], processes: int) -> Iterator[_Choice]:
    """From the fastest and most exact to what takes least memory."""
    options, config = start.options, start.config
    full = options
    if _PRECISION.isdisjoint(given):
        full = _in_float32(options, stored)
    again: dict[str, Any] = {"gradient_checkpointing": True}
    if "gradient_checkpointing" in given:
        again = {}
    yield _Choice(full, config)
    yield _Choice(full, replace(config, **again))
    if processes > 1 and "sharding" not in given:
        yield _Choice(full, replace(config, sharding="fsdp", **again))
    if _PRECISION.isdisjoint(given) and find_spec("peft") is not None:
        if "learning_rate" not in given:
            rate = float(f"{config.learning_rate * LORA_LEARNING_RATE:.6g}")  # no 9.99…e-06
            config = replace(config, learning_rate=rate)
        on_cpu = options.chosen_device == "cpu"
        frozen = full if on_cpu else replace(options, dtype="bfloat16")
        adapted = replace(frozen, lora_rank=LORA_RANK)
        yield _Choice(adapted, config)
        yield _Choice(adapted, replace(config, **again))


def _in_float32(options: TrainOptions, stored: int) -> TrainOptions:
    """Trained weights of fewer bits lose the steps of a small learning rate in rounding. A GPU
    computes with bfloat16 all the same."""
    on_cpu = options.chosen_device == "cpu"
    return replace(
        options,
        dtype="auto" if stored == FULL else "float32",
        precision="weights" if on_cpu else "bfloat16",
    )


def _workload(
    algorithm: Algorithm,
    shape: ModelShape,
    choice: _Choice,
    stored: int,
    at_hand: float,
    processes: int,
) -> Workload:
    options, config = choice.options, choice.config
    size = loaded_bytes(options.dtype, stored)
    room = max(shape.context - config.max_response_tokens, 1)
    prompt = min(config.max_prompt_tokens, room)
    teacher_prompt = min(config.max_teacher_prompt_tokens, room)
    return Workload(
        algorithm,
        config,
        longest_prompt=prompt,
        longest_teacher_prompt=teacher_prompt,
        prompt=prompt,
        teacher_prompt=teacher_prompt,
        weight_bytes=size,
        autocast=options.precision == "bfloat16" and size == FULL,
        processes=processes,
        lora_rank=options.lora_rank,
        engine=options.engine,
        device_memory=at_hand,
    )


def _with_passes(
    shape: ModelShape, work: Workload, teacher: ModelShape | None, most: int
) -> Workload:
    """With passes of as many of the longest rollouts as the memory holds, up to `most` tokens."""

    def of_rows(rows: int) -> Workload:
        tokens = rows * work.row_tokens
        config = replace(work.config, micro_batch_size=None, micro_batch_tokens=tokens)
        return replace(work, config=config)

    def holds(rows: int) -> bool:
        taken = memory(shape, of_rows(rows), teacher).while_training
        return taken <= USABLE * work.device_memory

    return of_rows(_largest(max(most // work.row_tokens, 1), holds))


def _with_samples(shape: ModelShape, work: Workload, teacher: ModelShape | None) -> Workload:
    """With as many of the longest rollouts decoded side by side as the memory holds."""

    def of_rows(rows: int) -> Workload:
        tokens = rows * (work.longest_prompt + work.config.max_response_tokens)
        return replace(work, config=replace(work.config, sampling_tokens=tokens))

    def holds(rows: int) -> bool:
        taken = memory(shape, of_rows(rows), teacher).while_sampling
        return taken <= USABLE * work.device_memory

    rows = _largest(work.sampled_rows, holds)
    return work if rows == work.sampled_rows else of_rows(rows)


def _largest(most: int, holds: Callable[[int], bool]) -> int:
    """The largest number up to `most` for which it holds, as for all below; 1 if for none."""
    return max(bisect_left(range(1, most + 1), True, key=lambda n: not holds(n)), 1)


def _told(flags: str, cost: Memory, at_hand: float, context: int) -> str:
    return (
        f"Chosen for {at_hand / 1e9:.1f} GB and a context of {context} tokens: {flags}. By "
        f"estimate this takes {cost.while_training / 1e9:.1f} GB while it trains and "
        f"{cost.while_sampling / 1e9:.1f} GB while it samples. What you pass is left as it is; "
        f"with --no-fit everything is."
    )


def _flags(options: TrainOptions, config: TrainConfig, choice: _Choice) -> str:
    """Those in which a choice differs from what there was."""
    flags = []
    for old, chosen in ((options, choice.options), (config, choice.config)):
        for name, new in vars(chosen).items():
            if getattr(old, name) != new:
                words = name.replace("_", "-")
                flags.append(f"--{words}" if new is True else f"--{words} {new}")
    return " ".join(flags)


def _without_peft() -> str:
    if find_spec("peft") is not None:
        return ""
    return f" An adapter (--lora-rank) would take less, and needs peft: {install_hint('lora')}"
