"""MiniFunction: its verdicts in words, and the texts that the warm start relies on."""

import pytest

from sandbox import Execution, ExecutionStatus, Job, shared
from vpd_envs.code.mini_code import MiniCode
from vpd_envs.code.mini_function import (
    LONGEST_FEEDBACK,
    PROGRAM,
    MiniFunction,
    feedback_for,
    function,
    stopped,
)
from vpd_envs.code.mini_program import LIMITS, STDIN_HEAD, TEST_INPUTS, Executed


@pytest.fixture(scope="module")
def env():
    return MiniFunction(sandbox="local")


def judged(env, answer):
    """The verdict on an answer to the first problem, with its digits."""
    problem = env.problem(env.problem_ids[0])
    return env.verdict(problem, answer), *problem.target


def test_the_splits_are_those_of_the_table_and_judged_by_it():
    train, test = MiniFunction("train"), MiniFunction("test")
    assert (len(train.problem_ids), len(test.problem_ids)) == (600, 300)
    assert not set(train.problem_ids) & set(test.problem_ids)
    assert train.problem_ids == MiniCode("train").problem_ids
    assert MiniFunction(table_seed=1).fingerprint != train.fingerprint


def test_every_function_of_the_right_values_is_right(env):
    for form in (
        "def f(x):\n y=x*{a}\n return y+{b}",
        "def f(x):\n  return {b}+{a}*x\n",
        "def f(x):return x*{a}+{b}",
        "f=lambda x:x*{a}+{b}",
        "y={b}\ndef f(z):return y+{a}*z",
    ):
        _, a, b = judged(env, "")
        verdict, _, _ = judged(env, form.format(a=a, b=b))
        assert (verdict.feedback, verdict.reward, verdict.solved) == ("=", 1.0, True), form


@pytest.mark.parametrize(
    ("answer", "status", "feedback"),
    [
        ("", "empty_answer", "Empty: there is no answer"),
        ("x*3+4", "runtime_error", "NameError: name 'x' is not defined"),
        ("g=1", "runtime_error", "NameError: name 'f' is not defined"),
        ("def f(x):\n z=x\n return y", "runtime_error", "NameError: name 'y' is not defined"),
        ("def f(x):return 1/0", "runtime_error", "ZeroDivisionError: division by zero"),
        ("f=0", "runtime_error", "TypeError: 'int' object is not callable"),
        ("def f(x):\n y=x*\n return y", "syntax_error", "SyntaxError: invalid syntax"),
        ("def f(x):\n y=x\n  return y", "syntax_error", "IndentationError: unexpected indent"),
        ("def f(x):\n while 1:0", "time_limit", "TimeLimit: it took too long"),
        ("f=[0]*10**10", "memory_limit", "MemoryLimit: it used too much memory"),
        ("print('a'*10**7)", "output_limit", "OutputLimit: it printed too much"),
        ("__import__('os').kill(0,9)", "runtime_error", "Crash: a signal ended it"),
        ("exit()", "runtime_error", "Exit: it ended too early"),
        ("f" * 65, "no_answer", "TooLong: the answer is too long"),
    ],
)
def test_each_failure_has_its_status_and_its_words(env, answer, status, feedback):
    verdict, _, _ = judged(env, answer)
    assert (verdict.status, verdict.feedback, verdict.reward) == (status, feedback, 0.0)


def test_a_wrong_value_is_told_as_a_failing_test(env):
    _, a, b = judged(env, "")
    for answer, feedback in (
        ("def f(x):return 7", f"f(10) is 7, not {10 * a + b}"),
        (f"def f(x):return x*{a}+{b} if x else 99", f"f(0) is 99, not {b}"),
        ("def f(x):return 'a\\n'*99", f"f(10) is 'a\\na\\na, not {10 * a + b}"),
        ("def f(x):0", f"f(10) is None, not {10 * a + b}"),
    ):
        verdict, _, _ = judged(env, answer)
        assert (verdict.status, verdict.feedback) == ("wrong_answer", feedback)


def test_printing_the_right_lines_and_more_is_wrong(env):
    right = "".join(f"{x * 3 + 4}\n" for x in TEST_INPUTS)
    execution = Execution(ExecutionStatus.OK, right + "5\n", "", 0, 0, 0, 0)
    verdict = env.verdict_of(Executed.of(execution), 3, 4)
    assert (verdict.solved, verdict.feedback) == (False, "f(7) is 5, not that")


def test_feedback_is_bounded_and_ascii(env):
    for answer in ("raise ValueError('\u00e4'*40)", f"raise {'V' * 50}", "raise OSError('a. b')"):
        verdict, _, _ = judged(env, answer)
        assert verdict.feedback.isascii()
        assert len(verdict.feedback) <= LONGEST_FEEDBACK
    assert stopped("OSError", "a. b") == "OSError: a"
    assert stopped("KeyError", "") == "KeyError"


def test_feedback_for_is_what_the_judge_says(env):
    """Answers with every digit in each of the two places to one problem."""
    problem = env.problem(env.problem_ids[0])
    a, b = problem.target
    answers = [(c, b) for c in range(1, 10)] + [(a, c) for c in range(1, 10)] + [(b, a)]
    verdicts = env.judge_batch([problem] * len(answers), [function(*each) for each in answers])
    for answer, verdict in zip(answers, verdicts, strict=True):
        assert verdict.feedback == feedback_for(a, b, *answer)
    assert feedback_for(3, 4, 5, 7) == "f(10) is 57, not 34"
    assert feedback_for(3, 4, 3, 4) == "="


def test_a_rigid_task_takes_one_form(env):
    rigid = MiniFunction(rigid=True, sandbox="local")
    _, a, b = judged(env, "")
    assert judged(rigid, function(a, b))[0].solved
    for answer in (f"def f(x):\n return x*{a}+{b}", f"def f(x):\n y={b}\n return y+x*{a}", "1/0"):
        verdict, _, _ = judged(rigid, answer)
        assert (verdict.status, verdict.feedback) == (
            "format_error",
            "FormError: the form is wrong",
        )
    assert judged(env, f"def f(x):\n y={b}\n return y+x*{a}")[0].solved


def test_the_digits_never_enter_the_cage():
    """What is executed depends on the answer alone: not on the problem."""
    job = Job(PROGRAM, stdin=STDIN_HEAD + "def f(x):return x", limits=LIMITS)
    assert shared("local").run(job).stdout == "10\n0\n3\n7\n"
