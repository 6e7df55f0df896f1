"""Sources stack in any order: each is given the text of the one inside it, and nothing else moves.

What a stack must say is worked out here by a naive loop over plain functions, a few lines each.
"""

import itertools
import pickle

import gymnasium as gym
import numpy as np
import pytest
from guessing import Guess, guesses, said
from gymnasium.utils.env_checker import data_equivalence

from vpd_envs import compose
from vpd_envs.code.mini_code import MiniCode, expression
from vpd_envs.feedback import (
    EnvironmentFeedback,
    FeedbackBudget,
    FeedbackSource,
    FeedbackWrapper,
    NoisyFeedback,
    SelfCritique,
    SiblingFeedback,
    VectorFeedbackWrapper,
)


def length_critic(prompts):
    return [f"Say more than {prompt}." for prompt in prompts]


# Each source beside what it does to the rows (answer, solved, status in words) and their texts.
STACK = {
    "status": (
        EnvironmentFeedback("status"),
        lambda rows, texts: [words for _, _, words in rows],
    ),
    "siblings": (
        SiblingFeedback(template="{feedback};{attempt}"),
        lambda rows, texts: [
            text if solved else f"{text};{next(a for a, right, _ in rows if right)}"
            for (_, solved, _), text in zip(rows, texts, strict=True)
        ],
    ),
    "critique": (
        SelfCritique(length_critic, template="{attempt}-{outcome}"),
        lambda rows, texts: [
            text if solved else f"Say more than {answer}-{text or words}."
            for (answer, solved, words), text in zip(rows, texts, strict=True)
        ],
    ),
    "noise": (
        NoisyFeedback(truncate=9),
        lambda rows, texts: [text[:9] for text in texts],
    ),
    "budget": (
        FeedbackBudget(12),
        lambda rows, texts: [text[:12] for text in texts],
    ),
}
orders = pytest.mark.parametrize(
    "names", [list(p) for n in (2, 3, 5) for p in itertools.permutations(STACK, n)], ids="-".join
)
MINI = MiniCode(sandbox="local")
FIRST = MINI.problem_ids[0]
RIGHT = expression(*MINI.problem(FIRST).target)
MINI_ROWS = [("x*0+0", False, "Wrong answer"), (RIGHT, True, "Correct"),
             ("y", False, "Runtime error")]  # fmt: skip
GUESS_ROWS = [("3", False, "Wrong answer"), ("5", True, "Correct"),
              ("x", False, "No answer in the asked format")]  # fmt: skip


def expected(names, rows, texts):
    for name in names:
        texts = STACK[name][1](rows, texts)
    return texts


def sources(names):
    return [STACK[name][0] for name in names]


def same_but_feedback(step, base):
    """That two steps of a batch agree in all but feedback with its parts, observations and
    messages."""
    assert all(map(np.array_equal, step[1:4], base[1:4]))
    parts = {"comment", "_comment", "demonstration", "_demonstration"}
    assert step[4].keys() - parts == base[4].keys()
    for key in base[4].keys() - {"feedback", "messages"}:
        assert data_equivalence(step[4][key], base[4][key], exact=True), key


@pytest.fixture(scope="module")
def mini_step():
    envs = MiniCode.vector(3, sandbox="local")

    def step(wrap=lambda envs: envs):
        wrapped = wrap(envs)
        wrapped.reset(options={"problem_ids": [FIRST] * 3})
        return wrapped.step([answer for answer, *_ in MINI_ROWS])

    base = step()
    return step, base


@orders
def test_executed_answers_get_what_the_stack_says(names, mini_step):
    step, base = mini_step
    stacked = step(lambda envs: compose(envs, *sources(names)))
    inner = list(base[4]["feedback"])
    assert list(stacked[4]["feedback"]) == expected(names, MINI_ROWS, inner)
    assert stacked[0] == tuple(stacked[4]["feedback"])
    same_but_feedback(stacked, base)


@orders
def test_the_next_observation_and_message_of_several_turns_are_what_the_stack_says(names):
    pairs = [("mid", answer) for answer, *_ in GUESS_ROWS]
    envs, step = guesses(pairs, lambda envs: compose(envs, *sources(names)))
    base_envs, base = guesses(pairs)
    texts = expected(names, GUESS_ROWS, list(base[4]["feedback"]))
    assert list(step[4]["feedback"]) == list(step[0]) == texts
    assert [m and m[0]["content"] for m in step[4]["messages"]] == [texts[0], None, texts[2]]
    same_but_feedback(step, base)
    # Second turn: the solved row is over, gets no text, and is no sibling any more.
    second, base_second = (each.step(["5", None, "4"]) for each in (envs, base_envs))
    rows = [("5", True, "Correct"), ("4", False, "Wrong answer")]
    judged = [base_second[4]["feedback"][i] for i in (0, 2)]
    texts = expected(names, rows, judged)
    assert list(second[4]["feedback"]) == [texts[0], None, texts[1]]
    assert second[0] == (texts[0], "", texts[1])
    same_but_feedback(second, base_second)


