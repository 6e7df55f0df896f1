"""vpd rejudge: the rollouts of a run by another judge, or with other feedback."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from agent.helpers import small_policy
from agent.parity import Parity, solves
from vpd_agent.cli.main import main
from vpd_envs.answers.sanitize import sanitize
from vpd_envs.feedback.wording import without_thoughts

ENV = ("--env", "agent.parity:Parity")
STEPS, PROMPTS, GROUP = 2, 2, 4
COUNT = STEPS * PROMPTS * GROUP
KEPT = ("--samples-every", 1, "--samples-all")
RUNS = {  # arguments of vpd train
    "one-turn": ("sdpo", *KEPT),
    "turns": ("sdpo", *KEPT, "--set", "max_turns=3", "--max-turn-tokens", 2),
    "teacher": ("pi-distill", *KEPT, "--feedback", "environment+siblings"),
    "few": ("sdpo", "--samples-every", 1),
}


@pytest.fixture(scope="module")
def run_of(tmp_path_factory):
    """Makes a run when it is first asked for; its folder."""
    folder = tmp_path_factory.mktemp("runs")
    small_policy().save(folder / "model")

    def make(name: str) -> Path:
        out = folder / name
        if not out.exists():
            algorithm, *given = RUNS[name]
            sizes = ("--steps", STEPS, "--prompts-per-step", PROMPTS, "--group-size", GROUP)
            common = ("--model", folder / "model", "--max-response-tokens", 60, "--eval-every", 0)
            assert run("train", algorithm, *ENV, *sizes, *common, *given, "--quiet",
                       "--out", out) == 0  # fmt: skip
        return out

    return make


def run(*arguments: object) -> int:
    try:
        return main([str(a) for a in arguments])
    except SystemExit as stop:
        return stop.code


def lines(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def verdicts(path: Path) -> dict[int, dict]:
    """By the line in samples.jsonl; the last one counts."""
    return {row["line"]: row for row in lines(path)[1:]}


def said(capsys) -> str:
    told = capsys.readouterr()
    return " ".join((told.out + told.err).split())


@pytest.mark.parametrize("name", ["one-turn", "turns", "teacher"])
def test_the_judge_of_the_run_says_the_same_again(name, run_of, tmp_path, capsys):
    out = tmp_path / "same.jsonl"
    assert run("rejudge", run_of(name), "--out", out) == 0
    found = verdicts(out)
    assert len(found) == COUNT
    assert all(row["new"] == row["old"] for row in found.values())
    assert 0 < sum(row["old"]["reward"] for row in found.values()) < COUNT
    told = said(capsys)
    assert f"has kept {COUNT} of its {COUNT} rollouts." in told
    assert f"0 of {COUNT} verdicts changed; the feedback differs on 0 of {COUNT} rollouts." in told


def test_runs_have_what_their_names_promise(run_of):
    """Several answers of an episode, teacher rollouts, demonstrations of siblings."""
    assert max(len(row["earlier"]) for row in lines(run_of("turns") / "samples.jsonl")) == 2
    rows = lines(run_of("teacher") / "samples.jsonl")
    assert {row["teacher_rollout"] for row in rows} == {True, False}
    assert any(row["demonstration"] for row in rows)
    groups = [(row["step"], row["group"]) for row in rows]
    assert {groups.count(group) for group in groups} == {GROUP}


def test_another_judge_gives_other_verdicts(run_of, tmp_path, capsys):
    out = tmp_path / "strict.jsonl"
    assert run("rejudge", run_of("one-turn"), "--set", "strict=true", "--out", out) == 0
    changed = 0
    for row in verdicts(out).values():
        (answer,) = row["answers"]
        old, new = solves(answer, False), solves(answer, True)
        assert (row["old"]["reward"], row["new"]["reward"]) == (old, new)
        assert row["new"]["status"] == ("solved" if new else "wrong_answer")
        changed += old != new
    assert changed
    assert f"{changed} of {COUNT} verdicts changed" in said(capsys)
    page = out.with_suffix(".md").read_text()
    fell = sum(solves(r["answers"][0], False) > solves(r["answers"][0], True)
               for r in verdicts(out).values())  # fmt: skip
    stayed = sum(solves(row["answers"][0], True) for row in verdicts(out).values())
    assert f"| solved | {stayed} | {fell} |" in page.splitlines()
    assert "before: solved, reward 1\n" in page
    assert "now: wrong_answer, reward 0\n" in page


def test_siblings_are_those_of_the_same_step(run_of, tmp_path):
    out = tmp_path / "siblings.jsonl"
    assert run("rejudge", run_of("one-turn"), "--feedback", "contrast", "--out", out) == 0
    rows = list(verdicts(out).values())
    shown = 0
    for row in rows:
        siblings = [
            sanitize(without_thoughts(other["answers"][0]))
            for other in rows
            if other["line"] != row["line"]
            and (other["step"], other["problem_id"]) == (row["step"], row["problem_id"])
            and solves(other["answers"][0], False)
        ]
        assert row["new"]["demonstration"] in (siblings or [""])
        assert row["new"]["feedback"] == row["old"]["feedback"]
        assert row["new"]["reward"] == row["old"]["reward"]
        shown += bool(siblings)
    assert shown


def test_an_episode_ends_at_the_first_answer_that_the_new_judge_takes(run_of, tmp_path):
    """And one that the run's judge ended stays as it stands under a stricter one."""
    out = tmp_path / "strict.jsonl"
    assert run("rejudge", run_of("turns"), "--set", "strict=true", "--out", out) == 0
    for row in verdicts(out).values():
        solved = any(solves(answer, True) for answer in row["answers"])
        assert row["new"]["reward"] == solved
        last = row["answers"][-1]
        assert solved or row["new"]["feedback"] == f"{last[:1]!r} is odd."


