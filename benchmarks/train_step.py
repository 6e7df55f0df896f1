"""A training step of ours beside TRL's: one model, the same prompts, lengths and threads.

    python benchmarks/train_step.py [--quick] [--threads N] [--clock wall|cpu] [--rounds N] ...
    python benchmarks/train_step.py --smollm2 [--threads N] [--rounds N] ...
    python benchmarks/train_step.py --device cuda [--model-size 0.6b] [--tokens N] ...

On the CPU, with a tiny model, for responses of 8 and of 64 tokens, 8 prompts times 8 rollouts:

- a step of GRPO and of SDPO (whole vocabulary, EMA teacher) through our Trainer.train, beside TRL's
  GRPOTrainer and SDPOTrainer (targets: 1.5 and 3 times as fast);
- the generation phase of ours beside a bare torch loop with a KV cache (target: at most 1.3 times
  its time);
- VPD beside SDPO on the same rollouts, over whole cycles of an E-step (target: at most 30 % more).

With --smollm2 the same of SmolLM2-135M-Instruct, for 32 rollouts of 32 tokens and 16 of 128
(targets: GRPO and SDPO 3 times as fast as TRL; SDPO, with feedback of its own for each rollout, at
most 1.3 times its own matrix products and attention; generation at most 1.3 times the bare loop
and, for 32 rollouts, 1.5 times vLLM's CPU build, which .ci/vllm installs).

With --device, every algorithm of ours beside TRL's two at 64 rollouts of 512 tokens on that device:
tokens per second and peak memory.

Contestants take turns, in another order each round. Writes results.json (every step's time) and
report.md to --out; a full run without --out also renews its tables in benchmarks/README.md. The
exit code is 1 if a target was missed.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import random
import statistics
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from common import CORES, HERE, machine, number, progress_bar, renew, table
from rich.progress import Progress
from step_contestants import CLOCKS, Missing, Remote, Setting

from vpd_agent.comparison.formats import counted

RIVALS = ("grpo", "sdpo")  # what TRL has, too
STEP_TARGETS = {"grpo": 1.5, "sdpo": 3.0}  # times as fast as TRL, at least
GENERATION_TARGET = 1.3  # times the bare loop, at most
VPD_TARGET = 0.3  # of SDPO's step, at most
REAL_STEP_TARGET = 3.0  # times as fast as TRL with SmolLM2, at least
FLOOR_TARGET = 1.3  # times the products of SDPO's step, at most
VLLM_TARGET, VLLM_ROWS = 1.5, 32  # times vLLM's time, at most, for so many rollouts
OWN, FLOOR = "sdpo, ours, feedback of its own", "sdpo, bare products"
GENERATION, BARE, VLLM = (f"generation, {side}" for side in ("ours", "bare", "vLLM"))
CONTESTANTS = (
    *(f"{name}, {side}" for name in RIVALS for side in ("ours", "TRL")),
    OWN,
    GENERATION,
    BARE,
    "vpd beside sdpo",
)
REAL_CONTESTANTS = (*CONTESTANTS[:-1], VLLM, FLOOR)
# A failed test in 160 characters: with it, TRL's step of SDPO takes about as many times its step of
# GRPO as in the figures that the targets were set by.
SHORT = {"prompt_characters": 32, "feedback_characters": 160}
LONG = {"prompt_characters": 256, "feedback_characters": 320}
PACKAGES = ("torch", "transformers", "trl", "accelerate")


@dataclass(frozen=True)
class Effort:
    rounds: int
    settings: tuple[Setting, ...]


FULL = Effort(7, (Setting(8, **SHORT), Setting(64, **SHORT), Setting(64, **LONG)))
QUICK = Effort(2, (Setting(8, **SHORT), Setting(64, **SHORT)))
REAL = Effort(
    2,
    tuple(
        Setting(tokens, **LONG, prompts=prompts, steps=1, model="smollm2")
        for tokens, prompts in ((32, 4), (128, 2))
    ),
)
DEVICE_ROUNDS = 2


def main(argv: Sequence[str] | None = None) -> int:
    options = parsed(argv)
    effort = chosen_effort(options)
    names = CONTESTANTS
    if options.device or options.smollm2:
        names = every_algorithm() if options.device else REAL_CONTESTANTS
    one_by_one = options.smollm2 or options.device not in (None, "cpu")
    results = run(effort, names, one_by_one=one_by_one, seed=options.seed)
    words = " ".join(sys.argv[1:] if argv is None else argv)
    results["command"] = f"python benchmarks/train_step.py {words}".rstrip()
    text = report(results)
    scratch = options.quick or options.device is not None
    usual = HERE / "train_step" / ("smollm2" if options.smollm2 else "")
    folder = options.out or (Path("runs/train_step") if scratch else usual)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "results.json").write_text(json.dumps(results, separators=(",", ":")) + "\n")
    (folder / "report.md").write_text(f"# A training step\n\n{text}")
    if options.out is None and not scratch:
        renew("train_step.py --smollm2" if options.smollm2 else "train_step.py", text)
    print(text)
    return int(any(not reached for _, reached in targets(results)))


def parsed(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="A training step of ours beside TRL's.")
    parser.add_argument("--quick", action="store_true", help="two rounds: three minutes")
    parser.add_argument("--threads", type=int, default=CORES, help=f"of torch (all: {CORES})")
    parser.add_argument(
        "--clock", choices=CLOCKS, default="wall", help="cpu: all threads' time, on a busy machine"
    )
    parser.add_argument("--smollm2", action="store_true", help="a pretrained model: half an hour")
    parser.add_argument("--device", help="cuda, or any: every algorithm, long responses")
    parser.add_argument("--model-size", choices=("tiny", "0.6b"), help="with --device")
    parser.add_argument("--dtype", help="of the weights, with --device (bfloat16 unless on a CPU)")
    parser.add_argument("--tokens", type=int, help="of each response, with --device (512)")
    parser.add_argument("--micro-batch", type=int, help="rollouts per pass, with --device (8)")
    parser.add_argument("--rounds", type=int, help="more or fewer than usual")
    parser.add_argument("--out", type=Path, metavar="DIR", help="where to write the results")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(argv)
    of_device = ("model_size", "dtype", "tokens", "micro_batch")
    if options.device is None and any(getattr(options, name) is not None for name in of_device):
        parser.error("--model-size, --dtype, --tokens and --micro-batch go with --device.")
    if options.smollm2 and (options.quick or options.device):
        parser.error("--smollm2 goes with neither --quick nor --device.")
    return options


def chosen_effort(options: argparse.Namespace) -> Effort:
    common = {"threads": options.threads, "clock": options.clock, "seed": options.seed}
    if options.device is None:
        effort = REAL if options.smollm2 else QUICK if options.quick else FULL
        settings = tuple(replace(setting, **common) for setting in effort.settings)
        return Effort(options.rounds or effort.rounds, settings)
    on_cpu = options.device == "cpu"
    setting = Setting(
        options.tokens or 512,
        **LONG,
        model=options.model_size or ("tiny" if on_cpu else "0.6b"),
        device=options.device,
        dtype=options.dtype or ("float32" if on_cpu else "bfloat16"),
        micro_batch=options.micro_batch or 8,
        **common,
    )
    return Effort(options.rounds or DEVICE_ROUNDS, (setting,))


def every_algorithm() -> list[str]:
    from vpd_agent.algorithms import ALGORITHMS

    return [*(f"{name}, ours" for name in ALGORITHMS), *(f"{name}, TRL" for name in RIVALS)]


# Measuring ----------------------------------------------------------------------------------------


def run(
    effort: Effort, names: Sequence[str], *, one_by_one: bool = False, seed: int = 0
) -> dict[str, Any]:
    """Everything that was measured, as it goes to results.json.

    one_by_one: only one contestant at a time is there, for devices whose memory they would share.
    """
    chance = random.Random(seed)
    with progress_bar() as progress:
        tables = [
            measured(setting, names, effort.rounds, chance, progress, one_by_one=one_by_one)
            for setting in effort.settings
        ]
    return {
        "tables": tables,
        "rounds": effort.rounds,
        "steps_per_turn": effort.settings[0].steps,
        "seed": seed,
        "machine": machine(),
        "device": device_name(effort.settings[0].device),
        "versions": versions(),
    }


def measured(
    setting: Setting,
    names: Sequence[str],
    rounds: int,
    chance: random.Random,
    progress: Progress,
    *,
    one_by_one: bool,
) -> dict[str, Any]:
    """One setting: the turns of each contestant that could take part, a turn per round."""
    together = [[name] for name in names] if one_by_one else [list(names)]
    title = f"{setting.prompt_characters} + {setting.tokens} tokens"
    bar = progress.add_task(title, total=len(names) * (rounds + 1))
    found: dict[str, Any] = {
        "setting": asdict(setting), "turns": {}, "about": {}, "missing": {},
    }  # fmt: skip
    for group in together:
        with ExitStack() as stack:
            taking_part = dict(started(group, setting, stack, found, bar, progress))
            for _ in range(rounds):
                for name in chance.sample(list(taking_part), len(taking_part)):
                    progress.update(bar, description=f"{title}: {name}", advance=1)
                    try:
                        turn = taking_part[name].turn(setting.steps)
                    except Missing as reason:
                        found["missing"][name] = str(reason)
                        found["turns"].pop(name, None)
                        del taking_part[name]
                        continue
                    found["turns"].setdefault(name, []).append(turn)
                    if not progress.console.is_terminal:  # which shows no bar until the end
                        progress.console.print(f"{title}: {name}: {per_step(turn):.2f} s a step")
    return found


def started(
    names: Sequence[str],
    setting: Setting,
    stack: ExitStack,
    found: dict[str, Any],
    bar: Any,
    progress: Progress,
) -> Iterator[tuple[str, Remote]]:
    """The contestants that can take part, after their warm-up. They get ready side by side."""
    remotes = [stack.enter_context(closing(Remote(name, setting))) for name in names]
    for remote in remotes:
        progress.update(bar, description=f"starting {remote.name}", advance=1)
        try:
            remote.ready()
            remote.turn(1)
        except Missing as reason:
            found["missing"][remote.name] = str(reason)
            continue
        if remote.about["response_tokens"] != setting.tokens:
            raise AssertionError(
                f"{remote.name} has responses of {remote.about['response_tokens']} tokens, all "
                f"must have {setting.tokens}: some ended by themselves."
            )
        found["about"][remote.name] = remote.about
        yield remote.name, remote


def device_name(device: str) -> str:
    if device == "cpu":
        return "CPU"
    import torch

    return torch.cuda.get_device_name(torch.device(device))


def versions() -> dict[str, str]:
    found = {}
    for name in PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            found[name] = "missing"
    return found


# The report ---------------------------------------------------------------------------------------


def report(results: dict[str, Any]) -> str:
    about, first = results["machine"], results["tables"][0]["setting"]
    what = ", ".join(f"{name} {version}" for name, version in results["versions"].items())
    clock = "" if first["clock"] == "wall" else " Seconds are CPU time of all threads."
    parts = [
        f"`{results['command']}`\n\n"
        f"{about['date'][:10]}, {about['cpu']}, {about['cores']} cores, Linux {about['kernel']}, "
        f"Python {about['python']}, load average {about['load_average']:.1f} at the end; "
        f"{what}; {results['device']}, {first['dtype']}, {first['threads']} threads, "
        f"{_rollouts(results)}, model {first['model']}; "
        f"{results['rounds']} rounds of {counted(results['steps_per_turn'], 'step')}, seed "
        f"{results['seed']}, commit {about['commit']}.{clock}"
    ]
    steps = [row for part in results["tables"] for row in step_rows(part)]
    if steps:
        head = ["tokens: prompt, teacher's, response", "step", "ours, s", "TRL, s"]
        head += ["× as fast", "tokens/s, ours", "TRL", "peak MB, ours", "TRL"]
        parts += ["### A training step", table(head, steps)]
    floors = [row for part in results["tables"] for row in floor_rows(part)]
    if floors:
        head = ["tokens: prompt, teacher's, response", "step", "positions without a gradient"]
        head += ["with one", "s", "× the products of SDPO, feedback of its own"]
        parts += ["### What goes through the model in a step", table(head, floors)]
    for rival, title in ((BARE, "bare loop"), (VLLM, "vLLM")):
        rows = [row for part in results["tables"] for row in generation_rows(part, rival)]
        if rows:
            head = ["tokens: prompt, response", "ours, s", f"{title}, s", "× its time"]
            where = "" if rival == BARE else " beside vLLM's CPU build"
            parts += [f"### The generation phase{where}", table(head, rows)]
    overheads = [row for part in results["tables"] for row in vpd_rows(part)]
    if overheads:
        head = ["tokens: prompt, teacher's, response", "collect, s", "train SDPO, s"]
        head += ["train VPD, s", "each E-step, s", "VPD's step over SDPO's"]
        parts += ["### VPD beside SDPO on the same rollouts, per step", table(head, overheads)]
    if goals := targets(results):
        lines = [f"- {'reached' if reached else '**missed**'}: {goal}" for goal, reached in goals]
        parts.append("\n".join(lines))
    absent = [
        f"- {name}, responses of {part['setting']['tokens']} tokens: {reason}"
        for part in results["tables"]
        for name, reason in part["missing"].items()
    ]
    if absent:
        parts.append("Missing:\n\n" + "\n".join(absent))
    return "\n\n".join(parts) + "\n"


def step_rows(part: dict[str, Any]) -> list[list[str]]:
    """A row for each algorithm of ours that took part, with TRL's of that name beside it."""
    rows = []
    for name in part["about"]:
        algorithm, ours, rest = name.partition(", ours")
        if not ours or algorithm == "generation" or name not in part["turns"]:
            continue
        turns = part["turns"][name]
        rival = f"{algorithm}, TRL"
        theirs = part["turns"].get(rival)
        tokens = part["setting"]["prompts"] * part["setting"]["group"] * part["setting"]["tokens"]
        rows.append(
            [
                lengths(part, name),
                algorithm.upper() + rest,
                spread([per_step(turn) for turn in turns]),
                spread([per_step(turn) for turn in theirs]) if theirs else "—",
                spread(ratios(part, rival, name)) if theirs else "—",
                f"{tokens / typical(turns):,.0f}",
                f"{tokens / typical(theirs):,.0f}" if theirs else "—",
                f"{turns[-1]['peak_bytes'] / 1e6:,.0f}",
                f"{theirs[-1]['peak_bytes'] / 1e6:,.0f}" if theirs else "—",
            ]
        )
    return rows


