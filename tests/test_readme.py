"""What the README and the pages of docs/ tell to type works: their Python and their commands run,
or are at least parsed by the commands themselves; and their links lead to what is there."""

import argparse
import ast
import importlib
import json
import os
import re
import subprocess
import sys
import tomllib
from functools import cache
from itertools import pairwise
from pathlib import Path

import pytest
import tyro

from pages import MARKS, PAGES, ROOT, WITHOUT_COMMANDS, Block, Page
from vpd_agent.algorithms import ALGORITHMS
from vpd_agent.cli.main import COMMANDS, main

# Excerpts of our own code, which test_method_pages.py finds there.
EXCERPTS = "docs/methods/"
SHOWN = {"text", "json", "yaml", "toml"}  # languages of blocks that nobody types
README = PAGES[0]
BLOCKS = [block for page in PAGES if not page.name.startswith(EXCERPTS) for block in page.blocks]
SHELL = [block for block in BLOCKS if block.language == "shell"]
PYTHON = [block for block in BLOCKS if block.language == "python"]
# Of others than us; what they are given is checked as far as it is a file of ours.
OTHERS = {
    "accelerate",
    "cd",
    "cp",
    "curl",
    "echo",
    "export",
    "pip",
    "sbatch",
    "squeue",
    "swift",
    "vf-eval",
    "vllm",
}
ENDLESS = {"curl", "pip", "serve"}  # no test does these
OURS = ("sandbox", "vpd_agent", "vpd_envs")
PLACEHOLDER = re.compile(r"[A-Z][A-Z_]+(/.*|\..*)?")  # DIR, PATH_OR_NAME
MADE = ("--out", ">")  # the file or folder behind these is made by the line
READ = ("--data", "--answers", "--stdin", "--model", "--config")  # the one behind these is there


class Parsed(Exception):
    """Raised by a command as soon as it has read its flags."""


@pytest.fixture
def only_parsing(monkeypatch):
    """Commands stop once they have read their flags."""

    def stops(function):
        def parse(*arguments, **options):
            function(*arguments, **options)
            raise Parsed

        return parse

    monkeypatch.setattr(tyro, "cli", stops(tyro.cli))
    parser = argparse.ArgumentParser
    monkeypatch.setattr(parser, "parse_args", stops(parser.parse_args))


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


def name_of(page: Page) -> str:
    return page.name


def ours(line: list[str]) -> list[str] | None:
    """The words behind `vpd`, however it is started."""
    if line[0] == "vpd":
        return line[1:]
    return line[line.index("vpd_agent.cli") + 1 :] if "vpd_agent.cli" in line else None


VPD = [(words, block) for block in SHELL for line in block.commands if (words := ours(line))]


def folder_of_a_reader(folder: Path, page: Page) -> Path:
    """What is at hand where commands are typed: the repository's files, those of examples/ beside
    them, and the files that the page tells to write."""
    hidden = (".", "build", "runs")
    for entry in [*ROOT.iterdir(), *(ROOT / "examples").iterdir()]:
        if not (entry.name.startswith(hidden) or (folder / entry.name).exists()):
            (folder / entry.name).symlink_to(entry)
    for block in page.blocks:
        if block.file:
            (folder / block.file).write_text(block.text)
    return folder


def run(page: Page, folder: Path, blocks: list[Block], seconds: float) -> None:
    """In a process of its own, with this Python in front of all others."""
    for block in blocks:
        for line in block.commands if block.language == "shell" else ():
            word = (ours(line) or line)[0]
            assert word not in ENDLESS, f"{block.where}: no test runs {word}; mark it as parsed."
    given = [[b.language, b.shell if b.language == "shell" else b.text, b.where] for b in blocks]
    paths = {"PATH": str(Path(sys.executable).parent), "PYTHONPATH": str(ROOT)}
    environment = os.environ | {
        name: os.pathsep.join(filter(None, (path, os.environ.get(name))))
        for name, path in paths.items()
    }
    result = subprocess.run(
        [sys.executable, ROOT / "tests/run_page.py"],
        input="".join(json.dumps(block) + "\n" for block in given),
        cwd=folder_of_a_reader(folder, page),
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=seconds,
    )
    assert result.returncode == 0, f"{result.stdout[-2000:]}\n{result.stderr[-3000:]}"


def runnable(page: Page, *marks: str | None) -> list[Block]:
    return [b for b in page.blocks if b in SHELL + PYTHON and b.mark in marks]


@pytest.mark.parametrize("page", [p for p in PAGES if runnable(p, None)], ids=name_of)
def test_the_blocks_of_a_page_run(page, tmp_path):
    run(page, tmp_path, runnable(page, None), seconds=600)


@pytest.mark.slow
@pytest.mark.parametrize("page", [p for p in PAGES if runnable(p, "slow")], ids=name_of)
def test_the_blocks_of_a_page_that_take_longer_run_after_the_others(page, tmp_path):
    run(page, tmp_path, runnable(page, None, "slow"), seconds=1800)


def test_every_block_is_found_and_of_a_kind_that_is_checked():
    for page in PAGES:
        assert len(page.blocks) * 2 == len(re.findall(r"^\s*```", page.text, re.MULTILINE)), page
    assert {block.language for block in BLOCKS} <= {"python", "shell"} | SHOWN
    assert {block.mark for block in BLOCKS} <= {None, *MARKS}


