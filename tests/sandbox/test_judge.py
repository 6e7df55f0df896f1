"""The judge: outcomes in order, failures of the sandbox apart, and tests no program can talk to."""

import itertools
import json
import re
import secrets
import sys
import threading
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sandbox import Call, Execution, ExecutionStatus, Limits, SandboxError, examiner
from sandbox.comparison import CheckerError, Json
from sandbox.judge import (
    AssertTest,
    CallTest,
    Judgment,
    Outcome,
    StdinTest,
    judge,
    judge_many,
)

judge_module = sys.modules[judge.__module__]  # `sandbox.judge` may be the function
PLUS_ONE = "print(int(input()) + 1)"
TESTS = [StdinTest(f"{n}\n", f"{n + 1}\n") for n in range(5)]


def outcomes(judgment):
    return [(result.number, result.outcome.value) for result in judgment.results]


# One program --------------------------------------------------------------------------------------


def test_a_right_program_passes_all_its_tests(box):
    judgment = judge(box, PLUS_ONE, TESTS)
    assert judgment.passed
    assert judgment.first_failed is None
    assert judgment.tests == 5
    assert outcomes(judgment) == [(n, "passed") for n in range(1, 6)]
    assert [result.execution.stdout for result in judgment.results] == [
        f"{n}\n" for n in range(1, 6)
    ]


def test_tests_after_the_first_failure_are_not_run_and_not_invented(box):
    judgment = judge(box, "n = int(input())\nprint(n + 1 if n != 2 else 'two')", TESTS)
    assert not judgment.passed
    assert outcomes(judgment) == [(1, "passed"), (2, "passed"), (3, "wrong_answer")]
    assert judgment.first_failed.number == 3
    assert judgment.first_failed.execution.stdout == "two\n"
    assert judgment.tests == 5


@pytest.mark.parametrize("side_by_side", [None, 1])
def test_without_stopping_all_tests_are_run_and_reported_in_order(box, side_by_side):
    code = "n = int(input())\nprint(n + 1 if n % 2 else n)"
    judgment = judge(box, code, TESTS, stop_at_first_failure=False, side_by_side=side_by_side)
    assert [outcome == "passed" for _, outcome in outcomes(judgment)] == [
        n % 2 == 1 for n in range(5)
    ]
    assert [number for number, _ in outcomes(judgment)] == [1, 2, 3, 4, 5]
    assert judgment.first_failed.number == 1


def test_each_way_to_end_is_an_outcome_of_its_own(box):
    endings = {
        "print(1)": Outcome.PASSED,
        "print(2)": Outcome.WRONG_ANSWER,
        "print(1); raise SystemExit(3)": Outcome.ERROR,
        "1 / 0": Outcome.ERROR,
        "print(1)\nwhile True: pass": Outcome.TIMEOUT,
        "print(1)\nx = bytearray(1 << 30)": Outcome.MEMORY,
        "print('1' * (1 << 20))": Outcome.OUTPUT_LIMIT,
        "import os; print(1, flush=True); os.kill(os.getpid(), 11)": Outcome.CRASH,
    }
    limits = Limits(wall_seconds=0.8, memory_bytes=128 << 20, output_bytes=1 << 16)
    for code, outcome in endings.items():
        judgment = judge(box, code, [StdinTest("", "1")], limits=limits)
        assert outcomes(judgment) == [(1, outcome.value)], code
        assert judgment.passed is (outcome is Outcome.PASSED)


def test_tests_of_several_kinds_and_rules_go_together(box):
    code = "def third(x):\n    return x / 3\nif __name__ == '__main__':\n    print(third(1))"
    tests = [
        StdinTest("", "0.333333", rule="floats"),
        StdinTest(b"\xff", "0.333333", rule=lambda output, expected, input: input == "\ufffd"),
        AssertTest("assert third(3) == 1"),
    ]
    assert judge(box, code, tests).passed


def test_calls_are_compared_as_json(box):
    code = "def pair(a, b):\n    return b, a"
    call = Call("pair", (1, [2]))
    in_any_order = Json(unordered_levels=1)
    assert judge(box, code, [CallTest(call, "[[2], 1]")]).passed
    assert judge(box, code, [CallTest(call, "[1, [2]]", rule=in_any_order)]).passed
    assert outcomes(judge(box, code, [CallTest(call, "[1, [2]]")])) == [(1, "wrong_answer")]


