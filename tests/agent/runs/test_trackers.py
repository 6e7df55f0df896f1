"""A run's metrics where people watch them: real trackers, read back with their own readers."""

from __future__ import annotations

import json
import math
import sqlite3
import time
from importlib.util import find_spec
from pathlib import Path

import pytest

from agent.helpers import small_policy
from vpd_agent.cli.main import main
from vpd_agent.runs.trackers import check_trackers, open_trackers

pytest.importorskip("accelerate")

CONFIG = {"algorithm": {"name": "vpd", "beta": 1.0, "top_k": None}, "options": {"set": ["a=1"]}}
ROWS = [
    {"step": 0, "eval/student_pass@1": 0.25},
    {"step": 1, "reward": 0.5, "m_step/loss": math.nan, "seconds/step": 0.1},
    {"step": 2, "reward": 0.75, "m_step/loss": 2.0, "seconds/step": 0.1},
]


def needs(package: str):
    return pytest.mark.skipif(find_spec(package) is None, reason=f"{package} is not installed")


def log(names, out: Path) -> None:
    trackers = open_trackers(names, out, "a run", CONFIG)
    for row in ROWS:
        trackers.log(row)
    trackers.close()
    trackers.close()


def scalars(folder: Path) -> dict[str, list[tuple[int, float]]]:
    """What TensorBoard would draw of a folder."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(folder))
    events.Reload()
    return {k: [(e.step, e.value) for e in events.Scalars(k)] for k in events.Tags()["scalars"]}


@needs("tensorboard")
def test_tensorboard_has_every_number_at_its_step(tmp_path):
    log(["tensorboard", "tensorboard"], tmp_path)
    drawn = scalars(tmp_path / "trackers/tensorboard/a run")
    assert drawn["reward"] == [(1, 0.5), (2, 0.75)]
    assert drawn["eval/student_pass@1"] == [(0, 0.25)]
    assert math.isnan(drawn["m_step/loss"][0][1])
    assert drawn["m_step/loss"][1] == (2, 2.0)
    assert "step" not in drawn
    stored = "".join(p.read_text() for p in tmp_path.rglob("hparams.yml"))
    assert "algorithm.beta: 1.0" in stored
    assert "algorithm.top_k: None" in stored
    assert "options.set: '[''a=1'']'" in stored


@needs("wandb")
@pytest.mark.slow
def test_wandb_works_without_a_network(tmp_path, monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    log(["wandb"], tmp_path)
    (run,) = (tmp_path / "trackers" / "wandb").glob("offline-run-*")
    (file,) = run.glob("*.wandb")
    words = (b"reward", b"student_pass@1", b"algorithm.beta")
    deadline = time.monotonic() + 30  # a process of W&B's own writes the file
    while not all(word in file.read_bytes() for word in words):
        assert time.monotonic() < deadline, file.read_bytes()
        time.sleep(0.1)


@needs("trackio")
@pytest.mark.slow
def test_trackio_keeps_its_database_in_the_run(tmp_path, monkeypatch):
    monkeypatch.delenv("TRACKIO_DIR", raising=False)
    log(["trackio"], tmp_path)
    (database,) = (tmp_path / "trackers" / "trackio").rglob("vpd.db")
    with sqlite3.connect(database) as connection:
        rows = connection.execute("select step, metrics from metrics order by step").fetchall()
    rewards = [(step, json.loads(text).get("reward")) for step, text in rows]
    assert rewards == [(0, None), (1, 0.5), (2, 0.75)]


@pytest.mark.parametrize("name", ["wandb", "trackio"])
@pytest.mark.parametrize("group", ["", "three methods"])
def test_runs_of_a_comparison_are_a_group(name, group, tmp_path, monkeypatch):
    from accelerate import tracking

    made = []

    class Stub:
        def __init__(self, project, **options):
            made.append((project, options.get("name"), options.get("group")))

        def start(self):
            pass

        def store_init_configuration(self, values):
            made.append(values["algorithm.name"])

    monkeypatch.setitem(tracking.LOGGER_TYPE_TO_CLASS, name, Stub)
    monkeypatch.setattr(tracking, "get_available_trackers", lambda: [name])
    monkeypatch.delenv(f"{name.upper()}_PROJECT", raising=False)
    monkeypatch.setenv("TRACKIO_DIR", str(tmp_path))
    open_trackers([name], tmp_path, "vpd-seed0", CONFIG, group)
    assert made == [("vpd", "vpd-seed0", group or None), "vpd"]


def test_no_tracker_is_a_tracker_too(tmp_path):
    log([], tmp_path)
    assert not list(tmp_path.iterdir())


def test_an_unknown_tracker_is_refused_with_the_closest():
    with pytest.raises(ValueError, match=r"Did you mean 'tensorboard'.*There are .*tensorboard"):
        check_trackers(["tensorbord"])


@pytest.mark.skipif(find_spec("comet_ml") is not None, reason="comet-ml is installed")
def test_a_missing_package_is_named_before_any_work(tmp_path, capsys):
    with pytest.raises(ValueError, match=r"'comet_ml' needs a package .*pip install comet-ml"):
        check_trackers(["comet_ml"])
    code = main(["train", "vpd", "--env", "vpd/MiniChoice-v0", "--model", "tiny",
                 "--trackers", "comet_ml", "--out", str(tmp_path / "out")])  # fmt: skip
    assert code == 2
    assert "pip install comet-ml" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@needs("tensorboard")
def test_a_run_shows_in_tensorboard_what_it_writes_into_its_metrics(tmp_path):
    small_policy().save(tmp_path / "model")
    out = tmp_path / "run"
    code = main(["train", "sdpo", "--env", "vpd/MiniChoice-v0", "--model", str(tmp_path / "model"),
                 "--steps", "2", "--prompts-per-step", "2", "--group-size", "2", "--eval-every",
                 "0", "--quiet", "--trackers", "tensorboard", "--out", str(out)])  # fmt: skip
    assert code == 0
    rows = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    drawn = scalars(out / "trackers/tensorboard/run")
    assert [row["step"] for row in rows] == [1, 2]
    lists = {name for name, value in rows[0].items() if isinstance(value, list)}
    assert lists <= {"seconds/slowest_judged"}  # trackers draw numbers
    for name in set(rows[0]) - {"step"} - lists:
        expected = [(row["step"], pytest.approx(row[name], nan_ok=True)) for row in rows]
        assert drawn[name] == expected
    config = json.loads((out / "config.json").read_text())
    assert config["options"]["trackers"] == ["tensorboard"]
