"""`vpd sandbox run` and `vpd sandbox build`: the sandbox from the shell.

`python -m sandbox` is the same command and loads the standard library only (and, for Docker, its
SDK).
"""

from __future__ import annotations

import argparse
import codecs
import contextlib
import io
import json
import logging
import math
import os
import re
import select
import signal
import sys
import tokenize
import traceback
import warnings
from collections.abc import Iterator
from dataclasses import asdict, fields
from typing import Any, NoReturn, TextIO

import sandbox
from sandbox.build import build_image, say
from sandbox.core import (
    MIB,
    WALL_FACTOR,
    Call,
    Execution,
    ExecutionStatus,
    Job,
    Limits,
    Sandbox,
    SandboxError,
)
from sandbox.docker import IMAGE
from sandbox.factory import BACKENDS, NAMES, check_name
from sandbox.plugins import FORM
from sandbox.signals import Stopped, StopSignals

BAD_INPUT, NO_VERDICT = 2, 125  # 125 is what timeout(1) and docker(1) return for their own failures
EXIT_CODES = {  # of statuses for which the program itself has none, as a shell knows them
    ExecutionStatus.TIMEOUT: 124,  # timeout(1)
    ExecutionStatus.MEMORY: 128 + signal.SIGKILL,  # what the kernel's out-of-memory killer leaves
    ExecutionStatus.OUTPUT_LIMIT: 128 + signal.SIGXFSZ,  # ulimit -f
}
LARGEST_INPUT_BYTES = 1 << 30
SILENCE_SECONDS = 2.0  # of standard input, before we say that we wait for it
CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f]")

RUN_HELP = """\
Run one Python program in a cage and show what it wrote, once it has ended: its standard output
and error on ours, then one line on standard error that says how it ended."""

RUN_EPILOGUE = """\
exit codes:
  the program's own  it ended by itself (ok, error)
  124    timeout: the CPU limit, or the wall-clock limit by sleeping or waiting
  137    memory: the memory limit
  153    output_limit: more than --output-mb on a stream
  128+N  crash: signal N killed it (139: a segmentation fault)
  125    no verdict: the sandbox failed, or the machine is so busy that the program starved;
         nothing is known about the program
  2      bad input: nothing was run
  130    interrupted (143: terminated)
A program can end with any of these codes by itself. The last line on standard error tells: it
begins with "sandbox:" if, and only if, there is a verdict. With --json the exit code is 0 whenever
there is one, whatever the program did, and standard output holds nothing but the object.

On a terminal, control characters other than tabs and line ends are shown as escapes, since they
are the program's and not ours. Bytes that are not UTF-8 become U+FFFD."""

BUILD_HELP = """\
Build the image whose interpreter and packages the programs in docker cages find. Needs a reachable
Docker engine and its docker command; from a registry where one is reachable, else from Debian
packages, which takes root, debootstrap and about a minute."""

BUILD_EPILOGUE = """\
exit codes: 0 the image is there; 125 it could not be built; 2 bad input; 130 interrupted."""


def main(arguments: list[str] | None = None, *, prog: str = "vpd sandbox") -> int:
    """Run a command; returns the exit code (see RUN_EPILOGUE)."""
    parser = _parser(prog)
    options = parser.parse_args(arguments)
    if options.command is None:
        parser.print_help(sys.stderr)
        return BAD_INPUT
    name = f"{prog} {options.command}"
    try:
        with StopSignals() as signals, _warnings_said_by(name):
            return options.function(options, signals) or 0
    except (ValueError, SandboxError) as error:
        say(f"{name}: {error}")
        return BAD_INPUT if isinstance(error, ValueError) else NO_VERDICT
    except Stopped as stopped:
        say(f"{name}: {'interrupted' if stopped.signal == signal.SIGINT else 'terminated'}")
        return 128 + stopped.signal
    except Exception:  # a bug, and Python's own exit code for it would look like a program's
        traceback.print_exc()
        return NO_VERDICT


# --- options ------------------------------------------------------------------------------------


class _Parser(argparse.ArgumentParser):
    """Says what is wrong in one line."""

    def error(self, message: str) -> NoReturn:
        self.exit(BAD_INPUT, f"{self.prog}: {message}. {self.prog} --help says more.\n")


