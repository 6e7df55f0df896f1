import json
import pickle
import re
import subprocess
import sys
import warnings
from fractions import Fraction
from pathlib import Path

import gymnasium as gym
import pytest
from gymnasium.utils.env_checker import check_env
from hypothesis import given, settings
from hypothesis import strategies as st

import vpd_envs  # noqa: F401 (registers the ids)
from sandbox.installation import install_hint
from vpd_envs.answers.extraction import Found
from vpd_envs.data.files import DataOptions, Hub
from vpd_envs.math.answer import (
    boxed_answer,
    compact,
    decided,
    marked_answer,
    parts,
    plain_number,
    tidy,
    whole_answer,
)
from vpd_envs.math.data import (
    BOXED_AFTER,
    DAPO_AFTER,
    DAPO_BEFORE,
    HUBS,
    SEVERAL_FORMAT,
    hub_of,
)
from vpd_envs.math.environment import Math, equal, response_equal
from vpd_envs.types import Status

pytest.importorskip("math_verify")

FIXTURE = Path(__file__).parents[2] / "fixtures" / "math_problems.jsonl"


def saved(folder, *rows, name="rows.jsonl"):
    path = folder / name
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def one_problem(folder, answer, **options):
    """An environment with one problem, and that problem."""
    fields = {
        name: options.pop(name)
        for name in ("error", "unit", "is_multiple_answer")
        if name in options
    }
    row = {"id": "q", "question": "What is it?", "answer": answer} | fields
    env = Math(saved(folder, row), **options)
    return env, env.problem("q")


# Finding the answer ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("response", "found"),
    [
        (r"so \boxed{5}.", "5"),
        (r"\fbox{ 5 }", "5"),
        (r"\boxed {5}", "5"),
        (r"$\boxed{\frac{1}{2}}$", r"\frac{1}{2}"),
        (r"first \boxed{4}, but then \boxed{5}", "5"),
        (r"\boxed{4} and \boxed{5}", "4, 5"),
        (r"$\boxed{4}$, $\boxed{5}$ or \(\boxed{6}\)", "4, 5, 6"),
        (r"$$\boxed{a=1} \quad \text{and} \quad \boxed{b=2}$$", "a=1, b=2"),
        (r"\boxed{5}, \boxed{5}", "5"),
        ("\\boxed{4}\n\n\\boxed{5}", "5"),
        (r"$\boxed{4}$. Hence \boxed{5}", "5"),
        (r"\boxed{\{1, 2\}}", r"\{1, 2\}"),
        (r"\boxed{\begin{pmatrix} 1 \\ 2 \end{pmatrix}}", r"\begin{pmatrix} 1 \\ 2 \end{pmatrix}"),
        (r"\boxed{\boxed{5}}", "{5}"),
        (r"\boxed{x = \boxed{5} + 1}", "x = {5} + 1"),
        (r"\\boxed{5}", "5"),
        (r"\boxed{5} and now \boxed{6", "5"),
        (r"} } \boxed{5}", "5"),
        (r"{ \boxed{5}", "5"),
        (r"<think>\boxed{4}</think>\boxed{5}", "5"),
        (r"the prompt opened it \boxed{4}</think> So \boxed{5}", "5"),
        (r"\boxed{}, \boxed{5}", "5"),
    ],
)
def test_the_last_complete_box_is_read(response, found):
    assert boxed_answer(response).text == found


@pytest.mark.parametrize(
    ("response", "found"),
    [
        ("", Found.NONE),
        ("5", Found.NONE),
        (r"boxed{5}", Found.NONE),
        (r"<think>\boxed{5}</think> As above.", Found.NONE),
        (r"\boxed{}", Found.EMPTY),
        ("\\boxed{ \n }", Found.EMPTY),
        (r"\boxed{5", Found.TRUNCATED),
        (r"\boxed{\frac{1}{2}", Found.TRUNCATED),
        (r"\boxed{\{1, 2\}", Found.TRUNCATED),
        (r"<think> \boxed{5}", Found.THINKING),
    ],
)
def test_what_is_missing_is_told(response, found):
    assert boxed_answer(response).found is found


