"""Clients of a server that runs in this process, and environments whose judge a test controls."""

import json
import threading
import time
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from queue import Queue

import urllib3
from websockets.sync.client import connect

from sandbox import SandboxError
from vpd_envs import Problem, Status, TextEnv, Verdict
from vpd_envs.serve.server import Server, bound, url_of
from vpd_envs.serve.service import Bounds, Service

PATIENCE = 300.0  # of a test for what comes at once, on a machine that is busy
SECRET = "the hidden answer"


class Words(TextEnv):
    """Solved by the word in capital letters. The answer "fire" cannot be judged, "bug" breaks the
    judge; "wait" is judged once the test says so."""

    workers = 2

    def __init__(self, *others, **options):
        words = [Problem(word, f"Shout: {word}", SECRET) for word in ("ash", "a/b c", "oak")]
        super().__init__([*words, *others], **options)
        self.gate = threading.Event()
        self.running = threading.Semaphore(0)  # released whenever the judge begins
        self.judged = []

    def judge(self, problem, answer):
        self.running.release()
        if answer == "wait":
            assert self.gate.wait(PATIENCE)
        if answer == "fire":
            raise SandboxError("The cage is on fire.")
        if answer == "bug":
            raise KeyError(problem.target)
        self.judged.append(answer)
        if answer == problem.id.upper():
            return Verdict(1.0, Status.SOLVED, "Heard you.", {"score": 1})
        return Verdict(0.25, Status.WRONG_ANSWER, f"Not {answer!r}.", {"score": 0})


class Pair(TextEnv):
    """Every answer waits until another one is judged beside it."""

    workers = 2

    def __init__(self):
        super().__init__([Problem("p", "?", None)])
        self.both = threading.Barrier(2, timeout=PATIENCE)

    def judge(self, problem, answer):
        self.both.wait()
        return Verdict(1.0, Status.SOLVED, "")


@dataclass
class Running:
    """A server in a thread of its own."""

    server: Server
    thread: threading.Thread
    url: str
    said: list = field(default_factory=list)
    http: urllib3.PoolManager = field(
        default_factory=lambda: urllib3.PoolManager(maxsize=8, retries=False, timeout=PATIENCE)
    )

    @property
    def service(self):
        return self.server.service

    def get(self, path):
        reply = self.http.request("GET", self.url + path)
        return reply.status, reply.json()

    def post(self, answers, **more):
        """answers: (problem id, answer) each, or whatever is to be sent as JSON."""
        rows = [
            {"problem_id": each[0], "answer": each[1]} if isinstance(each, tuple) else each
            for each in answers
        ]
        reply = self.http.request("POST", self.url + "/judge", json=rows, **more)
        return reply.status, reply.json()

    def send(self, body, **headers):
        headers = {"Content-Type": "application/json"} | headers
        return self.http.request("POST", self.url + "/judge", body=body, headers=headers)

    def in_background(self, function, *arguments):
        """A queue that gets what the function returns."""
        replies = Queue()
        work = threading.Thread(target=lambda: replies.put(function(*arguments)), daemon=True)
        work.start()
        return replies

    def stop(self):
        self.server.should_exit = True
        self.thread.join(PATIENCE)
        assert not self.thread.is_alive()


@contextmanager
def serving(env, *sources, **bounds):
    """A server of `env` on a free port."""
    said = []
    service = Service("Words-v0", env, sources, Bounds(**bounds))
    server = Server(service, said.append)
    listener = bound("127.0.0.1", 0)
    thread = threading.Thread(target=server.serve_on, args=(listener,), daemon=True)
    thread.start()
    running = Running(server, thread, url_of(listener), said)
    until(lambda: server.started)
    try:
        yield running
    finally:
        running.stop()
        running.http.clear()
        listener.close()


def until(condition):
    """Wait for what another thread is about to do."""
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.005)


class Client:
    """Speaks what GenericEnvClient of openenv-core 0.3.0 speaks: the same path, and per call one
    JSON text {"type", "data"} and one reply. `test_openenv_client.py` has the real one, for which
    52 packages would have to be installed, gradio and an older Pillow among them."""

    def __init__(self, url):
        address = url.replace("http://", "ws://", 1) + "/ws"
        self._open = ExitStack()
        self.socket = self._open.enter_context(connect(address, open_timeout=PATIENCE, proxy=None))

    def reset(self, **data):
        return self.ask({"type": "reset", "data": data})

    def step(self, answer, **more):
        return self.ask({"type": "step", "data": {"answer": answer} | more})

    def state(self):
        return self.ask({"type": "state"})

    def ask(self, message):
        """The data of the reply; or, of an error, its code and text."""
        return self.tell(json.dumps(message))

    def tell(self, text):
        self.socket.send(text)
        reply = json.loads(self.socket.recv(PATIENCE))
        data = reply["data"]
        return (data["code"], data["message"]) if reply["type"] == "error" else data

    def close(self):
        self.socket.send(json.dumps({"type": "close"}))
        self._open.close()
