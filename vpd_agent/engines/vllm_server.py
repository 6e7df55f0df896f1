"""Samples with vLLM servers in other processes or on other machines, over HTTP."""

from __future__ import annotations

import uuid
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vpd_agent.distributed.world import Processes
from vpd_agent.engines import Generation, vllm_client
from vpd_agent.engines.vllm import VLLMSampler, check_same_model
from vpd_agent.engines.vllm_client import VLLMClient
from vpd_agent.engines.vllm_servers import VLLMServers
from vpd_agent.engines.weight_transfer import (
    DirectTransfer,
    FolderTransfer,
    Way,
    WeightTransfer,
    by_the_first,
)

if TYPE_CHECKING:
    from vpd_agent.model.policy import Policy

_EVERY_TOKEN = {
    "top_p": 1.0,
    "top_k": 0,
    "min_p": 0.0,
    "presence_penalty": 0.0,
    "frequency_penalty": 0.0,
    "repetition_penalty": 1.0,
}
_SHAPE = ("model_type", "vocab_size", "hidden_size", "num_hidden_layers")


class VLLMServerEngine(VLLMSampler):
    """Samples with unmodified vLLM servers (0.32 or later), started with the command
    `vllm_client.START`.

    Requests contain token ids and switch off top-p, top-k and penalties, whatever a server's
    defaults are. There is one request per prompt, all are sent at once, and the servers batch
    them. Which server is asked, and what happens when one is lost: see `VLLMServers`.

    `sync` gives the servers the weights, adapters merged, while requests wait (`/pause`,
    `/collective_rpc` of `reload_weights` or vLLM's weight transfer, `/reset_prefix_cache`,
    `/update_weight_version`, `/resume`): through a folder that they can read, or from memory to
    memory. These calls exist only in vLLM's development mode, which asks for no key: do not
    open such a server to a network. In a run of several processes the first one sends the weights.
    A server that was started anew since then is not sampled from, as it has other weights. Before
    the first `sync` the servers sample from the weights that they were started with; this needs no
    development mode.

    urls: such as http://127.0.0.1:8000, with or without the /v1 of OpenAI's client; one, or several
        servers of the same model and the same version of vLLM.
    model: its name on the servers; None: the only one that is served.
    folder: for the weights, with the same path here and on the servers. None: the folder for
        temporary files, if the servers are on this machine.
    weight_transfer: folder; or nccl or ipc, from GPU to GPU (see `DirectTransfer`).
    timeout_seconds: for one request, which may be a whole response or the loading of the weights.
    api_key_env: the environment variable with the API key, if the servers want one.

    Raises ConnectionError if no server can be reached (after some tries), or the last one answers
    with an error, or not as vLLM does; ValueError for requests that a server refuses, and if one
    serves another model.
    """

    def __init__(
        self,
        urls: str | Sequence[str],
        policy: Policy,
        *,
        model: str | None = None,
        folder: str | Path | None = None,
        weight_transfer: Way = "folder",
        timeout_seconds: float = 600.0,
        api_key_env: str = "VLLM_API_KEY",
    ) -> None:
        super().__init__(policy)
        urls = [urls] if isinstance(urls, str) else urls
        # Where others can do the work, a lost connection is tried once more, and no longer.
        tries = 1 if len(urls) > 1 else None
        clients = [VLLMClient(url, timeout_seconds, api_key_env, tries) for url in urls]
        if len({client.url for client in clients}) < len(clients) or not clients:
            raise ValueError(f"Expected one or several servers, each once, got {', '.join(urls)}.")
        self.servers = VLLMServers(clients)
        self._model = model
        self._shape = {name: getattr(policy.model.config, name, None) for name in _SHAPE}
        self._version: str | None = None  # of the weights that the servers were sent
        self._same_model: set[str] = set()  # the servers that were found to compute the policy's
        late = vllm_client.OTHER_TRIES  # they may be starting
        self.servers.each(lambda client: self._admit(client, late))
        self._transfer: WeightTransfer
        if weight_transfer == "folder":
            self._transfer = FolderTransfer(self.servers, self._admit, folder)
        else:
            self._transfer = DirectTransfer(
                weight_transfer, self.servers, self._admit, policy, timeout_seconds
            )

    @property
    def max_model_len(self) -> int:  # pyright: ignore[reportIncompatibleVariableOverride]
        return min(client.max_model_len for client in self.servers.present)

    def sync(self, policy: Policy) -> None:
        processes, servers = Processes(), self.servers
        self._lose_what_others_lost(processes)
        version = by_the_first(processes, lambda: f"vpd-weights-{uuid.uuid4().hex}")
        present = self._transfer.send(policy, version)
        self._version = version
        servers.keep(present)
        if not self._same_model.issuperset(present):
            with policy.gathered():
                present = by_the_first(processes, lambda: self._check_same_model(policy))
            servers.keep(present)
            self._same_model |= set(present)

    def close(self) -> None:
        """Cancel the requests that wait for an answer. The servers go on."""
        self.servers.cancel()

    def _sample(
        self, prompts: Sequence[list[int]], seeds: list[int], settings: dict[str, Any]
    ) -> list[Generation]:
        if (version := self._version) is not None:
            self.servers.each(lambda client: client.check_weights(version))
        if settings["temperature"] != 1.0:
            self.servers.each(VLLMClient.check_logprobs)
        settings |= {"return_token_ids": True} | _EVERY_TOKEN

        def request(number: int, client: VLLMClient) -> dict[str, Any]:
            itself = {"model": client.model, "prompt": prompts[number], "seed": seeds[number]}
            return itself | settings

        answers = self.servers.answers("/v1/completions", prompts, request)
        return [generation for answer in answers for generation in self._generations(*answer)]

    def _generations(self, client: VLLMClient, answer: Any) -> Iterator[Generation]:
        try:
            choices = [
                (choice["token_ids"], choice["logprobs"]["token_logprobs"], choice["finish_reason"])
                for choice in sorted(answer["choices"], key=lambda choice: choice["index"])
            ]
        except (KeyError, TypeError) as error:
            raise ConnectionError(
                f"Expected token ids and their log-probabilities from {client.url}, {error} "
                f"is missing. Is it vLLM 0.32 or later?"
            ) from error
        for ids, logprobs, finish in choices:
            if finish not in ("stop", "length"):
                raise ConnectionError(
                    f"The server at {client.url} ended a response with {finish!r}; expected "
                    f"'stop' or 'length'. Who else steers that server?"
                )
            if finish == "stop" and ids[-1] not in self._eos_ids:
                raise ValueError(
                    f"The server at {client.url} ends responses at token {ids[-1]}, the "
                    f"policy at {self._eos_ids}. Start it with --generation-config vllm."
                )
            yield Generation(ids, logprobs, finish)

    def _admit(self, client: VLLMClient, other_tries: int = 0) -> None:
        """Learn what a server is. Raises ValueError if it is not like the policy and the others."""
        client.meet(self._model, other_tries=other_tries)
        _refuse_other_shape(self._shape, client)
        for other in self.servers.present:
            theirs = getattr(other, "version", client.version)
            if theirs != client.version:
                raise ValueError(
                    f"{client.url} has version {client.version} of vLLM, {other.url} has {theirs}; "
                    f"expected the same. Start both with one version."
                )

    def _check_same_model(self, policy: Policy) -> list[str]:
        """Let every server that is new sample a little; the servers that have passed."""
        for client in self.servers.present:
            if client.url not in self._same_model:
                try:
                    with self.servers.only(client):
                        check_same_model(self, policy)
                except ConnectionError as error:
                    self.servers.lose(client, error)
        return [client.url for client in self.servers.present]

    def _lose_what_others_lost(self, processes: Processes) -> None:
        """What one process could not reach is tried again by the first one, before all use it."""
        mine = [client.url for client in self.servers.present]
        common = set(mine).intersection(*processes.gather(mine))
        if common:
            for client in self.servers.present:
                if client.url not in common:
                    self.servers.lose(
                        client, ConnectionError(f"Another process of the run lost {client.url}.")
                    )


def _refuse_other_shape(shape: dict[str, Any], client: VLLMClient) -> None:
    """Raise ValueError if a server's model has another shape than the policy: to load weights of
    another shape would crash vLLM. This needs the model's configuration; without it nothing is
    checked."""
    from transformers import AutoConfig

    try:
        theirs = AutoConfig.from_pretrained(client.root, local_files_only=True)
    except (OSError, ValueError):
        return
    for name, mine in shape.items():
        if mine != getattr(theirs, name, None):
            raise ValueError(
                f"The server at {client.url} serves {client.root}, whose {name} is "
                f"{getattr(theirs, name, None)}; the policy's is {mine}. Start it with the model "
                f"that is to be trained."
            )
