"""The pictures of a report: PNG, and SVG that takes the color of the text around it as its ink."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np

from vpd_agent.comparison.results import STUDENT, TEACHER, Results
from vpd_agent.comparison.sections import Figure, phase_names
from vpd_agent.comparison.standings import Standings, mean_curve, phase_seconds
from vpd_agent.comparison.words import FEW_RUNS
from vpd_agent.runs.files import write_atomically
from vpd_agent.runs.pictures import pyplot

# Okabe and Ito's colors that can be told from white and from black, whatever one's color vision,
# and a gray; then the same ones dashed, and dotted.
COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#7F7F7F")
STYLES = ("-", "--", ":", "-.")
STABILITY = {  # metric → what a panel is called
    "entropy": "entropy (nats per token)",
    "response_tokens": "response length (tokens)",
    "truncated": "share cut off",
    "format_errors": "share not understood",
    "divergence": "divergence of teacher and student (nats)",
    "grad_norm": "gradient norm",
    "teacher_fraction": "share with a teacher",
    "taught_fraction": "share taught",
    "gate/weight": "weight of the trust gate",
    "eval/form_changed": "share of answers whose form changes",
    "eval/distance_solved": "distance on solved rows (nats)",
}
_REST = "#B4B8BC"  # what is left over
INK = "#1b1c1d"
_WIDTH, _NARROW = 10.2, 6.6  # of a figure, and of one with a single panel; inches
_LEGEND_ROW = 0.18  # of a legend; inches
_POINTS = 40  # of a curve of every step: so many averages
LOOK: dict[str, Any] = {
    "font.family": "sans-serif",
    "font.size": 8.5,
    "axes.titlesize": 9,
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.6,
    "xtick.major.width": 0.6,
    "ytick.major.width": 0.6,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.alpha": 0.15,
    "grid.color": INK,
    "grid.linewidth": 0.6,
    "lines.linewidth": 1.5,
    "legend.frameon": False,
    "svg.fonttype": "none",
    **dict.fromkeys(
        ("text.color", "axes.edgecolor", "axes.labelcolor", "xtick.color", "ytick.color"), INK
    ),
}


def draw(standings: Standings, folder: Path) -> list[Figure]:
    """Write NAME.png and NAME.svg of each figure that the runs have numbers for. Raises ImportError
    without matplotlib."""
    plt = pyplot()
    folder.mkdir(exist_ok=True)
    found = []
    for name, make in _FIGURES.items():
        with plt.rc_context({**LOOK, "svg.hashsalt": name}):
            made = make(plt, standings)
            if made is None:
                continue
            found.append(save(plt, *made, folder, name))
    return found


def save(plt: Any, figure: Any, caption: str, folder: Path, name: str) -> Figure:
    """Write a figure as NAME.png and NAME.svg, and close it."""
    figure.draw_without_rendering()
    figure.set_layout_engine("none")  # laid out once, not again for each of the files
    figure.savefig(folder / f"{name}.png", dpi=150, metadata={"Software": None})
    path = folder / f"{name}.svg"
    figure.savefig(path, transparent=True, metadata={"Date": None, "Creator": None})
    write_atomically(path, _with_ink_of_the_page(path.read_text(encoding="utf-8")))
    plt.close(figure)
    return Figure(name, caption)


def _with_ink_of_the_page(svg: str) -> str:
    """An SVG element alone, whose ink is the color of the text around it."""
    svg = svg[svg.index("<svg") :].replace(INK, "currentColor")
    svg = re.sub(r"<metadata>.*?</metadata>\s*", "", svg, flags=re.DOTALL)
    # Text is black by itself: matplotlib leaves its fill out where it is.
    return svg.replace("<svg ", '<svg fill="currentColor" ', 1)


def line_style(results: Results, contestant: str) -> dict[str, Any]:
    """The same for a contestant in every figure."""
    turn, color = divmod(results.contestants.index(contestant), len(COLORS))
    return {"color": COLORS[color], "linestyle": STYLES[turn % len(STYLES)]}


def legend(figure: Any, results: Results, contestants: Iterable[str]) -> None:
    """Above the panels, where it covers nothing: the figure grows by its rows after the first."""
    from matplotlib.lines import Line2D

    names = list(contestants)
    lines = [Line2D([], [], label=c, **line_style(results, c)) for c in names]
    if len(lines) > 1:
        room = int(96 * figure.get_figwidth() / _WIDTH)  # characters in a row
        columns = max(1, min(len(lines), room // (6 + max(map(len, names)))))
        more = -(-len(lines) // columns) - 1
        figure.set_figheight(figure.get_figheight() + _LEGEND_ROW * more)
        figure.legend(handles=lines, loc="outside upper left", ncols=columns)


def _curves(plt: Any, standings: Standings) -> tuple[Any, str] | None:
    """Student against rollouts, tokens and seconds."""
    results = standings.results
    shown = [c for c in results.contestants if results.steps(c, STUDENT)]
    if not shown:
        return None
    figure, axes = plt.subplots(1, 3, figsize=(_WIDTH, 3.5), sharey=True, layout="constrained")
    costs = {"rollouts": "rollouts", "tokens": "tokens sampled", "seconds": "seconds of training"}
    for axis, (name, label) in zip(axes, costs.items(), strict=True):
        for contestant in shown:
            _curve(axis, results, contestant, name)
        axis.set(xlabel=label)
        axis.xaxis.set_major_locator(plt.MaxNLocator(4))
        axis.xaxis.set_major_formatter(lambda x, _: _thousands(x))
    axes[0].set_ylabel("held-out pass@1")
    axes[0].set_ylim(bottom=0)
    has_threshold = not math.isnan(standings.threshold)
    if has_threshold:
        for axis in axes:
            axis.axhline(standings.threshold, color=INK, lw=0.6, ls=(0, (2, 3)))
    legend(figure, results, shown)
    return figure, _about_bands(results, shown) + (
        " Dotted: the threshold." if has_threshold else ""
    )


def _curve(axis: Any, results: Results, contestant: str, cost: str) -> None:
    """The mean over runs, with its interval as a band, or with the runs themselves if these are
    few; at the mean cost of the runs."""
    runs, style = results.finished(contestant), line_style(results, contestant)
    curve = mean_curve(results, contestant, STUDENT)
    spent = [float(np.mean([getattr(run, cost)[step] for run in runs])) for step in curve]
    points = list(curve.values())
    axis.plot(spent, [p.value for p in points], marker="o", ms=2.5, **style)
    if len(runs) >= FEW_RUNS:
        low, high = [p.low for p in points], [min(p.high, 1) for p in points]
        axis.fill_between(spent, np.maximum(low, 0), high, color=style["color"], alpha=0.16, lw=0)
    elif len(runs) > 1:
        for run in runs:
            own = run.curve(STUDENT)
            x = [getattr(run, cost)[step] for step in own]
            axis.plot(x, list(own.values()), lw=0.6, alpha=0.6, **style)


def _about_bands(results: Results, shown: list[str]) -> str:
    counts = {len(results.finished(c)) for c in shown}
    told = []
    if max(counts) >= FEW_RUNS:
        told.append("Lines: means over runs; bands: their 95 % intervals (Student's t).")
    if counts & set(range(2, FEW_RUNS)):
        told.append("Thick lines: means over runs; thin lines: the runs, too few for a band.")
    if 1 in counts:
        told.append("One run" + (" each, without an interval." if counts == {1} else ": no band."))
    return " ".join(told)


def _final(plt: Any, standings: Standings) -> tuple[Any, str] | None:
    """Every run's end, with mean and interval; beside it the differences to the baseline."""
    results, scored = standings.results, standings.scored[::-1]
    if sum(s.final.count for s in scored) < 2:
        return None
    compared = [s for s in scored if s.difference is not None and s.difference.has_interval]
    height = 0.9 + 0.3 * len(scored)
    figure, axes = plt.subplots(
        1, 2 if compared else 1, figsize=(_WIDTH, height), squeeze=False, layout="constrained"
    )
    names = [s.contestant for s in scored]
    left = axes[0][0]
    for y, s in enumerate(scored):
        color = line_style(results, s.contestant)["color"]
        values = list(results.scores(s.contestant).values())
        left.plot(values, [y - 0.24] * len(values), "o", ms=3.5, mew=0, alpha=0.45, color=color)
        bar(left, y, s.final, color)
    left.set_yticks(range(len(names)), names)
    left.set(title="pass@1 at the end", ylim=(-0.6, len(scored) - 0.4))
    if compared:
        right = axes[0][1]
        for s in compared:
            bar(
                right,
                names.index(s.contestant),
                s.difference,
                line_style(results, s.contestant)["color"],
            )
        right.axvline(0, color=INK, lw=0.8)
        right.set_yticks(range(len(names)), [""] * len(names))
        right.set(title=f"difference to {results.baseline}, seed by seed")
        right.set_ylim(left.get_ylim())
    return figure, "Dots: runs; ticks: means; bars: 95 % intervals (Student's t)."


