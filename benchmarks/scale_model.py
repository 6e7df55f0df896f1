"""A run of several trainers, vLLM servers and cages as discrete events, after `vpd train`:

sample a batch on all servers, judge it on all cages, train on it, send the weights. With overlap
the batches of later steps are sampled and judged while a step trains, with weights that are at most
`max_staleness` steps old and change between batches only (`vpd_agent/train/ahead.py`).
"""

from __future__ import annotations

import heapq
from collections import defaultdict
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import simpy

Events = Generator[simpy.Event, Any, Any]


@dataclass(frozen=True)
class Cluster:
    """What computes.

    trainers, servers, cages: how many; a cage judges a program at a time.
    shared: so many cores (or GPUs) do all of the work; None: each of the above has its own.
    max_staleness: with overlap; 0: a step after the other.
    rows_at_once: what a server decodes side by side at most.
    """

    trainers: int
    servers: int
    cages: int
    shared: int | None = None
    max_staleness: int = 0
    rows_at_once: int = 256


@dataclass(frozen=True)
class Times:
    """Seconds.

    decode, decode_row: of a token of all rows of a server: `decode + rows · decode_row`.
    train, train_token: of a trainer's step: `train + tokens · train_token`, tokens of its share.
    least_train: of a step, however many trainers share it (what they exchange).
    judge: of a program.
    sync: until all servers have the weights.
    other: of a step, while nothing else goes on.
    """

    decode: float
    decode_row: float
    train_token: float
    judge: float
    train: float = 0.0
    least_train: float = 0.0
    sync: float = 0.0
    other: float = 0.0


@dataclass(frozen=True)
class Outcome:
    """Of a step, on average: seconds, and by who works (trainer, sampler, judge, sync), the share
    of the step in which they do not."""

    seconds: float
    idle: dict[str, float]

    @property
    def busiest(self) -> str:
        return min(self.idle, key=lambda who: self.idle[who])


def simulate(
    cluster: Cluster,
    times: Times,
    lengths: Callable[[np.random.Generator], np.ndarray],
    *,
    steps: int = 8,
    warmup: int = 2,
    seed: int = 0,
) -> Outcome:
    """lengths: draws the tokens of a step's answers. The first `warmup` steps are not counted, nor
    are the last `max_staleness`, which have no later batch beside them."""
    run = _Run(cluster, times, lengths, steps, seed)
    run.env.process(run.train())
    run.env.run()
    counted = steps - warmup - cluster.max_staleness
    began, ended = run.step_ends[warmup - 1], run.step_ends[warmup - 1 + counted]
    idle = {
        who: float(1 - sum(_within(began, ended, spans)) / (ended - began))
        for who, spans in run.busy.items()
    }
    return Outcome(float(ended - began) / counted, idle)


def _within(began: float, ended: float, spans: Sequence[tuple[float, float]]) -> Iterator[float]:
    return (max(min(end, ended) - max(start, began), 0.0) for start, end in spans)


class _Cores:
    """Work of one core each. Where there is more of it than cores, all of it is slowed alike."""

    def __init__(self, env: simpy.Environment, cores: int | None) -> None:
        self._env, self._cores = env, cores
        self._jobs: list[tuple[float, int, simpy.Event]] = []  # by the work at which each ends
        self._done = 0.0  # of each job: work since the beginning
        self._since = 0.0
        self._plans = 0
        self._numbers = 0

    def work(self, seconds: float) -> simpy.Event:
        if self._cores is None:
            return self._env.timeout(seconds)
        self._advance()
        event = self._env.event()
        self._numbers += 1
        heapq.heappush(self._jobs, (self._done + seconds, self._numbers, event))
        self._plan()
        return event

    @property
    def _rate(self) -> float:
        assert self._cores is not None
        return min(1.0, self._cores / len(self._jobs)) if self._jobs else 0.0

    def _advance(self) -> None:
        self._done += (self._env.now - self._since) * self._rate
        self._since = self._env.now

    def _plan(self) -> None:
        self._plans += 1
        if self._jobs:
            delay = max(self._jobs[0][0] - self._done, 0.0) / self._rate
            self._env.process(self._finish_first(self._plans, delay))

    def _finish_first(self, plan: int, delay: float) -> Events:
        yield self._env.timeout(delay)
        if plan != self._plans:
            return  # others have come or gone
        self._advance()
        _, _, event = heapq.heappop(self._jobs)
        event.succeed()
        self._plan()


