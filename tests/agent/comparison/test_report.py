"""The files of a report, and what runs a report is made from."""

from __future__ import annotations

import builtins
import json
import math
import re
from dataclasses import replace
from decimal import Decimal

import pytest
from comparison.made_up import made_up, record, rows, write_run

from vpd_agent.cli.main import main
from vpd_agent.comparison import report
from vpd_agent.comparison.formats import NONE, score, signed, without_folders
from vpd_agent.comparison.past_runs import read_past_runs
from vpd_agent.comparison.report import summary_lines, write_report
from vpd_agent.comparison.results import STUDENT, RunResult
from vpd_agent.comparison.sections import _phase_table
from vpd_agent.comparison.standings import Standings, collapses, idle_shares, phase_seconds

ENDS: dict[str, list[float | None]] = {
    "vpd": [0.76, 0.71, 0.8, 0.69], "sdpo e_step=2": [0.4, 0.44, None, 0.41],
    "grpo": [0.66, 0.61, 0.7, 0.58], "rft": [None] * 4,
}  # fmt: skip
TUNING = [
    {"contestant": "vpd", "values": {"learning_rate": 1e-4}, "seeds": [1000, 1001],
     "scores": [0.31, None], "chosen": True},
]  # fmt: skip
NUMBER = re.compile(r"(?<![\w.])[+−]?(?:\d{1,3}(?:,\d{3})+|\d+)?(?:\.\d+)?(?![\w.]*[a-zA-Z_])")


def numbers(text: str) -> set[str]:
    return {n for n in NUMBER.findall(text) if any(c.isdigit() for c in n)}


def values(found: object) -> list[float]:
    """All numbers of a JSON value, those inside its strings too."""
    if isinstance(found, dict):
        return [v for item in [*found, *found.values()] for v in values(item)]
    if isinstance(found, list):
        return [v for item in found for v in values(item)]
    if isinstance(found, str):
        return [float(n.replace(",", "").replace("−", "-")) for n in numbers(found)]
    return [float(found)] if isinstance(found, int | float) else []


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """The results of a comparison, the folder of its report and the report's files, for tests that
    only read them."""
    made = tmp_path_factory.mktemp("made")
    results = made_up(made / "runs", ENDS, tuning=TUNING)
    return results, made / "report", write_report(made / "report", results)


def test_every_number_of_the_report_is_in_results_json(written):
    """Up to the rounding of the text."""
    _, folder, _ = written
    raw = json.loads((folder / "results.json").read_text())
    known = [abs(v) for v in values(raw)]
    text = re.sub(r"!\[.*", "", (folder / "report.md").read_text())
    assert len(numbers(text)) > 50
    for number in numbers(text):
        plain = number.strip("+−").replace(",", "")
        digits = -int(Decimal(plain).as_tuple().exponent)
        assert any(f"{v:.{digits}f}" == f"{float(plain):.{digits}f}" for v in known), number


def test_the_numbers_of_the_table_are_those_of_the_runs(tmp_path):
    results = made_up(tmp_path, ENDS)
    vpd, grpo = Standings(results).of("vpd"), Standings(results).of("grpo")
    assert vpd.final.value == pytest.approx((0.76 + 0.71 + 0.8 + 0.69) / 4)
    assert vpd.difference is not None
    assert vpd.difference.value == pytest.approx(vpd.final.value - grpo.final.value)
    assert vpd.improvement is not None
    assert vpd.improvement.value == 15 / 16  # only .69 is below a run of grpo, .70
    assert vpd.area.value == pytest.approx((0.14 + vpd.final.value) / 2)  # straight lines
    sdpo = Standings(results).of("sdpo e_step=2")
    assert (sdpo.runs, sdpo.difference.count) == (3, 3)
    assert sdpo.difference.value == pytest.approx((0.4 - 0.66 + 0.44 - 0.61 + 0.41 - 0.58) / 3)


