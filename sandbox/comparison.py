"""Rules that say whether an output is as expected. They are pure functions of any texts.

A rule is called with `(output, expected, input)` and says True or False. The rules here never raise
and take time and memory linear in the texts (times a logarithm for `Unordered` and `Json`),
whatever a hostile program wrote: lists are never longer than the expected output asks for, and
numbers are decimals, which have no expensive exponents or digits. None depends on the decimal
context, the locale or the hash seed of the process.

    rule("floats", relative=1e-9)("0.333333333333", "0.3333333333333333")

Any other callable with these arguments is a rule, too: a checker for problems with several right
answers (see `Checker`).
"""

from __future__ import annotations

import dataclasses
import json
import math
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from decimal import MAX_EMAX, MIN_EMIN, Context, Decimal, InvalidOperation
from typing import Any, Protocol

from sandbox.core import is_number
from sandbox.plugins import unknown


class Rule(Protocol):
    """Says whether `output` is right where `expected` is the reference's output on `input`."""

    def __call__(self, output: str, expected: str, input: str = "") -> bool: ...


class CheckerError(Exception):
    """A custom checker has a bug: nothing is known about the program, so it is no verdict."""


def rule(name: str | Rule, **options: Any) -> Rule:
    """The rule of that name, a key of `RULES`; `options` are the fields of its class.

    `ignore_case=True` is an option of every name and gives an `IgnoreCase`. A rule of this module
    is returned as it is, and any other callable as a `Checker`; they take no options.

    Raises:
        ValueError: an unknown name or option, or a value that the option cannot have.
    """
    if not isinstance(name, str):
        if not callable(name) or options:
            raise ValueError(
                f"A rule is one of {', '.join(RULES)} with its options, or a callable "
                f"(output, expected, input) -> bool without any; got {name!r} {options or ''}."
            )
        return name if isinstance(name, OWN_RULES) else Checker(name)
    if name not in RULES:
        raise ValueError(unknown("rule", name, RULES))
    ignore_case = options.pop("ignore_case", False)
    known = [field.name for field in dataclasses.fields(RULES[name])]
    wrong = sorted(options.keys() - set(known))
    if wrong:
        raise ValueError(
            f"The rule {name!r} has no option {wrong[0]!r}. "
            f"Its options: {', '.join([*known, 'ignore_case'])}."
        )
    chosen = RULES[name](**options)
    return IgnoreCase(chosen) if ignore_case else chosen


@dataclass(frozen=True)
class Exact:
    """`exact`: the same text. Only line breaks at its very end do not count."""

    def __call__(self, output: str, expected: str, input: str = "") -> bool:
        return output.rstrip("\r\n") == expected.rstrip("\r\n")


@dataclass(frozen=True)
class Whitespace:
    """`whitespace`: the same tokens in the same order, with any white space between them.

    The rule of most contests.
    """

    def __call__(self, output: str, expected: str, input: str = "") -> bool:
        tokens, wanted = _parts(output, expected)
        return tokens == wanted


@dataclass(frozen=True)
class Lines:
    """`lines`: strip the whole, then the same number of lines, which agree one by one.

    Lines agree if they are equal after stripping, or are lists of equal decimals (1.0 is 1.00;
    no tolerance). Source: `grade_stdio` of LiveCodeBench's testing_util.py.
    """

    def __call__(self, output: str, expected: str, input: str = "") -> bool:
        lines, wanted = _parts(output.strip(), expected.strip(), "\n")
        return len(lines) == len(wanted) and all(map(_same_line, lines, wanted))


@dataclass(frozen=True)
class Decimals:
    """`decimal`: as `whitespace`, but tokens also agree if they are equal decimals (1.0, 1.00).

    NaN equals nothing but the same token.
    """

    def __call__(self, output: str, expected: str, input: str = "") -> bool:
        return _same_tokens(output, expected, lambda a, b: a == b or _equal_decimals(a, b))


