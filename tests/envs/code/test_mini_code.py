"""MiniCode: its tables, its verdicts, and the texts that the warm start relies on."""

import pytest

from sandbox import Execution, ExecutionStatus, Job, SandboxError, shared
from vpd_envs.code import mini_program
from vpd_envs.code.mini_code import PROGRAM, MiniCode, expression, feedback_for
from vpd_envs.code.mini_program import LIMITS, STDIN_HEAD, TEST_INPUTS, Executed
from vpd_envs.mini_task import Table


@pytest.fixture(scope="module")
def env():
    return MiniCode(sandbox="local")


def judged(env, answer):
    """The verdict on an answer to the first problem, with its digits."""
    problem = env.problem(env.problem_ids[0])
    return env.verdict(problem, answer), *problem.target


@pytest.mark.parametrize("seed", [0, 1, 12345, -3])
def test_tables_have_the_promised_sizes_and_splits(seed):
    table = Table.make(seed)
    assert len(table.first) == len(table.second) == 30
    assert all(len(name) == 2 and name.isalpha() for name in [*table.first, *table.second])
    assert set(table.first.values()) | set(table.second.values()) <= set(range(1, 10))
    assert (len(table.train_pairs), len(table.test_pairs)) == (600, 300)
    assert len(set(table.train_pairs) | set(table.test_pairs)) == 900
    assert {first for first, _ in table.train_pairs} == set(table.first)
    assert {second for _, second in table.train_pairs} == set(table.second)


def test_tables_are_reproducible_and_differ_by_seed():
    assert Table.make(0) == Table.make.__wrapped__(0)
    assert Table.make(0) != Table.make(1)
    assert MiniCode(table_seed=0).fingerprint == MiniCode(table_seed=0).fingerprint
    assert MiniCode(table_seed=0).fingerprint != MiniCode(table_seed=1).fingerprint


def test_the_splits_ask_their_own_pairs():
    train, test = MiniCode("train"), MiniCode("test")
    assert (len(train.problem_ids), len(test.problem_ids)) == (600, 300)
    assert not set(train.problem_ids) & set(test.problem_ids)
    prompt, info = train.reset(options={"problem_id": train.problem_ids[5]})
    assert prompt == info["metadata"]["first"] + info["metadata"]["second"]


def test_every_expression_of_the_right_value_is_right(env):
    for form in (
        "x*{a}+{b}",
        "{b}+{a}*x",
        " x * {a} + {b}\n",
        "sum([x]*{a})+{b}",
        "(lambda:{a}*x+{b})()",
    ):
        _, a, b = judged(env, "")
        verdict, _, _ = judged(env, form.format(a=a, b=b))
        assert (verdict.feedback, verdict.reward, verdict.solved) == ("=", 1.0, True), form


@pytest.mark.parametrize(
    ("answer", "status", "feedback"),
    [
        ("", "empty_answer", "!Empty"),
        (" \n", "empty_answer", "!Empty"),
        ("y", "runtime_error", "!NameError"),
        ("1/0", "runtime_error", "!ZeroDivisionError"),
        ("x*", "syntax_error", "!SyntaxError"),
        ("x=1", "syntax_error", "!SyntaxError"),
        ("import os", "syntax_error", "!SyntaxError"),
        ("\ud800", "syntax_error", "!SyntaxError"),
        ("9**9**9", "time_limit", "!TimeLimit"),
        ("[0]*10**10", "memory_limit", "!MemoryLimit"),
        ("print('a'*10**7)", "output_limit", "!OutputLimit"),
        ("__import__('os').kill(0,9)", "runtime_error", "!Crash"),
        ("exit()", "runtime_error", "!Exit"),
        ("x" * 65, "no_answer", "!TooLong"),
        ("None", "wrong_answer", "10<None/"),
        ("'a\\n'*99", "wrong_answer", "10<'a\\na\\na/"),  # cut to 8 characters
    ],
)
def test_each_failure_has_its_status_and_its_feedback(env, answer, status, feedback):
    verdict, a, b = judged(env, answer)
    assert verdict.status == status
    assert verdict.reward == 0
    assert verdict.feedback.startswith(feedback)
    if status == "wrong_answer":
        assert verdict.feedback == f"{feedback}{10 * a + b}"


def test_the_type_of_the_value_counts(env):
    _, a, b = judged(env, "")
    for answer in (f"x*{a}.0+{b}", f"str(x*{a}+{b})", f"[x*{a}+{b}]"):
        assert judged(env, answer)[0].status == "wrong_answer"


def test_the_first_failing_input_is_told(env):
    _, a, b = judged(env, "")
    verdict, _, _ = judged(env, f"x*{a}+{b} if x else 99")
    assert verdict.feedback == f"0<99/{b}"
    assert verdict.details == {"tests": 4, "passed": 3}


def test_printing_the_right_lines_and_more_is_wrong(env):
    _, a, b = judged(env, "")
    assert not judged(env, f"print(x*{a}+{b})")[0].solved
    assert not judged(env, f"print(0) or x*{a}+{b}")[0].solved
    right = "".join(f"{x * a + b}\n" for x in TEST_INPUTS)
    execution = Execution(ExecutionStatus.OK, right + "7\n", "", 0, 0, 0, 0)
    assert env.verdict_of(Executed.of(execution), a, b).status == "wrong_answer"


