"""A comparison that is called again when all of it is done: noticed from what its files look like,
without torch and without a model."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from vpd_agent.runs.run_folder import CONFIG, METRICS

_PACKAGES = ("sandbox", "vpd_envs", "vpd_agent", "torch", "transformers")
_OF_A_RUN = (CONFIG, METRICS, "model/metrics.json")


def inputs(
    arguments: Sequence[str], out: Path, model: str, reuse: Path | None = None
) -> dict[str, Any]:
    """What a comparison depends on, as JSON: its arguments, and size and time of change of every
    file that they name, of the own code of these packages, and of torch and transformers.

    arguments: of vpd compare. A word of them that is a file or a folder, has one behind '=', or
    names a module before ':' counts as one. out: where the comparison is written; reuse: where runs
    are copied from. Neither is looked into.
    model: as --model; of one from the hub it is told which snapshot is in the cache.
    """
    named = (path for word in arguments for path in _named(word) if path.exists())
    paths = [_origin(package) for package in _PACKAGES]
    apart = {path.resolve() for path in (out, reuse) if path is not None}
    paths += [path for path in named if path.resolve() not in apart]
    return {
        "arguments": list(arguments),
        "python": sys.version,
        "files": {str(path.resolve()): _newest(_files(path)) for path in paths if path},
        "snapshot": _snapshot(model),
    }


def outputs(folders: Iterable[Path]) -> dict[str, Any]:
    """Size and time of change of what these runs left, as JSON."""
    return {
        str(folder.resolve()): [_newest([folder / name]) for name in _OF_A_RUN]
        for folder in folders
    }


def is_finished(
    there: Mapping[str, Any],
    arguments: Sequence[str],
    out: Path,
    model: str,
    report: Sequence[str],
    reuse: Path | None = None,
) -> bool:
    """Whether nothing has changed since experiment.json (`there`) was written at the end of this
    very command, and its report is there.

    report: the names of its files in `out`.
    """
    done = there.get("finished")
    return (
        done is not None
        and all((out / name).is_file() for name in report)
        and done["inputs"] == inputs(arguments, out, model, reuse)
        and done["outputs"] == outputs(map(Path, done["outputs"]))
    )


def _named(word: str) -> Iterator[Path]:
    """Where the files are that a word may speak of."""
    for text in {word, word.rpartition("=")[2], word.partition(":")[0]}:
        if text and not text.startswith("-"):
            yield Path(text)
    module = word.partition(":")[0].partition(".")[0]
    if ":" in word and module.isidentifier() and (origin := _origin(module)):
        yield origin


def _origin(package: str) -> Path | None:
    """The file of a module; of a package that is worked on, its folder."""
    found = importlib.util.find_spec(package)
    if found is None or found.origin is None:
        return None
    path = Path(found.origin)
    return path.parent if found.submodule_search_locations and "site-" not in str(path) else path


def _files(path: Path) -> Iterable[Path]:
    if path.is_file():
        return [path]
    return (p for p in path.rglob("*") if p.is_file() and p.suffix != ".pyc")


def _newest(paths: Iterable[Path]) -> list[int]:
    """How many files there are, their size and when the last was changed."""
    stats = [path.stat() for path in paths if path.is_file()]
    return [
        len(stats), sum(s.st_size for s in stats), max((s.st_mtime_ns for s in stats), default=0)
    ]  # fmt: skip


def _snapshot(model: str) -> str:
    """Where the cache has a model of the hub; "" for others."""
    if "/" not in model or Path(model).exists():
        return ""
    from huggingface_hub import try_to_load_from_cache

    return str(try_to_load_from_cache(model, "config.json"))
