"""A call job runs the program, calls one function and brings its value back as JSON."""

import json

import pytest

from sandbox import Call, ExecutionStatus, Job, Limits


def call(box, code, *arguments, function="solve", **fields):
    return box.run(Job(code, call=Call(function, arguments), **fields))


@pytest.mark.parametrize(
    ("expression", "value"),
    [
        ("x + 1", 4),
        ("(1, [x, (None, True)])", [1, [3, [None, True]]]),
        ("{'a': 1.5, 'b': 'é'}", {"a": 1.5, "b": "é"}),
        ("10 ** 6000", 10**30),
        ("1e300 * x", 3e300),
        ("None", None),
        ("'quote\"\\n'", 'quote"\n'),
        ("Counter('aab')", {"a": 2, "b": 1}),
        ("sum(accumulate([x] * 3))", 18),
    ],
)
def test_the_value_comes_back(box, expression, value):
    got = call(box, f"def solve(x):\n    return {expression}", 3)
    assert got.status is ExecutionStatus.OK
    if value == 10**30:  # too long for this process's own parser
        assert got.value == "1" + "0" * 6000
    else:
        assert json.loads(got.value) == value


def test_a_method_of_solution_is_preferred_to_a_function(box):
    code = (
        "def solve(x): return 'function'\n"
        "class Solution:\n"
        "    def solve(self, x: List[int]) -> Optional[int]:\n        return max(x)"
    )
    assert call(box, code, [1, 5, 2]).value == "5"


def test_a_function_is_found_beside_a_class_without_it(box):
    assert call(box, "class Solution: pass\ndef solve(): return 1").value == "1"


def test_prints_do_not_disturb_the_value(box):
    code = "print('body')\ndef solve(x):\n    print('call', x)\n    return [x]"
    got = call(box, code, "a")
    assert (got.stdout, got.value) == ("body\ncall a\n", '["a"]')


def test_arguments_arrive_as_they_were(box):
    arguments = ([1, 2.5, None], {"k": ["é", True]}, "text\n", -(10**40))
    got = call(box, "def solve(*a): return a", *arguments)
    assert json.loads(got.value) == list(arguments)


@pytest.mark.parametrize("kind", ["set", "object", "complex", "bytes", "Solution"])
def test_a_value_that_json_lacks_is_named(box, kind):
    values = {"set": "{1}", "complex": "1j", "bytes": "b'a'"}
    value = values.get(kind, kind + "()")
    got = call(box, f"class Solution:\n    def solve(self):\n        return {value}")
    assert got.status is ExecutionStatus.ERROR
    assert got.value is None
    assert got.stderr.startswith("TypeError: solve() returned ")
    assert kind in got.stderr


@pytest.mark.parametrize("value", ["float('nan')", "[float('nan')]", "[a, a.append(a)]"])
def test_nan_and_cycles_equal_nothing_and_are_errors(box, value):
    got = call(box, f"a = []\ndef solve():\n    return {value}")
    assert (got.status, got.value) == (ExecutionStatus.ERROR, None)


def test_a_missing_function_is_named(box):
    got = call(box, "def solution(): pass")
    assert got.status is ExecutionStatus.ERROR
    assert "neither Solution.solve nor a function solve" in got.stderr


def test_names_given_beforehand_are_not_the_programs_functions(box):
    got = call(box, "pass", [3, 1], function="sqrt")
    assert got.status is ExecutionStatus.ERROR


def test_those_names_are_there_for_calls_only(box):
    code = "def solve():\n    return [deque([1])[0], gcd(4, 6), inf > 1, pow(2, 3, 5)]\n"
    assert json.loads(call(box, code).value) == [1, 2, True, 3]
    assert "NameError" in box.run(Job("deque")).stderr