def floor_rows(part: dict[str, Any]) -> list[list[str]]:
    """What each step takes through the model, where the products of one were measured alone."""
    if FLOOR not in part["turns"]:
        return []
    rows = []
    for name, turns in part["turns"].items():
        if turns and "read" in turns[-1]["steps"][-1]:
            steps = turns[-1]["steps"]
            counts = [sum(step[key] for step in steps) / len(steps) for key in ("read", "trained")]
            times = spread(ratios(part, name, FLOOR)) if name == OWN else "—"
            told = [f"{count:,.0f}" for count in counts]
            seconds = spread([per_step(turn) for turn in turns])
            rows.append([lengths(part, name), name, *told, seconds, times])
    seconds = [per_step(turn) for turn in part["turns"][FLOOR]]
    flops = part["about"][FLOOR]["flops"]
    told = f"{FLOOR}: {flops / 1e9:,.0f} GFLOP, {flops / 1e9 / statistics.median(seconds):,.0f} /s"
    return [*rows, [lengths(part, FLOOR), told, "", "", spread(seconds), "1"]]


def generation_rows(part: dict[str, Any], rival: str) -> list[list[str]]:
    names = GENERATION, rival
    if not all(name in part["turns"] for name in names):
        return []
    both = [spread([per_step(turn) for turn in part["turns"][name]]) for name in names]
    about = part["about"][GENERATION]
    tokens = f"{about['prompt_tokens']}, {about['response_tokens']}"
    return [[tokens, *both, spread(ratios(part, *names))]]


