"""MiniChoice and MiniArithmetic: their problems, their exact judges, and their short feedback."""

import hashlib
import pickle
import warnings
from collections import Counter
from functools import lru_cache

import gymnasium as gym
import pytest
from gymnasium.utils.env_checker import check_env
from hypothesis import given, settings
from hypothesis import strategies as st

from vpd_envs import Status
from vpd_envs.math import mini_arithmetic
from vpd_envs.math.mini_arithmetic import MiniArithmetic, marks
from vpd_envs.mini_task import Table
from vpd_envs.questions import mini_choice
from vpd_envs.questions.mini_choice import LETTERS, MiniChoice

BOTH = pytest.mark.parametrize("task", [MiniChoice, MiniArithmetic])
ANSWERS = st.text(alphabet="ABCD0123456789 \n", max_size=8) | st.text(max_size=80)
untimed = settings(deadline=None, max_examples=200)


@lru_cache
def made(task):
    return task()


def problems_of(env):
    return [env.problem(id_) for id_ in env.problem_ids]


# Both ---------------------------------------------------------------------------------------------


@BOTH
@pytest.mark.parametrize("seed", [0, 1, -3])
def test_there_are_600_problems_for_training_and_300_others_held_out(task, seed):
    train, test = task("train", table_seed=seed), task("test", table_seed=seed)
    assert (len(train.problem_ids), len(test.problem_ids)) == (600, 300)
    assert not set(train.problem_ids) & set(test.problem_ids)


@BOTH
def test_problems_are_reproducible_and_differ_by_seed(task):
    again = pickle.loads(pickle.dumps(task(table_seed=7)))
    assert task(table_seed=7).fingerprint == again.fingerprint != task(table_seed=8).fingerprint


def test_problems_depend_on_sha256_alone():
    def drawn(*words):
        return int.from_bytes(hashlib.sha256("/".join(words).encode()).digest()[:8], "big")

    first, second = (10 + drawn("5", "sum", "2", slot, "0") % 90 for slot in ("first", "second"))
    assert problems_of(MiniArithmetic(table_seed=5))[0].prompt == f"{first}+{second}"


@BOTH
def test_the_right_answers_solve_and_say_so_in_one_character(task):
    for env in (task("train"), task("test")):
        verdicts = env.judge_batch(
            problems_of(env), [f" {each.target}\n" for each in problems_of(env)]
        )
        assert {(v.reward, v.status, v.feedback) for v in verdicts} == {(1.0, Status.SOLVED, "=")}


@BOTH
@pytest.mark.parametrize(
    ("answer", "status", "feedback"),
    [
        ("", "empty_answer", "!Empty"),
        (" \n", "empty_answer", "!Empty"),
        ("x", "format_error", "!Format"),
        ("A B", "format_error", "!Format"),
        ("AB", "format_error", "!Format"),
        ("a", "format_error", "!Format"),
        ("-12", "format_error", "!Format"),
        ("1 2", "format_error", "!Format"),
        ("1.0", "format_error", "!Format"),
        ("１２", "format_error", "!Format"),
        ("\ud800", "format_error", "!Format"),
        ("B" * 65, "no_answer", "!TooLong"),
    ],
)
def test_malformed_answers_have_their_status_and_their_feedback(task, answer, status, feedback):
    env = task()
    verdict = env.verdict(problems_of(env)[0], answer)
    assert (verdict.status, verdict.feedback, verdict.reward) == (status, feedback, 0.0)


@BOTH
def test_texts_are_short_and_ascii(task):
    for problem in problems_of(task()):
        assert problem.prompt.isascii()
        assert len(problem.prompt) <= 20
        assert problem.messages == [{"role": "user", "content": problem.prompt}]


@BOTH
@untimed
@given(answer=ANSWERS)
def test_any_text_is_judged_in_few_characters(task, answer):
    env = made(task)
    problem = problems_of(env)[0]
    verdict = env.verdict(problem, answer)
    text, right = answer.strip(), problem.target
    right_forms = (right, f"({right})") if task is MiniChoice else (right.zfill(len(text)),)
    assert verdict.solved == (text in right_forms)
    assert verdict.feedback.isascii()
    assert len(verdict.feedback) <= 64


@BOTH
def test_a_rigid_task_takes_one_form_of_the_right_answer(task):
    rigid, plain = task(rigid=True), task()
    for problem in problems_of(plain)[:40]:
        right = problem.target
        form = f"({right})" if task is MiniChoice else right.zfill(4)
        assert rigid.verdict(problem, f" {form}\n").feedback == "="
        assert plain.verdict(problem, form).solved
        for other in (right, f"[{right}]", f"({right}", f"{form}.", f"0{form}", f"{form} {form}"):
            verdict = rigid.verdict(problem, other)
            assert (verdict.reward, verdict.status) == (0.0, Status.FORMAT_ERROR)
            assert verdict.feedback == "!Form"
    assert rigid.fingerprint != plain.fingerprint