def test_the_traceback_names_only_the_program(box):
    code = (
        "class Solution:\n    def solve(self, x):\n        return self.half(x)\n\n"
        "    def half(self, x):\n        return x / 0\n"
    )
    got = call(box, code, 1)
    assert got.status is ExecutionStatus.ERROR
    assert got.exit_code == 1
    files = [line.split(",")[0] for line in got.stderr.splitlines() if "File" in line]
    assert files == ['  File "solution.py"'] * 2
    assert got.stderr.startswith("Traceback (most recent call last):\n")
    assert got.stderr.endswith("ZeroDivisionError: division by zero\n")
    assert "return x / 0\n" in got.stderr


def test_a_syntax_error_looks_as_ever(box):
    code = "def solve(:\n    pass"
    assert call(box, code).stderr == box.run(Job(code)).stderr


@pytest.mark.parametrize(
    ("ending", "status"),
    [
        ("import sys; sys.exit(0)", ExecutionStatus.ERROR),
        ("import os; os._exit(0)", ExecutionStatus.ERROR),
        ("exit(3)", ExecutionStatus.ERROR),
        ("while True: pass", ExecutionStatus.TIMEOUT),
        ("import os; os.abort()", ExecutionStatus.CRASH),
        ("return [0] * 10**9", ExecutionStatus.MEMORY),
        ("def f(): f()\n    f()", ExecutionStatus.ERROR),
    ],
)
def test_a_call_that_does_not_return_has_no_value(box, ending, status):
    got = call(box, f"def solve():\n    {ending}", limits=Limits(wall_seconds=1))
    assert (got.status, got.value) == (status, None)


def test_threads_and_atexit_handlers_run_to_their_end(box):
    code = (
        "import atexit, threading, time\natexit.register(print, 'exit')\n"
        "def late():\n    time.sleep(0.1)\n    print('thread')\n"
        "def solve():\n    threading.Thread(target=late).start()\n    return 1"
    )
    got = call(box, code)
    assert (got.stdout, got.value) == ("thread\nexit\n", "1")


def test_the_program_is_a_module_that_others_find(box):
    code = (
        "import enum, inspect, pickle, sys, typing, __main__\nfrom dataclasses import dataclass\n"
        "@dataclass\nclass P:\n    x: 'int'\n"
        "class E(enum.Enum):\n    A = 1\n"
        "def solve():\n"
        "    copies = [pickle.loads(pickle.dumps(each)) for each in (P(1), E.A)]\n"
        "    return [__name__, copies == [P(1), E.A], __main__.P is P,"
        " sys.modules[__name__].P is P,"
        " typing.get_type_hints(P) == {'x': int}, 'x: ' in inspect.getsource(P)]"
    )
    assert json.loads(call(box, code).value) == ["solution", True, True, True, True, True]


GUARDS = {
    "reads input": "if __name__ == '__main__':\n    print(solve(int(input())))",
    "the other way round": "if '__main__' == __name__:\n    while True: pass",
    "one of several names": "if __name__ in ('__main__', 'main'):\n    raise SystemExit(1)",
    "exits": "import sys\nif __name__ == '__main__': sys.exit(solve(1))",
    "unit tests": (
        "import unittest\nclass T(unittest.TestCase):\n    def test(self): self.fail()\n"
        "if __name__ == '__main__':\n    unittest.main()"
    ),
    "arguments": (
        "import argparse\nif __name__ == '__main__':\n    parser = argparse.ArgumentParser()\n"
        "    parser.add_argument('n')\n    parser.parse_args()"
    ),
    "an assertion that fails": "if __name__ == '__main__':\n    assert solve(1) == 3",
}


@pytest.mark.parametrize("guard", GUARDS)
def test_what_is_for_main_alone_runs_in_plain_programs_alone(box, guard):
    code = f"def solve(n):\n    return n + 1\n{GUARDS[guard]}"
    assert call(box, code, 1).value == "2"
    plain = box.run(Job(code, limits=Limits(wall_seconds=1)))
    assert plain.status in (ExecutionStatus.ERROR, ExecutionStatus.TIMEOUT)


