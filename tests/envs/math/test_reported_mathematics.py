"""Answers of mathematics on which this judge was once wrong, as they were reported."""

import json
from pathlib import Path

import pytest

from vpd_envs.math.environment import Math, equal
from vpd_envs.types import Status

pytest.importorskip("math_verify")

REPORTED = Path(__file__).parents[4] / "shared" / "data" / "reported"


def rows_of(pattern):
    return [
        row
        for path in sorted(REPORTED.glob(pattern))
        for row in map(json.loads, path.read_text(encoding="utf-8").splitlines())
    ]


def judged(gold, response, folder, **options):
    path = folder / "rows.jsonl"
    path.write_text(json.dumps({"id": "q", "problem": "What is it?", "answer": gold}))
    env = Math(path, **options)
    return env.judge(env.problem("q"), response)


def test_reported_pairs_of_answers_are_compared_rightly(tmp_path):
    rows = rows_of("M*.jsonl")
    if not rows:
        pytest.skip(f"needs {REPORTED}")
    wrong = []
    for row in rows:
        gold, prediction = row["input"]["gold"], row["input"]["prediction"]
        boxed = judged(gold, rf"So it is $\boxed{{{prediction}}}$.", tmp_path).solved
        if {boxed, equal(gold, prediction)} != {row["expected"]}:
            wrong.append((row["id"], gold, prediction))
    assert not wrong


def test_reported_responses_cut_off_in_the_prompts_thinking_have_no_answer(tmp_path):
    rows = [row for row in rows_of("T4.jsonl") if "response" in row["input"]]
    if not rows:
        pytest.skip(f"needs {REPORTED}")
    for row in rows:
        gold, response = row["input"]["gold"], row["input"]["response"]
        verdict = judged(gold, response, tmp_path, thinking_prefilled=True)
        assert verdict.status is Status.NO_ANSWER
