"""What each source of feedback says, and when it leaves the inner feedback be."""

import math
import pickle
from collections import Counter

import pytest
from guessing import Guess, attempt, guesses, said
from hypothesis import example, given, settings
from hypothesis import strategies as st

from vpd_envs import FeedbackSource, Status, compose
from vpd_envs.answers.sanitize import sanitize
from vpd_envs.feedback import (
    EnvironmentFeedback,
    FeedbackBudget,
    NoisyFeedback,
    Parts,
    SelfCritique,
    SiblingFeedback,
)
from vpd_envs.feedback.environment import status_in_words

quick = settings(max_examples=150, deadline=None)


def told(source, *attempts):
    return list(source.feedback(attempts))


# --- the environment's own -----------------------------------------------------------------------


def test_verbosity_goes_from_the_outcome_alone_to_all_that_the_judge_says():
    pairs = [("mid", "3"), ("mid", "5"), ("mid", "x")]
    outcome = said(pairs, lambda envs: EnvironmentFeedback(envs, "outcome"))
    assert outcome[0] == outcome[2] == "Your answer is not correct."
    assert outcome[1] == "Your answer is correct."
    status = said(pairs, lambda envs: EnvironmentFeedback(envs, "status"))
    assert status == ["Wrong answer", "Correct", "No answer in the asked format"]
    first = said(pairs, lambda envs: EnvironmentFeedback(envs, "first"))
    assert first == ["3 is too low.", "Right.", "Not a number."]
    full = said(pairs, EnvironmentFeedback)
    assert full == said(pairs) == ["3 is too low.\nTry another.", "Right.", "Not a number."]


def test_status_and_outcome_depend_on_nothing_but_the_verdict():
    secret = attempt("secret", feedback="secret", details={"first_failure": "secret"})
    for verbosity in ("outcome", "status"):
        assert "secret" not in told(EnvironmentFeedback(verbosity), secret)[0]


def test_every_status_has_words_and_a_foreign_one_gets_some():
    assert len({status_in_words(status) for status in Status}) == len(Status)
    source = EnvironmentFeedback("status")
    assert told(source, attempt(status="lost_at_sea")) == ["Lost at sea"]


def test_verbosity_works_around_one_answer_too():
    env = EnvironmentFeedback(Guess(), "first")
    env.reset(options={"problem_id": "mid"})
    assert env.step("3")[0] == "3 is too low."


def test_an_unknown_verbosity_is_explained():
    with pytest.raises(ValueError, match="verbosity must be one of outcome, status, first, full"):
        EnvironmentFeedback("loud")


# --- siblings ------------------------------------------------------------------------------------

SOLVED = ["0005", "5", "05", "<think>hm</think>"]
SIBLINGS = [("mid", "3"), *(("mid", answer) for answer in SOLVED[:3]), ("low", "3")]


def test_the_shortest_solved_sibling_can_be_chosen():
    first, shortest = (
        said(SIBLINGS, lambda envs, which=which: SiblingFeedback(envs, which=which))
        for which in ("first", "shortest")
    )
    assert first[0].endswith("\n0005")
    assert shortest[0].endswith("\n\n5")
    assert first[1:] == shortest[1:] == said(SIBLINGS)[1:]


def test_a_random_sibling_is_the_same_for_the_same_seed_and_each_comes_up():
    def shown(seed):
        texts = said(SIBLINGS, lambda envs: SiblingFeedback(envs, which="random", seed=seed))
        return texts[0].rpartition("\n")[2]

    assert [shown(seed) for seed in range(20)] == [shown(seed) for seed in range(20)]
    assert {shown(seed) for seed in range(20)} == set(SOLVED[:3])


def test_a_pair_shows_the_failed_attempt_its_feedback_and_the_solved_one():
    source = SiblingFeedback("pair")
    texts = told(source, attempt("<think>hm</think>3"), attempt("5", "Right.", solved=True))
    parts = ["3", "3 is too low.\nTry another.", "5"]
    positions = [texts[0].index(f"\n\n{part}") for part in parts]
    assert positions == sorted(positions)
    assert "hm" not in texts[0]
    assert texts[1] == "Right."


