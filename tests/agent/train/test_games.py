"""Episodes of several moves: the tiny model trains on a game that answers each of them."""

import json

import pytest

from vpd_agent.cli.main import main

pytest.importorskip("textarena")


@pytest.mark.slow
@pytest.mark.parametrize("algorithm", ["sdar", "grpo"])
def test_a_random_model_trains_on_every_turn_of_a_game(tmp_path, algorithm):
    out = tmp_path / "run"
    settings = ["game=GuessTheNumber", 'parameters={"min_number": 0, "max_number": 9}']
    # So hot that each of the 97 characters is about as likely: one in ten answers is a digit.
    arguments = ["--steps", 2, "--prompts-per-step", 2, "--group-size", 8, "--temperature", 5]
    lengths = ["--max-prompt-tokens", 700, "--max-teacher-prompt-tokens", 1400]
    lengths += ["--max-response-tokens", 500, "--max-turn-tokens", 1]
    code = main(
        [str(a) for a in ("train", algorithm, "--env", "vpd/TextArena-v0", "--model", "tiny",
                          "--set", *settings, "max_turns=3", "size=8", *arguments, *lengths,
                          "--eval-every", 0, "--quiet", "--out", out)]
    )  # fmt: skip
    assert code == 0
    metrics = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in metrics] == [1, 2]
    assert all(row["dropped"] == 0 for row in metrics)
    # Answers of one token each: a game goes on after a guess, and is lost after two invalid moves.
    assert all(1 < row["response_tokens"] <= 3 for row in metrics)
    assert max(row["groups_with_signal"] for row in metrics) > 0
    assert max(row["policy/grad_norm"] for row in metrics) > 0
    assert ("policy/token_gate" in metrics[0]) == (algorithm == "sdar")
    samples = [json.loads(line) for line in (out / "samples.jsonl").read_text().splitlines()]
    assert any("You attempted an invalid move. Reason: " in s["response"] for s in samples)
