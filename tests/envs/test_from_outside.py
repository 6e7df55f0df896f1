"""Environments and sources of feedback from files of one's own, in a folder outside the package."""

import json
import shutil
import sys
from pathlib import Path

import gymnasium as gym
import pytest

from vpd_agent.cli.main import main
from vpd_agent.rollout.environment import EnvironmentSpec
from vpd_envs.adapters import text_env
from vpd_envs.catalog import known_name, make
from vpd_envs.feedback import FeedbackBudget, NoisyFeedback, named_sources

EXAMPLES = Path(__file__).parents[2] / "examples"
PROBLEM = "pear fig kiwi"
OTHERS = """
from vpd_envs import FeedbackSource, NoisyFeedback, TextEnv

class Noise(NoisyFeedback):
    pass

class Needs(FeedbackSource):
    def __init__(self, word):
        self.word = word

class Silent(FeedbackSource):
    def feedback(self, attempts):
        return [""] * len(attempts)

def function(env):
    return env
"""


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    """The current folder: `my_words.py` and `my_rate.py` are the examples, `others.py` more."""
    (tmp_path / "deep").mkdir()
    shutil.copy(EXAMPLES / "new_environment.py", tmp_path / "my_words.py")
    shutil.copy(EXAMPLES / "new_source.py", tmp_path / "deep" / "my_rate.py")
    (tmp_path / "others.py").write_text(OTHERS)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    registry = dict(gym.registry)
    gym.registry.pop("SortWords-v0", None)  # other tests may have imported the example
    yield tmp_path
    gym.registry.clear()
    gym.registry.update(registry)
    for name in ("my_words", "my_rate", "others"):
        sys.modules.pop(name, None)


def run(*arguments):
    return main([str(argument) for argument in arguments])


@pytest.mark.parametrize("form", ["my_words:SortWords", "my_words.py:SortWords"])
def test_a_class_is_an_environment_of_every_command(form, folder, capsys):
    assert run("envs", form) == 0
    listed = capsys.readouterr().out
    assert "Words to be put in alphabetical order." in listed
    assert "length = 3\n    words of a problem, at most 4." in listed
    assert "max_turns: int = 1" in listed
    (folder / "answer").write_text("fig pear kiwi")
    assert run("show", "--env", form, "--problem", PROBLEM, "--answer", "answer") == 0
    assert "The first word out of order is pear." in capsys.readouterr().out
    two = [{"problem_id": "pear fig", "answer": answer} for answer in ("fig pear", "pear fig")]
    (folder / "answers.jsonl").write_text("".join(json.dumps(row) + "\n" for row in two))
    assert run("judge", "--env", form, "--set", "length=2", "--answers", "answers.jsonl") == 0
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [row["reward"] for row in rows] == [1.0, 0.0]


def test_a_class_is_registered_once_and_a_name_that_its_module_registers_is_taken():
    name = known_name("my_words:SortWords")
    assert name == known_name("my_words.py:SortWords") == known_name(name)
    assert gym.spec(name).entry_point is sys.modules["my_words"].SortWords
    assert known_name("my_words.py:SortWords-v0") == "SortWords-v0"
    envs = make("my_words:SortWords", 2, length=2)
    assert envs.num_envs == 2
    assert text_env("my_words:SortWords", length=2).problem_ids == envs.unwrapped.problem_ids


@pytest.mark.parametrize(
    ("env", "message"),
    [
        ("my_words:SortWord", r"Unknown environment in my_words: 'SortWord'\. Did you mean 'SortW"),
        ("my_words:SortWords-v1", r"Unknown environment 'my_words:SortWords-v1'.*module:Class"),
        ("vpd/MiniKode-v0", r"Did you mean 'vpd/MiniCode-v0'.*vpd/Math-v0.*or module:Class or pa"),
        ("others:function", r"'others:function' must be a subclass of vpd_envs\.TextEnv"),
        ("others:Noise", r"'others:Noise' must be a subclass of vpd_envs\.TextEnv"),
        ("nowhere:Words", "There is no module 'nowhere' to import the environment from"),
        ("no/where.py:Words", r"There is no file no/where\.py to import the environment from"),
    ],
)
def test_what_is_no_environment_is_explained(env, message):
    with pytest.raises(ValueError, match=message):
        make(env)


def test_an_option_that_the_class_does_not_take_is_explained_by_the_name_that_was_typed():
    with pytest.raises(ValueError, match=r"lenght.*'length'.*vpd envs my_words:SortWords "):
        make("my_words:SortWords", lenght=2)


def test_sources_from_outside_stack_with_ours_in_any_place():
    text = "status+deep/my_rate.py:PassRate:called=tries+budget:characters=500"
    envs = EnvironmentSpec("my_words:SortWords", text).make(3)
    envs.reset(options={"problem_ids": [PROBLEM, PROBLEM, "lime kiwi fig"]})
    assert envs.step(["fig kiwi pear", "fig pear kiwi", "?"])[0] == (
        "Correct (1 of 2 tries are correct.)",
        "Wrong answer (1 of 2 tries are correct.)",
        "An answer that cannot be read (0 of 1 tries are correct.)",
    )


def test_a_source_from_outside_takes_options_as_ours_do():
    noise, needs, silent, budget = named_sources(
        "others:Noise:drop=0.5, seed=3+others.py:Needs:word=a:b+others:Silent+budget"
    )
    assert isinstance(noise, NoisyFeedback)
    assert (noise.drop, noise.seed) == (0.5, 3)
    assert needs.word == "a:b"
    assert type(silent) is sys.modules["others"].Silent
    assert type(budget) is FeedbackBudget


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "gossip",
            r"Unknown feedback source 'gossip'.* environment, sib.*or module:Class or ",
        ),
        ("gossip:drop=1", r"Unknown feedback source 'gossip'.* or module:Class or "),
        ("others:Polite", r"Unknown feedback source in others: 'Polite'.*Noise, Needs, Silent"),
        ("others:function", r"'others:function' must be a subclass of vpd_envs\.FeedbackSource"),
        ("my_words:SortWords", r"'my_words:SortWords' must be a subclass of vpd_envs\.Feedback"),
        ("others:Noise:dorp=1", r"option of the feedback source 'others:Noise': 'dorp'.*'drop'"),
        ("others:Silent:times=2", r"'others:Silent': 'times'\. There are none"),
        ("others:Noise:drop", r"is written others:Noise:option=value, got 'drop'"),
        ("others:Needs", r"'others:Needs' needs word=\.\.\."),
        ("nowhere:Polite", "There is no module 'nowhere' to import the feedback source from"),
    ],
)
def test_what_is_no_source_is_explained(text, message):
    with pytest.raises(ValueError, match=message):
        named_sources(f"status+{text}")


@pytest.mark.slow
def test_training_takes_both_from_outside(folder):
    pytest.importorskip("torch")
    code = run(
        *("train", "sdpo", "--env", "my_words.py:SortWords", "--model", "tiny", "--out", "run"),
        *("--feedback", "status+deep/my_rate.py:PassRate:called=tries", "--set", "length=2"),
        *("--steps", 1, "--prompts-per-step", 1, "--group-size", 2, "--eval-every", 0),
        *("--max-response-tokens", 4, "--quiet"),
    )
    assert code == 0
    samples = [json.loads(line) for line in (folder / "run" / "samples.jsonl").open()]
    assert samples
    assert all("of 2 tries are correct.)" in sample["feedback"] for sample in samples)
