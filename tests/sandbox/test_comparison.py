"""The rules by which outputs are compared: what each calls the same, and that no text upsets it."""

import decimal
import json
import math
import pickle
import tracemalloc

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sandbox.comparison import (
    RULES,
    Checker,
    CheckerError,
    Decimals,
    Exact,
    Floats,
    IgnoreCase,
    Json,
    Lines,
    Unordered,
    Whitespace,
    rule,
    same_value,
)

exact, whitespace, lines, decimals, as_json = Exact(), Whitespace(), Lines(), Decimals(), Json()
EVERY_RULE = [
    *(made() for made in RULES.values()),
    Unordered("tokens"),
    Floats(0.0, 0.0),
    Json(absolute=0.1),
    Json(unordered_levels=2),
    IgnoreCase("lines"),
]
TEXT_RULES = [each for each in EVERY_RULE if not isinstance(each, Json)]

# lines --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("output", "expected"),
    [
        ("1\n2\n", "1\n2"),
        ("  1  \n2\t\n\n\n", "1\n2\n"),
        ("1\r\n2\r\n", "1\n2"),
        ("0.75", "0.7500"),
        ("1 2.0 3", "1.0 2 3.00"),
        ("1e3", "1000"),
        ("-0", "0"),
        ("", "\n \n"),
        ("nan", "nan"),
        ("1  2", "1 2"),
        ("1e999999999999", "1e999999999999"),
    ],
)
def test_lines_the_same_output(output, expected):
    assert lines(output, expected)
    assert lines(expected, output)


@pytest.mark.parametrize(
    ("output", "expected"),
    [
        ("0.5000001", "0.500000"),  # decimals, but no tolerance
        ("Yes", "YES"),
        ("1 2", "1\n2"),
        ("1\n\n2", "1\n2"),
        ("a  b", "a b"),  # spaces count where the words are no decimals
        ("", "0"),
        ("NaN", "nan"),
        ("sNaN", "1"),
        ("1e999999999", "1e999999998"),
        ("1e99999999999999999999999", "1"),
        ("1 2", "1 2 3"),
        ("True", "1"),
        ("1\n2\n3", "1\n2"),
    ],
)
def test_lines_different_output(output, expected):
    assert not lines(output, expected)
    assert not lines(expected, output)


# The other rules on texts -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("compare", "output", "expected", "same"),
    [
        (exact, "a\n", "a", True),
        (exact, "a\r\n\n", "a", True),
        (exact, "a ", "a", False),
        (exact, "\na", "a", False),
        (exact, "1.0", "1", False),
        (whitespace, " 1\t2 \n\n3", "1 2\n3", True),
        (whitespace, "1 2\n", "1\n2\n", True),
        (whitespace, "12", "1 2", False),
        (whitespace, "1 2 3", "1 2", False),
        (whitespace, "1", "1 2", False),
        (whitespace, "1.0", "1", False),
        (whitespace, "", "\n", True),
        (decimals, "x 1.0\n2", "x 1 2.00", True),
        (decimals, "x1.0", "x1", False),
        (decimals, "0.1", "0.10000001", False),
        (decimals, "nan", "nan", True),
        (decimals, "NaN", "nan", False),
        (decimals, "-Infinity", "-inf", True),
        (Unordered(), "b\na a\n", "a  a \n b", True),
        (Unordered(), "a\na\nb", "a\nb\nb", False),
        (Unordered(), "a b", "b a", False),
        (Unordered(), "a\nb\nb", "a\nb", False),
        (Unordered("tokens"), "3 1\n2 1", "1 1 2 3", True),
        (Unordered("tokens"), "3 1 2", "1 1 2 3", False),
        (Unordered("tokens"), "1 1 2", "1 2 2", False),
        (IgnoreCase("whitespace"), "Yes\nNO", "YES no", True),
        (IgnoreCase("exact"), "STRASSE", "straße", True),
        (IgnoreCase("lines"), "Yes", "no", False),
    ],
)
def test_rules_on_texts(compare, output, expected, same):
    assert compare(output, expected) is same


# floats -------------------------------------------------------------------------------------------


@given(
    st.floats(allow_nan=False, allow_infinity=False),
    st.floats(0, 1e3),
    st.floats(0, 0.5),
    st.floats(-3, 3),
)
def test_floats_accept_what_exact_arithmetic_finds_within_a_tolerance(x, absolute, relative, share):
    """The tolerance is max(absolute, relative * |expected|); `share` of it is within if <= 1."""
    with decimal.localcontext(prec=2000):
        expected = decimal.Decimal(repr(x))
        absolute_part = decimal.Decimal(repr(absolute))
        tolerance = max(absolute_part, decimal.Decimal(repr(relative)) * abs(expected))
        output = expected + decimal.Decimal(share) * tolerance
        within = abs(output - expected) <= tolerance
    assert Floats(absolute, relative)(str(output), str(expected)) is within


