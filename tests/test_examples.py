"""The examples run as they stand, are as short as they claim, and are what the commands take."""

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from importlib.machinery import SourceFileLoader
from pathlib import Path

import gymnasium as gym
import pytest

from vpd_agent.cli.main import main

EXAMPLES = Path(__file__).parents[1] / "examples"
OURS = sorted(EXAMPLES.glob("new_*.py"))
README = (EXAMPLES / "README.md").read_text()


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


def test_the_environment_is_one_of_gymnasiums_by_its_name():
    program = (
        "import gymnasium as gym\n"
        "env = gym.make('new_environment:SortWords-v0', max_turns=3)\n"
        "env.reset(options={'problem_id': 'pear fig kiwi'})\n"
        "for answer in ('fig kiwi', 'fig pear kiwi', 'fig kiwi pear'):\n"
        "    feedback, reward, *_ = env.step(answer)\n"
        "    print(f'{reward:g} {feedback}')\n"
    )
    assert run("-c", program, cwd=EXAMPLES).splitlines() == [
        "0 Answer with each of the given words once.",
        "0 The first word out of order is pear.",
        "1 In order.",
    ]


def test_the_source_counts_what_is_solved_in_a_fresh_process(tmp_path):
    assert run(str(EXAMPLES / "new_source.py"), cwd=tmp_path).splitlines() == [
        "Correct (1 of 2 attempts are correct.)",
        "Wrong answer (1 of 2 attempts are correct.)",
        "An answer that cannot be read (0 of 1 attempts are correct.)",
    ]


def test_each_of_the_five_kinds_is_one_file_of_fewer_than_forty_lines():
    names = ["new_algorithm", "new_cage", "new_engine", "new_environment", "new_source"]
    assert [path.stem for path in OURS] == names
    assert all(10 < len(path.read_text().splitlines()) < 40 for path in OURS)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """The current folder: nothing but copies of the five files."""
    for path in OURS:
        shutil.copy(path, tmp_path)
        sys.modules.pop(path.stem, None)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])  # the commands add the current folder
    before = set(gym.registry) - {"SortWords-v0"}
    gym.registry.pop("SortWords-v0", None)  # other tests may have imported the example
    yield tmp_path
    for name in [n for n in gym.registry if n not in before and not n.startswith("vpd/")]:
        del gym.registry[name]
    for path in OURS:
        sys.modules.pop(path.stem, None)


def commands() -> list[list[str]]:
    """Those of the README's block, as words behind `vpd`."""
    block = README.split("```bash\n")[1].split("```")[0].replace("\\\n", " ")
    return [shlex.split(line)[1:] for line in block.splitlines()]


@pytest.mark.parametrize("command", commands(), ids=["environment", "cage"])
def test_all_kinds_train_together_from_a_folder_outside_the_package(command, folder, capfd):
    small = "--steps 1 --prompts-per-step 2 --group-size 2 --max-response-tokens 4 --eval-every 0"
    assert main([*command, *small.split(), "--samples-every", "1", "--quiet"]) == 0
    out = folder / command[command.index("--out") + 1]
    config = json.loads((out / "config.json").read_text())
    assert config["algorithm"] == {"name": "new_algorithm:Reinforce", "entropy_bonus": 0.0}
    chosen = {f"--{k}": v for k, v in config["options"].items() if f"--{k}" in command}
    assert chosen == dict(zip(command[2::2], command[3::2], strict=True))
    samples = [json.loads(line) for line in (out / "samples.jsonl").read_text().splitlines()]
    assert samples
    assert all(row["feedback"].endswith(" attempts are correct.)") for row in samples)
    logged = capfd.readouterr().err
    # Two problems with two answers of four tokens each.
    assert "sampled 16 tokens" in logged
    assert ("characters: " in logged) == ("--sandbox" in command)
    assert {path.name for path in folder.iterdir()} - {"__pycache__"} == {
        *(path.name for path in OURS), out.parts[-2]
    }  # fmt: skip


