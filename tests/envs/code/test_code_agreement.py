"""Verdicts of the environments on stored programs, against what plain CPython said of them."""

import json
from pathlib import Path

import pytest
from lcb_rows import block

from sandbox import SandboxError
from vpd_envs.code.code_contests import CodeContests
from vpd_envs.code.contest_rules import several_answers, tolerance_of
from vpd_envs.code.humaneval import HumanEval
from vpd_envs.code.livecodebench import LiveCodeBench
from vpd_envs.code.mbpp import MBPP

DATA = Path(__file__).parents[4] / "shared" / "data" / "code"
# The verdicts were measured with 8; no program here takes between 2 and 8.
SECONDS = 5.0
# Right answers that LiveCodeBench's own comparison calls wrong: they differ in line breaks.
LINE_BREAKS = {"1325_D", "923_C"}


def rows_of(name):
    path = DATA / f"{name}.jsonl"
    if not path.exists():
        pytest.skip(f"needs {path.name}")
    return path, [json.loads(line) for line in path.read_text().splitlines()]


def disagreements(env, programs):
    """The ids of the programs, (id, code, does it pass?), that get another verdict, with it."""
    programs = list(programs)
    assert len(programs) >= 2
    verdicts = env.judge_batch(
        [env.problem(id_) for id_, _, _ in programs], [block(code) for _, code, _ in programs]
    )
    return {
        id_: verdict
        for (id_, _, passes), verdict in zip(programs, verdicts, strict=True)
        if isinstance(verdict, SandboxError) or verdict.solved is not passes
    }


def stored_programs(rows, id_field="question_id"):
    for row in rows:
        for solution in row["solutions"]:
            if "expected_pass" in solution:
                yield row[id_field], solution["code"], solution["expected_pass"]


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", ["livecodebench_rows", "codecontests_lcb_layout", "judge_edge_cases"]
)
def test_livecodebench_gives_all_stored_programs_their_verdict(name):
    path, rows = rows_of(name)
    env = LiveCodeBench(path, sandbox="local", time_limit_seconds=SECONDS)
    wrong = disagreements(env, stored_programs(rows))
    assert wrong.keys() <= LINE_BREAKS, wrong


@pytest.mark.slow
@pytest.mark.parametrize("name", ["codecontests_lcb_layout", "codecontests_public_rows"])
def test_code_contests_gives_all_stored_programs_their_verdict(name):
    path, rows = rows_of(name)
    env = CodeContests(path, sandbox="local", time_limit_seconds=SECONDS, multi_answer="include")
    assert not disagreements(env, stored_programs(rows))


@pytest.mark.slow
def test_of_problems_with_several_answers_those_with_a_tolerance_are_judged_right():
    path, rows = rows_of("multi_answer_codecontests")
    env = CodeContests(path, sandbox="local", time_limit_seconds=SECONDS)
    asked = [row for row in rows if row["question_id"] in env.problem_ids]
    assert len(asked) + len(env.excluded) == len(rows)
    programs = [(r["question_id"], s["code"], True) for r in asked for s in r["solutions"]]
    assert not disagreements(env, programs)


@pytest.mark.slow
def test_humanevalpack_tells_canonical_from_buggy_solutions():
    path, rows = rows_of("humanevalpack_python")
    env = HumanEval(path, sandbox="local", time_limit_seconds=3.0)  # the buggy ones loop for ever
    programs = [
        (row["task_id"], row["declaration"] + row[f"{kind}_solution"], row[f"{kind}_passes"])
        for row in rows
        for kind in ("canonical", "buggy")
    ]
    assert not disagreements(env, programs)


@pytest.mark.slow
def test_quixbugs_tells_right_from_buggy_programs():
    path, rows = rows_of("quixbugs_python")
    env = HumanEval(path, sandbox="local", time_limit_seconds=30.0)  # one takes seconds
    programs = [
        (row["name"], row[code], row[passes])
        for row in rows
        for code, passes in (("solution", "solution_passes"), ("buggy_program", "buggy_passes"))
    ]
    assert not disagreements(env, programs)


@pytest.mark.slow
def test_humanevalplus_gives_all_stored_programs_their_verdict():
    pytest.importorskip("numpy")
    path, rows = rows_of("humanevalplus_with_solutions")
    env = HumanEval(path, sandbox="local", time_limit_seconds=60.0, memory_limit_mb=2048)
    programs = [(r["task_id"], r["prompt"] + r["canonical_solution"], True) for r in rows]
    assert not disagreements(env, programs + list(stored_programs(rows, "task_id")))


@pytest.mark.slow
def test_mbpp_accepts_all_reference_solutions():
    path, rows = rows_of("mbpp")
    env = MBPP(path, sandbox="local", challenge_tests=True)
    assert not disagreements(env, ((str(row["task_id"]), row["code"], True) for row in rows))


# What an environment makes of each file: (problems asked, problems left out).
ASKED = {
    "codecontests_lcb_layout": (CodeContests, 36, {"1294_C", "1325_D", "20_C"}),
    "codecontests_public_rows": (
        CodeContests,
        13,
        {"1594_C", "1613_B", "1615_D", "1618_E", "1619_C", "1622_E"},
    ),
    "codecontests_sandboxfusion": (CodeContests, 8, set()),
    "multi_answer_codecontests": (
        CodeContests,
        3,  # with a tolerance
        {"963_B", "925_C", "576_A", "749_B", "1041_E", "507_E", "633_C"},
    ),
    "humanevalpack_python": (HumanEval, 60, set()),
    "humanevalplus_with_solutions": (HumanEval, 25, set()),
    "judge_edge_cases": (LiveCodeBench, 2, set()),
    "livecodebench_rows": (LiveCodeBench, 61, set()),
    "mbpp": (MBPP, 100, set()),
    "quixbugs_python": (HumanEval, 15, set()),
}


@pytest.mark.parametrize("name", ASKED)
def test_every_file_of_the_shared_data_loads(name):
    family, asked, left_out = ASKED[name]
    path, rows = rows_of(name)
    env = family(path, sandbox="local")
    assert len(env.problem_ids) == asked == len(rows) - len(left_out)
    if family is CodeContests:
        assert set(env.excluded) == left_out
    for id_ in env.problem_ids:
        assert env.tests(env.problem(id_))


def test_problems_of_which_all_have_several_answers_are_all_excluded_by_name():
    path, rows = rows_of("multi_answer_codeforces")
    with pytest.raises(ValueError, match=r"11 problems were excluded.*print any.*multi_answer="):
        CodeContests(path, sandbox="local")
    env = CodeContests(path, sandbox="local", multi_answer="include")
    assert env.problem_ids == tuple(row["problem_id"] for row in rows)


def test_statements_tell_most_problems_with_several_answers_and_no_others():
    """Without the flag of the rows: 749_B asks for lines in any order without a word about it."""
    named = {}
    for name, (family, _, _) in ASKED.items():
        if family is CodeContests:
            for row in rows_of(name)[1]:
                statement = row["question_content"]
                id_ = row.get("question_id") or row["id"]
                if tolerance_of(statement) is None and several_answers({}, statement):
                    named.setdefault(name, set()).add(id_)
    expected = {name: left_out - {"749_B"} for name, (_, _, left_out) in ASKED.items() if left_out}
    assert named == expected
