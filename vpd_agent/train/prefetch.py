"""Rollouts of the next step, collected in a thread while the current step trains."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from threading import Thread

from vpd_agent.rollout.collect import Collected


class Prefetched:
    """The rollouts of one step, or the error that collecting them ended with."""

    def __init__(self) -> None:
        self._rollouts: tuple[int, Collected] | None = None  # with the index of their step
        self._error: Exception | None = None

    def fetch(self, step: int, collect: Callable[[int], Collected]) -> None:
        """Collect a step's rollouts. Never raises: `take` raises what went wrong."""
        try:
            self.put(step, collect(step))
        except Exception as error:
            self._error = error

    def put(self, step: int, collected: Collected) -> None:
        self._rollouts = step, collected

    def get(self, step: int) -> Collected | None:
        """The rollouts of this step, if they are there. They stay: a checkpoint of the step needs
        them until it is finished."""
        return self._rollouts[1] if self._rollouts and self._rollouts[0] == step else None

    def take(self, step: int) -> Collected | None:
        """As `get`; raises, once, the error that collecting ended with."""
        error, self._error = self._error, None
        if error is not None:
            raise error
        return self.get(step)


@contextmanager
def run_in_background(work: Callable[[], None] | None) -> Iterator[None]:
    """Do some work in a thread while the body runs, and wait for it. A KeyboardInterrupt does not
    wait."""
    if work is None:
        yield
        return
    thread = Thread(target=work, name="prefetch rollouts", daemon=True)
    thread.start()
    try:
        yield
    except Exception:
        thread.join()
        raise
    thread.join()
