"""The two ways in which new weights reach vLLM servers: a folder, or vLLM's own weight transfer."""

from __future__ import annotations

import base64
import pickle
import shutil
import socket
import tempfile
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, Protocol, TypeVar

import torch
from torch import Tensor

from sandbox.installation import install_hint
from vpd_agent.distributed.world import Processes
from vpd_agent.engines.vllm_client import VLLMClient
from vpd_agent.engines.vllm_servers import VLLMServers
from vpd_agent.engines.weights import checkpoint_weights, save_weights

if TYPE_CHECKING:
    from vpd_agent.model.policy import Policy

T = TypeVar("T")
Admit = Callable[[VLLMClient], None]
Way = Literal["folder", "nccl", "ipc"]


START_OPTIONS = {
    "nccl": """--weight-transfer-config '{"backend": "nccl"}'""",
    "ipc": """--weight-transfer-config '{"backend": "ipc"}', """
    "and VLLM_ALLOW_INSECURE_SERIALIZATION=1 in its environment",
}
"""By way, what a server is started with."""

_VLLM = "vllm.distributed.weight_transfer"


class WeightTransfer(Protocol):
    """A way in which new weights reach servers."""

    def send(self, policy: Policy, version: str) -> list[str]:
        """Give the policy's weights to all servers that are there, under the name `version`; the
        addresses of those that have them. All processes of a run call it.

        Raises ConnectionError if no server could be given them; ValueError for settings with which
        none could be.
        """
        ...


class FolderTransfer:
    """The first process writes the weights to a folder, from which each server loads them. This
    works for any device and any number of GPUs.

    folder: where a folder is made for each time; None: among temporary files.
    admit: what a server that was lost and is back must pass.
    """

    def __init__(self, servers: VLLMServers, admit: Admit, folder: str | Path | None) -> None:
        self._servers = servers
        self._admit = admit
        self._parent = folder

    def send(self, policy: Policy, version: str) -> list[str]:
        processes = Processes()
        folder = by_the_first(processes, lambda: self._new_folder(version))
        try:
            error = None
            try:
                save_weights(policy, folder if processes.is_first else None)  # all gather shards
            except OSError as caught:
                error = caught
            return by_the_first(processes, lambda: self._load(folder, version, error))
        finally:
            if processes.is_first:
                shutil.rmtree(folder, ignore_errors=True)

    def _load(self, folder: Path, version: str, save_error: OSError | None) -> list[str]:
        if save_error is not None:
            raise save_error
        self._servers.send(lambda client: client.load(folder, version), self._admit)
        return [client.url for client in self._servers.present]

    def _new_folder(self, version: str) -> Path:
        for client in self._servers.present:
            if self._parent is None and not client.is_on_this_machine:
                raise ValueError(
                    f"Weights reach the server at {client.url} through a folder that is the same "
                    f"here and there. Pass --weights-folder (folder=…), on a file system that both "
                    f"machines share, or --weight-transfer nccl."
                )
        folder = Path(self._parent or tempfile.gettempdir()) / version
        folder.mkdir()
        return folder


