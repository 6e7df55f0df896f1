"""Rollouts of the next steps, collected in a thread while the current step trains."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from threading import Condition, Thread

from vpd_agent.rollout.collect import Collected


@dataclass(frozen=True)
class Batch:
    """The rollouts of a step, and the step whose weights sampled them."""

    step: int
    weights: int
    collected: Collected


class RolloutsAhead:
    """Collects a batch after the other in a thread, never with weights that are older than allowed.

    Batches begin within `collecting` only; one that has begun may go on after it. Whoever wants to
    sample or to change what the engine samples from must `wait` outside of it.

    collect: gives the rollouts of a step.
    steps: how many the run has; no batch is collected beyond.
    max_staleness: between the step that a batch is for, and the step whose weights sample it.
    """

    def __init__(
        self, collect: Callable[[int], Collected], *, steps: int, max_staleness: int
    ) -> None:
        self._collect = collect
        self._steps = steps
        self._max_staleness = max_staleness
        self.weights = 0  # the step whose weights the engine has
        self._changed = Condition()
        self._ready: dict[int, Batch] = {}
        self._errors: dict[int, Exception] = {}
        self._next = 0
        self._may_begin = False
        self._is_busy = False

    @property
    def is_busy(self) -> bool:
        """Whether a batch is being collected. Outside of `collecting` that can only end."""
        return self._is_busy

    def wait(self) -> None:
        """Until the batch that has begun is there."""
        with self._changed:
            self._changed.wait_for(lambda: not self._is_busy)

    def take(self, step: int) -> Batch | None:
        """The batch of a step, once it is there; None if it has not begun. It stays: a checkpoint
        of the step needs it until it is finished. Raises, once, what collecting ended with."""
        with self._changed:
            self._changed.wait_for(lambda: step in self._ready or not self._is_busy)
            if step in self._errors:
                raise self._errors.pop(step)
            for old in [s for s in self._ready if s < step]:
                del self._ready[old]
            return self._ready.get(step)

    def put(self, batches: Sequence[Batch]) -> None:
        self._ready |= {batch.step: batch for batch in batches}

    def ready(self, step: int) -> list[Batch]:
        """All that are there, from this step on."""
        return [batch for s, batch in sorted(self._ready.items()) if s >= step]

    @contextmanager
    def collecting(self, step: int) -> Iterator[None]:
        """Within, batches begin, of this step at the earliest."""
        with self._changed:
            begun = [s + 1 for s in self._ready] + ([self._next] if self._is_busy else [])
            self._next = max([step, *begun])
            self._may_begin = True
            self._begin_if_allowed()
        try:
            yield
        finally:
            self._may_begin = False

    def _begin_if_allowed(self) -> None:
        fresh = self._next - self.weights <= self._max_staleness
        allowed = self._may_begin and fresh and self._next < self._steps and not self._errors
        if self._is_busy or not allowed:
            return
        step, self._next, self._is_busy = self._next, self._next + 1, True
        work = Thread(target=self._fetch, args=(step,), name="rollouts ahead", daemon=True)
        work.start()

    def _fetch(self, step: int) -> None:
        """Collect a step's rollouts, and begin the next. What goes wrong is raised by `take`."""
        weights, error, collected = self.weights, None, None
        try:
            collected = self._collect(step)
        except Exception as failure:
            error = failure
        with self._changed:
            if error is not None:
                self._errors[step] = error
            elif collected is not None:
                self._ready[step] = Batch(step, weights, collected)
            self._is_busy = False
            self._begin_if_allowed()
            self._changed.notify_all()
