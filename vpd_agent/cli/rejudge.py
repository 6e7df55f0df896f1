"""vpd rejudge: the rollouts of a run, judged again."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from vpd_agent.cli.flags import FlagGroup, parse
from vpd_agent.console import bars, is_main_process, phase, print_table, say
from vpd_agent.train.options import (
    FEEDBACK_HELP,
    EnvironmentOptions,
    ModelOptions,
    open_sandbox,
)

if TYPE_CHECKING:
    from vpd_agent.evaluation.rejudge import Judge
    from vpd_agent.evaluation.rejudge_report import Changes
    from vpd_agent.rollout.critic import PolicyCritic
    from vpd_agent.rollout.environment import EnvironmentSpec
    from vpd_agent.runs.samples import Sample

DESCRIPTION = (
    "Judges the rollouts that a run has kept (samples.jsonl) again, by another judge or with other "
    "feedback, and shows what changes. What is not given here is as in the run. The verdicts are "
    "written as they come: the same command goes on where it was interrupted. Exit code 0 if every "
    "rollout was judged, 1 if some were not."
)
KEEP_ALL = "A run keeps all of its rollouts with --samples-every 1 --samples-all."


@dataclass(frozen=True, kw_only=True)
class RejudgeOptions:
    run: tyro.conf.Positional[Path]
    """Folder of a run: the --out of a vpd train. The run may still be going on."""
    feedback: Annotated[str | None, tyro.conf.arg(help=FEEDBACK_HELP)] = None
    set: tuple[str, ...] = ()
    """Options of the environment, KEY=VALUE each, such as feedback_tests=public. They are added to
    those of the run and win over them."""
    sandbox: str | None = None
    """Where untrusted programs run: docker, bubblewrap, local, ray, or your own as module:Class."""
    env: str | None = None
    """Another environment with the same problems, such as your own as module:Class. Of the run's
    options it takes none: give it --set and --data."""
    data: str | None = None
    """Data file or folder, for environments that read one."""
    split: str | None = None
    """Split of the environment; default: the --train-split of the run."""
    model: str | None = None
    """Who answers for sources of feedback that ask the policy, such as self-critique: a model, or
    the folder of a run, which stands for its final model. Such sources need it."""
    device: str = "auto"
    """Of that model: cpu, cuda, cuda:1 …; auto: cuda where there is one."""
    out: Path | None = None
    """File of the new verdicts, NAME.jsonl, a line for each rollout with the old verdict beside the
    new one; beside it, NAME.md has the summary. Default: rejudge.jsonl in the run's folder. If it
    exists, it must be by the same judge: what it lacks is judged."""


def rejudge(arguments: list[str]) -> int:
    from vpd_agent.evaluation.rejudge import VerdictFile
    from vpd_agent.evaluation.rejudge import rejudge as judge_again
    from vpd_agent.evaluation.rejudge_report import Changes

    options: RejudgeOptions = parse(
        "vpd rejudge", arguments, description=DESCRIPTION, options=FlagGroup(RejudgeOptions)
    ).options
    out = options.out or options.run / "rejudge.jsonl"
    if out.suffix != ".jsonl":
        raise ValueError(f"--out must be a file NAME.jsonl, got {out}.")
    record = _record(options.run)
    environment = _environment_options(options, record["options"])
    spec = environment.spec(environment.feedback)
    _check_critic(options, spec)
    with phase("Reading the rollouts"):
        samples, kept = _kept(options.run, record)
    say(kept)
    judge = _judge(options, spec, record, samples)
    with closing(judge.environment):
        judge.critic = _critic(options, record["config"])
        judged_by = _judged_by(judge)
        with VerdictFile(out, judged_by) as file, bars() as progress:
            progress.add("rejudge", len(samples))
            show = partial(progress.show, "rejudge")
            errors = judge_again(judge, samples, file, show)
    rows = filter(None, map(file.verdict, samples))
    return _report(options.run, out, Changes([*rows], errors), kept, judged_by)


def _record(run: Path) -> dict[str, Any]:
    """The config.json of the run. Raises ValueError if there is no run."""
    from vpd_agent.runs.record import read_record
    from vpd_agent.runs.run_folder import CONFIG

    record = read_record(run)
    if not record:
        raise ValueError(
            f"There is no run in {run}: expected the --out of a vpd train, with its {CONFIG}."
        )
    return record


def _environment_options(options: RejudgeOptions, begun: Mapping[str, Any]) -> EnvironmentOptions:
    """Those of the run, under those given."""
    run = begun if _is_same(options, begun) else {}
    return EnvironmentOptions(
        env=options.env or begun["env"],
        data=options.data or run.get("data"),
        sandbox=options.sandbox or run.get("sandbox"),
        set=(*run.get("set", ()), *options.set),
        feedback=options.feedback or begun["feedback"],
    )


def _is_same(options: RejudgeOptions, begun: Mapping[str, Any]) -> bool:
    """Whether the environment is that of the run."""
    return options.env in (None, begun["env"])


def _check_critic(options: RejudgeOptions, spec: EnvironmentSpec) -> None:
    """Raise ValueError where a source asks the policy and there is none, or the reverse."""
    from vpd_envs import SelfCritique, named_sources

    asks = any(isinstance(source, SelfCritique) for source in named_sources(spec.feedback))
    if asks and options.model is None:
        raise ValueError(
            f"--feedback {spec.feedback} asks the policy about its attempts, and no model is "
            f"loaded by itself: pass --model {options.run} for the final model of the run, or "
            f"another model."
        )
    if options.model is not None and not asks:
        raise ValueError(
            f"--feedback {spec.feedback} asks no model: leave --model out, or choose a source "
            f"that asks the policy, such as self-critique."
        )


def _kept(run: Path, record: Mapping[str, Any]) -> tuple[list[Sample], str]:
    """The rollouts that can be judged again, and in words how many of how many they are."""
    from vpd_agent.runs.files import read_jsonl
    from vpd_agent.runs.run_folder import METRICS, SAMPLES
    from vpd_agent.runs.samples import read_samples

    there = read_samples(run / SAMPLES)
    if not there:
        raise ValueError(f"The run in {run} has kept no rollouts (--samples-every 0). {KEEP_ALL}")
    samples = [sample for sample in there if sample.answers is not None]
    counts = ("rollouts", "teacher_rollouts/count")
    trained = sum(row.get(name, 0) for row in read_jsonl(run / METRICS) for name in counts)
    told = [f"The run has kept {len(there)} of its {max(int(trained), len(there))} rollouts."]
    if len(there) < trained:
        told.append(KEEP_ALL)
    if left := len(there) - len(samples):
        told.append(
            f"{left} of them, of several turns, are left out: an earlier version of this project "
            f"kept only their last answers."
        )
    if not samples:
        raise ValueError(" ".join(told))
    return samples, " ".join(told)


def _critic(options: RejudgeOptions, config: Mapping[str, Any]) -> PolicyCritic | None:
    from vpd_agent.engines.hf import HFEngine
    from vpd_agent.rollout.critic import PolicyCritic

    if options.model is None:
        return None
    model = ModelOptions(model=options.model, device=options.device)
    model.check()
    policy = model.load(quiet=False)
    return PolicyCritic(policy, HFEngine(policy), config["max_response_tokens"])


def _judge(
    options: RejudgeOptions,
    spec: EnvironmentSpec,
    record: Mapping[str, Any],
    samples: Sequence[Sample],
) -> Judge:
    """Raises ValueError for a rollout at a problem that the environment does not have."""
    from vpd_agent.evaluation.rejudge import Judge
    from vpd_agent.rollout.collect import all_problem_ids
    from vpd_agent.rollout.environment import sources
    from vpd_agent.runs.identity import fingerprint

    begun = record["options"]
    split = options.split or (begun["train_split"] if _is_same(options, begun) else None)
    with phase("Loading the problems"):
        environment = spec.make(1, split)
    known = set(all_problem_ids(environment))
    if absent := [s.problem_id for s in samples if s.problem_id not in known]:
        raise ValueError(
            f"{len(absent)} rollouts are at problems that {spec.id} does not have here, such as "
            f"{absent[0]!r}. Pass the --set, --data and --split that have the problems of the run."
        )
    then = record.get("fingerprints", {}).get("train")
    if then != fingerprint(environment):
        say("Note: the problems, or their tests, are not quite those that the run was trained on.")
    if not record["config"].get("samples_all") and any(s.needs_batch for s in sources(environment)):
        say("Note: few of the rollouts of a group are kept, so most have no sibling to be shown.")
    with phase("Starting the sandbox"):
        open_sandbox(environment)
    return Judge(spec, split, environment)


def _judged_by(judge: Judge) -> dict[str, Any]:
    """What the new verdicts depend on: they are by the same judge where this is the same."""
    from vpd_agent.runs.identity import fingerprint, judge_hash, model_hashes
    from vpd_envs.data.provenance import NOT_JUDGING, versions

    spec, critic = judge.spec, judge.critic
    return {
        "env": spec.id,
        "feedback": spec.feedback,
        "options": {k: v for k, v in sorted(spec.kwargs.items()) if k not in NOT_JUDGING},
        "split": judge.split,
        "sandbox": open_sandbox(judge.environment),
        "problems": fingerprint(judge.environment),
        "judge": judge_hash(judge.environment),
        "versions": versions("math-verify"),
        "critic": critic and {**model_hashes(critic.policy), "max_tokens": critic.max_tokens},
    }


def _report(run: Path, out: Path, changes: Changes, kept: str, judged_by: Mapping[str, Any]) -> int:
    """Print what changed, write it beside the verdicts, and return the exit code."""
    from vpd_agent.evaluation.rejudge_report import example_lines, write_report

    if not is_main_process():
        return 1 if changes.errors else 0
    if changes.rows:
        print_table("rollouts by status", *changes.status_table())
        print_table("", *changes.feedback_table())
    for example in changes.examples[:2]:
        print("\n".join(example_lines(example)), end="\n\n")
    print(changes.told())
    page = out.with_suffix(".md")
    write_report(page, changes, kept, run, judged_by)
    print(f"{out}\n{page}")
    if changes.errors:
        say(
            f"{len(changes.errors)} rollouts were not judged; the same command tries them again. "
            f"The first reason: {changes.errors[0]}"
        )
    return 1 if changes.errors else 0
