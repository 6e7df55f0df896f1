"""Loading LiveCodeBench's layout: selection, packed tests, and data that is not to be trusted."""

import base64
import http.server
import io
import json
import os
import pickle
import subprocess
import sys
import threading
import zlib
from typing import ClassVar

import pytest
from hypothesis import given
from hypothesis import strategies as st
from lcb_rows import FIXTURE, ROWS, block, listed, packed, packed_tests, row, write_rows

from sandbox.comparison import Floats, Json
from vpd_envs.code import livecodebench
from vpd_envs.code.livecodebench import LiveCodeBench, StoredTests, decoded


def load(tmp_path, *rows, **kwargs):
    return LiveCodeBench(write_rows(tmp_path / "rows.jsonl", rows), sandbox="local", **kwargs)


def ids(**kwargs):
    return set(LiveCodeBench(FIXTURE, sandbox="local", **kwargs).problem_ids)


def test_the_fixture_is_what_lcb_rows_writes():
    assert [json.loads(line) for line in FIXTURE.read_text().splitlines()] == ROWS


def test_a_file_a_json_list_and_a_folder_load_alike(tmp_path):
    whole = tmp_path / "rows.json"
    whole.write_text(json.dumps(ROWS))
    folder = tmp_path / "folder"
    folder.mkdir()
    write_rows(folder / "test.jsonl", ROWS[:2])
    write_rows(folder / "test2.jsonl", ROWS[2:])
    (folder / "README.md").write_text("not data")
    fingerprints = {LiveCodeBench(data).fingerprint for data in (FIXTURE, whole, str(folder))}
    assert len(fingerprints) == 1


def test_private_tests_are_read_in_every_encoding(tmp_path):
    pairs = [("5\n", "6\n")]
    plain = json.dumps(listed(pairs, "stdin"))
    encodings = [plain, packed(plain), packed(plain.encode())]
    for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
        data = zlib.compress(pickle.dumps(plain, protocol))
        encodings.append(base64.b64encode(data).decode())
    for private in encodings:
        env = load(tmp_path, row("p", "?", [("1\n", "2\n")], private))
        public, hidden = env.tests(env.problem("p"))
        assert (public.input, public.expected, public.public) == ("1\n", "2\n", True)
        assert (hidden.input, hidden.expected, hidden.public) == ("5\n", "6\n", False)


def test_splits_are_disjoint_complete_and_independent_of_the_other_problems(tmp_path):
    many = [row(f"p{i}", "?", [("1", "1")]) for i in range(200)]
    train = set(load(tmp_path, *many, split="train").problem_ids)
    test = set(load(tmp_path, *many, split="test").problem_ids)
    assert train | test == {f"p{i}" for i in range(200)}
    assert not train & test
    assert 20 <= len(test) <= 60  # 0.2 of 200, four standard deviations
    assert set(load(tmp_path, *many[:100], split="test").problem_ids) == test & {
        f"p{i}" for i in range(100)
    }
    assert set(load(tmp_path, *many, split="test", test_fraction=1.0).problem_ids) == train | test


def test_the_window_includes_its_start_and_excludes_its_end():
    assert ids(start_date="2025-02-01", end_date="2025-05-01") == {
        "mean",
        "running-max",
        "in-order",
    }
    assert ids(end_date="2025-01-01") == {"count-words"}
    assert ids(start_date="2025-05-01") == {"reverse-lines"}
    assert len(ids(max_problems=2)) == 2


def test_metadata_shows_the_task_but_no_test():
    env = LiveCodeBench(FIXTURE, sandbox="local")
    for problem_id in env.problem_ids:
        _, info = env.reset(options={"problem_id": problem_id})
        assert set(info["metadata"]) == {*livecodebench.SHOWN_FIELDS, "kind"}
    assert info["metadata"]["contest_date"] == "2024-12-31T00:00:00"


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"split": "dev"}, "split must be 'all', 'train' or 'test', got 'dev'"),
        ({"test_fraction": 2}, "test_fraction must be between 0 and 1, got 2"),
        ({"max_problems": 0}, "max_problems must be at least 1"),
        ({"start_date": "soon"}, "start_date must be an ISO date such as 2025-02-01, got 'soon'"),
        ({"start_date": "2025-02-01", "end_date": "2025-01-01"}, "must be before end_date"),
        ({"start_date": "2035-01-01"}, "No problem of .*problems.jsonl is left.*Widen"),
        ({"time_limit_seconds": 0}, "time_limit_seconds must be a positive number, got 0"),
        ({"memory_limit_mb": -1}, "memory_limit_mb must be a positive number, got -1"),
        ({"feedback_tests": "some"}, "feedback_tests must be one of none, public, half, all; got"),
        ({"max_decompressed_mb": 0}, "max_decompressed_mb must be a positive number, got 0"),
        ({"comparison": "float"}, "Unknown rule 'float'.*Did you mean 'floats'"),
        ({"checkers": {"mean": "same"}}, "Unknown rule 'same'"),
        ({"checkers": {"means": "floats"}}, "problem in checkers: 'means'. Did you mean 'mean'"),
        ({"release": "v6"}, "release must be one of release_v1, .*, release_v6; got 'v6'"),
    ],
)
def test_bad_arguments_are_explained(kwargs, message):
    with pytest.raises(ValueError, match=message):
        LiveCodeBench(FIXTURE, **kwargs)


