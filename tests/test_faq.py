"""The messages that the FAQ quotes are those of the source."""

import ast
import re
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parents[1]
FAQ = ROOT / "docs" / "faq.md"
PACKAGES = ("sandbox", "vpd_envs", "vpd_agent")
GAP = "…"  # in a message of the FAQ: what differs from case to case


@cache
def texts() -> tuple[str, ...]:
    """Every text in the sources, with a GAP where a value is put in."""
    found = []
    for path in (path for name in PACKAGES for path in (ROOT / name).rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.JoinedStr):
                parts = (v.value if isinstance(v, ast.Constant) else GAP for v in node.values)
                found.append("".join(map(str, parts)))
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                found.append(node.value)
    return tuple(" ".join(text.split()) for text in found)


def is_said(message: str) -> bool:
    """Whether one text has the fixed parts of a message, in their order."""
    parts = [" ".join(part.split()) for part in message.split(GAP)]
    pattern = re.compile(".*".join(map(re.escape, filter(None, parts))))
    return any(pattern.search(text) for text in texts())


def messages() -> list[str]:
    return re.findall(r"^```text\n(.*?)^```$", FAQ.read_text(), re.MULTILINE | re.DOTALL)


def test_a_message_that_nobody_says_would_be_seen():
    assert is_said("The engine has no image … Run `vpd sandbox build`.")
    assert not is_said("The engine has no image … Run `vpd sandbox make`.")
    assert not is_said("Run `vpd sandbox build`. … The engine has no image")


def test_every_message_of_the_faq_is_one_of_the_source():
    assert len(messages()) >= 20
    assert [message for message in messages() if not is_said(message)] == []


def test_a_quoted_message_has_more_than_gaps():
    fixed = [message.replace(GAP, "").split() for message in messages()]
    assert [words for words in fixed if len(words) < 4] == []
