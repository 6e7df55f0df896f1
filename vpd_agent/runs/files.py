"""Files and folders that are either complete or not there, whenever the process is killed."""

from __future__ import annotations

import json
import math
import os
import shutil
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

Row = dict[str, Any]

# A folder that is being written, replaced or removed has another name for that time: its own with a
# dot before it and one of these behind it.
_NEW, _OLD, _GONE = ".new", ".old", ".gone"
_ESCAPE = "backslashreplace"  # a lone surrogate has no bytes in UTF-8: written as JSON's \udXXX


def write_atomically(path: Path, content: str | bytes) -> None:
    """Replace a file. A crash leaves either the old content or the new one."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    if isinstance(content, str):
        content = content.encode(errors=_ESCAPE)
    temporary.write_bytes(content)
    sync(temporary)
    temporary.replace(path)


def finite(value: Any) -> Any:
    """What JSON can hold of a value: NaN and infinity, which it does not have, as null."""
    if isinstance(value, dict):
        return {str(k): finite(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [finite(v) for v in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def is_temporary(path: Path, names: Iterable[str]) -> bool:
    """Whether a process that was killed in `write_atomically` left this, for a file with one of
    these names."""
    name, _, pid = path.name.removeprefix(".").rpartition(".")
    return path.name.startswith(".") and name in names and pid.isdecimal()


def append_jsonl(path: Path, rows: Iterable[Row]) -> None:
    with path.open("a", encoding="utf-8", errors=_ESCAPE) as file:
        file.writelines(map(_line, rows))


def read_jsonl(path: Path) -> list[Row]:
    """The rows of a JSON-lines file; none if there is no such file. A last line that a crash cut
    short is left out. Raises ValueError for any other line that is not JSON."""
    if not path.exists():
        return []
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


def filter_jsonl(path: Path, keep: Callable[[Row], bool]) -> None:
    """Keep only some rows of a JSON-lines file, if it is there."""
    if path.exists():
        write_atomically(path, "".join(map(_line, filter(keep, read_jsonl(path)))))


def _line(row: Row) -> str:
    return json.dumps(row, ensure_ascii=False) + "\n"


def new_folder(final: Path) -> Path:
    """Make an empty folder, to be named `final` by `finish_folder` when it is complete."""
    new = _renamed(final, _NEW)
    new.mkdir(parents=True)
    return new


def finish_folder(final: Path) -> None:
    """Write the folder of `new_folder` to the disk and name it `final`. A folder that had this name
    is removed. A crash leaves one of the two, which `fix_folders` gives its name."""
    new, old = _renamed(final, _NEW), _renamed(final, _OLD)
    for path in (*new.rglob("*"), new):
        sync(path)
    if final.exists():
        final.rename(old)
    new.rename(final)
    sync(final.parent)
    shutil.rmtree(old, ignore_errors=True)


def discard_folder(final: Path) -> None:
    """Remove the folder of `new_folder`, if `finish_folder` did not finish it."""
    shutil.rmtree(_renamed(final, _NEW), ignore_errors=True)


def remove_folder(folder: Path) -> None:
    """Remove a folder. It is renamed first, so that a folder that is only partly removed never has
    the name of a complete one."""
    gone = _renamed(folder, _GONE)
    folder.rename(gone)
    shutil.rmtree(gone, ignore_errors=True)


def fix_folders(parent: Path) -> None:
    """Repair what a killed process left in `parent`: an old folder that was not replaced yet gets
    its name back; folders that are half-written, replaced or half-removed are deleted."""
    for old in parent.glob(f".*{_OLD}"):
        final = old.with_name(old.name.removeprefix(".").removesuffix(_OLD))
        if not final.exists():
            old.rename(final)
    for ending in (_NEW, _OLD, _GONE):
        for left in parent.glob(f".*{ending}"):
            shutil.rmtree(left)


def _renamed(folder: Path, ending: str) -> Path:
    return folder.with_name(f".{folder.name}{ending}")


def sync(path: Path) -> None:
    """Wait until a file, or a folder's list of names, is on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def nearest(path: Path) -> Path:
    """The path, or the first folder above it that is there."""
    return next(each for each in (path, *path.absolute().parents) if each.exists())
