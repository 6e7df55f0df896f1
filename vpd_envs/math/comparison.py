"""Comparing answers with Math-Verify and SymPy: what runs in the worker processes of `math`.

The text of an answer is brought into its normal form first (see `notation`); Math-Verify's
parser, latex2sympy2_extended, reads it without dropping units or words. Numbers and functions are
then compared here, because Math-Verify compares by absolute difference: 1/50! would equal 1/51!.
Sets, equations and all else are left to Math-Verify.

Some comparisons never end, and Math-Verify's own time limit is a signal, which only works in a main
thread: it is switched off here, and the process is killed instead (see `workers`).

Importing this module imports SymPy and Math-Verify, so only workers do.
"""

from __future__ import annotations

import itertools
import logging
import re
from collections.abc import Iterator, Sequence
from fractions import Fraction
from functools import lru_cache
from typing import Any

import sympy
from latex2sympy2_extended import NormalizationConfig, latex2sympy
from latex2sympy2_extended.latex2sympy2 import is_expr_of_only_symbols
from math_verify import parse, verify
from math_verify.grader import should_treat_as_complex
from sympy.core.function import AppliedUndef
from sympy.core.relational import Relational

from vpd_envs.math.answer import (
    BOTH,
    RELATION,
    decided,
    listed,
    measured,
    parts,
    split_outside_brackets,
    tidy,
)

MATHEMATICS = re.compile(r"\$|\\\[|\\\(|\\boxed|\\begin")
PROSE = re.compile(r"(?<![\\A-Za-z])[A-Za-z]{2,}[ \t]+[A-Za-z]{2,}(?!\()")
LONGEST_BARE = 300  # characters of a response that may be one expression
LONGEST_LIST = 30  # answers that are compared each with each
MOST_SIGNS = 4  # of `\pm` in one answer

DIGITS = 50  # to which numbers that are no fractions are computed
EQUAL_TO = "1e-40"  # relative difference of equal ones
TINY = 1e-30
DECIMAL_PLACES = 6  # to which decimals are compared
DECIMALS_EQUAL_TO = "2e-5"  # and how far they may be apart, relatively: small ones have few places
# What SymPy raises where it takes no numbers or sets.
NOT_COMPARABLE = (TypeError, ValueError, AttributeError, ArithmeticError, RuntimeError)


def warm_up() -> None:
    """Imports what the comparison needs, and builds the parser's tables."""
    logging.disable(logging.CRITICAL)
    compare(r"\frac{1}{2}", r"x^2+\sqrt{2}")


def compare(
    gold: str, prediction: str, several: bool = False, tolerances: Sequence[str] = ()
) -> dict[str, Any]:
    """Compares two answers, each without the text around it.

    several: both are lists of answers, in any order.
    tolerances: the largest difference from the gold number, as texts; one for all, or one for each
        of several answers.

    Returns {"equal": bool, "readable": bool}; readable is False if the prediction could not be
    parsed, though the gold answer could.
    """
    margins = [Fraction(text) for text in tolerances]
    if several:
        result = _compare_lists(parts(gold), parts(prediction), margins)
        if result["equal"] or margins:
            return result
        # One part may stand for two answers: 1 ± √5.
    return _compare_tidy(tidy(gold), tidy(prediction), margins[0] if margins else None)


def compare_response(gold: str, response: str) -> dict[str, Any]:
    """Compares the final answer of a whole response, as Math-Verify extracts it.

    A response or gold answer that is nothing but an expression needs no `$`.

    Returns {"equal": bool, "readable": bool, "extracted": str}.
    """
    wanted, read = _read_response(gold), _read_response(response)
    equal = bool(read) and _is_equal(wanted, read)
    extracted = next((value for value in reversed(read) if isinstance(value, str)), "")
    return {"equal": equal, "readable": bool(read), "extracted": extracted}


def _compare_tidy(gold: str, prediction: str, tolerance: Fraction | None) -> dict[str, Any]:
    quick = decided(gold, prediction, tolerance)
    if quick is not None:
        return {"equal": quick.equal, "readable": True}
    wanted, read = measured(gold, prediction)
    golds, predictions = _signed_parts(wanted.text), _signed_parts(read.text)
    if 1 < len(golds) == len(predictions) <= LONGEST_LIST:
        result = _compare_lists(golds, predictions, [tolerance] if tolerance else [])
        if result["equal"]:
            return result
    return _compare_single(", ".join(golds), ", ".join(predictions), tolerance)


