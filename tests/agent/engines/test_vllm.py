"""Both engines of vLLM, run for real in float32 on the CPU: `.ci/vllm` has what they need.

The servers are started here on loopback, unmodified, and ended here.
"""

from __future__ import annotations

import importlib.util
import json
import os
import random
import signal
import socket
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from agent.engines import nccl_stand_in
from agent.engines.vllm_processes import (
    CONTEXT,
    KV_BYTES,
    await_health,
    end,
    gap,
    generator,
    policy_of,
    prompts_of,
    server,
)
from agent.helpers import SecretLetter, small_policy
from vpd_agent.algorithms import GRPO
from vpd_agent.engines import vllm_client, weight_transfer
from vpd_agent.engines.vllm import VLLMEngine, check_same_model
from vpd_agent.engines.vllm_server import VLLMServerEngine
from vpd_agent.model.lora import add_lora
from vpd_agent.train.config import TrainConfig
from vpd_agent.train.trainer import Trainer
from vpd_envs import Status, Verdict

if importlib.util.find_spec("vllm") is None and "VPD_REQUIRE_VLLM" not in os.environ:
    pytest.skip("needs vllm: run .ci/vllm", allow_module_level=True)

pytestmark = pytest.mark.slow

NOT_ENDS = range(40, 60)  # what the server's generation_config calls ends, and the policy does not


@pytest.fixture(scope="module")
def policy():
    return policy_of(0)


@pytest.fixture(scope="module")
def servers(tmp_path_factory):
    """Addresses and processes of two servers that start side by side: one as it should be, and one
    with vLLM's defaults. The last tests end them."""
    folder = tmp_path_factory.mktemp("served")
    policy_of(0, NOT_ENDS).save(folder / "model")
    right = ["--logprobs-mode", "processed_logprobs"]
    by_nccl = ["--weight-transfer-config", '{"backend": "nccl"}']
    plugin = nccl_stand_in.plugin_environment(folder / "plugin")
    with (
        server(folder, "right", [*right, *by_nccl], plugin) as (url, process),
        server(folder, "raw", by_nccl, plugin) as (raw, other),
    ):
        await_health(url, process, folder / "right.log")
        await_health(raw, other, folder / "raw.log")
        yield {
            "model": str(folder / "model"),
            "right": url,
            "right process": process,
            "raw": raw,
            "raw process": other,
        }


@pytest.fixture(scope="module")
def started(policy):
    """An engine in this process, and what the process was like before it started and sampled, and
    after."""
    before = process_state()
    engine = VLLMEngine(policy, max_model_len=CONTEXT, kv_cache_bytes=KV_BYTES)
    engine.generate([[1, 2, 3]], samples=3, max_tokens=5, generator=generator())
    yield engine, before, process_state()
    engine.close()
    engine.close()  # once more changes nothing
    with pytest.raises(ValueError, match="closed"):
        engine.generate([[1]], max_tokens=1)


def process_state() -> list:
    return [
        [torch.get_rng_state().tolist(), random.getstate(), np.random.get_state()[1].tolist()],
        [torch.set_num_threads, torch.get_num_threads(), torch.get_float32_matmul_precision()],
        [torch.get_default_dtype(), os.environ.get("VLLM_ENABLE_V1_MULTIPROCESSING")],
        [signal.getsignal(s) for s in (signal.SIGINT, signal.SIGTERM)],
    ]


@pytest.fixture
def colocated(started):
    return started[0]


@pytest.fixture(scope="module")
def remote(servers, policy):
    engine = VLLMServerEngine(servers["right"], policy)
    yield engine
    engine.close()


@pytest.fixture(params=["colocated", "remote"])
def engine(request, policy):
    """An engine with the weights of `policy`, whatever the test before has sent."""
    engine = request.getfixturevalue(request.param)
    engine.sync(policy)
    return engine


