"""The command line: vpd train | compare | report | lab | eval | warmup | …; see USAGE.

Exit codes: 0 done; 1 a run failed; 2 bad input, said in one line; 130 interrupted. Those of
`vpd sandbox` are in sandbox/command.py.
"""

from __future__ import annotations

import importlib
import logging
import os
import sys
import warnings

from sandbox import SandboxError
from sandbox.installation import install_hint
from sandbox.plugins import FORM, unknown
from vpd_agent.console import say, say_error

COMMANDS = {  # the function that takes the arguments behind the word; imported when it is called
    "train": "vpd_agent.cli.train:train",
    "compare": "vpd_agent.cli.compare:compare",
    "report": "vpd_agent.cli.report:report",
    "lab": "vpd_agent.cli.lab:lab",
    "eval": "vpd_agent.cli.evaluate:evaluate",
    "solve": "vpd_agent.cli.solve:solve",
    "inspect": "vpd_agent.cli.inspect:inspect",
    "rejudge": "vpd_agent.cli.rejudge:rejudge",
    "probe": "vpd_agent.cli.probe:probe",
    "warmup": "vpd_agent.cli.warmup:warmup",
    "envs": "vpd_envs.cli:envs",
    "judge": "vpd_envs.cli:judge",
    "show": "vpd_envs.cli:show",
    "serve": "vpd_envs.serve.command:serve",
    "sandbox": "sandbox.command:main",
    "doctor": "vpd_agent.cli.doctor:doctor",
}

USAGE = """usage: vpd COMMAND …

  train ALGORITHM   train a model in an environment
  compare           algorithms head to head: runs, statistics and a report
  report RUN…       the same from runs that exist
  lab NAME…         named experiments with tiny models: which of the papers' claims hold
  eval              how many held-out problems a model solves
  solve             hard problems: training at test time, best of K, multi-turn
  inspect RUN       a page of its rollouts: what each token was told
  rejudge RUN       its rollouts by another judge, or with other feedback: what changes
  probe             before training: what a teacher with feedback has to teach
  warmup            make a warm-started tiny model, or fetch smollm2
  envs              the environments of the suite
  judge             verdicts on the answers of a file
  show              one problem, as a person would want to read it
  serve             an environment over HTTP, for other trainers and OpenEnv clients
  sandbox run       run one program in a cage
  sandbox build     build the image of the docker cages
  doctor            what works on this machine, and how to fix the rest

vpd COMMAND --help, or vpd help COMMAND, says more; vpd --version what is installed."""

EXTRAS = {  # the extra of this project that brings a package
    "vllm": "vllm",
    "peft": "lora",
    **dict.fromkeys(("fastapi", "uvicorn", "websockets"), "serve"),
    **dict.fromkeys(("torch", "transformers", "safetensors", "yaml"), "train,report"),
}


def main(arguments: list[str] | None = None) -> int:
    """Run a command; returns the exit code."""
    arguments = sys.argv[1:] if arguments is None else arguments
    if arguments[:1] == ["help"]:
        arguments = [*arguments[1:], "--help"]
    logging.basicConfig(format="%(message)s")
    logging.getLogger("sandbox").setLevel(logging.INFO)
    logging.getLogger("huggingface_hub").propagate = False  # it has a handler of its own
    with warnings.catch_warnings():
        warnings.showwarning = lambda message, *_: say(f"Warning: {message}")
        return _run(*arguments or [""])


def usage() -> str:
    """The commands and, where torch is installed, the algorithms."""
    try:
        from vpd_agent.algorithms import ALGORITHMS
    except ModuleNotFoundError:
        return USAGE
    return f"{USAGE}\n\nalgorithms: {', '.join(ALGORITHMS)}; your own: {FORM}"


def version() -> str:
    """This project's, and of what it runs on."""
    from vpd_envs.data.provenance import commit, versions

    found = versions("torch", "transformers", "gymnasium")
    source = f" ({commit()})" if commit() else ""
    others = "".join(f"\n{name} {v}" for name, v in found.items() if name != "vpd")
    return f"vpd {found['vpd']}{source}{others}"


def _run(command: str, *rest: str) -> int:
    try:
        if command in ("", "-h", "--help"):
            print(usage(), flush=True)
            return 0 if command else 2
        if command == "--version":
            print(version(), flush=True)
            return 0
        if command not in COMMANDS:
            raise ValueError(unknown("command", command, COMMANDS))
        module, _, function = COMMANDS[command].partition(":")
        return getattr(importlib.import_module(module), function)(list(rest))
    except BrokenPipeError:  # whoever read our output has gone, as `head` does
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except (ValueError, FileNotFoundError, ConnectionError) as error:
        say_error(f"vpd {command}: {error}")
        return 2
    except (SandboxError, FloatingPointError, OSError) as error:
        say_error(f"vpd {command}: {error}")
        return 1
    except ModuleNotFoundError as error:
        if error.name in EXTRAS:
            said = f"needs {error.name}: {install_hint(EXTRAS[error.name])}"
        elif "pip install" in str(error):
            said = str(error)
        else:
            raise
        say_error(f"vpd {command}: {said}")
        return 2
    except KeyboardInterrupt:
        say(f"vpd {command}: interrupted")
        return 130
