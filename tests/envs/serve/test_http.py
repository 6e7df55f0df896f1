"""The routes of a server: health, problems, verdicts, and what is refused."""

import json
import socket

import pytest
from clients import PATIENCE, SECRET, Pair, Words, serving, until

from vpd_envs import (
    FeedbackBudget,
    Problem,
    SiblingFeedback,
    TextVectorEnv,
    compose,
    named_sources,
)
from vpd_envs.math.mini_arithmetic import MiniArithmetic


@pytest.fixture(scope="module")
def words():
    """A server with a small queue and small limits; tests leave it empty."""
    with serving(Words(), queue=8, request_bytes=4096, answer_characters=100) as running:
        yield running


def test_health_tells_the_environment_its_fingerprint_and_the_queue(words):
    status, told = words.get("/health")
    assert status == 200
    assert told["ok"] is True
    assert told["status"] == "healthy"  # as OpenEnv's containers are asked for
    assert told["environment"] == "Words-v0"
    assert told["fingerprint"] == Words().fingerprint
    assert (told["queue_length"], told["queue_capacity"]) == (0, 8)
    assert (told["problems"], told["side_by_side"]) == (3, 2)
    assert (told["max_request_bytes"], told["max_answer_characters"]) == (4096, 100)


def test_problems_come_in_pages_and_one_by_one(words):
    whole = {"total": 3, "offset": 0, "problem_ids": ["ash", "a/b c", "oak"]}
    assert words.get("/problems") == (200, whole)
    page = {"total": 3, "offset": 1, "problem_ids": ["a/b c"]}
    assert words.get("/problems?offset=1&limit=1") == (200, page)
    assert words.get("/problems?offset=3")[1]["problem_ids"] == []
    messages = [{"role": "user", "content": "Shout: a/b c"}]
    asked = {"problem_id": "a/b c", "prompt": "Shout: a/b c", "messages": messages}
    assert words.get("/problems/a/b%20c") == (200, asked)


@pytest.mark.parametrize(
    ("path", "status", "named"),
    [
        ("/problems/ahs", 404, "Close matches: ash."),
        ("/problems?offset=-1", 422, "query.offset"),
        ("/problems?limit=1000000", 422, "query.limit"),
        ("/nothing", 404, "Not Found"),
    ],
)
def test_a_wrong_path_is_told_what_is_wrong(words, path, status, named):
    came, told = words.get(path)
    assert came == status
    assert named in told["detail"]


def test_verdicts_come_in_the_order_of_the_answers(words):
    answers = [("oak", "OAK"), ("ash", "OAK"), ("oak", "oak"), ("oak", "OAK")]
    wrong = {"reward": 0.25, "status": "wrong_answer"}
    solved = {"problem_id": "oak", "reward": 1.0, "status": "solved", "feedback": "Heard you."}
    expected = [
        solved,
        {"problem_id": "ash", "feedback": "Not 'OAK'."} | wrong,
        {"problem_id": "oak", "feedback": "Not 'oak'."} | wrong,
        solved,
    ]
    assert words.post(answers) == (200, expected)
    assert words.post([]) == (200, [])


def test_verdicts_are_those_of_the_environment(words):
    env = MiniArithmetic()
    ids = env.problem_ids[:4]
    answers = [(id_, answer) for id_ in ids for answer in ("7", "120", "x", "9" * 70)]
    expected = [env.verdict(env.problem(id_), answer) for id_, answer in answers]
    with serving(env) as running:
        _, rows = running.post(answers)
    told = [(row["reward"], row["status"], row["feedback"]) for row in rows]
    assert told == [(v.reward, v.status.value, v.feedback) for v in expected]


def test_the_same_answer_of_a_request_is_judged_once():
    env = Words()
    with serving(env) as running:
        running.post([("ash", "x"), ("ash", "x"), ("oak", "x")])
    assert env.judged == ["x", "x"]