@pytest.mark.parametrize(
    ("response", "found"),
    [
        ("A: 4\nA: 5", "5"),
        ("A: 5\nBut why?", "5"),
        ("A:\n5\n6", "5"),
        ("**A:** 5", "5"),
        ("<think>A: 4</think>\nA: 5", "5"),
    ],
)
def test_the_last_marked_answer_is_read(response, found):
    assert marked_answer(response, "A:").text == found


def test_a_marker_without_an_answer_is_told():
    assert marked_answer("5", "A:").found is Found.NONE
    assert marked_answer("<think>A: 5</think>", "A:").found is Found.NONE
    assert marked_answer("A: \n ", "A:").found is Found.EMPTY
    assert marked_answer("<think>A: 5", "A:").found is Found.THINKING


fragments = [
    *(
        "\\boxed{",
        "\\fbox{",
        "\\boxed",
        "{",
        "}",
        "\\",
        "\\{",
        "\\}",
        "\\\\",
        "$",
        " and ",
        ",",
        "\n",
    ),
    *(
        "\\frac",
        "\\left",
        "\\text{",
        "1",
        "23",
        ".",
        "-",
        "/",
        "(",
        ")",
        "[",
        "_",
        "e5",
        "%",
        "sqrt(",
    ),
    *(
        "<think>",
        "</think>",
        "A:",
        "x",
        "é",
        "\0",
        "\ud800",
        "−",
        "１",
        "²",
        "or",
        "\\,",
        "~",
        "km",
    ),
]
any_text = st.one_of(
    st.text(alphabet=st.characters()), st.lists(st.sampled_from(fragments)).map("".join)
)


@settings(deadline=None)
@given(any_text, any_text)
def test_any_text_is_read_without_an_exception(text, other):
    for final in (boxed_answer(text), marked_answer(text, "A:"), whole_answer(text)):
        assert bool(final.text) == (final.found is Found.COMPLETE)
    neat = tidy(text)
    plain_number(neat)
    assert all(part == part.strip() for part in parts(text))
    decision = decided(neat, tidy(other))
    assert decided(neat, neat).equal
    turned = decided(tidy(other), neat)
    assert None in (decision, turned) or decision.equal is turned.equal
    assert compact(compact(neat)) == compact(neat)


# Deciding plain answers --------------------------------------------------------------------------


@st.composite
def plain_texts(draw):
    """A number, and one of the ways to write it."""
    value = Fraction(
        draw(st.integers(-(10**9), 10**9)), draw(st.sampled_from([1, 1, 2, 3, 8, 100]))
    )
    sign, over, under = "-" * (value < 0), abs(value.numerator), value.denominator
    forms = [rf"{sign}\frac{{{over}}}{{{under}}}", f"{sign}{over}/{under}"]
    if under == 1:
        forms += [f"{sign}{over}", f"{sign}{over:,}", f"{sign}{over:,}".replace(",", "{,}")]
        forms += [f"{sign}{over:,}".replace(",", "\\,"), f"{sign}{over}.0", f"$ {sign} {over} $."]
    if (value * 1000).denominator == 1:
        thousandths = int(abs(value) * 1000)
        forms.append(f"{sign}{thousandths // 1000}.{thousandths % 1000:03}")
    return value, draw(st.sampled_from(forms))


@given(plain_texts())
def test_a_plain_number_has_its_exact_value(number):
    value, text = number
    if "$" not in text or value >= 0:  # "- 5" is left to Math-Verify
        assert plain_number(tidy(text)).value == value


def careful(gold, prediction):
    """What Math-Verify alone says."""
    from math_verify import verify

    from vpd_envs.math.comparison import read_expression

    read = [list(read_expression(tidy(text))) for text in (gold, prediction)]
    return verify(*read, timeout_seconds=None)


@settings(max_examples=150, deadline=None)
@given(plain_texts(), plain_texts(), st.booleans())
def test_what_is_decided_quickly_is_what_math_verify_says(first, second, same_value):
    gold, prediction = first[1], second[1]
    if same_value:
        value = first[0]
        prediction = rf"\frac{{{2 * value.numerator}}}{{{2 * value.denominator}}}"
    decision = decided(tidy(gold), tidy(prediction))
    if decision is not None:
        assert decision.equal == careful(gold, prediction)


