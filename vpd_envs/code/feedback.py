"""What a contestant would see: texts about failing programs, LeetCode style, and their caps.

Of a hidden test that may not be shown (`FailedCase.shown` is False), feedback has only text of our
own and the name of a builtin exception: what the program prints or raises could carry its input.
"""

from __future__ import annotations

import builtins
import re
import signal
from collections.abc import Sequence
from dataclasses import dataclass

from sandbox import MIB, Execution, ExecutionStatus, Limits
from vpd_envs.answers.extraction import Found
from vpd_envs.code.answer import Program
from vpd_envs.code.cases import AssertionCase, CodeCase, encodable
from vpd_envs.types import Status

# The caps of the papers' feedback (characters and lines).
LONGEST_FEEDBACK = 2000
INPUT_LINES, INPUT_LINE, OUTPUT = 8, 250, 250
FRAMES, MESSAGE = 4, 300  # of a traceback
STDERR_READ = 1 << 18  # characters at its end; a genuine traceback is never longer

ASKED = "Answer with one Python code block that starts with ```python and ends with ```."
EMPTY_ANSWER = f"Empty answer\nThe answer has no text. {ASKED}"
NO_PROGRAM = {
    Found.EMPTY: f"Empty answer\nThe code block of the answer is empty. {ASKED}",
    Found.NONE: f"No code block\nThe answer has no fenced code block. {ASKED}",
    Found.TRUNCATED: "No code block\nThe answer was cut off: it opens a code block that is never "
    f"closed. {ASKED}",
    Found.OTHER_LANGUAGE: "No code block\nNo code block of the answer is tagged as Python. "
    f"{ASKED}",
    Found.THINKING: f"No code block\nThe answer was cut off: its thinking never ended. {ASKED}",
}
TITLES = {
    Status.WRONG_ANSWER: "Wrong Answer",
    Status.RUNTIME_ERROR: "Runtime Error",
    Status.TIME_LIMIT: "Time Limit Exceeded",
    Status.MEMORY_LIMIT: "Memory Limit Exceeded",
    Status.OUTPUT_LIMIT: "Output Limit Exceeded",
    Status.SYNTAX_ERROR: "Syntax Error",
}


@dataclass(frozen=True)
class FailedCase:
    number: int  # of the test; 1 is the first
    test: CodeCase
    execution: Execution
    status: Status
    shown: bool  # whether feedback may show the test
    limits: Limits


def solved(tests: int) -> str:
    return f"Accepted\nAll {tests} test cases passed." if tests > 1 else "Accepted"


def with_blocks(feedback: str, program: Program) -> str:
    """The feedback, and which of the answer's blocks it is about."""
    *first, last = map(str, program.places)
    which = f"blocks {', '.join(first)} and {last}" if first else f"block {last}"
    note = f"\n\nJudged: {which} of the answer's {program.blocks} code blocks"
    note += ", joined." if first else "."
    return _clip(feedback, LONGEST_FEEDBACK - len(note)) + note


def not_together(status: Status) -> str:
    """On tests that pass one by one and fail in one process."""
    return (
        f"{TITLES[status]}\nEach test passes by itself, but not all of them in one process: the "
        "program keeps something from one call to the next."
    )


def chosen(failures: Sequence[FailedCase]) -> list[FailedCase]:
    """Which failures are told: the first error, else the first timeout, else the two shortest wrong
    answers; those that may be shown before those that may not."""
    pool = [failure for failure in failures if failure.shown] or failures
    quiet = (Status.WRONG_ANSWER, Status.TIME_LIMIT)
    loud = [failure for failure in pool if failure.status not in quiet]
    late = [failure for failure in pool if failure.status is Status.TIME_LIMIT]
    wrong = sorted(pool, key=lambda failure: len(failure.test.input))
    return loud[:1] or late[:1] or wrong[:2]


