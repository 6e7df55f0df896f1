"""A server ends when it is asked to: what it has accepted is answered first."""

import json

import pytest
from clients import PATIENCE, Client, Words, serving, until
from websockets.exceptions import ConnectionClosed, InvalidStatus

ANSWERS = [("ash", "wait"), ("oak", "wait"), ("ash", "ASH"), ("oak", "OAK")]


def test_ending_loses_no_answer_that_was_accepted():
    env = Words()
    with serving(env) as running:
        session = Client(running.url)
        session.reset(problem_id="ash")
        batches = [running.in_background(running.post, ANSWERS) for _ in range(3)]
        stepped = running.in_background(session.step, "wait")
        until(lambda: running.service.judging.length == 3 * len(ANSWERS) + 1)
        running.server.should_exit = True
        until(lambda: running.service.judging.draining)
        env.gate.set()
        rewards = [[row["reward"] for row in batch.get(timeout=PATIENCE)[1]] for batch in batches]
        assert rewards == [[0.25, 0.25, 1.0, 1.0]] * 3
        assert stepped.get(timeout=PATIENCE)["reward"] == 0.25
        running.thread.join(PATIENCE)
        assert not running.thread.is_alive()
        assert running.server.ended_well
        assert running.said[1:] == ["Ending after 13 answers; Ctrl-C once more ends at once."]


def test_an_ending_server_takes_no_more():
    env = Words()
    with serving(env) as running:
        session = Client(running.url)
        session.reset(problem_id="ash")
        accepted = running.in_background(running.post, [("ash", "wait")])
        assert env.running.acquire(timeout=PATIENCE)
        running.server.should_exit = True
        until(lambda: running.service.judging.draining)
        status, told = running.post([("ash", "x")])
        assert status == 503
        assert "ending" in told["detail"]
        status, told = running.get("/health")
        assert (status, told["ok"], told["status"]) == (503, False, "draining")
        assert session.step("x")[0] == "CAPACITY_REACHED"
        with pytest.raises(InvalidStatus):
            Client(running.url)
        env.gate.set()
        assert accepted.get(timeout=PATIENCE)[0] == 200
        with pytest.raises(ConnectionClosed) as closed:
            session.socket.recv(PATIENCE)
        assert closed.value.rcvd.code == 1012  # the service ends
    assert env.judged == ["wait"]


def test_ending_at_once_waits_for_nothing():
    env = Words()
    with serving(env) as running:
        answers = [("ash", "wait"), ("oak", "wait"), ("oak", "never")]
        body = json.dumps([{"problem_id": id_, "answer": answer} for id_, answer in answers])
        reply = running.in_background(running.send, body)
        for _ in range(2):
            assert env.running.acquire(timeout=PATIENCE)
        running.server.should_exit = running.server.force_exit = True
        until(lambda: running.service.judging._unwanted.is_set())
        env.gate.set()  # these two judges wait for no sandbox, which would be stopped
        running.thread.join(PATIENCE)
        assert not running.thread.is_alive()
        assert not running.server.ended_well
        assert reply.get(timeout=PATIENCE).status == 500  # and so no verdict
    assert env.judged == ["wait", "wait"]
