"""`vpd sandbox` as a person types it: what comes out, which exit codes, and what bad input is told.

What does not depend on a process of its own is called in this one; the rest is typed.
"""

import contextlib
import json
import os
import pty
import signal
import subprocess
import sys
import time
from dataclasses import fields
from pathlib import Path

import pytest

import sandbox.command
from sandbox import MIB, Execution, ExecutionStatus, Job, Limits
from sandbox.command import exit_code, main, source_text, summary
from sandbox.docker import LABEL
from sandbox.runner import ADDRESS_SLACK_BYTES, descendants, stat_fields
from vpd_agent.cli.main import main as vpd

REPOSITORY = Path(__file__).parents[2]
SECONDS = 60  # no command here takes longer
NOWHERE = {"DOCKER_HOST": "unix:///nowhere/docker.sock", "PATH": "/nowhere"}  # only local is left


def start(*arguments, env=(), **options) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, "-m", "sandbox", *map(str, arguments)],
        cwd=REPOSITORY,
        env={**os.environ, **dict(env)},
        stdin=options.pop("stdin", subprocess.DEVNULL),
        stdout=options.pop("stdout", subprocess.PIPE),
        stderr=options.pop("stderr", subprocess.PIPE),
        **options,
    )


def typed(*arguments, stdin: bytes = b"", env=()) -> subprocess.CompletedProcess:
    process = start(*arguments, env=env, stdin=subprocess.PIPE)
    out, err = process.communicate(stdin, timeout=SECONDS)
    return subprocess.CompletedProcess(process.args, process.returncode, out, err.decode())


def refused(capsys, *arguments) -> str:
    """What a command says that does nothing but explain bad input, in one line."""
    try:
        code = main([str(argument) for argument in arguments])
    except SystemExit as end:
        code = end.code
    output = capsys.readouterr()
    assert (code, output.out, output.err.count("\n")) == (2, "", 1)
    return output.err


@pytest.fixture
def program(tmp_path):
    """Writes a program; returns its path."""

    def write(code: str | bytes, name: str = "solution.py") -> Path:
        path = tmp_path / name
        path.write_bytes(code.encode() if isinstance(code, str) else code)
        return path

    return write


# --- what comes out -----------------------------------------------------------------------------


def test_streams_and_exit_code_are_those_of_the_program(box, program):
    code = "import sys\nprint(input() + '!')\nprint('oh', end='', file=sys.stderr)\nsys.exit(7)"
    done = typed("run", program(code), "--sandbox", box.name, stdin="é\n".encode())
    assert (done.returncode, done.stdout) == (7, "é!\n".encode())
    lines = done.stderr.splitlines()
    assert lines[0] == "oh"
    assert lines[1].startswith("sandbox: error, exit code 7, ")
    assert lines[1].endswith(f", {box.name}")
    assert len(lines) == 2


ENDINGS = {
    "ok": ("print(1)", Limits(), 0),
    "exit": ("import sys; sys.exit(3)", Limits(), 3),
    "exception": ("1 / 0", Limits(), 1),
    "wall": ("import time; time.sleep(60)", Limits(wall_seconds=0.3), 124),
    "cpu": ("while True: pass", Limits(wall_seconds=30, cpu_seconds=0.3), 124),
    "memory": ("bytearray(1 << 30)", Limits(memory_bytes=64 * MIB), 128 + signal.SIGKILL),
    "output": ("while True: print('x' * 999)", Limits(output_bytes=9999), 128 + signal.SIGXFSZ),
    "crash": ("import os; os.abort()", Limits(), 128 + signal.SIGABRT),
    "nameless signal": ("import os; os.kill(os.getpid(), 40)", Limits(), 128 + 40),
}


@pytest.mark.parametrize("ending", ENDINGS)
def test_a_shell_sees_how_a_program_ended(box, ending):
    code, limits, expected = ENDINGS[ending]
    execution = box.run(Job(code, limits=limits))
    assert exit_code(execution) == expected
    assert summary(execution, limits).startswith(execution.status)


def test_a_cut_output_is_told_with_its_whole_length():
    limits = Limits(output_bytes=2 * MIB)
    execution = Execution("output_limit", "", "", None, 1, 1, MIB, signal=9, stdout_bytes=7 * MIB)
    assert "stdout cut to 2.0 MB of 7.0 MB" in summary(execution, limits)
    assert "stderr" not in summary(execution, limits)


