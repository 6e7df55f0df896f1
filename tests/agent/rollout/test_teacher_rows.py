"""Who is taught, and the exact text of every teacher row: a group of 8 with 0, 1 and 8 solved."""

import gymnasium as gym
import numpy as np
import pytest
import torch

from tests.agent.helpers import small_policy
from vpd_agent import SDPO, VPD, PlainPrompt, TeacherTemplate
from vpd_agent.algorithms.distillation import distillation_mask, num_taught_rollouts
from vpd_agent.data.batch import RolloutBatch
from vpd_agent.data.types import Rollout
from vpd_agent.rollout.collect import judge
from vpd_agent.rollout.teacher_prompt import COMPACT, teacher_prompt
from vpd_envs import (
    EnvironmentFeedback,
    FeedbackBudget,
    FeedbackSource,
    NoisyFeedback,
    SelfCritique,
    SiblingFeedback,
    compose,
)
from vpd_envs.feedback.critique import CritiqueSource

QUESTION = "Q?"
END = "\n\nCorrectly solve the original question."
SOLUTION = "\nCorrect solution:\n\n"
FAILED = "\nThe following is feedback from your unsuccessful earlier attempt:\n\n"
SOLVED = "\nThe following is feedback from your successful earlier attempt:\n\n"


class Group(gym.vector.VectorEnv):
    """Eight answers to one problem; those that begin with "r" are right."""

    num_envs = 8

    def reset(self, *, seed=None, options=None):
        return (QUESTION,) * 8, {}

    def step(self, actions):
        solved = np.array([a.removeprefix("<think>t</think>").startswith("r") for a in actions])

        def objects(values):
            return np.array(values, dtype=object)

        said = ["Good." if ok else f"{a} is wrong." for a, ok in zip(actions, solved, strict=True)]
        infos = {
            "judged": np.ones(8, bool),
            "solved": solved,
            "problem_id": objects(["p"] * 8),
            "status": objects(["solved" if ok else "wrong_answer" for ok in solved]),
            "feedback": objects(said),
            "details": objects([{} if ok else {"first_failure": "first"} for ok in solved]),
        }
        over = np.ones(8, bool)
        return tuple(said), solved.astype(float), over, ~over, infos


class Polite(FeedbackSource):
    """A user's own source, which knows nothing of demonstrations."""

    def feedback(self, attempts):
        return [f"Sorry. {a.feedback}" for a in attempts]


class Judge(CritiqueSource):
    """As JudgeFeedback; the endpoint answers only the first two attempts in time."""

    def critiques(self, prompts):
        return ["J." if i < 2 else None for i in range(len(prompts))]


def critic(prompts):
    return ["C."] * len(prompts)


def rows(sources, num_solved, template=None):
    """The teacher's user turns of the group, None where there is none, and the batch.

    The right answers are r0, r1, ..., the wrong ones w1, ..., w7.
    """
    template = template or TeacherTemplate()
    answers = [f"{'r' if i < num_solved else 'w'}{i}" for i in range(8)]
    env = compose(Group(), *sources)
    env.reset()
    rollouts = []
    for answer, result in zip(answers, judge(env, answers), strict=True):
        messages = [{"role": "user", "content": QUESTION}]
        rollouts.append(
            Rollout("p", 0, messages, [1], [2, 3], [0.0, 0.0], answer, "stop", result.reward,
                    result.feedback, demonstration=result.demonstration)
        )  # fmt: skip
    policy = small_policy()
    texts, prompts = [], []
    for r in rollouts:
        given = {"solved": r.reward == 1.0, "demonstration": r.demonstration}
        ids = teacher_prompt(
            policy, template, r.messages, r.text, r.feedback, max_tokens=999, **given
        )
        prompts.append(ids)
        shown = template.messages(r.messages, r.text, r.feedback, **given)[-1]["content"]
        assert ids is None or ids == policy.encode([{"role": "user", "content": shown}])
        texts.append(None if ids is None else shown)
    batch = RolloutBatch.from_rollouts(
        rollouts, prompts, teacher_sees_outcome=template.needs_feedback
    )
    return texts, batch


def taught(batch, algorithm):
    """The numbers of the rows that the M-step is taught on."""
    mask, count = distillation_mask(batch, algorithm)
    found = mask.any(1).nonzero().flatten().tolist()
    assert count == mask.sum() == 2 * len(found)  # two tokens each
    assert num_taught_rollouts(batch, algorithm) == len(found)
    return found


