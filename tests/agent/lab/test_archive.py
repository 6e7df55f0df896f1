"""The packed comparisons of a lab: what another machine goes on from."""

from __future__ import annotations

import json
import lzma
from pathlib import Path

import pytest
from comparison.made_up import made_up
from lab.test_lab import without_pictures

from vpd_agent.comparison import report
from vpd_agent.comparison.results import read_run
from vpd_agent.lab.archive import ARCHIVE, pack, unpack
from vpd_agent.lab.readings import read_lab
from vpd_agent.runs.run_folder import RunFolder

STUDENT, TEACHER = "eval/student_pass@1", "eval/teacher_repair"


@pytest.fixture
def lab(tmp_path, monkeypatch) -> Path:
    """A comparison of two finished runs and one that failed, one that was interrupted, and a
    prompt-only baseline."""

    without_pictures(monkeypatch)
    out = tmp_path / "lab"
    here = out / "main/code-warm"
    report.write_report(here, made_up(here, {"vpd": [0.5, 0.75, None]}))
    made_up(out / "rigid/code-rigid", {"vpd": [0.5]})
    (out / "prompt-only/code-warm").mkdir(parents=True)
    (out / "prompt-only/code-warm/results.json").write_text('{"budget": 43}')
    return out


def files(folder: Path) -> set[str]:
    return {p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file()}


def test_another_machine_has_what_was_finished(lab, tmp_path):
    pack(lab, tmp_path / ARCHIVE)
    there = tmp_path / "there"
    assert unpack(tmp_path / ARCHIVE, there) == 2
    assert files(there) == {
        *(f"main/code-warm/vpd-seed{s}/{n}" for s in (0, 1)
          for n in ("config.json", "metrics.jsonl", "model/metrics.json")),
        "main/code-warm/results.json",
        "prompt-only/code-warm/results.json",
    }  # fmt: skip


@pytest.mark.parametrize("seed", [0, 1])
def test_a_run_has_the_same_curves_and_costs_there(seed, lab, tmp_path):
    pack(lab, tmp_path / ARCHIVE)
    unpack(tmp_path / ARCHIVE, tmp_path / "there")
    old, new = (read_run(out / f"main/code-warm/vpd-seed{seed}", "vpd", seed, "finished")
                for out in (lab, tmp_path / "there"))  # fmt: skip
    assert new.record == old.record
    assert RunFolder.finished_step(new.folder) == RunFolder.finished_step(old.folder) == 40
    scored = [row for row in old.rows if STUDENT in row]
    assert len(scored) < len(old.rows)  # steps between the evaluations are left out …
    assert [row["step"] for row in new.rows] == [row["step"] for row in scored]
    for name in (STUDENT, TEACHER):
        assert [row[name] for row in new.rows] == [row[name] for row in scored]
    for name in ("rollouts", "seconds/step"):  # … but not what they spent
        spent = sum(row.get(name, 0) for row in old.rows)
        assert sum(row.get(name, 0) for row in new.rows) == pytest.approx(spent, abs=1e-3)
        assert spent > 0


def test_the_lab_reads_the_same_there(lab, tmp_path):
    pack(lab, tmp_path / ARCHIVE)
    unpack(tmp_path / ARCHIVE, tmp_path / "there")
    (old,), (new,) = (read_lab(out).values() for out in (lab, tmp_path / "there"))
    assert (new.name, new.standings) == (old.name, old.standings)
    assert new.name == "main on code-warm"
    for mine, theirs in zip(old.results.runs, new.results.runs, strict=True):
        assert (theirs.outcome, theirs.seed, theirs.record) == (
            mine.outcome, mine.seed, mine.record)  # fmt: skip
        assert theirs.rows == mine.rows
    assert [run.outcome for run in new.results.runs] == ["finished", "finished", "failed"]


def test_the_same_results_give_the_same_bytes_also_when_packed_again_elsewhere(lab, tmp_path):
    first, second, third = (tmp_path / name for name in ("1.xz", "2.xz", "3.xz"))
    pack(lab, first)
    pack(lab, second)
    unpack(first, tmp_path / "there")
    pack(tmp_path / "there", third)
    assert first.read_bytes() == second.read_bytes() == third.read_bytes()


def test_a_comparison_that_is_there_stays_as_it_is(lab, tmp_path):
    pack(lab, tmp_path / ARCHIVE)
    mine = tmp_path / "there/main/code-warm"
    mine.mkdir(parents=True)
    (mine / "experiment.json").write_text("mine")
    assert unpack(tmp_path / ARCHIVE, tmp_path / "there") == 1
    assert files(mine) == {"experiment.json"}
    assert (mine / "experiment.json").read_text() == "mine"
    assert unpack(tmp_path / ARCHIVE, tmp_path / "there") == 0


def packed(*rows: object) -> bytes:
    return lzma.compress("".join(json.dumps(row) + "\n" for row in rows).encode())


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"not packed at all",
        packed({"folder": "a", "files": {"b": "c"}})[:-9],
        packed({"folder": "a", "files": {"b": "c"}}, {"folder": "../a", "files": {}}),
        packed({"folder": "a", "files": {"/etc/b": "c"}}),
        packed({"folder": "a"}),
        packed(["a"]),
    ],
    ids=["empty", "text", "cut off", "outside", "absolute", "no files", "no object"],
)
def test_what_is_no_archive_is_refused_and_nothing_is_put(content, tmp_path):
    (tmp_path / ARCHIVE).write_bytes(content)
    with pytest.raises(ValueError, match=r"cannot be read as the runs of a lab: .*Fetch it again"):
        unpack(tmp_path / ARCHIVE, tmp_path / "there")
    assert not (tmp_path / "there").exists()
