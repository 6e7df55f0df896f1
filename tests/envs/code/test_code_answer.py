"""Which program an answer gives, in a table of the shapes that answers have."""

import textwrap
import time
import warnings

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vpd_envs.answers.extraction import Found
from vpd_envs.code.answer import LONGEST_JOINED, Program, facts_of, program_in, quiet

METHOD = "class Solution:\n    def solve(self, a):\n        return sum(a)\n"
FUNCTION = "def solve(a):\n    return sum(a)\n"
PROGRAM = "def solve(a):\n    return sum(a)\n\nprint(solve(map(int, input().split())))\n"
SCRIPT = "import sys\nprint(sum(map(int, sys.stdin.read().split())))\n"
METHOD_DEMO = "print(Solution().solve([1, 2]))\n"
FUNCTION_DEMO = "print(solve([1, 2]))\n"
CPP = "#include <numeric>\nint solve() { return 0; }\n"
OUTLINE = "def solve(a):\n    # as above\n    ...\n"


def md(*blocks, fence="```"):
    """An answer with prose around its blocks: (tag, code) each, or a line of prose."""
    return "Let us see.\n\n" + "\n\n".join(
        block if isinstance(block, str) else f"{fence}{block[0]}\n{block[1]}{fence}"
        for block in blocks
    )


def py(code):
    return ("python", code)


# What follows a solution in an answer and is none.
NO_SOLUTIONS = {
    "sample output": ("", "3\n"),
    "sample input": ("", "1 2\n"),
    "sample of both": ("", "Input: [1, 2]\nOutput: 3\n"),
    "complexity that parses": ("", "O(n)\n"),
    "complexity that parses as an annotation": ("", "Time: O(n)\n"),
    "complexity": ("text", "O(n log n)\n"),
    "text that parses": ("text", "3\n"),
    "plaintext": ("plaintext", "3\n"),
    "shell": ("bash", "python solution.py\n"),
    "shell that parses": ("sh", "run\n"),
    "console": ("console", "$ python solution.py\n3\n"),
    "JSON": ("json", '{"result": [3]}\n'),
    "C++": ("cpp", CPP),
    "C++ by its name": ("c++", CPP),
    "Java": ("java", "class Solution { int solve() { return 0; } }\n"),
    "JavaScript": ("javascript", "const solve = (a) => 0\n"),
    "Markdown": ("markdown", "# Complexity\n\nLinear.\n"),
    "a transcript": ("pycon", ">>> solve([1, 2])\n3\n"),
    "an untagged transcript": ("", ">>> solve([1, 2])\n3\n"),
    "a transcript tagged as Python": ("python", ">>> solve([1, 2])\n3\n"),
    "a text tagged as Python": ("python", "Input: [1, 2]\nOutput: 3, of course\n"),
    "an empty block": ("python", "\n"),
    "a comment": ("python", "# that is all\n"),
    "a version of a line": ("python", "    return sum(a)\n"),
    "another call": ("python", "print(sum([1, 2]))\n"),
}
DEMOS = {
    "a call": "{call}\n",
    "a call that prints": "print({call})\n",
    "asserts": "assert {call} == 3\nassert {call} != 4\nprint('all passed')\n",
    "a test function": "def test():\n    assert {call} == 3\n\ntest()\n",
    "unittest": "import unittest\n\nclass Tests(unittest.TestCase):\n    def test(self):\n"
    "        self.assertEqual({call}, 3)\n\nif __name__ == '__main__':\n    unittest.main()\n",
    "a loop": "for a in ([1, 2], [3]):\n    print(a, {call})\n",
    "a driver that reads": "a = list(map(int, input().split()))\nprint({call})\n",
}