def test_missing_and_empty_data_is_explained(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"There is no .*nowhere\.jsonl"):
        LiveCodeBench(tmp_path / "nowhere.jsonl")
    with pytest.raises(FileNotFoundError, match=r"has no file to read"):
        LiveCodeBench(tmp_path)
    (tmp_path / "empty.jsonl").write_text("\n")
    with pytest.raises(ValueError, match=r"empty\.jsonl is empty: expected rows"):
        LiveCodeBench(tmp_path / "empty.jsonl")


def test_a_truncated_file_names_its_line(tmp_path):
    text = FIXTURE.read_text()
    (tmp_path / "cut.jsonl").write_text(text[: len(text) // 2])
    with pytest.raises(ValueError, match=r"cut\.jsonl, line \d: the line .*must be JSON") as error:
        LiveCodeBench(tmp_path / "cut.jsonl")
    line = text[: len(text) // 2].count("\n") + 1
    assert f"line {line}:" in str(error.value)


def without(name):
    return {key: value for key, value in ROWS[0].items() if key != name}


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ([1], "line 2: expected a row, a JSON object; came list"),
        (
            {"prompt": "x", "answer": "y"},
            "a LiveCodeBench row.*'question_id', but the row has 'answer', 'prompt'",
        ),
        (without("starter_code"), "'starter_code' is missing"),
        (ROWS[1] | {"question_content": 3}, "'question_content' is a text; came int"),
        (ROWS[1] | {"metadata": "{"}, "metadata must be JSON"),
        (ROWS[1] | {"public_test_cases": "nope"}, "public_test_cases must be JSON"),
        (ROWS[1] | {"public_test_cases": "[1]"}, "must be a JSON list of objects"),
        (ROWS[1] | {"public_test_cases": '[{"input": "1"}]'}, "the texts 'input' and 'output'"),
        (
            ROWS[1] | {"public_test_cases": json.dumps(listed([("", "")], "file"))},
            "testtype must be 'stdin' or 'functional', got 'file'",
        ),
        (ROWS[2] | {"metadata": "{}"}, "functional tests need metadata with a 'func_name'"),
        (row("p", "?", [("{", "1")], function="f"), "an input line of a functional test"),
        (row("p", "?", [("1", "x")], function="f"), "the output of a functional test"),
        (row("p", "?", [], []), "has no test"),
        (ROWS[1] | {"private_test_cases": "?!"}, "must be a JSON list or base64, got '"),
        (ROWS[1] | {"private_test_cases": "[1"}, "private_test_cases must be JSON"),
        (ROWS[1] | {"private_test_cases": "aGVsbG8="}, "is no zlib data"),
        (ROWS[1] | {"private_test_cases": packed("no json")}, "private_test_cases must be JSON"),
        (
            ROWS[1]
            | {"private_test_cases": base64.b64encode(zlib.compress(b"x" * 99)[:-6]).decode()},
            "truncated: its zlib data ends early",
        ),
        (ROWS[0], "'plus-one' came more than once"),
    ],
)
def test_rows_of_another_format_are_explained(tmp_path, bad, message):
    with pytest.raises(ValueError, match=message) as error:
        load(tmp_path, ROWS[0], bad)
    if "more than once" not in message:
        assert "rows.jsonl, line 2" in str(error.value)


class Malicious:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


def test_a_malicious_pickle_is_refused_and_nothing_of_it_runs(tmp_path):
    harm = tmp_path / "harm"
    for thing in (
        Malicious(harm),
        ["[]", Malicious(harm)],
        {"a": "[]"},
        3,
        None,
        ["[]"],
        ("a", "b"),
    ):
        with pytest.raises(ValueError, match=r"line 1: the pickle .* is refused"):
            load(tmp_path, ROWS[0] | {"private_test_cases": packed(thing)})
    assert not harm.exists()


@pytest.mark.parametrize(
    "pickled",
    [b"", b".", b"\x80\x04", b"cos\nsystem\n.", b"\x8c\xff", b"r\xff\xff\xff\x7f.", b"V1\n"],
)
def test_broken_pickles_are_refused(tmp_path, pickled):
    private = base64.b64encode(zlib.compress(pickled)).decode()
    with pytest.raises(ValueError, match="line 1"):
        load(tmp_path, ROWS[0] | {"private_test_cases": private})


def test_a_decompression_bomb_is_refused_before_it_fills_the_memory(tmp_path):
    squeezed = io.BytesIO()
    packer = zlib.compressobj(9)
    for _ in range(64):
        squeezed.write(packer.compress(b" " * (1 << 20)))
    squeezed.write(packer.flush())
    bomb = ROWS[0] | {"private_test_cases": base64.b64encode(squeezed.getvalue()).decode()}
    assert len(bomb["private_test_cases"]) < 100_000
    with pytest.raises(ValueError, match=r"more than 32 MB and is refused.*max_decompressed_mb"):
        load(tmp_path, bomb, max_decompressed_mb=32)
    honest = ROWS[0] | {"private_test_cases": packed_tests([("1" * 2000, "")], "stdin")}
    with pytest.raises(ValueError, match=r"more than 0\.000976562 MB"):
        load(tmp_path, honest, max_decompressed_mb=0.0009765625)


def test_long_tests_are_decoded_when_first_needed(tmp_path, monkeypatch):
    monkeypatch.setattr(livecodebench, "CHECKED_AT_ONCE", 10)
    env = load(tmp_path, ROWS[0] | {"private_test_cases": packed(Malicious(tmp_path / "harm"))})
    env.reset(seed=0)
    with pytest.raises(ValueError, match=r"rows\.jsonl, line 1: the pickle .* is refused"):
        env.step(block("print(1)"))
    assert not (tmp_path / "harm").exists()


def test_a_release_has_its_files_and_those_before_it(tmp_path):
    for number, name in enumerate(livecodebench.FILES.values(), start=1):
        write_rows(tmp_path / name, [row(f"p{number}", "?", [("1", "1")])])
    for number, release in enumerate(livecodebench.FILES, start=1):
        env = LiveCodeBench(tmp_path, release=release)
        assert set(env.problem_ids) == {f"p{i}" for i in range(1, number + 1)}
    assert len(LiveCodeBench(tmp_path).problem_ids) == 6
    (tmp_path / "test2.jsonl").unlink()
    assert LiveCodeBench(tmp_path, release="release_v1").problem_ids == ("p1",)
    with pytest.raises(FileNotFoundError, match=r"lacks test2\.jsonl\. Leave release= out"):
        LiveCodeBench(tmp_path, release="release_v3")


class OwnHub(http.server.BaseHTTPRequestHandler):
    """The part of the hub's protocol that downloading a file takes."""

    asked: ClassVar[list] = []

    def do_HEAD(self):
        self.asked.append(self.path)
        name = self.path.rpartition("/")[2]
        self.body = FIXTURE.read_bytes().splitlines(keepends=True)[name == "test2.jsonl"]
        self.send_response(200)
        self.send_header("ETag", f'"{name}"')
        self.send_header("X-Repo-Commit", "c" * 40)
        self.send_header("Content-Length", str(len(self.body)))
        self.end_headers()

    def do_GET(self):
        self.do_HEAD()
        self.wfile.write(self.body)

    def log_message(self, *arguments):
        pass


LOAD = """
from vpd_envs.code.livecodebench import LiveCodeBench
try:
    env = LiveCodeBench(hub="ours/lcb", revision="spring", release="release_v2")
except ConnectionError as error:
    print("ConnectionError:", error)
else:
    print(*env.problem_ids)
"""


def loaded_from_hub(tmp_path, **variables):
    command = [sys.executable, "-c", LOAD]
    env = os.environ | {"HF_HOME": str(tmp_path), "HF_HUB_DISABLE_XET": "1"} | variables
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_the_files_of_a_release_are_downloaded_from_the_hub_at_a_revision(tmp_path):
    pytest.importorskip("huggingface_hub")
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), OwnHub) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        endpoint = f"http://127.0.0.1:{server.server_port}"
        ids = loaded_from_hub(tmp_path, HF_ENDPOINT=endpoint, HF_HUB_OFFLINE="0")
        server.shutdown()
    assert ids == "plus-one mean"
    resolved = "/datasets/ours/lcb/resolve/spring"
    assert {f"{resolved}/test.jsonl", f"{resolved}/test2.jsonl"} <= set(OwnHub.asked)
    assert not any("test3" in path for path in OwnHub.asked)
    # What was downloaded is there without a hub, too.
    assert loaded_from_hub(tmp_path, HF_HUB_OFFLINE="1") == "plus-one mean"