def test_json_has_every_field_and_leaves_the_exit_code_to_the_command(box, program, capsys):
    code = main(["run", str(program("print(6 * 7)\n1 / 0")), "--stdin", "/dev/null", "--json",
                 "--sandbox", box.name])  # fmt: skip
    output = capsys.readouterr()
    got = json.loads(output.out)
    assert (code, output.err) == (0, "")
    assert set(got) == {"backend", *(field.name for field in fields(Execution))}
    expected = {"backend": box.name, "status": "error", "stdout": "42\n", "exit_code": 1,
                "stdout_bytes": 3, "value": None, "signal": None}  # fmt: skip
    assert {name: got[name] for name in expected} == expected
    assert "ZeroDivisionError" in got["stderr"]
    assert got["seconds"] > 0
    assert got["memory_bytes"] > 0


def test_a_called_function_prints_its_value_as_the_last_line(program, capsys):
    code = "def add(a, b):\n    print('adding', end='')\n    return [a + b, None]"
    arguments = ["run", str(program(code)), "--stdin", "/dev/null", "--sandbox", "local",
                 "--call", "add", "--arguments", '["é", "!"]']  # fmt: skip
    assert main(arguments) == 0
    assert capsys.readouterr().out == 'adding\n["\\u00e9!", null]\n'
    assert main([*arguments, "--json"]) == 0
    assert json.loads(json.loads(capsys.readouterr().out)["value"]) == ["é!", None]


def test_a_call_without_a_value_fails_whatever_the_program_says(program, capsys):
    code = "import os\ndef f(): os._exit(0)"
    assert main(["run", str(program(code)), "--stdin", "/dev/null", "--sandbox", "local",
                 "--call", "f"]) == 1  # fmt: skip
    assert "gave no JSON value" in capsys.readouterr().err


def test_standard_input_is_passed_byte_for_byte(box, program, tmp_path):
    code = program("import sys; print(sys.stdin.buffer.read().hex())")
    data = bytes(range(256)) + b"\r\n\xff"
    (tmp_path / "input").write_bytes(data)
    from_file = typed("run", code, "--stdin", tmp_path / "input", "--sandbox", box.name)
    piped = typed("run", code, "--sandbox", box.name, stdin=data)
    assert from_file.stdout == piped.stdout == data.hex().encode() + b"\n"


def test_a_program_can_come_by_standard_input(tmp_path):
    code = b"import sys; print([sys.stdin.read()])"
    (tmp_path / "input").write_text("line\n")
    run = ("run", "-", "--sandbox", "local")
    assert typed(*run, "--stdin", tmp_path / "input", stdin=code).stdout == b"['line\\n']\n"
    assert typed(*run, stdin=code).stdout == b"['']\n"


def test_limits_are_those_given(program, capsys):
    code = """
import os, resource
for name in ("AS", "FSIZE", "NOFILE", "CPU"):
    print(resource.getrlimit(getattr(resource, "RLIMIT_" + name))[0])
"""
    main(["run", str(program(code)), "--stdin", "/dev/null", "--sandbox", "local", "--cpu-seconds",
          "7", "--file-mb", "1.5", "--open-files", "23", "--memory-mb", "100"])  # fmt: skip
    memory, file_bytes, files, cpu = map(int, capsys.readouterr().out.split())
    assert (file_bytes, files, cpu) == (1.5 * MIB, 23, 7)
    slack = memory - 100 * MIB - ADDRESS_SLACK_BYTES  # the interpreter's own address space
    assert 0 < slack < 512 * MIB


def test_a_job_that_asks_for_more_than_a_cage_holds_gets_a_larger_cage(box, program):
    code = """
import threading
threading.stack_size(1 << 18)
done = threading.Event()
threads = [threading.Thread(target=done.wait) for _ in range(150)]
for thread in threads: thread.start()
done.set()
with open("large", "wb") as file:
    for _ in range(280): file.write(bytes(1 << 20))
    print(file.tell() >> 20)
"""
    done = typed("run", program(code), "--sandbox", box.name, "--processes", 200,
                 "--file-mb", 300, "--memory-mb", 600)  # fmt: skip
    assert (done.returncode, done.stdout) == (0, b"280\n"), done.stderr


# --- programs that are no UTF-8 -----------------------------------------------------------------

