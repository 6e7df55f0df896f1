"""A long batch shows how far it is, and a short one shows nothing."""

import io
import os
import pty
import subprocess
import sys
import time

import pytest

from vpd_envs import Problem, Status, TextEnv, Verdict
from vpd_envs.data import progress

PROGRAM = """
import time
from vpd_envs import Problem, Status, TextEnv, Verdict
from vpd_envs.data import progress

class Slow(TextEnv):
    def judge(self, problem, answer):
        time.sleep(0.02)
        return Verdict(0.0, Status.WRONG_ANSWER, "No.")

progress.PATIENCE_SECONDS = {patience}
envs = Slow.vector(20, problems=[Problem("1", "p", "t")], progress={shown})
envs.reset()
envs.step([str(i) for i in range(20)])
"""


class Observed(TextEnv):
    """Its judge waits until something was said, or the given seconds are over."""

    seconds = 0.0

    def judge(self, problem, answer):
        deadline = time.monotonic() + self.seconds
        while not self.said.getvalue() and time.monotonic() < deadline:
            time.sleep(0.001)
        return Verdict(0.0, Status.WRONG_ANSWER, "No.")


def on_a_terminal(program):
    """What the program writes to standard error, which is a terminal."""
    ours, theirs = pty.openpty()
    with subprocess.Popen(
        [sys.executable, "-c", program], stderr=theirs, env=os.environ | {"TERM": "xterm"}
    ) as process:
        os.close(theirs)
        written = b""
        while True:
            try:
                part = os.read(ours, 4096)
            except OSError:  # the other end is closed
                break
            if not part:
                break
            written += part
        assert process.wait(60) == 0
    os.close(ours)
    return written.decode("utf-8", "replace")


def test_a_long_batch_has_a_bar_on_a_terminal_that_goes_when_it_is_done():
    shown = on_a_terminal(PROGRAM.format(patience=0.1, shown=None))
    assert "judging" in shown
    assert "/20" in shown
    assert shown.rstrip("\r\n").endswith("\x1b[2K")  # the line is erased


@pytest.mark.parametrize(("patience", "shown"), [(60, None), (60, True), (0.1, False)])
def test_a_short_batch_and_one_that_shall_not_show_nothing(patience, shown):
    assert on_a_terminal(PROGRAM.format(patience=patience, shown=shown)) == ""


@pytest.mark.parametrize("shown", [None, False, True])
def test_without_a_terminal_there_are_lines_only_if_they_are_asked_for(monkeypatch, shown):
    """Even before the first answer is judged."""
    monkeypatch.setattr(progress, "PATIENCE_SECONDS", 0.0)
    monkeypatch.setattr(Observed, "said", io.StringIO(), raising=False)
    monkeypatch.setattr(Observed, "seconds", 60.0 if shown else 0.05)
    monkeypatch.setattr(sys, "stderr", Observed.said)
    envs = Observed.vector(3, problems=[Problem("1", "p", "t")], progress=shown)
    envs.reset()
    envs.step(["a", "b", "c"])
    assert Observed.said.getvalue() == ("judging: 0 of 3\n" if shown else "")


def test_work_that_says_nothing_itself_is_named_once_it_is_slow(monkeypatch, capsys):
    with progress.told_if_slow("Loading"):
        pass
    assert capsys.readouterr().err == ""
    monkeypatch.setattr(progress, "PATIENCE_SECONDS", 0.0)
    said = io.StringIO()
    monkeypatch.setattr(sys, "stderr", said)
    with progress.told_if_slow("Loading"):
        while not said.getvalue():
            time.sleep(0.001)
    assert said.getvalue() == "Loading (0 s so far)\n"
