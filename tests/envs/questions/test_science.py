"""SciKnowEval: both layouts of its rows, and what counts as a letter."""

import json
import pickle
import warnings
from pathlib import Path

import gymnasium as gym
import pytest
from gymnasium.utils.env_checker import check_env
from hypothesis import given, settings
from hypothesis import strategies as st

from vpd_envs import Status
from vpd_envs.answers.answer_tag import tagged_answer
from vpd_envs.answers.extraction import Found
from vpd_envs.questions.science import DOMAINS, SciKnowEval, options_in

FIXTURES = Path(__file__).parents[2] / "fixtures"
PAPERS, PUBLIC = FIXTURES / "science_papers.jsonl", FIXTURES / "science_public.jsonl"
SHARED = Path(__file__).parents[4] / "shared" / "data" / "sciknoweval"


untimed = settings(deadline=None, max_examples=100)


@pytest.fixture(scope="module")
def env():
    return SciKnowEval(PAPERS)


@pytest.fixture(scope="module")
def organelles(env):
    return env.problem("biology-1")  # B is right


def wrapped(letter):
    return f"<reasoning>\nIt is {letter}.\n</reasoning>\n<answer>\n{letter}\n</answer>"


def written(path, *rows):
    path.write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    return path


# Loading ------------------------------------------------------------------------------------------


def test_rows_of_the_papers_keep_their_prompt_system_split_and_number(env):
    row = json.loads(PAPERS.read_text().splitlines()[0])
    problem = env.problem("biology-1")
    assert (problem.prompt, problem.system) == (row["prompt"], row["system"])
    assert problem.target == row["answer"] == "B"
    assert set(env.problem_ids) == {
        "biology-1",
        "biology-2",
        "chemistry-1",
        "material-7",
        "physics-3",
    }
    assert SciKnowEval(PAPERS, split="test").problem_ids == ("biology-2", "physics-3")
    assert SciKnowEval(PAPERS, split="train", max_problems=2).problem_ids == (
        "biology-1",
        "chemistry-1",
    )


def test_options_are_read_from_the_end_of_the_prompt_over_blank_and_broken_lines(env):
    texts = ("4 Å³", "6 Å³", "8 Å³\n(two cubed)", "16 Å³")
    assert env.problem("material-7").metadata["options"] == texts
    assert env.problem("biology-2").metadata["options"] == ("MKTAYIAK", "MKTAY")
    assert options_in("Why?\nPlease reason step by step.") == {}


def test_public_rows_become_the_papers_prompt():
    env = SciKnowEval(PUBLIC, domain="physics")
    (problem,) = (env.problem(id_) for id_ in env.problem_ids)  # the row comes twice
    assert problem.prompt == (
        "Which unit is that of force?\n\nA: joule\nB: newton\nC: watt\nD: pascal\n"
        "Please reason step by step."
    )
    assert problem.target == "B"
    assert "<answer>\nA\n</answer>" in problem.system
    assert "A, B, C or D" in problem.system
    assert problem.metadata["level"] == "L3"
    assert env.verdict(problem, wrapped("B")).solved


def test_only_well_paired_multiple_choice_of_the_level_is_asked():
    def asked(**options):
        env = SciKnowEval(PUBLIC, **options)
        return [env.problem(id_).prompt.partition("\n")[0] for id_ in env.problem_ids]

    assert asked() == ["Which unit is that of force?", "Which base is not in DNA?"]
    assert asked(level="L1") == ["Which is a noble gas?"]
    assert len(asked(level=None)) == 3
    assert asked(domain="biology") == ["Which base is not in DNA?"]


def test_a_folder_may_hold_a_folder_for_each_domain(tmp_path):
    rows = [json.loads(line) for line in PAPERS.read_text().splitlines()]
    for row in rows:
        folder = tmp_path / row["domain"]
        folder.mkdir(exist_ok=True)
        path = folder / f"{row['split']}.jsonl"
        path.write_text(f"{json.dumps(row)}\n")
    assert sorted(SciKnowEval(tmp_path).problem_ids) == sorted(SciKnowEval(PAPERS).problem_ids)
    assert SciKnowEval(tmp_path, domain="physics").problem_ids == ("physics-3",)
    assert SciKnowEval(tmp_path / "biology", split="test").problem_ids == ("biology-2",)
    assert len(SciKnowEval(tmp_path, max_problems=3).problem_ids) == 3


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"domain": None}, "domain"),
        ({"prompt": "Why?"}, "at least two options"),
        ({"answer": "E"}, "A, B, C, D"),
        ({"answer": None}, "'answer'"),
        ({"prompt": 5}, "is a text"),
    ],
)
def test_a_row_of_another_layout_is_named(tmp_path, change, message):
    row = json.loads(PAPERS.read_text().splitlines()[0])
    path = written(tmp_path / "rows.jsonl", row, row | {"idx": 9} | change)
    with pytest.raises(ValueError, match=f"line 2.*{message}"):
        SciKnowEval(path)


