"""Critiques from an HTTP endpoint: a real server on the loopback, with every bad habit of one."""

import base64
import contextlib
import json
import logging
import pickle
import socket
import sqlite3
import subprocess
import sys
import threading
import time
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from guessing import Guess, attempt, guesses, said

from vpd_envs.feedback import JudgeFeedback
from vpd_envs.feedback.endpoint import pause_of

KEY_NAME = "JUDGE_TEST_KEY"
KEY = "sk-very-secret-1234"
PATIENCE_SECONDS = 30.0  # what a hanging handler waits at most, if a test forgets it


class Judge:
    """A chat completions endpoint. `behave(question, number of this try)` gives the status, the
    body and the headers of each response; a question's text is that of the attempt."""

    def __init__(self, behave=None):
        self.behave = behave or (lambda question, number: completion(f"Critique of {question}"))
        self.requests = []  # (path, headers, payload)
        self.tries = {}  # question -> requests
        self.at_once = self.most_at_once = 0
        self.lock = threading.Lock()
        self.released = threading.Event()
        judge = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self):
                judge.answer(self)

            def log_message(self, *arguments):
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}/v1"
        self.thread = threading.Thread(target=self.server.serve_forever, args=(0.02,), daemon=True)

    def answer(self, handler):
        payload = json.loads(handler.rfile.read(int(handler.headers["Content-Length"])))
        question = payload["messages"][-1]["content"]
        with self.lock:
            self.requests.append((handler.path, dict(handler.headers), payload))
            number = self.tries[question] = self.tries.get(question, 0) + 1
            self.at_once += 1
            self.most_at_once = max(self.most_at_once, self.at_once)
        try:
            status, body, headers = self.behave(question, number)
        finally:
            with self.lock:
                self.at_once -= 1
        handler.send_response(status)
        for name, value in headers.items():
            handler.send_header(name, value)
        handler.send_header("Content-Length", str(len(body)))
        with contextlib.suppress(OSError):  # who asked may have given up
            handler.end_headers()
            handler.wfile.write(body)

    def hang(self):
        assert self.released.wait(PATIENCE_SECONDS)

    def __enter__(self):
        self.thread.start()
        return self

    def __exit__(self, *_):
        self.released.set()
        self.server.shutdown()
        self.server.server_close()


def completion(text):
    body = {"choices": [{"index": 0, "message": {"role": "assistant", "content": text}}]}
    return 200, json.dumps(body).encode(), {"Content-Type": "application/json"}


def refusal(status, text="", **headers):
    return status, text.encode(), {name.replace("_", "-"): v for name, v in headers.items()}


@pytest.fixture(autouse=True)
def surroundings(monkeypatch):
    """A key, and no proxy between us and the loopback."""
    monkeypatch.setenv(KEY_NAME, KEY)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setenv("no_proxy", "127.0.0.1")


def source(judge, **options):
    """Asks with the bare text of the attempt, and without long pauses."""
    url = judge if isinstance(judge, str) else judge.url
    quick = {"template": "{attempt}", "backoff_seconds": 0.01, "api_key_env": KEY_NAME}
    return JudgeFeedback(url, "critic-1", **(quick | options))


def told(source, *answers):
    return list(source.feedback([attempt(answer, f"inner {answer}") for answer in answers]))


def failed(count):
    return [f"inner {i}" for i in range(count)]


def test_failed_attempts_get_the_critique_and_solved_ones_are_not_asked_about():
    with Judge() as judge:
        texts = said([("mid", "3"), ("mid", "5"), ("low", "x")], source(judge).around)
        assert texts == ["Critique of 3", "Right.", "Critique of x"]
        assert sorted(judge.tries) == ["3", "x"]
        path, headers, payload = judge.requests[0]
    assert path == "/v1/chat/completions"
    assert headers["Authorization"] == f"Bearer {KEY}"
    assert headers["Content-Type"] == "application/json"
    assert set(payload) == {"model", "messages", "max_tokens", "temperature"}
    assert payload["model"] == "critic-1"