def test_a_checker_of_a_call_sees_its_arguments(box):
    seen = []

    def checker(output, expected, input):
        seen.append((json.loads(output), expected, json.loads(input)))
        return True

    test = CallTest(Call("double", ({"n": 4},)), "ignored", rule=checker)
    assert judge(box, "def double(x):\n    return 2 * x['n']", [test]).passed
    assert seen == [(8, "ignored", [{"n": 4}])]


def test_a_program_may_not_decide_the_comparison(box):
    """It sees its input and nothing else: what it is compared with is in no job."""
    secret = secrets.token_hex(16)
    recording = Recording(box)
    judgment = judge(recording, "print(input())", [StdinTest("x\n", secret)])
    assert not judgment.passed
    assert not any(secret in repr(job) for job in recording.jobs)


@pytest.mark.parametrize("stop", [True, False])
def test_a_checker_with_a_bug_is_an_error_and_no_verdict(box, stop):
    def broken(output, expected, input):
        return [][1]

    with pytest.raises(CheckerError, match="broken raised IndexError"):
        judge(box, "print(1)", [StdinTest("", "", broken)] * 2, stop_at_first_failure=stop)


def test_a_program_without_tests_is_not_judged(box):
    with pytest.raises(ValueError, match="at least one test"):
        judge(box, PLUS_ONE, [])
    with pytest.raises(ValueError, match="at least one test"):
        list(judge_many(box, [(PLUS_ONE, [])]))


def test_long_outputs_of_passed_tests_are_cut_and_of_others_kept(box):
    code = "import sys\nprint('1' * 100_000)\nprint('e' * 100_000, file=sys.stderr)"
    passed, failed = (
        judge(box, code, [StdinTest("", expected)]).results[0]
        for expected in ("1" * 100_000, "1" * 99_999)
    )
    assert (passed.outcome, failed.outcome) == (Outcome.PASSED, Outcome.WRONG_ANSWER)
    assert len(passed.execution.stdout) == len(passed.execution.stderr) == 1 << 16
    assert passed.execution.stdout_bytes == 100_001
    assert len(failed.execution.stdout) == len(failed.execution.stderr) == 100_001


# Sandboxes of their own kind ----------------------------------------------------------------------


class Recording:
    """Keeps the jobs that pass through it."""

    name = "recording"

    def __init__(self, inner):
        self.inner, self.cages, self.jobs = inner, inner.cages, []

    def run(self, job):
        self.jobs.append(job)
        return self.inner.run(job)

    def close(self):
        pass


class Clockwork:
    """Runs no programs: `answer(job)` says what each prints, or raises."""

    name = "clockwork"

    def __init__(self, cages, answer):
        self.cages, self.answer = cages, answer

    def run(self, job):
        return Execution(
            ExecutionStatus.OK, self.answer(job), "", 0, seconds=0, cpu_seconds=0, memory_bytes=0
        )

    def close(self):
        pass


def failing(job):
    if job.stdin == "bad":
        raise SandboxError("The cage is on fire. Expected a cage; fetch water.")
    return job.stdin


# Failures of the sandbox --------------------------------------------------------------------------


@pytest.mark.parametrize("stop", [True, False])
def test_a_failing_sandbox_gives_no_judgment(stop):
    tests = [StdinTest("a", "a"), StdinTest("bad", "bad"), StdinTest("b", "b")]
    with pytest.raises(SandboxError, match="fetch water"):
        judge(Clockwork(2, failing), "", tests, stop_at_first_failure=stop)


@pytest.mark.parametrize("stop", [True, False])
def test_one_failing_program_does_not_lose_the_judgments_of_the_others(stop):
    programs = [
        ("", [StdinTest("a", "a")]),
        ("", [StdinTest("a", "a"), StdinTest("bad", "bad")]),
        ("", [StdinTest("a", "b")]),
    ]
    first, second, third = judge_many(Clockwork(2, failing), programs, stop_at_first_failure=stop)
    assert (first.passed, first.failure) == (True, None)
    assert (third.passed, third.failure) == (False, None)
    assert isinstance(second.failure, SandboxError)
    assert outcomes(second) == [(1, "passed")]
    assert second.tests == 2


def test_a_failure_cannot_be_read_as_a_verdict():
    judgment = Judgment((), 1, SandboxError("on fire"))
    for read in (lambda: judgment.passed, lambda: not judgment.passed):
        with pytest.raises(SandboxError, match="on fire"):
            read()


