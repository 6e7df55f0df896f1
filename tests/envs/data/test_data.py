"""Reading rows from files and from the hub: every kind of file, damaged ones, bombs, splits."""

import gzip
import hashlib
import json
import os
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vpd_envs.data import files
from vpd_envs.data.files import (
    DataOptions,
    Hub,
    content_id,
    field,
    hashed_fraction,
    load_problems,
    text_field,
)
from vpd_envs.types import Problem

HUB = Hub("ours/none")
ROWS = [{"id": f"p{i}", "text": f"text {i}"} for i in range(20)]


def problem_of(row, place):
    id_ = text_field(row, place, "a row of ours", "id")
    return Problem(id_, text_field(row, place, "a row of ours", "text"), place)


def ids(path, files=lambda path: True, **options):
    problems = load_problems(DataOptions(path, **options), HUB, problem_of, files=files)
    return [problem.id for problem in problems]


def lines(rows):
    return "".join(json.dumps(row) + "\n" for row in rows)


def write_parquet(path, rows, **options):
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    parquet.write_table(pyarrow.Table.from_pylist(rows), path, **options)


@pytest.fixture
def folder(tmp_path):
    """The rows in files of every kind."""
    (tmp_path / "a.jsonl").write_text(lines(ROWS))
    (tmp_path / "b.json").write_text(json.dumps(ROWS))
    (tmp_path / "c.jsonl.gz").write_bytes(gzip.compress(lines(ROWS).encode()))
    (tmp_path / "d.json.gz").write_bytes(gzip.compress(json.dumps(ROWS).encode()))
    write_parquet(tmp_path / "e.parquet", ROWS)
    (tmp_path / "README.md").write_text("no data")
    return tmp_path


def test_every_kind_of_file_gives_the_same_rows_and_names_their_places(folder):
    for path in folder.glob("[a-e].*"):
        problems = load_problems(DataOptions(path), HUB, problem_of)
        assert [problem.id for problem in problems] == [row["id"] for row in ROWS]
        kind = "line" if ".jsonl" in path.name else "row"
        assert [problem.target for problem in problems] == [
            f"{path}, {kind} {i}" for i in range(1, 21)
        ]


def test_a_json_file_may_have_its_rows_one_per_line(tmp_path):
    for name, packed in (("rows.json", bytes), ("rows.json.gz", gzip.compress)):
        path = tmp_path / name
        path.write_bytes(packed(b"\n  " + lines(ROWS).encode()))
        assert ids(path) == [row["id"] for row in ROWS]


def test_a_folder_is_read_in_the_order_of_names_and_as_far_as_it_belongs(folder, tmp_path):
    assert len(ids(folder, files=lambda path: path.name < "c")) == 40
    assert len(ids(folder, max_problems=25)) == 25
    with pytest.raises(FileNotFoundError, match=r"has no file to read .*: it has a\.jsonl, b\.jso"):
        ids(folder, files=lambda path: False)


def test_missing_and_unknown_files_are_explained(folder):
    with pytest.raises(FileNotFoundError, match=r"There is no .*x\.jsonl\. data must be a file"):
        ids(folder / "x.jsonl")
    with pytest.raises(ValueError, match=r"README\.md: data must end in one of \.jsonl"):
        ids(folder / "README.md")


@pytest.mark.parametrize("name", ["a.jsonl", "c.jsonl.gz"])
def test_a_file_that_is_cut_off_names_its_line(folder, name):
    path = folder / name
    whole = path.read_bytes()
    for part in (0.3, 0.6, 0.9):
        path.write_bytes(whole[: int(len(whole) * part)])
        with pytest.raises(ValueError, match=rf"{name}, (after )?line \d+: ") as error:
            ids(path)
        if name == "a.jsonl":
            line = path.read_text().count("\n") + 1
            assert f"line {line}: the line (is the file complete?)" in str(error.value)


@pytest.mark.parametrize("name", ["b.json", "d.json.gz", "e.parquet"])
def test_other_files_that_are_cut_off_are_named(folder, name):
    path = folder / name
    whole = path.read_bytes()
    for part in (0.0, 0.3, 0.9):
        path.write_bytes(whole[: int(len(whole) * part)])
        with pytest.raises(ValueError, match=name):
            ids(path)


@pytest.mark.parametrize("name", ["a.jsonl", "b.json", "c.jsonl.gz", "d.json.gz", "e.parquet"])
@given(data=st.data())
def test_damaged_bytes_are_read_or_refused_by_the_name_of_the_file(tmp_path_factory, name, data):
    folder = tmp_path_factory.mktemp("damaged")
    path = folder / name
    if name == "e.parquet":
        write_parquet(path, ROWS)
        whole = path.read_bytes()
    else:
        text = lines(ROWS) if ".jsonl" in name else json.dumps(ROWS)
        whole = gzip.compress(text.encode(), mtime=0) if name.endswith(".gz") else text.encode()
    at = data.draw(st.integers(0, len(whole) - 1))
    path.write_bytes(whole[:at] + data.draw(st.binary(max_size=4)) + whole[at + 1 :])
    assert name in refusal(path)


