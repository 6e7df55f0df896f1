"""Test cases of programming problems: a whole program, a call of a function, an assertion.

The classes of `sandbox.judge` do the same for any caller. Those here know besides what feedback may
show, and in which form.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, ClassVar, Protocol

from sandbox import Call, Execution, Job, Limits
from sandbox.comparison import Rule
from sandbox.judge import JSON, LINES, AssertTest, Test


class CodeCase(Test, Protocol):
    """One test case of a program, which feedback can show.

    `input` and `expected` are what feedback may show of it. `expected` is None if the test is code
    that checks by itself: then `input` is that code.
    """

    @property
    def input(self) -> str: ...

    @property
    def expected(self) -> str | None: ...

    @property
    def public(self) -> bool: ...

    @property
    def names(self) -> tuple[str, ...]:
        """What it takes from the program: functions, classes; none if it runs it as a whole."""
        ...

    def output(self, execution: Execution) -> str:
        """What is compared and shown; of code that checks by itself, what it reports."""
        ...


@dataclass(frozen=True)
class ProgramCase:
    """A whole program: reads stdin, and its stdout is compared by the problem's rule."""

    input: str
    expected: str
    public: bool
    rule: Rule = LINES
    names: ClassVar[tuple[str, ...]] = ()

    def job(self, code: str, limits: Limits) -> Job:
        return Job(code, stdin=encodable(self.input), limits=limits)

    def output(self, execution: Execution) -> str:
        return execution.stdout

    def passes(self, execution: Execution) -> bool:
        return self.rule(execution.stdout, self.expected, self.input)


@dataclass(frozen=True)
class FunctionCase:
    """One call of a function or of a method of `Solution`; its JSON value is compared.

    As in LiveCodeBench, it passes if `==` says so in Python, after a tuple became a list: True for
    1, numpy's numbers, but no tuple in a list. The sandbox gives such programs the names LeetCode
    has imported (`List`, `defaultdict`, ...). Unlike there, a program may begin with `from
    __future__ import ...`, which those imports would forbid, and a function beside a class
    `Solution` without it is found.
    """

    input: str  # one JSON value per line, as shown
    expected: str  # JSON text
    public: bool
    function: str
    arguments: tuple[Any, ...] = field(repr=False)
    rule: Rule = JSON

    @property
    def names(self) -> tuple[str, ...]:
        return (self.function,)

    def job(self, code: str, limits: Limits) -> Job:
        call = Call(self.function, self.arguments, strict=self.rule == JSON)
        return Job(code, call=call, limits=limits)

    def output(self, execution: Execution) -> str:
        return execution.value or ""

    def passes(self, execution: Execution) -> bool:
        return self.rule(self.output(execution), self.expected, self.input)


@dataclass(frozen=True)
class AssertionCase:
    """Python code that tests a function of the program; `sandbox.judge.AssertTest` runs it out of
    the program's reach."""

    input: str  # an assertion, or a call of a function of `setup` that makes assertions
    public: bool
    function: str  # what the task asks for
    setup: str  # code that runs before it
    functions: tuple[str, ...]  # all that comes from the program
    expected: ClassVar[None] = None

    @property
    def names(self) -> tuple[str, ...]:
        return self.functions

    @property
    def test(self) -> AssertTest:
        return AssertTest(f"{self.setup}\n{self.input}\n", self.functions, classes=())

    def job(self, code: str, limits: Limits) -> Job:
        return self.test.job(code, limits)

    def output(self, execution: Execution) -> str:
        return self.test.failure(execution)

    def passes(self, execution: Execution) -> bool:
        """Raises ValueError for a test that cannot run in this sandbox: it lacks an import."""
        return self.test.passes(execution)

    def misses_function(self, execution: Execution) -> bool:
        """Whether the test failed since the program defines no such function.

        A NameError of the program's own is none of the test's: it ends as an error.
        """
        error = f"NameError: name {self.function!r} is not defined"
        return f"\n{error}" in self.output(execution)


def encodable(text: str) -> str:
    """The text with lone surrogates, which no file or pipe can hold, replaced by `?`."""
    return text.encode("utf-8", "replace").decode()
