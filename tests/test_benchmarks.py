"""The benchmarks run, report everything and everybody, and a wrong verdict of ours fails them."""

from __future__ import annotations

import copy
import json
import os
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parent.parent / "benchmarks"
sys.path.append(str(BENCHMARKS))

import common  # noqa: E402
import contestants  # noqa: E402
import judge  # noqa: E402
import programs  # noqa: E402

SMALLEST = judge.Effort(
    rounds=1,
    turn_seconds=0.0,
    turn_judgments=1,
    twenty_rounds=1,
    crowd_rounds=1,
    crowd_programs=1000,
    crowd_seconds=60.0,
    slow_seconds=60.0,
    cold_starts=1,
)
ASKED = ("docker", "bubblewrap", "local", "bare fork", "bare fork, finalized", "subprocess", "SDPO")
REQUIRED = ("local", *filter(None, os.environ.get("VPD_REQUIRE_BACKENDS", "").split(",")))


@pytest.fixture(scope="module")
def results():
    options = judge.parsed(["--only", *ASKED])
    return judge.run(options, SMALLEST) | {"command": "python benchmarks/judge.py"}


@pytest.fixture(scope="module")
def text(results):
    return judge.report(results)


@pytest.mark.benchmark
def test_every_contestant_is_measured_or_named_as_missing_with_the_reason(results, text):
    for name in judge.CONTESTANTS:
        measured = all(
            name in turns for turns in (*results["latency"].values(), *results["twenty"].values())
        )
        assert measured is not (name in results["missing"])
        if not measured:
            assert f"- {name}: {results['missing'][name]}" in text
    assert set(REQUIRED).isdisjoint(results["missing"])
    assert results["missing"]["docker run"] == "not asked for"
    assert "--sdpo PATH" in results["missing"]["SDPO"]


@pytest.mark.benchmark
def test_every_table_has_a_row_for_every_contestant(results, text):
    tables = [part for part in text.split("###") if "| judge |" in part]
    groups = results["throughput"]  # one, and where some programs take long the short ones apart
    assert len(tables) == 3 + len(groups)  # one test, twenty tests, verdicts, and the groups
    for table in tables:
        for name in judge.CONTESTANTS:
            assert f"\n| {name} |" in table


@pytest.mark.benchmark
def test_all_who_run_plain_cpython_get_the_built_in_programs_right(results):
    known = programs.built_in()
    assert {program.passes for program in known} == {True, False}
    assert {program.function is None for program in known} == {True, False}
    for name in set(ASKED) - set(results["missing"]):
        assert judge.verdicts(results, name) == (len(known), [], [])
    assert judge.faults(results) == []


@pytest.mark.benchmark
def test_a_fast_wrong_judge_of_ours_cannot_win(results):
    forged = copy.deepcopy(results)
    turn = forged["latency"]["tiny"]["local"][0]
    turn["verdicts"] = [not passed for passed in turn["verdicts"]]
    assert judge.faults(forged) == ["local gave a wrong verdict on the program 'tiny'"]


@pytest.mark.benchmark
def test_stopping_early_runs_one_test_and_not_stopping_runs_twenty(results):
    tests = {
        task: turns["local"][0]["tests"] / len(turns["local"][0]["verdicts"])
        for task, turns in results["twenty"].items()
    }
    assert tests == {"wrong, may stop": 1, "wrong, all": 20, "right": 20}


def test_processor_time_that_was_lost_with_a_killed_process_is_not_guessed():
    burn = f"{sys.executable} -c 'sum(range(10**7))'"
    with subprocess.Popen(["sh", "-c", f"{burn}; echo done; exec sleep 60"], stdout=-1) as keeper:
        keeper.stdout.readline()
        assert contestants.cpu_seconds(keeper.pid, of_ended=True) > 0
        undisturbed, disturbed = contestants.CpuClock(None), contestants.CpuClock(None)
        assert undisturbed.seconds()[0] is not None
        keeper.kill()
        keeper.wait()
        assert disturbed.seconds()[0] is None


@pytest.mark.benchmark
def test_memory_and_cold_start_of_each_cage_are_reported(results, text):
    for name in set(judge.OURS) - set(results["missing"]):
        (start,) = results["cold_start"][name]
        assert 0 < start["first_cage_seconds"] < start["both_cages_seconds"]
        for cage in results["memory"][name]:  # none where only root may read it
            assert cage["pss"] >= cage["private"] > 1 << 20
        assert f"\n| {name} |" in text.partition("### A warm cage")[2]


@pytest.mark.benchmark
def test_results_report_and_picture_are_written(results, text, tmp_path):
    judge.write(results, text, tmp_path / "new")
    assert json.loads((tmp_path / "new/results.json").read_text())["machine"]["cores"] > 0
    assert (tmp_path / "new/report.md").read_text().endswith(text)
    pytest.importorskip("matplotlib")
    assert (tmp_path / "new/latency.png").read_bytes().startswith(b"\x89PNG")


def test_a_full_run_renews_the_tables_between_the_markers_and_nothing_else(tmp_path):
    readme = tmp_path / "README.md"
    begin, end = "<!-- judge.py begins -->", "<!-- judge.py ends -->"
    readme.write_text(f"before\n{begin}\nold\n{end}\nafter\n")
    common.renew("judge.py", "new\n", readme)
    assert readme.read_text() == f"before\n{begin}\nnew\n{end}\nafter\n"
    readme.write_text("no markers")
    with pytest.raises(SystemExit, match=begin):
        common.renew("judge.py", "new\n", readme)
    published = (BENCHMARKS / "README.md").read_text()
    assert published.count(begin) == published.count(end) == 1


@pytest.mark.docker
@pytest.mark.parametrize("name", ["docker exec", "docker run"])
def test_a_container_or_interpreter_of_docker_per_test_judges_as_we_do(name):
    known = {program.name: program for program in programs.built_in()}
    chosen = [programs.TINY, known["sum#1"], known["twoSum#0"]]
    try:
        contestant = contestants.CONTESTANTS[name]()
    except contestants.Missing as reason:
        if "docker" in REQUIRED:
            raise
        pytest.skip(str(reason))
    try:
        verdicts = [contestant.judge(program, True).passed for program in chosen]
    finally:
        contestant.close()
    assert verdicts == [program.passes for program in chosen] == [True, False, True]


@pytest.mark.parametrize("option", ["--livecodebench", "--sdpo"])
def test_a_path_that_is_no_checkout_is_named_with_the_reason(option, tmp_path):
    name = {"--livecodebench": "LiveCodeBench", "--sdpo": "SDPO"}[option]
    with (
        closing(contestants.Remote(name, str(tmp_path))) as remote,
        pytest.raises(contestants.Missing, match=str(tmp_path)),
    ):
        remote.ready()


def test_data_without_known_verdicts_is_refused_with_what_is_expected(tmp_path):
    (tmp_path / "rows.jsonl").write_text('{"question_id": "1"}\n')
    command = [sys.executable, str(BENCHMARKS / "judge.py"), "--data", "rows.jsonl"]
    run = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert run.returncode == 1
    assert run.stderr.startswith("judge.py: rows.jsonl, line 1: expected a LiveCodeBench row")