def test_critiques_work_around_one_answer_too():
    with Judge() as judge:
        env = source(judge, keep=True, critique="all").around(Guess())
        env.reset(options={"problem_id": "mid"})
        assert env.step("5")[0] == "Right.\n\nCritique of 5"


def test_the_proxy_of_the_environment_is_asked_with_its_own_password(monkeypatch):
    monkeypatch.delenv("NO_PROXY")
    monkeypatch.delenv("no_proxy")
    with Judge() as proxy:
        address = proxy.url.removeprefix("http://").removesuffix("/v1")
        monkeypatch.setenv("http_proxy", f"http://me:p%40ss@{address}")
        assert told(source("http://far.invalid/v1"), "0") == ["Critique of 0"]
        path, headers, _ = proxy.requests[0]
    assert path == "http://far.invalid/v1/chat/completions"
    login = base64.b64encode(b"me:p@ss").decode()
    assert headers["proxy-authorization"] == f"Basic {login}"
    assert headers["Authorization"] == f"Bearer {KEY}"


def test_without_a_key_none_is_sent(monkeypatch):
    monkeypatch.delenv(KEY_NAME)
    with Judge() as judge:
        assert told(source(judge), "0") == ["Critique of 0"]
        assert "Authorization" not in judge.requests[0][1]


def test_what_a_model_refuses_to_be_told_is_not_sent():
    with Judge() as judge:
        told(source(judge, max_tokens=None, temperature=None), "0")
        assert set(judge.requests[0][2]) == {"model", "messages"}


def test_the_own_prompt_has_problem_attempt_and_outcome():
    with Judge() as judge:
        told(source(judge, template=None), "0")
        (question,) = judge.tries
    assert all(part in question for part in ("Guess mid", "\n0\n", "inner 0"))


@pytest.mark.parametrize(
    "hiccup",
    [
        refusal(500, "overloaded"),
        refusal(503),
        refusal(429, "slow down"),
        refusal(429, Retry_After="0"),
        refusal(200, "{garbage"),
        refusal(200, '{"choices": []}'),
        refusal(200, "[" * 100_000),
        refusal(200, "\u00ff"),
    ],
    ids=lambda hiccup: f"{hiccup[0]}-{hiccup[1][:8].decode('utf-8')}",
)
def test_what_may_pass_is_tried_again(hiccup):
    def behave(question, number):
        return hiccup if number < 3 else completion("At last.")

    with Judge(behave) as judge:
        judged = source(judge, retries=2)
        assert told(judged, "0") == ["At last."]
        assert judge.tries["0"] == 3
        assert judged.failures == 0


def test_when_the_tries_are_used_up_the_inner_feedback_stays_and_is_counted(caplog):
    with Judge(lambda question, number: refusal(500, "on fire")) as judge:
        judged = source(judge, retries=1)
        assert told(judged, "0", "1") == failed(2)
        assert told(judged, "0") == failed(1)
        assert judge.tries == {"0": 4, "1": 2}
    assert judged.failures == 3
    (record,) = caplog.records  # said once, not for every batch
    assert record.levelno == logging.WARNING
    message = record.getMessage()
    assert "2 of 2 critiques of critic-1 failed" in message
    assert "HTTP 500: on fire" in message


@pytest.mark.parametrize("status", [400, 401, 403, 404, 301, 307])
def test_what_will_not_pass_is_not_tried_again(status):
    with Judge(lambda question, number: refusal(status, Location="/elsewhere")) as judge:
        judged = source(judge, retries=3)
        assert told(judged, "0") == failed(1)
        assert [path for path, *_ in judge.requests] == ["/v1/chat/completions"]
    assert judged.failures == 1


