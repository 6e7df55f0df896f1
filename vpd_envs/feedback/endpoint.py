"""A chat model behind an OpenAI-compatible endpoint, asked many questions side by side.

Standard library only. The API key is read from the environment for every batch; it is in no
attribute, cache, error or log.
"""

from __future__ import annotations

import contextlib
import hashlib
import http.client
import json
import logging
import math
import os
import queue
import random
import sqlite3
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

log = logging.getLogger("vpd_envs")

ANSWER_BYTES = 1 << 22  # no critique is longer; what is behind it is not read
REASON = 300  # characters of a refusal that are worth telling
LATER = (408, 425, 429)  # refusals that do not hold for good, beside all 5xx
LONGEST_PAUSE_SECONDS = 60.0  # between two tries, unless the server asks for more


@dataclass(frozen=True)
class Failure:
    """Why there is no answer."""

    reason: str


class ChatEndpoint:
    """`ask` gives an answer, or a `Failure`, to each question, within `batch_seconds`.

    base_url: as for OpenAI's client, e.g. http://127.0.0.1:8000/v1.
    model: its name there.
    api_key_env: the environment variable that holds the API key. Unset or empty: none is sent.
    timeout_seconds: of one request, from the connection to its last byte.
    batch_seconds: of one `ask`, tries and pauses included; requests under way then are given up.
    retries: further tries after refusals for now (408, 425, 429, 5xx), lost connections, timeouts
        and garbled answers. The pauses double from `backoff_seconds` on, with jitter, and are as
        long as Retry-After asks.
    concurrency: the most requests under way at any time.
    max_tokens, temperature: of an answer. None is not sent, for models that refuse them.
    cache: an SQLite file of answers, made if absent, that several processes may share; None for
        none. The same question to the same model at the same address with the same max_tokens and
        temperature is asked once in its life.
    """

    def __init__(
        self,
        base_url: str,
        model: str,
        *,
        api_key_env: str,
        timeout_seconds: float,
        batch_seconds: float,
        retries: int,
        backoff_seconds: float,
        concurrency: int,
        max_tokens: int | None,
        temperature: float | None,
        cache: str | Path | None,
    ) -> None:
        self.url = f"{checked_base_url(base_url)}/chat/completions"
        if not isinstance(model, str) or not model:
            raise ValueError(f"model must be the name of a model at {base_url}, got {model!r}.")
        for name, value in (
            ("timeout_seconds", timeout_seconds),
            ("batch_seconds", batch_seconds),
            ("backoff_seconds", backoff_seconds),
        ):
            if not is_number(value) or value <= 0:
                raise ValueError(f"{name} must be a positive number, got {value!r}.")
        for name, value, least in (
            ("retries", retries, 0),
            ("concurrency", concurrency, 1),
            ("max_tokens", 1 if max_tokens is None else max_tokens, 1),
        ):
            if isinstance(value, bool) or not isinstance(value, int) or value < least:
                raise ValueError(f"{name} must be an integer from {least} on, got {value!r}.")
        if temperature is not None and (not is_number(temperature) or temperature < 0):
            raise ValueError(f"temperature must be a number from 0 on, got {temperature!r}.")
        self.model = model
        self.api_key_env = api_key_env
        self.timeout_seconds = timeout_seconds
        self.batch_seconds = batch_seconds
        self.retries = retries
        self.backoff_seconds = backoff_seconds
        self.concurrency = concurrency
        self.max_tokens = max_tokens
        self.temperature = temperature
        self.cache = None if cache is None else AnswerCache(cache)
        self._slots = threading.BoundedSemaphore(concurrency)

    def ask(self, questions: Sequence[str]) -> list[str | Failure]:
        """Never raises for what the endpoint does. The same question twice is asked once."""
        deadline = time.monotonic() + self.batch_seconds
        requests = [self._request(question) for question in questions]
        keys = [hashlib.sha256(self.url.encode() + request).hexdigest() for request in requests]
        answers: dict[str, str | Failure] = {}
        if self.cache is not None:
            answers.update(self.cache.read(set(keys)))
        missing = {
            key: request for key, request in zip(keys, requests, strict=True) if key not in answers
        }
        if missing:
            answers.update(self._fetched(missing, deadline))
        late = Failure(f"no answer within the {self.batch_seconds:g} seconds of the batch")
        return [answers.get(key, late) for key in keys]

    def _request(self, question: str) -> bytes:
        request = {
            "model": self.model,
            "messages": [{"role": "user", "content": question}],
            "max_tokens": self.max_tokens,
            "temperature": self.temperature,
        }
        given = {name: value for name, value in request.items() if value is not None}
        return json.dumps(given, sort_keys=True).encode()

    def _fetched(
        self, missing: Mapping[str, bytes], deadline: float
    ) -> Mapping[str, str | Failure]:
        """What came until the deadline, by key."""
        api_key = checked_api_key(self.api_key_env)
        jobs: queue.SimpleQueue[tuple[str, bytes]] = queue.SimpleQueue()
        done: queue.SimpleQueue[tuple[str, str | Failure | Exception]] = queue.SimpleQueue()
        over = threading.Event()
        for job in missing.items():
            jobs.put(job)

        def work() -> None:
            while not over.is_set():
                try:
                    key, request = jobs.get_nowait()
                except queue.Empty:
                    return
                try:
                    answer = self._answer(request, api_key, deadline, over)
                    if self.cache is not None and isinstance(answer, str):
                        self.cache.write(key, answer)
                    done.put((key, answer))
                except Exception as error:  # a defect of ours: raised where `ask` was called
                    done.put((key, error))

        for _ in range(min(self.concurrency, len(missing))):
            # Daemons: a server that never ends its answer must not keep the process from ending.
            threading.Thread(target=work, name="feedback-judge", daemon=True).start()
        answers: dict[str, str | Failure] = {}
        try:
            while len(answers) < len(missing):
                key, answer = done.get(timeout=max(0.0, deadline - time.monotonic()))
                if isinstance(answer, Exception):
                    raise answer
                answers[key] = answer
        except queue.Empty:
            pass
        finally:
            over.set()
        return answers

    def _answer(
        self, request: bytes, api_key: str, deadline: float, over: threading.Event
    ) -> str | Failure:
        """The answer after as many tries as it takes."""
        for retry in range(self.retries + 1):
            try:
                return content_of(self._posted(request, api_key, deadline))
            except Refused as refusal:
                reason = told(f"{self.url}: {refusal}", api_key)
                if retry == self.retries or not refusal.for_now:
                    return Failure(reason)
                longest = min(self.backoff_seconds * 2**retry, LONGEST_PAUSE_SECONDS)
                pause = max(refusal.pause_seconds, longest * random.uniform(0.5, 1.0))
            if pause > deadline - time.monotonic() or over.wait(pause):
                return Failure(f"{reason} (and no time to try again)")
        raise AssertionError("unreachable")

    def _posted(self, request: bytes, api_key: str, deadline: float) -> bytes:
        """The body of the response. Raises Refused for everything but a whole 200."""
        with self._slot(deadline):
            now = time.monotonic()
            return self._response(request, api_key, min(now + self.timeout_seconds, deadline))

    @contextlib.contextmanager
    def _slot(self, deadline: float) -> Iterator[None]:
        """A place among the requests under way; other threads that ask may hold some."""
        if not self._slots.acquire(timeout=max(0.0, deadline - time.monotonic())):
            raise Refused("no request could be sent before the batch was over", for_now=False)
        try:
            yield
        finally:
            self._slots.release()

    def _response(self, request: bytes, api_key: str, until: float) -> bytes:
        seconds = max(until - time.monotonic(), 0.001)  # 0 would mean a socket that never waits
        headers = {"Content-Type": "application/json", "Accept": "application/json"}
        if api_key:
            headers["Authorization"] = f"Bearer {api_key}"
        post = urllib.request.Request(self.url, request, headers, method="POST")
        try:
            with NO_REDIRECTS.open(post, timeout=seconds) as response:
                return read(response, until)
        except urllib.error.HTTPError as error:
            with error:
                detail = detail_of(error)
            for_now = error.code in LATER or error.code >= 500
            pause = pause_of(error.headers.get("Retry-After"))
            raise Refused(f"HTTP {error.code}{detail}", for_now, pause) from None
        except (OSError, http.client.HTTPException) as error:
            why = error.reason if isinstance(error, urllib.error.URLError) else error
            raise Refused(f"{type(why).__name__}: {why}", for_now=True) from None

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if name != "_slots"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        self._slots = threading.BoundedSemaphore(self.concurrency)


