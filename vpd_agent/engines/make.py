"""From an engine's name to the engine."""

from __future__ import annotations

import difflib
from importlib.util import find_spec

from sandbox.installation import install_hint
from vpd_agent.engines import Engine
from vpd_agent.model.policy import Policy

NAMES = ("hf", "vllm")


def check_engine(name: str) -> None:
    """Raise ValueError for a name that `make_engine` does not know, or without what it needs."""
    if name not in NAMES and not _is_address(name):
        close = difflib.get_close_matches(name, NAMES, n=1, cutoff=0.4)
        hint = f" Did you mean {close[0]!r}?" if close else ""
        raise ValueError(
            f"Unknown engine {name!r}; there is hf, vllm, or the address of a vLLM server, such as "
            f"http://127.0.0.1:8000.{hint}"
        )
    if name == "vllm" and find_spec("vllm") is None:
        raise ValueError(f"--engine vllm needs the package vllm: {install_hint('vllm')}")


def make_engine(name: str, policy: Policy, *, max_tokens: int, apart: bool = False) -> Engine:
    """The engine that samples for a policy; it is to be closed.

    name: hf, vllm, or the http address of a vLLM server.
    max_tokens: of a prompt and its response together, at most; less if the model takes less.
    apart: the engine samples while the policy's weights change, so it has weights of its own.
    """
    check_engine(name)
    if name == "hf":
        from vpd_agent.engines.hf import HFEngine

        return HFEngine(policy.frozen_copy() if apart else policy)
    if name == "vllm":
        from vpd_agent.engines.vllm import VLLMEngine

        return VLLMEngine(policy, max_model_len=min(max_tokens, policy.context_length))
    from vpd_agent.engines.vllm_server import VLLMServerEngine

    return VLLMServerEngine(name, policy)


def _is_address(name: str) -> bool:
    return name.startswith(("http://", "https://"))
