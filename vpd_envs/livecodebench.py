"""LiveCodeBench: competition problems with their dates, as programs (stdin) or functions.

Loads the rows of `livecodebench/code_generation_lite`, from files in its layout or from the hub.
"""

from __future__ import annotations

import base64
import binascii
import datetime
import hashlib
import json
import pickletools
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from sandbox import Limits, Sandbox
from vpd_envs.code import MIB, CallTest, CodeEnv, CodeTest, StdinTest
from vpd_envs.types import Problem

HUB_NAME = "livecodebench/code_generation_lite"
HUB_FILES = ("test.jsonl", *(f"test{i}.jsonl" for i in range(2, 7)))  # releases v1 to v6
FIELDS = (
    "question_id",
    "question_content",
    "starter_code",
    "public_test_cases",
    "private_test_cases",
    "metadata",
)
SHOWN_FIELDS = ("question_title", "platform", "contest_id", "contest_date", "difficulty")
CHECKED_AT_ONCE = 64 * MIB  # the private tests of larger files are decoded when first needed

PROGRAM_FORMAT = (
    "Write a Python program that solves the problem: it reads the input from stdin and writes the "
    "answer to stdout."
)
FUNCTION_FORMAT = (
    "Complete this starter code in Python. The usual imports of LeetCode (typing, collections, "
    "heapq, math, ...) are in place.\n\n```python\n{starter_code}\n```"
)
CALL_FORMAT = "Write a Python function `{function}` that solves the problem."
LIMIT_FORMAT = (
    "Time limit per test: {seconds:g} s. Memory limit: {megabytes:g} MB.\n"
    "Answer with one Python code block (```python ... ```); if there are several, the last one "
    "counts."
)


class LiveCodeBench(CodeEnv):
    """`vpd/LiveCodeBench-v0`.

    data: a .jsonl or .json file or a folder of .jsonl files in LiveCodeBench's layout; None loads
        the releases v1 to v6 from the Hugging Face hub (several GB).
    split: "all", "train" or "test"; by the hash of the problem's id, so that a problem never
        changes sides. `test_fraction` of the problems are in "test".
    start_date, end_date: only problems with start_date <= contest_date < end_date (ISO dates).
    max_problems: the first so many of what is left.
    max_decompressed_mb: larger compressed tests of one problem are refused.
    The others are those of `CodeEnv`.
    """

    def __init__(
        self,
        data: str | Path | None = None,
        *,
        split: str = "all",
        test_fraction: float = 0.2,
        start_date: str | None = None,
        end_date: str | None = None,
        max_problems: int | None = None,
        sandbox: str | Sandbox = "auto",
        time_limit_seconds: float = 6.0,
        memory_limit_mb: float = 512,
        feedback_tests: str = "public",
        stop_at_first_failure: bool = True,
        max_decompressed_mb: float = 512,
        render_mode: str | None = None,
    ) -> None:
        if split not in ("all", "train", "test"):
            raise ValueError(f"split must be 'all', 'train' or 'test', got {split!r}.")
        if not 0 <= test_fraction <= 1:
            raise ValueError(f"test_fraction must be between 0 and 1, got {test_fraction!r}.")
        if max_problems is not None and max_problems < 1:
            raise ValueError(f"max_problems must be at least 1 or None, got {max_problems!r}.")
        for name, value in (
            ("time_limit_seconds", time_limit_seconds),
            ("memory_limit_mb", memory_limit_mb),
            ("max_decompressed_mb", max_decompressed_mb),
        ):
            if not value > 0:
                raise ValueError(f"{name} must be a positive number, got {value!r}.")
        limits = Limits(wall_seconds=time_limit_seconds, memory_bytes=int(memory_limit_mb * MIB))
        window = Window.of(start_date, end_date)
        max_bytes = int(max_decompressed_mb * MIB)
        problems: list[Problem] = []
        for row, place, check in rows(data):
            problem = problem_of(row, place, limits, max_bytes)
            if check:
                decoded(problem.target)
            if split != "all" and (split == "test") != in_test_split(problem.id, test_fraction):
                continue
            if window and not window.holds(row.get("contest_date"), place):
                continue
            problems.append(problem)
            if len(problems) == max_problems:
                break
        if not problems:
            raise ValueError(
                f"No problem of {data or HUB_NAME} is in split={split!r}, start_date={start_date}, "
                f"end_date={end_date}. Widen the window or the split."
            )
        super().__init__(
            problems,
            limits=limits,
            sandbox=sandbox,
            feedback_tests=feedback_tests,
            stop_at_first_failure=stop_at_first_failure,
            render_mode=render_mode,
        )

    def tests(self, problem: Problem) -> tuple[CodeTest, ...]:
        return decoded(problem.target)