def test_what_could_not_be_judged_has_no_reward(words):
    status, rows = words.post([("ash", "ASH"), ("ash", "fire"), ("ash", "bug")])
    assert status == 200
    assert [row["reward"] for row in rows] == [1.0, None, None]
    assert [row["status"] for row in rows] == ["solved", None, None]
    assert "error" not in rows[0]
    assert rows[1]["error"] == "The cage is on fire."
    assert "KeyError" in rows[2]["error"]
    assert words.get("/health")[1]["failed"] == 2


def test_a_broken_judge_does_not_tell_what_it_hides(words, caplog):
    _, (row,) = words.post([("ash", "bug")])
    assert SECRET not in json.dumps(row)
    assert SECRET in caplog.text  # the log of the server is for who runs it


@pytest.mark.parametrize(
    ("body", "named"),
    [
        ('[{"problem_id": "ash"', "JSON decode error"),
        ("", "Field required"),
        ('{"problem_id": "ash", "answer": "x"}', "valid list"),
        ('[{"problem_id": "ash", "answer": 1}]', "body.0.answer: Input should be a valid string"),
        ('[{"problem_id": "ash"}]', "body.0.answer: Field required"),
        ('[{"problem_id": "ash", "answer": "x", "reward": 1}]', "body.0.reward: Extra inputs"),
    ],
)
def test_a_body_of_another_form_is_told_the_form(words, body, named):
    reply = words.send(body)
    assert reply.status == 422
    assert named in reply.json()["detail"]
    assert 'JSON list of {"problem_id": text, "answer": text}' in reply.json()["detail"]


@pytest.mark.parametrize("body", [b'["\xff"]', b"[" * 4000, b"[" + b"1" * 4000 + b"]"])
def test_a_body_that_no_parser_reads_is_told_the_form(words, body):
    reply = words.send(body)
    assert reply.status in (400, 422)
    assert 'JSON list of {"problem_id": text, "answer": text}' in reply.json()["detail"]


def test_nothing_is_judged_of_a_request_with_an_unknown_problem():
    env = Words()
    with serving(env) as running:
        status, told = running.post([("ash", "x"), ("ahs", "x")])
    assert status == 422
    assert told["detail"].startswith("Answer 1: No problem has the id 'ahs'")
    assert env.judged == []


def test_a_body_above_the_limit_is_refused_before_it_is_read(words):
    head = (
        "POST /judge HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
        "Content-Length: 4097\r\n\r\n"
    )
    address = words.url.removeprefix("http://").split(":")
    with socket.create_connection((address[0], int(address[1])), timeout=PATIENCE) as connection:
        connection.sendall(head.encode())  # and nothing of the body
        assert connection.recv(1000).startswith(b"HTTP/1.1 413 ")


def test_a_body_of_unknown_length_is_refused_where_it_passes_the_limit(words):
    pieces = iter([b" " * 2048, b" " * 2048, b" "])
    assert words.send(pieces).status == 413
    assert words.send(iter([b"[", b" " * 4094, b"]"])).status == 200


def test_too_long_answers_and_too_many_are_refused_and_not_judged():
    env = Words()
    with serving(env, queue=2, answer_characters=5) as running:
        assert running.post([("ash", "x" * 5)])[0] == 200
        status, told = running.post([("ash", "x"), ("ash", "x" * 6)])
        assert (status, told["detail"]) == (
            413,
            "Expected answers of at most 5 characters; answer 1 has 6.",
        )
        status, told = running.post([("ash", "x")] * 3)
        assert (status, told["detail"]) == (413, "Expected at most 2 answers a request, got 3.")
        assert running.get("/health")[1]["queue_length"] == 0
    assert env.judged == ["x" * 5]


def test_an_answer_beyond_the_environments_own_limit_gets_its_verdict():
    with serving(Words(max_answer_length=3)) as running:
        _, (row,) = running.post([("ash", "four")])
    assert row["reward"] == 0.0
    assert row["status"] == "no_answer"


