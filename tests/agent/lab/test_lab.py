"""vpd lab as a person types it, and the summary that it writes."""

from __future__ import annotations

import json
import math
import re
from pathlib import Path

import pytest
from comparison.made_up import made_up, record, rows, write_run
from comparison.test_report import numbers, values

from vpd_agent.algorithms import ALGORITHMS
from vpd_agent.cli import lab as command_line
from vpd_agent.cli.compare import planned
from vpd_agent.cli.main import main
from vpd_agent.comparison import report
from vpd_agent.comparison.experiment import Contestant, feedback_meaning, without_doubles
from vpd_agent.comparison.runs import Run
from vpd_agent.comparison.tuning import TRIALS
from vpd_agent.lab import prompt_only, summary
from vpd_agent.lab.archive import ARCHIVE, unpack
from vpd_agent.lab.claims import CLAIMS
from vpd_agent.lab.estimate import Planned, estimate
from vpd_agent.lab.experiments import EXPERIMENTS, Request, chosen, commands
from vpd_agent.lab.readings import chosen_values, read_tuning
from vpd_agent.lab.tasks import TASKS
from vpd_agent.runs.run_folder import RunFolder

ENDS: dict[str, list[float | None]] = {
    "vpd": [0.80, 0.70, 0.90, 0.75], "sdpo": [0.50, 0.45, None, 0.50], "grpo": [0.6, 0.4, 0.6, 0.4],
}  # fmt: skip


def run(*arguments: object) -> int:
    try:
        return main([str(a) for a in arguments])
    except SystemExit as stop:
        return int(stop.code or 0)


def without_pictures(monkeypatch) -> None:
    """As without matplotlib: pictures take seconds."""

    def refused(*_):
        raise ImportError("No module named 'matplotlib'")

    monkeypatch.setattr(report, "draw", refused)
    monkeypatch.setattr(summary, "draw_lab", refused)


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_no_experiment_compares_a_source_of_feedback_with_itself(name):
    feedback = EXPERIMENTS[name].feedback
    assert without_doubles("", feedback, feedback_meaning) == (feedback, "")


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Path:
    """A lab with two finished comparisons."""
    out = tmp_path_factory.mktemp("made") / "lab"
    with pytest.MonkeyPatch.context() as monkeypatch:
        without_pictures(monkeypatch)
        for where in ("main/code-warm", "cold-start/code-cold"):
            report.write_report(out / where, made_up(out / where, ENDS))
        summary.write_summary(out)
    return out


# --- the summary ---------------------------------------------------------------------------------


def test_every_number_of_the_summary_is_in_summary_json(made):
    known = [abs(v) for v in values(json.loads((made / "summary.json").read_text()))]
    text = (made / "summary.md").read_text()
    told = numbers(text)
    assert len(told) > 40
    for number in told:
        plain = number.strip("+−").replace(",", "")
        digits = len(plain.partition(".")[2])
        assert any(f"{v:.{digits}f}" == f"{float(plain):.{digits}f}" for v in known), number


def test_the_summary_says_what_holds_and_which_runs_were_left_out(made):
    text = (made / "summary.md").read_text()
    says = "VPD ends above SDPO, each with 0.3 of the reward's term."
    assert f"| {says} | holds here: code-warm; not run: choice-warm" in text
    assert "code-warm: left out of the numbers: sdpo seed 2 (failed)." in text
    assert "[report on code-warm](main/code-warm/report.html)" in text
    assert "Not decided yet: vpd is best or tied on 2 of" in text
    found = json.loads((made / "main/results.json").read_text())["runs"]
    assert [(r["algorithm"], r["seed"]) for r in found] == [
        (name, seed) for name in ENDS for seed in range(4)]  # fmt: skip


def test_the_same_runs_give_the_same_summary(made, monkeypatch):
    without_pictures(monkeypatch)
    names = ("index.html", "summary.md", "summary.json", "main/results.json")
    before = [(made / name).read_bytes() for name in names]
    summary.write_summary(made)
    assert [(made / name).read_bytes() for name in names] == before


