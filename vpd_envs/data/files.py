"""Rows of a data set, from a local file or folder or from the Hugging Face hub, and their splits.

Every environment that reads data takes the same options (`DataOptions`):

data: a .jsonl, .json or .parquet file (each also as .gz, but for parquet), or a folder of them.
    None loads the data set from the hub, through the package `datasets`.
hub: another data set of the same layout on the hub, OWNER/NAME.
revision: its branch, tag or commit on the hub.
split: "all", "train" or "test". Rows that name their own split keep it; the others go by the hash
    of the problem's id, so that a problem never changes sides.
test_fraction: the share of those others that is in "test".
max_problems: the first so many of what is left.
"""

from __future__ import annotations

import dataclasses
import gzip
import hashlib
import io
import json
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

from sandbox import MIB
from sandbox.installation import install_hint
from vpd_envs.types import Problem

Row = Mapping[str, Any]
# What is refused unread, since so little text can stand for so much: bytes, decompressed.
LONGEST_LINE = 1024 * MIB  # of a .jsonl
LARGEST_LIST = 4096 * MIB  # a whole .json
LARGEST_ROW_GROUP = 4096 * MIB  # of a .parquet
_DAMAGED = (EOFError, gzip.BadGzipFile, zlib.error)
SUFFIXES = (".jsonl", ".json", ".jsonl.gz", ".json.gz", ".parquet")
_ADVICE = "Download its files and name them with data=FILE_OR_FOLDER (--data of a vpd command)."
_SPLITS = ("all", "train", "test")


@dataclass(frozen=True)
class Hub:
    """A data set on the Hugging Face hub."""

    name: str
    config: str | None = None
    split: str = "test"
    revision: str | None = None


@dataclass(frozen=True)
class DataOptions:
    """Which rows of which data set are asked: the options that the module's docstring explains.

    Raises ValueError for values that no data set has.
    """

    data: str | Path | None = None
    hub: str | None = None
    revision: str | None = None
    split: str = "all"
    test_fraction: float = 0.2
    max_problems: int | None = None

    def __post_init__(self) -> None:
        if self.split not in _SPLITS:
            raise ValueError(f"split must be 'all', 'train' or 'test', got {self.split!r}.")
        if not 0 <= self.test_fraction <= 1:
            raise ValueError(f"test_fraction must be between 0 and 1, got {self.test_fraction!r}.")
        if self.max_problems is not None and self.max_problems < 1:
            raise ValueError(f"max_problems must be at least 1 or None, got {self.max_problems!r}.")

    def source(self, default: Hub) -> Hub:
        """The data set on the hub: the environment's own, or the one that was named instead."""
        return dataclasses.replace(default, name=self.hub or default.name, revision=self.revision)


def load_problems(
    options: DataOptions,
    hub: Hub,
    problem_of: Callable[[Row, str], Problem | None],
    *,
    files: Callable[[Path], bool] = lambda path: True,
) -> list[Problem]:
    """The problems of a data set.

    hub: the data set to load where the options name none.
    problem_of: makes a problem of a row and its place ("FILE, line 3"), or gives None to leave the
        row out. It raises ValueError, which names the place, for a row of another layout.
    files: which files of a folder belong to the data set.

    Raises:
        FileNotFoundError: there is no such file, or no file of a known kind in the folder.
        ConnectionError: the hub could not be reached; the message names `data=`.
        ValueError: a bad row, or no problem is left.
    """
    hub = options.source(hub)
    problems: list[Problem] = []
    for row, place in read_rows(options.data, hub, files):
        problem = problem_of(row, place)
        if problem is None or not _in_split(problem, options, row.get("split")):
            continue
        problems.append(problem)
        if len(problems) == options.max_problems:
            break
    if not problems:
        raise ValueError(
            f"No problem of {options.data or hub.name} is left with split={options.split!r} and "
            "the other options. Widen them, or name other data."
        )
    return problems


