"""The command line: vpd train | compare | eval | warmup | envs | judge | show | sandbox | doctor.

Exit codes: 0 done; 1 a run failed; 2 bad input, said in one line; 130 interrupted. Those of
`vpd sandbox` are in sandbox/command.py.
"""

from __future__ import annotations

import argparse
import difflib
import json
import logging
import shlex
import sys
import warnings
from dataclasses import asdict, dataclass, field, make_dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import tyro

from sandbox import SandboxError
from vpd_agent.console import bars, print_table, say

if TYPE_CHECKING:
    from vpd_agent.environment import EnvironmentSpec
    from vpd_agent.policy import Policy

USAGE = """usage: vpd COMMAND …

  train ALGORITHM   train a model in an environment   (vpd, sdpo, sdpg, grpo)
  compare           algorithms head to head: table, report and curves
  eval              how many held-out problems a model solves
  warmup            make a warm-started tiny model
  envs              the environments of the suite
  judge             verdicts on the answers of a file
  show              one problem, as a person would want to read it
  sandbox run       run one program in a cage
  sandbox build     build the image of the docker cages
  doctor            what works on this machine, and what mends the rest

vpd COMMAND --help tells more."""


def main(arguments: list[str] | None = None) -> int:
    """Run a command; returns the exit code."""
    arguments = sys.argv[1:] if arguments is None else arguments
    if not arguments or arguments[0] in ("-h", "--help"):
        print(USAGE)
        return 0 if arguments else 2
    logging.basicConfig(format="%(message)s")
    logging.getLogger("sandbox").setLevel(logging.INFO)
    logging.getLogger("huggingface_hub").propagate = False  # it has a handler of its own
    with warnings.catch_warnings():
        warnings.showwarning = lambda message, *_: say(f"Warning: {message}")
        return _run(*arguments)


def _run(command: str, *rest: str) -> int:
    try:
        if command not in COMMANDS:
            raise ValueError(_unknown("command", command, COMMANDS))
        return COMMANDS[command](list(rest))
    except (ValueError, FileNotFoundError, ConnectionError) as error:
        say(f"vpd {command}: {error}")
        return 2
    except (SandboxError, FloatingPointError) as error:
        say(f"vpd {command}: {error}")
        return 1
    except ModuleNotFoundError as error:
        if error.name not in ("torch", "transformers", "matplotlib"):
            raise
        say(f"vpd {command} needs {error.name}: pip install 'vpd[train,report]'")
        return 2
    except KeyboardInterrupt:
        say(f"vpd {command}: interrupted")
        return 130


# --- options that several commands share --------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class EnvironmentOptions:
    env: str
    """Gymnasium id, e.g. vpd/MiniCode-v0; your own as module:Name-v0."""
    data: str | None = None
    """Data file or folder, for environments that read one."""
    sandbox: str | None = None
    """Cage of untrusted programs: docker, bubblewrap, local; default: the strongest that works."""
    feedback: str = "environment"
    """Sources of feedback, from the innermost to the outermost, joined by '+': environment (what
    the judge says), outcome, status, first, siblings, self-critique, noisy:drop=0.2,
    budget:characters=500 …"""
    set: tuple[str, ...] = ()
    """Options of the environment, KEY=VALUE each, such as dataset=gsm8k feedback_tests=half."""

    def spec(self) -> EnvironmentSpec:
        from vpd_agent.environment import EnvironmentSpec
        from vpd_envs.catalogue import parsed_options

        given = {"data": self.data, "sandbox": self.sandbox}
        kwargs = {k: v for k, v in given.items() if v is not None}
        return EnvironmentSpec(self.env, self.feedback, parsed_options(self.set) | kwargs)


