"""LiveCodeBench: competition problems with their dates, as programs (stdin) or functions.

Loads the rows of `livecodebench/code_generation_lite`, from files in its layout or from the hub.
"""

from __future__ import annotations

import base64
import dataclasses
import pickletools
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache
from pathlib import Path
from typing import Any

from sandbox import MIB, Limits
from sandbox.comparison import Checker, Floats, Json, Rule
from sandbox.judge import JSON, LINES
from vpd_envs.checks import check_positive
from vpd_envs.code.cases import FunctionCase, ProgramCase
from vpd_envs.code.contest_rules import Checkers, Rules, rule_name
from vpd_envs.code.environment import CodeEnv, answer_format
from vpd_envs.data.files import DataOptions, Hub, Row, hub_folder, load_problems, parsed, text_field
from vpd_envs.dataset_env import DatasetEnv
from vpd_envs.types import Problem

AnyCase = ProgramCase | FunctionCase

HUB = Hub("livecodebench/code_generation_lite")
# What each release adds; a release is its file and all before it.
FILES = {
    "release_v1": "test.jsonl",  # 400 problems
    "release_v2": "test2.jsonl",  # 511 with those before
    "release_v3": "test3.jsonl",  # 612
    "release_v4": "test4.jsonl",  # 713
    "release_v5": "test5.jsonl",  # 880
    "release_v6": "test6.jsonl",  # 1055
}
LAYOUT = "a LiveCodeBench row"
TEXTS = ("starter_code", "public_test_cases", "private_test_cases", "metadata")  # may be empty
SHOWN_FIELDS = ("question_title", "platform", "contest_id", "contest_date", "difficulty")
CHECKED_AT_ONCE = 1 << 18  # characters; longer private tests are decoded when first needed

PROGRAM_FORMAT = (
    "Write a Python program that solves the problem: it reads the input from stdin and writes the "
    "answer to stdout."
)
FUNCTION_FORMAT = (
    "Complete this starter code in Python. The usual imports of LeetCode (typing, collections, "
    "heapq, math, ...) are in place.\n\n```python\n{starter_code}\n```"
)
CALL_FORMAT = "Write a Python function `{function}` that solves the problem."


class LiveCodeBench(DatasetEnv, CodeEnv):
    """`vpd/LiveCodeBench-v0`.

    data, hub, revision, split, test_fraction, max_problems: see `vpd_envs.data.files`. None loads
        the files test.jsonl to test6.jsonl of the hub (several GB), as many as `release` has.
    release: "release_v1" to "release_v6", each with the problems of those before it; of the hub, or
        of a folder with files of the hub's names. None: all there is.
    start_date, end_date: only problems with start_date <= contest_date < end_date (ISO dates). The
        "v6" of the self-distillation papers is 2025-02-01 to 2025-05-01: 131 problems.
    max_decompressed_mb: larger compressed tests of one problem are refused.
    checkers, comparison: see `vpd_envs.code.contest_rules`. By default as LiveCodeBench does it:
        outputs of programs line by line, as decimals where the texts differ ("lines"), without any
        tolerance; and where several outputs are right, only the stored one is.
    The others are those of `CodeEnv`, `SandboxedEnv` and `TextEnv`.

    Values of functions are compared as JSON, with the tolerance of `comparison`, if it has one.
    """

    def __init__(
        self,
        data: str | Path | None = None,
        *,
        release: str | None = None,
        start_date: str | None = None,
        end_date: str | None = None,
        max_decompressed_mb: float = 512,
        checkers: Checkers | None = None,
        comparison: str | Rule = "lines",
        **options: Any,
    ) -> None:
        check_positive(max_decompressed_mb=max_decompressed_mb)
        self.release = release
        self._files = _files_of(release)
        self._window = _window(start_date, end_date)
        self._max_bytes = int(max_decompressed_mb * MIB)
        self._rules = Rules(checkers, comparison)
        super().__init__(data, **options)

    def load(self, options: DataOptions) -> list[Problem]:
        if options.data is None:
            folder = hub_folder(options.source(HUB), self._files)
            options = dataclasses.replace(options, data=folder)
        elif self.release is not None:
            _check_release(Path(options.data), self._files)
        problems = load_problems(
            options,
            HUB,
            self._problem_of,
            files=lambda path: self.release is None or path.name in self._files,
        )
        if options.max_problems is None:
            self._rules.check_ids()
        return problems

    def _problem_of(self, row: Row, place: str) -> Problem | None:
        problem = problem_of_row(row, place, self.limits, self._max_bytes, self._rules)
        if self._window:
            start, end = self._window
            if not start <= _date_of(row.get("contest_date"), f"{place}: contest_date") < end:
                return None
        if len(problem.target.private) <= CHECKED_AT_ONCE:
            decoded(problem.target)
        return problem

    def tests(self, problem: Problem) -> tuple[AnyCase, ...]:
        return decoded(problem.target)

    def has_public_test(self, problem: Problem) -> bool:
        return bool(_public_tests(problem.target))  # without decoding the private ones


