"""The benchmarks of the environments run, and the answers they make get the verdicts they name."""

import json
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

TESTS = Path(__file__).parent
BENCHMARKS = TESTS.parent / "benchmarks"
sys.path.append(str(BENCHMARKS))

import answers  # noqa: E402

import envs  # noqa: E402
from vpd_agent.cli.main import main  # noqa: E402

SMALLEST = envs.Effort(rounds=1, slow_seconds=5.0, answers=40, stream=200)
PROGRAMS = {"plus-one": ("print(int(input()) + 1)", "print(int(input()))")}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """A folder laid out like the shared data, of rows of our own."""
    folder = tmp_path_factory.mktemp("data")
    for name in ("code", "math", "sciknoweval/biology", "tooluse"):
        (folder / name).mkdir(parents=True)
    rows = read(TESTS / "fixtures/problems.jsonl")
    known = [row for row in rows if row["question_id"] in PROGRAMS]
    for row in known:
        right, wrong = PROGRAMS[row["question_id"]]
        row["solutions"] = [
            {"code": right, "expected_pass": True},
            {"code": wrong, "expected_pass": False},
        ]
    for name in envs.CODE_FILES:
        write(folder / "code" / name, known)
    questions = [
        {"id": f"q{n}", "question": f"What is {n} + {n}?", "answer": str(2 * n)} for n in range(9)
    ]
    for name in envs.MATH_SETS:
        write(folder / "math" / f"{name}.jsonl", questions)
    science = read(TESTS / "fixtures/science_papers.jsonl")
    biology = [row for row in science if row["domain"] == "biology"]
    for split in ("train", "test"):
        own = [row for row in biology if row["split"] == split]
        write(folder / f"sciknoweval/biology/{split}.jsonl", own)
    shutil.copy(TESTS / "fixtures/tool_use.jsonl", folder / "tooluse/test.jsonl")
    return folder


def read(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def write(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


@pytest.mark.benchmark
def test_every_target_is_told_reached_or_missed_and_a_wrong_verdict_misses_one(data, tmp_path):
    results = envs.run(data, "local", 0, SMALLEST) | {"command": "python benchmarks/envs.py"}
    text = envs.report(results)
    assert results["code"]["programs"] == 2 * len(envs.CODE_FILES)
    assert results["code"]["wrong_verdicts"] == 0
    assert len(envs.targets(results)) == 2 + len(envs.MATH_SETS) + 1 + 2
    for goal, reached in envs.targets(results):
        assert f"- {'reached' if reached else '**missed**'}: {goal}" in text
    results["code"]["wrong_verdicts"] = 1
    assert ("verdicts on code as known: 1 differ", False) in envs.targets(results)
    envs.draw(results["memory"], tmp_path / "memory.png")
    assert (tmp_path / "memory.png").read_bytes().startswith(b"\x89PNG")


def test_the_answers_made_of_the_data_get_the_verdicts_they_name(data, tmp_path, capsys):
    """And the printed commands are what judges them."""
    script = [sys.executable, BENCHMARKS / "answers.py", data, tmp_path]
    said = subprocess.run(script, capture_output=True, text=True, check=True, timeout=60).stdout
    commands = [shlex.split(line) for line in said.splitlines()]
    made = [part for part in answers.PARTS if (data / part.path).exists()]
    assert len(commands) == len(made) == 7
    for command, part in zip(commands, made, strict=True):
        extra = ["--sandbox", "local"] if part.path.startswith("code") else []
        assert main([*command[1:], *extra]) == 0, command
        total = len(read(tmp_path / f"{part.name}.jsonl"))
        assert f"{total} of {total} known verdicts agree" in capsys.readouterr().err
