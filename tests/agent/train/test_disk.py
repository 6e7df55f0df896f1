"""What a run will write, beside what runs have written; and what is said where there is no room."""

from __future__ import annotations

import shutil
from collections import namedtuple
from dataclasses import replace
from pathlib import Path

import pytest

from vpd_agent import make_run
from vpd_agent.algorithms import GRPO, SDPO
from vpd_agent.cli.main import main
from vpd_agent.tiny.model import tiny_policy
from vpd_agent.train.config import TrainConfig
from vpd_agent.train.disk import disk_of, too_full
from vpd_agent.train.options import TrainOptions

CONFIG = {
    "steps": 3,
    "prompts_per_step": 2,
    "group_size": 2,
    "max_response_tokens": 4,
    "max_teacher_prompt_tokens": 256,
    "eval_every": 1,
    "eval_problems": 2,
    "save_every": 1,
}
RUN = {"env": "vpd/MiniArithmetic-v0", "quiet": True, "fit": False}
Usage = namedtuple("Usage", "total used free")


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> str:
    """Its weights are much larger than its tokenizer and a run's texts."""
    folder = tmp_path_factory.mktemp("models") / "small"
    tiny_policy().save(folder)
    return str(folder)


@pytest.fixture
def nearly_full(monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda path: Usage(100, 99, 1))


def written(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


@pytest.mark.parametrize(
    ("algorithm", "options"),
    [("grpo", {}), ("vpd", {}), ("sdpo", {}), ("grpo", {"lora_rank": 8})],
    ids=["grpo", "vpd", "sdpo", "grpo with adapters"],
)
def test_the_estimate_is_what_a_run_writes(tmp_path, model, algorithm, options):
    if options:
        pytest.importorskip("peft")
    out = tmp_path / "run"
    with make_run(algorithm, model=model, out=out, config=CONFIG, **RUN, **options) as trainer:
        trainer.train()
        kind, config = trainer.algorithm, trainer.config
    found = disk_of(
        kind, TrainOptions(out=Path("runs/none"), env=RUN["env"], model=model, **options), config
    )
    assert found is not None
    assert found.model == pytest.approx(written(out / "model"), rel=0.1)
    for step in (2, 3):  # keep_checkpoints is 2
        checkpoint = written(out / f"checkpoints/{step:06d}")
        assert found.checkpoint == pytest.approx(checkpoint, rel=0.1)
    assert found.left == 2 * found.checkpoint + 2 * found.model  # a best and a final one
    assert found.at_most == 3 * found.checkpoint + 3 * found.model


@pytest.mark.parametrize(
    ("changes", "checkpoints", "models"),
    [
        ({"save_every": 0}, 0, 3),
        ({"save_every": 3}, 1, 3),  # that of the end
        ({"save_every": 2, "eval_every": 3}, 2, 2),
        ({"eval_every": 0}, 3, 1),
        ({"eval_problems": 0, "keep_checkpoints": 1}, 2, 1),
    ],
)
def test_what_is_not_kept_is_not_counted(changes, checkpoints, models):
    options = TrainOptions(out=Path("runs/none"), env="vpd/MiniArithmetic-v0", model="tiny")
    found = disk_of(GRPO(), options, TrainConfig(**{**CONFIG, **changes}))
    assert found is not None
    assert found.at_most == checkpoints * found.checkpoint + models * found.model


def test_of_a_teacher_that_is_another_model_a_checkpoint_has_no_weights():
    options = TrainOptions(out=Path("runs/none"), env="vpd/MiniArithmetic-v0", model="tiny")
    other = replace(options, teacher_model="tiny")
    own = disk_of(SDPO(teacher="ema"), options, TrainConfig())
    found = disk_of(SDPO(teacher="ema"), other, TrainConfig())
    assert own is not None
    assert found is not None
    assert own.checkpoint == 5 * own.model  # model/, the weights, both moments, the teacher
    assert found.checkpoint == 4 * found.model


def test_a_model_that_is_not_known_is_not_estimated():
    options = TrainOptions(out=Path("runs/none"), env="vpd/MiniArithmetic-v0", model="nobody/knows")
    assert disk_of(GRPO(), options, TrainConfig()) is None


def test_what_is_there_already_needs_no_room(tmp_path, monkeypatch):
    (tmp_path / "run/checkpoints").mkdir(parents=True)
    (tmp_path / "run/checkpoints/weights").write_bytes(bytes(300))
    monkeypatch.setattr(shutil, "disk_usage", lambda path: Usage(1000, 900, 100))
    assert too_full(tmp_path / "run", 400) == ""
    assert "run will take" in too_full(tmp_path / "run", 401)
    assert "new will take" in too_full(tmp_path / "made/later/new", 101)


def test_a_run_says_at_its_beginning_that_its_disk_is_too_small(
    tmp_path, model, nearly_full, capsys
):
    with make_run("grpo", model=model, out=tmp_path / "run", config=CONFIG, **RUN):
        pass
    said = " ".join(capsys.readouterr().err.split())
    assert "Warning:" in said
    assert "0.0 GB are free there. Make room, pass an --out on another disk" in said


@pytest.mark.slow
def test_a_comparison_says_so_and_keeps_no_models_where_it_is_told(
    tmp_path, model, nearly_full, capsys
):
    out = tmp_path / "c"
    flags = [f"--{name.replace('_', '-')}={value}" for name, value in CONFIG.items()]
    words = ["compare", "--env", RUN["env"], "--model", model, "--algorithms", "grpo", "rft"]
    words += ["--steps", "3", "--out", str(out)]
    shared = ["--", *(flag for flag in flags if "--steps" not in flag)]
    assert main([*words, "--drop-models", *shared]) == 0
    assert "will take about" in capsys.readouterr().err.replace("\n", " ")
    assert (out / "report.html").is_file()
    assert not list(out.rglob("*.safetensors"))
    assert not list(out.glob("*/checkpoints"))
