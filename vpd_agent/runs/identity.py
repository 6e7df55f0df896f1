"""Hashes that a run or an evaluation stores: of the model, of the problems, of the judge's code."""

from __future__ import annotations

import hashlib
import json
from typing import TYPE_CHECKING, Any

import torch

from vpd_envs.data.provenance import judge_code

if TYPE_CHECKING:
    import gymnasium as gym
    from transformers import PreTrainedTokenizerBase

    from vpd_agent.model.policy import Policy

_IGNORED = ("_name_or_path", "transformers_version", "architectures")  # of the configuration


def model_hashes(policy: Policy) -> dict[str, str]:
    """Hashes of everything that decides what a model answers: weights, configuration, tokenizer."""
    config = policy.model.config.to_dict()
    kept = {k: v for k, v in config.items() if k not in _IGNORED}
    text = json.dumps(kept, sort_keys=True, default=str)
    return {
        "weights": weights_hash(policy),
        "model_config": hashlib.sha256(text.encode()).hexdigest()[:16],
        "tokenizer": tokenizer_hash(policy.tokenizer)[:16],
    }


def weights_hash(policy: Policy) -> str:
    """A hash of every bit of every weight. It takes about a second per gigabyte."""
    digest = hashlib.sha256()
    for name, weight in sorted(policy.model.state_dict().items()):
        digest.update(f"{name} {tuple(weight.shape)} {weight.dtype}".encode())
        digest.update(weight.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()[:16]


def tokenizer_hash(tokenizer: PreTrainedTokenizerBase) -> str:
    """A hash of the vocabulary and the chat template, which decide a conversation's tokens."""
    seen = [sorted(tokenizer.get_vocab().items()), tokenizer.chat_template]
    return hashlib.sha256(json.dumps(seen).encode()).hexdigest()


def fingerprint(environment: gym.vector.VectorEnv | None) -> str | None:
    """The hash of an environment's problems; None if it has no such hash."""
    return None if environment is None else getattr(environment.unwrapped, "fingerprint", None)


def problem_fingerprints(
    environment: gym.vector.VectorEnv, evaluation: gym.vector.VectorEnv | None
) -> dict[str, str | None]:
    """The hashes of the problems that a run trains on and is evaluated on."""
    return {"train": fingerprint(environment), "eval": fingerprint(evaluation)}


def judge_hash(environment: gym.vector.VectorEnv) -> str:
    """The hash of the code with which an environment judges."""
    inner: Any = environment.unwrapped
    return judge_code(getattr(inner, "env", inner))