# Many programs ------------------------------------------------------------------------------------


def test_judgments_come_in_the_order_of_the_programs(box):
    programs = [
        (f"import time\ntime.sleep({0.1 if n % 7 == 0 else 0})\nprint({n})", [StdinTest("", "3")])
        for n in range(30)
    ]
    judgments = list(judge_many(box, programs))
    assert [judgment.results[0].execution.stdout for judgment in judgments] == [
        f"{n}\n" for n in range(30)
    ]
    assert [n for n, judgment in enumerate(judgments) if judgment.passed] == [3]


def test_the_tests_of_one_program_run_side_by_side_on_all_cages():
    """Each waits until as many run as there are cages."""
    meeting = threading.Barrier(3)

    def meet(job):
        meeting.wait(timeout=60)
        return job.stdin

    tests = [StdinTest(str(n), str(n)) for n in range(6)]
    assert judge(Clockwork(3, meet), "", tests, stop_at_first_failure=False).passed
    programs = [("", [test]) for test in tests]
    assert all(judgment.passed for judgment in judge_many(Clockwork(3, meet), programs))


def test_a_slow_program_does_not_keep_the_other_cages_waiting():
    others = threading.Semaphore(0)

    def answer(job):
        if job.stdin == "slow":
            assert all(others.acquire(timeout=60) for _ in range(500))
        else:
            others.release()
        return job.stdin

    programs = [("", [StdinTest(stdin, stdin)]) for stdin in ["slow"] + ["quick"] * 500]
    assert all(judgment.passed for judgment in judge_many(Clockwork(2, answer), programs))


def test_judgments_do_not_wait_for_all_programs_to_be_known():
    ran, taken, taken_when_asked = threading.Semaphore(0), [], []

    def answer(job):
        ran.release()
        return job.stdin

    def programs():
        for n in range(100):
            taken_when_asked.append(len(taken))
            yield "", [StdinTest(str(n), str(n))]
            assert ran.acquire(timeout=60)

    for judgment in judge_many(Clockwork(1, answer), programs()):
        taken.append(judgment.passed)
    assert taken == [True] * 100
    assert taken_when_asked[-1] > 0


def endless_programs(asked):
    for n in itertools.count():
        asked.append(n)
        yield "", [StdinTest(str(n), str(n))]


def test_an_endless_stream_of_programs_is_judged_lazily():
    asked = []
    judgments = judge_many(Clockwork(2, lambda job: job.stdin), endless_programs(asked))
    assert asked == []
    first = list(itertools.islice(judgments, 5))
    judgments.close()
    assert [judgment.results[0].execution.stdout for judgment in first] == list("01234")
    assert len(asked) <= judge_module.TESTS_AHEAD + 5
    assert not [t for t in threading.enumerate() if t.name.startswith("judge")]


@pytest.mark.parametrize(
    ("bound", "most_asked"), [("TESTS_AHEAD", 52), ("OUTPUT_BYTES_AHEAD", 99_999)]
)
def test_no_more_is_read_ahead_than_the_bounds_allow(monkeypatch, bound, most_asked):
    monkeypatch.setattr(judge_module, "TESTS_AHEAD", 100_000)
    monkeypatch.setattr(judge_module, bound, 50)
    asked = []

    def answer(job):
        if job.stdin == "0":  # the first waits until no more programs are asked for
            before = -1
            while len(asked) > before:
                before = len(asked)
                time.sleep(0.1)
        return job.stdin

    judgments = judge_many(Clockwork(2, answer), endless_programs(asked))
    assert next(judgments).passed
    assert len(asked) <= most_asked
    judgments.close()


# Tests that are code ------------------------------------------------------------------------------


def examined(box, code, tests, functions=None, **limits):
    """The outcome, what the tests say of a failure, and the execution."""
    test = AssertTest(tests, functions)
    result = judge(box, code, [test], limits=Limits(**limits)).results[0]
    return result.outcome.value, test.failure(result.execution), result.execution


ADD = "assert add(1, 2) == 3\nassert add('a', b='b') == 'ab', 'texts, too'"


