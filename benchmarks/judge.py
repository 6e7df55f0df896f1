"""Our sandbox beside today's judges: the same programs and tests on the same cores, in one run.

    python benchmarks/judge.py [--quick] [--data FILE.jsonl ...]
                               [--livecodebench PATH] [--sdpo PATH] [--out DIR] [--seed N]

Measures, for each judge that can take part (the others are named): the latency of one program with
one test and with twenty, programs per second on all cores with the verdicts compared to the known
ones, CPU time; and for our cages memory and cold start. benchmarks/README.md reads the figures.

Contestants take turns, in another order each round, so that whatever else the machine does falls on
all of them. Writes to --out: results.json (every single time, the machine, versions, seed),
report.md, and latency.png if matplotlib is there. A full run without --out also renews the tables
in benchmarks/README.md. The exit code is 1 if a judge of ours failed or gave a wrong verdict.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import json
import random
import statistics
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import programs
from common import machine, number, progress_bar, renew, table
from contestants import CONTESTANTS, CORES, TIME_LIMIT_SECONDS, Missing, Remote
from programs import CONTEST, TINY, TWENTY_RIGHT, TWENTY_WRONG, Program
from rich.progress import Progress

HERE = Path(__file__).parent

OURS = ("docker", "bubblewrap", "local")
LIMIT = "bare fork"
RIVAL = "LiveCodeBench"
SHORT = "short programs of all data"
SHORT_SECONDS = 0.1  # all tests of a program, in the bare fork
INTERPRETER_PER_TEST = ("subprocess", "docker exec", "docker run")
LATENCY_TARGET = 2.5  # times the bare fork, at most
THROUGHPUT_TARGET = 10.0  # times LiveCodeBench's harness, at least

ISOLATION = {
    "docker": "container",
    "bubblewrap": "namespaces",
    "local": "limits, own user",
    "docker exec": "container, shared by all tests",
    "docker run": "container",
    "LiveCodeBench": "none: patched builtins",
    "LiveCodeBench + torch": "none: patched builtins",
    "SDPO": "none: patched builtins",
}


@dataclass(frozen=True)
class Effort:
    """How long to measure. A turn ends after so many seconds or judgments, but judges once."""

    rounds: int
    turn_seconds: float
    turn_judgments: int
    twenty_rounds: int
    crowd_rounds: int
    crowd_programs: int  # of each file, at random
    crowd_seconds: float  # of their own computing, all together; the others are left out
    slow_seconds: float  # judges with an interpreter per test get only the first, for about so long
    cold_starts: int


FULL = Effort(10, 0.3, 100, 3, 3, 10_000, 1e6, 8.0, 5)
QUICK = Effort(4, 0.2, 50, 1, 1, 24, 2.5, 2.0, 1)


def main(argv: Sequence[str] | None = None) -> int:
    options = parsed(argv)
    words = sys.argv[1:] if argv is None else argv
    results = run(options, QUICK if options.quick else FULL)
    results["command"] = " ".join(["python benchmarks/judge.py", *map(shown, words)])
    text = report(results)
    write(results, text, options.out or (Path("runs/judge") if options.quick else HERE / "judge"))
    if options.out is None and not options.quick:
        renew("judge.py", text)
    print(text)
    for fault in faults(results):
        print(f"judge.py: {fault}", file=sys.stderr)
    return int(bool(faults(results)))


def run(options: argparse.Namespace, effort: Effort) -> dict[str, Any]:
    """Everything that was measured, as it goes to results.json."""
    files = {path.name: load(path) for path in options.data}
    crowds = {name: loaded for name, (loaded, _) in files.items()}
    checkouts = {
        name: options.sdpo if name == "SDPO" else options.livecodebench
        for name in CONTESTANTS
        if name.startswith(("SDPO", RIVAL))
    }
    with contextlib.ExitStack() as stack:
        progress = stack.enter_context(progress_bar())
        arena = Arena(options.only or list(CONTESTANTS), checkouts, progress)
        stack.enter_context(contextlib.closing(arena))
        measured = arena.measure(
            effort, crowds or {"built-in programs": programs.built_in()}, options.seed
        )
    return measured | {
        "seed": options.seed,
        "left_out": [name for _, left_out in files.values() for name in left_out],
        "machine": machine(),
        "effort": asdict(effort),
    }


def write(results: dict[str, Any], text: str, folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "results.json").write_text(json.dumps(results, separators=(",", ":")) + "\n")
    (folder / "report.md").write_text("# Judges side by side\n\n" + text)
    draw(results, folder / "latency.png")


def parsed(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description="Our sandbox beside today's judges.", epilog="See benchmarks/README.md."
    )
    parser.add_argument("--quick", action="store_true", help="less of everything: two minutes")
    parser.add_argument(
        "--data",
        type=Path,
        nargs="+",
        default=[],
        metavar="FILE.jsonl",
        help="rows of LiveCodeBench with `solutions`, for the throughput (else 20 of our own)",
    )
    parser.add_argument("--livecodebench", metavar="PATH", help="a checkout of LiveCodeBench")
    parser.add_argument("--sdpo", metavar="PATH", help="a checkout of SDPO")
    parser.add_argument("--out", type=Path, metavar="DIR", help="where to write the results")
    parser.add_argument("--seed", type=int, default=0, help="of the order of turns and programs")
    parser.add_argument(
        "--only", nargs="+", choices=CONTESTANTS, metavar="NAME", help="just these contestants"
    )
    return parser.parse_args(argv)


def load(path: Path) -> tuple[list[Program], list[str]]:
    try:
        return programs.load(path)
    except (OSError, ValueError) as error:
        sys.exit(f"judge.py: {error}")


def shown(argument: str) -> str:
    """Files and folders lie elsewhere on other machines."""
    return Path(argument).name if "/" in argument else argument


# Measuring ----------------------------------------------------------------------------------------


class Arena:
    """All contestants that can take part, and what they did in each measurement."""

    def __init__(
        self, names: Sequence[str], checkouts: dict[str, str | None], progress: Progress
    ) -> None:
        self.missing = {name: "not asked for" for name in CONTESTANTS if name not in names}
        self.taking_part: dict[str, Remote] = {}
        self.about: dict[str, dict[str, str]] = {}
        self._progress = progress
        for name in self._shown(names, "Starting"):
            remote = Remote(name, *([checkouts[name]] if name in checkouts else []))
            try:
                remote.ready()
            except Missing as reason:
                self.missing[name] = str(reason)
                remote.close()
                continue
            self.taking_part[name] = remote
            self.about[name] = remote.about

    def measure(
        self, effort: Effort, crowds: dict[str, list[Program]], seed: int
    ) -> dict[str, Any]:
        chance = random.Random(seed)
        turn = effort.turn_seconds, effort.turn_judgments
        tasks = {"tiny": (TINY, True), "contest": (CONTEST, True)}
        self._rounds("Warming up", 1, tasks, turn, chance)
        self._crowd("Warming up", 1, [TINY] * CORES, dict.fromkeys(CONTESTANTS, CORES), chance)
        latency = self._rounds("One test", effort.rounds, tasks, turn, chance)
        tasks = {
            "wrong, may stop": (TWENTY_WRONG, True),
            "wrong, all": (TWENTY_WRONG, False),
            "right": (TWENTY_RIGHT, True),
        }
        twenty = self._rounds("Twenty tests", effort.twenty_rounds, tasks, turn, chance)

        throughput = {}
        for name, crowd in self._groups(effort, crowds, chance).items():
            many = [program for program, _ in crowd]
            shares = {
                contestant: share(crowd, turns, effort.slow_seconds)
                if contestant in INTERPRETER_PER_TEST
                else len(crowd)
                for contestant, turns in latency["tiny"].items()
            }
            throughput[name] = {
                "programs": [
                    {
                        "name": program.name,
                        "passes": program.passes,
                        "tests": len(program.tests),
                        "bare_fork_seconds": seconds,
                    }
                    for program, seconds in crowd
                ],
                "turns": self._crowd(name, effort.crowd_rounds, many, shares, chance),
            }
        memory = {
            name: self._asked(name, "memory")
            for name in self._shown([*OURS, LIMIT], "Memory")
            if name in self.taking_part
        }
        cold = {
            name: [self._asked(name, "cold_start") for _ in range(effort.cold_starts)]
            for name in self._shown(OURS, "Cold start")
            if name in self.taking_part
        }
        return {
            "latency": latency,
            "twenty": twenty,
            "throughput": throughput,
            "memory": memory,
            "cold_start": cold,
            "missing": self.missing,
            "about": self.about,
        }

    def close(self) -> None:
        for remote in self.taking_part.values():
            remote.close()

    def _groups(
        self, effort: Effort, crowds: dict[str, list[Program]], chance: random.Random
    ) -> dict[str, list[tuple[Program, float]]]:
        """Programs of each file, in random order, with their seconds in the bare fork.

        And, if there are long ones, a group without them: there judges hardly matter.
        """
        groups = {}
        for name, crowd in crowds.items():
            many = chance.sample(crowd, min(effort.crowd_programs, len(crowd)))
            alone = self._asked(LIMIT, "alone", many) or [0.0] * len(many)
            spent = itertools.accumulate(alone)
            groups[name] = [
                (program, seconds)
                for program, seconds, so_far in zip(many, alone, spent, strict=True)
                if so_far <= effort.crowd_seconds
            ]
        together = [pair for group in groups.values() for pair in group]
        short = [pair for pair in together if pair[1] < SHORT_SECONDS]
        return groups | ({SHORT: short} if 0 < len(short) < len(together) else {})

    def _rounds(
        self,
        title: str,
        rounds: int,
        tasks: dict[str, tuple[Program, bool]],
        turn: tuple[float, int],
        chance: random.Random,
    ) -> dict[str, dict[str, list[dict[str, Any]]]]:
        """For each task and contestant, one Turn per round."""
        turns: dict[str, dict[str, list]] = {task: {} for task in tasks}
        order = [
            (task, name)
            for _ in range(rounds)
            for task in tasks
            for name in chance.sample(list(self.taking_part), len(self.taking_part))
        ]
        for task, name in self._shown(order, title):
            result = self._asked(name, "turn", *tasks[task], *turn)
            if result is not None:
                turns[task].setdefault(name, []).append(asdict(result))
        return turns

    def _crowd(
        self,
        title: str,
        rounds: int,
        many: Sequence[Program],
        shares: dict[str, int],
        chance: random.Random,
    ) -> dict[str, list[dict[str, Any]]]:
        turns: dict[str, list] = {}
        order = [
            name
            for _ in range(rounds)
            for name in chance.sample(list(self.taking_part), len(self.taking_part))
        ]
        for name in self._shown(order, title):
            result = self._asked(name, "crowd", many[: shares[name]])
            if result is not None:
                turns.setdefault(name, []).append(asdict(result))
        return turns

    def _asked(self, name: str, question: str, *arguments: Any) -> Any:
        """None if the contestant has failed; then it takes no further part."""
        remote = self.taking_part.get(name)
        if remote is None:
            return None
        try:
            return getattr(remote, question)(*arguments)
        except Missing as reason:
            self.missing[name] = str(reason)
            self.taking_part.pop(name).close()
            return None

    def _shown(self, steps: Sequence[Any], title: str) -> Iterator[Any]:
        return iter(self._progress.track(steps, description=title))


def share(
    crowd: Sequence[tuple[Program, float]], tiny: Sequence[dict[str, Any]], seconds: float
) -> int:
    """How many of the programs a contestant judges in about so long on all cores.

    A guess: each test costs what its tiny program did, and the program what it cost the bare fork.
    """
    per_test = statistics.median(second for turn in tiny for second in turn["seconds"])
    spent = 0.0
    for index, (program, own) in enumerate(crowd):
        spent += (per_test * len(program.tests) + own) / CORES
        if spent > seconds:
            return max(index, 1)
    return len(crowd)


# The report ---------------------------------------------------------------------------------------


def report(results: dict[str, Any]) -> str:
    """The tables, the targets, and who gave which wrong verdicts, as Markdown."""
    about = results["machine"]
    parts = [
        f"`{results['command']}`\n\n"
        f"{about['date'][:10]}, {about['cpu']}, {about['cores']} cores, Linux {about['kernel']}, "
        f"Python {about['python']}, load average {about['load_average']:.1f} at the end; "
        f"seed {results['seed']}, commit {about['commit']}.",
        "### One program with one test, one caller\n\n" + latency_table(results),
        "### One program with twenty tests, one caller, ms\n\n" + twenty_table(results),
        *(
            f"### Programs per second on {about['cores']} cores: {group}\n\n"
            + throughput_table(results, group)
            for group in results["throughput"]
        ),
        "### Verdicts, compared to the known ones\n\n" + verdict_table(results),
        "### A warm cage, and a cold start\n\n" + cage_table(results),
        "### Targets\n\n" + "\n".join(targets(results)),
    ]
    versions = [
        f"- {name}: {', '.join(f'{key} {value}' for key, value in facts.items())}"
        for name, facts in results["about"].items()
        if facts
    ]
    parts.append("### Versions\n\n" + "\n".join(versions))
    if results["missing"]:
        listed = [f"- {name}: {reason}" for name, reason in results["missing"].items()]
        parts.append("### Missing contestants\n\n" + "\n".join(listed))
    return "\n\n".join(parts) + "\n"


def latency_table(results: dict[str, Any]) -> str:
    head = ["judge", "isolation"]
    for task in ("tiny", "contest"):
        head += [f"{task}: ms (p10–p90)", f"× {LIMIT}", "CPU ms"]
    rows = []
    for name in CONTESTANTS:
        row = [name, ISOLATION.get(name, "none")]
        for task in ("tiny", "contest"):
            turns = results["latency"][task].get(name)
            row += [*spread(turns), ratio(results, task, name), cpu(turns)] if turns else ["—"] * 3
        rows.append(row)
    return table(head, rows)


def spread(turns: list[dict[str, Any]]) -> list[str]:
    """Median, 10th and 90th percentile of all judgments."""
    seconds = [second for turn in turns for second in turn["seconds"]]
    median, low, high = quantiles(seconds)
    wrong = sum(not passed for turn in turns for passed in turn["verdicts"])
    note = f", {wrong} of {len(seconds)} wrong" if wrong else ""
    return [f"{milliseconds(median)} ({milliseconds(low)}–{milliseconds(high)}){note}"]


def quantiles(seconds: Sequence[float]) -> tuple[float, float, float]:
    ordered = sorted(seconds)
    last = len(ordered) - 1
    return statistics.median(ordered), ordered[round(0.1 * last)], ordered[round(0.9 * last)]


def ratios(results: dict[str, Any], task: str, name: str) -> list[float]:
    """Of the medians, round by round: what slows the machine down slows both."""
    turns = results["latency"][task]
    if name not in turns or LIMIT not in turns:
        return []
    return [
        statistics.median(turn["seconds"]) / statistics.median(limit["seconds"])
        for turn, limit in zip(turns[name], turns[LIMIT], strict=False)
    ]


def ratio(results: dict[str, Any], task: str, name: str) -> str:
    found = ratios(results, task, name)
    if not found:
        return "—"
    return f"{number(statistics.median(found))} ({number(min(found))}–{number(max(found))})"


def cpu(turns: list[dict[str, Any]], per: str = "verdicts") -> str:
    """Milliseconds per judgment or test; † if only known of the whole machine."""
    known = [turn for turn in turns if turn["cpu_seconds"] is not None]
    key = "cpu_seconds" if known else "machine_cpu_seconds"
    counts = [turn[per] if per == "tests" else len(turn[per]) for turn in known or turns]
    seconds = sum(turn[key] for turn in known or turns)
    return milliseconds(seconds / sum(counts)) + ("" if known else "†")


def twenty_table(results: dict[str, Any]) -> str:
    head = ["judge", "wrong at the first, may stop", "wrong at the first, all asked for", "right"]
    rows = []
    for name in CONTESTANTS:
        row = [name]
        for task, turns in results["twenty"].items():
            if name not in turns:
                row.append("—")
                continue
            seconds = [second for turn in turns[name] for second in turn["seconds"]]
            judged = sum(len(turn["verdicts"]) for turn in turns[name])
            ran = sum(turn["tests"] for turn in turns[name]) / judged
            expected = task == "right"
            wrong = sum(v != expected for turn in turns[name] for v in turn["verdicts"])
            unasked = ran != (1 if task == "wrong, may stop" else 20)
            row.append(
                milliseconds(statistics.median(seconds))
                + (f" (ran {ran:g})" if unasked else "")
                + (f", {wrong} of {judged} verdicts wrong" if wrong else "")
            )
        rows.append(row)
    return table(head, rows)


def throughput_table(results: dict[str, Any], group: str) -> str:
    known, turns_of = (results["throughput"][group][key] for key in ("programs", "turns"))
    head = [
        "judge",
        "programs",
        "programs/s (min–max)",
        f"× {RIVAL}",
        "tests run",
        "CPU ms per test",
    ]
    rows = []
    for name in CONTESTANTS:
        turns = turns_of.get(name)
        if not turns:
            rows.append([name, *["—"] * (len(head) - 1)])
            continue
        rates, gains = speeds(turns), gain(results, group, name)
        rows.append(
            [
                name,
                f"{len(turns[0]['verdicts'])} of {len(known)}",
                f"{number(statistics.median(rates))} ({number(min(rates))}–{number(max(rates))})",
                number(statistics.median(gains)) if gains else "—",
                str(turns[0]["tests"]),
                cpu(turns, "tests"),
            ]
        )
    seconds = sum(program["bare_fork_seconds"] for program in known)
    long = [program for program in known if program["bare_fork_seconds"] >= SHORT_SECONDS]
    note = (
        f"{len(known)} programs, {sum(program['tests'] for program in known)} tests; one after the "
        f"other they take the {LIMIT} {number(seconds)} s"
    )
    if long:
        heavy = sum(program["bare_fork_seconds"] for program in long)
        note += f", of which {len(long)} long ones take {number(heavy)} s"
    return f"{note}.\n\n{table(head, rows)}"


def speeds(turns: list[dict[str, Any]]) -> list[float]:
    """Programs per second of each round."""
    return [len(turn["verdicts"]) / turn["seconds"][0] for turn in turns]


def gain(results: dict[str, Any], group: str, name: str) -> list[float]:
    """Round by round, how many times as fast as the rival. Only on the same programs."""
    turns_of = results["throughput"].get(group, {"turns": {}})["turns"]
    turns, rival = turns_of.get(name), turns_of.get(RIVAL)
    if not turns or not rival or len(turns[0]["verdicts"]) != len(rival[0]["verdicts"]):
        return []
    return [a / b for a, b in zip(speeds(turns), speeds(rival), strict=False)]


def verdict_table(results: dict[str, Any]) -> str:
    head = ["judge", "right", "passed wrongly", "failed wrongly"]
    rows = []
    for name in CONTESTANTS:
        judged, too_kind, too_strict = verdicts(results, name)
        if judged == 0:
            rows.append([name, "—", "—", "—"])
            continue
        right = judged - len(too_kind) - len(too_strict)
        rows.append([name, f"{right} of {judged}", some(too_kind), some(too_strict)])
    note = ""
    if results["left_out"]:
        note = (
            f"\n\nLeft out, because every judge would just wait for its time limit of "
            f"{TIME_LIMIT_SECONDS} s: {', '.join(results['left_out'])}."
        )
    return table(head, rows) + note


def verdicts(results: dict[str, Any], name: str) -> tuple[int, list[str], list[str]]:
    """How many programs it judged, and which of them it passed and failed wrongly in any round."""
    judged: set[tuple[str, str]] = set()
    too_kind: dict[str, None] = {}
    too_strict: dict[str, None] = {}
    for group, crowd in results["throughput"].items():
        for turn in crowd["turns"].get(name, []):
            for program, passed in zip(crowd["programs"], turn["verdicts"], strict=False):
                if group != SHORT:
                    judged.add((group, program["name"]))
                if passed != program["passes"]:
                    (too_kind if passed else too_strict)[program["name"]] = None
    return len(judged), list(too_kind), list(too_strict)


def some(names: list[str]) -> str:
    shown = ", ".join(names[:6])
    return f"{len(names)}: {shown}{', …' if len(names) > 6 else ''}" if names else "0"


def cage_table(results: dict[str, Any]) -> str:
    head = ["", "MiB, shared pages split (PSS)", "MiB of its own", "processes"]
    head += ["first cage and job, s", "two cages and jobs, s"]
    rows = []
    for name in (*OURS, LIMIT):
        cages, starts = results["memory"].get(name), results["cold_start"].get(name)
        row = [name]
        for key in ("pss", "private", "processes"):
            scale = 1 if key == "processes" else 1 << 20
            row.append(number(statistics.mean(c[key] for c in cages) / scale) if cages else "—")
        for key in ("first_cage_seconds", "both_cages_seconds"):
            times = [start[key] for start in starts or [] if start]
            row.append(number(statistics.median(times)) if times else "—")
        rows.append(row)
    return table(head, rows)


def targets(results: dict[str, Any]) -> list[str]:
    lines = []
    for name in ("docker", "bubblewrap"):
        found = ratios(results, "tiny", name)
        goal = f"{name}, one test: at most {LATENCY_TARGET} × the {LIMIT}"
        lines.append(verdict(goal, found, lambda value: value <= LATENCY_TARGET))
    for group in results["throughput"]:
        for name in ("docker", "bubblewrap"):
            goal = f"{name}, {group}: at least {THROUGHPUT_TARGET:g} × {RIVAL}"
            found = gain(results, group, name)
            lines.append(verdict(goal, found, lambda value: value >= THROUGHPUT_TARGET))
    return lines


def verdict(goal: str, values: list[float], reached: Any) -> str:
    if not values:
        return f"- {goal}: not measured"
    middle = statistics.median(values)
    word = "reached" if reached(middle) else "**missed**"
    return f"- {goal}: {word}, {number(middle)} ({number(min(values))}–{number(max(values))})"


def faults(results: dict[str, Any]) -> list[str]:
    """What makes a run of ours worth nothing, however fast it was."""
    found = []
    for name in OURS:
        if results["missing"].get(name, "").startswith(BROKEN):
            found.append(f"{name} {results['missing'][name]}")
        tasks = {**results["latency"], **results["twenty"]}
        for task, turns in tasks.items():
            passes = not task.startswith("wrong")
            if any(passed != passes for turn in turns.get(name, []) for passed in turn["verdicts"]):
                found.append(f"{name} gave a wrong verdict on the program {task!r}")
        if any(verdicts(results, name)[1:]):
            found.append(f"{name} gave wrong verdicts on the programs of the data")
    return found


BROKEN = ("it failed", "its process ended")  # not merely absent


def milliseconds(seconds: float) -> str:
    return number(seconds * 1e3)


def draw(results: dict[str, Any], path: Path) -> None:
    """Median latencies, with 10th and 90th percentiles, on a logarithmic scale."""
    try:
        import matplotlib
    except ImportError:
        return
    matplotlib.use("agg")
    from matplotlib import pyplot

    turns = results["latency"]
    names = [name for name in CONTESTANTS if name in turns["tiny"] and name in turns["contest"]]
    median = {
        (name, task): quantiles([s * 1e3 for turn in turns[task][name] for s in turn["seconds"]])
        for name in names
        for task in turns
    }
    names.sort(key=lambda name: -median[name, "tiny"][0])
    figure, axes = pyplot.subplots(figsize=(8, 0.5 * len(names) + 1.2), layout="constrained")
    for offset, task in ((0.2, "tiny"), (-0.2, "contest")):
        values = [median[name, task] for name in names]
        middles = [middle for middle, _, _ in values]
        errors = [[m - low for m, low, _ in values], [high - m for m, _, high in values]]
        bars = axes.barh(
            [index + offset for index in range(len(names))],
            middles,
            0.38,
            xerr=errors,
            color=[COLORS[group(name)][task] for name in names],
            error_kw={"elinewidth": 0.8, "ecolor": "#444444"},
        )
        texts = [f" {number(middle)}" for middle in middles]
        axes.bar_label(bars, texts, fontsize=7, padding=8)
        axes.bar(0, 0, color=COLORS["others"][task], label=task)
    axes.set_yticks(range(len(names)), names)
    for tick, name in zip(axes.get_yticklabels(), names, strict=True):
        tick.set_fontweight("bold" if name in OURS else "normal")
    axes.set_xscale("log")
    axes.xaxis.set_major_formatter("{x:g}")
    middles = [middle for middle, _, _ in median.values()]
    axes.set_xlim(min(middles) / 3, 3 * max(middles))
    axes.set_ylim(-0.6, len(names) - 0.4)
    axes.set_xlabel("ms per program with one test, one caller: median, p10 to p90")
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, loc="upper right", fontsize=9)
    figure.savefig(path, dpi=150)
    pyplot.close(figure)


COLORS = {
    "ours": {"tiny": "#1b6ca8", "contest": "#8fbbdb"},
    "limit": {"tiny": "#3a7d44", "contest": "#a3cfab"},
    "others": {"tiny": "#6b6b6b", "contest": "#bdbdbd"},
}


def group(name: str) -> str:
    return "ours" if name in OURS else "limit" if name.startswith(LIMIT) else "others"


if __name__ == "__main__":
    sys.exit(main())
