"""Several Docker engines: cages are spread over them, and one that fails costs no job."""

import contextlib
import socket
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from sandbox import Job, SandboxError
from sandbox.docker import Docker, addresses

pytestmark = pytest.mark.docker

ENGINE = "/var/run/docker.sock"


class Relay:
    """Another way to the engine of this machine: a port that can vanish like a machine."""

    def __init__(self):
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.address = f"tcp://127.0.0.1:{self.listener.getsockname()[1]}"
        self.connections = []
        self.accepted = 0
        threading.Thread(target=self.serve, daemon=True).start()

    def serve(self):
        with contextlib.suppress(OSError):
            while True:
                theirs, _ = self.listener.accept()
                ours = socket.socket(socket.AF_UNIX)
                ours.connect(ENGINE)
                self.accepted += 1
                self.connections += [theirs, ours]
                for source, target in ((theirs, ours), (ours, theirs)):
                    threading.Thread(target=self.pump, args=(source, target), daemon=True).start()

    def pump(self, source, target):
        with contextlib.suppress(OSError):
            while data := source.recv(1 << 16):
                target.sendall(data)
        with contextlib.suppress(OSError):
            target.shutdown(socket.SHUT_WR)

    def vanish(self):
        for connection in (self.listener, *self.connections):
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
            connection.close()


@pytest.fixture
def relays(make_box):
    make_box("docker", cages=1).close()  # skips where there is none
    made = [Relay(), Relay()]
    yield made
    for relay in made:
        relay.vanish()


def echo(box, number):
    return box.run(Job("import time\ntime.sleep(0.05)\nprint(input())", str(number))).stdout


def test_cages_are_spread_over_all_engines(make_box, relays, monkeypatch):
    monkeypatch.setenv("DOCKER_HOST", ",".join(relay.address for relay in relays))
    with make_box("docker", cages=2) as box, ThreadPoolExecutor(2) as executor:
        looked = [
            relay.accepted for relay in relays
        ]  # each was looked over, one has the first cage
        got = list(executor.map(lambda number: echo(box, number), range(10)))
        assert got == [f"{i}\n" for i in range(10)]
        assert all(looked)
        hosts = sorted(cage.link._api.base_url for cage in box._live)
    assert hosts == sorted(relay.address.replace("tcp", "http") for relay in relays)


def test_an_engine_that_vanishes_costs_no_job(make_box, relays):
    hosts = [relay.address for relay in relays]
    with make_box("docker", cages=2, hosts=hosts) as box, ThreadPoolExecutor(2) as executor:
        results = [executor.submit(echo, box, number) for number in range(40)]
        assert results[5].result(timeout=60) == "5\n"
        relays[0].vanish()
        assert [result.result(timeout=120) for result in results] == [f"{i}\n" for i in range(40)]
        assert {cage.link._api.base_url for cage in box._live} == {hosts[1].replace("tcp", "http")}


def test_an_engine_that_is_not_there_is_passed_over(make_box, relays, caplog):
    relays[0].vanish()
    with make_box("docker", cages=1, hosts=[relay.address for relay in relays]) as box:
        assert echo(box, 1) == "1\n"
    assert "Going on without one engine" in caplog.text
    assert relays[0].address in caplog.text


def test_without_any_engine_each_is_named():
    with pytest.raises(SandboxError, match=r"unix:///nowhere.*unix:///neither"):
        Docker(hosts=["unix:///nowhere", "unix:///neither"])


def test_addresses_come_from_the_environment(monkeypatch):
    monkeypatch.setenv("DOCKER_HOST", "tcp://a:1, ssh://b")
    assert addresses() == ["tcp://a:1", "ssh://b"]
    monkeypatch.delenv("DOCKER_HOST")
    assert addresses() == ["unix:///var/run/docker.sock"]


@pytest.mark.parametrize("wrong", ["tcp://a:1", []])
def test_addresses_must_be_a_list(wrong):
    with pytest.raises(ValueError, match="hosts must be a list of engine addresses"):
        Docker(hosts=wrong)
