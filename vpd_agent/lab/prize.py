"""Whether one method with one setting is best, or not told apart from the best, in every regime."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from vpd_agent.comparison.formats import listed
from vpd_agent.comparison.results import Results
from vpd_agent.comparison.standings import paired_end
from vpd_agent.lab.experiments import EXPERIMENTS
from vpd_agent.lab.readings import Lab
from vpd_agent.statistics.estimates import Estimate, mean_rate

REGIMES = ("main", "cold-start", "rigid")  # the experiments that count


class Place(StrEnum):
    BEST = "best"
    TIED = "tied"
    BELOW = "below"
    UNKNOWN = "too few seeds"


@dataclass(frozen=True)
class Rank:
    """Where a contestant ends on a task.

    final: its mean score. behind: the best one's score less its own, by seed.
    """

    place: Place
    final: Estimate
    behind: Estimate


@dataclass(frozen=True)
class Prize:
    """tasks: (experiment, task) that count. ranks: contestant → one per task that was run."""

    tasks: list[tuple[str, str]]
    ranks: dict[str, dict[tuple[str, str], Rank]]

    @property
    def run(self) -> list[tuple[str, str]]:
        """The tasks that have results."""
        return [t for t in self.tasks if any(t in ranks for ranks in self.ranks.values())]

    def behind_on(self, contestant: str) -> list[str]:
        """The tasks that were run on which it is neither best nor tied."""
        ranks = self.ranks[contestant]
        good = (Place.BEST, Place.TIED)
        return [t[1] for t in self.run if t not in ranks or ranks[t].place not in good]

    @property
    def winners(self) -> list[str]:
        """Best or tied on every task that was run."""
        return [c for c in self.ranks if self.run and not self.behind_on(c)]

    @property
    def words(self) -> list[str]:
        """Whether it was found."""
        run, total = self.run, len(self.tasks)
        if not run:
            return ["Not run: none of the experiments of the prize has results."]
        where = f"all {total} tasks" if len(run) == total else f"{len(run)} of {total} tasks"
        if self.winners:
            is_ = "is" if len(self.winners) == 1 else "are"
            found = "The prize was found" if len(run) == total else "Not decided yet"
            told = [f"{found}: {listed(self.winners)} {is_} best or tied on {where}."]
        else:
            fewest = min(len(self.behind_on(c)) for c in self.ranks)
            nearest = [c for c in self.ranks if len(self.behind_on(c)) == fewest]
            named = listed([f"{c} (not on {listed(self.behind_on(c))})" for c in nearest])
            told = [
                f"The prize was not found: nobody is best or tied on {where}. Nearest, on "
                f"{len(run) - fewest} of {len(run)}: {named}."
            ]
        left = [task for experiment, task in self.tasks if (experiment, task) not in run]
        return told + ([f"Not run: {listed(left)}."] if left else [])


def find_prize(lab: Lab) -> Prize:
    tasks = [(name, task) for name in REGIMES for task in EXPERIMENTS[name].tasks]
    ranks: dict[str, dict[tuple[str, str], Rank]] = {}
    for key in tasks:
        for contestant, rank in (ranked(lab[key].results) if key in lab else {}).items():
            ranks.setdefault(contestant, {})[key] = rank
    order = sorted(ranks, key=lambda c: -sum(r.place != Place.BELOW for r in ranks[c].values()))
    return Prize(tasks, {c: ranks[c] for c in order})


def ranked(results: Results) -> dict[str, Rank]:
    """Every contestant with a score, the highest mean first. Tied is one whose paired interval to
    the best includes 0; nothing is known of one without an interval."""
    finals = {c: mean_rate([*results.scores(c).values()]) for c in results.contestants}
    order = sorted((c for c in finals if finals[c].count), key=lambda c: (-finals[c].value, c))
    return {c: _rank(results, c, order[0], finals[c]) for c in order}


def _rank(results: Results, contestant: str, best: str, final: Estimate) -> Rank:
    behind = paired_end(results, best, contestant)
    if not behind.has_interval:
        return Rank(Place.UNKNOWN, final, behind)
    if contestant == best:
        return Rank(Place.BEST, final, behind)
    return Rank(Place.BELOW if behind.low > 0 else Place.TIED, final, behind)
