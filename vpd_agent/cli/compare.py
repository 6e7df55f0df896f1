"""vpd compare: algorithms head to head."""

from __future__ import annotations

import os
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache, cached_property
from itertools import takewhile
from pathlib import Path
from typing import Annotated, Any

import tyro

from vpd_agent.cli.flags import FlagGroup, flag_types, parse, refuse_misnamed
from vpd_agent.cli.train_flags import TrainArguments, flag_groups, read_arguments
from vpd_agent.console import phase, print_table, say
from vpd_agent.train.options import (
    FEEDBACK_HELP,
    ProblemOptions,
    check_model,
    open_sandbox,
    warm_policy,
)


@dataclass(frozen=True, kw_only=True)
class CompareOptions(ProblemOptions):
    model: str = "tiny-warm"
    """The model that every run starts from, as in vpd train."""
    algorithms: tuple[str, ...] = ("vpd", "sdpo", "grpo")
    """Each trains once with every seed; your own as module:Class or path/to/file.py:Class."""
    feedback: Annotated[
        tuple[str, ...],
        tyro.conf.arg(help=f"With several, each algorithm runs with each. {FEEDBACK_HELP}"),
    ] = ("environment",)
    set_algorithm: tuple[str, ...] = ()
    """Options of single algorithms, ALGORITHM.KEY=VALUE each, with a flag of vpd train as KEY and
    '*' for all algorithms. Several values, as in vpd.e_step_every=1,2,5, are compared with each
    other."""
    seeds: tuple[int, ...] = (0,)
    """Of the runs. All are evaluated on the same problems with the same random numbers."""
    steps: int = 200
    """Training steps of each run."""
    tune: int = 0
    """Trials for each contestant before its runs: learning rates around its own (×2, ×1/2, ×4 …)
    and values of the one field that its algorithm names. Scored by the mean of the evaluations
    after the first step, on training problems that are set aside. 0 or 1: none."""
    tune_seeds: tuple[int, ...] = (1000, 1001)
    """Of the trials. None of --seeds."""
    tune_steps: int | None = None
    """Training steps of a trial; default: --steps."""
    trials_only: bool = False
    """End after the trials: what they found is in OUT/tuning.json, and no contestant runs."""
    baseline: str | None = None
    """The contestant that the others are compared with; default: grpo if it is there, else the
    first."""
    threshold: float | None = None
    """The held-out pass@1 whose cost in rollouts and seconds is reported; default: where the
    baseline ends."""
    jobs: int | None = None
    """Runs side by side, each a process with one torch thread; default: one for each GPU, else one
    for each processor core."""
    drop_models: bool = False
    """Keep of a finished run its numbers and texts, as of a trial, not its models: it can be
    compared, but neither evaluated again nor go on."""
    retry_failed: bool = False
    """Run again what failed when this command was last called."""
    reuse: Path | None = None
    """Folder of other comparisons. Runs that are finished anywhere below it, and are what would be
    trained here (flags, seed, problems and weights), are copied instead."""
    out: Path = Path("runs/compare")
    """Folder for the runs, experiment.json and the report. The same command goes on with what is
    not finished; more seeds and algorithms are added to what is there."""

    def check(self) -> None:
        """Raise ValueError for numbers that are out of bounds."""
        for name, least in (("steps", 1), ("tune", 0), ("jobs", 1), ("tune_steps", 1)):
            value = getattr(self, name)
            if value is not None and value < least:
                flag = name.replace("_", "-")
                raise ValueError(f"--{flag} must be at least {least}, got {value}.")
        if self.trials_only and self.tune < 2:
            raise ValueError(f"--trials-only needs a --tune of at least 2, got {self.tune}.")
        for name in ("algorithms", "seeds", "feedback", "tune_seeds"):
            if not getattr(self, name):
                raise ValueError(f"--{name.replace('_', '-')} needs at least one value.")
        if self.threshold is not None and not 0 <= self.threshold <= 1:
            raise ValueError(f"--threshold must be between 0 and 1, got {self.threshold}.")
        if both := set(self.seeds) & set(self.tune_seeds if self.tune > 1 else ()):
            raise ValueError(
                f"--tune-seeds has {', '.join(map(str, sorted(both)))} of --seeds: what is chosen "
                f"on a seed must not be judged on it. Choose others."
            )