def test_the_summary_leads_nowhere_outside_its_folder(made):
    html = (made / "index.html").read_text()
    assert str(made) not in html
    for target in re.findall(r'(?:src|href)="([^"#]*)"', html):
        assert (made / target).is_file(), target


def test_a_published_summary_stands_by_itself(compared, tmp_path):
    published = tmp_path / "published"
    (published / "rigid").mkdir(parents=True)
    (published / "rigid/results.json").write_text("{}")  # of a lab of before
    assert run("lab", *TWO, "--out", tmp_path / "lab", "--publish", published) == 0
    files = {str(p.relative_to(published)) for p in published.rglob("*") if p.is_file()}
    assert files == {"index.html", "summary.md", "summary.json", "runs.jsonl.xz",
                     "prior/results.json", "frequency/results.json"}  # fmt: skip
    for name in files - {"index.html", "summary.md", "runs.jsonl.xz"}:
        assert (published / name).read_bytes() == (tmp_path / "lab" / name).read_bytes()
    assert "report on" in (tmp_path / "lab/index.html").read_text()
    assert "report on" not in (published / "index.html").read_text()


def test_a_published_summary_has_no_pictures_of_a_lab_of_before(made, tmp_path, monkeypatch):
    def draw(lab, claims, folder):
        folder.mkdir(exist_ok=True)
        for name in ("new.png", "new.svg"):
            (folder / name).write_text("")
        return {"new": summary.Figure("figures/new.png", "caption")}

    monkeypatch.setattr(summary, "draw_lab", draw)
    (tmp_path / "figures").mkdir()
    (tmp_path / "figures/old.png").write_text("")
    summary.write_summary(made, tmp_path)
    assert {file.name for file in (tmp_path / "figures").iterdir()} == {"new.png", "new.svg"}


def test_another_machine_goes_on_from_what_was_published(compared, tmp_path, capsys):
    published = tmp_path / "published"
    assert run("lab", *TWO, "--out", tmp_path / "lab", "--publish", published) == 0
    other = ("lab", *TWO, "--out", tmp_path / "other", "--publish", published)
    assert run(*other, "--dry-run") == 0
    assert not (tmp_path / "other").exists()
    assert f"taken over from {published / 'runs.jsonl.xz'} first" in capsys.readouterr().out
    _, codes = compared
    codes |= {"prior/code-warm": 130}
    assert run(*other) == 130
    for seed in (0, 1):
        run_there = tmp_path / f"other/prior/code-warm/vpd-seed{seed}"
        assert RunFolder.finished_step(run_there) == 40
    (published / "runs.jsonl.xz").write_bytes(b"cut off")
    assert run(*other) == 2
    assert "cannot be read as the runs of a lab" in " ".join(capsys.readouterr().err.split())


@pytest.mark.slow
def test_the_same_runs_give_the_same_pictures(tmp_path):
    report.write_report(tmp_path / "main/code-warm", made_up(tmp_path / "main/code-warm", ENDS))
    summary.write_summary(tmp_path)
    drawn = sorted((tmp_path / "figures").iterdir())
    before = [path.read_bytes() for path in drawn]
    assert {path.stem for path in drawn} == {"main-curve", "claims", "main-ends", "main-curves"}
    summary.write_summary(tmp_path)
    assert [path.read_bytes() for path in drawn] == before
    assert (tmp_path / "index.html").read_text().count("<svg") == 4


