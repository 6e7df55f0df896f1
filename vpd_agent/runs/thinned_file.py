"""A JSON-lines file that never grows past a size: rather than that, it keeps every second row."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from vpd_agent.runs.files import append_jsonl, filter_jsonl, read_jsonl


class ThinnedFile:
    """Rows with a "number" (0, 1, 2, …). The file holds those whose number is a multiple of 1, of
    2, of 4 …, the smallest of these for which it is at most `max_bytes` long.

    What is kept depends on what the file holds alone, so that a run that is resumed goes on as it
    would have.
    """

    def __init__(self, path: Path, max_bytes: float) -> None:
        self.path, self.max_bytes = path, max_bytes
        self._numbers = [row["number"] for row in read_jsonl(path)]
        gaps = [b - a for a, b in zip(self._numbers, self._numbers[1:], strict=False)]
        self._every = min(gaps, default=1)

    def wants(self, number: int) -> bool:
        """Whether the row of this number would be kept, if it is not too large."""
        return number % self._every == 0

    def append(self, row: dict[str, Any]) -> bool:
        """Write a row that is wanted; rows are dropped until there is room for it. Returns False if
        it has no room even beside the first row alone."""
        size = len(json.dumps(row, ensure_ascii=False).encode("utf-8", "backslashreplace")) + 1
        while self._size() + size > self.max_bytes:
            if len(self._numbers) < 2:
                return False
            self._every *= 2
            self._numbers = [n for n in self._numbers if self.wants(n)]
            filter_jsonl(self.path, lambda kept: self.wants(kept["number"]))
            if not self.wants(row["number"]):
                return True
        append_jsonl(self.path, [row])
        self._numbers.append(row["number"])
        return True

    def _size(self) -> int:
        return self.path.stat().st_size if self.path.exists() else 0
