"""HumanEval: functions from their docstrings, judged by assertions.

Loads OpenAI's layout (`task_id`, `prompt`, `entry_point`, `test`, where `check(candidate)` makes
the assertions), HumanEvalPack's (where `test` calls its check by itself), HumanEval+'s (OpenAI's
with a thousand inputs and numpy, which the sandbox then needs) and QuixBugs' (`name`, `docstring`,
`buggy_program`, `tests`). Rows of that kind load, too: `test` or `tests` may be a list of
assertions, or code that makes them by itself or in functions `test...`; instead of a `prompt` with
the head of the function there may be its `declaration`.
"""

from __future__ import annotations

import ast
import re
import textwrap
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache

from vpd_envs.code.answer import facts_of
from vpd_envs.code.assertions import AssertionEnv, checked_python, segment
from vpd_envs.code.cases import AssertionCase
from vpd_envs.data.files import DataOptions, Hub, Row, checked_texts, text_field
from vpd_envs.types import Problem, Verdict

LAYOUT = "a HumanEval row ('task_id', 'prompt', 'entry_point', 'test')"
QUIXBUGS_LAYOUT = "a QuixBugs row ('name', 'docstring', 'buggy_program', 'tests')"
TASK = (
    "Complete this Python function.\n\n```python\n{prompt}\n```\n\n"
    "Write the whole function, not only its body.{above}"
)
GIVEN = " What stands above it is in place and need not be repeated."


class HumanEval(AssertionEnv):
    """`vpd/HumanEval-v0`.

    data, hub, revision, split, test_fraction, max_problems: see `vpd_envs.data.files`. HumanEval+
        is hub="evalplus/humanevalplus"; some of its tests need time_limit_seconds=60 and
        memory_limit_mb=2048. The data set has no training split of its own: "train" and "test" are
        by hash.
    The others are those of `AssertionEnv`, `CodeEnv`, `SandboxedEnv` and `TextEnv`.

    Where `check` is nothing but assertions each is a test; else it is one test. Where there is no
    `check`, each statement is a test that defines nothing. An assertion is public if the docstring
    gives it as an example: its call and its value stand there.

    The prompt's imports and helper functions are in place: those that the answer does not have are
    put before it, so that the lines which a traceback numbers are those of the whole program.
    """

    hub = Hub("openai/openai_humaneval")

    def load(self, options: DataOptions) -> list[Problem]:
        self._above: dict[str, list[str]] = {}  # by the problem's id
        return super().load(options)

    def problem_of(self, row: Row, place: str) -> Problem | None:
        source = _source_of(row, place)
        given = self._above[source.id] = statements_above(source.prompt, source.function, place)
        task = TASK.format(prompt=source.prompt.strip("\n"), above=GIVEN if given else "")
        return self.problem_with(source.id, task, _tests_of(source, place, given), place)

    def judge_code(self, problem: Problem, code: str) -> Verdict:
        return super().judge_code(problem, completed(code, self._above[problem.id]))


def statements_above(prompt: str, function: str, place: str) -> list[str]:
    """What stands above the function in its prompt: imports, helper functions."""
    source = f"{prompt}\n    pass\n"
    above: list[str] = []
    for node in checked_python(source, "the prompt, with a body,", place).body:
        if isinstance(node, ast.FunctionDef) and node.name == function:
            return above
        above.append(segment(source, node))
    raise ValueError(f"{place}: the prompt must define its entry_point, {function!r:.60}.")


@lru_cache(maxsize=1024)  # each answer to a problem asks
def _defined_names(statement: str) -> frozenset[str]:
    return facts_of(statement).provided


FUTURE_IMPORT = re.compile(
    r"^from[ \t]+__future__[ \t]+import\b(?:[^(\n]*|[^(\n]*\([^)]*\).*)$\n?", re.MULTILINE
)