# --- what is asked for ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        (["mian"], "Unknown experiment 'mian'. Did you mean 'main'?"),
        (["main", "--tasks", "code-wram"], "Unknown task 'code-wram'. Did you mean 'code-warm'"),
        (["rigid", "--tasks", "code-warm"], "rigid has none of these; it has code-rigid"),
        (["frequency", "--publish", __file__], "is a file; pass a folder."),
        (["frequency", "--steps", 0], "--steps must be at least 1, got 0."),
        (["frequency", "--tune", -1], "--tune must be at least 0, got -1."),
        (["frequency", "--tune", 2, "--seeds", 1000], "--tune-seeds has 1000 of --seeds"),
        (["frequency", "--", "--learning-raet", 1], "Did you mean '--learning-rate'"),
        (["main", "--tasks", "code-warm", "--algorithms", "vdp"], "Did you mean 'vpd'"),
    ],
)
def test_bad_input_is_refused_before_any_work(given, sentence, tmp_path, capsys):
    assert run("lab", "--out", tmp_path / "lab", *given) == 2
    assert sentence in " ".join(capsys.readouterr().err.split())
    assert not (tmp_path / "lab").exists()


def test_without_a_name_the_experiments_are_listed(capsys):
    assert run("lab") == 0
    told = capsys.readouterr().out
    assert all(experiment.question in told for experiment in EXPERIMENTS.values())


def test_a_dry_run_trains_nothing_and_prints_commands_that_can_be_pasted(tmp_path, capsys):
    given = ("frequency", "prior", "--tasks", "code-warm", "--seeds", 0, 1, "--jobs", 2)
    assert run("lab", *given, "--out", tmp_path / "lab", "--dry-run") == 0
    told = capsys.readouterr().out.splitlines()
    assert not (tmp_path / "lab").exists()
    # Of 2 + 4 contestants with two seeds those of the default, F = 5 and dynamic, are the same.
    assert told[0].startswith("# prior on code-warm: 4 runs, 4 to train, about ")
    assert told[3].startswith("# frequency on code-warm: 8 runs, 6 to train, about ")
    assert told[1].startswith("vpd compare --env vpd/MiniCode-v0 --model tiny-warm")
    assert len([line for line in told if line and not line.startswith(("#", "vpd compare "))]) == 0


def request(out: Path, **more) -> Request:
    return Request(out=out, seeds=(0, 1), steps=200, **more)


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_every_command_is_one_that_vpd_compare_accepts(name, tmp_path, monkeypatch):
    """And has the contestants that its baseline and its claims name, of the methods there are."""
    monkeypatch.setattr("vpd_agent.cli.compare.check_model", lambda name: None)
    for (_, task), command in commands(chosen([name]), request(tmp_path)).items():
        labels = [contestant.label for contestant in planned(command).contestants]
        baseline = EXPERIMENTS[name].baseline
        assert baseline is None or baseline in labels
        for claim in (c for c in CLAIMS if c.experiment == name):
            named = {c for part in claim.parts for c in (*part.ours, *part.theirs)}
            assert {c for c in named if c.split()[0] in ALGORITHMS} <= set(labels), task


def test_all_stands_for_every_experiment_and_every_task_there_is(tmp_path):
    keys = list(commands(chosen(["all"]), request(tmp_path)))
    assert dict.fromkeys(name for name, _ in keys) == dict.fromkeys(EXPERIMENTS)
    assert {task for _, task in keys} == set(TASKS)


def planned_runs(folder: Path, *labels: str) -> list[Run]:
    contestants = [Contestant(f"vpd {x}", "vpd", "environment", (), x) for x in labels]
    return [Run(c, seed, folder / f"{c.folder}-seed{seed}", 40) for c in contestants
            for seed in (0, 1)]  # fmt: skip


