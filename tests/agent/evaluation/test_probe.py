"""What a probe says of answers, by hand; and that it measures what it says it does."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from html import escape

import pytest
import torch

from agent.helpers import SecretLetter, mixed_rollouts, rollout, small_policy
from vpd_agent.cli.main import main
from vpd_agent.cli.probe import ProbeOptions, _teacher_prompts
from vpd_agent.engines import Generation
from vpd_agent.engines.hf import HFEngine
from vpd_agent.evaluation.probe import (
    Answered,
    advantage,
    findings,
    student_answers,
    verdict,
    with_divergence,
    with_teacher,
)
from vpd_agent.model.teacher import Teacher
from vpd_agent.rollout.collect import Actor, StepResult
from vpd_agent.rollout.teacher_prompt import TeacherTemplate
from vpd_agent.statistics.rates import Interval

POLICY = small_policy()


def said(solved: bool) -> StepResult:
    return StepResult(float(solved), "", "solved" if solved else "wrong_answer", None, True, "")


def answers(*groups: str, prompt: bool = True, divergence: float = 0.1) -> list[Answered]:
    """A group for each word, of an answer for each two letters: whether student and teacher solve
    the problem, + or -; a teacher of `.` could not be judged."""
    result = []
    for number, group in enumerate(groups):
        pairs = [group[i : i + 2] for i in range(0, len(group), 2)]
        right = [pair[0] == "+" for pair in pairs]
        for own, (_, teacher) in zip(right, pairs, strict=True):
            base = rollout(f"p{number}", policy=POLICY, group=number, reward=float(own))
            result.append(
                Answered(
                    replace(base, status="solved" if own else "no_answer"),
                    own,
                    (sum(right) - own) / (len(right) - 1),
                    [1, 2, 3] if prompt else None,
                    said(teacher == "+") if prompt and teacher != "." else None,
                    prompt and teacher == "+",
                    (divergence,) * 2 if prompt else (),
                )
            )
    return result


def test_the_teacher_is_compared_with_second_tries_at_what_the_student_failed():
    found = advantage(answers("++-+--", "-+-+", "--+-", "+++-", "-.--"))
    # Failed answers with a teacher's: two of the first problem, of which one is repaired and half
    # of the others are right; two, both repaired, none right; one, not repaired, whose other is;
    # one of the last.
    assert found.failures == 6
    assert found.problems == 4
    assert found.repair.mean == pytest.approx((1 + 2 + 0 + 0) / 6)
    assert found.retry.mean == pytest.approx((2 * 0.5 + 0 + 1 + 0) / 6)
    assert found.difference.mean == pytest.approx(found.repair.mean - found.retry.mean)


def test_every_number_of_a_probe_is_what_one_would_count():
    some = answers("++-+--", "-+-+", "+-++")
    found = findings(some, wanted=9)
    assert (found["answers"], found["not_judged"], found["teacher_not_judged"]) == (7, 2, 0)
    assert found["student"]["pass@1"]["mean"] == pytest.approx((1 / 3 + 0 + 1) / 3)
    assert found["teacher"]["pass@1"]["mean"] == pytest.approx((2 / 3 + 1 + 1 / 2) / 3)
    assert found["difference"]["mean"] == pytest.approx((1 / 3 + 1 - 1 / 2) / 3)
    assert found["kept"] == pytest.approx(2 / 3)
    assert found["student"]["format_errors"] == pytest.approx(4 / 7)
    assert found["student"]["truncated"] == 1.0
    assert found["student"]["statuses"] == {"no_answer": 4, "solved": 3}
    assert found["feedback"] == 1.0
    assert found["divergence"]["failed"]["mean"] == pytest.approx(0.1)
    assert found["divergence"]["failed"]["per_answer"] == pytest.approx(0.2)
    assert found["tokens"]["teacher_prompt"] == {"mean": 3.0, "median": 3.0, "max": 3}
    assert found["problems"][1] == {
        "problem_id": "p1",
        "student": [False, False],
        "teacher": [True, True],
    }


@pytest.mark.parametrize(
    ("groups", "divergence", "kind", "words"),
    [
        (["-+-+"] * 12, 0.1, "teaches", "repairs 100 % (76 to 100) of what the student fails"),
        (["-+-+"] * 12, 0.001, "teaches", "moves by 0.001 nats a token"),
        (["----"] * 12, 0.001, "inactive", "stays nearly inactive"),
        (["----"] * 12, 0.1, "unclear", "cannot be told apart"),
        (["----"] * 99, 0.1, "nothing", "next to nothing to teach"),
        (["----"] * 99, 0.1, "nothing", "100 % are not in the environment's format"),
        (["--+++++++++++++-"] * 20, 0.1, "misleads", "would teach what is worse"),
        (["-+-+"] * 9, 0.1, "too_few", "18 failed answers with feedback, to 9 problems"),
        (["-+" * 10] * 4, 0.1, "too_few", "to 4 problems"),
        (["++++"] * 12, 0.1, "too_few", "0 failed answers"),
    ],
)
def test_the_sentence_follows_from_the_numbers(groups, divergence, kind, words):
    some = answers(*groups, divergence=divergence)
    found = findings(some, len(some))
    assert found["verdict"] == kind
    assert words in found["sentence"]


def test_where_all_problems_are_alike_the_difference_is_as_unsure_as_the_two_rates():
    """Newcombe's own example, 56 of 70 less 48 of 80: .0524 to .3339; none of 12 and none of 12."""
    rates = Interval.of([1.0] * 56 + [0.0] * 14), Interval.of([1.0] * 48 + [0.0] * 32)
    found = rates[0].minus(rates[1])
    assert (found.low, found.high) == pytest.approx((0.0524, 0.3339), abs=1e-4)
    gap = advantage(answers(*["----"] * 12))
    assert gap.difference.high == -gap.difference.low == pytest.approx(gap.repair.high)


