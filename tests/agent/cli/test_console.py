"""What a person sees of a run that says nothing by itself."""

from __future__ import annotations

import io
import re
import sys
import time

from agent.helpers import SecretLetter, small_policy
from vpd_agent.algorithms import GRPO
from vpd_agent.console import bars
from vpd_agent.runs.run_folder import RunFolder
from vpd_agent.train.config import TrainConfig
from vpd_agent.train.trainer import Trainer
from vpd_envs.data import progress

CONFIG = TrainConfig(
    steps=2, prompts_per_step=2, group_size=2, max_response_tokens=2, eval_every=1, save_every=0
)


def trained(environment=SecretLetter, **options) -> None:
    Trainer(
        small_policy(),
        GRPO(),
        SecretLetter.vector(CONFIG.rollouts_per_step),
        CONFIG,
        evaluation=environment.vector(8, split="test"),
        **options,
    ).train()


def test_a_run_shows_how_far_it_is_and_where_the_model_is_to_go(tmp_path, capsys):
    trained()
    said = capsys.readouterr().err
    assert "grpo  1/2  reward" in said
    assert "grpo  2/2  reward" in said
    assert "trainer.policy.save(FOLDER) keeps the model" in " ".join(said.split())
    trained(out=RunFolder(tmp_path / "run"))
    assert "keeps the model" not in capsys.readouterr().err
    trained(progress=False)
    assert capsys.readouterr().err == ""


def test_a_first_evaluation_that_takes_long_is_named_in_a_log(monkeypatch):
    """Its judge waits until it was, a minute at most."""
    said = io.StringIO()

    class Waiting(SecretLetter):
        def judge(self, problem, answer):
            deadline = time.monotonic() + 60
            while "evaluating" not in said.getvalue() and time.monotonic() < deadline:
                time.sleep(0.001)
            return super().judge(problem, answer)

    monkeypatch.setattr(progress, "PATIENCE_SECONDS", 0.0)
    monkeypatch.setattr(progress, "LOG_SECONDS", 0.001)
    monkeypatch.setattr(sys, "stderr", said)
    trained(Waiting)
    lines = said.getvalue().splitlines()
    line = next(line for line in lines if "evaluating" in line)
    assert line.startswith("grpo  0/2  evaluating the student (")
    assert line.endswith(" s so far)")


def test_a_line_that_is_repeated_in_a_log_says_how_long_it_all_has_taken(capsys):
    with bars() as shown:
        shown.add("grpo", 4)
        shown.show("grpo", 1)
        shown.say_where()
    first, again = capsys.readouterr().err.splitlines()
    assert first == "grpo  1/4"
    assert re.fullmatch(r"grpo  1/4  \(\d+ s so far\)", again)