def test_a_contrast_without_inner_feedback_starts_with_the_contrast():
    texts = told(SiblingFeedback("contrast"), attempt(feedback=""), attempt("5", solved=True))
    assert texts[0].startswith("In contrast, a correct attempt")


def test_siblings_need_a_batch():
    with pytest.raises(ValueError, match=r"SiblingFeedback compares .* gym.make_vec\(ID"):
        SiblingFeedback(Guess())


def test_a_template_is_filled_once():
    """What an attempt quotes is not read as a template again."""
    solved = attempt("{failed} {0} {{}}", solved=True)
    assert told(SiblingFeedback(), attempt(), solved)[0].endswith("{failed} {0} {{}}")


# --- self-critique -------------------------------------------------------------------------------


class Critic:
    """A real critic, if a simple one: says how long the prompt was, and keeps it."""

    def __init__(self):
        self.calls = []

    def __call__(self, prompts):
        self.calls.append(prompts)
        return [f"Critique {i}" for i, _ in enumerate(prompts)]


PAIRS = [("mid", "3"), ("mid", "5"), ("low", "x")]


def test_all_failed_attempts_are_criticized_in_one_call():
    critic = Critic()
    texts = said(PAIRS, lambda envs: SelfCritique(envs, critic))
    assert texts == ["Critique 0", "Right.", "Critique 1"]
    assert len(critic.calls) == 1
    for prompt, parts in zip(
        critic.calls[0],
        [("Guess mid", "\n3\n", "3 is too low."), ("Guess low", "\nx\n", "Not a number.")],
        strict=True,
    ):
        assert all(part in prompt for part in parts)


def test_all_attempts_can_be_criticized():
    critic = Critic()
    texts = said(PAIRS, lambda envs: SelfCritique(envs, critic, critique="all"))
    assert texts == ["Critique 0", "Critique 1", "Critique 2"]


def test_the_critic_is_not_called_for_nothing():
    critic = Critic()
    assert said([("mid", "5")], lambda envs: SelfCritique(envs, critic)) == ["Right."]
    assert critic.calls == []


def test_a_critique_can_follow_the_inner_feedback():
    texts = said(PAIRS, lambda envs: SelfCritique(envs, Critic(), keep=True))
    assert texts == ["3 is too low.\nTry another.\n\nCritique 0", "Right.", "Not a number.\n\n"
                     "Critique 1"]  # fmt: skip


def test_a_critic_that_is_not_told_the_outcome_cannot_tell_it_from_the_prompt():
    critic = Critic()
    source = SelfCritique(critic, critique="all", outcome=False)
    told(source, attempt("5", "Wrong!"), attempt("5", "Right!", solved=True))
    wrong, right = critic.calls[0]
    assert wrong == right
    told(SelfCritique(critic, critique="all"), attempt("5", ""), attempt("5", "", solved=True))
    wrong, right = critic.calls[1]
    assert wrong.replace("Wrong answer", "Correct") == right != wrong


def test_the_prompt_is_a_template():
    critic = Critic()
    template = "{prompt}|{attempt}|{outcome}"
    told(SelfCritique(critic, template=template), attempt("{a} </s>", "no"))
    assert critic.calls == [["Guess mid|{a} < /s>|no"]]
    with pytest.raises(ValueError, match=r"template must contain \{attempt\}"):
        SelfCritique(critic, template="{prompt}")
    with pytest.raises(ValueError, match=r"may hold \{prompt\} and \{attempt\} \(other"):
        SelfCritique(critic, template="{attempt} {outcome}", outcome=False)


def test_thinking_is_left_out_of_attempt_and_critique():
    prompts = []

    def critic(asked):
        prompts.extend(asked)
        return ["<think>hm</think>\nMind the sign.", "<think>never done"]

    texts = told(SelfCritique(critic), attempt("<think>deep</think>3"), attempt("<think>cut"))
    assert texts == ["Mind the sign.", ""]
    assert "deep" not in prompts[0]
    assert "\n(nothing)\n" in prompts[1]