def _compare_single(gold: str, prediction: str, tolerance: Fraction | None) -> dict[str, Any]:
    """Two tidy answers without their units."""
    quick = decided(gold, prediction, tolerance)
    if quick is not None:
        return {"equal": quick.equal, "readable": True}
    wanted, read = _read_gold(_expression(gold)), read_expression(_expression(prediction))
    equal = (
        _is_equal(wanted, read)
        or _is_equal(_other_percentage(wanted, gold, prediction), read)
        or _is_same_set(gold, prediction)
        or (tolerance is not None and _is_within(wanted, read, tolerance))
    )
    return {"equal": equal, "readable": equal or _is_parsed(read) or not _is_parsed(wanted)}


def _compare_lists(
    golds: list[str], predictions: list[str], margins: list[Fraction]
) -> dict[str, Any]:
    """Whether each gold answer has a prediction of its own that equals it."""
    if len(golds) != len(predictions):
        some = predictions[: len(golds)]
        return {"equal": False, "readable": all(_is_parsed(read_expression(text)) for text in some)}
    each = margins if len(margins) == len(golds) else margins[:1] * len(golds)
    left = list(predictions)
    readable = True
    for number, gold in enumerate(golds):
        for prediction in left:
            wanted, read = measured(gold, prediction)
            result = _compare_single(wanted.text, read.text, each[number] if each else None)
            readable &= result["readable"]
            if result["equal"]:
                left.remove(prediction)
                break
        else:
            return {"equal": False, "readable": readable}
    return {"equal": True, "readable": True}


# Text ---------------------------------------------------------------------------------------------

SIGNS = re.compile(r"\\(pm|mp)(?![A-Za-z])\s*")


def _signed_parts(text: str) -> list[str]:
    r"""The parts of a list, those with `\pm` as two answers; none of them twice."""
    found = [each for part in listed(text) for each in _both_signs(part)]
    return list(dict.fromkeys(found))


def _both_signs(text: str) -> list[str]:
    r"""The answers that `\pm` stands for. Several go together if one of them is `\mp`, else each
    has its own sign."""
    signs = SIGNS.findall(text)
    if not signs or len(signs) > MOST_SIGNS:
        return [text]
    choices = list(itertools.product("+-", repeat=len(signs)))
    if "mp" in signs:
        choices = [["+" if sign == plus else "-" for sign in signs] for plus in ("pm", "mp")]
    return [_with_signs(text, iter(choice)) for choice in choices]


def _with_signs(text: str, signs: Iterator[str]) -> str:
    return SIGNS.sub(lambda match: next(signs), text).removeprefix("+")


def _expression(text: str) -> str:
    """What Math-Verify's parser takes: without a percent sign."""
    return text.replace(BOTH, ", ").removesuffix("%").rstrip()


def _other_percentage(wanted: tuple[Any, ...], gold: str, prediction: str) -> tuple[Any, ...]:
    """What else the gold answer may stand for if only one of the answers is a percentage: 5% equals
    5, and 0.05. () if it stands for nothing else."""
    is_percentage = gold.endswith("%")
    is_number = _is_parsed(wanted) and isinstance(wanted[0], sympy.Expr)
    if is_percentage == prediction.endswith("%") or not is_number:
        return ()
    return (wanted[0] * (sympy.Rational(1, 100) if is_percentage else 100),)


# Comparing what is read ---------------------------------------------------------------------------


def _is_equal(wanted: tuple[Any, ...], read: tuple[Any, ...]) -> bool:
    """Whether two readings, as `read_expression` gives them, are equal."""
    if _is_parsed(wanted) and _is_parsed(read):
        return _is_same(wanted[0], read[0])
    return verify(list(wanted), list(read), timeout_seconds=None)


def _is_same(gold: Any, prediction: Any) -> bool:
    quick = _is_same_value(*_comparable(gold, prediction))
    if quick is not None:
        return quick
    return verify([gold], [prediction], allow_set_relation_comp=True, timeout_seconds=None)


def _comparable(gold: Any, prediction: Any) -> tuple[Any, Any]:
    """The right side of an equation where the other is none."""
    if isinstance(prediction, sympy.Eq) and not isinstance(gold, Relational):
        is_turned = prediction.rhs.is_Symbol and not prediction.lhs.free_symbols
        return gold, prediction.lhs if is_turned else prediction.rhs
    if isinstance(gold, sympy.Eq) and not isinstance(prediction, Relational):
        return (gold.rhs if is_expr_of_only_symbols(gold.lhs) else gold), prediction
    return gold, prediction