@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_log_probabilities_are_those_of_transformers_at_the_sampling_temperature(
    engine, policy, temperature
):
    prompts = prompts_of(policy, "a", "bb and more", "c" * 150)  # one longer than a cache block
    generations = engine.generate(
        prompts, samples=24, max_tokens=20, temperature=temperature, generator=generator()
    )
    assert {g.finish for g in generations} == {"stop", "length"}
    assert gap(policy, prompts, generations, temperature) < 1e-3


def test_a_sync_changes_the_next_samples_and_no_old_key_or_value_is_used(engine, policy):
    """The prompt is longer than a block of the cache, and asked again after the sync."""
    prompts, other = prompts_of(policy, "the same prompt " * 16), policy_of(1)
    before = engine.generate(prompts, samples=4, max_tokens=20, generator=generator())
    engine.sync(other)
    after = engine.generate(prompts, samples=4, max_tokens=20, generator=generator())
    assert gap(policy, prompts, before) < 1e-3
    assert gap(other, prompts, after) < 1e-3
    assert gap(policy, prompts, after) > 1


def test_adapters_are_sent_merged_and_the_policy_is_left_alone(engine, policy):
    pytest.importorskip("peft")
    adapted = add_lora(policy_of(2), 4)
    with torch.no_grad():
        for weight in adapted.weights.values():
            weight.normal_(0, 0.2, generator=generator())
    before = {name: weight.clone() for name, weight in adapted.model.state_dict().items()}
    engine.sync(adapted)
    prompts = prompts_of(policy, "a")
    generations = engine.generate(prompts, samples=4, max_tokens=40, generator=generator())
    assert gap(adapted, prompts, generations) < 1e-3
    assert gap(adapted.reference(), prompts, generations) > 1e-2
    for name, weight in adapted.model.state_dict().items():
        assert torch.equal(weight, before[name])


def test_a_response_ends_at_the_first_end_token_of_the_policy_or_at_the_limit(engine, policy):
    generations = engine.generate(
        prompts_of(policy, "x", "y"), samples=32, max_tokens=16, generator=generator()
    )
    assert {g.finish for g in generations} == {"stop", "length"}
    for g in generations:
        assert len(g.ids) == len(g.logprobs)
        ends = [i for i, token in enumerate(g.ids) if token in policy.eos_ids]
        if g.finish == "stop":
            assert ends == [len(g.ids) - 1]
        else:
            assert not ends
            assert len(g.ids) == 16
    assert any(token in NOT_ENDS for g in generations for token in g.ids[:-1])


def test_every_token_is_sampled_as_often_as_the_model_says_whatever_generation_config_says(
    engine, policy
):
    prompt, n = prompts_of(policy, "q"), 2000
    generations = engine.generate(prompt, samples=n, max_tokens=1, generator=generator())
    with torch.no_grad():
        p = policy.model(input_ids=torch.tensor(prompt)).logits[0, -1].softmax(-1)
    counts = torch.bincount(torch.tensor([g.ids[0] for g in generations]), minlength=len(p))
    # Five standard deviations of a binomial share, for every token.
    assert ((counts / n - p).abs() <= 5 * (p * (1 - p) / n).sqrt() + 2e-3).all()


def test_the_same_generator_state_gives_the_same_samples(engine, policy):
    prompts = prompts_of(policy, "bb", "bb", "q")
    first, again, other = (
        engine.generate(
            prompts, samples=2, max_tokens=12, temperature=2.0, generator=generator(seed)
        )
        for seed in (3, 3, 4)
    )
    assert [g.ids for g in first] == [g.ids for g in again]
    assert [g.ids for g in first] != [g.ids for g in other]
    assert len({tuple(g.ids) for g in first[:4]}) == 4  # the same prompt: samples of their own


def test_a_generator_that_goes_on_gives_new_samples(engine, policy):
    prompts, one = prompts_of(policy, "bb"), generator()
    first, second = (
        engine.generate(prompts, max_tokens=12, temperature=2.0, generator=one) for _ in range(2)
    )
    assert first[0].ids != second[0].ids