def _files_of(release: str | None) -> list[str]:
    """The names of a release's files."""
    files = list(FILES.values())
    if release is None:
        return files
    if release not in FILES:
        raise ValueError(f"release must be one of {', '.join(FILES)}; got {release!r}.")
    return files[: files.index(FILES[release]) + 1]


def _check_release(folder: Path, names: list[str]) -> None:
    missing = [name for name in names if not (folder / name).is_file()]
    if missing:
        raise FileNotFoundError(
            f"release= chooses among the files {', '.join(names)} of a folder, and {folder} lacks "
            f"{', '.join(missing)}. Leave release= out, or name a folder that has them with data=."
        )


@dataclass(frozen=True)
class StoredTests:
    """A problem's tests as the row stores them. All releases decoded at once would fill memory."""

    public: str
    private: str
    function: str | None  # of functional tests
    place: str  # file and line, for error messages
    max_bytes: int  # of decompressed private tests
    rule: Rule = LINES  # for programs and, if it is a checker or has a tolerance, for functions

    def __repr__(self) -> str:  # what the fingerprint covers: not where the file lies
        fields = [repr(self.public), repr(self.private), repr(self.function)]
        if self.rule != LINES:
            fields.append(rule_name(self.rule))
        return f"StoredTests({', '.join(fields)})"


@lru_cache(maxsize=16)  # a batch asks the same problem many times
def decoded(stored: StoredTests) -> tuple[AnyCase, ...]:
    """All tests of a problem, public ones first. Raises ValueError for what is no list of tests."""
    private = _private_tests(stored)
    tests = [_test_of(test, True, stored) for test in _public_tests(stored)]
    tests += [_test_of(test, False, stored) for test in private]
    if not tests:
        raise ValueError(f"{stored.place}: the problem has no test, so nothing could be judged.")
    return tuple(tests)


def _public_tests(stored: StoredTests) -> list[Mapping[str, Any]]:
    return _listed(stored.public, "public_test_cases", stored.place)


def problem_of_row(
    row: Row, place: str, limits: Limits, max_bytes: int, rules: Rules | None = None
) -> Problem:
    """rules: None compares as LiveCodeBench does."""
    id_ = text_field(row, place, LAYOUT, "question_id")
    content = text_field(row, place, LAYOUT, "question_content")
    for name in TEXTS:
        if not isinstance(row.get(name), str):
            came = f"{name!r} is {type(row[name]).__name__}" if name in row else sorted(row)
            raise ValueError(
                f"{place}: expected {LAYOUT}, which has the text fields {', '.join(TEXTS)}; "
                f"{name!r} is missing or no text (came: {came})."
            )
    metadata = parsed(row["metadata"] or "{}", "metadata", place)
    function = metadata.get("func_name") if isinstance(metadata, dict) else None
    function = function if isinstance(function, str) else None
    if row["starter_code"].strip():
        task = FUNCTION_FORMAT.format(starter_code=row["starter_code"].rstrip())
    else:
        task = CALL_FORMAT.format(function=function) if function else PROGRAM_FORMAT
    form = answer_format(limits, whole_program=function is None)
    compare = rules.of(id_, content) if rules else LINES
    return Problem(
        id=id_,
        prompt=f"{content.rstrip()}\n\n{task}\n\n{form}",
        target=StoredTests(
            row["public_test_cases"], row["private_test_cases"], function, place, max_bytes, compare
        ),
        metadata={name: str(row[name]) for name in SHOWN_FIELDS if name in row}
        | {"kind": "functional" if function else "stdin"},
    )


