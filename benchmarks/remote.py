"""A contestant of a benchmark, in a process of its own, as the benchmark sees it."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent


class Missing(Exception):
    """This contestant cannot take part, or no longer. The message says why."""


class Process:
    """A process that calls `serve(descriptor)` of a module of this folder.

    It is sent a first question at once, so that several can get ready side by side, and answers
    each with ("missing", reason), or with a word of its own and a value.

    about: its answer to the first question, once it was ready.
    """

    def __init__(
        self,
        module: str,
        question: Any,
        *,
        answer_seconds: float,
        environment: Mapping[str, str] | None = None,
        python: Path | str = sys.executable,
    ) -> None:
        self.about: Any = None
        self._answer_seconds = answer_seconds
        self._question = question
        self._connection, theirs = multiprocessing.Pipe()
        self._words = tempfile.TemporaryFile()  # noqa: SIM115 - closed with us
        command = f"import sys; sys.path.insert(0, {str(HERE)!r}); import {module}; "
        try:
            self._process = subprocess.Popen(
                [python, "-c", command + f"{module}.serve({theirs.fileno()})"],
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=self._words,
                env=os.environ | (environment or {}),
            )
        finally:
            theirs.close()
        with contextlib.suppress(OSError):  # it has ended already: `ready` tells
            self._connection.send(question)

    @property
    def pid(self) -> int:
        return self._process.pid

    def ready(self) -> None:
        """Wait until it can be asked. Raises Missing."""
        self.about = self._answer()

    def ask(self, question: Any) -> Any:
        """Its answer. Raises Missing."""
        self._question = question
        try:
            self._connection.send(question)
        except OSError as error:
            raise Missing(self._last_words()) from error
        return self._answer()

    def close(self) -> None:
        self._connection.close()
        try:
            self._process.wait(timeout=30)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._words.close()

    def _answer(self) -> Any:
        try:
            if not self._connection.poll(self._answer_seconds):
                raise Missing(f"no answer in {self._answer_seconds:g} s to {self._question!r:.80}")
            kind, answer = self._connection.recv()
        except (EOFError, OSError) as error:
            raise Missing(self._last_words()) from error
        if kind == "missing":
            raise Missing(answer)
        return answer

    def _last_words(self) -> str:
        self._words.seek(0)
        lines = self._words.read().decode("utf-8", "replace").strip().splitlines()
        return f"its process ended, saying: {''.join(lines[-1:])}"
