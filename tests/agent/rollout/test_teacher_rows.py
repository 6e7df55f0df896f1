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
    JudgeFeedback,
    NoisyFeedback,
    SelfCritique,
    SiblingFeedback,
    compose,
)
from vpd_envs.feedback.endpoint import Failure

QUESTION = "Q?"
END = "\n\nCorrectly solve the original question."
SOLUTION = "\nCorrect solution:\n\n"
FAILED = "\nThe following is feedback from your unsuccessful earlier attempt:\n\n"
SOLVED = "\nThe following is feedback from your successful earlier attempt:\n\n"


class Group(gym.vector.VectorEnv):
    """Eight answers to one problem, or to several; those that begin with "r" are right."""

    num_envs = 8

    def __init__(self, problems="pppppppp"):
        self.problems = problems

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
            "problem_id": objects([*self.problems]),
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


def judging(**options):
    """The real JudgeFeedback; its endpoint fails with the attempt w2 and answers all others."""
    source = JudgeFeedback("http://127.0.0.1:9/v1", "m", template="{attempt}", **options)
    source.endpoint.ask = lambda questions: [
        Failure("HTTP 500") if question == "w2" else "J." for question in questions
    ]
    return source


class Quoting(SiblingFeedback):
    """A user's subclass of one of our sources that writes only its text."""

    def feedback(self, attempts):
        return [f"<{text}>" for text in super().feedback(attempts)]


def critic(prompts):
    return ["C."] * len(prompts)


def rows(sources, num_solved, template=None, problems="pppppppp"):
    """The teacher's user turns of the group, None where there is none, and the batch.

    The right answers are r0, r1, ..., the wrong ones ..., w6, w7.
    """
    template = template or TeacherTemplate()
    answers = [f"{'r' if i < num_solved else 'w'}{i}" for i in range(8)]
    env = compose(Group(problems), *sources)
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


# Of each stack, between the question and the last sentence: with 0 solved the text of row 1, and of
# every other with its own answer for w1; with 1 solved that of row 0 (solved), and of row 1 and so
# of 2 to 7 (failed); with 8 solved that of row 0, and of each of rows 1 to 7. "": no teacher.
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
    "judge": ([judging()], f"{FAILED}J.", GOOD, f"{FAILED}J.", GOOD, GOOD),
    "judge, keep": (
        [judging(keep=True)], f"{WRONG}\n\nJ.", GOOD, f"{WRONG}\n\nJ.", GOOD, GOOD,
    ),
    "judge of all": (
        [judging(critique="all")],
        f"{FAILED}J.", f"{SOLVED}J.", f"{FAILED}J.", f"{SOLVED}J.", f"{SOLVED}J.",
    ),
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
    "own subclass of siblings": (  # what it writes is all there is
        [Quoting()],
        f"{FAILED}<w1 is wrong.>", f"{SOLVED}<Good.>",
        f"{FAILED}<A correct attempt at the same problem:\n\nr0>",
        f"{SOLVED}<Good.>", f"{SOLVED}<Good.>",
    ),
}  # fmt: skip
FAILED_AT_W2 = ("judge", "judge, keep", "judge of all")  # the row keeps what the environment said


@pytest.mark.parametrize("name", TABLE)
def test_text_of_every_teacher_row_and_who_is_taught(name):
    sources, none, one_solved, one_failed, all_first, all_second = TABLE[name]

    def failed(text, numbers):
        said = {i: text.replace("w1", f"w{i}") for i in numbers}
        return said | ({2: f"{FAILED}w2 is wrong."} if name in FAILED_AT_W2 else {})

    for num_solved, expected in (
        (0, failed(none, range(8))),
        (1, {0: one_solved} | failed(one_failed, range(1, 8))),
        (8, {0: all_first} | dict.fromkeys(range(1, 8), all_second)),
    ):
        texts, batch = rows(sources, num_solved)
        turns = {i: QUESTION + text + END if text else None for i, text in expected.items()}
        assert dict(enumerate(texts)) == turns
        conditioned = batch.has_teacher.nonzero().flatten().tolist()  # by the E-step
        assert conditioned == [i for i in range(8) if turns[i]]
        # Every failed row with a teacher, and a solved one only where it is shown another's answer.
        another = num_solved == 8 and "Correct solution" in all_first
        wanted = [i for i in conditioned if i >= num_solved or another]
        for algorithm in (SDPO(), VPD()):
            assert taught(batch, algorithm) == wanted


@pytest.mark.parametrize("inner", [[], [SiblingFeedback()]])
def test_feedback_exchanged_between_problems_goes_under_the_heading_of_the_own_outcome(inner):
    """Rows 0 to 3 solve the problem p, rows 4 to 7 fail at q: each is told what is another's."""
    texts, batch = rows([*inner, NoisyFeedback(shuffle=1.0)], 4, problems="ppppqqqq")
    of_p = [SOLUTION + "r1"] + [SOLUTION + "r0"] * 3 if inner else [FAILED + "Good."] * 4
    of_q = [f"{SOLVED}w{i} is wrong." for i in range(4, 8)]
    assert sorted(texts[4:]) == sorted(QUESTION + text + END for text in of_p)
    assert sorted(texts[:4]) == sorted(QUESTION + text + END for text in of_q)
    assert batch.has_teacher.all()
    assert taught(batch, SDPO()) == [4, 5, 6, 7]  # rows 0 to 3 are shown no solution


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