def test_asserts_pass_or_tell_the_statement_the_error_and_the_call(box):
    assert examined(box, "def add(a, b):\n    return a + b", ADD)[:2] == ("passed", "")
    assert examined(box, "def add(a, b):\n    return 3", ADD)[:2] == (
        "wrong_answer",
        "assert add('a', b='b') == 'ab', 'texts, too'\nAssertionError: texts, too\n"
        "add('a', b='b') gave 3",
    )
    assert examined(box, "def sub(a, b):\n    return 3", ADD)[:2] == (
        "wrong_answer",
        "assert add(1, 2) == 3\nNameError: name 'add' is not defined",
    )


def test_an_error_of_the_program_comes_with_its_own_traceback(box):
    code = "def add(a, b):\n    return int(a) + b"
    outcome, failure, execution = examined(box, code, ADD)
    assert (outcome, failure) == ("error", "")
    without_marks = re.sub(r"\n *[~^]+(?=\n)", "", execution.stderr)  # each version has its own
    assert without_marks == (
        "Traceback (most recent call last):\n"
        '  File "solution.py", line 2, in add\n    return int(a) + b\n'
        "ValueError: invalid literal for int() with base 10: 'a'\n"
    )
    for code, words in {
        "def add(a, b:": "SyntaxError",
        "import nonesuch": "ModuleNotFoundError",
        "raise KeyError(7)": "KeyError: 7",
    }.items():
        outcome, _, execution = examined(box, code, ADD)
        assert outcome == "error"
        assert words in execution.stderr


def test_limits_hold_for_tests_that_are_code(box):
    tests = "assert f() == 1"
    for code, endless in (("    while True: pass", tests), ("    return 1", "while True: f()")):
        assert examined(box, f"def f():\n{code}", endless, wall_seconds=0.5)[0] == "timeout"
    memory = "def f():\n    return len(bytearray(1 << 30))"
    assert examined(box, memory, tests, memory_bytes=128 << 20)[0] == "memory"
    flood = "def f():\n    print('1' * (1 << 20))\n    return 1"
    assert examined(box, flood, tests, output_bytes=1 << 16)[0] == "output_limit"
    crash = "import os, signal\ndef f():\n    os.kill(os.getpid(), signal.SIGSEGV)"
    outcome, _, execution = examined(box, crash, tests)
    assert (outcome, execution.signal) == ("crash", 11)
    assert examined(box, "def f():\n    return 1", tests, processes=1)[0] == "passed"


VALUES = """
import collections, datetime, decimal, fractions
values = [
    None, True, 0, -7, 2**63, -(10**5000), 0.1, -0.0, float("inf"), 1e308, 2 + 3j,
    "", "\\0\\ud800 \\U0001f600", b"\\0\\xff", bytearray(b"x"), range(3, 10**30, 2),
    [], [[1, (2, [3])], {"a": {(1, "b"): {4, 5}}, None: frozenset({6})}], ((),), {1: 2}, {1.5, "x"},
    collections.deque([1, 2]), collections.OrderedDict([("b", 1), ("a", 2)]),
    collections.Counter("hello"), decimal.Decimal("1.10"), fractions.Fraction(1, 3),
    datetime.date(2024, 2, 29), datetime.datetime(2024, 2, 29, 23, 59, 59, 999999),
    datetime.timedelta(days=-1, microseconds=1), int, list,
]
for value in values:
    came = same(value)
    shown = hex if type(value) is int else repr
    assert type(came) is type(value) and shown(came) == shown(value), (value, came)
nan = same(float("nan"))
assert nan != nan
knot = [1]
knot.append(knot)
came = same(knot)
assert came is knot and came[1] is came
a, b = same([values, values])
assert a is b is values
"""


scalars = st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.binary()
data = st.recursive(
    scalars | st.decimals(allow_nan=False) | st.complex_numbers() | st.fractions() | st.dates(),
    lambda inner: (
        st.lists(inner)
        | st.tuples(inner, inner)
        | st.dictionaries(scalars, inner)
        | st.frozensets(st.integers(), max_size=1)  # more have no order to compare by repr
    ),
    max_leaves=10,
)


def test_the_examiner_is_compiled_anew_where_python_is_another(box, monkeypatch):
    monkeypatch.setattr(sys.implementation, "cache_tag", "another-python-999")
    judge_module._examiner.cache_clear()
    try:
        assert "another-python-999" in judge_module._examiner()
        assert examined(box, "def f():\n    return 1", "assert f() == 1")[0] == "passed"
    finally:
        judge_module._examiner.cache_clear()


