"""Environments whose answers are executed: a `TextEnv` with a sandbox."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from typing import Any

from sandbox import Execution, Job, Sandbox, SandboxError, shared
from sandbox.factory import NAMES, check_name
from sandbox.plugins import FORM
from vpd_envs.text_env import TextEnv
from vpd_envs.types import Problem


class NotStarted:
    """Stands where an open sandbox is wanted by an environment whose problems are only read: it
    runs nothing. Its Python is the one of this process."""

    name = "not started"
    cages = 1
    python_version = f"{sys.version_info.major}.{sys.version_info.minor}"

    def run(self, job: Job) -> Execution:
        raise SandboxError("This sandbox was not started: the environment was made to be read.")

    def close(self) -> None:
        """There is nothing to close."""


class SandboxedEnv(TextEnv):
    """Adds `self.sandbox`, opened at the first answer and shared by all envs of that name.

    sandbox: docker, bubblewrap, local, or "auto" for the strongest of them that works here, or a
        class of your own by `module:Class` (see `sandbox.make`); or an open sandbox. None is closed
        with the env: those made by name are shared (`sandbox.shared`), an open one is the caller's.

    An env made by name can be pickled; its copy opens its own process's sandbox.
    """

    def __init__(
        self, problems: Iterable[Problem], *, sandbox: str | Sandbox = "auto", **kwargs: Any
    ) -> None:
        if isinstance(sandbox, str):
            check_name(sandbox)
        elif not isinstance(sandbox, Sandbox):
            raise ValueError(
                f"sandbox must be one of {', '.join(NAMES)}, {FORM}, or an open Sandbox; "
                f"got {sandbox!r}."
            )
        self._sandbox = sandbox
        super().__init__(problems, **kwargs)

    @property
    def sandbox(self) -> Sandbox:
        return shared(self._sandbox) if isinstance(self._sandbox, str) else self._sandbox

    @property
    def workers(self) -> int:
        return self.sandbox.cages