def test_no_prompts_give_no_samples(engine):
    assert engine.generate([], samples=2, max_tokens=3) == []


@pytest.mark.parametrize(
    ("request_", "message"),
    [
        ({"max_tokens": CONTEXT - 2}, "do not fit"),
        ({"max_tokens": 0}, "at least 1"),
        ({"max_tokens": 1, "samples": 0}, "at least 1"),
        ({"max_tokens": 1, "temperature": 0.001}, "between 0.01 and 2"),
    ],
)
def test_what_vllm_would_cut_or_change_is_refused(engine, request_, message):
    with pytest.raises(ValueError, match=message):
        engine.generate([[1, 2, 3]], **request_)


def test_neither_engine_claims_to_be_exact(engine):
    assert not engine.logprobs_match_trainer


def test_an_engine_that_computes_another_model_is_found_out(engine):
    with pytest.raises(ValueError, match="another model"):
        check_same_model(engine, policy_of(5))


class Even(SecretLetter):
    """Rewards what a policy that knows nothing does every other time."""

    def judge(self, problem, answer):
        reward = float(ord(answer[0]) % 2 == 0) if answer else 0.0
        return Verdict(reward, Status.SOLVED if reward else Status.WRONG_ANSWER, "even, please")


CONFIG = TrainConfig(
    steps=3,
    prompts_per_step=4,
    group_size=4,
    learning_rate=1e-2,
    max_prompt_tokens=64,
    max_response_tokens=3,
    eval_every=0,
    save_every=0,
    samples_every=0,
)


def test_three_steps_of_training_keep_the_engine_at_the_policy_of_the_step(engine):
    policy = policy_of(3)
    rows = []
    environment = Even.vector(CONFIG.rollouts_per_step)
    engine.sync(policy)
    Trainer(policy, GRPO(), environment, CONFIG, engine=engine, on_step=rows.append).train()
    assert [row["step"] for row in rows] == [1, 2, 3]
    prompts = prompts_of(policy, "train-a?")
    generations = engine.generate(prompts, samples=4, max_tokens=20, generator=generator())
    assert gap(policy, prompts, generations) < 1e-3
    assert gap(policy_of(3), prompts, generations) > 1e-2  # it has learnt


# --- in the trainer's process --------------------------------------------------------------------


def test_starting_and_sampling_leave_the_process_as_it_was(started):
    _, before, after = started
    assert after == before


def test_an_interrupt_leaves_nothing_for_the_next_call(colocated, policy, monkeypatch):
    steps = iter(range(3))
    step = colocated._llm.llm_engine.step

    def interrupted():
        if next(steps, None) is None:
            raise KeyboardInterrupt
        return step()

    prompts = prompts_of(policy, "a", "bb")
    with monkeypatch.context() as patch:
        patch.setattr(colocated._llm.llm_engine, "step", interrupted)
        with pytest.raises(KeyboardInterrupt):
            colocated.generate(prompts, samples=32, max_tokens=50, generator=generator())
    colocated.sync(policy)
    generations = colocated.generate(prompts, samples=2, max_tokens=20, generator=generator())
    assert len(generations) == 4
    assert gap(policy, prompts, generations) < 1e-3


# --- a server ------------------------------------------------------------------------------------


def test_a_server_of_another_model_or_name_is_refused_before_any_weight_is_sent(servers, policy):
    with pytest.raises(ValueError, match="whose hidden_size is 128; the policy's is 16"):
        VLLMServerEngine(servers["right"], small_policy())
    with pytest.raises(ValueError, match="serves right; expected wrong"):
        VLLMServerEngine(servers["right"], policy, model="wrong")


def test_a_folder_that_is_not_there_is_refused_before_any_weight_is_sent(servers, policy, tmp_path):
    engine = VLLMServerEngine(servers["right"], policy, folder=tmp_path / "absent")
    with pytest.raises(FileNotFoundError):
        engine.sync(policy)
    assert engine.generate([[1, 2, 3]], max_tokens=2)


