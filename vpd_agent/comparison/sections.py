"""What the report says, in order: paragraphs, lists, tables and figures, for every form of it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from vpd_agent.comparison.formats import (
    NONE,
    as_text,
    counted,
    interval,
    listed,
    score,
    seconds,
    signed,
    whole,
)
from vpd_agent.comparison.results import Results
from vpd_agent.comparison.standings import Standing, Standings, idle_shares, phase_seconds
from vpd_agent.comparison.words import findings, limits
from vpd_agent.statistics.estimates import mean

_PLAIN = ("quiet", "trackers", "save_every", "keep_checkpoints", "samples_every", "samples_all")


@dataclass(frozen=True)
class Table:
    """folded: shown on demand where the form allows it."""

    header: list[str]
    rows: list[list[str]]
    words: int = 1  # columns, from the left, that hold words; the others hold numbers
    folded: str = ""  # what stands on the fold


@dataclass(frozen=True)
class Figure:
    name: str
    caption: str


@dataclass(frozen=True)
class Links:
    """targets: what is read → where it leads, relative to the page."""

    targets: dict[str, str]


Block = str | list[str] | Table | Figure | Links


@dataclass(frozen=True)
class Section:
    title: str
    blocks: Sequence[Block]


def sections(
    standings: Standings, collapses: list[dict[str, Any]], figures: Sequence[Figure]
) -> list[Section]:
    """figures: those that could be drawn."""
    results = standings.results
    drawn = {figure.name: figure for figure in figures}

    def pictures(*names: str) -> list[Figure]:
        return [drawn[name] for name in names if name in drawn]

    found = [
        Section("What the runs show", [findings(standings, collapses)]),
        Section("What they do not show", [limits(standings)]),
        Section(
            "Where they end", [final_table(standings), _how_to_read(standings), *pictures("final")]
        ),
        Section("Learning curves", pictures("curves")),
        Section("What it cost", [_cost_table(standings), _how_costs_are_told(standings)]),
        Section("Teacher beside student", pictures("teacher")),
        Section("Stability", pictures("stability")),
        Section("What collapsed, and when", [_collapse_table(collapses)]),
        Section("Where the time goes", [_phase_table(results), *pictures("phases")]),
        Section("Every run", [_run_table(results)]),
        Section("Failed and missing runs", [_lost_table(results)]),
        Section("What was tuned", tuning_blocks(results.tuning or [])),
        Section("Settings", [_own_settings(results), _shared_settings(results)]),
        Section("Made with", [_origin_table(results)]),
    ]
    return [s for s in (_filled(section) for section in found) if s.blocks]


def _filled(section: Section) -> Section:
    blocks = [b for b in section.blocks if not (isinstance(b, Table) and not b.rows) and b]
    return Section(section.title, blocks)


def final_table(standings: Standings) -> Table:
    results, baseline = standings.results, standings.results.baseline
    compared = any(s.difference is not None for s in standings.all)
    header = ["contestant", "runs", "mean", "interquartile mean", "area"]
    header[4:4] = [f"− {baseline}", f"P(above {baseline})"] if compared else []
    rows = []
    for s in standings.all:
        middle = [_or_none(s.difference, signed), _or_none(s.improvement)] if compared else []
        area = interval(s.area) if s.area.count else NONE
        means = [interval(s.final), interval(s.iqm)] if s.final.count else [NONE, NONE]
        rows.append([s.contestant, _of(s, results), *means, *middle, area])
    return Table(header, rows)


def _or_none(estimate: Any, write: Any = score) -> str:
    return interval(estimate, write) if estimate is not None and estimate.count else NONE


def _of(standing: Standing, results: Results) -> str:
    """Finished runs of those that were asked for."""
    asked = sum(run.contestant == standing.contestant for run in results.runs)
    return str(standing.runs) if standing.runs == asked else f"{standing.runs} of {asked}"


def _how_to_read(standings: Standings) -> str:
    step = standings.results.last_step
    where = "" if step is None else f" at step {step}"
    text = (
        f"Held-out pass@1{where}; in brackets the 95 % interval over runs. Mean, area and paired "
        "difference: Student's t. Interquartile mean and P: percentile bootstrap, runs resampled "
        "within each contestant. Area: the mean score over the training, by rollouts."
    )
    baseline = standings.results.baseline
    if any(s.difference is not None for s in standings.all):
        text += (
            f" − {baseline}: the mean difference to {baseline}, seed by seed. P(above {baseline}): "
            f"the chance that a run is above a run of {baseline}; 1.00 or .00 without width says "
            f"that all runs of the one were above all of the other."
        )
    return text


def _cost_table(standings: Standings) -> Table:
    aim = standings.threshold
    reach = [] if math.isnan(aim) else [f"reached {score(aim)}", "rollouts to it", "seconds to it"]
    rows = []
    for s in filter(lambda s: s.runs, standings.all):
        to = [f"{s.reached} of {s.runs}", _reached(s, s.rollouts_to), _reached(s, s.seconds_to)]
        totals = [whole(s.rollouts), whole(s.tokens), whole(s.seconds)]
        rows.append([s.contestant, *(to if reach else []), *totals])
    return Table(["contestant", *reach, "rollouts", "tokens", "seconds"], rows)


def _reached(standing: Standing, cost: float) -> str:
    return f"not reached in {standing.runs - standing.reached}" if math.isinf(cost) else whole(cost)


def _how_costs_are_told(standings: Standings) -> str:
    text = (
        "Per run, means: rollouts (a trust gate's of the teacher among them), the policy's own "
        "tokens, and seconds of training without start-up and evaluations."
    )
    if math.isnan(standings.threshold):
        return text
    results = standings.results
    which = "given with the command" if results.threshold is not None else "baseline's mean end"
    return (
        f"{text} The threshold {score(standings.threshold)} is the {which}. A run has reached it "
        f"at its first evaluation at or above it; the table has the median over runs, where those "
        f"that never reach it count as the slowest."
    )


def _collapse_table(collapses: list[dict[str, Any]]) -> Table:
    rows = [[c["contestant"], str(c["seed"]), str(c["step"]), c["text"]] for c in collapses]
    return Table(["contestant", "seed", "step", "what the monitor says"], rows, words=4)


def _phase_table(results: Results) -> Table:
    spent = {c: phase_seconds(results, c) for c in results.contestants if results.finished(c)}
    names = phase_names(results)
    idle = {c: idle_shares(results, c) for c in spent}
    who = list(dict.fromkeys(name for shares in idle.values() for name in shares))
    rows = [
        [
            c,
            *(seconds(parts[n]) if n in parts else NONE for n in names),
            whole(sum(parts.values())),
            *(f"{idle[c][name]:.0%}" if name in idle[c] else NONE for name in who),
        ]
        for c, parts in spent.items()
    ]
    columns = ["seconds per run", *names, "all", *(f"{name} idle" for name in who)]
    return Table(columns, rows if names else [])


def phase_names(results: Results) -> list[str]:
    """The parts that any contestant's runs have: as they come in a step, evaluations and the rest
    last."""
    names = dict.fromkeys(n for c in results.contestants for n in phase_seconds(results, c))
    return sorted(names, key=lambda name: {"evaluate": 1, "other": 2}.get(name, 0))


def _run_table(results: Results) -> Table:
    rows = []
    for contestant in results.contestants:
        mine = {run.seed: run for run in results.runs if run.contestant == contestant}
        scores = results.scores(contestant)
        rows.append(
            [contestant]
            + [
                score(scores[s]) if s in scores else mine[s].outcome if s in mine else NONE
                for s in results.seeds
            ]
        )
    return Table(["pass@1 at the end", *(f"seed {s}" for s in results.seeds)], rows)


def _lost_table(results: Results) -> Table:
    rows = [
        [run.contestant, str(run.seed), run.outcome, " ".join(run.reason.split()) or NONE]
        for run in results.left_out
    ]
    return Table(["contestant", "seed", "outcome", "reason"], rows, words=4)


def tuning_blocks(trials: Sequence[Mapping[str, Any]]) -> list[Block]:
    """What was tried for each contestant, and what was chosen; nothing where nothing was."""
    return [tuning_table(trials), _HOW_TRIALS_ARE_SCORED] if trials else []


def tuning_table(trials: Sequence[Mapping[str, Any]]) -> Table:
    rows = []
    for trial in trials:
        values = listed([f"{k} = {as_text(v)}" for k, v in trial["values"].items()]) or "preset"
        told = " ".join(NONE if s is None else score(s) for s in trial["scores"])
        average = score(mean_score(trial))
        chosen = "chosen" if trial["chosen"] else ""
        seeds = " ".join(map(str, trial["seeds"]))
        rows.append([trial["contestant"], values, chosen, seeds, told, average])
    return Table(["contestant", "tried", "", "seeds", "scores", "mean"], rows, words=3)


_HOW_TRIALS_ARE_SCORED = (
    "A score per tuning seed: the mean pass@1 of the evaluations after the first step, on "
    "training problems that were set aside for it. The highest mean was chosen."
)


def mean_score(trial: Mapping[str, Any]) -> float:
    """Over the runs of a trial that did not fail."""
    return mean([s for s in trial["scores"] if s is not None]).value


def _own_settings(results: Results) -> Table:
    own = {c: results.own_flags(c) for c in results.contestants}
    names = list(dict.fromkeys(name for values in own.values() for name in values))
    rows = [
        [name, *(as_text(own[c].get(name)) if name in own[c] else NONE for c in own)]
        for name in names
    ]
    return Table(["what differs", *own], rows, words=1 + len(own))


def _shared_settings(results: Results) -> Table:
    rows = [[k, as_text(v)] for k, v in results.shared.items() if k not in _PLAIN]
    fold = f"{counted(len(rows), 'setting')} that all runs share"
    return Table(["setting", "value"], rows, words=2, folded=fold)


def _origin_table(results: Results) -> Table:
    rows = [["command", results.command]]
    rows += [[name, "; ".join(values)] for name, values in origins(results).items()]
    return Table(["", ""], rows, words=2)


def origins(results: Results) -> dict[str, list[str]]:
    """Versions, machine, commit and fingerprints that the runs' records name: usually one each."""
    found: dict[str, list[str]] = {}
    for run in results.runs:
        record = run.record
        told = {**record.get("machine", {}), "commit": record.get("commit")}
        told |= record.get("versions", {})
        prints = record.get("fingerprints", {})
        told |= {f"problems ({k})": v for k, v in prints.items() if isinstance(v, str)}
        told |= {f"model ({k})": v for k, v in (prints.get("model") or {}).items()}
        for name, value in told.items():
            if value is not None and str(value) not in found.setdefault(name, []):
                found[name].append(str(value))
    return {name: values for name, values in found.items() if values}
