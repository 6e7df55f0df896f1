"""CodeContests, HumanEval and MBPP: their layouts, what is left out, their tests and feedback."""

import gzip
import json
import os
import pickle
import re

import gymnasium as gym
import pytest
from code_rows import (
    CONTEST_ROWS,
    CONTEST_SOLUTIONS,
    FILES,
    FIXTURES,
    HUMANEVAL_ROWS,
    HUMANEVAL_SOLUTIONS,
    MBPP_ROWS,
    MBPP_SOLUTIONS,
    QUIXBUGS_ROW,
    contest_row,
)
from gymnasium.utils.env_checker import check_env
from hypothesis import given
from hypothesis import strategies as st
from lcb_rows import block, packed, packed_tests, row, write_rows

from sandbox.comparison import Floats, IgnoreCase, Lines, Whitespace
from vpd_envs.code import code_contests
from vpd_envs.code.code_contests import CodeContests
from vpd_envs.code.contest_rules import rule_of, several_answers, tolerance_of
from vpd_envs.code.humaneval import HumanEval, completed, statements_above
from vpd_envs.code.livecodebench import LiveCodeBench
from vpd_envs.code.mbpp import MBPP

FAMILIES = {"code_contests": CodeContests, "humaneval": HumanEval, "mbpp": MBPP}
SOLUTIONS = {
    "code_contests": CONTEST_SOLUTIONS,
    "humaneval": HUMANEVAL_SOLUTIONS,
    "mbpp": MBPP_SOLUTIONS,
}


def env_of(name, **options):
    return FAMILIES[name](FIXTURES / f"{name}.jsonl", sandbox="local", **options)


def load(family, tmp_path, *rows, **options):
    return family(write_rows(tmp_path / "rows.jsonl", rows), sandbox="local", **options)


def step(env, problem_id, code):
    env.reset(options={"problem_id": problem_id})
    feedback, reward, _, _, info = env.step(block(code))
    return reward, info["status"], feedback, info["details"]


# All families -------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", FILES)
def test_the_fixtures_are_what_code_rows_writes(name):
    text = (FIXTURES / f"{name}.jsonl").read_text()
    assert [json.loads(line) for line in text.splitlines()] == FILES[name]


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("name", FILES)
def test_gymnasium_accepts_the_environment(name):
    env = env_of(name)
    check_env(env, skip_render_check=True)
    envs = FAMILIES[name].vector(num_envs=2, data=FIXTURES / f"{name}.jsonl", sandbox="local")
    envs.reset(options={"problem_ids": [env.problem_ids[0]] * 2})
    right = block(SOLUTIONS[name][env.problem_ids[0]])
    assert envs.step([right, "no code"])[1].tolist() == [1.0, 0.0]


@pytest.mark.parametrize("name", FILES)
def test_right_programs_get_1_before_and_after_pickling(name):
    env = env_of(name)
    for _ in range(2):
        for problem_id, code in SOLUTIONS[name].items():
            reward, status, feedback, details = step(env, problem_id, code)
            assert (reward, status) == (1.0, "solved"), (problem_id, feedback)
            assert (
                details["tests_passed"]
                == details["tests"]
                == len(env.tests(env.problem(problem_id)))
            )
        copy = pickle.loads(pickle.dumps(env))
        assert copy.fingerprint == env.fingerprint
        env = copy


@pytest.mark.parametrize("name", FILES)
def test_files_of_every_kind_and_the_hubs_reader_give_the_same_problems(
    name, tmp_path, monkeypatch
):
    datasets = pytest.importorskip("datasets")
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    rows = FILES[name] if name != "mbpp" else [MBPP_ROWS[0], MBPP_ROWS[2]]  # of one layout
    lines = "".join(json.dumps(each) + "\n" for each in rows)
    (tmp_path / "rows.jsonl").write_text(lines)
    (tmp_path / "rows.json.gz").write_bytes(gzip.compress(json.dumps(rows).encode()))
    (tmp_path / "rows.jsonl.gz").write_bytes(gzip.compress(lines.encode()))
    hub = tmp_path / "hub"
    hub.mkdir()
    parquet.write_table(pyarrow.Table.from_pylist(rows), hub / "test-00000-of-00001.parquet")
    sources = [{"data": path} for path in (*tmp_path.glob("rows.*"), *hub.iterdir())]
    if name != "mbpp":  # whose hub has two configurations and four splits
        sources.append({"hub": str(hub), "split": "test", "test_fraction": 1.0})
    prints = {FAMILIES[name](sandbox="local", **source).fingerprint for source in sources}
    assert len(sources) >= 4
    assert len(prints) == 1


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"feedback_tests": "some"}, "feedback_tests must be one of none, public, half, all"),
        ({"judged_tests": "some"}, "judged_tests must be one of all, feedback; got 'some'"),
        ({"judged_tests": "feedback", "feedback_tests": "none"}, "leaves none. Change one"),
        ({"time_limit_seconds": -1}, "time_limit_seconds must be a positive number, got -1"),
        ({"memory_limit_mb": float("nan")}, "memory_limit_mb must be a positive number, got nan"),
        ({"split": "dev"}, "split must be 'all', 'train' or 'test', got 'dev'"),
        ({"max_turns": 0}, "max_turns must be a positive integer"),
    ],
)
def test_bad_options_are_explained(name, options, message):
    with pytest.raises(ValueError, match=message):
        env_of(name, **options)


