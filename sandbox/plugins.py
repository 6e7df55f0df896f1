"""Classes by name, from anywhere: a name of ours, `module:Class`, or `path/to/file.py:Class`.

Environments, feedback sources, algorithms, engines and sandboxes are all found here.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
from collections.abc import Collection, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

FORM = "module:Class or path/to/file.py:Class"


def unknown(what: str, name: str, known: Collection[str], *, also: str = "") -> str:
    """What to say of a name that is not known: the closest ones, all there are (of many, the first
    30), and `also`, another form that a name may have."""
    hint = did_you_mean(name, known)
    more = f" and {len(known) - 30} more" if len(known) > 30 else ""
    there = f" There are {', '.join([*known][:30])}{more}" if known else " There are none"
    return f"Unknown {what} {name!r}.{hint}{there}{f'; or {also}' if also else ''}."


def did_you_mean(name: str, known: Collection[str], n: int = 2) -> str:
    """ " Did you mean 'x' or 'y'?" with the n closest of those known; empty if none is close."""
    import difflib  # only now, so that `import sandbox` is quick

    close = difflib.get_close_matches(name, known, n=n, cutoff=0.5)
    return f" Did you mean {' or '.join(map(repr, close))}?" if close else ""


def load(what: str, name: str, known: Mapping[str, Any] | None = None) -> Any:
    """The object that a name stands for.

    what: what is named, for messages, such as "algorithm".
    known: our own names, each with the object or with the `module:Class` that it is to be imported
        from.
    Raises ValueError for a name that is not known and for a module, a file or a class that is not
    there. An error that the imported code raises by itself is not caught.
    """
    known = known or {}
    target = known.get(name, name)
    if not isinstance(target, str):
        return target
    if not is_import(target):
        raise ValueError(unknown(what, name, known, also=f"{FORM}, your own"))
    place, _, attribute = target.rpartition(":")
    module = module_at(what, place)
    try:
        return getattr(module, attribute)
    except AttributeError:
        classes = [n for n, v in vars(module).items() if isinstance(v, type)]
        own = [n for n in classes if getattr(module, n).__module__ == module.__name__]
        raise ValueError(unknown(f"{what} in {place}:", attribute, own)) from None


def is_import(name: str) -> bool:
    """Whether a name has the form `module:Class` or `path/to/file.py:Class`."""
    place, colon, attribute = name.rpartition(":")
    if not (colon and attribute.isidentifier()):
        return False
    return place.endswith(".py") or all(part.isidentifier() for part in place.split("."))


def module_at(what: str, place: str) -> ModuleType:
    """The module of that name, or in that file. Raises ValueError if there is none."""
    return _module_of_file(what, Path(place)) if place.endswith(".py") else _named(what, place)


def _named(what: str, name: str) -> ModuleType:
    """An installed module, or one of the current folder."""
    if str(Path.cwd()) not in sys.path:
        sys.path.append(str(Path.cwd()))
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{name}.".startswith(f"{error.name}."):
            raise
        raise ValueError(
            f"There is no module {name!r} to import the {what} from: neither installed nor in the "
            f"current folder {Path.cwd()}."
        ) from error


def _module_of_file(what: str, path: Path) -> ModuleType:
    """The module in a file, which is imported once, under the name of the file."""
    if not path.is_file():
        raise ValueError(f"There is no file {path} to import the {what} from.")
    for module in list(sys.modules.values()):
        if Path(getattr(module, "__file__", None) or "/").resolve() == path.resolve():
            return module
    name = path.stem if path.stem not in sys.modules else f"{path.stem} of {path.resolve().parent}"
    spec = importlib.util.spec_from_file_location(name, path.resolve())
    assert spec is not None
    assert spec.loader is not None
    module = sys.modules[name] = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module