class AnswerCache:
    """Answers by key in an SQLite file; opened for each use, so it may be pickled and shared."""

    def __init__(self, path: str | Path) -> None:
        self.path = str(path)
        try:
            Path(path).parent.mkdir(parents=True, exist_ok=True)
            with self._open() as table:
                table.execute(
                    "CREATE TABLE IF NOT EXISTS answers (key TEXT PRIMARY KEY, text TEXT)"
                )
        except (sqlite3.Error, OSError) as error:
            raise ValueError(
                f"cache={self.path!r} cannot be used as a cache of answers: {error}. Expected the "
                "path of an SQLite file, or of one to be made."
            ) from error

    def read(self, keys: set[str]) -> dict[str, str]:
        found: dict[str, str] = {}
        try:
            with self._open() as table:
                for key in keys:
                    row = table.execute("SELECT text FROM answers WHERE key = ?", (key,)).fetchone()
                    if row is not None:
                        found[key] = row[0]
        except sqlite3.Error as error:
            log.warning("The cache %s could not be read: %s", self.path, error)
        return found

    def write(self, key: str, text: str) -> None:
        """An answer that cannot be kept is still an answer: said, not raised."""
        try:
            with self._open() as table:
                table.execute("INSERT OR IGNORE INTO answers VALUES (?, ?)", (key, text))
        except sqlite3.Error as error:
            log.warning("An answer could not be written to the cache %s: %s", self.path, error)

    @contextlib.contextmanager
    def _open(self) -> Iterator[sqlite3.Connection]:
        """A transaction."""
        with contextlib.closing(sqlite3.connect(self.path, timeout=10.0)) as connection, connection:
            yield connection


