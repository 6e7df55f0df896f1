"""Teacher prompts and teacher weights."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from agent.helpers import SecretLetter, mixed_rollouts, small_policy
from vpd_agent.algorithms import GRPO, SDPO
from vpd_agent.engines import Generation
from vpd_agent.engines.hf import HFEngine
from vpd_agent.model.teacher import Teacher
from vpd_agent.rollout.teacher_prompt import (
    PlainPrompt,
    TeacherTemplate,
    cut,
    teacher_prompt,
)
from vpd_agent.train.config import TrainConfig
from vpd_agent.train.trainer import Trainer

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
    template = TeacherTemplate(turn="{feedback}", failed="{prompt}|{attempt}|{feedback}")
    text = template.messages(PROMPT, "{x}", "{feedback} {0}", solved=False)[1]["content"]
    assert text == "What is 2+2?|{x}|{feedback} {0}"


def test_thinking_is_stripped_from_the_attempt():
    template = TeacherTemplate(turn="{feedback}", failed="{attempt}")
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
    template = TeacherTemplate(turn="{feedback}", failed="{prompt}|{attempt}|{feedback}")
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


def test_with_a_plain_prompt_every_rollout_has_a_teacher_and_it_reads_the_students_prompt(policy):
    rollouts = mixed_rollouts(policy)
    assert any(not r.feedback for r in rollouts)
    for r in rollouts:
        attempt = r.messages, r.text, r.feedback
        ids = teacher_prompt(policy, PlainPrompt(), *attempt, solved=r.reward == 1, max_tokens=1)
        assert ids == r.prompt_ids


CONFIG = TrainConfig(
    steps=20,
    prompts_per_step=4,
    group_size=2,
    learning_rate=1e-2,
    max_prompt_tokens=64,
    max_teacher_prompt_tokens=256,
    max_response_tokens=4,
    eval_every=0,
)


def mean_kl(trainer: Trainer, rollouts) -> float:
    """KL(student‖teacher) of the next token, over the tokens of these rollouts, by whole passes."""
    total, count = 0.0, 0
    for rollout in rollouts:
        (theirs,) = trainer.prompts_with_feedback([rollout])
        logps = []
        for policy, prompt in (
            (trainer.policy, rollout.prompt_ids),
            (trainer.teacher.policy, theirs),
        ):
            ids = torch.tensor([prompt + rollout.response_ids])
            with torch.no_grad():
                logits = policy.model(input_ids=ids).logits[0, len(prompt) - 1 : -1]
            logps.append(logits.log_softmax(-1))
        student, teacher = logps
        total += float((student.exp() * (student - teacher)).sum())
        count += len(student)
    return total / count


@pytest.mark.parametrize("template", [PlainPrompt(), TeacherTemplate(turn="{prompt}{feedback}")])
def test_a_student_comes_closer_to_a_teacher_that_is_another_model(template):
    student, other = small_policy(seed=0), small_policy(seed=1)
    before = [w.clone() for w in other.model.parameters()]
    algorithm = SDPO(teacher="ema")  # the student's average, if it had no other teacher
    trainer = Trainer(
        student,
        algorithm,
        SecretLetter.vector(CONFIG.rollouts_per_step),
        CONFIG,
        template=template,
        teacher=algorithm.make_teacher(student, other),
    )
    assert trainer.teacher.policy is other
    rollouts = trainer.collect().rollouts
    start = mean_kl(trainer, rollouts)
    trainer.train()
    assert mean_kl(trainer, rollouts) < 0.7 * start
    assert all(map(torch.equal, before, other.model.parameters()))


def test_the_gate_asks_a_copy_of_the_student_through_the_students_engine():
    sampled_from = []

    class Recording(HFEngine):
        def generate(self, prompts, **options):
            sampled_from.append(self.policy)
            return super().generate(prompts, **options)

    student = small_policy()
    algorithm = SDPO(teacher="ema", gate_width=0.5, gate_every=1)
    environment = SecretLetter.vector(CONFIG.rollouts_per_step)
    trainer = Trainer(student, algorithm, environment, replace(CONFIG, steps=2),
                      engine=Recording(student))  # fmt: skip
    trainer.train()
    assert trainer.teacher.policy is not student
    assert sampled_from == [student, trainer.teacher.policy] * 2


def test_the_gate_asks_another_model_itself():
    """A teacher that always says what is right is found out to be right."""
    student, other = small_policy(seed=0), small_policy(seed=1)
    algorithm = SDPO(gate_width=0.5, gate_every=1)
    teacher = algorithm.make_teacher(student, other)

    class Knowing:
        """Answers every teacher prompt with the letter that it ends with."""

        def generate(self, prompts, *, max_tokens, temperature, generator):
            texts = [student.tokenizer.decode(ids) for ids in prompts]
            answers = [student.tokenizer(text.split("want ")[1][0]).input_ids for text in texts]
            return [Generation(ids, [0.0] * len(ids), "length") for ids in answers]

    rows = []
    environment = SecretLetter.vector(CONFIG.rollouts_per_step)
    trainer = Trainer(student, algorithm, environment, replace(CONFIG, steps=1), teacher=teacher,
                      teacher_engine=Knowing(), on_step=rows.append)  # fmt: skip
    trainer.train()
    assert rows[0]["gate/rows"] > 0
    assert rows[0]["gate/teacher_solved"] == 1


def test_a_teacher_with_another_vocabulary_is_refused():
    student, other = small_policy(), small_policy()
    other.tokenizer.add_tokens(["<new>"])
    with pytest.raises(ValueError, match="'<new>' is token None of the student's"):
        SDPO().make_teacher(student, other)


def test_embeddings_without_a_token_are_left_out_of_a_teacher():
    student, other = small_policy(seed=0), small_policy(seed=1)
    count = other.model.config.vocab_size
    other.model.resize_token_embeddings(count + 7)
    with torch.no_grad():
        logits = other.model(input_ids=torch.tensor([[5, 6, 7]])).logits[..., :count]
    teacher = SDPO().make_teacher(student, other)
    with torch.no_grad():
        now = teacher.policy.model(input_ids=torch.tensor([[5, 6, 7]])).logits
    torch.testing.assert_close(now, logits)
    bigger = small_policy()
    bigger.model.resize_token_embeddings(count + 7)
    with pytest.raises(ValueError, match=f"embeddings of {count} tokens, fewer than the"):
        SDPO().make_teacher(bigger, small_policy(seed=1))


def test_an_algorithm_without_a_teacher_takes_no_other_model():
    assert GRPO().make_teacher(small_policy()) is None
    with pytest.raises(ValueError, match="grpo has no teacher"):
        GRPO().make_teacher(small_policy(), small_policy())


def test_a_saved_teacher_is_taken_back_by_one_of_its_kind_only():
    student = small_policy()
    teachers = {
        "live": Teacher(student, "live", 0.05),
        "ema": Teacher(student, "ema", 0.05),
        "other": Teacher(student, "live", 0.05, model=small_policy(seed=1)),
        "another": Teacher(student, "live", 0.05, model=small_policy(seed=2)),
    }
    for name, saved in teachers.items():
        for taker, teacher in teachers.items():
            if name == taker:
                teacher.load_state_dict(saved.state_dict())
                continue
            both = {name, taker} == {"other", "another"}
            with pytest.raises(ValueError, match="another model as its" if both else "kind of"):
                teacher.load_state_dict(saved.state_dict())
