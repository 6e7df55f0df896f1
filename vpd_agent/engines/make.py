"""From an engine's name to the engine."""

from __future__ import annotations

from importlib.util import find_spec
from typing import get_args

from sandbox.installation import install_hint
from sandbox.plugins import FORM, is_import, load, unknown
from vpd_agent.engines import Engine
from vpd_agent.engines.weight_transfer import Way
from vpd_agent.model.policy import Policy

NAMES = ("hf", "vllm")
WEIGHT_TRANSFERS: tuple[Way, ...] = get_args(Way)


def check_engine(name: str, weight_transfer: str = "folder") -> None:
    """Raise ValueError for a name that `make_engine` does not know, or without what it needs, and
    for a weight transfer that is not for this engine."""
    if weight_transfer not in WEIGHT_TRANSFERS:
        known = ", ".join(WEIGHT_TRANSFERS)
        raise ValueError(f"weight_transfer must be one of {known}, got {weight_transfer!r}.")
    if weight_transfer != "folder" and not addresses(name):
        raise ValueError(
            f"--weight-transfer {weight_transfer} sends weights to vLLM servers. Pass their "
            f"addresses as --engine, or leave it out: other engines have the weights in memory."
        )
    if name == "vllm" and find_spec("vllm") is None:
        raise ValueError(f"--engine vllm needs the package vllm: {install_hint('vllm')}")
    if name in NAMES or addresses(name):
        return
    if not is_import(name):
        address = "the address of a vLLM server, such as http://127.0.0.1:8000"
        also = f"{address} (several: with commas), or {FORM}, your own"
        raise ValueError(unknown("engine", name, NAMES, also=also))
    load("engine", name)


def make_engine(
    name: str,
    policy: Policy,
    *,
    max_tokens: int,
    apart: bool = False,
    places: int | None = None,
    weights_folder: str | None = None,
    weight_transfer: Way = "folder",
) -> Engine:
    """The engine that samples for a policy; it is to be closed.

    name: hf, vllm, the http addresses of vLLM servers, separated by commas, or `module:Class` (see
        `Engine`).
    max_tokens: of a prompt and its response together, at most; less if the model takes less.
    apart: the engine samples while the policy's weights change, so it has weights of its own.
    places: what `HFEngine` decodes at once; the others see to that themselves.
    weights_folder, weight_transfer: how weights reach servers; see `VLLMServerEngine`.
    """
    check_engine(name)
    max_tokens = min(max_tokens, policy.context_length)
    if name == "vllm":
        from vpd_agent.engines.vllm import VLLMEngine

        return VLLMEngine(policy, max_model_len=max_tokens)
    if urls := addresses(name):
        from vpd_agent.engines.vllm_server import VLLMServerEngine

        return VLLMServerEngine(
            urls, policy, folder=weights_folder, weight_transfer=weight_transfer
        )
    sampled = policy.frozen_copy() if apart else policy
    if name == "hf":
        from vpd_agent.engines.hf import HFEngine

        return HFEngine(sampled, places=places)
    return load("engine", name)(sampled, max_tokens=max_tokens)


def addresses(name: str) -> list[str]:
    """The addresses of servers that an engine's name is; none if it is another name."""
    urls = [url.strip() for url in name.split(",")]
    return urls if all(url.startswith(("http://", "https://")) for url in urls) else []
