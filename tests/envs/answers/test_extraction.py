import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vpd_envs.answers.extraction import (
    FencedBlock,
    FinalAnswer,
    Found,
    fenced_blocks,
    last_number,
    without_thinking,
)

FENCE = "```"


@pytest.mark.parametrize(
    ("tag", "language"),
    [
        ("", ""),
        ("python", "python"),
        ("py", "py"),
        ("Python3.12", "python3.12"),
        ("c++", "c++"),
        (" python ", "python"),
        ("py hl", "py"),
        ("{.python .numberLines}", "python"),
        ("python:main.py", "python"),
        ("python-repl", "python-repl"),
        ("==", ""),
    ],
)
def test_a_block_has_its_language_and_code(tag, language):
    blocks = fenced_blocks(f"text\n{FENCE}{tag}\nx = 1\n{FENCE}\nmore")
    assert blocks == [FencedBlock(language, "x = 1\n")]


@pytest.mark.parametrize(
    ("text", "codes"),
    [
        ("", []),
        ("use `print(1)` or ```print(1)``` here", []),
        ("```\n```", [""]),
        ("~~~\na\n~~~", ["a\n"]),
        ("````python\nprint('''\n```\n''')\n````", ["print('''\n```\n''')\n"]),
        ("```python\nprint('''\n```\n''')\n```\n```\nb\n```", ["print('''\n```\n''')\n", "b\n"]),
        ("```python\nit''' is\n```\nb\n```\nc\n```", ["it''' is\n", "c\n"]),
        ("```\r\na\r\nb\r\n```\r\n", ["a\nb\n"]),
        ("1. so:\n   ```python\n   if a:\n       b\n   ```", ["if a:\n    b\n"]),
        ("\t```\n\tx\n\t```", ["x\n"]),
        ("Answer: ```python\nx\n```", ["x\n"]),
        ("<answer>```python\nx\n```</answer>\n", ["x\n"]),
        ("<answer>```python\nx\n```<|im_end|>", ["x\n"]),
        (
            "```python\nf(\n    ```\n    f()\n    ```\n)\n```",
            ["f(\n    ```\n    f()\n    ```\n)\n"],
        ),
        ("```python\na\n```\ntext\n```python\nb\n```", ["a\n", "b\n"]),
        ("```python\nhalf of\nWait, anew:\n```python\nb\n```", ["b\n"]),
        ("~~~\n```\n~~~", ["```\n"]),
    ],
)
def test_all_closed_blocks_are_found(text, codes):
    blocks = fenced_blocks(text)
    assert [block.code for block in blocks] == codes
    assert all(block.closed for block in blocks)


@pytest.mark.parametrize(
    ("text", "codes"),
    [
        ("```python\nprint(", ["print(\n"]),
        ("```python", [""]),
        ("~~~\nx\n```", ["x\n```\n"]),
        ("````\nx\n```", ["x\n```\n"]),
        ("```python\na\n```\nand then ```python\nhalf", ["a\n", "half\n"]),
    ],
)
def test_an_unclosed_block_is_the_last_one(text, codes):
    blocks = fenced_blocks(text)
    assert [block.code for block in blocks] == codes
    assert [block.closed for block in blocks] == [True] * (len(codes) - 1) + [False]


def test_without_thinking():
    assert without_thinking("a") == "a"
    assert without_thinking("<think>a</think>b") == "b"
    assert without_thinking("a</think>b") == "b"
    assert without_thinking("<think>a") is None


PIECES = ["```", "~~~", "````", "python", "\n", "\r", " ", "\t", "x", "é", "\0", '"""', "'", "\\"]
markup = st.lists(st.sampled_from(PIECES)).map("".join)


@given(st.one_of(st.text(), markup, st.text(alphabet=st.characters())))
def test_any_text_is_parsed_without_an_exception(text):
    assert all(block.closed for block in fenced_blocks(text)[:-1])


@pytest.mark.parametrize(
    "unit", ["```", "`", "~", " ", "\n", "\t", "```python\n", "\n ```", '```\n"""\n```\n', "'''"]
)
def test_parsing_time_is_linear(unit):
    """What is quadratic takes 30,000 times as long here: hours."""
    started = time.process_time()
    fenced_blocks(unit * 30_000)
    fenced_blocks(unit * 15_000 + "```\n" + unit * 15_000)
    assert time.process_time() - started < 60


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("13 + 14 = 27.", "27"),
        ("27! (not 2.7e1)", "1"),
        ("so x=-5.", "-5"),
        ("it is \N{MINUS SIGN}7", "-7"),
        ("12-5", "5"),  # a difference
        ("(3)-4", "4"),
        ("COVID-19", "19"),
        ("$1,234,567.50 in all", "1234567.50"),
        ("1,2,3", "3"),
        ("1,0000", "0000"),
        ("<think>3</think> 4, then", "4"),
        ("\N{ARABIC-INDIC DIGIT FOUR} or 5", "5"),
    ],
)
def test_the_last_number_is_found_whatever_stands_around_it(text, number):
    assert last_number(text) == FinalAnswer(Found.COMPLETE, number)


@pytest.mark.parametrize(
    ("text", "found"),
    [("", Found.NONE), ("five - six, at .", Found.NONE), ("<think>5", Found.THINKING)],
)
def test_where_there_is_no_last_number(text, found):
    assert last_number(text) == FinalAnswer(found)
