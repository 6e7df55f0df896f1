"""Several vLLM servers behind one engine: who is asked, and what becomes of the work of one that is
lost. The servers here are no vLLM; two of vLLM are in test_vllm.py."""

from __future__ import annotations

import math
import threading
from contextlib import ExitStack

import pytest

from agent.engines.fake_server import Site, completion, model, running
from agent.helpers import small_policy
from vpd_agent.engines import vllm_client, vllm_servers
from vpd_agent.engines.vllm_server import VLLMServerEngine


class FakeVLLM(Site):
    """Answers a prompt with its first token, as often as is asked, and keeps what it was asked.

    before: called with a request's prompt before it is answered.
    """

    def __init__(self, port: int = 0, before=lambda prompt: None) -> None:
        super().__init__(port)
        self.prompts: list[list[int]] = []
        self.loaded: list[str] = []
        self.version = "default"
        self.before = before
        done = (200, {"success": True})
        self.pages |= {
            "/v1/completions": self.complete,
            "/weight_info": lambda _: (200, {"weight_version": self.version}),
            "/update_weight_version": self.rename,
            "/pause?mode=wait": done,
            "/collective_rpc": self.load,
            "/reset_prefix_cache": done,
            "/resume": done,
        }

    def complete(self, request):
        self.prompts.append(request["prompt"])
        self.before(request["prompt"])
        answer = completion(*[([request["prompt"][0]], "length")] * request["n"])
        for choice in answer["choices"]:  # the policy's, within a nat: it has learnt nothing
            choice["logprobs"]["token_logprobs"] = [-math.log(VOCABULARY)]
        return 200, answer

    def load(self, request):
        self.loaded.append(request["kwargs"]["weights_path"])
        return 200, {}

    def rename(self, request):
        self.version = request["new_version"]
        return 200, {}

    @property
    def paths(self) -> list[str]:
        return [path for path, _ in self.asked]


POLICY = small_policy()
VOCABULARY = POLICY.model.config.vocab_size
PROMPTS = [[token, 1, 1] for token in range(8)]


@pytest.fixture
def start():
    """Starts a fake server that ends with the test."""
    with ExitStack() as stack:
        yield lambda *args, **kwargs: stack.enter_context(running(FakeVLLM(*args, **kwargs)))


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(vllm_client, "OTHER_TRIES", 0)
    monkeypatch.setattr(vllm_servers, "RETURN_SECONDS", 0.0)


def engine_of(*sites: Site, **options) -> VLLMServerEngine:
    return VLLMServerEngine([site.url for site in sites], POLICY, **options)


def answers(engine: VLLMServerEngine, prompts: list[list[int]]) -> list[int]:
    """The one token of each response."""
    return [g.ids[0] for g in engine.generate(prompts, max_tokens=1)]


FIRST_TOKENS = [prompt[0] for prompt in PROMPTS]


def test_prompts_are_shared_evenly(start):
    all_here = threading.Barrier(len(PROMPTS), timeout=60)
    a, b = (start(before=lambda prompt: all_here.wait()) for _ in "ab")
    assert answers(engine_of(a, b), PROMPTS) == FIRST_TOKENS
    assert len(a.prompts) == len(b.prompts) == 4
    assert sorted(a.prompts + b.prompts) == PROMPTS


def test_later_turns_go_where_the_first_went_until_the_weights_change(start):
    a, b = start(), start()
    engine = engine_of(a, b)
    answers(engine, PROMPTS)
    homes = {tuple(prompt): site for site in (a, b) for prompt in site.prompts}
    second = [[*prompt, 7, prompt[0] % 3] for prompt in PROMPTS for _ in range(3)]
    third = [[*prompt, 8, 9] for prompt in second]
    for turn in (second, third):
        answers(engine, turn)
        for site in (a, b):
            assert all(homes[tuple(prompt[:3])] is site for prompt in site.prompts)
    engine.sync(POLICY)  # no server keeps anything of a prompt now
    all_here = threading.Barrier(len(PROMPTS), timeout=60)
    a.before = b.before = lambda prompt: all_here.wait()
    answers(engine, [PROMPTS[0] + [i] for i in range(8)])
    assert sum(prompt[3:] != [] for prompt in a.prompts[-4:]) == 4


def test_the_work_of_a_server_that_dies_is_done_by_the_other_once(start):
    a, b = start(), start()
    engine = engine_of(a, b)
    engine.sync(POLICY)

    def die(prompt):
        a.pages["/v1/completions"] = (500, {"error": "engine is dead"})
        raise BrokenPipeError  # the connection ends without an answer

    a.handle_error = lambda *args: None
    a.before = die
    with pytest.warns(UserWarning, match=rf"{a.url} is lost, 1 of 2 go on"):
        assert answers(engine, PROMPTS) == FIRST_TOKENS
    assert [c.url for c in engine.servers.present] == [b.url]
    assert sorted(b.prompts[-8:]) == PROMPTS
    before = len(a.prompts)
    assert answers(engine, PROMPTS) == FIRST_TOKENS
    assert len(a.prompts) == before


