"""A diagnosis of failed attempts in four parts, behind the feedback on them."""

from __future__ import annotations

import json

import pytest
from guessing import attempt, said

from vpd_envs import Reflection

DIAGNOSIS = {
    "error_identification": "3 is below\nthe number.",
    "root_cause_analysis": "The hint was not read.",
    "correct_approach": "Guess higher.",
    "key_insight": "Read hints.",
}
LINES = (
    "Error: 3 is below the number.\n"
    "Root cause: The hint was not read.\n"
    "Correct approach: Guess higher.\n"
    "Key insight: Read hints."
)


def diagnosis_of(answer: str, **options) -> str:
    """What follows the inner feedback "no" where the critic gives this answer."""
    (text,) = Reflection(lambda prompts: [answer], **options).feedback([attempt("3", "no")])
    return text.removeprefix("no").removeprefix("\n\n")


def test_the_critic_reads_the_problem_the_attempt_and_its_feedback():
    prompts = []

    def critic(asked):
        prompts.extend(asked)
        return [json.dumps(DIAGNOSIS)]

    Reflection(critic).feedback([attempt("<think>hm</think>3", "3 is too low.")])
    assert prompts == [
        "The attempt at the problem below has failed. Find out why. Do not write out a whole "
        "solution.\n\n# Problem\n\nGuess mid\n\n# Attempt\n\n3\n\n# Feedback on the attempt\n\n"
        "3 is too low.\n\n# Your task\n\nAnswer with one JSON object and nothing else. Its four "
        "values are texts of one to three sentences:\n\n"
        '- "error_identification": what is wrong in the attempt, and where\n'
        '- "root_cause_analysis": why it went wrong, such as a rule that was misread or a case '
        "left out\n"
        '- "correct_approach": what should be done instead\n'
        '- "key_insight": what to remember for similar problems'
    ]


def test_failed_attempts_are_diagnosed_in_one_call_and_solved_ones_are_not():
    calls = []

    def critic(asked):
        calls.append(len(asked))
        return [json.dumps(DIAGNOSIS | {"key_insight": f"no. {i}"}) for i in range(len(asked))]

    pairs = [("mid", "3"), ("mid", "5"), ("low", "x")]
    texts = said(pairs, lambda envs: Reflection(envs, critic))
    assert calls == [2]
    assert texts[1] == "Right."
    for i, inner in ((0, "3 is too low.\nTry another."), (2, "Not a number.")):
        assert texts[i] == f"{inner}\n\n{LINES}".replace("Read hints.", f"no. {i // 2}")


@pytest.mark.parametrize(
    "answer",
    [
        json.dumps(DIAGNOSIS),
        f"<think>{{}} maybe</think>\n{json.dumps(DIAGNOSIS)}",
        f"Here it is:\n```json\n{json.dumps(DIAGNOSIS, indent=2)}\n```\nDone.",
        json.dumps(DIAGNOSIS).replace(r"\n", "\n"),  # a line break in a text, as models write it
        json.dumps({"reasoning": "long"} | DIAGNOSIS),
    ],
)
def test_the_four_texts_are_found_whatever_is_around_them(answer):
    assert diagnosis_of(answer) == LINES


def test_what_is_absent_empty_or_no_text_has_no_line():
    found = {"error_identification": " ", "root_cause_analysis": None, "key_insight": "Look."}
    assert diagnosis_of(json.dumps(found | {"correct_approach": ["a"]})) == "Key insight: Look."


@pytest.mark.parametrize(
    "answer",
    [
        "The sign is wrong.",
        '{"error_identification": "cut off he',
        "{not json}",
        '["a", "b"]',
        '{"other": "key"}',
        '{"a":' * 5000 + "1" + "}" * 5000,
    ],
)
def test_an_answer_that_is_no_diagnosis_is_taken_as_it_is(answer):
    assert diagnosis_of(answer, reflection_characters=100_000) == answer


def test_no_answer_is_no_diagnosis():
    for answer in ("", " \n", "<think>never done", "<think>done</think>"):
        assert diagnosis_of(answer) == ""


def test_a_long_diagnosis_loses_its_end():
    text = diagnosis_of("a" * 999 + "b", reflection_characters=300)
    assert len(text) == 300
    assert text.startswith("aaa")
    assert "b" not in text
    with pytest.raises(ValueError, match="reflection_characters"):
        Reflection(reflection_characters=0)


def test_without_a_critic_it_is_explained():
    with pytest.raises(ValueError, match=r"no critic. Give one, Reflection\(critic\)"):
        Reflection().feedback([attempt()])