@pytest.mark.parametrize("rest", [0, 1, 1.5])
def test_an_interrupted_command_goes_on(rest, run_of, tmp_path, monkeypatch):
    """After the first step, a line of the second, or a line that is cut off."""
    out = tmp_path / "out.jsonl"
    command = ("rejudge", run_of("one-turn"), "--feedback", "status", "--out", out)
    assert run(*command) == 0
    whole, text = verdicts(out), out.read_text().splitlines(keepends=True)
    first = PROMPTS * GROUP
    begun = "".join(text[1 + first :][: int(rest) + (rest % 1 > 0)])
    out.write_text("".join(text[: 1 + first]) + begun[: len(begun) - 9 * (rest % 1 > 0)])
    judged, judge = [], Parity.judge
    monkeypatch.setattr(Parity, "judge", lambda *a: judged.append(a[-1]) or judge(*a))
    assert run(*command) == 0
    assert verdicts(out) == whole
    assert set(judged) == {a for line in whole if line > first for a in whole[line]["answers"]}


def test_a_file_of_another_judge_is_refused_by_name(run_of, tmp_path, capsys):
    out = tmp_path / "out.jsonl"
    assert run("rejudge", run_of("one-turn"), "--out", out) == 0
    before = out.read_bytes()
    said(capsys)
    assert run("rejudge", run_of("one-turn"), "--feedback", "first", "--out", out) == 2
    assert "another judge: feedback is 'environment' there, 'first' here" in said(capsys)
    assert run("rejudge", run_of("one-turn"), "--set", "strict=true", "--out", out) == 2
    assert "options.strict is None there, True here" in said(capsys)
    assert run("rejudge", run_of("teacher"), "--feedback", "environment", "--out", out) == 2
    assert "on another rollout than line 1" in said(capsys)
    assert out.read_bytes() == before


def test_what_could_not_be_judged_is_no_verdict_and_is_tried_again(
    run_of, tmp_path, capsys, monkeypatch
):
    out = tmp_path / "out.jsonl"
    problems = [row["problem_id"] for row in lines(run_of("one-turn") / "samples.jsonl")]
    lost = problems.count("train-a")
    assert 0 < lost < COUNT
    with monkeypatch.context() as patch:
        patch.setattr(Parity, "broken", frozenset({"train-a"}))
        assert run("rejudge", run_of("one-turn"), "--out", out) == 1
    told = said(capsys)
    assert f"{lost} rollouts were not judged; the same command tries them again" in told
    assert "the cage burnt down" in told
    assert f"of {COUNT - lost} verdicts changed" in told
    failed = [row for row in lines(out)[1:] if "error" in row]
    assert {row["problem_id"] for row in failed} == {"train-a"}
    assert not any("new" in row for row in failed)
    assert run("rejudge", run_of("one-turn"), "--out", out) == 0
    assert [row["new"] for row in verdicts(out).values()] == [
        row["old"] for row in verdicts(out).values()
    ]


