"""`vpd envs`, `vpd judge` and `vpd show`: the environments from the shell, without a model."""

from __future__ import annotations

import argparse
import itertools
import json
import os
import sys
import textwrap
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import closing, contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any, BinaryIO

from sandbox.plugins import FORM
from vpd_envs.answers.options import REQUIRED, about, options_of
from vpd_envs.answers.thinking import PREFIX
from vpd_envs.catalog import CATALOG, Entry, known_name, make, parsed_options
from vpd_envs.data.files import json_lines
from vpd_envs.data.progress import LateProgress, told_if_slow
from vpd_envs.data.provenance import (
    NOT_JUDGING,
    differences,
    judge_code,
    text_hash,
    versions,
)
from vpd_envs.text_env import TextEnv
from vpd_envs.types import Problem, Status, Verdict

_JUDGE_EPILOG = """\
ANSWERS has a JSON object per line, {"problem_id": …, "answer": …}. The verdicts come in the same
order, {"problem_id", "answer_hash", "reward", "status", "feedback"}; where the infrastructure
failed, reward and status are null and "error" says why. If OUT exists, its verdicts are kept, those
with an error are made anew, and judging goes on where it ended: ANSWERS may have become longer, but
OUT is refused if its verdicts are on other answers, or by another judge than the options ask for.
OUT.judge.json, beside it, says by which: environment, options, data, code.

An answer may also have "thinking_prefilled": true if the prompt ended in an opened <think>, so that
the answer has no such tag of its own: cut off before </think>, it counts as unfinished.

It may have "expected": true if it is known to solve its problem, false if not. Then the
judge is judged: how many verdicts agree is told, and every line that does not.

exit codes: 0 every answer has its verdict (the expected one, if it has one); 1 some have not;
2 bad input; 130 interrupted (what was judged is in OUT)."""

_SHOWN_DISAGREEMENTS = 20
_INSTEAD = "Pass another --out, or remove the file."


def envs(arguments: list[str]) -> int:
    """`vpd envs`: what the suite has; with an id, the options of that environment."""
    parser = argparse.ArgumentParser(
        "vpd envs", description="The environments of the suite, or the options of one."
    )
    parser.add_argument(
        "env", nargs="?", metavar="ID", help=f"such as vpd/Math-v0; your own: {FORM}"
    )
    parser.add_argument("--json", action="store_true", help="as a JSON list")
    options = parser.parse_args(arguments)
    if options.env is not None:
        _print_options(known_name(options.env), options.json)
    elif options.json:
        print(json.dumps([{"id": entry.id} | asdict(entry) for entry in CATALOG], indent=1))
    else:
        for entry in CATALOG:
            _print_entry(entry)
    return 0


def _print_entry(entry: Entry) -> None:
    from rich.console import Console
    from rich.text import Text

    console = Console(highlight=False, soft_wrap=True)
    console.print(Text.assemble((f"{entry.id:<24}", "bold"), entry.asks))
    print(f"    judge: {entry.judge}; data: {entry.data}; problems: {entry.size}")


def _print_options(name: str, as_json: bool) -> None:
    """What `--set` takes for an environment, each option with its default and its meaning."""
    options = options_of(name)
    if as_json:
        rows = [asdict(option) | {"required": option.default is REQUIRED} for option in options]
        print(json.dumps(rows, indent=1, default=lambda _: None))
        return
    entry = next((entry for entry in CATALOG if entry.id == name), None)
    if entry is not None:
        _print_entry(entry)
    else:
        print(f"{name}  {about(name)}".strip())
    for option in options:
        print(f"\n{option}")
        if option.meaning:
            text = textwrap.fill(option.meaning, 92, break_on_hyphens=False)
            print(textwrap.indent(text, " " * 4))


def show(arguments: list[str]) -> int:
    """`vpd show`: one problem, as a person would want to read it."""
    parser = argparse.ArgumentParser(
        "vpd show", description="Print one problem of an environment and, with --answer, judge it."
    )
    add_environment_flags(parser)
    which = parser.add_mutually_exclusive_group()
    which.add_argument("--problem", metavar="ID", help="which one (default: the first)")
    which.add_argument("--seed", type=int, help="one drawn at random")
    which.add_argument("--ids", action="store_true", help="print the ids of all problems instead")
    parser.add_argument("--answer", metavar="FILE", help="an answer to judge; - is standard input")
    options = parser.parse_args(arguments)
    with opened_environment(options) as env:
        if options.ids:
            print("\n".join(env.problem_ids))
            return 0
        chosen = {"problem_id": options.problem or env.problem_ids[0]}
        _, info = env.reset(seed=options.seed, options=chosen if options.seed is None else None)
        answer = None
        if options.answer is not None:
            answer = sys.stdin.read() if options.answer == "-" else Path(options.answer).read_text()
        _print_problem(options.env, env, info["problem_id"], answer)
    return 0