def compare(arguments: list[str]) -> int:
    options, extra = _read_options(arguments)
    if not options.retry_failed and (told := _told_again(options, arguments)):
        say("Nothing is left to do: all of this is finished.")
        print(told)
        return 0
    return _compare(options, arguments, extra)


def planned(arguments: list[str]) -> Plan:
    """What `compare` would do with these arguments. Raises ValueError and exits as it does for
    flags that are wrong."""
    options, extra = _read_options(arguments)
    return Plan(_without_doubles(options), extra)


def _read_options(arguments: list[str]) -> tuple[CompareOptions, list[str]]:
    """The options, and the flags of every vpd train behind '--'."""
    own = list(takewhile(lambda argument: argument != "--", arguments))
    extra = arguments[len(own) + 1 :]
    options: CompareOptions = parse(
        "vpd compare",
        own,
        description="Options after '--' go to every vpd train.",
        options=FlagGroup(CompareOptions),
    ).options
    return options, extra


def _told_again(options: CompareOptions, arguments: list[str]) -> str:
    """What this very command said when it had finished, if nothing has changed since; else ""."""
    from vpd_agent.comparison.finished import is_finished
    from vpd_agent.comparison.record import read_experiment
    from vpd_agent.comparison.results import REPORT

    there = read_experiment(options.out)
    done = is_finished(there, arguments, options.out, options.model, REPORT, options.reuse)
    return there["finished"]["told"] if done else ""


def _compare(options: CompareOptions, arguments: list[str], extra: list[str]) -> int:
    from vpd_agent.comparison.finished import inputs
    from vpd_agent.comparison.past_runs import chosen_baseline
    from vpd_agent.comparison.record import locked
    from vpd_agent.comparison.report import summary_lines, write_report
    from vpd_agent.comparison.results import Results
    from vpd_agent.comparison.runs import Interrupted

    # A change meanwhile is noticed later.
    before = inputs(arguments, options.out, options.model, options.reuse)
    plan = Plan(_without_doubles(options), extra)
    baseline = chosen_baseline([c.label for c in plan.contestants], options.baseline)
    with locked(options.out):
        plan.check()
        plan.check_disk()
        try:
            plan.tune()
            if options.trials_only:
                return _end_with_trials(plan, arguments)
            plan.train()
        except Interrupted:
            say("Interrupted; what was done is kept. To go on: the same command.")
            return 130
        runs = plan.runs()
        results = Results(
            command=shlex.join(["vpd", "compare", *arguments]),
            contestants=[c.label for c in plan.contestants],
            seeds=list(plan.options.seeds),
            baseline=baseline,
            runs=[run.result() for run in runs],
            tuning=plan.tuned,
            threshold=options.threshold,
        )
        for result in results.left_out:
            say(f"{result.contestant} seed {result.seed} {result.outcome}: {result.reason}")
        if results.left_out:
            say("To run what failed again: the same command with --retry-failed.")
        files = write_report(options.out, results)
        paths = [str(path) for path in files if path.parent == options.out]
        told = "\n".join([*summary_lines(results), "", *paths])
        if not results.left_out:
            plan.keep_finished(before, told)
    print(told)
    return 1 if results.left_out else 0


def _end_with_trials(plan: Plan, arguments: list[str]) -> int:
    from vpd_agent.comparison.report import write_record
    from vpd_agent.comparison.sections import tuning_table
    from vpd_agent.comparison.tuning import TRIALS

    path = plan.options.out / TRIALS
    command = shlex.join(["vpd", "compare", *arguments])
    write_record(path, {"command": command, "tuning": plan.tuned})
    table = tuning_table(plan.tuned)
    shown = table.header.index("mean"), table.header.index("")  # seeds and scores are in the file
    header, *rows = ([*row[:2], *(row[i] for i in shown)] for row in (table.header, *table.rows))
    print_table("", header, rows)
    print(path)
    return 0


