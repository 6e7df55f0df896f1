"""Pools of processes that can be killed: what cages and the workers of environments share."""

from __future__ import annotations

import atexit
import logging
import os
import threading
import weakref
from abc import ABC, abstractmethod
from collections.abc import Callable, Hashable
from dataclasses import dataclass, field
from typing import Any, Generic, Self, TypeVar

from sandbox.core import CageFailure, Cancelled, IdleCageFailure, Killable, SandboxError
from sandbox.link import CANCEL_LOOK_SECONDS, START_SECONDS

Member = TypeVar("Member", bound=Killable)
Value = TypeVar("Value")

log = logging.getLogger("sandbox")


@dataclass(eq=False)
class _Place(Generic[Member]):
    """Where a pool has a member, or none yet."""

    member: Member | None = None
    starting: threading.Lock = field(default_factory=threading.Lock)  # held meanwhile


class KillablePool(ABC, Generic[Member]):
    """Up to `size` members. Each is started when it is first needed, and lent to one caller at a
    time. All are killed by `close` and, at the latest, when this process exits.

    A forked child may go on using the pool it inherited: it starts members of its own there and
    never touches those of its parent.

    if_closed: the message of the SandboxError of those who use it after `close`.
    in_turn: lend the member that has been idle longest, and start a second one before the first is
        lent again, so that one can clean up while the other works. Otherwise the last one used is
        lent first, since its caches are warm.
    """

    def __init__(self, size: int, *, if_closed: str, in_turn: bool) -> None:
        self._size = size
        self._if_closed = if_closed
        self._in_turn = in_turn
        self.reset()
        _pools.add(self)
        atexit.register(self.close)

    def reset(self) -> None:
        """Begin without members, as a forked child must."""
        self._changed = threading.Condition()
        self._places: list[_Place[Member]] = [_Place() for _ in range(self._size)]
        self._free = list(self._places)  # the longest free first
        self._is_quiet = False  # somebody has, or waits to have, a member alone
        self.closed = False

    @abstractmethod
    def start_member(self) -> Member:
        """A new member. Called from many threads."""

    @abstractmethod
    def check_failures(self, failures: list[str]) -> None:
        """Called after each failure of a member at one job, with all so far, the latest last.

        Raises SandboxError if the job is not to be tried again.
        """

    @abstractmethod
    def is_worn(self, member: Member) -> bool:
        """Whether a member that has done its work should be replaced."""

    def use(
        self,
        work: Callable[[Member], Value],
        cancelled: threading.Event | None = None,
        *,
        alone: bool = False,
    ) -> Value:
        """Wait for a free member, and return what `work` makes of it.

        A member that fails is killed, and another does the work (see `check_failures`). It is
        killed, too, if `work` raises anything but a ValueError, SandboxError or Cancelled, since it
        may be in the middle of something.

        alone: wait until no other member is lent, and let none be lent meanwhile.
        Raises Cancelled if `cancelled` is set meanwhile.
        """
        failures: list[str] = []
        place = self._take(cancelled, alone)
        try:
            while True:
                check_wanted(cancelled)
                try:
                    member = self._member(place)
                    value = work(member)
                    break
                except CageFailure as failure:
                    self._discard(place)
                    self.check_open()
                    if isinstance(failure, IdleCageFailure):
                        log.debug("One ended between jobs: %s", failure)
                    else:
                        failures.append(str(failure))
                        self.check_failures(failures)
            if self.is_worn(member):
                self._discard(place)
            return value
        except (ValueError, SandboxError, Cancelled):
            raise
        except BaseException:  # also Ctrl-C
            self._discard(place)
            raise
        finally:
            with self._changed:
                self._is_quiet = self._is_quiet and not alone
                self._free.append(place)
                self._changed.notify_all()

    def close(self) -> None:
        """Kill all members. Idempotent; those who use one get a SandboxError."""
        self.closed = True
        for place in self._places:
            # One that is still starting after that is killed by the thread that starts it.
            if place.starting.acquire(timeout=START_SECONDS):
                try:
                    self._discard(place)
                finally:
                    place.starting.release()
        atexit.unregister(self.close)

    def check_open(self) -> None:
        if self.closed:
            raise SandboxError(self._if_closed)

    def _take(self, cancelled: threading.Event | None, alone: bool) -> _Place[Member]:
        with self._changed:
            while self._is_quiet or not (self._free or alone):
                self._wait(cancelled)
            self._is_quiet = alone
            try:
                while alone and len(self._free) < self._size:
                    self._wait(cancelled)
            except BaseException:
                self._is_quiet = False
                self._changed.notify_all()
                raise
            idle = [place for place in self._free if place.member is not None]
            empty = [place for place in self._free if place.member is None]
            enough = self._size - len(empty) >= (2 if self._in_turn else 1)
            if empty and not (idle and enough):
                place = empty[0]
            else:
                place = idle[0 if self._in_turn else -1]
            self._free.remove(place)
            return place

    def _wait(self, cancelled: threading.Event | None) -> None:
        self._changed.wait(None if cancelled is None else CANCEL_LOOK_SECONDS)
        check_wanted(cancelled)

    def _member(self, place: _Place[Member]) -> Member:
        """The member of a place, started if need be."""
        self.check_open()
        member = place.member
        if member is None:
            with place.starting:
                self.check_open()  # `close` may have been here before us, and not wait again
                place.member = member = self.start_member()
                if self.closed:  # meanwhile
                    self._discard(place)
                    self.check_open()
        return member

    def _discard(self, place: _Place[Member]) -> None:
        member = place.member
        if member is not None:
            member.kill()
            place.member = None  # only now, so that `close` waits for one that is being killed

    @property
    def _live(self) -> set[Member]:
        members = (place.member for place in self._places)
        return {member for member in members if member is not None}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def check_counts(**counts: object) -> None:
    """Raises ValueError for one that is no positive integer."""
    for name, count in counts.items():
        if isinstance(count, bool) or not isinstance(count, int) or count < 1:
            raise ValueError(f"{name} must be a positive integer, got {count!r}.")


def check_wanted(cancelled: threading.Event | None) -> None:
    if cancelled is not None and cancelled.is_set():
        raise Cancelled("The job is no longer wanted.")


_pools: weakref.WeakSet[KillablePool] = weakref.WeakSet()
_shared: dict[Hashable, Any] = {}
_shared_lock = threading.Lock()


def shared(key: Hashable, make: Callable[[], Value]) -> Value:
    """The one thing of this process with that key; made if there is none, or if it is `closed`."""
    with _shared_lock:
        if key not in _shared or getattr(_shared[key], "closed", False):
            _shared[key] = make()
        return _shared[key]


def _after_fork_in_child() -> None:
    global _shared_lock
    _shared_lock = threading.Lock()
    for pool in list(_pools):
        for member in pool._live:
            member.detach()
        pool.reset()


os.register_at_fork(after_in_child=_after_fork_in_child)
