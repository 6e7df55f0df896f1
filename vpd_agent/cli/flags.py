"""Options that several commands share, and how a command's flags are read."""

from __future__ import annotations

import os
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields, is_dataclass, make_dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, cast, get_type_hints

import tyro

from sandbox.installation import install_hint
from vpd_agent.console import bars, is_main_process, phase, say
from vpd_envs.feedback import SOURCES

if TYPE_CHECKING:
    from vpd_agent.model.policy import Policy
    from vpd_agent.rollout.environment import EnvironmentSpec

RENAMED = {  # flags, and keys of configuration files, that have another name now
    "setting": "preset",
    "distil_on": "distill_on",
    "normaliser": "normalizer",
}
FEEDBACK_HELP = (
    "Sources of feedback, from the innermost to the outermost, joined by '+', such as "
    "status+siblings+noisy:drop=0.2; your own as module:Class. "
) + "; ".join(f"{name}: {source.meaning}" for name, source in SOURCES.items())


@dataclass(frozen=True, kw_only=True)
class ProblemOptions:
    env: str
    """Gymnasium id, e.g. vpd/MiniCode-v0; your own as module:Name-v0 or module:Class."""
    data: str | None = None
    """Data file or folder, for environments that read one."""
    sandbox: str | None = None
    """Where untrusted programs run: docker, bubblewrap, local, your own as module:Class; default:
    the strongest that works."""
    set: tuple[str, ...] = ()
    """Options of the environment, KEY=VALUE each, such as dataset=gsm8k feedback_tests=half. Those
    there are: vpd envs ID."""

    def spec(self, feedback: str = "environment") -> EnvironmentSpec:
        from vpd_agent.rollout.environment import EnvironmentSpec
        from vpd_envs.catalog import parsed_options

        kwargs = parsed_options(self.set, data=self.data, sandbox=self.sandbox)
        if "split" in kwargs:
            raise ValueError(
                "The split has flags of its own: --split of vpd eval, --train-split and "
                "--eval-split of vpd train. Leave it out of --set."
            )
        return EnvironmentSpec(self.env, feedback, kwargs)


@dataclass(frozen=True, kw_only=True)
class EnvironmentOptions(ProblemOptions):
    feedback: Annotated[str, tyro.conf.arg(help=FEEDBACK_HELP)] = "environment"


@dataclass(frozen=True, kw_only=True)
class ModelOptions:
    model: str
    """A folder, a model of the Hugging Face hub, or one of the tiny preset: 'tiny' (random
    weights), 'tiny-warm' (for vpd/MiniCode-v0), 'tiny-code' (writes short programs)."""
    engine: str = "hf"
    """What samples the answers: hf (transformers, in this process), vllm (in this process too), the
    address of a vLLM server, such as http://127.0.0.1:8000, or your own as module:Class."""
    device: str = "auto"
    """cpu, cuda, cuda:1 …; auto: cuda where there is one."""
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    """Of the weights; auto: as they are stored."""
    precision: Literal["weights", "bfloat16"] = "weights"
    """What the model computes in: the type of its weights, or bfloat16 with log-probabilities and
    losses in float32. The usual mixed precision is --dtype float32 --precision bfloat16: weights
    that are bfloat16 themselves have too few bits for the updates of a small learning rate."""
    lora_rank: int | None = None
    """Train an adapter of this rank beside the frozen model (LoRA); default: the model itself."""
    lora_alpha: float | None = None
    """Scale of the adapter, W + alpha/rank · B·A; default: 2 · rank."""
    lora_target: tuple[str, ...] = ()
    """Linear layers that get an adapter, by the ends of their names, such as q_proj v_proj;
    default: all but the output embedding."""
    chat_template: str | None = None
    """How messages become a prompt: a Jinja file, or 'plain' for nothing but their texts; default:
    the model's own template."""
    threads: int | None = None
    """Torch's threads; default: torch's."""

    def check(self) -> None:
        """Raise ValueError, before any work, for what `load` could not do."""
        if self.threads is not None and self.threads < 1:
            raise ValueError(f"--threads must be at least 1, got {self.threads}.")
        check_model(self.model)
        check_device(self.device)

    def load(self, quiet: bool, device: str | None = None) -> Policy:
        """device: None for --device."""
        import torch

        from vpd_agent.model.policy import Policy
        from vpd_agent.tiny.model import tiny_policy
        from vpd_agent.tiny.warmup import RECIPES

        if self.lora_rank is not None and find_spec("peft") is None:
            raise ValueError(f"--lora-rank needs peft: {install_hint('lora')}")
        if self.threads is not None:
            torch.set_num_threads(self.threads)
        if self.model == "tiny":
            policy = tiny_policy()
        elif self.model in RECIPES:
            policy = warm_policy(self.model, quiet)
        else:
            with phase(f"Loading the model {self.model}", quiet=quiet):
                policy = Policy.load(self.model, dtype=self.dtype, chat_template=self.chat_template)
        policy.precision = self.precision
        # Transformers' annotation of `to` has lost `self`.
        cast(torch.nn.Module, policy.model).to(device or self.chosen_device)
        if self.lora_rank is not None:
            from vpd_agent.model.lora import add_lora

            target = self.lora_target or "all-linear"
            policy = add_lora(policy, self.lora_rank, self.lora_alpha, target=target)
        return policy

    @property
    def chosen_device(self) -> str:
        import torch

        if self.device != "auto":
            return self.device
        return "cuda" if torch.cuda.is_available() else "cpu"


