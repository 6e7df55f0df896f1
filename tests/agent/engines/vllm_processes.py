"""vLLM servers on loopback that tests start and end, and a policy to compare them with."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Mapping
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch

from vpd_agent.model.policy import Policy
from vpd_agent.tiny.model import tiny_policy

CONTEXT = 512
KV_BYTES = 64 << 20


def policy_of(seed: int, more_ends: range = range(0)) -> Policy:
    """A tiny policy whose responses often end, and whose generation_config asks for all that an
    engine must not do."""
    policy = tiny_policy(seed)
    config = policy.model.generation_config
    config.eos_token_id = [policy.tokenizer.eos_token_id, *range(40), *more_ends]
    config.update(do_sample=True, top_k=1, top_p=0.1, temperature=0.2, repetition_penalty=1.5)
    return policy


@contextmanager
def server(folder: Path, name: str, flags: list[str], variables: Mapping[str, str] = {}):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "vllm.entrypoints.openai.api_server", *flags]
    command += ["--model", str(folder / "model"), "--served-model-name", name]
    command += ["--host", "127.0.0.1", "--port", str(port), "--max-model-len", str(CONTEXT)]
    command += ["--dtype", "float32", "--enforce-eager", "--kv-cache-memory-bytes", str(KV_BYTES)]
    environment = os.environ | {"VLLM_SERVER_DEV_MODE": "1"} | variables
    with open(folder / f"{name}.log", "wb") as log:
        process = subprocess.Popen(
            command, env=environment, stdout=log, stderr=log, start_new_session=True
        )
    try:
        yield f"http://127.0.0.1:{port}", process
    finally:
        end(process)


def end(process: subprocess.Popen) -> None:
    process.terminate()
    try:
        process.wait(30)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)  # its own session: only what it started
        process.wait(30)


def await_health(url: str, process: subprocess.Popen, log: Path) -> None:
    deadline = time.monotonic() + 240
    while time.monotonic() < deadline and process.poll() is None:
        try:
            urllib.request.urlopen(f"{url}/health", timeout=5).close()
            return
        except OSError:
            time.sleep(0.3)
    pytest.fail(f"The server did not start:\n{log.read_text()[-4000:]}")


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def prompts_of(policy, *texts):
    return [policy.encode([{"role": "user", "content": text}]) for text in texts]


def gap(policy, prompts, generations, temperature=1.0) -> float:
    """The largest difference to the log-probabilities of transformers, one response at a time."""
    samples = len(generations) // len(prompts)
    rows = zip([p for p in prompts for _ in range(samples)], generations, strict=True)
    largest = 0.0
    for prompt, generation in rows:
        with torch.no_grad(), policy.active():
            logits = policy.model(input_ids=torch.tensor([prompt + generation.ids])).logits[0]
        logp = (logits[len(prompt) - 1 : -1] / temperature).log_softmax(-1)  # [T, V]
        expected = logp.gather(1, torch.tensor(generation.ids)[:, None])[:, 0]
        difference = expected - torch.tensor(generation.logprobs)
        largest = max(largest, difference.abs().max().item())
    return largest