@pytest.mark.parametrize(
    ("returned", "value"),
    [
        ("Fraction(6, 2)", "3"),
        ("Decimal('0.5')", "0.5"),
        ("3 + 0j", "3.0"),
        ("[float('inf'), -float('inf')]", "[Infinity, -Infinity]"),
        ("enum.IntEnum('E', 'A').A", "1"),
        ("type('S', (str,), {})('a')", '"a"'),
        ("namedtuple('P', 'x y')(1, 2)", "[1, 2]"),
        ("Decimal('0.1')", None),  # 0.1 is another number
        ("Fraction(1, 3)", None),
        ("1j", None),
        ("deque([1])", None),
        ("range(2)", None),
        ("(n for n in [1])", None),
        ("{1: 2}.values()", None),
    ],
)
def test_a_value_is_the_json_value_that_it_equals(box, returned, value):
    code = "import enum\nfrom decimal import Decimal\nfrom fractions import Fraction\n"
    assert call(box, f"{code}def solve():\n    return {returned}").value == value


@pytest.mark.parametrize(
    ("returned", "value"),
    [
        ("np.int64(5)", "5"),
        ("np.float64(1.5)", "1.5"),
        ("np.bool_(True)", "true"),
        ("[np.int32(1), [np.float32(0.5)]]", "[1, [0.5]]"),
        ("np.array(7)", "7"),
        ("np.array([1, 2])", None),  # its == gives an array
    ],
)
def test_numbers_of_numpy_are_numbers(box, returned, value):
    got = call(box, f"import numpy as np\ndef solve():\n    return {returned}")
    if "No module named 'numpy'" in got.stderr:
        pytest.skip("this sandbox has no numpy")
    assert got.value == value


@pytest.mark.parametrize(
    ("returned", "loose"),
    [("[(1, 2)]", "[[1, 2]]"), ("{1: 2}", '{"1": 2}'), ("{'a': [{None: ()}]}", None)],
)
def test_a_strict_call_returns_what_equals_json_all_through(box, returned, loose):
    code = f"def solve():\n    return {returned}"
    got = box.run(Job(code, call=Call("solve", strict=True)))
    assert (got.status, got.value) == (ExecutionStatus.ERROR, None)
    assert loose is None or call(box, code).value == loose
    allowed = "def solve():\n    return ([1], {'a': [{}]})"
    assert box.run(Job(allowed, call=Call("solve", strict=True))).value == '[[1], {"a": [{}]}]'


@pytest.mark.parametrize(
    "forged",
    [
        b"42",
        b"\x00\x00\x00\x02{}",
        b'{"value": 1} trailing',
        b"NaN",
        b"\xff\xfe",
        b"[" * 100_000,
        b"9" * 100_000 + b"x",
        b"",
    ],
)
def test_what_a_program_writes_into_the_value_channel_is_only_its_own_answer(box, forged):
    code = (
        "import os\ndef solve():\n"
        "    for fd in range(3, 64):\n"
        f"        try: os.write(fd, {forged!r})\n        except OSError: pass\n"
        "    os._exit(0)"
    )
    got = call(box, code)
    if got.status is ExecutionStatus.OK:
        assert got.value == forged.decode()
    else:
        assert (got.status, got.value) == (ExecutionStatus.ERROR, None)
    assert call(box, "def solve(): return 7").value == "7"


def nested(depth):
    value = []
    for _ in range(depth):
        value = [value]
    return value


@pytest.mark.parametrize(
    "argument",
    [{1, 2}, b"bytes", 1j, nested(100_000), {"k": {1}}, object()],
    ids=["set", "bytes", "complex", "deep", "inner", "object"],
)
def test_arguments_must_be_json(box, argument):
    with pytest.raises(ValueError, match="JSON"):
        call(box, "def solve(x): return x", argument)
    assert call(box, "def solve(): return 7").value == "7"
