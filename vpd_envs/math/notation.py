r"""One normal form for the many ways to write the same mathematics.

`normal_form` rewrites Unicode signs, plain names (`pi`, `sqrt(2)`, `x**2`), styles, spaces and
spellings of LaTeX into the one LaTeX that `math_comparison` reads. A notation is added as one line
of a table here; the lines of `PATTERNS` carry the example that tests them. What words mean (number
words, units) is in `math_words`.

Pure rewriting of any text; nothing here raises.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass

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
    text = with_function_brackets(in_radians(text))
    text = without_thousands_commas(text)
    for notation in PATTERNS:
        text = notation.rewrite(text)
    return trimmed(SPACES.sub(one_space, text))


def trimmed(text: str) -> str:
    """Without spaces and punctuation at its ends, and the braces around all of it."""
    return without_braces(text.strip().rstrip(ENDING).rstrip("\\").rstrip(ENDING))


def without_braces(text: str) -> str:
    """Without the braces around all of it."""
    while text.startswith("{") and group_end(text, 0) == len(text):
        text = text[1:-1].strip()
    return text


PLAIN_NUMBER = re.compile(r"-?\d+(?:\.\d+)?", re.ASCII)
ENDING = " .,;:"
# `\\` parts the rows of a matrix: it is no space.
SPACES = re.compile(r"\\\\\s*|(?:\\[,;:! >]|~|\\(?:q?quad|thinspace|enspace)(?![A-Za-z])|\s)+")


def one_space(match: re.Match[str]) -> str:
    return r"\\ " if match[0].startswith(r"\\") else " "


# Characters ---------------------------------------------------------------------------------------

CHARACTERS = {
    "−": "-", "–": "-", "—": "-", "‒": "-", "‐": "-", "‑": "-",
    "×": r"\times ", "✕": r"\times ", "÷": "/", "∕": "/", "⁄": "/",
    "·": r"\cdot ", "⋅": r"\cdot ", "∙": r"\cdot ", "•": r"\cdot ", "∗": r"\cdot ",
    "±": r"\pm ", "∓": r"\mp ", "∞": r"\infty ", "∘": r"^\circ ", "°": r"^\circ ", "º": r"^\circ ",
    "℃": r"^\circ C", "℉": r"^\circ F",
    "≤": r"\le ", "≥": r"\ge ", "⩽": r"\le ", "⩾": r"\ge ", "≠": r"\ne ", "≈": r"\approx ",
    "∪": r"\cup ", "∩": r"\cap ", "∖": r"\setminus ", "∈": r"\in ", "∉": r"\notin ",
    "∅": r"\emptyset ", "⌀": r"\emptyset ", "Ø": r"\emptyset ",
    "ℝ": r"\mathbb{R}", "ℤ": r"\mathbb{Z}", "ℚ": r"\mathbb{Q}", "ℕ": r"\mathbb{N}",
    "ℂ": r"\mathbb{C}", "∨": r"\text{ or }", "∧": r"\text{ and }",
    "⌊": r"\lfloor ", "⌋": r"\rfloor ", "⌈": r"\lceil ", "⌉": r"\rceil ", "⟨": "(", "⟩": ")",
    "→": r"\to ", "⇒": r"\to ", "∠": r"\angle ", "△": r"\triangle ", "∣": "|", "…": r"\ldots ",
    "π": r"\pi ", "α": r"\alpha ", "β": r"\beta ", "γ": r"\gamma ", "δ": r"\delta ",
    "ε": r"\epsilon ", "θ": r"\theta ", "λ": r"\lambda ", "μ": r"\mu ", "ρ": r"\rho ",
    "σ": r"\sigma ", "τ": r"\tau ", "φ": r"\varphi ", "ϕ": r"\phi ", "ψ": r"\psi ",
    "ω": r"\omega ", "Δ": r"\Delta ", "Ω": r"\Omega ",
    "€": r"\text{ euros}", "£": r"\text{ pounds sterling}", "¥": r"\text{ yen}",
    "“": "", "”": "", "‘": "'", "’": "'", "′": "'", "″": "''",
    "\u200b": "", "\u2060": "", "\ufeff": "", "，": ",", "。": ".", "、": ",",
    "【": "[", "】": "]", "％": "%",
}  # fmt: skip
ROOTS = {"√": r"\sqrt", "∛": r"\sqrt[3]", "∜": r"\sqrt[4]"}
ROOT = re.compile(r"([√∛∜])\s*(\d+(?:\.\d+)?|[^\W\d_](?![^\W\d_]))?")
RAISED = re.compile("[⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻⁽⁾ⁿⁱ]+")
LOWERED = re.compile("[₀₁₂₃₄₅₆₇₈₉₊₋₍₎ₙₐₑₓ]+")
CURRENCY_BEFORE = re.compile(
    r"([€£¥])\s*([-+]?[\d.,]*\d(?:\s*(?:thousand|million|billion|trillion)(?![a-z]))*)"
)
ABOVE_ASCII = re.compile(r"[^\x00-\x7f]")


def ascii_form(text: str) -> str:
    """Unicode's signs as LaTeX; a letter that has no such form stays as it is."""
    text = ROOT.sub(lambda match: ROOTS[match[1]] + (f"{{{match[2]}}}" if match[2] else ""), text)
    text = RAISED.sub(lambda match: f"^{{{compatible(match[0])}}}", text)
    text = LOWERED.sub(lambda match: f"_{{{compatible(match[0])}}}", text)
    text = CURRENCY_BEFORE.sub(r"\2\1", text)
    return ABOVE_ASCII.sub(ascii_character, text)


