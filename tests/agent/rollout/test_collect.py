"""Episodes as tokens: one answer, several turns, and what is left of the room."""

from __future__ import annotations

from functools import partial

import pytest
import torch

from agent.helpers import small_policy
from sandbox import SandboxError
from vpd_agent.data.batch import RolloutBatch
from vpd_agent.engines import Generation
from vpd_agent.model.policy import Policy
from vpd_agent.rollout.collect import Actor
from vpd_agent.rollout.teacher_prompt import TeacherTemplate, teacher_prompt
from vpd_envs import Problem, Status, TextEnv, Verdict
from vpd_envs.answers.extraction import Found
from vpd_envs.answers.sanitize import sanitize
from vpd_envs.math.answer import boxed_answer


def reply(answer: str) -> str:
    return sanitize(f"not {answer}<|end|>")


class Count(TextEnv):
    """Say "three" and you are done; what you say instead is said back."""

    def judge(self, problem: Problem, answer: str) -> Verdict:
        right = answer == problem.target
        status = Status.SOLVED if right else Status.WRONG_ANSWER
        return Verdict(float(right), status, "yes" if right else reply(answer))


class Scripted:
    """An engine that says what it was told to, a line for each call; notes what it was shown."""

    logprobs_match_trainer = True

    def __init__(self, policy, *calls: list[str], ends: bool = True) -> None:
        self.policy, self.calls, self.ends = policy, list(calls), ends
        self.shown: list[list[list[int]]] = []

    def generate(self, prompts, *, samples=1, max_tokens, temperature=1.0, generator=None):
        self.shown.append([p for p in prompts for _ in range(samples)])
        texts = self.calls.pop(0)
        assert len(texts) == len(self.shown[-1])
        generations = []
        for text in texts:
            ids = self.policy.tokenizer(text, add_special_tokens=False).input_ids
            ids = (ids + [self.policy.tokenizer.eos_token_id] * self.ends)[:max_tokens]
            stopped = ids[-1] in self.policy.eos_ids
            logprobs = [-0.5] * len(ids)
            generations.append(Generation(ids, logprobs, "stop" if stopped else "length"))
        return generations

    def sync(self, policy) -> None:
        pass

    def close(self) -> None:
        pass


PROBLEMS = [Problem(id="a", prompt="count", target="three")]


def play(engine, policy, *, turns=3, rows=1, **limits):
    environment = Count.vector(rows, problems=PROBLEMS, max_turns=turns)
    limits = {"max_response_tokens": 200, **limits}
    return Actor(policy, engine, environment, **limits).collect(["a"], rows)


@pytest.fixture(scope="module")
def policy():
    return small_policy()


def test_an_episode_of_several_turns_is_one_sequence_of_tokens(policy):
    engine = Scripted(policy, ["one"], ["two"], ["three"])
    [rollout] = play(engine, policy).rollouts
    assert (rollout.text, rollout.reward, rollout.finish) == ("three", 1.0, "stop")
    tokenizer = policy.tokenizer
    end = tokenizer.eos_token_id
    plain = partial(tokenizer, add_special_tokens=False, split_special_tokens=True)
    begin, answer = (tokenizer.convert_tokens_to_ids(t) for t in ("<|begin|>", "<|answer|>"))
    expected, written = [], []
    for said, heard in (("one", reply("one")), ("two", reply("two"))):
        expected += [*plain(said).input_ids, end, begin, *plain(heard).input_ids, answer]
        written += [True] * (len(said) + 1) + [False] * (len(plain(heard).input_ids) + 2)
    expected += [*plain("three").input_ids, end]
    assert rollout.response_ids == expected
    assert rollout.is_policy_token == written + [True] * 6


def test_the_policy_is_shown_the_conversation_so_far_token_by_token(policy):
    engine = Scripted(policy, ["one"], ["three"])
    [rollout] = play(engine, policy).rollouts
    first, second = engine.shown
    assert first == [rollout.prompt_ids]
    said = len(second[0]) - len(rollout.prompt_ids)
    assert second[0] == rollout.prompt_ids + rollout.response_ids[:said]
    assert rollout.is_policy_token[:said].count(True) == len("one") + 1


def test_only_open_episodes_go_on(policy):
    engine = Scripted(policy, ["three", "one", "three"], ["three"])
    rollouts = play(engine, policy, rows=3).rollouts
    assert [r.reward for r in rollouts] == [1.0, 1.0, 1.0]
    assert [r.is_policy_token is None for r in rollouts] == [True, False, True]
    assert [len(shown) for shown in engine.shown] == [3, 1]


def test_an_episode_without_room_for_another_answer_ends_as_it_stands(policy):
    engine = Scripted(policy, ["one"])
    [rollout] = play(engine, policy, max_response_tokens=12).rollouts
    assert (rollout.text, rollout.reward, rollout.feedback) == ("one", 0.0, reply("one"))
    assert rollout.is_policy_token is None


@pytest.mark.parametrize(("more", "answers"), [(0, ["one"]), (1, ["one", "t"])])
def test_a_reply_that_exactly_fills_the_room_ends_the_episode(policy, more, answers):
    """One token more, and there is a second answer of that one token."""
    engine = Scripted(policy, ["one"], ["two"], ends=False)
    heard = policy.continuation({"role": "user", "content": reply("one")})
    limit = len("one") + len(heard) + more
    [rollout] = play(engine, policy, turns=2, max_response_tokens=limit).rollouts
    assert len(engine.shown) == len(answers)
    assert rollout.text == answers[-1]
    assert len(rollout.response_ids) == (limit if more else len("one"))


