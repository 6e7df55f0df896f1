"""How programs are judged: statuses, feedback, plain CPython behavior, and what stays hidden."""

import json
import random
import time

import gymnasium as gym
import numpy as np
import pytest
from lcb_rows import FIXTURE, ROWS, SOLUTIONS, block, row, write_rows
from sandboxes import BusySandbox, RecordingSandbox

from sandbox import ExecutionStatus, SandboxError, shared
from sandbox.comparison import Lines, rule
from vpd_envs.code.cases import ProgramCase
from vpd_envs.code.environment import CodeEnv
from vpd_envs.code.feedback import LONGEST_FEEDBACK
from vpd_envs.code.livecodebench import LiveCodeBench
from vpd_envs.types import Problem, Status


@pytest.fixture(scope="module")
def env():
    return LiveCodeBench(FIXTURE, sandbox="local", time_limit_seconds=1.0, memory_limit_mb=128)


def step(env, problem_id, answer):
    env.reset(options={"problem_id": problem_id})
    feedback, reward, _, _, info = env.step(answer)
    assert feedback == info["feedback"]
    return reward, info["status"], feedback, info["details"]


def env_of(tmp_path, *rows, **kwargs):
    path = write_rows(tmp_path / "rows.jsonl", rows)
    return LiveCodeBench(path, **{"sandbox": "local", "time_limit_seconds": 1.0, **kwargs})


def test_the_example_of_the_readme_works():
    env = gym.make("vpd/LiveCodeBench-v0", data=str(FIXTURE), sandbox="local")
    env.reset(options={"problem_id": "plus-one"})
    _, reward, terminated, truncated, info = env.step("```python\nprint(int(input()) + 1)\n```")
    assert (reward, terminated, truncated, info["solved"]) == (1.0, True, False, True)
    assert info["feedback"] == "Accepted\nAll 4 test cases passed."


@pytest.mark.parametrize("problem_id", SOLUTIONS)
def test_right_programs_get_1(env, problem_id):
    reward, status, _, details = step(env, problem_id, block(SOLUTIONS[problem_id]))
    assert (reward, status) == (1.0, "solved")
    assert details["tests_passed"] == details["tests_run"] == details["tests"]


def test_each_kind_of_failure_has_its_status_reward_0_and_a_feedback_that_names_it(env):
    failures = {
        "print(1 / 0)": ("runtime_error", "Runtime Error\n", "ZeroDivisionError: division by zero"),
        "print(7)": ("wrong_answer", "Test Case 1: Wrong Answer\n", "Output\n7\n\nExpected\n2"),
        "while True: pass": ("time_limit", "Time Limit Exceeded\n", "within 1 s"),
        "x = [0] * 10**9": ("memory_limit", "Memory Limit Exceeded\n", "more than 128 MB"),
        "print('a' * 2**25)": ("output_limit", "Output Limit Exceeded\n", "more than 16 MB"),
        "def f(:": ("syntax_error", "Syntax Error\n", "SyntaxError: invalid syntax"),
        "if 1:\nprint()": ("syntax_error", "Syntax Error\n", "IndentationError: expected an"),
        "x = '\0'": ("syntax_error", "Syntax Error\n", "null bytes"),
        "import sys; sys.exit('bye')": ("runtime_error", "Runtime Error\n", "bye"),
        "import os; os._exit(3)": ("runtime_error", "Runtime Error\n", "Exit code 3"),
        "import os; os.kill(os.getpid(), 11)": ("runtime_error", "Runtime Error\n", "SIGSEGV"),
        "eval('1 +')": ("runtime_error", "Runtime Error\n", "SyntaxError: invalid syntax"),
    }
    for code, (status, title, text) in failures.items():
        reward, got, feedback, details = step(env, "plus-one", block(code))
        assert (reward, got) == (0.0, status), (code, feedback)
        assert feedback.startswith(title), code
        assert text in feedback
        assert details["failed_test"] == 1
        if status not in ("wrong_answer", "syntax_error"):
            assert "Last Executed Input (test case 1)\n1" in feedback