@pytest.mark.parametrize("content", [None, "", " \n", ["a"]])
def test_a_completion_without_content_is_a_failure(content):
    with Judge(lambda question, number: completion(content)) as judge:
        assert told(source(judge), "0") == failed(1)


def test_thinking_and_what_no_encoding_holds_are_left_out(tmp_path):
    thought = completion("<think>hm</think>Mind \ud800 the <|im_end|> sign.")
    with Judge(lambda question, number: thought) as judge:
        judged = source(judge, cache=tmp_path / "cache")
        shown = said([("mid", "3")], judged.around)
    assert shown == ["Mind ? the < |im_end|> sign."]


def test_a_pause_that_the_server_asks_for_is_kept():
    """The server asks for a second and says how long it waited."""
    asked = []

    def behave(question, number):
        asked.append(time.monotonic())
        return refusal(429, Retry_After="1") if number == 1 else completion("Now.")

    with Judge(behave) as judge:
        assert told(source(judge), "0") == ["Now."]
    assert asked[1] - asked[0] >= 1.0


def test_a_pause_beyond_the_end_of_the_batch_is_not_waited_for():
    with Judge(lambda question, number: refusal(429, Retry_After="3600")) as judge:
        assert told(source(judge), "0") == failed(1)  # and the test is not an hour long
        assert judge.tries["0"] == 1


def test_retry_after_is_a_number_or_a_date():
    assert pause_of("2.5") == 2.5
    assert 50 < pause_of(formatdate(time.time() + 60, usegmt=True)) <= 60
    for text in ("", "soon", "-3", "nan", "inf", "Wed, 99 Foo", formatdate(0, usegmt=True)):
        assert pause_of(text) == 0.0


def test_a_batch_does_not_wait_for_one_slow_answer(tmp_path):
    """The slow answer is let go only after the batch is over, so waiting for it would fail."""

    def behave(question, number):
        if question == "1":
            judge.hang()
        return completion(f"Critique of {question}")

    with Judge(behave) as judge:
        judged = source(judge, batch_seconds=0.5, cache=tmp_path / "answers")
        assert told(judged, "0", "1", "2") == ["Critique of 0", "inner 1", "Critique of 2"]
        assert judged.failures == 1
        assert not judge.released.is_set()


def test_a_request_has_a_timeout_of_its_own_and_is_tried_again():
    def behave(question, number):
        if number == 1:
            judge.hang()
        return completion("Quicker now.")

    with Judge(behave) as judge:
        assert told(source(judge, timeout_seconds=0.2), "0") == ["Quicker now."]
        assert judge.tries["0"] == 2


def test_a_body_that_trickles_in_is_not_waited_for():
    """Every byte comes within the timeout; all of them would take half a minute."""
    listener = socket.create_server(("127.0.0.1", 0))
    over = threading.Event()

    def trickle():
        connection, _ = listener.accept()
        with connection:
            connection.recv(1 << 16)
            connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 600\r\n\r\n")
            while not over.wait(0.05):
                try:
                    connection.sendall(b" ")
                except OSError:
                    return

    thread = threading.Thread(target=trickle, daemon=True)
    thread.start()
    url = f"http://127.0.0.1:{listener.getsockname()[1]}/v1"
    try:
        judged = source(url, timeout_seconds=0.3, retries=0)
        assert told(judged, "0") == failed(1)
    finally:
        over.set()
        thread.join(PATIENCE_SECONDS)
        listener.close()


def test_an_endless_answer_is_not_read_to_its_end(monkeypatch):
    monkeypatch.setattr("vpd_envs.feedback.endpoint.ANSWER_BYTES", 1000)
    with Judge(lambda question, number: completion("a" * 2000)) as judge:
        assert told(source(judge), "0") == failed(1)
        assert judge.tries["0"] == 1


def test_a_refused_connection_is_a_failure_with_a_reason(caplog):
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    judged = source(f"http://127.0.0.1:{port}/v1", retries=1)
    assert told(judged, "0", "1") == failed(2)
    assert judged.failures == 2
    assert f"http://127.0.0.1:{port}/v1/chat/completions: ConnectionRefused" in caplog.text


