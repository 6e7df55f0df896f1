"""Cages on the nodes of a Ray cluster, as many as its cores allow: `sandbox.make("ray")`.

Every node needs this project, of the same version, and Ray (the extra `ray`). On each the programs
run in the strongest sandbox that works there, or in the one that `within` names. A program travels
with all its tests, and is judged on the node: expected outputs leave this machine, but enter no
cage.

A node that leaves takes its cages along; their programs are judged anew on others, where cages then
share cores if none is free. `nodes` tells what each node can offer.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
import socket
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from sandbox.core import (
    CageFailure,
    Execution,
    Job,
    Limits,
    SandboxError,
    cancellation,
    cancelled_by,
)
from sandbox.installation import install_hint
from sandbox.link import CANCEL_LOOK_SECONDS
from sandbox.pool import Pool

if TYPE_CHECKING:
    from sandbox.judge import Judgment, Test

START_SECONDS = 120.0  # for an actor's process to start, and then for its cage
PLACE_SECONDS = 20.0  # for an actor to get a core of its own, before it does without
CONNECT_SECONDS = 10.0
KILL_SECONDS = 5.0

# In a forked child: what would speak over the parent's connections to Ray if it were collected.
_of_the_parent: list[Any] = []

log = logging.getLogger("sandbox")


class Ray(Pool):
    """A sandbox of cages on a Ray cluster, one actor of one core each.

    Args:
        cages: how many; by default, as many as the cluster has free cores when it is made.
        attempts, jobs_per_cage: as in `sandbox.make`.
        address: of the cluster, as `ray.init` takes it ("auto", "ray://head:10001"); by default,
            that of the environment variable RAY_ADDRESS, else the cluster that runs on this
            machine, else one of this machine alone, which ends with the process. Where `ray.init`
            was called already, it has chosen.
        within: the sandbox on each node, as in `sandbox.make`.
        **options: of that sandbox; not with "auto".

    Raises:
        ValueError: the package ray is missing, there is no such cluster, it has other versions of
            Python or Ray, or no core of it is free.
    """

    def __init__(
        self,
        *,
        cages: int | None = None,
        attempts: int = 3,
        jobs_per_cage: int = 2000,
        address: str | None = None,
        within: str = "auto",
        **options: Any,
    ) -> None:
        free = int(_connect(address).available_resources().get("CPU", 0))
        if free < 1 and cages is None:
            raise ValueError(
                "Expected free cores in the Ray cluster, there is none: other jobs hold all of "
                "them (`ray status` lists them). Wait, or name a number of cages."
            )
        backend = _Actors(within, options | {"jobs_per_cage": jobs_per_cage})
        super().__init__(backend, free if cages is None else cages, attempts=attempts)

    def judge_there(
        self,
        code: str,
        numbered_tests: Sequence[tuple[int, Test]],
        limits: Limits,
        stop_at_first_failure: bool,
    ) -> Judgment:
        """Some tests of a program, judged where its cage is: one message, however many they are."""
        cancelled = cancellation()
        work = (code, numbered_tests, limits, stop_at_first_failure)
        return self.use(lambda cage: cage.judge(work, cancelled), cancelled)  # pyright: ignore[reportAttributeAccessIssue]


class _Actors:
    """A backend whose cages are actors."""

    name = "ray"

    def __init__(self, within: str, options: dict[str, Any]) -> None:
        self._process = os.getpid()
        self._within = within
        self._options = options
        self._actor = _ray().remote(max_restarts=0, max_task_retries=0)(_Place)

    def start(self) -> _RayCage:
        if os.getpid() != self._process:
            raise SandboxError(
                "A forked process cannot use the connection to Ray that its parent has. Make the "
                "sandbox in the process that needs it."
            )
        cage = _RayCage(self._placed())
        try:
            facts = cage.open(self._within, self._options)
            if facts["code"] != _code():
                raise SandboxError(
                    f"The node {facts['node']} has another version of this project than this "
                    f"machine, and would judge with it. Install the same one on all nodes."
                )
        except BaseException:
            cage.kill()
            raise
        if facts["within"] == "local" and self._within == "auto":
            log.warning(
                "On the node %s only the local sandbox works: it protects neither files nor "
                "processes there from the programs.",
                facts["node"],
            )
        return cage

    def _placed(self) -> Any:
        """An actor on a node: on a free core, or if there is none, on one that it shares."""
        ray = _ray()
        free = ray.available_resources().get("CPU", 0) >= 1
        for cores, seconds in ((1, PLACE_SECONDS), (0, START_SECONDS)):
            if cores and not free:
                continue
            actor = self._actor.options(
                num_cpus=cores, max_concurrency=3, scheduling_strategy="SPREAD"
            ).remote()
            try:
                ray.get(actor.is_there.remote(), timeout=seconds)
                return actor
            except ray.exceptions.GetTimeoutError:  # others were quicker
                ray.kill(actor)
            except ray.exceptions.RayError as error:
                raise CageFailure(f"it did not start: {_last_line(error)}") from error
        raise CageFailure(f"the Ray cluster had no place for it within {START_SECONDS:g} s")


class _RayCage:
    """A cage on another node, as the pool sees it."""

    jobs = 0  # the node replaces what has grown old there

    def __init__(self, actor: Any) -> None:
        self.python_version = ""
        self._actor = actor
        self._asked = 0

    def open(self, within: str, options: dict[str, Any]) -> dict[str, str]:
        """Start the sandbox there; what it is."""
        ray = _ray()
        try:
            facts = ray.get(self._actor.open.remote(within, options), timeout=START_SECONDS)
        except ray.exceptions.RayTaskError as error:
            raise CageFailure(f"it did not start: {error.cause}") from error
        except ray.exceptions.RayError as error:
            raise CageFailure(f"it did not start: {_last_line(error)}") from error
        self.python_version = facts["python"]
        return facts

    def run(self, job: Job, cancelled: threading.Event | None = None) -> Execution:
        return self._ask(self._actor.run, (job,), cancelled)

    def judge(self, work: tuple, cancelled: threading.Event | None) -> Judgment:
        return self._ask(self._actor.judge, work, cancelled)

    def kill(self) -> None:
        ray = _ray()
        if not ray.is_initialized():  # it would start a cluster of its own
            return
        with contextlib.suppress(Exception):  # the node may be gone
            ray.get(self._actor.close.remote(), timeout=KILL_SECONDS)
        with contextlib.suppress(Exception):
            ray.kill(self._actor)

    def detach(self) -> None:
        _of_the_parent.append(self._actor)

    def _ask(self, method: Any, work: tuple, cancelled: threading.Event | None) -> Any:
        ray = _ray()
        self._asked += 1
        try:
            answer = method.remote(self._asked, *work)
            while True:
                try:
                    look = None if cancelled is None else CANCEL_LOOK_SECONDS
                    return ray.get(answer, timeout=look)
                except ray.exceptions.GetTimeoutError:
                    if cancelled is not None and cancelled.is_set():
                        self._actor.cancel.remote(self._asked)
                        cancelled = None  # it was told, and will answer
        except ray.exceptions.RayTaskError as error:
            cause = error.cause
            if isinstance(cause, SandboxError):  # of that node: another may do better
                raise CageFailure(str(cause)) from error
            raise cause from error  # Cancelled, or of the job, a test or its checker
        except ray.exceptions.RayError as error:
            raise CageFailure(f"its node or process ended: {_last_line(error)}") from error


class _Place:
    """One cage, in a process on a node: what an actor runs."""

    def __init__(self) -> None:
        self._box: Any = None
        self._lock = threading.Lock()
        self._cancelled: dict[int, threading.Event] = {}

    def is_there(self) -> None:
        """Answers once the actor has a place."""

    def open(self, within: str, options: dict[str, Any]) -> dict[str, str]:
        from sandbox.factory import make

        self._box = make(within, cages=1, attempts=1, **options)
        return {
            "python": self._box.python_version,
            "within": self._box.name,
            "node": socket.gethostname(),
            "code": _code(),
        }

    def run(self, number: int, job: Job) -> Execution:
        with self._cancellable(number):
            return self._box.run(job)

    def judge(
        self,
        number: int,
        code: str,
        numbered_tests: Sequence[tuple[int, Test]],
        limits: Limits,
        stop_at_first_failure: bool,
    ) -> Judgment:
        from sandbox.judge import judge_numbered

        with self._cancellable(number):
            judgment = judge_numbered(
                self._box, code, numbered_tests, limits, stop_at_first_failure
            )
        if judgment.failure is not None:
            raise judgment.failure
        return judgment

    def cancel(self, number: int) -> None:
        self._event(number).set()

    def close(self) -> None:
        if self._box is not None:
            self._box.close()

    @contextlib.contextmanager
    def _cancellable(self, number: int):
        try:
            with cancelled_by(self._event(number)):
                yield
        finally:
            with self._lock:
                del self._cancelled[number]

    def _event(self, number: int) -> threading.Event:
        with self._lock:
            return self._cancelled.setdefault(number, threading.Event())


@dataclass(frozen=True)
class NodeOffer:
    """What a node of a cluster can do for the judge."""

    name: str
    cores: float
    sandboxes: dict[str, str | None]  # None: it works there; else why not
    problem: str | None = None  # why nothing is known of its sandboxes


def nodes(address: str | None = None) -> list[NodeOffer]:
    """What each node of the cluster can offer: it is tried there.

    Raises as `Ray`.
    """
    ray = _connect(address)
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    offers = ray.remote(num_cpus=0, max_retries=0)(_offer)
    alive = [node for node in ray.nodes() if node["Alive"]]
    asked = [
        offers.options(
            scheduling_strategy=NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
        ).remote()
        for node in alive
    ]
    found = []
    for node, answer in zip(alive, asked, strict=True):
        sandboxes: dict[str, str | None] = {}
        problem = None
        try:
            code, sandboxes = ray.get(answer, timeout=START_SECONDS)
            if code != _code():
                problem = "it has another version of this project"
        except ray.exceptions.RayError as error:
            problem = _last_line(error)
        cores = node["Resources"].get("CPU", 0)
        found.append(NodeOffer(node["NodeManagerHostname"], cores, sandboxes, problem))
    return found


def _offer() -> tuple[str, dict[str, str | None]]:
    from sandbox.factory import backends

    return _code(), backends()


def _connect(address: str | None) -> Any:
    """The module ray, connected to a cluster."""
    ray = _ray()
    if not ray.is_initialized():
        try:
            _check_there(address or os.environ.get("RAY_ADDRESS", ""))
            ray.init(address, log_to_driver=False, logging_level=logging.WARNING)
        except (OSError, RuntimeError, ValueError) as error:
            place = address or os.environ.get("RAY_ADDRESS") or "this machine"
            raise ValueError(
                f"No Ray cluster at {place}: {_last_line(error)}. `ray start --head` starts one, "
                f"with the Python and the Ray of this process; where it wants tokens, "
                f"RAY_AUTH_MODE=token is needed here."
            ) from error
    return ray


def _ray() -> Any:
    """The module, which types itself in part only."""
    try:
        import ray
        import ray.exceptions
    except ImportError as error:
        raise ValueError(
            f"--sandbox ray needs the package ray: {install_hint('ray')}, here and on every node."
        ) from error
    return ray


def _check_there(address: str) -> None:
    """Raises OSError if nobody listens at a host and port: Ray would try that for minutes."""
    place = urlsplit(address if "://" in address else f"//{address}")
    with contextlib.suppress(ValueError):  # what is no port is for Ray to refuse
        if place.hostname and place.port:
            socket.create_connection((place.hostname, place.port), CONNECT_SECONDS).close()


def _code() -> str:
    """A hash of this package's code."""
    digest = hashlib.sha256()
    for path in sorted(Path(__file__).parent.glob("*.py")):
        digest.update(path.read_bytes())
    return digest.hexdigest()


def _last_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return (lines or [type(error).__name__])[-1].rstrip(".")