def _parser(prog: str) -> argparse.ArgumentParser:
    shape = {"formatter_class": argparse.RawDescriptionHelpFormatter, "allow_abbrev": False}
    parser = _Parser(prog=prog, description="The sandbox from the shell.", **shape)
    commands = parser.add_subparsers(dest="command", metavar="COMMAND")

    command = commands.add_parser(
        "run", help="run one program in a cage", description=RUN_HELP, epilog=RUN_EPILOGUE, **shape
    )
    command.set_defaults(function=_run)
    command.add_argument("file", metavar="FILE", help="the program; - for standard input")
    command.add_argument(
        "--stdin",
        metavar="FILE",
        help="what the program reads as its standard input; default: ours, unless it is a terminal "
        "or FILE is -",
    )
    command.add_argument(
        "--sandbox",
        type=_sandbox_name,
        default="auto",
        metavar="NAME",
        help=f"{', '.join(BACKENDS)}; default: auto, the strongest of these that works here; ray, "
        f"on a cluster; or your own, {FORM}",
    )
    command.add_argument("--backend", action=_Renamed, nargs="?", help=argparse.SUPPRESS)
    command.add_argument("--json", action="store_true", help="print one JSON object instead")
    command.add_argument(
        "--call",
        metavar="FUNCTION",
        help="call Solution().FUNCTION or FUNCTION, and print the value as a last line of JSON",
    )
    command.add_argument(
        "--arguments",
        type=_json_list,
        metavar="JSON",
        help="of the call: a list, such as '[1, \"a\"]'; default: none",
    )
    limits = command.add_argument_group("limits (1 MB is 2^20 bytes)")
    default = Limits()
    for name, text in (
        ("cpu_seconds", "of CPU time, of all its processes; default: --wall-seconds"),
        (
            "wall_seconds",
            f"by the clock, without the time in which the machine keeps it waiting for a CPU; "
            f"default: {WALL_FACTOR:g} times --cpu-seconds, or {default.wall_seconds:g}",
        ),
        ("memory_bytes", f"default: {default.memory_bytes / MIB:g}"),
        ("processes", f"and threads, itself included; default: {default.processes}"),
        ("output_bytes", f"on either stream; default: {default.output_bytes / MIB:g}"),
        ("file_bytes", f"in any one file; default: {default.file_bytes / MIB:g}"),
        ("open_files", f"default: {default.open_files}"),
    ):
        word, _, unit = name.rpartition("_")
        kind, metavar = LIMIT_UNITS.get(unit, (_count, "N"))
        flag = f"--{word}-mb" if unit == "bytes" else f"--{name.replace('_', '-')}"
        limits.add_argument(flag, dest=name, type=kind, metavar=metavar, help=text)

    command = commands.add_parser(
        "build",
        help="build the image of the docker cages",
        description=BUILD_HELP,
        epilog=BUILD_EPILOGUE,
        **shape,
    )
    command.set_defaults(function=lambda options, _: build_image(options.name))
    command.add_argument(
        "--name", type=_image_name, default=IMAGE, metavar="IMAGE", help=f"default: {IMAGE}"
    )
    return parser


class _Renamed(argparse.Action):
    """A flag by the name that it had once."""

    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> NoReturn:
        parser.error(f"{self.option_strings[0]} is called --sandbox, as in every other command")


def _sandbox_name(text: str) -> str:
    try:
        return check_name(text)
    except ValueError as error:
        message = str(error).rstrip(".")
        raise argparse.ArgumentTypeError(f"{message} (vpd doctor shows which work here)") from error


def _positive(text: str) -> float:
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not 0 < number < math.inf:
        raise argparse.ArgumentTypeError(f"expected a positive number, got {text!r}")
    return number


def _megabytes(text: str) -> int:
    """In bytes."""
    return math.ceil(_positive(text) * MIB)


def _count(text: str) -> int:
    number = _positive(text)
    if not number.is_integer():
        raise argparse.ArgumentTypeError(f"expected a whole number, got {text!r}")
    return int(number)


LIMIT_UNITS = {"seconds": (_positive, "SECONDS"), "bytes": (_megabytes, "MB")}  # others are counts


def _json_list(text: str) -> tuple[Any, ...]:
    try:
        values = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise argparse.ArgumentTypeError(f"{text[:60]!r} is not JSON: {error}") from error
    if not isinstance(values, list):
        raise argparse.ArgumentTypeError(
            f"expected a JSON list, such as '[1, \"a\"]', got {text[:60]!r}"
        )
    return tuple(values)


