"""Feedback sources wrap environments: they replace the feedback and nothing else."""

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.utils.env_checker import data_equivalence
from sandboxes import BrokenSandbox

from sandbox import shared
from vpd_envs import FeedbackSource, SiblingFeedback
from vpd_envs.code.mini_code import MiniCode, expression

ENV = MiniCode(sandbox="local")
FIRST, SECOND = ENV.problem_ids[0], ENV.problem_ids[-1]
RIGHT = {id_: expression(*ENV.problem(id_).target) for id_ in (FIRST, SECOND)}
WRONG = "x*0+0"


def batch(env_or_wrap, ids, answers, **kwargs):
    envs = gym.make_vec("vpd/MiniCode-v0", num_envs=len(ids), **{"sandbox": "local", **kwargs})
    envs = env_or_wrap(envs)
    envs.reset(options={"problem_ids": ids})
    return envs.step(answers)


def plain(envs):
    return envs


class Shout(FeedbackSource):
    def feedback(self, attempts):
        return [f"{a.prompt} {a.answer} {a.reward} {a.feedback.upper()}" for a in attempts]


class Number(FeedbackSource):
    def feedback(self, attempts):
        return [f"{i}:{attempt.feedback}" for i, attempt in enumerate(attempts)]


def test_a_wrapper_for_one_answer_changes_the_feedback_and_nothing_else():
    base, wrapped = (gym.make("vpd/MiniCode-v0", sandbox="local") for _ in range(2))
    wrapped = Shout(Shout(wrapped))
    options = {"problem_id": FIRST}
    assert wrapped.reset(seed=1, options=options) == base.reset(seed=1, options=options)
    observation, *same, info = wrapped.step("y")
    _, *base_same, base_info = base.step("y")
    assert info["feedback"] == observation == f"{FIRST} y 0.0 {FIRST.upper()} Y 0.0 !NAMEERROR"
    assert same == base_same
    parts = {"comment": info["feedback"], "demonstration": ""}
    assert info == base_info | {"feedback": info["feedback"]} | parts


def test_a_vector_wrapper_changes_the_feedback_and_nothing_else():
    arguments = [FIRST, SECOND], ["y", RIGHT[SECOND]]
    base = batch(plain, *arguments)
    observations, *same, infos = batch(lambda envs: Number(Number(envs)), *arguments)
    assert list(infos["feedback"]) == ["0:0:!NameError", "1:1:="]
    assert observations == ("0:0:!NameError", "1:1:=")
    assert all(map(np.array_equal, same, base[1:-1]))
    parts = {"comment", "_comment", "demonstration", "_demonstration"}
    assert infos.keys() == base[-1].keys() | parts
    assert list(infos["comment"]) == list(infos["feedback"])
    assert list(infos["demonstration"]) == ["", ""]
    for key in base[-1].keys() - {"feedback"}:
        assert data_equivalence(infos[key], base[-1][key], exact=True)
    assert list(base[-1]["feedback"]) == ["!NameError", "="]  # the inner array is not touched


def test_answers_that_were_not_judged_get_no_feedback():
    broken = BrokenSandbox(shared("local"), "TRIGGER")
    arguments = [FIRST] * 3, ["'TRIGGER'", WRONG, RIGHT[FIRST]]
    for wrap in (Number, SiblingFeedback):
        observations, rewards, *_, infos = batch(wrap, *arguments, sandbox=broken)
        assert np.isnan(rewards[0])
        assert infos["feedback"][0] is None
        assert infos["_feedback"].tolist() == [False, True, True]
        assert observations[0] == ""


def test_a_failed_attempt_is_shown_the_first_solved_sibling():
    solved = [f"{RIGHT[FIRST]} ", f"0+{RIGHT[FIRST]}", RIGHT[SECOND]]
    ids = [FIRST, FIRST, FIRST, SECOND, SECOND, FIRST]
    answers = [WRONG, solved[0], solved[1], "y", solved[2], "z"]
    for _ in range(3):  # deterministic
        observations, rewards, *_, infos = batch(SiblingFeedback, ids, answers)
        assert rewards.tolist() == [0, 1, 1, 0, 1, 0]
        first = f"A correct attempt at the same problem:\n\n{RIGHT[FIRST]}"
        second = f"A correct attempt at the same problem:\n\n{RIGHT[SECOND]}"
        assert list(infos["feedback"]) == [first, "=", "=", second, "=", first]
        assert observations == tuple(infos["feedback"])