@pytest.mark.parametrize("name", FILES)
def test_several_turns_end_with_the_first_right_answer(name):
    env = env_of(name, max_turns=3)
    problem_id, code = next(iter(SOLUTIONS[name].items()))
    env.reset(options={"problem_id": problem_id})
    _, reward, over, _, info = env.step(block("x = 1"))
    assert (reward, over) == (0.0, False)
    assert info["messages"] == [{"role": "user", "content": info["feedback"]}]
    _, reward, over, _, info = env.step(block(code))
    assert (reward, over, info["turn"]) == (1.0, True, 2)


ROWS = {
    "code_contests": CONTEST_ROWS[0],
    "lcb": row("p", "?", [("1", "2")], [("3", "4")]),
    "sandboxfusion": {"id": "a", "question_content": "?", "tests": [{"input": "", "output": ""}]},
    "codeforces": {"problem_id": "1A", "description": "?", "examples": []},
    "humaneval": HUMANEVAL_ROWS[0],
    "mbpp": MBPP_ROWS[1],
}
ROWS["livecodebench"] = ROWS["lcb"]
LAYOUT_FAMILY = {name: FAMILIES.get(name, CodeContests) for name in ROWS}
ROWS["quixbugs"], LAYOUT_FAMILY["quixbugs"] = QUIXBUGS_ROW, HumanEval
LAYOUT_FAMILY["livecodebench"] = LiveCodeBench
NO_VALUE = object()
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.just("def f(): 1"),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["input", "output", "seconds", "x"]), inner, max_size=3)
    ),
    max_leaves=6,
)


@pytest.mark.parametrize("layout", ROWS)
@given(data=st.data())
def test_any_change_of_a_row_is_loaded_or_refused_by_its_line(layout, tmp_path_factory, data):
    changed = dict(ROWS[layout])
    for name in data.draw(st.lists(st.sampled_from(sorted(changed)), min_size=1, max_size=3)):
        value = data.draw(json_values | st.just(NO_VALUE))
        changed.pop(name, None) if value is NO_VALUE else changed.update({name: value})
    path = tmp_path_factory.mktemp("data") / "rows.jsonl"
    write_rows(path, [changed])
    assert refusal(LAYOUT_FAMILY[layout], path) in ("", "line 1", "No problem of")


def refusal(family, path):
    """What the refusal of a file is about; "" if it loads."""
    try:
        family(path, sandbox="local")
    except ValueError as error:
        found = re.search("line 1|No problem of", str(error))
        return found[0] if found else str(error)
    return ""


@pytest.mark.parametrize("family", FAMILIES.values())
@given(json_values)
def test_any_json_value_is_refused_by_its_line(family, tmp_path_factory, value):
    path = write_rows(tmp_path_factory.mktemp("data") / "rows.jsonl", [value])
    with pytest.raises(ValueError, match=r"rows\.jsonl, line 1"):
        family(path, sandbox="local")


