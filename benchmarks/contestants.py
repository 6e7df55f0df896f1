"""The judges that judge.py compares, each in a process of its own.

A contestant's process imports what that judge needs and nothing else, so that none pays for the
memory, threads or patched modules of another. judge.py asks it over a pipe; it takes the times
itself, so that asking does not count.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib
import importlib.util
import itertools
import json
import marshal
import os
import queue
import resource
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from common import CORES
from programs import TINY, Program
from remote import Missing, Process

import sandbox
from sandbox import Call, Execution, ExecutionStatus, Limits, SandboxError
from sandbox.judge import CallTest, StdinTest, Test, judge, judge_many
from sandbox.local import interpreter
from sandbox.runner import MODULES, PRELUDE, descendants, stat_fields

HERE = Path(__file__).parent
IMAGE = "vpd-sandbox:latest"
TIME_LIMIT_SECONDS = 6  # per test, for every judge; LiveCodeBench's and SDPO's default
STUCK_SECONDS = 120.0  # the bare fork has no limits, and docker's client none of ours
ANSWER_SECONDS = 900.0  # for whatever one contestant is asked at once


@dataclass(frozen=True)
class Answer:
    """passed: the judge's verdict on one program. tests: how many it ran. seconds: what it took."""

    passed: bool
    tests: int
    seconds: float


@dataclass(frozen=True)
class Turn:
    """One contestant judged programs for a while.

    seconds: per judgment, or of all of them side by side.
    cpu_seconds: user and system time of all that the judge's processes did, together; None where
        processes that count ended unseen (see `CpuClock`).
    machine_cpu_seconds: the same of the whole machine, whoever used it.
    """

    seconds: tuple[float, ...]
    verdicts: tuple[bool, ...]
    tests: int
    cpu_seconds: float | None
    machine_cpu_seconds: float


# judge.py's side ----------------------------------------------------------------------------------


class Remote(Process):
    """A contestant's process as judge.py sees it."""

    def __init__(self, name: str, *options: Any) -> None:
        self.name = name
        super().__init__("contestants", (name, *options), answer_seconds=ANSWER_SECONDS)

    def turn(self, program: Program, stop: bool, seconds: float, at_most: int) -> Turn:
        """Judge the program again and again, one caller, for about so long: once at least."""
        return self.ask(("turn", program, stop, seconds, at_most))

    def crowd(self, programs: Sequence[Program]) -> Turn:
        """Judge all of them on all cores, as this judge is meant to be used."""
        return self.ask(("crowd", programs))

    def alone(self, programs: Sequence[Program]) -> list[float]:
        """Seconds of each program's own judgment. Only the bare fork answers this."""
        return self.ask(("alone", programs))

    def memory(self) -> list[dict[str, int]]:
        return self.ask(("memory",))

    def cold_start(self) -> dict[str, float]:
        return self.ask(("cold_start",))


# The contestant's side ----------------------------------------------------------------------------


