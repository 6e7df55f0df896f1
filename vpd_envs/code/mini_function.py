"""MiniFunction: a function of two steps, and feedback as Python and its tests word it.

The prompt is two names of two letters, `jfpq`. A hidden table says which digit 1-9 each name stands
for, a and b; the answer is a Python function f of x that returns x*a+b, such as

    def f(x):
     y=x*3
     return y+4

It is really executed, on `TEST_INPUTS`, the same text once (see `MiniProgram`). The feedback is the
first failing test or the last line of the traceback, in at most `LONGEST_FEEDBACK` characters:

    =                                       right
    f(10) is 57, not 34                     the first failing test
    NameError: name 'y' is not defined      what stopped it, as the sandbox's Python words it
    SyntaxError: invalid syntax
    TimeLimit: it took too long             also MemoryLimit, OutputLimit, Crash, Exit, Empty,
                                            TooLong
    FormError: the form is wrong            with rigid=True: the answer is not written as
                                            `function` writes it

600 pairs of names are for training; 300 new pairs of the same names are held out. There is no
format instruction in the prompt: models this small are taught the format by their warm start.
"""

from __future__ import annotations

from vpd_envs.code.mini_program import MiniProgram, first_difference
from vpd_envs.mini_task import RIGHT

LONGEST_FEEDBACK = 48  # characters
_REASONS = {
    "TimeLimit": "it took too long",
    "MemoryLimit": "it used too much memory",
    "OutputLimit": "it printed too much",
    "Crash": "a signal ended it",
    "Exit": "it ended too early",
}
# The call is read from text, so that a missing f is a NameError like any other missing name.
PROGRAM = """\
import sys
inputs, answer = sys.stdin.read().split("\\n", 1)
names = {}
exec(compile(answer, "answer", "exec"), names)
for x in inputs.split():
    print(ascii(eval(f"f({x})", names)), flush=True)
"""


class MiniFunction(MiniProgram):
    """`vpd/MiniFunction-v0`. Problem ids are the prompts.

    table_seed: which name stands for which digit.
    """

    program = PROGRAM
    rigid_form = r"def f\(x\):\n y=x\*[1-9]\n return y\+[1-9]"
    empty = "Empty: there is no answer"
    wrong_form = "FormError: the form is wrong"
    longer = "TooLong: the answer is too long"

    def wrong_value(self, x: int, got: str, want: str) -> str:
        return _wrong(x, got, want)

    def stopped(self, name: str, message: str) -> str:
        return stopped(name, message)


def function(a: int, b: int) -> str:
    """The canonical answer for the digits a and b."""
    return f"def f(x):\n y=x*{a}\n return y+{b}"


def feedback_for(a: int, b: int, answer_a: int, answer_b: int) -> str:
    """What the judge says of the answer `function(answer_a, answer_b)` where a, b are wanted."""
    if (a, b) == (answer_a, answer_b):
        return RIGHT
    return _wrong(*first_difference((a, b), (answer_a, answer_b)))


def stopped(name: str, message: str) -> str:
    """Feedback on an exception by its class and message: the first sentence, in ASCII. Python's
    later sentences, such as "Did you mean: 'x'?", differ by version."""
    reason = (message or _REASONS.get(name, "")).partition(". ")[0]
    text = f"{name}: {reason}" if reason else name
    return text.encode("ascii", "backslashreplace").decode()[:LONGEST_FEEDBACK]


def _wrong(x: int, got: str, want: str) -> str:
    return f"f({x}) is {got}, not {want or 'that'}"


vector = MiniFunction.vector  # gymnasium's entry points cannot name a class attribute
