"""How fast the environments judge, and how much memory they take while they do.

    python benchmarks/envs.py DATA_DIR [--quick] [--sandbox NAME] [--out DIR] [--seed N]

Measures, on all cores:

- code: the stored programs of DATA_DIR/code through `LiveCodeBench.judge_batch`, against the same
  jobs handed to the raw sandbox pool, in turns (target: at most 1.3 times its time);
- mathematics: right, equal but differently written, wrong, unreadable and missing answers to
  DATA_DIR/math, against Math-Verify called in a bare loop (target: 10,000 a minute);
- multiple choice: the same for DATA_DIR/sciknoweval (target: 10,000 a minute);
- memory: of this process and all its children, while a million answers stream through
  `judge_many` (with --quick, thirty thousand).

DATA_DIR is laid out like the issue's shared data: code/*.jsonl, math/*.jsonl, sciknoweval/. Writes
results.json, report.md and memory.png to --out. A full run without --out also renews the tables in
benchmarks/README.md. The exit code is 1 if a target was missed.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import statistics
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import cycle, islice
from pathlib import Path
from typing import Any

import programs
from common import CORES, HERE, machine, number, renew, table
from rich.console import Console
from rich.progress import Progress

import sandbox
from sandbox import Execution, Job
from vpd_envs import Problem, TextEnv
from vpd_envs.code.livecodebench import LiveCodeBench
from vpd_envs.math.environment import Math
from vpd_envs.questions.science import SciKnowEval

CODE_FILES = ("livecodebench_rows.jsonl", "codecontests_lcb_layout.jsonl")
MATH_SETS = ("math500", "gsm8k")
CODE_TARGET = 1.3  # times the raw pool, at most
RATE_TARGET = 10_000  # answers a minute, at least
GROWTH_TARGET = 1.1  # of memory in the second half of the stream, at most

Attempt = tuple[Problem, str]


@dataclass(frozen=True)
class Effort:
    rounds: int
    slow_seconds: float  # programs that take longer are left out
    answers: int  # of a round of mathematics or multiple choice
    stream: int  # answers whose memory is watched


FULL = Effort(rounds=5, slow_seconds=10.0, answers=5_000, stream=1_000_000)
QUICK = Effort(rounds=3, slow_seconds=0.3, answers=1_000, stream=30_000)


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Speed and memory of the environments.")
    parser.add_argument("data_dir", type=Path)
    parser.add_argument("--quick", action="store_true", help="less of everything: two minutes")
    parser.add_argument("--sandbox", default="auto", help="auto, docker, bubblewrap or local")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(argv)
    try:
        results = run(
            options.data_dir, options.sandbox, options.seed, QUICK if options.quick else FULL
        )
    except (OSError, ValueError, sandbox.SandboxError) as error:
        parser.error(str(error))
    words = " ".join(sys.argv[1:] if argv is None else argv)
    results["command"] = f"python benchmarks/envs.py {words}"
    text = report(results)
    folder = options.out or (Path("runs/envs") if options.quick else HERE / "envs")
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "results.json").write_text(json.dumps(results, separators=(",", ":")) + "\n")
    (folder / "report.md").write_text(f"# The environments\n\n{text}")
    draw(results["memory"], folder / "memory.png")
    if options.out is None and not options.quick:
        renew("envs.py", text)
    print(text)
    return int(any(not reached for _, reached in targets(results)))


def run(data: Path, box_name: str, seed: int, effort: Effort) -> dict[str, Any]:
    """Everything that was measured, as it goes to results.json."""
    rng = random.Random(seed)
    maths = [Math(data / "math", dataset=name) for name in MATH_SETS]
    science = SciKnowEval(data / "sciknoweval")
    with Progress(console=Console(stderr=True), transient=True) as bars:
        with sandbox.make(box_name) as box:
            code = measured_code(box, data / "code", effort, bars)
        math_attempts = [math_answers(env, rng) for env in maths]
        results = {
            "code": code,
            "mathematics": [
                measured_rate(name, env, attempts, effort, bars, bare=bare_math_verify)
                for name, env, attempts in zip(MATH_SETS, maths, math_attempts, strict=True)
            ],
            "multiple choice": [
                measured_rate("SciKnowEval", science, choices(science, rng), effort, bars)
            ],
            "memory": [
                measured_memory("SciKnowEval", science, choices(science, rng), effort.stream, bars),
                measured_memory(MATH_SETS[0], maths[0], math_attempts[0], effort.stream, bars),
            ],
        }
    for env in (*maths, science):
        env.close()
    return results | {"seed": seed, "machine": machine(), "rounds": effort.rounds}


# Code ---------------------------------------------------------------------------------------------


class Recorder:
    """A sandbox that notes the jobs it is given, program by program, and how long each takes."""

    def __init__(self, box: sandbox.Sandbox) -> None:
        self._box = box
        self.name = box.name
        self.python_version = box.python_version
        self.cages = 1
        self.jobs: list[Job] = []
        self.seconds = 0.0

    def run(self, job: Job) -> Execution:
        execution = self._box.run(job)
        self.jobs.append(job)
        self.seconds += execution.seconds
        return execution

    def close(self) -> None:
        """The sandbox inside is not ours to close."""


def measured_code(
    box: sandbox.Sandbox, folder: Path, effort: Effort, bars: Progress
) -> dict[str, Any]:
    """Rounds of the same programs, in turns: through the environments, and their bare jobs."""
    batches: list[tuple[LiveCodeBench, list[Problem], list[str]]] = []
    jobs: list[list[Job]] = []  # of each program
    wrong = 0
    bar = bars.add_task("code: recording", total=None)
    for name in CODE_FILES:
        recorder = Recorder(box)
        noting = LiveCodeBench(folder / name, sandbox=recorder)
        env = LiveCodeBench(folder / name, sandbox=box)
        problems, answers = [], []
        for program in programs.load(folder / name)[0]:
            if program.rule != "lines":
                continue  # the environment compares as LiveCodeBench does
            problem = env.problem(program.name.rpartition("#")[0])
            answer = f"```python\n{program.code}\n```"
            recorder.jobs, recorder.seconds = [], 0.0
            verdict = noting.judge(problem, answer)
            bars.advance(bar)
            if recorder.seconds > effort.slow_seconds:
                continue
            wrong += verdict.solved is not program.passes
            jobs.append(recorder.jobs)
            problems.append(problem)
            answers.append(answer)
        batches.append((env, problems, answers))

    def through_environments() -> None:
        for env, problems, answers in batches:
            env.judge_batch(problems, answers)

    def bare() -> None:
        with ThreadPoolExecutor(box.cages) as pool:
            list(pool.map(lambda own: [box.run(job) for job in own], jobs))

    ours, theirs = in_turns((through_environments, bare), effort.rounds, "code", bars)
    return {
        "sandbox": box.name,
        "programs": len(jobs),
        "jobs": sum(map(len, jobs)),
        "wrong_verdicts": wrong,
        "environment_seconds": ours,
        "pool_seconds": theirs,
    }


def in_turns(
    tasks: Sequence[Callable[[], object]], rounds: int, name: str, bars: Progress
) -> list[list[float]]:
    """Seconds of each task in each round; the order is turned round by round."""
    bar = bars.add_task(name, total=rounds)
    seconds: list[list[float]] = [[] for _ in tasks]
    for turn in range(rounds):
        order = list(range(len(tasks)))
        for index in order if turn % 2 else reversed(order):
            started = time.perf_counter()
            tasks[index]()
            seconds[index].append(time.perf_counter() - started)
        bars.advance(bar)
    return seconds


# Mathematics and multiple choice ------------------------------------------------------------------


def math_answers(env: Math, rng: random.Random) -> list[Attempt]:
    """To each problem: its answer, the same in another form, another problem's, one that cannot be
    read, and none."""
    attempts = []
    problems = [env.problem(problem_id) for problem_id in env.problem_ids]
    golds = {problem.id: problem.target.text for problem in problems}
    for problem in problems:
        gold = golds[problem.id]
        other = golds[rng.choice(problems).id]
        for final in (gold, rf"\frac{{2\left({gold}\right)}}{{2}}", other, r"\frac{1}{}"):
            attempts.append((problem, rf"First we think. Then we get $\boxed{{{final}}}$."))
        attempts.append((problem, "I do not know."))
    rng.shuffle(attempts)
    return attempts


def choices(env: SciKnowEval, rng: random.Random) -> list[Attempt]:
    """To each problem a right answer, one at random, one without a tag and one of two letters."""
    attempts = []
    for problem_id in env.problem_ids:
        problem = env.problem(problem_id)
        for final in (problem.target, rng.choice("ABCD"), "A or B"):
            text = f"<reasoning>\nIt follows.\n</reasoning>\n<answer>\n{final}\n</answer>"
            attempts.append((problem, text))
        attempts.append((problem, "It is B."))
    rng.shuffle(attempts)
    return attempts


def bare_math_verify(attempts: Sequence[Attempt]) -> float:
    """Seconds that Math-Verify alone takes, in a loop, without a time limit."""
    from math_verify import parse, verify

    started = time.perf_counter()
    for problem, answer in attempts:
        gold = parse(f"${problem.target.text}$", parsing_timeout=None)
        verify(gold, parse(answer, parsing_timeout=None), timeout_seconds=None)
    return time.perf_counter() - started


def measured_rate(
    name: str,
    env: TextEnv,
    attempts: Sequence[Attempt],
    effort: Effort,
    bars: Progress,
    bare: Callable[[Sequence[Attempt]], float] | None = None,
) -> dict[str, Any]:
    """Rounds of `effort.answers` answers; the first, which starts the workers, is not counted."""
    chosen = list(islice(cycle(attempts), effort.answers))
    statuses: Counter[str] = Counter()

    def all_of_them() -> None:
        statuses.clear()
        for verdict in env.judge_many(chosen):
            statuses[getattr(verdict, "status", "not judged")] += 1

    all_of_them()
    (seconds,) = in_turns((all_of_them,), effort.rounds, name, bars)
    result = {
        "environment": name,
        "answers": len(chosen),
        "seconds": seconds,
        "statuses": {str(status): n for status, n in statuses.most_common()},
    }
    if bare is not None:
        part = chosen[: max(200, len(chosen) // 5)]
        result["bare_seconds_per_answer"] = bare(part) / len(part)
    return result


# Memory -------------------------------------------------------------------------------------------


def measured_memory(
    name: str, env: TextEnv, attempts: Sequence[Attempt], count: int, bars: Progress
) -> dict[str, Any]:
    """Memory of all our processes while `count` answers, no two the same, stream through."""
    bar = bars.add_task(f"memory: {name}", total=count)
    samples: list[tuple[int, int, int]] = []  # answers judged, our bytes, our children's
    every = max(1, count // 200)
    started = time.perf_counter()
    for done, _ in enumerate(env.judge_many(distinct(attempts, count)), start=1):
        if done % every == 0:
            samples.append((done, *resident()))
            bars.update(bar, completed=done)
    return {
        "environment": name,
        "answers": count,
        "seconds": time.perf_counter() - started,
        "samples": samples,
    }


def distinct(attempts: Sequence[Attempt], count: int) -> Iterator[Attempt]:
    for index, (problem, answer) in enumerate(islice(cycle(attempts), count)):
        yield problem, f"Attempt {index}. {answer}"


def resident() -> tuple[int, int]:
    """Bytes that this process and its children hold for themselves or their share of (PSS)."""
    return held(os.getpid()), sum(held(pid) for pid in children(os.getpid()))


def children(parent: int) -> Iterable[int]:
    for thread in Path(f"/proc/{parent}/task").iterdir():
        for pid in (thread / "children").read_text().split():
            yield int(pid)
            yield from children(int(pid))


def held(pid: int) -> int:
    try:
        text = Path(f"/proc/{pid}/smaps_rollup").read_text()
    except OSError:  # it has ended
        return 0
    return int(text.partition("\nPss:")[2].split()[0]) << 10


# The report ---------------------------------------------------------------------------------------


def report(results: dict[str, Any]) -> str:
    about = results["machine"]
    code = results["code"]
    rows = [
        [
            rate["environment"],
            f"{rate['answers']:,}",
            f"{per_minute(rate):,.0f}",
            against_bare(rate),
            ", ".join(f"{status} {n:,}" for status, n in rate["statuses"].items()),
        ]
        for rate in results["mathematics"] + results["multiple choice"]
    ]
    ratios = code_ratios(code)
    parts = [
        f"`{results['command']}`\n\n"
        f"{about['date'][:10]}, {about['cpu']}, {about['cores']} cores, Linux {about['kernel']}, "
        f"Python {about['python']}, load average {about['load_average']:.1f} at the end; "
        f"seed {results['seed']}, commit {about['commit']}.",
        f"Code: {code['programs']} programs, {code['jobs']} jobs in {code['sandbox']}: "
        f"{statistics.median(ratios):.2f} times the raw pool's time (median of "
        f"{len(ratios)} rounds, {min(ratios):.2f} to {max(ratios):.2f}; "
        f"{statistics.median(code['environment_seconds']):.1f} s against "
        f"{statistics.median(code['pool_seconds']):.1f} s). "
        f"Verdicts that differ from the known ones: {code['wrong_verdicts']}.",
        table(["environment", "answers", "a minute", "against Math-Verify", "verdicts"], rows),
        table(
            ["streamed", "answers", "a minute", "memory at a tenth", "at half", "at the end"],
            [
                [
                    memory["environment"],
                    f"{memory['answers']:,}",
                    f"{memory['answers'] / memory['seconds'] * 60:,.0f}",
                    *(megabytes(memory, part) for part in (0.1, 0.5, 1.0)),
                ]
                for memory in results["memory"]
            ],
        ),
        "\n".join(
            f"- {'reached' if reached else '**missed**'}: {goal}"
            for goal, reached in targets(results)
        ),
    ]
    return "\n\n".join(parts) + "\n"


def targets(results: dict[str, Any]) -> list[tuple[str, bool]]:
    ratio = statistics.median(code_ratios(results["code"]))
    listed = [
        (f"code within {CODE_TARGET} times the raw pool: {ratio:.2f}", ratio <= CODE_TARGET),
        (
            f"verdicts on code as known: {results['code']['wrong_verdicts']} differ",
            results["code"]["wrong_verdicts"] == 0,
        ),
    ]
    for rate in results["mathematics"] + results["multiple choice"]:
        speed = per_minute(rate)
        goal = f"{rate['environment']}: {RATE_TARGET:,} answers a minute: {speed:,.0f}"
        listed.append((goal, speed >= RATE_TARGET))
    for memory in results["memory"]:
        growth = total_at(memory, 1.0) / total_at(memory, 0.5)
        goal = (
            f"{memory['environment']}: memory at the end at most {GROWTH_TARGET} times that at "
            f"half of {memory['answers']:,} answers: {growth:.2f}"
        )
        listed.append((goal, growth <= GROWTH_TARGET))
    return listed


def code_ratios(code: dict[str, Any]) -> list[float]:
    pairs = zip(code["environment_seconds"], code["pool_seconds"], strict=True)
    return [ours / bare for ours, bare in pairs]


def per_minute(rate: dict[str, Any]) -> float:
    return 60 * rate["answers"] / statistics.median(rate["seconds"])


def against_bare(rate: dict[str, Any]) -> str:
    """How many times as fast as Math-Verify in one bare loop per core."""
    bare = rate.get("bare_seconds_per_answer")
    return "" if bare is None else f"× {number(per_minute(rate) * bare / 60 / CORES)}"


def total_at(memory: dict[str, Any], part: float) -> int:
    samples = memory["samples"]
    _, ours, others = samples[max(0, int(part * len(samples)) - 1)]
    return ours + others


def megabytes(memory: dict[str, Any], part: float) -> str:
    return f"{total_at(memory, part) / 1e6:,.0f} MB"


def draw(memories: list[dict[str, Any]], path: Path) -> None:
    """Memory over answers, of this process and of all."""
    try:
        import matplotlib
    except ImportError:
        return
    matplotlib.use("agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(7, 3), layout="constrained")
    for memory, color in zip(memories, ("#1b6ca8", "#b3541e"), strict=True):
        answers = [done for done, _, _ in memory["samples"]]
        ours = [own / 1e6 for _, own, _ in memory["samples"]]
        everything = [(own + others) / 1e6 for _, own, others in memory["samples"]]
        axes.plot(answers, everything, color=color, label=f"{memory['environment']}, all")
        axes.plot(answers, ours, ":", color=color, label="this process")
    axes.set_xlabel("answers judged")
    axes.set_ylabel("memory (PSS), MB")
    axes.set_ylim(bottom=0)
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, fontsize=8)
    figure.savefig(path, dpi=150)
    pyplot.close(figure)


if __name__ == "__main__":
    sys.exit(main())