@dataclass(frozen=True, kw_only=True)
class ModelOptions:
    model: str
    """A folder, a model of the Hugging Face hub, or one of the tiny preset: 'tiny' (random
    weights), 'tiny-warm' (for vpd/MiniCode-v0), 'tiny-code' (writes short programs)."""
    device: str = "auto"
    """cpu, cuda, cuda:1 …; auto: cuda where there is one."""
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    """Of the weights; auto: as they are stored."""
    threads: int | None = None
    """Torch's threads; default: torch's."""

    def load(self, quiet: bool) -> Policy:
        import torch

        from vpd_agent.policy import Policy
        from vpd_agent.tiny import tiny_policy
        from vpd_agent.warmup import RECIPES

        if self.threads is not None:
            if self.threads < 1:
                raise ValueError(f"--threads must be at least 1, got {self.threads}.")
            torch.set_num_threads(self.threads)
        device = self.device
        if device == "auto":
            device = "cuda" if torch.cuda.is_available() else "cpu"
        if self.model == "tiny":
            policy = tiny_policy()
        elif self.model in RECIPES:
            policy = _warm_policy(self.model, quiet)
        else:
            policy = Policy.load(self.model, dtype=self.dtype)
        try:
            policy.model.to(device)
        except RuntimeError as error:
            raise ValueError(f"--device {device} cannot be used: {error}") from error
        return policy


# --- vpd train ----------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class TrainOptions(EnvironmentOptions, ModelOptions):
    out: Path
    """Folder for configuration, metrics, samples, checkpoints and the final model."""
    setting: str = "auto"
    """Which defaults: laptop, tiny, code, science; auto: by environment and model."""
    train_split: str | None = "train"
    eval_split: str | None = "test"
    resume: bool = False
    """Go on from the last checkpoint in --out."""
    quiet: bool = False
    """No progress bars."""


def train(arguments: list[str]) -> int:
    from vpd_agent.algorithms import ALGORITHMS
    from vpd_agent.config import TrainConfig
    from vpd_agent.settings import SETTINGS, choose

    if not arguments or arguments[0].startswith("-"):
        say(
            f"usage: vpd train ALGORITHM --env ID --model MODEL --out DIR …\n"
            f"ALGORITHM is one of {', '.join(ALGORITHMS)}; vpd train ALGORITHM --help tells more."
        )
        return 0 if arguments else 2
    name, *rest = arguments
    if name not in ALGORITHMS:
        raise ValueError(_unknown("algorithm", name, ALGORITHMS))
    # The defaults depend on what is trained where, so these three are read ahead of the others.
    ahead = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    for option in ("--env", "--model", "--setting"):
        ahead.add_argument(option, default="")
    early, _ = ahead.parse_known_args(rest)
    setting_name = (
        early.setting if early.setting not in ("", "auto") else choose(early.env, early.model)
    )
    if setting_name not in SETTINGS:
        raise ValueError(_unknown("setting", setting_name, SETTINGS))
    setting = SETTINGS[setting_name]
    parsed = _parse(
        f"vpd train {name}",
        rest,
        options=(TrainOptions, None),
        algorithm=(ALGORITHMS[name], setting.algorithm(name)),
        config=(TrainConfig, setting.config(name)),
    )
    return _train(parsed.options, parsed.algorithm, parsed.config, setting_name)