@pytest.mark.parametrize("name", FILES)
def test_a_truncated_file_names_its_line(name, tmp_path):
    text = (FIXTURES / f"{name}.jsonl").read_text()
    cut = tmp_path / "cut.jsonl"
    cut.write_text(text[: len(text) * 2 // 3])
    line = text[: len(text) * 2 // 3].count("\n") + 1
    with pytest.raises(ValueError, match=rf"cut\.jsonl, line {line}: the line .*must be JSON"):
        FAMILIES[name](cut, sandbox="local")


# CodeContests -------------------------------------------------------------------------------------


def test_problems_with_several_answers_or_files_are_excluded_by_name():
    env = gym.make("vpd/CodeContests-v0", data=FIXTURES / "code_contests.jsonl", sandbox="local")
    assert set(env.unwrapped.problem_ids) == set(CONTEST_SOLUTIONS)
    assert env.unwrapped.excluded == {
        "1_D. Summands": "several outputs may be right, and it has no checker: the statement says "
        "'multiple answers, print any'",
        "1_E. Lines": "it reads or writes a file (in.txt)",
    }


def sums_to(output, expected, input):
    parts = output.split()
    return len(parts) == 2 and all(map(str.isdigit, parts)) and sum(map(int, parts)) == int(input)


def test_a_checker_brings_a_problem_with_several_answers_back():
    env = env_of("code_contests", checkers={"1_D. Summands": sums_to})
    assert list(env.excluded) == ["1_E. Lines"]
    assert step(env, "1_D. Summands", "print(2, int(input()) - 2)")[0] == 1.0
    assert step(env, "1_D. Summands", "print(2, 2)")[1] == "wrong_answer"
    copy = pickle.loads(pickle.dumps(env))
    assert step(copy, "1_D. Summands", "print(3, 2)")[0] == 1.0
    assert copy.fingerprint == env.fingerprint
    unordered = env_of("code_contests", checkers={"1_D. Summands": "whitespace"})
    assert step(unordered, "1_D. Summands", "print(2, 3)")[0] == 0.0
    included = env_of("code_contests", multi_answer="include")
    assert step(included, "1_D. Summands", "print('1\\n4')")[0] == 1.0


def test_unknown_checkers_are_explained():
    with pytest.raises(ValueError, match=r"problem in checkers: '1_D'.*There are 1_D\. Summands"):
        env_of("code_contests", checkers={"1_D": sums_to})
    with pytest.raises(ValueError, match="Unknown rule 'tokens'"):
        env_of("code_contests", checkers={"1_D. Summands": "tokens"})


def test_if_everything_is_excluded_the_error_says_why(tmp_path):
    flagged = contest_row("x", "?", [("1", "1")], multiple_answers=True)
    with pytest.raises(ValueError, match=r"2 problems were excluded.*x: several.*the row says so"):
        load(CodeContests, tmp_path, flagged, CONTEST_ROWS[4])


SEVERAL_ANSWERS = [
    "If there are multiple answers, print any of them.",
    "If several solutions exist, you may output any.",
    "If there is more than one way, output an arbitrary one.",
    "If there are many solutions, choose any of them.",
    "If there are several correct answers, you may choose any of them.",
    "If the answer is not unique, print any.",
    "In case of several optimal routes, any can be printed.",
    "If multiple valid placements exist, any of them can be printed.",
    "If there are multiple solutions, any of them will be considered correct.",
    "If there are several suitable plans, any one of them may be output.",
    "When more than one answer is possible, any is acceptable.",
    "If multiple solutions exist, any one will be accepted.",
    "If there are several answers, print whichever you like.",
    "It is possible that there are several answers. You may print any one of those.",
    "Print any valid sequence.",
    "Print one possible sequence.",
    "Output one of the possible arrangements.",
    "Print a valid coloring of the edges.",
    "Find any suitable permutation and print it.",
    "Find any perfect coloring, or report that there is none.",
    "Otherwise, print any suitable value of d.",
    "Any correct answer will be accepted.",
    "All valid answers are accepted.",
    "Any of the solutions is acceptable.",
    "The checker accepts any valid plan.",
    "Answers are checked by a special judge.",
    "There may be multiple accepted outputs.",
    "Your answer will be considered correct if your graph has n edges.",
    "Output the edges in any order.",
    "Print the numbers in arbitrary order.",
    "Print the edges that you add, in any order.",
    "You can print the lines in any order.",
    "The edges can be printed in any order.",
    "Edges can be printed in any order; vertices of the edge can also be printed in any order.",
    "The indices may be output in an arbitrary order.",
    "The numbers of the points can be given out in any order.",
    "The vertices could be listed, separated by spaces, in arbitrary order.",
    "The order in which you print the edges does not matter.",
    "The order in which the words are printed can be arbitrary.",
    "The order of the numbers in the output is not important.",
    "\n\nOutput\n\nOn the second line write the points of the square (in any order).\n\nExamples",
    "\n\nOutput\n\nThe k indices. The order of the indices doesn't matter.\n\nNote\n\nNone.",
    "\n\n-----Output-----\n\nIf there are several such strings, you may choose any of them.",
]
ONE_ANSWER = [
    "You may perform the operation any number of times. Print the minimum.",
    "Perform several operations. In one operation, choose any element. Print the minimum.",
    "Choose any index i and print the sum.",
    "A permutation has n distinct integers in arbitrary order. Print their sum.",
    "If there are several such vertices, select the one with the smallest number.",
    "If there are several identical minima, he can choose any of them.",
    "If there are several such elements, you can choose any of them. Print the maximum.",
    "If several types are the most frequent, he can choose any of them. Print YES or NO.",
    "If there are multiple cities with that value, any of them can be visited. Print the toll.",
    "If there are multiple answers, print the lexicographically smallest.",
    "If there are several answers, print the smallest one of them.",
    "There may be multiple answers; print the smallest.",
    "If there are several optimal variants, Bob chooses the one that is the fastest.",
    "You can print each letter in any case.",
    "You may print every letter in any case you want (upper or lower).",
    "Each test contains multiple test cases. Print one integer.",
    "You are given several strings. Print YES if any of them contains the letter a.",
    "Print the number of ways to get from any city to any other.",
    "Print the minimum number of days if the cities can be visited in any order.",
    "Print the largest sum when the strings can be joined in any order.",
    "Your answer is considered correct if its absolute or relative error is at most 1e-6.",
    "Find the number of pairs such that any path goes through a and b (in any order).",
    "You can delete the vertices in any order. Print the maximum.",
    "You can rearrange the strings in any order.",
    "The input has a list of integers in arbitrary order.",
    "The edges may be listed in the input in any order.",
    "The edges are given in any order. Print the diameter.",
    "Two ways are different if their sets differ; the order does not matter. Print their number.",
    "It can be shown that the answer is unique.",
    "Do not print any extra spaces.",
    "Print YES if all are correct.",
    "Each of the ways is considered different.",
    "All sequences are considered distinct if they differ somewhere.",
    "Any permutation of the cards is allowed. Print the number of swaps.",
    "Check if any of them is valid.",
    "The machine accepts any coins.",
    "Any of them can be written as a sum of two squares.",
    "If it is impossible to get any valid sequence, print -1.",
    "Print -1 if there are no such pairs, else the number of different pairs.",
    "Any two answers are different if any of their elements differ. Print the number of them.",
    "\n\nInput\n\nThe edges, in any order.\n\nOutput\n\nPrint the length.\n\nNote\n\nIn any order.",
    "\n\nOutput\n\nPrint the number of moves.\n\nInput\n\nIf there are several such, take any.",
]


@pytest.mark.parametrize("statement", SEVERAL_ANSWERS)
def test_statements_that_allow_several_answers_are_recognized(statement):
    assert several_answers({}, f"You are given n. {statement}").startswith("the statement says")


@pytest.mark.parametrize("statement", ONE_ANSWER)
def test_statements_with_one_answer_are_not_taken_for_several(statement):
    assert several_answers({}, f"You are given n. {statement}") == ""


@pytest.mark.parametrize(
    ("statement", "expected"),
    [
        ("Print n.", Whitespace()),
        ("Print each letter in any case.", IgnoreCase(Whitespace())),
        ("Print YES or NO (in any register).", Whitespace()),
        ("its absolute or relative error doesn't exceed 10^{-9}.", Floats(1e-9, 1e-9)),
        ("absolute or relative inaccuracy does not exceed 10 - 6.", Floats(1e-6, 1e-6)),
        ("The absolute error must be at most 0.001.", Floats(1e-3, 0.0)),
        ("with a relative error of at most 1e-7", Floats(0.0, 1e-7)),
        ("The relative or absolute error should be less than 10−5.", Floats(1e-5, 1e-5)),
        ("a small absolute or relative error is allowed.", Floats(1e-6, 1e-6)),
        ("It may differ from the jury's by at most 1e-4.", Floats(1e-4, 0.0)),
        ("Print it with an accuracy of at least 0.01.", Floats(1e-2, 0.0)),
        ("Minimize the absolute difference of two of the 10 numbers.", Whitespace()),
        ("Print the number of errors in 10 tests.", Whitespace()),
    ],
)
def test_the_rule_is_the_one_that_the_statement_asks_for(statement, expected):
    if "register" in statement:
        expected = IgnoreCase(expected)
    assert rule_of(statement) == expected


def test_the_tolerance_of_a_statement_decides():
    env = env_of("code_contests")
    rounded = "print(round(int(input()) ** 0.5, {}))"
    assert tolerance_of(CONTEST_ROWS[2]["description"]) == Floats(1e-4, 1e-4)
    assert step(env, "1_C. Root", rounded.format(4))[0] == 1.0
    assert step(env, "1_C. Root", rounded.format(3))[1] == "wrong_answer"
    exact = env_of("code_contests", comparison=Lines())
    assert step(exact, "1_C. Root", rounded.format(4))[1] == "wrong_answer"


def test_the_prompt_states_the_limits_of_each_problem(tmp_path):
    rows = [
        contest_row("own", "?", [("", "")]),
        contest_row("large", "?", [("", "")], memory_limit_bytes=1024 << 20),
        contest_row("none", "?", [("", "")], time_limit=None, memory_limit_bytes=0),
    ]
    env = load(CodeContests, tmp_path, *rows)
    asked = {
        id_: re.search(r"test: (\S+) s. Memory limit: (\S+) MB", env.problem(id_).prompt).groups()
        for id_ in env.problem_ids
    }
    # 1.5 s times 3; at least 512 MB
    assert asked == {"own": ("4.5", "512"), "large": ("4.5", "1024"), "none": ("6", "512")}
    for id_, (seconds, megabytes) in asked.items():
        limits = env.limits_of(env.problem(id_))
        assert limits.cpu_seconds == float(seconds)
        assert limits.memory_bytes == int(megabytes) << 20
    fixed = load(CodeContests, tmp_path, *rows, time_limit_seconds=2, memory_limit_mb=64)
    assert {fixed.limits_of(fixed.problem(id_)) for id_ in asked} == {
        fixed.limits_of(fixed.problem("own"))
    }
    assert "test: 2 s. Memory limit: 64 MB" in fixed.problem("large").prompt


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"time_limit_factor": 0}, "time_limit_factor must be a positive number, got 0"),
        ({"memory_limit_mb": 0}, "memory_limit_mb must be a positive number, got 0"),
        ({"multi_answer": "any"}, "multi_answer must be 'exclude' or 'include', got 'any'"),
        ({"comparison": "tokens"}, "Unknown rule 'tokens'"),
    ],
)
def test_bad_options_of_code_contests_are_explained(options, message):
    with pytest.raises(ValueError, match=message):
        env_of("code_contests", **options)


