"""The example of a client runs against a server, as a program of its own."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from clients import PATIENCE, serving

from vpd_envs.math.mini_arithmetic import MiniArithmetic

EXAMPLE = Path(__file__).parents[3] / "examples" / "serve_client.py"


@pytest.fixture
def env():
    return MiniArithmetic()


def printed(url, *arguments):
    """Of the script without our packages on its path."""
    command = [sys.executable, "-P", str(EXAMPLE), "--url", url, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=PATIENCE)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def test_it_prints_the_verdicts_on_its_answers(env):
    first, *_ = ids = env.problem_ids[:3]
    answer = env.problem(first).target
    verdicts = [env.verdict(env.problem(id_), answer) for id_ in ids]
    lines = [
        f"{id_} {verdict.reward} {verdict.status} {verdict.feedback}"
        for id_, verdict in zip(ids, verdicts, strict=True)
    ]
    with serving(env) as running:
        told = printed(running.url, "--answer", answer)
    assert told == ["health: healthy", f"prompt: {env.problem(first).prompt}", *lines]
    assert verdicts[0].solved


def test_it_plays_an_episode_by_openenvs_client(env):
    if "VPD_REQUIRE_OPENENV" not in os.environ:
        pytest.importorskip("openenv.core", reason="needs openenv-core: run .ci/openenv")
    prompt, info = env.reset(seed=0)
    answer = env.problem(info["problem_id"]).target
    with serving(env) as running:
        told = printed(running.url, "--openenv", "--answer", answer)
    assert told[0] == f"messages: {info['messages']}"
    assert told[1].startswith("1.0 solved")
    assert prompt in told[0]