def test_an_unreachable_hub_names_data(tmp_path, monkeypatch):
    pytest.importorskip("huggingface_hub")
    said = loaded_from_hub(tmp_path, HF_HUB_OFFLINE="1")
    assert said.startswith("ConnectionError: Could not load ours/lcb (split test, revision spring)")
    assert "data=FILE_OR_FOLDER" in said
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(ValueError, match=r"needs the package huggingface_hub.*data="):
        LiveCodeBench()


def refusal(public, private):
    """What is said of private tests that cannot be read; "" if they can be."""
    try:
        decoded(StoredTests(public, private, None, "file, line 1", 1 << 20))
    except ValueError as error:
        return str(error)
    return ""


@given(st.one_of(st.text(), st.binary().map(lambda data: base64.b64encode(data).decode())))
def test_any_private_text_is_decoded_or_refused_by_name(private):
    message = refusal(json.dumps(listed([("1", "1")], "stdin")), private)
    assert not message or "file, line 1" in message


@given(st.binary().map(zlib.compress) | st.binary())
def test_any_pickled_bytes_are_refused_by_name(data):
    assert "file, line 1" in refusal("[]", base64.b64encode(data).decode())


@given(st.text())
def test_any_file_is_loaded_or_refused_with_an_explanation(tmp_path_factory, text):
    path = tmp_path_factory.mktemp("data") / "rows.jsonl"
    path.write_bytes(text.encode("utf-8", "surrogatepass"))
    with pytest.raises(ValueError, match=r"rows\.jsonl"):
        LiveCodeBench(path)


