"""Where the next bottleneck is, from one GPU to 512, by a discrete-event model of a run.

    python benchmarks/scale.py                                    # the model alone, a minute
    python benchmarks/scale.py --check --vllm-python .venv-vllm/bin/python    # also real runs

The model (scale_model.py) is fed with the times of a run's parts. `--check` makes runs of two
processes and two vLLM servers on this machine's cores, learns the times from two of them
(synchronous, with few and with many rollouts), predicts the others, and states the error. For GPUs
the times come from the arithmetic of `--dry-run` (an H100's data sheet, 40 % of its operations,
60 % of its bandwidth) and, for judging, from `benchmarks/judge/results.json`. Without `--check` the
last check's figures are shown again. Writes results.json, report.md and scale.png.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, replace
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
from common import HERE, README, machine, number, progress_bar, renew, table
from scale_model import Cluster, Outcome, Times, simulate

OUT = HERE / "scale"
GPUS = (1, 8, 64, 512)
ROLLOUTS = 256  # of a step at 8 GPUs
PROMPT, TEACHER_PROMPT, RESPONSE, LONGEST = 800, 2000, 1500, 8192  # tokens
CAGES_PER_GPU = 4  # a node of 8 GPUs judges on 32 of its cores
MODEL = "Qwen/Qwen3-8B"
NETWORK, DISK, LOAD = 50e9, 2e9, 2.0  # bytes/s to a GPU, of a shared disk; s to swap weights
SHORTER = "answers half as long at most"
CHANGES = (
    *("twice the servers", "twice the trainers", "twice the cages"),
    *("weights by nccl", SHORTER),
)

# --- runs on this machine -----------------------------------------------------------------------

CORES = 2
LENGTH = 64
FEW, SOME, MANY = 16, 32, 64  # rollouts of a step
STEPS = 10


def check(vllm_python: str) -> dict[str, Any]:
    """Real runs, the times learned from two of them, and predictions of the others."""
    runs = {
        "few": {"rollouts": FEW},
        "many": {"rollouts": MANY},
        "between": {"rollouts": SOME},
        "one server": {"rollouts": MANY, "servers": 1},
        "overlap": {"rollouts": MANY, "staleness": 1},
        "overlap, K = 2": {"rollouts": MANY, "staleness": 2},
    }
    with tempfile.TemporaryDirectory() as scratch, progress_bar() as bar:
        task = bar.add_task("real runs", total=len(runs))
        with _servers(vllm_python, Path(scratch)) as (model, urls):
            measured = {}
            for name, run in runs.items():
                out = Path(scratch) / f"run-{len(measured)}"
                measured[name] = _measured(out, model, urls, **run)
                bar.advance(task)
    times, length = learned(measured["few"], measured["many"]), measured["many"]["length"]
    rows = {}
    for name, run in runs.items():
        cluster = Cluster(2, run.get("servers", 2), CORES, CORES, run.get("staleness", 0))
        predicted = simulate(cluster, times, partial(_equal, length, run["rollouts"]), steps=40)
        rows[name] = {**run, "measured": measured[name], "predicted": asdict(predicted)}
    return {
        "times": asdict(times),
        "runs": rows,
        "ray": ray_beside_pool(),
        "machine": machine(),
    }


def learned(few: dict[str, Any], many: dict[str, Any]) -> Times:
    """Times of a step's parts on two trainers, servers and cages, from two synchronous runs."""

    def line(what: str, unit: str) -> tuple[float, float]:
        """Seconds without any work, and those of a unit of it."""
        slope = (many[what] - few[what]) / (many[unit] - few[unit])
        slope = max(slope, 0.0)
        return max(many[what] - slope * many[unit], 0.0), slope

    train, train_token = line("trainer", "tokens each")
    start, row = line("sampler", "rows each")
    return Times(
        decode=start / many["length"],
        decode_row=row / many["length"],
        train=train,
        train_token=train_token,
        judge=many["judge"] * CORES / many["rollouts"],
        sync=many["sync"],
        other=max(many["seconds"] - sum(many[who] for who in WORK), 0.0),
    )


WORK = ("trainer", "sampler", "judge", "sync")


