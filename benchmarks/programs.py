"""What judge.py has judged: programs with tests and a known verdict."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Program:
    """
    tests: (input, expected output) of each. With a function, the input holds its arguments, one
        JSON value per line, and the output is JSON, too.
    passes: the known verdict: whether the program passes all tests in plain CPython.
    rule: the comparison of sandbox.comparison that the problem asks for; judges that bring their
        own comparison use that.
    """

    name: str
    code: str
    tests: tuple[tuple[str, str], ...]
    passes: bool
    function: str | None = None
    rule: str = "lines"


def load(path: Path) -> tuple[list[Program], list[str]]:
    """The stored programs of a file in LiveCodeBench's layout, and the names of those left out.

    Each row has, besides LiveCodeBench's fields, `solutions`: objects with `code`, `expected_pass`
    and optionally `verdict` and `comparison_needed`. Left out are those whose verdict is that they
    run out of time: every judge would just wait, all for the same time.

    Raises:
        ValueError: the file is not of that kind.
    """
    # Every contestant's process imports this module, and some fork: keep it light.
    from vpd_envs.code.livecodebench import LiveCodeBench

    problems = LiveCodeBench(path)
    programs, left_out = [], []
    for number, line in enumerate(path.read_text().splitlines(), start=1):
        row = json.loads(line)
        solutions = row.get("solutions")
        if not solutions:
            raise ValueError(
                f"{path}, line {number}: expected 'solutions' with 'code' and 'expected_pass', "
                f"came {sorted(row)}. Name another file with --data."
            )
        problem = problems.problem(row["question_id"])
        tests = tuple((test.input, test.expected) for test in problems.tests(problem))
        for index, solution in enumerate(solutions):
            name = f"{problem.id}#{index}"
            if solution.get("verdict") == "time_limit":
                left_out.append(name)
                continue
            programs.append(
                Program(
                    name,
                    solution["code"],
                    tests,
                    solution["expected_pass"],
                    json.loads(row["metadata"] or "{}").get("func_name"),
                    "whitespace" if solution.get("comparison_needed") == "token" else "lines",
                )
            )
    return programs, left_out


TINY = Program("tiny", "print(int(input())+1)\n", (("41\n", "42\n"),), True)

# Shortest ways from one town to all others: heaps, dictionaries, functions, a main guard.
CONTEST_CODE = """
import sys
from collections import Counter, defaultdict
from heapq import heappop, heappush


def shortest(graph, source, count):
    distances = [-1] * count
    queue = [(0, source)]
    while queue:
        distance, node = heappop(queue)
        if distances[node] >= 0:
            continue
        distances[node] = distance
        for neighbor, weight in graph[node]:
            if distances[neighbor] < 0:
                heappush(queue, (distance + weight, neighbor))
    return distances


def main():
    lines = sys.stdin.read().split("\\n")
    count, roads = map(int, lines[0].split())
    graph = defaultdict(list)
    for line in lines[1 : roads + 1]:
        a, b, weight = map(int, line.split())
        graph[a - 1].append((b - 1, weight))
        graph[b - 1].append((a - 1, weight))
    distances = shortest(graph, 0, count)
    print(*distances)
    common, times = max(Counter(distances).items(), key=lambda item: (item[1], -item[0]))
    print(common, times)


if __name__ == "__main__":
    main()