SOURCES = {
    "utf-8": "print('é')".encode(),
    "byte order mark": "print('é')".encode("utf-8-sig"),
    "declared utf-8": "# -*- coding: UTF-8 -*-\nprint('é')".encode(),
    "mark and declaration": "# coding: utf-8\nprint('é')".encode("utf-8-sig"),
    "mark against declaration": "# coding: latin-1\nprint('e')".encode("utf-8-sig"),
    "latin-1": "# coding: latin-1\nprint('é')".encode("latin-1"),
    "latin-1 in vim's words": "# vim: set fileencoding=latin-1 :\nprint('é')".encode("latin-1"),
    "second line": "#!/usr/bin/python\n# coding: cp1252\nprint('€')".encode("cp1252"),
    "crlf": "# coding: cp1252\r\nprint('€')\r\n".encode("cp1252"),
    "third line": "#\n#\n# coding: latin-1\nprint('é')".encode("latin-1"),
    "after code": "pass\n# coding: latin-1\nprint('é')".encode("latin-1"),
    "koi8-r": "# coding: koi8-r\nprint('да')".encode("koi8-r"),
    "shift_jis": "# coding: shift_jis\nprint('日本')".encode("shift_jis"),
    "utf-7": b"# coding: utf-7\nprint('+AOk-')",
    "own source": b"# coding: latin-1\nprint(len(open(__file__, 'rb').read()))",
    "undeclared": "print('é')".encode("latin-1"),
    "undeclared, late": b"print(1)\n" * 9 + "'é'".encode("latin-1"),
    "wrongly declared": "# coding: ascii\nprint('é')".encode(),
    "unknown": b"# coding: klingon\nprint(1)",
    "no text encoding": b"# coding: rot13\nprint(1)",
    "utf-16": "print('é')".encode("utf-16"),
    "empty": b"",
    "a long first line": b"#" + b"x" * 10_000 + b"\nprint(1)",
}


@pytest.mark.parametrize("name", SOURCES)
def test_a_program_in_any_encoding_runs_as_it_does_in_plain_python(box, program, name):
    plain = subprocess.run(
        [sys.executable, program(SOURCES[name])],
        capture_output=True,
        env={**os.environ, "PYTHONUTF8": "1"},
        timeout=SECONDS,
    )
    if plain.returncode == 0:
        assert box.run(Job(source_text(SOURCES[name], name))).stdout == plain.stdout.decode()
    else:
        assert b"SyntaxError" in plain.stderr
        with pytest.raises(ValueError, match=name):
            source_text(SOURCES[name], name)


def test_a_file_that_is_no_text_is_explained(program, capsys):
    assert "null bytes" in refused(capsys, "run", sys.executable)
    assert "null bytes" in refused(capsys, "run", program(b"print(1)\n\0"))
    late = program(b"print(1)\nprint(2)\nprint('\xe9')")
    assert "line 3 has the byte 0xe9" in refused(capsys, "run", late)
    assert "# coding: latin-1" in refused(capsys, "run", program(b"'\xe9'"))
    assert "klingon" in refused(capsys, "run", program(SOURCES["unknown"]))


# --- bad input ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["run", "nowhere.py"], "nowhere.py cannot be read: No such file"),
        (["run", "/"], "/ cannot be read: Is a directory"),
        (["run", __file__, "--stdin", "nowhere.txt"], "nowhere.txt cannot be read: No such file"),
        (["run", "-", "--stdin", "-"], "cannot both be standard input"),
        (["run"], "required: FILE. vpd sandbox run --help says more"),
        (["run", __file__, "--sandbox", "jail"],
         "Unknown sandbox 'jail'. There are auto, docker, bubblewrap, local, ray; or module:Class"),
        (["run", __file__, "--backend", "local"], "--backend is called --sandbox"),
        (["run", __file__, "--wall-seconds", "-1"],
         "--wall-seconds: expected a positive number, got '-1'"),
        (["run", __file__, "--cpu-seconds", "0"], "--cpu-seconds: expected a positive number"),
        (["run", __file__, "--memory-mb", "nan"], "--memory-mb: expected a positive number"),
        (["run", __file__, "--output-mb", "inf"], "--output-mb: expected a positive number"),
        (["run", __file__, "--file-mb", "1 MB"], "--file-mb: expected a positive number"),
        (["run", __file__, "--processes", "2.5"], "--processes: expected a whole number"),
        (["run", __file__, "--open-files", ""], "--open-files: expected a positive number"),
        (["run", __file__, "--wall", "1"], "unrecognized arguments: --wall 1"),
        (["run", __file__, "--arguments", "[1]"], "--arguments needs --call"),
        (["run", __file__, "--call", "f", "--arguments", "{}"], "expected a JSON list"),
        (["run", __file__, "--call", "f", "--arguments", "[1"], "'[1' is not JSON"),
        (["run", __file__, "--call", "f", "--arguments", "[" * 99_999], "is not JSON"),
        (["build", "--name", "Two Words"], "expected the name of an image, such as vpd-sandbox"),
        (["rnu"], "invalid choice: 'rnu' (choose from"),
    ],
)  # fmt: skip
def test_bad_input_is_explained_in_one_line_with_exit_code_2(capsys, arguments, said):
    assert said in refused(capsys, *arguments)