def vpd_rows(part: dict[str, Any]) -> list[list[str]]:
    name = "vpd beside sdpo"
    if name not in part["turns"]:
        return []
    phases = [
        spread([mean(turn, phase) for turn in part["turns"][name]])
        for phase in ("collect", "sdpo", "vpd")
    ]
    phases.append(spread([e_step_seconds(turn) for turn in part["turns"][name]]))
    return [[lengths(part, name), *phases, spread([1 + x for x in overheads(part)])]]


def targets(results: dict[str, Any]) -> list[tuple[str, bool]]:
    """What was asked for with short prompts or with SmolLM2, and whether it came out."""
    listed = []
    for part in results["tables"]:
        setting, turns = part["setting"], part["turns"]
        real = setting["model"] == "smollm2"
        if not real and any(setting[key] != value for key, value in SHORT.items()):
            continue
        where = f"responses of {setting['tokens']} tokens"
        for algorithm, target in STEP_TARGETS.items():
            target = REAL_STEP_TARGET if real else target
            names = f"{algorithm}, TRL", f"{algorithm}, ours"
            if all(name in turns for name in names):
                ratio = statistics.median(ratios(part, *names))
                goal = f"{algorithm.upper()}, {where}: at least {target} × as fast as TRL's: "
                listed.append((f"{goal}{ratio:.2f}", ratio >= target))
        most = [
            (OWN, FLOOR, FLOOR_TARGET, "SDPO, feedback of its own", "its products"),
            (GENERATION, BARE, GENERATION_TARGET, "generation", "the bare loop"),
        ]
        if setting["prompts"] * setting["group"] == VLLM_ROWS:
            most.append((GENERATION, VLLM, VLLM_TARGET, "generation", "vLLM's time"))
        for name, rival, target, what, limit in most:
            if name in turns and rival in turns:
                ratio = statistics.median(ratios(part, name, rival))
                goal = f"{what}, {where}: at most {target} × {limit}: {ratio:.2f}"
                listed.append((goal, ratio <= target))
        if "vpd beside sdpo" in turns:
            overhead = statistics.median(overheads(part))
            goal = f"VPD, {where}: at most {VPD_TARGET:.0%} over SDPO's step: {overhead:.0%}"
            listed.append((goal, overhead <= VPD_TARGET))
    return listed


