"""The Gymnasium space of any text up to a length (`spaces.Text` knows only a fixed charset)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from copy import deepcopy
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from gymnasium.vector.utils import batch_differing_spaces, create_empty_array

from vpd_envs.checks import check_integer

LONGEST_SAMPLE = 128
SURROGATES = range(0xD800, 0xE000)  # code points that no encoded text can hold


class Unicode(spaces.Space[str]):
    """Any `str` of at most `max_length` characters (code points).

    Samples are short (up to 128 characters), half printable ASCII and half from all of Unicode,
    without lone surrogates, so that a sample can always be encoded. A batch is a tuple of texts.
    """

    def __init__(self, max_length: int, seed: int | np.random.Generator | None = None) -> None:
        check_integer("max_length", max_length, 1)
        self.max_length = max_length
        super().__init__(dtype=str, seed=seed)

    def sample(self, mask: Any = None, probability: Any = None) -> str:
        if mask is not None or probability is not None:
            raise ValueError("Unicode.sample takes neither mask nor probability.")
        length = self.np_random.integers(min(self.max_length, LONGEST_SAMPLE) + 1)
        ascii_points = self.np_random.integers(0x20, 0x7F, size=length)
        all_points = self.np_random.integers(0x110000 - len(SURROGATES), size=length)
        all_points += len(SURROGATES) * (all_points >= SURROGATES.start)
        points = np.where(self.np_random.random(length) < 0.5, ascii_points, all_points)
        return "".join(map(chr, points.tolist()))

    def contains(self, x: Any) -> bool:
        return isinstance(x, str) and len(x) <= self.max_length

    @property
    def is_np_flattenable(self) -> bool:
        return False

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Unicode) and self.max_length == other.max_length

    def __hash__(self) -> int:
        return hash((Unicode, self.max_length))

    def __repr__(self) -> str:
        return f"Unicode({self.max_length})"


# Gymnasium's default for custom spaces already batches to a Tuple and concatenates to a tuple.
@create_empty_array.register(Unicode)
def _empty_texts(space: Unicode, n: int = 1, fn: Callable = np.zeros) -> tuple[str, ...]:
    return ("",) * n


@batch_differing_spaces.register(Unicode)
def _batch_differing(batch: Sequence[gym.Space]) -> spaces.Tuple:
    return spaces.Tuple([deepcopy(space) for space in batch])
