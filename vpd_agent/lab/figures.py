"""The lab's pictures: the main curve, the claims, and each experiment's ends and curves."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from textwrap import shorten
from typing import Any

import numpy as np

from vpd_agent.comparison.figures import INK, LOOK, bar, grid, legend, line_style, save
from vpd_agent.comparison.formats import counted, score
from vpd_agent.comparison.results import STUDENT, TEACHER, Results
from vpd_agent.comparison.sections import Figure
from vpd_agent.comparison.standings import mean_curve
from vpd_agent.lab.claims import Tested
from vpd_agent.lab.contrasts import Verdict
from vpd_agent.lab.readings import Lab, Reading
from vpd_agent.runs.pictures import pyplot
from vpd_agent.statistics.estimates import mean_rate

MAIN_CURVE, CLAIMS = "main-curve", "claims"
_MAIN = ("main", "code-warm")  # whose curve is the lab's first picture
_COLORS = {Verdict.HOLDS: "#009E73", Verdict.FAILS: "#D55E00", Verdict.UNCLEAR: "#7F7F7F"}
_BANDS = 5  # up to so many contestants bands can be told apart
_LABEL = 72  # characters of what is tested, beside its bar
_TOUCHING = 0.035  # of a score: names nearer than that would be written over each other

_Made = tuple[Any, str] | None  # figure and caption


def draw_lab(lab: Lab, claims: Sequence[Tested], folder: Path) -> dict[str, Figure]:
    """Write NAME.png and NAME.svg of each figure that there are numbers for; returns them by name.
    Raises ImportError without matplotlib."""
    plt = pyplot()
    folder.mkdir(parents=True, exist_ok=True)
    makers: dict[str, Callable[[Any], _Made]] = {
        MAIN_CURVE: lambda plt: _main_curve(plt, lab.get(_MAIN)),
        CLAIMS: lambda plt: _claims(plt, claims),
    }
    for name in dict.fromkeys(experiment for experiment, _ in lab):
        mine = [reading for (experiment, _), reading in lab.items() if experiment == name]
        makers[f"{name}-ends"] = lambda plt, mine=mine: _ends(plt, mine)
        makers[f"{name}-curves"] = lambda plt, mine=mine: _curves(plt, mine, STUDENT)
        if name == "teacher":
            makers[f"{name}-repairs"] = lambda plt, mine=mine: _curves(plt, mine, TEACHER)
    found = {}
    for name, make in makers.items():
        with plt.rc_context({**LOOK, "svg.hashsalt": name}):
            if (made := make(plt)) is not None:
                found[name] = save(plt, *made, folder, name)
    return found


def _main_curve(plt: Any, reading: Reading | None) -> _Made:
    """The student against rollouts, each name at the end of its curve."""
    results = None if reading is None else reading.results
    shown = [] if results is None else _with(results, STUDENT)
    if results is None or not shown:
        return None
    figure, axis = plt.subplots(figsize=(7.6, 4.4), layout="constrained")
    ends: dict[str, float] = {}
    width = 0.0
    for contestant in shown:
        curve = mean_curve(results, contestant, STUDENT)
        runs = results.finished(contestant)
        x = [float(np.mean([run.rollouts[step] for run in runs])) for step in curve]
        _line(axis, x, list(curve.values()), line_style(results, contestant), band=True)
        ends[contestant], width = list(curve.values())[-1].value, max(width, x[-1])
    heights = _spread(ends)
    for contestant, height in heights.items():
        color = line_style(results, contestant)["color"]
        text = f"{contestant}  {score(ends[contestant])}"
        axis.text(1.015 * width, height, text, color=color, va="center", fontsize=8.5)
    axis.set(xlabel="rollouts", ylabel="held-out pass@1", xlim=(0, width))
    axis.set_ylim(0, max(1.0, *heights.values()))
    axis.xaxis.set_major_formatter(lambda x, _: f"{x:,.0f}")
    return figure, (
        f"{' on '.join(_MAIN)}: means over {counted(len(results.seeds), 'seed')}, with their 95 % "
        f"intervals (Student's t)."
    )


def _spread(ends: dict[str, float]) -> dict[str, float]:
    """Where each name is written, from the lowest up, so that none is written over another."""
    placed: dict[str, float] = {}
    least = -1.0
    for contestant in sorted(ends, key=lambda c: ends[c]):
        placed[contestant] = max(ends[contestant], least)
        least = placed[contestant] + _TOUCHING
    return placed


def _claims(plt: Any, claims: Sequence[Tested]) -> _Made:
    """The estimate and interval of every part of a claim on every task."""
    rows = [
        (
            f"{number}. {shorten(part.text, _LABEL, placeholder=' …')}  ·  {finding.task}",
            part.bound,
            estimate,
            verdict,
        )
        for number, tested in enumerate(claims, 1)
        for finding in tested.findings
        for part, estimate, verdict in finding.tested
        if estimate.count
    ][::-1]
    if not rows:
        return None
    figure, axis = plt.subplots(figsize=(10.2, 0.8 + 0.2 * len(rows)), layout="constrained")
    for y, (_, bound, estimate, verdict) in enumerate(rows):
        bar(axis, y, estimate, _COLORS[verdict])
        if bound:
            axis.plot([bound], [y], marker="d", ms=3.5, color=INK)
    axis.axvline(0, color=INK, lw=0.8)
    # A browser's letters are wider than those that the labels are measured with.
    figure.get_layout_engine().set(rect=(0.04, 0, 0.96, 1))
    axis.set_yticks(range(len(rows)), [row[0] for row in rows], fontsize=7)
    axis.set(ylim=(-0.7, len(rows) - 0.3), xlabel="difference")
    diamonds = " Diamonds: the bound, where it is not 0." if any(row[1] for row in rows) else ""
    return figure, (
        "The numbers are those of the claims. Ticks: mean differences, seed by seed; bars: 95 % "
        "intervals. Green: it comes out as claimed; orange: it does not; gray: not told apart."
        + diamonds
    )


def _ends(plt: Any, readings: Sequence[Reading]) -> _Made:
    """Where each contestant ends on each task."""
    names = _names(readings)
    if not any(reading.results.scores(c) for reading in readings for c in names):
        return None
    columns = min(4, len(readings))
    height = 0.5 + 0.2 * len(names)
    figure, axes = grid(plt, len(readings), columns, height=height, sharey=True)
    for axis, reading in zip(axes, readings, strict=False):
        for y, contestant in enumerate(reversed(names)):
            scores = [*reading.results.scores(contestant).values()]
            if contestant not in reading.results.contestants or not scores:
                continue
            color = line_style(reading.results, contestant)["color"]
            axis.plot(scores, [y] * len(scores), "o", ms=3, mew=0, alpha=0.4, color=color)
            bar(axis, y, mean_rate(scores), color)
        axis.set_title(reading.task)
        axis.set_yticks(range(len(names)), names[::-1])
        axis.set_ylim(-0.6, len(names) - 0.4)
    figure.supxlabel("held-out pass@1 at the end", fontsize=8.5)
    return figure, "Dots: runs; ticks: means; bars: 95 % intervals (Student's t)."


def _curves(plt: Any, readings: Sequence[Reading], metric: str) -> _Made:
    """Mean curves against steps, a panel per task."""
    shown = {r.task: _with(r.results, metric) for r in readings}
    if not any(shown.values()):
        return None
    columns = min(4, len(readings))
    figure, axes = grid(plt, len(readings), columns, height=2.3, sharey=True)
    band = len(_names(readings)) <= _BANDS
    for axis, reading in zip(axes, readings, strict=False):
        for contestant in shown[reading.task]:
            curve = mean_curve(reading.results, contestant, metric)
            style = line_style(reading.results, contestant)
            _line(axis, list(curve), list(curve.values()), style, band=band)
        axis.set_title(reading.task)
        axis.xaxis.set_major_locator(plt.MaxNLocator(4, integer=True))
    axes[0].set_ylim(bottom=0)
    figure.supxlabel("training step", fontsize=8.5)
    widest = max(readings, key=lambda r: len(r.results.contestants)).results
    legend(figure, widest, _with(widest, metric))
    what = "held-out pass@1" if metric == STUDENT else "the teacher's repair rate"
    bands = "; bands: their 95 % intervals (Student's t)" if band else ""
    return figure, f"Means over runs of {what}{bands}."


def _line(axis: Any, x: Sequence[float], points: list[Any], style: Any, *, band: bool) -> None:
    axis.plot(x, [p.value for p in points], marker="o", ms=2.5, **style)
    if band and all(p.has_interval for p in points):
        low, high = [max(p.low, 0) for p in points], [min(p.high, 1) for p in points]
        axis.fill_between(x, low, high, color=style["color"], alpha=0.12, lw=0)


def _with(results: Results, metric: str) -> list[str]:
    """The contestants that have a curve."""
    return [c for c in results.contestants if results.steps(c, metric)]


def _names(readings: Sequence[Reading]) -> list[str]:
    """All contestants of these, in order."""
    return list(dict.fromkeys(c for reading in readings for c in reading.results.contestants))
