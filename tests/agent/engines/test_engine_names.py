"""From an engine's name to the engine."""

from __future__ import annotations

from importlib.util import find_spec

import pytest
import torch

from agent.helpers import small_policy
from vpd_agent.engines.hf import HFEngine
from vpd_agent.engines.make import check_engine, make_engine


def test_hf_samples_with_the_policys_own_weights_unless_it_is_to_be_apart():
    policy = small_policy()
    engine = make_engine("hf", policy, max_tokens=8)
    apart = make_engine("hf", policy, max_tokens=8, apart=True)
    assert isinstance(engine, HFEngine)
    assert engine.policy is policy
    before = [w.clone() for w in apart.policy.model.parameters()]
    with torch.no_grad():
        for weight in policy.model.parameters():
            weight.add_(1.0)
    now = list(apart.policy.model.parameters())
    assert all(map(torch.equal, before, now))
    apart.sync(policy)
    assert all(map(torch.equal, policy.model.parameters(), apart.policy.model.parameters()))


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("vlm", "Did you mean 'vllm'?"),
        ("HF", "there is hf, vllm, or the address of a vLLM server"),
        ("127.0.0.1:8000", "such as http://127.0.0.1:8000"),
        ("", "Unknown engine ''"),
    ],
)
def test_an_unknown_name_is_refused_with_what_there_is(name, said):
    with pytest.raises(ValueError, match="Unknown engine") as error:
        check_engine(name)
    assert said in str(error.value)
    with pytest.raises(ValueError, match="Unknown engine"):
        make_engine(name, None, max_tokens=8)


@pytest.mark.skipif(find_spec("vllm") is not None, reason="vllm is installed")
def test_without_vllm_its_engine_says_what_to_install():
    with pytest.raises(ValueError, match="pip install"):
        make_engine("vllm", small_policy(), max_tokens=8)
