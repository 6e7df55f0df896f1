"""The weights' way from memory to several servers that are no vLLM; for vLLM's see test_vllm.py."""

from __future__ import annotations

import base64
import pickle
import sys
import threading
from contextlib import ExitStack, contextmanager

import pytest
import torch

from agent.engines.fake_server import running
from agent.engines.test_vllm_servers import PROMPTS, FakeVLLM
from agent.helpers import small_policy
from vpd_agent.engines import vllm_client, weight_transfer
from vpd_agent.engines.make import check_engine
from vpd_agent.engines.vllm_server import VLLMServerEngine
from vpd_agent.engines.weight_transfer import Group, Weights

POLICY = small_policy()


class Receiver(FakeVLLM):
    """workers: of its own. It keeps, in order, what it was asked, with the content."""

    def __init__(self, workers: int = 1, backend: str | None = "nccl") -> None:
        super().__init__()
        self.calls: list[tuple[str, dict]] = []
        config = None if backend is None else {"backend": backend}
        self.pages |= {
            "/get_world_size": (200, {"world_size": workers}),
            "/server_info?config_format=json": (
                200,
                {"vllm_config": {"weight_transfer_config": config}},
            ),
        }
        for name in ("init_weight_transfer_engine", "shutdown_weight_transfer_engine"):
            self.keep(name)
        for name in ("start_weight_update", "update_weights", "finish_weight_update"):
            self.keep(name)

    def keep(self, name: str) -> None:
        def answer(content):
            self.calls.append((name, content))
            return 200, {}

        self.pages[f"/{name}"] = answer

    @property
    def names(self) -> list[str]:
        return [name for name, _ in self.calls]


class Sender:
    """As vLLM's: it lets the servers join, and then steers each transfer."""

    def __init__(self, group: Group, weights: Weights, wait=lambda: None) -> None:
        self._group, self._weights, self._wait = group, weights, wait
        group.init_weight_transfer_engine({"rank_offset": 1, "world_size": 1 + sum(group.workers)})

    def send_weights(self) -> None:
        self._group.start_weight_update()
        self._wait()
        self._group.update_weights({"names": [weight.name for weight in self._weights.metadata()]})
        self._group.finish_weight_update()

    def shutdown(self) -> None:
        pass


@contextmanager
def receivers(*sites: Receiver):
    with ExitStack() as stack:
        for site in sites:
            stack.enter_context(running(site))
        yield sites


@pytest.fixture(autouse=True)
def without_a_gpu(monkeypatch):
    monkeypatch.setattr(vllm_client, "OTHER_TRIES", 0)
    monkeypatch.setattr(weight_transfer, "check_possible", lambda way, policy: None)
    monkeypatch.setattr(weight_transfer, "make_sender", lambda way, *parts: Sender(*parts))


def engine_of(*sites: Receiver, **options) -> VLLMServerEngine:
    urls = [site.url for site in sites]
    return VLLMServerEngine(urls, POLICY, weight_transfer="nccl", **options)


def test_all_workers_of_all_servers_have_ranks_of_their_own_after_the_trainers():
    with receivers(Receiver(2), Receiver(4), Receiver(1)) as sites:
        engine_of(*sites).sync(POLICY)
    infos = [dict(site.calls)["init_weight_transfer_engine"]["init_info"] for site in sites]
    assert [info["rank_offset"] for info in infos] == [1, 1 + 2, 1 + 2 + 4]
    assert {info["world_size"] for info in infos} == {1 + 2 + 4 + 1}


def test_servers_wait_while_they_get_the_weights_and_know_the_new_version():
    with receivers(Receiver()) as (site,):
        engine = engine_of(site)
        engine.sync(POLICY)
        wanted = ["/pause?mode=wait", "/init_weight_transfer_engine", "/start_weight_update"]
        wanted += ["/update_weights", "/finish_weight_update", "/reset_prefix_cache"]
        wanted += ["/update_weight_version", "/resume"]
        assert [path for path in site.paths if path in wanted] == wanted
        assert site.version.startswith("vpd-weights-")
        assert len(engine.generate(PROMPTS, max_tokens=1)) == len(PROMPTS)