@pytest.mark.parametrize("suffix", files.SUFFIXES)
@given(content=st.binary() | st.text().map(lambda text: text.encode("utf-8", "surrogatepass")))
def test_any_bytes_are_refused_by_the_name_of_the_file(tmp_path_factory, suffix, content):
    path = tmp_path_factory.mktemp("bytes") / f"file{suffix}"
    path.write_bytes(gzip.compress(content) if suffix.endswith(".gz") else content)
    assert "file" in refusal(path)


def refusal(path):
    """Why a file is refused; its name if it is read."""
    try:
        load_problems(DataOptions(path), HUB, problem_of)
    except ValueError as error:
        return str(error)
    return path.name


@pytest.mark.parametrize(
    ("name", "constant", "place"),
    [
        ("a.jsonl", "LONGEST_LINE", "line 2"),
        ("c.jsonl.gz", "LONGEST_LINE", "line 2"),
        ("d.json.gz", "LARGEST_LIST", ""),
        ("e.parquet", "LARGEST_ROW_GROUP", "row group 1"),
    ],
)
def test_a_decompression_bomb_is_refused(tmp_path, monkeypatch, name, constant, place):
    monkeypatch.setattr(files, constant, 1 << 20)
    rows = [ROWS[0], {"id": "bomb", "text": "x" * (1 << 21)}]
    text = lines(rows) if ".jsonl" in name else json.dumps(rows)
    path = tmp_path / name
    if name == "e.parquet":
        write_parquet(path, rows, compression="zstd")
    else:
        path.write_bytes(gzip.compress(text.encode()) if name.endswith(".gz") else text.encode())
    if name != "a.jsonl":
        assert path.stat().st_size < 10_000
    with pytest.raises(ValueError, match=rf"{name}.*{place}: refused, .* more than 1 MB"):
        ids(path)


def test_splits_go_by_the_hash_of_the_id_or_by_what_the_row_says(tmp_path):
    path = tmp_path / "rows.jsonl"
    many = [{"id": f"p{i}", "text": "?"} for i in range(300)]
    path.write_text(lines(many))
    train, test = set(ids(path, split="train")), set(ids(path, split="test"))
    assert not train & test
    assert train | test == {row["id"] for row in many} == set(ids(path))
    assert test == {row["id"] for row in many if hashed_fraction(row["id"]) < 0.2}
    assert 30 <= len(test) <= 90  # 0.2 of 300, more than four standard deviations
    path.write_text(
        lines([row | {"split": "test" if i < 7 else "train"} for i, row in enumerate(many)])
    )
    assert ids(path, split="test") == [f"p{i}" for i in range(7)]


def test_lone_surrogates_in_an_id_have_a_hash_of_their_own():
    """No encoding holds them, but JSON does: an id may come with one."""
    for text in ("\ud800", "a\udfff", "\ud800\udc00"):
        digest = hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()
        first_53_bits = int.from_bytes(digest) >> (256 - 53)
        assert hashed_fraction(text) == first_53_bits / 2**53
    assert len({hashed_fraction(text) for text in ("\ud800", "\ud801", "?", "\ufffd", "")}) == 5


def test_bad_selections_are_explained(folder):
    for options, message in (
        ({"split": "dev"}, "split must be"),
        ({"test_fraction": -1}, "test_fraction must be between 0 and 1, got -1"),
        ({"max_problems": 0}, "max_problems must be at least 1 or None"),
        ({"split": "test", "test_fraction": 0}, r"No problem of .*a\.jsonl is left with split='te"),
    ):
        with pytest.raises(ValueError, match=message):
            ids(folder / "a.jsonl", **options)


def test_fields_say_what_was_expected_and_what_came():
    row = {"a": None, "b": 3, 4: "x"}
    assert field(row, "here", "a row", "a", "b") == 3
    with pytest.raises(ValueError, match="here: expected a row; it needs 'a' or 'c', but the row"):
        field(row, "here", "a row", "a", "c")
    with pytest.raises(ValueError, match="here: expected a row, whose 'b' is a text; came int: 3"):
        text_field(row, "here", "a row", "b")


@given(st.lists(st.text(), min_size=1), st.lists(st.text(), min_size=1))
def test_ids_by_content_differ_where_the_content_does(first, second):
    joined = ["\x00".join(texts) for texts in (first, second)]
    assert (content_id("p", *first) == content_id("p", *second)) == (joined[0] == joined[1])


LOAD = """
from vpd_envs.data.files import Hub, read_rows
try:
    next(read_rows(None, Hub("ours/none", split="train", revision="v2")))
except ConnectionError as error:
    print("ConnectionError:", error)
"""


def test_a_hub_that_cannot_be_reached_is_a_connection_error_that_names_data(tmp_path):
    pytest.importorskip("datasets")
    env = os.environ | {"HF_HOME": str(tmp_path), "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(
        [sys.executable, "-c", LOAD], env=env, capture_output=True, text=True, timeout=60
    )
    said = "ConnectionError: Could not load ours/none (split train, revision v2) from the Hugging"
    assert done.stdout.startswith(said), done.stderr
    assert "name them with data=FILE_OR_FOLDER" in done.stdout


def test_without_the_package_datasets_the_error_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(ValueError, match=r"ours/none .* needs the package datasets .*data="):
        load_problems(DataOptions(), HUB, problem_of)
