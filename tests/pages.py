"""The README and the pages of docs/: their blocks of code, commands, links and anchors."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

ROOT = Path(__file__).parents[1]
# A comment right before a block says what is different for it; see docs/development.md.
BLOCK = re.compile(
    r"^(?:<!-- (?P<mark>\w+): (?P<reason>[^\n]+) -->\n)?^```(?P<language>\w*)\n(?P<text>.*?)^```$",
    re.MULTILINE | re.DOTALL,
)
MARKS = ("parsed", "slow", "file")  # never run; run with -m slow only; to be written to that file


@dataclass(frozen=True)
class Block:
    """A block of code. language: python, shell (also written as none), or what is only shown."""

    page: str
    line: int
    language: str
    text: str
    mark: str | None
    reason: str | None

    @property
    def where(self) -> str:
        return f"{self.page}:{self.line}"

    @property
    def file(self) -> str | None:
        """The name of the file that the block is, which may be its first line."""
        if self.mark == "file":
            return self.reason
        named = re.match(r"# ([\w/]+\.py)\n", self.text)
        return named and named[1]

    @property
    def shell(self) -> str:
        """What is typed: the lines behind `$ ` if there are any, else all."""
        lines = self.text.replace("\\\n", " ").splitlines()
        typed = [line.removeprefix("$ ") for line in lines if line.startswith("$ ")]
        return "\n".join(typed or lines) + "\n"

    @property
    def commands(self) -> list[list[str]]:
        """The words of each command; a `|` or `&&` begins another."""
        found: list[list[str]] = []
        for line in self.shell.splitlines():
            found.append([])
            for word in shlex.split(line, comments=True):
                if word in ("|", "&&"):
                    found.append([])
                else:
                    found[-1].append(word)
        return [words for words in found if words]


@dataclass(frozen=True)
class Page:
    path: Path

    @property
    def name(self) -> str:
        return self.path.relative_to(ROOT).as_posix()

    @cached_property
    def text(self) -> str:
        return self.path.read_text()

    @cached_property
    def blocks(self) -> list[Block]:
        return [
            Block(
                self.name,
                self.text[: found.start("text")].count("\n"),
                found["language"] or "shell",
                found["text"],
                found["mark"],
                found["reason"],
            )
            for found in BLOCK.finditer(self.text)
        ]

    @cached_property
    def prose(self) -> str:
        """The text without its blocks of code and without code between backticks."""
        without = re.sub(r"^```.*?^```$", "", self.text, flags=re.MULTILINE | re.DOTALL)
        return re.sub(r"`[^`\n]+`", "`code`", without)

    @cached_property
    def anchors(self) -> set[str]:
        """As a code host makes them of headings."""
        without = re.sub(r"^```.*?^```$", "", self.text, flags=re.MULTILINE | re.DOTALL)
        found: set[str] = set()
        for title in re.findall(r"^#+ (.+)$", without, re.MULTILINE):
            plain = re.sub(r"\]\([^)]*\)", "", title).replace("[", "").lower()
            slug = re.sub(r"[^\w\- ]", "", plain).strip().replace(" ", "-")
            same = sum(bool(re.fullmatch(rf"{re.escape(slug)}(-\d+)?", other)) for other in found)
            found.add(f"{slug}-{same}" if same else slug)
        return found

    @property
    def links(self) -> Iterator[str]:
        """What the page leads to or shows, but for other sites."""
        targets = re.findall(r"\]\(([^)\s]+)\)", self.prose)
        targets += re.findall(r'(?:src|srcset|href)="([^"]+)"', self.prose)
        return (target for target in targets if not re.match(r"https?:|mailto:", target))


WITHOUT_COMMANDS = [Page(ROOT / name) for name in ("CONTRIBUTING.md", "CHANGELOG.md")]
PAGES = [Page(ROOT / "README.md"), *map(Page, sorted((ROOT / "docs").rglob("*.md")))]