def _measured(
    out: Path,
    model: str,
    urls: Sequence[str],
    *,
    rollouts: int,
    servers: int = 2,
    staleness: int = 0,
) -> dict[str, Any]:
    """Medians over the steps of a run of two processes, without the first two."""
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2"]
    command += ["-m", "vpd_agent.cli", "train", "grpo", "--env=vpd/MiniCode-v0", "--preset=tiny"]
    command += [f"--model={model}", f"--engine={','.join(urls[:servers])}", "--device=cpu"]
    command += [f"--steps={STEPS}", f"--prompts-per-step={rollouts // 8}", "--group-size=8"]
    command += [f"--max-response-tokens={LENGTH}", "--eval-every=0", "--quiet", "--threads=1"]
    command += [f"--out={out}", "--sandbox=local", "--samples-every=0"]
    if staleness:
        command += ["--overlap", f"--max-staleness={staleness}"]
    done = subprocess.run(command, capture_output=True, text=True, env=_environment())
    if done.returncode != 0:
        sys.exit(f"A run failed:\n{done.stderr[-3000:]}")
    lines = (out / "metrics.jsonl").read_text().splitlines()
    steps = [row for row in map(json.loads, lines) if "rollouts" in row][2:]

    def median(of: Any) -> float:
        return statistics.median(map(of, steps))

    length = median(lambda row: row["response_tokens"])
    busy = {
        who: median(lambda row, who=who: (1 - row[f"idle/{who}"]) * row["seconds/step"])
        for who in ("trainer", "sampler", "judge")
    }
    sync = median(lambda row: row.get("seconds/sync", 0.0))
    if not staleness:
        busy["trainer"] -= sync  # which counts as the trainer's work in a synchronous step
    return {
        "seconds": median(lambda row: row["seconds/step"]),
        **busy,
        "sync": sync,
        "rollouts": rollouts,
        "length": length,
        "tokens each": rollouts * length / 2,
        "rows each": rollouts / servers,
    }


@contextmanager
def _servers(vllm_python: str, scratch: Path) -> Iterator[tuple[str, list[str]]]:
    from vpd_agent.tiny.model import tiny_policy

    model = scratch / "model"
    tiny_policy(0).save(model)
    processes, urls = [], []
    try:
        for index in range(2):
            with socket.socket() as probe:
                probe.bind(("127.0.0.1", 0))
                port = probe.getsockname()[1]
            command = [
                vllm_python,
                "-m",
                "vllm.entrypoints.openai.api_server",
                "--model",
                str(model),
            ]
            command += ["--host", "127.0.0.1", "--port", str(port), "--dtype", "float32"]
            command += ["--max-model-len", "512", "--enforce-eager", "--generation-config", "vllm"]
            command += ["--kv-cache-memory-bytes", str(64 << 20)]
            with open(scratch / f"server-{index}.log", "wb") as log:
                processes.append(
                    subprocess.Popen(
                        command,
                        env=_environment() | _of_server(index),
                        stdout=log,
                        stderr=log,
                        start_new_session=True,
                    )
                )
            urls.append(f"http://127.0.0.1:{port}")
        for url, process in zip(urls, processes, strict=True):
            _await(url, process)
        yield str(model), urls
    finally:
        for process in processes:
            os.killpg(process.pid, signal.SIGTERM)  # its own session
            process.wait(60)


def _await(url: str, process: subprocess.Popen[bytes]) -> None:
    for _ in range(600):
        if process.poll() is not None:
            break
        try:
            urllib.request.urlopen(f"{url}/health", timeout=5).close()
            return
        except OSError:
            time.sleep(0.5)
    sys.exit(f"A vLLM server did not start at {url}. Does --vllm-python name one that has vLLM?")


def _of_server(index: int) -> dict[str, str]:
    """Each has a core of its own: vLLM would bind both to the same."""
    return {"VLLM_SERVER_DEV_MODE": "1", "VLLM_CPU_OMP_THREADS_BIND": str(index % CORES)}


def _environment() -> dict[str, str]:
    return os.environ | {"OMP_NUM_THREADS": "1", "TORCHDYNAMO_DISABLE": "1"}


def _equal(length: float, rollouts: int, draw: np.random.Generator) -> np.ndarray:
    return np.full(rollouts, round(length))