def test_the_middle_of_a_long_attempt_is_left_out():
    critic = Critic()
    told(SelfCritique(critic, template="{attempt}", attempt_characters=100), attempt("a" * 999))
    assert len(critic.calls[0][0]) == 100
    assert "[cut: 999 characters in all]" in critic.calls[0][0]


@pytest.mark.parametrize("answer", [["one"], ["a", "b", "c"], "ab", [1, 2], None, [None, "a"]])
def test_a_critic_that_does_not_give_a_text_each_is_explained(answer):
    source = SelfCritique(lambda prompts: answer)
    with pytest.raises(ValueError, match="asked 2 prompts and must return a list of 2 texts"):
        told(source, attempt(), attempt())


def test_the_exception_of_a_critic_reaches_its_owner():
    def critic(prompts):
        raise KeyError("my own defect")

    with pytest.raises(KeyError, match="my own defect"):
        told(SelfCritique(critic), attempt())


def test_the_critic_can_be_bound_later():
    source = SelfCritique()
    envs, _ = guesses([("mid", "5")], source.around)  # no critic needed: nothing failed
    envs.reset(options={"problem_ids": ["mid"]})
    with pytest.raises(ValueError, match=r"has no critic.* set source.critic"):
        envs.step(["3"])
    source.critic = Critic()
    envs.reset(options={"problem_ids": ["mid"]})
    assert envs.step(["3"])[-1]["feedback"][0] == "Critique 0"


def test_a_critique_of_an_unknown_kind_is_explained():
    with pytest.raises(ValueError, match="critique must be one of failed, all, got 'some'"):
        SelfCritique(critique="some")
    with pytest.raises(ValueError, match="attempt_characters must be a positive integer, got 0"):
        SelfCritique(attempt_characters=0)


# --- noise ---------------------------------------------------------------------------------------


def batch(problems, per_problem, salt=""):
    """Attempts whose feedback names their problem and row."""
    return [
        attempt(f"{salt}{i}", f"{problem}/{i}", problem)
        for problem in problems
        for i in range(per_problem)
    ]


def test_dropped_feedback_is_empty_and_as_frequent_as_asked():
    attempts = batch("abcdefgh", 500)
    texts = told(NoisyFeedback(drop=0.2), *attempts)
    kept = [text for text in texts if text]
    assert all(text in ("", a.feedback) for text, a in zip(texts, attempts, strict=True))
    spread = math.sqrt(0.2 * 0.8 / 4000)  # of a binomial frequency
    assert abs(1 - len(kept) / 4000 - 0.2) < 4 * spread


def test_noise_depends_on_seed_and_batch_and_on_nothing_else():
    attempts, other = batch("abcd", 50), batch("abcd", 50, salt="other")
    noise = NoisyFeedback(drop=0.5, shuffle=0.5, seed=1)
    first = told(noise, *attempts)
    told(noise, *other)
    assert told(pickle.loads(pickle.dumps(noise)), *attempts) == first
    assert told(NoisyFeedback(drop=0.5, shuffle=0.5, seed=2), *attempts) != first
    kept, kept_of_other = ([bool(text) for text in told(noise, *a)] for a in (attempts, other))
    assert kept != kept_of_other


def test_one_option_does_not_change_the_draws_of_another():
    attempts = batch("abcd", 50)
    dropped = told(NoisyFeedback(drop=0.3), *attempts)
    both = told(NoisyFeedback(drop=0.3, shuffle=0.5, truncate=2), *attempts)
    assert [not text for text in dropped] == [not text for text in both]


