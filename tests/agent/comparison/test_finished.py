"""Whether a comparison is finished: whatever it depends on must make it look again."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from vpd_agent.comparison.finished import inputs, is_finished, outputs
from vpd_agent.comparison.results import REPORT


class Finished:
    """A comparison of one run, with a model in a folder, problems in a file and an algorithm in
    another."""

    def __init__(self, folder: Path) -> None:
        self.out, self.run = folder / "out", folder / "out/grpo-seed0"
        self.model, self.data, self.method = folder / "m", folder / "d.jsonl", folder / "own.py"
        self.arguments = ["--data", str(self.data), "--algorithms", f"{self.method}:Own"]
        self.arguments += [f"--model={self.model}", "--out", str(self.out)]
        files = [self.model / "weights", self.data, self.method, self.run / "config.json"]
        files += [self.run / "metrics.jsonl", *(self.out / name for name in REPORT)]
        for path in files:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text("as it was")
        before = inputs(self.arguments, self.out, str(self.model))
        self.there = {"finished": {"inputs": before, "outputs": outputs([self.run])}}

    def holds(self, *more: str) -> bool:
        arguments = [*self.arguments, *more]
        return is_finished(self.there, arguments, self.out, str(self.model), REPORT)


@pytest.fixture
def finished(tmp_path) -> Finished:
    found = Finished(tmp_path)
    assert found.holds()
    return found


@pytest.mark.parametrize("what", ["m/weights", "d.jsonl", "own.py", "out/grpo-seed0/metrics.jsonl"])
def test_a_file_of_other_content_or_time_is_noticed(what, finished, tmp_path):
    path = tmp_path / what
    os.utime(path, ns=(0, path.stat().st_mtime_ns + 1))
    assert not finished.holds()


@pytest.mark.parametrize("name", REPORT)
def test_a_report_that_is_gone_is_noticed(name, finished):
    (finished.out / name).unlink()
    assert not finished.holds()


def test_other_arguments_are_another_comparison(finished):
    assert not finished.holds("--steps", "3")
    assert not is_finished({}, finished.arguments, finished.out, str(finished.model), REPORT)


def test_what_else_lies_in_the_folder_of_the_comparison_changes_nothing(finished):
    (finished.out / "notes.txt").write_text("mine")
    assert finished.holds()
