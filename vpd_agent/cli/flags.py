"""Options that several commands share, and how a command's flags are read."""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field, make_dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro

from sandbox.installation import install_hint
from vpd_agent.console import bars, is_main_process, phase, say
from vpd_envs.feedback import SOURCES

if TYPE_CHECKING:
    from vpd_agent.model.policy import Policy
    from vpd_agent.rollout.environment import EnvironmentSpec

FEEDBACK_HELP = (
    "Sources of feedback, from the innermost to the outermost, joined by '+', such as "
    "status+siblings+noisy:drop=0.2. "
) + "; ".join(f"{name}: {source.meaning}" for name, source in SOURCES.items())


@dataclass(frozen=True, kw_only=True)
class ProblemOptions:
    env: str
    """Gymnasium id, e.g. vpd/MiniCode-v0; your own as module:Name-v0."""
    data: str | None = None
    """Data file or folder, for environments that read one."""
    sandbox: str | None = None
    """What runs untrusted programs: docker, bubblewrap, local, or module:Class; default: the
    strongest that works."""
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
    """What samples the answers: hf (transformers, in this process), vllm (in this process too), or
    the address of a vLLM server, such as http://127.0.0.1:8000."""
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
        policy.model.to(device or self.chosen_device)
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
    """A dataclass whose fields are flags. Without a default, those that lack one are required.

    prefix: before the names of its flags, as in --template.failed.
    """

    kind: type
    default: Any = None
    prefix: str = ""


def parse(prog: str, arguments: Sequence[str], *, description: str = "", **parts: FlagGroup) -> Any:
    """The parts, as attributes of one object. The last of a repeated flag counts.

    Exits with code 2 on a bad flag, with 0 after --help.
    """
    fields = []
    for name, part in parts.items():
        kind = Annotated[part.kind, tyro.conf.arg(name=part.prefix)]
        given = {} if part.default is None else {"default": part.default}
        fields.append((name, kind, field(**given)))
    return tyro.cli(
        make_dataclass("Arguments", fields, frozen=True),
        prog=prog,
        description=description,
        args=list(arguments),
        console_outputs=is_main_process(),
    )


def unknown(what: str, name: str, known: Collection[str]) -> str:
    """What to say of a name that is none of those known."""
    close = difflib.get_close_matches(name, list(known), n=1)
    hint = f" Did you mean {close[0]!r}?" if close else ""
    return f"Unknown {what} {name!r}; choose from {', '.join(known)}.{hint}"


def open_sandbox(environment: Any) -> str | None:
    """Open what a sandboxed environment would open at its first answer; its name, None without.

    Raises SandboxError where none works, and says which it is, before any work.
    """
    sandbox = getattr(getattr(environment.unwrapped, "env", None), "sandbox", None)
    return sandbox.name if sandbox is not None else None
