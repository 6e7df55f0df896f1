"""Which program an answer gives: one of its code blocks, or several that only work together.

Models write more than their program: a demonstration, tests, sample output, a translation. So the
last block is not always the answer. The rule, for blocks whose tag says Python or nothing:

- Where tests call functions, the last block that defines one of them counts.
- Where tests run a whole program, the last block that reads the input and prints counts.
- Blocks that define what this block uses and does not define are joined with it.
- Where no single block will do, neighboring ones that do together are joined.

What is no Python code is chosen only where nothing else looks like the answer. Code is parsed here
and never run.
"""

from __future__ import annotations

import ast
import builtins
import re
import symtable
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

from vpd_envs.answers.extraction import FencedBlock, Found, fenced_blocks, without_thinking

PYTHON = re.compile(r"(?:python|ipython|py|pypy)(?:[-_]?(?:[\d.]+|code|script|solution))?|.*\.py")
UNTAGGED = ("", "code", "solution", "answer", "program")  # these say nothing of the language
MARKDOWN = ("markdown", "md")
# Bounds on the work for one answer: how many of its blocks are read, the last ones; and up to which
# length, in characters, blocks are joined to see what they do together.
MOST_BLOCKS = 32
MOST_NEIGHBORS = 8
LONGEST_JOINED = 1 << 15


@dataclass(frozen=True)
class Program:
    found: Found
    code: str = ""  # only if COMPLETE
    blocks: int = 0  # fenced blocks of the answer, in any language
    places: tuple[int, ...] = ()  # of the blocks that make up the program; 1 is the first


def program_in(answer: str, functions: Iterable[str] = ()) -> Program:
    """The program that an answer gives.

    functions: the names that tests take from the program: functions, methods of `Solution`, or
        classes. Without any, the tests run it as a whole.
    """
    text = without_thinking(answer)
    if text is None:
        return Program(Found.THINKING)
    blocks = [inner for block in fenced_blocks(text) for inner in _opened(block)]
    candidates = [
        Part(place, block.code, _is_python(block), block.closed)
        for place, block in enumerate(blocks, 1)
        if _is_python(block) or block.language in UNTAGGED
    ]
    closed = [part for part in candidates if part.closed and part.code.strip()]
    is_cut_off = any(not part.closed and (part.code.strip() or not closed) for part in candidates)
    parts = _chosen_parts(closed[-MOST_BLOCKS:], frozenset(functions), is_cut_off)
    if parts:
        places = tuple(part.place for part in parts)
        return Program(Found.COMPLETE, _joined(parts), len(blocks), places)
    if is_cut_off:
        return Program(Found.TRUNCATED)
    if candidates:
        return Program(Found.EMPTY)
    return Program(Found.OTHER_LANGUAGE if blocks else Found.NONE)


def _opened(block: FencedBlock) -> Sequence[FencedBlock]:
    """The blocks within a block of Markdown; any other block as it is."""
    if block.language not in (*MARKDOWN, "") or not re.search("```|~~~", block.code):
        return [block]
    inner = fenced_blocks(block.code)
    is_markdown = inner and inner[-1].closed and not facts_of(block.code).parses
    return inner if is_markdown else [block]


def _is_python(block: FencedBlock) -> bool:
    return PYTHON.fullmatch(block.language) is not None


# The choice ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Part:
    """A block that may belong to the program."""

    place: int  # among the blocks of the answer; 1 is the first
    code: str
    tagged: bool  # as Python
    closed: bool = True

    @cached_property
    def facts(self) -> Facts:
        return facts_of(self.code)


def _chosen_parts(
    parts: Sequence[Part], functions: frozenset[str], is_cut_off: bool
) -> Sequence[Part]:
    """The parts that make up the program, in their order; none if there is no answer among them.

    is_cut_off: whether an unfinished block follows: then a part must look like the answer to be it.
    """
    if is_cut_off or len(parts) > 1:
        rules = _function_rules(parts, functions) if functions else _program_rules(parts)
        chosen = next(filter(None, rules), [])
        return chosen if chosen or is_cut_off else _last_resort(parts, functions)
    return parts


def _function_rules(parts: Sequence[Part], functions: frozenset[str]) -> Iterator[Sequence[Part]]:
    def works(facts: Facts) -> bool:
        return not functions.isdisjoint(facts.returning)

    def defines(part: Part) -> bool:
        return not functions.isdisjoint(part.facts.defined)

    yield _with_needed(_last(parts, lambda part: works(part.facts)), parts, functions)
    yield _neighbors(parts, works)
    yield _with_needed(_last(parts, defines), parts, functions)