def ascii_character(match: re.Match[str]) -> str:
    character = match[0]
    if character in CHARACTERS:
        return CHARACTERS[character]
    plain = compatible(character)
    over, slash, under = plain.partition("/")
    if slash:  # ½ and its like
        return rf"\frac{{{over}}}{{{under}}}"
    return plain if plain.isascii() else CHARACTERS.get(plain, character)


def compatible(text: str) -> str:
    """The plain characters of which these are variants: full width, superscript, bold ..."""
    plain = unicodedata.normalize("NFKC", text)
    return plain.replace("\u2044", "/").replace("−", "-")


def single_backslashes(text: str) -> str:
    r"""`\frac` for the `\\frac` of a model that escapes its own text."""
    if not DOUBLED.search(text) or re.search(r"(?<!\\)\\[A-Za-z]", text):
        return text
    return text.replace("\\\\", "\\")


DOUBLED = re.compile(r"\\\\[A-Za-z{}$%]")


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


def dotted(match: re.Match[str]) -> str:
    """More digits of a decimal that ends in dots, if its last ones repeat."""
    digits = match["digits"]
    block = re.search(r"(\d)\1+\Z|(\d{2,6}?)\2\Z", digits)
    more = (block[1] or block[2]) * 15 if block else ""
    return f"{match['whole']}.{digits}{more}"


def mixed(match: re.Match[str]) -> str:
    return rf"{match[1]}\frac{{{match[2]}}}{{{match[3]}}}"


def without_separators(match: re.Match[str]) -> str:
    return match[1] + re.sub(r"\D", "", match[2])


POINT = r"(?<![\d.])(?P<whole>\d*)\.(?P<once>\d*)"
# Of thousands. A comma and a space part a list.
MARKED_GROUP = r"(?:\s*\{\s*,\s*\}\s*|\s*\\[,!;:]\s*|,\s*\\!\s*|\\!\s*,\s*|'|\{ \}|~)"
BARE_GROUP = re.compile(
    rf"(?<![\d.,^_{{])(?<!\d )([1-9]\d{{0,2}})((?:(?:,|{MARKED_GROUP}|\\ |\s)\d{{3}})+)"
    r"(?![\d,]|\s+\d)"
)


def without_thousands_commas(text: str) -> str:
    """`1,234` as `1234`, unless there are brackets: (1,234) may be a point."""
    if re.search(r"[(\[]|\\\{", TEXT.sub("", text)):
        return text
    return BARE_GROUP.sub(without_separators, text)


TEXT = re.compile(r"\\text\{[^{}]*\}")
TRIGONOMETRIC = re.compile(r"\\(?:sin|cos|tan|sec|csc|cot|cis)(?![a-z])")
IN_DEGREES = re.compile(r"(\d+(?:\.\d+)?)\s*\^\s*\{?\s*\\circ(?![A-Za-z])\s*\}?")