@pytest.mark.parametrize(
    ("answer", "status", "title", "text"),
    [
        ("", "empty_answer", "Empty answer", "no text"),
        (" \n\t", "empty_answer", "Empty answer", "no text"),
        (block(" "), "empty_answer", "Empty answer", "block of the answer is empty"),
        ("print(int(input()) + 1)", "no_answer", "No code block", "no fenced code block"),
        (
            "```cpp\nint x;\n```",
            "no_answer",
            "No code block",
            "No code block of the answer is tagged",
        ),
        ("```python\nprint(", "no_answer", "No code block", "cut off"),
        ("<think>" + block("print(1)"), "no_answer", "No code block", "thinking"),
        ("x" * (2**18 + 1), "no_answer", "Answer too long", "at most 262144"),
    ],
)
def test_answers_without_a_program_are_told_what_is_missing(env, answer, status, title, text):
    reward, got, feedback, details = step(env, "plus-one", answer)
    assert (reward, got, details) == (0.0, status, {})
    assert feedback.startswith(title)
    assert text in feedback


@pytest.mark.parametrize("problem_id", SOLUTIONS)
@pytest.mark.parametrize(
    "after",
    [
        "Usage:\n```python\nprint(Solution().runningMax([1]), inOrder(1, 2))\n```",
        "Tests:\n```python\nassert inOrder(1, 2)\nassert Solution().runningMax([1]) == [1]\n```",
        "Output:\n```\n2\n```",
        "Time: ```text\nO(n)\n```",
        "Run it:\n```bash\npython main.py\n```\nor\n```cpp\nint main() {}\n```",
    ],
)
def test_right_programs_get_1_whatever_follows_them(env, problem_id, after):
    answer = f"{block(SOLUTIONS[problem_id])}\n{after}\n"
    reward, status, _, details = step(env, problem_id, answer)
    assert (reward, status, details["judged_blocks"]) == (1.0, "solved", [1])
    assert details["blocks"] == 1 + after.count("```") // 2


def test_feedback_says_which_block_was_judged_where_there_are_several(env):
    wrong, right = block("print(int(input()) + 2)"), block(SOLUTIONS["plus-one"])
    assert "Judged" not in step(env, "plus-one", wrong)[2]
    for answer, reward, which, places in (
        (wrong + "```\n3\n```", 0.0, "block 1 of the answer's 2 code blocks.", [1]),
        (wrong + right, 1.0, "block 2 of the answer's 2 code blocks.", [2]),
        (right + wrong, 0.0, "block 2 of the answer's 2 code blocks.", [2]),
        (
            block("def f(n):\n    return n - 1") + "```sh\nls\n```\n" + block("print(f(input()))"),
            0.0,
            "blocks 1 and 3 of the answer's 3 code blocks, joined.",
            [1, 3],
        ),
    ):
        got, _, feedback, details = step(env, "plus-one", answer)
        assert (got, details["judged_blocks"]) == (reward, places)
        assert feedback.endswith(f"\n\nJudged: {which}")


def test_the_note_on_the_judged_block_is_never_cut_off(tmp_path):
    line = "x" * 250
    env = env_of(tmp_path, row("p", "?", [("\n".join([line] * 8), line)]))
    answer = block("print(input(), 1, sep='')") + "```\n3\n```"
    feedback = step(env, "p", answer)[2]
    assert feedback.endswith("Judged: block 1 of the answer's 2 code blocks.")
    assert len(feedback) <= LONGEST_FEEDBACK


def test_a_lone_surrogate_is_judged_not_raised(env):
    assert step(env, "plus-one", block("print('\ud800')"))[1] == "wrong_answer"