def test_a_programs_own_limit_is_enforced(tmp_path):
    slow = contest_row("slow", "?", [("", "")], time_limit={"seconds": 0, "nanos": 100_000_000})
    env = load(CodeContests, tmp_path, slow)
    _, status, feedback, _ = step(env, "slow", "while True: pass")
    assert status == "time_limit"
    assert "within 0.3 s" in feedback


def test_generated_tests_may_be_left_out():
    with_them, without = env_of("code_contests"), env_of("code_contests", generated_tests=False)
    counts = [len(env.tests(env.problem("1_A. Doubling"))) for env in (with_them, without)]
    assert counts == [4, 2]
    assert [test.public for test in with_them.tests(with_them.problem("1_A. Doubling"))] == [
        True,
        False,
        False,
        False,
    ]


def test_the_other_layouts_of_code_contests(tmp_path):
    fusion = {
        "id": "fusion-1",
        "question_content": "Print n.",
        "tests": [{"input": "1", "output": "1", "testtype": "stdin"}],
        "labels": {"name": "n", "difficulty": "A"},
    }
    forces = {
        "problem_id": "1A",
        "title": "T",
        "description": "You have n.",
        "input": "One integer.",
        "output": "Print n.",
        "note": None,
        "interaction": None,
        "examples": [{"input": "3", "output": "3"}],
        "time_limit_ms": 2000,
        "memory_limit_mb": 256,
    }
    env = load(
        CodeContests,
        tmp_path,
        row("lcb-1", "Print n.", [("1", "1")], packed_tests([("2", "2")], "stdin")),
        row("call", "Return n.", [("1", "1")], function="f"),
        fusion,
        forces,
        forces | {"problem_id": "1B", "interaction": "Ask and be answered."},
    )
    assert env.problem_ids == ("lcb-1", "fusion-1", "1A")
    assert env.excluded == {
        "call": "it asks for a function, not a program",
        "1B": "it is interactive",
    }
    assert {step(env, id_, "print(input())")[0] for id_ in env.problem_ids} == {1.0}
    assert "Input\n\nOne integer.\n\nOutput\n\nPrint n." in env.problem("1A").prompt
    assert env.limits_of(env.problem("1A")).cpu_seconds == 6.0  # 2 s times 3