def test_a_metric_of_a_runs_own_comes_before_one_of_a_loss_that_ends_alike(tmp_path):
    """Answers that are cut off are not importance weights that are."""
    step = {
        "truncated": 0.75,
        "sampler/truncated": 0.25,
        "e_step/entropy": 2.0,
        "distill/entropy": 1,
    }
    lost = {"truncated": math.nan, "sampler/truncated": 0.25}
    written = [{"step": 1, **step}, {"step": 2, **lost}, {"step": 3, "sampler/truncated": 0.5}]
    run = RunResult("vpd", 0, tmp_path, "finished", "", written, {})
    assert run.curve("truncated") == {1: 0.75, 3: 0.5}
    assert run.curve("sampler/truncated") == {1: 0.25, 2: 0.25, 3: 0.5}
    assert run.curve("entropy") == {1: 1.0}


def test_what_a_threshold_cost_counts_a_gates_rollouts_and_runs_that_never_reach_it(tmp_path):
    """From .14 in four equal steps: to .54 the first run passes .35 at step 30 (.44), to .30 the
    others never do."""
    results = made_up(tmp_path, {"vpd": [0.54, 0.3, 0.3]}, threshold=0.35)
    results.runs[0].rows[5]["gate/rows"] = 16
    standing = Standings(results).of("vpd")
    assert (standing.reached, standing.rollouts_to) == (1, math.inf)
    alone = made_up(tmp_path / "alone", {"vpd": [0.54]}, threshold=0.35)
    alone.runs[0].rows[5]["gate/rows"] = 16
    assert Standings(alone).of("vpd").rollouts_to == 30 * 64 + 16


def test_the_parts_of_a_run_add_up_to_its_seconds(tmp_path):
    results = made_up(tmp_path, {"vpd": [0.5, 0.6]})
    parts = phase_seconds(results, "vpd")
    assert parts["collect"] == pytest.approx(40 * 0.25)
    spent = [sum(r.get("seconds/step", 0) for r in run.rows) for run in results.runs]
    steps = sum(parts.values()) - parts["evaluate"]
    assert steps == pytest.approx(sum(spent) / 2)
    assert parts["evaluate"] == pytest.approx(5 * 0.8)


def test_idle_shares_are_means_over_the_seconds_of_the_steps_that_tell_them(tmp_path):
    results = made_up(tmp_path, {"vpd": [0.5], "sdpo": [0.5]})
    told = results.finished("vpd")[0].rows[1:3]
    told[0] |= {"idle/trainer": 0.5, "idle/judge": 1.0, "seconds/step": 3.0}
    told[1] |= {"idle/trainer": 0.1, "idle/judge": 0.0, "seconds/step": 1.0}
    expected = {"trainer": (0.5 * 3 + 0.1) / 4, "judge": 3 / 4}
    assert idle_shares(results, "vpd") == pytest.approx(expected)
    assert idle_shares(results, "sdpo") == {}
    table = _phase_table(results)
    assert table.header[-2:] == ["trainer idle", "judge idle"]
    assert [row[-2:] for row in table.rows] == [["40%", "75%"], [NONE, NONE]]


def test_the_monitor_of_training_finds_collapses_in_the_rows(tmp_path):
    """Three evaluations in a row below half of the best one."""
    results = made_up(tmp_path, {"vpd": [0.5]})
    for row, score_ in zip(results.runs[0].rows[::10], (0.8, 0.3, 0.2, 0.1, 0.1), strict=True):
        row[STUDENT] = score_
    [found] = [c for c in collapses(results) if c["collapsed"]]
    assert (found["contestant"], found["seed"], found["step"]) == ("vpd", 0, 30)


def test_the_same_runs_give_the_same_report(written):
    results, folder, first = written
    again = write_report(folder.with_name("again"), results)
    assert [path.name for path in first] == [path.name for path in again]
    for one, other in zip(first, again, strict=True):
        assert one.read_bytes() == other.read_bytes(), one.name


def test_the_report_names_no_folder_of_the_machine(written):
    _, folder, files = written
    for path in files:
        if path.suffix in (".json", ".md", ".html", ".svg"):
            text = path.read_text()
            assert "/home/somebody" not in text
            assert str(folder) not in text


