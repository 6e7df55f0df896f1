"""Cages that are Docker containers: no network, read-only root, no capabilities for jobs.

A container lives as long as its cage and serves many jobs. On top of the limits per job there are
those of the container, whatever a job does: memory (`memory_bytes`, with /tmp inside it), processes
and CPUs. "No network" includes 127.0.0.1: jobs have Unix sockets and no others. `runtime="runsc"`
puts gVisor between the jobs and the kernel of the host.

There may be several engines: `DOCKER_HOST="ssh://a,tcp://b:2376"`, say. Cages are spread over them
in turn; one that cannot be reached is passed over, and its jobs are run elsewhere.
"""

from __future__ import annotations

import hashlib
import itertools
import logging
import os
import random
import secrets
import socket
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from sandbox.boot import PACKAGES, SMALL_UIDS, environment, python_command
from sandbox.cage import Capacity, RunnerCage, Settings
from sandbox.core import MIB, CageFailure, SandboxError
from sandbox.installation import pip_install
from sandbox.link import Link, receive_exactly

DEFAULT_ADDRESS = "unix:///var/run/docker.sock"
IMAGE = "vpd-sandbox:latest"
LABEL = "vpd-sandbox.owner"  # of the process whose cage it is; see _owner
RECIPE_LABEL = "vpd-sandbox.recipe"  # of an image: what image/build made it from
MOST_INODES = 1 << 16  # of a container, in each place that a job can write; the runner allows fewer
SHARED_MEMORY_BYTES = 64 * MIB
ENGINE_SECONDS = 60  # for any one answer of the engine

log = logging.getLogger("sandbox")