class Malicious:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


def test_packed_tests_that_are_not_to_be_trusted_are_refused_by_their_line(tmp_path, monkeypatch):
    harm = tmp_path / "harm"
    with pytest.raises(ValueError, match=r"rows\.jsonl, line 1: the pickle .* is refused"):
        load(CodeContests, tmp_path, row("p", "?", [("1", "1")], packed(Malicious(harm))))
    assert not harm.exists()
    bomb = packed_tests([("1" * (1 << 22), "1")], "stdin")
    assert len(bomb) < 10_000
    monkeypatch.setattr(code_contests, "MAX_DECOMPRESSED", 1 << 20)
    with pytest.raises(ValueError, match=r"rows\.jsonl, line 1: .* more than 1 MB and is refused"):
        load(CodeContests, tmp_path, row("p", "?", [("1", "1")], bomb))


def test_a_folder_named_as_on_the_hub_has_its_own_splits(tmp_path):
    for split in ("train", "valid", "test"):
        rows = [contest_row(f"{split}-{i}", "?", [("1", "1")]) for i in range(3)]
        write_rows(tmp_path / f"{split}-00000-of-00001.jsonl", rows)
    ids = {
        split: set(CodeContests(tmp_path, split=split).problem_ids)
        for split in ("all", "train", "test")
    }
    assert ids["train"] == {"train-0", "train-1", "train-2"}
    assert ids["test"] == {"test-0", "test-1", "test-2"}
    assert len(ids["all"]) == 9