def test_without_a_solved_sibling_the_inner_feedback_stays():
    ids, answers = [FIRST, FIRST, SECOND], [WRONG, "y", RIGHT[SECOND]]
    inner = batch(plain, ids, answers)[-1]["feedback"]
    assert list(batch(SiblingFeedback, ids, answers)[-1]["feedback"]) == list(inner)


def test_an_attempt_is_never_shown_to_itself():
    """A lone solved attempt, and failed ones among failed ones, see none of the batch's answers."""
    feedback = batch(SiblingFeedback, [FIRST, SECOND, SECOND], [RIGHT[FIRST], WRONG, "y"])[-1]
    assert not any(RIGHT[FIRST] in text or WRONG in text for text in feedback["feedback"])


def test_contrast_keeps_what_the_environment_said():
    ids, answers = [FIRST, FIRST], [WRONG, RIGHT[FIRST]]
    inner = batch(plain, ids, answers)[-1]["feedback"][0]
    shown = batch(lambda envs: SiblingFeedback(envs, "contrast"), ids, answers)[-1]["feedback"][0]
    assert shown.startswith(f"{inner}\n")
    assert shown.endswith(f"\n{RIGHT[FIRST]}")


def test_the_wording_is_a_template_for_models_with_a_small_vocabulary():
    def wrap(envs):
        return SiblingFeedback(envs, template="{feedback};{attempt}")

    shown = batch(wrap, [FIRST, FIRST], ["y", RIGHT[FIRST]])[-1]["feedback"]
    assert list(shown) == [f"!NameError;{RIGHT[FIRST]}", "="]


def test_it_stacks_on_itself_and_on_others():
    def wrap(envs):
        return SiblingFeedback(Number(SiblingFeedback(envs)), "contrast")

    shown = batch(wrap, [FIRST, FIRST, SECOND], ["y", RIGHT[FIRST], "y"])[-1]["feedback"]
    assert shown[0].startswith("0:A correct attempt")
    assert shown[0].count(RIGHT[FIRST]) == 2
    assert list(shown[1:]) == ["1:=", "2:!NameError"]


def test_thinking_is_not_shown():
    class Thinker(MiniCode):
        def judge(self, problem, answer):
            return super().judge(problem, answer.rpartition("</think>")[2])

    envs = SiblingFeedback(Thinker.vector(3, sandbox="local"))
    ids = [FIRST] * 3
    envs.reset(options={"problem_ids": ids})
    thought = f"<think>hm</think>{RIGHT[FIRST]}"
    shown = envs.step([WRONG, thought, RIGHT[FIRST]])[-1]["feedback"]
    assert shown[0] == f"A correct attempt at the same problem:\n\n{RIGHT[FIRST]}"


def test_groups_stay_reproducible_through_the_wrapper():
    envs = SiblingFeedback(gym.make_vec("vpd/MiniCode-v0", num_envs=4, sandbox="local"))
    assert envs.reset(seed=3)[0] == envs.reset(seed=3)[0]
    assert envs.unwrapped.problem_ids == ENV.problem_ids
    assert envs.spec.id == "vpd/MiniCode-v0"


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"show": "all"}, "show must be one of solved, contrast, pair, got 'all'"),
        ({"which": "best"}, "which must be one of first, shortest, random, got 'best'"),
        ({"seed": "1"}, "seed must be an integer, got '1'"),
        ({"template": "nothing"}, r"template must contain \{attempt\}"),
        ({"template": "{attempt} {score}"}, r"template may hold \{attempt\} and \{feedback\}"),
    ],
)
def test_bad_options_are_explained(kwargs, message):
    envs = gym.make_vec("vpd/MiniCode-v0", num_envs=1, sandbox="local")
    with pytest.raises(ValueError, match=message):
        SiblingFeedback(envs, **kwargs)
