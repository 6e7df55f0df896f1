"""Cages that are Docker containers: no network, read-only root, no capabilities for jobs.

A container lives as long as its cage and serves many jobs. On top of the limits per job there are
those of the container, whatever a job does: memory (`memory_bytes`, with /tmp inside it), processes
and CPUs. `runtime="runsc"` puts gVisor between the jobs and the kernel of the host.
"""

from __future__ import annotations

import logging
import os
import random
import socket
import time
from pathlib import Path
from typing import Any

from sandbox.cage import SMALL_UIDS, Cage, CageFailure, environment, python_command
from sandbox.core import MIB, SandboxError

IMAGE = "vpd-sandbox:latest"
LABEL = "vpd-sandbox.owner"  # of the process whose cage it is; see _owner
ENGINE_SECONDS = 60.0  # for any one answer of the engine

log = logging.getLogger("sandbox")


class Docker:
    """
    Args:
        image: needs python3 and nothing else; programs find the packages that it has.
        memory_bytes: of a container with all its jobs and files. Should exceed what a job may use.
        tmp_bytes: how much all files of a job may take together.
        pids: processes and threads in a container.
        cpus: CPUs that a container may keep busy.
        runtime: of the engine; None for its default.
    """

    name = "docker"

    def __init__(
        self,
        *,
        image: str = IMAGE,
        memory_bytes: int = 2048 * MIB,
        tmp_bytes: int = 256 * MIB,
        pids: int = 128,
        cpus: float = 1.0,
        runtime: str | None = None,
    ) -> None:
        self._image = image
        self._memory_bytes = memory_bytes
        self._tmp_bytes = tmp_bytes
        self._pids = pids
        self._cpus = cpus
        self._runtime = runtime
        api = _connect()
        from docker.errors import DockerException

        try:
            self._check_image(api)
            self._remove_leftovers(api)
        except (DockerException, OSError) as error:
            raise SandboxError(f"Docker could not look up {image!r}: {error}.") from error
        finally:
            api.close()

    def start(self) -> Cage:
        from docker.errors import DockerException

        api = _connect()  # one per cage: closed with it, and shared with no thread or fork
        try:
            container = self._create(api)
            link = ContainerLink(api, container)
        except (DockerException, OSError) as error:
            api.close()
            raise CageFailure(f"no container of {self._image} could start: {error}") from error
        return Cage(link, writable="/tmp", job_uid=random.SystemRandom().choice(SMALL_UIDS))

    def _create(self, api: Any) -> str:
        host_config = api.create_host_config(
            network_mode="none",
            read_only=True,
            tmpfs={"/tmp": f"mode=1777,size={self._tmp_bytes}"},
            ipc_mode="none",  # a namespace of its own, without /dev/shm
            cap_drop=["ALL"],
            cap_add=["SETUID", "SETGID", "KILL"],  # to make and to end jobs of another user
            security_opt=["no-new-privileges:true"],
            mem_limit=self._memory_bytes,
            memswap_limit=self._memory_bytes,
            pids_limit=self._pids,
            nano_cpus=int(self._cpus * 1e9),
            log_config={"Type": "none"},
            auto_remove=True,
            runtime=self._runtime,
        )
        return api.create_container(
            self._image,
            python_command("python3", "/tmp"),
            entrypoint=[],
            environment=environment("/tmp"),
            user="0:0",
            working_dir="/",
            hostname="sandbox",
            stdin_open=True,
            detach=False,  # so that the container's input ends when we do, and it with that
            labels={LABEL: f"{_owner()}:{os.getpid()}"},
            host_config=host_config,
        )["Id"]

    def _check_image(self, api: Any) -> None:
        from docker.errors import ImageNotFound

        try:
            api.inspect_image(self._image)
        except ImageNotFound as error:
            raise SandboxError(
                f"The engine has no image {self._image!r}. Run `make sandbox-image`."
            ) from error

    def _remove_leftovers(self, api: Any) -> None:
        """Containers of processes of this machine that are gone. They end by themselves, mostly."""
        for container in api.containers(all=True, filters={"label": LABEL}):
            owner, _, pid = container["Labels"][LABEL].rpartition(":")
            if owner == _owner() and not Path("/proc", pid).exists():
                _remove(api, container["Id"])


def _owner() -> str:
    """This machine and process namespace: only here do process numbers mean what they do to us."""
    return f"{socket.gethostname()}:{Path('/proc/self/ns/pid').readlink()}"


def _connect() -> Any:
    try:
        import docker
        from docker.errors import DockerException
    except ImportError as error:
        raise SandboxError(
            f"The package docker is not installed ({error}). "
            "Install it (pip install docker), or pass --sandbox bubblewrap."
        ) from error

    address = os.environ.get("DOCKER_HOST", "unix:///var/run/docker.sock")
    try:
        api = docker.from_env(timeout=ENGINE_SECONDS).api
        api.ping()
    except (DockerException, OSError) as error:
        raise SandboxError(
            f"Docker is not reachable at {address} ({error}). "
            "Start it, or pass --sandbox bubblewrap."
        ) from error
    return api


def _remove(api: Any, container: str) -> None:
    from docker.errors import APIError

    try:
        api.remove_container(container, force=True, v=True)
    except APIError as error:
        if error.status_code not in (404, 409):  # gone, or going: it removes itself, too
            raise


class ContainerLink:
    """The attached standard streams of a container.

    The engine sends output in pieces, each behind 8 bytes: the stream (1 or 2), three zeros, and
    the length.
    """

    def __init__(self, api: Any, container: str) -> None:
        self.container = container
        self._api = api
        self._words = bytearray()  # what came on standard error
        self._left = 0  # of the current piece of standard output
        self._killed = False
        try:
            # Attached before it starts, so that nothing is missed.
            streams = {"stdin": 1, "stdout": 1, "stderr": 1, "stream": 1}
            self._attached = api.attach_socket(container, params=streams)
            self._socket = getattr(self._attached, "_sock", self._attached)
            api.start(container)
        except BaseException:
            _remove(api, container)
            raise

    def send(self, data: bytes, deadline: float) -> None:
        self._limit_to(deadline)
        self._socket.sendall(data)

    def receive(self, size: int, deadline: float) -> bytes:
        while self._left == 0:
            header = self._exactly(8, deadline)
            if not header:
                return b""
            length = int.from_bytes(header[4:], "big")
            if header[0] == 1:
                self._left = length
            else:
                self._words += self._exactly(length, deadline)
                del self._words[:-4000]
        self._limit_to(deadline)
        part = self._socket.recv(min(size, self._left))
        self._left -= len(part)
        return part

    def kill(self) -> None:
        from docker.errors import DockerException

        if not self._killed:
            self._killed = True
            try:
                _remove(self._api, self.container)
            except (DockerException, OSError) as error:  # it is removed later, as a leftover
                log.warning("Docker could not remove %s: %s", self.container, error)
            finally:
                self.forget()

    def forget(self) -> None:
        response = getattr(self._attached, "_response", None)
        if response is not None:
            response.close()  # first, since it would flush what it reads from
        self._attached.close()
        self._socket.close()
        self._api.close()

    def last_words(self) -> str:
        return self._words.decode("utf-8", "replace")

    def _exactly(self, size: int, deadline: float) -> bytes:
        data = bytearray()
        while len(data) < size:
            self._limit_to(deadline)
            part = self._socket.recv(size - len(data))
            if not part:
                return b""
            data += part
        return bytes(data)

    def _limit_to(self, deadline: float) -> None:
        self._socket.settimeout(max(0.001, deadline - time.monotonic()))
