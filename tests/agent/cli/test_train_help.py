"""vpd train ALGORITHM --help: what most people set, the rest by topic."""

from __future__ import annotations

import re
from collections import Counter

import pytest

from vpd_agent.algorithms import ALGORITHMS
from vpd_agent.cli.flags import flag_types
from vpd_agent.cli.main import main
from vpd_agent.cli.train_flags import flag_groups
from vpd_agent.cli.train_help import ALL, ESSENTIALS, LOSSES, MEANINGS, TOPICS
from vpd_agent.train.presets import PRESETS

CHOICE = ("--env", "vpd/MiniChoice-v0", "--model", "tiny")


@pytest.fixture
def run(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "100")  # on a wider one, groups stand side by side

    def command(*arguments: str) -> tuple[int, str]:
        """The exit code and what is said."""
        try:
            code = main(list(arguments))
        except SystemExit as stop:
            code = stop.code or 0
        told = capsys.readouterr()
        return code, told.out + told.err

    return command


def flags_in(text: str) -> list[str]:
    """Those that a help explains, each at the beginning of a line."""
    found = re.findall(r"^[│ ] (?:-h, )?--([\w.-]+)", text, re.MULTILINE)
    return [name.replace("-", "_") for name in found if name != "help"]


def groups_of(algorithm: str):
    return flag_groups(ALGORITHMS[algorithm], PRESETS["laptop"])


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_every_flag_belongs_to_one_topic(algorithm):
    groups = groups_of(algorithm)
    own = flag_types({"": groups["algorithm"]})
    counted = Counter([name for names in TOPICS.values() for name in names] + list(own))
    assert counted == Counter(dict.fromkeys(flag_types(groups), 1))


def test_every_topic_has_a_meaning_and_flags():
    assert list(MEANINGS) == [*TOPICS, ALL]
    assert [topic for topic, names in TOPICS.items() if not names] == [LOSSES]


def test_help_shows_what_most_people_set_and_names_the_topics(run):
    code, text = run("train", "vpd", "--help")
    assert code == 0
    assert flags_in(text) == list(ESSENTIALS)
    assert len(ESSENTIALS) <= 20
    for topic in MEANINGS:
        assert f"vpd train vpd --help {topic} " in text


@pytest.mark.parametrize("topic", [topic for topic in TOPICS if topic != LOSSES])
def test_help_of_a_topic_shows_its_flags(topic, run):
    code, text = run("train", "vpd", "--help", topic)
    assert code == 0
    assert flags_in(text) == list(TOPICS[topic])


def test_the_losses_are_the_algorithm_s_own_flags(run):
    own = list(flag_types({"": groups_of("grpo")["algorithm"]}))
    assert flags_in(run("train", "grpo", *CHOICE, "-h", "losses")[1]) == own


def test_the_full_help_has_all_flags(run):
    code, text = run("train", "vpd", "--help-all")
    assert code == 0
    assert sorted(flags_in(text)) == sorted(flag_types(groups_of("vpd")))
    assert run("train", "vpd", "--help", "all") == (0, text)


def test_defaults_are_those_of_what_is_trained_where(run, tmp_path):
    (tmp_path / "c.yaml").write_text("steps: 77\n")
    config = str(tmp_path / "c.yaml")
    text = run("train", "vpd", *CHOICE, "--config", config, "--resume", "--help")[1]
    laptop = PRESETS["laptop"].config("vpd")
    words = " ".join(text.replace("│", " ").split())
    shown = dict(re.findall(r"--([\w-]+) [A-Z]+ (?:(?! --).)*?\(default: (.*?)\)", words))
    assert int(shown["group-size"]) == laptop.group_size
    assert float(shown["learning-rate"]) == laptop.learning_rate
    assert shown["steps"] == "77"
    assert shown["out"] == "runs/vpd-MiniChoice-v0-tiny"


def test_help_says_which_folder_and_whose_defaults_where_nothing_is_named(run):
    """Only the environment and the model have no default: --out is named by them."""
    words = " ".join(run("train", "vpd", "--help")[1].replace("│", " ").split())
    flags = re.split(r" (?=--[\w-]+ )", words)
    required = [flag.split()[0] for flag in flags if "(required)" in flag]
    assert required == ["--env", "--model"]
    assert "The defaults are those of the preset science." in words
    assert "(default: runs/vpd-ENVIRONMENT-MODEL)" in words
    words = " ".join(run("train", "vpd", *CHOICE, "--help")[1].split())
    assert "The defaults are those of the preset laptop." in words


def test_an_unknown_topic_is_explained(run):
    code, text = run("train", "vpd", "--help", "optimiser")
    assert code == 2
    assert "Unknown topic of --help 'optimiser'. Did you mean 'optimizer'?" in text