def ratios(part: dict[str, Any], above: str, below: str) -> list[float]:
    """Of two contestants' seconds per step, round by round."""
    pairs = zip(part["turns"][above], part["turns"][below], strict=True)
    return [per_step(one) / per_step(other) for one, other in pairs]


def overheads(part: dict[str, Any]) -> list[float]:
    """What VPD's steps took beyond SDPO's, as a share of SDPO's, cycle by cycle."""
    return [
        (mean(turn, "vpd") - mean(turn, "sdpo")) / (mean(turn, "collect") + mean(turn, "sdpo"))
        for turn in part["turns"]["vpd beside sdpo"]
    ]


def e_step_seconds(turn: dict[str, Any]) -> float:
    """What a step of VPD with an E-step takes longer than one without."""
    with_it = [step["vpd"] for step in turn["steps"] if step["e_steps"]]
    without = [step["vpd"] for step in turn["steps"] if not step["e_steps"]]
    return statistics.fmean(with_it) - statistics.fmean(without)


def per_step(turn: dict[str, Any]) -> float:
    """Seconds; a mean, since the steps of an algorithm need not be alike."""
    return mean(turn, "seconds")


def mean(turn: dict[str, Any], phase: str) -> float:
    return statistics.fmean(step.get(phase, 0.0) for step in turn["steps"])


def typical(turns: list[dict[str, Any]]) -> float:
    return statistics.median(per_step(turn) for turn in turns)


def _rollouts(results: dict[str, Any]) -> str:
    settings = [part["setting"] for part in results["tables"]]
    told = [f"{s['prompts']} prompts × {s['group']} rollouts" for s in settings]
    return " and ".join(dict.fromkeys(told))


def spread(values: Sequence[float]) -> str:
    middle, low, high = statistics.median(values), min(values), max(values)
    return f"{number_of(middle)} ({number_of(low)}–{number_of(high)})"


def number_of(value: float) -> str:
    return f"{value:.3f}" if abs(value) < 1 else number(value)


def lengths(part: dict[str, Any], name: str) -> str:
    about = part["about"][name]
    numbers = (about[f"{key}_tokens"] for key in ("prompt", "teacher_prompt", "response"))
    return ", ".join(str(n) if n else "—" for n in numbers)


if __name__ == "__main__":
    sys.exit(main())
