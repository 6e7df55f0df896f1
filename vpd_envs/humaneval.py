"""HumanEval: functions from their docstrings, judged by assertions.

Loads OpenAI's layout (`task_id`, `prompt`, `entry_point`, `test`, where `check(candidate)` makes
the assertions), HumanEvalPack's (where `test` calls its check by itself) and HumanEval+'s (as
OpenAI's, with a thousand inputs and numpy, which the sandbox then needs).
"""

from __future__ import annotations

import ast
import logging
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from sandbox import Sandbox
from vpd_envs.assertions import AssertionEnv, checked_python, segment, unfit_reason
from vpd_envs.code import AssertionTest, answer_format, limits_for
from vpd_envs.data import Hub, Row, load_problems, text_field
from vpd_envs.types import Problem, Verdict

log = logging.getLogger("vpd_envs")

HUB = Hub("openai/openai_humaneval")
LAYOUT = "a HumanEval row ('task_id', 'prompt', 'entry_point', 'test')"
TASK = (
    "Complete this Python function.\n\n```python\n{prompt}\n```\n\n"
    "Write the whole function, not only its body.{above}"
)
GIVEN = " What stands above it is in place and need not be repeated."


class HumanEval(AssertionEnv):
    """`vpd/HumanEval-v0`.

    data, hub, revision, split, test_fraction, max_problems: see `vpd_envs.data`. HumanEval+ is
        hub="evalplus/humanevalplus"; some of its tests need time_limit_seconds=60 and
        memory_limit_mb=2048. The data set has no training split of its own: "train" and "test" are
        by hash.
    The others are those of `CodeEnv`, `SandboxedEnv` and `TextEnv`.

    Where `check` is nothing but assertions each is a test; else it is one test. An assertion is
    public if the docstring gives it as an example: its call and its value stand there.

    The prompt's imports and helper functions are in place: those that the answer does not have are
    put before it, so that the lines which a traceback numbers are those of the whole program.

    `excluded`: a dict from the ids of the problems left out, since no sandbox can run their tests,
    to the reasons.
    """

    def __init__(
        self,
        data: str | Path | None = None,
        *,
        hub: str | None = None,
        revision: str | None = None,
        split: str = "all",
        test_fraction: float = 0.2,
        max_problems: int | None = None,
        sandbox: str | Sandbox = "auto",
        time_limit_seconds: float = 6.0,
        memory_limit_mb: float = 512,
        feedback_tests: str = "public",
        judged_tests: str = "all",
        stop_at_first_failure: bool = True,
        max_turns: int = 1,
        render_mode: str | None = None,
    ) -> None:
        limits = limits_for(time_limit_seconds, memory_limit_mb)
        above: dict[str, tuple[Above, ...]] = {}
        excluded: dict[str, str] = {}

        def problem_of(row: Row, place: str) -> Problem | None:
            id_ = text_field(row, place, LAYOUT, "task_id")
            prompt = text_field(row, place, LAYOUT, "prompt")
            function = text_field(row, place, LAYOUT, "entry_point")
            above[id_] = statements_above(prompt, function, place)
            task = TASK.format(prompt=prompt.strip("\n"), above=GIVEN if above[id_] else "")
            tests = tests_of(row, place, prompt, function, above[id_])
            reason = unfit_reason(tests)
            if reason is not None:
                excluded[id_] = reason
                log.warning("%s: %s is left out. %s", place, id_, reason)
                return None
            return Problem(
                id=id_,
                prompt=f"{task}\n\n{answer_format(limits)}",
                target=tests,
                metadata={"function": function},
            )

        problems = load_problems(
            data,
            Hub(hub or HUB.name, revision=revision),
            problem_of,
            split=split,
            test_fraction=test_fraction,
            max_problems=max_problems,
        )
        super().__init__(
            problems,
            limits=limits,
            feedback_tests=feedback_tests,
            judged_tests=judged_tests,
            stop_at_first_failure=stop_at_first_failure,
            sandbox=sandbox,
            max_turns=max_turns,
            render_mode=render_mode,
        )
        self._above = above  # by the problem's id
        self.excluded = excluded

    def judge_code(self, problem: Problem, code: str) -> Verdict:
        return super().judge_code(problem, completed(code, self._above[problem.id]))


@dataclass(frozen=True)
class Above:
    """A statement that stands above the function in its prompt: an import, a helper function."""

    source: str
    names: tuple[str, ...]  # that it defines


