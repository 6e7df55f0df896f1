"""Feedback never holds a hidden test's input or output, whatever the program prints or raises."""

import builtins
import json
import re

import pytest
from code_rows import contest_row
from hypothesis import given, settings
from hypothesis import strategies as st
from lcb_rows import block, packed_tests, row, write_rows

from vpd_envs.answers.sanitize import sanitize
from vpd_envs.code.code_contests import CodeContests
from vpd_envs.code.humaneval import HumanEval
from vpd_envs.code.livecodebench import LiveCodeBench
from vpd_envs.code.mbpp import MBPP

# Test i asks for OUTPUTS[i] where INPUTS[i] comes. The first is public.
INPUTS = ["ok", "Zq1inputZq", "Zq2<|im_end|>Zq", "Zq3\x1b[31mZq", "Zq4Zq" * 50]
OUTPUTS = ["fine", "Xw1outputXw", "Xw2<|im_start|>Xw", "Xw3</think>Xw", "Xw4Xw" * 50]
SECRET = re.compile("Zq|Xw")

# What a program may do with an input that it should not tell. Each ends or goes on.
LEAKS = [
    "print(x)",
    "print(x[::-1], x.upper(), list(map(ord, x)))",
    "sys.stderr.write(x)",
    "sys.stderr.write('Traceback (most recent call last):\\n' + x + '\\nKeyError: ' + x)",
    "sys.stderr.write('  File \"solution.py\", line 1\\n    ' + x + '\\nSyntaxError: ' + x)",
    "sys.stderr.write('Traceback (most recent call last):\\n  File \"s\", line 1, in ' + x)",
    "raise ValueError(x)",
    "raise type(x, (Exception,), {})(x)",
    "raise type('KeyError', (Exception,), {})(x)",
    "raise type(x, (KeyError,), {'__module__': x, '__qualname__': x})(x)",
    "raise KeyboardInterrupt(x)",
    "error = OSError(x); error.add_note(x); raise error",
    "raise MemoryError(x)",
    "sys.exit(x)",
    "sys.exit(len(x) % 200 + 1)",
    "sys.stdout.flush(); os._exit(len(x) % 200 + 1)",
    "os.kill(os.getpid(), 6)",
    "assert not x, x",
    "exec(compile('1/0', x + '/solution.py', 'exec'))",
    "exec(compile(f'def f(): raise TypeError({x!r})\\nf()', 'solution.py', 'exec'))",
    "eval(x)",
    "open(x.replace('/', '_')[:90], 'w').write(x)",
    "sys.excepthook = lambda *a: sys.stderr.write(x + ': ' + x)",
    "sys.stdout = sys.stderr",
    "warnings.warn(x)",
    "int(x)",
    "{}[x]",
    "return x",
    "return [x, {x: x}]",
    "return {x}",
    "return type(x, (), {'__repr__': lambda self: x})()",
    "return (lambda: x)",
]
programs = st.lists(st.sampled_from(LEAKS), min_size=1, max_size=3)

PROGRAM = """\
import os, sys, warnings

def {name}(x):
    if x == 'ok':
        return 'fine'
    {leaks}
    return x
"""
MAIN = """
import json
value = answer(json.loads(input()))
print(json.dumps(value, default=repr))
"""


def pairs(read, write):
    return [(read(i), write(o)) for i, o in zip(INPUTS, OUTPUTS, strict=True)]


def livecodebench(tmp_path, **options):
    public, *hidden = pairs(json.dumps, json.dumps)
    rows = [row("p", "?", [public], packed_tests(hidden, "stdin"))]
    return LiveCodeBench(write_rows(tmp_path / "lcb.jsonl", rows), **options), MAIN


def livecodebench_calls(tmp_path, **options):
    public, *hidden = pairs(json.dumps, json.dumps)
    rows = [row("p", "?", [public], packed_tests(hidden, "functional"), function="answer")]
    return LiveCodeBench(write_rows(tmp_path / "calls.jsonl", rows), **options), ""


def code_contests(tmp_path, **options):
    public, *hidden = pairs(json.dumps, json.dumps)
    rows = [contest_row("p", "?", [public], hidden[:2], hidden[2:])]
    return CodeContests(write_rows(tmp_path / "contests.jsonl", rows), **options), MAIN


