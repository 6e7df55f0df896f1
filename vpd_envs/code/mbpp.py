"""MBPP: functions from a sentence and an assertion, judged by assertions.

Loads the layouts of `google-research-datasets/mbpp`: full (`task_id`, `text`, `test_list`,
`test_setup_code`, `challenge_test_list`) and sanitized (`prompt`, `test_imports`); and files of
MBPP+ (sanitized, with a `test` of many inputs, which is one more hidden test).
"""

from __future__ import annotations

import ast
from pathlib import Path
from typing import Any

from vpd_envs.checks import check_integer
from vpd_envs.code.answer import facts_of
from vpd_envs.code.assertions import AssertionEnv, checked_python
from vpd_envs.code.cases import AssertionCase
from vpd_envs.data.files import Hub, Row, checked_texts, field, text_field
from vpd_envs.types import Problem

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
        check_integer("shown_tests", shown_tests, 1)
        self.hub = Hub("google-research-datasets/mbpp", config, "prompt+train+validation+test")
        self.shown_tests = shown_tests
        self.challenge_tests = challenge_tests
        super().__init__(data, **options)

    def problem_of(self, row: Row, place: str) -> Problem | None:
        tests = _tests_of(row, place, self.shown_tests, self.challenge_tests)
        assertions = [test.input for test in tests if test.public]
        setup = (row.get("test_setup_code") or "").replace("\r\n", "\n").strip()
        needs_names = bool(facts_of(setup).used)  # of the program, which could not be guessed
        task = TASK.format(
            text=text_field(row, place, LAYOUT, "text", "prompt").strip(),
            these="this test" if len(assertions) == 1 else "these tests",
            assertions="\n".join([setup, *assertions] if needs_names else assertions),
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
    checked_python(setup, "test_setup_code", place)
    assertions = checked_texts(field(row, place, LAYOUT, "test_list"), place, "test_list")
    if not assertions:
        raise ValueError(f"{place}: test_list is empty, so nothing could be judged.")
    if challenge_tests:
        more = row.get("challenge_test_list") or []
        assertions = assertions + checked_texts(more, place, "challenge_test_list")
    assertions = [each.strip().replace("\r\n", "\n") for each in assertions]
    functions: list[str] = []  # that each test calls first
    setup_facts = facts_of(setup)
    used = set(setup_facts.used)
    for number, assertion in enumerate(assertions, start=1):
        called = _called_names(checked_python(assertion, f"test {number}", place))
        of_program = facts_of(assertion).used - setup_facts.provided
        function = next((name for name in called if name in of_program), None)
        if function is None:  # it may be named like a builtin: task 126 asks for `sum`
            of_answer = facts_of(str(row.get("code"))).provided
            function = next((name for name in called if name in of_answer), None)
        if function is None:
            raise ValueError(
                f"{place}: test {number} must call a function of the program, came "
                f"{assertion!r:.80}."
            )
        functions.append(function)
        used |= of_program | {function}
    more_inputs = row.get("test")  # of MBPP+
    if isinstance(more_inputs, str) and more_inputs.strip():
        checked_python(more_inputs, "test", place)
        assertions.append(more_inputs)
        functions.append(functions[0])
    return tuple(
        AssertionCase(assertion, number <= shown_tests, function, setup, tuple(sorted(used)))
        for number, (assertion, function) in enumerate(zip(assertions, functions, strict=True), 1)
    )


def _called_names(tree: ast.Module) -> list[str]:
    nodes = (node for statement in tree.body for node in ast.walk(statement))
    calls = (node.func for node in nodes if isinstance(node, ast.Call))
    return [function.id for function in calls if isinstance(function, ast.Name)]


vector = MBPP.vector  # gymnasium's entry points cannot name a class attribute
