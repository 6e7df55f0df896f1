"""The policy as the critic of its own attempts, and sources of feedback named on a command line."""

from __future__ import annotations

import json

import torch

from agent.helpers import small_policy
from vpd_agent.cli.main import main
from vpd_agent.engines.hf import HFEngine
from vpd_agent.rollout.critic import PolicyCritic
from vpd_agent.rollout.environment import EnvironmentSpec, critics
from vpd_envs import Reflection, SelfCritique, SiblingFeedback
from vpd_envs.answers.sanitize import sanitize

KWARGS = {"sandbox": "local"}


def critic(policy, max_tokens):
    return PolicyCritic(policy, HFEngine(policy), max_tokens)


def test_critiques_depend_on_the_weights_and_the_prompts_alone():
    prompts = ["What is wrong?", "And here?"]
    policy = small_policy()
    first = critic(policy, 12)(prompts)
    torch.rand(7)  # whatever else is drawn
    assert critic(policy, 12)(prompts) == first
    assert critic(small_policy(seed=1), 12)(prompts) != first
    assert critic(policy, 12)(prompts[:1]) != first[:1]
    assert len(first) == 2
    assert all(0 < len(text) <= 12 for text in first)  # a token is a byte


def test_sources_are_found_wherever_they_stand():
    spec = EnvironmentSpec("vpd/MiniCode-v0", "status+self-critique+siblings+budget", KWARGS)
    environment = spec.make(2)
    (source,) = critics(environment)
    assert isinstance(source, SelfCritique)
    assert isinstance(environment.env.source, SiblingFeedback)
    assert critics(EnvironmentSpec("vpd/MiniCode-v0", kwargs=KWARGS).make(2)) == []
    reflecting = EnvironmentSpec("vpd/MiniCode-v0", "status+reflection", KWARGS).make(2)
    assert [type(source) for source in critics(reflecting)] == [Reflection]


def test_the_policy_s_critique_is_the_feedback_of_its_failed_attempts():
    policy = small_policy()
    environment = EnvironmentSpec("vpd/MiniCode-v0", "self-critique", KWARGS).make(2)
    (source,) = critics(environment)
    source.critic = critic(policy, 8)
    environment.reset(seed=0)
    infos = environment.step(["y", "z"])[-1]
    asked = []
    source.critic = lambda prompts: asked.extend(prompts) or ["!"] * len(prompts)
    environment.reset(seed=0)
    environment.step(["y", "z"])
    expected = [sanitize(text).strip() for text in critic(policy, 8)(asked)]
    assert [text.strip() for text in infos["feedback"]] == expected


def test_training_with_self_critique_puts_critiques_into_teacher_prompts(tmp_path):
    small_policy().save(tmp_path / "model")
    options = ["--env", "vpd/MiniCode-v0", "--sandbox", "local", "--feedback", "self-critique"]
    options += ["--model", tmp_path / "model", "--steps", 1, "--quiet", "--eval-every", 0]
    options += ["--prompts-per-step", 2, "--group-size", 2, "--max-response-tokens", 6]
    options += ["--max-teacher-prompt-tokens", 4096, "--out", tmp_path / "run"]
    assert main(["train", "vpd", *map(str, options)]) == 0
    lines = (tmp_path / "run" / "samples.jsonl").read_text().splitlines()
    samples = [json.loads(line) for line in lines]
    critiques = [sample["feedback"] for sample in samples]
    assert any(text and not text.startswith("!") for text in critiques)
    assert all(s["feedback"] in s["teacher_prompt"] for s in samples if s["feedback"])
