"""MBPP: functions from a sentence and an assertion, judged by assertions.

Loads the layouts of `google-research-datasets/mbpp`: full (`task_id`, `text`, `test_list`,
`test_setup_code`, `challenge_test_list`) and sanitized (`prompt`, `test_imports`); and files of
MBPP+ (sanitized, with a `test` of many inputs, which is one more hidden test).
"""

from __future__ import annotations

import ast
import builtins
import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from vpd_envs.code.assertions import AssertionEnv, checked_python
from vpd_envs.code.cases import AssertionCase
from vpd_envs.data.files import (
    DataOptions,
    Hub,
    Row,
    checked_texts,
    field,
    load_problems,
    text_field,
)
from vpd_envs.types import Problem

HUB = Hub("google-research-datasets/mbpp", "full", "prompt+train+validation+test")
CONFIGS = ("full", "sanitized")
LAYOUT = "an MBPP row ('task_id', 'text' or 'prompt', 'test_list')"
TASK = "{text}\n\nThe code must pass {these}:\n\n```python\n{assertions}\n```"


class MBPP(AssertionEnv):
    """`vpd/MBPP-v0`.

    data, hub, revision, split, test_fraction, max_problems: see `vpd_envs.data.files`. "train" and
        "test" are by hash, not the paper's (whose test problems have the ids 11 to 510).
    config: "full" (974 problems) or "sanitized" (427, checked by hand), of the hub.
    shown_tests: so many of a problem's assertions, the first ones, stand in the prompt and are
        public; a prompt must show one at least, for the function's name. 3, which is all of most
        problems, is the prompt of the MBPP paper (2108.07732); 1 leaves two that are hidden.
    challenge_tests: whether the few problems that have them are judged by their
        `challenge_test_list`, too, as hidden tests. The published figures are without.
    The others are those of `AssertionEnv`, `CodeEnv`, `SandboxedEnv` and `TextEnv`.

    As in the data set's own evaluation, `test_setup_code` runs after the program and before the
    assertions. Where it needs a class of the program (tasks 367 and 927 build trees of its `Node`),
    it stands in the prompt.
    """

    def __init__(
        self,
        data: str | Path | None = None,
        *,
        config: str = "full",
        shown_tests: int = 1,
        challenge_tests: bool = False,
        **options: Any,
    ) -> None:
        if config not in CONFIGS:
            raise ValueError(f"config must be one of {', '.join(CONFIGS)}; got {config!r}.")
        if isinstance(shown_tests, bool) or not isinstance(shown_tests, int) or shown_tests < 1:
            raise ValueError(f"shown_tests must be a positive integer, got {shown_tests!r}.")
        self.config = config
        self.shown_tests = shown_tests
        self.challenge_tests = challenge_tests
        super().__init__(data, **options)

    def load(self, options: DataOptions) -> list[Problem]:
        return load_problems(
            options, dataclasses.replace(HUB, config=self.config), self._problem_of
        )

    def _problem_of(self, row: Row, place: str) -> Problem | None:
        tests = _tests_of(row, place, self.shown_tests, self.challenge_tests)
        assertions = [test.input for test in tests if test.public]
        task = TASK.format(
            text=text_field(row, place, LAYOUT, "text", "prompt").strip(),
            these="this test" if len(assertions) == 1 else "these tests",
            assertions="\n".join([*_setup_for_prompt(row), *assertions]),
        )
        id_ = field(row, place, LAYOUT, "task_id")
        if not isinstance(id_, int | str):
            raise ValueError(f"{place}: task_id must be a number or a text, got {id_!r:.60}.")
        return self.problem_with(str(id_), task, tests, place)


def _tests_of(
    row: Row, place: str, shown_tests: int, challenge_tests: bool
) -> tuple[AssertionCase, ...]:
    """Raises ValueError for a row without assertions, or with some that call nothing of it."""
    setup = row.get("test_setup_code") or ""
    if not isinstance(setup, str):
        raise ValueError(f"{place}: test_setup_code must be a text, came {setup!r:.60}.")
    setup = "\n".join([*checked_texts(row.get("test_imports") or [], place, "test_imports"), setup])
    setup_body = checked_python(setup, "test_setup_code", place).body
    defined = _names(setup_body, ast.Store)
    assertions = checked_texts(field(row, place, LAYOUT, "test_list"), place, "test_list")
    if not assertions:
        raise ValueError(f"{place}: test_list is empty, so nothing could be judged.")
    if challenge_tests:
        more = row.get("challenge_test_list") or []
        assertions = assertions + checked_texts(more, place, "challenge_test_list")
    assertions = [each.strip().replace("\r\n", "\n") for each in assertions]
    functions: list[str] = []  # that each test calls first
    used = _names_of_program(setup_body, defined)
    for number, assertion in enumerate(assertions, start=1):
        body = checked_python(assertion, f"test {number}", place).body
        of_program = _names_of_program(body, defined)
        called = [name for name in _called_names(body) if name in of_program]
        if not called:  # it may be named like a builtin: task 126 asks for `sum`
            called = [name for name in _called_names(body) if name in _names_of_answer(row)]
            of_program |= set(called[:1])
        if not called:
            raise ValueError(
                f"{place}: test {number} must call a function of the program, came "
                f"{assertion!r:.80}."
            )
        functions.append(called[0])
        used |= of_program
    more_inputs = row.get("test")  # of MBPP+
    if isinstance(more_inputs, str) and more_inputs.strip():
        checked_python(more_inputs, "test", place)
        assertions.append(more_inputs)
        functions.append(functions[0])
    return tuple(
        AssertionCase(assertion, number <= shown_tests, function, setup, tuple(sorted(used)))
        for number, (assertion, function) in enumerate(zip(assertions, functions, strict=True), 1)
    )


def _setup_for_prompt(row: Row) -> list[str]:
    """The setup code, if it needs names of the program, which could not be guessed."""
    setup = (row.get("test_setup_code") or "").replace("\r\n", "\n").strip()
    body = ast.parse(setup).body
    return [setup] if _names_of_program(body, _names(body, ast.Store)) else []


def _names_of_program(body: Sequence[ast.stmt], defined: set[str]) -> set[str]:
    return _names(body, ast.Load) - _names(body, ast.Store) - defined - set(dir(builtins))


def _names_of_answer(row: Row) -> set[str]:
    """What the data set's own answer defines; nothing, if that is no Python code."""
    try:
        return _names(ast.parse(row.get("code") or "").body, ast.Store)
    except (SyntaxError, ValueError, TypeError):
        return set()


def _names(body: Sequence[ast.stmt], context: type) -> set[str]:
    """The names that statements use (Load) or define (Store)."""
    nodes = [node for statement in body for node in ast.walk(statement)]
    found = {
        each.id for each in nodes if isinstance(each, ast.Name) and isinstance(each.ctx, context)
    }
    if context is ast.Store:
        for node in nodes:
            if isinstance(node, ast.FunctionDef | ast.ClassDef):
                found.add(node.name)
            elif isinstance(node, ast.Import | ast.ImportFrom):
                found |= {alias.asname or alias.name.partition(".")[0] for alias in node.names}
    return found


def _called_names(body: Sequence[ast.stmt]) -> list[str]:
    calls = (n for statement in body for n in ast.walk(statement) if isinstance(n, ast.Call))
    return [call.func.id for call in calls if isinstance(call.func, ast.Name)]


vector = MBPP.vector  # gymnasium's entry points cannot name a class attribute