def test_decimals_that_are_nearly_equal_are_left_to_math_verify():
    assert decided("1/3", "0.333333") is None
    assert careful("1/3", "0.333333")
    assert decided("1/3", "0.3333") == decided("0.3333", "1/3")
    assert not decided("1/3", "0.3333").equal
    assert not careful("1/3", "0.3333")


@pytest.mark.parametrize(
    ("gold", "prediction"),
    [
        (r"\dfrac{1}{x}", r"\frac{1}{x}"),
        (r"\left(1, 2\right)", "(1,2)"),
        ("x + y", "x+y"),
        (r"2\,k", "2 k"),
        (r"\text{west}", r"$\text{west}$."),
        ("x−1", "x-1"),
        (r"\sqrt{3}", "sqrt(3)"),
    ],
)
def test_looks_do_not_matter(gold, prediction):
    assert decided(tidy(gold), tidy(prediction)).method == "text"
    assert careful(gold, prediction)


@pytest.mark.parametrize(
    ("gold", "prediction", "same"),
    [
        ("12", "1 2", False),
        ("1234", "1,234", True),
        ("1234", "(1,234)", False),
        ("123_{5}", "123_5", True),
        ("123_{5}", "123_6", False),
        ("123_{5}", "123", True),
        ("18.9", "18.90 dollars", True),
        ("100000", "1e5", True),
        ("0.5", r"\frac12", True),
        ("(1,2)", "(2,1)", False),
        ("1,2", "2,1", True),
        ("5", "5 or 7", False),
        ("5", r"5 \text{ cm}", True),
        ("n^2+2n+1", "(n+1)^2", True),
        ("n^2+2n+1", "(m+1)^2", False),
        ("x=5", "5", True),
        ("(2,\\infty)", "[2,\\infty)", False),
        (r"\frac{1}{3}", "0.333", False),
        (r"\text{west}", "west", True),
        (r"\text{west}", "stew", False),
        (
            r"\begin{pmatrix} 1 \\ 2 \end{pmatrix}",
            r"\begin{pmatrix}1\\\frac{4}{2}\end{pmatrix}",
            True,
        ),
        (r"\begin{pmatrix} 1 \\ 2 \end{pmatrix}", r"\begin{bmatrix}1 \\ -2\end{bmatrix}", False),
        (r"\begin{pmatrix} 1 \\ 2 \end{pmatrix}", r"\begin{pmatrix} 1 & 2 \end{pmatrix}", False),
    ],
)
def test_answers_are_equal(gold, prediction, same):
    assert equal(gold, prediction) is same


@pytest.mark.parametrize(
    ("gold", "response", "same"),
    [
        ("42", "The answer is 42.", True),
        ("42", "At first I had 42, but it is 43.", False),
        (r"\frac{1}{2}", r"We get $x = \frac{2}{4}$.", True),
        ("5", "There is none.", False),
        ("2=x", "x=2", True),
    ],
)
def test_the_answer_of_a_whole_response_is_found(gold, response, same):
    assert response_equal(gold, response) is same


# Rows --------------------------------------------------------------------------------------------

# A row of each public layout, its question and its answer.
LAYOUTS = {
    "math500": ({"problem": "Q", "solution": "S", "answer": "x^2", "unique_id": "a/1.json"}, "x^2"),
    "gsm8k": ({"question": "Q", "answer": "He has <<2*3=6>>6.\n#### 6,000"}, "6,000"),
    "aime24": ({"ID": "2024-I-1", "Problem": "Q", "Solution": "S", "Answer": 33}, "33"),
    "aime25": ({"problem": "Q", "answer": "070", "id": "0"}, "070"),
    "aime26": ({"prompt": f"Q\n{BOXED_AFTER}", "answer": "277"}, "277"),
    "hmmt25": (
        {
            "problem_idx": 3,
            "problem": "Q",
            "answer": r"1-\frac{2}{\pi}",
            "problem_type": ["Algebra"],
        },
        r"1-\frac{2}{\pi}",
    ),
    "amc23": ({"id": 0, "question": "Q", "answer": 27.0, "url": "U"}, "27"),
    "dapo": (
        {
            "prompt": [{"role": "user", "content": f"{DAPO_BEFORE}\n\nQ\n\n{DAPO_AFTER}"}],
            "reward_model": {"ground_truth": "34", "style": "rule"},
            "extra_info": {"index": "9a9b"},
        },
        "34",
    ),
    "olympiadbench": (
        {"id": 2231, "question": "Q", "final_answer": ["$1$", "$2$"], "is_multiple_answer": True},
        "$1$, $2$",
    ),
}


