"""CodeContests: competition problems whose tests have one right output each.

Loads DeepMind's layout (from the hub, or its parquet files), LiveCodeBench's, SandboxFusion's
(`question_content` and a list of `tests`) and Codeforces problems with `examples`.

Many competition problems accept several outputs ("if there are multiple answers, print any"), and a
data set has only one of them. Such a problem would teach that right answers are wrong, so it is
excluded by name (`env.unwrapped.excluded`), unless a checker for it is given. What the statement
says is what can be known: where it is silent, a problem may slip through.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import re
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

from sandbox import MIB, Limits
from sandbox.comparison import Rule
from vpd_envs.checks import check_positive
from vpd_envs.code import livecodebench
from vpd_envs.code.cases import ProgramCase
from vpd_envs.code.contest_rules import Checkers, Rules, rule_name, several_answers
from vpd_envs.code.environment import CodeEnv, answer_format, limits_for
from vpd_envs.data.files import DataOptions, Hub, Row, load_problems, local_files, text_field
from vpd_envs.dataset_env import DatasetEnv
from vpd_envs.types import Problem

HUB = Hub("deepmind/code_contests")
HUB_SPLITS = {"all": "train+valid+test", "train": "train", "test": "test"}
LAYOUT = (
    "a row in the layout of CodeContests ('description', 'public_tests'), of LiveCodeBench "
    "('question_content', 'public_test_cases') or with a list of 'tests' or 'examples'"
)
KINDS = {"public_tests": True, "private_tests": False, "generated_tests": False}  # is it public?
DEFAULT_SECONDS = 6.0  # for a problem without a limit of its own
LEAST_MEMORY_MB = 512  # Python's objects take several times what the limits were set for
MOST_SECONDS, MOST_MEMORY_MB = 3600.0, 1 << 16  # a row that asks for more has a mistake
MAX_DECOMPRESSED = 512 * MIB  # of the tests of one row in LiveCodeBench's layout
INTERACTIVE = re.compile(r"\binteractive\s+(?:problem|task|interaction)\b", re.IGNORECASE)


class CodeContests(DatasetEnv, CodeEnv):
    """`vpd/CodeContests-v0`.

    data, hub, revision, split, test_fraction, max_problems: see `vpd_envs.data.files`. Of the hub,
        and of a folder with files named as there (test-00000-of-..., train-...), `split` takes the
        data set's own: "test" is "test", "train" is "train", "all" has "valid", too.
    checkers, comparison: see `vpd_envs.code.contest_rules`. By default "auto": white space does not
        matter, and the statement may allow a tolerance or any case.
    multi_answer: "exclude" or "include" (and compare with the one output that is stored) problems
        that seem to accept several outputs and have no checker.
    generated_tests: whether DeepMind's generated tests count, besides public and private ones.
    time_limit_seconds: None takes the problem's own limit times `time_limit_factor`, since
        interpreted programs are slower than those the limits were set for; 6 s if it has none.
    time_limit_factor: of the problem's own limits, see `time_limit_seconds`.
    memory_limit_mb: None takes the problem's own limit, at least 512.
    The others are those of `CodeEnv`, `SandboxedEnv` and `TextEnv`.

    `excluded`: a dict from the ids of the problems left out to the reasons.
    """

    def __init__(
        self,
        data: str | Path | None = None,
        *,
        checkers: Checkers | None = None,
        multi_answer: str = "exclude",
        comparison: str | Rule = "auto",
        generated_tests: bool = True,
        time_limit_seconds: float | None = None,
        time_limit_factor: float = 3.0,
        memory_limit_mb: float | None = None,
        **options: Any,
    ) -> None:
        if multi_answer not in ("exclude", "include"):
            raise ValueError(f"multi_answer must be 'exclude' or 'include', got {multi_answer!r}.")
        check_positive(time_limit_factor=time_limit_factor)
        limits = {"time_limit_seconds": time_limit_seconds, "memory_limit_mb": memory_limit_mb}
        self._asked_limits = {name: limit for name, limit in limits.items() if limit is not None}
        self.time_limit_factor = time_limit_factor
        self.multi_answer = multi_answer
        self.generated_tests = generated_tests
        self.excluded: dict[str, str] = {}
        self._rules = Rules(checkers, comparison)
        super().__init__(data, **self._asked_limits, **options)

    def load(self, options: DataOptions) -> list[Problem]:
        split = options.split
        own = options.data is None or _has_own_splits(Path(options.data))
        hub = dataclasses.replace(HUB, split=HUB_SPLITS[split])
        try:
            problems = load_problems(
                dataclasses.replace(options, split="all") if own else options,
                hub,
                self._problem_of,
                files=lambda path: not own or split == "all" or _split_of(path) == split,
            )
        except ValueError as error:
            if not self.excluded or "No problem of" not in str(error):
                raise
            reasons = [f"{id_}: {reason}" for id_, reason in list(self.excluded.items())[:5]]
            raise ValueError(
                f"{error} {len(self.excluded)} problems were excluded; the first: "
                f"{'; '.join(reasons)}. Give checkers= for them, or say multi_answer='include'."
            ) from None
        if options.max_problems is None:
            self._rules.check_ids()
        return problems

    def _problem_of(self, row: Row, place: str) -> Problem | None:
        source = _source_of(row, place, self.generated_tests)
        if source.id in self._rules.asked:
            source = dataclasses.replace(source, id=f"{source.id} ({source.digest[:8]})")
        rule = self._rules.of(source.id, source.statement)
        reason = self._why_excluded(source, row)
        if reason:
            self.excluded[source.id] = reason
            return None
        return source.problem(self._limits_for(source), rule)

    def _why_excluded(self, source: Source, row: Row) -> str:
        if source.unusable:
            return source.unusable
        if not source.statement.strip():
            return "it has no statement"
        if not source.tests:
            return "it has no test"
        if INTERACTIVE.search(source.statement):
            return "it is interactive"
        if source.id in self._rules.checkers or self.multi_answer == "include":
            return ""
        several = several_answers(row, source.statement)
        return several and f"several outputs may be right, and it has no checker: {several}"

    def _limits_for(self, source: Source) -> Limits:
        """The limits that were asked for; else the problem's own, with allowance for Python."""
        seconds = min(source.own_seconds * self.time_limit_factor, MOST_SECONDS) or DEFAULT_SECONDS
        megabytes = max(LEAST_MEMORY_MB, min(source.own_megabytes, MOST_MEMORY_MB))
        own = {"time_limit_seconds": seconds, "memory_limit_mb": megabytes}
        return limits_for(**(own | self._asked_limits))

    def tests(self, problem: Problem) -> tuple[ProgramCase, ...]:
        return _unpacked(problem.target)

    def limits_of(self, problem: Problem) -> Limits:
        return problem.target.limits


