"""vpd eval: resumable, exact, and honest about what could not be judged."""

from __future__ import annotations

import fcntl
import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from agent.helpers import SecretLetter, remove_options, small_policy
from sandbox import SandboxError
from vpd_agent.cli.main import main
from vpd_agent.engines.hf import HFEngine
from vpd_agent.evaluation.answer_file import AnswerFile
from vpd_agent.evaluation.evaluate import complete_answers, summarize
from vpd_agent.evaluation.in_training import evaluate_student
from vpd_agent.rollout.collect import Actor
from vpd_agent.train.config import TrainConfig
from vpd_envs import FeedbackSource, compose
from vpd_envs.feedback import Parts

IDS = [f"test-{letter}" for letter in "abcdefgh"]
MEASURED = {"env": "e", "model": "m", "temperature": 1.0}
MAX_TOKENS = 2


class Flaky(SecretLetter):
    """Cannot judge vowels while the cage burns."""

    burns = True

    def judge(self, problem, answer):
        if self.burns and problem.target in "ae":
            raise SandboxError("the cage burnt down")
        return super().judge(problem, answer)


@pytest.fixture(scope="module")
def policy():
    return small_policy()


@pytest.fixture(scope="module")
def model(tmp_path_factory, policy) -> str:
    path = tmp_path_factory.mktemp("model")
    policy.save(path)
    return str(path)


def filled(path: Path, policy, *, samples: int = 4, num_envs: int = 5, seed: int = 0, env=None):
    """The lines of a file after one go."""
    environment = (env or SecretLetter).vector(num_envs, split="test")
    with AnswerFile(path, MEASURED) as file:
        actor = Actor(policy, HFEngine(policy), environment, MAX_TOKENS)
        complete_answers(file, actor, IDS, samples=samples, seed=seed)
        return dict(file.judged)


def run(*given: object) -> int:
    try:
        return main([str(a) for a in given])
    except SystemExit as stop:
        return stop.code


def said(capsys) -> str:
    return " ".join(capsys.readouterr().err.split())


# --- the file -----------------------------------------------------------------------------------


def test_every_sample_of_every_problem_has_a_line(tmp_path, policy):
    lines = filled(tmp_path / "a.jsonl", policy)
    assert set(lines) == {(p, s) for p in IDS for s in range(4)}
    text = (tmp_path / "a.jsonl").read_text().splitlines()
    assert json.loads(text[0]) == {"evaluation": MEASURED}
    assert len(text) == 1 + 8 * 4
    for line in lines.values():
        assert line["reward"] == float(line["answer"][:1] == line["problem_id"][-1])
        assert line["feedback"] == "=" or line["feedback"].startswith("want")


def test_a_demonstration_has_a_place_of_its_own(tmp_path, policy):
    class Demonstrating(SecretLetter):
        """Its infos have parts, as where a source of feedback shows a solved answer."""

        @classmethod
        def vector(cls, num_envs, **options):
            return compose(super().vector(num_envs, **options), Showing())

    class Showing(FeedbackSource):
        def parts(self, attempts):
            shown = ["b" if a.problem_id == IDS[0] else "" for a in attempts]
            return [Parts(f"all{x}", f"said{x}", x) for x in shown]

    lines = filled(tmp_path / "a.jsonl", policy, samples=1, env=Demonstrating)
    for (problem_id, _), line in lines.items():
        has_one = problem_id == IDS[0]
        assert line.get("demonstration") == ("b" if has_one else None)
        assert line["feedback"] == ("saidb" if has_one else "said")


def test_wherever_it_is_cut_a_file_is_completed_to_what_it_would_have_been(tmp_path, policy):
    whole = filled(tmp_path / "whole.jsonl", policy)
    content = (tmp_path / "whole.jsonl").read_bytes()
    cut = tmp_path / "cut.jsonl"
    places = random.Random(0).sample(range(len(content)), 12)
    for place in [*places, 0, 5, content.index(b"\n"), content.index(b"\n") + 1, len(content) - 1]:
        cut.write_bytes(content[:place])
        assert filled(cut, policy) == whole
        assert sorted(cut.read_bytes().splitlines()) == sorted(content.splitlines())


def test_the_seed_and_nothing_else_of_chance_decides_the_answers(tmp_path, policy):
    first = filled(tmp_path / "a.jsonl", policy)
    assert filled(tmp_path / "b.jsonl", policy) == first
    assert filled(tmp_path / "c.jsonl", policy, seed=1) != first
    # No two samples of a problem are the same random numbers.
    answers = [[first[p, s]["answer"] for p in IDS] for s in range(4)]
    assert all(a != b for i, a in enumerate(answers) for b in answers[:i])


def test_more_samples_keep_those_that_are_there(tmp_path, policy):
    path = tmp_path / "a.jsonl"
    few = filled(path, policy, samples=2)
    many = filled(path, policy, samples=5)
    assert len(many) == 8 * 5
    assert few.items() <= many.items()


