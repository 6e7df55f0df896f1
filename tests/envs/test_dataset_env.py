"""What all environments have in common that read a data set."""

import dataclasses
import inspect

import pytest

from vpd_envs.code.humaneval import HumanEval
from vpd_envs.data.files import DataOptions
from vpd_envs.dataset_env import DatasetEnv
from vpd_envs.questions.tool_use import ToolUse


def test_the_constructor_takes_all_data_options_with_their_defaults():
    taken = inspect.signature(DatasetEnv).parameters.values()
    fields = dataclasses.fields(DataOptions)
    assert [(p.name, p.default) for p in taken if p.kind is not p.VAR_KEYWORD] == [
        (field.name, field.default) for field in fields
    ]


@pytest.mark.parametrize("kind", [HumanEval, ToolUse])
@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"max_turn": 2}, TypeError),
        ({"max_turns": 0}, ValueError),
        ({"split": "dev"}, ValueError),
        ({"render_mode": "human"}, ValueError),
    ],
)
def test_wrong_options_are_refused_before_anything_is_loaded(tmp_path, kind, options, error):
    with pytest.raises(error, match=next(iter(options))):
        kind(tmp_path / "nothing.jsonl", **options)
    with pytest.raises(FileNotFoundError):
        kind(tmp_path / "nothing.jsonl")


def test_options_of_the_judge_are_checked_before_anything_is_loaded(tmp_path):
    for options in ({"sandbox": "jail"}, {"feedback_tests": "some"}, {"memory_limit_mb": 0}):
        with pytest.raises(ValueError, match=next(iter(options))):
            HumanEval(tmp_path / "nothing.jsonl", **options)
