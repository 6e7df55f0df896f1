"""Verdicts on programs written by models, against what plain CPython said of them."""

import json
from pathlib import Path

import pytest
from lcb_rows import block

from sandbox import SandboxError
from vpd_envs.livecodebench import LiveCodeBench

DATA = Path(__file__).parents[3] / "shared" / "data" / "code"
# Right answers that LiveCodeBench's own comparison calls wrong: they differ in line breaks.
LINE_BREAKS = {"1325_D", "923_C"}


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", ["livecodebench_rows", "codecontests_lcb_layout", "judge_edge_cases"]
)
def test_all_stored_programs_get_the_expected_verdict(name):
    path = DATA / f"{name}.jsonl"
    if not path.exists():
        pytest.skip(f"needs {path.name}")
    env = LiveCodeBench(path, sandbox="local", time_limit_seconds=8.0)
    solutions = [
        (row["question_id"], block(solution["code"]), solution["expected_pass"])
        for row in map(json.loads, path.read_text().splitlines())
        for solution in row["solutions"]
        if "expected_pass" in solution
    ]
    verdicts = env.judge_batch(
        [env.problem(id_) for id_, _, _ in solutions], [answer for _, answer, _ in solutions]
    )
    disagreements = [
        (id_, expected, verdict)
        for (id_, _, expected), verdict in zip(solutions, verdicts, strict=True)
        if isinstance(verdict, SandboxError) or verdict.solved is not expected
    ]
    assert {id_ for id_, _, _ in disagreements} <= LINE_BREAKS, disagreements
    assert len(solutions) >= 2
