"""Does the judge agree with verdicts that plain CPython gave? One command, no exceptions.

    python benchmarks/agreement.py DATA_DIR [--sandbox NAME] [--json]

Judges every program with a known verdict in the JSON-lines files of DATA_DIR, each with the
comparison that its file asks for, and lists every disagreement. The files and their fields are
those that FILES and LEFT_OUT below name; a file of another name is reported as unknown.

Exit code: 0 if every program got its verdict, 1 if one did not, 2 if the files or the sandbox do
not allow to judge (as without numpy, which HumanEval+ needs in the sandbox).
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

import sandbox
from sandbox.comparison import rule
from sandbox.judge import AssertTest, Judgment, Test, judge_many
from vpd_envs.code.cases import ProgramCase
from vpd_envs.code.livecodebench import LiveCodeBench

# What `comparison_needed` says, as rules. A program without it asks for LiveCodeBench's own.
COMPARISONS = {
    None: "lines",
    "exact": "exact",
    "per-line whitespace": "lines",
    "token": "whitespace",
    "whitespace": "whitespace",
}
LIMITS = sandbox.Limits(wall_seconds=8.0)  # what the verdicts were measured with
# HumanEval+ has up to 1,000 inputs a test, and some make lists of a million numbers.
LONG_LIMITS = sandbox.Limits(wall_seconds=60.0, memory_bytes=2048 * sandbox.MIB)


@dataclass(frozen=True)
class Case:
    """A program and what is known about it."""

    id: str
    origin: str
    code: str
    tests: tuple[Test, ...]
    passes: bool


def livecodebench_layout(path: Path) -> Iterator[Case]:
    """Programs with `expected_pass` under `solutions`, tests in LiveCodeBench's fields."""
    env = LiveCodeBench(path)
    for row in json_lines(path):
        tests = env.tests(env.problem(row["question_id"]))
        for solution in row["solutions"]:
            compare = rule(COMPARISONS[solution.get("comparison_needed")])
            yield Case(
                row["question_id"],
                solution["origin"],
                solution["code"],
                tuple(
                    dataclasses.replace(case, rule=compare)
                    if isinstance(case, ProgramCase)
                    else case
                    for case in tests
                ),
                solution["expected_pass"],
            )


def humanevalpack(path: Path) -> Iterator[Case]:
    """The canonical and the buggy solution of a function; `test` calls its own check."""
    for row in json_lines(path):
        tests = (AssertTest(row["test"]),)
        for kind in ("canonical", "buggy"):
            code = row["declaration"] + row[f"{kind}_solution"]
            yield Case(row["task_id"], kind, code, tests, row[f"{kind}_passes"])


def humanevalplus(path: Path) -> Iterator[Case]:
    """Models' programs, and the canonical solution; `test` defines a check that nobody calls."""
    for row in json_lines(path):
        name = row["entry_point"]
        tests = (AssertTest(f"{row['test']}\ncheck({name})", functions=(name,)),)
        canonical = row["prompt"] + row["canonical_solution"]
        yield Case(row["task_id"], "canonical", canonical, tests, True)
        for solution in row["solutions"]:
            yield Case(
                row["task_id"],
                solution["origin"],
                solution["code"],
                tests,
                solution["expected_pass"],
            )


def mbpp(path: Path) -> Iterator[Case]:
    """The reference code, which passes its `test_list` (and `challenge_test_list`)."""
    for row in json_lines(path):
        asserts = row["test_list"] + row["challenge_test_list"]
        tests = (AssertTest("\n".join([row["test_setup_code"], *asserts])),)
        yield Case(str(row["task_id"]), "reference", row["code"], tests, True)


def quixbugs(path: Path) -> Iterator[Case]:
    """The correct and the buggy program of an algorithm."""
    for row in json_lines(path):
        tests = (AssertTest(row["tests"], functions=(row["name"],)),)
        yield Case(row["name"], "correct", row["solution"], tests, row["solution_passes"])
        yield Case(row["name"], "buggy", row["buggy_program"], tests, row["buggy_passes"])


FILES: dict[str, tuple[Callable[[Path], Iterator[Case]], sandbox.Limits]] = {
    "livecodebench_rows.jsonl": (livecodebench_layout, LIMITS),
    "codecontests_lcb_layout.jsonl": (livecodebench_layout, LIMITS),
    "codecontests_public_rows.jsonl": (livecodebench_layout, LIMITS),
    "judge_edge_cases.jsonl": (livecodebench_layout, LIMITS),
    "humanevalpack_python.jsonl": (humanevalpack, LIMITS),
    "humanevalplus_with_solutions.jsonl": (humanevalplus, LONG_LIMITS),
    "mbpp.jsonl": (mbpp, LIMITS),
    "quixbugs_python.jsonl": (quixbugs, LIMITS),
}
SEVERAL_ANSWERS = "several outputs are right, and there is no checker to tell"
LEFT_OUT = {
    "codecontests_sandboxfusion.jsonl": "it has no solutions",
    "multi_answer_codecontests.jsonl": SEVERAL_ANSWERS,
    "multi_answer_codeforces.jsonl": SEVERAL_ANSWERS,
}


@dataclass
class FileReport:
    name: str
    programs: int = 0
    agree: int = 0
    tests_run: int = 0
    seconds: float = 0.0
    disagreements: list[dict[str, Any]] = dataclasses.field(default_factory=list)