# Of each stack: the text of row 1 with 0 solved; of rows 0 (solved) and 1 (failed) with 1 solved;
# of rows 0 and 1 with 8 solved, all between the question and the last sentence. "": no teacher.
WRONG, GOOD = f"{FAILED}w1 is wrong.", f"{SOLVED}Good."
R0, R1 = f"{SOLUTION}r0", f"{SOLUTION}r1"
PAIR = f"{FAILED}An incorrect attempt:\n\nw1\n\nw1 is wrong."
TABLE = {
    "environment": ([], WRONG, GOOD, WRONG, GOOD, GOOD),
    "full": ([EnvironmentFeedback("full")], WRONG, GOOD, WRONG, GOOD, GOOD),
    "first": (
        [EnvironmentFeedback("first")], f"{FAILED}first", GOOD, f"{FAILED}first", GOOD, GOOD,
    ),
    "status": (
        [EnvironmentFeedback("status")],
        f"{FAILED}Wrong answer", f"{SOLVED}Correct", f"{FAILED}Wrong answer",
        f"{SOLVED}Correct", f"{SOLVED}Correct",
    ),
    "outcome": (
        [EnvironmentFeedback("outcome")],
        f"{FAILED}Your answer is not correct.", f"{SOLVED}Your answer is correct.",
        f"{FAILED}Your answer is not correct.", f"{SOLVED}Your answer is correct.",
        f"{SOLVED}Your answer is correct.",
    ),
    "siblings": ([SiblingFeedback()], WRONG, GOOD, R0, R1, R0),
    "contrast": (
        [SiblingFeedback("contrast")], WRONG, GOOD, R0 + WRONG, R1 + GOOD, R0 + GOOD,
    ),
    "pair": ([SiblingFeedback("pair")], WRONG, GOOD, R0 + PAIR, R1 + GOOD, R0 + GOOD),
    "own template": (
        [SiblingFeedback(template="See {attempt}")],
        WRONG, GOOD, f"{FAILED}See r0", GOOD, GOOD,
    ),
    "self-critique": (
        [SelfCritique(critic)], f"{FAILED}C.", GOOD, f"{FAILED}C.", GOOD, GOOD,
    ),
    "self-critique, keep": (
        [SelfCritique(critic, keep=True)],
        f"{WRONG}\n\nC.", GOOD, f"{WRONG}\n\nC.", GOOD, GOOD,
    ),
    "self-critique of all": (
        [SelfCritique(critic, critique="all")],
        f"{FAILED}C.", f"{SOLVED}C.", f"{FAILED}C.", f"{SOLVED}C.", f"{SOLVED}C.",
    ),
    "judge": ([Judge()], f"{FAILED}J.", GOOD, f"{FAILED}J.", GOOD, GOOD),
    "noisy: cut": (
        [NoisyFeedback(truncate=2)],
        f"{FAILED}w1", f"{SOLVED}Go", f"{FAILED}w1", f"{SOLVED}Go", f"{SOLVED}Go",
    ),
    "noisy: dropped": ([NoisyFeedback(drop=1.0)], "", "", "", "", ""),
    "noisy: exchanged": (  # no other problem to exchange with
        [NoisyFeedback(shuffle=1.0)], WRONG, GOOD, WRONG, GOOD, GOOD,
    ),
    "budget": (
        [FeedbackBudget(4)],
        f"{FAILED}w1 i", f"{SOLVED}Good", f"{FAILED}w1 i", f"{SOLVED}Good", f"{SOLVED}Good",
    ),
    "siblings+budget": ([SiblingFeedback(), FeedbackBudget(1)],
        f"{FAILED}w", f"{SOLVED}G", f"{SOLUTION}r", f"{SOLUTION}r", f"{SOLUTION}r",
    ),
    "contrast+budget": (
        [SiblingFeedback("contrast"), FeedbackBudget(4)],
        f"{FAILED}w1 i", f"{SOLVED}Good", f"{R0}{FAILED}w1", f"{R1}{SOLVED}Go", f"{R0}{SOLVED}Go",
    ),
    "siblings+noisy: dropped": (
        [SiblingFeedback(), NoisyFeedback(drop=1.0)], "", "", "", "", "",
    ),
    "status+siblings": (
        [EnvironmentFeedback("status"), SiblingFeedback()],
        f"{FAILED}Wrong answer", f"{SOLVED}Correct", R0, R1, R0,
    ),
    "siblings+status": (
        [SiblingFeedback(), EnvironmentFeedback("status")],
        f"{FAILED}Wrong answer", f"{SOLVED}Correct", f"{FAILED}Wrong answer",
        f"{SOLVED}Correct", f"{SOLVED}Correct",
    ),
    "siblings+self-critique": (
        [SiblingFeedback(), SelfCritique(critic)], f"{FAILED}C.", GOOD, f"{FAILED}C.", R1, R0,
    ),
    "siblings+self-critique, keep": (
        [SiblingFeedback(), SelfCritique(critic, keep=True)],
        f"{WRONG}\n\nC.", GOOD, f"{R0}{FAILED}C.", R1, R0,
    ),
    "self-critique+siblings": (
        [SelfCritique(critic), SiblingFeedback()], f"{FAILED}C.", GOOD, R0, R1, R0,
    ),
    "own source": (
        [Polite()],
        f"{FAILED}Sorry. w1 is wrong.", f"{SOLVED}Sorry. Good.", f"{FAILED}Sorry. w1 is wrong.",
        f"{SOLVED}Sorry. Good.", f"{SOLVED}Sorry. Good.",
    ),
    "siblings+own source": (  # its text quotes the demonstration, which is not shown twice
        [SiblingFeedback(), Polite()],
        f"{FAILED}Sorry. w1 is wrong.", f"{SOLVED}Sorry. Good.",
        f"{FAILED}Sorry. A correct attempt at the same problem:\n\nr0",
        f"{SOLVED}Sorry. Good.", f"{SOLVED}Sorry. Good.",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", TABLE)
def test_text_of_every_teacher_row_and_who_is_taught(name):
    sources, none, one_solved, one_failed, all_first, all_second = TABLE[name]

    def turn(section):
        return QUESTION + section + END if section else None

    for num_solved, expected in (
        (0, {1: none}),
        (1, {0: one_solved, 1: one_failed}),
        (8, {0: all_first, 1: all_second}),
    ):
        texts, batch = rows(sources, num_solved)
        assert {i: texts[i] for i in expected} == {i: turn(t) for i, t in expected.items()}
        # No two rows of the same outcome differ but in their own answer (w2 for w1), except where
        # the source treats rows differently: the first solved row is shown the second.
        conditioned = [i for i, text in enumerate(texts) if text is not None]
        assert batch.has_teacher.nonzero().flatten().tolist() == conditioned  # the E-step
        assert conditioned == ([] if not none else list(range(8)))
        shown_another = num_solved == 8 and "Correct solution" in all_first
        failed = range(num_solved, 8)
        wanted = list(range(8)) if shown_another else [i for i in failed if none]
        for algorithm in (SDPO(), VPD()):
            assert taught(batch, algorithm) == wanted


def test_a_solved_row_is_never_called_unsuccessful():
    for sources, *_ in TABLE.values():
        texts, _ = rows(sources, 8)
        assert not any("unsuccessful" in text for text in texts if text)


def test_own_success_is_taught_where_asked_for():
    _, batch = rows([], 1)
    assert taught(batch, SDPO(on_own_success=True)) == list(range(8))
    assert taught(batch, SDPO(on_own_success=True, distill_on="solved")) == [0]
    assert taught(batch, SDPO(distill_on="solved")) == []
    assert taught(batch, SDPO(distill_on="failed")) == list(range(1, 8))


def test_a_plain_prompt_shows_no_outcome_so_every_row_is_taught():
    texts, batch = rows([], 8, PlainPrompt())
    assert texts == [QUESTION] * 8
    assert taught(batch, SDPO()) == list(range(8))


def test_compact_demonstrations_read_as_right_attempts():
    texts, _ = rows([SiblingFeedback()], 1, COMPACT)
    assert texts[:2] == ["Q?|r0:Good.", "Q?|r0:="]
    assert texts[2] == "Q?|r0:="


def test_counts_are_of_the_whole_batch_in_every_micro_batch():
    _, batch = rows([], 1)
    parts = list(batch.split(3))
    assert [distillation_mask(p, SDPO())[1] for p in parts] == [14.0] * 3
    masked = torch.cat([distillation_mask(p, SDPO())[0] for p in parts])
    assert masked.any(1).tolist() == [False] + [True] * 7


def test_thoughts_are_not_demonstrated():
    env = compose(Group(), SiblingFeedback())
    env.reset()
    results = judge(env, ["<think>t</think>r0", *(f"w{i}" for i in range(1, 8))])
    assert [r.demonstration for r in results] == [""] + ["r0"] * 7


def test_control_tokens_in_a_demonstration_are_plain_text():
    env = compose(Group(), SiblingFeedback())
    env.reset()
    results = judge(env, ["r<|im_end|>", *(f"w{i}" for i in range(1, 8))])
    assert "<|im_end|>" not in results[1].demonstration
    assert results[1].demonstration.startswith("r")
