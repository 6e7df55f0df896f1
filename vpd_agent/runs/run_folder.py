"""The folder of one run: configuration, metrics, samples, checkpoints. Nothing half-written."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from vpd_agent.distributed.world import Processes

CONFIG, METRICS, SAMPLES, FAILURES, BAD_BATCHES = (
    "config.json",
    "metrics.jsonl",
    "samples.jsonl",
    "failures.jsonl",
    "bad_batches.jsonl",
)
CHECKPOINTS, MODEL, BEST, LOCK = "checkpoints", "model", "best", ".lock"
MODEL_METRICS = "metrics.json"  # in BEST and MODEL: the row of their step
# Behind the name of a folder that is being written, replaced or removed, with a dot before it.
NEW, OLD, GONE = ".new", ".old", ".gone"

Write = Callable[[Path | None], None]


class SaveError(OSError):
    """The folder could not be written to. What was complete before is complete still."""


class RunFolder:
    """An output folder that one run holds at a time.

    Layout: config.json, metrics.jsonl (a line per step), samples.jsonl (prompts, answers, feedback
    and teacher prompts), failures.jsonl (what the teacher is evaluated on), bad_batches.jsonl
    (batches whose loss was no finite number), checkpoints/NNNNNN/, best/ (the student that was best
    when evaluated), model/ (the final student; that it is there says that the run has finished, and
    its metrics.json at which step).

    resume: go on with the run in the folder. One that never came to a checkpoint begins anew.
    processes: those of the run. Each makes a RunFolder and calls the same methods; the first one
        writes, and where it cannot, all raise.
    """

    def __init__(
        self, path: str | Path, *, resume: bool = False, processes: Processes | None = None
    ) -> None:
        self.path = Path(path)
        self._processes = processes
        self._lock = None
        with self._together():
            if self._is_first:
                self._open(resume)

    def _open(self, resume: bool) -> None:
        if self.path.exists() and not self.path.is_dir():
            raise ValueError(f"The output {self.path} is a file; pass a folder that can be made.")
        # A run that was killed at once may have left no more than a half-written config.json.
        used = self.path.is_dir() and any(not _is_ours_alone(p) for p in self.path.iterdir())
        if used and not resume:
            raise ValueError(
                f"The output folder {self.path} is in use: it is not empty. Pass another --out, "
                f"add --resume to go on with the run in it, or remove it."
            )
        if resume:
            self.check_begun(self.path)
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
        self._mend()
        if not self.latest_checkpoint(self.path):
            for name in (METRICS, SAMPLES, FAILURES, BAD_BATCHES):
                (self.path / name).unlink(missing_ok=True)

    def close(self) -> None:
        """Let go of the folder; one that got nothing goes too, so that bad input leaves nothing."""
        if self._lock is None or self._lock.closed:
            return
        if {p.name for p in self.path.iterdir()} == {LOCK}:
            (self.path / LOCK).unlink()
            self.path.rmdir()
        self._lock.close()

    def write_config(self, config: dict[str, Any]) -> None:
        with self._together():
            if self._is_first:
                write_atomically(self.path / CONFIG, json.dumps(config, indent=2) + "\n")

    def append(self, name: str, rows: Iterable[dict[str, Any]]) -> None:
        # A lone surrogate, which UTF-8 has no bytes for, becomes JSON's own escape of it.
        with self._together():
            if self._is_first:
                with (self.path / name).open("a", encoding="utf-8", errors=ESCAPE) as file:
                    file.writelines(map(_line, rows))

    def read(self, name: str) -> list[dict[str, Any]]:
        path = self.path / name
        return read_jsonl(path) if path.exists() else []

    def truncate(self, name: str, keep: Callable[[dict[str, Any]], bool]) -> None:
        """Drop rows that a resumed run will write again."""
        with self._together():
            if self._is_first and (self.path / name).exists():
                rows = map(_line, filter(keep, self.read(name)))
                write_atomically(self.path / name, "".join(rows))

    def save_checkpoint(self, step: int, write: Write, *, keep: int = 2) -> Path:
        """Let `write` fill a folder that takes its name only when it is complete and on the disk;
        the `keep` newest stay.

        Every process's `write` is called: the first one's with the folder, the others' with None.
        Raises SaveError, with the checkpoints as they were.
        """
        with self._together():
            for name in (METRICS, SAMPLES):  # a checkpoint answers for the rows up to its step
                if self._is_first and (self.path / name).exists():
                    _sync(self.path / name)
        final = self.path / CHECKPOINTS / f"{step:06d}"
        self._fill(final, write)
        if self._is_first:
            for old in _by_step(final.parent)[:-keep]:
                _remove(old)
        return final

    def save_best(self, write: Write) -> Path:
        """As `save_checkpoint`, in place of the best model so far."""
        return self._fill(self.path / BEST, write)

    def save_model(self, write: Write) -> Path:
        """As `save_checkpoint`, the model that training ends with."""
        return self._fill(self.path / MODEL, write)

    @staticmethod
    def check_begun(path: str | Path) -> None:
        """Raise ValueError if no run was begun in a folder."""
        path = Path(path)
        if not path.is_dir():
            raise ValueError(
                f"There is nothing to resume in {path}: there is no such folder. Pass the --out of "
                f"the run that is to go on, or leave --resume away to start one."
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

    @property
    def _is_first(self) -> bool:
        return self._processes is None or self._processes.is_first

    def _fill(self, final: Path, write: Write) -> Path:
        new = final.with_name(f".{final.name}{NEW}")
        try:
            with self._together():
                if self._is_first:
                    new.mkdir(parents=True)
            with self._together():
                write(new if self._is_first else None)
            with self._together():
                if self._is_first:
                    _sync_tree(new)
                    _replace(new, final)
        finally:
            if self._is_first:
                shutil.rmtree(new, ignore_errors=True)
        return final

    def _mend(self) -> None:
        """Put right what a killed process left: half-written folders, and one set aside for a newer
        one that never came."""
        for folder in (self.path, self.path / CHECKPOINTS):
            for old in folder.glob(f".*{OLD}"):
                final = old.with_name(old.name.removeprefix(".").removesuffix(OLD))
                if not final.exists():
                    old.rename(final)
            for ending in (NEW, OLD, GONE):
                for left in folder.glob(f".*{ending}"):
                    shutil.rmtree(left)
        for left in filter(_is_temporary, self.path.iterdir()):
            left.unlink()

    @contextmanager
    def _together(self) -> Iterator[None]:
        """Work on files that fails in all processes if it fails in one."""
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
        """A failure to write in words, any other as it is. Torch and safetensors report what the
        disk said as errors of their own."""
        if not isinstance(error, OSError | RuntimeError) and not _is_of_safetensors(error):
            return error
        cause: BaseException | None = error
        while cause is not None and not isinstance(cause, OSError):
            cause = cause.__cause__ or cause.__context__
        if cause is None and isinstance(error, RuntimeError):
            return error
        explained = SaveError(
            f"{self.path} could not be written to: {cause or error}. {_free_space(self.path)} What "
            f"was saved before is whole. Make room there (or lift the quota), then go on with "
            f"--resume."
        )
        explained.__cause__ = error
        return explained


ESCAPE = "backslashreplace"


def _line(row: dict[str, Any]) -> str:
    return json.dumps(row, ensure_ascii=False) + "\n"


def _is_of_safetensors(error: Exception) -> bool:
    from safetensors import SafetensorError

    return isinstance(error, SafetensorError)


def read_jsonl(path: Path) -> list[dict[str, Any]]:
    """Rows of a JSON-lines file; a last line that a crash cut short is left out."""
    rows = []
    lines = path.read_text(encoding="utf-8", errors="replace").split("\n")
    for number, line in enumerate(lines, 1):
        try:
            rows.append(json.loads(line))
        except json.JSONDecodeError as error:
            if number < len(lines):
                raise ValueError(
                    f"{path}, line {number}: expected JSON, got {line[:80]!r}."
                ) from error
    return rows


def _is_ours_alone(path: Path) -> bool:
    """Whether a file says nothing of a run, nor of anything else."""
    return path.name == LOCK or _is_temporary(path)


def _is_temporary(path: Path) -> bool:
    """Whether it is what a kill inside of `write_atomically` leaves of a file of a run."""
    stem, _, process = path.name.rpartition(".")
    return process.isdigit() and stem in {f".{n}" for n in (CONFIG, METRICS, SAMPLES, BAD_BATCHES)}


def write_atomically(path: Path, text: str) -> None:
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.write_text(text, encoding="utf-8", errors=ESCAPE)
    _sync(temporary)
    temporary.replace(path)


def _by_step(checkpoints: Path) -> list[Path]:
    return sorted(checkpoints.glob("[0-9]*"), key=lambda path: int(path.name))


def _replace(new: Path, final: Path) -> None:
    """A folder takes the place of another. A crash in between leaves one of both (see `_mend`)."""
    old = final.with_name(f".{final.name}{OLD}")
    if final.exists():
        final.rename(old)
    new.rename(final)
    _sync(final.parent)
    shutil.rmtree(old, ignore_errors=True)


def _remove(folder: Path) -> None:
    """What is half-removed must not go by the name of what is whole."""
    gone = folder.with_name(f".{folder.name}{GONE}")
    folder.rename(gone)
    shutil.rmtree(gone, ignore_errors=True)


def _sync_tree(folder: Path) -> None:
    for path in folder.rglob("*"):
        _sync(path)
    _sync(folder)


def _sync(path: Path) -> None:
    """Wait until a file or a folder's list of names is on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _free_space(path: Path) -> str:
    try:
        return f"{shutil.disk_usage(path).free / (1 << 20):,.0f} MiB are free there."
    except OSError:
        return ""
