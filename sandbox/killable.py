"""Pools of processes that can be killed: what cages and the workers of environments share."""

from __future__ import annotations

import atexit
import contextlib
import os
import threading
import weakref
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Iterator
from typing import Generic, Protocol, Self, TypeVar

from sandbox.core import Cancelled, SandboxError
from sandbox.link import CANCEL_LOOK_SECONDS, START_SECONDS


class Killable(Protocol):
    """A process, container or the like that belongs to a pool."""

    def kill(self) -> None:
        """End it and wait for its end. Idempotent."""
        ...

    def detach(self) -> None:
        """In a forked child: close our ends of its connections. It is the parent's."""
        ...


Member = TypeVar("Member", bound=Killable)


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
        self._closed = False
        self._live: set[Member] = set()
        self._idle: deque[Member] = deque()  # the longest idle first
        self._not_started = self._size
        self._starting = 0  # in some thread, just now
        self._is_quiet = False  # see `quiet`

    @abstractmethod
    def start_member(self) -> Member:
        """A new member. Called from many threads."""

    @contextlib.contextmanager
    def lend(
        self, cancelled: threading.Event | None = None, *, alone: bool = False
    ) -> Iterator[Loan[Member]]:
        """Wait for a free member and have it for a block.

        A block that ends with an exception costs the member, which may be in the middle of its
        work, unless the exception is a ValueError, SandboxError or Cancelled.

        alone: wait until no other member is lent.
        Raises Cancelled if `cancelled` is set meanwhile.
        """
        loan = Loan(self, self._take(cancelled, alone))
        try:
            yield loan
        except (ValueError, SandboxError, Cancelled):
            raise
        except BaseException:  # also Ctrl-C
            loan.discard()
            raise
        finally:
            self._give_back(loan.member)

    @contextlib.contextmanager
    def quiet(self, cancelled: threading.Event | None) -> Iterator[None]:
        """Within this block, members are lent only to those who want to be alone; that is one block
        at a time."""
        with self._changed:
            while self._is_quiet:
                self._wait(cancelled)
            self._is_quiet = True
        try:
            yield
        finally:
            with self._changed:
                self._is_quiet = False
                self._changed.notify_all()

    def close(self) -> None:
        """Kill all members. Idempotent; those who use one get a SandboxError."""
        with self._changed:
            self._closed = True
            members = list(self._live)
        for member in members:
            self._discard(member)
        with self._changed:  # one that is starting is killed by the thread that starts it
            self._changed.wait_for(lambda: not self._starting, START_SECONDS)
        atexit.unregister(self.close)

    @property
    def closed(self) -> bool:
        return self._closed

    def check_open(self) -> None:
        if self._closed:
            raise SandboxError(self._if_closed)

    def _take(self, cancelled: threading.Event | None = None, alone: bool = False) -> Member | None:
        """A free member; None stands for one that is to be started."""
        with self._changed:
            while True:
                started = self._size - self._not_started
                may_begin = started == len(self._idle) if alone else not self._is_quiet
                enough = started >= (2 if self._in_turn else 1) or not self._not_started
                if may_begin and self._idle and enough:
                    return self._idle.popleft() if self._in_turn else self._idle.pop()
                if may_begin and self._not_started:
                    self._not_started -= 1
                    return None
                self._wait(cancelled)

    def _wait(self, cancelled: threading.Event | None) -> None:
        self._changed.wait(None if cancelled is None else CANCEL_LOOK_SECONDS)
        check_wanted(cancelled)

    def _give_back(self, member: Member | None) -> None:
        with self._changed:
            if member is None:
                self._not_started += 1
            else:
                self._idle.append(member)
            self._changed.notify_all()

    def _started(self) -> Member:
        with self._changed:
            self._starting += 1
        try:
            member = self.start_member()
            with self._changed:
                if not self._closed:
                    self._live.add(member)
                    return member
            member.kill()
            raise SandboxError(self._if_closed)
        finally:
            with self._changed:
                self._starting -= 1
                self._changed.notify_all()

    def _discard(self, member: Member) -> None:
        member.kill()
        with self._changed:  # only now, so that `close` waits for a member that is being killed
            self._live.discard(member)

    def _reset_in_forked_child(self) -> None:
        for member in self._live:
            member.detach()
        self.reset()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class Loan(Generic[Member]):
    """A caller's place in a pool, with a member or with one that is still to be started."""

    def __init__(self, pool: KillablePool[Member], member: Member | None) -> None:
        self._pool = pool
        self.member = member

    def get(self) -> Member:
        """The member, started if need be."""
        if self.member is None:
            self.member = self._pool._started()
        return self.member

    def discard(self) -> None:
        """Kill the member; `get` starts another."""
        if self.member is not None:
            self._pool._discard(self.member)
            self.member = None


def check_counts(**counts: object) -> None:
    """Raises ValueError for one that is no positive integer."""
    for name, count in counts.items():
        if isinstance(count, bool) or not isinstance(count, int) or count < 1:
            raise ValueError(f"{name} must be a positive integer, got {count!r}.")


def check_wanted(cancelled: threading.Event | None) -> None:
    if cancelled is not None and cancelled.is_set():
        raise Cancelled("The job is no longer wanted.")


_pools: weakref.WeakSet[KillablePool] = weakref.WeakSet()


def _after_fork_in_child() -> None:
    for pool in list(_pools):
        pool._reset_in_forked_child()


os.register_at_fork(after_in_child=_after_fork_in_child)