def test_a_connection_that_hangs_up_is_a_failure():
    listener = socket.create_server(("127.0.0.1", 0))

    def hang_up():
        for _ in range(2):
            listener.accept()[0].close()

    thread = threading.Thread(target=hang_up, daemon=True)
    thread.start()
    with listener:
        url = f"http://127.0.0.1:{listener.getsockname()[1]}/v1"
        assert told(source(url, retries=1), "0") == failed(1)
        thread.join(PATIENCE_SECONDS)


def test_no_more_requests_are_under_way_than_asked():
    barrier = threading.Barrier(3)

    def behave(question, number):
        barrier.wait(PATIENCE_SECONDS)  # so three do come at once
        return completion("Done.")

    with Judge(behave) as judge:
        texts = told(source(judge, concurrency=3), *map(str, range(12)))
        assert texts == ["Done."] * 12
        assert judge.most_at_once == 3


def test_threads_that_ask_at_once_share_the_bound():
    barrier = threading.Barrier(2)

    def behave(question, number):
        barrier.wait(PATIENCE_SECONDS)
        return completion("Done.")

    texts = {}
    with Judge(behave) as judge:
        judged = source(judge, concurrency=2)

        def ask(salt):
            texts[salt] = told(judged, *(f"{salt}{i}" for i in range(4)))

        threads = [threading.Thread(target=ask, args=(salt,)) for salt in "ab"]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(PATIENCE_SECONDS)
        assert judge.most_at_once == 2
    assert texts == {"a": ["Done."] * 4, "b": ["Done."] * 4}


def test_the_same_question_twice_in_a_batch_is_asked_once():
    with Judge() as judge:
        assert told(source(judge), "0", "1", "0") == [f"Critique of {i}" for i in (0, 1, 0)]
        assert judge.tries == {"0": 1, "1": 1}


def test_a_rerun_with_a_cache_asks_nothing(tmp_path):
    path = tmp_path / "deep" / "cache.sqlite"
    with Judge() as judge:
        told(source(judge, cache=path), "0", "1")
        assert len(judge.requests) == 2
        told(source(judge, cache=path), "1", "2")
        assert judge.tries == {"0": 1, "1": 1, "2": 1}
        for change in ({"temperature": 0.5}, {"max_tokens": 7}, {"template": "?{attempt}"}):
            before = len(judge.requests)
            told(source(judge, cache=path, **change), "0")
            assert len(judge.requests) == before + 1
    # The server is gone; what was answered is still there.
    assert told(source(judge, cache=path, retries=0), "2", "9") == ["Critique of 2", "inner 9"]
    # Another server's model of the same name may be another model.
    with Judge(lambda question, number: completion("Mine.")) as other:
        assert told(source(other, cache=path), "2") == ["Mine."]


def test_failures_are_not_cached(tmp_path):
    answers = [refusal(500), completion("Now.")]
    with Judge(lambda question, number: answers[number - 1]) as judge:
        judged = source(judge, cache=tmp_path / "cache", retries=0)
        assert told(judged, "0") == failed(1)
        assert told(judged, "0") == ["Now."]


def test_processes_share_a_cache(tmp_path):
    """Four processes write the same file at once, each its own answers."""
    path = tmp_path / "cache"
    program = (
        "import sys; from vpd_envs.feedback.answer_cache import AnswerCache\n"
        "cache = AnswerCache(sys.argv[1])\n"
        "for i in range(10): cache.write(f'{sys.argv[2]}/{i}', 'text')"
    )
    command = [sys.executable, "-c", program, str(path)]
    processes = [subprocess.Popen([*command, str(i)]) for i in range(4)]
    assert [process.wait(60) for process in processes] == [0] * 4
    with sqlite3.connect(path) as connection:
        assert connection.execute("SELECT count(*) FROM answers").fetchone() == (40,)


