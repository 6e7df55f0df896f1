"""The named experiments of the lab, and the command of `vpd compare` that each of its tasks is."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from sandbox.plugins import unknown
from vpd_agent.lab.tasks import TASKS, check_tasks, tasks_that

ALL = "all"  # in place of a name
TUNING = "tuning"  # a folder beside those of the experiments
TUNED_ON = tasks_that("warm")  # each algorithm gets one setting, which is to hold on all tasks

Tuned = Mapping[str, Mapping[str, str]]  # algorithm → the flags of vpd train chosen for it


@dataclass(frozen=True)
class Experiment:
    """A question, and what is compared to answer it.

    tasks: names of `lab.tasks.TASKS`, a comparison each.
    algorithms: empty for all there are.
    feedback, settings, baseline: as --feedback, --set-algorithm and --baseline of `vpd compare`.
    """

    question: str
    tasks: tuple[str, ...]
    algorithms: tuple[str, ...] = ()
    feedback: tuple[str, ...] = ("environment",)
    settings: tuple[str, ...] = ()
    baseline: str | None = None


EXPERIMENTS: dict[str, Experiment] = {
    "main": Experiment(
        "Which method ends highest, after the same number of rollouts?", tasks_that("warm")
    ),
    "teacher": Experiment(
        "Does the teacher stop improving under SDPO, and go on improving under VPD?",
        tasks_that("warm"),
        ("sdpo", "vpd", "vpd-pg", "sdpg"),
        baseline="sdpo",
    ),
    "taught": Experiment(
        "On which rollouts should the teacher speak: all, failed or solved ones, and those that "
        "were cut off?",
        ("code-warm",),
        ("vpd",),
        # Without own success `all` would be `failed` here: this feedback shows a solved rollout
        # nothing but its own success. The reward's term would hide what distillation does alone.
        settings=(
            "vpd.reward_weight=0",
            "vpd.on_own_success=true",
            "vpd.distill_on=all,failed,solved",
            "vpd.teach_truncated=true,false",
        ),
        baseline="vpd distill_on=all teach_truncated=true",
    ),
    "ends": Experiment(
        "Should the teacher speak on the token that ends an answer?",
        ("function-warm",),  # whose answers are the longest
        ("vpd", "vpd-pg", "sdpo"),
        settings=("*.teach_end=true,false",),
        baseline="vpd-pg teach_end=true",
    ),
    "reward": Experiment(
        "What does a part of the reward's term beside distillation do for VPD and SDPO, which have "
        "none as published?",
        ("code-warm",),
        ("vpd", "sdpo"),
        settings=("*.reward_weight=0,0.3",),
        baseline="vpd reward_weight=0",
    ),
    "prior": Experiment(
        "What should VPD's teacher be compared with: the current student, or the initial one?",
        tasks_that("warm"),
        ("vpd",),
        settings=("vpd.prior=dynamic,fixed",),
        baseline="vpd prior=fixed",
    ),
    "frequency": Experiment(
        "How often should VPD take an E-step: every 1, 2, 5 or 10 steps?",
        ("code-warm",),
        ("vpd",),
        settings=("vpd.e_step_every=1,2,5,10",),
        baseline="vpd e_step_every=5",
    ),
    "sources": Experiment(
        "Which source of feedback teaches most: the environment, a solved sibling in its place, a "
        "solved sibling beside right or wrong, the policy itself, or right or wrong alone?",
        ("code-warm",),
        ("vpd", "sdpo"),
        ("environment", "outcome+siblings", "environment+siblings", "self-critique", "outcome"),
        baseline="vpd outcome",
    ),
    "noise": Experiment(
        "How much does learning depend on feedback that is true: 0, 25 and 75 % of it exchanged "
        "between problems?",
        ("code-warm",),
        ("vpd", "vpd-pg", "sdpo"),
        (
            "environment",
            *(f"environment+noisy:shuffle={share}" for share in ("0.25", "0.75")),
        ),
        settings=("vpd.gate_width=None,0.15",),
        baseline="vpd environment gate_width=None",
    ),
    "cold-start": Experiment(
        "What happens where the model cannot read feedback at first?", tasks_that("cold")
    ),
    "rigid": Experiment(
        "What happens where only one exact form of a right answer counts?", tasks_that("rigid")
    ),
    "agents": Experiment(
        "In a game of several moves, what does a teacher add to the reward, with a gate on each "
        "token (SDAR) or without (SDPO)?",
        ("game",),
        ("sdar", "sdpo", "grpo"),
        baseline="grpo",
    ),
}


@dataclass(frozen=True)
class Request:
    """What is asked of the lab, whichever the experiment.

    out: the lab's folder. steps: of each run. tasks: only these; empty for all.
    algorithms: in place of all there are. tuned: what they train with, where an experiment does not
    vary it. options: of vpd compare, as words. extra: of every vpd train.
    """

    out: Path
    seeds: Sequence[int]
    steps: int
    tasks: Sequence[str] = ()
    algorithms: Sequence[str] = ()
    tuned: Tuned = field(default_factory=dict)
    options: Sequence[str] = ()
    extra: Sequence[str] = ()


def chosen(names: Sequence[str]) -> dict[str, Experiment]:
    """The experiments of these names, in the lab's order; `all` stands for all of them. Raises
    ValueError for a name that is none."""
    for name in names:
        if name not in (*EXPERIMENTS, ALL):
            raise ValueError(unknown("experiment", name, [*EXPERIMENTS, ALL]))
    return {name: e for name, e in EXPERIMENTS.items() if name in names or ALL in names}


def commands(
    experiments: Mapping[str, Experiment], request: Request
) -> dict[tuple[str, str], list[str]]:
    """(experiment, task) → the words of its `vpd compare`, without these two.

    All of them share finished runs (--reuse), and keep no checkpoints but of runs that were
    interrupted. Raises ValueError for a task that there is not, or that none of these has.
    """
    check_tasks(request.tasks)
    found = {
        (name, task): _command(name, experiment, task, request)
        for name, experiment in experiments.items()
        for task in experiment.tasks
        if task in (request.tasks or TASKS)
    }
    if not found:
        having = dict.fromkeys(task for e in experiments.values() for task in e.tasks)
        raise ValueError(
            f"--tasks {' '.join(request.tasks)}: {', '.join(experiments)} has none of these; it "
            f"has {', '.join(having)}."
        )
    return found


def tuning_command(
    experiments: Mapping[str, Experiment],
    request: Request,
    task: str,
    trials: int,
    before: Iterable[str],
) -> list[str]:
    """The words of the vpd compare that makes the trials of the algorithms of these experiments on
    a task, as many for each.

    before: algorithms that were tuned when other experiments were asked for, so that their trials
    stay in its file.
    """
    asked = (a for e in experiments.values() for a in _algorithms(e, request))
    algorithms = tuple(dict.fromkeys([*before, *asked]))
    words = _command(TUNING, Experiment("", (), algorithms), task, replace(request, tuned={}))
    return ["--tune", str(trials), "--trials-only", *words]


def folder_of(out: Path, experiment: str, task: str) -> Path:
    """The folder of a comparison."""
    return out / experiment / task


def _command(name: str, experiment: Experiment, task: str, request: Request) -> list[str]:
    algorithms = _algorithms(experiment, request)
    words = [*TASKS[task].flags, "--algorithms", *algorithms, "--feedback", *experiment.feedback]
    if settings := [*experiment.settings, *_tuned_settings(experiment, algorithms, request.tuned)]:
        words += ["--set-algorithm", *settings]
    if experiment.baseline is not None:
        words += ["--baseline", experiment.baseline]
    words += ["--seeds", *map(str, request.seeds), "--steps", str(request.steps)]
    words += [*request.options, "--reuse", str(request.out)]
    words += ["--out", str(folder_of(request.out, name, task))]
    extra = list(request.extra)
    if not any(word.partition("=")[0] == "--save-every" for word in extra):
        extra += ["--save-every", "0"]  # 30 MB a run; one of a minute begins again soon enough
    return [*words, "--", *extra]


def _algorithms(experiment: Experiment, request: Request) -> tuple[str, ...]:
    from vpd_agent.algorithms import ALGORITHMS  # needs torch

    return experiment.algorithms or tuple(request.algorithms) or tuple(ALGORITHMS)


def _tuned_settings(
    experiment: Experiment, algorithms: Sequence[str], tuned: Tuned
) -> Iterator[str]:
    """For --set-algorithm; what the experiment itself varies is left to it."""
    own = {setting.partition("=")[0] for setting in experiment.settings}
    for algorithm in algorithms:
        for key, value in tuned.get(algorithm, {}).items():
            if own.isdisjoint((f"{algorithm}.{key}", f"*.{key}")):
                yield f"{algorithm}.{key}={value}"
