"""What the client of a vLLM server says when there is none. Several servers: test_vllm_servers.py;
vLLM itself: test_vllm.py."""

from __future__ import annotations

import re
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from http.client import HTTPConnection

import pytest

from agent.engines.fake_server import Site, completion, model, running
from agent.helpers import small_policy
from sandbox.installation import install_hint
from vpd_agent.engines import vllm_client
from vpd_agent.engines.vllm import VLLMEngine
from vpd_agent.engines.vllm_server import VLLMServerEngine


@pytest.fixture(scope="module")
def policy():
    return small_policy()


@pytest.fixture
def site():
    with running(Site()) as site:
        yield site


def unused_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.mark.parametrize("url", ["127.0.0.1:8000", "ftp://127.0.0.1", "http://", "vllm"])
def test_an_address_that_is_none_is_refused(policy, url):
    with pytest.raises(ValueError, match="Expected an address such as"):
        VLLMServerEngine(url, policy)


def test_nobody_there_says_how_to_start_a_server(policy, monkeypatch):
    monkeypatch.setattr(vllm_client, "OTHER_TRIES", 0)
    with pytest.raises(ConnectionError, match=r"refused.*1 tries.*vllm serve"):
        VLLMServerEngine(f"http://127.0.0.1:{unused_port()}", policy)


def test_a_server_that_comes_a_little_late_is_waited_for(policy, site):
    answers = iter([(503, {"detail": "starting"}), (200, {"data": [model("m")]})])
    site.pages["/v1/models"] = lambda request: next(answers)
    assert [c.model for c in VLLMServerEngine(site.url, policy).servers.present] == ["m"]


def test_a_server_that_is_not_vllm_is_told_apart(policy, site):
    site.pages["/v1/models"] = (200, {"data": [{"id": "gpt"}]})
    with pytest.raises(ConnectionError, match="Expected a vLLM server"):
        VLLMServerEngine(site.url, policy)
    site.pages.clear()
    with pytest.raises(ConnectionError, match=r"Expected vLLM's /v1/models.*there is none"):
        VLLMServerEngine(site.url, policy)


def test_one_of_several_models_must_be_named(policy, site):
    site.pages["/v1/models"] = (200, {"data": [model("one"), model("two")]})
    with pytest.raises(ValueError, match="serves one, two; expected a single model"):
        VLLMServerEngine(site.url, policy)
    engine = VLLMServerEngine(f"{site.url}/v1", policy, model="two")
    assert engine.servers.present[0].model == "two"


def test_without_development_mode_there_is_no_sync_and_no_other_temperature(policy, site):
    engine = VLLMServerEngine(site.url, policy)
    for call in (
        lambda: engine.sync(policy),
        lambda: engine.generate([[1]], max_tokens=1, temperature=0.5),
    ):
        with pytest.raises(ConnectionError, match=r"there is none. .*VLLM_SERVER_DEV_MODE=1"):
            call()


def test_weights_for_another_machine_need_a_shared_folder(policy, site, monkeypatch):
    engine = VLLMServerEngine(site.url, policy)
    monkeypatch.setattr(engine.servers.present[0], "is_on_this_machine", False)
    with pytest.raises(ValueError, match="Pass --weights-folder"):
        engine.sync(policy)


def test_requests_that_wait_go_on_after_a_failed_sync(policy, site, tmp_path):
    site.pages["/pause?mode=wait"] = site.pages["/resume"] = (200, {})
    site.pages["/collective_rpc"] = (500, {"error": "no such folder"})
    engine = VLLMServerEngine(site.url, policy, folder=tmp_path)
    with pytest.raises(ConnectionError, match=r"HTTP 500.*no such folder"):
        engine.sync(policy)
    assert site.asked[-1][0] == "/resume"
    assert not list(tmp_path.iterdir())


def test_a_response_that_another_ended_is_an_error(policy, site):
    engine = VLLMServerEngine(site.url, policy)
    site.pages["/v1/completions"] = (200, completion(([5], "abort")))
    with pytest.raises(ConnectionError, match="'abort'"):
        engine.generate([[1]], max_tokens=1)
    site.pages["/v1/completions"] = (200, completion(([5], "stop")))
    with pytest.raises(ValueError, match="ends responses at token 5"):
        engine.generate([[1]], max_tokens=1)
    site.pages["/v1/completions"] = (200, {"choices": [{"index": 0, "text": "a"}]})
    with pytest.raises(ConnectionError, match="'token_ids' is missing"):
        engine.generate([[1]], max_tokens=1)


def test_a_server_that_never_answers_times_out(policy, site):
    engine = VLLMServerEngine(site.url, policy, timeout_seconds=0.2)
    site.pages["/v1/completions"] = lambda request: time.sleep(2) or (200, {})
    with pytest.raises(ConnectionError, match=r"within 0\.2 seconds"):
        engine.generate([[1]], max_tokens=1)


@pytest.mark.parametrize("refused", [[1], [2]])
def test_the_first_failure_ends_the_requests_beside_it(policy, site, refused):
    """One request is refused at once, the other would be answered after a minute."""
    engine = VLLMServerEngine(site.url, policy)
    over, waited = threading.Event(), []

    def page(request):
        if request["prompt"] == refused:
            return 400, {"error": "no"}
        waited.append(over.wait(60))
        return 200, {}

    site.pages["/v1/completions"] = page
    with pytest.raises(ValueError, match="refuses the request"):
        engine.generate([[1], [2]], max_tokens=1)
    assert waited == []
    over.set()


def test_a_request_that_is_given_up_before_it_has_a_connection_is_not_made(
    policy, site, monkeypatch
):
    engine = VLLMServerEngine(site.url, policy)
    site.pages["/v1/completions"] = (200, completion(([5], "length")))
    connecting, closed = threading.Event(), threading.Event()
    connect = HTTPConnection.connect

    def late(connection):
        connecting.set()
        closed.wait(60)
        connect(connection)

    monkeypatch.setattr(HTTPConnection, "connect", late)
    with ThreadPoolExecutor(1) as pool:
        generation = pool.submit(engine.generate, [[1]], max_tokens=1)
        connecting.wait(60)
        engine.close()
        closed.set()
        with pytest.raises(ConnectionError, match="given up"):
            generation.result()
    assert "/v1/completions" not in [path for path, _ in site.asked]


def test_the_api_key_is_sent_and_in_no_error(policy, site, monkeypatch):
    monkeypatch.setenv("VLLM_API_KEY", "secret-key")
    engine = VLLMServerEngine(site.url, policy)
    assert site.asked[-1][1]["Authorization"] == "Bearer secret-key"
    with pytest.raises(ConnectionError) as caught:
        engine.generate([[1]], max_tokens=1)
    assert "secret-key" not in str(caught.value)


def test_without_vllm_the_error_says_what_to_install(policy, monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "vllm", None)  # importing it fails, installed or not
    with pytest.raises(ValueError, match=re.escape(install_hint("vllm"))):
        VLLMEngine(policy)
