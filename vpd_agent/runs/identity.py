"""Is it the same model, are they the same problems? Hashes that a run or an evaluation keeps."""

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

NOT_THE_MODEL = ("_name_or_path", "transformers_version", "architectures")  # of its configuration


def model_hashes(policy: Policy) -> dict[str, str]:
    """Of everything that decides what a model answers: weights, configuration, tokenizer."""
    config = policy.model.config.to_dict()
    kept = {k: v for k, v in config.items() if k not in NOT_THE_MODEL}
    text = json.dumps(kept, sort_keys=True, default=str)
    return {
        "weights": weights_hash(policy),
        "model_config": hashlib.sha256(text.encode()).hexdigest()[:16],
        "tokenizer": tokenizer_hash(policy.tokenizer)[:16],
    }


def weights_hash(policy: Policy) -> str:
    """Of every bit of every weight, about a second per gigabyte."""
    digest = hashlib.sha256()
    for name, weight in sorted(policy.model.state_dict().items()):
        digest.update(f"{name} {tuple(weight.shape)} {weight.dtype}".encode())
        digest.update(weight.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()[:16]


def tokenizer_hash(tokenizer: PreTrainedTokenizerBase) -> str:
    """Of everything that decides which tokens a conversation becomes, as far as it can be seen."""
    seen = [sorted(tokenizer.get_vocab().items()), tokenizer.chat_template]
    return hashlib.sha256(json.dumps(seen).encode()).hexdigest()


def fingerprint(environment: gym.vector.VectorEnv | None) -> str | None:
    """Of an environment's problems; None where it has none."""
    return None if environment is None else getattr(environment.unwrapped, "fingerprint", None)


def problem_fingerprints(
    environment: gym.vector.VectorEnv, evaluation: gym.vector.VectorEnv | None
) -> dict[str, str | None]:
    """Of the problems that a run trains on and is evaluated on."""
    return {"train": fingerprint(environment), "eval": fingerprint(evaluation)}


def judge_hash(environment: gym.vector.VectorEnv) -> str:
    """Of the code that judges in an environment."""
    inner: Any = environment.unwrapped
    return judge_code(getattr(inner, "env", inner))