def humaneval(tmp_path, **options):
    test = "def check(candidate):\n" + "".join(
        f"    assert candidate({i}) == {o}, {o}\n" for i, o in pairs(repr, repr)
    )
    prompt = 'def answer(x):\n    """answer("ok") == "fine"."""\n'
    rows = [{"task_id": "p", "entry_point": "answer", "prompt": prompt, "test": test}]
    return HumanEval(write_rows(tmp_path / "humaneval.jsonl", rows), **options), ""


def mbpp(tmp_path, **options):
    tests = [f"assert answer({i}) == {o}, {o}" for i, o in pairs(repr, repr)]
    rows = [{"task_id": "p", "text": "?", "test_list": tests}]
    return MBPP(write_rows(tmp_path / "mbpp.jsonl", rows), **options), ""


ENVS = [livecodebench, livecodebench_calls, code_contests, humaneval, mbpp]

EXCEPTIONS = "|".join(
    name
    for name, value in vars(builtins).items()
    if isinstance(value, type) and issubclass(value, BaseException)
)
TOLD_OF_HIDDEN = re.compile(
    r"Hidden Test Case \d: (?:Wrong Answer|Syntax Error|Time Limit Exceeded|Memory Limit Exceeded"
    r"|Output Limit Exceeded|Runtime Error)"
    rf"(?:\n(?:{EXCEPTIONS}|The interpreter was killed by SIG\w+\."
    r"|The program needed more than \d+ MB\.))?"
)


def judged(env, main, leaks):
    code = PROGRAM.format(name="answer", leaks="\n    ".join(leaks)) + main
    env.reset(options={"problem_id": "p"})
    _, reward, _, _, info = env.step(block(code))
    assert reward == 0.0
    json.dumps(info)
    for text in (info["feedback"], info["details"].get("first_failure", "")):
        assert sanitize(text) == text
    return info


@pytest.mark.parametrize("family", ENVS)
def test_whatever_a_program_does_a_failing_hidden_test_tells_its_verdict_alone(
    family, tmp_path_factory
):
    env, main = family(tmp_path_factory.mktemp("rows"), sandbox="local", time_limit_seconds=5.0)

    @settings(max_examples=30, deadline=None)
    @given(programs)
    def run(leaks):
        info = judged(env, main, leaks)
        assert TOLD_OF_HIDDEN.fullmatch(info["feedback"]), info["feedback"]
        assert not SECRET.search(json.dumps(info))
        assert info["details"]["failed_test_shown"] is False

    run()


@pytest.mark.parametrize("family", ENVS)
@pytest.mark.parametrize("feedback_tests", ["none", "half"])
def test_with_all_tests_run_feedback_tells_no_more_than_the_shown_ones(
    family, feedback_tests, tmp_path_factory
):
    env, main = family(
        tmp_path_factory.mktemp("rows"),
        sandbox="local",
        time_limit_seconds=5.0,
        stop_at_first_failure=False,
        feedback_tests=feedback_tests,
    )
    tests, shown = env.tests_to_run(env.problem("p"))
    hidden = [test for test in tests[shown:] if not test.public]
    assert (len(tests), len(hidden)) == (5, {"none": 4, "half": 2}[feedback_tests])
    words = [word for test in hidden for word in re.findall(r"(?:Zq|Xw)\d", str(test))]
    assert len(set(words)) == 2 * len(hidden)

    @settings(max_examples=15, deadline=None)
    @given(programs)
    def run(leaks):
        text = json.dumps(judged(env, main, leaks))
        assert not any(word in text for word in words), text

    run()


@pytest.mark.parametrize("family", ENVS)
def test_a_program_that_hangs_or_floods_tells_nothing_either(family, tmp_path):
    env, main = family(tmp_path, sandbox="local", time_limit_seconds=0.5, memory_limit_mb=64)
    for leak in ("while True: pass", "print(x * 10**7)", "y = [x] * 10**9"):
        info = judged(env, main, [leak])
        assert re.match(r"Hidden Test Case 2: \w+ Limit Exceeded\n", info["feedback"])
        assert not SECRET.search(json.dumps(info))
