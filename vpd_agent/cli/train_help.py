"""The help of vpd train: first what most people set, the rest by topic."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, fields, is_dataclass, make_dataclass
from typing import Annotated, Any, get_type_hints

import docstring_parser
import tyro

from sandbox.plugins import unknown
from vpd_agent.cli.flags import FlagGroup
from vpd_agent.console import is_main_process

COMMON, ALL = "common", "all"
ESSENTIALS = (
    *("env", "data", "set", "sandbox", "feedback", "model", "engine", "lora_rank", "out"),
    *("config", "preset", "steps", "prompts_per_step", "group_size", "max_response_tokens"),
    *("learning_rate", "eval_every", "seed", "resume", "dry_run"),
)
TOPICS: dict[str, tuple[str, ...]] = {  # those of the algorithm itself are under LOSSES
    "rollouts": (
        *("env", "data", "set", "sandbox", "feedback", "train_split", "prompts_per_step"),
        *("group_size", "temperature", "max_prompt_tokens", "max_response_tokens"),
        *("max_turn_tokens", "success_reward", "seed"),
    ),
    "model": ("model", "chat_template", "template_arguments", "lora_rank", "lora_alpha",
              "lora_target"),
    "teacher": (
        *("teacher_model", "teacher_prompt", "max_teacher_prompt_tokens", "teach_truncated"),
        *("teach_end", "template.turn", "template.demonstration", "template.failed"),
        *("template.solved", "template.max_feedback_chars", "template.max_attempt_chars"),
    ),
    "losses": (),
    "optimizer": (
        *("steps", "learning_rate", "warmup_steps", "learning_rate_decay", "adam_beta1"),
        *("adam_beta2", "weight_decay", "max_grad_norm", "max_step_kl", "updates_per_batch"),
        *("mini_batches", "max_skipped_steps"),
    ),
    "evaluation": (
        *("eval_every", "eval_split", "eval_problems", "eval_samples", "eval_seed", "set_aside"),
        *("eval_failures", "eval_successes", "collapse_ratio", "min_entropy", "max_entropy"),
        *("collapse_patience", "stop_on_collapse"),
    ),
    "memory": (
        *("fit", "memory_gb", "device", "threads", "dtype", "precision", "micro_batch_size"),
        *("micro_batch_tokens", "sampling_tokens", "gradient_checkpointing", "sharding"),
    ),
    "engine": ("engine", "weights_folder", "weight_transfer", "overlap", "max_staleness",
               "sampler_correction", "sampler_clip"),
    "files": (
        *("out", "config", "preset", "resume", "dry_run", "save_every", "keep_checkpoints"),
        *("samples_every", "samples_all", "inspect_every", "inspect_groups", "inspect_max_mb"),
        *("trackers", "run_group", "quiet"),
    ),
}  # fmt: skip
LOSSES = "losses"
MEANINGS = {
    "rollouts": "environment, feedback, batch, lengths, sampling",
    "model": "the student's model, its chat template, an adapter",
    "teacher": "who teaches, what it reads, and on which tokens it speaks",
    LOSSES: "the algorithm's own",
    "optimizer": "steps, learning rate, mini-batches",
    "evaluation": "on held-out problems; what counts as a collapse",
    "memory": "device, precision, size of passes, several processes",
    "engine": "what samples, and how far ahead",
    "files": "where a run comes from and what it writes",
    ALL: "everything (--help-all)",
}


@dataclass(frozen=True)
class Flag:
    """name: with underscores, and dots between the parts of a nested one."""

    name: str
    kind: Any
    default: Any
    meaning: str


def check_topic(topic: str) -> None:
    if topic != COMMON and topic not in MEANINGS:
        raise ValueError(unknown("topic of --help", topic, MEANINGS))


def print_help(prog: str, groups: Mapping[str, FlagGroup], topic: str, preset: str) -> None:
    """Print the flags of a topic: COMMON, ALL or one of TOPICS. groups: those of vpd train, with
    the defaults of the preset."""
    own = tuple(flag.name for flag in flags_of(groups["algorithm"]))
    flags = {flag.name: flag for group in groups.values() for flag in flags_of(group)}
    topics = TOPICS | {LOSSES: own}
    if topic != ALL:
        topics = {topic: topics.get(topic, ESSENTIALS)}
    shown = {title: [flags[name] for name in names] for title, names in topics.items()}
    with suppress(SystemExit):  # tyro's way to end after --help
        tyro.cli(_as_class(shown), prog=prog, args=["--help"], console_outputs=is_main_process())
    if topic == COMMON and is_main_process():
        lines = [f"  {prog} --help {name:<11} {meaning}" for name, meaning in MEANINGS.items()]
        print("\n".join(["", "These are what most people set. All the others:", *lines]))
        print(
            f"\nThe defaults are those of the preset {preset}. With --env and --model beside "
            f"--help they are those of that run."
        )


def flags_of(group: FlagGroup) -> Iterator[Flag]:
    """The flags of a group, with their defaults there."""
    yield from _flags(group.kind, group.default, group.prefix)


def _flags(kind: type, default: Any, prefix: str) -> Iterator[Flag]:
    hints, meanings = get_type_hints(kind, include_extras=True), _meanings(kind)
    for each in fields(kind):
        name, hint = f"{prefix}{each.name}", hints[each.name]
        value = getattr(default, each.name)
        if is_dataclass(value):
            yield from _flags(type(value), value, f"{name}.")
        else:
            written = (getattr(about, "help", None) for about in getattr(hint, "__metadata__", ()))
            meaning = next(filter(None, written), meanings.get(each.name, ""))
            yield Flag(name, hint, value, meaning)


def _meanings(kind: type) -> dict[str, str]:
    """What the docstrings of a dataclass say of its fields, those that it inherits among them."""
    parsed = map(docstring_parser.parse_from_object, reversed(kind.__mro__[:-1]))
    params = [param for docstring in parsed for param in docstring.params]
    return {param.arg_name: " ".join((param.description or "").split()) for param in params}


def _as_class(shown: Mapping[str, list[Flag]]) -> type:
    """A dataclass of dataclasses, one for each title, as tyro reads them."""
    groups = []
    for title, flags in shown.items():
        kind = make_dataclass(title, [_as_field(i, flag) for i, flag in enumerate(flags)])
        name = "" if title == COMMON else title
        kind = tyro.conf.OmitArgPrefixes[Annotated[kind, tyro.conf.arg(name=name)]]
        groups.append((title, kind))
    return make_dataclass("Arguments", groups)


def _as_field(number: int, flag: Flag) -> tuple[str, Any, Any]:
    # Where nothing is the default, the meaning says what that comes to.
    hint = "" if flag.default in (None, (), "") else None
    told = tyro.conf.arg(name=flag.name, help=flag.meaning or None, help_behavior_hint=hint)
    return f"flag_{number}", Annotated[flag.kind, told], field(default=flag.default)
