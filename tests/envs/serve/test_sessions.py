"""Sessions of OpenEnv's protocol, by a client that speaks what theirs does."""

import json

import pytest
from clients import PATIENCE, SECRET, Client, Words, serving, until
from websockets.exceptions import ConnectionClosed, InvalidStatus

from vpd_envs import EnvironmentFeedback
from vpd_envs.serve.service import Bounds


@pytest.fixture
def env():
    return Words(max_turns=3)


@pytest.fixture
def running(env):
    with serving(env, request_bytes=4096, answer_characters=100, sessions=2) as running:
        yield running


@pytest.fixture
def client(running):
    client = Client(running.url)
    yield client
    client.close()


def observed(data):
    """reward, done, and the observation without what is asked elsewhere."""
    return data["reward"], data["done"], data["observation"]


def test_an_episode_goes_as_gymnasiums(client, env):
    prompt, info = env.reset(seed=7)
    reward, done, seen = observed(client.reset(seed=7))
    assert (reward, done) == (None, False)
    assert (seen["text"], seen["problem_id"]) == (prompt, info["problem_id"])
    assert seen["messages"] == info["messages"]
    assert (seen["turn"], seen["feedback"], seen["status"]) == (0, None, None)
    for answer in ("x", info["problem_id"].upper()):
        text, reward, over, _, info = env.step(answer)
        came = client.step(answer)
        assert observed(came)[:2] == (reward, over)
        seen = came["observation"]
        assert seen["text"] == text
        keys = ("feedback", "status", "solved", "problem_id", "turn")
        assert {key: seen[key] for key in keys} == {key: info[key] for key in keys}
        assert seen["messages"] == info.get("messages", [])
    assert over


def test_problems_are_drawn_as_gymnasium_draws_them(client, env):
    drawn = [env.reset(seed=3)[1], *(env.reset()[1] for _ in range(4))]
    came = [client.reset(seed=3), *(client.reset() for _ in range(4))]
    assert [c["observation"]["problem_id"] for c in came] == [d["problem_id"] for d in drawn]


def test_the_last_turn_ends_the_episode_with_its_reward(client):
    client.reset(problem_id="ash")
    steps = [observed(client.step("x")) for _ in range(3)]
    assert [step[:2] for step in steps] == [(0.0, False), (0.0, False), (0.25, True)]
    assert [len(step[2]["messages"]) for step in steps] == [1, 1, 0]
    code, text = client.step("x")
    assert code == "VALIDATION_ERROR"
    assert "reset" in text


def test_the_state_tells_where_the_session_is_and_no_answer(client):
    nowhere = {"episode_id": None, "step_count": 0, "problem_id": None, "done": True}
    assert client.state() == nowhere | {"max_turns": 3}
    client.reset(problem_id="ash", episode_id="mine")
    client.step("x")
    state = client.state()
    here = {"episode_id": "mine", "step_count": 1, "problem_id": "ash", "done": False}
    assert state == here | {"max_turns": 3}
    assert SECRET not in json.dumps([state, client.step("ASH")])


def test_each_session_has_its_own_episode(running):
    first, second = Client(running.url), Client(running.url)
    first.reset(problem_id="ash")
    second.reset(problem_id="oak")
    assert first.step("ASH")["reward"] == 1.0
    assert second.step("OAK")["reward"] == 1.0
    first.close()
    second.close()


@pytest.mark.parametrize("answer", ["fire", "bug"])
def test_an_answer_that_was_not_judged_may_be_given_again(client, answer):
    client.reset(problem_id="ash")
    code, text = client.step(answer)
    assert code == "EXECUTION_ERROR"
    assert SECRET not in text
    assert client.state()["step_count"] == 0
    assert client.step("ASH")["reward"] == 1.0