@pytest.mark.parametrize("dataset", sorted(HUBS))
def test_the_public_layout_is_read(dataset, tmp_path):
    row, answer = LAYOUTS[dataset]
    env = Math(saved(tmp_path, row), dataset=dataset)
    (problem,) = (env.problem(problem_id) for problem_id in env.problem_ids)
    assert problem.prompt.startswith("Q\n\nPlease reason step by step")
    assert DAPO_AFTER not in problem.prompt
    assert problem.target.text == answer
    assert env.judge(problem, rf"\boxed{{{answer}}}").solved


def test_an_answer_that_only_the_solution_has_is_read(tmp_path):
    path = saved(tmp_path, {"problem": "Q", "solution": r"So \boxed{204}.", "id": 3})
    env = Math(path, dataset="aime24")
    assert env.problem_ids == ("aime24-3",)
    assert env.problem("aime24-3").target.text == "204"


def test_a_repeated_row_is_one_problem(tmp_path):
    row = LAYOUTS["dapo"][0]
    assert Math(saved(tmp_path, row, row, row), dataset="dapo").problem_ids == ("9a9b",)
    other = row | {"prompt": "another question"}
    with pytest.raises(ValueError, match="9a9b"):
        Math(saved(tmp_path, row, other), dataset="dapo")


def test_a_folder_gives_the_file_of_the_data_set(tmp_path):
    row = {"id": "a", "question": "Q", "answer": "1"}
    saved(tmp_path, row, name="gsm8k.jsonl")
    saved(tmp_path, row | {"id": "b"}, name="gsm8k_responses.jsonl")
    saved(tmp_path, row | {"id": "c"}, name="aime24-part1.jsonl")
    saved(tmp_path, row | {"id": "d"}, name="aime24-part2.jsonl")
    assert Math(tmp_path, dataset="gsm8k").problem_ids == ("a",)
    assert Math(tmp_path, dataset="aime24").problem_ids == ("c", "d")
    with pytest.raises(FileNotFoundError, match=r"gsm8k\.jsonl"):
        Math(tmp_path, dataset="amc23")


@pytest.mark.parametrize(
    ("row", "named"),
    [
        ({"answer": "1"}, "'problem'"),
        ({"question": " ", "answer": "1"}, "question"),
        ({"question": ["Q"], "answer": "1"}, "question"),
        ({"question": "Q"}, "'answer'"),
        ({"question": "Q", "answer": " "}, "answer"),
        ({"question": "Q", "answer": []}, "answer"),
        ({"question": "Q", "answer": {"a": 1}}, "answer"),
        ({"question": "Q", "answer": True}, "answer"),
        ({"question": "Q", "answer": "1", "error": "small"}, "'error'"),
        ({"question": "Q", "answer": "1", "error": "-1"}, "'error'"),
    ],
)
def test_a_row_of_another_layout_is_named(row, named, tmp_path):
    good = {"question": "Q0", "answer": "1"}
    with pytest.raises(ValueError, match=f"rows.jsonl, line 2.*{named}"):
        Math(saved(tmp_path, good, row))


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"dataset": "math"}, "math500, gsm8k"),
        ({"answer": "first"}, "'boxed', 'marker' or 'last'"),
        ({"answer": "marker", "answer_marker": " "}, "answer_marker"),
        ({"instruction": 5}, "instruction must be a text or None, got 5"),
        ({"time_limit_seconds": 0}, "time_limit_seconds"),
        ({"memory_limit_mb": -1}, "memory_limit_mb"),
        ({"split": "dev"}, "split"),
    ],
)
def test_a_bad_option_is_named(options, named):
    with pytest.raises(ValueError, match=named):
        Math(FIXTURE, **options)


def test_the_splits_part_the_problems():
    every = Math(FIXTURE).problem_ids
    train, test = (Math(FIXTURE, split=split, test_fraction=0.5) for split in ("train", "test"))
    assert sorted(train.problem_ids + test.problem_ids) == sorted(every)
    assert Math(FIXTURE, max_problems=2).problem_ids == every[:2]