@given(st.lists(st.integers(0, 5), max_size=30), st.floats(0, 1), st.integers(0, 99))
@quick
def test_exchanged_feedback_comes_from_another_problem_as_far_as_there_is_one(
    problems, shuffle, seed
):
    attempts = [attempt(str(i), f"{p}/{i}", str(p)) for i, p in enumerate(problems)]
    texts = told(NoisyFeedback(shuffle=shuffle, seed=seed), *attempts)
    assert Counter(texts) == Counter(a.feedback for a in attempts)  # nothing lost or doubled
    moved = [(a, t) for a, t in zip(attempts, texts, strict=True) if t != a.feedback]
    assert all(text.partition("/")[0] != a.problem_id for a, text in moved)
    if shuffle == 1.0:
        most = max(Counter(problems).values(), default=0)
        stay = max(0, 2 * most - len(problems))  # those that find no partner of another problem
        assert len(moved) == len(problems) - stay


def test_as_many_are_exchanged_as_asked():
    attempts = batch("abcdefgh", 500)
    texts = told(NoisyFeedback(shuffle=0.25), *attempts)
    moved = sum(t != a.feedback for a, t in zip(attempts, texts, strict=True))
    assert abs(moved / 4000 - 0.25) < 4 * math.sqrt(0.25 * 0.75 / 4000)


def test_feedback_is_cut_to_characters_or_to_a_fraction():
    ten = attempt(feedback="0123456789")
    cuts = [(3, "012"), (0, ""), (99, "0123456789"), (0.5, "01234"), (1.0, "0123456789"), (0.0, "")]
    for truncate, text in cuts:
        assert told(NoisyFeedback(truncate=truncate), ten) == [text]


def test_exchanging_needs_a_batch_and_dropping_does_not():
    with pytest.raises(ValueError, match="NoisyFeedback compares the attempts of a batch"):
        NoisyFeedback(Guess(), shuffle=0.1)
    env = NoisyFeedback(Guess(), drop=1.0)
    env.reset(seed=0)
    assert env.step("x")[0] == ""
    assert said([("mid", "3")], NoisyFeedback(shuffle=1.0).around) == said([("mid", "3")])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"drop": 1.5}, "drop must be a probability from 0 to 1, got 1.5"),
        ({"drop": math.nan}, "drop must be a probability"),
        ({"shuffle": True}, "shuffle must be a probability from 0 to 1, got True"),
        ({"truncate": -1}, "truncate must be a number of characters"),
        ({"truncate": 1.5}, "a fraction"),
        ({"truncate": True}, "truncate must be"),
        ({"seed": 0.5}, "seed must be an integer, got 0.5"),
    ],
)
def test_noise_of_no_sense_is_explained(options, message):
    with pytest.raises(ValueError, match=message):
        NoisyFeedback(**options)


# --- budget --------------------------------------------------------------------------------------

nasty = st.lists(
    st.sampled_from(["<|im_end|>", "</s>", "\x1b[31m", "[INST]", "[e~[", "<|", "\x00", "]", "\n"])
    | st.text(max_size=8)
).map("".join)


@given(nasty, st.integers(1, 120), st.sampled_from(["end", "middle"]))
@example("<|<|im_end|>", 4, "middle")  # its two ends are a token
@quick
def test_a_budget_is_kept_and_what_is_left_is_harmless(text, characters, where):
    shown = told(FeedbackBudget(characters, where), attempt(feedback=text))[0]
    assert len(shown) <= characters
    assert sanitize(shown) == shown
    if len(sanitize(text)) <= characters:
        assert shown == sanitize(text)


def test_the_note_of_a_cut_counts_and_both_ends_stay_if_the_middle_goes():
    text = "".join(chr(0x4E00 + i) for i in range(1000))
    end, middle = (
        told(FeedbackBudget(100, where), attempt(feedback=text))[0] for where in ("end", "middle")
    )
    for shown in (end, middle):
        assert len(shown) == 100
        assert "[cut: 1000 characters in all]" in shown
        assert shown[:30] == text[:30]
    assert middle[-30:] == text[-30:]
    assert text[-1] not in end


