"""The answers that a server has accepted: judged side by side, so many and no more at a time."""

from __future__ import annotations

import asyncio
import dataclasses
import logging
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

from sandbox.core import Cancelled, SandboxError, cancelled_by
from vpd_envs.feedback import Attempt, FeedbackSource
from vpd_envs.feedback.base import retold
from vpd_envs.text_env import TextEnv
from vpd_envs.types import Problem, Verdict

log = logging.getLogger("vpd_envs")


class Refused(Exception):
    """No answer is taken now; the same request may be accepted later."""


class Judging:
    """Judges the answers of all requests by one environment.

    `env.workers` answers are judged side by side, in the order in which they came, whichever
    request they belong to. The methods belong to one event loop; judges and sources of feedback are
    called from several threads.

    capacity: how many answers may be accepted and not yet answered.
    sources: of feedback, the innermost first. Those that compare attempts are given the attempts of
        one request.

    `length` is how many are accepted and not yet answered; `judged` and `failed` are how many got a
    verdict since the start, and how many could not be judged.
    """

    def __init__(self, env: TextEnv, sources: Sequence[FeedbackSource], capacity: int) -> None:
        self.env = env
        self.sources = sources
        self.capacity = capacity
        self.length = self.judged = self.failed = 0
        self.draining = False  # no more answers are accepted
        self._unwanted = threading.Event()
        self._threads = ThreadPoolExecutor(env.workers, thread_name_prefix="judge")

    @contextmanager
    def places(self, count: int) -> Iterator[None]:
        """Places in the queue for the answers of a request, until it is answered. Raises Refused
        if there are not so many."""
        if self.draining:
            raise Refused("The server is ending and takes no more answers.")
        if self.length + count > self.capacity:
            raise Refused(
                f"The queue has {self.capacity - self.length} of {self.capacity} places left, and "
                f"{count} are needed. Try again later."
            )
        self.length += count
        try:
            yield
        finally:
            self.length -= count

    async def verdicts(
        self, attempts: Sequence[tuple[Problem, str]]
    ) -> list[Verdict | SandboxError]:
        """The verdict on each (problem, answer) in their order, with the feedback of the sources;
        or the error that prevented it. The same answer to the same problem is judged once."""
        loop = asyncio.get_running_loop()
        keys = [(problem.id, problem.earlier, answer) for problem, answer in attempts]
        begun = {
            key: loop.run_in_executor(self._threads, self._verdict, *attempt)
            for key, attempt in dict(zip(keys, attempts, strict=True)).items()
        }
        verdicts = [await begun[key] for key in keys]
        failed = sum(isinstance(verdict, SandboxError) for verdict in verdicts)
        self.failed += failed
        self.judged += len(verdicts) - failed
        if self.sources:
            verdicts = await asyncio.to_thread(self._retold, attempts, verdicts)
        return verdicts

    def close(self) -> None:
        """Stop the programs that still run, and begin no other."""
        self._unwanted.set()
        self._threads.shutdown(cancel_futures=True)

    def _verdict(self, problem: Problem, answer: str) -> Verdict | SandboxError:
        try:
            with cancelled_by(self._unwanted):
                return self.env.verdict(problem, answer)
        except SandboxError as error:
            return error
        except Cancelled:
            return SandboxError("The server was stopped before the answer was judged.")
        except Exception as error:  # its text may tell what is hidden
            log.exception("The judge failed on an answer to %r.", problem.id)
            name = type(error).__name__
            return SandboxError(f"The judge failed with {name}; the log of the server has more.")

    def _retold(
        self, attempts: Sequence[tuple[Problem, str]], verdicts: Sequence[Verdict | SandboxError]
    ) -> list[Verdict | SandboxError]:
        """The verdicts with what the sources say in place of the judge's feedback."""
        judged = {i: v for i, v in enumerate(verdicts) if isinstance(v, Verdict)}
        batch = [_attempt(*attempts[i], verdict) for i, verdict in judged.items()]
        told = retold(batch, self.sources)
        found = list(verdicts)
        for (i, verdict), attempt in zip(judged.items(), told, strict=True):
            found[i] = dataclasses.replace(verdict, feedback=attempt.feedback)
        return found


def _attempt(problem: Problem, answer: str, verdict: Verdict) -> Attempt:
    return Attempt(
        problem_id=problem.id,
        prompt=problem.prompt,
        answer=answer,
        reward=verdict.reward,
        solved=verdict.solved,
        status=verdict.status.value,
        feedback=verdict.feedback,
        details=verdict.details,
        comment=verdict.feedback,
    )