def bar(axis: Any, y: float, estimate: Any, color: str) -> None:
    axis.plot([estimate.value], [y], marker="|", ms=12, mew=2, color=color)
    if estimate.has_interval:
        axis.plot([estimate.low, estimate.high], [y, y], lw=1.6, color=color)


def _teacher(plt: Any, standings: Standings) -> tuple[Any, str] | None:
    """Teacher and student of each contestant, a panel each."""
    results = standings.results
    shown = [c for c in results.contestants if results.steps(c, TEACHER)]
    if not shown:
        return None
    columns = min(4, max(len(shown), 2))
    figure, axes = grid(plt, len(shown), columns, height=2.1, sharex=True, sharey=True)
    for axis, contestant in zip(axes, shown, strict=False):
        color = line_style(results, contestant)["color"]
        for metric, style in ((STUDENT, "-"), (TEACHER, "--")):
            curve = mean_curve(results, contestant, metric)
            axis.plot(list(curve), [p.value for p in curve.values()], style, color=color)
        axis.set_title(contestant)
        axis.xaxis.set_major_locator(plt.MaxNLocator(5, integer=True))
    axes[0].set_ylim(bottom=0)
    figure.supxlabel("training step", fontsize=8.5)
    return figure, (
        "Solid: the student's pass@1 on held-out problems. Dashed: the share of fixed failed "
        "attempts that the teacher repairs, shown their feedback. Means over runs. The two are "
        "of different problems: a gap tells where each goes, not which is better."
    )


