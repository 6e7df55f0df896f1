"""Problems of our own in the layouts of CodeContests, HumanEval and MBPP.

Run this file to write the fixtures anew.
"""

from pathlib import Path

from lcb_rows import write_rows

FIXTURES = Path(__file__).parents[1] / "fixtures"


def contest_row(name, description, public, private=(), generated=(), **more):
    """One row in DeepMind's layout; tests are lists of (input, output)."""
    return {
        "name": name,
        "description": description,
        "public_tests": columns(public),
        "private_tests": columns(private),
        "generated_tests": columns(generated),
        "source": 2,
        "difficulty": 7,
        "time_limit": {"seconds": 1, "nanos": 500_000_000},
        "memory_limit_bytes": 256_000_000,
        "input_file": "",
        "output_file": "",
        "is_description_translated": False,
        "solutions": {"language": [], "solution": []},
    } | more


def columns(pairs):
    return {"input": [i for i, _ in pairs], "output": [o for _, o in pairs]}


CONTEST_ROWS = [
    contest_row(
        "1_A. Doubling",
        "Given an integer n, print 2n.",
        [("1\n", "2\n")],
        [("21\n", "42\n")],
        [("-3\n", "-6\n"), ("0\n", "0\n")],
    ),
    contest_row(
        "1_B. Parity",
        "Print YES if n is even, else NO. You can print each letter in any case.",
        [("4\n", "YES\n")],
        [("7\n", "NO\n")],
    ),
    contest_row(
        "1_C. Root",
        "Print the square root of n. Your answer is considered correct if its absolute or relative "
        "error doesn't exceed 10^{-4}.",
        [("4\n", "2.000000\n")],
        [("2\n", "1.414213562\n")],
    ),
    contest_row(
        "1_D. Summands",
        "Print two positive integers whose sum is n. If there are multiple answers, print any.",
        [("5\n", "1 4\n")],
    ),
    contest_row("1_E. Lines", "Copy the file.", [("a\n", "a\n")], input_file="in.txt"),
]
CONTEST_SOLUTIONS = {
    "1_A. Doubling": "print(2 * int(input()))",
    "1_B. Parity": "print('No' if int(input()) % 2 else 'yEs')",
    "1_C. Root": "print(f'{int(input()) ** 0.5:.4f}')",
}

HUMANEVAL_ROWS = [
    {
        "task_id": "Ours/0",
        "entry_point": "add_up",
        "prompt": "from typing import List\n\n\n"
        "def add_up(numbers: List[int], start: int = 0) -> int:"
        '\n    """Add up the numbers, from start on.\n    >>> add_up([1, 2])\n    3\n    """\n',
        "canonical_solution": "    return sum(numbers, start)\n",
        "test": "\n\nMETADATA = {}\n\n\ndef check(candidate):\n"
        "    assert candidate([1, 2]) == 3\n"
        "    assert candidate([], 5) == 5\n"
        '    assert candidate([4, 4]) == 8, "twice the same"\n',
    },
    {
        "task_id": "Ours/1",
        "entry_point": "shift_back",
        "prompt": 'def shift(text: str):\n    """The letters, each moved by one."""\n'
        '    return "".join(chr(ord(c) + 1) for c in text)\n\n\n'
        'def shift_back(text: str):\n    """Undo shift."""\n',
        "canonical_solution": '    return "".join(chr(ord(c) - 1) for c in text)\n',
        "test": "def check(candidate):\n    for text in ['abc', '', 'z']:\n"
        "        assert candidate(shift(text)) == text\n",
    },
    {
        "task_id": "Ours/2",
        "entry_point": "is_small",
        "prompt": "def is_small(n):\n"
        '    """Whether n is below 10: is_small(3) should be True."""\n',
        "canonical_solution": "    return n < 10\n",
        "test": "def check(is_small):\n    assert is_small(3) is True\n"
        "    assert is_small(10) == False\n\ncheck(is_small)\n",
    },
]
HUMANEVAL_SOLUTIONS = {
    row["task_id"]: row["prompt"] + row["canonical_solution"] for row in HUMANEVAL_ROWS
}

QUIXBUGS_ROW = {
    "name": "reverse",
    "docstring": '"""\nReverse\n\nReverses a linked list.\n\nExample:\n    >>> reverse(None)\n"""',
    "solution": "import itertools\ndef reverse(node):\n    last = None\n    while node:\n"
    "        node.next, last, node = last, node, node.next\n    return last\n",
    "buggy_program": "import itertools\ndef reverse(node):\n    last = None\n    while node:\n"
    "        node.next, node = last, node.next\n    return last\n",
    "tests": "class Node:\n    def __init__(self, value, next=None):\n"
    "        self.value = value\n        self.next = next\n\n"
    "def test1():\n    second = Node(2)\n    first = Node(1, second)\n"
    "    assert reverse(first) == second\n    assert second.next == first\n\n"
    "def test2():\n    assert reverse(None) is None\n\ntest1()\ntest2()\n",
}

MBPP_ROWS = [
    {
        "task_id": 1,
        "text": "Write a function to double a number.",
        "code": "def double(n):\r\n    return 2 * n",
        "test_list": ["assert double(2) == 4", "assert double(0) == 0", "assert double(-1) == -2"],
        "test_setup_code": "",
        "challenge_test_list": ["assert double(10**30) == 2 * 10**30"],
    },
    {
        "task_id": 2,
        "prompt": "Write a function to halve a number.",
        "code": "def halve(n):\n    return n / 2",
        "test_list": ["assert math.isclose(halve(3), 1.5)", "assert math.isclose(halve(1), 0.5)"],
        "test_imports": ["import math"],
    },
    {
        "task_id": 3,
        "text": "Write a function to add the coordinates of a Pair.",
        "code": "class Pair:\n    def __init__(self, x, y):\n        self.x, self.y = x, y\n"
        "def origin():\n    return Pair(0, 0)\n"
        "def total(pair):\n    return pair.x + pair.y",
        "test_list": ["assert total(origin()) == 0", "assert total(Pair(1, 2)) == 3"],
        "test_setup_code": "",
        "challenge_test_list": [],
    },
]
MBPP_SOLUTIONS = {str(row["task_id"]): row["code"] for row in MBPP_ROWS}

FILES = {
    "code_contests": CONTEST_ROWS,
    "humaneval": HUMANEVAL_ROWS,
    "mbpp": MBPP_ROWS,
}


if __name__ == "__main__":
    for name, rows in FILES.items():
        write_rows(FIXTURES / f"{name}.jsonl", rows)