@dataclass(frozen=True)
class StoredTests:
    """A problem's tests as the row stores them. All releases decoded at once would fill memory."""

    public: str
    private: str
    function: str | None  # of functional tests
    place: str  # file and line, for error messages
    max_bytes: int  # of decompressed private tests

    def __repr__(self) -> str:  # what the fingerprint covers: not where the file lies
        return f"StoredTests({self.public!r}, {self.private!r}, {self.function!r})"


@lru_cache(maxsize=16)  # a batch asks the same problem many times
def decoded(stored: StoredTests) -> tuple[CodeTest, ...]:
    """All tests of a problem, public ones first. Raises ValueError for what is no list of tests."""
    tests = [
        test_of(test, public, stored)
        for public, listed in (
            (True, parsed(stored.public, "public_test_cases", stored.place)),
            (False, private_tests(stored)),
        )
        for test in checked_list(listed, stored.place)
    ]
    if not tests:
        raise ValueError(f"{stored.place}: the problem has no test, so nothing could be judged.")
    return tuple(tests)


def problem_of(row: Mapping[str, Any], place: str, limits: Limits, max_bytes: int) -> Problem:
    for name in FIELDS:
        if not isinstance(row.get(name), str):
            came = f"{name!r} is {type(row[name]).__name__}" if name in row else sorted(row)
            raise ValueError(
                f"{place}: expected a LiveCodeBench row, which has the text fields "
                f"{', '.join(FIELDS)}; {name!r} is missing or no text (came: {came})."
            )
    metadata = parsed(row["metadata"] or "{}", "metadata", place)
    function = metadata.get("func_name") if isinstance(metadata, dict) else None
    if row["starter_code"].strip():
        task = FUNCTION_FORMAT.format(starter_code=row["starter_code"].rstrip())
    else:
        task = CALL_FORMAT.format(function=function) if function else PROGRAM_FORMAT
    limit = LIMIT_FORMAT.format(seconds=limits.wall_seconds, megabytes=limits.memory_bytes / MIB)
    return Problem(
        id=row["question_id"],
        prompt=f"{row['question_content'].rstrip()}\n\n{task}\n\n{limit}",
        target=StoredTests(
            row["public_test_cases"], row["private_test_cases"], function, place, max_bytes
        ),
        metadata={name: str(row[name]) for name in SHOWN_FIELDS if name in row}
        | {"kind": "functional" if function else "stdin"},
    )


def test_of(test: Mapping[str, Any], public: bool, stored: StoredTests) -> CodeTest:
    kind, input_, expected = (test.get(name) for name in ("testtype", "input", "output"))
    if not isinstance(input_, str) or not isinstance(expected, str):
        raise ValueError(f"{stored.place}: a test must have the texts 'input' and 'output'.")
    if kind == "stdin":
        return StdinTest(input_, expected, public)
    if kind != "functional":
        raise ValueError(
            f"{stored.place}: a test's testtype must be 'stdin' or 'functional', got {kind!r}."
        )
    if not isinstance(stored.function, str) or not stored.function:
        raise ValueError(f"{stored.place}: functional tests need metadata with a 'func_name'.")
    lines = [line for line in input_.split("\n") if line.strip()]
    arguments = [parsed(line, "an input line of a functional test", stored.place) for line in lines]
    parsed(expected, "the output of a functional test", stored.place)
    return CallTest(input_, expected, public, stored.function, tuple(arguments))


def private_tests(stored: StoredTests) -> Any:
    """JSON text, or base64 of zlib of a pickle of JSON text."""
    text, place = stored.private, stored.place
    if not text.strip():
        return []
    if text.lstrip().startswith("["):
        return parsed(text, "private_test_cases", place)
    try:
        packed = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        raise ValueError(
            f"{place}: private_test_cases must be a JSON list or base64, got {text[:40]!r}..."
        ) from error
    return parsed(
        pickled_text(decompressed(packed, stored.max_bytes, place), place),
        "private_test_cases",
        place,
    )


def decompressed(packed: bytes, max_bytes: int, place: str) -> bytes:
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
TEXTS = {"UNICODE", "SHORT_BINUNICODE", "BINUNICODE", "BINUNICODE8"}
TEXTS |= {"SHORT_BINBYTES", "BINBYTES", "BINBYTES8"}
HARMLESS = {"PROTO", "FRAME", "MEMOIZE", "PUT", "BINPUT", "LONG_BINPUT", "STOP"}