def read_rows(
    data: str | Path | None, hub: Hub, files: Callable[[Path], bool] = lambda path: True
) -> Iterator[tuple[Row, str]]:
    """Rows and their places. A file's rows are read one by one, as they are asked for."""
    if data is None:
        yield from _hub_rows(hub)
        return
    for path in local_files(Path(data), files):
        empty = True
        for row, place in _file_rows(path):
            empty = False
            if not isinstance(row, Mapping):
                came = type(row).__name__
                raise ValueError(f"{place}: expected a row, a JSON object; came {came}.")
            yield row, place
        if empty:
            raise ValueError(f"{path} is empty: expected rows, one JSON object per line.")


def local_files(path: Path, belongs: Callable[[Path], bool] = lambda path: True) -> list[Path]:
    """The file itself, or the folder's data files in the order of their names."""
    if path.is_dir():
        found = sorted(each for each in path.iterdir() if each.name.endswith(SUFFIXES))
        chosen = [each for each in found if belongs(each)]
        if not chosen:
            there = f"it has {', '.join(each.name for each in found[:8])}" if found else "none"
            raise FileNotFoundError(
                f"The folder {path} has no file to read ({', '.join(SUFFIXES)}) for this "
                f"environment: {there}. Name one with data=."
            )
        return chosen
    if not path.is_file():
        raise FileNotFoundError(
            f"There is no {path}. data must be a file ({', '.join(SUFFIXES)}) or a folder of them."
        )
    if not path.name.endswith(SUFFIXES):
        raise ValueError(f"{path}: data must end in one of {', '.join(SUFFIXES)}.")
    return [path]


def _file_rows(path: Path) -> Iterator[tuple[Any, str]]:
    if path.suffix == ".parquet":
        return _parquet_rows(path)
    lines = path.name.removesuffix(".gz").endswith(".jsonl")
    return json_lines(path) if lines or _begins_with_object(path) else _json_list(path)


def _begins_with_object(path: Path) -> bool:
    """Whether a .json has rows one per line, as the package `datasets` writes them, and no list."""
    try:
        with _opened(path) as file:
            return file.read(4096).lstrip().startswith(b"{")
    except _DAMAGED:
        return False  # whoever reads it says so


def json_lines(path: Path) -> Iterator[tuple[Any, str]]:
    """The JSON values of a file, one per line. A line that is cut off is named."""
    number = 0
    try:
        with _opened(path) as file:
            while line := file.readline(LONGEST_LINE + 1):
                number += 1
                place = f"{path}, line {number}"
                if len(line) > LONGEST_LINE:
                    raise _too_large(place, LONGEST_LINE)
                if line.strip():
                    yield parsed(line, "the line (is the file complete?)", place), place
    except _DAMAGED as error:
        raise ValueError(
            f"{path}, after line {number}: the compressed file is damaged or cut off ({error})."
        ) from error


def _json_list(path: Path) -> Iterator[tuple[Any, str]]:
    try:
        with _opened(path) as file:
            text = file.read(LARGEST_LIST + 1)
    except _DAMAGED as error:
        raise ValueError(f"{path}: the compressed file is damaged or cut off ({error}).") from error
    if len(text) > LARGEST_LIST:
        raise _too_large(str(path), LARGEST_LIST)
    listed = parsed(text, "the file (is it complete?)", str(path))
    if not isinstance(listed, list):
        raise ValueError(f"{path}: expected a JSON list of rows, came {type(listed).__name__}.")
    for number, row in enumerate(listed, start=1):
        yield row, f"{path}, row {number}"


def _opened(path: Path) -> io.BufferedIOBase:
    return gzip.open(path, "rb") if path.suffix == ".gz" else path.open("rb")


def _too_large(place: str, limit: int) -> ValueError:
    return ValueError(
        f"{place}: refused, since it holds more than {limit / MIB:g} MB once decompressed. If the "
        "file is to be trusted, split it."
    )


def _parquet_rows(path: Path) -> Iterator[tuple[Row, str]]:
    try:
        from pyarrow import ArrowException
        from pyarrow.parquet import ParquetFile
    except ImportError as error:
        raise ValueError(f"{path}: reading parquet needs pyarrow: {install_hint('hub')}") from error
    number = 0
    try:
        with ParquetFile(path) as file:
            for i in range(file.num_row_groups):
                if file.metadata.row_group(i).total_byte_size > LARGEST_ROW_GROUP:
                    raise _too_large(f"{path}, row group {i + 1}", LARGEST_ROW_GROUP)
            for batch in file.iter_batches(batch_size=8):  # rows of code problems have megabytes
                for row in batch.to_pylist():
                    number += 1
                    yield row, f"{path}, row {number}"
    except (ArrowException, OSError, UnicodeDecodeError, OverflowError) as error:
        raise ValueError(
            f"{path}, after row {number}: no complete parquet file ({error})."
        ) from error