class Refused(Exception):
    """A request without an answer; `for_now` if it is worth another try."""

    def __init__(self, reason: str, for_now: bool, pause_seconds: float = 0.0) -> None:
        super().__init__(reason)
        self.for_now = for_now
        self.pause_seconds = pause_seconds


class NoRedirects(urllib.request.HTTPRedirectHandler):
    """urllib would send the API key on to wherever a redirection points."""

    def redirect_request(self, *arguments: Any) -> None:
        return None


NO_REDIRECTS = urllib.request.build_opener(NoRedirects)


def read(response: http.client.HTTPResponse, until: float) -> bytes:
    """The body. A timeout of the socket is for each piece only, so the clock is watched here."""
    pieces, size = [], 0
    while piece := response.read1(1 << 16):
        pieces.append(piece)
        size += len(piece)
        if size > ANSWER_BYTES:
            raise Refused(f"the answer is longer than {ANSWER_BYTES} bytes", for_now=False)
        if time.monotonic() > until:
            raise TimeoutError("timed out before the last byte")
    return b"".join(pieces)


def detail_of(error: urllib.error.HTTPError) -> str:
    """The start of what the server says of its refusal."""
    try:
        body = error.read1(1 << 12)
    except (OSError, http.client.HTTPException):
        return ""
    return f": {body.decode('utf-8', 'replace')}" if body else ""


def told(reason: str, api_key: str) -> str:
    """In one short line, without the key: some servers repeat it."""
    reason = reason.replace(api_key, "***") if api_key else reason
    return " ".join(reason.split())[:REASON]


def content_of(body: bytes) -> str:
    """The message in a chat completion. Raises Refused for any other body."""
    try:
        content = json.loads(body)["choices"][0]["message"]["content"]
    except (ValueError, LookupError, TypeError, RecursionError):
        raise Refused(f"not a chat completion: {body[: 1 << 12]!r}", for_now=True) from None
    if not isinstance(content, str) or not content.strip():
        raise Refused("a chat completion without content", for_now=False)
    return content.encode("utf-8", "replace").decode()  # JSON can spell what no encoding holds


def pause_of(retry_after: str | None) -> float:
    """Seconds from a Retry-After header: a number, or a date; 0 for anything else."""
    try:
        seconds = float(retry_after)
    except (TypeError, ValueError):
        try:
            seconds = parsedate_to_datetime(retry_after).timestamp() - time.time()
        except (TypeError, ValueError):
            return 0.0
    return max(0.0, seconds) if math.isfinite(seconds) else 0.0


def checked_base_url(base_url: str) -> str:
    """Without its last slash. Raises ValueError, which does not repeat credentials."""
    parts = urlsplit(base_url)
    if parts.username is not None or parts.password is not None or parts.query or parts.fragment:
        raise ValueError(
            "base_url must have no user, password, query or fragment: the key belongs in the "
            "environment variable that api_key_env names."
        )
    if parts.scheme not in ("http", "https") or not parts.hostname or not base_url.isascii():
        raise ValueError(f"base_url must be like http://127.0.0.1:8000/v1, got {base_url!r}.")
    return base_url.rstrip("/")


def checked_api_key(name: str) -> str:
    """The value of the environment variable; "" if it is not set."""
    key = os.environ.get(name, "").strip()
    if not (key.isascii() and key.isprintable()):
        raise ValueError(
            f"The environment variable {name} holds no API key: it has characters that no HTTP "
            "header may have."
        )
    return key


def is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
