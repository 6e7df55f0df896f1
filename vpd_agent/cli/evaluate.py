"""vpd eval: how many held-out problems a model solves."""

from __future__ import annotations

from contextlib import closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from vpd_agent.cli.flags import FlagGroup, parse
from vpd_agent.console import bars, is_main_process, phase, print_table, say
from vpd_agent.train.options import ModelOptions, ProblemOptions, open_sandbox
from vpd_envs.data.provenance import field_defaults

if TYPE_CHECKING:
    import gymnasium as gym

    from vpd_agent.evaluation.answer_file import AnswerFile
    from vpd_agent.evaluation.evaluate import Evaluation
    from vpd_agent.model.policy import Policy

UNMEASURED = (  # options that change no answer
    *("problems", "samples", "max_prompt_tokens", "success_reward", "out"),
    *("sandbox", "device", "threads", "weights_folder", "weight_transfer"),
)


@dataclass(frozen=True, kw_only=True)
class EvalOptions(ProblemOptions, ModelOptions):
    split: str | None = "test"
    """Split of the environment; None: the environment's own choice."""
    problems: int = 300
    """Problems to evaluate on, at most. Which ones is decided by a hash of their ids: fewer are a
    fair sample of more, and the same ones for every model."""
    samples: int = 1
    """Answers to each problem, K; pass@k is reported for k = 1, 2, 4, 8 … up to K."""
    max_response_tokens: int = 1024
    """Of an episode after its first prompt: the answer, or all answers and replies."""
    max_prompt_tokens: int = 4096
    """Longest prompt that a vLLM engine takes."""
    temperature: float = 1.0
    """Of sampling."""
    success_reward: float = 1.0
    """An answer counts as solved from this reward on."""
    batch: int = 64
    """Answers sampled and judged at a time; fewer need less memory. It is part of what is measured:
    the random numbers of a batch and the rounding of its matrix products are shared by its answers,
    so another batch gives other answers."""
    seed: int = 0
    """Every batch has random numbers of its own, made of this, its problems and their samples. A
    vLLM engine is seeded in the same way, but its scheduling may change the last digits; a vLLM
    server must have been started with --model."""
    out: Path | None = None
    """File for every answer, NAME.jsonl, a line as soon as it is judged, with a summary beside it
    (NAME.json, NAME.md, NAME.png). If it exists, the same command goes on where it ended and tries
    again what could not be judged; more --samples or --problems may be asked of it."""


def evaluate(arguments: list[str]) -> int:
    from vpd_agent.engines.make import check_engine
    from vpd_agent.evaluation.answer_file import AnswerFile
    from vpd_agent.evaluation.evaluate import problem_sample

    options: EvalOptions = parse(
        "vpd eval",
        arguments,
        description="Exit code 0 if every answer was judged, 1 if some were not.",
        options=FlagGroup(EvalOptions),
    ).options
    _check(options)
    options.check()
    check_engine(options.engine)
    each = options.samples if options.samples <= options.batch else 1
    most = min(options.problems, options.batch // each)
    with phase("Loading the problems"):
        environment = options.spec().make_for(each, most, options.split)
    with phase("Starting the sandbox"):
        open_sandbox(environment)
    batch: Any = environment.unwrapped  # has problem_ids, which Gymnasium's class does not declare
    ids = problem_sample(batch.problem_ids, options.problems)
    policy = options.load(quiet=False)
    with phase("Reading what is evaluated"):
        measured = _measured(options, policy, environment)
    with closing(environment), TemporaryDirectory() as folder:
        path = options.out or Path(folder, "answers.jsonl")
        with AnswerFile(path, measured, field_defaults(EvalOptions)) as file:
            result = _answered(options, policy, environment, file, ids)
    return _report(options, result, measured)


def _answered(
    options: EvalOptions,
    policy: Policy,
    environment: gym.vector.VectorEnv,
    file: AnswerFile,
    ids: list[str],
) -> Evaluation:
    """Sample and judge the answers that the file lacks; what all of them say."""
    from vpd_agent.engines.make import make_engine
    from vpd_agent.evaluation.evaluate import complete_answers, summarize
    from vpd_agent.rollout.collect import Actor

    summary = partial(summarize, file, ids, options.samples, options.success_reward)
    max_tokens = options.max_prompt_tokens + options.max_response_tokens
    with phase(f"Starting the engine {options.engine}"):
        engine = make_engine(options.engine, policy, max_tokens=max_tokens)
    with closing(engine), bars() as progress:
        progress.add("eval", len(ids) * options.samples)

        def show(done: int, total: int) -> None:
            progress.show("eval", done, {"pass@1": summary().pass_at_1})

        limit, temperature = options.max_response_tokens, options.temperature
        actor = Actor(policy, engine, environment, limit, temperature=temperature)
        complete_answers(
            file, actor, ids, samples=options.samples, seed=options.seed, on_progress=show
        )
    return summary()


def _report(options: EvalOptions, result: Evaluation, measured: dict[str, Any]) -> int:
    """Print the result, write it beside the answers, and return the exit code."""
    from vpd_agent.evaluation.report import pass_table, status_table, write_report

    print_table(
        f"{len(result.judged)} problems × {options.samples} answers, 95 % intervals",
        *pass_table(result, options.samples),
    )
    print_table("answers", *status_table(result))
    if options.out is not None and is_main_process():
        files = write_report(options.out, result, options.samples, measured)
        print("\n".join(map(str, [options.out, *files])))
    if result.dropped:
        again = "; the same command tries them again" if options.out is not None else ""
        say(f"{result.dropped} answers could not be judged{again}.")
    return 1 if result.dropped else 0


def _check(options: EvalOptions) -> None:
    for name in ("problems", "samples", "max_response_tokens", "max_prompt_tokens", "batch"):
        if getattr(options, name) < 1:
            raise ValueError(f"--{name.replace('_', '-')} must be at least 1.")
    if not options.temperature > 0:
        raise ValueError(f"--temperature must be positive, got {options.temperature}.")
    if options.out is not None and options.out.suffix != ".jsonl":
        raise ValueError(f"--out must be a file NAME.jsonl, got {options.out}.")


def _measured(
    options: EvalOptions, policy: Policy, environment: gym.vector.VectorEnv
) -> dict[str, Any]:
    """What the answers depend on: they are of the same evaluation where this is the same."""
    from vpd_agent.runs.identity import fingerprint, judge_hash, model_hashes

    return {
        **{k: v for k, v in vars(options).items() if k not in UNMEASURED},
        "set": list(options.set),
        "template_arguments": list(options.template_arguments),
        "problems": fingerprint(environment),
        "judge": judge_hash(environment),
        **model_hashes(policy),
    }