def _program_rules(parts: Sequence[Part]) -> Iterator[Sequence[Part]]:
    def works(facts: Facts) -> bool:
        return facts.parses and facts.reads and facts.prints

    yield _last_program(parts, works)
    yield _neighbors(parts, works)
    yield _last(parts, lambda part: part.facts.reads and part.facts.prints)


def _last_resort(parts: Sequence[Part], functions: frozenset[str]) -> Sequence[Part]:
    """What is judged where no part looks like the answer, so that feedback can say what it lacks;
    or a program that needs no input."""
    printing = [] if functions else _last_program(parts, lambda facts: facts.prints)
    return (
        printing
        or _last(parts, lambda part: part.tagged and bool(part.facts.returning))
        or _last(parts, lambda part: part.tagged)
        or _last(parts, lambda part: part.facts.parses)
        or parts[-1:]
    )


def _last(parts: Sequence[Part], is_right: Callable[[Part], bool]) -> Sequence[Part]:
    """The last part that is right, alone; no part if none is."""
    return next(([part] for part in reversed(parts) if is_right(part)), [])


def _last_program(parts: Sequence[Part], works: Callable[[Facts], bool]) -> Sequence[Part]:
    """The last part that, with what it needs, works as a program.

    A part that needs another which works by itself is none: it demonstrates that one, or tests it.
    """
    for part in reversed(parts):
        whole = _with_needed([part], parts)
        if any(works(other.facts) for other in whole if other is not part):
            continue
        if works(part.facts if len(whole) == 1 else facts_of(_joined(whole))):
            return whole
    return []


def _neighbors(parts: Sequence[Part], works: Callable[[Facts], bool]) -> Sequence[Part]:
    """The fewest neighboring parts that work together; of several such runs, the last."""
    for count in range(2, min(len(parts), MOST_NEIGHBORS) + 1):
        for start in range(len(parts) - count, -1, -1):
            run = parts[start : start + count]
            if _fit_together(run) and works(facts_of(_joined(run))):
                return run
    return []


def _with_needed(
    chosen: Sequence[Part], parts: Sequence[Part], wanted: Iterable[str] = ()
) -> Sequence[Part]:
    """The chosen part and those that define what is wanted, or what any of them uses; in order.

    Of several parts that define a name, the nearest one before the chosen part is taken, else the
    nearest one after it.
    """
    if not chosen:
        return []
    (part,) = chosen
    before = [other for other in reversed(parts) if other.place < part.place]
    after = [other for other in parts if other.place > part.place]
    members = [part]
    names = sorted(part.facts.used | set(wanted) - part.facts.defined) if part.facts.parses else []
    while names:
        name = names.pop()
        if not any(name in member.facts.provided for member in members):
            for other in [*before, *after]:
                if name in other.facts.provided and other.facts.parses:
                    members.append(other)
                    names += sorted(other.facts.used)
                    break
    return sorted(members, key=lambda each: each.place) if _fit_together(members) else chosen


def _fit_together(parts: Sequence[Part]) -> bool:
    return sum(len(part.code) for part in parts) <= LONGEST_JOINED


def _joined(parts: Sequence[Part]) -> str:
    return "".join(part.code for part in parts)


# What code does, as far as its text tells ---------------------------------------------------------

FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)
DEFINITIONS = (*FUNCTIONS, ast.ClassDef)
READING = {"input", "stdin", "__stdin__"}
OPENING = {"open", "read", "fdopen", "FileIO"}  # of the file descriptor 0, or by its path
PRINTING = {"print", "stdout", "write"}

DEFINED_IN_TEXT = re.compile(r"^[ \t]*(?:async[ \t]+)?(?:def|class)[ \t]+(\w+)", re.MULTILINE)
READS_IN_TEXT = re.compile(r"\binput\s*\(|\bstdin\b|\bopen\s*\(\s*0\b")
PRINTS_IN_TEXT = re.compile(r"\bprint\s*\(|\bstdout\b")


@dataclass(frozen=True)
class Facts:
    """What a text of Python code defines and does. Of one that does not parse, what it seems to."""

    parses: bool
    defined: frozenset[str]  # functions and classes at top level, and methods of Solution
    returning: frozenset[str] = frozenset()  # those of them that are classes or return a value
    provided: frozenset[str] = frozenset()  # all names that it binds at top level, imports too
    used: frozenset[str] = frozenset()  # global names that are neither bound here nor builtins
    reads: bool = False  # standard input, when it is run as a program
    prints: bool = False  # when it is run as a program


