"""ReasoningGym: the package's puzzles and scorers, from worker processes."""

import json
import pickle
import re
import sys
import warnings

import gymnasium as gym
import pytest
from gymnasium.utils.env_checker import check_env
from hypothesis import given, settings
from hypothesis import strategies as st
from suite import printed_with_other_hashes

from sandbox import SandboxError
from sandbox.installation import install_hint
from vpd_envs import Status
from vpd_envs.questions.reasoning_gym import FORMULAS, LISTS, ReasoningGym, is_formula

reasoning_gym = pytest.importorskip("reasoning_gym")

# A dataset of each category, and all whose scorers evaluate the answer.
DATASETS = [
    *("leg_counting", "gsm_symbolic", "propositional_logic", "syllogism", "shortest_path"),
    *("word_sorting", "caesar_cipher", "family_relationships", "rectangle_count", "list_functions"),
    *("mini_sudoku", "simple_geometry", "arc_1d", "codeio", "color_cube_rotation", "boxnet"),
    *LISTS,
    *FORMULAS,
]
UNKNOWN_TO_THE_PACKAGE = {"boxnet", "propositional_logic"}  # it checks answers, but has none itself
# Hashes of texts decide what these datasets ask or answer.
BY_HASH = ["isomorphic_strings", "polynomial_multiplication", "word_ladder"]


@pytest.fixture(scope="module")
def env():
    return ReasoningGym(size=50)


def wrapped(answer):
    return f"Let me think.\n<answer>\n{answer}\n</answer>"


def first(env):
    return env.problem(env.problem_ids[0])


# Puzzles ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", DATASETS)
def test_the_packages_own_answers_score_one(name):
    env = ReasoningGym(name, size=200)
    for id_ in env.problem_ids[:4]:
        problem = env.problem(id_)
        assert problem.prompt.strip()
        if name in UNKNOWN_TO_THE_PACKAGE:
            assert problem.target is None
        elif "Integral(" in problem.target:  # what SymPy left unsolved is no formula
            assert name == "intermediate_integration"
        else:
            verdict = env.verdict(problem, wrapped(problem.target))
            assert (verdict.reward, verdict.solved) == (1.0, True), (problem, verdict)


def test_the_prompt_is_the_question_and_the_asked_format(env):
    index = 3
    problem = env.problem(env.problem_ids[index])
    dataset = reasoning_gym.create_dataset("leg_counting", seed=env.source.seed, size=50)
    entry = dataset[index]
    assert problem.prompt.startswith(entry["question"])
    assert problem.prompt.endswith("keep to that.")
    assert "between <answer> and </answer>" in problem.prompt
    assert problem.target == entry["answer"]
    assert problem.metadata == {
        "dataset": "leg_counting",
        "category": "arithmetic",
        "index": index,
    }


def test_puzzles_are_made_when_they_are_asked():
    env = ReasoningGym("knight_swap", size=1_000)  # a quarter of a second each
    assert len(env.problem_ids) == 1_000
    assert len(env.fingerprint) == 64
    assert "entry" not in vars(first(env))
    env.reset(options={"problem_id": "knight_swap-train-0"})
    assert "entry" in vars(first(env))


def test_splits_and_seeds_ask_different_puzzles(env):
    def prompts(**options):
        env = ReasoningGym("basic_arithmetic", size=40, **options)
        return {env.problem(id_).prompt for id_ in env.problem_ids}

    train, test, other = prompts(), prompts(split="test"), prompts(dataset_seed=1)
    assert prompts() == train
    assert not train & test
    assert not train & other
    prints = {ReasoningGym(size=50, **options).fingerprint for options in ({}, {"split": "test"})}
    assert len(prints) == 2
    assert env.fingerprint in prints


def test_parameters_reach_the_dataset():
    env = ReasoningGym(parameters={"min_animals": 2, "max_animals": 2}, size=5)
    assert env.fingerprint != ReasoningGym(size=5).fingerprint
    for id_ in env.problem_ids:
        animals = env.problem(id_).prompt.partition("if you have ")[2].partition("?")[0]
        assert animals.count(",") == 1