def _image_name(text: str) -> str:
    path = r"[a-z0-9]+(?:(?:\.|_{1,2}|-+)[a-z0-9]+)*"
    host = r"[A-Za-z0-9.-]+(?::\d+)?/"
    if not re.fullmatch(rf"(?:{host})?{path}(?:/{path})*(?::\w[\w.-]{{0,127}})?", text, re.ASCII):
        raise argparse.ArgumentTypeError(
            f"expected the name of an image, such as {IMAGE}, got {text!r}"
        )
    return text


# --- vpd sandbox run ----------------------------------------------------------------------------


def _run(options: argparse.Namespace, signals: StopSignals) -> int:
    job = _job(options)
    with contextlib.ExitStack() as stack:
        with signals.held():
            box = _open(options.sandbox, job)
            stack.callback(box.close)
        execution = box.run(job)
    execution.check_not_starved()
    if options.json:
        _write(sys.stdout, json.dumps({"backend": box.name, **asdict(execution)}) + "\n")
        return 0
    _show(execution, f"sandbox: {summary(execution, job.limits)}, {box.name}")
    return exit_code(execution)


def exit_code(execution: Execution) -> int:
    """What a shell gets to see of an execution; RUN_EPILOGUE has the table."""
    if execution.status is ExecutionStatus.CRASH:
        return 128 + (execution.signal or 0)
    if execution.status is ExecutionStatus.ERROR:
        return execution.exit_code or 1  # a call without a value fails, even if exit code 0 came
    return EXIT_CODES.get(execution.status, execution.exit_code or 0)


def summary(execution: Execution, limits: Limits) -> str:
    """How it ended and what it took, in one line."""
    parts = [str(execution.status)]
    if execution.signal is not None:
        parts.append(f"killed by {_signal_name(execution.signal)}")
    else:
        parts.append(f"exit code {execution.exit_code}")
    parts.append(f"{_seconds(execution.seconds)} wall, {_seconds(execution.cpu_seconds)} CPU")
    parts.append(f"peak {_size(execution.memory_bytes)}")
    for stream in ("stdout", "stderr"):
        total = getattr(execution, f"{stream}_bytes")
        if total > limits.output_bytes:
            parts.append(f"{stream} cut to {_size(limits.output_bytes)} of {_size(total)}")
    return ", ".join(parts)


def _job(options: argparse.Namespace) -> Job:
    if options.file == "-" and options.stdin == "-":
        raise ValueError("FILE and --stdin cannot both be standard input: give one by its path.")
    if options.arguments is not None and options.call is None:
        raise ValueError("--arguments needs --call FUNCTION.")
    call = None if options.call is None else Call(options.call, options.arguments or ())
    given = {field.name: getattr(options, field.name) for field in fields(Limits)}
    limits = Limits(**{name: value for name, value in given.items() if value is not None})
    code = source_text(_read(options.file), options.file)
    if options.stdin is not None:
        stdin = _read(options.stdin)
    elif options.file == "-" or sys.stdin is None or sys.stdin.isatty():
        stdin = b""
    else:
        stdin = _read("-")
    return Job(code, stdin, call, limits)


def source_text(source: bytes, name: str) -> str:
    """The text of a Python file, read as CPython reads it: UTF-8, or what it declares (PEP 263).

    Encoded as UTF-8 it is the same program again: if that takes another declaration, it gets it.

    Raises:
        ValueError: CPython could not read it either.
    """
    if b"\0" in source:
        raise ValueError(f"{name} is no Python program: it has null bytes, as binary files do.")
    try:
        encoding = codecs.lookup(tokenize.detect_encoding(io.BytesIO(source).readline)[0]).name
        encoding = encoding.removesuffix("-sig")  # a byte order mark stays where it is
        text = source.decode(encoding)
    except (SyntaxError, LookupError, ValueError) as error:
        wrong = f"cannot be read as Python reads it: {error}"
        if isinstance(error, UnicodeDecodeError):
            line, byte = source.count(b"\n", 0, error.start) + 1, source[error.start]
            wrong = f"is not text in {encoding}: line {line} has the byte 0x{byte:02x}"
        raise ValueError(
            f"{name} {wrong}. Convert the file to UTF-8, or declare its encoding in the first "
            "line, as in '# coding: latin-1'."
        ) from error
    if text.encode("utf-8", "surrogatepass") == source:
        return text
    lines = text.split("\n", 2)
    head = "\n".join(lines[:2])
    declared = re.compile(r"^([ \t\f]*#.*?coding[:=][ \t]*)[-\w.]+", re.ASCII | re.MULTILINE)
    return "\n".join([declared.sub(r"\1utf-8", head, count=1), *lines[2:]])


