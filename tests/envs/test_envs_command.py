"""vpd envs, vpd judge and vpd show, as a person types them."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest
from lcb_rows import FIXTURE, block

from vpd_agent.cli.main import main
from vpd_envs.catalog import CATALOG
from vpd_envs.code.mini_code import MiniCode, expression
from vpd_envs.data.provenance import text_hash

MINI = ("--env", "vpd/MiniCode-v0", "--sandbox", "local")
ENV = MiniCode(sandbox="local")
IDS = ENV.problem_ids


def run(*arguments):
    """The exit code, also where the option parser exits by itself."""
    try:
        return main([str(argument) for argument in arguments])
    except SystemExit as stop:
        return stop.code


def right(problem_id):
    return expression(*ENV.problem(problem_id).target)


def written(path, pairs):
    rows = [{"problem_id": problem_id, "answer": answer} for problem_id, answer in pairs]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def read(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_envs_lists_every_environment_with_its_judge_and_data(capsys):
    assert run("envs", "--json") == 0
    rows = json.loads(capsys.readouterr().out)
    assert [row["id"] for row in rows] == [entry.id for entry in CATALOG]
    assert all(row["judge"] and row["data"] and row["size"] for row in rows)
    assert run("envs") == 0
    shown = capsys.readouterr().out
    assert all(entry.id in shown for entry in CATALOG)


def test_verdicts_come_in_the_order_of_the_answers(tmp_path, capsys):
    pairs = [(IDS[0], right(IDS[0])), (IDS[1], "y"), (IDS[0], "x*0+0"), (IDS[2], "")]
    answers = written(tmp_path / "answers.jsonl", pairs)
    out = tmp_path / "new" / "verdicts.jsonl"
    assert run("judge", *MINI, "--answers", answers, "--out", out) == 0
    expected = []
    for problem_id, answer in pairs:
        verdict = ENV.verdict(ENV.problem(problem_id), answer)
        status = verdict.status.value
        row = {"problem_id": problem_id, "answer_hash": text_hash(answer)}
        row |= {"reward": verdict.reward, "status": status, "feedback": verdict.feedback}
        expected.append(row)
    assert read(out) == expected
    assert [row["reward"] for row in expected] == [1.0, 0.0, 0.0, 0.0]
    said = capsys.readouterr().err
    assert "4 answers judged, mean reward 0.2500" in said
    assert run("judge", *MINI, "--answers", answers) == 0
    assert [json.loads(line) for line in capsys.readouterr().out.splitlines()] == expected


def test_judging_goes_on_where_it_ended(tmp_path, capsys):
    pairs = [(IDS[i % 3], f"x+{i}") for i in range(12)]
    answers = written(tmp_path / "answers.jsonl", pairs)
    out = tmp_path / "verdicts.jsonl"
    assert run("judge", *MINI, "--answers", answers, "--out", out) == 0
    whole = out.read_bytes()
    lines = whole.splitlines(keepends=True)
    for cut in (b"", b"".join(lines[:5]), b"".join(lines[:5]) + lines[5][:9], whole):
        out.write_bytes(cut)
        assert run("judge", *MINI, "--answers", answers, "--out", out) == 0
        assert out.read_bytes() == whole
        now = 12 - min(cut.count(b"\n"), 12)
        assert f"12 answers judged, mean reward 0.0000 ({now} now" in capsys.readouterr().err


def test_what_could_not_be_judged_is_said_and_made_anew(tmp_path, capsys):
    pairs = [(IDS[0], "y"), (IDS[1], "z"), (IDS[2], "x")]
    answers = written(tmp_path / "answers.jsonl", pairs)
    out = tmp_path / "verdicts.jsonl"
    assert run("judge", *MINI, "--answers", answers, "--out", out) == 0
    whole = read(out)
    failed = {"problem_id": IDS[1], "answer_hash": text_hash("z"), "reward": None, "status": None}
    failed |= {"feedback": None, "error": "!"}
    out.write_text("".join(json.dumps(row) + "\n" for row in (whole[0], failed)))
    capsys.readouterr()
    assert run("judge", *MINI, "--answers", answers, "--out", out) == 0
    assert read(out) == whole
    left = {"answers.jsonl", "verdicts.jsonl", "verdicts.jsonl.judge.json"}
    assert {path.name for path in tmp_path.iterdir()} == left


def test_known_verdicts_are_compared_and_every_other_one_is_listed(tmp_path, capsys):
    known = [(right(IDS[0]), True), ("y", False), ("y", True), (right(IDS[0]), None)]
    rows = [{"problem_id": IDS[0], "answer": answer, "expected": known} for answer, known in known]
    answers = tmp_path / "answers.jsonl"
    answers.write_text("".join(json.dumps(row) + "\n" for row in rows))
    out = tmp_path / "verdicts.jsonl"
    for _ in range(2):  # the second time, all verdicts are there already
        assert run("judge", *MINI, "--answers", answers, "--out", out) == 1
        said = capsys.readouterr().err
        assert "2 of 3 known verdicts agree" in said
        assert f"answer 3, {IDS[0]}: known as solved, judged runtime_error" in said
    assert set(read(out)[0]) == {"problem_id", "answer_hash", "reward", "status", "feedback"}


def test_an_answer_cut_off_in_thinking_that_its_prompt_opened_is_unfinished(tmp_path):
    pytest.importorskip("math_verify")
    problems = tmp_path / "problems.jsonl"
    problems.write_text('{"id": "p", "problem": "2+2?", "answer": "4"}\n')
    rows = [
        {"answer": r"Maybe \boxed{4}? Wait"},
        {"answer": r"Maybe \boxed{4}? Wait", "thinking_prefilled": True},
        {"answer": r"Maybe \boxed{5}?</think>\boxed{4}", "thinking_prefilled": True},
    ]
    answers, out = tmp_path / "answers.jsonl", tmp_path / "verdicts.jsonl"
    answers.write_text("".join(json.dumps({"problem_id": "p"} | row) + "\n" for row in rows))
    command = ("judge", "--env", "vpd/Math-v0", "--data", problems, "--answers", answers)
    assert run(*command, "--out", out) == 0
    assert [row["status"] for row in read(out)] == ["solved", "no_answer", "solved"]


def test_verdicts_on_other_answers_are_never_gone_on_with(tmp_path, capsys):
    """Of other problems, in another order, fewer, or others to the same problems."""
    pairs = [(IDS[0], "y"), (IDS[1], "y"), (IDS[0], "x")]
    out = tmp_path / "verdicts.jsonl"
    answers = written(tmp_path / "answers.jsonl", pairs)
    assert run("judge", *MINI, "--answers", answers, "--out", out) == 0
    before = out.read_bytes()
    for changed, message in (
        ([(IDS[0], "y"), (IDS[1], "x"), (IDS[0], "x")], "line 2: this is the verdict on another"),
        ([(IDS[0], "x"), (IDS[1], "y"), (IDS[0], "y")], "line 1: this is the verdict on another"),
        ([(IDS[0], "y"), (IDS[2], "y"), (IDS[0], "x")], "line 2: this is no verdict on an answer"),
        (pairs[:2], "has more verdicts than"),
    ):
        capsys.readouterr()
        written(answers, changed)
        assert run("judge", *MINI, "--answers", answers, "--out", out) == 2
        said = capsys.readouterr().err
        assert message in said
        assert "Pass another --out, or remove the file." in said
        assert out.read_bytes() == before
    written(answers, [*pairs, (IDS[2], right(IDS[2]))])  # more answers may come
    assert run("judge", *MINI, "--answers", answers, "--out", out) == 0
    assert "4 answers judged, mean reward 0.2500 (1 now" in capsys.readouterr().err
    assert out.read_bytes().startswith(before)


JUDGE = """
import gymnasium as gym
from vpd_envs import Problem, Status, TextEnv, Verdict