@pytest.mark.parametrize(
    "code",
    [
        "import sys; print(int(sys.stdin.buffer.readline()) + 1)",
        "import sys\nfor line in sys.stdin: print(int(line) + 1)",
        "import sys; print(int(sys.stdin.readlines()[0]) + 1)",
        "import os; print(int(os.read(0, 100)) + 1)",
        "n = int(open(0).read())\nprint(n + 1)",
        "import sys\nn = int(input())\nassert sys.stdin.read() == ''\nprint(n + 1)",
        "import sys\nprint(int(input()) + 1)\nsys.exit()",
        "print(int(input()) + 1)\nexit(0)",
        "print(int(input()) + 1)\nraise SystemExit",
        "import os, sys\nprint(int(input()) + 1)\nsys.stdout.flush()\nos._exit(0)",
        "try:\n    int('x')\nexcept ValueError:\n    print(int(input()) + 1)",
        "class Solution:\n    def go(self): print(int(input()) + 1)\nSolution().go()",
        "def main():\n    global n\n    n = int(input())\nmain()\nprint(n + 1)",
        "if __name__ == '__main__':\n    print(int(input()) + 1)",
        "from __future__ import annotations\nprint(divmod(int(input()), 1)[0] + 1)",
        "import threading\ndef f(): print(int(input()) + 1)\nthreading.Thread(target=f).start()",
        "import atexit\nn = int(input())\natexit.register(lambda: print(n + 1))",
        "import sys\nsys.setrecursionlimit(10**6)\n"
        "def f(d): return d and 1 + f(d - 1)\nassert f(20000) == 20000\nprint(int(input()) + 1)",
    ],
)
def test_programs_behave_as_in_plain_cpython(env, code):
    reward, _, feedback, _ = step(env, "plus-one", block(code))
    assert reward == 1.0, feedback


@pytest.mark.parametrize(
    "code",
    [
        "class Solution:\n    def inOrder(self, a, b):\n        print(9)\n        return a <= b",
        "def inOrder(a: Optional[int], b: int) -> bool:\n    return not a > b",
        "print('top level')\nclass Solution:\n    inOrder = lambda self, a, b: a <= b",
        "import sys\nclass Solution:\n    def inOrder(self, a, b):\n"
        "        try: raise KeyError\n        except KeyError: return b >= a",
    ],
)
def test_functional_problems_take_methods_and_functions_and_ignore_prints(env, code):
    reward, _, feedback, _ = step(env, "in-order", block(code))
    assert reward == 1.0, feedback


@pytest.mark.parametrize(
    ("code", "status", "text"),
    [
        ("def inOrder(a, b): return 2", "wrong_answer", "Output\n2"),
        ("def inOrder(a, b): return 'true'", "wrong_answer", 'Output\n"true"'),
        ("def inOrder(a, b): return {1}", "runtime_error", "set, not a JSON value"),
        ("def inOrder(a): return True", "runtime_error", "TypeError"),
        ("def other(a, b): return True", "runtime_error", "inOrder"),
        ("def inOrder(a, b): print('why')", "wrong_answer", "Stdout\nwhy"),
        ("def inOrder(a, b:", "syntax_error", "SyntaxError"),
        (
            "class Yes:\n    def __eq__(self, other): return True\ndef inOrder(a, b): return Yes()",
            "runtime_error",
            "Yes, not a JSON value",
        ),
    ],
)
def test_functional_failures_are_explained(env, code, status, text):
    reward, got, feedback, _ = step(env, "in-order", block(code))
    assert (reward, got) == (0.0, status), feedback
    assert text in feedback


def test_a_traceback_shows_the_frames_of_the_solution_alone(env):
    code = "import json\ndef load(text):\n    return json.loads(text)\n\nload('{')"
    _, _, feedback, _ = step(env, "plus-one", block(code))
    assert "File \"solution.py\", line 5, in <module>\n    load('{')" in feedback
    assert 'File "solution.py", line 3, in load' in feedback
    assert "decoder.py" not in feedback
    assert "/" not in feedback.partition("Last Executed")[0]
    assert "json.decoder.JSONDecodeError: Expecting property name" in feedback


