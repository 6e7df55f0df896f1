"""One vLLM server, as a client sees it: its requests, its weights, and what it says of itself."""

from __future__ import annotations

import contextlib
import json
import os
import re
import socket
import threading
from collections.abc import Iterator
from http.client import HTTPConnection, HTTPException, HTTPSConnection
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

START = (
    "VLLM_SERVER_DEV_MODE=1 vllm serve MODEL --logprobs-mode processed_logprobs "
    "--generation-config vllm"
)
OLDEST = (0, 32)  # of vLLM's versions
OTHER_TRIES = 4  # after a lost connection; the pauses double from one second on
_CONNECT_SECONDS = 10.0
_UNAVAILABLE = (429, 502, 503, 504)
_KEEPALIVE = (  # a machine that is gone is noticed within 35 s, however long an answer may take
    (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1),
    (socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 15),
    (socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, 5),
    (socket.IPPROTO_TCP, socket.TCP_KEEPCNT, 4),
)


class VLLMClient:
    """JSON over HTTP to one vLLM server, with retries, time limits, and a way to cancel requests.

    url: such as http://127.0.0.1:8000, with or without the /v1 of OpenAI's client.
    timeout_seconds: for one request, which may be a whole response or the loading of the weights.
    api_key_env: the environment variable with the API key, if the server wants one.
    other_tries: after a lost connection; None: `OTHER_TRIES`.

    Every method that asks the server raises ConnectionError if it cannot be reached (after some
    tries), answers with an error, or does not answer as vLLM does; ValueError for what it refuses.
    """

    model: str  # its name on the server; this and the next three are known after `meet`
    root: str  # the folder or name that the server has loaded
    max_model_len: int  # most tokens of a prompt and its response together
    version: str  # of vLLM

    def __init__(
        self, url: str, timeout_seconds: float, api_key_env: str, other_tries: int | None = None
    ) -> None:
        self._address = urlsplit(url.rstrip("/").removesuffix("/v1"))
        if self._address.scheme not in ("http", "https") or not self._address.hostname:
            raise ValueError(f"Expected an address such as http://127.0.0.1:8000, got {url!r}.")
        if timeout_seconds <= 0:
            raise ValueError(f"timeout_seconds must be positive, got {timeout_seconds}.")
        self.url = self._address.geturl()
        self.is_on_this_machine = self._address.hostname in ("localhost", "127.0.0.1", "::1")
        self._timeout_seconds = timeout_seconds
        self._api_key_env = api_key_env
        self._other_tries = other_tries
        self._lock = threading.Lock()
        self._sockets: set[socket.socket] = set()  # of the requests that are under way
        self.given_up = threading.Event()  # of the requests until the next `cancel`
        self._logprobs_checked = False

    # --- what vLLM offers ---

    def meet(self, model: str | None, *, other_tries: int | None = None) -> None:
        """Learn which vLLM this is, and what it serves.

        model: its name on the server; None: the only one that is served.
        other_tries: in place of the client's.
        """
        served = self._chosen(self.ask("GET", "/v1/models", other_tries=other_tries), model)
        self._logprobs_checked = False
        self.model, self.root = served["id"], served["root"]
        self.max_model_len = served["max_model_len"]
        answer = self.ask("GET", "/version")
        version = str(answer.get("version") if isinstance(answer, dict) else answer)
        numbers = re.match(r"(\d+)\.(\d+)", version)
        if numbers is None or tuple(map(int, numbers.groups())) < OLDEST:
            raise ValueError(
                f"Expected vLLM {'.'.join(map(str, OLDEST))} or later at {self.url}, got version "
                f"{version}."
            )
        self.version = version

    def load(self, folder: Path, version: str) -> None:
        """Load the weights in a folder while requests wait, and call them `version` from then on.
        What vLLM has kept of prompts is dropped."""
        self.pause()
        try:
            reload = {"method": "reload_weights", "kwargs": {"weights_path": str(folder)}}
            self.ask("POST", "/collective_rpc", reload)
            self.forget_prefixes()
            self.name_weights(version)
        finally:
            self.resume()

    def pause(self) -> None:
        """Let the requests under way end, and let others wait."""
        self.ask("POST", "/pause?mode=wait")

    def resume(self) -> None:
        self.ask("POST", "/resume")

    def forget_prefixes(self) -> None:
        """Drop what is kept of prompts: it is of the weights of before."""
        if not self.ask("POST", "/reset_prefix_cache")["success"]:
            raise ConnectionError(f"{self.url} could not drop its prefix cache.")

    def name_weights(self, version: str) -> None:
        self.ask("POST", "/update_weight_version", {"new_version": version})

    def configuration(self) -> dict[str, Any]:
        """What vLLM was started with, by the names of its `VllmConfig`."""
        return self.ask("GET", "/server_info?config_format=json")["vllm_config"]

    def address_of_this_machine(self) -> str:
        """By which the server can reach this process."""
        with self._connected(self.given_up) as connection:
            return connection.sock.getsockname()[0]

    def check_weights(self, version: str) -> None:
        """Raise ConnectionError if the server has others than the weights of that name."""
        theirs = self.ask("GET", "/weight_info")["weight_version"]
        if theirs != version:
            raise ConnectionError(
                f"{self.url} has the weights {theirs!r}, expected {version!r}, which it was sent. "
                f"Was it started anew, or does another run send it weights?"
            )

    def check_logprobs(self) -> None:
        """Raise ValueError if the server tells log-probabilities at temperature 1 whatever it
        samples at, which is vLLM's default. It is asked once after each `meet`."""
        if self._logprobs_checked:
            return
        mode = self.configuration()["model_config"]["logprobs_mode"]
        if mode != "processed_logprobs":
            raise ValueError(
                f"The server at {self.url} reports {mode}: at a temperature other than 1 they are "
                f"not those of the tokens it samples. Start it with {START}."
            )
        self._logprobs_checked = True

    def _chosen(self, answer: Any, name: str | None) -> dict[str, Any]:
        """The served model of that name; each has id, root and max_model_len."""
        try:
            served = {model["id"]: model for model in answer["data"] if model["max_model_len"]}
        except (KeyError, TypeError) as error:
            raise ConnectionError(
                f"Expected a vLLM server at {self.url}, it has no such models."
            ) from error
        if name is None and len(served) == 1:
            return next(iter(served.values()))
        if name not in served:
            raise ValueError(
                f"The server at {self.url} serves {', '.join(served)}; expected "
                f"{name or 'a single model, or the name of one'}."
            )
        return served[name]

    # --- requests ---

    def cancel(self) -> None:
        """End all requests until now with an error: vLLM then stops working on them."""
        with self._lock:
            self.given_up.set()
            self.given_up = threading.Event()
            for connected in self._sockets:
                with contextlib.suppress(OSError):
                    connected.shutdown(socket.SHUT_RDWR)

    def ask(
        self,
        method: str,
        path: str,
        content: Any = None,
        *,
        given_up: threading.Event | None = None,
        other_tries: int | None = None,
    ) -> Any:
        """The answer to a request, after several tries if the server is not there or is busy.

        given_up: tells that the request is cancelled; None: the next `cancel` does.
        other_tries: in place of the client's.
        """
        given_up = given_up or self.given_up
        tries = self._other_tries if other_tries is None else other_tries
        attempt, most = 0, 1 + (OTHER_TRIES if tries is None else tries)
        while True:
            try:
                return self._ask_once(method, path, content, given_up)
            except _Unavailable as error:
                attempt += 1
                if attempt >= most or given_up.wait(2 ** (attempt - 1)):
                    raise ConnectionError(
                        f"Expected a vLLM server at {self.url}, got {error} ({attempt} tries). "
                        f"Is it up? Start it with {START}."
                    ) from error

    def _ask_once(self, method: str, path: str, content: Any, given_up: threading.Event) -> Any:
        headers = {"Content-Type": "application/json", "Connection": "close"}
        if key := os.environ.get(self._api_key_env):
            headers["Authorization"] = f"Bearer {key}"
        body = None if content is None else json.dumps(content)
        try:  # a redirect is not followed: it might take the key to another server
            with self._connected(given_up) as connection:
                connection.request(method, self._address.path + path, body, headers)
                response = connection.getresponse()
                said = response.read().decode("utf-8", "replace")
        except TimeoutError as error:
            if error.errno is not None:  # the system's, of a machine that is gone: not our limit
                raise _Unavailable(f"{type(error).__name__}: {error}") from error
            raise ConnectionError(
                f"{self.url}{path} did not answer within {self._timeout_seconds:g} seconds. "
                f"Give it more, or less to do."
            ) from error
        except (HTTPException, OSError) as error:
            raise _Unavailable(f"{type(error).__name__}: {error}") from error
        return self._content(path, response.status, said)

    @contextlib.contextmanager
    def _connected(self, given_up: threading.Event) -> Iterator[HTTPConnection]:
        """An open connection, which `cancel` cuts."""
        kind = HTTPSConnection if self._address.scheme == "https" else HTTPConnection
        host, port = str(self._address.hostname), self._address.port
        with contextlib.closing(kind(host, port, timeout=_CONNECT_SECONDS)) as connection:
            try:
                connection.connect()
            except OSError as error:
                raise _Unavailable(f"{type(error).__name__}: {error}") from error
            connected = connection.sock
            connected.settimeout(self._timeout_seconds)
            for option in _KEEPALIVE:
                connected.setsockopt(*option)
            with self._lock:
                if given_up.is_set():
                    raise _Unavailable("nothing, since it was given up")
                self._sockets.add(connected)
            try:
                yield connection
            finally:
                with self._lock:
                    self._sockets.remove(connected)

    def _content(self, path: str, status: int, text: str) -> Any:
        said = " ".join(text.split())[:500]
        if status in _UNAVAILABLE:
            raise _Unavailable(f"HTTP {status}: {said}")
        if status in (400, 413, 422):
            raise ValueError(f"{self.url}{path} refuses the request: {said}")
        if status in (404, 405):
            raise ConnectionError(
                f"Expected vLLM's {path} at {self.url}, there is none. Start it with {START}."
            )
        if status != 200:
            raise ConnectionError(f"{self.url}{path} failed with HTTP {status}: {said}")
        try:
            return json.loads(text) if text else None
        except ValueError as error:
            raise ConnectionError(f"Expected JSON from {self.url}{path}, got {said!r}.") from error


class _Unavailable(Exception):
    """The server does not answer, or not now: worth another try."""
