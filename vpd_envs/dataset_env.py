"""Environments whose problems are rows of a data set."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

from vpd_envs.data.files import DataOptions
from vpd_envs.text_env import TextEnv
from vpd_envs.types import Problem


class _NotLoaded(Exception):
    """Options are fine as far as they can be checked without problems."""


class DatasetEnv(TextEnv):
    """A `TextEnv` that loads its problems. A subclass says in `load` how.

    data, hub, revision, split, test_fraction, max_problems: see `vpd_envs.data.files`.

    Combined with another environment, this class comes first: `class A(DatasetEnv, CodeEnv)`.
    """

    def __init__(
        self,
        data: str | Path | None = None,
        *,
        hub: str | None = None,
        revision: str | None = None,
        split: str = "all",
        test_fraction: float = 0.2,
        max_problems: int | None = None,
        **options: Any,
    ) -> None:
        chosen = DataOptions(data, hub, revision, split, test_fraction, max_problems)
        super().__init__(self._loaded(chosen), **options)

    def load(self, options: DataOptions) -> Iterable[Problem]:
        """The problems. Called last: all options have been checked, and the base classes between
        this one and `TextEnv` have set their attributes."""
        raise NotImplementedError(f"{type(self).__name__} must implement load(options).")

    @classmethod
    def check_without_data(cls, **options: Any) -> None:
        """Raise ValueError for options that the constructor would refuse; nothing is loaded."""

        def load(self: DatasetEnv, options: DataOptions) -> Iterable[Problem]:
            raise _NotLoaded

        with suppress(_NotLoaded):
            type(cls.__name__, (cls,), {"load": load})(**options)

    def _loaded(self, options: DataOptions) -> Iterator[Problem]:
        yield from self.load(options)  # runs when `TextEnv` asks for the first problem