class DirectTransfer:
    """The first process sends the weights from its GPU's memory to that of the servers, by vLLM's
    own interface for weight transfer (`/init_weight_transfer_engine` and the calls that follow it).

    With `nccl`, the first process and all workers of all servers form a group in which it
    broadcasts; they are on other GPUs than it. The group is made again when a server is lost or is
    back. With `ipc`, a server reads the memory of the first process on the GPU that both share;
    this is for runs of one process. Servers are started with `--weight-transfer-config`, see
    `START_OPTIONS`, and this process needs vLLM, too.

    A server that is lost before a transfer begins is left out. One that is lost within it ends the
    transfer for all: after `seconds` the run ends with an error, and goes on with the same command.

    Tested with two servers of vLLM 0.32 on the CPU, with a stand-in for NCCL's communicator. With
    GPUs it has tests (`pytest -m gpu`) that have not been run.
    """

    def __init__(
        self,
        way: Literal["nccl", "ipc"],
        servers: VLLMServers,
        admit: Admit,
        policy: Policy,
        seconds: float,
    ) -> None:
        check_possible(way, policy)
        self._way = way
        self._servers = servers
        self._admit_server = admit
        self._seconds = seconds
        self._weights = Weights(policy)
        self._members: list[VLLMClient] = []  # of the group
        self._sender: Any = None  # vLLM's, in the first process
        servers.each(self._check_server)

    def send(self, policy: Policy, version: str) -> list[str]:
        self._weights.policy = policy
        with policy.gathered():
            return by_the_first(Processes(), lambda: self._send(version))

    def _send(self, version: str) -> list[str]:
        servers = self._servers
        servers.readmit(self._admit)
        servers.each(VLLMClient.pause)
        try:
            self._within_time(self._push)
            servers.each(VLLMClient.forget_prefixes)
            servers.each(lambda client: client.name_weights(version))
        finally:
            servers.each(VLLMClient.resume)
        servers.forget_prompts()
        return [client.url for client in servers.present]

    def _push(self) -> None:
        device = self._weights.policy.device
        if device.type == "cuda":
            torch.cuda.set_device(device)  # of this thread
            torch.cuda.synchronize()  # the optimizer's step
        self._group_of(self._servers.present).send_weights()

    def _group_of(self, members: list[VLLMClient]) -> Any:
        """vLLM's sender to these servers; they are in one group after this."""
        if self._sender is not None and self._members == members:
            return self._sender
        if self._sender is not None:
            self._sender.shutdown()
            for client in members:
                if client in self._members:
                    client.ask("POST", "/shutdown_weight_transfer_engine")
        self._sender, self._members = None, members
        self._sender = make_sender(self._way, Group(members), self._weights)
        return self._sender

    def _within_time(self, action: Callable[[], None]) -> None:
        """Raise ConnectionError for what goes wrong on the way, and if it takes too long: a
        broadcast whose receiver has gone never ends."""
        try:
            _in_a_thread(action).result(self._seconds)
        except TimeoutError as error:
            self._servers.cancel()
            raise ConnectionError(
                f"The servers did not take the weights by {self._way} within {self._seconds:g} "
                f"seconds. Look for the one that has gone, start it anew, and go on with the same "
                f"command."
            ) from error
        except (RuntimeError, OSError) as error:
            raise ConnectionError(
                f"The weights could not be sent by {self._way}: {error}"
            ) from error

    def _admit(self, client: VLLMClient) -> None:
        self._admit_server(client)
        self._check_server(client)

    def _check_server(self, client: VLLMClient) -> None:
        config = client.configuration().get("weight_transfer_config")
        theirs = config["backend"] if isinstance(config, dict) else None
        if theirs != self._way:
            raise ValueError(
                f"The server at {client.url} takes weights by {theirs or 'files alone'}, expected "
                f"{self._way}. Start it with {START_OPTIONS[self._way]}."
            )


class _Weight(NamedTuple):
    name: str
    dtype: torch.dtype
    shape: tuple[int, ...]


class Weights:
    """What vLLM's sender reads: what there is to be sent, and then the weights themselves, as often
    as it wants them."""

    def __init__(self, policy: Policy) -> None:
        self.policy = policy
        self._metadata: list[_Weight] = []

    def metadata(self) -> list[_Weight]:
        if not self._metadata:
            self._metadata = [_Weight(n, w.dtype, tuple(w.shape)) for n, w in self]
        return self._metadata

    def __iter__(self) -> Iterator[tuple[str, Tensor]]:
        with torch.no_grad():
            for name, weight in checkpoint_weights(self.policy):
                yield name, weight.detach().contiguous()