def refuse(*_):
    raise AssertionError("all of this is data")


@given(data)
def test_any_data_survives_the_pipe(value):
    line = json.dumps(examiner.pack([value], refuse)[:2])
    (node,), table = json.loads(line)
    came = examiner.Unpacker(table, refuse).value(node)
    assert repr(came) == repr(value)


DATA_KINDS = {
    **examiner.CONTAINERS,
    **{kind: class_ for kind, (class_, _, _) in examiner.ATOMS.items()},
}
nodes = st.none() | st.integers() | st.text("0x1f-.") | st.lists(st.integers(-1, 4), max_size=2)
entries = st.builds(
    lambda kind, parts: [kind, *parts],
    st.sampled_from([*DATA_KINDS, "object", "remote", "exit"]) | nodes,
    st.lists(nodes, max_size=4),
)


@given(st.lists(entries | nodes, max_size=5))
def test_no_answer_of_a_program_becomes_more_than_data(table):
    """Or it is refused, by an exception that the examiner takes for the end of the program."""
    try:
        objects = examiner.Unpacker(table, refuse).objects
    except Exception:
        return
    assert {type(each) for each in objects} <= set(DATA_KINDS.values())


def test_values_keep_their_types_and_identity_both_ways(box):
    code = "def same(value):\n    return value"
    assert examined(box, code, VALUES)[:2] == ("passed", "")


def test_what_a_function_does_to_its_arguments_is_seen(box):
    code = (
        "def sort(numbers, log):\n    numbers.sort()\n    log['sorted'] = numbers\n"
        "    log['seen'].add(len(numbers))\n    log['flags'][0] = True\n"
    )
    tests = (
        "numbers, log = [3, 1, 2], {'seen': {9}, 'flags': [1]}\nflags = log['flags']\n"
        "assert sort(numbers, log=log) is None\nassert numbers == [1, 2, 3]\n"
        "assert log['sorted'] is numbers and log['seen'] == {3, 9}\nassert flags[0] is True"
    )
    assert examined(box, code, tests)[:2] == ("passed", "")


LINKED_LIST = """
class Node:
    def __init__(self, value, successor=None):
        self.value, self.successor = value, successor

third = Node(3)
first = Node(1, Node(2, third))
assert reverse(first) is third
values, node = [], third
while node:
    values.append(node.value)
    node = node.successor
assert values == [3, 2, 1], values
assert reverse(None) is None
"""


def test_objects_of_the_tests_can_be_rewired_by_the_program(box):
    code = (
        "def reverse(node):\n    before = None\n    while node:\n"
        "        node.successor, before, node = before, node, node.successor\n    return before"
    )
    assert examined(box, code, LINKED_LIST, ("reverse",))[:2] == ("passed", "")
    broken = code.replace("before, node, node.successor", "before, before, node.successor")
    assert examined(box, broken, LINKED_LIST, ("reverse",))[0] == "wrong_answer"


def test_what_is_no_data_can_be_iterated_called_and_asked_for_attributes(box):
    code = """
import itertools
class Pair:
    def __init__(self, a, b):
        self.a, self.b = a, b
    def swapped(self):
        return Pair(self.b, self.a)
def chain(pairs):
    return sum(pair.b - pair.a for pair in pairs)
def squares():
    return (n * n for n in itertools.count())
def adder(n):
    return lambda m: n + m
LIMIT = 10
"""
    tests = """
assert chain([Pair(1, 4), Pair(b=7, a=5)]) == 5
pair = Pair(1, 2)
assert (pair.a, pair.swapped().a) == (1, 2)
pair.a = [3]
assert pair.a == [3] and pair.swapped().b == [3]
assert pair.swapped is not pair and pair != 1 and not (pair == Pair(1, 2))
assert next(squares()) == 0
assert [n for n, _ in zip(squares(), range(4))] == [0, 1, 4, 9]
assert adder(2)(3) == 5
assert sorted([3, 1, 2], key=adder(0)) == [1, 2, LIMIT - 7]
assert math.isclose(adder(0.1)(0.2), 0.3)
"""
    assert examined(box, code, tests)[:2] == ("passed", "")