def describe(failures: Sequence[FailedCase]) -> str:
    """The feedback on failing tests, at most LONGEST_FEEDBACK characters."""
    budget = LONGEST_FEEDBACK // len(failures) - 1
    text = "\n\n".join(_one_failure(failure, budget) for failure in failures)
    # A lone surrogate (from a JSON value) has no encoding: no tokenizer could take it.
    return encodable(_clip(text, LONGEST_FEEDBACK))


def _one_failure(failure: FailedCase, budget: int) -> str:
    title = TITLES[failure.status]
    if not failure.shown:
        text = f"Hidden Test Case {failure.number}: {title}"
        reason = _reason_of(failure)
        return f"{text}\n{reason}" if reason else text
    if failure.status is Status.WRONG_ANSWER:
        head = f"Test Case {failure.number}: {title}"
        output = failure.test.output(failure.execution)
        if failure.test.expected is None:
            return _clip(f"{head}\n\n{output}", budget)
        compared = _outputs(output.rstrip(), failure.test.expected.rstrip(), failure.execution)
        return _with_input(head, "Input", failure.test.input, compared, budget)
    head = f"{title}\n{_reason_of(failure)}"
    if failure.status is Status.SYNTAX_ERROR:
        return head
    kind = "Test" if failure.test.expected is None else "Input"
    label = f"Last Executed {kind} (test case {failure.number})"
    return _with_input(head, label, failure.test.input, "", budget)


def _outputs(output: str, expected: str, execution: Execution) -> str:
    """Output and expected output; the part around the first difference if their starts agree."""
    pairs = enumerate(zip(output, expected, strict=False))
    agreeing = next((i for i, (a, b) in pairs if a != b), min(len(output), len(expected)))
    where = ""
    if agreeing > OUTPUT - 50:
        start = agreeing - 50
        where = f" (from character {start + 1} on, the texts agree before)"
        output, expected = output[start:], expected[start:]
    text = f"Output{where}\n{_clip(output, OUTPUT) or '(nothing)'}\n\n"
    text += f"Expected{where}\n{_clip(expected, OUTPUT) or '(nothing)'}"
    if execution.value is not None and execution.stdout.strip():
        text += f"\n\nStdout\n{_clip(execution.stdout.rstrip(), OUTPUT)}"
    return text


def _with_input(head: str, label: str, input_: str, tail: str, budget: int) -> str:
    """The sections in LeetCode's order; the input gets the room that the others leave."""
    tail = f"\n\n{tail}" if tail else ""
    room = budget - len(head) - len(label) - len(tail) - len("\n\n\n")
    lines = input_.rstrip().split("\n")
    shown = [_clip(line, INPUT_LINE) for line in lines[:INPUT_LINES]]
    if len(lines) > INPUT_LINES:
        shown.append(f"... ({len(lines) - INPUT_LINES} more lines)")
    return f"{head}\n\n{label}\n{_clip(chr(10).join(shown), room) or '(nothing)'}{tail}"


def _reason_of(failure: FailedCase) -> str:
    """Why it ended. Of a hidden test, in words that cannot depend on the test's text."""
    test, execution, limits = failure.test, failure.execution, failure.limits
    match failure.status:
        case Status.WRONG_ANSWER:
            return ""
        case Status.TIME_LIMIT:
            return _late_reason(execution, limits)
        case Status.MEMORY_LIMIT:
            return f"The program needed more than {limits.memory_bytes / MIB:g} MB."
        case Status.OUTPUT_LIMIT:
            return f"The program wrote more than {limits.output_bytes / MIB:g} MB."
    if isinstance(test, AssertionCase) and test.misses_function(execution):
        return f"The program defines no function {test.function}."
    if execution.status is ExecutionStatus.CRASH:
        return _crash_reason(execution)
    if failure.shown:
        return _solution_traceback(execution.stderr) or f"Exit code {execution.exit_code}"
    name = exception_name(execution.stderr)
    known = getattr(builtins, name, None)
    return name if isinstance(known, type) and issubclass(known, BaseException) else ""