def test_a_full_queue_refuses_what_does_not_fit_and_says_when_to_try_again():
    env = Words()
    with serving(env, queue=3) as running:
        waiting = running.in_background(running.post, [("ash", "wait"), ("oak", "wait")])
        until(lambda: running.get("/health")[1]["queue_length"] == 2)
        refused = running.send(
            json.dumps([{"problem_id": "ash", "answer": "x"}, {"problem_id": "ash", "answer": "y"}])
        )
        assert refused.status == 503
        assert int(refused.headers["Retry-After"]) > 0
        assert "1 of 3 places" in refused.json()["detail"]
        fits = running.in_background(running.post, [("ash", "ASH")])
        until(lambda: running.get("/health")[1]["queue_length"] == 3)
        assert running.post([("ash", "x")])[0] == 503
        env.gate.set()
        assert waiting.get(timeout=PATIENCE)[0] == 200
        assert fits.get(timeout=PATIENCE)[1][0]["reward"] == 1.0
        assert running.post([("ash", "x")])[0] == 200
    assert sorted(env.judged) == ["ASH", "wait", "wait", "x"]


def test_answers_of_different_requests_are_judged_side_by_side():
    with serving(Pair()) as running:
        replies = [running.in_background(running.post, [("p", str(i))]) for i in range(4)]
        assert [reply.get(timeout=PATIENCE)[1][0]["reward"] for reply in replies] == [1.0] * 4
        _, rows = running.post([("p", str(i)) for i in range(4)])
    assert [row["reward"] for row in rows] == [1.0] * 4


def test_sources_of_feedback_see_the_answers_of_a_request():
    with serving(Words(), SiblingFeedback("contrast"), FeedbackBudget(200)) as running:
        _, rows = running.post([("ash", "x"), ("ash", "fire"), ("ash", "ASH"), ("oak", "x")])
    assert [row["reward"] for row in rows] == [0.25, None, 1.0, 0.25]
    shown = "Not 'x'.\n\nIn contrast, a correct attempt at the same problem:\n\nASH"
    assert [row["feedback"] for row in rows] == [shown, None, "Heard you.", "Not 'x'."]


def test_sources_say_to_a_request_what_they_say_to_a_batch_of_gymnasiums():
    env, ids = MiniArithmetic(), MiniArithmetic().problem_ids[:3]
    answers = [(id_, answer) for id_ in ids for answer in ("7", "x", env.problem(id_).target)]
    sources = named_sources("first+pair:which=shortest+noisy:drop=0.3+budget:characters=60")
    batch = compose(TextVectorEnv(env, len(answers)), *sources)
    batch.reset(options={"problem_ids": [id_ for id_, _ in answers]})
    expected = batch.step([answer for _, answer in answers])[-1]
    with serving(env, *sources) as running:
        _, rows = running.post(answers)
    assert [row["feedback"] for row in rows] == list(expected["feedback"])
    assert len({row["feedback"] for row in rows}) > 3


def test_what_cannot_be_encoded_does_not_break_a_reply(words):
    reply = words.send(json.dumps([{"problem_id": "ash", "answer": "\ud83d"}]))
    assert reply.json()[0]["feedback"] == "Not '\\ud83d'."
    asked = Problem("half", "\ud83d", None)
    with serving(Words(asked)) as running:
        assert running.get("/problems/half")[1]["prompt"] == "\ud83d"


def test_an_answer_whose_prompt_opened_the_thinking_is_judged_with_the_tag():
    env = Words()
    with serving(env) as running:
        running.post([{"problem_id": "ash", "answer": "x", "thinking_prefilled": True}])
    assert env.judged == ["<think>\nx"]


def test_the_hidden_answer_is_on_no_page(words):
    paths = ("/health", "/metadata", "/schema", "/problems", "/problems/ash", "/openapi.json")
    for path in paths:
        status, told = words.get(path)
        assert status == 200
        assert SECRET not in json.dumps(told)


def test_the_schemas_are_those_of_the_messages(words):
    _, schemas = words.get("/schema")
    assert set(schemas) == {"action", "observation", "state"}
    assert schemas["action"]["required"] == ["answer"]
    told = {"feedback", "status", "problem_id", "messages", "text", "turn", "solved"}
    assert set(schemas["observation"]["properties"]) == told
