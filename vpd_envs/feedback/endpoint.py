"""A chat model behind an OpenAI-compatible endpoint, asked many questions side by side.

The API key is read from the environment for every batch; it is in no attribute, cache, error or
log.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import multiprocessing
import os
import random
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import KW_ONLY, dataclass
from email.utils import parsedate_to_datetime
from multiprocessing.pool import ThreadPool
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit
from urllib.request import getproxies, proxy_bypass

import urllib3
from urllib3.util import parse_url

from vpd_envs.checks import check_integer, check_positive, is_number
from vpd_envs.feedback.answer_cache import AnswerCache

ANSWER_BYTES = 1 << 22  # no critique is longer; what comes after it is not read
REASON_CHARACTERS = 300  # of a refusal
RETRYABLE = (408, 425, 429)  # statuses that may pass, beside all 5xx
LONGEST_PAUSE_SECONDS = 60.0  # between two tries, unless the server asks for more


class Failure(Exception):
    """Why there is no answer; `retryable` if another try may have one, after a pause."""

    def __init__(self, reason: str, retryable: bool = False, pause_seconds: float = 0.0) -> None:
        super().__init__(reason)
        self.retryable = retryable
        self.pause_seconds = pause_seconds


@dataclass
class ChatEndpoint:
    """`ask` gives an answer, or a `Failure`, to each question, within `batch_seconds`.

    base_url: as for OpenAI's client, e.g. http://127.0.0.1:8000/v1. The usual environment variables
        (HTTPS_PROXY, NO_PROXY …) name a proxy. Redirections are not followed: they would get the
        key.
    model: its name there.
    api_key_env: the environment variable that holds the API key. Unset or empty: none is sent.
    timeout_seconds: of one request, from the connection to its last byte.
    batch_seconds: of one `ask`, tries and pauses included; requests under way then are given up.
    retries: further tries after statuses that may pass (408, 425, 429, 5xx), lost connections,
        timeouts and answers that cannot be read. The pauses double from `backoff_seconds` on, with
        jitter, and are as long as Retry-After asks.
    concurrency: the most requests under way at any time.
    max_tokens, temperature: of an answer. None is not sent, for models that refuse them.
    cache: an SQLite file of answers, made if absent, that several processes may share; None for
        none. The same question to the same model at the same address with the same max_tokens and
        temperature is asked only once.
    """

    base_url: str
    model: str
    _: KW_ONLY
    api_key_env: str
    timeout_seconds: float
    batch_seconds: float
    retries: int
    backoff_seconds: float
    concurrency: int
    max_tokens: int | None
    temperature: float | None
    cache: str | Path | None

    def __post_init__(self) -> None:
        self.url = f"{_checked_base_url(self.base_url)}/chat/completions"
        if not isinstance(self.model, str) or not self.model:
            raise ValueError(
                f"model must be the name of a model at {self.base_url}, got {self.model!r}."
            )
        check_positive(
            timeout_seconds=self.timeout_seconds,
            batch_seconds=self.batch_seconds,
            backoff_seconds=self.backoff_seconds,
        )
        check_integer("retries", self.retries, 0)
        check_integer("concurrency", self.concurrency, 1)
        if self.max_tokens is not None:
            check_integer("max_tokens", self.max_tokens, 1)
        if self.temperature is not None and not is_number(self.temperature, least=0):
            raise ValueError(f"temperature must be a number from 0 on, got {self.temperature!r}.")
        self._kept = None if self.cache is None else AnswerCache(self.cache)
        self._slots = threading.BoundedSemaphore(self.concurrency)

    def ask(self, questions: Sequence[str]) -> list[str | Failure]:
        """Never raises for what the endpoint does. The same question twice is asked once."""
        deadline = time.monotonic() + self.batch_seconds
        requests = [self._request(question) for question in questions]
        keys = [hashlib.sha256(self.url.encode() + request).hexdigest() for request in requests]
        answers: dict[str, str | Failure] = {}
        if self._kept is not None:
            answers.update(self._kept.read(set(keys)))
        pairs = zip(keys, requests, strict=True)
        if missing := {key: request for key, request in pairs if key not in answers}:
            answers |= self._fetched(missing, deadline)
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

    def _fetched(self, missing: Mapping[str, bytes], deadline: float) -> dict[str, str | Failure]:
        """The answers to requests, by key, as far as they come until the deadline."""
        api_key = _api_key(self.api_key_env)
        http = _connections(self.url, self.concurrency)

        def fetch(key: str) -> str | Failure:
            answer = self._answer(http, missing[key], api_key, deadline)
            if self._kept is not None and isinstance(answer, str):
                self._kept.write(key, answer)
            return answer

        answers: dict[str, str | Failure] = {}
        # Its threads are daemons, and leaving the block does not wait for them: a server that never
        # ends its answer keeps neither the batch nor the process from ending.
        with ThreadPool(min(self.concurrency, len(missing))) as threads:
            results = {key: threads.apply_async(fetch, (key,)) for key in missing}
            for key, result in results.items():
                with contextlib.suppress(multiprocessing.TimeoutError):
                    answers[key] = result.get(max(0.0, deadline - time.monotonic()))
        return answers

    def _answer(
        self, http: urllib3.PoolManager, request: bytes, api_key: str, deadline: float
    ) -> str | Failure:
        """The answer after as many tries as it takes."""
        for retry in range(self.retries + 1):
            try:
                return _content(self._response(http, request, api_key, deadline))
            except Failure as failure:
                reason = _redact(f"{self.url}: {failure}", api_key)
                if retry == self.retries or not failure.retryable:
                    return Failure(reason)
                longest = min(self.backoff_seconds * 2**retry, LONGEST_PAUSE_SECONDS)
                pause = max(failure.pause_seconds, longest * random.uniform(0.5, 1.0))
            if pause > deadline - time.monotonic():
                return Failure(f"{reason} (and no time to try again)")
            time.sleep(pause)
        raise AssertionError("unreachable")

    def _response(
        self, http: urllib3.PoolManager, request: bytes, api_key: str, deadline: float
    ) -> bytes:
        """The body of the response. Raises Failure for everything but a whole success."""
        headers = {"Content-Type": "application/json", "Accept": "application/json"}
        if api_key:
            headers["Authorization"] = f"Bearer {api_key}"
        # Of all threads that ask this endpoint, not only of those of one batch.
        if not self._slots.acquire(timeout=max(0.0, deadline - time.monotonic())):
            raise Failure("no request could be sent before the batch was over")
        try:
            seconds = max(min(self.timeout_seconds, deadline - time.monotonic()), 0.001)
            until = time.monotonic() + seconds
            options: dict[str, Any] = {"retries": False, "preload_content": False}
            with http.request(
                "POST", self.url, body=request, headers=headers, timeout=seconds, **options
            ) as response:
                return _body(response, until)
        except (urllib3.exceptions.HTTPError, OSError) as error:
            why = error.__cause__ or error
            raise Failure(f"{type(why).__name__}: {why}", retryable=True) from None
        finally:
            self._slots.release()

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if name != "_slots"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        self._slots = threading.BoundedSemaphore(self.concurrency)


def _connections(url: str, concurrency: int) -> urllib3.PoolManager:
    """Connections to an address, through the proxy that the environment names for it."""
    parts = urlsplit(url)
    proxy = getproxies().get(parts.scheme)
    if not proxy or proxy_bypass(parts.netloc):
        return urllib3.PoolManager(maxsize=concurrency)
    proxy = proxy if "://" in proxy else f"http://{proxy}"
    login = parse_url(proxy).auth
    headers = urllib3.make_headers(proxy_basic_auth=unquote(login)) if login else None
    return urllib3.ProxyManager(proxy, proxy_headers=headers, maxsize=concurrency)


def _body(response: urllib3.BaseHTTPResponse, until: float) -> bytes:
    """The body. The timeout of a socket is for each piece only, so the clock is watched here."""
    if not 200 <= response.status < 300:
        detail = ""
        with contextlib.suppress(urllib3.exceptions.HTTPError, OSError):
            detail = response.read1(1 << 12).decode("utf-8", "replace")
        retryable = response.status in RETRYABLE or response.status >= 500
        pause = pause_of(response.headers.get("Retry-After", ""))
        raise Failure(f"HTTP {response.status}: {detail}".rstrip(": "), retryable, pause)
    body = bytearray()
    while piece := response.read1(1 << 16):
        body += piece
        if len(body) > ANSWER_BYTES:
            raise Failure(f"the answer is longer than {ANSWER_BYTES} bytes")
        if time.monotonic() > until:
            raise TimeoutError("timed out before the last byte")
    return bytes(body)


def _redact(reason: str, api_key: str) -> str:
    """In one short line, without the key: some servers repeat it."""
    reason = reason.replace(api_key, "***") if api_key else reason
    return " ".join(reason.split())[:REASON_CHARACTERS]


def _content(body: bytes) -> str:
    """The message in a chat completion. Raises Failure for any other body."""
    try:
        content = json.loads(body)["choices"][0]["message"]["content"]
    except (ValueError, LookupError, TypeError, RecursionError):
        raise Failure(f"not a chat completion: {body[: 1 << 12]!r}", retryable=True) from None
    if not isinstance(content, str) or not content.strip():
        raise Failure("a chat completion without content")
    return content.encode("utf-8", "replace").decode()  # JSON can spell what no encoding holds


def pause_of(retry_after: str) -> float:
    """Seconds from a Retry-After header: a number, or a date; 0 for anything else."""
    seconds = 0.0
    with contextlib.suppress(ValueError, TypeError):
        seconds = parsedate_to_datetime(retry_after).timestamp() - time.time()
    with contextlib.suppress(ValueError):
        seconds = float(retry_after)
    return max(0.0, seconds) if math.isfinite(seconds) else 0.0


def _checked_base_url(base_url: str) -> str:
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


def _api_key(name: str) -> str:
    """The value of the environment variable; "" if it is not set."""
    key = os.environ.get(name, "").strip()
    if not (key.isascii() and key.isprintable()):
        raise ValueError(
            f"The environment variable {name} holds no API key: it has characters that no HTTP "
            "header may have."
        )
    return key