@dataclass(frozen=True)
class Floats:
    """`floats`: as `whitespace`, but tokens also agree if they are numbers close to each other.

    They are close if |output - expected| <= max(absolute, relative * |expected|): both tolerances
    are inclusive, and the relative one refers to the expected number. That goes for whole numbers,
    too. An infinity agrees with the same infinity and NaN with NaN, however they are written;
    neither is close to a number, and numbers beyond the range of floats do not become infinite.
    """

    absolute: float = 1e-6
    relative: float = 1e-6

    def __post_init__(self) -> None:
        _check_tolerances(self)

    def __call__(self, output: str, expected: str, input: str = "") -> bool:
        absolute, relative = Decimal(str(self.absolute)), Decimal(str(self.relative))

        def same(token: str, wanted: str) -> bool:
            if token == wanted:
                return True
            a, b = _decimal(token), _decimal(wanted)
            if a is None or b is None:
                return False
            if a.is_nan() or b.is_nan():
                return a.is_nan() and b.is_nan()
            return _close(a, b, absolute, relative)

        return _same_tokens(output, expected, same)


@dataclass(frozen=True)
class Unordered:
    """`unordered`: the same lines or tokens, equally often, in any order.

    of: "lines" (with any white space within a line and around the whole) or "tokens".
    """

    of: str = "lines"

    def __post_init__(self) -> None:
        if self.of not in ("lines", "tokens"):
            raise ValueError(f"Unordered.of must be 'lines' or 'tokens', got {self.of!r}.")

    def __call__(self, output: str, expected: str, input: str = "") -> bool:
        separator = "\n" if self.of == "lines" else None
        parts, wanted = _parts(output.strip(), expected.strip(), separator)
        if len(parts) != len(wanted):
            return False
        return Counter(map(_one_spaced, parts)) == Counter(map(_one_spaced, wanted))


@dataclass(frozen=True)
class Json:
    """`json`: JSON texts of the same value; what calls are compared with. See `same_value`.

    A text that is no JSON, or has exponents of 19 digits, agrees with nothing. `absolute` and
    `relative` are the tolerances of `Floats`, for pairs of numbers that are not both integers. The
    first `unordered_levels` levels of lists in lists may have any order: 1 is "return the answer in
    any order", 2 is "groups in any order, each in any order".
    """

    absolute: float = 0.0
    relative: float = 0.0
    unordered_levels: int = 0

    def __post_init__(self) -> None:
        _check_tolerances(self)
        levels = self.unordered_levels
        if isinstance(levels, bool) or not isinstance(levels, int) or levels < 0:
            raise ValueError(f"Json.unordered_levels must be 0, 1, 2, ..., got {levels!r}.")
        if levels and (self.absolute or self.relative):
            raise ValueError(
                "Json takes either a tolerance or unordered_levels: which element is close to "
                "which is not decided by sorting. Write a checker for such a problem."
            )

    def __call__(self, output: str, expected: str, input: str = "") -> bool:
        if _containers(output) > _containers(expected) + expected.count("\\"):
            return False  # before it is held in memory, where it is many times as large
        try:
            value, wanted = _json_value(output), _json_value(expected)
        except (ValueError, RecursionError):  # malformed, or too deeply nested
            return False
        if self.unordered_levels:
            return _same_unordered(value, wanted, self.unordered_levels)
        return same_value(value, wanted, absolute=self.absolute, relative=self.relative)


@dataclass(frozen=True)
class IgnoreCase:
    """Another rule of this module, with upper and lower case taken as equal: Yes is YES."""

    rule: Rule | str

    def __post_init__(self) -> None:
        object.__setattr__(self, "rule", rule(self.rule))
        if isinstance(self.rule, Checker):
            raise ValueError(f"The checker {self.rule.name} has to ignore case by itself.")

    def __call__(self, output: str, expected: str, input: str = "") -> bool:
        return rule(self.rule)(output.casefold(), expected.casefold(), input)