@pytest.mark.parametrize(
    ("text", "cut"),
    [
        ("--data /home/me/a/b.jsonl --out runs/x", "--data b.jsonl --out runs/x"),
        ("http://host:80/v1/models stays", "http://host:80/v1/models stays"),
        ("train/reward and/or vpd/MiniCode-v0", "train/reward and/or vpd/MiniCode-v0"),
        ('"/tmp/x/y/": failed', '"y": failed'),
    ],
)
def test_absolute_paths_are_cut_to_their_last_part(text, cut):
    assert without_folders(text) == cut


def test_without_matplotlib_everything_else_is_written(tmp_path, monkeypatch, capsys):
    real = builtins.__import__

    def refused(name, *rest, **more):
        if name.split(".")[0] == "matplotlib":
            raise ImportError("No module named 'matplotlib'")
        return real(name, *rest, **more)

    monkeypatch.setattr(builtins, "__import__", refused)
    files = write_report(tmp_path, made_up(tmp_path, ENDS))
    assert [path.name for path in files] == ["report.html", "report.md", "results.json"]
    assert "| vpd | 4 | .74" in (tmp_path / "report.md").read_text()
    assert "they need matplotlib" in capsys.readouterr().err


def test_the_page_is_one_file_with_a_figure_of_each_kind_in_the_ink_of_the_page(written):
    _, folder, _ = written
    html = (folder / "report.html").read_text()
    assert html.count("<svg") == 5
    assert "currentColor" in html
    assert not re.search(r'(?:src|href)="(?!#)', html)
    assert len(html) < 5_000_000


@pytest.mark.parametrize("ends", [{"grpo": [0.5]}, {"vpd": [None], "grpo": [None]}, ENDS])
def test_the_terminal_gets_at_most_a_hundred_columns(tmp_path, ends):
    long = {f"{name} {'learning_rate=0.0001 ' * 3}".strip(): v for name, v in ends.items()}
    results = made_up(tmp_path, long, baseline=list(long)[-1])
    assert all(len(line) <= 100 for line in summary_lines(results))


def test_numbers_are_written_without_their_zero_and_never_as_minus_nothing():
    assert [score(v) for v in (0.474, 1.0, -0.06, -0.001, math.nan)] == [
        ".47", "1.00", "−.06", ".00", "–"]  # fmt: skip
    assert [signed(v) for v in (0.03, -0.06, 0.001, -0.001)] == ["+.03", "−.06", ".00", ".00"]


# --- vpd report ----------------------------------------------------------------------------------


def saved_runs(folder, **second):
    """grpo with two seeds and a run of sdpo, one of which may differ."""
    write_run(folder / "a", record("grpo", 0), rows(0.5))
    write_run(folder / "b", record("grpo", 1), rows(0.6))
    write_run(folder / "c", record("sdpo", 0, **second), rows(0.7))
    return [folder / name for name in "abc"]


def test_runs_are_grouped_by_algorithm_and_by_what_differs_in_their_flags(tmp_path):
    paths = saved_runs(tmp_path)
    paths.append(write_run(tmp_path / "d", record("sdpo", 0, learning_rate=1e-4), rows(0.4)))
    results = read_past_runs(paths, "vpd report", None, None)
    assert results.contestants == [
        "grpo", "sdpo learning_rate=0.0002", "sdpo learning_rate=0.0001"]  # fmt: skip
    assert results.baseline == "grpo"
    assert [run.seed for run in results.finished("grpo")] == results.seeds == [0, 1]


def test_a_folder_stands_for_the_runs_in_it(tmp_path):
    saved_runs(tmp_path)
    assert len(read_past_runs([tmp_path, tmp_path / "a"], "", None, None).runs) == 3


