"""What the numbers show, and what they do not, in sentences that are made from them."""

from __future__ import annotations

from typing import Any

from vpd_agent.comparison.formats import counted, interval, listed, score, signed, whole
from vpd_agent.comparison.results import TEACHER, Results
from vpd_agent.comparison.standings import Standing, Standings, mean_curve
from vpd_agent.statistics.estimates import Estimate

FEW_RUNS = 4  # from so many on an interval says something
_FALL = 0.05  # from the best to the last mean of a curve, that is worth a sentence
_ONE_SEED = "One seed tells no method's luck from its merit: another may turn the order"


def findings(standings: Standings, collapses: list[dict[str, Any]]) -> list[str]:
    """What the runs show."""
    scored = standings.scored
    if not scored or _untrained(standings.results):
        return verdicts(standings)
    falls = [_fall(s) for s in scored if s.best - s.final.value >= _FALL]
    told = [_ends(standings), *verdicts(standings), *falls, *_teachers(standings)]
    return told + _collapsed(standings.results, collapses)


def verdicts(standings: Standings) -> list[str]:
    """Which contestants are above the baseline, below it, or not told apart from it; or why nobody
    can say."""
    results, scored = standings.results, standings.scored
    if not scored:
        return [_why_nothing(results)]
    if _untrained(results):
        return [
            "The only evaluation that all finished runs have in common is that of step 0, before "
            "training: nothing here says what a method learns."
        ]
    found = _against_baseline(standings) if len(results.contestants) > 1 else []
    best = standings.best_against_next
    if best is not None and best.has_interval:
        first, second = (s.contestant for s in scored[:2])
        found += _verdicts([(first, best)], second)
    return found


def limits(standings: Standings) -> list[str]:
    """What the runs do not show."""
    results = standings.results
    found = [*cautions(standings), _many_comparisons(standings), _coverage(standings)]
    found += [_other_tasks(results), _tuning(results)]
    if standings.scored:
        found.append(
            "Seconds are of the machine that is named below, and of what else it did meanwhile; "
            "runs that went side by side slowed each other down."
        )
    return [sentence for sentence in found if sentence]


def cautions(standings: Standings) -> list[str]:
    """Runs that are left out, and too few of them."""
    results = standings.results
    found = [_left_out(results, c) for c in results.contestants]
    return [sentence for sentence in [*found, _few(standings)] if sentence]


def _why_nothing(results: Results) -> str:
    if not any(results.finished(c) for c in results.contestants):
        return "No run has finished, so there is nothing to compare."
    return "The finished runs were not evaluated at a step that all have, so nothing is compared."


def _ends(standings: Standings) -> str:
    """Where each contestant ends, best first."""
    ends = [f"{s.contestant} {interval(s.final)}" for s in standings.scored]
    counts = sorted({s.final.count for s in standings.scored})
    runs = counted(counts[0], "run") if len(counts) == 1 else "the runs that finished"
    of = "of one run" if counts == [1] else f"mean of {runs}"
    each = " each" if len(ends) > 1 else ""
    step = standings.results.last_step
    return f"Held-out pass@1 at step {step}, {of}{each}: {listed(ends)}."


def _untrained(results: Results) -> bool:
    """Whether runs have trained, but are only comparable before training."""
    return results.last_step == 0 and any(run.rows and run.rows[-1]["step"] for run in results.runs)


def _against_baseline(standings: Standings) -> list[str]:
    results, baseline = standings.results, standings.results.baseline
    if not baseline:
        return []
    if not standings.of(baseline).final.count:
        return [f"{baseline}, the baseline, has no finished run: there is no difference to it."]
    others = [(s.contestant, s.difference) for s in standings.scored if s.difference is not None]
    found = _verdicts([(c, d) for c, d in others if d.count > 1], baseline)
    if single := [(c, d) for c, d in others if d.count == 1]:
        which = "one seed" if len(results.seeds) == 1 else "the one seed that both finished"
        told = listed(_sides(single, baseline))
        found.append(f"In {which} {told} at the end.")
    if unpaired := [c for c, d in others if d.count == 0]:
        found.append(f"{listed(unpaired)} and {baseline} have finished no seed in common.")
    return found


def _sides(differences: list[tuple[str, Estimate]], baseline: str) -> list[str]:
    """Where each contestant stands in one seed; those that are level with the baseline together,
    last."""
    level = [c for c, d in differences if score(abs(d.value)) == ".00"]
    above = [(c, d.value) for c, d in differences if c not in level and d.value > 0]
    below = [(c, d.value) for c, d in differences if c not in level and d.value < 0]
    told = [f"{c} is {score(value)} above {baseline}" for c, value in above]
    told += [f"{c} is {score(-value)} below {baseline}" for c, value in below]
    if level:
        told.append(f"{listed(level)} {'is' if len(level) == 1 else 'are'} level with {baseline}")
    return told


def _verdicts(differences: list[tuple[str, Estimate]], other: str) -> list[str]:
    """A sentence for all contestants with the same verdict against another one."""
    above = [(c, d) for c, d in differences if d.low > 0]
    below = [(c, d) for c, d in differences if d.high < 0]
    same = [(c, d) for c, d in differences if d.low == d.high == 0]
    unclear = [(c, d) for c, d in differences if d.low <= 0 <= d.high and (c, d) not in same]
    found = []
    for group, word in ((above, "above"), (below, "below")):
        if group:
            told = listed([f"{c} by {_size(d)}" for c, d in group])
            found.append(f"{_seeds(group)}, {word} {other} at the end: {told}.")
    if unclear:
        told = listed([f"{c} ({_either_way(d)})" for c, d in unclear])
        found.append(f"{_seeds(unclear)}, not told apart from {other}: {told}.")
    if same:
        told = listed([c for c, _ in same])
        found.append(f"{_seeds(same)}, exactly at {other} in each of them: {told}.")
    return found


