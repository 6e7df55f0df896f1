"""Nothing is too large, too small or too odd to go in and come out as it was."""

import json
import random
import sys
from hashlib import sha256

import pytest

from sandbox import MIB, Call, ExecutionStatus, Job, Limits

OK, ERROR = ExecutionStatus.OK, ExecutionStatus.ERROR
OUTPUT_LIMIT = ExecutionStatus.OUTPUT_LIMIT
ROOM = Limits(wall_seconds=20, output_bytes=64 * MIB, memory_bytes=512 * MIB)


def write(stream: str, count: int) -> str:
    """A program that writes that many bytes, a numbered pattern, in pieces of odd lengths."""
    return (
        f"import sys\nleft, at = {count}, 0\n"
        "pattern = b''.join(b'%07d,' % i for i in range(8192))\n"
        "while left:\n"
        "    size = min(left, 61_001)\n"
        f"    sys.{stream}.buffer.write((pattern * 2)[at : at + size])\n"
        "    left, at = left - size, (at + size) % len(pattern)\n"
    )


def written(count: int) -> str:
    pattern = "".join(f"{i:07d}," for i in range(8192))
    return (pattern * (count // len(pattern) + 1))[:count]


@pytest.mark.parametrize("stream", ["stdout", "stderr"])
@pytest.mark.parametrize("count", [150_000, 50_000_000], ids=["150KB", "50MB"])
def test_output_below_the_limit_arrives_whole(box, stream, count):
    got = box.run(Job(write(stream, count), limits=ROOM))
    assert (got.status, getattr(got, f"{stream}_bytes")) == (OK, count)
    assert getattr(got, stream) == written(count)
    other = "stderr" if stream == "stdout" else "stdout"
    assert (getattr(got, other), getattr(got, f"{other}_bytes")) == ("", 0)


@pytest.mark.parametrize("stream", ["stdout", "stderr"])
@pytest.mark.parametrize("count", [150_000, 50_000_000], ids=["150KB", "50MB"])
def test_output_above_the_limit_is_cut_exactly_there(box, stream, count):
    limit = 100_003
    got = box.run(Job(write(stream, count), limits=Limits(wall_seconds=20, output_bytes=limit)))
    assert got.status is OUTPUT_LIMIT
    assert getattr(got, stream) == written(limit)
    assert limit < getattr(got, f"{stream}_bytes") <= count


@pytest.mark.parametrize("over", [-1, 0, 1])
@pytest.mark.parametrize("limit", [1, 1000, 65_536, 100_000])
def test_the_output_limit_is_exact(box, limit, over):
    code = f"import os\nos.write(1, b'x' * {limit + over})"
    got = box.run(Job(code, limits=Limits(output_bytes=limit)))
    assert got.status is (OUTPUT_LIMIT if over > 0 else OK)
    assert got.stdout == "x" * min(limit, limit + over)
    assert got.stdout_bytes == limit + over


def test_both_streams_have_the_whole_limit(box):
    code = "import os\nos.write(1, b'o' * 50_000)\nos.write(2, b'e' * 50_000)"
    got = box.run(Job(code, limits=Limits(output_bytes=50_000)))
    assert (got.status, got.stdout, got.stderr) == (OK, "o" * 50_000, "e" * 50_000)


@pytest.mark.parametrize("count", [0, 1, 1_000_000, 40_000_000])
def test_input_arrives_whole(box, count):
    data = random.Random(count).randbytes(count)
    code = (
        "import hashlib, sys\ndata = sys.stdin.buffer.read()\n"
        "print(len(data), hashlib.sha256(data).hexdigest())"
    )
    got = box.run(Job(code, data, limits=ROOM))
    assert got.stdout == f"{count} {sha256(data).hexdigest()}\n"


@pytest.mark.parametrize("code", ["pass", "import sys\nsys.stdin.close()", "input()"])
def test_input_need_not_be_read(box, code):
    got = box.run(Job(code, "x" * 999_999 + "\n" + "y" * 9))
    assert (got.status, got.stdout, got.stderr) == (OK, "", "")


def test_many_lines_in_and_out(box):
    lines = [f"{i} {i * i % 7919}" for i in range(10_000)]
    code = "for _ in range(10_000):\n    a, b = map(int, input().split())\n    print(b, a)"
    got = box.run(Job(code, "\n".join(lines) + "\n"))
    assert got.stdout.splitlines() == [" ".join(reversed(line.split())) for line in lines]


TEXTS = {
    "ascii": "plain",
    "latin": "Käse, façade",
    "wide": "中文, 日本語, 한국어",
    "emoji": "👩‍👩‍👧 \U0001f600",
    "right_to_left": "עברית العربية",
    "combining": "e\u0301 \u0000 \u2028 \u0085 \ufeff",
    "unassigned": "\U0010ffff \ufffe",
}


@pytest.mark.parametrize("text", TEXTS.values(), ids=TEXTS)
def test_text_comes_back_as_it_went_in(box, text):
    got = box.run(Job(f"print(input())\nprint({text!r})\nprint('''{text}''')", text + "\n"))
    # In a source file a null byte is not allowed, and CPython says so.
    if "\0" in text:
        assert got.status is ERROR
    else:
        assert (got.status, got.stdout) == (OK, f"{text}\n" * 3)
    echo = "import sys\nsys.stdout.write(sys.stdin.read())\nsys.stderr.write('é' * 3)"
    assert box.run(Job(echo, text)).stdout == text


BROKEN = [
    b"\xff",
    b"a\xc3",
    b"\xe2\x82 b",
    b"\xed\xa0\x80",
    b"\xf5\x80\x80\x80",
    b"\xc0\xaf",
    bytes(range(256)),
]


@pytest.mark.parametrize("data", BROKEN, ids=ascii)
def test_broken_utf_8_goes_in_as_it_is_and_comes_out_marked(box, data):
    code = "import sys\ndata = sys.stdin.buffer.read()\nsys.stderr.buffer.write(data)\n" + (
        "sys.stdout.write(data.hex())"
    )
    got = box.run(Job(code, data))
    assert got.status is OK
    assert got.stdout == data.hex()
    assert got.stderr == data.decode("utf-8", "replace")
    assert got.stderr_bytes == len(data)


def test_a_character_that_the_limit_cuts_is_marked(box):
    got = box.run(Job("print('é' * 10)", limits=Limits(output_bytes=5)))
    assert (got.status, got.stdout) == (OUTPUT_LIMIT, "éé\ufffd")


@pytest.mark.parametrize("filler", ["comment", "text", "lines"])
def test_a_program_of_a_megabyte(box, filler):
    size = 1_000_000
    code = {
        "comment": "#" * size + "\nprint(42)",
        "text": f"print(len('{'x' * size}') // {size} * 42)",
        "lines": "n = 0\n" + "n += 1\n" * (size // 7) + f"print(n // {size // 7} * 42)",
    }[filler]
    got = box.run(Job(code, limits=ROOM))
    assert (got.status, got.stdout) == (OK, "42\n")


@pytest.mark.parametrize("code", ["", "\n", " ", "# nothing", "'''nothing'''", "\ufeff"])
def test_a_program_of_nothing_does_nothing(box, code):
    got = box.run(Job(code, "input"))
    assert (got.status, got.stdout, got.stderr, got.exit_code) == (OK, "", "", 0)
    empty_call = box.run(Job(code, call=Call("solve")))
    assert (empty_call.status, empty_call.value) == (ERROR, None)


@pytest.mark.parametrize("count", [0, 1, 100_000, 1_000_000])
def test_arguments_and_values_of_any_length(box, count):
    numbers = list(range(count))
    code = "def solve(x, text):\n    return [x[::-1], len(text), text[::-1]]"
    text = "aé中👩" * (count // 4)
    got = box.run(Job(code, call=Call("solve", (numbers, text)), limits=ROOM))
    assert got.status is OK
    assert json.loads(got.value) == [numbers[::-1], len(text), text[::-1]]


def test_a_deep_argument_and_value(box):
    deep = []
    for _ in range(200):
        deep = [deep]
    got = box.run(Job("def solve(x):\n    return [x]", call=Call("solve", (deep,))))
    assert json.loads(got.value) == [deep]


@pytest.mark.parametrize("over", [-1, 0, 1, 70_000])
def test_the_output_limit_holds_for_values_too(box, over):
    limit = 100_000
    job = Job(
        f"def solve():\n    return 'x' * {limit + over - 2}",  # and two quotes
        call=Call("solve"),
        limits=Limits(output_bytes=limit),
    )
    for _ in range(10):  # a value that is cut must not be one of another length
        got = box.run(job)
        if over > 0:
            assert (got.status, got.value) == (OUTPUT_LIMIT, None)
        else:
            assert (got.status, got.value) == (OK, '"' + "x" * (limit + over - 2) + '"')


def test_a_number_that_the_limit_cuts_is_not_a_shorter_number(box):
    code = "import sys\nsys.set_int_max_str_digits(0)\ndef solve():\n    return 10 ** {}"
    limits = Limits(output_bytes=70_000)
    for digits in range(65_000, 140_000, 5_000):
        got = box.run(Job(code.format(digits - 1), call=Call("solve"), limits=limits))
        if digits <= 70_000:
            assert got.value == "1" + "0" * (digits - 1)
        else:
            assert (got.status, got.value) == (OUTPUT_LIMIT, None)


def test_a_cage_keeps_nothing_of_a_huge_job(box):
    box.run(Job(write("stdout", 50_000_000), "x" * 10_000_000, limits=ROOM))
    peaks = [box.run(Job("pass")).memory_bytes for _ in range(4)]
    assert max(peaks) < 40 * MIB


@pytest.mark.parametrize("name", [*vars(Limits())])
@pytest.mark.parametrize("value", [1e-9, 1, 10**12, 2**63, 1e300])
def test_extreme_limits_are_refused_at_once_or_obeyed(box, name, value):
    try:
        got = box.run(Job("print(input())", "fine", limits=Limits(**{name: value})))
    except ValueError as error:  # too much for everybody, or for the containers of this sandbox
        refusal = str(error)
    else:
        refusal = None
    stops = {"wall_seconds": "timeout", "cpu_seconds": "timeout", "output_bytes": "output_limit"}
    if refusal is not None:
        assert f"Limits.{name} m" in refusal
    elif value > 8:
        assert (got.status, got.stdout) == (OK, "fine\n")
    elif name in stops:
        assert got.status in (stops[name], OK)
    else:
        assert got.status in (OK, ERROR, ExecutionStatus.MEMORY)


def test_an_argument_of_many_digits(box):
    allowed = sys.get_int_max_str_digits()
    sys.set_int_max_str_digits(0)
    try:
        got = box.run(Job("def solve(x):\n    return x", call=Call("solve", (10**20_000,))))
    finally:
        sys.set_int_max_str_digits(allowed)
    assert got.value == "1" + "0" * 20_000
