"""What tests that are Python code need from a program, and whether the examiner can run them.

Read from their text alone, before any program runs, so that no program decides about it.
"""

from __future__ import annotations

import ast
import builtins
import re
import sys
import warnings
from collections.abc import Iterator
from functools import lru_cache

CLASS_NAME = re.compile(r"[A-Z][A-Za-z0-9]*")
STREAMS = ("sys.stdout", "sys.stderr")  # what is printed to their replacements reaches the tests
CATCHERS = ("assertWarns", "assertWarnsRegex", "assertLogs", "assertNoLogs")


@lru_cache(maxsize=1024)
def checked_tests(tests: str) -> ast.Module:
    """The syntax tree of tests that the examiner can run, as far as their text tells.

    Raises:
        ValueError: they are no Python code, or change or watch something of their own process and
            expect that of the program's, too: `mock.patch`, `builtins.input = ...`.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # "\\d" in a test is no concern of ours
            tree = ast.parse(tests)
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise unfit(tests, f"{type(error).__name__}: {error}") from error
    reason = next(_reasons_against(tree), None)
    if reason is not None:
        raise unfit(tests, reason)
    return tree


def unfit(tests: str, reason: str) -> ValueError:
    return ValueError(
        f"These tests cannot run in this sandbox ({reason}). Mend them, or use an image or machine "
        f"that has what they import: {tests[:200]!r}."
    )


@lru_cache(maxsize=1024)
def functions_of(tests: str) -> tuple[str, ...] | None:
    """The names to take from the program if `functions` is not given. None: all but builtins.

    Tests that use no other name must be about a function that is named like a builtin.

    Raises:
        ValueError: they call several of Python's builtins; which is the program's?
    """
    tree = checked_tests(tests)
    if names(tree, ast.Load) - names(tree, ast.Store) - set(dir(builtins)):
        return None
    asserts = [node for node in ast.walk(tree) if isinstance(node, ast.Assert)]
    called = {name for each in asserts if (name := _called_first(each.test)) is not None}
    called &= set(dir(builtins)) - names(tree, ast.Store)
    if not called:
        return None
    if len(called) == 1:
        return tuple(called)
    raise ValueError(
        f"These tests call only builtins ({', '.join(sorted(called))}). Say which of them the "
        f"program defines, as in AssertTest(tests, functions=({sorted(called)[0]!r},)): "
        f"{tests[:200]!r}."
    )


@lru_cache(maxsize=1024)
def classes_of(tests: str) -> tuple[str, ...]:
    """The names of the program that tests take for classes: `Stack`, and those that they catch,
    derive from, or pass to isinstance."""
    tree = checked_tests(tests)
    used = names(tree, ast.Load) - names(tree, ast.Store) - set(dir(builtins))
    places = set(_names_where_classes_stand(tree))
    return tuple(sorted(name for name in used if CLASS_NAME.fullmatch(name) or name in places))


def names(tree: ast.AST, context: type) -> set[str]:
    """The names that code uses (Load) or defines (Store)."""
    nodes = list(ast.walk(tree))
    found = {
        each.id for each in nodes if isinstance(each, ast.Name) and isinstance(each.ctx, context)
    }
    if context is ast.Store:
        for node in nodes:
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
                found.add(node.name)
            elif isinstance(node, ast.Import | ast.ImportFrom):
                found |= {alias.asname or alias.name.partition(".")[0] for alias in node.names}
            elif isinstance(node, ast.arg):
                found.add(node.arg)
            elif isinstance(node, ast.ExceptHandler) and node.name:
                found.add(node.name)
    return found


def _called_first(expression: ast.expr) -> str | None:
    """`f` of `f(1) == 2`, `not f(1)` and `f(1)[0].name == 2`."""
    node: ast.AST = expression
    while not isinstance(node, ast.Call) or not isinstance(node.func, ast.Name):
        parts = [node for node in ast.iter_child_nodes(node) if isinstance(node, ast.expr)]
        if not parts:
            return None
        node = parts[0]
    return node.func.id


def _names_where_classes_stand(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        places: list[ast.expr | None] = []
        if isinstance(node, ast.ClassDef):
            places = [*node.bases]
        elif isinstance(node, ast.ExceptHandler):
            places = [node.type]
        elif isinstance(node, ast.Call) and _path(node.func) in ("isinstance", "issubclass"):
            places = [*node.args[1:]]
        for place in filter(None, places):
            for part in place.elts if isinstance(place, ast.Tuple) else [place]:
                if isinstance(part, ast.Name):
                    yield part.id


# What one process would share ---------------------------------------------------------------------


def _reasons_against(tree: ast.Module) -> Iterator[str]:
    modules, patches = _imported(tree)
    for node in ast.walk(tree):
        if isinstance(node, ast.Assign | ast.AugAssign | ast.AnnAssign | ast.Delete):
            has_one = isinstance(node, ast.AugAssign | ast.AnnAssign)
            targets = [node.target] if has_one else node.targets
            for target in targets:
                if _is_of_module(target, modules):
                    yield f"{ast.unparse(target)} is changed in the tests' process alone"
        elif isinstance(node, ast.Call):
            path = _path(node.func)
            if path.split(".")[0] in patches or (".patch" in path and "mock" in path):
                yield f"{path} patches the tests' process alone"
            elif path == "setattr" and node.args and _path(node.args[0]) in modules:
                yield f"{ast.unparse(node)} changes the tests' process alone"
            elif path.rpartition(".")[2] in CATCHERS:
                yield f"{path} does not see what the program warns of or logs"
            elif path.endswith("catch_warnings") and node.keywords:
                yield f"{path} does not see what the program warns of"


def _imported(tree: ast.Module) -> tuple[set[str], set[str]]:
    """The names that stand for modules, and those that stand for `unittest.mock.patch`."""
    modules = set(sys.stdlib_module_names) - names(tree, ast.Store)
    patches = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            modules |= {alias.asname or alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module in ("unittest.mock", "mock"):
            found = (alias for alias in node.names if alias.name == "patch")
            patches |= {alias.asname or alias.name for alias in found}
    return modules, patches


def _is_of_module(target: ast.expr, modules: set[str]) -> bool:
    """Whether an assignment changes something of a module, or of a decimal context."""
    if isinstance(target, ast.Tuple | ast.List):
        return any(_is_of_module(each, modules) for each in target.elts)
    if not isinstance(target, ast.Attribute | ast.Subscript):
        return False
    owner = target.value
    if isinstance(owner, ast.Call):
        return _path(owner.func).endswith("getcontext")
    path = _path(owner)
    if isinstance(target, ast.Attribute):
        return path in modules and f"{path}.{target.attr}" not in STREAMS
    return "." in path and path.partition(".")[0] in modules


def _path(node: ast.AST) -> str:
    """`a.b.c` for that expression; "" for others."""
    if isinstance(node, ast.Name):
        return node.id
    if isinstance(node, ast.Attribute):
        path = _path(node.value)
        return f"{path}.{node.attr}" if path else ""
    return ""
