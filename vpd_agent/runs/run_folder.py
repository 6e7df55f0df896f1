"""The folder of one run: configuration, metrics, samples, checkpoints. A crash at any moment leaves
complete files and folders only (see `files`)."""

from __future__ import annotations

import fcntl
import json
import shutil
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, TypeVarTuple

from safetensors import SafetensorError

from vpd_agent.runs.files import (
    append_jsonl,
    discard_folder,
    filter_jsonl,
    finish_folder,
    fix_folders,
    is_temporary,
    new_folder,
    read_jsonl,
    remove_folder,
    sync,
    write_atomically,
)

if TYPE_CHECKING:
    from vpd_agent.distributed.world import Processes

CONFIG = "config.json"
METRICS = "metrics.jsonl"
SAMPLES = "samples.jsonl"
INSPECT = "inspect.jsonl"
FAILURES = "failures.jsonl"
BAD_BATCHES = "bad_batches.jsonl"
CHECKPOINTS, MODEL, BEST = "checkpoints", "model", "best"
MODEL_METRICS = "metrics.json"  # in BEST and MODEL: the metrics of their step
LOCK = ".lock"

Write = Callable[[Path | None], None]  # writes into a folder; in all processes but the first: None
Args = TypeVarTuple("Args")
Result = TypeVar("Result")


class SaveError(OSError):
    """The folder could not be written to. What was saved before is still complete."""


