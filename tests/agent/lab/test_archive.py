"""The packed runs of a lab: what another machine goes on from."""

from __future__ import annotations

import json
import lzma
from pathlib import Path

import pytest
from comparison.made_up import record, rows, write_run

from vpd_agent.comparison.results import read_run
from vpd_agent.lab.archive import ARCHIVE, pack, unpack
from vpd_agent.runs.run_folder import RunFolder


@pytest.fixture
def lab(tmp_path) -> Path:
    """Two finished runs, one that has not ended, and a prompt-only baseline."""
    out = tmp_path / "lab"
    for seed in (0, 1, 2):
        write_run(
            out / f"main/code-warm/vpd-seed{seed}", record("vpd", seed), rows(0.5 + seed / 10)
        )
    (out / "main/code-warm/vpd-seed2/model/metrics.json").unlink()
    (out / "prompt-only/code-warm").mkdir(parents=True)
    (out / "prompt-only/code-warm/results.json").write_text('{"budget": 43}')
    return out


def files(folder: Path) -> set[str]:
    return {p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file()}


def test_another_machine_has_the_finished_runs_with_the_same_curves(lab, tmp_path):
    pack(lab, tmp_path / ARCHIVE)
    there = tmp_path / "there"
    assert unpack(tmp_path / ARCHIVE, there) == 3
    assert files(there) == {
        *(f"main/code-warm/vpd-seed{s}/{n}" for s in (0, 1)
          for n in ("config.json", "metrics.jsonl", "model/metrics.json")),
        "prompt-only/code-warm/results.json",
    }  # fmt: skip
    for seed in (0, 1):
        old, new = (read_run(out / f"main/code-warm/vpd-seed{seed}", "vpd", seed, "finished")
                    for out in (lab, there))  # fmt: skip
        assert new.record == old.record
        assert RunFolder.finished_step(new.folder) == RunFolder.finished_step(old.folder) == 40
        scored = [row for row in old.rows if "eval/student_pass@1" in row]
        assert len(scored) < len(old.rows)  # steps between the evaluations are left out …
        assert [row["step"] for row in new.rows] == [row["step"] for row in scored]
        for name in ("eval/student_pass@1", "eval/teacher_repair"):
            assert [r[name] for r in new.rows] == [r[name] for r in scored]
        for name in ("rollouts", "seconds/step"):  # … but not what they spent
            spent = sum(row.get(name, 0) for row in old.rows)
            assert sum(row.get(name, 0) for row in new.rows) == pytest.approx(spent, abs=1e-3)
            assert spent > 0


def test_the_same_runs_give_the_same_bytes_also_when_packed_again_elsewhere(lab, tmp_path):
    first, second, third = (tmp_path / name for name in ("1.xz", "2.xz", "3.xz"))
    pack(lab, first)
    pack(lab, second)
    unpack(first, tmp_path / "there")
    pack(tmp_path / "there", third)
    assert first.read_bytes() == second.read_bytes() == third.read_bytes()


def test_what_is_there_stays_as_it_is(lab, tmp_path):
    pack(lab, tmp_path / ARCHIVE)
    mine = tmp_path / "there/main/code-warm/vpd-seed0"
    mine.mkdir(parents=True)
    (mine / "config.json").write_text("mine")
    assert unpack(tmp_path / ARCHIVE, tmp_path / "there") == 2
    assert files(mine) == {"config.json"}
    assert (mine / "config.json").read_text() == "mine"
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