def test_what_could_not_be_judged_is_counted_apart_and_tried_again(tmp_path, policy, monkeypatch):
    whole = filled(tmp_path / "whole.jsonl", policy)
    path = tmp_path / "a.jsonl"
    lines = filled(path, policy, env=Flaky)
    lost = {(p, s) for p in ("test-a", "test-e") for s in range(4)}
    assert set(lines) == set(whole) - lost
    assert path.read_text().count("the cage burnt down") == len(lost)
    with AnswerFile(path, MEASURED) as file:
        result = summarize(file, IDS, 4)
    assert result.dropped == 8
    assert len(result.judged) == 6
    assert sum(result.statuses.values()) == 24
    monkeypatch.setattr(Flaky, "burns", False)
    assert filled(path, policy, env=Flaky) == whole


def test_the_summary_of_a_file_is_the_evaluation_of_its_answers(tmp_path, policy):
    lines = filled(tmp_path / "a.jsonl", policy, samples=3)
    with AnswerFile(tmp_path / "a.jsonl", MEASURED) as file:
        result = summarize(file, IDS, 3)
        strict = summarize(file, IDS, 3, success_reward=2.0)
    for p in IDS:
        assert result.judged[p] == 3
        assert result.solved[p] == sum(lines[p, s]["reward"] for s in range(3))
    assert strict.pass_at_1 == 0


def test_the_trainers_evaluation_counts_unjudged_answers_apart_too(policy):
    config = TrainConfig(eval_samples=2, max_response_tokens=MAX_TOKENS)
    environment = Flaky.vector(5, split="test")
    actor = Actor(policy, HFEngine(policy), environment, MAX_TOKENS)
    result = evaluate_student(actor, IDS, config)
    assert result.dropped == 4
    assert set(result.judged) == set(IDS) - {"test-a", "test-e"}
    assert len(result.failures) == 12 - sum(result.solved.values())


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"my thesis\n", "no file of answers that vpd eval wrote"),
        (b'{"problem_id": "a", "sample": 0}\n', "no file of answers that vpd eval wrote"),
        (b'{"evaluation": {"env": "e", "model": "n", "temperature": 1.0}}\n',
         "another evaluation: model is 'n' there, 'm' here"),
        (b'{"evaluation": {"env": "e", "model": "m"}}\n',
         "temperature is None there, 1.0 here"),
        (b'{"evaluation": {"env": "e", "model": "m", "temperature": 1.0}}\n{"a": 1}\n{}\n',
         "line 2: expected a judged answer"),
        (b'{"evaluation": {"env": "e", "model": "m", "temperature": 1.0}}\nnonsense\n',
         "line 2: expected a judged answer"),
    ],
)  # fmt: skip
def test_a_file_of_something_else_is_refused_and_left_alone(tmp_path, content, expected):
    path = tmp_path / "a.jsonl"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"a\.jsonl") as error:
        AnswerFile(path, MEASURED)
    assert expected in str(error.value)
    assert path.read_bytes() == content


def test_a_file_is_held_by_one_process_at_a_time(tmp_path):
    path = tmp_path / "a.jsonl"
    with path.open("w") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        with pytest.raises(ValueError, match="in use by a running evaluation"):
            AnswerFile(path, MEASURED)
    AnswerFile(path, MEASURED).close()


# --- the command --------------------------------------------------------------------------------

CHOICE = ("eval", "--env", "vpd/MiniChoice-v0", "--max-response-tokens", 2, "--problems", 6)


def test_the_command_prints_counts_and_leaves_a_report(tmp_path, model, capsys):
    out = tmp_path / "deep" / "answers.jsonl"
    command = (*CHOICE, "--model", model, "--samples", 4, "--batch", 5, "--out", out)
    assert run(*command) == 0
    printed = capsys.readouterr().out
    assert "6 problems × 4 answers" in printed
    for name in ("pass@1 = avg@4", "pass@2", "pass@4"):
        assert name in printed
    summary = json.loads((out.parent / "answers.json").read_text())
    assert list(summary["pass@k"]) == ["1", "2", "4"]
    assert summary["pass@1"] == summary["avg@4"] == summary["pass@k"]["1"]["mean"]
    assert all(p["judged"] == 4 for p in summary["problems"].values())
    assert sum(summary["statuses"].values()) == 24
    assert summary["not_judged"] == 0
    markdown = (out.parent / "answers.md").read_text()
    assert "| pass@2 |" in markdown
    assert "![pass@k](answers.png)" in markdown
    assert (out.parent / "answers.png").read_bytes().startswith(b"\x89PNG")
    # Again: nothing is sampled, the same is said.
    before = out.read_bytes()
    assert run(*command) == 0
    assert capsys.readouterr().out == printed
    assert out.read_bytes() == before


def test_without_matplotlib_only_the_picture_is_missing(tmp_path, model, monkeypatch, capsys):
    out = tmp_path / "answers.jsonl"
    command = (*CHOICE, "--model", model, "--samples", 2, "--out", out)
    with monkeypatch.context() as without:
        without.setitem(sys.modules, "matplotlib", None)
        assert run(*command) == 0
    output = capsys.readouterr()
    assert "Without the picture answers.png: it needs matplotlib" in " ".join(output.err.split())
    assert "pass@2" in output.out
    assert sorted(p.name for p in tmp_path.iterdir()) == [
        "answers.json", "answers.jsonl", "answers.md"]  # fmt: skip
    assert "answers.png" not in (tmp_path / "answers.md").read_text()
    answers = out.read_bytes()
    assert run(*command) == 0
    assert "![pass@k](answers.png)" in (tmp_path / "answers.md").read_text()
    assert out.read_bytes() == answers