def test_a_judge_model_that_does_not_answer_gives_no_verdict(run_of, tmp_path, capsys):
    source = "judge:base_url=http://127.0.0.1:9/v1,model=m,retries=0"
    out = tmp_path / "out.jsonl"
    assert run("rejudge", run_of("one-turn"), "--feedback", source, "--out", out) == 1
    assert f"{COUNT} rollouts were not judged" in said(capsys)
    assert all("error" in row for row in lines(out)[1:])


def test_the_final_model_of_a_run_criticizes_its_rollouts(run_of, tmp_path):
    path, out = run_of("one-turn"), tmp_path / "out.jsonl"
    given = ("--feedback", "environment+self-critique", "--model", path, "--out", out)
    assert run("rejudge", path, *given) == 0
    for row in verdicts(out).values():
        failed = row["old"]["reward"] == 0
        assert (row["new"]["feedback"] != row["old"]["feedback"]) == failed
    assert lines(out)[0]["judge"]["critic"]["max_tokens"] == 60


def test_it_tells_how_many_rollouts_are_kept(run_of, tmp_path, capsys):
    out = tmp_path / "out.jsonl"
    assert run("rejudge", run_of("few"), "--feedback", "siblings", "--out", out) == 0
    told = said(capsys)
    assert f"has kept {2 * STEPS} of its {COUNT} rollouts." in told
    assert "keeps all of its rollouts with --samples-every 1 --samples-all" in told
    assert "most have no sibling" in told


@pytest.mark.parametrize("name", ["one-turn", "turns"])
def test_files_of_before_are_read_as_far_as_they_go(name, run_of, tmp_path, capsys):
    shutil.copytree(run_of(name), tmp_path / "old")
    rows = lines(tmp_path / "old/samples.jsonl")
    new = ("process", "group", "teacher_rollout", "earlier")
    text = [json.dumps({k: v for k, v in row.items() if k not in new}) + "\n" for row in rows]
    (tmp_path / "old/samples.jsonl").write_text("".join(text))
    whole = [line for line, row in enumerate(rows, 1) if not row["earlier"]]
    assert run("rejudge", tmp_path / "old") == 0
    found = verdicts(tmp_path / "old/rejudge.jsonl")
    assert sorted(found) == whole
    assert all(row["new"] == row["old"] for row in found.values())
    left = COUNT - len(whole)
    assert (f"{left} of them, of several turns, are left out" in said(capsys)) == bool(left)
    assert bool(left) == (name == "turns")


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (("--feedback", "status+self-critique"), "pass --model {run} for the final model"),
        (("--feedback", "reflection"), "pass --model {run} for the final model"),
        (("--model", "tiny"), "leave --model out"),
        (("--split", "test"), f"{COUNT} rollouts are at problems that"),
        (("--set", "strickt=true"), "Unknown option of agent.parity:Parity: 'strickt'"),
        (("--set", "split=test"), "has flags of its own: --split"),
        (("--feedback", "firts"), "Did you mean 'first'"),
        (("--env", "vpd/MiniChoice-v0"), "problems that vpd/MiniChoice-v0 does not have"),
        (("--out", "{run}/verdicts.txt"), "must be a file NAME.jsonl"),
    ],
)
def test_bad_input_is_explained_and_nothing_is_written(given, expected, run_of, capsys):
    path = run_of("one-turn")
    before = sorted(path.rglob("*"))
    capsys.readouterr()
    assert run("rejudge", path, *(text.format(run=path) for text in given)) == 2
    assert expected.format(run=path) in said(capsys)
    assert sorted(path.rglob("*")) == before


def test_what_is_no_run_or_has_kept_nothing_is_explained(run_of, tmp_path, capsys):
    assert run("rejudge", tmp_path) == 2
    assert f"There is no run in {tmp_path}" in said(capsys)
    shutil.copytree(run_of("few"), tmp_path / "empty")
    (tmp_path / "empty/samples.jsonl").unlink()
    assert run("rejudge", tmp_path / "empty") == 2
    assert "has kept no rollouts (--samples-every 0)" in said(capsys)
    (tmp_path / "empty/samples.jsonl").write_text('{"step": 1, "problem_id": "x"}\n')
    assert run("rejudge", tmp_path / "empty") == 2
    assert "samples.jsonl, line 1: expected a rollout with step, problem_id, answer" in said(capsys)