@pytest.mark.parametrize(
    ("output", "expected", "same"),
    [
        ("1.000001", "1", True),  # the tolerance itself is within it
        ("1.0000010001", "1", False),
        ("1000001", "1000000", True),  # whole numbers are numbers
        ("1000002", "1000000", False),
        ("1000000", "1000001.1", False),  # 1e-6 of the expected one, not of the larger
        ("0.000001", "0", True),
        ("yes 1.0", "yes 1", True),
        ("Yes 1.0", "yes 1", False),
        ("1.0 2.0", "1.0", False),
        ("nan", "NaN", True),
        ("sNaN", "nan", True),
        ("nan", "1", False),
        ("1", "nan", False),
        ("inf", "Infinity", True),
        ("inf", "-inf", False),
        ("inf", "1e400", False),  # beyond floats, and yet a number
        ("2e400", "1e400", False),
        ("1.0000001e400", "1e400", True),
        ("1e-999999999999999999", "0", True),
        ("1e999999999999999999", "-1e999999999999999999", False),
    ],
)
def test_floats_at_the_edges(output, expected, same):
    assert Floats(absolute=1e-6, relative=1e-6)(output, expected) is same


# json ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (1, 1.0),
        ([1, [2]], (1, (2,))),
        ({"a": [1]}, {"a": (1,)}),
        (None, None),
        ("", ""),
        (10**400,) * 2,
        (True, 1),
        ({"a": [False]}, {"a": [0.0]}),
    ],
)
def test_the_same_value(value, expected):
    assert same_value(value, expected)
    assert same_value(expected, value)


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (True, 2),
        (False, None),
        ("true", True),
        (0, None),
        ("1", 1),
        ([1], [1, 1]),
        ({"a": 1}, {"b": 1}),
        ([], {}),
        (0.1 + 0.2, 0.3),
        (float("nan"), float("nan")),
    ],
)
def test_different_values(value, expected):
    assert not same_value(value, expected)
    assert not same_value(expected, value)


def test_json_that_cannot_be_read_is_no_match():
    deep = "[" * 100_000 + "]" * 100_000
    for text in ("", "nonsense", "[1", deep):
        assert as_json(text, text) is False
    assert as_json("[true, 1]", "[true,1]")


def test_integers_of_any_length_are_compared_exactly():
    digits = "7" * 20_000
    assert as_json(digits, digits)
    assert as_json(f"[-{digits}]", f"[-{digits} ]")
    assert not as_json(digits, digits[:-1] + "8")
    assert not as_json(digits, "1e400")


@pytest.mark.parametrize(
    ("output", "expected", "same"),
    [
        ("[0.3333]", "[0.33334]", True),
        ("[0.33]", "[0.33334]", False),
        ("[1.00005, 2]", "[1, 2]", True),
        ("10001", "10000", False),  # two integers are not measured, but equal or not
        ("true", "1.00001", True),
        ("0.5", "true", False),
        ('"1.0"', "1.0", False),
        ("NaN", "NaN", False),
        ("Infinity", "Infinity", True),
        ("Infinity", "1.0", False),
        ("Infinity", "1e400", False),
        ("1.00001e400", "1e400", True),
        ("1.01e400", "1e400", False),
        ("1" + "0" * 1000, "1.0", False),
    ],
)
def test_json_with_a_tolerance(output, expected, same):
    assert Json(absolute=1e-4, relative=1e-4)(output, expected) is same


@pytest.mark.parametrize(
    ("levels", "output", "expected", "same"),
    [
        (1, "[3, 1.0, 2, 1]", "[1, 1, 2, 3]", True),
        (1, "[3, 1, 2, 2]", "[1, 1, 2, 3]", False),
        (1, "[1, 2]", "[1, 2, 2]", False),
        (1, "[true, 0]", "[false, 1]", True),
        (1, "[[2, 1], [3]]", "[[3], [1, 2]]", False),
        (1, "[[1, 2], [3]]", "[[3], [1, 2]]", True),
        (2, "[[2, 1], [3]]", "[[3], [1, 2]]", True),
        (2, "[[[2, 1]], [3]]", "[[3], [[1, 2]]]", False),
        (1, '{"a": [2, 1]}', '{"a": [1, 2]}', True),
        (1, '{"a": [2, 1]}', '{"b": [1, 2]}', False),
        (1, "[[], {}, null]", "[null, [], {}]", True),
        (1, "[[]]", "[{}]", False),
        (1, "[NaN]", "[NaN]", False),
        (1, "1", "1", True),
    ],
)
def test_json_in_any_order(levels, output, expected, same):
    assert Json(unordered_levels=levels)(output, expected) is same


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=8,
)


