"""Answers with known verdicts, in the form that `vpd judge` takes, made from stored data.

    python benchmarks/answers.py DATA_DIR OUT_DIR

Writes OUT_DIR/NAME.jsonl for each part of DATA_DIR that is there (code/*.jsonl, math/*.jsonl,
sciknoweval/, tooluse/), each line {"problem_id", "answer", "expected"}, and prints the command that
judges each file. All answers are what a model would write: programs in a code block, letters in
their tag, values in a box.
"""

from __future__ import annotations

import argparse
import json
import shlex
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

Row = dict[str, Any]
Answer = tuple[str, str, bool]  # problem id, answer, whether it solves the problem


@dataclass(frozen=True)
class Part:
    """A file or folder of the data, its environment, and how answers are made of its rows.

    options: further options of the command, such as the environment's.
    """

    path: str
    env: str
    answers: Callable[[Row], Iterator[Answer]]
    options: tuple[str, ...] = ()
    problems: str | None = None  # where the problems are, if elsewhere

    @property
    def name(self) -> str:
        return self.path.removesuffix(".jsonl").replace("/", "-")


def program(code: str) -> str:
    return f"Here is my solution.\n\n```python\n{code}\n```"


def solutions(row: Row) -> Iterator[Answer]:
    for solution in row["solutions"]:
        yield row["question_id"], program(solution["code"]), solution["expected_pass"]


def humanevalpack(row: Row) -> Iterator[Answer]:
    for kind in ("canonical", "buggy"):
        code = row["declaration"] + row[f"{kind}_solution"]
        yield row["task_id"], program(code), row[f"{kind}_passes"]


def humanevalplus(row: Row) -> Iterator[Answer]:
    yield row["task_id"], program(row["prompt"] + row["canonical_solution"]), True
    for solution in row["solutions"]:
        yield row["task_id"], program(solution["code"]), solution["expected_pass"]


def mbpp(row: Row) -> Iterator[Answer]:
    yield str(row["task_id"]), program(row["code"]), True


def science(row: Row) -> Iterator[Answer]:
    """The right letter, and every other one of A to D."""
    for letter in "ABCD":
        answer = f"<reasoning>\nIt follows.\n</reasoning>\n<answer>\n{letter}\n</answer>"
        yield f"{row['domain']}-{row['idx']}", answer, letter == row["answer"]


def tool_use(row: Row) -> Iterator[Answer]:
    """The stored calls; and, as a wrong answer, none of them but the first, twice."""
    calls = [
        f"Action: {call['Action'].removeprefix('[Optional]')}\nAction Input: {call['Action_Input']}"
        for call in json.loads(row["answer"])
    ]
    yield f"tooluse-{row['idx']}", "Thought: I look it up.\n" + "\n".join(calls), True
    yield f"tooluse-{row['idx']}", "\n".join(calls[:1] * (len(calls) + 1)), False


def boxed(row: Row) -> Iterator[Answer]:
    gold = row["answer"]
    golds = gold if isinstance(gold, list) else [gold]
    final = ", ".join(str(each).strip("$") for each in golds)
    yield str(row["id"]), rf"Step by step we find $\boxed{{{final}}}$.", True
    yield str(row["id"]), rf"Step by step we find $\boxed{{{final} + 1}}$.", False


def responses(row: Row) -> Iterator[Answer]:
    yield row["id"], row["response"], row["expected_correct"]


PARTS = (
    Part("code/livecodebench_rows.jsonl", "vpd/LiveCodeBench-v0", solutions),
    Part("code/judge_edge_cases.jsonl", "vpd/LiveCodeBench-v0", solutions),
    *(
        Part(
            f"code/codecontests_{name}.jsonl",
            "vpd/CodeContests-v0",
            solutions,
            # These programs' verdicts are those of a comparison with the stored output.
            ("--set", "multi_answer=include"),
        )
        for name in ("lcb_layout", "public_rows")
    ),
    Part("code/humanevalpack_python.jsonl", "vpd/HumanEval-v0", humanevalpack),
    Part(
        "code/humanevalplus_with_solutions.jsonl",
        "vpd/HumanEval-v0",
        humanevalplus,
        # HumanEval+ has up to 1,000 inputs a test, and some make lists of a million numbers.
        ("--set", "memory_limit_mb=2048", "time_limit_seconds=60"),
    ),
    Part("code/mbpp.jsonl", "vpd/MBPP-v0", mbpp),
    *(
        Part(f"math/{name}.jsonl", "vpd/Math-v0", boxed, ("--set", f"dataset={name}"))
        for name in ("math500", "gsm8k", "aime24", "amc23", "olympiadbench")
    ),
    Part(
        "math/gsm8k_responses.jsonl",
        "vpd/Math-v0",
        responses,
        ("--set", "dataset=gsm8k", "answer=marker", "answer_marker=A:"),
        problems="math/gsm8k.jsonl",
    ),
    *(
        Part(f"sciknoweval/{domain}/{split}.jsonl", "vpd/SciKnowEval-v0", science)
        for domain in ("biology", "chemistry", "material", "physics")
        for split in ("train", "test")
    ),
    Part("tooluse/test.jsonl", "vpd/ToolUse-v0", tool_use),
)


def main() -> int:
    parser = argparse.ArgumentParser(description="Makes answers with known verdicts.")
    parser.add_argument("data_dir", type=Path)
    parser.add_argument("out_dir", type=Path)
    options = parser.parse_args()
    found = [part for part in PARTS if (options.data_dir / part.path).is_file()]
    if not found:
        parser.error(f"{options.data_dir} has none of {', '.join(part.path for part in PARTS)}.")
    options.out_dir.mkdir(parents=True, exist_ok=True)
    for part in found:
        path = options.data_dir / part.path
        out = options.out_dir / f"{part.name}.jsonl"
        with path.open(encoding="utf-8") as rows, out.open("w", encoding="utf-8") as answers:
            for line in rows:
                for problem_id, answer, expected in part.answers(json.loads(line)):
                    answer_row = {"problem_id": problem_id, "answer": answer, "expected": expected}
                    answers.write(json.dumps(answer_row) + "\n")
        data = options.data_dir / (part.problems or part.path)
        command = ["vpd", "judge", "--env", part.env, "--data", str(data), *part.options]
        print(shlex.join([*command, "--answers", str(out), "--out", f"{out}.verdicts"]))
    return 0


if __name__ == "__main__":
    sys.exit(main())