def judge(arguments: list[str]) -> int:
    """`vpd judge`: verdicts on answers that are there already."""
    parser = argparse.ArgumentParser(
        "vpd judge",
        description="Judge the answers of a file.",
        epilog=_JUDGE_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_environment_flags(parser)
    parser.add_argument("--answers", type=Path, required=True, metavar="FILE")
    parser.add_argument("--out", type=Path, help="verdicts (default: standard output)")
    options = parser.parse_args(arguments)
    with opened_environment(options) as env:
        start_sandbox(env)  # where none works, say so before any answer is read
        with told_if_slow("Reading the answers"):
            answers = _Answers(options.answers, env)
        progress = LateProgress("judging", answers.total, True)
        tally = _Tally(answers, progress)
        started = time.perf_counter()
        try:
            with progress:
                if options.out is None:
                    _write_verdicts(sys.stdout.buffer, env, answers.attempts(), tally)
                else:
                    record = _judged_by(options.env, env, _given_options(options))
                    _judge_into(options.out, record, answers, tally)
        finally:
            tally.print(time.perf_counter() - started)
    return 1 if tally.errors or tally.disagreements else 0


# --- options ------------------------------------------------------------------------------------


def add_environment_flags(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--env", required=True, metavar="ID", help=f"such as vpd/Math-v0; your own: {FORM}"
    )
    parser.add_argument("--data", help="data file or folder, for environments that read one")
    parser.add_argument(
        "--sandbox", help="docker, bubblewrap or local (default: the strongest), or module:Class"
    )
    parser.add_argument(
        "--set",
        nargs="+",
        action="extend",
        default=[],
        metavar="KEY=VALUE",
        help="options of the environment, such as dataset=gsm8k max_turns=2; vpd envs ID has all",
    )


@contextmanager
def opened_environment(options: argparse.Namespace, **flags: Any) -> Iterator[TextEnv]:
    """The environment of the options; closed at the end.

    flags: its options that have a flag in this command alone; None where it was not given.
    """
    with told_if_slow("Loading the problems"):
        made = make(options.env, **_given_options(options, **flags)).unwrapped
    with closing(made) as env:
        if not isinstance(env, TextEnv):
            raise ValueError(f"{options.env} is no environment of texts (vpd_envs.TextEnv).")
        yield env


def start_sandbox(env: TextEnv) -> None:
    """Raises SandboxError where an environment that needs a sandbox gets none."""
    with told_if_slow("Starting the sandbox"):
        getattr(env, "sandbox", None)


def _given_options(options: argparse.Namespace, **flags: Any) -> dict[str, Any]:
    return parsed_options(options.set, data=options.data, sandbox=options.sandbox, **flags)


# --- vpd judge ----------------------------------------------------------------------------------


class _Answers:
    """The answers of a file, in its order. All lines are checked before the first is judged.

    Raises ValueError, which names the line, for one that is no answer or of an unknown problem.
    """

    def __init__(self, path: Path, env: TextEnv) -> None:
        if not path.is_file():
            raise FileNotFoundError(f"There is no file of answers {path}.")
        self.path = path
        self.env = env
        self.total = sum(1 for _ in self)

    def attempts(self) -> Iterator[tuple[Problem, str]]:
        return ((problem, answer) for problem, answer, _ in self)

    def expected(self) -> Iterator[bool | None]:
        """Whether each answer is known to solve its problem; None where nothing is known."""
        return (expected for _, _, expected in self)

    def __iter__(self) -> Iterator[tuple[Problem, str, bool | None]]:
        for row, place in json_lines(self.path):
            fit = isinstance(row, dict) and isinstance(row.get("answer"), str)
            if not fit or not isinstance(row.get("problem_id"), str):
                raise ValueError(
                    f"{place}: expected {{'problem_id': text, 'answer': text}}, came {row!r:.80}."
                )
            for name, absent in (("expected", None), ("thinking_prefilled", False)):
                came = row.get(name, absent)
                if came is not absent and not isinstance(came, bool):
                    raise ValueError(f"{place}: {name!r} must be true or false, came {came!r:.40}.")
            answer = (PREFIX if row.get("thinking_prefilled") else "") + row["answer"]
            try:
                yield self.env.problem(row["problem_id"]), answer, row.get("expected")
            except ValueError as error:
                raise ValueError(f"{place}: {error}") from error


class _Tally:
    """What came of the answers so far; verdicts are added in the order of the answers."""

    def __init__(self, answers: _Answers, progress: LateProgress) -> None:
        self.progress = progress
        self._expected = answers.expected()
        self.known = 0  # answers of which it is known whether they solve their problem
        self.disagreements = 0
        self.listed: list[str] = []
        self.statuses: Counter[str] = Counter()
        self.reward = 0.0
        self.errors = 0
        self.done = 0
        self.made = 0  # verdicts of this run

    def add(self, row: dict[str, Any]) -> None:
        self.done += 1
        self.progress.show(self.done)
        expected = next(self._expected)
        if row["reward"] is None:
            self.errors += 1
            return
        self.statuses[row["status"]] += 1
        self.reward += row["reward"]
        if expected is None:
            return
        self.known += 1
        if expected is (row["status"] == Status.SOLVED):
            return
        self.disagreements += 1
        if len(self.listed) < _SHOWN_DISAGREEMENTS:
            known = "solved" if expected else "not solved"
            self.listed.append(
                f"  answer {self.done}, {row['problem_id']}: known as {known}, "
                f"judged {row['status']}"
            )

    def print(self, seconds: float) -> None:
        judged = self.done - self.errors
        lines = [f"  {status:<16} {n}" for status, n in self.statuses.most_common()]
        if self.errors:
            lines.append(f"  {'not judged':<16} {self.errors}")
        if self.known:
            agree = self.known - self.disagreements
            lines.append(f"{agree} of {self.known} known verdicts agree")
            lines += self.listed
            if self.disagreements > len(self.listed):
                lines.append(f"  and {self.disagreements - len(self.listed)} more")
        mean = f", mean reward {self.reward / judged:.4f}" if judged else ""
        rate = f", {self.made / seconds * 60:.0f} a minute" if self.made else ""
        head = f"{judged} answers judged{mean} ({self.made} now, in {seconds:.1f} s{rate})"
        print("\n".join([head, *lines]), file=sys.stderr)


def _judged_by(env_id: str, env: TextEnv, options: dict[str, Any]) -> dict[str, Any]:
    """What verdicts depend on besides the answers. options: those that `env` was made with."""
    return {
        "env": env_id,
        "fingerprint": env.fingerprint,
        "options": {k: v for k, v in sorted(options.items()) if k not in NOT_JUDGING},
        "judge": judge_code(env),
        "versions": versions("math-verify"),
    }


def _judge_into(out: Path, record: dict[str, Any], answers: _Answers, tally: _Tally) -> None:
    """Verdicts into a file. What it has already is kept; a line that is cut off is not.

    record: see `_judged_by`. It is written beside the file before the first verdict is; a file
        whose verdicts have another one, or none, is refused.
    """
    kept = 0
    if out.exists() and out.stat().st_size:
        _check_record(out, record)
        kept, size = _checked_verdicts(out, answers)
        os.truncate(out, size)
        if any(row["reward"] is None for row in _read_verdicts(out)):
            _repair(out, answers, tally.progress)
        for row in _read_verdicts(out):
            tally.add(row)
    else:
        out.parent.mkdir(parents=True, exist_ok=True)
        new = out.with_name(f"{out.name}.judge.json.new")
        new.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
        new.replace(_record_of(out))
    with out.open("ab") as file:
        rest = itertools.islice(answers.attempts(), kept, None)
        _write_verdicts(file, answers.env, rest, tally)


def _record_of(out: Path) -> Path:
    return out.with_name(f"{out.name}.judge.json")


def _check_record(out: Path, record: dict[str, Any]) -> None:
    """Raises ValueError unless the verdicts of a file were made as these would be."""
    path = _record_of(out)
    try:
        there = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ValueError(
            f"{out} cannot be gone on with: {path.name} beside it, which says by what its verdicts "
            f"were made, is missing or damaged. {_INSTEAD}"
        ) from error
    if differing := differences(there, json.loads(json.dumps(record))):
        raise ValueError(f"{out} has the verdicts of another judge: {differing}. {_INSTEAD}")


def _verdict_rows(
    env: TextEnv, attempts: Iterable[tuple[Problem, str]]
) -> Iterator[dict[str, Any]]:
    """Judges the attempts. A row for each, in their order, as soon as it is known."""
    to_judge, judged = itertools.tee(attempts)
    for verdict, (problem, answer) in zip(env.judge_many(to_judge), judged, strict=True):
        row: dict[str, Any] = {"problem_id": problem.id, "answer_hash": text_hash(answer)}
        if isinstance(verdict, Verdict):
            row |= {"reward": verdict.reward, "status": verdict.status.value}
            yield row | {"feedback": verdict.feedback}
        else:
            nothing = dict.fromkeys(("reward", "status", "feedback"))
            yield row | nothing | {"error": str(verdict)}


def _write_verdicts(
    file: BinaryIO, env: TextEnv, attempts: Iterable[tuple[Problem, str]], tally: _Tally
) -> None:
    for row in _verdict_rows(env, attempts):
        _write(file, row)
        file.flush()
        tally.add(row)
        tally.made += 1


def _write(file: BinaryIO, row: dict[str, Any]) -> None:
    file.write(json.dumps(row, ensure_ascii=False).encode("utf-8", "replace") + b"\n")


def _checked_verdicts(out: Path, answers: _Answers) -> tuple[int, int]:
    """How many whole verdicts a file has, and their bytes. Raises ValueError if they are on other
    answers."""
    count = size = 0
    with out.open("rb") as file:
        for (problem, answer), line in zip(answers.attempts(), file, strict=False):
            try:
                row = json.loads(line) if line.endswith(b"\n") else None
            except ValueError:
                row = None
            if row is None:
                break  # cut off when the run was
            count += 1
            size += len(line)
            if not isinstance(row, dict) or row.get("problem_id") != problem.id:
                raise ValueError(
                    f"{out}, line {count}: this is no verdict on an answer to {problem.id!r}, as "
                    f"{answers.path} has it in this place. {_INSTEAD}"
                )
            if row.get("answer_hash") != text_hash(answer):
                raise ValueError(
                    f"{out}, line {count}: this is the verdict on another answer to "
                    f"{problem.id!r} than {answers.path} has in this place. {_INSTEAD}"
                )
        else:
            if count == answers.total and file.readline():
                raise ValueError(
                    f"{out} has more verdicts than {answers.path} has answers. {_INSTEAD}"
                )
    return count, size


def _read_verdicts(out: Path) -> Iterator[dict[str, Any]]:
    with out.open("rb") as file:
        yield from map(json.loads, file)


def _repair(out: Path, answers: _Answers, progress: LateProgress) -> None:
    """Judge again what could not be judged; the file is replaced at once, when all is done."""
    new = out.with_name(f"{out.name}.new")
    pairs = zip(answers.attempts(), _read_verdicts(out), strict=False)
    failed = (attempt for attempt, row in pairs if row["reward"] is None)
    again = _verdict_rows(answers.env, failed)
    with new.open("wb") as file:
        for number, row in enumerate(_read_verdicts(out), start=1):
            _write(file, next(again) if row["reward"] is None else row)
            progress.show(number)
    new.replace(out)


# --- vpd show -----------------------------------------------------------------------------------


def _print_problem(name: str, env: TextEnv, problem_id: str, answer: str | None) -> None:
    """The open episode's problem: where it comes from, its messages, and what an answer gets."""
    from rich.console import Console
    from rich.rule import Rule
    from rich.text import Text

    console = Console(highlight=False, soft_wrap=True)
    problem = env.problem(problem_id)
    console.print(Rule(Text(f"{name}  {problem.id}"), align="left"))
    for key, value in problem.metadata.items():
        console.print(Text(f"{key}: {value}", style="dim"))
    for message in problem.messages:
        console.print(Rule(Text(message["role"]), align="left", style="dim"))
        console.print(Text(message["content"].strip()))
    console.print(Rule(style="dim"))
    if answer is None:
        return
    _, reward, _, _, info = env.step(answer)
    console.print(Text(f"{info['status']}, reward {reward:g}", style="bold"))
    console.print(Text(info["feedback"]))