def test_options_that_came_after_a_file_had_their_defaults_there(tmp_path, model, capsys):
    out = tmp_path / "a.jsonl"
    command = [*CHOICE, "--model", model, "--out", out]
    assert run(*command) == 0
    remove_options(out, "engine", "template_arguments", "temperature", "seed")
    before = out.read_bytes()
    assert run(*command) == 0
    assert out.read_bytes() == before
    capsys.readouterr()
    assert run(*command, "--temperature", 0.5) == 2
    assert "temperature is 1.0 there, 0.5 here" in said(capsys)


def test_another_evaluation_may_not_go_on_in_a_file(tmp_path, model, capsys):
    out = tmp_path / "a.jsonl"
    command = [*CHOICE, "--model", model, "--out", out]
    assert run(*command) == 0
    capsys.readouterr()
    for change, expected in [
        (("--temperature", 0.5), "temperature is 1.0 there, 0.5 here"),
        (("--seed", 3), "seed is 0 there, 3 here"),
        (("--batch", 3), "batch is 64 there, 3 here"),
        (("--env", "vpd/MiniArithmetic-v0"), "env is 'vpd/MiniChoice-v0' there"),
        (("--model", "tiny"), f"model is '{model}' there, 'tiny' here"),
    ]:
        assert run(*command, *change) == 2
        assert expected in said(capsys)
    other = small_policy()
    with torch.no_grad():  # the last bit of the last number of one weight
        weight = next(other.model.parameters()).view(-1)
        weight[-1] = torch.nextafter(weight[-1], torch.tensor(9.0))
    other_form = small_policy()
    other_form.tokenizer.chat_template += " "
    for changed, expected in ((other, "weights is"), (other_form, "tokenizer is")):
        changed.save(model)  # under the same name
        try:
            assert run(*command) == 2
            assert expected in said(capsys)
        finally:
            small_policy().save(model)
    assert run(*command, "--problems", 8, "--samples", 2) == 0
    assert len(out.read_text().splitlines()) == 1 + 8 * 2


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (("--out", "a.json"), "--out must be a file NAME.jsonl"),
        (("--temperature", 0), "--temperature must be positive"),
        (("--samples", 0), "--samples must be at least 1"),
        (("--batch", 0), "--batch must be at least 1"),
        (("--engine", "vlm"), "Did you mean 'vllm'?"),
        (("--sampels", 2), "Perhaps you meant: --samples"),
    ],
)
def test_bad_options_are_refused(tmp_path, monkeypatch, capsys, change, expected):
    monkeypatch.chdir(tmp_path)
    assert run(*CHOICE, "--model", "tiny", *change) == 2
    assert expected in " ".join(said(capsys).replace("│", " ").split())
    assert not list(tmp_path.iterdir())


def test_unjudged_answers_end_with_exit_code_1(tmp_path, model, monkeypatch, capsys):
    (tmp_path / "flaky.py").write_text(
        "import gymnasium as gym\n"
        "from agent.evaluation.test_evaluate_file import Flaky\n"
        "gym.register('Flaky-v0', entry_point=Flaky, vector_entry_point=Flaky.vector)\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    command = ("eval", "--env", "flaky:Flaky-v0", "--model", model, "--max-response-tokens", 2,
               "--out", "a.jsonl")  # fmt: skip
    assert run(*command) == 1
    output = capsys.readouterr()
    assert "2 answers could not be judged; the same command tries them again." in output.err
    assert "not judged" in output.out
    monkeypatch.setattr("agent.evaluation.test_evaluate_file.Flaky.burns", False)
    assert run(*command) == 0


@pytest.mark.slow
def test_a_killed_evaluation_goes_on_to_the_same_answers(tmp_path, model):
    command = [sys.executable, "-m", "vpd_agent.cli", "eval", "--env", "vpd/MiniChoice-v0",
               "--model", model, "--max-response-tokens", "3", "--problems", "300", "--samples",
               "20", "--batch", "4"]  # fmt: skip
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    out = tmp_path / "killed.jsonl"
    process = subprocess.Popen([*command, "--out", out], env=environment,
                               stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)  # fmt: skip
    deadline = time.monotonic() + 120
    while not (out.exists() and out.stat().st_size > 5000) and time.monotonic() < deadline:
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    at_hand = out.read_bytes().splitlines()
    assert 5 < len(at_hand) < 1 + 300 * 20
    for path in (out, tmp_path / "whole.jsonl"):
        arguments = [*command[3:], "--samples", "1", "--out", path]
        assert run(*arguments) == 0
    whole = set((tmp_path / "whole.jsonl").read_bytes().splitlines())
    assert whole <= set(out.read_bytes().splitlines())