def test_pages_show_every_command():
    assert {words[0] for words, _ in VPD} == set(COMMANDS)


@pytest.mark.parametrize("page", [p for p in PAGES if set(p.blocks) & set(SHELL)], ids=name_of)
def test_commands_take_what_they_are_given(page, only_parsing, help_of, tmp_path, monkeypatch):
    monkeypatch.chdir(folder_of_a_reader(tmp_path, page))
    for words, block in VPD:
        if block.page != page.name:
            continue
        if "--resume" in words:  # of a run that is not here
            flags = {word.split("=")[0] for word in words if word.startswith("--")}
            assert flags <= help_of(*words[:2]), block.where
        elif "--help" not in words:
            with pytest.raises(Parsed):
                main(words)


def test_every_other_command_is_known_and_names_files_that_are_there():
    targets = re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    for block in SHELL:
        for line in block.commands:
            command = [word for word in line if not re.fullmatch(r"\w+=\S*", word)] or ["export"]
            if command[0] == "make":
                assert set(command[1:]) <= set(targets), block.where
            elif command[0] == "python":
                check_script(command[1:], block)
            elif command[0] == "pip":
                named = re.findall(r"\.\[([\w,]+)\]", " ".join(command))
                assert {name for names in named for name in names.split(",")} <= set(extras)
            elif command[0] == "sbatch":
                assert any((ROOT / word).is_file() for word in command[1:]), block.where
            else:
                assert ours(line) or command[0] in OTHERS, f"{block.where}: {command}"


def check_script(words: list[str], block: Block) -> None:
    """A script that is there or that the page tells to write, and each flag a word of it."""
    if words[0] == "-m":
        assert words[1] in ("sandbox", "pytest", "vpd_agent.cli"), block.where
        return
    written = {b.file: b.text for b in PYTHON if b.page == block.page and b.file}
    text = written.get(words[0]) or (ROOT / words[0]).read_text()
    for word in words[1:]:
        if word.startswith("--"):
            name = word.removeprefix("--")
            assert word in text or f"{name.replace('-', '_')}:" in text, f"{block.where}: {word}"


def test_flags_that_the_text_names_are_those_of_a_command(help_of):
    text = "\n".join(page.text for page in PAGES if not page.name.startswith(EXCERPTS))
    named = set(re.findall(r"`(--[a-z][a-z-]+)", text))
    there = [help_of("train", name) for name in ALGORITHMS]
    others = (["eval"], ["solve"], ["compare"], ["lab"], ["judge"], ["serve"], ["sandbox", "run"])
    there += [help_of(*words) for words in others]
    assert named <= set.union(*there)


def test_every_file_of_a_command_is_in_the_repository_or_made_by_an_earlier_one():
    read = []
    for page in PAGES:
        made = {"tiny", "tiny-warm", "tiny-code", "smollm2"}
        made |= {block.file for block in page.blocks if block.file}
        for block in page.blocks:
            made |= set(re.findall(r'Path\("([^"]+)"\)\.write_text', block.text))
        for block in (b for b in page.blocks if b in SHELL):
            for flag, value in (pair for line in block.commands for pair in pairwise(line)):
                if flag in MADE:
                    made.add(value)
                elif flag in READ:
                    read.append(value)
                    at_hand = value in made or (ROOT / value).exists() or "Qwen/" in value
                    assert at_hand or PLACEHOLDER.fullmatch(value), f"{block.where}: {value}"
    assert "examples/data/programs.jsonl" in read


def imported(module):
    """None for an adapter to what we do not develop with."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        if "This adapter is for" in str(error):
            return None
        raise


@pytest.mark.parametrize("block", PYTHON, ids=lambda block: block.where)
def test_python_that_is_not_run_is_python_and_imports_what_is_there(block):
    for node in ast.walk(ast.parse(block.text)):
        if isinstance(node, ast.ImportFrom) and str(node.module).startswith(OURS):
            module = imported(str(node.module))
            if module is None:
                continue
            assert all(hasattr(module, alias.name) for alias in node.names), block.where
    named = re.findall(r'data="([^"]+)"', block.text)
    assert all((ROOT / name).is_file() for name in named)


@pytest.mark.parametrize("page", [*PAGES, *WITHOUT_COMMANDS], ids=name_of)
def test_links_lead_to_what_is_there(page):
    for link in page.links:
        target, _, anchor = link.partition("#")
        path = (page.path.parent / target).resolve() if target else page.path
        assert path.exists(), link
        assert not anchor or anchor in Page(path).anchors, link


def test_the_pages_have_links():
    assert sum(len(list(page.links)) for page in [*PAGES[1:], *WITHOUT_COMMANDS]) > 100


def test_every_page_is_in_the_navigation_of_the_site():
    config = tomllib.loads((ROOT / "zensical.toml").read_text())
    named = set(leaves(config["project"]["nav"]))
    assert all((ROOT / name).is_file() for name in named)
    assert {page.name for page in PAGES} <= named


def leaves(tree):
    if isinstance(tree, str):
        yield tree
    else:
        for branch in tree.values() if isinstance(tree, dict) else tree:
            yield from leaves(branch)


def test_the_readme_is_short_and_leads_to_the_pages():
    assert len(README.text.splitlines()) <= 150
    assert {"docs/index.md", "docs/tutorials/laptop.md"} <= set(README.links)
