"""TextArena: the package's games, played in worker processes, a verdict on each move."""

import json
import pickle
import random
import re
from importlib import metadata

import gymnasium as gym
import numpy as np
import pytest
from suite import printed_with_other_hashes

from sandbox import SandboxError
from sandbox.installation import install_hint
from vpd_envs import Status, make
from vpd_envs.catalog import parsed_options
from vpd_envs.games.textarena import GAMES, NOT_OFFERED, Table, TextArena
from vpd_envs.workers.pool import WorkerDied, WorkerError, WorkerTimeout

pytest.importorskip("textarena")

# These begin alike whatever the seed: what differs is hidden.
HIDDEN = ("GuessTheNumber", "Mastermind", "Minesweeper")
MOVES = {
    "2048": ("[up]", "[left]", "[down]", "[right]"),
    "Blackjack": ("[hit]", "[stand]"),
    "Minesweeper": ("[3 3]", "[0 0]", "[7 7]", "[0 7]"),
}


def first(env):
    return env.problem(env.problem_ids[0])


def played(env, problem_id, moves):
    """(observation, reward, whether the episode is over, status) of each move until the end."""
    said = []
    env.reset(options={"problem_id": problem_id})
    for move in moves:
        observation, reward, over, _, info = env.step(move)
        said.append((observation, reward, over, info["status"]))
        if over:
            break
    return said


