"""The examples run as they stand, are as short as they claim, and are what the commands take."""

import ast
import io
import subprocess
import sys
import tokenize
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[1] / "examples"
SAYS = {
    "new_environment": [
        "'fig kiwi': reward 0. Answer with each of the given words once.",
        "'fig pear kiwi': reward 0. The first word out of order is pear.",
        "'fig kiwi pear': reward 1. In order.",
    ],
    "new_source": [
        "Correct (1 of 2 attempts are correct.)",
        "Wrong answer (1 of 2 attempts are correct.)",
        "An answer that cannot be read (0 of 1 attempts are correct.)",
    ],
}


def run(*arguments, cwd):
    result = subprocess.run(
        [sys.executable, "-W", "error", *arguments],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
        cwd=cwd,
    )
    assert result.returncode == 0, result.stderr
    return result.stdout


def lines_of_code(source):
    """Lines with code on them: no blank ones, comments and docstrings."""
    tree = ast.parse(source)
    first = tree.body[0]
    docstring = range(first.lineno, first.end_lineno + 1) if ast.get_docstring(tree) else ()
    other = (tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT)
    lines = set()
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type not in (*other, tokenize.ENDMARKER):
            lines |= set(range(token.start[0], token.end[0] + 1))
    return len(lines - set(docstring))


@pytest.mark.parametrize("name", SAYS)
def test_an_example_says_what_it_should_in_a_fresh_process(name, tmp_path):
    assert run(str(EXAMPLES / f"{name}.py"), cwd=tmp_path).splitlines() == SAYS[name]


@pytest.mark.parametrize("path", sorted(EXAMPLES.glob("new_*.py")), ids=lambda path: path.stem)
def test_an_example_is_under_forty_lines_of_code(path):
    assert 10 < lines_of_code(path.read_text()) < 40


def test_the_commands_take_the_environment_from_the_folder_of_its_module():
    shown = run(
        *("-m", "vpd_agent.cli", "show", "--env", "new_environment:SortWords-v0"),
        *("--problem", "pear fig kiwi"),
        cwd=EXAMPLES,
    )
    assert "Put these words in alphabetical order, separated by spaces: pear fig kiwi" in shown


def test_the_trainers_environment_has_both_splits_and_takes_sources_by_name():
    program = (
        "from vpd_agent.rollout.environment import EnvironmentSpec\n"
        "spec = EnvironmentSpec('new_environment:SortWords-v0', 'status+siblings')\n"
        "for split in ('train', 'test'):\n"
        "    envs = spec.make(2, split)\n"
        "    problem = envs.unwrapped.problem_ids[0]\n"
        "    envs.reset(options={'problem_ids': [problem] * 2})\n"
        "    print(envs.step([' '.join(sorted(problem.split())), ''])[-1]['feedback'][1])\n"
    )
    printed = run("-c", program, cwd=EXAMPLES)
    shown = "A correct attempt at the same problem:\n\n"
    assert printed == f"{shown}fig kiwi pear\n{shown}ash elm oak\n"


def test_the_readme_of_the_examples_names_each():
    readme = (EXAMPLES / "README.md").read_text()
    assert all(f"[{path.name}]" in readme for path in EXAMPLES.glob("*.py"))