def _hub_rows(hub: Hub) -> Iterator[tuple[Any, str]]:
    with _loading(hub, "datasets") as datasets:
        rows = datasets.load_dataset(hub.name, hub.config, split=hub.split, revision=hub.revision)
    for number, row in enumerate(rows, start=1):
        yield row, f"{hub.name}, row {number}"


def hub_folder(hub: Hub, names: Iterable[str]) -> Path:
    """A folder with these files of a data set, downloaded unless they are in the hub's cache."""
    with _loading(hub, "huggingface_hub") as client:
        paths = [
            client.hf_hub_download(hub.name, name, repo_type="dataset", revision=hub.revision)
            for name in names
        ]
    return Path(paths[0]).parent


@contextmanager
def _loading(hub: Hub, package: str) -> Iterator[ModuleType]:
    """The package with which the body loads a data set; errors of both are told to a person."""
    try:
        client = import_module(package)
    except ImportError as error:
        raise ValueError(
            f"Loading {hub.name} from the hub needs the package {package} "
            f"({install_hint('hub')}). Install it, or: {_ADVICE}"
        ) from error
    try:
        yield client
    except Exception as error:  # the hub's client raises dozens of kinds
        raise ConnectionError(
            f"Could not load {hub.name} (split {hub.split}, revision {hub.revision or 'main'}) "
            f"from the Hugging Face hub: {type(error).__name__}: {error} {_ADVICE}"
        ) from error


def parsed(text: str | bytes, name: str, place: str) -> Any:
    """The JSON value of a text. Raises ValueError, which names the place, for any other text."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        start = text[:60]
        raise ValueError(
            f"{place}: {name} must be JSON, but {error}. It starts with {start!r}."
        ) from error


def field(row: Row, place: str, layout: str, *names: str) -> Any:
    """The first of these fields that the row has and that is not None.

    layout: what the row should be, for the message of the ValueError.
    """
    for name in names:
        if row.get(name) is not None:
            return row[name]
    raise ValueError(
        f"{place}: expected {layout}; it needs {' or '.join(map(repr, names))}, but the row has "
        f"{', '.join(map(repr, sorted(map(str, row))[:20]))}."
    )


def text_field(row: Row, place: str, layout: str, *names: str) -> str:
    """`field`, which must be a text with something in it."""
    value = field(row, place, layout, *names)
    if not isinstance(value, str) or not value.strip():
        raise ValueError(
            f"{place}: expected {layout}, whose {' or '.join(map(repr, names))} is a text; came "
            f"{type(value).__name__}: {value!r:.60}."
        )
    return value


def content_id(prefix: str, *texts: str) -> str:
    """An id for a row that has none: a hash of its content."""
    digest = hashlib.sha256("\x00".join(texts).encode("utf-8", "surrogatepass"))
    return f"{prefix}-{digest.hexdigest()[:12]}"


# Splits -------------------------------------------------------------------------------------------


def _in_split(problem: Problem, options: DataOptions, own: Any) -> bool:
    """Whether a problem is in the split. own: the row's own split, which decides if it has one."""
    if options.split == "all":
        return True
    if own in ("train", "test"):
        return options.split == own
    return (options.split == "test") == (hashed_fraction(problem.id) < options.test_fraction)


def hashed_fraction(text: str) -> float:
    """A number in [0, 1) that only this text decides, the same on every machine."""
    digest = hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()
    return (int.from_bytes(digest[:8]) >> 11) / 2**53


def checked_texts(values: Any, place: str, what: str) -> list[str]:
    """The values, if all are texts. Raises ValueError otherwise."""
    if not isinstance(values, list | tuple) or not all(isinstance(each, str) for each in values):
        raise ValueError(f"{place}: {what} must be a list of texts, came {values!r:.60}.")
    return list(values)
