"""What a run is asked for by name: environment, model, folder. Each field is a flag of `vpd`."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, Self, cast

import tyro

from sandbox.installation import install_hint
from vpd_agent.console import bars, phase, say
from vpd_envs.feedback import SOURCES

if TYPE_CHECKING:
    from vpd_agent.model.policy import Policy
    from vpd_agent.rollout.environment import EnvironmentSpec

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
    """Where untrusted programs run: docker, bubblewrap, local; ray, on the nodes of the cluster
    that RAY_ADDRESS names; your own as module:Class. Default: the strongest that works here."""
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
    """A folder, a model of the Hugging Face hub, 'smollm2' (SmolLM2-135M-Instruct, from the package
    index), or one of the tiny preset: 'tiny' (random weights), 'tiny-warm' (for vpd/MiniCode-v0)
    and the others that vpd warmup makes."""
    engine: str = "hf"
    """What samples the answers: hf (transformers, in this process), vllm (in this process too), the
    address of a vLLM server, such as http://127.0.0.1:8000, or of several with commas between them,
    or your own as module:Class."""
    weights_folder: str | None = None
    """Where the new weights are written for vLLM servers on other machines: a folder that has the
    same path there. Default: one for temporary files, for servers on this machine."""
    weight_transfer: Literal["folder", "nccl", "ipc"] = "folder"
    """How they reach vLLM servers: through that folder, or from GPU to GPU by vLLM's own weight
    transfer: nccl to other GPUs, ipc to a server on the same one."""
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
    template_arguments: tuple[str, ...] = ()
    """Values for what the chat template reads, KEY=VALUE each, a value in JSON: Qwen3 answers
    without thinking with enable_thinking=false. They become part of the template of a model that is
    trained and saved."""
    threads: int | None = None
    """Torch's threads; default: torch's."""

    def check(self) -> None:
        """Raise ValueError, before any work, for what `load` could not do."""
        self.check_values()
        check_model(self.model)
        self._check_template_arguments()
        check_device(self.device)

    def check_values(self) -> None:
        """Of `check`, what takes neither the model nor the device."""
        if self.threads is not None and self.threads < 1:
            raise ValueError(f"--threads must be at least 1, got {self.threads}.")
        self.arguments()

    def _check_template_arguments(self) -> None:
        from vpd_agent.model.chat_template import set_arguments, tokenizer_with_template
        from vpd_agent.model.source import PRESETS, find_model
        from vpd_agent.tiny.model import byte_tokenizer

        arguments = self.arguments()
        if arguments and self.model in PRESETS:
            set_arguments(byte_tokenizer(), arguments)  # whose template reads none
        elif arguments:
            tokenizer_with_template(find_model(self.model), self.chat_template, arguments)

    def arguments(self) -> dict[str, Any]:
        """--template-arguments. Raises ValueError for True, False and None, which are texts in JSON
        and would mean something else to a template."""
        from vpd_envs.catalog import parsed_values

        arguments = parsed_values(self.template_arguments, "enable_thinking=false")
        for name, value in arguments.items():
            if value in ("True", "False", "None"):
                meant = {"True": "true", "False": "false", "None": "null"}[value]
                raise ValueError(
                    f"--template-arguments {name}={value}: values are JSON, write {name}={meant}."
                )
        return arguments

    def load(self, quiet: bool, device: str | None = None) -> Policy:
        """device: None for --device."""
        import torch

        from vpd_agent.model import smollm2
        from vpd_agent.model.policy import Policy
        from vpd_agent.tiny.model import tiny_policy
        from vpd_agent.tiny.warmup import RECIPES

        if self.lora_rank is not None and find_spec("peft") is None:
            raise ValueError(f"--lora-rank needs peft: {install_hint('lora')}")
        if self.model == smollm2.NAME:
            smollm2.model_folder(quiet=quiet)
        self._check_template_arguments()
        if self.threads is not None:
            torch.set_num_threads(self.threads)
        if self.model == "tiny":
            policy = tiny_policy()
        elif self.model in RECIPES:
            policy = warm_policy(self.model, quiet)
        else:
            with phase(f"Loading the model {self.model}", quiet=quiet):
                policy = Policy.load(
                    self.model,
                    dtype=self.dtype,
                    chat_template=self.chat_template,
                    template_arguments=self.arguments(),
                )
        policy.precision = self.precision
        # Transformers' annotation of `to` has lost `self`.
        cast(torch.nn.Module, policy.model).to(device or self.chosen_device)
        if self.lora_rank is not None:
            from vpd_agent.model.lora import add_lora

            target = self.lora_target or "all-linear"
            policy = add_lora(policy, self.lora_rank, self.lora_alpha, target=target)
        return policy

    def for_teacher(self, name: str) -> Self:
        """The options of another model that is the teacher. It reads prompts that the student's
        template has made, and none of its weights are trained."""
        return replace(self, model=name, lora_rank=None, template_arguments=())

    @property
    def chosen_device(self) -> str:
        import torch

        if self.device != "auto":
            return self.device
        return "cuda" if torch.cuda.is_available() else "cpu"


def check_model(name: str) -> None:
    """Raise ValueError for a --model that there is not, and say which one is taken from a run."""
    from vpd_agent.model import smollm2
    from vpd_agent.model.source import PRESETS, find_model

    if name in PRESETS:
        return
    if name == smollm2.NAME:  # it is fetched when it is loaded, by one of several processes
        if smollm2.cached() is None:
            smollm2.check_can_be_made()
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
            f"it out, or pass --device cpu; vpd doctor shows what torch finds."
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


def open_sandbox(environment: Any) -> str | None:
    """Open what a sandboxed environment would open at its first answer; its name, None without.

    Raises SandboxError where none works, and says which it is, before any work.
    """
    sandbox = getattr(getattr(environment.unwrapped, "env", None), "sandbox", None)
    return sandbox.name if sandbox is not None else None


@dataclass(frozen=True, kw_only=True)
class TrainOptions(EnvironmentOptions, ModelOptions):
    out: Path
    """Folder for configuration, metrics, samples, checkpoints and the final model."""
    fit: bool = True
    """Choose what is not given, of a real model's run, by the model's context and the memory at
    hand: lengths, precision, an adapter, the size of passes. What is chosen is said."""
    memory_gb: float | None = None
    """The memory at hand, in 10⁹ bytes for each process; default: what is free on its GPU, or in
    the machine."""
    config: Path | None = None
    """YAML file of flags (learning_rate: 1e-5), or the config.json of another run. Flags that are
    given here win over it; it wins over the preset."""
    preset: str = "auto"
    """Which defaults: laptop, laptop-long, laptop-games, tiny, code, science; auto: by environment
    and model."""
    train_split: str | None = "train"
    """Split of the environment to train on; None: the environment's own choice."""
    eval_split: str | None = "test"
    """Split to evaluate on, every --eval-every steps."""
    teacher_model: str | None = None
    """Another model that is the teacher, with the student's tokenizer (see --model): its weights
    are frozen, whatever --teacher says. Default: the teacher is made from the student."""
    teacher_prompt: Literal["feedback", "plain"] = "feedback"
    """What the teacher reads: the feedback on the student's attempt, where there is some; or just
    the student's own prompt, as in plain on-policy distillation from a --teacher-model."""
    resume: bool = False
    """Go on from the last checkpoint in --out. Flags that are not given are those of that run. One
    that has finished goes on with more --steps."""
    dry_run: bool = False
    """Train nothing: check everything that is given, measure the prompts where the problems are
    here, and tell what the run would take, in memory and in time. Nothing is written or fetched;
    neither the model's weights nor the data need be here."""
    trackers: tuple[str, ...] = ()
    """Where metrics go beside metrics.jsonl: tensorboard, wandb, trackio or another of accelerate's
    trackers. Their files are in --out."""
    run_group: str = ""
    """What W&B and trackio group this run under, such as the comparison that it belongs to."""
    quiet: bool = False
    """No progress bars."""

    def check_values(self) -> None:
        super().check_values()
        if self.memory_gb is not None and not self.memory_gb > 0:
            raise ValueError(f"--memory-gb must be positive, got {self.memory_gb}.")
