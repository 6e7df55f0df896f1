import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vpd_envs.comparison import same_json, same_output, same_value


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
def test_the_same_output(output, expected):
    assert same_output(output, expected)
    assert same_output(expected, output)


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
    ],
)
def test_different_output(output, expected):
    assert not same_output(output, expected)
    assert not same_output(expected, output)


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (1, 1.0),
        ([1, [2]], (1, (2,))),
        ({"a": [1]}, {"a": (1,)}),
        (None, None),
        ("", ""),
        (10**400,) * 2,
    ],
)
def test_the_same_value(value, expected):
    assert same_value(value, expected)
    assert same_value(expected, value)


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (True, 1),
        (False, 0),
        ([True], [1]),
        ({"a": False}, {"a": 0}),
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
    for text in ("", "nonsense", "[1", deep, "1" * 10_000):
        assert same_json(text, text) is False
    assert same_json("[true, 1]", "[true,1]")


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=8,
)


@given(json_values)
def test_every_value_equals_itself_after_json(value):
    assert same_json(json.dumps(value), json.dumps(value))


@given(st.text(), st.text())
def test_comparison_never_raises_and_is_symmetric(a, b):
    assert same_output(a, b) == same_output(b, a)
    assert same_json(a, b) == same_json(b, a)


numberish = st.text(alphabet="0123456789.eE+-_ \nsnaNiInfty", max_size=30)


@given(numberish, numberish)
def test_odd_decimals_never_raise(a, b):
    assert same_output(a, b) == same_output(b, a)
    assert same_output(a, a)
