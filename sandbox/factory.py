"""Makes sandboxes by name: ours, or a class of your own by `module:Class`."""

from __future__ import annotations

import atexit
import logging
import os
import warnings
from typing import Any

from sandbox.core import MIB, Backend, Job, Limits, Sandbox, SandboxError
from sandbox.plugins import FORM, is_import, load, unknown

# The strongest first; that is the order in which "auto" tries them.
BACKENDS = {
    "docker": "sandbox.docker:Docker",
    "bubblewrap": "sandbox.bubblewrap:Bubblewrap",
    "local": "sandbox.local:Local",
}
# On other machines, so that nobody gets it without asking for it.
REMOTE = {"ray": "sandbox.ray:Ray"}
NAMES = ("auto", *BACKENDS, *REMOTE)

log = logging.getLogger("sandbox")


def check_name(name: str) -> str:
    """The name, if `make` knows it. A class by `module:Class` is imported; ours are not.

    Raises:
        ValueError: an unknown name, or a module, file or class that is not there.
    """
    if name not in NAMES:
        if not is_import(name):
            raise ValueError(unknown("sandbox", name, NAMES, also=f"{FORM}, your own"))
        load("sandbox", name)
    return name


def make(
    name: str = "auto",
    *,
    cages: int | None = None,
    attempts: int | None = None,
    jobs_per_cage: int | None = None,
    **options: Any,
) -> Sandbox:
    """Make a sandbox and run a tiny job in it, so that what is returned is known to work.

    Args:
        name: "docker", "bubblewrap", "local", or "auto" for the strongest of these that works;
            "ray" for cages on a cluster (see `ray.Ray`); or a class of your own, `module:Class` or
            `path/to/file.py:Class`, that is a `core.Backend` or a `core.Sandbox`.
        cages: how many jobs may run side by side; by default, one per usable CPU.
        attempts: how many cages may fail on a job before it ends in a SandboxError; by default, 3.
        jobs_per_cage: then a cage is replaced by a fresh one; by default, 2,000.
        **options: of the class (see there); not with "auto".

    Raises:
        ValueError: an unknown name, or a class that is neither.
        SandboxError: the named backend does not work here.
    """
    check_name(name)
    given = {"cages": cages, "attempts": attempts, "jobs_per_cage": jobs_per_cage}
    given = {what: number for what, number in given.items() if number is not None}
    if name != "auto":
        return _make_working(name, given, options)
    if options:
        raise ValueError(f"Options {sorted(options)} need a named sandbox, not 'auto'.")
    return _make_strongest(given)


def _make_strongest(given: dict[str, int]) -> Sandbox:
    reasons: dict[str, str] = {}
    for name in BACKENDS:
        try:
            sandbox = _make_working(name, given, {})
        except SandboxError as error:
            reasons[name] = str(error)
            continue
        log.info("Sandbox: %s, %d cages.", name, sandbox.cages)
        log.debug("Stronger ones that do not work: %s", reasons)
        if name == "local":
            warnings.warn(
                "The local sandbox protects neither files nor other processes of this user from "
                "the programs. Use bubblewrap or Docker for untrusted ones; "
                "`vpd doctor` shows what each of them lacks here.",
                stacklevel=3,
            )
        return sandbox
    raise SandboxError("No sandbox works here. " + " ".join(reasons.values()))


def _make_working(name: str, given: dict[str, int], options: dict[str, Any]) -> Sandbox:
    sandbox = _new(name, given, options)
    try:
        probe = sandbox.run(Job(code="print(6 * 7)", limits=Limits(memory_bytes=32 * MIB)))
        if probe.stdout != "42\n":
            raise SandboxError(
                f"A {name} sandbox was expected to print 42, but: {probe}. Choose another sandbox."
            )
    except BaseException:
        sandbox.close()
        raise
    return sandbox


def _new(name: str, given: dict[str, int], options: dict[str, Any]) -> Sandbox:
    from sandbox.pool import Pool  # only now, so that `import sandbox` is quick

    cls = load("sandbox", name, BACKENDS | REMOTE)
    if hasattr(cls, "start"):
        backend: Backend = cls(**options)
        return Pool(backend, **{"cages": len(os.sched_getaffinity(0)), **given})
    if hasattr(cls, "run") and hasattr(cls, "close"):
        return cls(**given, **options)
    raise ValueError(
        f"{name} is no sandbox: it has neither the method start() of a backend nor run() and "
        "close() of a sandbox (see sandbox/core.py)."
    )


def backends() -> dict[str, str | None]:
    """For each backend: None if it works here, else the reason why it does not."""
    reasons: dict[str, str | None] = {}
    for name in BACKENDS:
        try:
            make(name, cages=1).close()
            reasons[name] = None
        except SandboxError as error:
            reasons[name] = str(error)
    return reasons


def shared(name: str = "auto", cages: int | None = None) -> Sandbox:
    """The one sandbox of this process with that name and number of cages, closed at exit.

    In a forked child, a sandbox of ours starts cages of its own (see `Pool`).
    """
    from sandbox import killable

    def make_and_close_at_exit() -> Sandbox:
        sandbox = make(name, cages=cages)
        atexit.register(sandbox.close)
        return sandbox

    return killable.shared((name, cages), make_and_close_at_exit)
