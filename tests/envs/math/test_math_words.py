r"""Number words have values, units are parted from numbers, remarks are not."""

from fractions import Fraction

import pytest

from vpd_envs.math.answer import decided, measured, plain_number, tidy
from vpd_envs.math.words import NOT_UNITS, PARTS, SCALES, SMALL, UNITS, is_text, split_unit


@pytest.mark.parametrize("word", sorted(SMALL))
def test_a_number_word_is_its_number(word):
    assert tidy(word) == tidy(rf"\text{{{word}}}") == tidy(word.title()) == str(SMALL[word])


@pytest.mark.parametrize("word", sorted(SCALES))
@pytest.mark.parametrize("form", ["7 {}", r"7\text{{ {}}}", r"7\,\mathrm{{{}}}", "seven {}"])
def test_a_scale_multiplies_the_number_before_it(word, form):
    assert plain_number(tidy(form.format(word))).value == 7 * SCALES[word]
    assert decided("7", tidy(form.format(word))).equal is False


@pytest.mark.parametrize("word", sorted(PARTS))
def test_a_part_divides_the_number_before_it(word):
    plural = "halves" if word == "half" else f"{word}s"
    for text in (f"5 {plural}", rf"5\text{{ {plural}}}", f"five {plural}", f"five-{plural}"):
        assert tidy(text).split(r"\cdot")[1].strip() == rf"\frac{{1}}{{{PARTS[word]}}}"
        assert tidy(text).startswith("5")


@pytest.mark.parametrize(
    ("words", "value"),
    [
        ("twenty-one", 21),
        ("one hundred and five", 105),
        ("two thousand three hundred forty", 2340),
        ("two million five hundred thousand", 2_500_000),
        ("two hundred thousand", 200_000),
        ("a million", 1_000_000),
        ("1.5 million", 1_500_000),
        ("2 hundred thousand", 200_000),
        ("minus five", -5),
        ("12345678901234567890123456789012345 thousand", 12345678901234567890123456789012345000),
    ],
)
def test_several_number_words_are_one_number(words, value):
    assert plain_number(tidy(words)).value == Fraction(value)


@pytest.mark.parametrize(
    ("words", "normal"),
    [
        ("5 squared", "5^{2}"),
        (r"x\text{ cubed}", "x^{3}"),
        ("4 factorial", "4!"),
        ("12.5 per cent", "12.5%"),
        ("5 times 7", r"5 \cdot 7"),
        ("5 divided by 7", "5/7"),
        ("twice 5", r"2 \cdot 5"),
        ("square root of 2", r"\sqrt{2}"),
        ("two and a half", r"2 + 1 \cdot \frac{1}{2}"),
    ],
)
def test_words_for_operations_are_operations(words, normal):
    assert tidy(words) == normal


@pytest.mark.parametrize("unit", sorted(UNITS))
def test_every_spelling_of_a_unit_is_parted_from_its_number(unit):
    for spelling in UNITS[unit].split():
        found = split_unit(rf"5\text{{ {spelling}}}", letters=False)
        assert found[0] == "5"
        assert found[1] == split_unit(rf"5\text{{ {UNITS[unit].split()[0]}}}", letters=False)[1]


@pytest.mark.parametrize("word", sorted(NOT_UNITS))
def test_a_remark_is_not_dropped_as_a_unit(word):
    assert split_unit(rf"5\text{{ {word} 6}}", letters=True)[1] == ""
    assert split_unit(rf"5\text{{ {word}}}", letters=True)[1] == ""


def test_a_single_bare_letter_is_a_unit_only_beside_a_gold_number():
    assert [each.unit for each in measured("5", "5 m")] == ["", "m^1"]
    assert [each.unit for each in measured("5k", "5 m")] == ["", ""]
    assert [each.unit for each in measured("5m", "5")] == ["", ""]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (r"\text{east}", True), ("east", True), (r"x \text{ if } x>0", True),
        ("abcd", False), ("xyz", False), (r"\sin x+\ln y", False),
        (r"\begin{pmatrix} 1 \\ 2 \end{pmatrix}", False),
    ],
)  # fmt: skip
def test_words_are_told_from_products_of_letters(text, words):
    assert is_text(text) is words