def test_the_prompt_states_the_limits_that_are_enforced(tmp_path):
    recording = RecordingSandbox(shared("local"))
    env = env_of(tmp_path, ROWS[0], sandbox=recording, time_limit_seconds=2.5, memory_limit_mb=96)
    prompt, _ = env.reset(seed=0)
    env.step(block(SOLUTIONS["plus-one"]))
    assert "2.5 s. Memory limit: 96 MB. Time means CPU time." in prompt
    limits = {(job.limits.cpu_seconds, job.limits.memory_bytes) for job in recording.jobs}
    assert limits == {(2.5, 96 << 20)}
    assert all(job.limits.wall_seconds >= 2 * 2.5 for job in recording.jobs)


def test_an_answer_that_starved_is_not_judged():
    options = {"data": FIXTURE, "sandbox": BusySandbox(shared("local"), "STARVES")}
    envs = LiveCodeBench.vector(2, **options)
    envs.reset(options={"problem_ids": ["plus-one"] * 2})
    right = SOLUTIONS["plus-one"]
    _, rewards, _, truncated, infos = envs.step([block(right), block(f"{right}\n# STARVES")])
    assert (rewards[0], truncated.tolist()) == (1.0, [False, True])
    assert np.isnan(rewards[1])
    assert infos["judged"].tolist() == [True, False]
    assert "overloaded" in infos["error"][1]
    assert np.isnan(envs.judge_seconds).tolist() == [False, True]
    single = LiveCodeBench(**options)
    single.reset(options={"problem_id": "plus-one"})
    with pytest.raises(SandboxError, match="overloaded"):
        single.step(block(f"{right}\n# STARVES"))


def test_leaving_a_batch_early_stops_the_programs_that_still_run(tmp_path):
    env = env_of(tmp_path, ROWS[0], time_limit_seconds=200.0)
    problem = env.problem("plus-one")
    slow = block("import time\ntime.sleep(600)")
    verdicts = env.judge_many([(problem, "no code"), *[(problem, slow)] * 4])
    start = time.monotonic()
    assert next(verdicts).status is Status.NO_ANSWER
    verdicts.close()
    assert time.monotonic() - start < 100


def test_the_prompt_asks_for_the_form_that_is_judged(env):
    prompts = {id_: env.problem(id_).prompt for id_ in env.problem_ids}
    assert "reads the input from stdin" in prompts["plus-one"]
    assert "```python\nclass Solution:\n    def inOrder" in prompts["in-order"]
    assert all("one Python code block" in " ".join(p.split()) for p in prompts.values())


# What is hidden -----------------------------------------------------------------------------------

HUNT = r"""
import ctypes, gc, os, re, sys
found = set()
only_in_memory = ctypes.create_string_buffer(b"SECR" + bytes([69, 84]) + b"-444444")
def look(data):
    if isinstance(data, str):
        data = data.encode("utf-8", "replace")
    if isinstance(data, (bytes, bytearray)):
        found.update(re.findall(rb"SECR[E]T-\d{6}", data))
look(sys.stdin.read())
look(repr(dict(os.environ)))
look(repr(sys.argv))
frame = sys._getframe()
while frame:
    look(repr(frame.f_locals) + repr(frame.f_globals))
    frame = frame.f_back
for thing in gc.get_objects():
    for each in (thing, *gc.get_referents(thing)):
        look(each)
places = [os.getcwd(), *sys.path, "/tmp", os.path.expanduser("~")]
for place in filter(os.path.isdir, places):
    if "lib/python" in place:
        continue
    for folder, folders, names in os.walk(place):
        folders[:] = folders[:5]
        for name in names[:20]:
            try:
                with open(os.path.join(folder, name), "rb") as file:
                    look(file.read(1 << 16))
            except OSError:
                pass
for process in ("self", str(os.getppid())):
    for name in ("cmdline", "environ", "maps"):
        try:
            look(open(f"/proc/{process}/{name}", "rb").read())
        except OSError:
            pass
    try:
        maps = open(f"/proc/{process}/maps").read().splitlines()
        with open(f"/proc/{process}/mem", "rb", 0) as memory:
            for line in maps:
                span, mode = line.split()[:2]
                start, end = (int(part, 16) for part in span.split("-"))
                if mode.startswith("rw") and end - start < 1 << 26:
                    try:
                        memory.seek(start)
                        look(memory.read(end - start))
                    except OSError:
                        pass
    except OSError:
        pass
for fd in range(3, 64):
    try:
        look(os.read(fd, 1 << 16))
    except OSError:
        pass
print(*sorted(text.decode() for text in found))
"""