def serve(fd: int) -> None:
    """Become the contestant that is asked for, and answer until the benchmark hangs up."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for judge.py, which then hangs up
    connection = Connection(fd)
    name, *options = connection.recv()
    try:
        contestant = CONTESTANTS[name](*options)
    except Missing as error:
        connection.send(("missing", str(error)))
        return
    with contextlib.closing(contestant):
        connection.send(("about", contestant.about))
        while True:
            try:
                method, *arguments = connection.recv()
            except EOFError:
                return
            try:
                answer = "answer", getattr(contestant, method)(*arguments)
            except Exception:
                answer = "missing", "it failed: " + traceback.format_exc(limit=-3)
            connection.send(answer)


class Contestant:
    """A judge. Subclasses say how it judges one program, and many."""

    about: dict[str, str]  # versions and whatever else a reader should know

    def containers(self) -> list[str] | None:
        """The containers it works in, by number; None if it needs no engine."""
        return None

    def judge(self, program: Program, stop_at_first_failure: bool) -> Answer:
        raise NotImplementedError

    def judge_many(self, programs: Sequence[Program]) -> Iterator[Answer]:
        with ThreadPoolExecutor(CORES) as executor:
            yield from executor.map(lambda program: self.judge(program, True), programs)

    def close(self) -> None:
        pass

    def turn(self, program: Program, stop: bool, seconds: float, at_most: int) -> Turn:
        answers: list[Answer] = []
        clock = CpuClock(self.containers())
        end = time.monotonic() + seconds
        while not answers or (time.monotonic() < end and len(answers) < at_most):
            answers.append(self.judge(program, stop))
        return self._turn([answer.seconds for answer in answers], answers, clock)

    def crowd(self, programs: Sequence[Program]) -> Turn:
        clock = CpuClock(self.containers())
        started = time.perf_counter()
        answers = list(self.judge_many(programs))
        return self._turn([time.perf_counter() - started], answers, clock)

    def _turn(self, seconds: list[float], answers: list[Answer], clock: CpuClock) -> Turn:
        return Turn(
            tuple(round(second, 6) for second in seconds),
            tuple(answer.passed for answer in answers),
            sum(answer.tests for answer in answers),
            *clock.seconds(),
        )


class Ours(Contestant):
    """`sandbox.make(backend)` with default options: one cage per core."""

    def __init__(self, backend: str) -> None:
        self.backend = backend
        try:
            self.box = sandbox.make(backend)
        except SandboxError as error:
            raise Missing(str(error)) from error
        self.about = {"cages": str(self.box.cages)}
        if backend == "docker":
            self.about["engine"] = docker_version()
        if backend == "bubblewrap":
            self.about["version"] = output_of("bwrap", "--version")

    def judge(self, program: Program, stop_at_first_failure: bool) -> Answer:
        tests = tests_of(program)
        started = time.perf_counter()
        judgment = judge(
            self.box,
            program.code,
            tests,
            limits=LIMITS,
            stop_at_first_failure=stop_at_first_failure,
        )
        seconds = time.perf_counter() - started
        return Answer(judgment.passed, len(judgment.results), seconds)

    def judge_many(self, programs: Sequence[Program]) -> Iterator[Answer]:
        pairs = ((program.code, tests_of(program)) for program in programs)
        for judgment in judge_many(self.box, pairs, limits=LIMITS):
            yield Answer(judgment.passed, len(judgment.results), 0.0)

    def containers(self) -> list[str] | None:
        return own_containers() if self.backend == "docker" else None

    def memory(self) -> list[dict[str, int]]:
        """Bytes of each warm cage. Empty where only root may know them."""
        if self.backend == "docker":
            roots = [pid for shim in shims(own_containers()) for pid in children(shim)]
        else:
            roots = children(os.getpid())
        try:
            return [memory_of([root, *descendants(root)]) for root in roots]
        except PermissionError:
            return []

    def cold_start(self) -> dict[str, float]:
        """Seconds until a new pool has answered in its first cage, and in two at once.

        `sandbox.make` runs a job in the first one. Two jobs that pause at the same time need both;
        their pause does not count.
        """
        pause_seconds = 0.1
        pausing = sandbox.Job(f"import time; time.sleep({pause_seconds})")
        started = time.perf_counter()
        with sandbox.make(self.backend, cages=2) as box, ThreadPoolExecutor(2) as executor:
            made = time.perf_counter()
            for execution in executor.map(box.run, [pausing, pausing]):
                if execution.status is not ExecutionStatus.OK:
                    raise AssertionError(f"the first job of a cage gave {execution}")
            both = time.perf_counter() - pause_seconds
        return {"first_cage_seconds": made - started, "both_cages_seconds": both - started}

    def close(self) -> None:
        self.box.close()


class ProcessPerTest(Contestant):
    """A command per test that reads standard input; what it prints is compared as ours is."""

    time_limit_seconds: float = TIME_LIMIT_SECONDS

    def __init__(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="vpd-judge-"))
        self.folder.chmod(0o755)  # containers come as another user
        self.numbers = itertools.count()
        try:
            self.start()
            answer = self.judge(TINY, True)
        except (OSError, subprocess.SubprocessError) as error:
            self.close()
            raise Missing(f"it cannot run: {error}") from error
        except BaseException:
            self.close()
            raise
        if not answer.passed:
            self.close()
            raise Missing("it did not get a tiny program right")

    def start(self) -> None:
        raise NotImplementedError

    def command_for(self, file: Path) -> list[str]:
        raise NotImplementedError

    def judge(self, program: Program, stop_at_first_failure: bool) -> Answer:
        code, tests, passed, ran = script(program), tests_of(program), True, 0
        started = time.perf_counter()
        for test, (data, _) in zip(tests, program.tests, strict=True):
            ran += 1
            passed &= self._passes(code, test, data)
            if stop_at_first_failure and not passed:
                break
        return Answer(passed, ran, time.perf_counter() - started)

    def _passes(self, code: str, test: Test, data: str) -> bool:
        file = self.folder / f"{next(self.numbers)}.py"
        file.write_text(code)
        try:
            run = subprocess.run(
                self.command_for(file),
                input=data.encode(),
                capture_output=True,
                timeout=self.time_limit_seconds,
                cwd=self.folder,
            )
        except subprocess.TimeoutExpired:
            return False
        finally:
            file.unlink()
        return run.returncode == 0 and test.passes(execution_of(run.stdout))

    def close(self) -> None:
        shutil.rmtree(self.folder, ignore_errors=True)


class PlainSubprocess(ProcessPerTest):
    """`subprocess.run([python, file])`: a fresh interpreter per test, no isolation."""

    def start(self) -> None:
        self.about = {"python": output_of(interpreter(), "--version")}

    def command_for(self, file: Path) -> list[str]:
        return [interpreter(), str(file)]


class DockerPerTest(ProcessPerTest):
    """A docker client per test. The folder of programs is mounted, read-only."""

    time_limit_seconds = STUCK_SECONDS
    RESTRICTIONS = (
        *("--network", "none", "--read-only", "--tmpfs", "/tmp", "--user", "65534:65534"),
        *("--cap-drop", "ALL", "--security-opt", "no-new-privileges"),
        *("--memory", "2g", "--memory-swap", "2g", "--pids-limit", "128"),
    )

    def start(self) -> None:
        self.about = {"engine": docker_version(), "client": output_of("docker", "--version")}
        self.mount = ("--volume", f"{self.folder}:/programs:ro")

    def containers(self) -> list[str] | None:
        return [self.container]


class DockerRun(DockerPerTest):
    """`docker run --rm`: a fresh container per test, with the restrictions of ours."""

    container = "not known beforehand"

    def command_for(self, file: Path) -> list[str]:
        run = ["docker", "run", "--rm", "--interactive", *self.RESTRICTIONS, "--cpus", "1"]
        return [*run, *self.mount, IMAGE, "python3", f"/programs/{file.name}"]


class DockerExec(DockerPerTest):
    """`docker exec`: a fresh interpreter per test in a running container, which all tests share."""

    container = ""

    def start(self) -> None:
        super().start()
        run = ["docker", "run", "--rm", "--detach", *self.RESTRICTIONS, *self.mount, IMAGE]
        self.container = output_of(*run, "sleep", "7200")

    def command_for(self, file: Path) -> list[str]:
        name = f"/programs/{file.name}"
        return ["docker", "exec", "--interactive", self.container, "python3", name]

    def close(self) -> None:
        if self.container:
            with contextlib.suppress(Missing):  # it ends by itself, though later
                output_of("docker", "kill", self.container)
        super().close()


class LiveCodeBench(Contestant):
    """LiveCodeBench's own harness, from a checkout: `check_correctness` and `codegen_metrics`.

    It always stops at the first failure. Many programs are judged by its own process pool, with one
    process per core. It forks from the process that calls it, so what that has imported counts:
    `first` is imported before.
    """

    def __init__(self, first: str | None, checkout: str | None) -> None:
        if checkout is None:
            raise Missing("not given: pass --livecodebench PATH, a checkout of it")
        sys.path.insert(0, checkout)
        name = "lcb_runner.evaluation.compute_code_generation_metrics"
        try:
            if first is not None:
                importlib.import_module(first)
            self.harness = importlib.import_module(name)
        except ImportError as error:
            raise Missing(f"{checkout} could not be imported: {error}") from error
        used = [Path(checkout, *name.split(".")).with_suffix(".py")]
        used.append(used[0].with_name("testing_util.py"))
        self.about = {"source": source_of(checkout, used)}

    def judge(self, program: Program, stop_at_first_failure: bool) -> Answer:
        sample = self.sample(program)
        started = time.perf_counter()
        results, _ = self.harness.check_correctness(
            sample, program.code, timeout=TIME_LIMIT_SECONDS, debug=False
        )
        seconds = time.perf_counter() - started
        return Answer(self.all_right(results), len(results), seconds)

    def judge_many(self, programs: Sequence[Program]) -> Iterator[Answer]:
        _, results, _ = self.harness.codegen_metrics(
            [self.sample(program) for program in programs],
            [[program.code] for program in programs],
            num_process_evaluate=CORES,
            timeout=TIME_LIMIT_SECONDS,
        )
        for index in range(len(programs)):
            (result,) = results[index]
            yield Answer(self.all_right(result), len(result), 0.0)

    @staticmethod
    def sample(program: Program) -> dict[str, str]:
        inputs, outputs = zip(*program.tests, strict=True)
        sample = {"inputs": inputs, "outputs": outputs, "fn_name": program.function}
        return {"input_output": json.dumps(sample)}

    @staticmethod
    def all_right(results: list[Any]) -> bool:
        """Its codes for failures are False and negative numbers."""
        return all(result > 0 for result in results)


class Sdpo(Contestant):
    """The verifier of SDPO, from a checkout: `compute_score` of its reward for code.

    It forks one process per test, all at once, and never stops early. Where its trainer calls it
    for one answer after the other, here one process per core does.

    It wants a bare function for problems with one. Programs that define `class Solution` get a
    last line that gives them that.
    """

    def __init__(self, checkout: str | None) -> None:
        if checkout is None:
            raise Missing("not given: pass --sdpo PATH, a checkout of it")
        file = Path(checkout, "verl/utils/reward_score/feedback/code.py")
        try:
            spec = importlib.util.spec_from_file_location("sdpo_code", file)
            self.verifier = importlib.util.module_from_spec(spec)
            sys.modules["sdpo_code"] = self.verifier
            spec.loader.exec_module(self.verifier)
        except (ImportError, OSError) as error:
            raise Missing(f"{file} could not be imported: {error}") from error
        self.about = {"source": source_of(checkout, [file])}

    def judge(self, program: Program, stop_at_first_failure: bool) -> Answer:
        solution, truth = self.texts(program)
        started = time.perf_counter()
        passed = self.passed(solution, truth)
        return Answer(passed, len(program.tests), time.perf_counter() - started)

    def judge_many(self, programs: Sequence[Program]) -> Iterator[Answer]:
        # Made here, so that its processes are forked before there are any threads.
        with ProcessPoolExecutor(CORES) as executor:
            verdicts = executor.map(self.passed, *zip(*map(self.texts, programs), strict=True))
            for program, passed in zip(programs, verdicts, strict=True):
                yield Answer(passed, len(program.tests), 0.0)

    @staticmethod
    def passed(solution: str, truth: str) -> bool:
        verifier = sys.modules["sdpo_code"]
        return verifier.compute_score(solution, truth, {"split": "test"})["score"] == 1.0

    @staticmethod
    def texts(program: Program) -> tuple[str, str]:
        code, function = program.code, program.function
        if function is not None and "class Solution" in code:
            code += f"\n\n{function} = Solution().{function}\n"
        inputs, outputs = zip(*program.tests, strict=True)
        truth = {
            "inputs": inputs,
            "outputs": outputs,
            "testtype": "stdin" if function is None else "functional",
            "fn_name": function or "",
            "time_limit": TIME_LIMIT_SECONDS,
        }
        return f"```python\n{code}\n```", json.dumps(truth)


class BareFork(Contestant):
    """The limit. See bare_fork.py; the seconds of one program are those taken there."""

    def __init__(self, ending: str) -> None:
        command = [interpreter(), "-I", str(HERE / "bare_fork.py"), ending, MODULES, PRELUDE]
        self.about = {"python": output_of(interpreter(), "--version")}
        self.free: queue.SimpleQueue[subprocess.Popen] = queue.SimpleQueue()
        self.interpreters = [
            subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
            )
            for _ in range(CORES)
        ]
        for process in self.interpreters:
            self.free.put(process)

    def judge(self, program: Program, stop_at_first_failure: bool) -> Answer:
        passed, ran, seconds = True, 0, 0.0
        process = self.free.get()
        try:
            for test, (data, _) in zip(tests_of(program), program.tests, strict=True):
                ran += 1
                took, status, out, _ = self._ask(process, (program.code, program.function, data))
                seconds += took
                passed &= status == 0 and test.passes(execution_of(out))
                if stop_at_first_failure and not passed:
                    break
        finally:
            self.free.put(process)
        return Answer(passed, ran, seconds)

    @staticmethod
    def _ask(process: subprocess.Popen, request: tuple[str, str | None, str]) -> tuple[Any, ...]:
        code, function, data = request
        packed = marshal.dumps((code, function, data.encode()))
        process.stdin.write(len(packed).to_bytes(4, "big") + packed)
        process.stdin.flush()
        if not select.select([process.stdout], [], [], STUCK_SECONDS)[0]:
            raise TimeoutError(f"a program ran for {STUCK_SECONDS:g} s: {code[:200]!r}")
        size = int.from_bytes(process.stdout.read(4), "big")
        return marshal.loads(process.stdout.read(size))

    def alone(self, programs: Sequence[Program]) -> list[float]:
        return [answer.seconds for answer in self.judge_many(programs)]

    def memory(self) -> list[dict[str, int]]:
        return [memory_of([process.pid]) for process in self.interpreters]

    def close(self) -> None:
        for process in self.interpreters:
            process.kill()
            process.communicate()


CONTESTANTS: dict[str, Callable[..., Contestant]] = {
    "docker": lambda: Ours("docker"),
    "bubblewrap": lambda: Ours("bubblewrap"),
    "local": lambda: Ours("local"),
    "bare fork": lambda: BareFork("exit"),
    "bare fork, finalized": lambda: BareFork("finalize"),
    "subprocess": PlainSubprocess,
    "docker exec": DockerExec,
    "docker run": DockerRun,
    "LiveCodeBench": lambda checkout: LiveCodeBench(None, checkout),
    # What its own command imports before it judges, torch among it.
    "LiveCodeBench + torch": lambda checkout: LiveCodeBench("lcb_runner.runner.parser", checkout),
    "SDPO": Sdpo,
}


# Programs -----------------------------------------------------------------------------------------

LIMITS = Limits(wall_seconds=TIME_LIMIT_SECONDS)


def tests_of(program: Program) -> list[Test]:
    """The program's tests for our judge."""
    if program.function is None:
        return [StdinTest(data, expected, program.rule) for data, expected in program.tests]
    return [
        CallTest(Call(program.function, tuple(arguments_of(data))), expected)
        for data, expected in program.tests
    ]


