"""vpd compare as a person types it: what it refuses, and that it goes on wherever it was ended."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from agent.helpers import small_policy
from vpd_agent.cli.main import main
from vpd_agent.comparison.runs import is_held
from vpd_agent.runs.files import read_jsonl
from vpd_agent.runs.run_folder import LOCK

TASK = ("--env", "vpd/MiniChoice-v0", "--model", "tiny")
BATCH = ("--prompts-per-step", 2, "--group-size", 2, "--max-response-tokens", 4)
EVALUATED = ("--eval-every", 4, "--eval-problems", 4)
STEPS = 12


def run(*arguments: object) -> int:
    try:
        return main([str(a) for a in arguments])
    except SystemExit as stop:
        return int(stop.code or 0)


def said(capsys) -> str:
    return " ".join(capsys.readouterr().err.split())


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        (["--steps", 0], "--steps must be at least 1, got 0."),
        (["--jobs", 0], "--jobs must be at least 1, got 0."),
        (["--tune", -1], "--tune must be at least 0, got -1."),
        (["--threshold", "nan"], "--threshold must be between 0 and 1, got nan."),
        (["--tune", 2, "--seeds", 1000], "--tune-seeds has 1000 of --seeds"),
        (["--baseline", "grppo"], "Did you mean 'grpo'"),
        (["--set-algorithm", "grpo.betta=1"], "grpo has no option 'betta'."),
        (["--", "--e-step-every", 2], "--set-algorithm vpd.e_step_every=…"),
        (["--", "--eval-every", 0], "These runs would not be evaluated"),
        (["--set-algorithm", "vpd.group_size=4", "--", *EVALUATED], "rollouts per step"),
    ],
)
def test_what_cannot_be_compared_is_refused_before_any_work(given, sentence, tmp_path, capsys):
    out = tmp_path / "c"
    arguments = ("compare", *TASK, "--algorithms", "vpd", "grpo", "--out", out, *given)
    assert run(*arguments) == 2
    assert sentence in said(capsys)
    assert not out.exists()


def command(out: Path, *more: object) -> list[str]:
    given = (*TASK, "--algorithms", "grpo", "rft", "--seeds", 3, "--steps", STEPS, "--jobs", 2,
             "--out", out, *more, "--", *BATCH, *EVALUATED)  # fmt: skip
    return ["compare", *map(str, given)]


def learned(out: Path) -> dict[str, list[dict]]:
    """The metrics of every run, without what depends on the clock."""
    return {
        path.parent.name: [
            {k: v for k, v in row.items() if "second" not in k and "idle" not in k}
            for row in read_jsonl(path)
        ]
        for path in sorted(out.glob("*/metrics.jsonl"))
    }


@pytest.fixture(scope="module")
def straight(tmp_path_factory) -> Path:
    """A comparison that nothing interrupted."""
    out = tmp_path_factory.mktemp("compared") / "c"
    assert run(*command(out)) == 0
    return out


def wait_for(condition, seconds: float = 120) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.02)


@pytest.mark.slow
@pytest.mark.parametrize("how", ["SIGINT to the group", "SIGTERM", "SIGKILL"])
def test_an_interrupted_comparison_goes_on_to_the_same_results(how, straight, tmp_path):
    out = tmp_path / "c"
    number = getattr(signal, how.split()[0])
    with subprocess.Popen(
        [sys.executable, "-m", "vpd_agent.cli", *command(out)],
        stderr=subprocess.PIPE,
        start_new_session=True,
        text=True,
    ) as process:
        wait_for(lambda: any(learned(out).values()))
        if "group" in how:
            os.killpg(process.pid, number)
        else:
            process.send_signal(number)
        assert process.stderr is not None
        words = process.stderr.read()
    assert process.returncode == (-9 if how == "SIGKILL" else 130)
    if how != "SIGKILL":
        assert "To go on: the same command." in words
    wait_for(lambda: not any(is_held(path / LOCK) for path in out.glob("*-seed3")))
    assert min(len(rows) for rows in learned(out).values()) < STEPS + 1
    assert not list(out.glob("*.failed"))
    assert run(*command(out)) == 0
    assert learned(out) == learned(straight)
    assert {len(rows) for rows in learned(out).values()} == {STEPS + 1}  # from step 0 on


@pytest.mark.slow
def test_nothing_is_trained_twice_and_nothing_else_is_taken_for_it(straight, capsys):
    metrics = straight / "grpo-seed3/metrics.jsonl"
    before = metrics.stat().st_mtime_ns
    assert run(*command(straight)) == 0
    assert metrics.stat().st_mtime_ns == before
    experiment = json.loads((straight / "experiment.json").read_text())
    assert list(experiment["contestants"]) == ["grpo", "rft"]
    assert experiment["seeds"] == [3]
    for changed, sentence in (
        ([*command(straight), "--learning-rate", "0.5"], "there, 0.5 here"),
        ([*command(straight), "--eval-problems", "3"], "eval_problems is 4 there, 3 here"),
        (command(straight, "--steps", 5), "steps is 12 there, 5 here"),
        (
            command(straight, "--env", "vpd/MiniArithmetic-v0"),
            "there, 'vpd/MiniArithmetic-v0' here",
        ),
    ):
        capsys.readouterr()
        assert run(*changed) == 2
        assert sentence in said(capsys)
    assert metrics.stat().st_mtime_ns == before


@pytest.mark.slow
def test_finished_runs_of_another_comparison_are_taken_over(straight, tmp_path):
    out = tmp_path / "c"
    assert run(*command(out, "--reuse", straight.parent)) == 0
    assert learned(out) == learned(straight)
    assert not list(out.glob("*.log"))  # nothing was trained


@pytest.mark.slow
def test_a_finished_comparison_is_told_again_without_torch(straight, capsys):
    """In a process of its own, which has not imported it for another test."""
    assert run(*command(straight)) == 0
    told = capsys.readouterr().out
    program = (
        "import sys; from vpd_agent.cli.main import main; code = main(sys.argv[1:]); "
        "print(code, sorted({'torch', 'transformers'} & sys.modules.keys()))"
    )
    again = subprocess.run(
        [sys.executable, "-c", program, *command(straight)], capture_output=True, text=True
    )
    assert again.stdout == f"{told}0 []\n"
    assert "Nothing is left to do" in again.stderr
    (straight / "report.md").unlink()
    assert run(*command(straight)) == 0
    assert (straight / "report.md").is_file()


@pytest.mark.slow
def test_another_model_under_the_same_name_is_refused(tmp_path, capsys):
    """A comparison of the same words is finished; the weights in the folder are others."""
    model = tmp_path / "model"
    small_policy(seed=0).save(model)
    given = ("compare", "--env", "vpd/MiniChoice-v0", "--model", model, "--algorithms", "rft",
             "--steps", 1, "--out", tmp_path / "c", "--", *BATCH, "--eval-every", 1,
             "--eval-problems", 2)  # fmt: skip
    assert run(*given) == 0
    small_policy(seed=1).save(model)
    capsys.readouterr()
    assert run(*given) == 2
    assert "holds another comparison: model." in said(capsys)
    (tmp_path / "c" / "experiment.json").unlink()  # as where a lab's archive was unpacked
    assert run(*given) == 2
    assert "holds a run that began with other weights of" in said(capsys)


@pytest.mark.slow
def test_a_run_that_fails_is_reported_and_run_again_on_request(tmp_path, capsys):
    """A folder that is in use ends a run at once; the other is finished."""
    out = tmp_path / "c"
    given = ["compare", *TASK, "--algorithms", "rft", "grpo", "--steps", 2, "--out", out]
    options = ["--", *BATCH, "--eval-every", 1, "--eval-problems", 2]
    (out / "rft-seed0").mkdir(parents=True)
    (out / "rft-seed0/not-ours").write_text("a run cannot be begun here")
    assert run(*given, *options) == 1
    output = capsys.readouterr()
    assert "rft seed 0 failed: exit code 2" in " ".join(output.err.split())
    assert "rft" in output.out
    results = json.loads((out / "results.json").read_text())
    assert [(r["contestant"], r["outcome"]) for r in results["runs"]] == [
        ("rft", "failed"), ("grpo", "finished")]  # fmt: skip
    (out / "rft-seed0/not-ours").unlink()
    assert run(*given, *options) == 1  # it stays failed until it is asked for
    assert run(*given, "--retry-failed", *options) == 0


@pytest.mark.slow
def test_tuned_runs_have_what_the_trials_chose(tmp_path, capsys):
    out = tmp_path / "c"
    assert run("compare", *TASK, "--algorithms", "grpo", "--steps", 2, "--tune", 2,
               "--tune-seeds", 7, "--tune-steps", 1, "--out", out, "--", *BATCH,
               "--eval-every", 1, "--eval-problems", 2) == 0  # fmt: skip
    tuning = json.loads((out / "experiment.json").read_text())["tuning"]
    assert [trial["chosen"] for trial in tuning].count(True) == 1
    (chosen,) = (trial["values"] for trial in tuning if trial["chosen"])
    config = json.loads((out / "grpo-seed0/config.json").read_text())
    assert config["config"]["learning_rate"] == float(chosen["learning_rate"])
    assert config["config"]["set_aside"] == 0.0
    trial = json.loads((out / "tuning/grpo-trial1-seed7/config.json").read_text())
    assert trial["config"]["set_aside"] == 0.2
    assert trial["fingerprints"]["eval"] == trial["fingerprints"]["train"]
    # Of trials only the numbers are kept: weights of a real model are gigabytes.
    weights = {path.relative_to(out).parts[0] for path in out.rglob("*.safetensors")}
    assert weights == {"grpo-seed0"}
    assert not list((out / "tuning").glob("*/checkpoints"))


@pytest.mark.slow
def test_a_comparison_can_end_with_its_trials(tmp_path, capsys):
    """And go on to its runs with what they have chosen."""
    out = tmp_path / "c"
    given = ("compare", *TASK, "--algorithms", "grpo", "--steps", 1, "--tune", 2, "--tune-seeds", 7,
             "--out", out)  # fmt: skip
    of_runs = ("--", *BATCH, "--eval-every", 1, "--eval-problems", 2)
    assert run(*given, "--trials-only", *of_runs) == 0
    told = json.loads((out / "tuning.json").read_text())["tuning"]
    assert [(trial["contestant"], len(trial["scores"])) for trial in told] == [("grpo", 1)] * 2
    assert str(out / "tuning.json") in capsys.readouterr().out
    assert not (out / "results.json").exists()
    assert not (out / "grpo-seed0").exists()
    before = (out / "tuning/grpo-trial0-seed7/metrics.jsonl").stat().st_mtime_ns
    assert run(*given, *of_runs) == 0
    assert (out / "tuning/grpo-trial0-seed7/metrics.jsonl").stat().st_mtime_ns == before
    config = json.loads((out / "grpo-seed0/config.json").read_text())["config"]
    (rate,) = (trial["values"]["learning_rate"] for trial in told if trial["chosen"])
    assert config["learning_rate"] == float(rate)


def test_only_the_trials_of_no_trials_are_refused(tmp_path, capsys):
    assert run("compare", *TASK, "--trials-only", "--out", tmp_path) == 2
    assert "--trials-only needs a --tune of at least 2, got 0" in capsys.readouterr().err
