"""MiniCode: a code task so small that a model of half a million parameters learns it on a laptop.

The prompt is two names of two letters, `jfpq`. A hidden table says which digit 1-9 each name stands
for, a and b; the answer is a Python expression in x equivalent to x*a+b. It is really executed, on
`TEST_INPUTS`, the same text once (see `MiniProgram`), and the feedback is as short as the task:

    =               right
    10<57/34        at x = 10 it gave 57, wanted 34 (the first failing input)
    !NameError      the exception's class; also !SyntaxError, !TimeLimit, !MemoryLimit,
                    !OutputLimit, !Crash, !Exit, !Empty, !TooLong
    !Form           with rigid=True: the answer is not written as `expression` writes it

600 pairs of names are for training; 300 new pairs of the same names are held out. There is no
format instruction in the prompt: models this small are taught the format by their warm start.
"""

from __future__ import annotations

from vpd_envs.code.mini_program import SYNTAX_ERRORS, MiniProgram, first_difference
from vpd_envs.mini_task import RIGHT

# ascii() is repr() without characters that a small vocabulary lacks.
PROGRAM = """\
import sys
inputs, answer = sys.stdin.read().split("\\n", 1)
expression = compile(answer, "answer", "eval")
for x in map(int, inputs.split()):
    print(ascii(eval(expression, {"x": x})), flush=True)
"""


class MiniCode(MiniProgram):
    """`vpd/MiniCode-v0`. Problem ids are the prompts.

    table_seed: which name stands for which digit.
    """

    program = PROGRAM
    rigid_form = r"x\*[1-9]\+[1-9]"

    def wrong_value(self, x: int, got: str, want: str) -> str:
        return _wrong(x, got, want)

    def stopped(self, name: str, message: str) -> str:
        return f"!{SYNTAX_ERRORS[0] if name in SYNTAX_ERRORS else name}"


def expression(a: int, b: int) -> str:
    """The canonical answer for the digits a and b."""
    return f"x*{a}+{b}"


def feedback_for(a: int, b: int, answer_a: int, answer_b: int) -> str:
    """What the judge says of the answer `expression(answer_a, answer_b)` where a, b are wanted."""
    if (a, b) == (answer_a, answer_b):
        return RIGHT
    return _wrong(*first_difference((a, b), (answer_a, answer_b)))


def _wrong(x: int, got: str, want: str) -> str:
    return f"{x}<{got}/{want}"


vector = MiniCode.vector  # gymnasium's entry points cannot name a class attribute