def _stability(plt: Any, standings: Standings) -> tuple[Any, str] | None:
    results = standings.results
    metrics = [m for m in STABILITY if any(results.steps(c, m) for c in results.contestants)]
    if not metrics:
        return None
    shown = [c for c in results.contestants if results.finished(c)]
    figure, axes = grid(plt, len(metrics), 4, height=1.9)
    averaged = 1
    for axis, metric in zip(axes, metrics, strict=False):
        for contestant in shown:
            curves = [run.curve(metric) for run in results.finished(contestant)]
            steps = results.steps(contestant, metric)
            values = [float(np.mean([curve[s] for curve in curves])) for s in steps]
            size = math.ceil(len(steps) / _POINTS)
            averaged = max(averaged, size)
            style = line_style(results, contestant) | {"linewidth": 1.2}
            axis.plot(_averages(steps, size), _averages(values, size), **style)
        axis.set_title(STABILITY[metric], fontsize=8)
        if STABILITY[metric].startswith("share"):
            axis.set_ylim(0, max(axis.get_ylim()[1], 0.1))
        axis.xaxis.set_major_locator(plt.MaxNLocator(4, integer=True))
    figure.supxlabel("training step", fontsize=8.5)
    legend(figure, results, shown)
    over = f", averaged over {averaged} steps" if averaged > 1 else ""
    return figure, f"Means over runs{over}. A panel per measure that any of the runs has."


def _averages(values: list[Any], size: int) -> list[float]:
    return [float(np.mean(values[i : i + size])) for i in range(0, len(values), max(size, 1))]


def _phases(plt: Any, standings: Standings) -> tuple[Any, str] | None:
    results = standings.results
    shown = [c for c in results.contestants if phase_seconds(results, c)][::-1]
    names = phase_names(results)
    if not (shown and names):
        return None
    figure, axis = plt.subplots(figsize=(_WIDTH, 1.0 + 0.28 * len(shown)), layout="constrained")
    spent = {c: phase_seconds(results, c) for c in shown}
    start = np.zeros(len(shown))
    for i, name in enumerate(names):
        width = np.array([spent[c].get(name, 0.0) for c in shown])
        rest = name == "other"
        color = _REST if rest else COLORS[i % len(COLORS)]
        hatch = "////" if i >= len(COLORS) and not rest else None
        look = {"color": color, "hatch": hatch, "edgecolor": "none", "height": 0.62}
        axis.barh(shown, width, left=start, label=name, **look)
        start += width
    axis.set_xlabel("seconds per run")
    axis.grid(axis="y", visible=False)
    figure.legend(loc="outside upper left", ncols=min(len(names), 10))
    return figure, "Means over runs. What the parts of a step leave over is “other”."


def grid(plt: Any, panels: int, columns: int, *, height: float, **shared: Any) -> tuple[Any, Any]:
    """Panels in rows of so many columns; those that are not needed are not there."""
    rows = -(-panels // columns)
    size = (_WIDTH if columns > 1 else _NARROW, 0.6 + height * rows)
    figure, axes = plt.subplots(
        rows, columns, figsize=size, squeeze=False, layout="constrained", **shared
    )
    for axis in axes.flat[panels:]:
        axis.remove()
    return figure, axes.flat[:panels]


def _thousands(x: float) -> str:
    for unit, name in ((1e6, "M"), (1e3, "k")):
        if abs(x) >= unit:
            return f"{x / unit:g}{name}"
    return f"{x:g}"


_FIGURES: dict[str, Callable[[Any, Standings], tuple[Any, str] | None]] = {
    "final": _final,
    "curves": _curves,
    "teacher": _teacher,
    "stability": _stability,
    "phases": _phases,
}