def pickled_text(data: bytes, place: str) -> str:
    """The one text (or bytes of UTF-8) that a pickle holds. Anything else is refused."""
    texts: list[str | bytes] = []
    try:
        for opcode, argument, _ in pickletools.genops(data):
            if opcode.name in TEXTS:
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


# Rows ---------------------------------------------------------------------------------------------


def rows(data: str | Path | None) -> Iterator[tuple[Mapping[str, Any], str, bool]]:
    """Rows, their place ("FILE, line 3") and whether their tests are to be checked at once."""
    for path in [Path(data)] if data is not None and not Path(data).is_dir() else files(data):
        if not path.is_file():
            raise FileNotFoundError(
                f"data must be a .jsonl or .json file or a folder of .jsonl files in "
                f"LiveCodeBench's layout; there is no {path}."
            )
        check = path.stat().st_size <= CHECKED_AT_ONCE
        empty = True
        for row, place in json_rows(path) if path.suffix == ".json" else json_lines(path):
            empty = False
            if not isinstance(row, dict):
                raise ValueError(
                    f"{place}: expected a LiveCodeBench row, a JSON object; came "
                    f"{type(row).__name__}."
                )
            yield row, place, check
        if empty:
            raise ValueError(f"{path} is empty: expected LiveCodeBench rows, one JSON per line.")


def files(data: str | Path | None) -> list[Path]:
    if data is None:
        return hub_files()
    found = sorted(Path(data).glob("*.jsonl"))
    if not found:
        raise FileNotFoundError(f"The folder {data} has no .jsonl file. Name one with data=.")
    return found


def hub_files() -> list[Path]:
    advice = "Download the files of the data set and name them with data=FILE_OR_FOLDER."
    try:
        from huggingface_hub import hf_hub_download
    except ImportError as error:
        raise ValueError(
            f"Loading {HUB_NAME} from the hub needs the package huggingface_hub. Install it, or: "
            f"{advice}"
        ) from error
    try:
        return [Path(hf_hub_download(HUB_NAME, name, repo_type="dataset")) for name in HUB_FILES]
    except (OSError, ValueError) as error:  # offline, refused, not found: all subclass OSError
        raise ConnectionError(
            f"Could not load {HUB_NAME} from the hub: {error} {advice}"
        ) from error


def json_lines(path: Path) -> Iterator[tuple[Any, str]]:
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            if line.strip():
                place = f"{path}, line {number}"
                yield parsed(line, "the line (is the file complete?)", place), place


def json_rows(path: Path) -> Iterator[tuple[Any, str]]:
    listed = parsed(path.read_bytes(), "the file (is it complete?)", str(path))
    if not isinstance(listed, list):
        raise ValueError(f"{path}: expected a JSON list of rows, came {type(listed).__name__}.")
    for number, row in enumerate(listed, start=1):
        yield row, f"{path}, row {number}"


def parsed(text: str | bytes, name: str, place: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        start = text[:60]
        raise ValueError(
            f"{place}: {name} must be JSON, but {error}. It starts with {start!r}."
        ) from error


def checked_list(listed: Any, place: str) -> list[Mapping[str, Any]]:
    if not isinstance(listed, list) or not all(isinstance(test, dict) for test in listed):
        raise ValueError(f"{place}: test cases must be a JSON list of objects.")
    return listed


# Selection ----------------------------------------------------------------------------------------


def in_test_split(problem_id: str, test_fraction: float) -> bool:
    digest = hashlib.sha256(problem_id.encode("utf-8", "surrogatepass")).digest()
    return int.from_bytes(digest[:8]) < test_fraction * 2**64


@dataclass(frozen=True)
class Window:
    start: datetime.datetime
    end: datetime.datetime

    @classmethod
    def of(cls, start_date: str | None, end_date: str | None) -> Window | None:
        if start_date is None and end_date is None:
            return None
        start = date_of(start_date, "start_date") if start_date else datetime.datetime.min
        end = date_of(end_date, "end_date") if end_date else datetime.datetime.max
        if start >= end:
            raise ValueError(f"start_date {start_date} must be before end_date {end_date}.")
        return cls(start, end)

    def holds(self, contest_date: Any, place: str) -> bool:
        return self.start <= date_of(contest_date, f"{place}: contest_date") < self.end


def date_of(text: Any, name: str) -> datetime.datetime:
    try:
        return datetime.datetime.fromisoformat(text).replace(tzinfo=None)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{name} must be an ISO date such as 2025-02-01, got {text!r}.") from error


vector = LiveCodeBench.vector  # gymnasium's entry points cannot name a class attribute
