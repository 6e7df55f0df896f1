"""Teacher prompts and teacher weights."""

from __future__ import annotations

import pytest
import torch

from agent.helpers import small_policy
from vpd_agent.model.teacher import Teacher, TeacherTemplate, cut, teacher_prompt

PROMPT = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "What is 2+2?"},
]


@pytest.fixture(scope="module")
def policy():
    return small_policy()


def test_only_the_last_user_turn_changes():
    messages = TeacherTemplate().messages(PROMPT, "5", "too much", solved=False)
    assert messages[0] == PROMPT[0]
    assert messages[1]["content"].startswith("What is 2+2?")
    assert "unsuccessful earlier attempt:\n\ntoo much" in messages[1]["content"]
    assert PROMPT[1]["content"] == "What is 2+2?"  # the student's prompt is untouched


def test_solved_attempts_have_words_of_their_own():
    text = TeacherTemplate().messages(PROMPT, "4", "right", solved=True)[1]["content"]
    assert "unsuccessful" not in text


def test_braces_in_feedback_and_attempt_are_text():
    template = TeacherTemplate(failed="{prompt}|{attempt}|{feedback}")
    text = template.messages(PROMPT, "{x}", "{feedback} {0}", solved=False)[1]["content"]
    assert text == "What is 2+2?|{x}|{feedback} {0}"


def test_thinking_is_stripped_from_the_attempt():
    template = TeacherTemplate(failed="{attempt}")
    for attempt in ("<think>long\nthought</think>\nfour", "four<think>cut off"):
        assert template.messages(PROMPT, attempt, "f", solved=False)[1]["content"] == "four"


def test_a_template_with_an_unknown_field_is_refused():
    with pytest.raises(ValueError, match=r"may use \{prompt\}"):
        TeacherTemplate(failed="{answer}")


def test_cut_keeps_both_ends_within_the_limit():
    assert cut("short", 10) == "short"
    shown = cut("a" * 50 + "b" * 50, 21)
    assert len(shown) == 21
    assert shown.startswith("aaaa")
    assert shown.endswith("bbbb")
    assert all(len(cut("x" * 100, n)) == n for n in range(100))


def test_too_long_feedback_is_cut_but_never_the_problem_or_the_header(policy):
    template = TeacherTemplate(failed="{prompt}|{attempt}|{feedback}")
    whole = policy.encode(PROMPT)
    ids = teacher_prompt(
        policy, template, PROMPT, "try", "é" * 5000, solved=False, max_tokens=len(whole) + 40
    )
    assert len(whole) < len(ids) <= len(whole) + 40
    text = policy.tokenizer.decode(ids)
    assert "What is 2+2?|" in text
    assert ids[-1] == whole[-1]  # the generation header


def test_no_feedback_or_no_room_for_any_gives_no_teacher(policy):
    template = TeacherTemplate()
    args = {"solved": False}
    assert teacher_prompt(policy, template, PROMPT, "5", " \n", max_tokens=999, **args) is None
    assert teacher_prompt(policy, template, PROMPT, "5", "no", max_tokens=20, **args) is None


def test_ema_teacher_follows_its_equation():
    policy = small_policy()
    before = [p.clone() for p in policy.model.parameters()]
    teacher = Teacher(policy, "ema", rate=0.05)
    with torch.no_grad():
        for p in policy.model.parameters():
            p.add_(1.0)
    teacher.update()
    for old, p in zip(before, teacher.policy.model.parameters(), strict=True):
        torch.testing.assert_close(p, 0.95 * old + 0.05 * (old + 1))


def test_live_and_frozen_teachers_are_what_they_say():
    policy = small_policy()
    live, frozen = Teacher(policy, "live", 0.05), Teacher(policy, "frozen", 0.05)
    before = next(frozen.policy.model.parameters()).clone()
    with torch.no_grad():
        next(policy.model.parameters()).add_(1.0)
    live.update()
    frozen.update()
    assert live.policy is policy
    torch.testing.assert_close(next(frozen.policy.model.parameters()), before)