def _seeds(group: list[tuple[str, Estimate]]) -> str:
    counts = sorted({d.count for _, d in group})
    many = str(counts[0]) if len(counts) == 1 else f"{counts[0]} to {counts[-1]}"
    return f"With {many} seeds"


def _size(difference: Estimate) -> str:
    near, far = sorted((abs(difference.low), abs(difference.high)))
    return f"{score(abs(difference.value))} ({score(near)} to {score(far)})"


def _either_way(difference: Estimate) -> str:
    low, high = signed(difference.low), signed(difference.high)
    return f"difference {signed(difference.value)}, {low} to {high}"


def _fall(standing: Standing) -> str:
    return (
        f"{standing.contestant} had its highest mean, {score(standing.best)}, at step "
        f"{standing.best_step} and ends {score(standing.best - standing.final.value)} below it."
    )


def _teachers(standings: Standings) -> list[str]:
    """Each teacher's repair rate, from first to last."""
    told = []
    for standing in standings.scored:
        curve = list(mean_curve(standings.results, standing.contestant, TEACHER).values())
        if len(curve) > 1:
            ends = f"{score(curve[0].value)} to {score(curve[-1].value)}"
            told.append(f"{standing.contestant} {ends}")
    if not told:
        return []
    return [f"Share of fixed failures that the teacher repairs, first to last: {'; '.join(told)}."]


def _collapsed(results: Results, collapses: list[dict[str, Any]]) -> list[str]:
    found = []
    for contestant in results.contestants:
        mine = [c for c in collapses if c["contestant"] == contestant and c["collapsed"]]
        if mine:
            seeds, first = {c["seed"] for c in mine}, min(c["step"] for c in mine)
            all_of = sum(run.contestant == contestant for run in results.runs)
            found.append(
                f"{len(seeds)} of {counted(all_of, 'run')} of {contestant} collapsed (by the "
                f"monitor of vpd train), the first at step {first}."
            )
    return found


def _left_out(results: Results, contestant: str) -> str:
    lost = [run for run in results.left_out if run.contestant == contestant]
    if not lost:
        return ""
    outcomes = [run.outcome for run in lost]
    kinds = {"failed": outcomes.count("failed"), "did not finish": outcomes.count("missing")}
    told = listed([f"{n} {what}" for what, n in kinds.items() if n])
    total = sum(run.contestant == contestant for run in results.runs)
    if len(lost) == total:
        return f"{contestant} has no numbers: of its {counted(total, 'run')} {told}."
    return (
        f"{contestant}: of {counted(total, 'run')} {told}. Its numbers are those of the others, "
        f"which flatters it if the method itself made them fail."
    )


def _few(standings: Standings) -> str:
    counts = [s.final.count for s in standings.scored]
    if not counts:
        return ""
    if max(counts) == 1:
        if len(counts) == 1:
            return "One run: nothing here says what another seed would give."
        return f"{_ONE_SEED}. There are no intervals."
    if min(counts) < FEW_RUNS:
        told = listed([f"{s.contestant} {s.final.count}" for s in standings.scored])
        return (
            f"There are few runs ({told}): Student's intervals are wide, bootstrap intervals of so "
            f"few are too narrow, and “not told apart” does not mean equal."
        )
    return ""


def _many_comparisons(standings: Standings) -> str:
    differences = [s.difference for s in standings.scored] + [standings.best_against_next]
    number = sum(d is not None and d.has_interval for d in differences)
    if number < 2:
        return ""
    return (
        f"{number} differences are read at 95 % each. If no method differed from another, luck "
        f"alone would set at least one of them apart in up to {min(5 * number, 100)} of 100 "
        f"such reports."
    )


def _coverage(standings: Standings) -> str:
    if not any(s.final.has_interval for s in standings.scored):
        return ""
    results = standings.results
    problems = results.shared.get("eval_problems")
    most = f" (at most {whole(problems)})" if problems else ""
    if results.shared.get("eval_seed") is None:
        return f"Intervals are over seeds, each of which may have other held-out problems{most}."
    return (
        f"Intervals are over seeds: they show what other seeds would give on these held-out "
        f"problems{most}, not what other problems would."
    )


def _other_tasks(results: Results) -> str:
    env, model = results.shared.get("env"), results.shared.get("model")
    where = f"One task ({env})" if env else "One task"
    also = f" and one model ({model})" if model else ""
    return f"{where}{also}: whether it is so elsewhere is open."


def _tuning(results: Results) -> str:
    if not results.tuning and len(results.contestants) == 1:
        return ""
    if results.tuning is None:
        return (
            "What was tuned before these runs is not known here: a method may do better with other "
            "settings."
        )
    if not results.tuning:
        return (
            "Nothing was tuned for this comparison: each method has the values of its preset and "
            "of the options, and may do better with others."
        )
    trials = {c: sum(t["contestant"] == c for t in results.tuning) for c in results.contestants}
    if len(set(trials.values())) == 1:
        given = f"Each method had {counted(max(trials.values()), 'trial')} of tuning"
    else:
        told = [f"{c} {n}" for c, n in trials.items()]
        given = f"The methods had unequal numbers of trials of tuning ({listed(told)})"
    return f"{given}; what was not tried keeps the value of its preset."