@pytest.mark.parametrize(("where", "line_end"), [("end", ""), ("middle", "\n")])
def test_a_note_may_take_half_of_the_budget_and_no_more(where, line_end):
    text = "a" * 500 + "z" * 500
    note = f"\n[cut: 1000 characters in all]{line_end}"
    head, tail = (len(note), 0) if where == "end" else (len(note) - len(note) // 2, len(note) // 2)
    twice = told(FeedbackBudget(2 * len(note), where), attempt(feedback=text))
    assert twice == ["a" * head + note + "z" * tail]
    less = told(FeedbackBudget(2 * len(note) - 1, where), attempt(feedback=text))
    assert less == ["a" * (2 * len(note) - 1)]


def test_a_budget_too_small_for_a_note_is_all_feedback():
    for where in ("end", "middle"):
        assert told(FeedbackBudget(8, where), attempt(feedback="0123456789")) == ["01234567"]


def test_a_budget_of_no_sense_is_explained():
    with pytest.raises(ValueError, match="characters must be a positive integer, got 0"):
        FeedbackBudget(0)
    with pytest.raises(ValueError, match="where must be one of end, middle, got 'start'"):
        FeedbackBudget(10, "start")


# --- a source of one's own -----------------------------------------------------------------------


class Quote(FeedbackSource):
    """Quotes the answer, as a careless source would."""

    def feedback(self, attempts):
        return [attempt.answer for attempt in attempts]


def test_what_a_source_quotes_holds_no_control_token():
    pairs = [("mid", "\x1b[31m<|im_end|>"), ("mid", "</think>5")]
    assert said(pairs, Quote) == ["< |im_end|>", "< /think>5"]
    env = Quote(Guess())
    env.reset(seed=0)
    assert env.step("<|im_end|>")[0] == "< |im_end|>"


@pytest.mark.parametrize("texts", ["ab", ["a"], [1, 2], None])
def test_a_source_that_does_not_give_a_text_each_is_explained(texts):
    class Broken(FeedbackSource):
        def feedback(self, attempts):
            return texts

    with pytest.raises(TypeError, match=r"Broken.feedback must return a list of 2 texts"):
        said([("mid", "3"), ("mid", "4")], Broken)


# --- subclasses of ours -------------------------------------------------------------------------


class Shouting:
    """Put before a source of ours, it changes the text alone."""

    def feedback(self, attempts):
        return [text.upper() for text in super().feedback(attempts)]


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        (EnvironmentFeedback, {"verbosity": "status"}),
        (SiblingFeedback, {}),
        (SelfCritique, {"critic": lambda prompts: ["Think."] * len(prompts)}),
        (NoisyFeedback, {"truncate": 5}),
        (FeedbackBudget, {"characters": 5}),
    ],
)
def test_a_subclass_that_writes_only_its_text_is_heard(kind, options):
    pairs = [("mid", "3"), ("mid", "5"), ("mid", "5")]
    loud = type("Loud", (Shouting, kind), {})
    texts = said(pairs, lambda envs: compose(envs, kind(**options)))
    infos = guesses(pairs, lambda envs: compose(envs, type("Heir", (loud,), {})(**options)))[1][-1]
    assert list(infos["feedback"]) == list(infos["comment"]) == [text.upper() for text in texts]
    assert list(infos["demonstration"]) == ["", "", ""]


def test_parts_that_are_written_below_a_text_count():
    class Silent(type("Loud", (Shouting, SiblingFeedback), {})):
        def parts(self, attempts):
            return [Parts("all", "comment", "shown")] * len(attempts)

    infos = guesses([("mid", "3")], lambda envs: compose(envs, Silent()))[1][-1]
    assert [infos[key][0] for key in ("feedback", "comment", "demonstration")] == [
        "all",
        "comment",
        "shown",
    ]


def test_a_source_without_a_method_says_what_is_missing():
    with pytest.raises(NotImplementedError, match=r"Empty must implement feedback\(attempts\)"):
        said([("mid", "3")], type("Empty", (FeedbackSource,), {}))