def ray_beside_pool(rounds: int = 7, programs: int = 100) -> dict[str, list[float]]:
    """Seconds of each round to judge right programs of ten tests by a pool of cages here, and by a
    Ray cluster of this one machine with as many."""
    import logging

    import ray
    from ray.cluster_utils import Cluster as RayCluster

    import sandbox
    from sandbox.judge import StdinTest, judge_many

    tests = [StdinTest(f"{n}\n", f"{n + 1}\n") for n in range(10)]
    pairs = [("print(int(input()) + 1)", tests)] * programs
    cluster = RayCluster(initialize_head=True, head_node_args={"num_cpus": CORES})
    ray.init(cluster.address, log_to_driver=False, logging_level=logging.ERROR)
    seconds: dict[str, list[float]] = {"pool": [], "ray": []}
    try:
        with sandbox.make(cages=CORES) as pool, sandbox.make("ray") as spread:
            boxes = {"pool": pool, "ray": spread}
            for index in range(rounds + 1):  # the first warms up
                for name in sorted(boxes, reverse=bool(index % 2)):
                    began = time.perf_counter()
                    judged = list(judge_many(boxes[name], pairs))
                    seconds[name].append(time.perf_counter() - began)
                    if not all(judgment.passed for judgment in judged):
                        sys.exit(f"A right program was judged wrong by {name}.")
    finally:
        ray.shutdown()
        cluster.shutdown()
    return {name: times[1:] for name, times in seconds.items()}


# --- GPUs ---------------------------------------------------------------------------------------


def scenarios() -> dict[str, Any]:
    """By GPUs and batch (fixed, or growing with the GPUs): what each way of running takes."""
    found: dict[str, Any] = {}
    with progress_bar() as bar:
        task = bar.add_task("GPUs", total=2 * len(GPUS))
        for grows in (False, True):
            for gpus in GPUS:
                rollouts = ROLLOUTS * gpus // 8 if grows else ROLLOUTS
                key = f"{'growing' if grows else 'fixed'} {gpus}"
                found[key] = {"gpus": gpus, "rollouts": rollouts, **_scenario(gpus, rollouts)}
                bar.advance(task)
    return found


