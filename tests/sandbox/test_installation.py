"""What a person is told to type brings an extra of this project, however it was installed."""

import importlib
import json
import re
import shlex
import sys
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from sandbox import installation
from sandbox.installation import DISTRIBUTION, install_hint, pip_install

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
FOLDER = "file:///home/me/downloads/vpd-rl"
REPOSITORY = {"url": "https://example.org/vpd.git"}
COMMIT = {"vcs": "git", "commit_id": "3cbb6b3"}


def test_a_checkout_is_installed_again_from_its_folder(monkeypatch, tmp_path):
    monkeypatch.chdir(ROOT)
    assert install_hint("math").endswith("pip install -e '.[math]'")
    monkeypatch.chdir(tmp_path)
    assert shlex.split(install_hint("hub", "math"))[-2:] == ["-e", f"{ROOT.resolve()}[hub,math]"]


@pytest.mark.parametrize(
    ("origin", "url"),
    [
        (None, None),
        ({"url": FOLDER, "dir_info": {}}, FOLDER),
        (REPOSITORY | {"vcs_info": COMMIT}, f"git+{REPOSITORY['url']}@{COMMIT['commit_id']}"),
    ],
)
def test_what_was_installed_is_named_with_where_it_came_from(monkeypatch, tmp_path, origin, url):
    record = tmp_path / "vpd_rl-0.1.0.dist-info"
    record.mkdir()
    (record / "METADATA").write_text(f"Name: {DISTRIBUTION}\nVersion: 0.1.0\n")
    if origin is not None:
        (record / "direct_url.json").write_text(json.dumps(origin))
    monkeypatch.setattr(installation, "SOURCE", tmp_path)  # no pyproject.toml beside the packages
    monkeypatch.syspath_prepend(tmp_path)
    importlib.invalidate_caches()
    requirement = Requirement(shlex.split(install_hint("math"))[-1])
    assert (requirement.name, requirement.extras) == (DISTRIBUTION, {"math"})
    assert requirement.url == url


def test_the_command_is_for_the_python_that_runs(monkeypatch):
    monkeypatch.setenv("PATH", str(Path(sys.executable).parent))
    assert pip_install("a<2").endswith("pip install 'a<2'")
    monkeypatch.setenv("PATH", "/nowhere")
    assert shlex.split(pip_install("a<2"))[0] == sys.executable


def test_hints_name_this_distribution_and_extras_that_it_has():
    assert PROJECT["name"] == DISTRIBUTION
    named = set()
    for package in ("sandbox", "vpd_envs", "vpd_agent"):
        for path in (ROOT / package).rglob("*.py"):
            source = path.read_text()
            assert not re.search(r"pip install '?vpd\b", source.replace(f"{DISTRIBUTION}[", ""))
            named |= set(re.findall(r"install_hint\(['\"](\w+)['\"]\)", source))
    assert "math" in named
    assert named <= set(PROJECT["optional-dependencies"])