@pytest.mark.parametrize(
    ("weights", "way"), [("whole", "folder"), ("sharded", "folder"), ("sharded", "nccl")]
)
def test_processes_of_a_run_share_a_server_and_the_first_one_sends(servers, tmp_path, weights, way):
    script = """
import sys, torch
from agent.engines import nccl_stand_in
from vpd_agent.engines import weight_transfer
from vpd_agent.engines.vllm_server import VLLMServerEngine
from vpd_agent.distributed.world import Processes
from vpd_agent.distributed.fsdp import shard
from vpd_agent.tiny.model import tiny_policy
processes = Processes.join()
torch.set_num_threads(1)
policy = tiny_policy(7)
if sys.argv[3] == "sharded":
    shard([policy])
folder = sys.argv[2] if processes.is_first else "/not/for/you"
if sys.argv[4] == "nccl":
    nccl_stand_in.install()
    weight_transfer.check_possible = lambda way, policy: None
    folder = "/not/for/anyone"
engine = VLLMServerEngine(sys.argv[1], policy, folder=folder, weight_transfer=sys.argv[4])
engine.sync(policy)
generation = engine.generate([[1, 2, 3]], max_tokens=8, generator=torch.Generator().manual_seed(0))
with torch.no_grad(), policy.gathered():
    ids = torch.tensor([[1, 2, 3] + generation[0].ids])
    logits = policy.model(input_ids=ids).logits[0, 2:-1]
logp = logits.log_softmax(-1).gather(1, torch.tensor(generation[0].ids)[:, None])[:, 0]
torch.testing.assert_close(logp, torch.tensor(generation[0].logprobs), rtol=0, atol=1e-3)
processes.leave()
"""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    meeting = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    tests = Path(__file__).parents[2]
    meeting["PYTHONPATH"] = os.pathsep.join([str(tests), os.environ.get("PYTHONPATH", "")])
    command = [sys.executable, "-c", script, servers["right"], str(tmp_path), weights, way]
    children = [
        subprocess.Popen(
            command,
            env=os.environ | meeting | {"RANK": rank},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        for rank in "01"
    ]
    try:
        for child in children:
            said = child.communicate(timeout=120)[0].decode()
            assert child.returncode == 0, said
    finally:
        for child in children:
            child.kill()
            child.wait()
    assert not list(tmp_path.iterdir())  # the weights do not stay behind


def test_a_server_with_raw_log_probabilities_serves_temperature_1_only(servers, policy):
    engine = VLLMServerEngine(servers["raw"], policy)
    prompts = prompts_of(policy, "a")
    generations = engine.generate(prompts, samples=4, max_tokens=20, generator=generator())
    assert gap(policy, prompts, generations) < 1e-3  # no sync: the weights it was started with
    with pytest.raises(ValueError, match=r"raw_logprobs.*--logprobs-mode processed_logprobs"):
        engine.generate(prompts, max_tokens=20, temperature=0.7)


@pytest.fixture
def stand_in(monkeypatch):
    """NCCL's stand-in, and a trainer that takes a CPU for a GPU."""
    from vllm.distributed.utils import StatelessProcessGroup
    from vllm.distributed.weight_transfer import nccl_engine

    for name in ("open_trainer_endpoint", "worker_init_process_group"):
        monkeypatch.setattr(nccl_engine, name, None)
    for name in ("packed_nccl_broadcast_producer", "packed_nccl_broadcast_consumer"):
        monkeypatch.setattr(nccl_engine, name, None)
    monkeypatch.setattr(StatelessProcessGroup, "destroy", None, raising=False)
    monkeypatch.setattr(torch.accelerator, "synchronize", None)
    nccl_stand_in.install()
    monkeypatch.setattr(weight_transfer, "check_possible", lambda way, policy: None)


@pytest.mark.usefixtures("stand_in")
def test_two_servers_get_the_weights_from_memory_and_so_does_one_that_is_left(servers, tmp_path):
    urls = [servers["right"], servers["raw"]]
    policy = policy_of(11)
    absent = tmp_path / "no folder is used"
    engine = VLLMServerEngine(urls, policy, folder=absent, weight_transfer="nccl")
    prompts = prompts_of(policy, "a", "b", "c", "d")

    def check(present):
        engine.sync(policy)
        generations = engine.generate(prompts, samples=2, max_tokens=20, generator=generator())
        assert gap(policy, prompts, generations) < 1e-3
        assert [client.url for client in engine.servers.present] == present

    check(urls)
    policy.copy_from(policy_of(12))
    check(urls)  # in the same group
    engine.servers.lose(engine.servers.present[0], ConnectionError("A test took it out."))
    policy.copy_from(policy_of(13))
    check(urls[1:])  # in a new group


def test_two_processes_with_a_sharded_model_train_while_servers_sample(servers, tmp_path):
    command = [
        *(sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2"),
        *("-m", "vpd_agent.cli", "train", "sdpo", "--env=vpd/MiniCode-v0", "--sandbox=local"),
        *(f"--model={servers['model']}", f"--engine={servers['right']},{servers['raw']}"),
        *("--preset=tiny", "--sharding=fsdp", "--overlap", "--max-staleness=2", "--steps=4"),
        *("--prompts-per-step=4", "--group-size=2", "--max-response-tokens=8", "--eval-every=2"),
        *("--eval-problems=4", "--device=cpu", "--quiet", f"--out={tmp_path}/run"),
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=200, check=False)
    assert done.returncode == 0, done.stderr
    lines = (tmp_path / "run/metrics.jsonl").read_text().splitlines()
    rows = [json.loads(line) for line in lines][1:]
    assert [(row["step"], row["rollouts"], row["dropped"]) for row in rows] == [
        (step, 8, 0) for step in (1, 2, 3, 4)
    ]
    assert all(row["staleness"] <= 2 for row in rows)


def test_of_two_servers_one_is_killed_in_a_run_and_nothing_is_lost(servers):
    policy = policy_of(4)
    engine = VLLMServerEngine([servers["right"], servers["raw"]], policy)
    config = replace(CONFIG, prompts_per_step=8)
    rows = []
    present = []

    def after_step(row):
        rows.append(row)
        present.append([client.url for client in engine.servers.present])
        if row["step"] == 1:
            os.killpg(servers["raw process"].pid, signal.SIGKILL)  # its own session

    environment = Even.vector(config.rollouts_per_step)
    engine.sync(policy)
    with pytest.warns(UserWarning, match=r"is lost, 1 of 2 go on"):
        Trainer(policy, GRPO(), environment, config, engine=engine, on_step=after_step).train()
    assert [(row["step"], row["rollouts"], row["dropped"]) for row in rows] == [
        (step, config.rollouts_per_step, 0) for step in (1, 2, 3)
    ]
    assert present == [[servers["right"], servers["raw"]]] + [[servers["right"]]] * 2
    prompts = prompts_of(policy, "train-a?")
    generations = engine.generate(prompts, samples=4, max_tokens=20, generator=generator())
    assert gap(policy, prompts, generations) < 1e-3


def test_a_server_that_went_away_is_an_error_of_the_connection(servers, policy, monkeypatch):
    monkeypatch.setattr(vllm_client, "OTHER_TRIES", 1)
    engine = VLLMServerEngine(servers["right"], policy)
    end(servers["right process"])
    with pytest.raises(ConnectionError, match=r"Expected a vLLM server at .*\(2 tries\)"):
        engine.generate([[1], [2], [3]], max_tokens=2)
    with pytest.raises(ConnectionError, match="Expected a vLLM server"):
        engine.sync(policy)
