"""A plugin of pytest, `-p tests.deprecations`: to use what a library has deprecated is an error.

CI runs the tests with it, so that a renamed argument is met there before users meet it. The filters
of `warnings` know only the file that a warning is attributed to, and libraries attribute theirs to
their own decorators, or write them into a log. Here the stack decides: whose line called what is
deprecated, past decorators and torch's calls of modules. Only lines of ours count.
"""

from __future__ import annotations

import logging
import re
import sys
import warnings
from pathlib import Path
from types import FrameType

ROOT = Path(__file__).resolve().parents[1]
OURS = tuple(str(ROOT / name) for name in ("sandbox", "vpd_envs", "vpd_agent", "tests"))
DEPRECATIONS = (DeprecationWarning, FutureWarning)
LOGGERS = ("transformers", "peft", "accelerate", "datasets")  # that log deprecations
PASSED_ON = re.compile(r"_?(wrap|inner|decorat|call_impl|warn)|__call__$")  # names of functions

_warn = warnings.warn


class Deprecated(Exception):
    """A line of ours calls what is deprecated."""


def pytest_configure() -> None:
    warnings.warn = warn
    for name in LOGGERS:
        logging.getLogger(name).addHandler(Handler(logging.WARNING))


def warn(message, category=None, stacklevel=1, *arguments, **keywords) -> None:
    kind = type(message) if isinstance(message, Warning) else category or UserWarning
    if issubclass(kind, DEPRECATIONS):
        check(str(message), sys._getframe(1))
    _warn(message, category, stacklevel + 1, *arguments, **keywords)


class Handler(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        if "deprecat" in record.getMessage().lower():
            frame = sys._getframe(1)
            while frame.f_back is not None and frame.f_code.co_filename == logging.__file__:
                frame = frame.f_back
            check(record.getMessage(), frame)


def check(message: str, frame: FrameType) -> None:
    """frame: the one that warns. Raises Deprecated if a line of ours called it."""
    frame = frame.f_back
    while frame is not None and PASSED_ON.match(frame.f_code.co_name):
        frame = frame.f_back
    if frame is not None and frame.f_code.co_filename.startswith(OURS):
        raise Deprecated(f"{frame.f_code.co_filename}:{frame.f_lineno}: {message}")