def test_feedback_for_is_what_the_judge_says(env):
    """All 81 well-formed answers to one problem, and every digit pair as the wanted one."""
    problem = env.problem(env.problem_ids[0])
    digits = range(1, 10)
    answers = [(c, d) for c in digits for d in digits]
    verdicts = env.judge_batch([problem] * 81, [expression(c, d) for c, d in answers])
    for (c, d), verdict in zip(answers, verdicts, strict=True):
        assert verdict.feedback == feedback_for(*problem.target, c, d)
    for a, b in answers:
        printed = "".join(f"{x * 3 + 4}\n" for x in TEST_INPUTS)
        execution = Execution(ExecutionStatus.OK, printed, "", 0, 0, 0, 0)
        assert env.verdict_of(Executed.of(execution), a, b).feedback == feedback_for(a, b, 3, 4)
    assert feedback_for(3, 4, 5, 7) == "10<57/34"
    assert feedback_for(3, 4, 3, 4) == "="


class Counting:
    """A sandbox that counts what it runs, and fails where it is told to."""

    name, cages, python_version = "counting", 1, "3.13"

    def __init__(self):
        self.box, self.ran, self.broken = shared("local"), [], False

    def run(self, job):
        self.ran.append(job.stdin.decode().removeprefix(STDIN_HEAD))
        if self.broken:
            raise SandboxError("no cage")
        return self.box.run(job)

    def close(self):
        pass


def test_the_same_answer_is_executed_once_and_judged_for_each_problem():
    box = Counting()
    env = MiniCode(sandbox=box)
    problems = [env.problem(problem_id) for problem_id in env.problem_ids[:20]]
    digits = {problem.target for problem in problems}
    assert len(digits) > 1
    a, b = problems[0].target
    answer = expression(a, b)
    for _ in range(2):
        verdicts = env.judge_batch(problems, [answer] * len(problems))
        assert [v.solved for v in verdicts] == [p.target == (a, b) for p in problems]
    assert box.ran == [answer]


def test_a_failure_of_the_sandbox_is_not_kept():
    box = Counting()
    env = MiniCode(sandbox=box)
    problem = env.problem(env.problem_ids[0])
    box.broken = True
    with pytest.raises(SandboxError):
        env.judge(problem, "x")
    box.broken = False
    assert env.judge(problem, "x").status == "wrong_answer"
    assert box.ran == ["x", "x"]


def test_what_is_kept_is_bounded(monkeypatch):
    monkeypatch.setattr(mini_program, "KEPT_ANSWERS", 2)
    box = Counting()
    env = MiniCode(sandbox=box)
    problem = env.problem(env.problem_ids[0])
    for answer in ("x", "x+1", "x+2", "x", "x+2"):
        env.judge(problem, answer)
    assert box.ran == ["x", "x+1", "x+2", "x+2"]
    long = Execution(ExecutionStatus.OK, "9" * 10**6 + "\n" * 10**6, "", 0, 0, 0, 0)
    assert sum(map(len, Executed.of(long).values)) < 1000


def test_the_digits_never_enter_the_cage():
    """The job depends on the answer alone: not on the problem."""
    job = Job(PROGRAM, stdin=STDIN_HEAD + "x", limits=LIMITS)
    assert shared("local").run(job).stdout == "10\n0\n3\n7\n"
    assert PROGRAM.count("{") == 1  # {"x": x}: nothing is filled in


def test_a_rigid_task_takes_one_form_and_executes_no_other():
    box = Counting()
    env = MiniCode(rigid=True, sandbox=box)
    verdict, a, b = judged(env, "")
    assert verdict.feedback == "!Empty"
    right = expression(a, b)
    verdict, _, _ = judged(env, f" {right}\n")
    assert (verdict.solved, verdict.feedback) == (True, "=")
    others = (f"{b}+x*{a}", f"x * {a}+{b}", f"({right})", f"x*{a}+{b}+0", f"x*{a}+", "x", "1/0")
    for answer in others:
        verdict, _, _ = judged(env, answer)
        assert (verdict.reward, verdict.status) == (0.0, "format_error"), answer
        assert verdict.feedback == "!Form"
    wrong = expression(a, b % 9 + 1)
    verdict, _, _ = judged(env, wrong)
    assert verdict.feedback == feedback_for(a, b, a, b % 9 + 1)
    assert box.ran == [right, wrong]


def test_a_rigid_task_has_the_same_problems_and_another_fingerprint():
    plain, rigid = MiniCode(), MiniCode(rigid=True)
    assert plain.problem_ids == rigid.problem_ids
    assert plain.fingerprint != rigid.fingerprint == MiniCode(rigid=True).fingerprint
    assert len(rigid.fingerprint) == 64


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"split": "val"}, "split must be 'train' or 'test', got 'val'"),
        ({"table_seed": 1.5}, "table_seed must be an integer, got 1.5"),
        ({"rigid": 1}, "rigid must be true or false, got 1"),
        ({"sandbox": 7}, "sandbox must be one of"),
    ],
)
def test_bad_arguments_are_explained(kwargs, message):
    with pytest.raises(ValueError, match=message):
        MiniCode(**kwargs)
