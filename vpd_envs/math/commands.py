r"""LaTeX commands: those that only change how their argument looks go, those of the same meaning
get one name.

Pure rewriting of any text; nothing here raises, but for a RecursionError where commands stand
hundreds deep in each other.
"""

from __future__ import annotations

import re

# `\\` parts the rows of a matrix: it is no space.
SPACES = re.compile(r"\\\\\s*|(?:\\[,;:! >]|~|\\(?:q?quad|thinspace|enspace)(?![A-Za-z])|\s)+")
LABEL = (
    r"(?i)\A\s*(?:the )?(?:final )?(?:answer|ans|result|solution)(?![A-Za-z])(?: is)?\s*[:=]?\s*"
)


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
# How many arguments are written with braces, whatever they are.
ARGUMENTS = {"frac": 2, "binom": 2, "sqrt": 1, "overline": 1, "bar": 1, "dot": 1, "widehat": 1}
RENAMED = {
    "dfrac": "frac", "tfrac": "frac", "cfrac": "frac", "nicefrac": "frac", "sfrac": "frac",
    "dbinom": "binom", "tbinom": "binom", "leq": "le", "leqslant": "le", "geq": "ge",
    "geqslant": "ge", "neq": "ne", "rightarrow": "to", "Rightarrow": "to", "implies": "to",
    "lbrace": "{", "rbrace": "}", "lbrack": "[", "rbrack": "]", "lparen": "(", "rparen": ")",
    "langle": "(", "rangle": ")", "lvert": "|", "rvert": "|", "infin": "infty", "inf": "infty",
    "bigcup": "cup", "bigcap": "cap", "smallsetminus": "setminus", "dots": "ldots",
    "cdots": "ldots", "ast": "cdot", "bullet": "cdot", "div": "/", "lor": "text{ or }",
    "vee": "text{ or }", "land": "text{ and }", "wedge": "text{ and }",
    "degree": "^", "textdegree": "^", "pounds": "", "euro": "", "imath": "i", "jmath": "j",
    "emptyset": "emptyset ", "thickapprox": "approx", "simeq": "approx", "cong": "approx",
    "sim": "approx", "percent": "%", "backslash": "setminus", "slash": "/", "lneq": "<",
    "gneq": ">",
}  # fmt: skip
LITERAL = {"[", "]", "(", ")", "|", "/", "<", ">", "i", "j", "", "%"}  # renamed to no command
COMMAND = re.compile(r"\\([A-Za-z]+)\*?")
FUNCTIONS = words(
    "sin cos tan sec csc cot cis sinh cosh tanh arcsin arccos arctan ln log exp gcd lcm max min det"
)


def commands_rewritten(text: str) -> str:
    """The text with each command as the tables above say."""
    out: list[str] = []
    end = 0
    while match := COMMAND.search(text, end):
        before = text[: match.start()]
        is_escaped = (len(before) - len(before.rstrip("\\"))) % 2 == 1  # the second one of a `\\`
        out.append(before[end:])
        end = match.end()
        if is_escaped:
            out.append(match[0])
            continue
        piece, end = _rewritten(match[1], text, end, "".join(out[-2:]))
        out.append(piece)
    return "".join(out) + text[end:]


def _rewritten(command: str, text: str, end: int, before: str) -> tuple[str, int]:
    """What the command that ends there is written as, and where its last argument ends."""
    command = RENAMED.get(command, command)
    has_argument = text[end:].lstrip()[:1] == "{"
    if dropped := SHOWN_IN.get(command) or IGNORED.get(command):
        if text[end : end + 1] == "[":
            end = text.find("]", end) + 1 or end
        for _ in range(dropped):
            end = _argument_at(text, end)[1]
        return ("", end) if command in IGNORED else _styled(text, end, before)
    if command in TEXTS and has_argument:
        content, end = _argument_at(text, end)
        return _upright(content, before), end
    if command in STYLES and (has_argument or command not in SWITCHES):
        return _styled(text, end, before)
    if command in SWITCHES:
        is_null = command in ("left", "right", "middle") and text[end : end + 1] == "."
        return "", end + 1 if is_null else end
    if command in ARGUMENTS:
        return _with_braces(command, text, end)
    if command == "^":
        return r"^\circ ", end
    return (command if command in LITERAL else f"\\{command}"), end