def main() -> int:
    parser = argparse.ArgumentParser(
        description="Judges stored programs and compares with their known verdicts."
    )
    parser.add_argument("data_dir", type=Path, help="a folder with the files to judge")
    parser.add_argument("--sandbox", default="auto", help="auto, docker, bubblewrap or local")
    parser.add_argument("--json", action="store_true", help="one JSON object instead of tables")
    arguments = parser.parse_args()
    paths = sorted(arguments.data_dir.glob("*.jsonl"))
    known = [path for path in paths if path.name in FILES]
    if not known:
        parser.error(f"{arguments.data_dir} has none of the files {', '.join(FILES)}.")
    try:
        cases = {path: cases_of(path) for path in known}
        with sandbox.make(arguments.sandbox) as box:
            reports = judged_files(box, cases)
    except (ValueError, sandbox.SandboxError) as error:
        parser.error(str(error))
    left_out = {
        path.name: LEFT_OUT.get(path.name, "its layout is unknown")
        for path in paths
        if path not in known
    }
    if arguments.json:
        print(json.dumps(as_json(box.name, reports, left_out), indent=1))
    else:
        show(box.name, reports, left_out)
    return 1 if any(report.disagreements for report in reports) else 0


def cases_of(path: Path) -> list[Case]:
    layout = FILES[path.name][0]
    try:
        return list(layout(path))
    except KeyError as error:
        raise ValueError(
            f"{path}: a row lacks the field {error}. Expected: {layout.__doc__}"
        ) from error


def judged_files(box: sandbox.Sandbox, cases: dict[Path, list[Case]]) -> list[FileReport]:
    columns = (TextColumn("{task.description:34}"), BarColumn(), MofNCompleteColumn())
    with Progress(
        *columns, TimeRemainingColumn(), console=Console(stderr=True), transient=True
    ) as progress:
        bar = progress.add_task("", total=sum(map(len, cases.values())))
        reports = []
        for path in cases:
            progress.update(bar, description=path.name)
            reports.append(FileReport(path.name))
            started = time.perf_counter()
            programs = ((case.code, case.tests) for case in cases[path])
            judgments = judge_many(box, programs, limits=FILES[path.name][1])
            for case, judgment in zip(cases[path], judgments, strict=True):
                count(reports[-1], case, judgment)
                progress.advance(bar)
            reports[-1].seconds = time.perf_counter() - started
    return reports


def count(report: FileReport, case: Case, judgment: Judgment) -> None:
    report.programs += 1
    report.tests_run += len(judgment.results)
    if judgment.failure is None and judgment.passed is case.passes:
        report.agree += 1
        return
    failed = judgment.first_failed
    report.disagreements.append(
        {
            "id": case.id,
            "origin": case.origin,
            "expected": "passes" if case.passes else "fails",
            "actual": verdict(judgment),
            "first_failing_test": failed.number if failed else None,
            "detail": detail(case, judgment),
        }
    )


def verdict(judgment: Judgment) -> str:
    if judgment.failure is not None:
        return "no verdict"
    return "passes" if judgment.passed else f"fails: {judgment.first_failed.outcome.value}"


def detail(case: Case, judgment: Judgment) -> str:
    """Why, in a line."""
    if judgment.failure is not None:
        return str(judgment.failure)
    failed = judgment.first_failed
    if failed is None:
        return ""
    test = case.tests[failed.number - 1]
    if isinstance(test, AssertTest):
        text = test.failure(failed.execution) or failed.execution.stderr
    elif failed.execution.stderr:
        text = failed.execution.stderr
    else:
        text = f"{test.output(failed.execution)[:80]!r}, expected {test.expected[:80]!r}"
    return " | ".join(text.strip().splitlines()[-3:])


def show(box_name: str, reports: list[FileReport], left_out: dict[str, str]) -> None:
    console = Console()
    table = Table(title=f"Agreement with known verdicts, sandbox {box_name}")
    table.add_column("file")
    for name in ("programs", "agree", "disagree", "tests", "seconds"):
        table.add_column(name, justify="right")
    for report in [*reports, total(reports)]:
        numbers = (report.programs, report.agree, len(report.disagreements), report.tests_run)
        name = report.name.removesuffix(".jsonl")
        table.add_row(name, *map(str, numbers), f"{report.seconds:.1f}")
    table.rows[-2].end_section = True
    console.print(table)
    for name, reason in left_out.items():
        console.print(f"Left out: {name}: {reason}.", highlight=False, soft_wrap=True)
    for report in reports:
        for each in report.disagreements:
            test = each["first_failing_test"]
            console.print(
                f"{report.name} {each['id']} ({each['origin']}): expected {each['expected']}, "
                f"got {each['actual']}{f' at test {test}' if test else ''}. {each['detail']}",
                markup=False,
                highlight=False,
                soft_wrap=True,
            )


def total(reports: list[FileReport]) -> FileReport:
    together = FileReport("all")
    for report in reports:
        together.programs += report.programs
        together.agree += report.agree
        together.tests_run += report.tests_run
        together.seconds += report.seconds
        together.disagreements += report.disagreements
    return together


def as_json(box_name: str, reports: list[FileReport], left_out: dict[str, str]) -> dict[str, Any]:
    return {
        "sandbox": box_name,
        "files": [dataclasses.asdict(report) for report in reports],
        "programs": sum(report.programs for report in reports),
        "agree": sum(report.agree for report in reports),
        "left_out": left_out,
    }


def json_lines(path: Path) -> Iterator[dict[str, Any]]:
    with path.open(encoding="utf-8") as file:
        for number, line in enumerate(file, start=1):
            try:
                yield json.loads(line)
            except ValueError as error:
                raise ValueError(f"{path}, line {number}: expected JSON, but {error}.") from error


if __name__ == "__main__":
    sys.exit(main())