def arguments_of(data: str) -> list[Any]:
    return [json.loads(line) for line in data.splitlines() if line.strip()]


def execution_of(stdout: bytes) -> Execution:
    """What a process of somebody else's printed, for the comparison of ours."""
    text = stdout.decode("utf-8", "replace")
    value = text.rstrip().rpartition("\n")[2]
    return Execution(ExecutionStatus.OK, text, "", 0, 0.0, 0.0, 0, value=value)


CALL = """
_owner = Solution() if "Solution" in globals() else None
_call = getattr(_owner, {function!r}) if _owner else {function}
_lines = __import__("sys").stdin.read().splitlines()
_parse, _text = __import__("json").loads, __import__("json").dumps
print("\\n" + _text(_call(*[_parse(line) for line in _lines if line.strip()])))
"""


def script(program: Program) -> str:
    """A program that reads standard input, whatever `program` is."""
    if program.function is None:
        return program.code
    return f"{PRELUDE}\n{program.code}\n{CALL.format(function=program.function)}"


# Measuring ----------------------------------------------------------------------------------------


class CpuClock:
    """User and system time of this process, of all it started, and of the engine if it needs that.

    An ended process counts through whoever waited for it; living ones are read from /proc, in ticks
    of 10 ms. The engine's are its daemons (whoever keeps them busy), and for each container a shim
    with all that is in it. If a process ends that has counted already, its time and that of those
    it waited for may be lost (a cage is replaced, say), and only the time of the whole machine is
    known; so it is if the containers are not known beforehand.
    """

    def __init__(self, containers: list[str] | None) -> None:
        self._shims = None if containers is None else shims(containers)
        self._complete = containers is None or len(self._shims) == len(containers)
        self._keepers = [
            pid for pid in self._alive() if cpu_seconds(pid) or cpu_seconds(pid, of_ended=True)
        ]
        self._start = self._read()

    def seconds(self) -> tuple[float | None, float]:
        own, machine = (now - then for now, then in zip(self._read(), self._start, strict=True))
        # Not merely there: a process whose parent has ended is not ours any more, and may be dead.
        kept = set(self._keepers) <= set(self._alive())
        known = self._complete and kept and all(map(stat_fields, self._shims or []))
        return own if known else None, machine

    def _read(self) -> tuple[float, float]:
        usages = map(resource.getrusage, (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
        own = sum(usage.ru_utime + usage.ru_stime for usage in usages)
        alive = self._alive()
        own += sum(cpu_seconds(pid) + cpu_seconds(pid, of_ended=True) for pid in alive)
        return own, machine_cpu_seconds()

    def _alive(self) -> list[int]:
        alive = descendants(os.getpid())
        if self._shims is not None:
            alive += processes_named("dockerd", "containerd")
            alive += [pid for shim in self._shims for pid in (shim, *descendants(shim))]
        return alive


TICK = os.sysconf("SC_CLK_TCK")


def cpu_seconds(pid: int, *, of_ended: bool = False) -> float:
    """Of a process, or of those that it started and waited for."""
    fields = stat_fields(pid)
    return sum(map(int, fields[13:15] if of_ended else fields[11:13])) / TICK


def machine_cpu_seconds() -> float:
    fields = Path("/proc/stat").read_text().split("\n", 1)[0].split()
    user, nice, system, _idle, _iowait, irq, softirq = map(int, fields[1:8])
    return (user + nice + system + irq + softirq) / TICK


def processes_named(*names: str) -> list[int]:
    found = []
    for path in Path("/proc").glob("[0-9]*/comm"):
        with contextlib.suppress(OSError):
            if path.read_text().strip() in names:
                found.append(int(path.parent.name))
    return found


def children(pid: int) -> list[int]:
    return [child for child in descendants(pid) if int((stat_fields(child) or [0, 0])[1]) == pid]


def shims(containers: list[str]) -> list[int]:
    """The process above each container, if the engine runs on this machine."""
    found = []
    for pid in processes_named("containerd-shim"):  # as the kernel cuts names, to 15 bytes
        with contextlib.suppress(OSError):
            words = Path(f"/proc/{pid}/cmdline").read_text().split("\0")
            if any(container in words for container in containers):
                found.append(pid)
    return found


def own_containers() -> list[str]:
    """The cages of this process."""
    template = '{{.ID}} {{.Label "vpd-sandbox.owner"}}'
    listed = output_of("docker", "ps", "--no-trunc", "--format", template).splitlines()
    return [line.split()[0] for line in listed if line.endswith(f":{os.getpid()}")]


def memory_of(pids: list[int]) -> dict[str, int]:
    """Bytes: `pss` shares what several processes map among them, `private` is theirs alone."""
    sums = {"pss": 0, "private": 0, "processes": len(pids)}
    for pid in pids:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()[1:]
        fields = (line.split() for line in lines)
        sizes = {key.rstrip(":"): int(kilobytes) << 10 for key, kilobytes, _ in fields}
        sums["pss"] += sizes["Pss"]
        sums["private"] += sizes["Private_Clean"] + sizes["Private_Dirty"]
    return sums


def output_of(*command: str) -> str:
    """What a command prints. Raises Missing if there is no such command, or if it fails."""
    try:
        run = subprocess.run(command, capture_output=True, text=True, timeout=STUCK_SECONDS)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise Missing(f"{command[0]} does not work: {error}") from error
    if run.returncode != 0:
        raise Missing(f"{' '.join(command[:2])} failed: {run.stderr.strip()[-300:]}")
    return run.stdout.strip()


def docker_version() -> str:
    return output_of("docker", "version", "--format", "{{.Server.Version}}")


def source_of(checkout: str, files: list[Path]) -> str:
    """The commit of a checkout; without one, a hash of the files that are used."""
    with contextlib.suppress(Missing):
        if Path(checkout, ".git").exists():
            return "commit " + output_of("git", "-C", checkout, "rev-parse", "HEAD")
    digest = hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()
    return f"SHA-256 of {', '.join(file.name for file in files)}: {digest[:16]}"