def test_exceptions_of_the_program_can_be_expected(box):
    code = (
        "class Odd(ValueError): pass\n"
        "def half(n):\n    if n % 2: raise Odd('odd')\n    return [n // 2][0 if n else 1]"
    )
    tests = """
for n, expected in ((1, ValueError), (0, IndexError), ("x", TypeError)):
    try:
        half(n)
    except expected as error:
        assert n != 1 or str(error) == "odd"
    else:
        assert False, n
assert half(4) == 2
"""
    assert examined(box, code, tests)[:2] == ("passed", "")


@pytest.mark.skipif(sys.version_info < (3, 11), reason="there are no exception groups")
def test_an_exception_group_of_the_program_is_told(box):
    code = "def f():\n    raise ExceptionGroup('two', [ValueError(1), KeyError(2)])"
    outcome, _, execution = examined(box, code, "assert f() == 1")
    assert outcome == "error"
    assert "ExceptionGroup: two (2 sub-exceptions)" in execution.stderr


def test_a_program_reads_itself_and_prints(box):
    code = (
        "import sys\nif __name__ != '__main__':\n    text = open(__file__).read()\n"
        "    print('body', sys.stdin.read() == '')\n"
        "def f():\n    print('call')\n    return text"
    )
    tests = f"print('tests')\nassert f() == {code!r}"
    outcome, failure, execution = examined(box, code, tests)
    assert (outcome, failure) == ("passed", "")
    assert execution.stdout.split("\n") == ["body True", "call", "tests", ""] or (
        sorted(execution.stdout.split()) == ["True", "body", "call", "tests"]
    )


def test_recursion_is_as_deep_as_in_a_plain_program(box):
    """CPython allows 1,000 frames; the tests' own two and the program's are all that count."""
    code = "def depth(n):\n    return n and 1 + depth(n - 1)"
    assert examined(box, code, "assert depth(990) == 990")[0] == "passed"
    assert "RecursionError" in examined(box, code, "depth(1100)")[2].stderr


@pytest.mark.parametrize(
    ("tests", "words"),
    [
        ("assert f(", "SyntaxError"),
        ("import nonesuch\nassert f()", "No module named 'nonesuch'"),
        ("def check():\n    from math import nonesuch\ncheck()", "cannot import name 'nonesuch'"),
        (
            "import builtins\nbuiltins.input = lambda: '1'\nassert f()",
            "builtins.input is changed in the tests' process alone",
        ),
        (
            "from unittest import mock\nwith mock.patch('time.time'):\n    f()",
            "mock.patch patches the tests' process alone",
        ),
    ],
)
def test_tests_that_cannot_run_are_an_error_and_no_verdict(box, tests, words):
    with pytest.raises(ValueError, match="cannot run in this sandbox") as caught:
        examined(box, "def f(x=1):\n    return x", tests)
    assert words in str(caught.value)


def test_tests_of_a_builtins_name_take_it_from_the_program_or_ask_which(box):
    code = "def sum(a, b):\n    return a * b\ndef max(a):\n    return 0"
    assert examined(box, code, "assert sum(2, 3) == 6")[0] == "passed"
    assert examined(box, code, "assert sum(2, 3) == 5")[0] == "wrong_answer"
    both = "assert sum(2, 3) == 6\nassert max([1]) == 0"
    with pytest.raises(ValueError, match=r"call only builtins \(max, sum\)"):
        examined(box, code, both)
    assert examined(box, code, both, ("sum", "max"))[0] == "passed"


def test_no_answer_makes_its_tests_unfit(box):
    tests = "assert total(Pair(1, 2)) == 3"
    for code in ("Pair = slice", "Pair = print", "import sys as Pair", "Pair = lambda *a: Pair"):
        outcome, _, _ = examined(box, f"{code}\ndef total(pair):\n    return pair.a", tests)
        assert outcome in ("error", "wrong_answer")


# Programs that want to pass -----------------------------------------------------------------------

