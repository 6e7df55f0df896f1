"""A job behaves as `python solution.py < input`: compared with exactly that, program by program."""

import ast
import functools
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from sandbox import ExecutionStatus, Job
from sandbox.docker import IMAGE
from sandbox.local import interpreter


def read_programs():
    """From programs.txt. Each begins with a line `### NAME` or `### NAME < INPUT`, INPUT quoted."""
    text = Path(__file__).with_name("programs.txt").read_text()
    for program in text.split("### ")[1:]:
        head, _, code = program.partition("\n")
        name, _, stdin = head.partition(" < ")
        yield name, ast.literal_eval(stdin or "''"), code.rstrip("\n")


PROGRAMS = [  # (name, standard input, program)
    ("empty", "", ""),
    ("carriage_returns", "", "x = 1\r\nprint(x)\r\n"),
    ("null_byte", "", "print(1)\0"),
    ("large_input", "7\n" * 200_000, "import sys\nprint(sum(map(int, sys.stdin)))"),
    *read_programs(),
]

DRIVER = """
import json, os, subprocess, sys, tempfile
from concurrent.futures import ThreadPoolExecutor

def result(program):
    name, text, code = program
    with tempfile.TemporaryDirectory() as directory:
        path = os.path.join(directory, "solution.py")
        with open(path, "wb") as file:
            file.write(code.encode("utf-8", "surrogatepass"))
        with tempfile.NamedTemporaryFile() as named:
            named.write(text.encode())
            named.flush()
            stdin = open(named.name, "rb")
            done = subprocess.run(
                [sys.executable, "solution.py"], cwd=directory, stdin=stdin, capture_output=True,
                env={
                    "LANG": "C.UTF-8", "PYTHONHASHSEED": "0", "PATH": "/usr/bin:/bin",
                    "PYTHONINTMAXSTRDIGITS": "50000",
                },
            )
    texts = [part.decode("utf-8", "replace") for part in (done.stdout, done.stderr)]
    return [done.returncode, *(text.replace(path, "solution.py") for text in texts)]

with ThreadPoolExecutor(4) as executor:
    print(json.dumps(list(executor.map(result, json.loads(sys.stdin.read())))))
"""


@functools.cache
def plain_results(python):
    """What plain CPython gives for every program: [exit code, stdout, stderr] by name."""
    done = subprocess.run(
        [*python, "-c", DRIVER],
        input=json.dumps(PROGRAMS),
        capture_output=True,
        text=True,
        check=True,
    )
    results = zip(PROGRAMS, json.loads(done.stdout), strict=True)
    return {name: result for (name, _, _), result in results}


@pytest.fixture
def plain(box):
    """Of the interpreter that the sandbox uses: for docker, the one of the image."""
    if box.name == "docker":
        return plain_results(("docker", "run", "--rm", "-i", "--network=none", IMAGE, "python3"))
    return plain_results((interpreter(),))


@pytest.mark.parametrize(("name", "stdin", "code"), PROGRAMS, ids=[p[0] for p in PROGRAMS])
def test_a_job_behaves_as_plain_python(box, plain, name, stdin, code):
    got = box.run(Job(code, stdin))
    code = got.exit_code if got.signal is None else -got.signal
    expected_code, stdout, stderr = plain[name]
    assert code == expected_code
    assert scrubbed(got.stdout) == scrubbed(stdout)
    assert scrubbed(without_note(got.stderr)) == scrubbed(stderr)
    assert got.status is status_of(expected_code)


def without_note(stderr):
    """Of a module that is no part of the judge."""
    return re.sub(r"\(\w+ is not part of the judge: .*\)\n", "", stderr)


def status_of(code):
    if code == 0:
        return ExecutionStatus.OK
    return ExecutionStatus.ERROR if code > 0 else ExecutionStatus.CRASH


def scrubbed(text):
    """Without what differs from run to run anyway: places, addresses, thread numbers, durations."""
    text = re.sub(r"/tmp/[\w/.-]+/(\w+\.py)", r"\1", text)
    return re.sub(r"0x[0-9a-f]{6,}|\b\d{12,}\b|\d+\.\d+s\b", "…", text)


def test_unseeded_random_numbers_differ_between_jobs(box):
    job = Job("import random\nprint(random.random(), random.getrandbits(64))")
    assert len({box.run(job).stdout for _ in range(4)}) == 4


def test_the_interpreter_is_the_one_that_runs_us(box):
    if box.name == "docker":
        pytest.skip("an image has its own")
    assert box.run(Job("import sys\nprint(sys.version)")).stdout.strip() == sys.version


def test_packages_of_the_image_are_there(box):
    if box.name != "docker":
        pytest.skip("only the image promises packages")
    code = "import numpy, sortedcontainers\nprint(numpy.arange(4) @ numpy.arange(4))"
    assert box.run(Job(code)).stdout == "14\n"