def in_radians(text: str) -> str:
    """The degrees of angles of which a sine or its like is taken."""
    if not TRIGONOMETRIC.search(text):
        return text
    return IN_DEGREES.sub(r"(\1 \\cdot \\frac{\\pi}{180})", text)


LABEL = (
    r"(?i)\A\s*(?:the )?(?:final )?(?:answer|ans|result|solution)(?![A-Za-z])(?: is)?\s*[:=]?\s*"
)

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
        lambda match: dotted(match) if match["digits"] else match[0],
        "0.3...", "0.3",
    ),
    notation(
        rf"(?<![\d.^_])(?<![\^_]\{{)([1-9]\d{{0,2}})((?:{MARKED_GROUP}\d{{3}})+)(?!\d)",
        without_separators,
        r"11,\! 111,\! 111,\! 100", "11111111100",
    ),
    notation(r"(?<![\d.])(\d+)\s+(\d+)\s*/\s*(\d+)(?![\d.])", mixed, "2 1/2", r"2\frac{1}{2}"),
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
    notation(
        LABEL + r"(?=\S)", "", r"\text{Answer: }42", "42",
    ),
    notation(
        r"(?i)\A\s*(?:\\text\{)?\s*(?:about|approximately|approx\.?|roughly|exactly)\s*\}?\s*(?=\S)",
        "", "approximately 42", "42",
    ),
)  # fmt: skip


# Commands -----------------------------------------------------------------------------------------


def words(text: str) -> frozenset[str]:
    return frozenset(text.split())


# Commands that do not change what their argument means.
STYLES = words(
    "boldsymbol mathbf bm pmb mathsf mathit mathtt mathnormal mathcal underline underbar "
    "ensuremath boxed fbox mathstrut overbrace underbrace smash emph displaylines mathop mathord "
    "cancel"
)
# Commands without an argument that change only how what follows looks.
SWITCHES = words(
    "displaystyle textstyle scriptstyle scriptscriptstyle limits nolimits tiny scriptsize "
    "footnotesize small normalsize large Large LARGE huge Huge bf rm it sf tt cal bfseries itshape "
    "rmfamily sffamily left right middle big Big bigg Bigg bigl bigr Bigl Bigr biggl biggr Biggl "
    "Biggr bigm mleft mright mathrm mathbf boldmath unboldmath centering noindent hfill strut "
    "protect nonumber notag"
)
# Commands whose argument is text, or letters that stand upright.
TEXTS = words(
    "text rm textrm textnormal textup textbf textit textsf texttt textsc mathrm mbox hbox "
    "operatorname textstyle unit"
)
# How many leading arguments say only in what color, or how far, the last one is shown.
SHOWN_IN = {"textcolor": 1, "colorbox": 1, "fcolorbox": 2}
IGNORED = {"color": 1, "hspace": 1, "vspace": 1, "label": 1, "tag": 1, "phantom": 1, "vphantom": 1}
ARGUMENTS = {
    "frac": 2,
    "binom": 2,
    "sqrt": 1,
    "overline": 1,
    "bar": 1,
    "dot": 1,
    "widehat": 1,
}  # written with braces, whatever they are
RENAMED = {
    "dfrac": "frac", "tfrac": "frac", "cfrac": "frac", "nicefrac": "frac", "sfrac": "frac",
    "dbinom": "binom", "tbinom": "binom", "leq": "le", "leqslant": "le", "geq": "ge",
    "geqslant": "ge", "neq": "ne", "rightarrow": "to", "Rightarrow": "to", "implies": "to",
    "lbrace": "{", "rbrace": "}", "lbrack": "[", "rbrack": "]", "lparen": "(", "rparen": ")",
    "langle": "(", "rangle": ")", "lvert": "|", "rvert": "|", "infin": "infty", "inf": "infty",
    "bigcup": "cup", "bigcap": "cap", "smallsetminus": "setminus", "dots": "ldots",
    "cdots": "ldots", "ast": "cdot", "bullet": "cdot", "div": "/", "lor": "text{ or }",
    "vee": "text{ or }", "land": "text{ and }", "wedge": "text{ and }",
    "degree": "^", "textdegree": "^",
    "pounds": "", "euro": "", "imath": "i", "jmath": "j", "emptyset": "emptyset ",
    "thickapprox": "approx",
    "simeq": "approx", "cong": "approx", "sim": "approx", "percent": "%", "backslash": "setminus",
    "slash": "/", "lneq": "<", "gneq": ">",
}  # fmt: skip
LITERAL = {"[", "]", "(", ")", "|", "/", "<", ">", "i", "j", "", "%"}  # renamed to no command
COMMAND = re.compile(r"\\([A-Za-z]+)\*?")
FUNCTIONS = words(
    "sin cos tan sec csc cot sinh cosh tanh arcsin arccos arctan ln log exp gcd lcm max min det"
)