@pytest.mark.parametrize("change", [{"choices": ["a"]}, {"details": "L3"}, {"answerKey": "Z"}])
def test_a_bad_public_row_is_named(tmp_path, change):
    row = json.loads(PUBLIC.read_text().splitlines()[0])
    path = written(tmp_path / "rows.jsonl", row | change)
    with pytest.raises(ValueError, match="line 1"):
        SciKnowEval(path)


def test_a_truncated_file_names_its_line(tmp_path):
    path = tmp_path / "cut.jsonl"
    path.write_bytes(PAPERS.read_bytes()[:-40])
    with pytest.raises(ValueError, match="line 5"):
        SciKnowEval(path)


@pytest.mark.parametrize("options", [{"domain": "law"}, {"level": "L9"}, {"split": "dev"}])
def test_bad_options_are_refused_by_name(options):
    with pytest.raises(ValueError, match=next(iter(options))):
        SciKnowEval(PAPERS, **options)


# Judging ------------------------------------------------------------------------------------------


def test_the_right_letter_solves(env, organelles):
    for answer in (
        wrapped("B"),
        "<answer>B</answer>",
        "<answer>\n\n  B\t\n</answer> Good luck!",
        "<think>\nHm, <answer>A</answer>?\n</think>\n<answer>B</answer>",
        "<answer>A</answer> No. <answer>B</answer>",
        "I write it in <answer> tags: <answer>B</answer>",
        "<answer>B</answer> which I put between <answer> tags",
    ):
        verdict = env.verdict(organelles, answer)
        assert (verdict.reward, verdict.status) == (1.0, Status.SOLVED), answer
        assert verdict.feedback.startswith("Correct")
        assert verdict.details == {"chosen": "B", "options": ["A", "B", "C", "D"]}


def test_feedback_rules_the_chosen_option_out_and_reveals_nothing_else(env, organelles):
    verdict = env.verdict(organelles, wrapped("C"))
    assert (verdict.reward, verdict.status) == (0.0, Status.WRONG_ANSWER)
    assert 'C ("ribosome")' in verdict.feedback
    assert "mitochondrion" not in verdict.feedback
    assert "B" not in verdict.feedback
    assert verdict.details["chosen"] == "C"


def test_feedback_may_reveal_the_right_option(organelles):
    verdict = SciKnowEval(PAPERS, reveal=True).verdict(organelles, wrapped("C"))
    assert 'The right option is B ("mitochondrion")' in verdict.feedback


MALFORMED = [
    "",
    " \n\t",
    "B",
    "The answer is B.",
    r"\boxed{B}",
    "Answer: B",
    "<answer></answer>",
    "<answer>\n \n</answer>",
    "<answer>B",
    "<reasoning>B</reasoning>",
    "<answer>B</answer",
    "<Answer>B</Answer>",
    "</answer>B<answer>",
    "<answer>B</reasoning>",
    "<think>\n<answer>B</answer>",
    "<answer>b</answer>",
    "<answer>B.</answer>",
    "<answer>(B)</answer>",
    "<answer>B)</answer>",
    "<answer>**B**</answer>",
    "<answer>`B`</answer>",
    '<answer>"B"</answer>',
    "<answer>B: mitochondrion</answer>",
    "<answer>mitochondrion</answer>",
    "<answer>The answer is B</answer>",
    "<answer>A or B</answer>",
    "<answer>A, B</answer>",
    "<answer>AB</answer>",
    "<answer>A\nB</answer>",
    "<answer>BB</answer>",
    "<answer>E</answer>",
    "<answer>2</answer>",
    "<answer>В</answer>",  # Cyrillic
    "<answer>Ｂ</answer>",
    "<answer>None of the above</answer>",
    "<answer>\x00</answer>",
    "<answer>\ud800</answer>",
    "<answer><b>B</b></answer>",
    "<answer>...</answer>",
    "<answer>B</answer> or rather <answer>maybe C</answer>",
]


@pytest.mark.parametrize("answer", MALFORMED)
def test_malformed_answers_get_a_format_verdict_that_says_what_is_asked(env, organelles, answer):
    verdict = env.verdict(organelles, answer)
    assert verdict.status.is_format
    assert verdict.reward == 0
    assert "one letter, A, B, C or D, and nothing else between <answer> and" in verdict.feedback
    assert verdict.details["chosen"] is None


def test_there_are_thirty_malformed_variants():
    assert len(set(MALFORMED)) >= 30


@pytest.mark.parametrize(
    ("answer", "status", "said"),
    [
        ("", Status.EMPTY_ANSWER, "is empty"),
        ("<answer> </answer>", Status.EMPTY_ANSWER, "nothing between"),
        ("It is B", Status.NO_ANSWER, "There is no <answer>"),
        ("<answer>B", Status.NO_ANSWER, "never closed"),
        ("<think>\nB", Status.NO_ANSWER, "thinking never ended"),
        ("<answer>A or B</answer>", Status.FORMAT_ERROR, '"A or B"'),
    ],
)
def test_each_kind_of_malformed_answer_has_its_status(env, organelles, answer, status, said):
    verdict = env.verdict(organelles, answer)
    assert verdict.status is status
    assert said in verdict.feedback