def _read(path: str) -> bytes:
    try:
        if path == "-":
            data = _read_standard_input()
        else:
            with open(path, "rb") as file:
                data = file.read(LARGEST_INPUT_BYTES + 1)
    except OSError as error:
        raise ValueError(f"{path} cannot be read: {error.strerror}.") from error
    if len(data) > LARGEST_INPUT_BYTES:
        raise ValueError(f"{path} is longer than {_size(LARGEST_INPUT_BYTES)}.")
    return data


def _read_standard_input() -> bytes:
    if sys.stdin is None:
        return b""
    if not select.select([sys.stdin], [], [], SILENCE_SECONDS)[0]:
        say("Waiting for standard input: end it with Ctrl-D, or name another by --stdin FILE.")
    return sys.stdin.buffer.read(LARGEST_INPUT_BYTES + 1)


def _open(name: str, job: Job) -> Sandbox:
    try:
        box = sandbox.make(name, cages=1)
        options = _larger_cage(box.name, job) if name in NAMES else {}
        if options:
            box.close()
            box = sandbox.make(box.name, cages=1, **options)
    except SandboxError as error:
        raise SandboxError(f"{error} vpd doctor shows how to fix it.") from error
    return box


def _larger_cage(name: str, job: Job) -> dict[str, int]:
    """Options for a cage that is large enough for the job; none where the usual one is."""
    limits, default = job.limits, Limits()
    files_bytes = limits.file_bytes + len(job.stdin) + len(job.code)
    if (
        files_bytes <= default.file_bytes + 64 * MIB
        and limits.memory_bytes <= default.memory_bytes
        and limits.processes <= default.processes
    ):
        return {}
    tmp_bytes = files_bytes + 256 * MIB
    if name == "docker":
        return {
            "tmp_bytes": tmp_bytes,
            "memory_bytes": limits.memory_bytes + 2 * tmp_bytes + 512 * MIB,
            "pids": limits.processes + 64,
        }
    return {"tmp_bytes": tmp_bytes} if name == "bubblewrap" else {}


def _show(execution: Execution, last_line: str) -> None:
    out, err = execution.stdout, execution.stderr
    if execution.value is not None:
        out = _whole_lines(out) + execution.value + "\n"
    if sys.stderr.isatty() and sys.stdout is not None and sys.stdout.isatty():
        out = _whole_lines(out)  # the next line is ours, on the same screen
    _write(sys.stdout, out)
    _write(sys.stderr, f"{_whole_lines(err)}{last_line}\n")


def _whole_lines(text: str) -> str:
    return text if not text or text.endswith("\n") else text + "\n"


def _write(stream: TextIO | None, text: str) -> None:
    if stream is None:  # closed from the start
        return
    if stream.isatty():
        text = CONTROL.sub(lambda found: f"\\x{ord(found[0]):02x}", text)
    try:
        stream.flush()
        stream.buffer.write(text.encode())
        stream.flush()
    except OSError as error:
        # Or the interpreter would fail once more when it flushes at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
        if not isinstance(error, BrokenPipeError):  # a reader like `head` has seen enough
            raise SandboxError(f"{stream.name} cannot be written: {error.strerror}.") from error


def _seconds(seconds: float) -> str:
    return f"{seconds * 1000:.1f} ms" if seconds < 0.1 else f"{seconds:.2f} s"


def _size(size_bytes: int) -> str:
    for unit, name in ((1 << 30, "GB"), (MIB, "MB"), (1 << 10, "KB")):
        if size_bytes >= unit:
            return f"{size_bytes / unit:.1f} {name}"
    return f"{size_bytes} bytes"


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:  # a real-time signal
        return f"signal {number}"


# --- what both share ----------------------------------------------------------------------------


@contextlib.contextmanager
def _warnings_said_by(name: str) -> Iterator[None]:
    """In one line each. What the sandbox logs is left out: our own last line says it."""
    log = logging.getLogger("sandbox")
    level = log.level
    log.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.showwarning = lambda message, *_: say(f"{name}: warning: {message}")
            yield
    finally:
        log.setLevel(level)