def test_a_server_that_hangs_is_left_and_what_waits_there_is_asked_elsewhere(start):
    over = threading.Event()
    a, b = start(before=lambda prompt: over.wait(60)), start()
    engine = engine_of(a, b, timeout_seconds=0.5)
    with pytest.warns(UserWarning, match="did not answer within 0.5 seconds"):
        assert answers(engine, PROMPTS) == FIRST_TOKENS
    over.set()
    assert sorted(b.prompts) == PROMPTS


def test_a_server_that_comes_back_gets_the_present_weights_before_any_prompt(start):
    b = start()
    with running(FakeVLLM()) as a:
        port = a.server_port
        engine = engine_of(a, b)
        engine.sync(POLICY)
    with pytest.warns(UserWarning, match="is lost"):
        assert answers(engine, PROMPTS) == FIRST_TOKENS
    again = start(port)
    assert answers(engine, PROMPTS) == FIRST_TOKENS
    assert again.asked == []  # it has the weights that it was started with
    with pytest.warns(UserWarning, match=rf"{again.url} is back"):
        engine.sync(POLICY)
    assert again.loaded == b.loaded[-1:]
    assert again.version == b.version
    all_here = threading.Barrier(len(PROMPTS), timeout=60)
    again.before = b.before = lambda prompt: all_here.wait()
    assert answers(engine, PROMPTS) == FIRST_TOKENS
    assert sorted(again.prompts[-4:] + b.prompts[-4:]) == PROMPTS
    assert again.paths.index("/collective_rpc") < again.paths.index("/v1/completions")


def test_a_server_that_was_started_anew_in_a_pause_is_not_sampled_from(start):
    a, b = start(), start()
    engine = engine_of(a, b)
    engine.sync(POLICY)
    a.prompts.clear()
    a.version = "default"  # as vLLM calls the weights that it was started with
    with pytest.warns(UserWarning, match="has the weights 'default'"):
        assert answers(engine, PROMPTS) == FIRST_TOKENS
    assert a.prompts == []


def test_the_only_server_with_other_weights_is_an_error(start):
    site = start()
    engine = engine_of(site)
    engine.sync(POLICY)
    site.version = "another run's"
    with pytest.raises(ConnectionError, match="has the weights \"another run's\", expected 'vpd-"):
        answers(engine, PROMPTS)


@pytest.mark.filterwarnings("ignore:The vLLM server")
def test_where_none_is_left_the_error_names_all(start):
    with running(FakeVLLM()) as a, running(FakeVLLM()) as b:
        engine = engine_of(a, b)
    with pytest.raises(ConnectionError, match="No vLLM server is left") as error:
        answers(engine, PROMPTS)
    assert a.url in str(error.value)
    assert b.url in str(error.value)


def test_a_server_that_is_not_there_at_the_start_is_told_of_and_may_come_later(start):
    with running(FakeVLLM()) as gone:
        pass
    site = start()
    with pytest.warns(UserWarning, match=rf"{gone.url} is lost, 1 of 2 go on.*refused"):
        engine = engine_of(gone, site)
    again = start(gone.server_port)
    with pytest.warns(UserWarning, match="is back"):
        engine.sync(POLICY)
    assert again.version == site.version


@pytest.mark.filterwarnings("ignore:The vLLM server")
def test_what_comes_back_as_another_is_kept_out(start):
    site = start()
    with running(FakeVLLM()) as a:
        engine = engine_of(a, site)
    answers(engine, PROMPTS)
    another = start(a.server_port)
    another.pages["/version"] = (200, {"version": "0.33.1"})
    engine.sync(POLICY)
    assert another.loaded == []
    assert answers(engine, PROMPTS) == FIRST_TOKENS
    assert another.prompts == []


def test_servers_of_other_versions_or_models_are_refused(start):
    a, b = start(), start()
    b.pages["/version"] = (200, {"version": "0.33.1"})
    with pytest.raises(ValueError, match=r"has version 0\.3.\.. of vLLM.*expected the same"):
        engine_of(a, b)
    b.pages["/version"] = (200, {"version": "0.11.2"})
    with pytest.raises(ValueError, match=r"Expected vLLM 0\.32 or later at .*got version 0\.11\.2"):
        engine_of(a, b)
    b.pages["/version"] = a.pages["/version"]
    b.pages["/v1/models"] = (200, {"data": [model("one"), model("two")]})
    with pytest.raises(ValueError, match="serves one, two; expected a single model"):
        engine_of(a, b)
    with pytest.raises(ValueError, match="each once"):
        engine_of(a, a)