def _train(options: TrainOptions, algorithm: Any, config: Any, setting_name: str) -> int:
    from vpd_agent.run_folder import RunFolder
    from vpd_agent.settings import SETTINGS
    from vpd_agent.trainer import Trainer

    spec = options.spec()
    checkpoint = RunFolder.latest_checkpoint(options.out) if options.resume else None
    environment = spec.make(config.rollouts_per_step, options.train_split)
    _open_sandbox(environment)
    evaluation = None
    if config.eval_every and config.eval_problems:
        evaluation = spec.make_for(config.eval_samples, config.eval_problems, options.eval_split)
    if checkpoint is not None:
        options = replace(options, model=str(checkpoint / "model"))
    out = RunFolder(options.out, resume=options.resume)
    try:
        policy = options.load(options.quiet)
        _bind_critics(policy, config.max_response_tokens, environment, evaluation)
        with bars(quiet=options.quiet) as progress:
            progress.add(algorithm.name, config.steps)
            trainer = Trainer(
                policy,
                algorithm,
                environment,
                config,
                template=SETTINGS[setting_name].template,
                evaluation=evaluation,
                out=out,
                on_step=lambda row: progress.show(algorithm.name, row["step"], row),
                warn=say,
            )
            if checkpoint is not None:
                trainer.load(checkpoint)
            else:
                out.write_config(
                    {
                        "algorithm": {"name": algorithm.name, **asdict(algorithm)},
                        "config": asdict(config),
                        "template": asdict(trainer.template),
                        "options": {k: str(v) for k, v in asdict(options).items()},
                        "setting": setting_name,
                        "versions": _versions(),
                    }
                )
            trainer.train()
    finally:
        out.close()
        environment.close()
    say(f"Trained {config.steps} steps; metrics, samples and the model are in {options.out}.")
    return 0


# --- vpd compare --------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class CompareOptions(EnvironmentOptions):
    model: str = "tiny-warm"
    """The model that every run starts from, as in vpd train."""
    algorithms: tuple[str, ...] = ("vpd", "sdpo", "grpo")
    seeds: tuple[int, ...] = (0,)
    steps: int = 200
    """Training steps of each run."""
    jobs: int = 2
    """Runs side by side, each a process with one torch thread."""
    out: Path = Path("runs/compare")
    """Folder for the runs, report.md, results.json and curves.png; finished runs are kept."""


def compare(arguments: list[str]) -> int:
    from vpd_agent import compare as head_to_head
    from vpd_agent.algorithms import ALGORITHMS
    from vpd_agent.warmup import RECIPES

    own, extra = _split_at(arguments, "--")
    options: CompareOptions = _parse(
        "vpd compare",
        own,
        description="Options after '--' go to every vpd train.",
        options=(CompareOptions, None),
    ).options
    for name in options.algorithms:
        if name not in ALGORITHMS:
            raise ValueError(_unknown("algorithm", name, ALGORITHMS))
    if options.jobs < 1 or options.steps < 1 or not options.seeds or not options.algorithms:
        raise ValueError(
            "--jobs and --steps must be at least 1, and a seed and an algorithm given."
        )
    runs = head_to_head.plan(options.out, options.algorithms, options.seeds)
    _check_unfinished(runs)
    # An unknown environment, a bad file, a sandbox that does not work: found before any work.
    sandbox_name = _open_sandbox(options.spec().make(1))
    if options.model in RECIPES:
        _warm_policy(options.model, quiet=False)
    given = ["--env", options.env, "--model", options.model, "--steps", str(options.steps)]
    for name, value in (
        ("data", options.data),
        ("sandbox", sandbox_name),
        ("feedback", options.feedback),
    ):
        given += [f"--{name}", value] if value is not None else []
    given += ["--set", *options.set] if options.set else []
    with bars() as progress:
        names = {run: f"{run.algorithm} seed {run.seed}" for run in runs}
        for run, name in names.items():
            progress.add(name, options.steps)
            if run.finished:
                progress.show(name, options.steps, run.metrics()[-1])
        failed = head_to_head.run_all(
            runs,
            [*given, *extra],
            jobs=options.jobs,
            on_progress=lambda run, step, row: progress.show(names[run], step, row),
        )
    for run in failed:
        log = head_to_head.log_file(run)
        say(f"{names[run]} failed; the end of {log}:\n{_tail(log)}")
    done = [run for run in runs if run.finished]
    if not done:
        return 1
    report = head_to_head.write_report(
        options.out, done, shlex.join(["vpd", "compare", *arguments])
    )
    print_table(
        f"student: pass@1 on held-out problems by training step, {len(options.seeds)} seed(s)",
        *head_to_head.table(done),
    )
    print(f"{report}\n{options.out / 'curves.png'}")
    return 1 if failed else 0