def test_gsm8k_has_splits_of_its_own_on_the_hub():
    assert hub_of("gsm8k", DataOptions(split="train")).split == "train"
    assert hub_of("gsm8k", DataOptions(split="all")).split == "train+test"
    options = DataOptions(revision="v1", split="train")
    hub = options.source(hub_of("math500", options))
    assert hub == Hub("HuggingFaceH4/MATH-500", None, "test", "v1")
    assert hub_of("gsm8k", DataOptions(hub="ours/other", split="train")).config is None


def test_without_math_verify_the_error_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "math_verify", None)
    with pytest.raises(ValueError, match=re.escape(install_hint("math"))):
        Math(FIXTURE)


def test_importing_the_environment_imports_no_sympy():
    code = (
        "import sys, vpd_envs.math.environment; print({'sympy', 'math_verify'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"


# Verdicts ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("response", "status", "feedback", "method"),
    [
        (r"\boxed{0.75}", Status.SOLVED, "Correct", "number"),
        (r"\boxed{\dfrac{3}{4}}", Status.SOLVED, "Correct", "text"),
        (r"\boxed{\frac{\sqrt{9}}{4}}", Status.SOLVED, "Correct", "math-verify"),
        (r"\boxed{3/5}", Status.WRONG_ANSWER, "read as 3/5, which is not right", "number"),
        (r"\boxed{\sqrt{3}}", Status.WRONG_ANSWER, "read as", "math-verify"),
        (r"\boxed{\frac{3}{}", Status.NO_ANSWER, "cut off", None),
        (r"\boxed{\frac{}{4}}", Status.FORMAT_ERROR, "could not be read", "math-verify"),
        (r"\boxed{" + "(" * 3000 + "}", Status.FORMAT_ERROR, "could not be read", "text"),
        ("It is 3/4.", Status.NO_ANSWER, r"has no \boxed{...}", None),
        (r"<think>\boxed{0.75}", Status.NO_ANSWER, "thinking is never closed", None),
        (r"\boxed{}", Status.EMPTY_ANSWER, "nothing in", None),
        (" \n", Status.EMPTY_ANSWER, "Empty answer", None),
    ],
)
def test_a_verdict_says_what_is_wrong(response, status, feedback, method):
    env = Math(FIXTURE)
    verdict = env.verdict(env.problem("own/1"), response)
    assert verdict.status is status
    assert feedback in verdict.feedback
    assert verdict.reward == float(status is Status.SOLVED)
    assert verdict.details.get("method") == method
    if status.is_format:
        assert r"\boxed{}" in verdict.feedback  # what is asked


@pytest.mark.parametrize(
    ("answer", "response"),
    [("boxed", r"It is \boxed{42}."), ("marker", "So:\n#### 42"), ("last", "So it is 42.")],
)
def test_every_way_of_reading_accepts_what_its_prompt_asks(answer, response):
    env = Math(FIXTURE, answer=answer)
    problem = env.problem("own/0")
    assert {"boxed": r"\boxed{}", "marker": "####", "last": "end with"}[answer] in problem.prompt
    assert env.judge(problem, response).solved
    wrong = env.judge(problem, response.replace("42", "43"))
    assert wrong.status is Status.WRONG_ANSWER
    assert "43" in wrong.feedback


def test_thinking_that_the_prompt_opened_and_that_was_cut_off_holds_no_answer():
    env = Math(FIXTURE, thinking_prefilled=True)
    problem = env.problem("own/0")
    cut_off = env.judge(problem, r"Let me see, maybe \boxed{42}? Wait, 6 * 7 is")
    assert cut_off.status is Status.NO_ANSWER
    assert "thinking is never closed" in cut_off.feedback
    assert env.judge(problem, r"6 * 7 is 42.</think>It is \boxed{42}.").solved


def test_a_marker_of_ones_own_is_asked_for_and_read():
    env = Math(FIXTURE, answer="marker", answer_marker="A:")
    problem = env.problem("own/0")
    assert "A:" in problem.prompt
    assert env.judge(problem, "6 * 7 = 42\nA: 42").solved
    missing = env.judge(problem, "6 * 7 = 42")
    assert missing.status is Status.NO_ANSWER
    assert "A:" in missing.feedback


