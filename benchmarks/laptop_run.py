"""A whole run on the laptop task, from the start of the process to the saved model, beside another
commit of this project.

    python benchmarks/laptop_run.py --before COMMIT [--steps N] [--rounds N] [--out FOLDER]

Each round trains the same algorithms from the same model with both trees, in turns, each in a
process of its own with one thread. The settings that decide what is sampled are flags, so that both
trees sample the same rollouts; the report says whether they did, by the rewards and lengths of
every step. Targets: at least 1.5 times as fast in the median, with the same rollouts. Writes
results.json and report.md; the exit code is 1 if a target was missed.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from common import HERE, machine, number, progress_bar, table

TARGET = 1.5
COMMON = ("--env", "vpd/MiniCode-v0", "--eval-every", "40", "--quiet", "--seed", "0")
# Algorithms whose rollouts do not depend on a default that a later commit changed.
RUNS = {
    "grpo": ("--no-scale-advantages", "--learning-rate", "2e-4", "--learning-rate-decay", "0.5"),
    "rft": ("--learning-rate", "2e-4", "--learning-rate-decay", "0.5"),
}
ROOT = HERE.parent


def main(argv: Sequence[str] | None = None) -> int:
    options = _parsed(argv)
    results = measure(options.before, options.steps, options.rounds)
    words = " ".join(sys.argv[1:] if argv is None else argv)
    results["command"] = f"python benchmarks/laptop_run.py {words}"
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / "results.json").write_text(json.dumps(results, indent=1) + "\n")
    text = report(results)
    (options.out / "report.md").write_text(text)
    print(text)
    return 0 if all(reached(results, name) for name in RUNS) else 1


def measure(before: str, steps: int, rounds: int) -> dict[str, Any]:
    """Every run's seconds, phases and rollouts, by algorithm and tree."""
    runs: dict[str, dict[str, list[dict[str, Any]]]] = {n: {"before": [], "now": []} for n in RUNS}
    with tempfile.TemporaryDirectory() as scratch, _checkout(before, Path(scratch)) as old:
        trees = {"before": old, "now": ROOT}
        model = Path(scratch, "model")
        _vpd(ROOT, "warmup", "--model", "tiny-warm", "--out", str(model))
        with progress_bar() as bar:
            task = bar.add_task("runs", total=rounds * len(RUNS) * len(trees))
            for turn in range(rounds):
                for name, flags in RUNS.items():
                    for tree in sorted(trees, reverse=bool(turn % 2)):
                        out = Path(scratch, f"{name}-{tree}-{turn}")
                        given = ("train", name, *COMMON, *flags, "--model", str(model))
                        given += ("--steps", str(steps), "--out", str(out))
                        seconds = _vpd(trees[tree], *given)
                        runs[name][tree].append(_figures(out, seconds))
                        bar.advance(task)
    return {"machine": machine(), "before": before, "steps": steps, "runs": runs}


@contextmanager
def _checkout(commit: str, scratch: Path) -> Iterator[Path]:
    tree = scratch / "before"
    git = ("git", "-C", str(ROOT), "worktree")
    subprocess.run([*git, "add", "--quiet", "--detach", str(tree), commit], check=True)
    try:
        yield tree
    finally:
        subprocess.run([*git, "remove", "--force", str(tree)], check=True)


def _vpd(tree: Path, *arguments: str) -> float:
    """Run the command of a tree; the seconds that the process took."""
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(tree)}
    command = [sys.executable, "-m", "vpd_agent.cli", *arguments]
    start = time.perf_counter()
    done = subprocess.run(command, env=environment, cwd=tree, capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"{' '.join(command)} failed in {tree}:\n{done.stderr[-2000:]}")
    return time.perf_counter() - start


def _figures(out: Path, seconds: float) -> dict[str, Any]:
    rows = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]

    def total(*names: str) -> float:
        return sum(row.get(f"seconds/{name}", 0.0) for row in rows for name in names)

    trained = total("step", "evaluate")
    return {
        "seconds": seconds,
        "start and end": seconds - trained,
        "collect": total("collect"),
        "evaluate": total("evaluate"),
        "train": total("step") - total("collect"),
        "rollouts": [(r["reward"], r["response_tokens"]) for r in rows if "reward" in r],
    }


def ratios(results: dict[str, Any], name: str) -> list[float]:
    """Seconds before / seconds now, of each round."""
    before, now = results["runs"][name]["before"], results["runs"][name]["now"]
    return [b["seconds"] / n["seconds"] for b, n in zip(before, now, strict=True)]


def same_rollouts(results: dict[str, Any], name: str) -> bool:
    every = [run["rollouts"] for tree in results["runs"][name].values() for run in tree]
    return all(rollouts == every[0] for rollouts in every)


def reached(results: dict[str, Any], name: str) -> bool:
    return same_rollouts(results, name) and statistics.median(ratios(results, name)) >= TARGET


def report(results: dict[str, Any]) -> str:
    phases = ("seconds", "start and end", "collect", "evaluate", "train")
    rows = []
    for name, trees in results["runs"].items():
        for tree, runs in trees.items():
            medians = [number(statistics.median(run[phase] for run in runs)) for phase in phases]
            ratio, same = "", ""
            if tree == "now":
                all_ratios = sorted(ratios(results, name))
                ratio = f"{statistics.median(all_ratios):.2f}"
                ratio += f" ({all_ratios[0]:.2f}–{all_ratios[-1]:.2f})"
                same = "yes" if same_rollouts(results, name) else "no"
            rows.append([name, tree, *medians, ratio, same])
    head = ["run", "tree", *phases, "× as fast", "same rollouts"]
    m = results["machine"]
    return (
        f"`{results['command']}`\n\n{m['date'][:10]}, {m['cpu']}, {m['cores']} cores, Python "
        f"{m['python']}, commit {m['commit']} beside {results['before']}; {results['steps']} steps "
        f"of 64 rollouts, seconds, medians over rounds.\n\n{table(head, rows)}\n"
    )


def _parsed(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--before", required=True, help="the commit to compare with")
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--out", type=Path, default=Path("runs/laptop_run"))
    options = parser.parse_args(argv)
    if options.steps < 1 or options.rounds < 1:
        parser.error("--steps and --rounds must be at least 1")
    return options


if __name__ == "__main__":
    sys.exit(main())