def test_puzzles_do_not_depend_on_the_hash_seed_of_a_process():
    program = (
        "import json\n"
        "from vpd_envs.questions.reasoning_gym import ReasoningGym\n"
        f"for name in {BY_HASH}:\n"
        "    env = ReasoningGym(name, size=5)\n"
        "    problems = [env.problem(id_) for id_ in env.problem_ids]\n"
        "    print(json.dumps([[problem.prompt, problem.target] for problem in problems]))\n"
    )
    printed = printed_with_other_hashes(program).splitlines()
    for name, line in zip(BY_HASH, printed, strict=True):
        env = ReasoningGym(name, size=5)
        problems = [env.problem(id_) for id_ in env.problem_ids]
        assert json.loads(line) == [[problem.prompt, problem.target] for problem in problems]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"dataset": "leg_countin"}, "leg_counting"),
        ({"dataset": "qqqq"}, "Unknown dataset of reasoning-gym: 'qqqq'"),
        ({"dataset": "composite"}, "an environment for each"),
        ({"parameters": {"legs": 3}}, "parameter of leg_counting: 'legs'.*There are min_animals"),
        ({"parameters": {"min_animals": -1}}, "does not take the parameters"),
        ({"parameters": {"min_animals": "x"}}, "does not take the parameters"),
        ({"parameters": {"min_animals": {3}}}, "JSON"),
        ({"parameters": {"seed": 3}}, "dataset_seed"),
        ({"split": "all"}, "split"),
        ({"size": 0}, "size"),
        ({"size": 2.0}, "size"),
        ({"dataset_seed": "0"}, "dataset_seed"),
        ({"extract": "numbr"}, "Unknown extract: 'numbr'. Did you mean 'number'"),
        ({"time_limit_seconds": 0}, "time_limit_seconds"),
    ],
)
def test_bad_options_are_refused_with_what_there_is(options, message):
    with pytest.raises(ValueError, match=message):
        ReasoningGym(**options)


def test_without_the_package_the_error_says_how_to_get_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "reasoning_gym", None)
    with pytest.raises(ValueError, match=re.escape(install_hint("reasoning"))):
        ReasoningGym()


# Judging ------------------------------------------------------------------------------------------


def test_the_reward_is_the_packages_score(env):
    problem = first(env)
    right = env.verdict(problem, wrapped(problem.target))
    assert right.details == {"score": 1.0}
    wrong = env.verdict(problem, wrapped(int(problem.target) + 1))
    assert (wrong.reward, wrong.status) == (0.0, Status.WRONG_ANSWER)
    assert "scores 0 of 1" in wrong.feedback
    assert problem.target not in wrong.feedback.replace(str(int(problem.target) + 1), "")
    longer = f"{problem.target} legs"
    partly = env.verdict(problem, wrapped(longer))
    assert partly.status is Status.WRONG_ANSWER
    assert partly.reward == partly.details["score"] == len(problem.target) / len(longer)
    assert "The right answer is in it, but so is other text" in partly.feedback


def test_scores_below_one_are_not_solved():
    env = ReasoningGym("countdown", size=5)
    verdict = env.verdict(first(env), wrapped("1+1"))
    assert (verdict.reward, verdict.solved) == (0.05, False)
    assert "scores 0.05 of 1" in verdict.feedback


@pytest.mark.parametrize(
    ("answer", "status", "said"),
    [
        ("", "empty_answer", "is empty"),
        ("<answer> </answer>", "empty_answer", "nothing between"),
        ("42", "no_answer", "There is no <answer>"),
        ("<answer>42", "no_answer", "never closed"),
        ("<think>\n<answer>42</answer>", "no_answer", "never ended"),
    ],
)
def test_answers_outside_the_format_are_not_scored(env, answer, status, said):
    verdict = env.verdict(first(env), answer)
    assert (verdict.status, verdict.reward, verdict.details) == (status, 0.0, {"score": None})
    assert said in verdict.feedback
    assert "alone between <answer> and </answer>" in verdict.feedback


@pytest.mark.parametrize(
    ("answer", "status", "score", "said"),
    [
        ("It is 3 + 4 = {right}.", "solved", 1.0, "Correct"),
        ("<answer>5</answer> or {right}", "solved", 1.0, "Correct"),
        ("{right}, not 5", "wrong_answer", 0.0, 'The last number of your answer, "5", is not'),
        ("1{right}", "wrong_answer", 0.0, "it scores 0 of 1."),  # a text scorer's share is no merit
        ("seven", "no_answer", None, "There is no number in your answer. End with the final"),
        ("", "empty_answer", None, "is empty. End with the final answer, a number."),
        ("<think>\n{right}", "no_answer", None, "never ended"),
    ],
)
def test_with_extract_number_the_last_number_counts(answer, status, score, said):
    env = ReasoningGym("chain_sum", size=5, extract="number")
    problem = first(env)
    assert problem.prompt.endswith("\n\nEnd with the final answer, a number.")
    verdict = env.verdict(problem, answer.format(right=problem.target))
    assert (verdict.status, verdict.details) == (status, {"score": score})
    assert verdict.reward == (score or 0.0)
    assert said in verdict.feedback
    assert "right answer is in it" not in verdict.feedback
    assert env.fingerprint != ReasoningGym("chain_sum", size=5).fingerprint