def test_every_row_of_the_table_is_part_of_a_command_that_the_tests_run():
    rows = [line.split("|") for line in README.splitlines() if line.startswith("| [new_")]
    assert [row[1].split("]")[0].strip(" [") for row in rows] == [
        "new_environment.py", "new_source.py", "new_algorithm.py", "new_engine.py", "new_cage.py"
    ]  # fmt: skip
    run_by_tests = " ".join(" ".join(["vpd", *command]) for command in commands())
    assert all(row[3].strip(" `") in run_by_tests for row in rows)


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


def test_the_plain_loop_samples_judges_and_learns(tmp_path, capsys, monkeypatch):
    torch = pytest.importorskip("torch")
    from transformers import AutoModelForCausalLM, GenerationMixin

    from vpd_agent.tiny.model import tiny_policy

    tiny_policy().save(tmp_path)
    trained = []
    generate = GenerationMixin.generate
    monkeypatch.setattr(
        GenerationMixin,
        "generate",
        lambda model, **k: trained.append(model) or generate(model, **k),
    )
    example = loaded("plain_loop")
    assert example.main(str(tmp_path), steps=2) == [0.0, 0.0]  # of random weights
    assert "step 2: 0% solved, loss " in capsys.readouterr().out
    before = AutoModelForCausalLM.from_pretrained(tmp_path).parameters()
    assert any(
        not torch.equal(old, new) for old, new in zip(before, trained[0].parameters(), strict=True)
    )
    assert len((EXAMPLES / "plain_loop.py").read_text().splitlines()) < 60


@pytest.mark.slow
def test_the_plain_loop_teaches_the_tiny_model():
    from vpd_agent.tiny.warmup import WarmupConfig, cache_folder, warm_policy

    warm_policy(WarmupConfig())
    solved = loaded("plain_loop").main(str(cache_folder(WarmupConfig())))
    assert sum(solved[-10:]) > 2 * sum(solved[:10])


def loaded(name):
    return SourceFileLoader(name, str(EXAMPLES / f"{name}.py")).load_module()


NOTEBOOK = EXAMPLES / "first_steps.ipynb"


def texts(cell):
    """What a cell has printed."""
    assert all(output["output_type"] != "error" for output in cell["outputs"])
    printed = [output.get("text", "") for output in cell["outputs"]]
    return "".join("".join(lines) for lines in printed)


def test_the_notebook_shows_a_run_and_nothing_of_the_machine_that_made_it():
    notebook = json.loads(NOTEBOOK.read_text())
    cells = [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]
    assert [cell["execution_count"] for cell in cells] == [*range(1, len(cells) + 1)]
    assert "feedback: " in texts(cells[0])
    assert any(
        "image/png" in output.get("data", {}) for cell in cells for output in cell["outputs"]
    )
    assert all("name" not in out or out["name"] == "stdout" for c in cells for out in c["outputs"])
    shown = [json.dumps(out) for c in cells for out in c["outputs"] if "data" not in out]
    assert not re.search(r"/(tmp|home|root|work|Users)/", "".join(shown))
    assert NOTEBOOK.stat().st_size < 100_000


@pytest.mark.slow
def test_the_notebook_runs_from_end_to_end(tmp_path, monkeypatch):
    import nbformat
    from nbclient import NotebookClient

    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(EXAMPLES.parent), *sys.path]))
    committed = nbformat.read(NOTEBOOK, as_version=4)
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    resources = {"metadata": {"path": str(tmp_path)}}
    NotebookClient(notebook, kernel_name="python3", resources=resources).execute()
    printed = {cell["id"]: texts(cell) for cell in notebook.cells if cell.cell_type == "code"}
    shown = {cell["id"]: texts(cell) for cell in committed.cells if cell.cell_type == "code"}
    assert printed["environment"] == shown["environment"]
    curves = dict(line.split(": ") for line in printed["curve"].splitlines())
    assert list(curves) == ["vpd", "grpo"]
    before, after = (float(words.split()[0]) for words in curves["vpd"].split(", "))
    assert after > 2 * before
    assert len(printed["tokens"].splitlines()) > 4


def test_the_readme_of_the_examples_names_each():
    files = [*EXAMPLES.glob("*.py"), *EXAMPLES.glob("*.ipynb")]
    assert all(f"[{path.name}]" in README for path in files)
