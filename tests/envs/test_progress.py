"""A long batch shows how far it is, and a short one shows nothing."""

import os
import pty
import subprocess
import sys

import pytest

from vpd_envs import Problem, Status, TextEnv, Verdict, progress

PROGRAM = """
import time
from vpd_envs import Problem, Status, TextEnv, Verdict, progress

class Slow(TextEnv):
    def judge(self, problem, answer):
        time.sleep(0.02)
        return Verdict(0.0, Status.WRONG_ANSWER, "No.")

progress.PATIENCE_SECONDS = {patience}
envs = Slow.vector(20, problems=[Problem("1", "p", "t")], progress={shown})
envs.reset()
envs.step([str(i) for i in range(20)])
"""


class Instant(TextEnv):
    def judge(self, problem, answer):
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


def test_without_a_terminal_there_are_lines_only_if_they_are_asked_for(capsys, monkeypatch):
    monkeypatch.setattr(progress, "PATIENCE_SECONDS", 0.0)
    for shown, expected in ((None, ""), (False, ""), (True, "judging: 1 of 3\n")):
        envs = Instant.vector(3, problems=[Problem("1", "p", "t")], progress=shown)
        envs.reset()
        envs.step(["a", "b", "c"])
        assert capsys.readouterr().err == expected
