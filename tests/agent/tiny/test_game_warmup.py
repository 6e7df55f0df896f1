"""The warm start for a game of several moves: what the game says, and how much of it is heeded."""

from __future__ import annotations

from collections import Counter

import gymnasium as gym
import pytest

import vpd_envs  # noqa: F401
from vpd_agent.cli.main import main
from vpd_agent.lab.tasks import TASKS
from vpd_agent.tiny.config import GameWarmupConfig
from vpd_agent.tiny.game_examples import GameExamples, ending, form, hint, left
from vpd_agent.tiny.model import tiny_policy
from vpd_agent.train.presets import LAPTOP_GAMES

pytest.importorskip("textarena")

CONFIG = GameWarmupConfig()
NUMBERS = range(1, CONFIG.largest + 1)


@pytest.fixture(scope="module")
def env():
    made = gym.make(
        "vpd/TextArena-v0", game=CONFIG.game, parameters=CONFIG.parameters, max_turns=CONFIG.turns
    )
    yield made
    made.close()


def drawn(count, **changes):
    examples = GameExamples(GameWarmupConfig(**changes))
    return [examples.draw() for _ in range(count)]


def test_the_examples_say_what_the_game_says(env):
    """Of each game with a wrong guess in every turn; then the last guess is the right one."""
    for index in range(6):
        prompt, info = env.reset(options={"problem_id": f"GuessTheNumber-train-{index}"})
        assert {e.messages[0]["content"] for e in drawn(9, teacher_share=0.0)} == {prompt}
        said, over = [], False
        guesses = iter(NUMBERS)
        number = next(n for n in NUMBERS if solves(env, info["problem_id"], n))
        wrong = [n for n in guesses if n != number][: CONFIG.turns]
        env.reset(options={"problem_id": info["problem_id"]})
        for guess in wrong:
            assert not over
            _, _, terminated, truncated, info = env.step(form(guess))
            said, over = [*said, info["feedback"]], terminated or truncated
        assert over
        assert said == [*(hint(g, number) for g in wrong[:-1]), ending(wrong[-1], number)]


def solves(env, problem_id, number):
    env.reset(options={"problem_id": problem_id})
    _, _, _, _, info = env.step(form(number))
    assert (info["feedback"] == ending(number, number)) == info["solved"]
    return info["solved"]


def test_hints_leave_the_numbers_between_them():
    assert left([], 4, NUMBERS) == [*NUMBERS]
    assert left([2, 7], 4, NUMBERS) == [3, 4, 5, 6]
    assert left([5, 3], 4, NUMBERS) == [4]


def replies(example):
    return [m["content"] for m in example.messages[1:]]


def test_the_share_of_guesses_that_follow_the_hints_is_that_of_the_recipe():
    """A random number follows them in left/9 of cases."""
    n, followed, expected = 4000, 0, 0.0
    for example in drawn(n, teacher_share=0.0):
        told = replies(example)
        guesses = [int(text.strip("[]")) for text in told[::2]]
        # Any number beyond the guesses on the side of the hints; 4.5 is between all of them.
        allowed = [
            number
            for number in NUMBERS
            if number not in guesses
            and all(
                (g > number) == ("lower" in hint)
                for g, hint in zip(guesses, told[1::2], strict=True)
            )
        ]
        assert allowed
        followed += int(example.answer.strip("[]")) in allowed
        share = CONFIG.heed_share
        expected += share + (1 - share) * len(allowed) / CONFIG.largest
    assert abs(followed - expected) / n < 0.03


def test_a_teacher_is_told_the_number_and_often_ignores_it():
    n, said = 3000, Counter()
    for example in drawn(n, teacher_share=1.0):
        attempt, _, feedback = example.messages[0]["content"].rpartition("|")[2].partition(":")
        number = int(feedback.rpartition(" ")[2]) if "Target" in feedback else int(attempt[1:-1])
        assert feedback == ending(int(attempt[1:-1]), number)
        said[example.answer == form(number)] += 1
    heeded = 1 - CONFIG.ignore_share
    assert abs(said[True] / n - heeded - CONFIG.ignore_share / CONFIG.largest) < 0.04


def test_what_is_said_fits_the_preset():
    policy, room = tiny_policy(), LAPTOP_GAMES.train
    for example in drawn(300):
        first = policy.encode(example.messages[:1])
        taught = "|" in example.messages[0]["content"]
        assert len(first) <= (room.max_teacher_prompt_tokens if taught else room.max_prompt_tokens)
        assert len(policy.tokenizer(example.answer).input_ids) < room.max_turn_tokens
        assert len(policy.encode(example.messages)) - len(first) < room.max_response_tokens


def test_the_task_of_the_lab_is_the_game_of_the_warm_start(capsys):
    task = TASKS["game"]
    assert main(["show", "--env", task.env, "--set", *task.options]) == 0
    assert f"between 1 and {CONFIG.largest}" in capsys.readouterr().out