@cache  # at 8 GPUs both batches are the same
def _scenario(gpus: int, rollouts: int) -> dict[str, Any]:
    times = gpu_times()
    half = max(gpus // 2, 1)
    shared = 1 if gpus == 1 else None  # then one GPU trains and samples in turns
    together = Cluster(half, half, CAGES_PER_GPU * gpus, shared)
    ahead = replace(together, max_staleness=1)
    draw = partial(drawn_lengths, rollouts)
    ways = {
        "synchronous": (together, times),
        "overlap": (ahead, times),
        "twice the servers": (replace(ahead, servers=2 * half), times),
        "twice the trainers": (replace(ahead, trainers=2 * half), times),
        "twice the cages": (replace(ahead, cages=2 * ahead.cages), times),
        "weights by nccl": (ahead, replace(times, sync=sync_seconds("nccl"))),
    }
    if gpus == 1:
        ways = {name: ways[name] for name in ("synchronous", "overlap", "twice the cages")}
    outcomes = {n: asdict(simulate(c, t, draw, steps=8)) for n, (c, t) in ways.items()}
    if gpus > 1:
        shorter = partial(drawn_lengths, rollouts, longest=LONGEST // 2)
        outcomes[SHORTER] = asdict(simulate(ahead, times, shorter, steps=8))
    shares = {half: outcomes["overlap"]["seconds"]} if gpus > 1 else {}
    for trainers in (gpus // 4, 3 * gpus // 4) if gpus > 1 else ():
        split = replace(ahead, trainers=trainers, servers=gpus - trainers)
        shares[trainers] = simulate(split, times, draw, steps=8).seconds
    return {
        "ways": outcomes,
        "seconds by trainers": shares,
        "longest alone": LONGEST * (times.decode + times.decode_row),
    }


@cache
def gpu_times() -> Times:
    """SDPO on an 8B model in bfloat16 on H100s, by the arithmetic of the dry run."""
    from vpd_agent.algorithms import SDPO
    from vpd_agent.train.config import TrainConfig
    from vpd_agent.train.estimate import H100, HALF, KNOWN_SHAPES, Workload, seconds

    shape = KNOWN_SHAPES[MODEL]
    config = TrainConfig(prompts_per_step=4, group_size=8, max_response_tokens=LONGEST)
    work = Workload(
        SDPO(), config, PROMPT, TEACHER_PROMPT, PROMPT, TEACHER_PROMPT, HALF, engine="server"
    )
    training = seconds(shape, work, RESPONSE)["training"] / (work.rows * RESPONSE)
    bandwidth = H100.bandwidth * H100.used_bandwidth
    bytes_ = HALF * shape.parameters
    per_pass = 3 * bytes_ / NETWORK  # weights gathered twice, gradients scattered
    return Times(
        decode=HALF * (shape.matrices + shape.head) / bandwidth,
        decode_row=HALF * shape.cached(PROMPT + RESPONSE / 2) / bandwidth,
        train_token=training,
        least_train=per_pass,
        judge=judge_seconds(),
        sync=sync_seconds("folder"),
        other=1.0,
    )


def sync_seconds(way: str) -> float:
    from vpd_agent.train.estimate import HALF, KNOWN_SHAPES

    bytes_ = HALF * KNOWN_SHAPES[MODEL].parameters
    return LOAD + (bytes_ / NETWORK if way == "nccl" else 2 * bytes_ / DISK)


def judge_seconds() -> float:
    """Of a program with twenty tests in Docker, measured by benchmarks/judge.py."""
    measured = json.loads((HERE / "judge" / "results.json").read_text())["twenty"]
    rounds = [s for part in measured["right"]["docker"] for s in part["seconds"]]
    return statistics.median(rounds)


def drawn_lengths(rollouts: int, draw: np.random.Generator, longest: int = LONGEST) -> np.ndarray:
    """Log-normal with a standard deviation of 1 of the logarithm, cut at the longest."""
    lengths = draw.lognormal(np.log(RESPONSE) - 0.5, 1.0, rollouts)
    return np.minimum(lengths, longest).astype(int)


# --- what came out ------------------------------------------------------------------------------


def report(results: dict[str, Any]) -> str:
    m = results["machine"]
    parts = [f"`{results['command']}`, {m['date'][:10]}, commit {m['commit']}.\n"]
    if results["check"] is not None:
        parts.append(_check_report(results["check"]))
    parts.append(_gpu_report(results["scenarios"]))
    parts.append("![Rollouts per second and GPU, and what would help](scale/scale.png)\n")
    return "\n".join(parts)


def errors(runs: dict[str, Any]) -> dict[str, float]:
    """Of the predicted seconds per step, relative to the measured ones, of the runs that the times
    were not learned from."""
    return {
        name: run["predicted"]["seconds"] / run["measured"]["seconds"] - 1
        for name, run in runs.items()
        if name not in ("few", "many")
    }


def _check_report(checked: dict[str, Any]) -> str:
    wrong = errors(checked["runs"])
    rows = []
    for name, run in checked["runs"].items():
        measured, predicted = run["measured"], run["predicted"]
        idle = {w: 1 - measured[w] / measured["seconds"] for w in ("trainer", "sampler")}
        rows.append(
            [
                name,
                str(run["rollouts"]),
                number(measured["seconds"]),
                number(predicted["seconds"]),
                f"{wrong[name]:+.0%}" if name in wrong else "learned from",
                *(f"{idle[w]:.0%} / {predicted['idle'][w]:.0%}" for w in idle),
            ]
        )
    m = checked["machine"]
    head = ["run", "rollouts", "s/step", "model", "error", "trainer idle (model)", "sampler idle"]
    largest = max(map(abs, wrong.values()))
    runs = checked["runs"]
    one, two = (runs[name]["measured"]["sampler"] for name in ("one server", "many"))
    at_once, ahead = runs["many"], runs["overlap"]
    faster = [at_once[of]["seconds"] / ahead[of]["seconds"] for of in ("measured", "predicted")]
    ratios = [r / p for p, r in zip(*checked["ray"].values(), strict=True)]
    facts = [
        f"Two servers sample {one / two:.2f} times as many tokens a second as one, "
        f"beside two trainers that wait, on {m['cores']} cores.",
        f"Asynchronous steps are {faster[0]:.2f} times as fast as synchronous ones; the model says "
        f"{faster[1]:.2f}.",
        f"Judging through Ray takes {statistics.median(ratios):.2f} times the time of the plain "
        f"pool ({min(ratios):.2f} to {max(ratios):.2f}, {len(ratios)} rounds of 100 programs with "
        f"ten tests; target 1.15).",
    ]
    return (
        f"Two processes, two vLLM servers and the judge on {m['cores']} cores of {m['cpu']} "
        f"({m['date'][:10]}, commit {m['commit']}); medians of {STEPS - 2} steps. Largest error "
        f"{largest:.0%}.\n\n{table(head, rows)}\n\n" + "".join(f"- {fact}\n" for fact in facts)
    )


def _gpu_report(found: dict[str, Any]) -> str:
    rows = []
    for key, case in found.items():
        ways = case["ways"]
        base = ways["overlap"]["seconds"]
        buys = [_gain(ways[name]["seconds"], base) if name in ways else "" for name in CHANGES]
        idle = ways["overlap"]["idle"]
        rows.append(
            [
                key.split()[0],
                str(case["gpus"]),
                f"{case['rollouts']:,}",
                number(ways["synchronous"]["seconds"]),
                number(base),
                number(case["longest alone"]),
                Outcome(base, idle).busiest,
                _best_split(case),
                *buys,
            ]
        )
    head = [
        "batch",
        "GPUs",
        "rollouts",
        "s/step",
        "with overlap",
        "longest alone",
        "busiest",
        "best split, trainers : servers",
        *CHANGES,
    ]
    return table(head, rows) + "\n"


def _best_split(case: dict[str, Any]) -> str:
    by_trainers = case["seconds by trainers"]
    if not by_trainers:
        return ""
    best = min(by_trainers, key=lambda trainers: by_trainers[trainers])
    return f"{best} : {case['gpus'] - int(best)} ({number(by_trainers[best])} s)"


def _gain(seconds: float, base: float) -> str:
    return f"{base / seconds - 1:+.0%}"


def plot(found: dict[str, Any], path: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, (left, right) = pyplot.subplots(1, 2, figsize=(10, 4.2), layout="constrained")
    for grows, style in (("growing", "-"), ("fixed", "--")):
        cases = [found[f"{grows} {gpus}"] for gpus in GPUS]
        for way, color in (("synchronous", "tab:gray"), ("overlap", "tab:blue")):
            speeds = [c["rollouts"] / c["ways"][way]["seconds"] / c["gpus"] for c in cases]
            label = f"{way}, {grows} batch"
            left.plot(GPUS, speeds, style, color=color, marker="o", label=label)
    left.set(xscale="log", yscale="log", xlabel="GPUs", ylabel="rollouts per second and GPU")
    left.set_xticks(GPUS, [str(gpus) for gpus in GPUS])
    left.minorticks_off()
    left.legend(frameon=False, fontsize=8, ncols=2, loc="lower left", bbox_to_anchor=(0, 1))
    cases = [found[f"growing {gpus}"]["ways"] for gpus in GPUS[1:]]
    bars = {"overlap itself": ("synchronous", "overlap")}
    bars |= {change: ("overlap", change) for change in CHANGES}
    width = 0.8 / len(bars)
    for n, (label, (before, after)) in enumerate(bars.items()):
        gains = [100 * (c[before]["seconds"] / c[after]["seconds"] - 1) for c in cases]
        places = np.arange(len(cases)) + (n - (len(bars) - 1) / 2) * width
        right.bar(places, gains, width, label=label)
    right.set_xticks(range(len(GPUS) - 1), [f"{gpus} GPUs" for gpus in GPUS[1:]])
    right.set_ylabel("% more steps a second")
    right.legend(frameon=False, fontsize=8, ncols=2, loc="lower left", bbox_to_anchor=(0, 1))
    for axes in (left, right):
        axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=150)


def main(argv: Sequence[str] | None = None) -> int:
    options = _parsed(argv)
    kept = options.out / "results.json"
    checked = json.loads(kept.read_text())["check"] if kept.exists() else None
    if options.check:
        checked = check(options.vllm_python)
    results = {
        "command": "python benchmarks/scale.py" + (" --check" if options.check else ""),
        "machine": machine(),
        "check": checked,
        "scenarios": scenarios(),
    }
    options.out.mkdir(parents=True, exist_ok=True)
    kept.write_text(json.dumps(results, indent=1) + "\n")
    text = report(results)
    (options.out / "report.md").write_text(text.replace("(scale/", "("))
    plot(results["scenarios"], options.out / "scale.png")
    if options.out == OUT:
        renew("scale.py", text, README)
    print(text)
    return 0


def _parsed(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description="Where the next bottleneck is, from one GPU to 512."
    )
    parser.add_argument("--check", action="store_true", help="also make real runs (a few minutes)")
    parser.add_argument("--vllm-python", default=sys.executable, help="a Python that has vLLM")
    parser.add_argument("--out", type=Path, default=OUT)
    return parser.parse_args(argv)


if __name__ == "__main__":
    sys.exit(main())