def completed(code: str, above: Sequence[str]) -> str:
    """The program: the code, after those statements that define what it seems not to define.

    One too many does no harm, since what the code itself defines comes later.
    """
    imports = (line for line in code.split("\n") if line.lstrip().startswith(("import ", "from ")))
    imported = {word for line in imports for word in re.findall(r"\w+", line)}

    def defines(name: str) -> bool:
        own = rf"^(?:def|class)[ \t]+{name}\b|^{name}[ \t]*[:=]"
        return name in imported or re.search(own, code, re.MULTILINE) is not None

    missing = [each for each in above if not all(map(defines, _defined_names(each)))]
    start = max((found.end() for found in FUTURE_IMPORT.finditer(code)), default=0)
    return "".join([code[:start], *(f"{source}\n" for source in missing), code[start:]])


# Layouts ------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Source:
    """What a row of any layout says of a problem."""

    id: str
    prompt: str  # Python code that ends with the head of the function and its docstring
    function: str
    test: str  # Python code


def _source_of(row: Row, place: str) -> Source:
    if "buggy_program" in row and "entry_point" not in row:
        return _quixbugs_source(row, place)
    id_field = next((name for name in ("task_id", "name", "id") if name in row), "task_id")
    function = text_field(row, place, LAYOUT, "entry_point")
    return Source(
        text_field(row, place, LAYOUT, id_field),
        _prompt_of(row, place, function),
        function,
        _test_code(row, place, LAYOUT),
    )


def _prompt_of(row: Row, place: str, function: str) -> str:
    """The prompt, if it has the function's head; else that of the declaration, above the text."""
    prompt, declaration = row.get("prompt"), row.get("declaration")
    if not isinstance(declaration, str) or f"def {function}" in str(prompt):
        return text_field(row, place, LAYOUT, "prompt")
    text = text_field(row, place, LAYOUT, "docstring", "prompt") if prompt is not None else ""
    return f"{declaration.rstrip()}\n{_docstring(text)}"


def _quixbugs_source(row: Row, place: str) -> Source:
    name = text_field(row, place, QUIXBUGS_LAYOUT, "name")
    program = text_field(row, place, QUIXBUGS_LAYOUT, "buggy_program")
    text = text_field(row, place, QUIXBUGS_LAYOUT, "docstring")
    lines: list[str] = []
    for node in checked_python(program, "buggy_program", place).body:
        if isinstance(node, ast.FunctionDef) and node.name == name:
            lines += [f"def {name}({ast.unparse(node.args)}):", _docstring(text)]
            return Source(name, "\n".join(lines), name, _test_code(row, place, QUIXBUGS_LAYOUT))
        lines.append(segment(program, node))
    raise ValueError(f"{place}: buggy_program must define the function {name!r:.60}.")


def _docstring(text: str) -> str:
    """The text as a function's docstring, which it may be already."""
    text = text.strip()
    if not text.startswith(('"""', "'''")):
        text = '"""' + text.replace("\\", "\\\\").replace('"""', "'''") + '\n"""'
    return textwrap.indent(text, "    ") + "\n"


def _test_code(row: Row, place: str, layout: str) -> str:
    """The tests as one text, which may be stored as a list of statements."""
    names = [name for name in ("test", "tests", "test_list") if name in row] or ["test"]
    if isinstance(row.get(names[0]), list):
        return "\n".join(checked_texts(row[names[0]], place, names[0]))
    return text_field(row, place, layout, names[0])


# Tests --------------------------------------------------------------------------------------------


def _tests_of(source: Source, place: str, above: Sequence[str]) -> tuple[AssertionCase, ...]:
    tree = checked_python(source.test, "the test", place)
    statements = [node for node in tree.body if not _calls(node)]
    checks = [n for n in statements if isinstance(n, ast.FunctionDef) and n.name == "check"]
    setup = list(above)
    if not checks:
        used = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)}
        tests = _statement_tests(source, statements, setup) if source.function in used else ()
        if not tests:
            raise ValueError(
                f"{place}: the test must define check(candidate), or make assertions about "
                f"{source.function!r:.60}."
            )
        return tests
    if len(checks) != 1 or len(checks[0].args.args) != 1:
        raise ValueError(f"{place}: the test must define check(candidate), with one argument.")
    return _check_tests(source, statements, checks[0], setup)