@dataclass(frozen=True)
class PackedTests:
    """A problem's tests, compressed: those of a whole data set would fill memory."""

    packed: bytes  # a list of [input, expected, public]
    digest: str  # of its content; zlib's bytes differ between machines
    rule: Rule
    limits: Limits

    def __repr__(self) -> str:  # what the fingerprint covers
        return f"PackedTests({self.digest}, {rule_name(self.rule)}, {self.limits})"


@lru_cache(maxsize=16)  # a batch asks the same problem many times
def _unpacked(stored: PackedTests) -> tuple[ProgramCase, ...]:
    listed = json.loads(zlib.decompress(stored.packed))
    return tuple(ProgramCase(*each, rule=stored.rule) for each in listed)


@dataclass(frozen=True)
class Source:
    """What a row of any layout says of a problem."""

    id: str
    statement: str
    tests: list[tuple[str, str, bool]] = field(repr=False)  # (input, output, is it public?)
    metadata: dict[str, str]
    own_seconds: float = 0.0  # 0: unknown
    own_megabytes: float = 0.0
    unusable: str = ""  # why it cannot be asked at all

    @property
    def digest(self) -> str:
        return hashlib.sha256(json.dumps([self.statement, self.tests]).encode()).hexdigest()

    def problem(self, limits: Limits, compare: Rule) -> Problem:
        public_first = sorted(self.tests, key=lambda test: not test[2])
        packed = zlib.compress(json.dumps(public_first).encode(), 1)
        task = f"{livecodebench.PROGRAM_FORMAT}\n\n{answer_format(limits, whole_program=True)}"
        return Problem(
            id=self.id,
            prompt=f"{self.statement.rstrip()}\n\n{task}",
            target=PackedTests(packed, self.digest, compare, limits),
            metadata=self.metadata,
        )


# Layouts ------------------------------------------------------------------------------------------


def _source_of(row: Row, place: str, generated_tests: bool) -> Source:
    """Raises ValueError, which names the place, for a row of no known layout."""
    if "public_test_cases" in row:
        return _livecodebench_source(row, place)
    if "public_tests" in row:
        return _deepmind_source(row, place, generated_tests)
    if "tests" in row:
        labels = row["labels"] if isinstance(row.get("labels"), Mapping) else {}
        return Source(
            statement=text_field(row, place, LAYOUT, "question_content"),
            id=text_field(row, place, LAYOUT, "id"),
            tests=[(*pair, False) for pair in _pairs(row["tests"], "tests", place)],
            metadata=_shown(labels, "name", "source", "difficulty"),
        )
    if "examples" not in row:
        text_field(row, place, LAYOUT, "public_tests")  # raises, and names what came
    return _codeforces_source(row, place)