@pytest.mark.parametrize("after", NO_SOLUTIONS)
@pytest.mark.parametrize(
    ("functions", "solution"),
    [(["solve"], METHOD), (["solve"], FUNCTION), ([], PROGRAM), ([], SCRIPT)],
    ids=["method", "function", "program", "script"],
)
def test_the_solution_counts_whatever_stands_around_it(functions, solution, after):
    extra = NO_SOLUTIONS[after]
    for answer, place, blocks in (
        (md(py(solution), "Then:", extra), 1, 2),
        (md("Example:", extra, py(solution)), 2, 2),
        (md(extra, ("", solution), extra, extra), 2, 4),
        (md(py(solution), extra).replace("\n", "\r\n"), 1, 2),
    ):
        assert program_in(answer, functions) == Program(Found.COMPLETE, solution, blocks, (place,))


@pytest.mark.parametrize("demo", DEMOS)
@pytest.mark.parametrize(
    ("functions", "solution", "call"),
    [
        (["solve"], METHOD, "Solution().solve([1, 2])"),
        (["solve"], FUNCTION, "solve([1, 2])"),
        ([], PROGRAM, "solve([1, 2])"),
    ],
    ids=["method", "function", "program"],
)
def test_a_solution_counts_and_not_its_demonstration(functions, solution, call, demo):
    code = DEMOS[demo].format(call=call)
    for tag in ("python", "py", ""):
        answer = md(py(solution), "Example usage:", (tag, code))
        assert program_in(answer, functions) == Program(Found.COMPLETE, solution, 2, (1,))