def test_the_folder_of_a_comparison_keeps_its_tuning_and_its_trials_are_no_runs(
    tmp_path, monkeypatch
):
    monkeypatch.setattr(report, "draw", lambda *_: [])  # it takes seconds
    saved_runs(tmp_path)
    write_run(tmp_path / "trial", trial := record("sdpo", 1000), rows(0.4))
    trial["config"]["set_aside"] = 0.2
    (tmp_path / "trial" / "config.json").write_text(json.dumps(trial))
    before = read_past_runs([tmp_path], "", None, None)
    assert (before.contestants, before.tuning) == (["grpo", "sdpo"], None)
    tuned = [TUNING[0] | {"contestant": "sdpo"}]
    write_report(tmp_path, replace(before, tuning=tuned))
    [kept] = read_past_runs([tmp_path], "", None, None).tuning
    assert kept == tuned[0] | {"mean": 0.31}


@pytest.mark.parametrize(
    ("second", "said"),
    [
        ({"env": "vpd/Other-v0"}, "env is vpd/MiniCode-v0 in the first and vpd/Other-v0"),
        ({"model": "tiny"}, "model is tiny-warm in the first and tiny in the second"),
        ({"eval_problems": 50}, "eval_problems is 300 in the first and 50 in the second"),
    ],
)
def test_runs_that_are_scored_otherwise_are_refused(tmp_path, capsys, second, said):
    paths = saved_runs(tmp_path, **second)
    assert main(["report", *map(str, paths)]) == 2
    assert said in " ".join(capsys.readouterr().err.split())
    assert not (tmp_path / "report.md").exists()


def test_other_held_out_problems_are_refused(tmp_path):
    paths = saved_runs(tmp_path)
    other = record("sdpo", 1)
    other["fingerprints"]["eval"] = "dddd"
    paths.append(write_run(tmp_path / "d", other, rows(0.4)))
    with pytest.raises(ValueError, match="the held-out problems is bbbb in the first and dddd"):
        read_past_runs(paths, "", None, None)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "Pass at least one folder"),
        (["nowhere"], "There is no folder nowhere"),
        (["."], "holds no run"),
        (["RUN", "--baseline", "grpa"], "Unknown --baseline 'grpa'. Did you mean 'grpo'?"),
        (["RUN", "--threshold", "nan"], "--threshold must be between 0 and 1, got nan."),
        (["RUN", "RUN2"], "Two runs of grpo have the seed 0"),
    ],
)
def test_bad_input_is_refused_in_one_sentence(tmp_path, monkeypatch, capsys, arguments, said):
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path / "empty")
    for name in ("one", "two"):
        write_run(tmp_path / name, record("grpo", 0), rows(0.5))
    where = {"RUN": str(tmp_path / "one"), "RUN2": str(tmp_path / "two")}
    assert main(["report", *(where.get(a, a) for a in arguments)]) == 2
    assert said in " ".join(capsys.readouterr().err.split())


def test_a_run_that_was_never_evaluated_is_refused(tmp_path, capsys):
    bare = [{k: v for k, v in row.items() if "eval/" not in k} for row in rows(0.5)]
    path = write_run(tmp_path / "a", record("grpo", 0), bare)
    assert main(["report", str(path)]) == 2
    assert "was evaluated" in capsys.readouterr().err


def test_an_unfinished_run_is_left_out_of_a_comparison_and_named(tmp_path):
    paths = saved_runs(tmp_path)
    paths.append(write_run(tmp_path / "d", record("sdpo", 1), rows(0.4, steps=20), done=False))
    results = read_past_runs(paths, "", None, None)
    [lost] = results.left_out
    assert (lost.contestant, lost.seed, lost.reason) == ("sdpo", 1, "at step 20 of 40")


def test_one_run_alone_has_its_curves_even_on_its_way(tmp_path, capsys):
    path = write_run(tmp_path / "grpo", record("grpo", 0), rows(0.5, steps=20), done=False)
    assert main(["report", str(path)]) == 0
    assert "grpo" in capsys.readouterr().out
    text = (path / "report.md").read_text()
    assert "Held-out pass@1 at step 20, of one run: grpo .50." in text
    assert "threshold" not in text
    assert "tuned" not in text
    assert (path / "figures" / "curves.png").is_file()
