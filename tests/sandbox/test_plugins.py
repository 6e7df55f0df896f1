"""Classes by name: ours, a module's, a file's."""

import sys

import pytest

from sandbox.plugins import is_import, load, unknown

KNOWN = {"pool": "sandbox.pool:Pool", "int": int}


@pytest.fixture
def folder(tmp_path, monkeypatch):
    (tmp_path / "my_things.py").write_text("class Mine:\n    pass\nbroken = 1\n")
    (tmp_path / "fails.py").write_text("import there_is_no_such_module\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    for name in ("my_things", "fails"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    yield tmp_path
    for name in ("my_things", "fails"):
        sys.modules.pop(name, None)


def test_a_name_of_ours_is_an_object_or_a_place_to_import_it_from():
    from sandbox.pool import Pool

    assert load("thing", "pool", KNOWN) is Pool
    assert load("thing", "int", KNOWN) is int


@pytest.mark.parametrize(
    "form", ["my_things:Mine", "my_things.py:Mine", "{folder}/my_things.py:Mine"]
)
def test_a_class_of_the_current_folder_or_of_a_file_is_the_same_each_time(folder, form):
    mine = load("thing", form.format(folder=folder), KNOWN)
    assert (mine.__name__, mine.__module__) == ("Mine", "my_things")
    assert load("thing", form.format(folder=folder), KNOWN) is mine
    assert load("thing", "my_things:Mine") is mine  # by its module or by its file


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("pol", r"Unknown thing 'pol'. Did you mean 'pool'\? There are pool, int; or module:Class"),
        ("http://here:80", "Unknown thing 'http://here:80'. There are pool, int; or module:Class"),
        ("my_thing:Mine", "There is no module 'my_thing' to import the thing from: neither inst"),
        ("nowhere/a.py:Mine", "There is no file nowhere/a.py to import the thing from"),
        ("my_things:Mime", r"Unknown thing in my_things: 'Mime'. Did you mean 'Mine'\?"),
    ],
)
def test_what_is_not_there_is_named(folder, name, message):
    with pytest.raises(ValueError, match=message):
        load("thing", name, KNOWN)


def test_an_error_of_the_imported_code_is_its_own(folder):
    with pytest.raises(ModuleNotFoundError, match="there_is_no_such_module"):
        load("thing", "fails.py:Mine", KNOWN)
    assert "fails" not in sys.modules


def test_the_form_of_an_import():
    forms = ("a:B", "a.b:C", "x/y.py:C", "./y.py:C")
    assert all(map(is_import, forms))
    assert not any(map(is_import, ("a", "a:", ":B", "http://a:80", "a b:C", "noisy:drop=0.2")))


def test_nothing_that_is_known_is_said():
    assert unknown("option", "x", ()) == "Unknown option 'x'. There are none."
