"""The folder of one run: configuration, metrics, samples, checkpoints. Nothing half-written."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

CONFIG, METRICS, SAMPLES, FAILURES = (
    "config.json",
    "metrics.jsonl",
    "samples.jsonl",
    "failures.jsonl",
)
CHECKPOINTS, MODEL, LOCK = "checkpoints", "model", ".lock"


class RunFolder:
    """An output folder that one process holds at a time.

    Layout: config.json, metrics.jsonl (a line per step), samples.jsonl (prompts, answers, feedback
    and teacher prompts), failures.jsonl (what the teacher is evaluated on), checkpoints/NNNNNN/,
    model/ (the final student).
    """

    def __init__(self, path: str | Path, *, resume: bool = False) -> None:
        self.path = Path(path)
        if self.path.exists() and not self.path.is_dir():
            raise ValueError(f"The output {self.path} is a file; pass a folder that can be made.")
        if not resume and self.path.is_dir() and any(self.path.iterdir()):
            raise ValueError(
                f"The output folder {self.path} is in use: it is not empty. Pass another --out, "
                f"add --resume to go on with the run in it, or remove it."
            )
        if resume and self.latest_checkpoint(self.path) is None:
            raise ValueError(
                f"There is nothing to resume in {self.path}: it has no finished checkpoint. "
                f"Start without --resume, in a new folder."
            )
        self.path.mkdir(parents=True, exist_ok=True)
        self._lock = (self.path / LOCK).open("w")
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            self._lock.close()
            raise ValueError(
                f"The output folder {self.path} is in use by a running process. Wait for it, or "
                f"pass another --out."
            ) from error

    def close(self) -> None:
        """Let go of the folder; one that got nothing goes too, so that bad input leaves nothing."""
        if {p.name for p in self.path.iterdir()} == {LOCK}:
            (self.path / LOCK).unlink()
            self.path.rmdir()
        self._lock.close()

    def write_config(self, config: dict[str, Any]) -> None:
        write_atomically(self.path / CONFIG, json.dumps(config, indent=2) + "\n")

    def append(self, name: str, rows: Iterable[dict[str, Any]]) -> None:
        with (self.path / name).open("a", encoding="utf-8") as file:
            file.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)

    def read(self, name: str) -> list[dict[str, Any]]:
        path = self.path / name
        return read_jsonl(path) if path.exists() else []

    def truncate(self, name: str, keep: Callable[[dict[str, Any]], bool]) -> None:
        """Drop rows that a resumed run will write again."""
        if (self.path / name).exists():
            rows = [json.dumps(r, ensure_ascii=False) + "\n" for r in self.read(name) if keep(r)]
            write_atomically(self.path / name, "".join(rows))

    def save_checkpoint(self, step: int, write: Callable[[Path], None], *, keep: int = 2) -> Path:
        """Let `write` fill a folder that takes its name only when it is complete."""
        final = self.path / CHECKPOINTS / f"{step:06d}"
        _fill(final, write)
        for old in sorted(final.parent.glob("[0-9]*"))[:-keep]:
            shutil.rmtree(old)
        return final

    def save_model(self, write: Callable[[Path], None]) -> Path:
        _fill(self.path / MODEL, write)
        return self.path / MODEL

    @staticmethod
    def latest_checkpoint(path: str | Path) -> Path | None:
        return max((Path(path) / CHECKPOINTS).glob("[0-9]*"), default=None)


def read_jsonl(path: Path) -> list[dict[str, Any]]:
    """Rows of a JSON-lines file; a last line that a crash cut short is left out."""
    rows = []
    lines = path.read_text(encoding="utf-8").splitlines()
    for number, line in enumerate(lines, 1):
        try:
            rows.append(json.loads(line))
        except json.JSONDecodeError as error:
            if number < len(lines):
                raise ValueError(
                    f"{path}, line {number}: expected JSON, got {line[:80]!r}."
                ) from error
    return rows


def write_atomically(path: Path, text: str) -> None:
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.write_text(text, encoding="utf-8")
    temporary.replace(path)


def _fill(final: Path, write: Callable[[Path], None]) -> None:
    final.parent.mkdir(parents=True, exist_ok=True)
    temporary = final.with_name(f".{final.name}.{os.getpid()}")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir()
    try:
        write(temporary)
        if final.exists():
            shutil.rmtree(final)
        temporary.replace(final)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