@given(json_values)
def test_every_value_equals_itself_after_json(value):
    text = json.dumps(value)
    for compare in (as_json, Json(relative=0.1), Json(unordered_levels=1)):
        assert compare(text, text)


def shuffled(value, levels, order):
    """The value with its lists shuffled, down to that level of lists in lists."""
    if isinstance(value, dict):
        return {key: shuffled(each, levels, order) for key, each in value.items()}
    if not isinstance(value, list):
        return value
    value = [shuffled(each, max(0, levels - 1), order) for each in value]
    return order.sample(value, len(value)) if levels else value


@given(json_values, st.integers(1, 3), st.randoms(use_true_random=False))
def test_shuffling_the_unordered_levels_changes_nothing(value, levels, order):
    text = json.dumps(shuffled(value, levels, order))
    assert Json(unordered_levels=levels)(text, json.dumps(value))


@given(json_values, json_values)
def test_what_is_the_same_in_order_is_the_same_in_any_order(a, b):
    a, b = json.dumps(a), json.dumps(b)
    assert as_json(a, b) <= Json(unordered_levels=1)(a, b) <= Json(unordered_levels=2)(a, b)


# What holds for all of them -----------------------------------------------------------------------

numberish = st.text(alphabet="0123456789.eE+-_ \nsnaNiInfty", max_size=30)
texts = st.text() | numberish | st.text(alphabet='[]{},:" 01.e-truefalsn\n', max_size=30)


@given(texts)
def test_every_text_is_the_same_as_itself(text):
    for compare in TEXT_RULES:
        assert compare(text, text) is True, compare


@given(texts, texts)
def test_no_text_raises_and_all_rules_but_floats_are_symmetric(a, b):
    for compare in EVERY_RULE:
        assert isinstance(compare(a, b), bool)
        if not isinstance(compare, Floats):  # whose relative tolerance refers to the expected one
            assert compare(a, b) is compare(b, a), compare


@given(texts, texts)
def test_stricter_rules_imply_milder_ones(a, b):
    chains = [
        [exact, whitespace, decimals, Floats(0.0, 0.0), Floats()],
        [exact, lines, decimals],
        [exact, Unordered()],
        [whitespace, Unordered("tokens")],
        [lines, IgnoreCase("lines")],
    ]
    for chain in chains:
        said = [compare(a, b) for compare in chain]
        assert said == sorted(said), chain


@given(st.lists(st.text(alphabet="ab1 .", max_size=5)), st.randoms(use_true_random=False))
def test_shuffled_lines_and_tokens_are_the_same_unordered(words, order):
    words = ["first", *words, "last"]  # blank lines around the whole do not count
    other = order.sample(words, len(words))
    if other[0].strip() and other[-1].strip():
        assert Unordered()("\n".join(other), "\n".join(words))
    assert Unordered("tokens")(" ".join(other), "\n".join(words))


def test_the_decimal_context_of_the_caller_does_not_matter():
    pairs = [("1.2345", "1.2345000"), ("1.2345", "1.2346"), ("x", "1"), ("sNaN", "1"), ("1e9", "2")]
    usual = [[compare(*pair) for pair in pairs] for compare in EVERY_RULE]
    for traps in ([], list(decimal.getcontext().traps)):
        with decimal.localcontext(decimal.Context(prec=1, Emax=1, Emin=-1, traps=traps)):
            assert [[compare(*pair) for pair in pairs] for compare in EVERY_RULE] == usual


