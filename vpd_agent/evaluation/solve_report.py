"""What methods solved at the same budget, for people: tables, a page, a JSON file, a picture."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np

from vpd_agent.evaluation.discovery import (
    ESTIMATORS,
    INDEPENDENT,
    Attempts,
    MethodResult,
    results_of,
    summary,
)
from vpd_agent.evaluation.report import markdown
from vpd_agent.runs.files import finite, write_atomically
from vpd_agent.runs.pictures import draw_if_possible, pyplot
from vpd_agent.statistics.estimates import Estimate
from vpd_agent.statistics.rates import powers_of_two

MEANING = {
    "ttd": (
        "trains on its attempts at the one problem, with their feedback, from the same initial "
        "weights for each problem"
    ),
    "best-of-k": "independent attempts of the initial model, which sees no feedback",
    "multi-turn": "one attempt after another, each with the feedback on earlier ones, no training",
}
EXPLAINED = (
    "discovery@k: the chance that one of the first k attempts solves the problem (arXiv "
    "2601.20802, definition 5.1), a mean over problems. {estimators} Intervals are of 95 %, over "
    "problems: Wilson's, with the effective sample size; of differences, Student's t of the "
    "differences problem by problem."
)
COSTS = (
    "Attempts, tokens and seconds are means over pairs of a problem and a seed, until the method "
    "stops: at the first attempt that solves the problem (ttd: with the group that it is in), or "
    "at the budget. best-of-k makes all of its attempts for the estimate; counted are those up to "
    "the first that solves. Tokens are those sampled; prompts and critiques are not counted. "
    "Seconds are of sampling, judging and training on this machine, without the loading of the "
    "model; what is done side by side is shared out."
)
FEEDBACK = (
    "Every method here has a judge that says which of its attempts at these very problems is "
    "right, and ttd and multi-turn read its feedback on them. A student that was trained on other "
    "problems has neither when it is evaluated: next to its pass@1, discovery@k says what attempts "
    "with a judge at hand are worth, not what can be learned."
)


@dataclass(frozen=True)
class Report:
    """The attempts of methods, and what they say.

    methods, problem_ids, seeds, budget: what was asked for. measured: what the attempts depend on.
    """

    attempts: Sequence[Attempts]
    methods: Sequence[str]
    problem_ids: Sequence[str]
    seeds: Sequence[int]
    budget: int
    measured: Mapping[str, Any]

    @cached_property
    def results(self) -> dict[str, MethodResult]:
        return results_of(self.attempts, self.methods, self.budget)

    @property
    def pairs(self) -> int:
        """Pairs of a problem and a seed that all methods have."""
        return max((len(r.attempts) for r in self.results.values()), default=0)

    @property
    def title(self) -> str:
        return f"{self.measured['model']} in {self.measured['env']}"

    @property
    def counted(self) -> str:
        """What the figures are of, in words."""
        asked = len(self.problem_ids) * len(self.seeds)
        lost = f" ({asked - self.pairs} could not be judged)" if self.pairs < asked else ""
        counts = (len(self.problem_ids), "problem"), (len(self.seeds), "seed")
        told = " × ".join(f"{n} {word}{'s' if n > 1 else ''}" for n, word in counts)
        return f"{told}{lost}, {self.budget} attempts each"

    def discovery_table(self) -> tuple[list[str], list[list[str]]]:
        """Header and rows, in per cent, for k = 1, 4, 16 … and the budget."""
        ks = sorted({*powers_of_two(self.budget)[::2], self.budget})
        rows = []
        for method, result in self.results.items():
            curve = result.discovery
            low_and_high = f"{100 * curve[-1].low:.1f} to {100 * curve[-1].high:.1f}"
            rows.append([method, *(f"{100 * curve[k - 1].mean:.1f}" for k in ks), low_and_high])
        return ["discovery@k, %", *map(str, ks), f"95 % at {self.budget}"], rows

    def cost_table(self) -> tuple[list[str], list[list[str]]]:
        """Header and rows: what a problem costs, and the difference to best-of-k."""
        rows = []
        results = self.results
        baseline = results.get(INDEPENDENT[0])
        for method, r in results.items():
            cells = [f"{r.mean_attempts:.1f}", f"{r.mean_tokens:.0f}", f"{r.mean_seconds:.2f}"]
            told = "-"
            if baseline is not None and r is not baseline:
                told = _difference(r.minus(baseline))
            rows.append([method, *cells, told])
        header = ["until solved", "attempts", "tokens", "seconds"]
        return [*header, f"discovery@{self.budget} − best-of-k, %"], rows

    def write(self, folder: Path) -> list[Path]:
        """results.json, report.md and, where matplotlib is installed, discovery.png and .svg. The
        numbers are written first, so that a failure to draw loses nothing."""
        numbers, page = folder / "results.json", folder / "report.md"
        results = self.results
        told = {
            "budget": self.budget,
            "problems": list(self.problem_ids),
            "seeds": list(self.seeds),
            "methods": summary(results, self.budget),
            "pairs": [
                {
                    "problem_id": problem_id,
                    "seed": seed,
                    **{m: r.attempts[problem_id, seed].discovered for m, r in results.items()},
                }
                for problem_id, seed in next(iter(results.values())).attempts
            ]
            if results
            else [],
            "measured": dict(self.measured),
        }
        write_atomically(numbers, json.dumps(finite(told), indent=1, ensure_ascii=False) + "\n")
        write_atomically(page, self._page())
        pictures = [folder / f"discovery.{ending}" for ending in ("png", "svg")]
        drawn = bool(results) and draw_if_possible(pictures[0], partial(self._draw, pictures))
        if not drawn:
            return [numbers, page]
        write_atomically(page, self._page(pictures[0].name))
        return [numbers, page, *pictures]

    def _page(self, picture: str = "") -> str:
        used = {m in INDEPENDENT: m for m in self.methods}
        estimators = " ".join(f"{used[key]}: {ESTIMATORS[key]}." for key in sorted(used))
        if False in used:
            estimators = estimators.replace(f"{used[False]}:", "Methods that learn or read:")
        sections = [
            f"# {self.title}: solved at the same budget",
            f"{self.counted}.",
            *([f"![discovery@k]({picture})"] if picture else []),
            markdown(*self.discovery_table()),
            markdown(*self.cost_table()),
            "\n".join(f"- **{m}**: {MEANING[m]}." for m in self.methods),
            EXPLAINED.format(estimators=estimators),
            COSTS,
            FEEDBACK,
            markdown(["measured", ""], [[k, f"`{v}`"] for k, v in self.measured.items() if v]),
        ]
        return "\n\n".join(sections) + "\n"

    def _draw(self, paths: Sequence[Path], _: Path) -> None:
        """discovery@k with its band against attempts; beside it the share of pairs that were solved
        at a cost in tokens, and in seconds."""
        plt = pyplot()
        figure, axes = plt.subplots(1, 3, figsize=(10.2, 3.6), sharey=True, layout="constrained")
        ks = np.arange(1, self.budget + 1)
        for i, (method, result) in enumerate(self.results.items()):
            color, curve = f"C{i}", result.discovery
            axes[0].plot(ks, [p.mean for p in curve], color=color, label=method)
            low, high = [p.low for p in curve], [p.high for p in curve]
            axes[0].fill_between(ks, low, high, color=color, alpha=0.15, lw=0)
            for axis, cost in zip(axes[1:], ("tokens_spent", "seconds_spent"), strict=True):
                axis.step(*_solved_at_cost(result, cost), where="post", color=color)
        axes[0].set(xlabel="attempts, k", ylabel="share solved", ylim=(0, 1), xlim=(1, None))
        axes[0].set_xscale("log", base=2)
        axes[0].xaxis.set_major_formatter(lambda x, _: f"{x:g}")
        axes[1].set(xlabel="tokens sampled")
        axes[2].set(xlabel="seconds")
        for axis in axes:
            axis.grid(alpha=0.3)
        axes[0].legend(fontsize=8)
        figure.suptitle(f"{self.title}: {self.counted}; band: 95 % interval", fontsize=9)
        with plt.rc_context({"svg.hashsalt": "discovery"}):  # the same numbers give the same files
            figure.savefig(paths[0], dpi=150, metadata={"Software": None})
            figure.savefig(paths[1], metadata={"Date": None})
        plt.close(figure)


def _solved_at_cost(result: MethodResult, cost: str) -> tuple[list[float], list[float]]:
    """The steps of the share of pairs that were solved at no more than a cost."""
    attempts = result.attempts.values()
    solved = sorted(getattr(a, cost) for a in attempts if a.discovered is not None)
    most = max(getattr(a, cost) for a in attempts)
    shares = [i / len(attempts) for i in range(len(solved) + 1)]
    return [0.0, *solved, most], [*shares, shares[-1]]


def _difference(gain: Estimate) -> str:
    told = f"{100 * gain.value:+.1f}"
    return (
        f"{told} ({100 * gain.low:+.1f} to {100 * gain.high:+.1f})" if gain.has_interval else told
    )
