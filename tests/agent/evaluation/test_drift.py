"""What shows a run's drift: answers in another form, and the distance from the initial policy."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import replace

import pytest
import torch

from agent.helpers import SecretLetter, mixed_rollouts, small_policy
from vpd_agent.engines import Generation
from vpd_agent.evaluation.evaluate import Evaluation
from vpd_agent.evaluation.in_training import (
    distance,
    eval_metrics,
    evaluate_student,
    form,
    forms_changed,
    with_logprobs,
)
from vpd_agent.rollout.collect import Actor
from vpd_agent.train.config import TrainConfig

CONFIG = TrainConfig(temperature=0.7, micro_batch_size=2)


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("x*7+3", "x*4+3", True),
        ("x*7+3", "x*12+0.5", True),
        ("x*7+3", "7*x+3", False),
        ("x*7+3", "x*7+3*1", False),
        ("x*7+3", "x*7", False),
        ("x*7+3", "y*7+3", False),
        ("return 1\n", " return  2", True),
        ("", "", True),
    ],
)
def test_the_form_of_an_answer_is_all_but_its_numbers(one, other, same):
    assert (form(one) == form(other)) is same


class Says:
    """An engine that gives the answers of a list, one after the other."""

    logprobs_match_trainer = True

    def __init__(self, policy, answers):
        self.policy, self.answers, self.prompts = policy, list(answers), []

    def generate(self, prompts, **_):
        self.prompts += prompts
        texts = [self.answers.pop(0) for _ in prompts]
        return [Generation(self.policy.tokenizer(t).input_ids, [0.0], "stop") for t in texts]

    def sync(self, policy): ...

    def close(self): ...


def test_an_answer_in_another_form_is_counted_where_the_teacher_was_told_that_all_was_right():
    policy = small_policy()
    solved = [replace(mixed_rollouts(policy)[0], text=t) for t in ("x*7", "7*x", "x+1", "x+2")]
    prompts = [[1, 2], None, [3], [4, 5]]
    engine = Says(policy, ["x*9", "x+1+0", " x+3\n"])
    actor = Actor(policy, engine, SecretLetter.vector(2), 8)
    assert forms_changed(actor, solved, prompts) == [False, True, False]
    assert engine.prompts == [[1, 2], [3], [4, 5]]


def test_the_policys_own_log_probabilities_are_those_of_a_pass_of_its_own():
    policy = small_policy()
    rollouts = mixed_rollouts(policy)
    rollouts[0] = replace(rollouts[0], is_policy_token=[True, False, True])
    for before, after in zip(rollouts, with_logprobs(policy, rollouts, CONFIG), strict=True):
        assert replace(after, logprobs=before.logprobs) == before
        ids = torch.tensor([before.prompt_ids + before.response_ids])
        logits = policy.model(ids).logits[0, len(before.prompt_ids) - 1 : -1]
        table = (logits / CONFIG.temperature).log_softmax(-1)
        own = table[range(len(before.response_ids)), before.response_ids].tolist()
        own = [
            p * own for p, own in zip(before.is_policy_token or [1] * len(own), own, strict=True)
        ]
        assert after.logprobs == pytest.approx(own, abs=1e-5)


def test_the_distance_is_zero_at_first_and_then_what_the_initial_policy_gave_more():
    policy = small_policy()
    rollouts = mixed_rollouts(policy)
    rollouts[0] = replace(rollouts[0], is_policy_token=[True, False, True])
    tokens = sum(len(r.response_ids) for r in rollouts) - 1
    initial = with_logprobs(policy, rollouts, CONFIG)
    assert distance(policy, initial, CONFIG) == {"distance": 0.0, "tokens": tokens}
    with torch.no_grad():
        for weight in policy.parameters():
            weight.mul_(1.1)
    now = with_logprobs(policy, rollouts, CONFIG)
    expected = sum(a - b for x, y in zip(initial, now, strict=True)
                   for a, b in zip(x.logprobs, y.logprobs, strict=True))  # fmt: skip
    assert abs(expected) > 0.01
    found = distance(policy, initial, CONFIG)
    assert found == {"distance": pytest.approx(expected), "tokens": tokens}


def test_an_evaluation_keeps_as_many_solved_attempts_as_are_wanted():
    policy = small_policy()
    right = Says(policy, "abcdefgh?")  # the last call is filled up with one more
    environment = SecretLetter.vector(3)
    ids = sorted(environment.unwrapped.problem_ids)
    config = replace(CONFIG, eval_successes=5)
    result = evaluate_student(Actor(policy, right, environment, 8), ids, config)
    assert [r.problem_id for r in result.successes] == ids[:5]
    assert result.failures == []


def test_what_there_was_nothing_to_measure_on_is_no_number():
    student = Evaluation({"a": 1}, {"a": 1}, Counter(solved=1))
    found = eval_metrics(student, [], [], {"distance": 0.0, "tokens": 0.0})
    named = ("eval/teacher_repair", "eval/form_changed", "eval/distance_solved")
    assert all(math.isnan(found[name]) for name in named)
    found = eval_metrics(student, [True, False], [True] * 3, {"distance": 6.0, "tokens": 4.0})
    assert [found[name] for name in named] == [0.5, 1.0, 1.5]