def test_a_rigid_task_says_of_a_wrong_answer_what_the_plain_one_does():
    assert MiniChoice(rigid=True).verdict(problems_of(MiniChoice())[0], "").feedback == "!Empty"
    for problem in problems_of(MiniChoice())[:10]:
        wrong = "ABCD"["ABCD".index(problem.target) - 1]
        assert MiniChoice(rigid=True).verdict(problem, f"({wrong})").feedback == f"!{wrong}"
    env = MiniArithmetic(rigid=True, digits=3)
    verdict = env.verdict(env.problem("243+327"), "00571")
    assert (verdict.feedback, verdict.details) == ("====x", {"right_digits": 2, "digits": 3})
    wider = MiniArithmetic(rigid=True, digits=4)
    problem = problems_of(wider)[0]
    assert wider.verdict(problem, problem.target.zfill(6)).solved
    assert wider.verdict(problem, problem.target.zfill(5)).feedback == "!Form"


@BOTH
@pytest.mark.parametrize(
    "options", [{"split": "all"}, {"table_seed": 0.5}, {"table_seed": True}, {"rigid": 0}]
)
def test_bad_options_are_refused_by_name(task, options):
    with pytest.raises(ValueError, match=next(iter(options))):
        task(**options)


@pytest.mark.parametrize("name", ["MiniChoice", "MiniArithmetic"])
def test_each_is_a_gymnasium_environment_without_a_warning(name):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        env = gym.make(f"vpd/{name}-v0", split="test")
        check_env(env.unwrapped)
        env.reset(seed=1)
    envs = gym.make_vec(
        f"vpd/{name}-v0", num_envs=3, vectorization_mode="vector_entry_point", table_seed=2
    )
    ids = envs.problem_ids[:3]
    envs.reset(options={"problem_ids": ids})
    _, rewards, _, _, _ = envs.step([envs.env.problem(ids[0]).target, "x", ""])
    assert list(rewards) == [1, 0, 0]


# MiniChoice ---------------------------------------------------------------------------------------


def test_the_right_letter_says_which_names_are_marked():
    """Half of the names of each slot, those with the lowest SHA-256."""

    def drawn(slot, name):
        return hashlib.sha256(f"0/{slot}/{name}/marked".encode()).digest()[:8]

    table = Table.make(0)
    marked = [
        sorted(names, key=lambda name: drawn(slot, name))[:15]
        for slot, names in (("first", table.first), ("second", table.second))
    ]
    letters = {(False, False): "A", (False, True): "B", (True, False): "C", (True, True): "D"}
    for problem in problems_of(MiniChoice()):
        first, second = problem.metadata["first"], problem.metadata["second"]
        assert problem.prompt == first + second
        assert problem.target == letters[first in marked[0], second in marked[1]]


def test_no_letter_is_much_more_often_right_than_another():
    counts = Counter(problem.target for problem in problems_of(MiniChoice()))
    assert set(counts) == set(LETTERS)
    assert max(counts.values()) < 0.33 * 600


def test_feedback_on_a_wrong_letter_is_one_bit():
    env = MiniChoice()
    for problem in problems_of(env)[:50]:
        for letter in LETTERS:
            verdict = env.verdict(problem, letter)
            assert verdict.feedback == ("=" if letter == problem.target else f"!{letter}")
            assert verdict.feedback == mini_choice.feedback_for(problem.target, letter)
            assert verdict.details == {"chosen": letter}


# MiniArithmetic -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("1398", "===="),
        ("1498", "=x=="),
        ("398", "-==="),
        ("8", "---="),
        ("9", "---x"),
        ("51398", "x===="),
        ("13980", "xxxxx"),
        ("01398", "====="),
        ("01498", "==x=="),
    ],
)
def test_each_digit_has_a_mark_in_its_place(value, expected):
    assert marks("1398", value) == expected


@untimed
@given(st.integers(100, 10**9), st.integers(0, 10**9))
def test_marks_tell_which_digits_are_right(right, value):
    text, wanted = str(value), str(right)
    width = max(len(text), len(wanted))
    found = marks(wanted, text)
    assert len(found) == width
    for mark, digit, want in zip(found, text.rjust(width), wanted.zfill(width), strict=True):
        assert mark == ("-" if digit == " " else "=" if digit == want else "x")
    assert mini_arithmetic.feedback_for(wanted, text) == ("=" if right == value else found)


def test_sums_are_of_the_asked_length_and_their_values_right():
    for digits in (2, 3, 8):
        for split in ("train", "test"):
            for problem in problems_of(MiniArithmetic(split, digits=digits)):
                first, second = problem.prompt.split("+")
                assert len(first) == len(second) == digits
                assert problem.target == str(int(first) + int(second))


def test_no_held_out_sum_is_a_train_sum_with_its_summands_exchanged():
    sums = [
        frozenset(problem.prompt.split("+"))
        for split in ("train", "test")
        for problem in problems_of(MiniArithmetic(split, digits=2))
    ]
    assert len(set(sums)) == len(sums) == 900


def test_right_digits_are_counted():
    env = MiniArithmetic(digits=3)
    problem = env.problem("243+327")
    assert env.verdict(problem, "571").details == {"right_digits": 2, "digits": 3}
    assert env.verdict(problem, "571").feedback == "==x"
    assert env.verdict(problem, "?").details == {"right_digits": None, "digits": 3}


@pytest.mark.parametrize("digits", [1, 13, "3", True])
def test_summands_have_2_to_12_digits(digits):
    with pytest.raises(ValueError, match="digits"):
        MiniArithmetic(digits=digits)