def test_of_several_turns_the_sentence_says_what_is_compared():
    some = answers(*["-+-+"] * 12)
    assert "turn" not in findings(some, len(some))["sentence"]
    assert "the student has 3 turns" in findings(some, len(some), turns=3)["sentence"]


def test_without_feedback_there_is_nothing_to_teach():
    found = findings(answers("----", "----", prompt=False), 4)
    assert found["verdict"] == "no_feedback"
    assert math.isnan(found["teacher"]["pass@1"]["mean"])


def test_a_verdict_of_no_answers_is_one_too():
    kind, sentence = verdict([], advantage([]), math.nan)
    assert kind == "no_feedback"
    assert "No answer got feedback" in sentence


def test_a_ratio_of_single_answers_has_the_interval_of_their_mean():
    values = [1.0, 0.0, 0.0, 1.0, 1.0, 0.5]
    assert Interval.of_ratio(values, [1.0] * 6) == Interval.of(values)


def test_answers_that_count_more_widen_an_interval_as_their_problem_does():
    """Ten answers to one problem that are all alike say what one says."""
    one, ten = Interval.of_ratio([1, 0, 1, 0], [1] * 4), Interval.of_ratio([10, 0, 10, 0], [10] * 4)
    assert (ten.low, ten.high) == pytest.approx((one.low, one.high))


# --- what is measured ----------------------------------------------------------------------------


class Reads:
    """Guesses "a" unless its prompt tells which letter is wanted."""

    logprobs_match_trainer = True

    def generate(self, prompts, *, samples=1, **_):
        texts = [POLICY.decode(p) for p in prompts]
        letters = [t.split("want ")[1][0] if "want " in t else "a" for t in texts]
        return [
            Generation(POLICY.tokenizer(letter).input_ids, [0.0], "stop")
            for letter in letters
            for _ in range(samples)
        ]

    def sync(self, policy): ...

    def close(self): ...


def test_a_teacher_that_reads_the_feedback_repairs_what_a_second_try_never_would():
    environment = SecretLetter.vector(6)
    actor = Actor(POLICY, Reads(), environment, 4)
    ids = sorted(environment.unwrapped.problem_ids)
    seen = []
    found = student_answers(actor, ids, 2, seed=0, on_progress=lambda *x: seen.append(x))
    assert [a.rollout.problem_id for a in found] == [i for i in ids for _ in range(2)]
    assert [a.rollout.group for a in found] == [g for g in range(8) for _ in range(2)]
    assert seen == [(6, 16), (12, 16), (16, 16)]
    assert [a.solved for a in found] == [True] * 2 + [False] * 14

    def prompts(rollouts):
        return [POLICY.encode([{"role": "user", "content": r.feedback}]) for r in rollouts]

    found = with_teacher(found, actor, prompts, seed=0)
    gap = advantage(found)
    assert (gap.repair.mean, gap.retry.mean, gap.failures) == (1.0, 0.0, 14)


def test_the_divergence_is_the_kl_on_the_tokens_of_the_policy():
    student, other = small_policy(), small_policy(seed=1)
    rollouts = mixed_rollouts(student)
    rollouts[0] = replace(rollouts[0], is_policy_token=[True, False, True])
    some = [
        Answered(r, r.reward == 1, 0.0, student.encode(r.messages)[1:] if r.feedback else None)
        for r in rollouts
    ]
    found = with_divergence(some, student, Teacher(student, "frozen", 1.0, model=other), 0.8)
    for answer in found:
        if answer.prompt is None:
            assert answer.divergence == ()
            continue
        ids = answer.rollout.response_ids
        p, q = (
            (
                policy.model(torch.tensor([prompt + ids])).logits[0, len(prompt) - 1 : -1] / 0.8
            ).log_softmax(-1)
            for policy, prompt in ((student, answer.rollout.prompt_ids), (other, answer.prompt))
        )
        kl = (p.exp() * (p - q)).sum(-1)
        mask = answer.rollout.is_policy_token or [True] * len(ids)
        assert answer.divergence == pytest.approx(kl[torch.tensor(mask)].tolist(), abs=1e-5)