def _late_reason(execution: Execution, limits: Limits) -> str:
    assert limits.cpu_seconds is not None  # `Limits` fills it in
    if execution.cpu_seconds < limits.cpu_seconds and execution.signal != signal.SIGXCPU:
        clock = f"within {limits.wall_seconds:g} s by the clock"
        return f"The program did not finish {clock}: it slept or waited for something."
    return f"The program did not finish within {limits.cpu_seconds:g} s of CPU time."


def _crash_reason(execution: Execution) -> str:
    try:
        name = signal.Signals(execution.signal or 0).name
    except ValueError:
        name = f"signal {execution.signal}"
    return f"The interpreter was killed by {name}."


# Reading CPython's tracebacks ---------------------------------------------------------------------

TRACEBACK = "Traceback (most recent call last):\n"
FRAME = re.compile(r'  File "[^\n]*", line \d+, in ')
PLACE = re.compile(r'  File "[^\n]*", line \d+$')  # of a syntax error: no function
SOLUTION = re.compile(r'File "(?:[^"\n]*/)?solution\.py"')
SYNTAX_ERRORS = ("SyntaxError", "IndentationError", "TabError")
NULL_BYTES = "source code string cannot contain null bytes"  # a ValueError before Python 3.12


def _solution_traceback(stderr: str) -> str:
    """The end of a traceback: the frames that lie in the solution, and the exception.

    Without a traceback (`sys.exit("...")`, a syntax error), the last lines of stderr.
    """
    frames, ending = _last_traceback(stderr)
    own = [frame for frame in frames if SOLUTION.search(frame.partition("\n")[0])]
    head = TRACEBACK if own else ""
    own = own[-FRAMES:]
    text = head + "".join(_clip(frame, MESSAGE) + "\n" for frame in own)
    return SOLUTION.sub('File "solution.py"', text) + _clip(ending, MESSAGE)


def exception_name(stderr: str) -> str:
    """The class name of the exception that ended the program, "" if none did."""
    ending = _last_traceback(stderr)[1].splitlines()
    for line in ending:
        name = re.match(r"(?:\w+\.)*([A-Za-z_]\w*)(?::|$)", line)
        if name:
            return name[1]
    return ""


def is_syntax_error(stderr: str) -> bool:
    """Whether the program never ran: a syntax error whose traceback has no frame.

    A syntax error out of the program's own eval() or import has frames. A program can print the
    same text and exit with 1; it only misnames its own failure.
    """
    frames, ending = _last_traceback(stderr)
    named = exception_name(stderr) in SYNTAX_ERRORS
    return not frames and (named or ending.endswith(NULL_BYTES))


def _last_traceback(stderr: str) -> tuple[list[str], str]:
    """The frames of the last traceback, as texts, and what follows them.

    Where no traceback is: no frames and the end of stderr, from a syntax error's place on.
    """
    text = stderr[-STDERR_READ:].rstrip()
    start = text.rfind(TRACEBACK)
    if start < 0 or (start and text[start - 1] != "\n"):
        lines = text.splitlines()[-8:]
        places = [i for i, line in enumerate(lines) if PLACE.match(line)]
        ending = "\n".join(lines[places[-1] if places else 0 :])
        return [], SOLUTION.sub('File "solution.py"', ending)
    lines = text[start + len(TRACEBACK) :].split("\n")
    frames: list[list[str]] = []
    end = 0
    while end < len(lines) and lines[end].startswith(" ") and not PLACE.match(lines[end]):
        if FRAME.match(lines[end]) or not frames:
            frames.append([])
        frames[-1].append(lines[end])
        end += 1
    # What follows may begin with the place of a syntax error in code the program made or imported.
    ending = SOLUTION.sub('File "solution.py"', "\n".join(lines[end:]))
    return ["\n".join(frame) for frame in frames], ending


def _clip(text: str, limit: int) -> str:
    """The start of a text, and how much was cut; never longer than `limit`."""
    if len(text) <= limit:
        return text
    limit = max(limit, 0)
    note = f"... ({len(text) - limit} more characters)"
    kept = max(0, limit - len(note))
    return text[:kept] + f"... ({len(text) - kept} more characters)"[: limit - kept]