def _deepmind_source(row: Row, place: str, generated_tests: bool) -> Source:
    tests = [
        (*pair, public)
        for name, public in KINDS.items()
        if generated_tests or name != "generated_tests"
        for pair in _pairs(row.get(name) or [], name, place)
    ]
    statement = row.get("description")
    files = ", ".join(str(row[name]) for name in ("input_file", "output_file") if row.get(name))
    limit = row.get("time_limit")
    if isinstance(limit, Mapping):
        nanos = _number(limit.get("nanos"), "time_limit's nanos", place)
        limit = _number(limit.get("seconds"), "time_limit's seconds", place) + nanos / 1e9
    return Source(
        id=text_field(row, place, LAYOUT, "name"),
        statement=statement if isinstance(statement, str) else "",
        tests=tests,
        metadata=_shown(row, "source", "difficulty", "cf_rating", "is_description_translated"),
        own_seconds=_number(limit, "time_limit", place),
        own_megabytes=_number(row.get("memory_limit_bytes"), "memory_limit_bytes", place) / MIB,
        unusable=f"it reads or writes a file ({files})" if files else "",
    )


def _livecodebench_source(row: Row, place: str) -> Source:
    problem = livecodebench.problem_of_row(row, place, Limits(), MAX_DECOMPRESSED)
    tests = livecodebench.decoded(problem.target)
    functional = any(not isinstance(test, ProgramCase) for test in tests)
    return Source(
        id=problem.id,
        statement=row["question_content"],
        tests=[(test.input, test.expected, test.public) for test in tests],
        metadata={name: value for name, value in problem.metadata.items() if name != "kind"},
        unusable="it asks for a function, not a program" if functional else "",
    )


def _codeforces_source(row: Row, place: str) -> Source:
    statement = text_field(row, place, LAYOUT, "description")
    for name in ("input", "output", "note"):
        if isinstance(row.get(name), str) and row[name].strip():
            statement += f"\n\n{name.capitalize()}\n\n{row[name].strip()}"
    return Source(
        id=text_field(row, place, LAYOUT, "problem_id", "id"),
        statement=statement,
        tests=[(*pair, True) for pair in _pairs(row["examples"], "examples", place)],
        metadata=_shown(row, "title", "rating"),
        own_seconds=_number(row.get("time_limit_ms"), "time_limit_ms", place) / 1000,
        own_megabytes=_number(row.get("memory_limit_mb"), "memory_limit_mb", place),
        unusable="it is interactive" if row.get("interaction") else "",
    )


def _pairs(tests: Any, name: str, place: str) -> Iterator[tuple[str, str]]:
    """The (input, output) of {"input": [...], "output": [...]} or of [{"input": ...}, ...]."""
    if isinstance(tests, Mapping):
        inputs, outputs = tests.get("input"), tests.get("output")
        if isinstance(inputs, list) and isinstance(outputs, list) and len(inputs) == len(outputs):
            tests = [{"input": i, "output": o} for i, o in zip(inputs, outputs, strict=True)]
    if not isinstance(tests, list):
        raise ValueError(
            f"{place}: {name} must be a list of tests, or lists 'input' and 'output' of the same "
            f"length; came {tests!r:.60}."
        )
    for test in tests:
        pair = test if isinstance(test, Mapping) else {}
        input_, output = pair.get("input"), pair.get("output")
        if not isinstance(input_, str) or not isinstance(output, str):
            raise ValueError(
                f"{place}: a test in {name} must have the texts 'input' and 'output', came "
                f"{test!r:.60}."
            )
        yield input_, output


def _number(value: Any, name: str, place: str) -> float:
    """A limit; 0 where none is given."""
    if value is None:
        return 0.0
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < 1e15:
        raise ValueError(f"{place}: {name} must be a number of at least 0, got {value!r:.60}.")
    return float(value)


def _shown(row: Mapping[str, Any], *names: str) -> dict[str, str]:
    return {name: str(row[name]) for name in names if row.get(name) is not None}


# Which files and ids ------------------------------------------------------------------------------


def _has_own_splits(path: Path) -> bool:
    """Whether it is a folder whose files are named as those of the hub, by their splits."""
    return path.is_dir() and all(map(_split_of, local_files(path)))


def _split_of(path: Path) -> str:
    """The split that a file's name begins with ("train-00000-of-00039-....parquet"), or ""."""
    name = re.match(r"(train|valid|test)[-.]", path.name)
    return name[1] if name else ""


vector = CodeContests.vector  # gymnasium's entry points cannot name a class attribute
