"""What `vpd envs ID` tells of an environment's options, and what is said to one that it lacks."""

import inspect
import json
from pathlib import Path

import gymnasium as gym
import pytest

from vpd_agent.cli.main import main
from vpd_envs import Problem, TextEnv
from vpd_envs.answers.options import REQUIRED, about, check_options, options_of
from vpd_envs.catalog import CATALOG, make

EXAMPLES = Path(__file__).parents[3] / "examples"


class Base(TextEnv):
    """A base.

    depth: how deep it goes,
        in steps.
    """

    def __init__(self, depth: int = 3, **kwargs):
        super().__init__([Problem("a", "Say a.", "a")], **kwargs)


class Derived(Base):
    """Something to try.

    width, height: of the field.
    max_problems: see `vpd_envs.data.files`. Here there is one.
    """

    def __init__(self, width, height: float = 2.5, max_problems: int | None = None, **kwargs):
        super().__init__(**kwargs)


def derived(**options):
    return Derived(**options)


gym.register("Options-v0", entry_point=Derived, vector_entry_point=Derived.vector)
gym.register("Preset-v0", entry_point=Derived, kwargs={"height": 9.0})
gym.register("Function-v0", entry_point=derived)


def test_every_option_of_the_suite_has_a_meaning():
    for entry in CATALOG:
        options = options_of(entry.id)
        assert "max_turns" in [option.name for option in options]
        assert [o.name for o in options if not o.meaning] == [], entry.id


def test_options_come_with_their_types_defaults_and_inherited_meanings():
    options = {option.name: option for option in options_of("Options-v0")}
    assert list(options)[:4] == ["width", "height", "max_problems", "depth"]
    assert str(options["width"]) == "width"
    assert options["width"].default is REQUIRED
    assert str(options["height"]) == "height: float = 2.5"
    assert options["width"].meaning == options["height"].meaning == "of the field."
    assert options["depth"].meaning == "how deep it goes, in steps."
    assert options["max_problems"].meaning == (
        "the first so many of what is left. Here there is one."
    )
    assert options["max_turns"].default == 1
    assert "problems" not in options
    assert {o.name: o.default for o in options_of("Preset-v0")}["height"] == 9.0
    assert about("Options-v0") == "Something to try."


def test_an_unknown_option_is_answered_with_the_closest_and_all_that_there_are():
    with pytest.raises(ValueError, match=r"no option 'max_turn'. Did you mean 'max_turns'\?") as e:
        make("vpd/MiniChoice-v0", max_turn=2)
    assert all(option.name in str(e.value) for option in options_of("vpd/MiniChoice-v0"))
    with pytest.raises(ValueError, match="vpd envs Options-v0 explains them"):
        make("Options-v0", 2, width=1, color="red")
    check_options("Function-v0", ["anything"])  # it hands on whatever it is given


def test_what_gymnasium_itself_takes_is_no_option_of_an_environment():
    taken = inspect.signature(gym.make).parameters
    assert {"max_episode_steps", "disable_env_checker"} <= set(taken)
    env = make("Options-v0", width=1, max_episode_steps=5, disable_env_checker=True)
    assert env.spec.max_episode_steps == 5


def test_the_command_explains_an_environment_of_the_suite_or_of_ones_own(capsys, monkeypatch):
    assert main(["envs", "vpd/Math-v0"]) == 0
    shown = capsys.readouterr().out
    assert "dataset: str = 'math500'\n" in shown
    assert "    whether the feedback on a wrong answer tells the right one.\n" in shown
    monkeypatch.chdir(EXAMPLES)
    assert main(["envs", "new_environment:SortWords-v0"]) == 0
    assert "split = 'train'" in capsys.readouterr().out
    assert main(["envs", "vpd/MiniCode-v0", "--json"]) == 0
    rows = {row["name"]: row for row in json.loads(capsys.readouterr().out)}
    assert rows["split"]["default"] == "train"
    assert main(["envs", "vpd/MiniCod-v0"]) == 2
    assert "Did you mean 'vpd/MiniCode-v0'" in capsys.readouterr().err
