"""The judged answers of an evaluation, one line each, written as soon as they are judged."""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, ClassVar, Self

from vpd_envs.data.provenance import differences


class AnswerFile:
    """A JSON-lines file that only one process at a time can open, and that a crash does not damage.

    The first line says what was measured, {"evaluation": {...}}. Every other line is an answer,
    {"problem_id", "sample", "reward", "status", …}, or {"problem_id", "sample", "error"} if it
    could not be judged. Where another's solved answer was shown, it is the "demonstration", and
    "feedback" what is said beside it. If a sample has several lines, the last one counts. A last
    line that a crash cut short is removed.

    measured: what the answers depend on. defaults: of options in it that an older file lacks; see
        `provenance.differences`.

    judged: (problem id, sample) → line, for the answers that were judged.

    header, keys, content, command: what a file of another kind has in place of "evaluation", of
        the problem id and sample that tell its lines apart, and in messages.

    Raises ValueError for a file that is in use, that is not of this format, or that has the answers
    of another evaluation.
    """

    header: ClassVar[str] = "evaluation"
    keys: ClassVar[tuple[str, ...]] = ("problem_id", "sample")
    content: ClassVar[str] = "answers"
    command: ClassVar[str] = "vpd eval"

    def __init__(
        self, path: Path, measured: Mapping[str, Any], defaults: Mapping[str, Any] | None = None
    ) -> None:
        self.path = path
        self.judged: dict[tuple[Any, ...], dict[str, Any]] = {}
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file = path.open("a+b")
        try:
            self._lock()
            self._read(json.loads(json.dumps(measured)), defaults)
        except BaseException:
            self._file.close()
            raise

    def append(self, rows: Iterable[dict[str, Any]]) -> None:
        """Write lines; they are on the disk when this returns."""
        rows = list(rows)
        self._write(rows)
        for row in rows:
            self._take(row)

    def close(self) -> None:
        self._file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _lock(self) -> None:
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise ValueError(
                f"{self.path} is in use by a running {self.header}. Wait for it, or pass another "
                f"--out."
            ) from error

    def _read(self, measured: dict[str, Any], defaults: Mapping[str, Any] | None) -> None:
        self._file.seek(0)
        lines = self._file.read().splitlines(keepends=True)
        start = b'{"' + self.header.encode() + b'"'
        if lines and not (lines[0].startswith(start) or start.startswith(lines[0])):
            raise ValueError(
                f"{self.path} is there and is no file of {self.content} that {self.command} wrote. "
                f"Pass another --out."
            )
        if lines and not lines[-1].endswith(b"\n"):
            lines.pop()
            self._file.truncate(sum(map(len, lines)))
        if not lines:
            self._write([{self.header: measured}])
            return
        rows = [self._parsed(number, line) for number, line in enumerate(lines, 1)]
        if differing := differences(rows[0][self.header], measured, defaults):
            raise ValueError(
                f"{self.path} has the {self.content} of another {self.header}: {differing}. Pass "
                f"another --out."
            )
        for row in rows[1:]:
            self._take(row)

    def _parsed(self, number: int, line: bytes) -> dict[str, Any]:
        try:
            row = json.loads(line)
        except ValueError:
            row = None
        if isinstance(row, dict) and (number == 1 or row.keys() >= {*self.keys}):
            return row
        raise ValueError(
            f"{self.path}, line {number}: expected a judged answer, got {line[:80]!r}. Remove that "
            f"line, or pass another --out."
        )

    def _take(self, row: dict[str, Any]) -> None:
        if "error" not in row:
            self.judged[tuple(row[key] for key in self.keys)] = row

    def _write(self, rows: list[dict[str, Any]]) -> None:
        lines = [json.dumps(row, ensure_ascii=False) + "\n" for row in rows]
        self._file.write("".join(lines).encode("utf-8", "replace"))
        self._file.flush()
        os.fsync(self._file.fileno())