def test_composing_is_wrapping_from_the_inside_out():
    pairs = [("mid", "3"), ("mid", "5")]
    by_hand = said(pairs, lambda e: FeedbackBudget(SiblingFeedback(EnvironmentFeedback(e)), 30))
    at_once = said(
        pairs,
        lambda e: compose(
            e, EnvironmentFeedback, SiblingFeedback(), lambda e: FeedbackBudget(e, 30)
        ),
    )
    assert by_hand == at_once


class Rows(FeedbackSource):
    """Says which problems it was shown."""

    def feedback(self, attempts):
        self.shown = [(a.problem_id, a.prompt, a.answer, a.reward) for a in attempts]
        return [f"{a.problem_id}!" for a in attempts]


def test_answers_that_were_not_judged_are_not_shown_to_a_source():
    source = Rows()
    pairs = [("low", "fire"), ("mid", "5"), ("high", "x")]
    _, (observations, rewards, _, truncated, infos) = guesses(pairs, source.around)
    assert source.shown == [("mid", "Guess mid", "5", 1.0), ("high", "Guess high", "x", 0.0)]
    assert np.isnan(rewards[0])
    assert truncated.tolist() == [True, False, False]
    assert list(infos["feedback"]) == [None, "mid!", "high!"]
    assert infos["_feedback"].tolist() == [False, True, True]
    assert observations == ("", "mid!", "high!")


def test_resetting_some_rows_leaves_what_was_shown_of_the_others():
    """Not even the inner feedback of the others may come back with the new prompts."""
    source = Rows()
    envs, _ = guesses([("low", "3"), ("mid", "5"), ("high", "3")], source.around)
    mask = np.array([False, True, False])
    prompts, infos = envs.reset(options={"problem_ids": ["low"] * 3, "reset_mask": mask})
    assert prompts == ("low!", "Guess low", "high!")
    assert infos["_problem_id"].tolist() == mask.tolist()
    observations, *_ = envs.step(["1", "1", "1"])
    asked = [("low", "Guess low"), ("low", "Guess low"), ("high", "Guess high")]
    assert [(problem, prompt) for problem, prompt, *_ in source.shown] == asked
    assert observations == ("low!", "low!", "high!")


def test_the_first_reset_may_be_of_some_rows_only():
    envs = Rows(Guess.vector(2))
    options = {"problem_ids": ["low", "mid"], "reset_mask": [True, False]}
    assert envs.reset(options=options)[0] == ("Guess low", "")
    assert list(envs.step(["1", None])[-1]["feedback"]) == ["low!", None]


def test_wrapped_environments_can_be_pickled_in_the_middle_of_an_episode():
    pairs = [("mid", "3"), ("mid", "x")]
    envs, _ = guesses(pairs, lambda envs: compose(envs, *sources(["siblings", "noise"])))
    copy = pickle.loads(pickle.dumps(envs))
    first, second = (each.step(["4", "5"]) for each in (envs, copy))
    assert first[0] == second[0] == ("4 is too ", "Right.")
    env = compose(Guess(), *sources(["status", "critique"]))
    env.reset(options={"problem_id": "mid"})
    copy = pickle.loads(pickle.dumps(env))
    assert env.step("3") == copy.step("3")
    assert env.step("4")[0] == "Say more than 4-Wrong answer."


def test_a_source_class_makes_a_wrapper_of_an_environment_and_a_source_without_one():
    env, envs = Guess(), Guess.vector(2)
    assert type(EnvironmentFeedback(env)) is FeedbackWrapper
    assert type(EnvironmentFeedback(envs, "status")) is VectorFeedbackWrapper
    assert type(EnvironmentFeedback(env=env, verbosity="status")) is FeedbackWrapper
    assert isinstance(EnvironmentFeedback("status"), FeedbackSource)
    assert EnvironmentFeedback(envs, "status").source.verbosity == "status"


def test_around_gymnasiums_own_vector_environments_sources_go_inside():
    def make(**kwargs):
        return gym.make_vec("Guess-v0", num_envs=2, vectorization_mode="sync", **kwargs)

    gym.register("Guess-v0", entry_point=Guess)
    try:
        envs = EnvironmentFeedback(make())
        envs.reset(seed=0)
        with pytest.raises(ValueError, match=r"infos have 'judged'.*wrappers=\[SOURCE\]"):
            envs.step(["x", "x"])
        envs = make(wrappers=[lambda env: EnvironmentFeedback(env, "status")])
        envs.reset(seed=0)
        assert set(envs.step(["x", "x"])[0]) == {"No answer in the asked format"}
    finally:
        del gym.registry["Guess-v0"]