def _is_same_value(gold: Any, prediction: Any) -> bool | None:
    """Whether numbers, functions, points, intervals and matrices are equal; None if Math-Verify is
    to say."""
    if isinstance(gold, sympy.MatrixBase) and isinstance(prediction, sympy.MatrixBase):
        if gold.shape != prediction.shape:
            return False
        return all(map(_is_same, gold.flat(), prediction.flat()))
    if isinstance(gold, sympy.Tuple) and isinstance(prediction, sympy.Tuple):
        return len(gold) == len(prediction) and all(map(_is_same, gold, prediction))
    if isinstance(gold, sympy.Interval) and isinstance(prediction, sympy.Interval):
        is_open = (gold.left_open, gold.right_open) == (prediction.left_open, prediction.right_open)
        ends = (gold.start, prediction.start), (gold.end, prediction.end)
        return is_open and all(_is_same(*pair) for pair in ends)
    if isinstance(gold, sympy.FiniteSet) and isinstance(prediction, sympy.FiniteSet):
        return _matches(list(gold.args), list(prediction.args))
    if isinstance(gold, sympy.Expr) and isinstance(prediction, sympy.Expr):
        return _is_same_expression(gold, prediction)
    return None


def _matches(golds: list[Any], predictions: list[Any]) -> bool | None:
    """Whether the elements of two sets are pairs of equal ones."""
    if len(golds) != len(predictions) or len(golds) > LONGEST_LIST:
        return None
    left = list(predictions)
    for gold in golds:
        found = next((each for each in left if _is_same(gold, each)), None)
        if found is None:
            return False
        left.remove(found)
    return True


def _is_same_expression(gold: Any, prediction: Any) -> bool | None:
    if gold == prediction:
        return True
    has_decimals = gold.has(sympy.Float) or prediction.has(sympy.Float)
    try:
        gold, prediction = _exact(gold), _exact(prediction)
        if gold.is_infinite or prediction.is_infinite:
            return gold == prediction
        if not gold.free_symbols and not prediction.free_symbols:
            return _is_same_number(gold, prediction, has_decimals)
        return _is_same_function(gold, prediction)
    except NOT_COMPARABLE:
        return None


def _exact(expression: Any) -> Any:
    """With the decimals as fractions."""
    return expression.xreplace(
        {each: sympy.Rational(str(each)) for each in expression.atoms(sympy.Float)}
    )


def _is_same_number(gold: Any, prediction: Any, has_decimals: bool) -> bool | None:
    near = _is_near(gold, prediction, "1e-10")
    if near is None:
        return None
    if not near and not has_decimals and not (_is_tiny(gold) or _is_tiny(prediction)):
        return False
    a, b = gold.doit(), prediction.doit()
    if a == b:
        return True
    if has_decimals:
        places = [each.evalf(DIGITS).round(DECIMAL_PLACES) for each in (a, b)]
        return places[0] == places[1] and bool(_is_near(a, b, DECIMALS_EQUAL_TO))
    if a.is_Rational and b.is_Rational:
        return False
    if _is_tiny(a) or _is_tiny(b):
        return bool((a - b).equals(0))
    return _is_near(a, b, EQUAL_TO)


def _is_tiny(number: Any) -> bool:
    """Whether it is zero, or may be, as far as it can be computed."""
    return bool(abs(number.evalf(DIGITS)) < TINY)


def _is_near(a: Any, b: Any, relative: str) -> bool | None:
    """Whether the numbers differ by no more than that part of the larger; None if they are none."""
    a, b = a.evalf(DIGITS), b.evalf(DIGITS)
    if not (_is_value(a) and _is_value(b)):
        return None
    apart, largest = abs(a - b).evalf(DIGITS), max(abs(a), abs(b)).evalf(DIGITS)
    return bool(apart <= sympy.Float(relative) * largest)


def _is_value(number: Any) -> bool:
    return bool(
        number.is_number and all(part.is_Float or part.is_zero for part in number.as_real_imag())
    )


# Where two functions are compared: a value of each variable, in turn.
FRACTIONS = ("7/5", "23/10", "3", "-13/10", "2", "5", "17/19", "-7/3", "4", "11/7")
POINTS = tuple(map(sympy.Rational, FRACTIONS))
STEPS = tuple(map(sympy.Rational, range(1, 31)))  # where they have only whole values
FEWEST_POINTS = 3
# Expressions with one of these are not compared so.
WITHOUT_VALUES = (
    AppliedUndef, sympy.Derivative, sympy.Integral, sympy.Limit, sympy.Sum, sympy.Product
)  # fmt: skip


def _is_same_function(gold: Any, prediction: Any) -> bool | None:
    """Whether two expressions with variables have the same values, where both are real.

    So 1/√n is √(1/n), though neither is real for negative n; but |x| is not x.
    """
    both = gold, prediction
    if any(each.has(*WITHOUT_VALUES) for each in both):
        return None
    symbols = sorted(gold.free_symbols | prediction.free_symbols, key=str)
    is_complex = any(each.has(sympy.I) for each in both)
    is_stepped = any(each.has(sympy.floor, sympy.ceiling) for each in both)
    points = STEPS + POINTS if is_stepped else POINTS
    compared = 0
    for values in _values_at(points, len(symbols)):
        at = dict(zip(symbols, values, strict=True))
        a, b = (each.xreplace(at).evalf(DIGITS) for each in both)
        near = _is_near(a, b, EQUAL_TO)
        if near is None or not (is_complex or (_is_real(a) and _is_real(b))):
            continue
        if not near:
            return False
        compared += 1
    return True if compared >= FEWEST_POINTS else None