TAKEN = {
    # name: (functions, answer, the places of the blocks that count)
    "of two solutions the last": (["solve"], md(py(METHOD), py(METHOD)), (2,)),
    "of a method and a function the last": (["solve"], md(py(METHOD), py(FUNCTION)), (2,)),
    "of two programs the last": ([], md(py(PROGRAM), "Shorter:", py(SCRIPT)), (2,)),
    "an outline before": (["solve"], md(py(OUTLINE), py(FUNCTION)), (2,)),
    "an outline after": (["solve"], md(py(FUNCTION), py(OUTLINE)), (1,)),
    "a stub of the starter code": (
        ["solve"],
        md(py("class Solution:\n    def solve(self, a):\n        pass\n"), py(METHOD), ("", "3\n")),
        (2,),
    ),
    "pseudocode after": (["solve"], md(py(FUNCTION), py("def solve(a):\n    for each x:\n")), (1,)),
    "an outline alone": (["solve"], md(py(OUTLINE), py(FUNCTION_DEMO)), (1,)),
    "a broken solution and a demonstration": (
        ["solve"],
        md(py("def solve(a:\n    return 1\n"), py(FUNCTION_DEMO)),
        (1,),
    ),
    "a broken program and a demonstration": (
        [],
        md(py("def solve(a:\n    return 1\nprint(solve(input()))\n"), py(FUNCTION_DEMO)),
        (1,),
    ),
    "tests that import the solution": (
        ["solve"],
        md(py(FUNCTION), py("from solution import solve\nassert solve([1, 2]) == 3\n")),
        (1,),
    ),
    "a demonstration that renames it": (
        ["solve"],
        md(py(METHOD), py("solve = Solution().solve\nprint(solve([1, 2]))\n")),
        (1,),
    ),
    "a lambda": (["solve"], md(py("solve = lambda a: sum(a)\n"), py(FUNCTION_DEMO)), (1,)),
    "a generator": (
        ["solve"],
        md(py("def solve(a):\n    yield 1\n"), py("list(solve(1))\n")),
        (1,),
    ),
    "a name that is made": (
        ["solve"],
        md(py("from functools import partial\nsolve = partial(sum, start=0)\n"), py("solve([])\n")),
        (1,),
    ),
    "a class that is asked for": (
        ["Stack"],
        md(py("class Stack:\n    pass\n"), py("s = Stack()\n")),
        (1,),
    ),
    "the wrong name": (
        ["solve"],
        md(py("def answer(a):\n    return 1\n"), py("answer(1)\n")),
        (1,),
    ),
    "a program where a function is asked": (["solve"], md(py(SCRIPT), ("", "3\n")), (1,)),
    "a function where a program is asked": ([], md(py(FUNCTION), ("", "3\n")), (1,)),
    "a program without input": ([], md(py("print(42)\n"), ("", "42\n")), (1,)),
    "a test bench": (
        [],
        md(
            py("def main():\n    print(int(input()) + 1)\n\nmain()\n"),
            py("import io, sys\nsys.stdin = io.StringIO('1')\nmain()\n"),
        ),
        (1,),
    ),
    "a way to read that is no program": (
        [],
        md(py(SCRIPT), "The input is read by", py("data = sys.stdin.read().split()\n")),
        (1,),
    ),
    # Blocks that only work together
    "imports apart": (
        ["solve"],
        md(py("import math\n"), "and", py("def solve(a):\n    return math.gcd(*a)\n")),
        (1, 2),
    ),
    "imports and a demonstration": (
        ["solve"],
        md(py("import math\n"), py("def solve(a):\n    return math.gcd(*a)\n"), py(FUNCTION_DEMO)),
        (1, 2),
    ),
    "a helper before": (
        ["solve"],
        md(py("def add(a):\n    return sum(a)\n"), py("def solve(a):\n    return add(a)\n")),
        (1, 2),
    ),
    "a helper after": (
        ["solve"],
        md(py("def solve(a):\n    return add(a)\n"), py("def add(a):\n    return sum(a)\n")),
        (1, 2),
    ),
    "a helper's helper": (
        ["solve"],
        md(
            py("def one(a):\n    return sum(a)\n"),
            ("bash", "ls\n"),
            py("def two(a):\n    return one(a)\n"),
            py("class Solution:\n    def solve(self, a):\n        return two(a)\n"),
            py(METHOD_DEMO),
        ),
        (1, 3, 4),
    ),
    "a class apart": (
        ["total", "Pair"],
        md(py("class Pair:\n    pass\n"), py("def total(pair):\n    return 1\n"), py("total(2)\n")),
        (1, 2),
    ),
    "a node that the starter code shows": (
        ["solve"],
        md(
            py("class Node:\n    pass\n"),
            py("class Solution:\n    def solve(self, a):\n        return Node()\n"),
        ),
        (1, 2),
    ),
    "a function in two parts": (
        ["solve"],
        md(
            py("def solve(a):\n    total = 0\n"),
            "then",
            py("    for x in a:\n        total += x\n    return total\n"),
        ),
        (1, 2),
    ),
    "a function whose head stands alone": (
        ["solve"],
        md(py("def solve(a):\n"), "then", py("    return sum(a)\n"), py(FUNCTION_DEMO)),
        (1, 2),
    ),
    "a class whose method stands apart": (
        ["solve"],
        md(
            py("class Solution:\n    def add(self, a):\n        return sum(a)\n"),
            py("    def solve(self, a):\n        return self.add(a)\n"),
        ),
        (1, 2),
    ),
    "a program in parts": (
        [],
        md(py("import sys\n"), py("data = sys.stdin.read().split()\n"), py("print(len(data))\n")),
        (1, 2, 3),
    ),
    "a program whose main is called apart": (
        [],
        md(
            py("import sys\nsys.setrecursionlimit(10**6)\ndef main():\n    print(input())\n"),
            "Run it:",
            py("main()\n"),
        ),
        (1, 2),
    ),
    "a function and the program that calls it": (
        [],
        md(
            py(FUNCTION),
            py("print(solve(map(int, input().split())))\n"),
            "So",
            py("print(solve([1, 2]))\n"),
            ("", "3\n"),
        ),
        (1, 2),
    ),
    "a program that is cut in the middle of a function": (
        [],
        md(py("def main():\n    n = int(input())\n"), py("    print(n + 1)\n\nmain()\n")),
        (1, 2),
    ),
}


@pytest.mark.parametrize("name", TAKEN)
def test_of_several_blocks_those_count_that_work_together(name):
    functions, answer, places = TAKEN[name]
    program = program_in(answer, functions)
    assert (program.found, program.places) == (Found.COMPLETE, places)
    codes = [part.partition("\n")[2] for part in answer.split("```")[1::2]]
    assert program.code == "".join(codes[place - 1] for place in places)
    assert program.blocks == len(codes)