def test_without_a_command_the_commands_are_named(capsys):
    assert main([]) == 2
    assert {"run", "build"} <= set(capsys.readouterr().err.split())


def test_help_tells_the_exit_codes(capsys):
    with pytest.raises(SystemExit) as end:
        main(["run", "--help"])
    text = capsys.readouterr().out
    assert end.value.code == 0
    assert all(f"  {code} " in text for code in (124, 137, 153, 125, 2, 130))


# --- infrastructure -----------------------------------------------------------------------------


@pytest.mark.parametrize("form", [[], ["--json"]])
@pytest.mark.parametrize("backend", ["docker", "bubblewrap"])
def test_a_sandbox_that_does_not_work_is_no_verdict(backend, form):
    done = typed("run", "-", "--sandbox", backend, *form, stdin=b"exit(125)", env=NOWHERE)
    assert (done.returncode, done.stdout) == (125, b"")
    assert done.stderr.startswith("python -m sandbox run: ")
    assert "vpd doctor shows how to fix it" in done.stderr
    # A program that ends with the same code has the line that only verdicts have.
    verdict = typed("run", "-", "--sandbox", "local", stdin=b"exit(125)")
    assert verdict.returncode == 125
    assert verdict.stderr.splitlines()[-1].startswith("sandbox: error, exit code 125")


def test_falling_back_to_local_is_said(program):
    done = typed("run", program("print(1)"), env=NOWHERE)
    assert (done.returncode, done.stdout) == (0, b"1\n")
    warning, last = done.stderr.splitlines()
    assert warning.startswith("python -m sandbox run: warning: The local sandbox protects neither")
    assert last.endswith(", local")


def test_a_reader_that_leaves_early_changes_nothing(program):
    process = start("run", program("print('x' * 999_999); exit(3)"), "--sandbox", "local")
    process.stdout.close()
    _, err = process.communicate(timeout=SECONDS)
    assert process.returncode == 3
    assert [line[:22] for line in err.decode().splitlines()] == ["sandbox: error, exit c"]
    code = program("print('x' * 999_999); exit(3)")
    everything = start("run", code, "--sandbox", "local", stderr=subprocess.STDOUT)
    everything.stdout.close()
    assert everything.wait(timeout=SECONDS) == 3


def test_an_output_that_cannot_be_written_is_told(program):
    with open("/dev/full", "wb") as full:
        process = start("run", program("print(1)"), "--sandbox", "local", stdout=full)
        _, err = process.communicate(timeout=SECONDS)
    assert process.returncode == 125
    assert b"<stdout> cannot be written: No space left on device" in err


def test_control_characters_reach_no_terminal(program):
    code = program(r"print('\x1b[31mred\x9b1m\x00\ttab\r\n' + 'é', end='')")
    ours, theirs = pty.openpty()
    try:
        process = start("run", code, "--sandbox", "local", stdout=theirs)
        process.communicate(timeout=SECONDS)
        shown = os.read(ours, 10_000).decode()
    finally:
        os.close(theirs)
        os.close(ours)
    # The terminal itself turns each \n into \r\n.
    assert shown == "\\x1b[31mred\\x9b1m\\x00\ttab\r\r\né"
    piped = typed("run", code, "--sandbox", "local").stdout
    assert piped == "\x1b[31mred\x9b1m\x00\ttab\r\né".encode()