def test_the_group_is_formed_once_and_anew_without_a_server_that_is_lost():
    with receivers(Receiver(), Receiver()) as (first, second):
        engine = engine_of(first, second)
        engine.sync(POLICY)
        engine.sync(POLICY)
        assert first.names.count("init_weight_transfer_engine") == 1
        first.pages["/pause?mode=wait"] = (500, "broken")
        with pytest.warns(UserWarning, match="is lost, 1 of 2 go on"):
            engine.sync(POLICY)
    assert first.names.count("update_weights") == 2
    assert second.names.count("update_weights") == 3
    assert [n for n in second.names if "transfer_engine" in n] == [
        "init_weight_transfer_engine",
        "shutdown_weight_transfer_engine",
        "init_weight_transfer_engine",
    ]
    last = [c for name, c in second.calls if name == "init_weight_transfer_engine"][-1]
    assert last["init_info"] == {"rank_offset": 1, "world_size": 2}


def test_a_transfer_that_never_ends_is_an_error_after_the_time_limit(monkeypatch):
    never = threading.Event()
    monkeypatch.setattr(
        weight_transfer, "make_sender", lambda way, *parts: Sender(*parts, never.wait)
    )
    with receivers(Receiver()) as (site,):
        engine = engine_of(site, timeout_seconds=0.5)
        with pytest.raises(ConnectionError, match=r"by nccl within 0\.5 seconds.*same command"):
            engine.sync(POLICY)
        assert site.paths[-1] == "/resume"
        never.set()


def test_a_server_that_refuses_the_weights_ends_the_transfer_with_its_words():
    with receivers(Receiver(), Receiver()) as (first, second):
        second.pages["/update_weights"] = (500, {"detail": "names do not match"})
        with pytest.raises(ConnectionError, match="names do not match"):
            engine_of(first, second).sync(POLICY)


@pytest.mark.parametrize(
    ("backend", "message"),
    [(None, "files alone, expected nccl"), ("ipc", "by ipc, expected nccl")],
)
def test_a_server_that_was_started_for_another_way_is_refused_at_once(backend, message):
    with receivers(Receiver(backend=backend)) as (site,):
        with pytest.raises(ValueError, match=message + r".*--weight-transfer-config"):
            engine_of(site)
        assert site.calls == []


def test_handles_to_a_gpus_memory_are_sent_as_vllm_reads_them():
    handles = [{"GPU-1": ("a handle", 7)}]
    with receivers(Receiver()) as (site,):
        engine = engine_of(site)
        Group(engine.servers.present).update_weights({"names": ["a"], "ipc_handles": handles})
    info = dict(site.calls)["update_weights"]["update_info"]
    assert info["names"] == ["a"]
    assert "ipc_handles" not in info
    assert pickle.loads(base64.b64decode(info["ipc_handles_pickled"])) == handles


def test_what_is_announced_is_what_is_sent():
    weights = Weights(POLICY)
    sent = [(name, weight.dtype, tuple(weight.shape)) for name, weight in weights]
    assert weights.metadata() == sent
    assert {name for name, *_ in sent} >= set(POLICY.weights)
    for name, weight in weights:
        assert torch.equal(weight, POLICY.model.state_dict()[name])


@pytest.mark.parametrize(
    ("engine", "way", "message"),
    [
        ("hf", "nccl", "sends weights to vLLM servers"),
        ("http://127.0.0.1:1", "pigeon", "must be one of folder, nccl, ipc, got 'pigeon'"),
    ],
)
def test_ways_that_do_not_go_with_the_engine_are_refused(engine, way, message):
    with pytest.raises(ValueError, match=message):
        check_engine(engine, way)


@pytest.mark.parametrize("has_vllm", [False, True])
def test_a_trainer_without_vllm_or_a_gpu_is_told_what_it_needs(monkeypatch, has_vllm):
    monkeypatch.undo()
    name = "vllm.distributed.weight_transfer.factory"
    for parent in ("vllm", "vllm.distributed", "vllm.distributed.weight_transfer", name):
        monkeypatch.setitem(sys.modules, parent, sys.modules[__name__] if has_vllm else None)
    message = "the policy is on cpu" if has_vllm else r"needs vLLM 0\.32 or later"
    with pytest.raises(ValueError, match=message):
        weight_transfer.check_possible("nccl", POLICY)
