"""Environments whose answers are executed: a `TextEnv` with a sandbox."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from sandbox import Sandbox, shared
from sandbox.core import BACKENDS
from vpd_envs.text_env import TextEnv
from vpd_envs.types import Problem


class SandboxedEnv(TextEnv):
    """Adds `self.sandbox`, opened at the first answer and shared by all envs of that name.

    sandbox: docker, bubblewrap, local, or "auto" for the strongest of them that works here; or an
        open sandbox. Neither is closed with the env: the one is shared (`sandbox.shared`), the
        other is the caller's.

    An env made by name can be pickled; its copy opens its own process's sandbox.
    """

    def __init__(
        self, problems: Iterable[Problem], *, sandbox: str | Sandbox = "auto", **kwargs: Any
    ) -> None:
        names = ("auto", *BACKENDS)
        if sandbox not in names if isinstance(sandbox, str) else not isinstance(sandbox, Sandbox):
            raise ValueError(
                f"sandbox must be one of {', '.join(names)}, or an open Sandbox; got {sandbox!r}."
            )
        self._sandbox = sandbox
        super().__init__(problems, **kwargs)

    @property
    def sandbox(self) -> Sandbox:
        return shared(self._sandbox) if isinstance(self._sandbox, str) else self._sandbox

    @property
    def workers(self) -> int:
        return self.sandbox.cages
