"""The agreement benchmark finds every verdict, and every wrong one, in files of our own making."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

AGREEMENT = Path(__file__).parents[2] / "benchmarks" / "agreement.py"


def run(folder, *options):
    command = [sys.executable, str(AGREEMENT), str(folder), "--sandbox", "local", *options]
    return subprocess.run(command, capture_output=True, text=True, timeout=120)


def write(folder, name, *rows):
    (folder / name).write_text("".join(json.dumps(row) + "\n" for row in rows))


def livecodebench_row(id_, tests, *solutions, function=None):
    kind = "functional" if function else "stdin"
    listed = [{"input": i, "output": o, "testtype": kind} for i, o in tests]
    return {
        "question_id": id_,
        "question_content": "?",
        "starter_code": "",
        "public_test_cases": json.dumps(listed[:1]),
        "private_test_cases": json.dumps(listed[1:]),
        "metadata": json.dumps({"func_name": function} if function else {}),
        "solutions": [
            {"origin": origin, "code": code, "expected_pass": passes, **more}
            for origin, code, passes, more in solutions
        ],
    }


PLUS_ONE = [("1\n", "2\n"), ("5\n", "6\n")]
ON_ONE_LINE = "print(1, 2)"


@pytest.fixture
def folder(tmp_path):
    """One program of each verdict in each layout: 18 programs."""
    write(
        tmp_path,
        "livecodebench_rows.jsonl",
        livecodebench_row(
            "plus-one",
            PLUS_ONE,
            ("right", "print(int(input()) + 1)", True, {}),
            ("decimals", "print(int(input()) + 1.0)", True, {}),
            ("wrong at 2", "print(2)", False, {}),
            ("raises", "print(1 / 0)", False, {}),
        ),
        livecodebench_row(
            "sort",
            [("[2, 1]", "[1, 2]"), ("[]", "[]")],
            ("right", "class Solution:\n    def sort(self, x): return sorted(x)", True, {}),
            ("wrong", "def sort(x): return x", False, {}),
            function="sort",
        ),
    )
    write(
        tmp_path,
        "codecontests_lcb_layout.jsonl",
        livecodebench_row(
            "two",
            [("", "1\n2\n")],
            ("by tokens", ON_ONE_LINE, True, {"comparison_needed": "token"}),
            ("by lines", ON_ONE_LINE, False, {"comparison_needed": "per-line whitespace"}),
            ("exactly", "print('1\\n2')", True, {"comparison_needed": "exact"}),
            ("exactly, but a space", "print('1 \\n2')", False, {"comparison_needed": "exact"}),
        ),
    )
    write(
        tmp_path,
        "humanevalpack_python.jsonl",
        {
            "task_id": "Half/0",
            "declaration": "def half(n):\n",
            "canonical_solution": "    return n // 2\n",
            "buggy_solution": "    return n / 2\n",
            "test": "def check(half):\n    assert half(5) == 2\n\ncheck(half)",
            "canonical_passes": True,
            "buggy_passes": False,
        },
    )
    write(
        tmp_path,
        "humanevalplus_with_solutions.jsonl",
        {
            "task_id": "Half/0",
            "prompt": 'def half(n):\n    """The half, rounded down."""\n',
            "entry_point": "half",
            "canonical_solution": "    return n // 2\n",
            "test": "def check(candidate):\n    assert candidate(5) == 2\n",
            "solutions": [
                {"origin": "wrong", "code": "def half(n): return n / 2", "expected_pass": False},
                {"origin": "exits", "code": "raise SystemExit(0)", "expected_pass": False},
            ],
        },
    )
    write(
        tmp_path,
        "mbpp.jsonl",
        {
            "task_id": 1,
            "code": "def pair(a, b):\r\n    return a, b",
            "test_list": ["assert pair(x, 2) == (1, 2)"],
            "challenge_test_list": ["assert pair(None, 'b') == (None, 'b')"],
            "test_setup_code": "x = 1",
        },
    )
    write(
        tmp_path,
        "quixbugs_python.jsonl",
        {
            "name": "count",
            "solution": "def count(n):\n    yield from range(n)",
            "buggy_program": "def count(n):\n    yield from range(n + 1)",
            "tests": "assert list(count(*[3])) == [0, 1, 2]",
            "solution_passes": True,
            "buggy_passes": False,
        },
    )
    return tmp_path


def test_every_program_is_judged_and_agrees(folder):
    write(folder, "multi_answer_codecontests.jsonl", {"anything": 1})
    write(folder, "something_new.jsonl", {"anything": 1})
    done = run(folder, "--json")
    assert done.returncode == 0, done.stdout + done.stderr
    report = json.loads(done.stdout)
    counts = {file["name"]: file["programs"] for file in report["files"]}
    assert counts == {
        "codecontests_lcb_layout.jsonl": 4,
        "humanevalpack_python.jsonl": 2,
        "humanevalplus_with_solutions.jsonl": 3,
        "livecodebench_rows.jsonl": 6,
        "mbpp.jsonl": 1,
        "quixbugs_python.jsonl": 2,
    }
    assert report["agree"] == report["programs"] == sum(counts.values()) == 18
    assert "several outputs are right" in report["left_out"]["multi_answer_codecontests.jsonl"]
    assert "unknown" in report["left_out"]["something_new.jsonl"]
    table = run(folder)
    assert table.returncode == 0
    assert "livecodebench_rows" in table.stdout
    assert "Left out: multi_answer_codecontests.jsonl" in table.stdout


def test_each_disagreement_is_listed_and_fails_the_command(folder):
    write(
        folder,
        "livecodebench_rows.jsonl",
        livecodebench_row(
            "plus-one",
            PLUS_ONE,
            ("mislabeled", "print(int(input()) + 1)", False, {}),
            ("wrong at 2", "print(2)", True, {}),
        ),
    )
    done = run(folder, "--json")
    assert done.returncode == 1
    report = json.loads(done.stdout)
    assert (report["programs"], report["agree"]) == (14, 12)
    (file,) = (file for file in report["files"] if file["disagreements"])
    right, wrong = file["disagreements"]
    assert right == {
        "id": "plus-one",
        "origin": "mislabeled",
        "expected": "fails",
        "actual": "passes",
        "first_failing_test": None,
        "detail": "",
    }
    assert (wrong["origin"], wrong["expected"]) == ("wrong at 2", "passes")
    assert (wrong["actual"], wrong["first_failing_test"]) == ("fails: wrong_answer", 2)
    assert "'2\\n', expected '6\\n'" in wrong["detail"]
    table = run(folder)
    assert table.returncode == 1
    assert (
        "plus-one (wrong at 2): expected passes, got fails: wrong_answer at test 2" in table.stdout
    )


@pytest.mark.parametrize(
    ("text", "options", "words"),
    [
        (None, [], "none of the files livecodebench_rows.jsonl"),
        ("", ["--sandbox", "cell"], "docker, bubblewrap, local"),
        ('{"task_id": 1}\n', [], "mbpp.jsonl: a row lacks the field 'test_list'"),
        ('{"task_id"', [], "mbpp.jsonl, line 1: expected JSON"),
    ],
)
def test_what_cannot_be_judged_is_a_usage_error(tmp_path, text, options, words):
    if text is not None:
        (tmp_path / "mbpp.jsonl").write_text(text)
    done = run(tmp_path, *options)
    assert done.returncode == 2
    assert words in done.stderr
