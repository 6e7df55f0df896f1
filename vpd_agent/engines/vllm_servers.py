"""Several vLLM servers: which are there, who is asked what, and what happens when one is lost."""

from __future__ import annotations

import threading
import time
import warnings
import zlib
from array import array
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import contextmanager
from typing import Any

from vpd_agent.engines.vllm_client import VLLMClient

RETURN_SECONDS = 30.0
"""So long after a server was lost, or was asked in vain, it is not asked again."""


class VLLMServers:
    """The servers of a run. Those that are present share its requests.

    A prompt goes to the server that was sent this prompt, or a beginning of it, since the weights
    last changed: the later turns of a conversation find their keys and values there. Any other goes
    to the server that has the fewest requests under way.

    A server that does not answer, answers with an error, or takes too long is lost: its requests
    are made elsewhere, each is answered once. It is present again when `send` has reached it. The
    last one is never lost; its error is raised.
    """

    def __init__(self, clients: Sequence[VLLMClient]) -> None:
        self._clients = list(clients)
        self._present = list(clients)
        self._lost: dict[VLLMClient, Exception] = {}  # why
        self._asked: dict[VLLMClient, float] = {}  # when a lost one was tried last
        self._under_way: Counter[VLLMClient] = Counter()
        self._homes: dict[tuple[int, int], VLLMClient] = {}  # by the key of a prompt
        self._lock = threading.RLock()
        self._given_up = threading.Event()  # all requests until the next `cancel`

    @property
    def present(self) -> list[VLLMClient]:
        with self._lock:
            return list(self._present)

    def keep(self, urls: Collection[str]) -> None:
        """These servers are present from now on, and no others."""
        with self._lock:
            self._present = [client for client in self._clients if client.url in urls]
            for client in self._present:
                self._lost.pop(client, None)

    @contextmanager
    def only(self, client: VLLMClient) -> Iterator[None]:
        """Within, this server answers all requests."""
        present = [c.url for c in self.present]
        self.keep([client.url])
        try:
            yield
        finally:
            self.keep(present)

    def lose(self, client: VLLMClient, error: Exception) -> None:
        """Take a server out; its requests under way end with an error, and go to others.

        Raises the error if it is the only server, and one that names all if it is the last."""
        with self._lock:
            if client not in self._present:
                return
            others = [c for c in self._present if c is not client]
            if not others:
                if not self._lost:
                    raise error
                reasons = "".join(f"\n  {e}" for e in [*self._lost.values(), error])
                raise ConnectionError(f"No vLLM server is left:{reasons}") from error
            self._present = others
            self._lost[client] = error
            self._asked[client] = time.monotonic()
            client.cancel()
        warnings.warn(
            f"The vLLM server {client.url} is lost, {len(others)} of {len(self._clients)} go on: "
            f"{error}",
            stacklevel=2,
        )

    def each(self, action: Callable[[VLLMClient], None]) -> None:
        """Do this with every present server, side by side. Those that fail with a ConnectionError
        are lost; any other error is raised."""
        with ThreadPoolExecutor(max_workers=len(self._clients)) as pool:
            results = {client: pool.submit(action, client) for client in self.present}
        self._lose_those_that_failed({c: result.exception() for c, result in results.items()})

    def send(self, load: Callable[[VLLMClient], None], admit: Callable[[VLLMClient], None]) -> None:
        """Give new weights to every present server, and to those lost ones that are back.

        load: gives a server the weights.
        admit: what a server that is back must pass before; its error keeps it out.
        """

        def admit_and_load(client: VLLMClient) -> None:
            admit(client)
            load(client)

        with ThreadPoolExecutor(max_workers=len(self._clients)) as pool:
            returns = {client: pool.submit(admit_and_load, client) for client in self._due()}
            loads = {client: pool.submit(load, client) for client in self.present}
        self._take_back({client: result.exception() for client, result in returns.items()})
        self._lose_those_that_failed({c: result.exception() for c, result in loads.items()})
        self.forget_prompts()

    def readmit(self, admit: Callable[[VLLMClient], None]) -> None:
        """Take those lost servers back that are there again and pass `admit`."""
        with ThreadPoolExecutor(max_workers=len(self._clients)) as pool:
            returns = {client: pool.submit(admit, client) for client in self._due()}
        self._take_back({client: result.exception() for client, result in returns.items()})

    def forget_prompts(self) -> None:
        """Which server was sent which prompt no longer matters, as the weights have changed."""
        with self._lock:
            self._homes = {}

    def answers(
        self, path: str, prompts: Sequence[list[int]], request: Callable[[int, VLLMClient], Any]
    ) -> list[tuple[VLLMClient, Any]]:
        """The answer to each prompt's request with the server that gave it, in order.

        request: what is sent, of a prompt's number and the server that is asked.

        Raises the ConnectionError of the last server, or of `cancel`, and ValueError if a server
        refuses a request. Either cancels all others.
        """
        given_up = self._given_up

        def answer(number: int) -> tuple[VLLMClient, Any]:
            while True:
                with self._routed(prompts[number], given_up) as (client, cancelled):
                    try:
                        content = request(number, client)
                        return client, client.ask("POST", path, content, given_up=cancelled)
                    except ConnectionError as error:
                        if given_up.is_set():
                            raise
                        self.lose(client, error)

        with ThreadPoolExecutor(max_workers=min(256, len(prompts)) or 1) as pool:
            answers = [pool.submit(answer, number) for number in range(len(prompts))]
            try:
                for finished in as_completed(answers):
                    finished.result()
            except BaseException:
                pool.shutdown(wait=False, cancel_futures=True)
                self.cancel()
                raise
        return [finished.result() for finished in answers]

    def cancel(self) -> None:
        """End all requests until now with an error."""
        with self._lock:
            self._given_up.set()
            self._given_up = threading.Event()
            for client in self._clients:
                client.cancel()

    @contextmanager
    def _routed(
        self, prompt: list[int], given_up: threading.Event
    ) -> Iterator[tuple[VLLMClient, threading.Event]]:
        """The server for a prompt, and what tells that its requests are cancelled."""
        with self._lock:
            if given_up.is_set():
                raise ConnectionError("The request was given up before it was made.")
            home, key = self._home(prompt)
            if home not in self._present:
                home = min(self._present, key=lambda client: self._under_way[client])
            self._homes[key] = home
            self._under_way[home] += 1
            route = home, home.given_up
        try:
            yield route
        finally:
            with self._lock:
                self._under_way[home] -= 1

    def _home(self, prompt: list[int]) -> tuple[VLLMClient | None, tuple[int, int]]:
        """The server that was sent the longest beginning of this prompt, and the prompt's key: its
        length and a hash."""
        tokens, home, start, digest = array("q", prompt), None, 0, 0
        lengths = {length for length, _ in self._homes if length < len(prompt)}
        for length in [*sorted(lengths), len(prompt)]:
            digest = zlib.crc32(tokens[start:length], digest)
            home = self._homes.get((length, digest), home)
            start = length
        return home, (len(prompt), digest)

    def _due(self) -> list[VLLMClient]:
        """The lost servers that are to be asked whether they are back."""
        with self._lock:
            now = time.monotonic()
            due = [c for c in self._lost if now - self._asked[c] >= RETURN_SECONDS]
            self._asked |= dict.fromkeys(due, now)
        return due

    def _take_back(self, errors: dict[VLLMClient, BaseException | None]) -> None:
        for client, error in errors.items():
            if error is None:
                self.keep([c.url for c in [*self.present, client]])
                warnings.warn(f"The vLLM server {client.url} is back.", stacklevel=2)
            elif isinstance(error, (ConnectionError, ValueError)):
                self._lost[client] = error
            else:
                raise error

    def _lose_those_that_failed(self, errors: dict[VLLMClient, BaseException | None]) -> None:
        for client, error in errors.items():
            if isinstance(error, ConnectionError):
                self.lose(client, error)
            elif error is not None:
                raise error