class Group:
    """Several servers as the one that vLLM's sender steers (vLLM's `VLLMWeightSyncClient`)."""

    def __init__(self, clients: Sequence[VLLMClient]) -> None:
        self._clients = clients
        self.workers = [client.ask("GET", "/get_world_size")["world_size"] for client in clients]

    def address_of_this_machine(self) -> str:
        """By which the servers reach this process: that on the way to one of another machine, if
        there is one."""
        for client in self._clients:
            if not client.is_on_this_machine:
                return client.address_of_this_machine()
        return "127.0.0.1"

    def init_weight_transfer_engine(self, init_info: dict[str, Any]) -> None:
        """Each server's workers have the ranks after those of the server before."""
        infos, rank = [], init_info.get("rank_offset")
        for workers in self.workers:
            infos.append(init_info if rank is None else init_info | {"rank_offset": rank})
            rank = None if rank is None else rank + workers
        self._all("/init_weight_transfer_engine", [{"init_info": info} for info in infos])

    def start_weight_update(self) -> None:
        self._all("/start_weight_update")

    def update_weights(self, update_info: dict[str, Any]) -> None:
        handles = update_info.pop("ipc_handles", None)
        if handles is not None:  # not JSON; vLLM's name for them as text
            pickled = base64.b64encode(pickle.dumps(handles)).decode()
            update_info["ipc_handles_pickled"] = pickled
        self._all("/update_weights", [{"update_info": update_info}] * len(self._clients))

    def finish_weight_update(self, weight_version: str | None = None) -> None:
        """weight_version: none is given by vLLM's senders."""
        self._all("/finish_weight_update", [{"weight_version": weight_version}] * len(self.workers))

    def _all(self, path: str, contents: Sequence[Any] | None = None) -> None:
        """Ask all servers at once; raises the error of the first that fails."""
        contents = contents or [None] * len(self._clients)
        with ThreadPoolExecutor(len(self._clients)) as pool:
            asked = [
                pool.submit(client.ask, "POST", path, content, other_tries=0)
                for client, content in zip(self._clients, contents, strict=True)
            ]
        for answer in asked:
            answer.result()


def make_sender(way: str, group: Group, weights: Weights) -> Any:
    """vLLM's sender of weights to a group of servers, which have joined when this returns."""
    factory = import_module(f"{_VLLM}.factory").WeightTransferTrainerFactory
    if way == "ipc":
        info = import_module(f"{_VLLM}.ipc_engine").IPCTrainerInitInfo(packed=True, rank=0)
    else:
        address = group.address_of_this_machine()
        with socket.socket() as probe:
            probe.bind((address, 0))
            port = probe.getsockname()[1]
        info = import_module(f"{_VLLM}.nccl_engine").NCCLTrainerInitInfo(
            address, port, 1 + sum(group.workers), rank=0
        )
    return factory.trainer_init(info, client=group, source=weights)


def by_the_first(processes: Processes, action: Callable[[], T]) -> T:
    """What `action` gives in the first process, in all of them. If it fails, all raise."""
    result, error = None, None
    if processes.is_first:
        try:
            result = action()
        except (OSError, ValueError) as caught:
            error = caught
    result, message = processes.gather((result, None if error is None else str(error)))[0]
    if error is not None:
        raise error
    if message is not None:
        raise ConnectionError(f"The first process could not send the weights: {message}")
    return result


def check_possible(way: str, policy: Policy) -> None:
    """Raise ValueError where this process could not send its weights in this way."""
    try:
        import_module(f"{_VLLM}.factory")
    except ImportError as error:
        raise ValueError(
            f"--weight-transfer {way} needs vLLM 0.32 or later beside the trainer, too: "
            f"{install_hint('vllm')}"
        ) from error
    if policy.device.type != "cuda":
        raise ValueError(
            f"--weight-transfer {way} sends from a GPU's memory, and the policy is on "
            f"{policy.device.type}. Leave it out: the weights then go through a folder."
        )
    if way == "ipc" and Processes().size > 1:
        raise ValueError(
            f"--weight-transfer ipc is for a run of one process, this one has {Processes().size}. "
            f"Take nccl, and servers on GPUs of their own."
        )


def _in_a_thread(action: Callable[[], None]) -> Future[None]:
    """A thread that does not keep the program from ending: one that is late may never end."""
    future: Future[None] = Future()

    def run() -> None:
        try:
            future.set_result(action())
        except BaseException as error:
            future.set_exception(error)

    threading.Thread(target=run, daemon=True, name="weight transfer").start()
    return future
