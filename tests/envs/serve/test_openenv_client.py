"""The client of openenv-core, unmodified: `.ci/openenv` has what it needs."""

import os

import pytest
from clients import Words, serving

if "VPD_REQUIRE_OPENENV" in os.environ:
    import openenv.core as core
else:
    core = pytest.importorskip("openenv.core", reason="needs openenv-core: run .ci/openenv")


@pytest.fixture
def url():
    with serving(Words(max_turns=2), sessions=1) as running:
        yield running.url


def test_it_plays_an_episode(url):
    with core.GenericEnvClient(base_url=url).sync() as client:
        first = client.reset(problem_id="ash")
        assert (first.reward, first.done) == (None, False)
        assert first.observation["messages"] == [{"role": "user", "content": "Shout: ash"}]
        wrong = client.step({"answer": "x"})
        assert (wrong.reward, wrong.done) == (0.0, False)
        assert wrong.observation["feedback"] == "Not 'x'."
        assert wrong.observation["messages"] == [{"role": "user", "content": "Not 'x'."}]
        assert client.state()["step_count"] == 1
        right = client.step(core.GenericAction(answer="ASH", metadata={"tag": "test"}))
        assert (right.reward, right.done) == (1.0, True)
        seen = right.observation
        assert (seen["status"], seen["problem_id"], seen["turn"]) == ("solved", "ash", 2)


def test_it_hears_what_is_wrong_and_goes_on(url):
    with core.GenericEnvClient(base_url=url).sync() as client:
        client.reset(problem_id="ash")
        with pytest.raises(RuntimeError, match=r"on fire.*EXECUTION_ERROR"):
            client.step({"answer": "fire"})
        with pytest.raises(RuntimeError, match=r"may have answer.*VALIDATION_ERROR"):
            client.step({"code": "x"})
        assert client.step({"answer": "ASH"}).reward == 1.0
        with pytest.raises(ConnectionError, match="503"):
            core.GenericEnvClient(base_url=url).sync().connect()


async def _typed(url):
    from openenv.core.env_server.types import Action, Observation

    class Answer(Action):
        answer: str

    class Seen(Observation):
        problem_id: str
        feedback: str | None

    class Typed(core.EnvClient):
        def _step_payload(self, action):
            return action.model_dump()

        def _parse_result(self, payload):
            told = {k: payload["observation"][k] for k in ("problem_id", "feedback")}
            return Seen(**told, reward=payload["reward"], done=payload["done"])

        def _parse_state(self, payload):
            return payload

    async with Typed(base_url=url) as client:
        await client.reset(seed=0)
        return await client.step(Answer(answer="x"))


def test_a_client_with_types_of_its_own_plays_too(url):
    import asyncio

    seen = asyncio.run(_typed(url))
    assert seen.feedback == "Not 'x'."
    assert not seen.done
