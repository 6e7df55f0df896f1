"""An evaluation for people: a table, a page of Markdown, a JSON file and a picture."""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

from vpd_agent.evaluation.evaluate import Evaluation
from vpd_agent.runs.files import finite, write_atomically
from vpd_agent.runs.pictures import draw_if_possible, pyplot
from vpd_agent.statistics.rates import Interval, powers_of_two

EXPLAINED = (
    "pass@k: the chance that one of k answers solves a problem, estimated without bias as "
    "1 − C(n−c, k)/C(n, k) from c solved of n answers (arXiv 2107.03374) and averaged over "
    "problems. The interval is of 95 %, over problems: Wilson's, with the effective sample size."
)


def curve(evaluation: Evaluation, samples: int) -> dict[int, Interval]:
    """pass@k for k = 1, 2, 4, 8 … and `samples`."""
    return {k: evaluation.pass_at(k) for k in powers_of_two(samples)}


def pass_table(evaluation: Evaluation, samples: int) -> tuple[list[str], list[list[str]]]:
    """Header and rows, of numbers in per cent."""
    rows = []
    for k, interval in curve(evaluation, samples).items():
        name = f"pass@1 = avg@{samples}" if k == 1 and samples > 1 else f"pass@{k}"
        cells = [f"{100 * x:.1f}" for x in (interval.mean, interval.low, interval.high)]
        rows.append([name, *cells, str(interval.count)])
    return ["%", "estimate", "low", "high", "problems"], rows


def status_table(evaluation: Evaluation) -> tuple[list[str], list[list[str]]]:
    rows = [[status or "-", str(n)] for status, n in evaluation.statuses.most_common()]
    if evaluation.dropped:
        rows.append(["not judged", str(evaluation.dropped)])
    return ["status", "answers"], rows


def write_report(
    out: Path, evaluation: Evaluation, samples: int, measured: Mapping[str, Any]
) -> list[Path]:
    """Files beside the answers `out`: .json, .md and, where matplotlib is installed, .png. The text
    is written first, so that a failure to draw loses nothing."""
    summary = {
        "pass@1": evaluation.pass_at_1,
        f"avg@{samples}": evaluation.pass_at_1,
        "pass@k": {k: vars(i) for k, i in curve(evaluation, samples).items()},
        "problems": {
            p: {"solved": evaluation.solved[p], "judged": n} for p, n in evaluation.judged.items()
        },
        "statuses": dict(evaluation.statuses),
        "not_judged": evaluation.dropped,
        "samples": samples,
        "measured": dict(measured),
    }
    files = [out.with_suffix(".json"), out.with_suffix(".md")]
    write_atomically(files[0], json.dumps(finite(summary), indent=1, ensure_ascii=False) + "\n")
    title = f"{measured['model']} in {measured['env']}"
    sections = [
        f"# {title}",
        markdown(*pass_table(evaluation, samples)),
        EXPLAINED,
        markdown(*status_table(evaluation)),
        markdown(["measured", ""], [[k, f"`{v}`"] for k, v in measured.items()]),
    ]
    write_atomically(files[1], "\n\n".join(sections) + "\n")
    picture = out.with_suffix(".png")
    draw = partial(_draw, evaluation=evaluation, samples=samples, title=title)
    if evaluation.judged and draw_if_possible(picture, draw):
        sections.insert(1, f"![pass@k]({picture.name})")
        write_atomically(files[1], "\n\n".join(sections) + "\n")
        files.append(picture)
    return files


def markdown(header: list[str], rows: list[list[str]]) -> str:
    """A table; its first column holds words, the others numbers."""
    lines = [header, ["---", *["---:"] * (len(header) - 1)], *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _draw(path: Path, evaluation: Evaluation, samples: int, title: str) -> None:
    """pass@k with its band, and how many problems have which share of their answers solved."""
    plt = pyplot()
    figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.6), layout="constrained")
    points = {k: i for k, i in curve(evaluation, samples).items() if i.count}
    ks, means = list(points), [i.mean for i in points.values()]
    below = [i.mean - i.low for i in points.values()]
    above = [i.high - i.mean for i in points.values()]
    left.errorbar(ks, means, (below, above), color="C0", marker="o", ms=3, capsize=3)
    left.set(title="pass@k", xlabel="k", ylabel="share of problems", ylim=(0, 1))
    left.set_xscale("log", base=2)
    left.set_xticks(ks, [str(k) for k in ks])
    left.grid(alpha=0.3)
    shares = [evaluation.solved[p] / n for p, n in evaluation.judged.items() if n]
    bins = min(samples + 1, 11)
    width = 1 / (bins - 1)
    counts = [sum(round(s / width) == i for s in shares) for i in range(bins)]
    right.bar([i * width for i in range(bins)], counts, width=0.8 * width, color="C0")
    right.set(title="problems by share solved", xlabel="share of answers", ylabel="problems")
    figure.suptitle(f"{title}; bars: 95 % confidence interval over problems", fontsize=9)
    figure.savefig(path, dpi=150)
    plt.close(figure)