class _Run:
    def __init__(
        self,
        cluster: Cluster,
        times: Times,
        lengths: Callable[[np.random.Generator], np.ndarray],
        steps: int,
        seed: int,
    ) -> None:
        self.env = simpy.Environment()
        self.busy: dict[str, list[tuple[float, float]]] = defaultdict(list)
        self.step_ends: list[float] = []
        self._cluster, self._times, self._steps = cluster, times, steps
        draw = np.random.default_rng(seed)
        self._lengths = [lengths(draw) for _ in range(steps)]
        self._cores = _Cores(self.env, cluster.shared)
        self._cages = simpy.Resource(self.env, cluster.cages)
        self._ready: set[int] = set()
        self._weights = self._next = 0
        self._is_collecting = self._may_begin = False
        self._changed = self.env.event()

    # --- the trainer ---

    def train(self) -> Events:
        overlap = self._cluster.max_staleness > 0
        for step in range(self._steps):
            while self._is_collecting and step not in self._ready:
                yield self._changed
            if step not in self._ready:
                yield from self._collect(step)
            if overlap:
                if not self._is_collecting:
                    yield from self._sync(step)
                self._next = max(step + 1, self._next)
                self._may_begin = True
                self._begin_if_allowed()
            yield from self._update(step)
            self._may_begin = False
            if not overlap:
                yield from self._sync(step + 1)
            yield self.env.timeout(self._times.other)
            self.step_ends.append(self.env.now)

    def _update(self, step: int) -> Events:
        times, trainers = self._times, self._cluster.trainers
        seconds = times.train + self._lengths[step].sum() / trainers * times.train_token
        with self._working("trainer"):
            each = [self._cores.work(max(seconds, times.least_train)) for _ in range(trainers)]
            yield self.env.all_of(each)

    def _sync(self, weights: int) -> Events:
        with self._working("sync"):
            yield self.env.timeout(self._times.sync)
        self._weights = weights

    # --- ahead of it ---

    def _begin_if_allowed(self) -> None:
        fresh = self._next - self._weights <= self._cluster.max_staleness
        if self._may_begin and fresh and self._next < self._steps and not self._is_collecting:
            self._is_collecting = True
            self.env.process(self._collect_ahead(self._next))
            self._next += 1

    def _collect_ahead(self, step: int) -> Events:
        yield from self._collect(step)
        self._is_collecting = False
        self._begin_if_allowed()
        self._changed.succeed()
        self._changed = self.env.event()

    # --- rollouts ---

    def _collect(self, step: int) -> Events:
        servers, lengths = self._cluster.servers, self._lengths[step]
        with self._working("sampler"):
            yield self.env.all_of(
                [self.env.process(self._decode(lengths[n::servers])) for n in range(servers)]
            )
        with self._working("judge"):
            yield self.env.all_of([self.env.process(self._judge()) for _ in lengths])
        self._ready.add(step)

    def _decode(self, lengths: np.ndarray) -> Events:
        """The rows that a server decodes side by side; one that is done makes room for the next."""
        times, waiting, rows, tokens = self._times, list(lengths), [], 0
        while waiting or rows:
            while waiting and len(rows) < self._cluster.rows_at_once:
                heapq.heappush(rows, tokens + int(waiting.pop()))
            until = heapq.heappop(rows)
            each = times.decode + (len(rows) + 1) * times.decode_row
            if until > tokens:
                yield self._cores.work((until - tokens) * each)
            tokens = until

    def _judge(self) -> Events:
        with self._cages.request() as cage:
            yield cage
            yield self._cores.work(self._times.judge)

    @contextmanager
    def _working(self, who: str) -> Iterator[None]:
        began = self.env.now
        yield
        self.busy[who].append((began, self.env.now))
