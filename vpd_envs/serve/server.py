"""Runs a service until a signal ends it: what was accepted is answered first."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from contextlib import closing

import uvicorn

from vpd_envs.serve.service import Service

POLL_SECONDS = 0.05
SENDING_SECONDS = 10  # for the last replies to reach their clients


class Server(uvicorn.Server):
    """Ends at SIGINT or SIGTERM: takes no more answers, finishes those it has accepted, and closes
    the connections. A second SIGINT ends it at once.

    say: is told a line when the server has begun, and one when it begins to end.

    `ended_well`: whether all that was accepted had been answered when it ended.
    """

    ended_well = False

    def __init__(self, service: Service, say: Callable[[str], None]) -> None:
        # Its protocol for WebSockets reads no further message before the last one is taken.
        # Idle sessions end by their own clock: a client that trains meanwhile answers no ping.
        config = uvicorn.Config(
            service.app,
            ws="websockets-sansio",
            ws_max_size=service.bounds.request_bytes,
            ws_ping_interval=None,
            timeout_graceful_shutdown=SENDING_SECONDS,
            lifespan="off",
            log_config=None,
            access_log=False,
        )
        super().__init__(config)
        self.service = service
        self._say = say

    def serve_on(self, listener: socket.socket) -> None:
        """Serve on a bound socket until a signal comes, or `should_exit` is set."""
        with closing(self.service.judging):
            self.run(sockets=[listener])

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        service = self.service
        for listener in sockets or []:
            self._say(
                f"Serving {service.name}, {len(service.env.problem_ids)} problems, at "
                f"{url_of(listener)}. Ctrl-C ends it."
            )

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        judging = self.service.judging
        judging.draining = True
        if judging.length:
            self._say(f"Ending after {judging.length} answers; Ctrl-C once more ends at once.")
        while self.service.busy and not self.force_exit:
            await asyncio.sleep(POLL_SECONDS)
        await super().shutdown(sockets)
        self.ended_well = not self.service.busy


def bound(host: str, port: int) -> socket.socket:
    """A socket of that address, on which nothing listens yet. Raises ValueError if it is taken or
    is none of this machine's."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        listener = socket.socket(family, kind, protocol)
    except OSError as error:
        raise ValueError(
            f"--host {host}: expected an address of this machine ({error})."
        ) from error
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
    except OSError as error:
        listener.close()
        raise ValueError(
            f"Cannot serve on port {port} of {host}: {error.strerror}. Choose another --port; 0 is "
            "any that is free."
        ) from error
    return listener


def url_of(listener: socket.socket) -> str:
    host, port = listener.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
