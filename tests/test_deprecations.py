"""The plugin finds the lines of ours that use what a library has deprecated, and no others."""

import importlib.util
import logging
import warnings

import pytest
import torch

from tests.deprecations import Deprecated, Handler, warn

LIBRARY = """
import functools, logging, warnings

def renamed(function):
    @functools.wraps(function)
    def wrapper(self, *arguments, **keywords):
        if "old" in keywords:
            warnings.warn("`old` is deprecated", FutureWarning, stacklevel=2)
            keywords["new"] = keywords.pop("old")
        return function(self, *arguments, **keywords)
    return wrapper

class Layer:
    @renamed
    def forward(self, new):
        return new

    def inside(self):
        return self.forward(old=1)

def logs():
    logging.getLogger("library").warning("`logs` is deprecated!")
"""


@pytest.fixture
def library(tmp_path, monkeypatch):
    path = tmp_path / "library.py"
    path.write_text(LIBRARY)
    spec = importlib.util.spec_from_file_location("library", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    monkeypatch.setattr(warnings, "warn", warn)
    return module


def test_a_deprecated_argument_is_found_through_decorators_and_calls_of_modules(library):
    class Module(torch.nn.Module, library.Layer):
        forward = library.Layer.forward

    for call in (library.Layer().forward, Module()):
        assert call(new=1) == 1
        with pytest.raises(Deprecated, match=r"test_deprecations\.py:\d+: `old` is deprecated"):
            call(old=1)


def test_what_a_library_does_inside_itself_is_left_to_it(library):
    with pytest.warns(FutureWarning, match="`old` is deprecated"):
        assert library.Layer().inside() == 1


def test_a_deprecation_that_is_only_logged_is_found(library):
    logger, handler = logging.getLogger("library"), Handler()
    logger.addHandler(handler)
    try:
        with pytest.raises(Deprecated, match="`logs` is deprecated!"):
            library.logs()
    finally:
        logger.removeHandler(handler)