def test_problems_of_the_same_name_are_told_apart(tmp_path):
    rows = [contest_row("sum", statement, [("1", "1")]) for statement in ("Add.", "Sum up.")]
    first, second = load(CodeContests, tmp_path, *rows).problem_ids
    assert first == "sum"
    assert re.fullmatch(r"sum \([0-9a-f]{8}\)", second)


# HumanEval ----------------------------------------------------------------------------------------


def test_an_assertion_is_public_where_the_docstring_has_it_as_an_example():
    env = env_of("humaneval")
    public = {
        id_: [test.input for test in env.tests(env.problem(id_)) if test.public]
        for id_ in env.problem_ids
    }
    assert public == {
        "Ours/0": ["assert candidate([1, 2]) == 3"],
        "Ours/1": [],
        "Ours/2": ["assert is_small(3) is True"],
    }


def test_what_stands_above_the_function_is_in_place():
    env = env_of("humaneval")
    bare = "def add_up(numbers: List[int], start=0):\n    return start + sum(numbers)"
    assert step(env, "Ours/0", bare)[0] == 1.0
    future = "from __future__ import annotations\nfrom __future__ import (\n    division,\n)\n"
    assert step(env, "Ours/0", future + bare)[0] == 1.0
    by_helper = "def shift_back(text):\n    a = ''.join(map(chr, range(32, 123)))\n"
    by_helper += "    return ''.join(a[shift(a).index(c)] for c in text)"
    assert step(env, "Ours/1", by_helper)[0] == 1.0
    # The tests have their own helper: a program that replaces it does not pass with the wrong one.
    cheat = "def shift(text):\n    return text\ndef shift_back(text):\n    return text"
    assert step(env, "Ours/1", cheat)[1] == "wrong_answer"


def test_only_what_is_missing_is_put_before_the_code():
    above = statements_above(HUMANEVAL_ROWS[0]["prompt"], "add_up", "here")
    assert completed("x = 1\n", above) == "from typing import List\nx = 1\n"
    for own in ("from typing import List, Any\n", "import typing\nList = list\n"):
        assert completed(own, above) == own
    assert completed("'''doc'''\nfrom __future__ import annotations\nx = 1\n", above) == (
        "'''doc'''\nfrom __future__ import annotations\nfrom typing import List\nx = 1\n"
    )


@given(st.text() | st.from_regex(r"(from|import|def|class|\s|\(|_|x|,|\n){0,40}", fullmatch=True))
def test_completing_keeps_every_line_of_any_code(code):
    above = statements_above(HUMANEVAL_ROWS[0]["prompt"], "add_up", "here")
    program = completed(code, above)
    assert (
        program.replace("from typing import List\n", "", 1).replace("\n", "")
        == code.replace("\n", "")
        or program == code
    )


def test_a_shown_assertion_is_told_with_what_the_call_gave():
    env = env_of("humaneval")
    _, status, feedback, details = step(env, "Ours/0", "def add_up(numbers, start=0): return 4")
    assert status == "wrong_answer"
    assert feedback == (
        "Test Case 1: Wrong Answer\n\nassert candidate([1, 2]) == 3\nAssertionError\n"
        "add_up([1, 2]) gave 4"
    )
    assert (details["failed_test"], details["failed_test_shown"]) == (1, True)
    _, _, feedback, details = step(env, "Ours/0", "def add_up(numbers, start=0): return 3")
    assert feedback == "Hidden Test Case 2: Wrong Answer"
    assert (details["failed_test"], details["failed_test_shown"]) == (2, False)
    every = env_of("humaneval", feedback_tests="all", stop_at_first_failure=False)
    feedback = step(every, "Ours/0", "def add_up(numbers, start=0): return 3")[2]
    assert "AssertionError: twice the same\nadd_up([4, 4]) gave 3" in feedback


@pytest.mark.parametrize("name", ["humaneval", "mbpp"])
def test_a_missing_function_is_named(name):
    env = env_of(name)
    _, status, feedback, _ = step(env, env.problem_ids[0], "def other(): pass")
    function = env.problem(env.problem_ids[0]).metadata["function"]
    assert status == "runtime_error"
    assert f"The program defines no function {function}." in feedback


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"test": "def check(f:"}, "the test must be Python code"),
        ({"test": "assert f(1)"}, r"must define check\(candidate\)"),
        ({"prompt": "def f("}, "the prompt, with a body, must be Python code"),
        ({"entry_point": "other"}, "the prompt must define its entry_point, 'other'"),
        ({"task_id": 3}, "whose 'task_id' is a text"),
    ],
)
def test_unfit_humaneval_rows_are_refused_when_they_are_loaded(tmp_path, change, message):
    with pytest.raises(ValueError, match=rf"line 2: .*{message}"):
        load(HumanEval, tmp_path, HUMANEVAL_ROWS[1], HUMANEVAL_ROWS[0] | change)


