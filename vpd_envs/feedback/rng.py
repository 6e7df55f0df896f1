"""Random numbers for sources of feedback that are the same each time a run is repeated."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Sequence

from vpd_envs.feedback.base import Attempt


def rng_for(seed: int, attempts: Sequence[Attempt]) -> random.Random:
    """A stream of random numbers that depends on the seed and on the problems and answers of these
    attempts in their order, and on nothing that came before.

    So the same batch gets the same numbers, another batch fresh ones, and a run that goes on from a
    checkpoint gets those it would have got.
    """
    digest = hashlib.sha256(str(seed).encode())
    for attempt in attempts:
        for text in (attempt.problem_id, attempt.answer):
            encoded = text.encode("utf-8", "surrogatepass")
            digest.update(len(encoded).to_bytes(8) + encoded)
    return random.Random(int.from_bytes(digest.digest()))