def test_the_expected_output_is_never_inside_the_cage(tmp_path):
    """A program that dumps all it can read finds its input, and no expected output."""
    # Drawn anew, so that no source or data file of an earlier run can hold them.
    numbers = random.SystemRandom().sample(range(500_000, 1_000_000), 3)
    secret, public_output, hidden_output = (f"SECRET-{number}" for number in numbers)
    recording = RecordingSandbox(shared("local"))
    env = env_of(
        tmp_path,
        row("hunt", "?", [(secret, public_output)], [(secret, hidden_output)]),
        sandbox=recording,
        stop_at_first_failure=False,
        time_limit_seconds=10.0,
    )
    (tmp_path / "rows.jsonl").unlink()  # the data file is the host's to protect, not this test's
    step(env, "hunt", block(HUNT))
    assert len(recording.executions) == 2
    for execution in recording.executions:
        assert execution.status is ExecutionStatus.OK, execution.stderr
        assert secret in execution.stdout
        assert "SECRET-444444" in execution.stdout  # so its search of the memory works
        assert public_output not in execution.stdout
        assert hidden_output not in execution.stdout
    for job in recording.jobs:
        assert public_output not in repr(job)
        assert hidden_output not in repr(job)


LEAKS = [
    "print({x})",
    "import sys; sys.stderr.write({x}); sys.exit(1)",
    "raise ValueError({x})",
    "raise type({x}, (Exception,), {{}})",
    "import sys; sys.exit({x})",
    "import sys; print('SyntaxError: ' + {x}, file=sys.stderr); sys.exit(1)",
    "import sys; print('MemoryError: ' + {x}, file=sys.stderr); sys.exit(1)",
    "import sys; print('Traceback (most recent call last):\\n  File \"solution.py\", line 1, in '"
    " + {x}, file=sys.stderr); sys.exit(1)",
    "exec(compile('1/0', {x} + '/solution.py', 'exec'))",
    "exec(compile(f'def {{{x}}}(): 1/0\\n{{{x}}}()', 'solution.py', 'exec'))",
    "while True: pass",
    "print({x} * 10**7)",
    "y = [{x}] * 10**9",
]


@pytest.mark.bubblewrap
def test_the_verdicts_do_not_depend_on_the_sandbox(env):
    try:
        jailed = LiveCodeBench(FIXTURE, sandbox=shared("bubblewrap"), time_limit_seconds=1.0)
    except SandboxError as error:
        pytest.skip(str(error))
    answers = {id_: block(code) for id_, code in SOLUTIONS.items()}
    answers["plus-one"] = block("def f():\n    return [][1]\nf()")
    answers["in-order"] = block("def inOrder(a, b): return 0")
    answers["mean"] = block("while True: pass")
    for problem_id, answer in answers.items():
        assert step(jailed, problem_id, answer) == step(env, problem_id, answer)


@pytest.mark.parametrize("leak", LEAKS)
def test_a_hidden_test_never_appears_in_feedback(tmp_path, leak):
    """Whatever the program prints or raises: it runs well on the public test and then leaks."""
    hidden_input, hidden_output = "hidden_input_77", "hidden_output_88"
    env = env_of(tmp_path, row("p", "?", [("ok", "ok")], [(hidden_input, hidden_output)]))
    code = f"x = input()\nif x == 'ok':\n    print(x)\nelse:\n    {leak.format(x='x')}"
    reward, status, feedback, details = step(env, "p", block(code))
    assert reward == 0.0
    assert feedback.startswith("Hidden Test Case 2: ")
    assert "77" not in feedback
    assert "88" not in feedback
    assert details["failed_test"] == 2
    assert details["failed_test_shown"] is False
    assert status not in ("solved", "no_answer", "empty_answer")