def test_two_probes_give_the_same_answers():
    environment = SecretLetter.vector(6)
    actor = Actor(POLICY, HFEngine(POLICY), environment, 4)
    ids = sorted(environment.unwrapped.problem_ids)
    one, again, other = (
        [a.rollout.response_ids for a in student_answers(actor, ids, 2, seed)] for seed in (0, 0, 1)
    )
    assert one == again
    assert one != other


# --- vpd probe -----------------------------------------------------------------------------------

SHORT = ("--problems", "12", "--samples", "2", "--batch", "8")


def test_the_command_prints_and_writes_what_it_found_and_finds_it_again(tmp_path, capsys):
    asked = ["probe", "--env", "vpd/MiniChoice-v0", "--model", "tiny", *SHORT, "--out"]
    texts = []
    for name in ("one.json", "two.json"):
        assert main([*asked, str(tmp_path / name)]) == 0
        texts.append((tmp_path / name).read_text())
    assert texts[0] == texts[1]
    found, printed = json.loads(texts[0]), capsys.readouterr().out
    assert found["sentence"] in printed
    assert found["answers"] == 24
    assert found["feedback"] == 1.0
    assert len(found["problems"]) == 12
    assert found["measured"]["preset"] == "laptop"
    assert found["student"]["pass@1"]["count"] == 12
    page = (tmp_path / "one.html").read_text()
    assert escape(found["sentence"]) in page
    for name, tokens in found["tokens"].items():
        assert f'<td class="word">{name.replace("_", " ")}</td><td class="">' in page
        assert f'<td class="">{tokens["mean"]:.1f}</td>' in page


@pytest.mark.parametrize("feedback", ["siblings", "environment+self-critique+noisy:drop=0.5"])
def test_sources_that_need_a_group_or_the_policy_have_them(feedback, capsys):
    asked = ["probe", "--env", "vpd/MiniChoice-v0", "--model", "tiny", *SHORT]
    assert main([*asked, "--feedback", feedback]) == 0
    assert "answers with feedback" in capsys.readouterr().out


def test_the_teacher_is_shown_the_demonstration():
    options = ProbeOptions(env="e", model="m", max_response_tokens=3, max_teacher_prompt_tokens=200)
    shown = replace(rollout("ab", policy=POLICY, feedback=""), demonstration="xyz")
    (ids,) = _teacher_prompts(options, TeacherTemplate(), POLICY, [shown])
    assert ids is not None
    assert "ab\nCorrect solution:\n\nxyz\n\nCorrectly solve" in POLICY.chat.text(ids)


def test_another_model_is_probed_as_the_teacher_it_is(tmp_path):
    asked = ["probe", "--env", "vpd/MiniChoice-v0", "--model", "tiny", *SHORT]
    found = []
    for flags in (["--teacher-model", "tiny"], []):
        out = tmp_path / f"{len(found)}.json"
        assert main([*asked, *flags, "--out", str(out)]) == 0
        found.append(json.loads(out.read_text()))
    # The same weights, so the same numbers: but as another model.
    assert found[0]["divergence"] == found[1]["divergence"]
    assert found[0]["measured"]["teacher_model"] == "tiny"
    plain = ["--teacher-model", "tiny", "--teacher-prompt", "plain", "--out"]
    assert main([*asked, *plain, str(tmp_path / "plain.json")]) == 0
    plain = json.loads((tmp_path / "plain.json").read_text())
    # Nor does it read anything that the student does not.
    assert plain["divergence"]["failed"]["mean"] == pytest.approx(0, abs=1e-6)
    assert plain["tokens"]["teacher_prompt"] == plain["tokens"]["prompt"]


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--samples", "1"], "--samples must be at least 2"),
        (["--problems", "0"], "--problems must be at least 1"),
        (["--temperature", "nan"], "--temperature must be a finite number"),
        (["--temperature", "0"], "--temperature must be positive"),
        (["--max-turn-tokens", "0"], "--max-turn-tokens must be at least 1"),
        (["--teacher-prompt", "plain"], "Choose a --teacher-model"),
        (["--out", "there.txt"], "--out must be a file NAME.json"),
        (["--out", "no/such/folder/there.json"], "does not exist"),
        (["--preset", "labtop"], "Did you mean 'laptop'"),
        (["--feedback", "sibling"], "siblings"),
        (["--model", "tinny"], "tinny"),
        (["--teacher-model", "tinny"], "tinny"),
    ],
)
def test_a_bad_flag_is_told_before_any_work(flags, said, capsys):
    assert main(["probe", "--env", "vpd/MiniChoice-v0", "--model", "tiny", *flags]) == 2
    error = " ".join(capsys.readouterr().err.split())
    assert said in error
    assert "student" not in error.replace("the student", "")  # no bar was drawn
