"""Programs on which judges were wrong, as people reported them. Each stands for a kind.

The reports are read where they are present; programs of our own of the same kinds are in the tests
of what they are about.
"""

import json
from decimal import Context
from pathlib import Path

import pytest
from lcb_rows import block, row, write_rows

from sandbox import SandboxError, shared
from vpd_envs.code.livecodebench import LiveCodeBench

REPORTED = Path(__file__).parents[4] / "shared" / "data" / "reported"
REPORTS = {
    report["id"]: report
    for path in sorted(REPORTED.glob("C*.jsonl"))
    for report in map(json.loads, path.read_text().splitlines())
}
CAGES = [
    pytest.param("docker", marks=pytest.mark.docker),
    pytest.param("bubblewrap", marks=pytest.mark.bubblewrap),
    "local",
]
NEW_PYTHON = {"C9-f"}  # needs 3.12, which only an image of our own is sure to have
# Where the report only describes it. `str` would refuse so many digits.
EXPECTED = {"C3-print": format(Context(prec=7000).power(2, 20000), "f")}


def accepts_both(output, expected, input):
    """For C8-many: 2 and 9 are right."""
    return output.split() in (["2"], ["9"])


# What a user says of a problem that is not to be compared as LiveCodeBench does it.
OPTIONS = {
    "C7-prec": {"comparison": "floats"},
    "C8-many": {"checkers": {"C8-many": accepts_both}},
}


def row_of(report):
    """The report as a row in LiveCodeBench's layout."""
    given = report["input"]
    if "func_name" in given:
        test = tuple(given["test"])
        return row(report["id"], "?", [test], function=given["func_name"], starter_code="class ...")
    expected = EXPECTED.get(report["id"], given["expected_output"])
    return row(report["id"], "?", [(given["stdin"], expected)])


def box_of(name):
    try:
        return shared(name)
    except SandboxError as error:
        pytest.skip(str(error))


@pytest.mark.skipif(not REPORTS, reason="needs the reported inputs")
@pytest.mark.parametrize("cage", CAGES)
def test_every_reported_program_gets_its_verdict_in_every_cage(tmp_path, cage):
    box = box_of(cage)
    verdicts = {}
    for id_, report in REPORTS.items():
        if report["expected"] != 1.0 or (id_ in NEW_PYTHON and box.python_version == "3.11"):
            continue
        path = write_rows(tmp_path / f"{id_}.jsonl", [row_of(report)])
        env = LiveCodeBench(path, sandbox=box, **OPTIONS.get(id_, {}))
        answer = report["input"].get("answer") or block(report["input"]["code"])
        verdicts[id_] = env.judge(env.problem(id_), answer)
    wrong = {id_: each.feedback for id_, each in verdicts.items() if not each.solved}
    assert verdicts
    assert not wrong


@pytest.mark.docker
@pytest.mark.bubblewrap
@pytest.mark.skipif("C10-scipy" not in REPORTS, reason="needs the reported inputs")
def test_a_module_that_one_cage_lacks_is_lacking_in_all(tmp_path):
    report = REPORTS["C10-scipy"]
    path = write_rows(tmp_path / "rows.jsonl", [row_of(report)])
    verdicts = set()
    for name in ("docker", "bubblewrap", "local"):
        env = LiveCodeBench(path, sandbox=box_of(name))
        verdict = env.judge(env.problem(report["id"]), block(report["input"]["code"]))
        verdicts.add((verdict.reward, verdict.status))
    assert len(verdicts) == 1