@pytest.mark.parametrize(
    "answer",
    [
        f"```{tag}\n{FUNCTION}```\n```text\n3\n```"
        for tag in (
            *("", "python", "py", "python3", "Python", "python3.12", "PY", "ipython", "pypy3"),
            *(" python ", "py hl=2", "python:main.py", "{.python .numberLines}", "{python}"),
            *("solution.py", "code", "python title='x'", "python-3.12", "python_code", "py3"),
        )
    ]
    + [
        "1. So:\n   ```python\n" + textwrap.indent(f"{FUNCTION}```", "   "),
        md(py(FUNCTION), ("text", "3\n"), fence="~~~"),
        md(py(FUNCTION), ("text", "3\n"), fence="````"),
        f"<answer>\n{md(py(FUNCTION), ('', '3'))}\n</answer>",
        f"<answer>```python\n{FUNCTION}```</answer>",
        f"````markdown\n# Solution\n```python\n{FUNCTION}```\n```\n3\n```\n````",
        f"```markdown\n# Solution\n```python\n{FUNCTION}```\n```",
        f"````\n```python\n{FUNCTION}```\n````",
        f"```python\nhalf of\nWait, anew:\n```python\n{FUNCTION}```",
        f"```python\n{FUNCTION}```\nIn short:\n```python\ndef sol",
        f"<think>\n```python\ndef solve(a):\n    return 0\n```\n</think>\n{md(py(FUNCTION))}",
        f"The prompt opened it.\n```python\n{FUNCTION_DEMO}\n</think>\n{md(py(FUNCTION))}",
    ],
)
def test_the_one_function_is_found_in_any_markup(answer):
    program = program_in(answer, ["solve"])
    assert (program.found, program.code) == (Found.COMPLETE, FUNCTION)


@pytest.mark.parametrize("quote", ['"""', "'''"])
def test_a_fence_in_a_string_is_part_of_the_code(quote):
    for text in ("```", "```\nx\n```", "text\n```python\nf()\n```\ntext", "it's\n```\n~~~"):
        code = f"def solve(a):\n    s = {quote}\n{text}\n{quote}  # as it's said\n    return s\n"
        answer = md(py(code), py(FUNCTION_DEMO), ("", "3\n"))
        assert program_in(answer, ["solve"]) == Program(Found.COMPLETE, code, 3, (1,))


def test_a_string_that_never_ends_hides_no_later_block():
    answer = md(py('def solve(a):\n    """Adds.\n    return 0\n'), "Anew:", py(FUNCTION))
    assert program_in(answer, ["solve"]) == Program(Found.COMPLETE, FUNCTION, 2, (2,))


@pytest.mark.parametrize(
    ("answer", "found"),
    [
        ("", Found.NONE),
        (FUNCTION, Found.NONE),
        ("use `solve` or ```solve()``` here", Found.NONE),
        (f"<think>\n{md(py(FUNCTION))}\n", Found.THINKING),
        (f"<think>\n{md(py(FUNCTION))}\n</think>\nAs above.", Found.NONE),
        (md(("cpp", CPP)), Found.OTHER_LANGUAGE),
        (md(("text", FUNCTION)), Found.OTHER_LANGUAGE),
        ("```python\n```", Found.EMPTY),
        (md(("cpp", CPP), ("", "\n \n")), Found.EMPTY),
        (f"```python\n{FUNCTION}", Found.TRUNCATED),
        ("```python", Found.TRUNCATED),
        (f"~~~\n{FUNCTION}```", Found.TRUNCATED),
        (f"````\n{FUNCTION}```", Found.TRUNCATED),
        (f"{md(('', '1 2'), ('cpp', CPP))}\n```python\n{FUNCTION}", Found.TRUNCATED),
        (f"{md(py('a = [1, 2]'))}\n```python\ndef solve(a):\n    ret", Found.TRUNCATED),
    ],
)
def test_what_is_missing_is_told(answer, found):
    assert program_in(answer, ["solve"]).found is found
    assert program_in(answer).found is found


