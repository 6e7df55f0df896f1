"""Weights from GPU to GPU, for machines that have them: `pytest -m gpu`."""

from __future__ import annotations

import os
import signal
from contextlib import contextmanager

import pytest
import torch

from agent.engines.vllm_processes import (
    await_health,
    gap,
    generator,
    policy_of,
    prompts_of,
    server,
)
from vpd_agent.engines.vllm_server import VLLMServerEngine

pytestmark = pytest.mark.gpu


@contextmanager
def gpu_server(folder, name: str, gpu: int, way: str):
    flags = ["--weight-transfer-config", f'{{"backend": "{way}"}}']
    flags += ["--logprobs-mode", "processed_logprobs", "--gpu-memory-utilization", "0.3"]
    variables = {"CUDA_VISIBLE_DEVICES": str(gpu), "VLLM_ALLOW_INSECURE_SERIALIZATION": "1"}
    with server(folder, name, flags, variables) as (url, process):
        await_health(url, process, folder / f"{name}.log")
        yield url, process


def need(gpus: int) -> None:
    if torch.cuda.device_count() < gpus:
        pytest.skip(f"needs {gpus} GPUs")


def served_policy(folder):
    policy_of(0).save(folder / "model")
    policy = policy_of(1)
    policy.model.to("cuda:0")
    return policy


@pytest.mark.parametrize(("way", "gpus"), [("ipc", [0]), ("nccl", [1]), ("nccl", [1, 2])])
def test_servers_sample_from_the_weights_that_were_sent(tmp_path, way, gpus):
    need(1 + max(gpus))
    policy = served_policy(tmp_path)
    with (
        gpu_server(tmp_path, "first", gpus[0], way) as (first, _),
        gpu_server(tmp_path, "last", gpus[-1], way) as (last, _),
    ):
        urls = [first] if len(gpus) == 1 else [first, last]
        engine = VLLMServerEngine(urls, policy, weight_transfer=way)
        prompts = prompts_of(policy, "a", "b", "c", "d")
        for seed in (1, 2):
            policy.copy_from(policy_of(seed))
            engine.sync(policy)
            made = engine.generate(prompts, samples=2, max_tokens=20, generator=generator())
            assert gap(policy, prompts, made) < 1e-2


def test_a_server_that_no_longer_answers_is_an_error_and_no_hang(tmp_path):
    need(2)
    policy = served_policy(tmp_path)
    with gpu_server(tmp_path, "only", 1, "nccl") as (url, process):
        engine = VLLMServerEngine(url, policy, weight_transfer="nccl", timeout_seconds=60)
        engine.sync(policy)
        os.killpg(process.pid, signal.SIGSTOP)  # its own session
        try:
            with pytest.raises(ConnectionError):
                engine.sync(policy)
        finally:
            os.killpg(process.pid, signal.SIGCONT)
