"""A web server that says what a test tells it to, as vLLM or as what may be taken for it."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

Answer = tuple[int, Any]  # the status of HTTP, and what is sent as JSON


class Site(ThreadingHTTPServer):
    """pages: by path, an answer, or a function that gives one for the content of a request."""

    daemon_threads = True

    def __init__(self, port: int = 0) -> None:
        super().__init__(("127.0.0.1", port), Page)
        self.url = f"http://127.0.0.1:{self.server_port}"
        self.pages: dict[str, Answer | Callable[[Any], Answer]] = {
            "/v1/models": (200, {"data": [model("m")]}),
            "/version": (200, {"version": "0.32.0"}),
        }
        self.asked: list[tuple[str, dict]] = []  # paths and headers


class Page(BaseHTTPRequestHandler):
    def do_GET(self):
        self.answer({})

    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"] or 0))
        self.answer(json.loads(body or "{}"))

    def answer(self, content):
        self.server.asked.append((self.path, dict(self.headers)))
        page = self.server.pages.get(self.path, (404, {"detail": "Not Found"}))
        status, said = page(content) if callable(page) else page
        try:
            self.send_response(status)
            self.end_headers()
            self.wfile.write(json.dumps(said).encode())
        except OSError:  # the client has gone
            self.close_connection = True

    def log_message(self, *arguments):
        pass


@contextmanager
def running(site: Site) -> Iterator[Site]:
    thread = threading.Thread(target=site.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    try:
        yield site
    finally:
        site.shutdown()
        site.server_close()


def model(name: str) -> dict:
    return {"id": name, "root": "/not/here", "max_model_len": 64}


def completion(*choices: tuple[list[int], str]) -> dict:
    return {
        "choices": [
            {
                "index": i,
                "token_ids": ids,
                "logprobs": {"token_logprobs": [-1.0] * len(ids)},
                "finish_reason": finish,
            }
            for i, (ids, finish) in enumerate(choices)
        ]
    }
