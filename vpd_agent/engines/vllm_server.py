"""A vLLM server, somewhere else: samples and weights over HTTP, with the standard library."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import shutil
import socket
import tempfile
import threading
import uuid
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import urlsplit

import torch

from vpd_agent.distributed.world import Processes
from vpd_agent.engines import Generation, up_to_stop_text
from vpd_agent.engines.vllm import check_request, check_same_model, request_seeds
from vpd_agent.engines.weights import save_weights

if TYPE_CHECKING:
    from vpd_agent.model.policy import Policy

T = TypeVar("T")

START = (
    "VLLM_SERVER_DEV_MODE=1 vllm serve MODEL --logprobs-mode processed_logprobs "
    "--generation-config vllm"
)
CONNECT_SECONDS = 10.0
OTHER_TRIES = 4  # after a lost connection; the pauses double from one second on
UNAVAILABLE = (429, 502, 503, 504)


class VLLMServerEngine:
    """Samples with an unmodified vLLM server (0.32 or later), started as `START` says.

    Requests carry token ids and switch off top-p, top-k and penalties, whatever the server's
    defaults are. One request per prompt, all at once: the server batches them. A call's samples
    are the same for the same state of its generator (up to rounding, which depends on what else is
    in the server's batch).

    `sync` writes the weights, adapters merged, to a folder that the server can read, and has them
    loaded in place while requests wait (`/pause`, `/collective_rpc` of `reload_weights`,
    `/reset_prefix_cache`, `/resume`): this works for any device and any number of GPUs. These calls
    exist in vLLM's development mode only, which asks for no key: keep such a server off the
    network. In a run of several processes the first one sends for all. Until `sync` is first called
    the server samples from the weights that it was started with, for which it needs no development
    mode.

    url: such as http://127.0.0.1:8000, as for OpenAI's client with or without /v1.
    model: its name there; None: the only one that is served.
    folder: where weights pass through, by the same path here and there. None: the folder for
        temporary files, if the server is on this machine.
    timeout_seconds: of one request, which may be a whole response or the loading of the weights.
    api_key_env: the environment variable that holds the API key, if the server wants one.

    Raises ConnectionError if the server is away (after some tries), answers with an error, or not
    as vLLM does; ValueError for requests that it cannot fulfil, and if it serves another model.
    """

    logprobs_match_trainer = False

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
        self._server = _Server(url, timeout_seconds, api_key_env)
        self._eos_ids = sorted(policy.eos_ids)
        self._chat = policy.chat
        self._folder = folder
        self._synced = False
        self._logprobs_checked = False
        served = _chosen(self._server.get("/v1/models"), model, self._server.url)
        self.model: str = served["id"]
        self.max_model_len: int = served["max_model_len"]
        _refuse_other_shape(policy, served["root"], self._server.url)

    def sync(self, policy: Policy) -> None:
        processes = Processes()
        folder = _by_the_first(processes, self._new_folder)
        try:
            trouble = None
            try:
                save_weights(policy, folder)  # sharded weights are gathered by all
            except OSError as error:
                trouble = error
            _by_the_first(processes, lambda: self._send(folder, trouble))
        finally:
            if folder is not None:
                shutil.rmtree(folder, ignore_errors=True)
        if not self._synced:
            with policy.gathered():
                _by_the_first(processes, lambda: check_same_model(self, policy))
        self._synced = True

    def generate(
        self,
        prompts: Sequence[list[int]],
        *,
        samples: int = 1,
        max_tokens: int,
        temperature: float = 1.0,
        generator: torch.Generator | None = None,
    ) -> list[Generation]:
        check_request(prompts, samples, max_tokens, temperature, self.max_model_len)
        if temperature != 1.0 and not self._logprobs_checked:
            self._refuse_raw_logprobs()
        requests = [
            {
                "model": self.model,
                "prompt": prompt,
                "n": samples,
                "max_tokens": max_tokens,
                "temperature": temperature,
                "top_p": 1.0,
                "top_k": 0,
                "min_p": 0.0,
                "presence_penalty": 0.0,
                "frequency_penalty": 0.0,
                "repetition_penalty": 1.0,
                "seed": seed,
                "stop_token_ids": self._eos_ids,
                "ignore_eos": True,  # the policy says what ends a response, not the server
                "logprobs": 0,  # of the sampled token only
                "return_token_ids": True,
            }
            for prompt, seed in zip(prompts, request_seeds(len(prompts), generator), strict=True)
        ]
        answers = self._server.post_all("/v1/completions", requests)
        return [generation for answer in answers for generation in self._generations(answer)]

    def close(self) -> None:
        """The server is not ours to end; requests under way are given up."""
        self._server.give_up()

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
            yield up_to_stop_text(Generation(ids, logprobs, finish), self._chat)

    def _refuse_raw_logprobs(self) -> None:
        """By default vLLM reports log-probabilities at temperature 1, whatever it samples at."""
        config = self._server.get("/server_info?config_format=json")["vllm_config"]
        mode = config["model_config"]["logprobs_mode"]
        if mode != "processed_logprobs":
            raise ValueError(
                f"The server at {self._server.url} reports {mode}: at a temperature other than 1 "
                f"they are not those of the tokens it samples. Start it with {START}."
            )
        self._logprobs_checked = True

    def _send(self, folder: Path, trouble: Exception | None) -> None:
        """Have the weights in the folder loaded, unless there was trouble in writing them."""
        if trouble is not None:
            raise trouble
        server = self._server
        server.post("/pause?mode=wait")
        try:
            reload = {"method": "reload_weights", "kwargs": {"weights_path": str(folder)}}
            server.post("/collective_rpc", reload)
            if not server.post("/reset_prefix_cache")["success"]:
                raise ConnectionError(f"{server.url} could not drop its prefix cache.")
        except BaseException:
            with contextlib.suppress(ConnectionError):
                server.post("/resume", tries=1)
            raise
        server.post("/resume")

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
    """What the first process gets from doing it, None in the others. If it fails, all raise."""
    result, error = None, None
    if processes.is_first:
        try:
            result = action()
        except (OSError, ValueError) as caught:
            error = caught
    told = processes.gather(None if error is None else str(error))[0]
    if error is not None:
        raise error
    if told is not None:
        raise ConnectionError(f"The first process could not send the weights: {told}")
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
    """Loading weights of another shape kills a vLLM server, so look before, where one can: the
    configuration of what it was started with may be at hand here too."""
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
    """JSON over HTTP, with tries, timeouts, and a way to give up what is under way."""

    def __init__(self, url: str, timeout_seconds: float, api_key_env: str) -> None:
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError(f"Expected an address such as http://127.0.0.1:8000, got {url!r}.")
        if timeout_seconds <= 0:
            raise ValueError(f"timeout_seconds must be positive, got {timeout_seconds}.")
        self.url = url.rstrip("/").removesuffix("/v1")
        self.is_on_this_machine = parts.hostname in ("localhost", "127.0.0.1", "::1")
        self._host, self._port = parts.hostname, parts.port
        self._path = urlsplit(self.url).path
        self._connection = {
            "http": http.client.HTTPConnection,
            "https": http.client.HTTPSConnection,
        }[parts.scheme]
        self._timeout_seconds = timeout_seconds
        self._api_key_env = api_key_env
        self._lock = threading.Lock()
        self._over = threading.Event()
        self._under_way: set[http.client.HTTPConnection] = set()

    def get(self, path: str) -> Any:
        return self._ask("GET", path)

    def post(self, path: str, content: Any = None, *, tries: int | None = None) -> Any:
        return self._ask("POST", path, content, tries)

    def post_all(self, path: str, contents: Sequence[Any]) -> list[Any]:
        """The answers, in order. The first failure ends all of them."""
        over = self._over
        pool = ThreadPoolExecutor(max_workers=min(256, len(contents)) or 1)
        asked = [pool.submit(self._ask, "POST", path, c, over=over) for c in contents]
        try:
            for answer in as_completed(asked):
                answer.result()
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            self.give_up()
            raise
        finally:
            pool.shutdown()
        return [answer.result() for answer in asked]

    def give_up(self) -> None:
        """Cut the connections that wait for an answer: vLLM then stops working on it."""
        with self._lock:
            self._over.set()
            self._over = threading.Event()  # of the requests from now on
            for connection in self._under_way:
                if connection.sock is not None:
                    with contextlib.suppress(OSError):
                        connection.sock.shutdown(socket.SHUT_RDWR)

    def _ask(
        self,
        method: str,
        path: str,
        content: Any = None,
        tries: int | None = None,
        over: threading.Event | None = None,
    ) -> Any:
        """over: set when requests of this time are given up; None: of now."""
        over = over or self._over
        tries = tries or 1 + OTHER_TRIES
        for attempt in range(tries):
            try:
                return self._asked(method, path, content, over)
            except _Unavailable as error:
                if attempt + 1 == tries or over.wait(2**attempt):
                    raise ConnectionError(
                        f"Expected a vLLM server at {self.url}, got {error} ({attempt + 1} tries). "
                        f"Is it up? Start it with {START}."
                    ) from error
        raise AssertionError("unreachable")

    def _asked(self, method: str, path: str, content: Any, over: threading.Event) -> Any:
        connection = self._connection(self._host, self._port, timeout=CONNECT_SECONDS)
        with self._lock:
            self._under_way.add(connection)
        try:
            self._connect(connection, over)
            body = None if content is None else json.dumps(content)
            connection.request(method, self._path + path, body, self._headers())
            response = connection.getresponse()
            status, text = response.status, response.read().decode("utf-8", "replace")
        except TimeoutError as error:
            raise ConnectionError(
                f"{self.url}{path} did not answer within {self._timeout_seconds:g} seconds. Give "
                f"it more, or less to do."
            ) from error
        except (OSError, http.client.HTTPException) as error:
            raise _Unavailable(f"{type(error).__name__}: {error}") from error
        finally:
            with self._lock:
                self._under_way.discard(connection)
            connection.close()
        return self._content(path, status, text)

    def _connect(self, connection: http.client.HTTPConnection, over: threading.Event) -> None:
        try:
            connection.connect()
        except OSError as error:
            raise _Unavailable(f"{type(error).__name__}: {error}") from error
        connection.sock.settimeout(self._timeout_seconds)
        with self._lock:
            if over.is_set():  # before there was a connection to cut
                raise _Unavailable("nothing, since it was given up")

    def _headers(self) -> dict[str, str]:
        key = os.environ.get(self._api_key_env)
        headers = {"Content-Type": "application/json"}
        return headers | {"Authorization": f"Bearer {key}"} if key else headers

    def _content(self, path: str, status: int, text: str) -> Any:
        said = " ".join(text.split())[:500]
        if status in UNAVAILABLE:
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
    """Nobody there, or not now: worth another try."""
