"""What the README tells to type works: the commands have those flags, and the files are there."""

import re
import shlex
from functools import cache
from itertools import pairwise
from pathlib import Path

import pytest

from vpd_agent.algorithms import ALGORITHMS
from vpd_agent.cli.main import COMMANDS, main

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text().replace("\\\n", " ")  # a command of several lines is one
PLACEHOLDER = re.compile(r"[A-Z_]+(/.*)?")  # DIR, PATH_OR_NAME
MADE = ("--out", ">")  # the file or folder behind these is made by the line
READ = ("--data", "--answers", "--stdin", "--model", "--config")  # the one behind these is there


def shell_lines() -> list[list[str]]:
    """The words of each command in blocks without a language; a `|` begins another."""
    blocks = re.findall(r"^```(\w*)\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)
    plain = [line for language, block in blocks if not language for line in block.splitlines()]
    lines = [line.removeprefix("$ ") for line in plain]
    known = ("vpd ", "torchrun ", "echo ", "make ")
    commands = [line for line in lines if line.startswith(known)]
    return [shlex.split(part, comments=True) for line in commands for part in line.split(" | ")]


LINES = shell_lines()
VPD = [line[line.index("vpd_agent.cli") :] if line[0] == "torchrun" else line for line in LINES]
VPD = [line[1:] for line in VPD if line[0] in ("vpd", "vpd_agent.cli")]


@pytest.fixture
def help_of(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "300")

    @cache
    def ask(*words: str) -> set[str]:
        """The flags of a command, by its --help."""
        flag = "--help-all" if words[0] == "train" else "--help"
        try:
            code = main([*words, flag])
        except SystemExit as stop:
            code = stop.code
        assert code == 0, words
        return set(re.findall(r"--[a-z][\w.-]*", capsys.readouterr().out))

    return ask


def test_the_readme_shows_every_command():
    assert {line[0] for line in VPD} == set(COMMANDS)


def test_every_flag_of_a_command_in_the_readme_is_one(help_of):
    for line in VPD:
        words = line[: 2 if line[0] in ("train", "sandbox") else 1]
        flags = {word.split("=")[0] for word in line if word.startswith("--") and word != "--"}
        assert flags <= help_of(*words), line


def test_flags_that_the_text_names_are_those_of_a_command(help_of):
    named = set(re.findall(r"`(--[a-z][a-z-]+)", README))
    there = [help_of("train", name) for name in ALGORITHMS]
    others = (["eval"], ["solve"], ["compare"], ["lab"], ["judge"], ["sandbox", "run"])
    there += [help_of(*words) for words in others]
    assert named <= set.union(*there)


def test_every_file_of_a_command_is_in_the_repository_or_made_by_an_earlier_one():
    made = {"tiny", "tiny-warm", "tiny-code", "Qwen/Qwen3-1.7B"}  # the last is on the hub
    read = []
    for line in LINES:
        for flag, value in pairwise(line):
            if flag in MADE:
                made.add(value)
            elif flag in READ or value.endswith(".py"):
                read.append(value)
                at_hand = value in made or (ROOT / value).exists()
                assert at_hand or PLACEHOLDER.fullmatch(value), line
    assert "examples/data/programs.jsonl" in read


def test_every_file_of_a_python_block_is_in_the_repository():
    named = re.findall(r'data="([^"]+)"', README)
    assert named
    assert all((ROOT / name).is_file() for name in named)


def test_links_lead_to_what_is_there():
    targets = [t for t in re.findall(r"\]\(([^)#]+)", README) if not t.startswith("https:")]
    assert targets
    for target in targets:
        assert (ROOT / target).exists(), target