"""


def _roads(count: int) -> tuple[str, str]:
    """A ring of `count` towns whose roads are all 1 long, so that distances are known."""
    lines = [f"{town} {town % count + 1} 1" for town in range(1, count + 1)]
    distances = [min(town, count - town) for town in range(count)]
    common = min(distances, key=lambda distance: (-distances.count(distance), distance))
    output = f"{' '.join(map(str, distances))}\n{common} {distances.count(common)}\n"
    return f"{count} {count}\n" + "\n".join(lines) + "\n", output


CONTEST = Program("contest", CONTEST_CODE, (_roads(12),), True)
TWENTY_RIGHT = Program("twenty right", CONTEST_CODE, tuple(map(_roads, range(5, 25))), True)
TWENTY_WRONG = Program(
    "twenty wrong",
    CONTEST_CODE.replace("print(*distances)", "print(*distances, 0)"),
    TWENTY_RIGHT.tests,
    False,
)


def built_in() -> list[Program]:
    """Twenty small programs for ten problems, so that the benchmark runs without any data."""
    programs = []
    for name, solve, inputs, *codes in PROBLEMS:
        tests = tuple((text, solve(*text.split("\n"))) for text in inputs)
        for index, (code, passes) in enumerate(codes):
            programs.append(Program(f"{name}#{index}", code, tests, passes))
    for name, solve, arguments, *codes in FUNCTIONS:
        tests = tuple(
            ("\n".join(map(json.dumps, values)), json.dumps(solve(*values))) for values in arguments
        )
        for index, (code, passes) in enumerate(codes):
            programs.append(Program(f"{name}#{index}", code, tests, passes, function=name))
    return programs


def _numbers(line: str) -> list[int]:
    return list(map(int, line.split()))


def _fibonacci(n: int) -> int:
    a, b = 0, 1
    for _ in range(n):
        a, b = b, a + b
    return a


# Each: name, the reference from lines of input to output, inputs, and (code, passes) pairs.
PROBLEMS: list[tuple[Any, ...]] = [
    (
        "sum",
        lambda n, line: str(sum(_numbers(line))),
        ["3\n1 2 3", "1\n-5", "5\n10 20 30 40 50"],
        ("input()\nprint(sum(map(int, input().split())))\n", True),
        ("input()\nprint(max(map(int, input().split())))\n", False),
    ),
    (
        "primes",
        lambda n: str(sum(all(k % d for d in range(2, k)) for k in range(2, int(n) + 1))),
        ["1", "10", "97", "300"],
        (
            "n = int(input())\nsieve = [True] * (n + 1)\ncount = 0\nfor k in range(2, n + 1):\n"
            "    if sieve[k]:\n        count += 1\n"
            "        for m in range(k * k, n + 1, k):\n            sieve[m] = False\n"
            "print(count)\n",
            True,
        ),
        ("n = int(input())\nprint(len([k for k in range(2, n) if k % 2 or k == 2]))\n", False),
    ),
    (
        "words",
        lambda text: "\n".join(sorted(set(text.split()), key=lambda word: (len(word), word))),
        ["the cat saw the dog", "a", "pear fig apple fig kiwi"],
        (
            "words = sorted(set(input().split()))\nwords.sort(key=len)\n"
            "for word in words:\n    print(word)\n",
            True,
        ),
        ("print(*sorted(set(input().split())), sep='\\n')\n", False),
    ),
    (
        "mean",
        lambda line: str(sum(_numbers(line)) / len(_numbers(line))),
        ["1 2", "3 3 3 3", "1 2 4 1"],
        ("numbers = list(map(int, input().split()))\nprint(sum(numbers) / len(numbers))\n", True),
        ("numbers = list(map(int, input().split()))\nprint(sum(numbers) // len(numbers))\n", False),
    ),
    (
        "brackets",
        lambda text: "YES" if _balanced(text) else "NO",
        ["()()", "(()", ")(", "((()))()"],
        (
            "depth = 0\nfor c in input():\n    depth += 1 if c == '(' else -1\n"
            "    if depth < 0:\n        print('NO')\n        break\n"
            "else:\n    print('NO' if depth else 'YES')\n",
            True,
        ),
        ("text = input()\nprint('YES' if text.count('(') == text.count(')') else 'NO')\n", False),
    ),
    (
        "fibonacci",
        lambda n: str(_fibonacci(int(n))),
        ["0", "10", "90"],
        (
            "from functools import lru_cache\n\n\n@lru_cache(None)\ndef f(n):\n"
            "    return n if n < 2 else f(n - 1) + f(n - 2)\n\n\nprint(f(int(input())))\n",
            True,
        ),
        ("numbers = [0, 1]\nprint(numbers[int(input())])\n", False),
    ),
    (
        "rotate",
        lambda k, line: " ".join(line.split()[int(k) :] + line.split()[: int(k)]),
        ["1\na b c", "0\nx y", "2\n1 2 3 4 5"],
        (
            "from collections import deque\nk = int(input())\nd = deque(input().split())\n"
            "d.rotate(-k)\nprint(*d)\n",
            True,
        ),
        ("k = int(input())\nwords = input().split()\nprint(*words[:k], *words[k:])\n", False),
    ),
]

# Each: the function's name, the reference, lists of arguments, and (code, passes) pairs.
FUNCTIONS: list[tuple[str, Callable[..., Any], list[tuple[Any, ...]], Any, Any]] = [
    (
        "twoSum",
        lambda nums, target: next(
            [i, j]
            for i in range(len(nums))
            for j in range(i + 1, len(nums))
            if nums[i] + nums[j] == target
        ),
        [([2, 7, 11, 15], 9), ([3, 2, 4], 6)],
        (
            "class Solution:\n"
            "    def twoSum(self, nums: List[int], target: int) -> List[int]:\n"
            "        seen = {}\n        for i, n in enumerate(nums):\n"
            "            if target - n in seen:\n                return [seen[target - n], i]\n"
            "            seen[n] = i\n",
            True,
        ),
        (
            "class Solution:\n"
            "    def twoSum(self, nums: List[int], target: int) -> List[int]:\n"
            "        return [0, 1]\n",
            False,
        ),
    ),
    (
        "isPalindrome",
        lambda s: s == s[::-1],
        [("abba",), ("abc",), ("a",)],
        (
            "class Solution:\n    def isPalindrome(self, s: str) -> bool:\n"
            "        return all(s[i] == s[-1 - i] for i in range(len(s) // 2))\n",
            True,
        ),
        (
            "class Solution:\n    def isPalindrome(self, s: str) -> bool:\n"
            "        return s[0] == s[-2]\n",
            False,
        ),
    ),
    (
        "topK",
        lambda nums, k: sorted(nums, reverse=True)[:k],
        [([5, 1, 9, 3], 2), ([1], 1)],
        (
            "class Solution:\n    def topK(self, nums: List[int], k: int) -> List[int]:\n"
            "        return heapq.nlargest(k, nums)\n",
            True,
        ),
        (
            "class Solution:\n    def topK(self, nums: List[int], k: int) -> List[int]:\n"
            "        return sorted(nums)[:k]\n",
            False,
        ),
    ),
]


def _balanced(text: str) -> bool:
    while "()" in text:
        text = text.replace("()", "")
    return not text