def test_the_only_block_is_judged_whatever_is_in_it():
    for code in ("def solve(a:\n", "1 2\n", "x\0\n", ">>> 1\n", "(" * 1000 + "\n"):
        for answer in (md(py(code)), md(("cpp", CPP), ("", code))):
            assert program_in(answer, ["solve"]).code == program_in(answer).code == code


def test_the_order_of_names_does_not_matter():
    """Python orders sets anew in each process; an answer has one program."""
    helpers = [py(f"def h{i}(a):\n    return {i}\n") for i in range(9)]
    uses = " + ".join(f"h{i}(a)" for i in range(9))
    answer = md(*helpers, py(f"def solve(a):\n    return {uses}\n"), *helpers)
    assert program_in(answer, ["solve"]).places == tuple(range(1, 11))


# The parser ---------------------------------------------------------------------------------------


def test_facts_tell_what_runs():
    assert not facts_of("def main():\n    print(input())\n").reads
    assert facts_of("def go():\n    print(input())\ndef main():\n    go()\nmain()\n").reads
    assert facts_of("import os\nos.write(1, os.read(0, 9))\n").prints
    assert facts_of("from sys import stdin as s, stdout as o\no.write(s.read())").prints
    for code in (
        *("open(0).read()", "open('/dev/stdin')", "sys.stdin.buffer.read()", "input()"),
        *("from sys import stdin as s\ns.read()", "import fileinput\nlist(fileinput.input())"),
    ):
        assert facts_of(code).reads
    assert not facts_of("sys.stdin = 3\nopen('f').read()").reads


def test_code_that_the_parser_would_warn_of_is_parsed_in_silence():
    code = (
        "import re\ndef f(a):\n    return 1if re.sub('\\d', '\\\\', a) else 2or 3\nv1if = '\\''\n"
    )
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert facts_of(code).returning == {"f"}
        assert facts_of(code).provided == {"re", "f", "v1if"}
    assert "'//'" in quiet(code)


PIECES = ["```", "~~~", "````", "python", "md", "\n", "\r", " ", "\t", "<think>", "</think>", "é"]
PIECES += ["\0", '"""', "'''", "def f(): return 1", "input()", "print()", "\\", "1if", "(", "x"]
markup = st.lists(st.sampled_from(PIECES)).map("".join)


@given(st.one_of(st.text(), markup, st.text(alphabet=st.characters())))
def test_any_text_is_read_without_an_exception(answer):
    for functions in ([], ["f"]):
        program = program_in(answer, functions)
        assert bool(program.code.strip()) == (program.found is Found.COMPLETE)
        assert bool(program.places) == (program.found is Found.COMPLETE)


@pytest.mark.parametrize(
    "unit",
    [
        *("```", "`", "~", " ", "\n", "\t", "<think>", "```python\n", "\n ```", "```\nx\n```\n"),
        *('```python\n"""\n```\n', "```python\nprint(input(), a)\n```\n", "````\n```\n", '"\\'),
    ],
)
def test_reading_time_is_linear(unit):
    """What is quadratic takes some 10,000 times as long here: hours."""
    started = time.process_time()
    times = (1 << 16) // len(unit)
    for answer in (unit * 2 * times, unit * times + "```\nx\n```\n" + unit * times):
        program_in(answer), program_in(answer, ["f"])
    assert time.process_time() - started < 60


@pytest.mark.parametrize("unit", ["(", "-", "not ", "a.", "a+", "if a:\n ", "lambda:", "f'{", "x="])
def test_code_that_is_nested_too_deep_is_read_as_text(unit):
    deep = unit * 10_000
    assert facts_of(f"def solve(a):\n    return {deep}").defined == {"solve"}


def test_blocks_too_long_to_be_joined_stand_alone():
    helper = "def add(a):\n    return sum(a)\n" + "#" * LONGEST_JOINED + "\n"
    code = "def solve(a):\n    return add(a)\n"
    assert program_in(md(py(helper), py(code)), ["solve"]).places == (2,)