def test_a_hidden_failure_names_its_status_and_builtin_exception(tmp_path):
    env = env_of(tmp_path, row("p", "?", [("ok", "ok")], [("7", "8")]))
    head = "x = input()\nif x == 'ok':\n    print(x)\nelse:\n    "
    told = {
        "print(9)": "Hidden Test Case 2: Wrong Answer",
        "{}[x]": "Hidden Test Case 2: Runtime Error\nKeyError",
        "class E(Exception): pass\n    raise E(x)": "Hidden Test Case 2: Runtime Error",
    }
    for code, feedback in told.items():
        assert step(env, "p", block(head + code))[2] == feedback
    timeout = "Hidden Test Case 2: Time Limit Exceeded\nThe program did not finish within "
    assert step(env, "p", block(head + "while True: pass"))[2] == f"{timeout}1 s of CPU time."
    slept = f"{timeout}3 s by the clock: it slept or waited for something."
    assert step(env, "p", block(head + "import time\n    time.sleep(60)"))[2] == slept


def test_feedback_tests_all_shows_any_test(tmp_path):
    env = env_of(tmp_path, row("p", "?", [("ok", "ok")], [("7", "8")]), feedback_tests="all")
    feedback = step(env, "p", block("print(input())"))[2]
    assert feedback == "Test Case 2: Wrong Answer\n\nInput\n7\n\nOutput\n7\n\nExpected\n8"


def numbered_row(id_, public, private):
    """A problem whose programs double their input; test i has the input i."""
    pairs = [(str(i), str(2 * i)) for i in range(1, public + private + 1)]
    return row(id_, "Double it.", pairs[:public], pairs[public:])


def shown_inputs(env, id_):
    tests, shown = env.tests_to_run(env.problem(id_))
    return [test.input for test in tests[:shown]], [test.input for test in tests[shown:]]


def test_feedback_tests_says_which_tests_feedback_may_show(tmp_path):
    rows = [numbered_row("p", 2, 5), numbered_row("q", 0, 3), numbered_row("r", 1, 1)]
    counts = {
        how: [
            tuple(map(len, shown_inputs(env_of(tmp_path, *rows, feedback_tests=how), id_)))
            for id_ in "pqr"
        ]
        for how in ("none", "public", "half", "all")
    }
    assert counts == {
        "none": [(0, 7), (0, 3), (0, 2)],
        "public": [(2, 5), (0, 3), (1, 1)],
        "half": [(2 + 2, 3), (1, 2), (1, 1)],
        "all": [(7, 0), (3, 0), (2, 0)],
    }


def test_the_shown_half_depends_on_the_tests_alone_and_runs_after_the_public_ones(tmp_path):
    one, other = numbered_row("p", 2, 20), numbered_row("q", 2, 20)
    other["private_test_cases"] = json.dumps(json.loads(other["private_test_cases"])[::-1])
    env = env_of(tmp_path, one, other, feedback_tests="half")
    shown, hidden = shown_inputs(env, "p")
    assert shown[:2] == ["1", "2"]
    assert len(shown) == 12
    assert set(shown) == set(shown_inputs(env, "q")[0])
    assert set(shown[2:]) != {str(i) for i in range(3, 13)}  # not merely the first ones
    program = f"n = int(input())\nprint(0 if n in {{{', '.join(hidden)}}} else 2 * n)"
    _, _, feedback, details = step(env, "p", block(program))
    assert feedback == "Hidden Test Case 13: Wrong Answer"
    assert (details["failed_test"], details["tests_passed"]) == (13, 12)
    _, _, feedback, _ = step(env, "p", block(program.replace(hidden[0], shown[-1])))
    assert f"Input\n{shown[-1]}\n\nOutput\n0" in feedback