ATTACKS = {
    "exit in the body": "import os\nos._exit(0)",
    "exit in the function": "import os\ndef f(x):\n    os._exit(0)",
    "sys.exit in the body": "import sys\nsys.exit(0)",
    "sys.exit in the function": "import sys\ndef f(x):\n    sys.exit(0)",
    "exit at once in a thread": (
        "import os, threading\nthreading.Thread(target=os._exit, args=(0,)).start()\n"
        "def f(x):\n    threading.Event().wait(60)"
    ),
    "a value that equals everything": (
        "class Yes:\n    def __eq__(self, other): return True\n    __hash__ = None\n"
        "    def __getattr__(self, name): return self\n"
        "    def __call__(self, *arguments): return self\n"
        "def f(x):\n    return Yes()"
    ),
    "a number that equals everything": (
        "class Yes(int):\n    def __eq__(self, other): return True\n"
        "    def __ne__(self, other): return False\n    __hash__ = int.__hash__\n"
        "def f(x):\n    return Yes(1)"
    ),
    "a list that equals everything": (
        "class Yes(list):\n    def __eq__(self, other): return True\ndef f(x):\n    return Yes()"
    ),
    "patched builtins": (
        "import builtins\nbuiltins.abs = builtins.len = builtins.sum = lambda *a: 0\n"
        "builtins.AssertionError = builtins.NameError = StopIteration\n"
        "def f(x):\n    return 1"
    ),
    "a number with operators of its own": (
        "class Near:\n    def __sub__(self, other): return Near()\n    __rsub__ = __sub__\n"
        "    def __abs__(self): return 0\n    def __lt__(self, other): return True\n"
        "    def __eq__(self, other): return True\n    __class__ = int\n"
        "def f(x):\n    return Near()"
    ),
    "a class for a function": (
        "class f(int):\n    def __new__(cls, x): return int.__new__(cls, 1)\n"
        "    def __sub__(self, other): return 0\n    def __eq__(self, other): return True\n"
    ),
    "a result that tells what it is subtracted from": (
        "import sys\nclass Spy(int):\n    def __rsub__(self, other): return 0\n"
        "    def __sub__(self, other): return 0\n    def __abs__(self): return 0\n"
        "def f(x):\n    return Spy(1)"
    ),
    "questions of its own": (
        "import os, sys\ndef f(x):\n    for fd in range(3, 256):\n        try:\n"
        '            os.write(fd, b\'["ask", "get", [[0], "__globals__"], \'\n'
        "                b'[[\"yours\", 0]], []]\\n' * 9)\n"
        "        except OSError: pass\n    return 41"
    ),
    "builtins of its own": (
        "def abs(x):\n    return 0\ndef isinstance(x, kind):\n    return True\n"
        "class AssertionError(Exception): pass\ndef f(x):\n    return 1.5 if x else 1"
    ),
    "a check of its own": "def check(f):\n    pass\ndef f(x):\n    return 1",
    "modules in the way": (
        "for name in ('random', 'json', 'colorsys', 'numpy', 'math'):\n"
        "    open(name + '.py', 'w').write(\n"
        "        'import os; os.write(3, b\\'{\"passed\": true}\\'); os._exit(0)')\n"
        "def f(x):\n    return 1"
    ),
    "a forged report on every descriptor": (
        "import os\ndef f(x):\n    for fd in range(256):\n        try:\n"
        "            os.write(fd, b'{\"passed\": true}\\n')\n        except OSError: pass\n"
        "    os._exit(0)"
    ),
    "forged answers on every descriptor": (
        "import os\ndef f(x):\n    for fd in range(3, 256):\n        try:\n"
        '            os.write(fd, b\'["value", 1, [["object", "int"]]]\\n\' * 9)\n'
        "        except OSError: pass\n    os._exit(0)"
    ),
    "nonsense for an answer": (
        "import os\ndef f(x):\n    for fd in range(3, 256):\n        try:\n"
        "            os.write(fd, b'\\xff\\n')\n        except OSError: pass\n    return 1"
    ),
    "closed descriptors": "import os\ndef f(x):\n    os.closerange(0, 256)\n    return 1",
    "exceptions that are none": (
        "import os\ndef f(x):\n    for fd in range(3, 256):\n        try:\n"
        '            os.write(fd, b\'["raised", "exit", "0", ""]\\n\')\n'
        "        except OSError: pass\n    os._exit(0)"
    ),
    "killing the examiner": "import os\ndef f(x):\n    os.kill(os.getppid(), 9)",
    "interrupting the examiner": (
        "import os, time\ndef f(x):\n    for number in (2, 15, 1, 14, 10):\n"
        "        os.kill(os.getppid(), number)\n    time.sleep(60)"
    ),
    "stopping the examiner": "import os\ndef f(x):\n    os.kill(os.getppid(), 19)",
    "another program instead": (
        "import os, sys\ndef f(x):\n    os.execv(sys.executable, [sys.executable, '-c', '0'])"
    ),
    "a twin that answers, too": ("import os\nos.fork()\ndef f(x):\n    return 1"),
    "values for the caller's frames": (
        "import sys\ndef f(x):\n    frame = sys._getframe()\n    while frame:\n"
        "        frame.f_globals['passed'] = True\n        for name in list(frame.f_globals):\n"
        "            if name in ('raised', 'run', 'report'):\n"
        "                frame.f_globals[name] = lambda *a: {'passed': True}\n"
        "        frame = frame.f_back\n    raise KeyError"
    ),
    "no descriptors left for the examiner": (
        "import os, resource\n"
        "resource.prlimit(os.getppid(), resource.RLIMIT_NOFILE, (0, 0))\ndef f(x):\n    return 1"
    ),
    "a trace function": (
        "import sys\nsys.settrace(lambda *a: None)\nsys.setprofile(lambda *a: None)\n"
        "import threading\nthreading.settrace(lambda *a: None)\ndef f(x):\n    return 1"
    ),
}
HARD_TESTS = """
import random, math
def check(f):
    assert random.random() < 1 and math.pi > 3 and colorsys.ONE_SIXTH < 1  # not imported above
    value = f(20)
    assert abs(value - 41) < 1e-6 and isinstance(value, int), "wrong"
    assert f(0) == 1
check(f)
"""


