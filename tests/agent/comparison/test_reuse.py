"""Finished runs of another comparison are taken over, if they are what would be trained."""

from __future__ import annotations

from pathlib import Path

import pytest
from comparison.made_up import record, rows, write_run

from vpd_agent.comparison.experiment import Contestant
from vpd_agent.comparison.record import check_runs
from vpd_agent.comparison.reuse import take_finished
from vpd_agent.comparison.runs import Run

PRINTS = {"train": "aaaa", "eval": "bbbb", "model": {"weights": "cccc"}}  # as in `record`


def told(**changes) -> dict:
    """What config.json says of a run."""
    aside = changes.pop("set_aside", 0.0)
    own = changes.pop("own", {})
    found = record("vpd", 0, **changes)
    found["algorithm"] |= own
    found["config"]["set_aside"] = aside
    return found


def there(folder: Path) -> Path:
    path = write_run(folder / "main/vpd-seed0", told(), rows(0.5))
    (path / "checkpoints/000040").mkdir(parents=True)
    return path


def taken(folder: Path, prints=PRINTS, **changes) -> Run:
    """A run with seed 0, after the finished runs of the folder were looked at."""
    contestant = Contestant("vpd", "vpd", "environment", (), "vpd")
    wanted = Run(contestant, 0, folder / "prior/vpd-seed0", 40)
    take_finished([wanted], folder, lambda run: told(**changes), prints)
    return wanted


def test_the_same_run_is_copied_without_its_checkpoints(tmp_path, capsys):
    source = there(tmp_path)
    run = taken(tmp_path)
    assert run.outcome == "finished"
    assert (run.path / "metrics.jsonl").read_bytes() == (source / "metrics.jsonl").read_bytes()
    assert not (run.path / "checkpoints").exists()
    assert "1 finished run of" in " ".join(capsys.readouterr().err.split())


@pytest.mark.parametrize(
    "different",
    [
        {"learning_rate": 1e-3},
        {"own": {"beta": 2.0}},
        {"env": "vpd/MiniChoice-v0"},
        {"set_aside": 0.2},
        {"prints": PRINTS | {"model": {"weights": "dddd"}}},
        {"prints": PRINTS | {"eval": "dddd"}},
    ],
)
def test_another_run_is_not_taken(different, tmp_path):
    there(tmp_path)
    run = taken(tmp_path, **different)
    assert not run.path.exists()


@pytest.mark.parametrize(
    ("prints", "adapter", "said"),
    [
        (PRINTS, None, None),
        (PRINTS | {"model": {"weights": "dddd"}}, None, "other weights of tiny-warm than there"),
        (PRINTS | {"model": {"weights": "dddd"}}, 8, None),  # they differ by seed
        (PRINTS | {"train": "dddd"}, None, "other training problems than there are here"),
        (PRINTS | {"eval": "dddd"}, 8, r"their hash is bbbb there, dddd here"),
    ],
)
def test_a_run_in_the_folder_that_began_with_other_inputs_is_refused(
    prints, adapter, said, tmp_path
):
    """As where a lab's packed runs are put, without the experiment.json that told of them."""
    options = {"model": "tiny-warm", "lora_rank": adapter}
    here = told()
    here["options"] |= options
    run = Run(Contestant("vpd", "vpd", "environment", (), "vpd"), 0, tmp_path / "vpd-seed0", 40)
    write_run(run.path, here, rows(0.5))
    if said is None:
        check_runs([run], {run: here}, prints)
    else:
        with pytest.raises(ValueError, match=said):
            check_runs([run], {run: here}, prints)


def test_a_run_that_is_not_at_its_end_is_not_taken(tmp_path):
    source = there(tmp_path)
    (source / "model/metrics.json").unlink()
    (source / "model").rmdir()
    assert not taken(tmp_path).path.exists()