def test_training_on_a_fixed_half_judges_by_nothing_else(tmp_path):
    rows = [numbered_row("p", 1, 6)]
    half = env_of(tmp_path, *rows, feedback_tests="half", judged_tests="feedback")
    whole = env_of(tmp_path, *rows)
    (shown, hidden), answer = shown_inputs(half, "p"), "n = int(input())\nprint(n * 2 if {} else 0)"
    assert (len(shown), hidden) == (4, [])
    only_shown = block(answer.format(f"n in {{{', '.join(shown)}}}"))
    reward, _, feedback, details = step(half, "p", only_shown)
    assert (reward, feedback, details["tests"]) == (1.0, "Accepted\nAll 4 test cases passed.", 4)
    assert step(whole, "p", only_shown)[0] == 0.0
    same = env_of(tmp_path, *rows, feedback_tests="half")
    assert same.fingerprint == whole.fingerprint != half.fingerprint


def test_judging_by_feedback_tests_needs_some(tmp_path):
    with pytest.raises(ValueError, match=r"'feedback'.*'none' leaves none"):
        env_of(tmp_path, ROWS[0], feedback_tests="none", judged_tests="feedback")
    rows = [numbered_row("p", 1, 1), numbered_row("q", 0, 1)]
    with pytest.raises(ValueError, match=r"1 problems have none \('q' is the first\).*'half'"):
        env_of(tmp_path, *rows, judged_tests="feedback")
    assert env_of(tmp_path, rows[0], judged_tests="feedback")


def test_feedback_tests_none_shows_no_test_at_all(tmp_path):
    env = env_of(tmp_path, row("p", "?", [("77", "88")]), feedback_tests="none")
    _, _, feedback, details = step(env, "p", block("raise KeyError(input())"))
    assert feedback == "Hidden Test Case 1: Runtime Error\nKeyError"
    assert details["failed_test_shown"] is False


def test_details_tell_the_first_failure_where_feedback_tells_another_or_more(tmp_path):
    cases = [("wrong", "0"), ("error", "0"), ("w", "0")]
    env = env_of(tmp_path, row("p", "?", cases, [("hidden", "0")]), stop_at_first_failure=False)
    _, _, feedback, details = step(env, "p", block("assert input() != 'error'"))
    assert feedback.startswith("Runtime Error")
    assert details["first_failure"].startswith("Test Case 1: Wrong Answer\n\nInput\nwrong\n")
    _, _, feedback, details = step(env, "p", block("print('<|im_end|>')"))
    assert "Input\nw\n" in feedback  # the two shortest
    assert "Output\n< |im_end|>" in details["first_failure"]
    code = "print(1 if input() == 'hidden' else 0)"
    _, _, feedback, details = step(env, "p", block(code))
    assert feedback == "Hidden Test Case 4: Wrong Answer"
    assert "first_failure" not in details
    stopping = env_of(tmp_path, row("p", "?", cases))
    assert "first_failure" not in step(stopping, "p", block("print(1)"))[3]


# Caps and choice ----------------------------------------------------------------------------------


def test_feedback_is_capped_and_says_what_was_cut(tmp_path):
    long_input = "\n".join(f"{i} " + "9" * 400 for i in range(20))
    env = env_of(tmp_path, row("p", "?", [(long_input, "A" * 5000)]))
    for code in ("print('B' * 6000)", "raise ValueError('C' * 9000)", "def f(): f()\nf()"):
        feedback = step(env, "p", block(code))[2]
        assert len(feedback) <= 2000
        assert "more characters)" in feedback
    feedback = step(env, "p", block("print('B' * 6000)"))[2]
    assert "\n7 999" not in feedback or "(12 more lines)" in feedback
    output, expected = feedback.split("Output\n")[1].split("\n\nExpected\n")
    assert (len(output), len(expected)) == (250, 250)
    assert output.startswith("BBB")
    assert output.endswith("more characters)")


def test_a_huge_forged_traceback_costs_linear_time(env):
    head = "import sys\nsys.stderr.write('Traceback (most recent call last):\\n' + "
    for line in ("  x\\n", '  File "solution.py", line 1, in f\\n', "a.", "x"):
        code = f"{head}'{line}' * (10**7 // {len(line)}))\nsys.exit(1)"
        started = time.process_time()
        _, status, feedback, _ = step(env, "plus-one", block(code))
        assert time.process_time() - started < 60  # what is quadratic takes hours
        assert status == "runtime_error"
        assert len(feedback) <= 2000