@dataclass(frozen=True)
class Checker:
    """A rule of one's own: `function(output, expected, input)` returns True or False.

    For problems with several right answers, which only a look at the input can tell apart.

    Raises, when called:
        CheckerError: the function raised, or returned something else. Programs write what they
            like, so a checker must be prepared for any text; that it was not is its bug.
    """

    function: Callable[[str, str, str], bool]

    def __call__(self, output: str, expected: str, input: str = "") -> bool:
        try:
            same = self.function(output, expected, input)
        except Exception as error:
            raise CheckerError(
                f"The checker {self.name} raised {type(error).__name__} ({error}) on the output "
                f"{output[:100]!r}. It must return True or False for any text: fix it there."
            ) from error
        if not isinstance(same, bool):
            raise CheckerError(f"The checker {self.name} must return True or False, got {same!r}.")
        return same

    @property
    def name(self) -> str:
        function = self.function
        if not hasattr(function, "__qualname__"):  # an object with __call__
            function = type(function)
        return f"{function.__module__}.{function.__qualname__}"


RULES: dict[str, type] = {
    "exact": Exact,
    "whitespace": Whitespace,
    "lines": Lines,
    "decimal": Decimals,
    "floats": Floats,
    "unordered": Unordered,
    "json": Json,
}
OWN_RULES = (*RULES.values(), IgnoreCase, Checker)


def same_value(value: Any, expected: Any, *, absolute: float = 0.0, relative: float = 0.0) -> bool:
    """Python's == for JSON values, except that a tuple is a list.

    1 == 1.0 and 1 == True hold, as in LiveCodeBench. Two numbers that are not both integers also
    agree within the tolerances of `Floats`. Works without recursion, so any depth is fine.
    """
    tolerant = bool(absolute or relative)
    tolerances = Decimal(str(absolute)), Decimal(str(relative))
    pairs = [(value, expected)]
    while pairs:
        a, b = pairs.pop()
        if isinstance(a, (list, tuple)) and isinstance(b, (list, tuple)):
            if len(a) != len(b):
                return False
            pairs.extend(zip(a, b, strict=True))
        elif isinstance(a, dict) and isinstance(b, dict):
            if a.keys() != b.keys():
                return False
            pairs.extend((a[key], b[key]) for key in a)
        elif a != b:
            if not (tolerant and isinstance(a, NUMBERS) and isinstance(b, NUMBERS)):
                return False
            a, b = _number(a), _number(b)
            if a.same_quantum(ONE) and b.same_quantum(ONE):  # both integers
                return False
            if a.is_nan() or b.is_nan() or not _close(a, b, *tolerances):
                return False
    return True


# Texts --------------------------------------------------------------------------------------------


def _parts(output: str, expected: str, separator: str | None = None) -> tuple[list[str], list[str]]:
    """Of both; of the output, at most one more than those of what is expected."""
    wanted = expected.split(separator)
    return output.split(separator, len(wanted)), wanted


def _same_tokens(output: str, expected: str, same: Callable[[str, str], bool]) -> bool:
    tokens, wanted = _parts(output, expected)
    return len(tokens) == len(wanted) and all(map(same, tokens, wanted))


def _same_line(line: str, wanted: str) -> bool:
    line, wanted = line.strip(), wanted.strip()
    return line == wanted or _same_tokens(line, wanted, _equal_decimals)


def _one_spaced(line: str) -> str:
    return " ".join(line.split())


# Numbers ------------------------------------------------------------------------------------------

NUMBERS = (int, float, Decimal)  # bool is an int
ONE = Decimal(1)
# Of our own, so that no setting of the process's context matters. Only `_close` calculates: far
# more digits than any tolerance can tell apart, and exponents that cannot overflow.
CONTEXT = Context(prec=60, Emax=MAX_EMAX, Emin=MIN_EMIN, traps=[InvalidOperation])