def facts_of(code: str) -> Facts:
    """Takes any text. This interpreter may be older than the judge's: what it cannot parse may
    still be Python."""
    text = quiet(code)
    try:
        tree = ast.parse(text)
        provided, used = _global_names(symtable.symtable(text, "answer", "exec"))
        running = list(_running_nodes(tree))
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return Facts(
            parses=False,
            defined=frozenset(DEFINED_IN_TEXT.findall(code)),
            reads=READS_IN_TEXT.search(code) is not None,
            prints=PRINTS_IN_TEXT.search(code) is not None,
        )
    definitions = list(_named_values(tree))
    return Facts(
        parses=True,
        defined=frozenset(name for name, _ in definitions),
        returning=frozenset(name for name, value in definitions if _gives_a_value(value)),
        provided=frozenset(provided),
        used=frozenset(used),
        reads=any(map(_reads_input, running)),
        prints=any(_loaded_name(node) in PRINTING for node in running),
    )


def quiet(code: str) -> str:
    """A text that parses as the code does, but without what the parser would warn of: escapes that
    do not exist in strings, and keywords right after numbers.

    `warnings.catch_warnings` would do, if it were safe with threads.
    """
    code = re.sub(r"\\([^\n\\'\"])", r"/\1", re.sub(r"\\\\", "//", code))
    return re.sub(r"\b(\d[\d_.]*)(?=(?:and|else|for|if|in|is|not|or)\b)", r"\1 ", code)


def _global_names(module: symtable.SymbolTable) -> tuple[set[str], set[str]]:
    """The global names that a module binds, and those that it only uses."""
    bound: set[str] = set()
    used: set[str] = set()
    tables = [module]
    while tables:
        table = tables.pop()
        tables += table.get_children()
        for symbol in table.get_symbols():
            if table is module or symbol.is_global():
                if symbol.is_assigned() or symbol.is_imported():
                    bound.add(symbol.get_name())
                elif symbol.is_referenced():
                    used.add(symbol.get_name())
    return bound, used - bound - set(dir(builtins))


def _named_values(tree: ast.Module) -> Iterator[tuple[str, ast.AST]]:
    """What a program gives to callers: names at top level and in `Solution`, with their values."""
    solutions = [n.body for n in tree.body if isinstance(n, ast.ClassDef) and n.name == "Solution"]
    for body in [tree.body, *solutions]:
        for node in body:
            if isinstance(node, DEFINITIONS):
                yield node.name, node
            elif isinstance(node, ast.Assign):
                yield from ((t.id, node.value) for t in node.targets if isinstance(t, ast.Name))


def _gives_a_value(node: ast.AST) -> bool:
    """Whether it is a class, or a function that returns something: not the mere outline of one."""
    if isinstance(node, FUNCTIONS):
        return any(
            isinstance(each, ast.Yield | ast.YieldFrom)
            or (isinstance(each, ast.Return) and each.value is not None)
            for each in ast.walk(node)
        )
    return isinstance(node, ast.ClassDef | ast.Lambda)


def _running_nodes(tree: ast.Module) -> Iterator[ast.AST]:
    """What runs with the program: statements outside of definitions, and those definitions that
    they name, directly or by way of others."""
    definitions = {node.name: node for node in tree.body if isinstance(node, DEFINITIONS)}
    waiting = [node for node in tree.body if not isinstance(node, DEFINITIONS)]
    while waiting:
        for node in ast.walk(waiting.pop()):
            yield node
            if isinstance(node, ast.Name) and node.id in definitions:
                waiting.append(definitions.pop(node.id))


def _reads_input(node: ast.AST) -> bool:
    if isinstance(node, ast.Call) and _loaded_name(node.func) in OPENING and node.args:
        first = node.args[0]
        return isinstance(first, ast.Constant) and first.value in (0, "/dev/stdin")
    return _loaded_name(node) in READING


def _loaded_name(node: ast.AST) -> str:
    """`x` for `x` and `a.x`, where they are read, and for `import x`; else ""."""
    if isinstance(node, ast.alias):
        return node.name
    if isinstance(node, ast.Name | ast.Attribute) and isinstance(node.ctx, ast.Load):
        return node.id if isinstance(node, ast.Name) else node.attr
    return ""
