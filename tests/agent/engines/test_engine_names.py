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
        ("HF", "There are hf, vllm; or the address of a vLLM server"),
        ("127.0.0.1:8000", "such as http://127.0.0.1:8000"),
        ("", "Unknown engine ''"),
        ("vllm2", "or module:Class or path/to/file.py:Class, your own"),
    ],
)
def test_an_unknown_name_is_refused_with_what_there_is(name, said):
    with pytest.raises(ValueError, match="Unknown engine") as error:
        check_engine(name)
    assert said in str(error.value)
    with pytest.raises(ValueError, match="Unknown engine"):
        make_engine(name, None, max_tokens=8)


def test_an_engine_of_ones_own_is_made_from_a_file(tmp_path):
    file = tmp_path / "own_engine.py"
    file.write_text(
        "class Own:\n"
        "    def __init__(self, policy, max_tokens):\n"
        "        self.made_with = policy, max_tokens\n"
    )
    policy = small_policy()
    assert make_engine(f"{file}:Own", policy, max_tokens=8).made_with == (policy, 8)
    apart, _ = make_engine(f"{file}:Own", policy, max_tokens=8, apart=True).made_with
    assert not apart.parameters()  # a frozen copy
    with pytest.raises(ValueError, match="There are Own"):
        check_engine(f"{file}:Won")


@pytest.mark.skipif(find_spec("vllm") is not None, reason="vllm is installed")
def test_without_vllm_its_engine_says_what_to_install():
    with pytest.raises(ValueError, match="pip install"):
        make_engine("vllm", small_policy(), max_tokens=8)