@pytest.mark.parametrize(
    ("text", "code", "named"),
    [
        ('{"type": ', "INVALID_JSON", '{"type": ..., "data": {...}}'),
        ("[" * 4000, "INVALID_JSON", '{"type": ..., "data": {...}}'),
        ("[]", "VALIDATION_ERROR", '{"type": ..., "data": {...}}'),
        ('{"type": "jump"}', "UNKNOWN_TYPE", "reset, step, state or close"),
        ('{"type": ["step"]}', "UNKNOWN_TYPE", "reset, step, state or close"),
        ('{"type": "step"}', "VALIDATION_ERROR", "data.answer: Field required"),
        ('{"type": "step", "data": {"answer": 1}}', "VALIDATION_ERROR", "data.answer"),
        ('{"type": "step", "data": [1]}', "VALIDATION_ERROR", "may have answer"),
        ('{"type": "reset", "data": {"seed": -1}}', "VALIDATION_ERROR", "data.seed"),
        ('{"type": "reset", "data": {"problem": "ash"}}', "VALIDATION_ERROR", "problem_id, seed"),
        ('{"type": "reset", "data": {"problem_id": "ahs"}}', "VALIDATION_ERROR", "Close matches"),
    ],
)
def test_a_wrong_message_is_told_what_was_expected_and_ends_nothing(client, text, code, named):
    client.reset(problem_id="ash")
    came, said = client.tell(text)
    assert came == code
    assert named in said
    assert client.step("ASH")["reward"] == 1.0


def test_an_answer_above_the_limit_is_refused_and_not_judged(client, env):
    client.reset(problem_id="ash")
    code, text = client.step("x" * 101)
    assert code == "VALIDATION_ERROR"
    assert "at most 100 characters, got 101" in text
    assert env.judged == []


def test_a_message_above_the_limit_ends_the_session(running, env):
    client = Client(running.url)
    client.reset(problem_id="ash")
    with pytest.raises(ConnectionClosed) as closed:
        client.step("x" * 4096)
    assert closed.value.rcvd.code == 1009  # message too big
    assert env.judged == []
    until(lambda: running.service.sessions == 0)


def test_more_sessions_than_there_may_be_are_refused(running):
    first, second = Client(running.url), Client(running.url)
    with pytest.raises(InvalidStatus) as refused:
        Client(running.url)
    response = refused.value.response
    assert response.status_code == 503
    assert int(response.headers["Retry-After"]) > 0
    first.close()
    until(lambda: running.service.sessions == 1)
    third = Client(running.url)
    assert third.reset(problem_id="ash")["observation"]["problem_id"] == "ash"
    second.close()
    third.close()


def test_an_idle_session_ends():
    with serving(Words(), session_seconds=0.05) as running:
        client = Client(running.url)
        with pytest.raises(ConnectionClosed) as closed:
            client.socket.recv(PATIENCE)
        assert closed.value.rcvd.code == 1001
        assert "0.05 seconds" in closed.value.rcvd.reason
        until(lambda: running.service.sessions == 0)


def test_a_session_whose_answer_is_being_judged_is_not_idle():
    env = Words()
    with serving(env) as running:
        client = Client(running.url)
        client.reset(problem_id="ash")
        reply = running.in_background(client.step, "wait")
        assert env.running.acquire(timeout=PATIENCE)
        running.service.bounds = Bounds(session_seconds=0.05)
        idle = Client(running.url)
        with pytest.raises(ConnectionClosed):
            idle.socket.recv(PATIENCE)  # another session, which does nothing meanwhile
        env.gate.set()
        assert reply.get(timeout=PATIENCE)["reward"] == 0.25
        client.close()


def test_a_full_queue_refuses_a_step_and_the_episode_goes_on(env):
    with serving(env, queue=1) as running:
        client = Client(running.url)
        client.reset(problem_id="ash")
        waiting = running.in_background(running.post, [("oak", "wait")])
        assert env.running.acquire(timeout=PATIENCE)
        code, text = client.step("ASH")
        assert code == "CAPACITY_REACHED"
        assert "0 of 1 places" in text
        env.gate.set()
        waiting.get(timeout=PATIENCE)
        until(lambda: running.service.judging.length == 0)
        assert client.step("ASH")["reward"] == 1.0
        client.close()


def test_sources_of_feedback_tell_a_session_too(env):
    with serving(env, EnvironmentFeedback("status")) as running:
        client = Client(running.url)
        client.reset(problem_id="ash")
        seen = client.step("x")["observation"]
        client.close()
    assert seen["feedback"] == seen["text"] == seen["messages"][0]["content"] == "Wrong answer"
