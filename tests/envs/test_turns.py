"""Several answers to one problem: the feedback on each is what the next is asked to heed."""

import dataclasses

import gymnasium as gym
import numpy as np
import pytest

from sandbox import SandboxError
from vpd_envs import Problem, Status, TextEnv, Verdict


class Count(TextEnv):
    """Guess a number: the reward is 1 for the number itself, and less the farther off."""

    def __init__(self, **kwargs):
        super().__init__([Problem(str(n), "Guess.", n) for n in range(4)], **kwargs)

    def judge(self, problem, answer):
        if answer == "fire":
            raise SandboxError("fire")
        off = abs(int(answer) - problem.target)
        if not off:
            return Verdict(1.0, Status.SOLVED, "Yes.")
        return Verdict(1 / (2 + off), Status.WRONG_ANSWER, f"Off by {off}.")


def test_an_unsolved_answer_leaves_the_episode_open_until_the_last_turn():
    env = Count(max_turns=3)
    env.reset(options={"problem_id": "2"})
    observation, reward, terminated, truncated, info = env.step("5")
    assert (observation, reward, terminated, truncated) == ("Off by 3.", 0.0, False, False)
    assert info["turn"] == 1
    assert info["messages"] == [{"role": "user", "content": "Off by 3."}]
    assert env.step("4")[1:4] == (0.0, False, False)
    observation, reward, terminated, truncated, info = env.step("3")
    assert (observation, reward, terminated, truncated) == ("Off by 1.", 1 / 3, True, False)
    assert info["turn"] == 3
    assert "messages" not in info
    with pytest.raises(gym.error.ResetNeeded, match="call reset"):
        env.step("2")


def test_a_solved_problem_ends_the_episode_with_its_reward():
    env = Count(max_turns=3)
    env.reset(options={"problem_id": "2"})
    env.step("3")
    assert env.step("2")[1:4] == (1.0, True, False)


def test_a_new_episode_begins_at_the_first_turn():
    env = Count(max_turns=2)
    for _ in range(2):
        env.reset(options={"problem_id": "2"})
        assert env.step("3")[2] is False


def test_render_shows_the_whole_conversation():
    env = Count(max_turns=2, render_mode="ansi")
    env.reset(options={"problem_id": "2"})
    env.step("5")
    env.step("2")
    shown = env.render()
    parts = [shown.index(text) for text in ("Guess.", "Off by 3.", "Yes.")]
    assert parts == sorted(parts)


def test_episodes_of_a_batch_end_one_by_one():
    envs = Count.vector(3, max_turns=2)
    envs.reset(options={"problem_ids": ["0", "1", "2"]})
    observations, rewards, terminated, truncated, infos = envs.step(["0", "2", "2"])
    assert observations == ("Yes.", "Off by 1.", "Yes.")
    assert rewards.tolist() == [1.0, 0.0, 1.0]
    assert terminated.tolist() == [True, False, True]
    assert infos["_messages"].tolist() == [False, True, False]
    observations, rewards, terminated, truncated, infos = envs.step([None, "3", "anything"])
    assert observations == ("", "Off by 2.", "")
    assert rewards.tolist() == [0.0, 1 / 4, 0.0]
    assert terminated.all()
    assert not truncated.any()
    assert infos["active"].tolist() == [False, True, False]
    assert infos["turn"].tolist() == [None, 2, None]
    assert infos["_feedback"].tolist() == [False, True, False]
    with pytest.raises(gym.error.ResetNeeded, match="All episodes are over"):
        envs.step(["0", "1", "2"])


def test_the_open_episodes_need_texts_and_the_others_do_not():
    envs = Count.vector(2, max_turns=2)
    envs.reset(options={"problem_ids": ["0", "1"]})
    envs.step(["0", "2"])
    with pytest.raises(TypeError, match=r"answer 1 must be text.*got NoneType"):
        envs.step([None, None])


def test_a_mask_resets_some_episodes_and_leaves_the_others():
    envs = Count.vector(3, max_turns=2)
    envs.reset(options={"problem_ids": ["0", "1", "2"]})
    envs.step(["0", "2", "0"])
    mask = np.array([True, False, False])
    ids = ["3", "ignored", "ignored"]
    observations, infos = envs.reset(options={"reset_mask": mask, "problem_ids": ids})
    assert observations == ("Guess.", "Off by 1.", "Off by 2.")
    assert infos["problem_id"].tolist() == ["3", None, None]
    _, rewards, terminated, _, infos = envs.step(["0", "1", "1"])
    assert infos["turn"].tolist() == [1, 2, 2]
    assert rewards.tolist() == [0.0, 1.0, 1 / 3]
    assert terminated.tolist() == [False, True, True]


