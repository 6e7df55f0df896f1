"""vpd serve, as a person types it: a process that serves until a signal ends it."""

import json
import re
import signal
import socket
import subprocess
import sys
from contextlib import contextmanager

import pytest
import urllib3
from clients import PATIENCE

from vpd_agent.cli.main import USAGE, main
from vpd_envs.code.mini_code import MiniCode, expression

ENV = MiniCode(sandbox="local", split="test")
SERVE = ("--env", "vpd/MiniCode-v0", "--sandbox", "local", "--split", "test", "--port", "0")


@contextmanager
def server(*arguments):
    """The process and its address, once it takes requests."""
    command = [sys.executable, "-m", "vpd_agent.cli", "serve", *SERVE, *arguments]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        try:
            for line in process.stderr:
                if found := re.search(r"at (http://127\.0\.0\.1:\d+)\.", line):
                    break
            yield process, found[1]
        finally:
            process.kill()


def rows(answers):
    return [{"problem_id": id_, "answer": answer} for id_, answer in answers]


def post(url, answers):
    return urllib3.request("POST", f"{url}/judge", json=rows(answers), timeout=PATIENCE)


def run(*arguments):
    """The exit code, also where the option parser exits by itself."""
    try:
        return main(["serve", *arguments])
    except SystemExit as stop:
        return stop.code


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_it_after_the_answers_it_has_accepted(number):
    first = ENV.problem_ids[0]
    right = expression(*ENV.problem(first).target)
    slow = "sum(range(3*10**6))"  # a moment, so that the signal comes before all are judged
    answers = [(id_, slow) for id_ in ENV.problem_ids[1:5]] + [(first, right)]
    with server() as (process, url), urllib3.PoolManager(retries=False) as http:
        host, port = url.removeprefix("http://").split(":")
        body = json.dumps(rows(answers))
        head = "POST /judge HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
        with socket.create_connection((host, int(port)), timeout=PATIENCE) as connection:
            connection.sendall(f"{head}Content-Length: {len(body)}\r\n\r\n{body}".encode())
            told = {"queue_length": 0, "judged": 0}
            while not told["queue_length"] + told["judged"]:
                told = http.request("GET", f"{url}/health").json()
            process.send_signal(number)
            reply = b"".join(iter(lambda: connection.recv(1 << 16), b""))
        said = process.stderr.read()
        assert process.wait(timeout=PATIENCE) == 0
    verdicts = json.loads(reply.partition(b"\r\n\r\n")[2])
    assert [row["problem_id"] for row in verdicts] == [id_ for id_, _ in answers]
    assert [row["status"] for row in verdicts[-1:]] == ["solved"]
    assert all(row["reward"] is not None for row in verdicts)
    assert "Traceback" not in said


def test_it_serves_the_split_with_the_feedback_that_was_asked_for():
    with server("--feedback", "outcome+budget:characters=7") as (_, url):
        told = urllib3.request("GET", f"{url}/health").json()
        (row,) = post(url, [(ENV.problem_ids[0], "x")]).json()
    assert told["environment"] == "vpd/MiniCode-v0"
    assert told["fingerprint"] == ENV.fingerprint
    assert (row["reward"], row["status"]) == (0.0, "wrong_answer")
    assert len(row["feedback"]) <= 7


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["--queue", "0"], "--queue must be a positive integer"),
        (["--sessions", "-1"], "--sessions must be"),
        (["--max-request-mb", "0"], "--max-request-mb must be a positive number"),
        (["--session-timeout", "nan"], "--session-timeout must be a positive number"),
        (["--port", "70000"], "--port must be from 0 to 65535, got 70000"),
        (["--feedback", "frist"], "Did you mean 'first'"),
        (["--feedback", "first+self-critique"], "asks the policy that is trained"),
        (["--split", "tset"], "split must be 'train' or 'test', got 'tset'"),
        (["--host", "192.0.2.1"], "192.0.2.1"),  # an address of documents, of no machine
        (["--host", "no such host"], "--host no such host"),
        (["--set", "splt=test"], "Unknown option of vpd/MiniCode-v0"),
    ],
)
def test_bad_input_ends_with_code_2_and_says_what_is_wrong(arguments, named, capsys):
    assert run(*SERVE, *arguments) == 2
    assert named in capsys.readouterr().err


def test_a_port_that_is_taken_is_refused_before_anything_is_loaded(capsys):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        assert run("--env", "nothing", "--port", port) == 2
    assert f"Cannot serve on port {port} of 127.0.0.1" in capsys.readouterr().err


def test_it_loads_no_torch():
    program = (
        "import sys, vpd_envs.serve.command\n"
        "print([m for m in ('torch', 'transformers', 'vpd_agent', 'openenv') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, check=True)
    assert done.stdout.strip() == b"[]"


def test_the_usage_lists_it(capsys):
    assert re.search(r"^  serve  .*OpenEnv", USAGE, re.MULTILINE)
    with pytest.raises(SystemExit) as stop:
        main(["serve", "--help"])
    assert stop.value.code == 0
    assert "POST /judge" in capsys.readouterr().out