def test_time_is_estimated_from_finished_runs(tmp_path):
    """A run's steps take .4 to .42 s, its five evaluations .8 s each, and 10 s its start."""
    runs = planned_runs(tmp_path, "a")
    write_run(runs[0].path, record("vpd", 0), rows(0.5))
    found = estimate([Planned("prior", "code-warm", runs, trials=(), jobs=1)])
    assert (found.left, found.measured) == ({"prior on code-warm": 1}, 1)
    assert 40 * 0.4 + 4 + 10 < 3600 * found.hours["prior on code-warm"] < 40 * 0.42 + 4 + 10
    three = planned_runs(tmp_path / "tuning", "a", "b")[1:]
    tuned = estimate([Planned("prior", "code-warm", runs, trials=three, jobs=4)])
    assert tuned.left == {"prior on code-warm": 1 + 3}
    assert tuned.hours["prior on code-warm"] == pytest.approx(found.hours["prior on code-warm"])
    write_run(three[0].path, record("vpd", 0), rows(0.5))
    fewer = estimate([Planned("prior", "code-warm", runs, trials=three, jobs=4)])
    assert fewer.left == {"prior on code-warm": 1 + 2}


# --- calling the comparisons ---------------------------------------------------------------------


@pytest.fixture
def compared(monkeypatch):
    """The calls of vpd compare, each of which only writes what one would: made-up runs."""
    without_pictures(monkeypatch)
    calls, codes = [], {}

    def compare(arguments: list[str]) -> int:
        out = Path(arguments[arguments.index("--out") + 1])
        calls.append("/".join(out.parts[-2:]))
        code = codes.pop(calls[-1], 0)
        if isinstance(code, Exception):
            raise code
        if code != 130 and not (out / "results.json").exists():
            report.write_report(out, made_up(out, {"vpd": [0.5, 0.6]}))
        return code

    def solve(arguments: list[str]) -> int:
        out = Path(arguments[arguments.index("--out") + 1])
        calls.append("/".join(out.parts[-2:]))
        curve = {"mean": [0.125, 0.875], "low": [0.0625, 0.75], "high": [0.25, 0.9375]}
        out.mkdir(parents=True, exist_ok=True)
        code = codes.pop(calls[-1], 0)
        numbers = {
            "budget": int(arguments[arguments.index("--budget") + 1]),
            "problems": ["p", "q"],
            "seeds": [0],
            "pairs": [["p", 0]] if code else [["p", 0], ["q", 0]],
            "methods": {"multi-turn": {"discovery": curve}},
        }
        (out / "results.json").write_text(json.dumps(numbers))
        return code

    monkeypatch.setattr(command_line, "compare", compare)
    monkeypatch.setattr(command_line, "solve", solve)
    return calls, codes


TWO = ("prior", "frequency", "--tasks", "code-warm")


def test_what_fails_in_one_comparison_stops_no_other(compared, tmp_path, capsys):
    calls, codes = compared
    codes |= {"prior/code-warm": ValueError("it holds another comparison")}
    assert run("lab", *TWO, "--out", tmp_path) == 1
    assert calls == ["prior/code-warm", "frequency/code-warm"]
    told = capsys.readouterr()
    assert "it holds another comparison" in told.err
    assert "Not all of prior on code-warm could be done" in " ".join(told.err.split())
    assert "frequency" in (tmp_path / "index.html").read_text()


def test_the_prompt_only_baseline_stands_beside_the_methods(compared, tmp_path, capsys):
    """It has as many attempts as a run has rollouts: 200 steps of 64, shared by 300 problems."""
    calls, codes = compared
    codes |= {"prompt-only/code-cold": 1}
    assert run("lab", "cold-start", "--tasks", "code-cold", "--out", tmp_path) == 1
    assert calls == ["cold-start/code-cold", "prompt-only/code-cold"]
    assert "Not all of cold-start on code-cold could be done" in capsys.readouterr().err
    assert (
        "| code-cold | multi-turn | .12 | .88 (.75 to .94) |"
        in (tmp_path / "summary.md").read_text()
    )
    searches = []
    for steps in (200, 200, 100):  # what failed, nothing, and with another budget
        calls.clear()
        options = ("--tasks", "code-cold", "--steps", steps, "--out", tmp_path)
        assert run("lab", "cold-start", *options) == 0
        searches.append(calls.count("prompt-only/code-cold"))
    assert searches == [1, 0, 1]
    words = prompt_only.command("function-cold", request(tmp_path))
    assert words[words.index("--budget") + 1] == str(math.ceil(200 * 64 / 300))
    assert run("solve", *words, "--limit", 0) == 2  # all of its flags are known
    assert "--limit must be at least 1" in capsys.readouterr().err