def _check_unfinished(runs: list) -> None:
    for run in runs:
        if run.path.exists() and not run.finished:
            raise ValueError(
                f"{run.path} holds a run that did not finish. Remove that folder to run it again, "
                f"or pass another --out."
            )


# --- vpd eval -----------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class EvalOptions(EnvironmentOptions, ModelOptions):
    split: str | None = "test"
    problems: int = 300
    """Problems to evaluate on, at most."""
    samples: int = 1
    """Answers to each problem."""
    max_response_tokens: int = 1024
    temperature: float = 1.0
    batch: int = 256
    """Answers sampled and judged at a time."""
    seed: int = 0
    out: Path | None = None
    """JSON file for the outcome of every problem."""


def evaluate(arguments: list[str]) -> int:
    import torch

    from vpd_agent.engines.hf import HFEngine
    from vpd_agent.evaluate import evaluate_student
    from vpd_agent.run_folder import write_atomically

    options: EvalOptions = _parse("vpd eval", arguments, options=(EvalOptions, None)).options
    for name in ("problems", "samples", "max_response_tokens", "batch"):
        if getattr(options, name) < 1:
            raise ValueError(f"--{name.replace('_', '-')} must be at least 1.")
    if options.out is not None and options.out.exists():
        raise ValueError(f"The output file {options.out} exists; pass another --out or remove it.")
    spec = options.spec()
    environment = spec.make_for(1, min(options.problems, options.batch), options.split)
    _open_sandbox(environment)
    ids = sorted(environment.unwrapped.problem_ids)[: options.problems]
    total = len(ids) * options.samples
    policy = options.load(quiet=False)
    _bind_critics(policy, options.max_response_tokens, environment)
    with bars() as progress:
        progress.add("eval", total)
        result = evaluate_student(
            policy,
            HFEngine(policy),
            environment,
            ids,
            samples=options.samples,
            max_response_tokens=options.max_response_tokens,
            temperature=options.temperature,
            generator=torch.Generator(policy.device).manual_seed(options.seed),
            on_progress=lambda done, _: progress.show("eval", done),
        )
    counts = [[name, str(count)] for name, count in result.statuses.most_common()]
    print_table(
        f"pass@1 {result.pass_at_1:.4f} on {len(result.judged)} problems × {options.samples}",
        ["status", "answers"],
        [*counts, *([["not judged", str(result.dropped)]] if result.dropped else [])],
    )
    if options.out is not None:
        options.out.parent.mkdir(parents=True, exist_ok=True)
        outcome = {
            "pass@1": result.pass_at_1,
            "problems": {
                p: {"solved": result.solved[p], "judged": n} for p, n in result.judged.items()
            },
            "statuses": dict(result.statuses),
            "not_judged": result.dropped,
        }
        write_atomically(options.out, json.dumps(outcome, indent=1))
    return 0


# --- vpd warmup ---------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class WarmupOptions:
    model: Literal["tiny-warm", "tiny-code"] = "tiny-warm"
    out: Path | None = None
    """Folder for a copy of the model; without it, it stays in the cache under its name."""


def warmup(arguments: list[str]) -> int:
    options: WarmupOptions = _parse("vpd warmup", arguments, options=(WarmupOptions, None)).options
    if options.out is not None and options.out.exists():
        raise ValueError(f"The output {options.out} exists; pass another --out or remove it.")
    policy = _warm_policy(options.model, quiet=False)
    if options.out is not None:
        policy.save(options.out)
    say(f"The warm-started model is ready: --model {options.out or options.model}")
    return 0