def _check_tests(
    source: Source, statements: Sequence[ast.stmt], check: ast.FunctionDef, setup: list[str]
) -> tuple[AssertionCase, ...]:
    """The assertions of `check`, or all of it if it is more than these."""
    setup += [segment(source.test, node) for node in statements if node is not check]
    if not all(isinstance(node, ast.Assert) for node in check.body):
        setup.append(segment(source.test, check))
        return (_one_test(source, f"check({source.function})", setup),)
    candidate = check.args.args[0].arg
    if candidate != source.function:
        setup.append(f"{candidate} = {source.function}")
    return _one_by_one(source, check.body, setup, candidate)


DEFINITIONS = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef, ast.Import, ast.ImportFrom)
ASSIGNMENTS = (ast.Assign, ast.AnnAssign, ast.AugAssign)


def _statement_tests(
    source: Source, statements: Sequence[ast.stmt], setup: list[str]
) -> tuple[AssertionCase, ...]:
    """Each statement that defines nothing is a test, after all definitions; together they are one
    where assignments stand among them. If there are none: the functions that are named as tests.
    """
    statements = [node for node in _unguarded(statements) if not _is_text(node)]
    checks = [node for node in statements if not isinstance(node, DEFINITIONS + ASSIGNMENTS)]
    first = statements.index(checks[0]) if checks else len(statements)
    run = [node for node in statements[first:] if not isinstance(node, DEFINITIONS)]
    setup += [segment(source.test, node) for node in statements if node not in run]
    if not checks:
        functions = [node.name for node in statements if isinstance(node, ast.FunctionDef)]
        return tuple(_one_test(source, f"{name}()", setup) for name in functions if "test" in name)
    if len(run) > len(checks):
        text = "\n".join(segment(source.test, node) for node in run)
        return (_one_test(source, text, setup),)
    return _one_by_one(source, run, setup, source.function)


def _unguarded(statements: Sequence[ast.stmt]) -> Iterator[ast.stmt]:
    """The statements, those of `if __name__ == "__main__":` too."""
    for node in statements:
        if isinstance(node, ast.If) and "__name__" in ast.unparse(node.test):
            yield from node.body
        else:
            yield node


def _is_text(node: ast.stmt) -> bool:
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)


def _one_by_one(
    source: Source, nodes: Sequence[ast.stmt], setup: Sequence[str], candidate: str
) -> tuple[AssertionCase, ...]:
    return tuple(
        _one_test(source, segment(source.test, node), setup, _is_example(node, candidate, source))
        for node in nodes
    )


def _one_test(
    source: Source, text: str, setup: Sequence[str], public: bool = False
) -> AssertionCase:
    function = source.function
    return AssertionCase(text, public, function, "\n".join(setup), (function,))


def _calls(node: ast.stmt) -> bool:
    """Whether the statement is `check(...)`, which HumanEvalPack's tests have at their end."""
    call = node.value if isinstance(node, ast.Expr) else None
    return isinstance(call, ast.Call) and ast.unparse(call.func) == "check"


def _is_example(node: ast.stmt, candidate: str, source: Source) -> bool:
    """Whether the prompt has an assertion's call, followed by its value, in whatever notation.

    candidate: the name of the function in the assertion.
    """
    test = node.test if isinstance(node, ast.Assert) else None
    if not isinstance(test, ast.Compare) or not isinstance(test.left, ast.Call):
        return False
    if len(test.ops) != 1 or not isinstance(test.ops[0], ast.Eq | ast.Is):
        return False
    if ast.unparse(test.left.func) != candidate:
        return False
    call = source.function + _squeezed(ast.unparse(test.left))[len(candidate) :]
    value = _squeezed(ast.unparse(test.comparators[0]))
    between = 12  # characters: "==", "➞", "should return"
    parts = _squeezed(source.prompt).split(call)
    return any(value in part[: len(value) + between] for part in parts[1:])


def _squeezed(text: str) -> str:
    return re.sub(r"\s+", "", text).replace('"', "'")


vector = HumanEval.vector  # gymnasium's entry points cannot name a class attribute