MEGABYTE = 1 << 20
HOSTILE = [
    "9" * (10 * MEGABYTE),
    "0." + "3" * MEGABYTE,
    "1 " * MEGABYTE,
    "\n" * MEGABYTE,
    "1\n" * MEGABYTE,
    "1e999999999",
    "-1e-999999999999999999",
    "1e" + "9" * MEGABYTE,
    "nan" + "1" * MEGABYTE,
    "[" * (10 * MEGABYTE),
    "[" * 900 + "]" * 900,
    '{"":' * 900 + "0" + "}" * 900,
    "[" + "[]," * (MEGABYTE // 10) + "[]]",
]


@pytest.mark.parametrize("compare", EVERY_RULE, ids=repr)
def test_hostile_outputs_get_a_verdict(compare):
    """Anything worse than linear in their length would not come to an end here."""
    for output in HOSTILE:
        for expected in ("1", "1 2\n3", "[[1], [2]]", "1e999999998"):
            assert compare(output, expected) is False
        assert compare(output, output) is (not isinstance(compare, Json) or readable(output))


def readable(text):
    """Whether it is JSON, and its numbers have exponents of less than 19 digits."""
    try:
        json.loads(text, parse_int=str, parse_float=decimal.Decimal)
    except (ValueError, RecursionError, decimal.InvalidOperation):
        return False
    return True


@pytest.mark.parametrize("compare", TEXT_RULES, ids=repr)
def test_memory_does_not_grow_with_the_number_of_tokens_that_came(compare):
    output = "1\n" * MEGABYTE
    tracemalloc.start()
    compare(output, "1 2\n3")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 4 * len(output)  # copies of the text, but no list of a million strings


def test_deep_json_is_compared_without_recursion():
    deep = "[" * 900 + "1" + "]" * 900
    for compare in (as_json, Json(absolute=1.0), Json(unordered_levels=900)):
        assert compare(deep, deep)
        assert not compare(deep, deep.replace("1", "3.5"))


# Choosing a rule ----------------------------------------------------------------------------------


def test_rules_are_found_by_name_with_their_options():
    assert [rule(name) for name in RULES] == [made() for made in RULES.values()]
    assert rule("floats", relative=1e-9) == Floats(relative=1e-9)
    assert rule("unordered", of="tokens", ignore_case=True) == IgnoreCase(Unordered("tokens"))
    assert rule(whitespace) is whitespace


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: rule("whitespaces"), ["exact, whitespace, lines", "Did you mean 'whitespace'?"]),
        (lambda: rule("floats", absolut=1), ["absolut", "absolute, relative, ignore_case"]),
        (lambda: rule("exact", of="lines"), ["no option 'of'", "ignore_case"]),
        (lambda: rule(None), ["exact, whitespace", "None"]),
        (lambda: rule(whitespace, of="lines"), ["without any", "'of': 'lines'"]),
        (lambda: Floats(absolute=-1), ["Floats.absolute", "at least 0", "-1"]),
        (lambda: Floats(relative=math.nan), ["Floats.relative", "nan"]),
        (lambda: Floats(relative="1e-6"), ["Floats.relative", "'1e-6'"]),
        (lambda: Json(absolute=math.inf), ["Json.absolute", "inf"]),
        (lambda: Json(unordered_levels=-1), ["unordered_levels", "-1"]),
        (lambda: Json(absolute=1, unordered_levels=1), ["either", "checker"]),
        (lambda: Unordered("words"), ["'lines' or 'tokens'", "'words'"]),
        (lambda: IgnoreCase(any_factor), ["any_factor", "ignore case by itself"]),
    ],
)
def test_a_wrong_choice_is_told_what_there_is(call, words):
    with pytest.raises(ValueError) as caught:  # noqa: PT011 - the words are checked one by one
        call()
    for word in words:
        assert word in str(caught.value)


# Checkers -----------------------------------------------------------------------------------------


def any_factor(output, expected, input):
    """The input is n; any divisor of it between 1 and n is right."""
    number = int(output) if output.strip().isdecimal() and len(output) < 100 else 0
    return 1 < number < int(input) and int(input) % number == 0


def test_a_checker_sees_the_input_and_decides():
    check = rule(any_factor)
    assert check == Checker(any_factor)
    assert check("3\n", "2\n", "12")
    assert check("4", "2", "12")
    assert not check("5", "2", "12")
    assert not check("two", "2", "12")


def test_a_checker_that_raises_is_an_error_that_names_it():
    def fragile(output, expected, input):
        return int(output) == int(expected)

    assert rule(fragile)("7", "7")
    with pytest.raises(CheckerError, match=r"fragile raised ValueError.*'seven'") as caught:
        rule(fragile)("seven", "7")
    assert isinstance(caught.value.__cause__, ValueError)


def test_a_checker_that_gives_no_bool_is_an_error_that_names_it():
    class Undecided:
        def __call__(self, output, expected, input):
            return None

    with pytest.raises(CheckerError, match=r"Undecided must return True or False, got None"):
        rule(Undecided())("1", "1")


def test_rules_are_values_they_hash_compare_and_travel():
    for each in [*EVERY_RULE, Checker(any_factor)]:
        assert pickle.loads(pickle.dumps(each)) == each
        assert hash(each) == hash(pickle.loads(pickle.dumps(each)))
    assert len(set(EVERY_RULE)) == len(EVERY_RULE)