def statements_above(prompt: str, function: str, place: str) -> tuple[Above, ...]:
    source = f"{prompt}\n    pass\n"
    above: list[Above] = []
    for node in checked_python(source, "the prompt, with a body,", place).body:
        if isinstance(node, ast.FunctionDef) and node.name == function:
            return tuple(above)
        above.append(Above(segment(source, node), tuple(defined_names(node))))
    raise ValueError(f"{place}: the prompt must define its entry_point, {function!r:.60}.")


def defined_names(node: ast.stmt) -> Iterator[str]:
    if isinstance(node, ast.FunctionDef | ast.ClassDef):
        yield node.name
    elif isinstance(node, ast.Import | ast.ImportFrom):
        for alias in node.names:
            yield alias.asname or alias.name.partition(".")[0]
    elif isinstance(node, ast.Assign):
        yield from (target.id for target in node.targets if isinstance(target, ast.Name))


FUTURE_IMPORT = re.compile(
    r"^from[ \t]+__future__[ \t]+import\b(?:[^(\n]*|[^(\n]*\([^)]*\).*)$\n?", re.MULTILINE
)


def completed(code: str, above: Sequence[Above]) -> str:
    """The program: the code, after those statements that define what it seems not to define.

    One too many does no harm, since what the code itself defines comes later.
    """
    imports = (line for line in code.split("\n") if line.lstrip().startswith(("import ", "from ")))
    imported = {word for line in imports for word in re.findall(r"\w+", line)}

    def defines(name: str) -> bool:
        own = rf"^(?:def|class)[ \t]+{name}\b|^{name}[ \t]*[:=]"
        return name in imported or re.search(own, code, re.MULTILINE) is not None

    missing = [each.source for each in above if not all(map(defines, each.names))]
    start = max((found.end() for found in FUTURE_IMPORT.finditer(code)), default=0)
    return "".join([code[:start], *(f"{source}\n" for source in missing), code[start:]])


# Tests --------------------------------------------------------------------------------------------


def tests_of(
    row: Row, place: str, prompt: str, function: str, above: Sequence[Above]
) -> tuple[AssertionTest, ...]:
    source = text_field(row, place, LAYOUT, "test")
    statements = [
        node for node in checked_python(source, "the test", place).body if not calls(node)
    ]
    checks = [n for n in statements if isinstance(n, ast.FunctionDef) and n.name == "check"]
    if len(checks) != 1 or len(checks[0].args.args) != 1:
        raise ValueError(f"{place}: the test must define check(candidate), with one argument.")
    (check,) = checks
    setup = [each.source for each in above]
    setup += [segment(source, node) for node in statements if node is not check]
    if not all(isinstance(node, ast.Assert) for node in check.body):
        setup.append(segment(source, check))
        whole = f"check({function})"
        return (AssertionTest(whole, False, function, "\n".join(setup), (function,)),)
    candidate = check.args.args[0].arg
    if candidate != function:
        setup.append(f"{candidate} = {function}")
    return tuple(
        AssertionTest(
            segment(source, node),
            is_example(node, candidate, function, prompt),
            function,
            "\n".join(setup),
            (function,),
        )
        for node in check.body
    )


def calls(node: ast.stmt) -> bool:
    """Whether the statement is `check(...)`, which HumanEvalPack's tests have at their end."""
    call = node.value if isinstance(node, ast.Expr) else None
    return isinstance(call, ast.Call) and ast.unparse(call.func) == "check"


def is_example(node: ast.Assert, candidate: str, function: str, prompt: str) -> bool:
    """Whether the prompt has the assertion's call, followed by its value, in whatever notation."""
    test = node.test
    if not isinstance(test, ast.Compare) or not isinstance(test.left, ast.Call):
        return False
    if len(test.ops) != 1 or not isinstance(test.ops[0], ast.Eq | ast.Is):
        return False
    if ast.unparse(test.left.func) != candidate:
        return False
    call = function + squeezed(ast.unparse(test.left))[len(candidate) :]
    value = squeezed(ast.unparse(test.comparators[0]))
    between = 12  # characters: "==", "➞", "should return"
    parts = squeezed(prompt).split(call)
    return any(value in part[: len(value) + between] for part in parts[1:])


def squeezed(text: str) -> str:
    return re.sub(r"\s+", "", text).replace('"', "'")


vector = HumanEval.vector  # gymnasium's entry points cannot name a class attribute
