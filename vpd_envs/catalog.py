"""The environments of the suite: what each asks, who judges it and where its problems come from.

Importing vpd_envs registers them; `vpd envs` prints this table. `known_name` finds an environment
by the id that a person typed, one of their own too.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, overload

import gymnasium as gym

from sandbox.plugins import FORM, load, module_at, unknown
from vpd_envs.answers.options import check_options
from vpd_envs.text_env import TextEnv


@dataclass(frozen=True)
class Entry:
    """One environment of the suite."""

    target: str  # "module:Class" in vpd_envs; the module's `vector` is the batched form
    asks: str
    judge: str
    data: str  # a data set of the hub, or "procedural"
    size: str  # problems, as published

    @property
    def id(self) -> str:
        return f"vpd/{self.target.partition(':')[2]}-v0"


CATALOG = (
    Entry(
        "code.livecodebench:LiveCodeBench",
        "dated competition problems, as programs or functions",
        "sandbox",
        "livecodebench/code_generation_lite",
        "400 (v1) to 1,055 (v6)",
    ),
    Entry(
        "code.code_contests:CodeContests",
        "competition problems with one right output",
        "sandbox",
        "deepmind/code_contests",
        "165 test, 13,328 train",
    ),
    Entry(
        "code.humaneval:HumanEval",
        "a function from its docstring",
        "sandbox, assertions",
        "openai/openai_humaneval",
        "164",
    ),
    Entry(
        "code.mbpp:MBPP",
        "a function from a sentence and an assertion",
        "sandbox, assertions",
        "google-research-datasets/mbpp",
        "974 (427 sanitized)",
    ),
    Entry(
        "questions.science:SciKnowEval",
        "multiple choice: biology, chemistry, material, physics",
        "last <answer>",
        "hicai-zju/SciKnowEval",
        "4,335 of level L3",
    ),
    Entry(
        "questions.tool_use:ToolUse",
        "the calls of tools that answer a question",
        "JSON comparison",
        "a file",
        "of the file",
    ),
    Entry(
        "math.environment:Math",
        "math500, gsm8k, aime24, aime25, aime26, hmmt25, amc23, dapo, olympiadbench",
        "Math-Verify in worker processes",
        "by dataset=",
        "30 to 17,000",
    ),
    Entry(
        "questions.reasoning_gym:ReasoningGym",
        "puzzles of about 100 kinds",
        "the puzzle's own scorer, in worker processes",
        "procedural (reasoning-gym)",
        "any",
    ),
    Entry(
        "games.textarena:TextArena",
        "games of several moves, such as Mastermind, Sokoban, Minesweeper",
        "the game, in worker processes",
        "procedural (textarena)",
        "any",
    ),
    Entry(
        "code.mini_code:MiniCode",
        "an expression for two names; for tiny models",
        "sandbox",
        "procedural",
        "600 train, 300 test",
    ),
    Entry(
        "code.mini_function:MiniFunction",
        "a function for two names, tracebacks in words; for tiny models",
        "sandbox",
        "procedural",
        "600 train, 300 test",
    ),
    Entry(
        "questions.mini_choice:MiniChoice",
        "multiple choice with one bit of feedback; for tiny models",
        "exact",
        "procedural",
        "600 train, 300 test",
    ),
    Entry(
        "math.mini_arithmetic:MiniArithmetic",
        "sums with a mark for each digit; for tiny models",
        "exact",
        "procedural",
        "600 train, 300 test",
    ),
)


def register() -> None:
    """Make the ids known to Gymnasium. No environment's module is imported."""
    for entry in CATALOG:
        module = f"vpd_envs.{entry.target.partition(':')[0]}"
        gym.register(
            entry.id,
            entry_point=f"vpd_envs.{entry.target}",
            vector_entry_point=f"{module}:vector",
        )


def known_name(env_id: str) -> str:
    """The registered name of an environment, which is registered if it has to be.

    env_id: a registered name; or one's own as `module:Class` (a subclass of TextEnv) or
        `module:Name-v0` (a name that the module registers), where `module` may also be
        `path/to/file.py`. The module is imported.

    Raises ValueError, with close matches, for an unknown name, module or class.
    """
    place, colon, name = env_id.rpartition(":")
    if colon:
        module_at("environment", place)
    if name in gym.registry:
        return name
    if colon and name.isidentifier():
        return _registered(env_id)
    known = sorted(id_ for id_ in gym.registry if id_.startswith("vpd/"))
    raise ValueError(unknown("environment", env_id, known, also=f"{FORM}, your own"))


def _registered(env_id: str) -> str:
    """Register a class by its module and name."""
    kind = load("environment", env_id)
    if not isinstance(kind, type) or TextEnv not in kind.__mro__:
        raise ValueError(
            f"The environment {env_id!r} must be a subclass of vpd_envs.TextEnv; it is "
            f"{kind!r:.80}."
        )
    name = re.sub(r"[^\w.:-]", "-", f"{kind.__module__}:{kind.__qualname__}")
    if name not in gym.registry:
        gym.register(name, entry_point=kind, vector_entry_point=kind.vector)
    return name


@overload
def make(env_id: str, num_envs: None = None, **options: Any) -> gym.Env: ...
@overload
def make(env_id: str, num_envs: int, **options: Any) -> gym.vector.VectorEnv: ...
def make(
    env_id: str, num_envs: int | None = None, **options: Any
) -> gym.Env | gym.vector.VectorEnv:
    """`gym.make`, or with `num_envs` the batched `gym.make_vec`, with errors for a person.

    Raises ValueError for an unknown id (see `known_name`) or an option that it does not take (see
    `check_options`).
    """
    name = known_name(env_id)
    check_options(name, options)
    spec = gym.spec(name)
    try:
        if num_envs is None:
            return gym.make(spec, **options)
        return gym.make_vec(
            spec, num_envs=num_envs, vectorization_mode="vector_entry_point", **options
        )
    except TypeError as error:
        raise ValueError(f"Environment {name} does not take these options: {error}") from error


def parsed_options(settings: Iterable[str], **flags: Any) -> dict[str, Any]:
    """Options of an environment as a person types them; see `parsed_values`.

    flags: those that have a flag of their own, such as data; None where it was not given.
    """
    given = {key: value for key, value in flags.items() if value is not None}
    return parsed_values(settings, "max_turns=3") | given


def parsed_values(settings: Iterable[str], example: str) -> dict[str, Any]:
    """Values as a person types them, `KEY=VALUE` each. A value is JSON, or else the text that it
    is: `max_turns=3`, `dataset=gsm8k`, `parameters={"min_terms": 2}`.

    Raises ValueError, with the example, for anything without a `=`.
    """
    values: dict[str, Any] = {}
    for setting in settings:
        key, equals, value = setting.partition("=")
        if not equals or not key.isidentifier():
            raise ValueError(f"An option is KEY=VALUE, such as {example}; got {setting!r}.")
        try:
            values[key] = json.loads(value)
        except ValueError:
            values[key] = value
    return values
