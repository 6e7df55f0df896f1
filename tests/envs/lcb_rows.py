"""Problems of our own in LiveCodeBench's layout. Run this file to write the fixture anew."""

import base64
import json
import pickle
import zlib
from pathlib import Path

FIXTURE = Path(__file__).parents[1] / "fixtures" / "problems.jsonl"


def row(id_, content, public, private=(), *, function=None, starter_code="", date="2025-01-05"):
    """One row; `private` is a list of (input, output) or an already encoded text."""
    kind = "functional" if function else "stdin"
    if not isinstance(private, str):
        private = json.dumps(listed(private, kind))
    return {
        "question_title": id_.replace("-", " ").title(),
        "question_content": content,
        "platform": "ours",
        "question_id": id_,
        "contest_id": "ours-1",
        "contest_date": f"{date}T00:00:00",
        "starter_code": starter_code,
        "difficulty": "easy",
        "public_test_cases": json.dumps(listed(public, kind)),
        "private_test_cases": private,
        "metadata": json.dumps({"func_name": function} if function else {}),
    }


def listed(pairs, kind):
    return [{"input": i, "output": o, "testtype": kind} for i, o in pairs]


def packed(text):
    """base64 of zlib of a pickle, as LiveCodeBench packs private tests."""
    return base64.b64encode(zlib.compress(pickle.dumps(text))).decode()


def packed_tests(pairs, kind):
    return packed(json.dumps(listed(pairs, kind)))


def write_rows(path, rows):
    path.write_text("".join(json.dumps(each) + "\n" for each in rows))
    return path


ROWS = [
    row(
        "plus-one",
        "Given an integer n, print n + 1.",
        [("1\n", "2\n"), ("41\n", "42\n")],
        [("-1\n", "0\n"), ("99999\n", "100000\n")],
    ),
    row(
        "mean",
        "The first line holds n, the second n integers. Print their mean with two decimals.",
        [("2\n1 2\n", "1.50\n")],
        packed_tests([("3\n1 1 1\n", "1.00\n"), ("4\n1 2 3 5\n", "2.75\n")], "stdin"),
        date="2025-02-01",
    ),
    row(
        "running-max",
        "Return for each position the largest number up to it.",
        [("[1, 3, 2]", "[1, 3, 3]")],
        packed_tests([("[]", "[]"), ("[5, 4, 7]", "[5, 5, 7]")], "functional"),
        function="runningMax",
        starter_code="class Solution:\n    def runningMax(self, nums: List[int]) -> List[int]:\n",
        date="2025-02-15",
    ),
    row(
        "in-order",
        "Return whether a <= b.",
        [("1\n2", "true"), ("3\n2", "false")],
        [("2\n2", "true")],
        function="inOrder",
        starter_code="class Solution:\n    def inOrder(self, a: int, b: int) -> bool:\n",
        date="2025-04-30",
    ),
    row(
        "reverse-lines",
        "Print the lines of the input in reverse order.",
        [("a\nb b\nc\n", "c\nb b\na\n")],
        [("x\n", "x\n")],
        date="2025-05-01",
    ),
    row(
        "count-words",
        "Print the number of words of the input. This problem has no private tests.",
        [("one two  three\n", "3\n"), ("\n", "0\n")],
        "",
        date="2024-12-31",
    ),
]

SOLUTIONS = {
    "plus-one": "print(int(input()) + 1)",
    "mean": "n = int(input())\nprint(f'{sum(map(int, input().split())) / n:.2f}')",
    "running-max": "class Solution:\n    def runningMax(self, nums: List[int]) -> List[int]:\n"
    "        return list(accumulate(nums, max))",
    "in-order": "def inOrder(a, b):\n    return a <= b",
    "reverse-lines": "import sys\nprint(*reversed(sys.stdin.read().splitlines()), sep='\\n')",
    "count-words": "import sys\nprint(len(sys.stdin.read().split()))",
}


def block(code):
    return f"Here is my answer.\n\n```python\n{code}\n```\n"


if __name__ == "__main__":
    write_rows(FIXTURE, ROWS)