def _without_doubles(options: CompareOptions) -> CompareOptions:
    from vpd_agent.comparison.experiment import feedback_meaning, without_doubles

    for name in ("algorithms", "feedback", "seeds", "tune_seeds"):
        flag = f"--{name.replace('_', '-')}"
        meaning = feedback_meaning if name == "feedback" else str
        values, said = without_doubles(flag, getattr(options, name), meaning)
        options = replace(options, **{name: values})
        if said:
            say(said)
    return options


class Plan:
    """A comparison from its flags: what is compared, and its runs. Raises ValueError for flags that
    are wrong before any work.

    extra: flags of vpd train for every run.
    """

    def __init__(self, options: CompareOptions, extra: Sequence[str]) -> None:
        from vpd_agent.comparison import experiment
        from vpd_agent.train.presets import preset_for

        options.check()
        preset = preset_for(options.env, options.model)
        known = {name: _flags_of(name, preset) for name in options.algorithms}
        refuse_misnamed(extra, {flag for flags in known.values() for flag in flags})
        experiment.check_shared(extra, known)
        settings = experiment.read_settings(options.set_algorithm, options.algorithms, known)
        check_model(options.model)
        self.options, self._extra = options, list(extra)
        self.contestants = experiment.contestants(options.algorithms, options.feedback, settings)
        self.tuned: list[dict[str, Any]] = []  # the trials, for the report
        self._chosen: dict[str, experiment.Options] = {}  # by label
        self._records: dict[tuple[str, ...], dict[str, Any]] = {}  # by all words of a vpd train

    @cached_property
    def shared(self) -> list[str]:
        """The flags that every run gets."""
        options = self.options
        # Fitted to the memory at hand, one contestant might train all weights, another an adapter.
        given = ["--env", options.env, "--model", options.model, "--no-fit"]
        given += ["--data", options.data] if options.data is not None else []
        given += ["--sandbox", options.sandbox] if options.sandbox is not None else []
        given += ["--set", *options.set] if options.set else []
        group = options.out.absolute().name
        return [*given, *self._extra, "--eval-seed", "0", "--run-group", group]

    def runs(self) -> list[Any]:
        """Seed after seed, so that every contestant has its first curve before any has a second."""
        from vpd_agent.comparison.runs import Run

        options = self.options
        if options.trials_only:
            return []
        return [
            Run(c, seed, options.out / f"{c.folder}-seed{seed}", options.steps,
                self._chosen.get(c.label, ()), keeps_weights=not options.drop_models)
            for seed in options.seeds
            for c in self.contestants
        ]  # fmt: skip

    def trial_runs(self) -> list[Any]:
        """Those that tune."""
        return [run for trial in self._trials() for run in self._trial_runs(trial)]

    def check(self) -> None:
        """Raise ValueError for what does not fit together or the folder, before any run. Find what
        is missing for the runs: an environment, a file, a sandbox that works, a model."""
        from vpd_agent.comparison.record import (
            check_same,
            read_experiment,
            shared_settings,
            write_experiment,
        )
        from vpd_agent.model import smollm2
        from vpd_agent.runs.record import read_record
        from vpd_agent.tiny.warmup import RECIPES

        options = self.options
        there = read_experiment(options.out)
        for run in self.runs():
            read_record(run.path)  # one of another format is refused
        records = {label: _saved(found) for label, found in self._arguments.items()}
        shared = shared_settings(records)
        if not (shared["eval_every"] and shared["eval_problems"]):
            raise ValueError(
                "These runs would not be evaluated, so nothing could be compared. Pass "
                "-- --eval-every N with N of at least 1, and leave --eval-problems above 0."
            )
        self._trials()  # that there are enough of them
        first = next(iter(self._arguments.values()))
        for source in options.feedback:
            with phase("Loading the problems"):
                environment = options.spec(source).make(1, first.options.train_split)
            with phase("Starting the sandbox"):
                open_sandbox(environment)
            environment.close()
        if options.model in RECIPES:
            warm_policy(options.model, quiet=False)
        elif options.model == smollm2.NAME:
            smollm2.model_folder()
        self._experiment = {
            "shared": shared,
            "tune": self._tune_settings(),
            "fingerprints": _fingerprints(first),
            "contestants": {},
            "seeds": [],
        }
        check_same(options.out, there, self._experiment)
        if options.tune < 2:  # else they depend on what the trials find
            self._check_runs(self.runs())
        self._experiment["contestants"] = {
            **there.get("contestants", {}),
            **{c.label: {**vars(c), "record": records[c.label]} for c in self.contestants},
        }
        self._experiment["seeds"] = sorted({*there.get("seeds", []), *options.seeds})
        self._experiment["tuning"] = there.get("tuning", [])
        write_experiment(options.out, self._experiment)

    def check_disk(self) -> None:
        """Say so if there will not be room for the models that the runs leave, and for the
        checkpoints of those side by side."""
        from vpd_agent.train.disk import disk_of, too_full

        read = self._arguments.items()
        found = {label: disk_of(r.algorithm, r.options, r.config) for label, r in read}
        sizes = {label: size for label, size in found.items() if size is not None}
        if not sizes:
            return
        kept = {label: 0.0 if self.options.drop_models else s.left for label, s in sizes.items()}
        left = sum(kept.get(run.contestant.label, 0.0) for run in self.runs())
        more = max(size.at_most - kept[label] for label, size in sizes.items())
        if reason := too_full(self.options.out, left + self.jobs * more):
            say(
                f"Warning: {reason} Make room, pass an --out on another disk, or keep less: "
                f"--drop-models, or -- --save-every 0 for no checkpoints."
            )

    def tune(self) -> None:
        """Run the trials that are left, and choose each contestant's best."""
        from vpd_agent.comparison.record import write_experiment
        from vpd_agent.comparison.tuning import best, score

        runs = {trial: self._trial_runs(trial) for trial in self._trials()}
        self._train([run for some in runs.values() for run in some])
        scores = {trial: [score(run.result()) for run in some] for trial, some in runs.items()}
        for contestant in self.contestants:
            mine = [trial for trial in runs if trial.contestant == contestant]
            number = best([scores[trial] for trial in mine]) if mine else None
            for trial in mine:
                self.tuned.append(
                    {
                        "contestant": contestant.label,
                        "values": dict(trial.values),
                        "seeds": list(self.options.tune_seeds),
                        "scores": scores[trial],
                        "chosen": trial.number == number,
                    }
                )
            if number is not None:
                self._chosen[contestant.label] = mine[number].values
        if self.tuned:
            labels = {c.label for c in self.contestants}
            others = [t for t in self._experiment["tuning"] if t["contestant"] not in labels]
            self._experiment["tuning"] = others + self.tuned
            write_experiment(self.options.out, self._experiment)

    def train(self) -> None:
        self._train(self.runs())

    def keep_finished(self, inputs: Mapping[str, Any], told: str) -> None:
        """Write down that all is done, and what was told at the end."""
        from vpd_agent.comparison.finished import outputs
        from vpd_agent.comparison.record import write_experiment

        done = outputs(run.path for run in [*self.runs(), *self.trial_runs()])
        self._experiment["finished"] = {"inputs": inputs, "outputs": done, "told": told}
        write_experiment(self.options.out, self._experiment)

    @property
    def jobs(self) -> int:
        """Runs side by side."""
        return self.options.jobs or len(self._gpus) or len(os.sched_getaffinity(0))

    @cached_property
    def _arguments(self) -> dict[str, TrainArguments]:
        """What vpd train makes of each contestant's flags, by label."""
        return {c.label: self._read(c) for c in self.contestants}

    @cached_property
    def _gpus(self) -> list[str]:
        return _gpus(self._arguments[self.contestants[0].label])

    def _train(self, runs: Sequence[Any]) -> None:
        from vpd_agent.cli.main import main
        from vpd_agent.comparison.reuse import take_finished
        from vpd_agent.comparison.runs import run_all

        if self.options.reuse is not None:
            prints = self._experiment["fingerprints"]
            take_finished(runs, self.options.reuse, self._record_of, prints)
        self._check_runs(runs)
        if self.options.retry_failed:
            for run in runs:
                run.failure.unlink(missing_ok=True)
        run_all(runs, self.shared, main, jobs=self.jobs, gpus=self._gpus)

    def _check_runs(self, runs: Sequence[Any]) -> None:
        """Raise ValueError if the folders hold other runs than these."""
        from vpd_agent.comparison.record import check_runs

        begun = [run for run in runs if run.begun or run.finished]
        records = {run: self._record_of(run) for run in begun}
        check_runs(begun, records, self._experiment["fingerprints"])

    def _record_of(self, run: Any) -> dict[str, Any]:
        """What the config.json of a run says of it."""
        algorithm, arguments = run.contestant.algorithm, run.arguments(self.shared)
        words = (algorithm, *arguments)
        if words not in self._records:  # each takes some 50 ms, and is asked for several times
            self._records[words] = _saved(read_arguments(algorithm, arguments))
        return self._records[words]

    def _read(self, contestant: Any) -> TrainArguments:
        """What vpd train makes of a contestant's flags."""
        steps, out = str(self.options.steps), str(self.options.out / contestant.folder)
        given = [*self.shared, *contestant.arguments(), "--steps", steps, "--out", out]
        return read_arguments(contestant.algorithm, given)

    def _tune_settings(self) -> dict[str, Any]:
        options = self.options
        if options.tune < 2:
            return {"trials": 0}
        seeds, steps = list(options.tune_seeds), options.tune_steps or options.steps
        return {"trials": options.tune, "seeds": seeds, "steps": steps}

    def _trials(self) -> list[Any]:
        from vpd_agent.comparison.tuning import trials

        if self.options.tune < 2:
            return []
        found = []
        for contestant in self.contestants:
            read = self._arguments[contestant.label]
            field = read.algorithm.tuned_field
            found += trials(
                contestant,
                self.options.tune,
                read.config.learning_rate,
                field,
                getattr(read.algorithm, field) if field else None,
                read.algorithm.tuned_values,
            )
        return found

    def _trial_runs(self, trial: Any) -> list[Any]:
        from vpd_agent.comparison.runs import Run
        from vpd_agent.comparison.tuning import SET_ASIDE

        options = self.options
        values = (*trial.values, ("set_aside", str(SET_ASIDE)))
        steps = options.tune_steps or options.steps
        named = replace(trial.contestant, label=f"{trial.contestant.label} trial {trial.number}")
        path = options.out / "tuning" / trial.folder
        return [
            Run(named, seed, Path(f"{path}-seed{seed}"), steps, values, keeps_weights=False)
            for seed in options.tune_seeds
        ]