# --- signals ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)]
)
def test_a_stopped_command_leaves_nothing_behind(box, program, tmp_path, number, code):
    folder = tmp_path / "temporary"
    folder.mkdir()
    program = program("import time\ntime.sleep(100)")
    process = start("run", program, "--sandbox", box.name, "--wall-seconds", 100,
                    env={"TMPDIR": str(folder)}, start_new_session=True)  # fmt: skip
    try:
        wait_for(lambda: containers_of(process.pid) or descendants(process.pid))
        below = descendants(process.pid)
        process.send_signal(number)
        out, err = process.communicate(timeout=SECONDS)
    finally:
        process.kill()
    assert (process.returncode, out) == (code, b"")
    assert err.count(b"\n") == 1
    wait_for(lambda: not containers_of(process.pid))
    wait_for(lambda: not any(map(alive, below)))
    assert list(folder.iterdir()) == []


def wait_for(condition):
    deadline = time.monotonic() + SECONDS
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def alive(pid: int) -> bool:
    return stat_fields(pid)[:1] not in ([], [b"Z"])


def containers_of(pid: int) -> list[str]:
    docker = pytest.importorskip("docker")
    with (
        contextlib.suppress(docker.errors.DockerException),
        contextlib.closing(docker.from_env()) as client,
    ):
        found = client.api.containers(all=True, filters={"label": LABEL})
        return [c["Id"] for c in found if c["Labels"][LABEL].endswith(f":{pid}")]
    return []


# --- building -----------------------------------------------------------------------------------


def test_building_without_an_engine_is_explained():
    no_engine = typed("build", env={"DOCKER_HOST": NOWHERE["DOCKER_HOST"]})
    no_program = typed("build", env={"PATH": NOWHERE["PATH"]})
    assert (no_engine.returncode, no_program.returncode) == (125, 125)
    assert "needs the program docker" in no_program.stderr
    assert "vpd doctor" in no_program.stderr
    assert "Docker" in no_engine.stderr
    assert "vpd doctor" in no_engine.stderr
    assert not no_engine.stdout + no_program.stdout


def test_an_interrupted_build_takes_its_processes_and_files_along(tmp_path):
    """With processes as the script has them: in a group of their own, and not quick to go."""
    script = "mktemp; timeout 100 sh -c 'trap \"sleep 0.5; exit 1\" TERM; sleep 100'; echo missed"
    driver = (
        "from sandbox.build import _run_script\nfrom sandbox.signals import StopSignals\n"
        f"with StopSignals(): _run_script(['sh', '-c', {script!r}])"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", driver],
        cwd=REPOSITORY,
        env={**os.environ, "TMPDIR": str(tmp_path)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    try:
        wait_for(lambda: len(descendants(process.pid)) >= 4)
        below = descendants(process.pid)
        assert any(folder.iterdir() for folder in tmp_path.iterdir())
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=SECONDS)
    finally:
        process.kill()
    assert b"signals.Stopped" in err
    assert b"missed" not in out + err
    assert not any(map(alive, below))
    assert list(tmp_path.iterdir()) == []


# --- one command --------------------------------------------------------------------------------


def test_vpd_sandbox_is_the_same_command(program, capsys):
    path = str(program("print(1)\nexit(9)"))
    arguments = ["run", path, "--stdin", "/dev/null", "--sandbox", "local"]
    assert main(arguments) == vpd(["sandbox", *arguments]) == 9
    output = capsys.readouterr()
    assert output.out == "1\n1\n"
    assert all(line.startswith("sandbox: error, exit code 9") for line in output.err.splitlines())


def test_the_command_loads_nothing_but_the_standard_library():
    heavy = ("docker", "torch", "gymnasium", "numpy", "tyro", "rich", "vpd_agent", "vpd_envs")
    program = f"import sys, sandbox.command; print([m for m in {heavy} if m in sys.modules])"
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=REPOSITORY, capture_output=True, text=True, check=True
    )
    assert done.stdout == "[]\n"


class Busy:
    """A sandbox on a machine that has no CPU for anybody."""

    name = "busy"

    def run(self, job):
        status = ExecutionStatus.STARVED
        return Execution(status, "", "", None, seconds=9, cpu_seconds=0.1, memory_bytes=0, signal=9)

    def close(self):
        pass


@pytest.mark.parametrize("form", [(), ("--json",)])
def test_a_program_that_starved_has_no_verdict(capsys, monkeypatch, program, form):
    monkeypatch.setattr(sandbox.command, "_open", lambda name, job: Busy())
    assert main(["run", str(program("print(42)")), "--stdin", os.devnull, *form]) == 125
    output = capsys.readouterr()
    assert output.out == ""
    assert "0.10 s of CPU time in 9.0 s" in output.err
    assert not output.err.startswith("sandbox:")