def commands_rewritten(text: str) -> str:
    """The text with each command as the tables above say."""
    out: list[str] = []
    end = 0
    while match := COMMAND.search(text, end):
        out.append(text[end : match.start()])
        end = match.end()
        if is_escaped(text, match.start()):
            out.append(match[0])
            continue
        piece, end = rewritten(match[1], text, end, "".join(out[-2:]))
        out.append(piece)
    return "".join(out) + text[end:]


def is_escaped(text: str, position: int) -> bool:
    """Whether the backslash there is the second one of a `\\`."""
    before = text[:position]
    return (len(before) - len(before.rstrip("\\"))) % 2 == 1


def rewritten(command: str, text: str, end: int, before: str) -> tuple[str, int]:
    """What the command that ends there is written as, and where its last argument ends."""
    command = RENAMED.get(command, command)
    has_argument = text[end:].lstrip()[:1] == "{"
    if command in SHOWN_IN or command in IGNORED:
        end = option_end(text, end)
    if command in SHOWN_IN:
        for _ in range(SHOWN_IN[command]):
            end = argument_at(text, end)[1]
        return styled(text, end, before)
    if command in IGNORED:
        return "", argument_at(text, end)[1]
    if command in TEXTS and has_argument:
        content, end = argument_at(text, end)
        return upright(content, before), end
    if command in STYLES and (has_argument or command not in SWITCHES):
        return styled(text, end, before)
    if command in SWITCHES:
        is_null = command in ("left", "right", "middle") and text[end : end + 1] == "."
        return "", end + 1 if is_null else end
    if command in ARGUMENTS:
        return with_braces(command, text, end)
    if command == "^":
        return r"^\circ ", end
    return (command if command in LITERAL else f"\\{command}"), end


def option_end(text: str, start: int) -> int:
    """Where the `[...]` ends that stands there, if one does."""
    return (text.find("]", start) + 1 or start) if text[start : start + 1] == "[" else start


def styled(text: str, end: int, before: str) -> tuple[str, int]:
    """The next argument, in braces only where it would otherwise be torn apart."""
    content, end = argument_at(text, end)
    content = commands_rewritten(content)
    is_bound = before.rstrip()[-1:] in ("^", "_", "}") or text[end : end + 1] in ("^", "_")
    return (f"{{{content}}}" if is_bound else content), end


def with_braces(command: str, text: str, end: int) -> tuple[str, int]:
    written = f"\\{command}"
    if command == "sqrt" and (root := re.compile(r"\s*\[([^\[\]]*)\]").match(text, end)):
        end = root.end()
        written += "" if root[1].strip() == "2" else f"[{root[1].strip()}]"
    if command == "sqrt" and text[end:].lstrip()[:1] == "(":
        start = text.index("(", end)
        if closing := group_end(text, start):
            return f"{written}{{{commands_rewritten(text[start + 1 : closing - 1])}}}", closing
    for _ in range(ARGUMENTS[command]):
        content, end = argument_at(text, end)
        written += f"{{{commands_rewritten(content)}}}"
    return written, end