@pytest.mark.parametrize("attack", ATTACKS)
def test_no_program_passes_without_the_right_answers(box, attack):
    outcome, _, execution = examined(box, ATTACKS[attack], HARD_TESTS, wall_seconds=2.0)
    assert outcome != "passed", execution
    right = "def f(x):\n    return 2 * x + 1"
    assert examined(box, right, HARD_TESTS)[:2] == ("passed", "")


HUNT = r"""
import ctypes, gc, os, re, sys
decoy = ctypes.create_string_buffer(b"SECR" + bytes([69, 84]) + b"-" + b"0" * 32)
found = set()
def look(data):
    if isinstance(data, str):
        data = data.encode("utf-8", "replace")
    if isinstance(data, (bytes, bytearray, memoryview)):
        found.update(re.findall(rb"SECR[E]T-[0-9a-f]{32}", bytes(data)))
def look_at(path):
    try:
        with open(os.open(path, os.O_RDONLY | os.O_NONBLOCK), "rb", 0) as file:
            look(file.read(1 << 20))
    except OSError:
        pass
def memory(pid):
    libc = ctypes.CDLL(None, use_errno=True)
    libc.ptrace(16, pid, 0, 0)
    try:
        maps = open(f"/proc/{pid}/maps").read().splitlines()
        with open(f"/proc/{pid}/mem", "rb", 0) as file:
            for line in maps:
                span, mode = line.split()[:2]
                start, end = (int(part, 16) for part in span.split("-"))
                if mode.startswith("rw") and end - start < 1 << 26:
                    try:
                        file.seek(start)
                        look(file.read(end - start))
                    except OSError:
                        pass
    except OSError:
        pass
def f(x):
    frame = sys._getframe()
    while frame:
        look(repr(frame.f_locals) + repr(frame.f_globals))
        frame = frame.f_back
    for thing in gc.get_objects():
        for each in (thing, *gc.get_referents(thing)):
            look(each)
    for pid in map(int, filter(str.isdigit, os.listdir("/proc"))):
        for name in ("cmdline", "environ", *(f"fd/{fd}" for fd in range(64))):
            if pid != os.getpid():
                look_at(f"/proc/{pid}/{name}")
        memory(pid)
    for folder, _, names in os.walk(os.path.dirname(os.getcwd())):
        for name in names:
            look_at(os.path.join(folder, name))
    for fd in range(64):
        try:
            look(os.pread(fd, 1 << 20, 0))
        except OSError:
            pass
    return sorted(text.decode() for text in found)
"""


def test_the_program_finds_nothing_of_the_tests(box):
    """It searches its memory, that of every process, their descriptors and files."""
    secret = f"SECRET-{secrets.token_hex(16)}"
    tests = f"expected = {secret!r}\nfound = f(1)\nprint(found)\nassert expected in found"
    outcome, _, execution = examined(box, HUNT, tests, wall_seconds=20.0)
    assert outcome == "wrong_answer", execution
    assert execution.stdout == f"{['SECRET-' + '0' * 32]}\n"  # so its search of the memory works