@pytest.mark.parametrize("mask", [[False, False], [True], [1, 0], "ab"])
def test_a_mask_that_is_none_is_refused(mask):
    envs = Count.vector(2)
    with pytest.raises(ValueError, match="must be 2 booleans, at least one"):
        envs.reset(options={"reset_mask": mask})


def test_where_the_judge_fails_the_episode_is_cut_and_the_others_go_on():
    envs = Count.vector(2, max_turns=2)
    envs.reset(options={"problem_ids": ["0", "1"]})
    _, rewards, terminated, truncated, infos = envs.step(["fire", "2"])
    assert np.isnan(rewards[0])
    assert rewards[1] == 0.0
    assert (terminated.tolist(), truncated.tolist()) == ([False, False], [True, False])
    assert infos["judged"].tolist() == [False, True]
    assert infos["active"].tolist() == [True, True]
    assert envs.step([None, "1"])[1].tolist() == [0.0, 1.0]


class Climb(TextEnv):
    """Name a greater number than ever before in the episode; ten or more solves it."""

    def __init__(self, **kwargs):
        super().__init__([Problem(id_, "Climb.", None) for id_ in "ab"], max_turns=5, **kwargs)
        self.judged = []

    def after(self, problem, answer):
        return dataclasses.replace(problem, earlier=(*problem.earlier, answer))

    def judge(self, problem, answer):
        if answer == "fire":
            raise SandboxError("fire")
        self.judged.append((problem.id, *problem.earlier, answer))
        if int(answer) <= max(map(int, problem.earlier), default=0):
            return Verdict(0.0, Status.WRONG_ANSWER, "No climb.")
        solved = int(answer) >= 10
        return Verdict(float(solved), Status.SOLVED if solved else Status.WRONG_ANSWER, "Up.")


def test_a_verdict_may_depend_on_the_earlier_answers_of_its_episode():
    env = Climb()
    for _ in range(2):  # the second episode knows nothing of the first
        env.reset(options={"problem_id": "a"})
        assert [env.step(answer)[0] for answer in ("5", "5", "6")] == ["Up.", "No climb.", "Up."]
        with pytest.raises(SandboxError):
            env.step("fire")
        assert env.step("11")[1:3] == (1.0, True)
        assert env.judged[-1] == ("a", "5", "5", "6", "11")  # what was not judged was no answer
    assert env.problem("a").earlier == ()


def test_the_episodes_of_a_batch_have_their_own_earlier_answers():
    envs = Climb.vector(4)
    envs.reset(options={"problem_ids": ["a", "a", "a", "b"]})
    envs.step(["5", "5", "2", "5"])
    assert sorted(envs.env.judged) == [("a", "2"), ("a", "5"), ("b", "5")]
    assert envs.step(["5", "5", "5", "11"])[0] == ("No climb.", "No climb.", "Up.", "Up.")
    # Judged once: the same answer to the same problem after the same earlier ones.
    assert sorted(envs.env.judged[3:]) == [("a", "2", "5"), ("a", "5", "5"), ("b", "5", "11")]
    envs.reset(options={"reset_mask": np.array([True, False, False, True])})
    shown, _, terminated, _, infos = envs.step(["3", "3", "7", "3"])
    assert shown == ("Up.", "No climb.", "Up.", "Up.")
    assert infos["turn"].tolist() == [1, 3, 3, 1]
    assert not terminated.any()


@pytest.mark.parametrize("turns", [0, -1, 1.5, True, "2"])
def test_the_number_of_turns_is_a_positive_integer(turns):
    with pytest.raises(ValueError, match="max_turns must be a positive integer"):
        Count(max_turns=turns)


def test_answers_stream_through_in_order_and_are_read_no_further_than_needed():
    class Wide(Count):
        workers = 4

    env = Wide()
    read = 0

    def endless():
        nonlocal read
        while True:
            yield env.problem(str(read % 4)), str(read % 3)
            read += 1

    verdicts = env.judge_many(endless())
    for number in range(1000):
        expected = Count().judge(env.problem(str(number % 4)), str(number % 3))
        assert next(verdicts) == expected
    assert read <= 1000 + 4 * 16 + 2
    verdicts.close()


def test_the_same_answer_is_judged_once_in_a_batch_and_progress_counts_all():
    judged = []

    class Noting(Count):
        def judge(self, problem, answer):
            judged.append((problem.id, answer))
            return super().judge(problem, answer)

    env = Noting()
    problems = [env.problem(id_) for id_ in ("0", "1", "0", "0")]
    progress = []
    verdicts = env.judge_batch(problems, ["2", "2", "2", "1"], progress.append)
    assert [verdict.feedback for verdict in verdicts] == [f"Off by {n}." for n in (2, 1, 2, 1)]
    assert sorted(judged) == [("0", "1"), ("0", "2"), ("1", "2")]
    assert progress == sorted(progress)
    assert progress[-1] == 4