def upright(content: str, before: str) -> str:
    r"""The content of `\text{}`: mathematics bare, words in `\text{}`."""
    inner = commands_rewritten(content)
    bare = SPACES.sub(" ", inner).strip()
    if re.match(LABEL, bare):
        return upright(re.sub(LABEL, "", bare), before)
    if not bare:
        return " "
    if bare in FUNCTIONS:
        return f"\\{bare} "
    if bare == "cis":
        return r"\cis "
    if re.fullmatch(r"[A-Za-z]", bare):
        is_unit = bare in UNIT_LETTERS and BEHIND_NUMBER.search(before)
        return rf"\text{{ {bare}}}" if is_unit or is_unit_before(before) else bare
    if not re.search(r"[A-Za-z]", re.sub(r"\\[A-Za-z]+", "", bare)):
        return f" {bare} "
    is_measured = LEADING_NUMBER.match(bare) or BEHIND_NUMBER.search(before)
    letters = set(re.findall("[A-Za-z]", bare))
    if FORMULA.fullmatch(bare) and not (is_measured and letters <= UNIT_LETTERS):
        return f" {bare} "
    if number := LEADING_NUMBER.match(bare):
        return rf" {number[1]}\text{{ {bare[number.end() :]}}}"
    return rf"\text{{{inner}}}"


BEHIND_NUMBER = re.compile(r"[\d})/]\s*(?:\\[,;: ]|~|\s)*\Z")
UNIT_LETTERS = frozenset("msghLlNJWVAKFCt")  # `5\mathrm{m}` is a length, `5\mathrm{x}` is not
# Single letters with numbers and signs: mathematics in `\text{}` by mistake.
FORMULA = re.compile(
    r"(?=.*(?:\d\s*[A-Za-z]|[\^+=*/<>]))(?:[A-Za-z](?![A-Za-z])|[\d\s^+=*/<>().-])+"
)
LEADING_NUMBER = re.compile(r"([-+]?\d[\d,]*(?:\.\d+)?)\s*(?=[A-Za-z])(?![eE]\d)")


def is_unit_before(before: str) -> bool:
    return bool(re.search(r"\\text\{ ?[A-Za-z]+\}\s*(?:/|\\cdot|\^\{?-?\d\}?)*\s*\Z", before))


def argument_at(text: str, start: int) -> tuple[str, int]:
    """The argument of a command that ends there, without its braces, and where it ends."""
    position = start + len(text[start:]) - len(text[start:].lstrip())
    if text[position : position + 1] == "{":
        end = group_end(text, position)
        return (text[position + 1 : end - 1], end) if end else (text[position + 1 :], len(text))
    if match := COMMAND.match(text, position):
        end = match.end()
        name = RENAMED.get(match[1], match[1])
        for _ in range(ARGUMENTS.get(name, int(name in STYLES or name in TEXTS))):
            end = argument_at(text, end)[1]
        return text[position:end], end
    return text[position : position + 1], min(position + 1, len(text))


def group_end(text: str, start: int) -> int:
    """Where the group that opens there ends, behind its closing bracket; 0 if it does not."""
    closing = {"{": "}", "(": ")", "[": "]"}[text[start]]
    depth = 0
    position = start
    while position < len(text):
        character = text[position]
        if character == "\\" and text[position + 1 : position + 2] in ("{", "}", "\\"):
            position += 1
        elif character == text[start]:
            depth += 1
        elif character == closing:
            depth -= 1
            if depth == 0:
                return position + 1
        position += 1
    return 0


BRACKET_FUNCTION = re.compile(
    r"((?<![A-Za-z\\])(?:sqrt|cbrt|exp|abs)|\\exp|\^)\s*(?=\()|(\\cis)\s*(?=[({\\])"
)
WRITTEN = {
    "sqrt": r"\sqrt{{{}}}", "cbrt": r"\sqrt[3]{{{}}}", "exp": "e^{{{}}}", r"\exp": "e^{{{}}}",
    r"\cis": "e^{{i({})}}", "abs": "|{}|", "^": "^{{{}}}",
}  # fmt: skip


def with_function_brackets(text: str) -> str:
    r"""`sqrt(2)`, `exp(16)` and `x^(1/2)` as `\sqrt{2}`, `e^{16}` and `x^{1/2}`."""
    start = 0
    while match := BRACKET_FUNCTION.search(text, start):
        start = match.end()
        end = group_end(text, start) if text[start] == "(" else argument_at(text, start)[1]
        if not end:
            return text
        content = text[start:end]
        content = content[1:-1] if content[0] in "({" else content
        text = text[: match.start()] + WRITTEN[match[1] or match[2]].format(content) + text[end:]
        start = match.start() + 1
    return text