def test_an_instruction_of_ones_own_ends_the_prompt_and_an_empty_one_leaves_the_question(tmp_path):
    one, several = "What is 6 * 7?", "What are the roots of 4?"
    data = saved(
        tmp_path, {"question": one, "answer": "42"}, {"question": several, "answer": ["2", "-2"]}
    )

    def prompts(**options):
        env = Math(data, answer="last", **options)
        return [env.problem(id_).prompt for id_ in env.problem_ids]

    brief = f"{several}\n\nBe brief. {SEVERAL_FORMAT}"
    assert prompts(instruction="Be brief.") == [f"{one}\n\nBe brief.", brief]
    assert prompts(instruction="") == [one, f"{several}\n\n{SEVERAL_FORMAT}"]
    assert all("step by step" in prompt for prompt in prompts())


def test_a_response_without_any_expression_has_no_answer():
    env = Math(FIXTURE, answer="last")
    verdict = env.judge(env.problem("own/0"), "I cannot tell.")
    assert verdict.status is Status.NO_ANSWER
    assert "no mathematical expression" in verdict.feedback


def test_every_gold_answer_of_the_fixture_solves_its_problem():
    env = Math(FIXTURE)
    problems = [env.problem(problem_id) for problem_id in env.problem_ids]
    answers = [rf"\boxed{{{problem.target.text}}}" for problem in problems]
    assert all(verdict.solved for verdict in env.judge_batch(problems, answers))


def test_the_right_answer_is_told_only_if_asked_for(tmp_path):
    hidden, problem = one_problem(tmp_path, "987654321")
    answers = [
        "",
        "none",
        r"\boxed{}",
        r"\boxed{1",
        r"\boxed{1}",
        r"\boxed{\frac{}{1}}",
        r"\boxed{x}",
    ]
    for answer in answers:
        assert "987654321" not in hidden.verdict(problem, answer).feedback
    told = Math(tmp_path / "rows.jsonl", reveal=True).verdict(problem, r"\boxed{1}")
    assert "The right answer is 987654321." in told.feedback
    _, info = hidden.reset(options={"problem_id": "q"})
    *_, after = hidden.step(r"\boxed{1}")
    assert "987654321" not in repr((info, after, problem))


def test_feedback_shows_no_control_token_and_no_endless_answer():
    env = Math(FIXTURE)
    problem = env.problem("own/0")
    feedback = env.verdict(problem, r"\boxed{<|im_end|> \text{" + "x" * 5000 + "}}").feedback
    assert "<|im_end|>" not in feedback
    assert len(feedback) < 500


@pytest.mark.parametrize(
    ("answer", "options", "response", "solved"),
    [
        ("2.39", {"error": "1e-1"}, "2.45", True),
        ("2.39", {"error": "1e-1"}, "2.5", False),
        ("2.39", {"error": 0.1}, r"\sqrt{5.9}", True),
        ("2.39", {"error": 0.1}, r"\sqrt{6.3}", False),
        ("2.39", {"error": "0.1"}, "x", False),
        (["1", "2"], {"error": "0.1,0.01"}, "2.009, 1.09", True),
        (["1", "2"], {"error": "0.1,0.01"}, "1.009, 2.09", False),
        (["2,3,4"], {"is_multiple_answer": True}, r"4, 2 \text{ and } 3", True),
        (["2,3,4"], {"is_multiple_answer": True}, "4, 2", False),
        (["2,3,4"], {"is_multiple_answer": True}, "4, 2, 3, 5", False),
        (["$(1,2)$, $(3,4)$"], {"is_multiple_answer": True}, r"\{(3,4),(1,2)\}", True),
        (["$(1,2)$, $(3,4)$"], {"is_multiple_answer": True}, "(4,3),(1,2)", False),
        (
            [r"1 \pm \sqrt{5}, -2"],
            {"is_multiple_answer": True},
            r"-2, 1-\sqrt{5}, 1+\sqrt{5}",
            True,
        ),
        (["100,200"], {"is_multiple_answer": True}, "100, 200", True),
        ("5", {"unit": r"\mathrm{~m} / \mathrm{s}"}, r"5 \mathrm{~m} / \mathrm{s}", True),
        ("5", {"unit": "meters"}, "5 meters", True),
        ("5", {"unit": "meters"}, r"5 \text{ meters}", True),
        ("5", {"unit": "meters"}, "6 meters", False),
        ("62.5%", {}, r"62.5\%", True),
    ],
)
def test_tolerances_lists_and_units_of_olympiadbench(answer, options, response, solved, tmp_path):
    env, problem = one_problem(tmp_path, answer, dataset="olympiadbench", **options)
    assert env.judge(problem, rf"\boxed{{{response}}}").solved is solved


