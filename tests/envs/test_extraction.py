import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vpd_envs.extraction import CodeBlock, Found, code_block, without_thinking

FENCE = "```"


@pytest.mark.parametrize(
    "tag", ["", "python", "py", "python3", "Python", "c++", " python ", "py hl"]
)
def test_any_language_tag_is_a_block(tag):
    assert code_block(f"text\n{FENCE}{tag}\nx = 1\n{FENCE}\nmore").code == "x = 1\n"


@pytest.mark.parametrize(
    ("answer", "code"),
    [
        ("~~~\na\n~~~", "a\n"),
        ("````python\nprint('''\n```\n''')\n````", "print('''\n```\n''')\n"),
        ("```\r\na\r\nb\r\n```\r\n", "a\nb\n"),
        ("1. so:\n   ```python\n   if a:\n       b\n   ```", "if a:\n    b\n"),
        ("\t```\n\tx\n\t```", "x\n"),
        ("Answer: ```python\nx\n```", "x\n"),
        ("<answer>```python\nx\n```</answer>\n", "x\n"),
        ("<answer>```python\nx\n```<|im_end|>", "x\n"),
        ('```python\ndef f():\n    """\n    ```\n    f()\n    ```\n    """\n```', None),
        ("```python\na\n```\ntext\n```python\nb\n```", "b\n"),
        ("```python\nhalf of\nWait, anew:\n```python\nb\n```", "b\n"),
        ("```python\na\n```\nand then ```python\nhalf", "a\n"),
        ("~~~\n```\n~~~", "```\n"),
    ],
)
def test_the_last_complete_block_is_taken(answer, code):
    if code is None:  # a deeper fence belongs to the code
        code = 'def f():\n    """\n    ```\n    f()\n    ```\n    """\n'
    assert code_block(answer) == CodeBlock(Found.COMPLETE, code)


@pytest.mark.parametrize(
    ("answer", "found"),
    [
        ("", Found.NONE),
        ("print(1)", Found.NONE),
        ("use `print(1)` or ```print(1)``` here", Found.NONE),
        ("```python\n```", Found.EMPTY),
        ("```\n \n\t\n```", Found.EMPTY),
        ("```python\nx\n```\nno:\n```\n```", Found.EMPTY),
        ("```python\nprint(", Found.TRUNCATED),
        ("```python", Found.TRUNCATED),
        ("~~~\nx\n```", Found.TRUNCATED),
        ("````\nx\n```", Found.TRUNCATED),
        ("<think>\n```python\nx\n```\n", Found.THINKING),
        ("Sure.\n<think> hm", Found.THINKING),
        ("<think>a</think> b\n<think>\n```\nx\n```", Found.THINKING),
    ],
)
def test_what_is_missing_is_told(answer, found):
    assert code_block(answer) == CodeBlock(found)


def test_a_block_after_the_thinking_is_preferred():
    draft, final = f"{FENCE}\ndraft\n{FENCE}", f"{FENCE}\nfinal\n{FENCE}"
    assert code_block(f"<think>{draft}</think>{final}").code == "final\n"
    assert code_block(f"the prompt opened it {draft}\n</think>\n{final}").code == "final\n"
    assert code_block(f"<think>\n{draft}\n</think>\nAs above.").code == "draft\n"
    assert code_block(f"<think>\n{draft}\n</think>\n{FENCE}\nha").found is Found.TRUNCATED
    assert code_block(f"<think>\n{FENCE}\nunclosed\n</think>\n{final}").code == "final\n"


def test_without_thinking():
    assert without_thinking("a") == "a"
    assert without_thinking("<think>a</think>b") == "b"
    assert without_thinking("a</think>b") == "b"
    assert without_thinking("<think>a") is None


markup = st.lists(
    st.sampled_from(
        [
            "```",
            "~~~",
            "````",
            "python",
            "\n",
            "\r",
            " ",
            "\t",
            "<think>",
            "</think>",
            "x",
            "é",
            "\0",
        ]
    )
).map("".join)


@given(st.one_of(st.text(), markup, st.text(alphabet=st.characters())))
def test_any_text_is_parsed_without_an_exception(answer):
    block = code_block(answer)
    assert bool(block.code.strip()) == (block.found is Found.COMPLETE)


@pytest.mark.parametrize(
    "unit", ["```", "`", "~", " ", "\n", "\t", "<think>", "```python\n", "\n ```"]
)
def test_parsing_time_is_linear(unit):
    """What is quadratic takes 100,000 times as long here: hours."""
    started = time.process_time()
    code_block(unit * 100_000)
    code_block(unit * 50_000 + "```\n" + unit * 50_000)
    assert time.process_time() - started < 60
