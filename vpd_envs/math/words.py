r"""What the words of a mathematical answer mean: number words, units, texts.

`5 thousand` is 5000 and `5 squared` is 25, but `5 cm` is 5 with a unit. Answers that are words
(`\text{east}`) are compared as texts. Works on normal forms (see `notation`); nothing here
raises.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from decimal import Decimal, localcontext
from functools import lru_cache
from itertools import groupby

from vpd_envs.math.commands import words

# Number words -------------------------------------------------------------------------------------

UNITS_AND_TEENS = (
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen "
    "sixteen seventeen eighteen nineteen"
)
TENS = "twenty thirty forty fifty sixty seventy eighty ninety"
SMALL = {word: value for value, word in enumerate(UNITS_AND_TEENS.split())} | {
    word: 10 * value for value, word in enumerate(TENS.split(), start=2)
}
SCALES = {
    "hundred": 10**2, "thousand": 10**3, "million": 10**6, "billion": 10**9, "trillion": 10**12,
    "quadrillion": 10**15, "dozen": 12, "score": 20, "gross": 144,
}  # fmt: skip
PARTS = {
    "half": 2, "halve": 2, "third": 3, "quarter": 4, "fourth": 4, "fifth": 5, "sixth": 6,
    "seventh": 7, "eighth": 8, "ninth": 9, "tenth": 10, "twelfth": 12, "hundredth": 100,
    "thousandth": 1000, "millionth": 10**6,
}  # fmt: skip
# Behind a number or a letter (the group), each word stands for an operation.
OPERATIONS = (
    (r"\s*(?:squared)", "^{2}"),
    (r"\s*(?:cubed)", "^{3}"),
    (r"\s*(?:factorial)", "!"),
    (r"\s*(?:percent(?:age)?(?: points?)?|per cent|pct)", "%"),
    (r"\s*(?:times|multiplied by)\s*(?=\S)", r" \\cdot "),
    (r"\s*(?:divided by|over)\s*", "/"),
    (r"\s*plus\s*", "+"),
    (r"\s*minus\s*", "-"),
    (r"\s*to the (?:power(?: of)?)\s*(\d+)", r"^{\1}"),
)
BEFORE_NUMBER = (
    (r"(?:minus|negative)\s*", "-"),
    (r"(?:double|twice)\s*", r"2 \\cdot "),
    (r"(?:triple|thrice)\s*", r"3 \\cdot "),
    (r"(?:the )?square root of\s*", r"\\sqrt "),
)

COUNT = "|".join([*SMALL, *SCALES])
SEPARATOR = r"(?:[\s-]+(?:and[\s-]+)?)"
RUN = re.compile(
    rf"(?<![\\A-Za-z])(?:an? )?((?:{COUNT})s?(?:{SEPARATOR}(?:{COUNT})s?)*)(?![A-Za-z])",
    re.IGNORECASE,
)
HAS_NUMBER_WORD = re.compile(
    rf"(?i)(?<![\\A-Za-z])(?:{COUNT}|{'|'.join(PARTS)}|halves|squared|cubed|factorial|per ?cent"
    r"|pct|percentage|times|divided|multiplied|over|plus|minus|negative|double|twice|triple|thrice"
    r"|square root)s?(?![A-Za-z])"
)
NUMBER = r"\d+(?:\.\d+)?"
SCALED = re.compile(
    rf"(?i)(?<![\d.^_{{])({NUMBER})\s*((?:\s*(?:{'|'.join(SCALES)})s?(?![A-Za-z]))+)"
)
MOST_DIGITS = 4000
BETWEEN_NUMBERS = words("a an and of by to the power")
PART = rf"({'|'.join(PARTS)})(?:s|es)?(?![A-Za-z])"
TEXT = re.compile(r"\\text\{([^{}]*)\}")


def numbers_of_words(text: str) -> str:
    r"""The text with its number words as numbers: `5 million` as `5000000`, `two thirds` as
    `2 \cdot \frac{1}{3}`."""
    if not HAS_NUMBER_WORD.search(text):
        return text
    text = TEXT.sub(_bare_number_words, text)
    text = re.sub(rf"(?i)(?<![\\A-Za-z])(an?|one)[\s-]+(?={PART})", "1 ", text)
    text = re.sub(rf"(?i)\s+and\s+(?=(?:an? |one |\d+ )?{PART})", " + ", text)
    text = re.sub(r"(?i)\A\s*half(?![A-Za-z])(?: of)?", "1 half", text)
    text = SCALED.sub(_scaled, text)
    text = RUN.sub(_run_value, text)
    text = SCALED.sub(_scaled, text)
    text = re.sub(rf"(?i)(?<=[\d}})])[\s-]+{PART}", _part_of_one, text)
    for spoken, normal in OPERATIONS:
        behind_number = rf"(?i)(?<=[\d}})!%])\s*(?<![\\A-Za-z]){spoken}(?![A-Za-z])"
        behind_letter = rf"(?i)(?<![A-Za-z\\])([A-Za-z])\s+{spoken}(?![A-Za-z])"
        text = re.sub(behind_number, normal, text)
        text = re.sub(behind_letter, rf"\g<1>{normal}", text)
    for spoken, normal in BEFORE_NUMBER:
        text = re.sub(rf"(?i)(?<![\\A-Za-z]){spoken}(?=[\d\\(])", normal, text)
    return re.sub(r"\\sqrt (\d+)", r"\\sqrt{\1}", text)


def _bare_number_words(match: re.Match[str]) -> str:
    r"""A `\text{}` with a number word without its command around those words: the rest stays."""
    if not HAS_NUMBER_WORD.search(match[1]):
        return match[0]
    pieces: list[str] = []
    for is_number, run in groupby(match[1].replace("-", " ").split(), _may_be_of_number):
        together = " ".join(run)
        pieces.append(together if is_number else rf"\text{{ {together}}}")
    return f" {' '.join(pieces)} "


def _may_be_of_number(word: str) -> bool:
    if HAS_NUMBER_WORD.fullmatch(word) or not word.isalpha():
        return True
    return word.lower() in BETWEEN_NUMBERS


def _scaled(match: re.Match[str]) -> str:
    with localcontext(prec=MOST_DIGITS):
        value = Decimal(match[1])
        for word in match[2].lower().split():
            value *= SCALES[word if word in SCALES else word.removesuffix("s")]
        return f"{value.normalize():f}"


def _run_value(match: re.Match[str]) -> str:
    """The value of `two hundred and five`; of a scale behind other mathematics, the factor."""
    words = [word for word in re.split(r"[\s-]+", match[1].lower()) if word != "and"]
    total = current = 0
    for word in (word if word in SMALL or word in SCALES else word.rstrip("s") for word in words):
        scale = SCALES.get(word, 0)
        if not scale:
            current += SMALL[word]
        elif scale < 1000:
            current = max(current, 1) * scale
        elif 0 < total < scale:
            total, current = (total + current) * scale, 0
        else:
            total, current = total + max(current, 1) * scale, 0
    before = match.string[: match.start()].rstrip()
    is_factor = words[0] in SCALES and before[-1:] in ("}", ")", "!")
    return rf" \cdot {total + current}" if is_factor else str(total + current)


def _part_of_one(match: re.Match[str]) -> str:
    return rf" \cdot \frac{{1}}{{{PARTS[match[1].lower()]}}}"


# Units --------------------------------------------------------------------------------------------

# Each unit's spellings; plurals in -s and -es need none of their own.
UNITS = {
    "mm": "mm millimeter millimetre", "cm": "cm centimeter centimetre", "dm": "dm decimeter",
    "m": "m meter metre", "km": "km kilometer kilometre", "in": "in inch", "ft": "ft foot feet",
    "yd": "yd yard", "mi": "mi mile", "ms": "ms millisecond", "s": "s sec second",
    "min": "min minute", "h": "h hr hour", "day": "day", "week": "week wk",
    "month": "month", "year": "year yr", "decade": "decade", "century": "century centuries",
    "mg": "mg milligram", "g": "g gm gram", "kg": "kg kilogram", "t": "t ton tonne",
    "lb": "lb pound", "oz": "oz ounce", "mL": "ml mL milliliter millilitre", "L": "L l liter litre",
    "gal": "gal gallon", "qt": "qt quart", "pt": "pint", "cup": "cup", "degree": "degree deg",
    "degree c": "celsius", "degree f": "fahrenheit", "rad": "rad radian",
    "dollar": "dollar usd buck", "cent": "cent", "euro": "euro eur", "pound sterling": "sterling",
    "yen": "yen", "yuan": "yuan rmb", "rupee": "rupee rs", "N": "N newton",
    "J": "J joule", "kJ": "kJ kilojoule", "W": "W watt", "kW": "kW kilowatt",
    "V": "V volt", "A": "A amp ampere", "K": "K kelvin", "Hz": "Hz hertz",
    "Pa": "Pa pascal", "mol": "mol mole", "eV": "eV", "acre": "acre", "hectare": "hectare ha",
    "unit": "unit", "mi/h": "mph", "km/h": "kph kmh kmph", "bit": "bit", "byte": "byte",
    "am": "am", "pm": "pm", "north": "north", "south": "south", "east": "east", "west": "west",
    "left": "left leftward", "right": "right rightward", "up": "up upward", "down": "down downward",
    "clockwise": "clockwise", "counterclockwise": "counterclockwise anticlockwise",
    "bc": "bc bce", "ad": "ad ce", "head": "head", "tail": "tail", "above": "above",
    "below": "below", "boy": "boy", "girl": "girl", "man": "man men", "woman": "woman women",
    "more": "more", "less": "less", "loss": "loss", "profit": "profit", "increase": "increase",
    "decrease": "decrease", "ahead": "ahead", "behind": "behind", "win": "win",
}  # fmt: skip
UNIT_OF = {spelling: unit for unit, spellings in UNITS.items() for spelling in spellings.split()}
# Behind a number, these make of it another answer, or a remark on it.
NOT_UNITS = words(
    "but also not no nor or and if for when where while except than most least unless plus minus "
    "maybe perhaps either both neither only because since so then is are was were be as which that "
    "what with without may might could would should can cannot undefined otherwise other some each "
    "every all it this there twice double thrice triple mod modulo base to"
)
POWERS = {"square": 2, "sq": 2, "squared": 2, "cubic": 3, "cu": 3, "cubed": 3}
ARTICLES = ("a", "an", "the", "of")
SPELLED = r"[A-Za-z]+(?:['.-][A-Za-z]+)*"
LONG_ENOUGH = 3  # letters of a noun of which nothing is known: `xy` is a product
# Behind the end of a number, or of a command or bracket.
TRAILING = re.compile(
    r"(?<=[\d}!%)\]])\s*(?P<unit>(?:\s*(?:\\text\{[^{}]*\}|(?<![\\A-Za-z])[A-Za-z]+(?:['.-][A-Za-z]+)*\.?"
    r"|/|\\cdot |\^\{?-?\d\}?|\{\}))+)[\s.]*\Z"
)
CONSTANT = re.compile(r"(?P<before>.*\\pi)\s*(?P<unit>\\text\{[^{}]*\})[\s.]*\Z", re.DOTALL)
TOKEN = re.compile(r"\^\{?(-?\d)\}?|/|[A-Za-z]+(?:['.-][A-Za-z]+)*")


def split_unit(text: str, letters: bool) -> tuple[str, str]:
    r"""The answer and its unit, "" if it has none: `5\text{ cm}^2` is `5` and "cm^2".

    letters: whether single bare letters behind a number may be units: `5 m`.
    """
    match = TRAILING.search(text) or CONSTANT.match(text)
    if match is None or re.match(r"\s*(?:/|\^|\\cdot|\{\})", match["unit"]):
        return text, ""
    unit = _unit_of(match["unit"], letters)
    if not unit:
        return text, ""
    return text[: match.start("unit")].rstrip(), unit


@lru_cache(maxsize=4096)
def _unit_of(written: str, letters: bool) -> str:
    """The unit in one spelling, such as "ft^2" or "km/h"; "" if the words are not one."""
    bare_words = re.findall(SPELLED, TEXT.sub("", written).replace("\\cdot", ""))
    if any(len(word) == 1 for word in bare_words) and not letters:
        return ""
    plain = TEXT.sub(r" \1 ", written).replace("\\cdot", " ")
    if re.search(r"[^A-Za-z\s/^{}().'\d-]|\\", plain) or re.search(r"(?<![\^{-])\d", plain):
        return ""
    if any(len(word) < LONG_ENOUGH and not _is_known(word) for word in re.findall(SPELLED, plain)):
        return ""
    return _product_of_units(TOKEN.finditer(plain))


def _is_known(word: str) -> bool:
    return _known_unit(word)[0] != "?" or word in POWERS or word in ARTICLES


def _product_of_units(tokens: Iterable[re.Match[str]]) -> str:
    powers: dict[str, int] = {}
    sign, prefix, last = 1, 1, ""
    for token in tokens:
        word = token[0]
        if token[1]:
            if not last:
                return ""
            powers[last] = powers[last] * int(token[1])
        elif word == "/" or word.lower() == "per":
            sign = -1
        elif word.lower() in NOT_UNITS:
            return ""
        elif word.lower() in POWERS:
            if last and word.lower() in ("squared", "cubed"):
                powers[last] *= POWERS[word.lower()]
            else:
                prefix = POWERS[word.lower()]
        elif word not in ARTICLES:
            last, _, under = _known_unit(word).partition("/")
            powers[last] = powers.get(last, 0) + sign * prefix
            if under:
                powers[under] = powers.get(under, 0) - sign
            prefix = 1
    if prefix != 1 and not powers:  # `5 square` (units)
        powers["unit"] = prefix
    return "*".join(f"{unit}^{power}" for unit, power in sorted(powers.items()) if power)


def _known_unit(word: str) -> str:
    bare = word.replace(".", "")
    for spelling in (bare, bare.lower(), bare.lower().removesuffix("s"),
                     bare.lower().removesuffix("es")):  # fmt: skip
        if spelling in UNIT_OF:
            return UNIT_OF[spelling]
    return f"?{bare.lower().removesuffix('s')}"


def units_agree(gold: str, prediction: str) -> bool:
    """Whether the units do not contradict each other. A missing unit does not, and nor do nouns of
    which nothing is known (`apples`)."""
    if not gold or not prediction or gold == prediction:
        return True
    known = [{part for part in unit.split("*") if part[0] != "?"} for unit in (gold, prediction)]
    return known[0] == known[1] or not (known[0] and known[1])


# Texts --------------------------------------------------------------------------------------------

SHORTEST_WORD = 4  # bare letters: shorter ones are products of variables, `ab` = `ba`
NAMES = re.compile(r"\\(?:begin|end|mathbb|operatorname)\{[^{}]*\}|\\[A-Za-z]+")
LETTERS = re.compile(r"[^\W\d_]+")


def is_text(text: str, variables: frozenset[str] = frozenset()) -> bool:
    r"""Whether a normal form is words, or has words that are no part of mathematics.

    Words are what stands in `\text{}`, and four or more bare letters in a row, unless they are
    `variables` or in the order of the alphabet, as the letters of a product are.
    """
    if any(LETTERS.search(content) for content in TEXT.findall(text)):
        return True
    return any(
        len(run) >= SHORTEST_WORD
        and not variables.issuperset(run)
        and list(run) != sorted(set(run))
        for run in LETTERS.findall(NAMES.sub(" ", text))
    )


def variables_of(text: str) -> frozenset[str]:
    """The bare letters of a normal form that is no text."""
    return frozenset("".join(LETTERS.findall(NAMES.sub(" ", text))))


def is_words_alone(text: str) -> bool:
    return re.fullmatch(r"(?:\\text\{[^{}\d]+\}|[^\W\d_]{2,}|[\s,.'-])+", text) is not None


def text_key(text: str) -> str:
    """What is compared of a text: its letters and digits, and signs that are not punctuation."""
    text = TEXT.sub(r" \1 ", text).lower()
    text = re.sub(r"\s*(?:,|;|\band\b|\bor\b)\s*", ",", text.strip(" .,;:!"))
    text = re.sub(r"(?<=[a-z])-(?=[a-z])|\.(?!\d)", "", text)
    parts = sorted(re.sub(r"[\s'\"~{}()$*`]+", "", part) for part in text.split(","))
    return ",".join(part for part in parts if part)


CHOICE = re.compile(
    r"(?:\\text\{)?\s*\(?\s*([A-Z])\s*(?:\}\s*)?[).:]\s*\}?(?:\s+[^\s,;(][^,;(]*)?|[(\[]([A-Z])[)\]]"
)


def choice(text: str) -> str:
    """The letter of `(B)`, `B.` or `(B) 5`; else ""."""
    match = CHOICE.fullmatch(text.strip())
    return (match[1] or match[2]) if match else ""