def _warm_policy(name: str, quiet: bool) -> Policy:
    from vpd_agent.warmup import RECIPES, cache_folder, warm_policy

    recipe = RECIPES[name]
    if cache_folder(recipe).exists():
        return warm_policy(recipe)
    with bars(quiet=quiet) as progress:
        progress.add(name, recipe.steps)
        return warm_policy(recipe, on_step=lambda step, _: progress.show(name, step))


# --- vpd envs, judge, show, sandbox, doctor -------------------------------------------------------


def environments(arguments: list[str]) -> int:
    from vpd_envs.command import envs

    return envs(arguments)


def judge(arguments: list[str]) -> int:
    from vpd_envs.command import judge as run_command

    return run_command(arguments)


def show(arguments: list[str]) -> int:
    from vpd_envs.command import show as run_command

    return run_command(arguments)


def sandbox_command(arguments: list[str]) -> int:
    from sandbox.command import main as run_command

    return run_command(arguments)


@dataclass(frozen=True, kw_only=True)
class DoctorOptions:
    json: bool = False
    """Print one JSON object instead of a table."""


def doctor(arguments: list[str]) -> int:
    from vpd_agent.doctor import main as examine

    options: DoctorOptions = _parse(
        "vpd doctor",
        arguments,
        description="What works on this machine and, for what does not, the command that mends "
        "it. Exit code 0 if a sandbox isolates and nothing that is needed is broken, else 1.",
        options=(DoctorOptions, None),
    ).options
    return examine(options.json)


# --- helpers ------------------------------------------------------------------------------------


def _parse(prog: str, arguments: list[str], *, description: str = "", **parts: tuple) -> Any:
    """Flags for every field of the given dataclasses, flat. Exits with code 2 on a bad one."""
    fields = [
        (name, kind) if default is None else (name, kind, field(default=default))
        for name, (kind, default) in parts.items()
    ]
    arguments_class = make_dataclass("Arguments", fields, frozen=True)
    return tyro.cli(
        arguments_class,
        prog=prog,
        description=description,
        args=arguments,
        config=(tyro.conf.OmitArgPrefixes,),
    )


def _open_sandbox(environment: Any) -> str | None:
    """Open what a sandboxed environment would open at its first answer; its name, None without.

    Raises SandboxError where none works, and says which it is, before any work.
    """
    sandbox = getattr(getattr(environment.unwrapped, "env", None), "sandbox", None)
    return sandbox.name if sandbox is not None else None


def _bind_critics(policy: Policy, max_tokens: int, *environments: Any) -> None:
    """Let the policy write the critiques that the feedback of an environment asks for."""
    from vpd_agent.critic import PolicyCritic
    from vpd_agent.environment import critics

    for environment in environments:
        for source in critics(environment):
            source.critic = PolicyCritic(policy, max_tokens)


def _split_at(arguments: list[str], mark: str) -> tuple[list[str], list[str]]:
    if mark not in arguments:
        return arguments, []
    at = arguments.index(mark)
    return arguments[:at], arguments[at + 1 :]


def _unknown(what: str, name: str, known: Any) -> str:
    close = difflib.get_close_matches(name, list(known), n=1)
    hint = f" Did you mean {close[0]!r}?" if close else ""
    return f"Unknown {what} {name!r}; choose from {', '.join(known)}.{hint}"


def _tail(path: Path, lines: int = 8) -> str:
    return "\n".join(path.read_text(errors="replace").splitlines()[-lines:])


def _versions() -> dict[str, str]:
    import platform

    import gymnasium
    import torch
    import transformers

    modules = {"gymnasium": gymnasium, "torch": torch, "transformers": transformers}
    return {"python": platform.python_version(), **{k: m.__version__ for k, m in modules.items()}}


COMMANDS = {"train": train, "compare": compare, "eval": evaluate, "warmup": warmup}
COMMANDS |= {"envs": environments, "judge": judge, "show": show}
COMMANDS |= {"sandbox": sandbox_command, "doctor": doctor}

if __name__ == "__main__":
    sys.exit(main())