def test_input_lines_are_capped_at_8_of_250(tmp_path):
    env = env_of(tmp_path, row("p", "?", [("\n".join("abcdefghijkl"), "z")]))
    feedback = step(env, "p", block("print()"))[2]
    assert "Input\na\nb\nc\nd\ne\nf\ng\nh\n... (4 more lines)\n\nOutput" in feedback
    assert "Output\n(nothing)" in feedback


def test_long_outputs_are_shown_where_they_differ(tmp_path):
    right = "\n".join(map(str, range(1000)))
    env = env_of(tmp_path, row("p", "?", [("", right)]))
    wrong_at_700 = "print(*(i if i != 700 else -5 for i in range(1000)), sep='\\n')"
    feedback = step(env, "p", block(wrong_at_700))[2]
    assert "-5" in feedback
    assert "699\n700" in feedback
    assert "the texts agree before" in feedback


def test_without_stopping_errors_come_first_then_timeouts_then_the_shortest_wrong_answers(
    tmp_path,
):
    cases = [("wrong long", "0"), ("late", "0"), ("error", "0"), ("wrong", "0"), ("w", "0")]
    env = env_of(tmp_path, row("p", "?", cases), stop_at_first_failure=False)
    program = (
        "x = input()\n"
        "if x in {errors}: raise KeyError(x)\n"
        "while x in {lates}: pass\n"
        "print(0 if x in {rights} else 1)"
    )

    def told(errors=(), lates=(), rights=()):
        code = program.format(errors=errors, lates=lates, rights=rights)
        return step(env, "p", block(code))

    _, status, feedback, details = told(errors=["error"], lates=["late"])
    assert status == "runtime_error"
    assert "KeyError: 'error'" in feedback
    assert details["failed_test"] == 3
    assert (details["tests_run"], details["tests_passed"]) == (5, 0)
    assert told(lates=["late"])[1] == "time_limit"
    _, status, feedback, details = told(rights=["late", "error"])
    assert status == "wrong_answer"
    assert details["tests_passed"] == 2
    assert feedback.index("Test Case 5") < feedback.index("Test Case 4")
    assert "Test Case 1" not in feedback


def test_any_family_of_code_problems_can_reuse_the_judge():
    class Doubling(CodeEnv):
        def tests(self, problem):
            return [ProgramCase(str(n), str(2 * n), public=True) for n in problem.target]

    problems = [Problem("double", "Print twice the number.", (1, random.Random(0).randint(2, 99)))]
    env = Doubling(problems, sandbox="local", time_limit_seconds=1.0)
    assert step(env, "double", block("print(2 * int(input()))"))[0] == 1.0
    assert step(env, "double", block("print(2)"))[3]["failed_test"] == 2


def test_a_problem_chooses_the_rule_of_its_comparison():
    class Roots(CodeEnv):
        def tests(self, problem):
            return [ProgramCase("2", "1.4142135624", public=True, rule=problem.target)]

    def any_root(output, expected, input):
        return abs(float(output) ** 2 - float(input)) < 1e-6

    rules = {"lines": Lines(), "floats": rule("floats"), "checker": rule(any_root)}
    problems = [Problem(id_, "Print a square root.", target) for id_, target in rules.items()]
    env = Roots(problems, sandbox="local", time_limit_seconds=1.0)
    root, other_root = (block(f"print({sign}float(input()) ** 0.5)") for sign in ("", "-"))
    assert [step(env, id_, root)[0] for id_ in rules] == [0.0, 1.0, 1.0]
    assert [step(env, id_, other_root)[0] for id_ in rules] == [0.0, 0.0, 1.0]


def test_details_and_infos_are_plain_json(env):
    env.reset(options={"problem_id": "mean"})
    info = env.step(block("print(1)"))[4]
    assert json.loads(json.dumps(info)) == info
