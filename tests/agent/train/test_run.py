"""`make_run` and the command `vpd train`: one and the same run."""

from __future__ import annotations

import json
import shutil
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from agent.helpers import small_policy
from vpd_agent import SDPO, EnvironmentSpec, Policy, RunFinished, TrainConfig, make_run
from vpd_agent.cli.main import main
from vpd_agent.rollout.critic import PolicyCritic
from vpd_agent.rollout.environment import critics
from vpd_agent.train.presets import PRESETS

CONFIG = {
    "steps": 2,
    "prompts_per_step": 2,
    "group_size": 2,
    "max_response_tokens": 6,
    "max_teacher_prompt_tokens": 256,
    "eval_every": 1,
    "eval_problems": 3,
    "save_every": 1,
}
OPTIONS = {"env": "vpd/MiniArithmetic-v0", "quiet": True}


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> str:
    folder = tmp_path_factory.mktemp("models") / "small"
    small_policy().save(folder)
    return str(folder)


def rows(out) -> list[dict]:
    """The metrics of a run, without what the clock says."""
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    timed = ("seconds/", "idle/", "tokens_per_second")
    return [{k: v for k, v in row.items() if not k.startswith(timed)} for row in lines]


def weights(out) -> dict[str, torch.Tensor]:
    return Policy.load(str(out)).model.state_dict()


def assert_same_run(a, b):
    assert len(rows(a)) == 3  # of step 0 the evaluation
    assert rows(a) == rows(b)
    left, right = weights(a), weights(b)
    assert left.keys() == right.keys()
    assert all(torch.equal(left[name], right[name]) for name in left)


@pytest.fixture(scope="module")
def command(model, tmp_path_factory):
    """The folder of a run of the command."""
    out = tmp_path_factory.mktemp("runs") / "command"
    flags = ["--env", OPTIONS["env"], "--model", model, "--out", str(out), "--quiet"]
    for name, value in CONFIG.items():
        flags += ["--" + name.replace("_", "-"), str(value)]
    assert main(["train", "sdpo", *flags]) == 0
    return out


def test_names_give_the_run_of_the_command(command, model, tmp_path):
    with make_run("sdpo", model=model, out=tmp_path / "run", config=CONFIG, **OPTIONS) as trainer:
        assert trainer.train() == "done"
    assert_same_run(command, tmp_path / "run")
    saved, of_command = (
        json.loads((out / "config.json").read_text()) for out in (tmp_path / "run", command)
    )
    assert saved["options"].pop("out") != of_command["options"].pop("out")
    assert saved == of_command


def test_a_tiny_policy_has_the_preset_of_its_name(tmp_path):
    policy = small_policy()
    assert not policy.model.name_or_path
    with make_run("sdpo", model=policy, out=tmp_path / "run", config=CONFIG, **OPTIONS) as trainer:
        assert trainer.template == PRESETS["laptop"].template
        assert trainer.config == replace(PRESETS["laptop"].config("sdpo"), **CONFIG)


def test_objects_give_the_run_of_the_command(command, model, tmp_path):
    saved = json.loads((command / "config.json").read_text())
    algorithm = SDPO(**{k: v for k, v in saved["algorithm"].items() if k != "name"})
    with make_run(
        algorithm,
        env=EnvironmentSpec(OPTIONS["env"]),
        model=Policy.load(model),
        out=tmp_path / "run",
        config=TrainConfig(**saved["config"]),
        quiet=True,
    ) as trainer:
        assert trainer.train() == "done"
    assert_same_run(command, tmp_path / "run")


def test_a_run_goes_on_where_it_was(command, model, tmp_path):
    options = {"model": model, "out": tmp_path / "run", **OPTIONS}
    with make_run("sdpo", config=CONFIG | {"steps": 1}, **options) as trainer:
        trainer.train()
    with (
        pytest.raises(RunFinished, match="has finished at step 1"),
        make_run("sdpo", config=CONFIG | {"steps": 1}, resume=True, **options),
    ):
        pass
    with make_run("sdpo", config=CONFIG, resume=True, **options) as trainer:
        assert trainer.step == 1
        trainer.train()
    assert [row["step"] for row in rows(tmp_path / "run")] == [0, 1, 2]