def test_a_file_that_is_no_cache_is_explained(tmp_path):
    path = tmp_path / "notes.txt"
    path.write_text("Not a database, but some notes. " * 20)
    with pytest.raises(ValueError, match=r"notes.txt' cannot be used as a cache"):
        source("http://127.0.0.1:1/v1", cache=path)
    assert path.read_text().startswith("Not a database")


def test_the_key_is_nowhere_but_in_the_request(tmp_path, caplog):
    caplog.set_level(logging.DEBUG)
    path = tmp_path / "cache"
    with Judge(lambda question, number: refusal(401, "x" * 280 + f"Bad key {KEY}")) as judge:
        judged = source(judge, cache=path)
        envs, _ = guesses([("mid", "3")], judged.around)
        judge.behave = lambda question, number: completion("Fine.")
        assert told(judged, "0") == ["Fine."]
        assert judge.requests[0][1]["Authorization"] == f"Bearer {KEY}"
    assert judged.failures == 1
    for text in (caplog.text, repr(judged), repr(vars(judged.endpoint)), repr(envs)):
        assert KEY[:8] not in text
    assert KEY.encode() not in pickle.dumps(envs)
    assert KEY.encode() not in path.read_bytes()


def test_a_key_that_no_header_may_hold_is_refused_without_telling_it(monkeypatch):
    monkeypatch.setenv(KEY_NAME, "sk-12\n34")
    with pytest.raises(ValueError, match=f"{KEY_NAME} holds no API key") as caught:
        told(source("http://127.0.0.1:1/v1"), "0")
    assert "sk-12" not in str(caught.value)


def test_a_source_can_be_pickled_after_use():
    with Judge() as judge:
        judged = source(judge)
        told(judged, "0")
        copy = pickle.loads(pickle.dumps(judged))
        assert told(copy, "1") == ["Critique of 1"]


def test_a_hanging_server_does_not_keep_the_process_from_ending():
    program = (
        "import sys; sys.path.insert(0, sys.argv[2])\n"
        "from guessing import attempt; from vpd_envs.feedback import JudgeFeedback\n"
        "source = JudgeFeedback(sys.argv[1], 'm', batch_seconds=0.2, timeout_seconds=60.0)\n"
        "print(source.feedback([attempt()]) == [attempt().feedback])"
    )
    with Judge(lambda question, number: judge.hang() or completion("Late.")) as judge:
        folder = str(Path(__file__).parents[1])
        command = [sys.executable, "-c", program, judge.url, folder]
        result = subprocess.run(command, capture_output=True, text=True, timeout=20, check=True)
        assert not judge.released.is_set()
    assert result.stdout == "True\n"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"base_url": "127.0.0.1:8000/v1"}, "base_url must be like http://127.0.0.1:8000/v1"),
        ({"base_url": "ftp://host/v1"}, "base_url must be like"),
        ({"base_url": "http://me:secret@host/v1"}, "base_url must have no user, password"),
        ({"base_url": "http://host/v1?key=secret"}, "base_url must have no user, password"),
        ({"model": ""}, "model must be the name of a model"),
        ({"timeout_seconds": 0}, "timeout_seconds must be a positive number, got 0"),
        ({"batch_seconds": float("inf")}, "batch_seconds must be a positive number, got inf"),
        ({"retries": -1}, "retries must be an integer from 0 on, got -1"),
        ({"concurrency": True}, "concurrency must be a positive integer, got True"),
        ({"temperature": -0.1}, "temperature must be a number from 0 on"),
        ({"critique": "some"}, "critique must be one of failed, all"),
    ],
)
def test_options_of_no_sense_are_explained(options, message):
    with pytest.raises(ValueError, match=message) as caught:
        JudgeFeedback(**({"base_url": "http://host/v1", "model": "m"} | options))
    assert "secret" not in str(caught.value)