@cache
def _flags_of(algorithm: str, preset: str) -> Mapping[str, Any]:
    """The flags of vpd train with this algorithm, by name."""
    from vpd_agent.algorithms import algorithm_class
    from vpd_agent.train.presets import PRESETS

    return flag_types(flag_groups(algorithm_class(algorithm), PRESETS[preset]))


def _saved(read: TrainArguments) -> dict[str, Any]:
    from vpd_agent.runs.record import saved

    return saved(read.algorithm, read.config, read.template, read.options)


def _gpus(read: TrainArguments) -> list[str]:
    """The GPUs that the runs share out, as CUDA_VISIBLE_DEVICES names them."""
    import torch

    if read.options.device not in ("auto", "cuda") or not torch.cuda.is_available():
        return []
    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    return named.split(",") if named else [str(i) for i in range(torch.cuda.device_count())]


def _fingerprints(read: TrainArguments) -> dict[str, Any]:
    """Of the problems and of the model that the runs start from."""
    from vpd_agent.runs.identity import fingerprint, model_hashes

    options, found = read.options, {}
    with phase("Reading what is compared: problems and model"):
        for name, split in (("train", options.train_split), ("eval", options.eval_split)):
            environment = options.spec(options.feedback).make(1, split)
            found[name] = fingerprint(environment)
            environment.close()
        model = replace(options, lora_rank=None).load(quiet=True, device="cpu")
        return {**found, "model": model_hashes(model)}
