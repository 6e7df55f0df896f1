"""Samples with a vLLM server in another process or on another machine, over HTTP."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import socket
import tempfile
import threading
import uuid
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from http.client import HTTPConnection, HTTPException, HTTPSConnection
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import urlsplit

from vpd_agent.distributed.world import Processes
from vpd_agent.engines import Generation
from vpd_agent.engines.vllm import VLLMSampler, check_same_model
from vpd_agent.engines.weights import save_weights

if TYPE_CHECKING:
    from vpd_agent.model.policy import Policy

T = TypeVar("T")

_START = (
    "VLLM_SERVER_DEV_MODE=1 vllm serve MODEL --logprobs-mode processed_logprobs "
    "--generation-config vllm"
)
_CONNECT_SECONDS = 10.0
OTHER_TRIES = 4  # after a lost connection; the pauses double from one second on
_UNAVAILABLE = (429, 502, 503, 504)
_EVERY_TOKEN = {
    "top_p": 1.0,
    "top_k": 0,
    "min_p": 0.0,
    "presence_penalty": 0.0,
    "frequency_penalty": 0.0,
    "repetition_penalty": 1.0,
}


class VLLMServerEngine(VLLMSampler):
    """Samples with an unmodified vLLM server (0.32 or later), started with the command `_START`.

    Requests contain token ids and switch off top-p, top-k and penalties, whatever the server's
    defaults are. There is one request per prompt, all are sent at once, and the server batches
    them.

    `sync` writes the weights, adapters merged, to a folder that the server can read. The server
    loads them while requests wait (`/pause`, `/collective_rpc` of `reload_weights`,
    `/reset_prefix_cache`, `/resume`): this works for any device and any number of GPUs. These calls
    exist only in vLLM's development mode, which asks for no key: do not open such a server to a
    network. In a run of several processes the first one sends the weights. Before the first `sync`
    the server samples from the weights that it was started with; this needs no development mode.

    url: such as http://127.0.0.1:8000, with or without the /v1 of OpenAI's client.
    model: its name on the server; None: the only one that is served.
    folder: for the weights, with the same path here and on the server. None: the folder for
        temporary files, if the server is on this machine.
    timeout_seconds: for one request, which may be a whole response or the loading of the weights.
    api_key_env: the environment variable with the API key, if the server wants one.

    Raises ConnectionError if the server cannot be reached (after some tries), answers with an
    error, or does not answer as vLLM does; ValueError for requests that it refuses, and if it
    serves another model.
    """

    def __init__(
        self,
        url: str,
        policy: Policy,
        *,
        model: str | None = None,
        folder: str | Path | None = None,
        timeout_seconds: float = 600.0,
        api_key_env: str = "VLLM_API_KEY",
    ) -> None:
        super().__init__(policy)
        self._server = _Server(url, timeout_seconds, api_key_env)
        self._folder = folder
        self._synced = False
        self._logprobs_checked = False
        served = _chosen(self._server.ask("GET", "/v1/models"), model, self._server.url)
        self.model: str = served["id"]
        self.max_model_len = served["max_model_len"]
        _refuse_other_shape(policy, served["root"], self._server.url)

    def sync(self, policy: Policy) -> None:
        processes = Processes()
        folder = _by_the_first(processes, self._new_folder)
        try:
            save_error = None
            try:
                save_weights(policy, folder)  # all processes gather sharded weights
            except OSError as error:
                save_error = error
            _by_the_first(processes, lambda: self._load(folder, save_error))
        finally:
            if folder is not None:
                shutil.rmtree(folder, ignore_errors=True)
        if not self._synced:
            with policy.gathered():
                _by_the_first(processes, lambda: check_same_model(self, policy))
        self._synced = True

    def _sample(
        self, prompts: Sequence[list[int]], seeds: list[int], settings: dict[str, Any]
    ) -> list[Generation]:
        if settings["temperature"] != 1.0 and not self._logprobs_checked:
            self._refuse_raw_logprobs()
        settings |= {"model": self.model, "return_token_ids": True} | _EVERY_TOKEN
        requests = [
            {"prompt": prompt, "seed": seed, **settings}
            for prompt, seed in zip(prompts, seeds, strict=True)
        ]
        answers = self._server.post_all("/v1/completions", requests)
        return [generation for answer in answers for generation in self._generations(answer)]

    def close(self) -> None:
        """Cancel the requests that wait for an answer. The server goes on."""
        self._server.cancel()

    def _generations(self, answer: Any) -> Iterator[Generation]:
        try:
            choices = [
                (choice["token_ids"], choice["logprobs"]["token_logprobs"], choice["finish_reason"])
                for choice in sorted(answer["choices"], key=lambda choice: choice["index"])
            ]
        except (KeyError, TypeError) as error:
            raise ConnectionError(
                f"Expected token ids and their log-probabilities from {self._server.url}, {error} "
                f"is missing. Is it vLLM 0.32 or later?"
            ) from error
        for ids, logprobs, finish in choices:
            if finish not in ("stop", "length"):
                raise ConnectionError(
                    f"The server at {self._server.url} ended a response with {finish!r}; expected "
                    f"'stop' or 'length'. Who else steers that server?"
                )
            if finish == "stop" and ids[-1] not in self._eos_ids:
                raise ValueError(
                    f"The server at {self._server.url} ends responses at token {ids[-1]}, the "
                    f"policy at {self._eos_ids}. Start it with --generation-config vllm."
                )
            yield Generation(ids, logprobs, finish)

    def _refuse_raw_logprobs(self) -> None:
        """By default vLLM reports log-probabilities at temperature 1, whatever it samples at."""
        info = self._server.ask("GET", "/server_info?config_format=json")
        mode = info["vllm_config"]["model_config"]["logprobs_mode"]
        if mode != "processed_logprobs":
            raise ValueError(
                f"The server at {self._server.url} reports {mode}: at a temperature other than 1 "
                f"they are not those of the tokens it samples. Start it with {_START}."
            )
        self._logprobs_checked = True

    def _load(self, folder: Path | None, save_error: OSError | None) -> None:
        """Make the server load the weights in the folder, unless they could not be written."""
        if save_error is not None:
            raise save_error
        server = self._server
        server.ask("POST", "/pause?mode=wait")
        try:
            reload = {"method": "reload_weights", "kwargs": {"weights_path": str(folder)}}
            server.ask("POST", "/collective_rpc", reload)
            if not server.ask("POST", "/reset_prefix_cache")["success"]:
                raise ConnectionError(f"{server.url} could not drop its prefix cache.")
        finally:
            server.ask("POST", "/resume")

    def _new_folder(self) -> Path:
        if self._folder is None and not self._server.is_on_this_machine:
            raise ValueError(
                f"Weights reach the server at {self._server.url} through a folder that is the "
                f"same here and there. Pass folder=…, on a file system that both machines share."
            )
        folder = Path(self._folder or tempfile.gettempdir()) / f"vpd-weights-{uuid.uuid4().hex}"
        folder.mkdir()
        return folder


def _by_the_first(processes: Processes, action: Callable[[], T]) -> T | None:
    """The result of `action` in the first process, None in the others. If it fails, all raise."""
    result, error = None, None
    if processes.is_first:
        try:
            result = action()
        except (OSError, ValueError) as caught:
            error = caught
    message = processes.gather(None if error is None else str(error))[0]
    if error is not None:
        raise error
    if message is not None:
        raise ConnectionError(f"The first process could not send the weights: {message}")
    return result


def _chosen(answer: Any, name: str | None, url: str) -> dict[str, Any]:
    """The served model of that name; each has id, root and max_model_len."""
    try:
        served = {model["id"]: model for model in answer["data"] if model["max_model_len"]}
    except (KeyError, TypeError) as error:
        raise ConnectionError(f"Expected a vLLM server at {url}, it has no such models.") from error
    if name is None and len(served) == 1:
        return next(iter(served.values()))
    if name not in served:
        raise ValueError(
            f"The server at {url} serves {', '.join(served)}; expected "
            f"{name or 'a single model, or the name of one'}."
        )
    return served[name]


def _refuse_other_shape(policy: Policy, root: str, url: str) -> None:
    """Raise ValueError if the server's model has another shape than the policy: to load weights of
    another shape would crash vLLM. This needs the model's configuration; without it nothing is
    checked."""
    from transformers import AutoConfig

    try:
        theirs = AutoConfig.from_pretrained(root, local_files_only=True)
    except (OSError, ValueError):
        return
    mine = policy.model.config
    for name in ("model_type", "vocab_size", "hidden_size", "num_hidden_layers"):
        if getattr(mine, name, None) != getattr(theirs, name, None):
            raise ValueError(
                f"The server at {url} serves {root}, whose {name} is "
                f"{getattr(theirs, name, None)}; the policy's is {getattr(mine, name, None)}. "
                f"Start it with the model that is to be trained."
            )


class _Server:
    """JSON over HTTP, with retries, time limits, and a way to cancel requests."""

    def __init__(self, url: str, timeout_seconds: float, api_key_env: str) -> None:
        self._address = urlsplit(url.rstrip("/").removesuffix("/v1"))
        if self._address.scheme not in ("http", "https") or not self._address.hostname:
            raise ValueError(f"Expected an address such as http://127.0.0.1:8000, got {url!r}.")
        if timeout_seconds <= 0:
            raise ValueError(f"timeout_seconds must be positive, got {timeout_seconds}.")
        self.url = self._address.geturl()
        self.is_on_this_machine = self._address.hostname in ("localhost", "127.0.0.1", "::1")
        self._timeout_seconds = timeout_seconds
        self._api_key_env = api_key_env
        self._lock = threading.Lock()
        self._sockets: set[socket.socket] = set()  # of the requests that are under way
        self._given_up = threading.Event()  # of the requests until the next `cancel`

    def post_all(self, path: str, contents: Sequence[Any]) -> list[Any]:
        """The answers, in order. The first failure cancels all of them."""
        given_up = self._given_up
        with ThreadPoolExecutor(max_workers=min(256, len(contents)) or 1) as pool:
            answers = [pool.submit(self.ask, "POST", path, c, given_up) for c in contents]
            try:
                for answer in as_completed(answers):
                    answer.result()
            except BaseException:
                pool.shutdown(wait=False, cancel_futures=True)
                self.cancel()
                raise
        return [answer.result() for answer in answers]

    def cancel(self) -> None:
        """End all requests until now with an error: vLLM then stops working on them."""
        with self._lock:
            self._given_up.set()
            self._given_up = threading.Event()
            for connected in self._sockets:
                with contextlib.suppress(OSError):
                    connected.shutdown(socket.SHUT_RDWR)

    def ask(
        self, method: str, path: str, content: Any = None, given_up: threading.Event | None = None
    ) -> Any:
        """The answer to a request, after several tries if the server is not there or is busy.

        given_up: tells that the request is cancelled; None: the next `cancel` does.
        """
        given_up = given_up or self._given_up
        attempt = 0
        while True:
            try:
                return self._ask_once(method, path, content, given_up)
            except _Unavailable as error:
                attempt += 1
                if attempt > OTHER_TRIES or given_up.wait(2 ** (attempt - 1)):
                    raise ConnectionError(
                        f"Expected a vLLM server at {self.url}, got {error} ({attempt} tries). "
                        f"Is it up? Start it with {_START}."
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
                f"Expected vLLM's {path} at {self.url}, there is none. Start it with {_START}."
            )
        if status != 200:
            raise ConnectionError(f"{self.url}{path} failed with HTTP {status}: {said}")
        try:
            return json.loads(text) if text else None
        except ValueError as error:
            raise ConnectionError(f"Expected JSON from {self.url}{path}, got {said!r}.") from error


class _Unavailable(Exception):
    """The server does not answer, or not now: worth another try."""