class Shout(TextEnv):
    def __init__(self, word="yes", reward=1.0, **kwargs):
        self.reward = reward
        super().__init__([Problem("1", "Shout: " + word, word.upper())], **kwargs)

    def judge(self, problem, answer):
        return Verdict(self.reward * (answer == problem.target), Status.WRONG_ANSWER, "No.")


gym.register("Shout-v0", entry_point=Shout, vector_entry_point=Shout.vector)
"""


def test_verdicts_of_another_judge_are_never_gone_on_with(tmp_path, capsys, monkeypatch):
    """Another environment, option, problem, or an edited `judge`: each is named."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "shout_judge.py").write_text(JUDGE)
    answers = written(tmp_path / "answers.jsonl", [("1", "YES")])
    out = tmp_path / "verdicts.jsonl"
    command = ("judge", "--env", "shout_judge:Shout-v0", "--answers", answers, "--out", out)
    assert run(*command, "--set", "reward=0.5") == 0
    before = out.read_bytes()
    for options, message in (
        ((), "options.reward is 0.5 there, None here"),
        (("--set", "reward=0.25"), "options.reward is 0.5 there, 0.25 here"),
        (("--set", "reward=0.5", "word=yeah"), "fingerprint is"),
    ):
        capsys.readouterr()
        assert run(*command, *options) == 2
        said = capsys.readouterr().err
        assert "has the verdicts of another judge" in said
        assert message in said
    (tmp_path / "shout_judge.py").write_text(JUDGE + "# mended\n")
    assert run(*command, "--set", "reward=0.5") == 2
    assert "judge is" in capsys.readouterr().err
    (tmp_path / "verdicts.jsonl.judge.json").unlink()
    assert run(*command, "--set", "reward=0.5") == 2
    assert "is missing or damaged" in capsys.readouterr().err
    assert out.read_bytes() == before
    out.unlink()  # as the message says
    assert run(*command) == 0
    assert [row["reward"] for row in read(out)] == [1.0]


