"""Every claim is tested on every backend that works here.

VPD_REQUIRE_BACKENDS="docker,bubblewrap" makes a missing backend a failure instead of a skip.
"""

import os

import pytest

import sandbox
from sandbox import Sandbox, SandboxError

BACKENDS = [
    pytest.param("docker", marks=pytest.mark.docker),
    pytest.param("bubblewrap", marks=pytest.mark.bubblewrap),
    "local",
]
LONG = {  # by file, what it tests on with -m slow only: others make the same claims by default
    "test_attacks.py": ("local",),
    "test_plain_python.py": ("bubblewrap", "docker"),
}
REQUIRED = {"local", *filter(None, os.environ.get("VPD_REQUIRE_BACKENDS", "").split(","))}


def make_or_skip(name: str, **options) -> Sandbox:
    try:
        return sandbox.make(name, **options)
    except SandboxError as error:
        if name in REQUIRED:
            raise
        pytest.skip(str(error))


@pytest.fixture(scope="session")
def make_box():
    return make_or_skip


@pytest.fixture(scope="session", params=BACKENDS)
def box(request):
    """A sandbox of two cages that all tests share, whatever they do to it."""
    with make_or_skip(request.param, cages=2) as shared:
        yield shared


@pytest.fixture
def isolating_box(box):
    """The same where it hides the host, which `local` does not."""
    if box.name == "local":
        pytest.skip("local does not cover this, and says so")
    return box


@pytest.fixture(params=BACKENDS)
def fresh_box(request):
    """A sandbox of one cage for tests that break it."""
    with make_or_skip(request.param, cages=1) as own:
        yield own


@pytest.fixture(params=BACKENDS)
def backend(request):
    """The name of each backend, for tests that make their own sandboxes."""
    return request.param


def pytest_collection_modifyitems(items):
    for item in items:
        callspec = getattr(item, "callspec", None)
        if callspec and callspec.params.get("box") in LONG.get(item.path.name, ()):
            item.add_marker(pytest.mark.slow)