def check_model(name: str) -> None:
    """Raise ValueError for a --model that there is not, and say which one is taken from a run."""
    from vpd_agent.model.source import PRESETS, find_model

    if name in PRESETS:
        return
    found = find_model(name)
    if Path(name).is_dir() and Path(found) != Path(name):
        say(f"--model {name} is the folder of a run: {found} is taken.")


def check_device(name: str) -> None:
    """Raise ValueError for a --device that torch cannot use here."""
    import torch

    # Of several processes each has a GPU of its own: `Processes.join` looks whether there is one.
    if name in ("auto", "cpu") or "WORLD_SIZE" in os.environ:
        return
    try:
        torch.zeros(1, device=name).item()
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = re.split(r"\.\s|\n", str(error).strip())[0].rstrip(".")
        raise ValueError(
            f"--device {name} cannot be used here, with torch {torch.__version__}: {reason}. Leave "
            f"it away, or pass --device cpu; vpd doctor tells what torch finds."
        ) from error


def warm_policy(name: str, quiet: bool) -> Policy:
    """A warm-started tiny model; a bar is drawn while it has to be made."""
    from vpd_agent.tiny.warmup import RECIPES, cache_folder, warm_policy

    recipe = RECIPES[name]
    if cache_folder(recipe).exists():
        return warm_policy(recipe)
    with bars(quiet=quiet) as progress:
        progress.add(name, recipe.steps)
        return warm_policy(recipe, on_step=lambda step, _: progress.show(name, step))


@dataclass(frozen=True)
class FlagGroup:
    """A dataclass whose fields are flags. Those without a default are required.

    default: an object of the class, in which tyro.MISSING stands for what must be given.
    prefix: before the names of its flags, such as "template." for --template.failed.
    """

    kind: type
    default: Any = None
    prefix: str = ""


def parse(
    prog: str, arguments: Sequence[str], *, description: str = "", **groups: FlagGroup
) -> Any:
    """What the arguments say for each group, as attributes of one object.

    The last of a repeated flag counts.

    Exits with code 2 on a bad flag, with 0 after --help. Raises ValueError for a renamed flag.
    """
    refuse_renamed(arguments, flag_types(groups))
    attributes = []
    for name, group in groups.items():
        kind = Annotated[group.kind, tyro.conf.arg(name=group.prefix.removesuffix("."))]
        given = {} if group.default is None else {"default": group.default}
        attributes.append((name, kind, field(**given)))
    return tyro.cli(
        make_dataclass("Arguments", attributes, frozen=True),
        prog=prog,
        description=description,
        args=list(arguments),
        console_outputs=is_main_process(),
    )


def flag_types(groups: Mapping[str, FlagGroup]) -> dict[str, Any]:
    """The type of every flag of the groups, by its name in a file: with underscores, and with dots
    between the parts of a nested one."""
    return dict(pair for group in groups.values() for pair in _flag_types(group.kind, group.prefix))


def _flag_types(kind: type, prefix: str) -> Iterator[tuple[str, Any]]:
    hints = get_type_hints(kind)
    for each in fields(kind):
        hint, name = hints[each.name], f"{prefix}{each.name}"
        if isinstance(hint, type) and is_dataclass(hint):
            yield from _flag_types(hint, f"{name}.")
        else:
            yield name, hint


def refuse_renamed(arguments: Sequence[str], known: Collection[str] = ()) -> None:
    """Raise ValueError for a flag that has another name now, and is none of those known."""
    for argument in arguments:
        name = argument.partition("=")[0].removeprefix("--").replace("-", "_")
        if argument.startswith("--") and name in RENAMED and name not in known:
            new = RENAMED[name].replace("_", "-")
            raise ValueError(f"--{name.replace('_', '-')} is now called --{new}.")


def open_sandbox(environment: Any) -> str | None:
    """Open what a sandboxed environment would open at its first answer; its name, None without.

    Raises SandboxError where none works, and says which it is, before any work.
    """
    sandbox = getattr(getattr(environment.unwrapped, "env", None), "sandbox", None)
    return sandbox.name if sandbox is not None else None
