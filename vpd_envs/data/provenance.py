"""What results were made with: versions, code, options.

A command that continues an earlier run of itself compares these facts with those that it wrote
then, and refuses to continue if they differ.
"""

from __future__ import annotations

import hashlib
import inspect
import json
import platform
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import MISSING, fields
from functools import cache
from importlib.metadata import PackageNotFoundError, packages_distributions, version
from pathlib import Path
from typing import Any

import sandbox

_GIT_SECONDS = 5.0
# Options that change no verdict: the fingerprint covers the problems, and verdicts are the same in
# every sandbox.
NOT_JUDGING = ("data", "sandbox", "render_mode")


def judge_code(env: Any) -> str:
    """A hash of the source that judges: this package's, the sandbox's, and the file of the
    environment's own class. A judge that was edited may give other verdicts."""
    folders = (Path(__file__).parents[1], Path(sandbox.__file__).parent)
    paths = {path for folder in folders for path in folder.resolve().rglob("*.py")}
    for kind in type(env).__mro__:
        if kind.__module__.split(".")[0] in ("gymnasium", "typing", "builtins"):
            continue
        with suppress(TypeError, OSError):  # typed into an interpreter
            paths.add(Path(inspect.getfile(kind)).resolve())
    digest = hashlib.sha256()
    for path in sorted(paths):
        digest.update(hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()[:16]


def text_hash(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:16]


def changed(
    there: Mapping[str, Any], here: Mapping[str, Any], defaults: Mapping[str, Any] | None = None
) -> dict[str, tuple[Any, Any]]:
    """What two records differ in, by the name of a leaf: (value there, value here).

    defaults: by name, of options that `there` lacks because they came after it was written. A new
        option comes with a default that leaves everything as it was.
    """
    b = dict(leaves(here))
    a = {k: v for k, v in (defaults or {}).items() if k in b} | dict(leaves(there))
    names = dict.fromkeys([*a, *b])
    return {n: (a.get(n), b.get(n)) for n in names if a.get(n) != b.get(n)}


def differences(
    there: Mapping[str, Any], here: Mapping[str, Any], defaults: Mapping[str, Any] | None = None
) -> str:
    """`changed` in words: `seed is 0 there, 3 here`; empty if in nothing."""
    found = changed(there, here, defaults)
    return "; ".join(f"{n} is {old!r} there, {new!r} here" for n, (old, new) in found.items())


def leaves(record: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """The values of nested mappings, under names joined by dots."""
    for name, value in record.items():
        if isinstance(value, Mapping):
            yield from leaves(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def field_defaults(*classes: type, prefix: str = "") -> dict[str, Any]:
    """Of the fields of dataclasses that have a default, as JSON gives them back; by name, with the
    prefix before it."""
    found = {
        f"{prefix}{field.name}": field.default
        for its_class in classes
        for field in fields(its_class)
        if field.default is not MISSING
    }
    return json.loads(json.dumps(found))


def versions(*packages: str) -> dict[str, str]:
    """Of Python, of this project and of packages, as far as they are installed; by distribution."""
    found = {"python": platform.python_version(), "vpd": own_version()}
    for name in packages:
        with suppress(PackageNotFoundError):
            found[name] = version(name)
    return found


@cache
def own_version() -> str:
    """This project's, whatever its distribution is called."""
    for name in packages_distributions().get(__name__.split(".")[0], ()):
        return version(name)
    return "not installed"


@cache
def commit() -> str | None:
    """The git commit of this project's source, `+changes` behind it if files differ from it; None
    where the source is in no git repository."""
    try:
        _git("ls-files", "--error-unmatch", Path(__file__).name)  # not somebody else's repository
        changed = _git("status", "--porcelain", "--untracked-files=no")
        return _git("rev-parse", "HEAD") + ("+changes" if changed else "")
    except (OSError, subprocess.SubprocessError):
        return None


def _git(*arguments: str) -> str:
    done = subprocess.run(
        ["git", *arguments],
        cwd=Path(__file__).parent,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=True,
        timeout=_GIT_SECONDS,
    )
    return done.stdout.strip()
