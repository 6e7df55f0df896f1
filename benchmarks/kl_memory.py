"""How much memory and time a divergence over the full vocabulary takes.

    python benchmarks/kl_memory.py [--quick] [--out DIR] [--rounds N] [--threads N] [--seed N]

Forward and backward pass of the mean divergence of 1,024 tokens over Qwen3's vocabulary of 151,936,
from hidden states of width 1,024 and one output embedding, for student and teacher alike:

- naive: logits of both, log_softmax, divergence, backward, by autograd;
- ours: `ResponseLogits.divergence`;
- TRL: `ChunkedDivergenceFunction`, where TRL is installed and has it;
- Liger: `LigerFusedLinearJSD`, on a GPU where Liger is installed.

In float32 on the CPU, and in both float32 and bfloat16 on a GPU if there is one; once with a frozen
output embedding, as with LoRA. Each measurement has a process of its own, and the ways take turns.
Extra memory is the peak less what was there with the inputs: reported less the gradients of the
inputs, which every way must end with (622 MB for the embedding), and with them. On the CPU it is
resident memory (VmHWM), on a GPU what torch has allocated. Values and gradients of all ways are
compared. On a machine that others use, too, look at the CPU time, and take one thread: threads that
wait for each other multiply what others take.

Writes results.json and report.md to --out. A full run without --out also renews the table in
benchmarks/README.md. The exit code is 1 if a target was missed (ours: an eighth of the naive way's
extra memory, 1.2 times its time) or the ways disagree; with --quick, which has fewer and narrower
tokens, only if they disagree. Linux only.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from importlib import metadata, util
from pathlib import Path
from typing import Any

import torch
from common import CORES, HERE, machine, number, renew, table
from rich.console import Console
from rich.progress import Progress
from torch import Tensor

from vpd_agent.model.response_logits import Head, ResponseLogits
from vpd_agent.ops import chunked_logits, losses

MEMORY_TARGET = 8  # times less than the naive way, at least
TIME_TARGET = 1.2  # times the naive way's, at most
TOLERANCE = {"float32": 1e-3, "bfloat16": 0.05}  # relative, of values and norms of gradients
TIMEOUT_SECONDS = 600.0
DIVERGENCES = {"reverse KL": 1.0, "JSD": 0.5}


@dataclass(frozen=True)
class Case:
    """A problem that all ways are given."""

    divergence: str
    frozen: bool  # no gradient for the output embedding
    device: str
    dtype: str
    tokens: int
    width: int
    vocabulary: int = 151_936

    def __str__(self) -> str:
        head = ", frozen head" if self.frozen else ""
        return f"{self.divergence}{head}, {self.dtype} on {self.device}"


@dataclass(frozen=True)
class Inputs:
    """hidden, teacher_hidden: [N, H]; weight: [V, H], of both."""

    hidden: Tensor
    teacher_hidden: Tensor
    weight: Tensor

    @classmethod
    def random(cls, case: Case, seed: int) -> Inputs:
        generator = torch.Generator(case.device).manual_seed(seed)
        kind = {"device": case.device, "generator": generator}
        dtype = getattr(torch, case.dtype)
        weight = torch.randn(case.vocabulary, case.width, **kind)
        weight = weight.mul_(case.width**-0.5).to(dtype)
        hidden = torch.randn(case.tokens, case.width, **kind)
        apart = torch.randn(case.tokens, case.width, **kind)
        return cls(
            hidden=hidden.to(dtype).requires_grad_(),
            teacher_hidden=(hidden + 0.3 * apart).to(dtype),
            weight=weight.requires_grad_(not case.frozen),
        )

    @property
    def trained(self) -> list[Tensor]:
        return [x for x in (self.hidden, self.weight) if x.requires_grad]


# The ways: inputs and α → mean divergence --------------------------------------------------------


def naive(inputs: Inputs, alpha: float) -> Tensor:
    student = (inputs.hidden @ inputs.weight.T).float().log_softmax(-1)
    with torch.no_grad():
        teacher = (inputs.teacher_hidden @ inputs.weight.T).float().log_softmax(-1)
    return losses.divergence(student, teacher, alpha).mean()


def ours(inputs: Inputs, alpha: float) -> Tensor:
    tokens = len(inputs.hidden)
    response = torch.zeros(1, tokens, dtype=torch.long, device=inputs.hidden.device)
    mask = torch.ones_like(response, dtype=torch.bool)
    head = Head(inputs.weight)
    student = ResponseLogits.from_hidden(inputs.hidden[None], head, response, mask)
    with torch.no_grad():
        teacher = ResponseLogits.from_hidden(inputs.teacher_hidden[None], head, response, mask)
    return student.divergence(teacher, mask / tokens, alpha=alpha).total


def trl(inputs: Inputs, alpha: float) -> Tensor:
    from trl.kernels.chunked_divergence import ChunkedDivergenceFunction

    head = inputs.weight, None
    per_token, _ = ChunkedDivergenceFunction.apply(
        inputs.hidden, *head, inputs.teacher_hidden, inputs.weight.detach(), None, alpha
    )
    return per_token.mean()


def liger(inputs: Inputs, alpha: float) -> Tensor:
    from liger_kernel.transformers import LigerFusedLinearJSD

    loss = LigerFusedLinearJSD(jsd_beta=alpha)
    return loss(inputs.hidden, inputs.weight, inputs.teacher_hidden, inputs.weight.detach())


WAYS: dict[str, Callable[[Inputs, float], Tensor]] = {
    "naive": naive,
    "ours": ours,
    "TRL": trl,
    "Liger": liger,
}


def can_take_part(way: str, case: Case) -> bool:
    if way == "TRL":
        return bool(util.find_spec("trl") and util.find_spec("trl.kernels.chunked_divergence"))
    if way == "Liger":
        return case.device == "cuda" and util.find_spec("liger_kernel") is not None
    return True


# One measurement, in a process of its own ---------------------------------------------------------


def measure(way: str, case: Case, seed: int) -> dict[str, Any]:
    """Seconds and bytes of one forward and backward pass, and what came out."""
    compute, alpha = WAYS[way], DIVERGENCES[case.divergence]
    small = Case(case.divergence, case.frozen, case.device, case.dtype, 32, 32, 512)
    compute(Inputs.random(small, seed), alpha).backward()  # loads what is loaded only once
    inputs = Inputs.random(case, seed)
    watch = GpuMemory() if case.device == "cuda" else ResidentMemory()
    started, cpu_started = time.perf_counter(), time.process_time()
    loss = compute(inputs, alpha)
    loss.backward()
    watch.wait()
    seconds, cpu_seconds = time.perf_counter() - started, time.process_time() - cpu_started
    peak = watch.peak_bytes()
    gradients = [x.grad for x in inputs.trained]
    return {
        "seconds": seconds,
        "cpu_seconds": cpu_seconds,
        "peak_bytes": peak,
        "gradient_bytes": sum(x.numel() * x.element_size() for x in gradients),
        "value": loss.item(),
        "gradient_norms": [x.float().norm().item() for x in gradients],
    }


class ResidentMemory:
    """The most that this process has resident beyond what it has now."""

    def __init__(self) -> None:
        Path("/proc/self/clear_refs").write_text("5")  # the peak is counted from here
        self._before = self._status("VmRSS")

    def peak_bytes(self) -> int:
        return self._status("VmHWM") - self._before

    def wait(self) -> None:
        """The CPU is done when the call returns."""

    @staticmethod
    def _status(name: str) -> int:
        lines = Path("/proc/self/status").read_text().splitlines()
        return next(int(x.split()[1]) for x in lines if x.startswith(name)) << 10


class GpuMemory:
    """The most that torch has allocated on the GPU beyond what it has now."""

    def __init__(self) -> None:
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        self._before = torch.cuda.memory_allocated()

    def peak_bytes(self) -> int:
        return torch.cuda.max_memory_allocated() - self._before

    def wait(self) -> None:
        torch.cuda.synchronize()


# All of them --------------------------------------------------------------------------------------


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Memory and time of full-vocabulary divergences.")
    parser.add_argument("--quick", action="store_true", help="a small problem, once: a minute")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--rounds", type=int)
    parser.add_argument("--threads", type=int, default=CORES)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--one", nargs=2, metavar=("WAY", "CASE"), help=argparse.SUPPRESS)
    options = parser.parse_args(argv)
    torch.set_num_threads(options.threads)
    if options.one:
        way, case = options.one
        print(json.dumps(measure(way, Case(**json.loads(case)), options.seed)))
        return 0
    rounds = options.rounds or (1 if options.quick else 3)
    try:
        results = run(options.quick, rounds, options.seed)
    except RuntimeError as error:
        parser.error(str(error))
    words = " ".join(sys.argv[1:] if argv is None else argv)
    results["command"] = f"python benchmarks/kl_memory.py {words}".strip()
    text = report(results)
    folder = options.out or (Path("runs/kl_memory") if options.quick else HERE / "kl_memory")
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "results.json").write_text(json.dumps(results, separators=(",", ":")) + "\n")
    (folder / "report.md").write_text(f"# Divergences over the full vocabulary\n\n{text}")
    if options.out is None and not options.quick:
        renew("kl_memory.py", text)
    print(text)
    return int(any(not reached for _, reached in targets(results)))


def run(quick: bool, rounds: int, seed: int) -> dict[str, Any]:
    """Everything that was measured, as it goes to results.json."""
    size = {"tokens": 512, "width": 128} if quick else {"tokens": 1024, "width": 1024}
    kinds = [("cpu", "float32")]
    if torch.cuda.is_available():
        kinds += [("cuda", "float32"), ("cuda", "bfloat16")]
    cases = [
        Case(divergence, frozen, device, dtype, **size)
        for device, dtype in kinds
        for divergence, frozen in (("reverse KL", False), ("JSD", False), ("reverse KL", True))
    ]
    pairs = [(case, way) for case in cases for way in WAYS if can_take_part(way, case)]
    runs: dict[tuple[Case, str], list[dict[str, Any]]] = {pair: [] for pair in pairs}
    with Progress(console=Console(stderr=True), transient=True) as bars:
        bar = bars.add_task("measuring", total=rounds * len(pairs))
        for turn in range(rounds):
            for case, way in pairs if turn % 2 else reversed(pairs):
                bars.update(bar, description=f"{way}: {case}")
                runs[case, way].append(in_own_process(way, case, seed))
                bars.advance(bar)
    return {
        "quick": quick,
        "rounds": rounds,
        "seed": seed,
        "chunk_elements": chunked_logits.CHUNK_ELEMENTS,
        "threads": torch.get_num_threads(),
        "machine": machine(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "versions": versions("torch", "trl", "liger_kernel"),
        "cases": [
            {
                **asdict(case),
                "name": str(case),
                "ways": {w: runs[c, w] for c, w in pairs if c == case},
            }
            for case in cases
        ],
    }


def in_own_process(way: str, case: Case, seed: int) -> dict[str, Any]:
    threads = str(torch.get_num_threads())
    words = ["--one", way, json.dumps(asdict(case)), "--seed", str(seed), "--threads", threads]
    done = subprocess.run(
        [sys.executable, __file__, *words], capture_output=True, text=True, timeout=TIMEOUT_SECONDS
    )
    if done.returncode:
        last = done.stderr.strip().splitlines()[-1:] or [f"exit code {done.returncode}"]
        raise RuntimeError(f"{way} failed on {case}: {last[0]}")
    return json.loads(done.stdout.splitlines()[-1])


def versions(*packages: str) -> dict[str, str]:
    return {name: metadata.version(name) for name in packages if util.find_spec(name)}


# Report -------------------------------------------------------------------------------------------


def report(results: dict[str, Any]) -> str:
    host = results["machine"]
    size = results["cases"][0]
    rows = []
    for case in results["cases"]:
        for way, runs in case["ways"].items():
            times, cpu_times = ratios(case, way), ratios(case, way, "cpu_seconds")
            rows.append(
                [
                    case["name"],
                    way,
                    f"{extra(runs) / 1e6:,.0f} MB",
                    f"1/{number(extra(case['ways']['naive']) / extra(runs))}",
                    f"{(extra(runs) + runs[0]['gradient_bytes']) / 1e6:,.0f} MB",
                    f"{number(median(runs))} s ({spread([run['seconds'] for run in runs])})",
                    f"{number(statistics.median(times))} ({spread(times)})",
                    f"{number(statistics.median(cpu_times))} ({spread(cpu_times)})",
                ]
            )
    memory = ["extra memory", "× naive", "with gradients"]
    head = ["divergence", "way", *memory, "time", "× naive", "CPU time × naive"]
    libraries = ", ".join(f"{name} {version}" for name, version in results["versions"].items())
    gpu = f", {results['gpu']}" if results["gpu"] else ""
    parts = [
        f"`{results['command']}`",
        f"{host['date'][:10]}, {host['cpu']}, {host['cores']} cores{gpu}, Linux {host['kernel']}, "
        f"Python {host['python']}, {libraries}, {results['threads']} threads, load average "
        f"{host['load_average']:.1f} at the end; seed {results['seed']}, commit {host['commit']}.",
        f"{size['tokens']:,} tokens, vocabulary {size['vocabulary']:,}, width {size['width']:,}; "
        f"{results['rounds']} rounds; time: median (range), against naive in the same round.",
        table(head, rows),
        "\n".join(
            f"- {'reached' if reached else '**missed**'}: {goal}"
            for goal, reached in targets(results)
        ),
    ]
    return "\n\n".join(parts) + "\n"


def targets(results: dict[str, Any]) -> list[tuple[str, bool]]:
    listed = []
    for case in results["cases"]:
        apart = max(disagreement(case, way) for way in case["ways"])
        allowed = TOLERANCE[case["dtype"]]
        goal = f"{case['name']}: values and gradients differ by at most {allowed}: {apart:.1e}"
        listed.append((goal, apart <= allowed))
        if results["quick"]:
            continue
        saved = extra(case["ways"]["naive"]) / extra(case["ways"]["ours"])
        goal = f"{case['name']}: 1/{MEMORY_TARGET} of the naive extra memory: 1/{number(saved)}"
        listed.append((goal, saved >= MEMORY_TARGET))
        slower = statistics.median(ratios(case, "ours"))
        goal = f"{case['name']}: {TIME_TARGET} times the naive time: {number(slower)}"
        listed.append((goal, slower <= TIME_TARGET))
    return listed


def extra(runs: list[dict[str, Any]]) -> int:
    """Bytes beside the gradients, in the worst of the rounds."""
    return max(run["peak_bytes"] - run["gradient_bytes"] for run in runs)


def median(runs: list[dict[str, Any]]) -> float:
    return statistics.median(run["seconds"] for run in runs)


def ratios(case: dict[str, Any], way: str, what: str = "seconds") -> list[float]:
    """Time of a way over that of the naive one, round by round."""
    pairs = zip(case["ways"][way], case["ways"]["naive"], strict=True)
    return [run[what] / base[what] for run, base in pairs]


def disagreement(case: dict[str, Any], way: str) -> float:
    """The largest relative difference of value and gradient norms from the naive way's."""
    run, base = case["ways"][way][0], case["ways"]["naive"][0]
    pairs = zip(
        [run["value"], *run["gradient_norms"]],
        [base["value"], *base["gradient_norms"]],
        strict=True,
    )
    return max(abs(x / y - 1) for x, y in pairs)


def spread(values: list[float]) -> str:
    return f"{number(min(values))}–{number(max(values))}"


if __name__ == "__main__":
    sys.exit(main())