def test_an_answer_is_cut_to_the_room_that_is_left(policy):
    engine = Scripted(policy, ["one", "seventeen"], ["three"], ends=False)
    environment = Count.vector(2, problems=PROBLEMS, max_turns=2)
    room = 3 + len(policy.continuation({"role": "user", "content": reply("one")})) + 2
    rollouts = Actor(policy, engine, environment, room).collect(["a"], 2).rollouts
    assert rollouts[0].text == "th"
    assert (len(rollouts[0].response_ids), rollouts[0].finish) == (room, "length")
    assert rollouts[1].text == "seventeen"  # its reply left no room


def test_episodes_that_cannot_be_judged_any_further_are_dropped_and_the_others_kept(policy):
    class Failing(Count):
        def judge(self, problem, answer):
            if answer == "two":
                raise SandboxError("the cage is gone")
            return super().judge(problem, answer)

    engine = Scripted(policy, ["three", "one"], ["two"])
    environment = Failing.vector(2, problems=PROBLEMS, max_turns=3)
    collected = Actor(policy, engine, environment, 99).collect(["a"], 2)
    assert [r.text for r in collected.rollouts] == ["three"]
    assert len(collected.dropped) == 1
    assert "the cage is gone" in collected.dropped[0]


def test_losses_apply_to_every_turn_and_to_no_reply(policy):
    engine = Scripted(policy, ["one", "three"], ["two"])
    rollouts = play(engine, policy, rows=2, turns=2).rollouts
    prompts = [
        teacher_prompt(
            policy,
            TeacherTemplate(),
            r.messages,
            r.text,
            r.feedback,
            solved=r.reward == 1,
            max_tokens=1000,
        )
        for r in rollouts
    ]
    batch = RolloutBatch.from_rollouts(rollouts, prompts, pad_id=policy.pad_id)
    assert (
        batch.loss_mask[0, : len(rollouts[0].is_policy_token)].tolist()
        == rollouts[0].is_policy_token
    )
    assert batch.token_mask[0].sum() == len(rollouts[0].response_ids)
    assert batch.num_tokens == sum(rollouts[0].is_policy_token) + len("three") + 1
    scores = policy.forward(
        batch.prompt, batch.prompt_mask, batch.response, batch.token_mask, batch.loss_mask
    )
    # The second answer is scored after all that went before it, the reply included.
    alone = [rollouts[0].prompt_ids + rollouts[0].response_ids]
    logits = policy.model(input_ids=torch.tensor(alone)).logits[0].log_softmax(-1)
    start = len(rollouts[0].prompt_ids)
    for t, token in enumerate(rollouts[0].response_ids):
        expected = logits[start + t - 1, token].item() if rollouts[0].is_policy_token[t] else 0.0
        assert scores.logprobs[0, t].item() == pytest.approx(expected, abs=1e-4)


# Thinking that the template opens in the prompt ---------------------------------------------------


def thinking_policy(*, special: bool):
    """A model whose template ends prompts in `<think>`, as those of reasoning models do."""
    from tokenizers import AddedToken

    policy = small_policy()
    tags = [AddedToken(tag, special=special) for tag in ("<think>", "</think>")]
    policy.tokenizer.add_tokens(tags)
    policy.tokenizer.chat_template += "{% if add_generation_prompt %}<think>\n{% endif %}"
    policy.model.resize_token_embeddings(len(policy.tokenizer))
    return Policy(policy.model, policy.tokenizer)


class Boxed(TextEnv):
    """Judges what is boxed behind the thinking."""

    def judge(self, problem: Problem, answer: str) -> Verdict:
        final = boxed_answer(answer)
        if final.found is not Found.COMPLETE:
            return Verdict(0.0, Status.NO_ANSWER, f"none: {final.found}")
        return Verdict(float(final.text == problem.target), Status.SOLVED, final.text)


@pytest.mark.parametrize("special", [False, True])
def test_an_answer_cut_off_in_the_thinking_that_its_prompt_opened_is_unfinished(special):
    policy = thinking_policy(special=special)
    says = [r"maybe \boxed{4}? Wait", r"it is \boxed{3}</think>So \boxed{4}", "<think> again"]
    engine = Scripted(policy, says, ends=False)
    environment = Boxed.vector(3, problems=[Problem(id="a", prompt="2+2", target="4")])
    collected = Actor(policy, engine, environment, 200).collect(["a"], 3)
    rollouts = collected.rollouts
    assert [r.status for r in rollouts] == ["no_answer", "solved", "no_answer"]
    assert [r.feedback for r in rollouts] == ["none: thinking", "4", "none: thinking"]
    assert rollouts[0].text == "<think>\nmaybe \\boxed{4}? Wait"
    assert policy.tokenizer.decode(rollouts[0].response_ids) == says[0]  # nothing is added there


def test_an_answer_to_a_prompt_that_opens_no_thinking_is_its_own_text(policy):
    prompt = policy.encode([{"role": "user", "content": "what is <think>?"}])
    ids = policy.tokenizer("four").input_ids
    assert policy.answer_text(prompt, ids) == "four"


def test_only_tags_of_thinking_are_kept_of_the_special_tokens():
    policy = thinking_policy(special=True)
    ids = [*policy.tokenizer("a</think>b").input_ids, policy.tokenizer.eos_token_id]
    assert policy.decode(ids) == "a</think>b"