def test_a_file_of_something_else_is_left_alone(tmp_path, capsys):
    answers = written(tmp_path / "answers.jsonl", [(IDS[0], "y")])
    out = tmp_path / "thesis.txt"
    out.write_text("do not lose me\n")
    assert run("judge", *MINI, "--answers", answers, "--out", out) == 2
    assert out.read_text() == "do not lose me\n"


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"problem_id": "nothere", "answer": "x"}', "line 2: No problem has the id 'nothere'"),
        ('{"problem_id": "abcd"}', "line 2: expected {'problem_id': text, 'answer': text}"),
        ('{"problem_id": 3, "answer": "x"}', "line 2: expected {'problem_id': text"),
        ("[]", "line 2: expected {'problem_id': text"),
        (
            f'{{"problem_id": "{IDS[0]}", "answer": "x", "expected": 1}}',
            "line 2: 'expected' must be true or false, came 1",
        ),
        (
            f'{{"problem_id": "{IDS[0]}", "answer": "x", "thinking_prefilled": "yes"}}',
            "line 2: 'thinking_prefilled' must be true or false, came 'yes'",
        ),
        ('{"problem_id": "ab', "line 2: the line (is the file complete?) must be JSON"),
    ],
)
def test_a_bad_line_is_named_before_anything_is_judged(tmp_path, capsys, line, message):
    answers = written(tmp_path / "answers.jsonl", [(IDS[0], "y")])
    with answers.open("a") as file:
        file.write(line + "\n")
    out = tmp_path / "verdicts.jsonl"
    assert run("judge", *MINI, "--answers", answers, "--out", out) == 2
    assert message in capsys.readouterr().err
    assert not out.exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--env", "vpd/MiniKode-v0"), "Did you mean 'vpd/MiniCode-v0'"),
        (
            ("--env", "vpd/MiniCode-v0", "--set", "color=red"),
            "Unknown option of vpd/MiniCode-v0: 'color'",
        ),
        (("--env", "vpd/MiniCode-v0", "--set", "red"), "An option is KEY=VALUE"),
        (("--env", "vpd/LiveCodeBench-v0", "--data", "nowhere.jsonl"), "nowhere.jsonl"),
        (("--env", "nomodule:Thing-v0"), "There is no module 'nomodule'"),
    ],
)
def test_mistakes_are_explained_in_a_line(tmp_path, capsys, arguments, message):
    answers = written(tmp_path / "answers.jsonl", [(IDS[0], "y")])
    assert run("judge", *arguments, "--answers", answers) == 2
    said = capsys.readouterr().err
    assert message in said
    assert "Traceback" not in said


def test_an_interrupted_run_keeps_what_it_has_judged(tmp_path):
    """Every verdict is in the file before the next answer's is waited for."""
    pairs = [(IDS[0], "y"), *((IDS[0], "sum(range(10**7*x))" + " " * i) for i in range(500))]
    answers = written(tmp_path / "answers.jsonl", pairs)
    out = tmp_path / "verdicts.jsonl"
    command = [sys.executable, "-m", "vpd_agent.cli", "judge", *MINI, "--answers", answers]
    with subprocess.Popen([*command, "--out", out], stderr=subprocess.PIPE, text=True) as process:
        deadline = time.monotonic() + 60
        while not (out.exists() and out.read_bytes().count(b"\n")):
            assert time.monotonic() < deadline
            time.sleep(0.01)
        process.send_signal(signal.SIGINT)
        said = process.stderr.read()
        assert process.wait(timeout=60) == 130
    assert "interrupted" in said
    assert "Traceback" not in said
    assert 1 <= len(read(out)) < len(pairs)


def test_show_prints_a_problem_and_judges_an_answer(tmp_path, capsys):
    options = ("--env", "vpd/LiveCodeBench-v0", "--data", FIXTURE, "--sandbox", "local")
    assert run("show", *options, "--ids") == 0
    ids = capsys.readouterr().out.split()
    assert run("show", *options, "--problem", ids[1]) == 0
    shown = capsys.readouterr().out
    assert ids[1] in shown
    assert "Time limit per test" in shown
    answer = tmp_path / "answer.md"
    answer.write_text(block("1/0"))
    assert run("show", *options, "--problem", ids[0], "--answer", answer) == 0
    assert "ZeroDivisionError" in capsys.readouterr().out
    assert run("show", *options, "--seed", 3) == 0
    assert run("show", *options, "--problem", "none") == 2
    assert "All ids are in" in capsys.readouterr().err


def test_the_commands_need_no_torch():
    program = (
        "import sys; from vpd_agent.cli.main import main; main(['envs']);"
        "heavy = {'torch', 'transformers', 'datasets', 'sympy'} & set(sys.modules);"
        "assert not heavy, heavy"
    )
    subprocess.run(
        [sys.executable, "-c", program],
        check=True,
        timeout=60,
        stdout=subprocess.DEVNULL,
        env=os.environ | {"COLUMNS": "200"},
    )