def _decimal(text: str) -> Decimal | None:
    """The exact number that a text is, or None."""
    try:
        return Decimal(text, CONTEXT)
    except InvalidOperation:
        return None


def _number(value: float | Decimal) -> Decimal:
    return Decimal(str(int(value) if isinstance(value, bool) else value), CONTEXT)


def _equal_decimals(token: str, wanted: str) -> bool:
    a, b = _decimal(token), _decimal(wanted)
    # A comparison with a signalling NaN would raise.
    return a is not None and b is not None and not (a.is_nan() or b.is_nan()) and a == b


def _close(a: Decimal, b: Decimal, absolute: Decimal, relative: Decimal) -> bool:
    if a == b:
        return True
    if a.is_infinite() or b.is_infinite():
        return False
    difference = CONTEXT.subtract(a, b).copy_abs()
    return difference <= absolute or difference <= CONTEXT.multiply(relative, b.copy_abs())


def _check_tolerances(rule: Floats | Json) -> None:
    for name in ("absolute", "relative"):
        value = getattr(rule, name)
        if not is_number(value) or not 0 <= value < math.inf:
            raise ValueError(
                f"{type(rule).__name__}.{name} must be a finite number of at least 0, "
                f"got {value!r}."
            )


# JSON ---------------------------------------------------------------------------------------------

# Python reads integers of up to so many digits whatever its limit is set to. Longer ones take
# quadratic time, if they are allowed at all.
INT_DIGITS = 640


def _containers(text: str) -> int:
    """How many lists and objects a JSON text has at most: brackets in its strings count, too."""
    return text.count("[") + text.count("{")


def _json_value(text: str) -> Any:
    return json.loads(text, parse_int=_integer, parse_float=_real)


def _integer(digits: str) -> int | Decimal:
    return int(digits) if len(digits) <= INT_DIGITS else Decimal(digits, CONTEXT)


def _real(digits: str) -> float | Decimal:
    number: float | Decimal | None = float(digits)
    if math.isinf(number):
        number = _decimal(digits)
        if number is None:
            raise ValueError("no number has such an exponent")
    return number


def _same_unordered(value: Any, expected: Any, levels: int) -> bool:
    wanted = _Nodes(expected, levels)
    nodes = _Nodes(value, levels, at_most=len(wanted.nodes))
    if len(nodes.nodes) != len(wanted.nodes):
        return False
    numbers: dict[Any, int] = {}
    return nodes.number(numbers) == wanted.number(numbers)


class _Nodes:
    """All values in a JSON value: parents before children, children side by side."""

    def __init__(self, root: Any, unordered_levels: int, at_most: float = math.inf) -> None:
        self.nodes = [(root, unordered_levels)]  # with the unordered levels from there on
        self.first_child: list[int] = []
        for value, levels in self.nodes:
            self.first_child.append(len(self.nodes))
            if isinstance(value, list):
                self.nodes.extend((each, max(0, levels - 1)) for each in value)
            elif isinstance(value, dict):
                self.nodes.extend((each, levels) for each in value.values())
            if len(self.nodes) > at_most:
                break

    def number(self, numbers: dict[Any, int]) -> int:
        """A number that equal values share, and no others: a place in `numbers`, which grows.

        Each list and object is looked up once, as the numbers of what it holds, so nothing is
        compared twice.
        """
        found = [0] * len(self.nodes)
        for i in reversed(range(len(self.nodes))):
            value, levels = self.nodes[i]
            if isinstance(value, (list, dict)):
                inner = found[self.first_child[i] : self.first_child[i] + len(value)]
            if isinstance(value, list):
                key: Any = ("unordered", *sorted(inner)) if levels else ("list", *inner)
            elif isinstance(value, dict):
                key = frozenset(zip(value, inner, strict=True))
            elif value != value:
                key = object()  # NaN equals nothing
            else:
                key = ("scalar", value)
            found[i] = numbers.setdefault(key, len(numbers))
        return found[0]