class Docker:
    """Starts containers, each of which is a cage.

    Args:
        hosts: addresses of engines, in the form of DOCKER_HOST. None: what DOCKER_HOST lists,
            separated by commas or spaces, else the engine of this machine.
        image: needs python3, and the packages.
        packages: what programs may import besides the standard library. One that the image lacks
            makes the programs that import it end in a SandboxError.
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
        hosts: Sequence[str] | None = None,
        image: str = IMAGE,
        packages: Sequence[str] = PACKAGES,
        memory_bytes: int = 2048 * MIB,
        tmp_bytes: int = 256 * MIB,
        pids: int = 160,
        cpus: float = 1.0,
        runtime: str | None = None,
    ) -> None:
        self._image = image
        self._modules = packages
        self._capacity = Capacity(memory_bytes, pids, tmp_bytes)
        self._cpus = cpus
        self._runtime = runtime
        self._hosts = addresses(hosts)
        self._in_turn = itertools.cycle(self._hosts)
        failures = []
        for host in self._hosts:
            try:
                self._prepare_engine(host)
            except SandboxError as error:
                failures.append(str(error))
        if len(failures) == len(self._hosts):
            raise SandboxError(" ".join(failures))
        for failure in failures:
            log.warning("Going on without one engine: %s", failure)

    def _prepare_engine(self, host: str) -> None:
        api = _connect(host)
        from docker.errors import DockerException

        try:
            self._check_image(api)
            self._remove_leftovers(api)
        except (DockerException, OSError) as error:
            raise SandboxError(f"Docker could not look up {self._image!r}: {error}.") from error
        finally:
            api.close()

    def start(self) -> RunnerCage:
        """A new container, on the next engine that can start one."""
        failures = []
        for host in itertools.islice(self._in_turn, len(self._hosts)):
            try:
                return self._start_on(host)
            except (CageFailure, SandboxError) as failure:
                failures.append(str(failure))
                if len(self._hosts) > 1:
                    log.warning("No cage on %s: %s", host, failure)
        raise CageFailure("; ".join(dict.fromkeys(failures)))

    def _start_on(self, host: str) -> RunnerCage:
        api = _connect(host)  # one per cage: closed with it, and shared with no thread or fork
        from docker.errors import DockerException

        name = f"vpd-sandbox-{secrets.token_hex(8)}"
        try:
            container = self._create(api, name)
            link = ContainerLink(api, container)
        except (DockerException, OSError) as error:
            api.close()
            raise CageFailure(f"no container of {self._image} could start: {error}") from error
        except BaseException:  # Ctrl-C, perhaps while the engine creates it
            _remove(api, name)
            api.close()
            raise
        settings = Settings(
            writable="/tmp",
            shared_memory="/dev/shm",
            modules=self._modules,
            job_uid=random.SystemRandom().choice(SMALL_UIDS),
        )
        return RunnerCage(link, settings, self._capacity)

    def _create(self, api: Any, name: str) -> str:
        host_config = api.create_host_config(
            network_mode="none",
            read_only=True,
            tmpfs={
                "/tmp": f"mode=1777,size={self._capacity.file_bytes},nr_inodes={MOST_INODES}",
                # Semaphores of multiprocessing are files there.
                "/dev/shm": f"mode=1777,size={SHARED_MEMORY_BYTES},nr_inodes={MOST_INODES}",
            },
            ipc_mode="none",  # a namespace of its own
            cap_drop=["ALL"],
            cap_add=["SETUID", "SETGID", "KILL"],  # to make and to end jobs of another user
            security_opt=["no-new-privileges:true"],
            mem_limit=self._capacity.memory_bytes,
            memswap_limit=self._capacity.memory_bytes,
            pids_limit=self._capacity.processes,
            nano_cpus=int(self._cpus * 1e9),
            log_config={"Type": "none"},
            auto_remove=True,
            runtime=self._runtime,
        )
        return api.create_container(
            self._image,
            python_command("python3", "/tmp"),
            name=name,
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
            image = api.inspect_image(self._image)
        except ImageNotFound as error:
            raise SandboxError(
                f"The engine has no image {self._image!r}. Run `vpd sandbox build`."
            ) from error
        labels = image["Config"].get("Labels") or {}
        if self._image == IMAGE and labels.get(RECIPE_LABEL) != recipe():
            log.warning(
                "The image %s was built by another version of this project: its Python or modules "
                "may differ, and so verdicts. Run `vpd sandbox build`.",
                self._image,
            )

    def _remove_leftovers(self, api: Any) -> None:
        """Remove containers whose process, one of this machine, is gone. Most end by themselves."""
        for container in api.containers(all=True, filters={"label": LABEL}):
            owner, _, pid = container["Labels"][LABEL].rpartition(":")
            if owner == _owner() and not Path("/proc", pid).exists():
                _remove(api, container["Id"])


def addresses(given: Sequence[str] | None = None) -> list[str]:
    """The addresses of the engines: those given, else those of DOCKER_HOST, else this machine's.

    Raises:
        ValueError: no address, or a text instead of several.
    """
    if isinstance(given, str) or (given is not None and not given):
        raise ValueError(f"hosts must be a list of engine addresses, got {given!r}.")
    if given is None:
        given = os.environ.get("DOCKER_HOST", "").replace(",", " ").split()
    return list(given) or [DEFAULT_ADDRESS]


def recipe() -> str:
    """The label that image/build gives to an image: a hash of that script and of the Dockerfile."""
    folder = Path(__file__).with_name("image")
    sources = (folder / "Dockerfile").read_bytes() + (folder / "build").read_bytes()
    return hashlib.sha256(sources).hexdigest()[:16]


def _owner() -> str:
    """This machine and process namespace. Elsewhere the same process number is another process."""
    return f"{socket.gethostname()}:{Path('/proc/self/ns/pid').readlink()}"


def _connect(host: str) -> Any:
    try:
        import docker
        from docker.errors import DockerException
        from docker.utils import kwargs_from_env
    except ImportError as error:
        raise SandboxError(
            f"The package docker is not installed ({error}). "
            f"Install it ({pip_install('docker>=7.1,<8')}), or choose another sandbox."
        ) from error

    try:
        settings = kwargs_from_env(environment={**os.environ, "DOCKER_HOST": host})
        api = docker.APIClient(version="auto", timeout=ENGINE_SECONDS, **settings)
        api.ping()
    except (DockerException, OSError) as error:
        raise SandboxError(
            f"Docker is not reachable at {host} ({error}). "
            "Start it, or choose another sandbox; `vpd doctor` shows what works here."
        ) from error
    return api


def _remove(api: Any, container: str) -> None:
    from docker.errors import APIError

    try:
        api.remove_container(container, force=True, v=True)
    except APIError as error:
        if error.status_code not in (404, 409):  # gone, or going: it removes itself, too
            raise


class ContainerLink(Link):
    """The attached standard streams of a container.

    The engine sends output in pieces, each behind 8 bytes: the stream (1 or 2), three zeros, and
    the length.
    """

    def __init__(self, api: Any, container: str) -> None:
        self.container = container
        self._api = api
        self._stderr = bytearray()  # what came on standard error
        self._left = 0  # of the current piece of standard output
        try:
            # Attached before it starts, so that nothing is missed.
            streams = {"stdin": 1, "stdout": 1, "stderr": 1, "stream": 1}
            self._attached = api.attach_socket(container, params=streams)
            super().__init__(getattr(self._attached, "_sock", self._attached))
            api.start(container)
        except BaseException:
            _remove(api, container)
            raise

    def receive(self, size: int, deadline: float) -> bytes:
        receive = super().receive
        try:
            while self._left == 0:
                header = receive_exactly(receive, 8, deadline)
                length = int.from_bytes(header[4:], "big")
                if header[0] == 1:
                    self._left = length
                else:
                    self._stderr += receive_exactly(receive, length, deadline)
                    del self._stderr[:-4000]
        except EOFError:
            return b""
        part = receive(min(size, self._left), deadline)
        self._left -= len(part)
        return part

    def wait(self, seconds: float) -> bool:
        decrypted = getattr(self._socket, "pending", int)()  # by TLS, and not received yet
        return self._left > 0 or decrypted > 0 or super().wait(seconds)

    def _end(self) -> None:
        from docker.errors import DockerException

        try:
            _remove(self._api, self.container)
        except (DockerException, OSError) as error:  # it is removed later, as a leftover
            log.warning("Docker could not remove %s: %s", self.container, error)
        finally:
            self.detach()

    def detach(self) -> None:
        response = getattr(self._attached, "_response", None)
        if response is not None:
            response.close()  # first, since it would flush what it reads from
        self._attached.close()
        self._socket.close()
        self._api.close()

    def stderr_tail(self) -> str:
        return self._stderr.decode("utf-8", "replace")
