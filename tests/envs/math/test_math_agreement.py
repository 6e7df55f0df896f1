"""Verdicts on answers that other graders have judged, and on model responses labeled by hand."""

import json
from pathlib import Path

import pytest

from vpd_envs.math.environment import Math, equal, response_equal

pytest.importorskip("math_verify")

DATA = Path(__file__).parents[4] / "shared" / "data" / "math"

# Every pair on which we do not say what the label says. "theirs": the label is a mistake, or a
# convention of that grader which we do not share. "ours": we should have agreed.
DISAGREEMENTS = {
    "s073": ("theirs", "0.1, 4, 2 against 4, .1, 2: lists have no order for Math-Verify"),
    "s074": ("theirs", "10, 4, -2 against 4, 10, -2: lists have no order for Math-Verify"),
    "s087": ("theirs", "the test forbids $ over several lines and plain numbers; we read the 9"),
    "s207": ("theirs", "4 is not 3/12"),
    "s210": ("theirs", "1/3 is not 0.333: that grader has a tolerance of a thousandth"),
    "s211": ("theirs", "0.333 is not 1/3: that grader has a tolerance of a thousandth"),
}


def rows_of(name):
    path = DATA / name
    if not path.exists():
        pytest.skip(f"needs {name}")
    return list(map(json.loads, path.read_text().splitlines()))


def is_response(pair):
    """Whether the answer has to be extracted: all of Math-Verify's own tests are such."""
    own = pair["source"] == "huggingface/Math-Verify"
    return own or pair["config"].get("prediction_is_response", False)


def test_every_disagreement_with_other_graders_is_known():
    pairs = rows_of("grader_pairs.jsonl")
    found = set()
    for pair in pairs:
        says = response_equal if is_response(pair) else equal
        if says(pair["gold"], pair["prediction"]) is not pair["expected_equal"]:
            found.add(pair["id"])
    assert found == set(DISAGREEMENTS)
    ours = [pair for pair, (whose, _) in DISAGREEMENTS.items() if whose == "ours"]
    assert len(ours) <= 0.03 * len(pairs)


@pytest.mark.parametrize("suite", ["inspect_ai", "AReaL"])
def test_responses_without_a_box_are_read_as_the_environment_reads_them(suite, tmp_path):
    pairs = [pair for pair in rows_of("grader_pairs.jsonl") if pair["source"].endswith(suite)]
    path = tmp_path / "pairs.jsonl"
    rows = [{"id": p["id"], "question": "Q " + p["id"], "answer": p["gold"]} for p in pairs]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    env = Math(path, answer="last")
    verdicts = env.judge_many((env.problem(p["id"]), p["prediction"]) for p in pairs)
    disagreements = {
        pair["id"]
        for pair, verdict in zip(pairs, verdicts, strict=True)
        if verdict.solved is not pair["expected_equal"]
    }
    assert disagreements == {pair["id"] for pair in pairs} & set(DISAGREEMENTS)


def test_all_labeled_gsm8k_responses_get_their_verdict():
    responses = rows_of("gsm8k_responses.jsonl")
    env = Math(DATA, dataset="gsm8k", answer="marker", answer_marker="A:")
    verdicts = env.judge_many((env.problem(row["id"]), row["response"]) for row in responses)
    solved = [verdict.solved for verdict in verdicts]
    assert solved == [row["expected_correct"] for row in responses]


@pytest.mark.parametrize("dataset", ["math500", "gsm8k", "aime24", "amc23", "olympiadbench"])
def test_every_gold_answer_solves_its_problem_and_no_other_number_does(dataset):
    rows_of(f"{dataset}.jsonl")
    env = Math(DATA, dataset=dataset)
    problems = [env.problem(problem_id) for problem_id in env.problem_ids]
    golds = [problem.target.text for problem in problems]
    right = [(problem, rf"\boxed{{{gold}}}") for problem, gold in zip(problems, golds, strict=True)]
    assert all(verdict.solved for verdict in env.judge_many(right))
    wrong = [(problem, r"\boxed{\frac{987654321}{1234567}}") for problem in problems]
    assert not any(verdict.solved for verdict in env.judge_many(wrong))