class RunFolder:
    """An output folder that one run holds at a time.

    Layout: config.json, metrics.jsonl (a line per step), samples.jsonl (prompts, answers, feedback
    and teacher prompts), inspect.jsonl (what `vpd inspect` shows), failures.jsonl (what the teacher
    is evaluated on), bad_batches.jsonl (batches whose loss was not a finite number),
    checkpoints/NNNNNN/, best/ (the student with the best evaluation), model/ (the final student; it
    is there if and only if the run has finished, and its metrics.json says at which step).

    resume: continue the run in the folder. A run without a checkpoint starts again from the
        beginning.
    processes: those of the run. Each makes a RunFolder and calls the same methods; the first one
        writes. If it fails, all raise.

    Raises ValueError for a folder that cannot be used, SaveError if the disk refuses.
    """

    def __init__(
        self, path: str | Path, *, resume: bool = False, processes: Processes | None = None
    ) -> None:
        self.path = Path(path)
        self._processes = processes
        self._lock = None
        self._first_alone(self._open, resume)

    def _open(self, resume: bool) -> None:
        if self.path.exists() and not self.path.is_dir():
            raise ValueError(f"The output {self.path} is a file; pass a folder that can be made.")
        if resume:
            self.check_begun(self.path)
        # A run that was killed at once may have left only a half-written config.json.
        elif self.path.is_dir() and not all(
            path.name == LOCK or _is_temporary(path) for path in self.path.iterdir()
        ):
            raise ValueError(
                f"The output folder {self.path} is in use: it is not empty. Pass another --out, "
                f"add --resume to go on with the run in it, or remove it."
            )
        finished = self.finished_step(self.path)
        if finished is not None and not self.latest_checkpoint(self.path):
            raise ValueError(
                f"The run in {self.path} finished at step {finished} and left no checkpoint to go "
                f"on from (--save-every 0). Train its model in a new folder: --model "
                f"{self.path / MODEL}."
            )
        self.path.mkdir(parents=True, exist_ok=True)
        lock = (self.path / LOCK).open("w")
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            lock.close()
            raise ValueError(
                f"The output folder {self.path} is in use by a running process. Wait for it, or "
                f"pass another --out."
            ) from error
        self._lock = lock
        for folder in (self.path, self.path / CHECKPOINTS):
            fix_folders(folder)
        for left in filter(_is_temporary, self.path.iterdir()):
            left.unlink()
        if not self.latest_checkpoint(self.path):
            for name in (METRICS, SAMPLES, INSPECT, FAILURES, BAD_BATCHES):
                (self.path / name).unlink(missing_ok=True)

    def close(self) -> None:
        """Unlock the folder. An empty one is removed, so that bad input leaves nothing behind."""
        if self._lock is None or self._lock.closed:
            return
        if {p.name for p in self.path.iterdir()} == {LOCK}:
            (self.path / LOCK).unlink()
            self.path.rmdir()
        self._lock.close()

    def write_config(self, config: dict[str, Any]) -> None:
        text = json.dumps(config, indent=2) + "\n"
        self._first_alone(write_atomically, self.path / CONFIG, text)

    def append(self, name: str, rows: Iterable[dict[str, Any]]) -> None:
        self._first_alone(append_jsonl, self.path / name, rows)

    def first_alone(self, work: Callable[[], Result]) -> Result | None:
        """What `work` returns, called in the first process only. It may write here; if it fails, it
        raises in all."""
        return self._first_alone(work)

    def read(self, name: str) -> list[dict[str, Any]]:
        return read_jsonl(self.path / name)

    def truncate(self, name: str, keep: Callable[[dict[str, Any]], bool]) -> None:
        """Drop the rows that a resumed run will write again."""
        self._first_alone(filter_jsonl, self.path / name, keep)

    def save_checkpoint(self, step: int, write: Write, *, keep: int = 2) -> Path:
        """Let `write` fill a folder, which gets its name when it is complete and on the disk. Then
        only the `keep` newest checkpoints are kept.

        `write` is called in every process: in the first one with the folder, in the others with
        None. Raises SaveError; then the checkpoints are as before.
        """
        with self._fail_together():
            for name in (METRICS, SAMPLES, INSPECT):  # a checkpoint needs the rows up to its step
                if self._is_first and (self.path / name).exists():
                    sync(self.path / name)
        final = self.path / CHECKPOINTS / f"{step:06d}"
        self._fill(final, write)
        if self._is_first:
            for old in _by_step(final.parent)[:-keep]:
                remove_folder(old)
        return final

    def save_best(self, write: Write) -> Path:
        """Like `save_checkpoint`; replaces the best model so far."""
        return self._fill(self.path / BEST, write)

    def save_model(self, write: Write) -> Path:
        """Like `save_checkpoint`, for the model at the end of training."""
        return self._fill(self.path / MODEL, write)

    @staticmethod
    def check_begun(path: str | Path) -> None:
        """Raise ValueError if no run was begun in a folder."""
        path = Path(path)
        if not path.is_dir():
            raise ValueError(
                f"There is nothing to resume in {path}: there is no such folder. Pass the --out of "
                f"the run that is to go on, or leave --resume out to start one."
            )
        if not (path / CONFIG).exists() and not RunFolder.latest_checkpoint(path):
            raise ValueError(
                f"There is nothing to resume in {path}: no run was begun there. "
                f"Start without --resume, in a new folder."
            )

    @staticmethod
    def latest_checkpoint(path: str | Path) -> Path | None:
        return next(reversed(_by_step(Path(path) / CHECKPOINTS)), None)

    @staticmethod
    def finished_step(path: str | Path) -> int | None:
        """The step at which the run in a folder has finished; None if it has not."""
        try:
            return json.loads(Path(path, MODEL, MODEL_METRICS).read_text(encoding="utf-8"))["step"]
        except (OSError, ValueError, KeyError, TypeError):
            return None

    @staticmethod
    def remove_weights(path: str | Path) -> None:
        """Leave of a finished run its numbers and texts: it can neither go on nor be loaded."""
        path = Path(path)
        for folder in (path / CHECKPOINTS, path / BEST):
            if folder.is_dir():
                remove_folder(folder)
        for file in (path / MODEL).glob("*.safetensors"):
            file.unlink()

    @property
    def _is_first(self) -> bool:
        return self._processes is None or self._processes.is_first

    def _fill(self, final: Path, write: Write) -> Path:
        try:
            new = self._first_alone(new_folder, final)
            with self._fail_together():
                write(new)
            self._first_alone(finish_folder, final)
        finally:
            if self._is_first:
                discard_folder(final)
        return final

    def _first_alone(self, work: Callable[[*Args], Result], *args: *Args) -> Result | None:
        """Call it in the first process only. If it fails there, it raises in all of them."""
        with self._fail_together():
            return work(*args) if self._is_first else None

    @contextmanager
    def _fail_together(self) -> Iterator[None]:
        """If the block fails in one process, it raises in all of them."""
        error: Exception | None = None
        try:
            yield
        except Exception as failure:
            error = self._explained(failure)
        failed = error is not None
        if self._processes is not None:
            failed = bool(self._processes.max(int(failed)))
        if failed:
            raise error or SaveError("Another process could not write; its message says why.")

    def _explained(self, error: Exception) -> Exception:
        """A SaveError for a failure to write, any other error unchanged. torch and safetensors
        raise errors of their own for what the operating system reports."""
        if not isinstance(error, OSError | RuntimeError | SafetensorError):
            return error
        cause: BaseException | None = error
        while cause is not None and not isinstance(cause, OSError):
            cause = cause.__cause__ or cause.__context__
        if cause is None and isinstance(error, RuntimeError):
            return error
        if self.path.is_dir():
            message = (
                f"{self.path} could not be written to: {cause or error}. {_free_space(self.path)} "
                f"What was saved before is whole. Make room there (or lift the quota), then go on "
                f"with --resume."
            )
        else:
            message = f"{self.path} could not be made: {cause or error}. Pass another --out."
        explained = SaveError(message)
        explained.__cause__ = error
        return explained


def _is_temporary(path: Path) -> bool:
    return is_temporary(path, (CONFIG, METRICS, SAMPLES, INSPECT, BAD_BATCHES))


def _by_step(checkpoints: Path) -> list[Path]:
    return sorted(checkpoints.glob("[0-9]*"), key=lambda path: int(path.name))


def _free_space(path: Path) -> str:
    try:
        return f"{shutil.disk_usage(path).free / (1 << 20):,.0f} MiB are free there."
    except OSError:
        return ""