def test_quixbugs_rows_ask_for_the_function_of_their_docstring(tmp_path):
    env = load(HumanEval, tmp_path, QUIXBUGS_ROW)
    prompt = env.problem("reverse").prompt
    assert 'import itertools\ndef reverse(node):\n    """\n    Reverse\n' in prompt
    assert [test.input for test in env.tests(env.problem("reverse"))] == ["test1()", "test2()"]
    assert step(env, "reverse", QUIXBUGS_ROW["solution"])[0] == 1.0
    assert step(env, "reverse", QUIXBUGS_ROW["buggy_program"])[0] == 0.0


ADD_UP = HUMANEVAL_ROWS[0]


@pytest.mark.parametrize(
    ("change", "tests"),
    [
        (
            {"test": "x = [1, 2]\nassert add_up(x) == 3\nassert add_up(x, 5) == 8\n"},
            ["assert add_up(x) == 3", "assert add_up(x, 5) == 8"],
        ),
        (
            {"test": "x = [1]\nassert add_up(x) == 1\nx = []\nassert add_up(x, 5) == 5\n"},
            ["assert add_up(x) == 1\nx = []\nassert add_up(x, 5) == 5"],
        ),
        (
            {"test": ["assert add_up([1, 2]) == 3", "assert add_up([]) == 0"]},
            ["assert add_up([1, 2]) == 3", "assert add_up([]) == 0"],
        ),
        ({"test": NO_VALUE, "tests": ["assert add_up([5]) == 5"]}, ["assert add_up([5]) == 5"]),
        (
            {"test": '"""Tests."""\ndef test_it():\n    assert add_up([1]) == 1\n'},
            ["test_it()"],
        ),
        (
            {
                "test": "def run():\n    assert add_up([1]) == 1\n"
                "if __name__ == '__main__':\n    run()\n    for n in [1]:\n        run()\n"
            },
            ["run()", "for n in [1]:\n    run()"],
        ),
        ({"test": "for n in range(3):\n    assert add_up([n]) == n"}, None),
        ({"task_id": NO_VALUE, "name": "Ours/0", "test": "assert add_up([]) == 0"}, None),
    ],
)
def test_tests_are_read_in_many_forms(tmp_path, change, tests):
    changed = {name: value for name, value in (ADD_UP | change).items() if value is not NO_VALUE}
    env = load(HumanEval, tmp_path, changed)
    read = [test.input for test in env.tests(env.problem("Ours/0"))]
    assert read == ([changed["test"]] if tests is None else tests)
    assert step(env, "Ours/0", HUMANEVAL_SOLUTIONS["Ours/0"])[0] == 1.0
    wrong = "def add_up(numbers, start=0):\n    return sum(numbers) - start - 1"
    assert step(env, "Ours/0", wrong)[1] == "wrong_answer"


@pytest.mark.parametrize("text", [None, "Add up the \\N numbers."])
def test_a_declaration_stands_for_the_head_of_the_function(tmp_path, text):
    declaration = "from typing import List\n\n\ndef add_up(numbers: List[int], start=0) -> int:\n"
    changed = {name: value for name, value in ADD_UP.items() if name != "prompt"}
    changed |= {"declaration": declaration} | ({} if text is None else {"prompt": text})
    env = load(HumanEval, tmp_path, changed)
    assert (text or declaration).replace("\\", "\\\\").strip() in env.problem("Ours/0").prompt
    assert step(env, "Ours/0", HUMANEVAL_SOLUTIONS["Ours/0"])[0] == 1.0


# MBPP ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "problem_id", "solution", "demo"),
    [
        ("humaneval", "Ours/0", HUMANEVAL_SOLUTIONS["Ours/0"], "print(add_up([1, 2]))"),
        ("humaneval", "Ours/2", HUMANEVAL_SOLUTIONS["Ours/2"], "assert is_small(3)"),
        ("mbpp", "1", MBPP_SOLUTIONS["1"], "assert double(2) == 4"),
        ("mbpp", "3", MBPP_SOLUTIONS["3"], "assert total(Pair(1, 2)) == 3"),
        ("code_contests", "1_A. Doubling", CONTEST_SOLUTIONS["1_A. Doubling"], "print(2 * 21)"),
    ],
)
def test_a_demonstration_after_the_solution_is_not_the_answer(name, problem_id, solution, demo):
    env = env_of(name)
    answer = f"{block(solution)}\nExample:\n{block(demo)}\nIt prints\n```\n3\n```\n"
    verdict = env.judge(env.problem(problem_id), answer)
    assert verdict.solved, verdict.feedback
    assert verdict.details["judged_blocks"] == [1]