def test_letters_are_those_of_the_problem(env):
    peptides = env.problem("biology-2")
    assert env.verdict(peptides, wrapped("C")).status is Status.FORMAT_ERROR
    assert "A or B" in env.verdict(peptides, wrapped("C")).feedback


def test_several_turns_rule_options_out_one_by_one():
    env = SciKnowEval(PAPERS, max_turns=3)
    env.reset(options={"problem_id": "biology-1"})
    feedback, reward, terminated, _, _ = env.step(wrapped("A"))
    assert (reward, terminated) == (0.0, False)
    assert "you chose A" in feedback
    _, reward, terminated, _, _ = env.step(wrapped("B"))
    assert (reward, terminated) == (1.0, True)


def test_a_long_wrong_text_is_cut_in_the_feedback(env, organelles):
    verdict = env.verdict(organelles, f"<answer>{'long ' * 10_000}</answer>")
    assert verdict.status is Status.FORMAT_ERROR
    assert len(verdict.feedback) < 500


# Parsing ------------------------------------------------------------------------------------------

PIECES = st.lists(
    st.sampled_from(["<answer>", "</answer>", "<think>", "</think>", "\n", "B", " ", "<answer"])
    | st.text(max_size=5)
).map("".join)


@untimed
@given(PIECES)
def test_any_text_is_parsed_into_what_stands_between_a_pair_of_tags(text):
    tagged = tagged_answer(text)
    if tagged.found is Found.COMPLETE:
        assert tagged.text == tagged.text.strip() != ""
        assert tagged.text in text
        assert "<answer>" not in tagged.text
        assert "</answer>" not in tagged.text
    else:
        assert tagged.text == ""


@untimed
@given(st.text(alphabet=st.characters(exclude_characters="<>")), st.sampled_from("ABCD"))
def test_whatever_stands_before_the_last_pair_does_not_matter(text, letter):
    assert tagged_answer(f"{text}<answer>{letter}</answer>").text == letter


@untimed
@given(PIECES)
def test_any_text_is_judged(text):
    env = SciKnowEval(PAPERS)
    for id_ in ("biology-1", "biology-2"):
        problem = env.problem(id_)
        verdict = env.verdict(problem, text)
        assert verdict.solved == (verdict.details["chosen"] == problem.target)


def test_long_hostile_texts_are_parsed_too():
    for text in ("<answer>" * 100_000, "</answer>" * 100_000, " " * 1_000_000, "<think>" * 100_000):
        assert tagged_answer(text).found is not Found.COMPLETE


# The contract -------------------------------------------------------------------------------------


def test_it_is_a_gymnasium_environment_without_a_warning():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        env = gym.make("vpd/SciKnowEval-v0", data=PAPERS)
        check_env(env.unwrapped)
        _, info = env.reset(seed=1)
    assert "target" not in info
    assert info["messages"][0]["role"] == "system"


def test_a_batch_is_judged_independently_of_its_order_and_a_copy_judges_alike():
    envs = gym.make_vec(
        "vpd/SciKnowEval-v0",
        num_envs=5,
        data=PAPERS,
        vectorization_mode="vector_entry_point",
    )
    ids = ["biology-1", "biology-2", "biology-1", "physics-3", "chemistry-1"]
    answers = [wrapped("B"), wrapped("B"), "hm", wrapped("C"), "<answer>C"]
    envs.reset(options={"problem_ids": ids})
    _, rewards, _, _, infos = envs.step(answers)
    assert list(rewards) == [1, 0, 0, 1, 0]
    copy = pickle.loads(pickle.dumps(envs.env))
    backwards = copy.judge_batch([copy.problem(id_) for id_ in reversed(ids)], answers[::-1])
    assert [verdict.feedback for verdict in backwards[::-1]] == list(infos["feedback"])
    assert copy.fingerprint == envs.fingerprint != SciKnowEval(PUBLIC).fingerprint


def test_all_stored_answers_solve_in_the_asked_format():
    if not SHARED.is_dir():
        pytest.skip(f"needs {SHARED.name}")
    stored = [
        json.loads(line)
        for domain in DOMAINS
        for path in sorted((SHARED / domain).iterdir())
        for line in path.read_text().splitlines()
    ]
    env = SciKnowEval(SHARED)
    assert len(env.problem_ids) == len(stored) > 700
    problems = [env.problem(f"{row['domain']}-{row['idx']}") for row in stored]
    verdicts = env.judge_batch(problems, [wrapped(row["answer"]) for row in stored])
    assert all(verdict.solved for verdict in verdicts)
    for problem in problems:
        for letter in set("ABCD") - {problem.target}:
            verdict = env.verdict(problem, wrapped(letter))
            known = letter in "ABCD"[: len(problem.metadata["options"])]
            assert verdict.status is (Status.WRONG_ANSWER if known else Status.FORMAT_ERROR)
    for split in ("train", "test"):
        asked = SciKnowEval(SHARED, split=split).problem_ids
        own = [f"{row['domain']}-{row['idx']}" for row in stored if row["split"] == split]
        assert sorted(asked) == sorted(own)