def test_a_scorer_that_fails_on_an_answer_makes_it_a_format_error():
    env = ReasoningGym("prime_factorization", size=5)
    verdict = env.verdict(first(env), wrapped("two times three"))
    assert (verdict.status, verdict.reward) == (Status.FORMAT_ERROR, 0.0)
    assert "ValueError" in verdict.feedback


def test_a_scorer_that_never_ends_is_killed_and_the_next_answer_is_judged():
    env = ReasoningGym("countdown", size=5, time_limit_seconds=1.5)
    problem = first(env)
    verdict = env.verdict(problem, wrapped("9**9**9**9"))
    assert (verdict.status, verdict.reward) == (Status.TIME_LIMIT, 0.0)
    assert env.verdict(problem, wrapped(problem.target)).solved


def test_a_puzzle_that_cannot_be_made_in_time_is_no_verdict():
    env = ReasoningGym("knight_swap", size=5, time_limit_seconds=1e-3)
    with pytest.raises(SandboxError, match="could not be made"):
        env.reset(seed=0)


# Answers that scorers would evaluate --------------------------------------------------------------

PROGRAMS = [
    "__import__('os').getcwd()",
    "exec(chr(49))",
    "open(0)",
    "().__class__",
    "x.func",
    "x . func",
    "lambda: 0",
    "S('1')",
    "ｏｐｅｎ(0)",
    "Integral(x, x)",
    "[a for a in globals()]",
    "f`1`",
    "1\\\n+1",
]


@pytest.mark.parametrize("answer", PROGRAMS)
@pytest.mark.parametrize("name", ["countdown", "simple_integration"])
def test_programs_in_place_of_formulas_are_format_errors(name, answer):
    env = ReasoningGym(name, size=5)
    verdict = env.verdict(first(env), wrapped(answer))
    assert verdict.status is Status.FORMAT_ERROR
    assert "numbers, operators and elementary functions" in verdict.feedback


@pytest.mark.parametrize(
    "answer",
    ["(25-3)*4/2", "1.5e3 - 2", "-x**2/2 + C", "sin(2*x)*exp(x) + log(x)", "2*x1 + 7 = y", ""],
)
def test_formulas_are_passed_on(answer):
    assert is_formula(answer)


def test_lists_are_read_as_literals_and_never_run():
    """Each answer would be the right list, were it run: its literal gets the share for a list."""
    env = ReasoningGym("spiral_matrix", size=5)
    problem = first(env)
    listed = [int(each) for each in problem.target.split()]
    assert env.verdict(problem, wrapped(listed)).reward == 0.1
    for program in (f"list({listed})", f"[*{listed}] + []", f"(lambda: {listed})()"):
        assert env.verdict(problem, wrapped(program)).reward == 0.0


@settings(deadline=None, max_examples=60)
@given(st.text(alphabet="0123456789+-*/^()., xyCEINOQS=!\n", max_size=30))
def test_any_formula_is_judged(answer):
    env = ReasoningGym("polynomial_multiplication", size=1)
    assert 0 <= env.verdict(first(env), wrapped(answer)).reward <= 1


@settings(deadline=None, max_examples=100)
@given(st.text(max_size=40), st.sampled_from(["number_sorting", "game_of_life", "shortest_path"]))
def test_any_text_is_judged(answer, name):
    env = ReasoningGym(name, size=1)
    assert 0 <= env.verdict(first(env), wrapped(answer)).reward <= 1


# The contract -------------------------------------------------------------------------------------


def test_it_is_a_gymnasium_environment_without_a_warning():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        env = gym.make("vpd/ReasoningGym-v0", size=20)
        check_env(env.unwrapped)
        env.reset(seed=1)


def test_a_batch_is_judged_independently_of_its_order_and_a_copy_judges_alike():
    envs = gym.make_vec(
        "vpd/ReasoningGym-v0",
        num_envs=12,
        dataset="chain_sum",
        size=4,
        vectorization_mode="vector_entry_point",
    )
    ids = [envs.problem_ids[i % 4] for i in range(12)]
    problems = [envs.env.problem(id_) for id_ in ids]
    answers = [wrapped(problems[i].target if i < 6 else i) for i in range(12)]
    envs.reset(options={"problem_ids": ids})
    _, rewards, _, _, infos = envs.step(answers)
    assert list(rewards[:6]) == [1] * 6
    copy = pickle.loads(pickle.dumps(envs.env))
    backwards = copy.judge_batch([copy.problem(id_) for id_ in reversed(ids)], answers[::-1])
    assert [verdict.feedback for verdict in backwards[::-1]] == list(infos["feedback"])
    assert copy.fingerprint == envs.fingerprint