def test_a_comparison_that_hangs_is_a_verdict_of_its_own_and_others_go_on():
    env = Math(FIXTURE, time_limit_seconds=1.0)
    problem = env.problem("own/0")
    hanging = [r"\boxed{9^{9^{9^{9}}}}", r"\boxed{\sum_{i=1}^{10^9} \sum_{j=1}^{10^9} \sin(ij)}"]
    answers = [r"\boxed{6 \cdot 7}", *hanging, r"\boxed{\sqrt{1764}}", r"\boxed{x}"]
    verdicts = env.judge_batch([problem] * len(answers), answers)
    assert [verdict.status for verdict in verdicts] == [
        Status.SOLVED, Status.TIME_LIMIT, Status.TIME_LIMIT, Status.SOLVED, Status.WRONG_ANSWER,
    ]  # fmt: skip
    assert "could not be compared within 1 s" in verdicts[1].feedback


@pytest.mark.parametrize("answer", ["boxed", "last"])
@pytest.mark.parametrize(
    "attack",
    [
        "__import__('os').system('touch {}')",
        "().__class__.__base__.__subclasses__()",
        "1 + __import__('os').system('touch {}')",
        "open('{}', 'w')",
        r"\text{{__import__('os').system('touch {}')}}",
    ],
)
def test_what_looks_like_code_is_not_run(attack, answer, tmp_path):
    env = Math(FIXTURE, answer=answer)
    target = tmp_path / "made"
    text = attack.format(target)
    verdict = env.judge(env.problem("own/0"), rf"The answer is \boxed{{{text}}} or {text}")
    assert not verdict.solved
    assert not target.exists()


@settings(max_examples=60, deadline=None)
@given(any_text)
def test_any_box_gets_a_verdict(content):
    env = Math(FIXTURE)
    verdict = env.verdict(env.problem("own/2"), rf"\boxed{{{content}}}")
    assert verdict.status in set(Status) - {Status.RUNTIME_ERROR}
    assert verdict.reward == float(verdict.solved)


# The environment ---------------------------------------------------------------------------------


@pytest.mark.filterwarnings("error")
def test_gymnasium_finds_nothing_to_complain_of():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check_env(gym.make("vpd/Math-v0", data=FIXTURE, disable_env_checker=True).unwrapped)


def test_a_used_environment_can_be_pickled():
    env = Math(FIXTURE, answer="marker", answer_marker="A:", reveal=True)
    before = env.judge(env.problem("own/2"), r"A: \frac{3}{\sqrt{3}}")
    copy = pickle.loads(pickle.dumps(env))
    assert before.solved
    assert copy.judge(copy.problem("own/2"), r"A: \frac{3}{\sqrt{3}}") == before
    assert copy.fingerprint == env.fingerprint


def test_a_batch_is_judged_the_same_in_any_order():
    env = Math(FIXTURE)
    attempts = [
        (env.problem(problem_id), rf"\boxed{{{env.problem(other).target.text}}}")
        for problem_id in env.problem_ids
        for other in env.problem_ids
    ]
    forwards = list(env.judge_many(attempts))
    backwards = list(env.judge_many(reversed(attempts)))
    assert forwards == backwards[::-1]
    solved = [i for i, verdict in enumerate(forwards) if verdict.solved]
    assert solved == [i * len(env.problem_ids) + i for i in range(len(env.problem_ids))]


def test_the_batched_environment_asks_and_judges():
    envs = gym.make_vec(
        "vpd/Math-v0", num_envs=2, data=FIXTURE, vectorization_mode="vector_entry_point"
    )
    prompts, _ = envs.reset(options={"problem_ids": ["own/0", "own/1"]})
    assert all(re.search(r"within \\boxed\{\}\.$", prompt) for prompt in prompts)
    _, rewards, *_ = envs.step([r"\boxed{42}", r"\boxed{42}"])
    assert rewards.tolist() == [1.0, 0.0]