def trials(algorithm="vpd", scores=(0.25, 0.75)):
    """Two for an algorithm, with learning rates 0.1 and 0.2, on two seeds."""
    return [
        {"contestant": algorithm, "values": {"learning_rate": rate, "e_step_every": "2"},
         "seeds": [1000, 1001], "scores": [score - 0.25, score + 0.25], "chosen": score == 0.75}
        for rate, score in zip(("0.1", "0.2"), scores, strict=True)
    ]  # fmt: skip


def tuned(folder: Path, scores=(0.25, 0.75)) -> None:
    """What the trials of a tuning on one task leave."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / TRIALS).write_text(json.dumps({"command": "", "tuning": trials(scores=scores)}))


WARM = [task for task in TASKS if task.endswith("-warm")]


def test_the_lab_tunes_first_and_trains_with_what_was_best_on_all_tasks(
    compared, tmp_path, monkeypatch
):
    """On code-warm 0.2 is better by 0.5, on each of the others 0.1 by 0.2: it has the higher mean,
    and 0.2 falls less short. What an experiment varies by itself is left to it."""
    calls, _ = compared
    commands_, made_before = [], command_line.compare

    def compare(arguments):
        commands_.append(arguments)
        if "--tune" not in arguments:
            return made_before(arguments)
        folder = Path(arguments[arguments.index("--out") + 1])
        calls.append("/".join(folder.parts[-2:]))
        tuned(folder, (0.25, 0.75) if folder.name == "code-warm" else (0.7, 0.5))
        return 0

    monkeypatch.setattr(command_line, "compare", compare)
    assert run("lab", *TWO, "--tune", 2, "--out", tmp_path) == 0
    tunings = [f"tuning/{task}" for task in WARM]
    assert calls == [*tunings, "prior/code-warm", "frequency/code-warm"]
    *tunings, prior, frequency = (" ".join(words) for words in commands_)
    assert tunings[0].startswith("--tune 2 --trials-only --env vpd/MiniCode-v0")
    assert not any("--set-algorithm" in tuning for tuning in tunings)
    varied = "--set-algorithm vpd.prior=dynamic,fixed"
    assert f"{varied} vpd.learning_rate=0.2 vpd.e_step_every=2 --" in prior
    assert "--set-algorithm vpd.e_step_every=1,2,5,10 vpd.learning_rate=0.2 --" in frequency
    text = (tmp_path / "summary.md").read_text()
    values = "learning_rate = {} and e_step_every = 2"
    means = (0.25 + 3 * 0.7) / 4, (0.75 + 3 * 0.5) / 4
    first, second = (f"{mean:.2f}".lstrip("0") for mean in means)
    assert first > second
    assert f"| vpd | {values.format(0.1)} |  | .25 | .70 | .70 | .70 | {first} | .50 |" in text
    assert (
        f"| vpd | {values.format(0.2)} | chosen | .75 | .50 | .50 | .50 | {second} | .20 |" in text
    )
    told = " ".join(text.split())
    assert "one setting, which was tuned on code-warm, choice-warm, arithmetic-warm and" in told


def test_a_dry_run_counts_the_trials(tmp_path, capsys):
    """2 algorithms, 2 trials each on 2 seeds; their 8 seeds train once for both experiments."""
    given = ("main", "teacher", "--tasks", "code-warm", "--tune", 2, "--tune-on", "choice-warm")
    assert run("lab", *given, "--algorithms", "grpo", "--out", tmp_path / "lab", "--dry-run") == 0
    told = capsys.readouterr().out
    assert "# tuning on choice-warm: 20 runs, 20 to train" in told  # teacher has four algorithms
    assert "# main on code-warm: 8 runs, 8 to train" in told
    assert "# What the tuning chooses is added to the other commands" in told


def test_the_tasks_of_the_tuning_can_be_chosen(compared, tmp_path, capsys):
    calls, _ = compared
    given = ("--tune", 2, "--tune-on", "choice-cold", "--out", tmp_path)
    assert run("lab", *TWO, *given) == 0
    assert calls == ["tuning/choice-cold", "prior/code-warm", "frequency/code-warm"]
    tuned(tmp_path / "tuning/choice-cold")
    calls.clear()
    assert run("lab", *TWO, *given) == 0
    text = (tmp_path / "summary.md").read_text()
    assert "What was best there was chosen" in text
    assert "tuned on choice-cold alone: each may do better on another task" in text
    assert run("lab", *TWO, "--tune", 2, "--tune-on", "choice", "--out", tmp_path) == 2
    assert "Unknown task 'choice'. Did you mean 'choice-" in capsys.readouterr().err


def test_a_trial_with_a_run_that_failed_is_not_chosen(tmp_path):
    tuned(tmp_path / "tuning/code-warm", (0.25, 0.5))
    failed = trials(scores=(0.25, 0.75))
    failed[1]["scores"][0] = None
    (tmp_path / "tuning/choice-warm").mkdir()
    (tmp_path / "tuning/choice-warm" / TRIALS).write_text(json.dumps({"tuning": failed}))
    first, second = read_tuning(tmp_path)
    assert (first.mean, second.mean) == (0.25, -math.inf)
    assert (first.chosen, second.chosen) == (True, False)
    assert chosen_values([first, second])["vpd"]["learning_rate"] == "0.1"


def test_what_was_tuned_for_other_experiments_is_tuned_still(compared, tmp_path, monkeypatch):
    for task in WARM:
        tuned(tmp_path / "tuning" / task)  # of vpd
    asked, made_before = [], command_line.compare

    def compare(arguments):
        asked.append(arguments[arguments.index("--algorithms") + 1 : arguments.index("--feedback")])
        return made_before(arguments)

    monkeypatch.setattr(command_line, "compare", compare)
    given = ("main", "--tasks", "code-warm", "--tune", 2, "--out", tmp_path)
    assert run("lab", *given, "--algorithms", "grpo") == 0
    assert asked == [["vpd", "grpo"]] * len(WARM) + [["grpo"]]


def test_what_has_finished_is_published_before_the_rest(compared, tmp_path):
    """An interruption loses nothing but the comparison that it comes into."""
    calls, codes = compared
    codes |= {"frequency/code-warm": 130}
    given = ("--publish", tmp_path / "published")
    assert run("lab", *TWO, *given, "--out", tmp_path / "a") == 130
    calls.clear()
    assert run("lab", *TWO, *given, "--out", tmp_path / "b", "--dry-run") == 0
    assert unpack(tmp_path / "published" / ARCHIVE, tmp_path / "b") == 1
    assert (tmp_path / "b/prior/code-warm/results.json").is_file()


def test_nothing_is_trained_where_the_tuning_did_not_end(compared, tmp_path, capsys):
    calls, codes = compared
    for code, told in ((1, "The tuning could not be finished"), (130, "")):
        codes |= {"tuning/code-warm": code}  # the first
        assert run("lab", *TWO, "--tune", 2, "--out", tmp_path / str(code)) == code
        assert told in capsys.readouterr().err
    assert calls == ["tuning/code-warm"] * 2


def test_an_interrupted_lab_goes_on_to_the_same_summary(compared, tmp_path):
    calls, codes = compared
    codes |= {"frequency/code-warm": 130}
    assert run("lab", *TWO, "--out", tmp_path / "a") == 130
    assert run("lab", *TWO, "--out", tmp_path / "a") == 0
    assert calls == ["prior/code-warm", "frequency/code-warm"] * 2
    assert run("lab", *TWO, "--out", tmp_path / "b") == 0
    for name in ("index.html", "summary.md", "summary.json"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()
