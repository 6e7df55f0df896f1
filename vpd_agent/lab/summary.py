"""The lab's summary: index.html, summary.md, summary.json, and each experiment's results.json."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence, Set
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from vpd_agent.comparison.formats import (
    NONE,
    counted,
    interval,
    listed,
    score,
    signed,
    without_folders,
)
from vpd_agent.comparison.page import page
from vpd_agent.comparison.report import FIGURES, markdown, write_record
from vpd_agent.comparison.results import RESULTS, STUDENT, TEACHER
from vpd_agent.comparison.sections import Block, Figure, Links, Section, Table
from vpd_agent.comparison.tuning import worth
from vpd_agent.console import phase
from vpd_agent.lab import prompt_only
from vpd_agent.lab.claims import Tested, check_claims
from vpd_agent.lab.experiments import EXPERIMENTS, folder_of
from vpd_agent.lab.figures import CLAIMS, MAIN_CURVE, draw_lab
from vpd_agent.lab.prize import REGIMES, Prize, find_prize, ranked
from vpd_agent.lab.prompt_only import PromptOnly
from vpd_agent.lab.readings import Lab, Reading, Tried, read_lab, read_tuning
from vpd_agent.lab.tasks import TASKS
from vpd_agent.lab.words import answers, many_intervals, overview
from vpd_agent.runs.files import write_atomically
from vpd_agent.runs.pictures import missing_matplotlib_is_told

PAGE, TEXT, NUMBERS = "index.html", "summary.md", "summary.json"
_FORMAT = 1  # of summary.json and of an experiment's results.json
_TITLE = "The laptop lab"


@dataclass(frozen=True)
class _Found:
    """What the page tells.

    tuning: what was tried; [] where nothing was. prompt_only: experiment → the
    baseline on its tasks. reports: the comparisons (experiment, task) whose reports stand where the
    page can link to them.
    """

    lab: Lab
    claims: list[Tested]
    prize: Prize
    tuning: list[Tried]
    prompt_only: dict[str, list[PromptOnly]]
    reports: set[tuple[str, str]]


def write_summary(out: Path, to: Path | None = None) -> list[Path]:
    """Write the summary of the comparisons that are in a lab's folder; returns the files, the page
    first. Without matplotlib it has no figures. Raises ValueError where there is none.

    to: another folder for it, which gets no links to the reports of the comparisons, and loses what
        an earlier summary there had of experiments that this one has not.
    """
    lab = read_lab(out)
    if not lab:
        raise ValueError(f"{out} holds no finished comparison of the lab: run vpd lab NAME first.")
    found = _Found(
        lab,
        check_claims(lab),
        find_prize(lab),
        read_tuning(out),
        {name: prompt_only.read(out, EXPERIMENTS[name].tasks) for name in REGIMES},
        {key for key in lab if to in (None, out) and _has_report(out, *key)},
    )
    published = to not in (None, out)
    out = to or out
    with phase("Writing the lab's summary"):
        out.mkdir(parents=True, exist_ok=True)
        write_record(out / NUMBERS, _record(found))
        for experiment in dict.fromkeys(name for name, _ in lab):
            (out / experiment).mkdir(exist_ok=True)
            write_record(out / experiment / RESULTS, _runs(experiment, lab))
        if published:
            _discard_others(out, {name for name, _ in lab})
        _write_texts(out, found, {})
        without = "The summary is without its figures: they need"
        with missing_matplotlib_is_told(without, "The same command draws them then."):
            figures = draw_lab(lab, found.claims, out / FIGURES)
            _write_texts(out, found, figures)
            if published:
                _discard_other_pictures(out / FIGURES, figures)
    return [out / name for name in (PAGE, TEXT, NUMBERS)]


def _discard_others(out: Path, experiments: Set[str]) -> None:
    for name in EXPERIMENTS.keys() - experiments:
        (out / name / RESULTS).unlink(missing_ok=True)
        with suppress(OSError):  # it is not there, or has what is not ours
            (out / name).rmdir()


def _discard_other_pictures(folder: Path, figures: Mapping[str, Figure]) -> None:
    for picture in folder.iterdir():
        if picture.stem not in figures:
            picture.unlink()


def _write_texts(out: Path, found: _Found, figures: Mapping[str, Figure]) -> None:
    sections, about = _sections(found, figures), _about(found.lab)
    write_atomically(out / TEXT, without_folders(markdown(_TITLE, about, sections)))
    write_atomically(out / PAGE, without_folders(page(_TITLE, about, sections, out / FIGURES)))


def _about(lab: Lab) -> str:
    runs = sum(len(reading.results.runs) for reading in lab.values())
    experiments = dict.fromkeys(name for name, _ in lab)
    return (
        f"{len(experiments)} of {counted(len(EXPERIMENTS), 'experiment')}, "
        f"{counted(len(lab), 'comparison')}, {counted(runs, 'run')} of tiny models"
    )


def _sections(found: _Found, figures: Mapping[str, Figure]) -> list[Section]:
    def drawn(*names: str) -> list[Block]:
        return [figures[name] for name in names if name in figures]

    lab, claims, prize = found.lab, found.claims, found.prize
    sections = [Section("The main curve", drawn(MAIN_CURVE))]
    tables = [_claim_table(claims), _how_claims_are_tested(), _part_table(claims)]
    sections.append(Section("The papers' claims", [[overview(claims)], *tables, *drawn(CLAIMS)]))
    places = [prize.words, _prize_table(prize), _how_prize_is_found()]
    sections.append(Section("The prize", places))
    for name, experiment in EXPERIMENTS.items():
        mine = [reading for (e, _), reading in lab.items() if e == name]
        if mine:
            blocks = [answers(name, lab, claims)]
            blocks += drawn(f"{name}-ends", f"{name}-curves", f"{name}-repairs")
            blocks += _prompt_only_blocks(found.prompt_only.get(name, []))
            linked = [reading for reading in mine if (name, reading.task) in found.reports]
            blocks += [_end_table(mine), *([_reports(linked)] if linked else [])]
            sections.append(Section(name, [experiment.question, *blocks]))
    sections.append(Section("What was tuned", _tuning_blocks(found.tuning)))
    sections.append(Section("What this does not show", [_limits(found)]))
    sections.append(Section("How each comparison is repeated", [_command_table(lab)]))
    return [section for section in sections if any(section.blocks)]


def _prompt_only_blocks(found: Sequence[PromptOnly]) -> list[Block]:
    """The baseline without training."""
    rows = [
        [one.task, method, score(each.first), interval(each.any)]
        for one in found
        for method, each in one.methods.items()
    ]
    if not rows:
        return []
    most = listed([str(k) for k in dict.fromkeys(one.budget for one in found)])
    told = (
        f"Without training, the initial model's attempts at the held-out problems: as many in all "
        f"as a run has rollouts, {most} at each problem. A judge says which attempt is right, and "
        f"in multi-turn each attempt is shown the feedback on the last. A trained student has one "
        f"attempt and no feedback, so these say what a judge at hand is worth, not what was "
        f"learned."
    )
    return [told, Table(["task", "without training", "first attempt", "any of them"], rows, 2)]


def _tuning_blocks(tuning: Sequence[Tried]) -> list[Block]:
    if not tuning:
        return []
    tasks = _tuned_on(tuning)
    best = "What was best there was"
    if len(tasks) > 1:
        best = (
            "A setting falls short on a task by as much as it is below the best setting of its "
            "algorithm there; the one whose largest shortfall is smallest was"
        )
    told = (
        f"Each algorithm had the same number of trials on {listed(tasks)}, on seeds that nothing "
        f"else uses. {best} chosen, and holds on every task, but for what an experiment "
        f"varies. A score is the mean pass@1 of the evaluations after the first step, over the "
        f"tuning seeds, on training problems that were set aside for it."
    )
    return [told, _tuning_table(tuning)]


def _tuned_on(tuning: Sequence[Tried]) -> list[str]:
    tasks = {task for tried in tuning for task in tried.scores}
    return [task for task in TASKS if task in tasks]


def _tuning_table(tuning: Sequence[Tried]) -> Table:
    tasks = _tuned_on(tuning)
    rows = []
    for tried in tuning:
        values = listed([f"{k} = {v}" for k, v in tried.values.items()]) or "preset"
        means = [*(worth(tried.scores.get(task, ())) for task in tasks), tried.mean]
        means += [tried.shortfall] if len(tasks) > 1 else []
        told = [score(mean) if math.isfinite(mean) else NONE for mean in means]
        rows.append([tried.algorithm, values, "chosen" if tried.chosen else "", *told])
    head = ["algorithm", "tried", "", *tasks, "mean"]
    return Table([*head, *(["largest shortfall"] if len(tasks) > 1 else [])], rows, words=3)


def _claim_table(claims: Sequence[Tested]) -> Table:
    rows = [
        [str(number), t.claim.says, t.words, f"{t.claim.source}: {t.claim.published}"]
        for number, t in enumerate(claims, 1)
    ]
    return Table(["", "claim", "what came out", "source, and its figures"], rows, words=4)


def _how_claims_are_tested() -> str:
    return (
        "A part of a claim is a sum of differences between runs of the same seed. It holds where "
        "the whole 95 % interval (paired, Student's t) is on the claimed side of 0 (of .05 where "
        "a teacher is claimed to stop improving), does not hold where all of it is on the other "
        "side, and is not told apart where the interval contains the bound. A claim holds on a "
        "task where all of its parts do. The figures of VPD and PAST are from others' notes on "
        "these papers."
    )


def _part_table(claims: Sequence[Tested]) -> Table:
    rows = [
        [
            str(number),
            part.text,
            f"{part.claimed} {score(part.bound) if part.bound else '0'}",
            f"{tested.claim.experiment}, {finding.task}",
            str(verdict),
            interval(estimate, signed),
            str(estimate.count),
        ]
        for number, tested in enumerate(claims, 1)
        for finding in tested.findings
        for part, estimate, verdict in finding.tested
        if estimate.count
    ]
    header = ["", "what is tested", "claimed", "where", "verdict", "difference", "seeds"]
    return Table(header, rows, words=5)


def _prize_table(prize: Prize) -> Table:
    rows = [
        [contestant, *(_place(ranks.get(key)) for key in prize.run)]
        for contestant, ranks in prize.ranks.items()
    ]
    return Table(["contestant", *(task for _, task in prize.run)], rows)


def _place(rank: Any) -> str:
    return NONE if rank is None else f"{rank.place} {score(rank.final.value)}"


def _how_prize_is_found() -> str:
    return (
        "Mean held-out pass@1 at the end. Tied: the 95 % interval of the paired difference to the "
        "best contestant of that task contains 0, which does not mean that the two are equal; "
        "below: it does not. The tasks are those of main, cold-start and rigid."
    )


def _end_table(readings: Sequence[Reading]) -> Table:
    names = dict.fromkeys(c for reading in readings for c in reading.results.contestants)
    ends = [{c: interval(rank.final) for c, rank in ranked(r.results).items()} for r in readings]
    rows = [[name, *(end.get(name, NONE) for end in ends)] for name in names]
    fold = "Held-out pass@1 at the end, with 95 % intervals"
    return Table(["contestant", *(r.task for r in readings)], rows, folded=fold)


def _has_report(out: Path, experiment: str, task: str) -> bool:
    """A comparison that was taken over from another machine has none until it is called here."""
    return (folder_of(out, experiment, task) / "report.html").is_file()


def _reports(readings: Sequence[Reading]) -> Links:
    return Links({f"report on {r.task}": f"{r.experiment}/{r.task}/report.html" for r in readings})


def _limits(found: _Found) -> list[str]:
    lab = found.lab
    told = [many_intervals(found.claims)]
    counts = {len(reading.results.seeds) for reading in lab.values()}
    if min(counts) < 2:
        told.append("Comparisons of one seed have no intervals, so that nothing is told apart.")
    told.append(
        "Intervals are over seeds: they show what other seeds would give on these held-out "
        "problems with these models of half a million parameters, not what larger models do."
    )
    told.append(_limit_of_tuning(_tuned_on(found.tuning)))
    missing = [name for name in EXPERIMENTS if not any(e == name for e, _ in lab)]
    return [*filter(None, told), *([f"Not run: {listed(missing)}."] if missing else [])]


def _limit_of_tuning(tasks: list[str]) -> str:
    if not tasks:
        return (
            "Nothing was tuned: each method has the values of its preset and may do better with "
            "others."
        )
    if len(tasks) == 1:
        return (
            f"The algorithms were tuned on {tasks[0]} alone: each may do better on another task "
            f"with other values."
        )
    return (
        f"Each algorithm has one setting, which was tuned on {listed(tasks)} together: it may do "
        f"better on a task with values of its own."
    )


def _command_table(lab: Lab) -> Table:
    rows = [[reading.name, reading.results.command] for reading in lab.values()]
    fold = f"{counted(len(rows), 'command')}"
    return Table(["comparison", "command"], rows, words=2, folded=fold)


def _record(found: _Found) -> dict[str, Any]:
    """summary.json: every number of the page."""
    lab, claims, prize = found.lab, found.claims, found.prize
    return {
        "format": _FORMAT,
        "about": _about(lab),
        "claims": [_claim_record(number, tested) for number, tested in enumerate(claims, 1)],
        "overview": overview(claims),
        "prize": {
            "words": prize.words,
            "winners": prize.winners,
            "tasks": prize.tasks,
            "ranks": {
                c: [{"experiment": e, "task": t, **asdict(r)} for (e, t), r in ranks.items()]
                for c, ranks in prize.ranks.items()
            },
        },
        "experiments": {
            name: {
                "question": experiment.question,
                "answers": answers(name, lab, claims),
                "comparisons": [_comparison_record(r) for (e, _), r in lab.items() if e == name],
            }
            for name, experiment in EXPERIMENTS.items()
        },
        "prompt_only": {
            name: [asdict(one) for one in mine] for name, mine in found.prompt_only.items()
        },
        "tuning": [asdict(tried) | {"mean": tried.mean} for tried in found.tuning],
        "limits": _limits(found),
    }


def _claim_record(number: int, tested: Tested) -> dict[str, Any]:
    claim = tested.claim
    return {
        "number": number,
        "claim": claim.says,
        "source": claim.source,
        "published": claim.published,
        "experiment": claim.experiment,
        "verdict": tested.verdict,
        "words": tested.words,
        "tasks": [
            {
                "task": f.task,
                "verdict": f.verdict,
                "parts": [
                    {"tested": p.text, "claimed": p.claimed, "bound": p.bound, "verdict": v}
                    | {"difference": asdict(e)}
                    for p, e, v in f.tested
                ],
            }
            for f in tested.findings
        ],
    }


def _comparison_record(reading: Reading) -> dict[str, Any]:
    results = reading.results
    return {
        "task": reading.task,
        "command": results.command,
        "seeds": results.seeds,
        "last_step": results.last_step,
        "left_out": [[r.contestant, r.seed, r.outcome, r.reason] for r in results.left_out],
        "standings": reading.standings,
        "places": {c: asdict(rank) for c, rank in ranked(results).items()},
    }


def _runs(experiment: str, lab: Lab) -> dict[str, Any]:
    """An experiment's results.json: its runs on all of its tasks, with their scores."""
    return {
        "format": _FORMAT,
        "experiment": experiment,
        "question": EXPERIMENTS[experiment].question,
        "runs": [
            {
                "task": task,
                "contestant": run.contestant,
                "algorithm": run.algorithm,
                "seed": run.seed,
                "outcome": run.outcome,
                "reason": run.reason,
                STUDENT: run.curve(STUDENT),
                TEACHER: run.curve(TEACHER),
            }
            for (name, task), reading in lab.items()
            if name == experiment
            for run in reading.results.runs
        ],
    }