# How outputs are compared -------------------------------------------------------------------------


def divides(output, expected, input):
    """A checker: the output is a divisor of the input greater than 1."""
    return output.strip().isdigit() and int(output) > 1 and int(input) % int(output) == 0


def solved(env, problem_id, code):
    return env.judge(env.problem(problem_id), block(code)).solved


def test_by_default_there_is_no_tolerance_and_one_right_output(tmp_path):
    third = row("third", "Print 1/3.", [("", "0.3333333333")])
    divisor = row("divisor", "Print a divisor of n but 1.", [("10\n", "2")])
    path = write_rows(tmp_path / "rows.jsonl", [third, divisor])
    plain = LiveCodeBench(path, sandbox="local")
    tolerant = LiveCodeBench(
        path, sandbox="local", comparison="floats", checkers={"divisor": divides}
    )
    for env, as_wanted in ((plain, False), (tolerant, True)):
        assert solved(env, "third", "print('0.3333333333')")
        assert solved(env, "third", "print('%.6f' % (1 / 3))") is as_wanted
        assert solved(env, "divisor", "print(2)")
        assert solved(env, "divisor", "print(5)") is as_wanted
        assert not solved(env, "third", "print(0.34)")
        assert not solved(env, "divisor", "print(3)")
    assert plain.fingerprint != tolerant.fingerprint
    assert solved(pickle.loads(pickle.dumps(tolerant)), "divisor", "print(5)")


def test_the_statement_may_grant_a_tolerance(tmp_path):
    said = "Print 1/3. Your answer is correct if its absolute error is at most 10^{-3}."
    env = load(tmp_path, row("said", said, [("", "0.333333")]), comparison="auto")
    assert solved(env, "said", "print(0.3337)")
    assert not solved(env, "said", "print(0.3345)")


def test_values_of_functions_have_the_same_tolerance_and_checkers(tmp_path):
    half = row("half", "?", [("[1, 3]", "[0.5, 1.5]")], function="half", starter_code="class ...")
    any_order = half | {"question_id": "any"}
    env = load(
        tmp_path,
        half,
        any_order,
        comparison=Floats(absolute=0.01),
        checkers={"any": Json(unordered_levels=1)},
    )
    code = "def half(a):\n    return [{} for x in a]"
    assert solved(env, "half", code.format("x / 2 + 0.005"))
    assert not solved(env, "half", code.format("x / 2 + 0.05"))
    assert solved(env, "any", code.format("2 - x / 2"))
    assert not solved(env, "half", code.format("2 - x / 2"))
