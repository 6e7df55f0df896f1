"""The pages of the methods say what is there: the code that they quote, options, figures."""

import dataclasses
import json
import re
import textwrap
from pathlib import Path
from typing import Any, cast

import pytest

from vpd_agent.algorithms import ALGORITHMS
from vpd_agent.comparison.formats import interval
from vpd_agent.statistics.estimates import Estimate
from vpd_agent.train.presets import PRESETS

ROOT = Path(__file__).parents[1]
METHODS = ROOT / "docs" / "methods"
INDEX = METHODS / "index.md"
LAB = ROOT / "benchmarks" / "results" / "lab"
PAGES = sorted(METHODS.glob("*.md"))
SHOWN = ("laptop", "code", "science")  # the presets that a table of options has
INDENTS = (0, 4, 8, 12)

# "[file.py](../../path/to/file.py), more words:" and then a block of Python.
QUOTE = re.compile(r"\]\(([^)]+\.py)\)[^\n]*:\n\n```python\n(.*?)\n```", re.DOTALL)


@pytest.fixture(params=PAGES, ids=lambda page: page.stem)
def page(request):
    return request.param


def is_in(snippet: str, source: str) -> bool:
    """Whether these lines stand in the file, however far they are indented there."""
    lines = [textwrap.indent(snippet, " " * indent) for indent in INDENTS]
    return any(f"\n{candidate}\n" in f"\n{source}\n" for candidate in lines)


def test_a_snippet_that_is_not_in_the_file_would_be_seen():
    source = "def f():\n    first()\n    second()\n"
    assert is_in("first()\nsecond()", source)
    assert not is_in("second()\nfirst()", source)
    assert not is_in("irst()", source)


def test_every_snippet_is_in_the_file_that_is_named_before_it(page):
    quotes = QUOTE.findall(page.read_text())
    assert len(quotes) == page.read_text().count("```python")
    assert bool(quotes) == (page != INDEX)
    for file, snippet in quotes:
        assert is_in(snippet, (page.parent / file).read_text()), (file, snippet)


def test_every_page_quotes_the_file_of_its_method():
    for name, algorithm in ALGORITHMS.items():
        files = [file for file, _ in QUOTE.findall((METHODS / f"{name}.md").read_text())]
        module = algorithm.__module__.replace(".", "/")
        assert f"../../{module}.py" in files, name


def test_there_is_a_page_for_every_method_and_the_index_leads_to_it():
    assert {page.stem for page in PAGES if page != INDEX} == set(ALGORITHMS)
    rows = re.findall(r"^\| \[`([\w-]+)`\]\(([\w-]+)\.md\)", INDEX.read_text(), re.MULTILINE)
    assert sorted(rows) == sorted((name, name) for name in ALGORITHMS)


def own_fields(name: str) -> list[str]:
    """The fields that the class of a method itself has or changes, and those that presets set."""
    fields = [field.name for field in dataclasses.fields(cast(Any, ALGORITHMS[name]))]
    in_body = vars(ALGORITHMS[name])["__annotations__"]
    in_presets = {key for p in SHOWN for key in PRESETS[p].algorithms.get(name, {})}
    return [field for field in fields if field in in_body or field in in_presets]


def options_table(name: str) -> str:
    """Defaults of a method's own options, of the class and of each preset."""
    presets = [PRESETS[preset] for preset in SHOWN]
    columns = [ALGORITHMS[name](), *(preset.algorithm(name) for preset in presets)]
    rows = [[f"`{field}`", *(getattr(c, field) for c in columns)] for field in own_fields(name)]
    configs = [preset.config(name) for preset in presets]
    changed = {key for preset in presets for key in preset.train_changes.get(name, {})}
    for field in sorted({"learning_rate", *changed}):
        rows.append([f"`{field}`", "", *(getattr(config, field) for config in configs)])
    head = ["option", "default", *SHOWN]
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(map(str, line))} |" for line in lines)


@pytest.mark.parametrize("name", ALGORITHMS)
def test_the_options_on_a_page_are_those_of_the_code(name):
    assert options_table(name) in (METHODS / f"{name}.md").read_text()


def cell(rank: dict) -> str:
    text = interval(Estimate(**rank["final"]))
    return f"**{text}**" if rank["place"] in ("best", "tied") else text


def lab_table() -> str:
    """Held-out pass@1 at the end, of every method and task that the lab has run."""
    ranks = json.loads((LAB / "summary.json").read_text())["prize"]["ranks"]
    tasks = list(dict.fromkeys(rank["task"] for row in ranks.values() for rank in row))
    lines = [["method", *tasks], ["---"] * (len(tasks) + 1)]
    for name, row in ranks.items():
        cells = {rank["task"]: cell(rank) for rank in row}
        lines.append([name, *(cells.get(task, "not run") for task in tasks)])
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def test_the_figures_are_those_of_the_lab():
    assert lab_table() in INDEX.read_text()


def test_the_pages_name_what_the_lab_has_not_measured():
    measured = set(json.loads((LAB / "summary.json").read_text())["prize"]["ranks"])
    for name in ALGORITHMS:
        says = "The lab has not measured this method" in (METHODS / f"{name}.md").read_text()
        assert says == (name not in measured), name