def _values_at(points: Sequence[sympy.Expr], count: int) -> Iterator[tuple[Any, ...]]:
    """For each point, a value of each of `count` variables, all of them different."""
    for number in range(len(points)):
        yield tuple(
            points[(number + 3 * each) % len(points)] + sympy.Rational(each // len(points), 7)
            for each in range(count)
        )


def _is_real(value: Any) -> bool:
    real, imaginary = value.as_real_imag()
    return bool(abs(imaginary) <= abs(real) * float(EQUAL_TO))


def _is_within(wanted: tuple[Any, ...], read: tuple[Any, ...], tolerance: Fraction) -> bool:
    if not (_is_parsed(wanted) and _is_parsed(read)):
        return False
    try:
        apart = abs((wanted[0] - read[0]).doit().evalf(30))
        return bool(apart <= tolerance.numerator / tolerance.denominator * (1 + 1e-9))
    except NOT_COMPARABLE:
        return False


# Sets and inequalities ----------------------------------------------------------------------------

INTERVAL = re.compile(r"[(\[].*[)\]]|\\cup|\\setminus|\\mathbb|\\emptyset", re.DOTALL)


def _is_same_set(gold: str, prediction: str) -> bool:
    """Whether an inequality says what an interval does: `x<2` and `(-\\infty,2)`."""
    kinds = [bool(RELATION.search(text)) for text in (gold, prediction)]
    if not any(kinds) or not all(
        kind or INTERVAL.search(text) for kind, text in zip(kinds, (gold, prediction), strict=True)
    ):
        return False
    try:
        (wanted, variables), (read, others) = _solution_set(gold), _solution_set(prediction)
        if all(kinds) and variables != others:
            return False
        return wanted == read or bool(wanted.symmetric_difference(read).is_empty)
    except NOT_COMPARABLE:
        return False


def _solution_set(text: str) -> tuple[Any, set[Any]]:
    """The numbers that a list of inequalities or intervals admits, and their variables."""
    symbols: set[Any] = set()
    sets = []
    for part in split_outside_brackets(text):
        read = [read_expression(each)[0] for each in part.split(BOTH)]
        symbols.update(*(each.free_symbols for each in read))
        each_set = (each.doit() if isinstance(each, sympy.Set) else each.as_set() for each in read)
        sets.append(sympy.Intersection(*each_set))
    if len(symbols) > 1:
        raise ValueError(f"Expected one variable, got {symbols}.")
    return sympy.Union(*sets), {str(symbol) for symbol in symbols}


# Reading ------------------------------------------------------------------------------------------


def _is_parsed(read: tuple[Any, ...]) -> bool:
    return bool(read) and not isinstance(read[0], str)


IMAGINARY = re.compile(r"(?<![\\A-Za-z])([a-hj-zA-Z]?)i(?![A-Za-z])")
INDEXED = re.compile(r"_\{?i")
LAST_EQUATION = re.compile(r"(?<![\\<!>])=")


def read_expression(text: str) -> tuple[Any, ...]:
    """A tidy text as one LaTeX expression: (SymPy object, text); if it is none, (text,) or ()."""
    if not text:
        return ()
    sides = LAST_EQUATION.split(text)
    last_side = sides[-1] if len(sides) > 2 and not re.search("[,;]", text) else text
    for each in dict.fromkeys((text, last_side)):
        try:
            return _parsed(each), text
        except Exception:  # whatever the parser meets in a text that is no mathematics
            continue
    return (text,)


_read_gold = lru_cache(maxsize=1024)(read_expression)  # a problem is asked many times


def _parsed(text: str) -> Any:
    is_real = not should_treat_as_complex(text)
    if not INDEXED.search(text):
        text = IMAGINARY.sub(r"\1(I)", text)  # bare, it would lose an exponent
    read = latex2sympy(
        text.replace("\\cis", "\\operatorname{cis}"),
        is_real=is_real,
        convert_degrees=False,
        normalization_config=NormalizationConfig(boxed="none"),
    )
    if read is None:
        raise ValueError(f"Expected mathematics, got {text!r}.")
    return read


def _read_response(text: str) -> tuple[Any, ...]:
    bare = len(text) <= LONGEST_BARE and not MATHEMATICS.search(text) and not PROSE.search(text)
    if bare and text.strip():
        read = read_expression(tidy(text))
        if _is_parsed(read):
            return read
    return tuple(parse(text, parsing_timeout=0))  # none: see `vpd_envs.workers`
