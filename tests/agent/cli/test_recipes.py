"""The recipes: each can be read, down to the last key, for each of its methods."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from vpd_agent.algorithms import ALGORITHMS
from vpd_agent.cli.config_file import entries_for, read, with_defaults
from vpd_agent.cli.train_flags import TrainArguments, flag_groups, read_arguments
from vpd_agent.train.dry_run import Report, dry_run
from vpd_agent.train.estimate import KNOWN_SHAPES
from vpd_agent.train.presets import PRESETS
from vpd_agent.train.run import make_plan

ROOT = Path(__file__).parents[3]
RECIPES = sorted((ROOT / "recipes").glob("*.yaml"))
TABLE = (ROOT / "recipes/README.md").read_text()
PARTS = ("training", "sampling")
METHODS = ("vpd", "sdpo", "grpo")
BIOLOGY = {
    "domain": "biology",
    "prompt": "Which organelle has its own DNA?\n\nA: nucleolus\nB: mitochondrion",
    "answer": "B",
    "system": "End with <answer>X</answer>.",
}


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> dict[str, Path]:
    """A few problems for each environment of the recipes."""
    folder = tmp_path_factory.mktemp("data")
    lines = (ROOT / "examples/data/programs.jsonl").read_text().splitlines()
    programs = [json.loads(line) | {"contest_date": "2025-03-01T00:00:00"} for line in lines]
    tools = (ROOT / "tests/fixtures/tool_use.jsonl").read_text().splitlines()
    split = ("train", "test")
    rows = {
        "vpd/LiveCodeBench-v0": programs,
        "vpd/SciKnowEval-v0": [BIOLOGY | {"idx": i, "split": s} for i, s in enumerate(split)],
        "vpd/ToolUse-v0": [
            json.loads(line) | {"split": s} for line, s in zip(tools, split, strict=False)
        ],
        "vpd/Math-v0": [
            {"id": s, "problem": f"What is {i} + 2?", "answer": str(i + 2), "split": s}
            for i, s in enumerate(split)
        ],
    }
    found = {env: folder / f"{env.split('/')[1]}.jsonl" for env in rows}
    for env, path in found.items():
        path.write_text("".join(json.dumps(row) + "\n" for row in rows[env]))
    return found


def arguments(recipe: Path, method: str) -> TrainArguments:
    """What `read_arguments` makes of the recipe alone. (It parses all flags, which takes long.)"""
    entries = entries_for((method, method), read(recipe))
    preset = {entry.key: entry.value for entry in entries}["preset"]
    groups = with_defaults(flag_groups(ALGORITHMS[method], PRESETS[preset]), entries)
    found = {name: replace(group.default) for name, group in groups.items()}
    return TrainArguments(**found, given=frozenset(entry.key for entry in entries))


def report_of(given: TrainArguments, **options: Any) -> Report:
    flags: dict[str, Any] = vars(given.options) | {"config": given.config} | options
    return dry_run(make_plan(given.algorithm, template=given.template, **flags))


def test_there_is_one_for_each_published_run():
    assert [recipe.stem for recipe in RECIPES] == [
        "cold-start-qwen3-4b-base",
        "livecodebench-qwen3-8b",
        "math500-qwen3-8b",
        "sciknoweval-olmo3-7b",
        "sciknoweval-qwen3-1.7b",
        "sciknoweval-qwen3-8b",
        "tooluse-qwen3-8b",
    ]


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("recipe", RECIPES, ids=lambda recipe: recipe.stem)
def test_it_dry_runs(recipe, method, data):
    env = next(entry.value for entry in read(recipe) if entry.key == "env")
    report = report_of(arguments(recipe, method), data=str(data[env]))
    assert "estimated" in report.facts["problems"]  # they were read and measured
    assert report.costs
    assert report.facts["folder"] == f"runs/{recipe.stem}/{method}"


def test_the_command_reads_them_so():
    recipe = ROOT / "recipes/livecodebench-qwen3-8b.yaml"
    for method in METHODS:
        given = read_arguments(method, ["--config", str(recipe)])
        expected = arguments(recipe, method)
        assert replace(given.options, config=None) == expected.options
        assert given[1:-1] == expected[1:-1]
        assert given.given == expected.given | {"config"}


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda recipe: recipe.stem)
def test_it_needs_no_data_and_knows_its_model(recipe):
    arguments_ = arguments(recipe, "vpd")
    assert arguments_.options.model in KNOWN_SHAPES
    assert "a prompt is taken to have 2048 tokens" in report_of(arguments_).facts["problems"]


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda recipe: recipe.stem)
def test_it_says_everything_about_its_methods_that_has_no_default_of_the_papers(recipe):
    entries = read(recipe)
    for method in METHODS:
        said = {entry.key for entry in entries if entry.method in ("", method)}
        assert {"out", "learning_rate", "mini_batches", "steps", "warmup_steps"} <= said, method
    assert {entry.method for entry in entries} == {"", *METHODS}


def test_the_values_of_the_papers_come_through():
    code = {m: arguments(ROOT / "recipes/livecodebench-qwen3-8b.yaml", m) for m in METHODS}
    assert [code[m].config.learning_rate for m in METHODS] == [1e-6] * 3
    assert [code[m].config.mini_batches for m in METHODS] == [1, 32, 4]
    assert (code["vpd"].algorithm.beta, code["vpd"].algorithm.e_step_every) == (0.1, 5)
    assert (code["sdpo"].algorithm.ema_rate, code["sdpo"].algorithm.alpha) == (0.01, 1.0)
    science = {m: arguments(ROOT / "recipes/sciknoweval-qwen3-8b.yaml", m) for m in METHODS}
    assert [science[m].config.learning_rate for m in METHODS] == [1e-5, 1e-5, 1e-6]
    assert (science["sdpo"].algorithm.top_k, science["sdpo"].algorithm.alpha) == (100, 0.5)
    assert science["grpo"].algorithm.clip_high == 0.28


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda recipe: recipe.stem)
def test_the_table_says_what_the_dry_run_says(recipe):
    report = report_of(arguments(recipe, "vpd"))
    costs = {row[0].strip(): dict(zip(report.columns, row, strict=True)) for row in report.costs}
    long, short = (costs[f"a step, answers of {n} tokens"]["4 sharded"] for n in (8192, 2048))
    training, sampling = (costs[f"all while {what}"]["4 sharded"] for what in PARTS)
    (row,) = [line for line in TABLE.splitlines() if f"({recipe.name})" in line]
    cells = [cell.strip() for cell in row.strip("|").split("|")]
    assert cells[0] == f"[{recipe.stem}]({recipe.name})"
    assert cells[3:] == [training, sampling, f"{short} to {long}"]


# --- what recipes are made with: methods and a base ---------------------------------------------

CHOICE = ["--env", "vpd/MiniChoice-v0", "--model", "tiny", "--out", "runs/none"]


def told(tmp_path: Path, method: str, **files: str) -> TrainArguments:
    for name, text in files.items():
        (tmp_path / f"{name}.yaml").write_text(text)
    return read_arguments(method, [*CHOICE, "--config", str(tmp_path / "a.yaml")])


def test_what_is_said_for_a_method_holds_for_it_alone_and_over_the_rest(tmp_path):
    text = "methods:\n  vpd: {steps: 3, beta: 0.3}\n  sdpo: {steps: 4}\nsteps: 2\n"
    vpd, sdpo, grpo = (told(tmp_path, m, a=text) for m in METHODS)
    assert [read.config.steps for read in (vpd, sdpo, grpo)] == [3, 4, 2]
    assert vpd.algorithm.beta == 0.3


def test_a_file_is_over_its_base_and_that_over_its_own(tmp_path):
    files = {
        "a": "base: b.yaml\nsteps: 5\n",
        "b": "base: c.yaml\nsteps: 4\ngroup_size: 4\nmethods: {sdpo: {alpha: 0.25}}\n",
        "c": "group_size: 3\nseed: 9\n",
    }
    read = told(tmp_path, "sdpo", **files)
    config = read.config
    assert (config.steps, config.group_size, config.seed) == (5, 4, 9)
    assert read.algorithm.alpha == 0.25


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("methods: {vpdd: {steps: 1}}", "line 1: Unknown algorithm 'vpdd'. Did you mean 'vpd'"),
        ("methods:\n  grpo: 3", "line 2: methods.grpo must be names of flags"),
        ("methods: {grpo: {stepps: 3}}", "line 1: unknown key 'stepps'. Did you mean 'steps'"),
        ("methods: {grpo: {steps: 3, steps: 4}}", "'steps' is there twice"),
        ("base: a.yaml", "a.yaml is its own 'base'"),
        ("base: gone.yaml", "There is no configuration file .*gone.yaml"),
    ],
)
def test_a_bad_file_is_refused_by_its_line(tmp_path, text, said):
    with pytest.raises((ValueError, FileNotFoundError), match=said):
        told(tmp_path, "grpo", a=text)


def test_methods_of_ones_own_are_passed_over(tmp_path):
    read = told(tmp_path, "grpo", a="steps: 2\nmethods: {'mine:Own': {steps: 1}}")
    assert read.config.steps == 2