@pytest.mark.parametrize(
    ("algorithm", "changes", "said"),
    [
        ("sdpo", {"env": "vpd/Nothing-v0"}, "Unknown environment"),
        ("sdpo", {"engine": "vlm"}, "Unknown engine"),
        ("sdpo", {"model": "no/such/folder"}, "no/such/folder"),
        ("sdpo", {"teacher_model": "no/such/folder"}, "no/such/folder"),
        ("sdpo", {"preset": "big"}, "Unknown preset 'big'"),
        ("grpo", {"teacher_model": "tiny"}, "grpo has no teacher"),
        (
            SDPO(teacher="live"),
            {"teacher_prompt": "plain"},
            "the teacher would be the student itself",
        ),
    ],
)
def test_a_run_that_cannot_be_is_refused_and_leaves_nothing(
    model, tmp_path, algorithm, changes, said
):
    options = {"model": model, "out": tmp_path / "run", "config": CONFIG, **OPTIONS, **changes}
    with pytest.raises(ValueError, match=said), make_run(algorithm, **options):
        pass
    assert not (tmp_path / "run").exists()


def test_the_critic_and_the_student_share_one_engine(model, tmp_path):
    options = OPTIONS | {"feedback": "self-critique"}
    with make_run("sdpo", model=model, out=tmp_path / "run", config=CONFIG, **options) as trainer:
        for environment in (trainer.environment, trainer.evaluation):
            (source,) = critics(environment)
            assert isinstance(source.critic, PolicyCritic)
            assert source.critic.engine is trainer.engine


def test_a_run_has_another_model_as_its_teacher_to_its_end(model, tmp_path):
    """It is not saved, but a resumed run must have the same one."""
    teacher = tmp_path / "teacher"
    small_policy(seed=1).save(teacher)
    options = {"model": model, "out": tmp_path / "run", **OPTIONS, "teacher_model": str(teacher)}
    config = CONFIG | {"steps": 1, "teach_truncated": True}
    with make_run("sdpo", config=config, teacher_prompt="plain", **options) as trainer:
        assert trainer.teacher.weights == "frozen"
        assert trainer.teacher_engine.policy is trainer.teacher.policy
        assert trainer.engine.policy is trainer.policy
        trainer.train()
    (of_step,) = [row for row in rows(tmp_path / "run") if row["step"] == 1]
    assert of_step["distill/mask_fraction"] == 1  # rows without feedback have a teacher too
    state = torch.load(
        next((tmp_path / "run" / "checkpoints").iterdir()) / "trainer.pt", weights_only=True
    )
    assert list(state["teacher"]) == ["model_hash"]

    resumed = {"config": CONFIG, "teacher_prompt": "plain", "resume": True}
    with (
        pytest.raises(ValueError, match="holds a run of the teacher"),
        make_run("sdpo", **resumed, **options | {"teacher_model": model}),
    ):
        pass
    small_policy(seed=2).save(teacher)
    with (
        pytest.raises(ValueError, match="another model as its teacher"),
        make_run("sdpo", **resumed, **options),
    ):
        pass
    small_policy(seed=1).save(teacher)
    with make_run("sdpo", **resumed, **options) as trainer:
        assert trainer.step == 1


def test_the_example_engine_samples_a_run_from_another_folder(model, tmp_path, monkeypatch, capsys):
    example = Path(__file__).parents[3] / "examples" / "new_engine.py"
    shutil.copy(example, tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])  # the command adds the current folder
    flags = ["--env", OPTIONS["env"], "--model", model, "--out", "run", "--quiet", "--steps", "1"]
    flags += ["--prompts-per-step", "2", "--group-size", "2", "--max-response-tokens", "6"]
    flags += ["--eval-every", "0", "--engine", "new_engine:Counting"]
    assert main(["train", "grpo", *flags]) == 0
    (row,) = rows(tmp_path / "run")
    count = round(row["rollouts"] * row["response_tokens"])
    assert f"sampled {count} tokens" in capsys.readouterr().err