def _test_of(test: Mapping[str, Any], public: bool, stored: StoredTests) -> AnyCase:
    kind, input_, expected = (test.get(name) for name in ("testtype", "input", "output"))
    if not isinstance(input_, str) or not isinstance(expected, str):
        raise ValueError(f"{stored.place}: a test must have the texts 'input' and 'output'.")
    if kind == "stdin":
        return ProgramCase(input_, expected, public, stored.rule)
    if kind != "functional":
        raise ValueError(
            f"{stored.place}: a test's testtype must be 'stdin' or 'functional', got {kind!r}."
        )
    if not stored.function:
        raise ValueError(f"{stored.place}: functional tests need metadata with a 'func_name'.")
    lines = [line for line in input_.split("\n") if line.strip()]
    arguments = [parsed(line, "an input line of a functional test", stored.place) for line in lines]
    parsed(expected, "the output of a functional test", stored.place)
    return FunctionCase(
        input_, expected, public, stored.function, tuple(arguments), _value_rule(stored.rule)
    )


def _value_rule(compare: Rule) -> Rule:
    """The rule for JSON values that goes with one for texts."""
    if isinstance(compare, Checker | Json):
        return compare
    if isinstance(compare, Floats):
        return Json(compare.absolute, compare.relative)
    return JSON


def _listed(text: str, name: str, place: str) -> list[Mapping[str, Any]]:
    listed = parsed(text, name, place)
    if not isinstance(listed, list) or not all(isinstance(test, dict) for test in listed):
        raise ValueError(f"{place}: test cases must be a JSON list of objects.")
    return listed


def _private_tests(stored: StoredTests) -> list[Mapping[str, Any]]:
    """JSON text, or base64 of zlib of a pickle of JSON text."""
    text, place = stored.private.strip() or "[]", stored.place
    if not text.startswith("["):
        try:
            packed = base64.b64decode(text, validate=True)
        except ValueError as error:
            raise ValueError(
                f"{place}: private_test_cases must be a JSON list or base64, got {text[:40]!r}..."
            ) from error
        text = _pickled_text(_decompressed(packed, stored.max_bytes, place), place)
    return _listed(text, "private_test_cases", place)


def _decompressed(packed: bytes, max_bytes: int, place: str) -> bytes:
    stream = zlib.decompressobj()
    try:
        data = stream.decompress(packed, max_bytes)
    except zlib.error as error:
        raise ValueError(f"{place}: private_test_cases is no zlib data ({error}).") from error
    if not stream.eof and len(data) >= max_bytes:
        raise ValueError(
            f"{place}: private_test_cases decompresses to more than {max_bytes / MIB:g} MB and is "
            "refused. If the file is to be trusted, raise max_decompressed_mb."
        )
    if not stream.eof:
        raise ValueError(f"{place}: private_test_cases is truncated: its zlib data ends early.")
    return data


# The opcodes of a pickled text. Nothing is unpickled: no opcode that builds an object is executed.
PICKLED_TEXTS = {"UNICODE", "SHORT_BINUNICODE", "BINUNICODE", "BINUNICODE8"}
PICKLED_TEXTS |= {"SHORT_BINBYTES", "BINBYTES", "BINBYTES8"}
HARMLESS = {"PROTO", "FRAME", "MEMOIZE", "PUT", "BINPUT", "LONG_BINPUT", "STOP"}


def _pickled_text(data: bytes, place: str) -> str:
    """The one text (or bytes of UTF-8) that a pickle holds. Anything else is refused."""
    texts: list[str | bytes] = []
    try:
        for opcode, argument, _ in pickletools.genops(data):
            if isinstance(argument, str | bytes) and opcode.name in PICKLED_TEXTS:
                texts.append(argument)
            elif opcode.name not in HARMLESS:
                raise ValueError(f"the opcode {opcode.name} could build an object")
        if len(texts) != 1:
            raise ValueError(f"{len(texts)} texts came")
        return texts[0] if isinstance(texts[0], str) else texts[0].decode()
    except ValueError as error:
        raise ValueError(
            f"{place}: the pickle in private_test_cases is refused. It must hold one text and "
            f"nothing else, but {error}."
        ) from error


# Selection ----------------------------------------------------------------------------------------


def _window(start_date: str | None, end_date: str | None) -> tuple[datetime, datetime] | None:
    if start_date is None and end_date is None:
        return None
    start = _date_of(start_date, "start_date") if start_date else datetime.min
    end = _date_of(end_date, "end_date") if end_date else datetime.max
    if start >= end:
        raise ValueError(f"start_date {start_date} must be before end_date {end_date}.")
    return start, end


def _date_of(text: Any, name: str) -> datetime:
    try:
        return datetime.fromisoformat(text).replace(tzinfo=None)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{name} must be an ISO date such as 2025-02-01, got {text!r}.") from error


vector = LiveCodeBench.vector  # gymnasium's entry points cannot name a class attribute