def _styled(text: str, end: int, before: str) -> tuple[str, int]:
    """The next argument, in braces only where it would otherwise be torn apart."""
    content, end = _argument_at(text, end)
    content = commands_rewritten(content)
    is_bound = before.rstrip()[-1:] in ("^", "_", "}") or text[end : end + 1] in ("^", "_")
    return (f"{{{content}}}" if is_bound else content), end


def _with_braces(command: str, text: str, end: int) -> tuple[str, int]:
    written = f"\\{command}"
    if command == "sqrt" and (root := re.compile(r"\s*\[([^\[\]]*)\]").match(text, end)):
        end = root.end()
        written += "" if root[1].strip() == "2" else f"[{root[1].strip()}]"
    if command == "sqrt" and text[end:].lstrip()[:1] == "(":
        start = text.index("(", end)
        if closing := _group_end(text, start):
            return f"{written}{{{commands_rewritten(text[start + 1 : closing - 1])}}}", closing
    for _ in range(ARGUMENTS[command]):
        content, end = _argument_at(text, end)
        written += f"{{{commands_rewritten(content)}}}"
    return written, end


def _upright(content: str, before: str) -> str:
    r"""The content of `\text{}`: mathematics bare, words in `\text{}`."""
    inner = commands_rewritten(content)
    bare = SPACES.sub(" ", inner).strip()
    if re.match(LABEL, bare):
        return _upright(re.sub(LABEL, "", bare), before)
    if not bare:
        return " "
    if bare in FUNCTIONS:
        return f"\\{bare} "
    if re.fullmatch(r"[A-Za-z]", bare):
        is_unit = bare in UNIT_LETTERS and BEHIND_NUMBER.search(before)
        return rf"\text{{ {bare}}}" if is_unit or BEHIND_UNIT.search(before) else bare
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
BEHIND_UNIT = re.compile(r"\\text\{ ?[A-Za-z]+\}\s*(?:/|\\cdot|\^\{?-?\d\}?)*\s*\Z")
UNIT_LETTERS = frozenset("msghLlNJWVAKFCt")  # `5\mathrm{m}` is a length, `5\mathrm{x}` is not
# Single letters with numbers and signs: mathematics in `\text{}` by mistake.
FORMULA = re.compile(
    r"(?=.*(?:\d\s*[A-Za-z]|[\^+=*/<>]))(?:[A-Za-z](?![A-Za-z])|[\d\s^+=*/<>().-])+"
)
LEADING_NUMBER = re.compile(r"([-+]?\d[\d,]*(?:\.\d+)?)\s*(?=[A-Za-z])(?![eE]\d)")


def _argument_at(text: str, start: int) -> tuple[str, int]:
    """The argument of a command that ends there, without its braces, and where it ends."""
    position = start + len(text[start:]) - len(text[start:].lstrip())
    if text[position : position + 1] == "{":
        end = _group_end(text, position)
        return (text[position + 1 : end - 1], end) if end else (text[position + 1 :], len(text))
    if match := COMMAND.match(text, position):
        name = RENAMED.get(match[1], match[1])
        end = match.end()
        for _ in range(ARGUMENTS.get(name, int(name in STYLES or name in TEXTS))):
            end = _argument_at(text, end)[1]
        return text[position:end], end
    return text[position : position + 1], min(position + 1, len(text))


def _group_end(text: str, start: int) -> int:
    """Where the group that opens there ends, behind its closing bracket; 0 if it does not."""
    depth = 0
    for match in BRACKET.finditer(text, start):
        if match[0] == text[start]:
            depth += 1
        elif match[0] == CLOSING[text[start]]:
            depth -= 1
            if depth == 0:
                return match.end()
    return 0


BRACKET = re.compile(r"\\[{}\\]|[(){}\[\]]")  # escaped ones are none
CLOSING = {"{": "}", "(": ")", "[": "]"}
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
        end = _group_end(text, start) if text[start] == "(" else _argument_at(text, start)[1]
        if not end:
            return text
        content = text[start:end]
        content = content[1:-1] if content[0] in "({" else content
        text = text[: match.start()] + WRITTEN[match[1] or match[2]].format(content) + text[end:]
        start = match.start() + 1
    return text


def without_braces(text: str) -> str:
    """Without the braces around all of it."""
    while text.startswith("{") and _group_end(text, 0) == len(text):
        text = text[1:-1].strip()
    return text
