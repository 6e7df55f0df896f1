"""The lab's answers in sentences that are made from its numbers."""

from __future__ import annotations

from collections.abc import Mapping

from vpd_agent.comparison.formats import counted, interval, listed, score
from vpd_agent.comparison.results import TEACHER
from vpd_agent.comparison.standings import mean_curve
from vpd_agent.lab.claims import MIXED, Tested
from vpd_agent.lab.contrasts import Verdict
from vpd_agent.lab.prize import Place, Rank, ranked
from vpd_agent.lab.readings import Lab, Reading
from vpd_agent.statistics.estimates import Estimate

_COUNTED = {  # after one claim, and after several
    Verdict.HOLDS: ("holds", "hold", "here on every task that was run"),
    Verdict.FAILS: ("does not", "do not", ""),
    Verdict.UNCLEAR: ("cannot be told", "cannot be told", ""),
    MIXED: ("differs", "differ", "from task to task"),
    Verdict.NOT_RUN: ("was not run", "were not run", ""),
}
_SHOWN = 6  # contestants below the best that a sentence names


def answers(experiment: str, lab: Lab, claims: list[Tested]) -> list[str]:
    """What an experiment found: a sentence per task, and what became of its claims."""
    readings = [reading for (name, _), reading in lab.items() if name == experiment]
    told = [sentence for reading in readings for sentence in _on_task(reading)]
    mine = [t for t in claims if t.claim.experiment == experiment and t.verdict != Verdict.NOT_RUN]
    return told + [f"“{t.claim.says}” {_sentence(t.words)}" for t in mine]


def overview(claims: list[Tested]) -> str:
    """How many claims have each verdict."""
    found = [tested.verdict for tested in claims]
    told = []
    for kind, (one, several, rest) in _COUNTED.items():
        if number := found.count(kind):
            told.append(f"{number} {one if number == 1 else several} {rest}".strip())
    return f"Of {counted(len(claims), 'claim')} {listed(told)}."


def many_intervals(claims: list[Tested]) -> str:
    """What luck alone would do; "" where there are no intervals."""
    estimates = [e for t in claims for f in t.findings for e in f.estimates if e.has_interval]
    if not estimates:
        return ""
    return (
        f"{counted(len(estimates), 'interval')} of 95 % decide the claims: if no method differed "
        f"from another, luck alone would put about {len(estimates) / 20:.1f} of them on one side."
    )


def _on_task(reading: Reading) -> list[str]:
    ranks = ranked(reading.results)
    if not ranks:
        return [f"{reading.task}: no run has finished with a score."]
    best, *others = ranks
    lead = f"{reading.task}: {best} ends highest, {interval(ranks[best].final)}"
    tied = [f"{c} {interval(ranks[c].final)}" for c in others if ranks[c].place == Place.TIED]
    below = [_behind(c, ranks[c]) for c in others if ranks[c].place == Place.BELOW]
    parts = [f"not told apart from it: {listed(tied)}"] if tied else []
    if below:
        more = len(below) - _SHOWN
        named = [*below[:_SHOWN], f"{more} more"] if more > 1 else below
        parts.append(f"below it: {listed(named)}")
    if unknown := [c for c in others if ranks[c].place == Place.UNKNOWN]:
        parts.append(f"too few seeds to compare: {listed(unknown)}")
    told = ["; ".join([lead, *parts]) + "."]
    if reading.experiment == "teacher":
        told += _repairs(reading)
    return told + _lost(reading)


def _behind(contestant: str, rank: Rank) -> str:
    return f"{contestant} by {interval(rank.behind)}"


def _repairs(reading: Reading) -> list[str]:
    """The teacher's repair rate at the first, the middle and the last evaluation."""
    told = []
    for contestant in reading.results.contestants:
        curve: Mapping[int, Estimate] = mean_curve(reading.results, contestant, TEACHER)
        if len(curve) > 2:
            steps = list(curve)
            middle = [s for s in steps if 2 * s <= steps[-1]][-1]
            values = [score(curve[s].value) for s in (steps[0], middle, steps[-1])]
            told.append(f"{contestant} {', '.join(values)}")
    if not told:
        return []
    return [
        f"{reading.task}, share of fixed failures that the teacher repairs, at the first, the "
        f"middle and the last evaluation: {'; '.join(told)}."
    ]


def _lost(reading: Reading) -> list[str]:
    """The runs that are left out of the numbers."""
    lost = reading.results.left_out
    if not lost:
        return []
    names = listed([f"{run.contestant} seed {run.seed} ({run.outcome})" for run in lost[:_SHOWN]])
    more = f" and {len(lost) - _SHOWN} more" if len(lost) > _SHOWN else ""
    return [f"{reading.task}: left out of the numbers: {names}{more}."]


def _sentence(text: str) -> str:
    return text[:1].upper() + text[1:] + "."
