r"""One normal form for the many ways to write the same mathematics.

`normal_form` rewrites Unicode signs, plain names (`pi`, `sqrt(2)`, `x**2`), styles, spaces and
spellings of LaTeX into the one LaTeX that `comparison` reads. A notation is added as one line
of a table here, in `characters` or in `commands`; those here carry the example that tests them.
What words mean (number words, units) is in `words`.

Pure rewriting of any text; nothing here raises.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass

from vpd_envs.math.characters import ascii_form, single_backslashes
from vpd_envs.math.commands import (
    LABEL,
    SPACES,
    commands_rewritten,
    with_function_brackets,
    without_braces,
)

Replacement = str | Callable[[re.Match[str]], str]


def normal_form(text: str) -> str:
    """The answer in LaTeX without what only changes how it looks."""
    text = text.strip()
    if PLAIN_NUMBER.fullmatch(text):
        return text
    if not text.isascii():
        text = ascii_form(text)
    text = single_backslashes(text)
    for notation in DELIMITERS:
        text = notation.rewrite(text)
    text = without_braces(text)
    with suppress(RecursionError):  # of commands in each other hundreds deep
        text = commands_rewritten(text) if "\\" in text else text
    text = with_function_brackets(_in_radians(text))
    text = _without_thousands_commas(text)
    for notation in PATTERNS:
        text = notation.rewrite(text)
    return trimmed(SPACES.sub(_one_space, text))


def trimmed(text: str) -> str:
    """Without spaces and punctuation at its ends, and the braces around all of it."""
    return without_braces(text.strip().rstrip(ENDING).rstrip("\\").rstrip(ENDING))


PLAIN_NUMBER = re.compile(r"-?\d+(?:\.\d+)?", re.ASCII)
ENDING = " .,;:"


def _one_space(match: re.Match[str]) -> str:
    return r"\\ " if match[0].startswith(r"\\") else " "


# Patterns -----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Notation:
    """One way to write something: what matches `pattern` is written as `normal` instead.

    example, means: two texts with the same normal form, for the tests.
    """

    pattern: re.Pattern[str]
    normal: Replacement
    example: str
    means: str

    def rewrite(self, text: str) -> str:
        return self.pattern.sub(self.normal, text)


def notation(pattern: str, normal: Replacement, example: str, means: str) -> Notation:
    return Notation(re.compile(pattern), normal, example, means)


def name(names: str) -> str:
    """The pattern of plain names: not part of a longer one, nor of a command."""
    return rf"(?<![\\A-Za-z])(?:{names})(?![A-Za-z])"


SCALE = (
    r"(?:\s*(?:\\(?:text|mathrm)\{)?\s*(?:hundred|thousand|million|billion|trillion)"
    r"(?![a-z])\s*\}?)*"
)
UPRIGHT_UNIT = r"\\(?:text|mathrm)\{\s*([A-Za-z]{2,}|[msghLlNJWVAKFCt])\s*\}"

# Before the commands are read.
DELIMITERS = (
    notation(
        rf"\\\$\s*([-+]?[\d.,]*\d(?:,\\!\d+)*{SCALE})", r"\1\\text{ dollars}",
        r"\$5", r"5\text{ dollars}",
    ),
    notation(r"\$\s*([-+]?[\d.,]*\d)(?=[^$]*\Z)(?<!\$)", r"\1", "$5", "5"),
    notation(r"\\\$|\$", "", r"$\frac12$", r"\frac{1}{2}"),
    notation(r"\\[()]", "", r"\(x+1\)", "x+1"),
    notation(
        r"(\\\\)\s*\[\s*-?[\d.]+\s*(?:pt|em|ex|mm|cm|in)\s*\]", r"\1 ",
        r"a\\[4pt] b", r"a\\ b",
    ),
    notation(r"(?<!\\)\\[\[\]]", "", r"\[x\]", "x"),
    notation(r"\A\s*(\*{1,3}|_{1,3})([^*]*)\1\s*\Z", r"\2", "**42**", "42"),
    notation(r"\A\s*\*\*([^*]*[:=])\s*\*\*", r"\1", "**Answer:** 42", "42"),
    notation(r"\A\s*`([^`]*)`\s*\Z", r"\1", "`42`", "42"),
    notation(r"\*\*|\^\^", "^", "x**(1/2)", "x^{1/2}"),
    notation(
        rf"(?<=[\d}}\s,;])\\frac\s*\{{\s*{UPRIGHT_UNIT}\s*\}}\s*\{{\s*{UPRIGHT_UNIT}\s*\}}",
        r"\\text{ \1/\2}", r"5 \frac{\text{m}}{\text{s}}", r"5 \text{ m/s}",
    ),
    notation(
        r"\\begin\{(aligned|align\*?|gathered|gather\*?|split|equation\*?|math|displaymath)\}"
        r"(?:\[\w\])?(.*?)\\end\{\1\}",
        lambda match: re.sub(r"\\\\\s*(?=\S)", ", ", match[2].replace("&", "")).replace("\\\\", ""),
        r"\begin{aligned} x &= 42 \end{aligned}",
        "x = 42",
    ),
    notation(
        r"(?:\\left)?([(\[|])\s*\\begin\{(?:array|matrix)\}(?:\{[^{}]*\})?((?:(?!\\begin).)*?)"
        r"\\end\{(?:array|matrix)\}\s*(?:\\right)?[)\]|]",
        lambda match: "\\begin{{{0}}}{1}\\end{{{0}}}".format(f"{MATRIX[match[1]]}matrix", match[2]),
        r"\left(\begin{array}{cc} 1 & 2 \end{array}\right)",
        r"\begin{pmatrix} 1 & 2 \end{pmatrix}",
    ),
    notation(
        r"\\(begin|end)\{smallmatrix\}", r"\\\1{matrix}",
        r"\begin{smallmatrix}1\end{smallmatrix}", r"\begin{matrix}1\end{matrix}",
    ),
    notation(
        r"\\begin\{(array|tabular)\}\{[^{}]*\}([^&\\]*)\\end\{\1\}", r"\2",
        r"\begin{array}{c}42\end{array}", "42",
    ),
    notation(r"\{\s*\\rm\s+([^{}]*)\}", r"\\text{\1}", r"5{\rm cm}", r"5\text{cm}"),
    notation(r"(?<![A-Za-z])\{\s*([:;=<>])\s*\}", r"\1", "10{:}30", "10:30"),
    notation(r"\\not\s*=", r"\\ne ", r"x \not= 1", r"x \ne 1"),
    notation(r"\\not\s*\\in(?![A-Za-z])", r"\\notin ", r"x \not\in A", r"x \notin A"),
    notation(r"\\[Bb]bb\s*\{?([A-Z])\}?", r"\\mathbb{\1}", r"\Bbb R", r"\mathbb{R}"),
    notation(r"\\(R|Z|Q|N)(?![A-Za-z])", r"\\mathbb{\1}", r"\R", r"\mathbb{R}"),
    notation(r"\\mathbb\s+([A-Z])", r"\\mathbb{\1}", r"\mathbb R", r"\mathbb{R}"),
    notation(
        r"\{([^{}]*)\\over(?![A-Za-z])([^{}]*)\}", r"\\frac{\1}{\2}", r"{1 \over 2}", r"\frac{1}{2}"
    ),
    notation(
        r"\{([^{}]*)\\choose(?![A-Za-z])([^{}]*)\}", r"\\binom{\1}{\2}",
        r"{5 \choose 2}", r"\binom{5}{2}",
    ),
)  # fmt: skip
MATRIX = {"(": "p", "[": "b", "|": "v"}  # the kind of matrix in these brackets


def repeated(match: re.Match[str], more: str = "") -> str:
    r"""The fraction of a repeating decimal: `0.1\overline{6}` is 1/6."""
    whole, once, block = match["whole"] or "0", match["once"], match["block"] + more
    under = (10 ** len(block) - 1) * 10 ** len(once)
    over = int(whole + once + block) - int(whole + once)
    return rf"\frac{{{over}}}{{{under}}}"


def _dotted(match: re.Match[str]) -> str:
    """More digits of a decimal that ends in dots, if its last ones repeat."""
    digits = match["digits"]
    block = re.search(r"(\d)\1+\Z|(\d{2,6}?)\2\Z", digits)
    more = (block[1] or block[2]) * 15 if block else ""
    return f"{match['whole']}.{digits}{more}"


def _without_separators(match: re.Match[str]) -> str:
    return match[1] + re.sub(r"\D", "", match[2])


POINT = r"(?<![\d.])(?P<whole>\d*)\.(?P<once>\d*)"
# Of thousands. A comma and a space part a list.
MARKED_GROUP = r"(?:\s*\{\s*,\s*\}\s*|\s*\\[,!;:]\s*|,\s*\\!\s*|\\!\s*,\s*|'|\{ \}|~)"
BARE_GROUP = re.compile(
    rf"(?<![\d.,^_{{])(?<!\d )([1-9]\d{{0,2}})((?:(?:,|{MARKED_GROUP}|\\ |\s)\d{{3}})+)"
    r"(?![\d,]|\s+\d)"
)


def _without_thousands_commas(text: str) -> str:
    """`1,234` as `1234`, unless there are brackets: (1,234) may be a point."""
    if re.search(r"[(\[]|\\\{", TEXT.sub("", text)):
        return text
    return BARE_GROUP.sub(_without_separators, text)


TEXT = re.compile(r"\\text\{[^{}]*\}")
TRIGONOMETRIC = re.compile(r"\\(?:sin|cos|tan|sec|csc|cot|cis)(?![a-z])")
IN_DEGREES = re.compile(r"(\d+(?:\.\d+)?)\s*\^\s*\{?\s*\\circ(?![A-Za-z])\s*\}?")


def _in_radians(text: str) -> str:
    """The degrees of angles of which a sine or its like is taken."""
    if not TRIGONOMETRIC.search(text):
        return text
    return IN_DEGREES.sub(r"(\1 \\cdot \\frac{\\pi}{180})", text)


TEMPERATURES = {"C": "celsius", "F": "fahrenheit"}

# After the commands are read; the order matters.
PATTERNS = (
    # Numbers
    notation(
        POINT + r"\\dot\{(?P<block>\d)\}(?P<rest>\d*)\\dot\{(?P<last>\d)\}",
        lambda match: repeated(match, match["rest"] + match["last"]),
        r"0.\dot{1}2\dot{3}", r"\frac{123}{999}",
    ),
    notation(
        POINT + r"\\(?:overline|bar|dot|widehat)\{(?P<block>\d{1,9})\}", repeated,
        r"0.1\overline{6}", r"\frac{15}{90}",
    ),
    notation(POINT + r"\((?P<block>\d{1,9})\)", repeated, "0.(3)", r"\frac{3}{9}"),
    notation(
        r"(?P<whole>\d+)\.(?P<digits>\d+) ?(?:\\l?dots(?![A-Za-z])|\.\.\.)",
        lambda match: _dotted(match) if match["digits"] else match[0],
        "0.3...", "0.3",
    ),
    notation(
        rf"(?<![\d.^_])(?<![\^_]\{{)([1-9]\d{{0,2}})((?:{MARKED_GROUP}\d{{3}})+)(?!\d)",
        _without_separators,
        r"11,\! 111,\! 111,\! 100", "11111111100",
    ),
    notation(
        r"(?<![\d.])(\d+)\s+(\d+)\s*/\s*(\d+)(?![\d.])", r"\1\\frac{\2}{\3}",
        "2 1/2", r"2\frac{1}{2}",
    ),
    notation(
        r"\A([-+]?\d+(?:\.\d*)?)[eE]([-+]?\d{1,4})\Z",
        lambda match: rf"{match[1]} \times 10^{{{int(match[2])}}}",
        "1e-3", r"1 \times 10^{-3}",
    ),
    notation(
        r"\A([-+]?\d+(?:\.\d*)?) ?(?:\*|\\cdot|x) ?10 ?(?:\*\*|\^) ?\{?([-+]?\d{1,4})\}?\Z",
        r"\1 \\times 10^{\2}", "1.5*10^-3", r"1.5 \times 10^{-3}",
    ),
    # Plain signs
    notation(r"\^\s*([-+]\s*\d+|[-+]\s*[A-Za-z])", r"^{\1}", "x^-2", "x^{-2}"),
    notation(r"\^\s*(\d{2,})", r"^{\1}", "2^10", "2^{10}"),
    notation(r"\s*\*\s*", r" \\cdot ", "2*x", r"2 \cdot x"),
    notation(r"<=|=<", r"\\le ", "x<=2", r"x\le 2"),
    notation(r">=|=>", r"\\ge ", "x>=2", r"x\ge 2"),
    notation(r"!=|=/=", r"\\ne ", "x!=2", r"x\ne 2"),
    notation(r"==", "=", "x==2", "x=2"),
    notation(r"\\lt(?![A-Za-z])", "<", r"x \lt 2", "x<2"),
    notation(r"\\gt(?![A-Za-z])", ">", r"x \gt 2", "x>2"),
    notation(r"\\%", "%", r"5\%", "5%"),
    notation(r"\+/-|\+-", r"\\pm ", "+-3", r"\pm 3"),
    # Plain names
    notation(name("(?:plus or minus|plus-minus)"), r"\\pm ", "plus or minus 3", r"\pm 3"),
    notation(name("infinity|inf|oo"), r"\\infty ", "(2, infinity)", r"(2, \infty)"),
    notation(name("union"), r"\\cup ", "(1,2) union (3,4)", r"(1,2)\cup(3,4)"),
    notation(r"(?<=[)\]}]) ?U ?(?=[(\[\\])", r" \\cup ", "(1,2)U(3,4)", r"(1,2)\cup(3,4)"),
    notation(name("intersect(?:ion)?"), r"\\cap ", "(1,2) intersect (1,3)", r"(1,2)\cap(1,3)"),
    notation(
        r"(?<![\\A-Za-z])(pi|theta|alpha|beta|gamma|delta|epsilon|lambda|phi|omega|sigma|mu|rho)"
        r"(?![A-Za-z])",
        r"\\\1 ", "2*pi", r"2 \cdot \pi",
    ),
    notation(
        r"(?<![\\A-Za-z])(arcsin|arccos|arctan|sinh|cosh|tanh|sin|cos|tan|sec|csc|cot|ln|log)"
        r"(?![a-z])",
        r"\\\1 ", "ln 2", r"\ln 2",
    ),
    notation(r"(?<![\\A-Za-z])pi(?=[A-Za-z](?![A-Za-z]))", r"\\pi ", "pi*r", r"\pi \cdot r"),
    notation(r"\\log\s*_\s*(?:e|\{\s*e\s*\})", r"\\ln ", r"\log_e 3", r"\ln 3"),
    # Sets
    notation(r"\\\{\s*\\\}|\\varnothing(?![A-Za-z])", r"\\emptyset ", r"\varnothing", r"\{\}"),
    notation(
        r"\\\{\s*([A-Za-z])\s*(?:\\in\s*\\mathbb\{R\}\s*)?(?:\||:|\\mid(?![A-Za-z]))\s*(.*?)\s*\\\}",
        r"\2", r"\{x : x>2\}", "x>2",
    ),
    notation(
        r"\A\s*(?:\\text\{)?\s*(?:all(?: the)? )?real(?: number)?s\s*\}?\s*\Z", r"\\mathbb{R}",
        r"\text{all real numbers}", r"\mathbb{R}",
    ),
    notation(
        r"\A\s*(?:\\text\{)?\s*no (?:real )?solutions?\s*\}?\s*\Z", r"\\emptyset",
        r"\text{no solution}", r"\emptyset",
    ),
    # Small things
    notation(r"\^\s*\{\s*\\circ\s*\}", r"^\\circ ", r"30^{\circ}", r"30^\circ"),
    notation(r"(?<=\d)\^\s*(?:o(?![A-Za-z])|\{\s*o\s*\})", r"^\\circ ", "30^o", r"30^\circ"),
    notation(
        r"\^\s*\\circ\s*(?:\\text\{\s*)?([CF])\}?(?![A-Za-z])",
        lambda match: rf"\text{{ degrees {TEMPERATURES[match[1]]}}}",
        r"5^\circ\text{C}", r"5\text{ degrees celsius}",
    ),
    notation(r"\^\\circ(?=\s*\Z)", r"\\text{ degrees}", r"30^\circ", r"30\text{ degrees}"),
    notation(
        r"(?:(?<=\d)\^\s*\{?\s*(?:st|nd|rd|th)|\^\s*\{?\s*\\text\{(?:st|nd|rd|th)\})"
        r"(?![A-Za-z])\}?", "", r"5^{\text{th}}", "5",
    ),
    notation(r"(?<=\d)\s*(?:\\text\{\s*)?(?:st|nd|rd|th)\}?(?![A-Za-z])", "", r"5\text{th}", "5"),
    notation(r"(?<![\d.])\.(?=\d)", "0.", ".5", "0.5"),
    notation(r"(?<=\d)\.(?=\s*(?:\Z|[^\d.\s]))", "", "5.", "5"),
    notation(r"\\(?:colon|mid|vert)(?![A-Za-z])", ":", r"3\colon 4", "3:4"),
    notation(
        r"(?<![_^\d.A-Za-z])(\d+(?:\.\d+)?) ?(?=\()", r"\1 \\cdot ", "2(1/2)", r"2 \cdot (1/2)"
    ),
    # What stands before the answer
    notation(r"\A\s*(?:(?:=|\\approx|\\equiv|\\to|\\therefore|:)\s*)+", "", r"\approx 42", "42"),
    notation(LABEL + r"(?=\S)", "", r"\text{Answer: }42", "42"),
    notation(
        r"(?i)\A\s*(?:\\text\{)?\s*(?:about|approximately|approx\.?|roughly|exactly)\s*\}?\s*(?=\S)",
        "", "approximately 42", "42",
    ),
)  # fmt: skip