def test_a_class_in_a_block_of_its_own_belongs_to_the_program():
    env = env_of("mbpp")
    class_, _, functions = MBPP_SOLUTIONS["3"].partition("def origin")
    answer = f"{block(class_)}\nThen:\n{block('def origin' + functions)}"
    verdict = env.judge(env.problem("3"), answer)
    assert (verdict.solved, verdict.details["judged_blocks"]) == (True, [1, 2])


def test_the_prompt_shows_so_many_assertions_and_hides_the_rest():
    for shown in (1, 2, 3):
        env = env_of("mbpp", shown_tests=shown)
        problem = env.problem("1")
        assertions = MBPP_ROWS[0]["test_list"]
        assert [each in problem.prompt for each in assertions] == [i < shown for i in range(3)]
        assert [test.public for test in env.tests(problem)] == [i < shown for i in range(3)]
    assert len(env_of("mbpp", challenge_tests=True).tests(problem)) == 3
    env = env_of("mbpp", challenge_tests=True)
    assert len(env.tests(env.problem("1"))) == 4


def test_a_function_that_remembers_its_calls_fails_all_tests_together():
    env = env_of("mbpp")
    code = "seen = []\ndef double(n):\n    seen.append(n)\n    return 2 * n if seen == [n] else 0"
    reward, status, feedback, details = step(env, "1", code)
    assert (reward, status) == (0.0, "wrong_answer")
    assert feedback.startswith("Wrong Answer\nEach test passes by itself")
    assert (details["tests_passed"], details["passed_together"]) == (3, False)


def test_classes_of_the_program_and_imports_of_the_tests_are_found():
    env = env_of("mbpp")
    functions = {id_: env.problem(id_).metadata["function"] for id_ in env.problem_ids}
    assert functions == {"1": "double", "2": "halve", "3": "total"}
    assert env.tests(env.problem("3"))[0].functions == ("Pair", "origin", "total")
    assert env.tests(env.problem("2"))[0].functions == ("halve",)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"test_list": []}, "test_list is empty"),
        ({"test_list": "assert f(1)"}, "test_list must be a list of texts"),
        ({"test_list": ["assert True"]}, "test 1 must call a function of the program"),
        ({"test_list": ["assert halve(1) =="]}, "test 1 must be Python code"),
        ({"test_imports": ["import"]}, "test_setup_code must be Python code"),
        ({"prompt": " "}, "'text' or 'prompt' is a text"),
        ({"task_id": [1]}, "task_id must be a number or a text"),
    ],
)
def test_unfit_mbpp_rows_are_refused_when_they_are_loaded(tmp_path, change, message):
    with pytest.raises(ValueError, match=rf"line 2: .*{message}"):
        load(MBPP, tmp_path, MBPP_ROWS[0], MBPP_ROWS[1] | change)


BUILTIN_NAME = MBPP_ROWS[0] | {
    "task_id": 126,
    "code": "def sum(a, b):\n    return a * b",
    "test_list": ["assert sum(2, 3) == 6", "assert max(sum(1, 1), 0) == 1"],
}
TREE = MBPP_ROWS[0] | {
    "task_id": 367,
    "code": "class Node:\n    def __init__(self, n):\n        self.n, self.left = n, None\n"
    "def depth(node):\n    return 0 if node is None else 1 + depth(node.left)",
    "test_setup_code": "root = Node(1)\r\nroot.left = Node(2)",
    "test_list": ["assert depth(root) == 2", "assert depth(root.left) == 1"],
}
PATCHED = MBPP_ROWS[0] | {
    "task_id": 9,
    "test_list": ["import random\nrandom.random = double\nassert double(1) == 2"],
}


def test_mbpp_takes_functions_named_like_builtins_and_setup_code_that_needs_the_program(tmp_path):
    env = load(MBPP, tmp_path, BUILTIN_NAME, TREE)
    for each in (BUILTIN_NAME, TREE):
        problem = env.problem(str(each["task_id"]))
        assert env.judge_code(problem, each["code"]).solved
        assert not env.judge_code(problem, "def other():\n    pass").solved
    assert "root = Node(1)\nroot.left = Node(2)\nassert depth" in env.problem("367").prompt


def test_mbpp_leaves_out_by_name_what_no_sandbox_can_judge(tmp_path):
    env = load(MBPP, tmp_path, MBPP_ROWS[0], PATCHED)
    assert list(env.problem_ids) == ["1"]
    assert list(env.excluded) == ["9"]
    assert "random.random is changed in the tests' process alone" in env.excluded["9"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"shown_tests": 0}, "shown_tests must be a positive integer, got 0"),
        ({"config": "small"}, "config must be one of full, sanitized; got 'small'"),
    ],
)
def test_bad_options_of_mbpp_are_explained(options, message):
    with pytest.raises(ValueError, match=message):
        env_of("mbpp", **options)
