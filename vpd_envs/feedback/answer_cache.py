"""Answers of a chat model that are kept in a file, so that no question is paid for twice."""

from __future__ import annotations

import contextlib
import logging
import sqlite3
from collections.abc import Iterator
from pathlib import Path

log = logging.getLogger("vpd_envs")


class AnswerCache:
    """Answers by key in an SQLite file; opened for each use, so it may be pickled and shared."""

    def __init__(self, path: str | Path) -> None:
        self.path = str(path)
        try:
            Path(path).parent.mkdir(parents=True, exist_ok=True)
            with self._open() as table:
                table.execute(
                    "CREATE TABLE IF NOT EXISTS answers (key TEXT PRIMARY KEY, text TEXT)"
                )
        except (sqlite3.Error, OSError) as error:
            raise ValueError(
                f"cache={self.path!r} cannot be used as a cache of answers: {error}. Expected the "
                "path of an SQLite file, or of one to be made."
            ) from error

    def read(self, keys: set[str]) -> dict[str, str]:
        found: dict[str, str] = {}
        try:
            with self._open() as table:
                for key in keys:
                    rows = table.execute("SELECT text FROM answers WHERE key = ?", (key,))
                    for (text,) in rows:
                        found[key] = text
        except sqlite3.Error as error:
            log.warning("The cache %s could not be read: %s", self.path, error)
        return found

    def write(self, key: str, text: str) -> None:
        """Keep an answer. Where that fails a warning is logged: the answer can still be used."""
        try:
            with self._open() as table:
                table.execute("INSERT OR IGNORE INTO answers VALUES (?, ?)", (key, text))
        except sqlite3.Error as error:
            log.warning("An answer could not be written to the cache %s: %s", self.path, error)

    @contextlib.contextmanager
    def _open(self) -> Iterator[sqlite3.Connection]:
        """A transaction."""
        with contextlib.closing(sqlite3.connect(self.path, timeout=10.0)) as connection, connection:
            yield connection