def guesses(env, problem_id, thinking=""):
    """Guess the number by halves of what is left; the steps, and the numbers tried."""
    low, high, steps, tried = 1, 20, [], []
    env.reset(options={"problem_id": problem_id})
    while not (steps and steps[-1][2]):
        tried.append((low + high) // 2)
        steps.append(env.step(f"{thinking}[{tried[-1]}]"))
        if "higher" in steps[-1][0]:
            low = tried[-1] + 1
        else:
            high = tried[-1] - 1
    return steps, tried


# Games --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("game", GAMES)
def test_a_seed_is_a_game_and_each_move_has_feedback(game):
    env, other = TextArena(game, size=3), TextArena(game, size=3)
    prompts = [env.problem(id_).prompt for id_ in env.problem_ids]
    assert prompts == [other.problem(id_).prompt for id_ in reversed(other.problem_ids)][::-1]
    assert all(prompts)
    assert (len(set(prompts)) > 1) == (game not in HIDDEN)
    ((observation, reward, over, status), second, *more) = played(
        env, env.problem_ids[0], ["no move"] * 3
    )
    assert "invalid move. Reason: " in observation
    assert (reward, over, status) == (0.0, False, "format_error")
    assert "Invalid Move: " in second[0]
    assert second[2:] == (True, "format_error")  # one is forgiven, two on end are lost
    assert not more


def test_games_do_not_depend_on_the_process_or_the_seed_of_its_hashes():
    program = (
        "import json\n"
        "from vpd_envs.games.textarena import TextArena\n"
        "print(json.dumps([TextArena(game, size=1).problem(f'{game}-train-0').prompt\n"
        "    for game in ('RushHour', 'Crosswords', 'LogicPuzzle', 'FrozenLake')]))\n"
    )
    printed = printed_with_other_hashes(program)
    games = ("RushHour", "Crosswords", "LogicPuzzle", "FrozenLake")
    assert json.loads(printed) == [first(TextArena(game, size=1)).prompt for game in games]


def test_splits_and_dataset_seeds_have_different_games():
    def games(**options):
        env = TextArena("LightsOut", size=12, **options)
        problems = [env.problem(id_) for id_ in env.problem_ids]
        return {problem.seed for problem in problems}, {problem.prompt for problem in problems}

    sets = [games(), games(split="test"), games(dataset_seed=1)]
    for kind in range(2):
        assert len(set.union(*(pair[kind] for pair in sets))) == 36
    assert games() == sets[0]
    # Of the longest that there may be, too.
    longest = [TextArena(size=1_000_000, dataset_seed=seed).problem for seed in (0, 1)]
    assert (
        longest[0]("GuessTheNumber-train-999999").seed < longest[1]("GuessTheNumber-train-0").seed
    )


def test_a_game_whose_name_is_a_number_can_be_named_at_a_command_line():
    assert parsed_options(["game=2048"]) == {"game": 2048}
    assert TextArena(2048, size=1).problem_ids == ("2048-train-0",)  # pyright: ignore


def test_parameters_reach_the_game():
    env = TextArena("LightsOut", size=1, parameters={"size": 3, "max_turns": 7})
    assert "7 moves remaining" in first(env).prompt
    assert env.fingerprint != TextArena("LightsOut", size=1).fingerprint
    verdict = env.verdict(first(env), "[3 0]")
    assert "between 0 and 2" in verdict.feedback


# Turns --------------------------------------------------------------------------------------------


def test_who_heeds_the_feedback_wins():
    env = gym.make("vpd/TextArena-v0", game="GuessTheNumber", size=12)
    numbers = set()
    for problem_id in env.unwrapped.problem_ids:
        steps, tried = guesses(env, problem_id)
        assert len(steps) <= 5  # 2**5 > 20
        *before, (observation, reward, over, _, info) = steps
        assert (reward, over, info["status"], info["solved"]) == (1.0, True, "solved", True)
        assert "Congratulations" in observation
        assert info["turn"] == len(steps)
        assert info["details"] == {"over": True, "score": 1.0}
        for number, (said, paid, ended, _, told) in zip(tried, before, strict=False):
            assert ("higher" in said) == (tried[-1] > number)
            assert (paid, ended, told["status"]) == (0.0, False, "wrong_answer")
            # The game's measure: how near the guess is, of the 19 that it can be off.
            nearness = pytest.approx(1 - abs(tried[-1] - number) / 19)
            assert told["details"] == {"over": False, "score": nearness}
            assert told["messages"] == [{"role": "user", "content": said}]
        numbers.add(tried[-1])
    assert len(numbers) > 1


def test_an_episode_that_is_cut_off_pays_the_games_measure_of_progress():
    whole = TextArena(size=1)
    number = guesses(whole, whole.problem_ids[0])[1][-1]
    env = TextArena(size=1, max_turns=2)
    near, nearer = (number + 2, number + 1) if number < 11 else (number - 2, number - 1)
    (_, reward, over, _), last = played(env, env.problem_ids[0], [str(near), str(nearer)])
    assert (reward, over) == (0.0, False)
    assert last[1:] == (pytest.approx(1 - 1 / 19), True, "wrong_answer")


def test_thinking_is_no_move_and_without_an_end_there_is_none():
    env = TextArena(size=1)
    id_ = env.problem_ids[0]
    steps = guesses(env, id_)[0]
    thought = guesses(env, id_, "<think>\n[21] or [x]?</think> I say ")[0]
    assert [step[0] for step in thought] == [step[0] for step in steps]
    cut = ["<think>[10]", "[0]", "<think>[10]", "<think>"]
    said = played(env, id_, cut)
    assert [status for *_, status in said] == ["no_answer", "format_error", *["no_answer"] * 2]
    assert not said[-1][2]  # the game forgave one invalid move: the others were none


def test_an_answer_that_is_too_long_is_no_move():
    env = TextArena(size=1)
    env.action_space.max_length = 40
    first_said, long, *rest = played(env, env.problem_ids[0], ["[0]", "9" * 41, "[0]"])
    assert first_said[3] == "format_error"
    assert (long[2:], long[0].startswith("Answer too long: 41")) == ((False, "no_answer"), True)
    assert rest[0][2:] == (True, "format_error")


@pytest.mark.parametrize("move", ["", " \n", "[", "[]", "[9]]", "\ud800", "[²]", "9" * 5000])
def test_any_text_is_judged(move):
    said = played(TextArena(size=1), "GuessTheNumber-train-0", [move])
    assert said[0][0]
    assert 0 <= said[0][1] <= 1


def test_a_move_that_the_game_cannot_read_is_invalid():
    env = TextArena(size=1)  # int() refuses so many digits
    said = played(env, env.problem_ids[0], ["9" * 5000, "9" * 5000, "[1]"])
    assert [status for *_, status in said[:2]] == ["format_error"] * 2
    assert "could not read" in said[0][0]
    assert "could not read" not in said[2][0]
    verdict = env.verdict(first(env), " ")
    assert (verdict.status, "Invalid move" in verdict.feedback) == (Status.EMPTY_ANSWER, True)


# Independence -------------------------------------------------------------------------------------


@pytest.mark.parametrize("game", MOVES)
def test_games_that_are_played_at_the_same_time_do_not_disturb_each_other(game):
    moves, many = MOVES[game], 8
    envs = [TextArena(game, size=3) for _ in range(3)]
    alone = [
        played(env, env.problem_ids[i], [moves[(k + i) % len(moves)] for k in range(many)])
        for i, env in enumerate(envs)
    ]
    assert alone[0] != alone[1]
    for i, env in enumerate(envs):
        env.reset(options={"problem_id": env.problem_ids[i]})
    for k in range(many):
        for i, env in enumerate(envs):
            if k < len(alone[i]):
                observation, reward, over, _, info = env.step(moves[(k + i) % len(moves)])
                assert (observation, reward, over, info["status"]) == alone[i][k]


def test_the_callers_random_numbers_are_neither_used_nor_disturbed():
    def texts(seed):
        random.seed(seed)
        np.random.seed(seed)
        before = random.getstate(), np.random.get_state()[1].tolist()
        env = TextArena("2048", size=1)
        said = played(env, env.problem_ids[0], MOVES["2048"])
        assert (random.getstate(), np.random.get_state()[1].tolist()) == before
        return [first(env).prompt, *said]

    assert texts(1) == texts(2)


def test_a_batch_plays_as_single_episodes_do():
    moves = ("[10]", "[10]", "x", "[5]", "y", "[1]")  # what they lead to depends on those before
    envs = gym.make_vec(
        "vpd/TextArena-v0",
        num_envs=6,
        size=2,
        max_turns=4,
        vectorization_mode="vector_entry_point",
    )
    ids = [envs.problem_ids[i % 2] for i in range(6)]
    sequences = [[moves[(i + k) % 6] for k in range(4)] for i in range(6)]
    env = TextArena(size=2, max_turns=4)
    single = [played(env, id_, sequence) for id_, sequence in zip(ids, sequences, strict=True)]
    envs.reset(options={"problem_ids": ids})
    for k in range(4):
        shown, rewards, terminated, truncated, infos = envs.step([s[k] for s in sequences])
        assert not truncated.any()
        for i, said in enumerate(single):
            if k < len(said):
                row = (shown[i], rewards[i], terminated[i], infos["status"][i])
                assert row == said[k]
    assert terminated.all()


def test_the_same_move_after_other_moves_is_judged_anew():
    env = TextArena(size=1)
    problem = first(env)
    again = env.after(problem, "[7]")
    assert (problem.earlier, again.earlier) == ((), ("[7]",))
    assert again.prompt == problem.prompt
    fresh, repeated, alike = env.judge_batch([problem, again, problem], ["[7]"] * 3)
    assert fresh == alike
    assert fresh.status is not Status.FORMAT_ERROR
    assert "already guessed" in repeated.feedback


def test_a_copy_of_an_environment_plays_alike():
    env = TextArena("Minesweeper", size=2, parameters={"rows": 5, "cols": 5, "num_mines": 5})
    copy = pickle.loads(pickle.dumps(env))
    moves = ["[2 2]", "[0 0]", "[4 4]"]
    assert played(copy, env.problem_ids[1], moves) == played(env, env.problem_ids[1], moves)
    assert copy.fingerprint == env.fingerprint


# Failures -----------------------------------------------------------------------------------------


def test_where_a_worker_fails_there_is_no_verdict_and_the_move_can_be_made_again(monkeypatch):
    env, ask = TextArena(size=1), Table.ask
    id_ = env.problem_ids[0]
    expected = played(env, id_, ["[3]", "[18]"])
    for failure in (WorkerDied("gone"), WorkerError("KeyError", "x")):
        env.reset(options={"problem_id": id_})
        env.step("[3]")

        def failing(*_, failure=failure):
            raise failure

        monkeypatch.setattr(Table, "ask", failing)
        with pytest.raises(SandboxError):
            env.step("[18]")
        monkeypatch.setattr(Table, "ask", ask)
        assert env.step("[18]")[0] == expected[1][0]


def test_a_move_that_takes_too_long_ends_the_game_but_a_slow_game_is_no_verdict(monkeypatch):
    env, ask = TextArena(size=1), Table.ask

    def slow(table, seed, *moves):
        if len(moves) >= slow.moves:
            raise WorkerTimeout("No value within 20 s.")
        return ask(table, seed, *moves)

    monkeypatch.setattr(Table, "ask", slow)
    slow.moves = 2
    _, (observation, reward, over, status) = played(env, env.problem_ids[0], ["[3]", "[4]"])
    assert (reward, over, status) == (0.0, True, "time_limit")
    assert "more time than it has" in observation
    slow.moves = 0
    with pytest.raises(SandboxError, match="could not be made after 0 moves"):
        played(env, env.problem_ids[0], ["[3]"])
    with pytest.raises(ValueError, match=r"Choose a smaller game, or a higher time_limit_seconds"):
        TextArena("Sokoban", parameters={"num_boxes": 4})


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"game": "Mastermnd"}, r"Unknown game of TextArena: 'Mastermnd'.*mean 'Mastermind'"),
        ({"game": "Chess"}, r"Unknown game of TextArena: 'Chess'.*There are 2048, Blackjack"),
        ({"game": ["2048"]}, "Unknown game of TextArena"),
        *(({"game": game}, f"{game} is not offered: {why}") for game, why in NOT_OFFERED.items()),
        (
            {"parameters": {"max_numbr": 9}},
            "parameter of GuessTheNumber: 'max_numbr'.*'max_number'",
        ),
        ({"parameters": {"max_number": "9"}}, r"max_number of GuessTheNumber .* like 20.*got '9'"),
        ({"parameters": {"max_number": True}}, r"must be like 20, .*got True"),
        ({"parameters": {"min_number": 9, "max_number": 2}}, "does not take the parameters"),
        ({"parameters": {"seed": 1}}, "parameter of GuessTheNumber: 'seed'"),
        ({"parameters": []}, "parameters must be names with JSON values"),
        ({"parameters": "max_number"}, "parameters must be names with JSON values"),
        ({"parameters": {"max_number": {1}}}, "parameters must be names with JSON values"),
        ({"game": "LogicPuzzle", "parameters": {"difficulty": "mad"}}, "difficulty 'mad'"),
        ({"split": "validation"}, "split must be one of train, test, got 'validation'"),
        ({"size": 0}, "size must be a positive integer"),
        ({"size": 1_000_001}, "size must be at most 1000000"),
        ({"dataset_seed": -1}, "dataset_seed must be an integer from 0 on"),
        ({"time_limit_seconds": 0}, "time_limit_seconds must be a positive number"),
        ({"max_turns": 0}, "max_turns must be a positive integer"),
    ],
)
def test_bad_options_are_explained(options, message):
    with pytest.raises(ValueError, match=f"(?s){message}"):
        make("vpd/TextArena-v0", **options)


def test_a_package_of_another_version_is_named_with_the_one_that_is_needed(monkeypatch):
    monkeypatch.setattr(metadata, "version", lambda name: "0.8.0")
    hint = re.escape(install_hint("games"))
    with pytest.raises(ValueError, match=rf"textarena<0\.8,>=0\.7\.4, but 0\.8\.0 is .*: {hint}"):
        TextArena()
