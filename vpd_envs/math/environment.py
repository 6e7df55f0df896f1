r"""Mathematics problems with a final answer, compared with Math-Verify in killable processes.

Loads MATH-500, GSM8K, AIME 2024 to 2026, HMMT February 2025, AMC 2023, DAPO-Math-17k and
OlympiadBench, from files or from the hub. `equal` and `response_equal` compare answers without an
environment.
"""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from functools import partial
from pathlib import Path
from typing import Any

from sandbox.core import MIB, SandboxError
from sandbox.installation import install_hint
from vpd_envs.answers.answer_tag import shortened
from vpd_envs.answers.extraction import FinalAnswer, Found
from vpd_envs.answers.thinking import PREFIX
from vpd_envs.checks import check_positive
from vpd_envs.data.files import DataOptions
from vpd_envs.dataset_env import DatasetEnv
from vpd_envs.math.answer import boxed_answer, decided, marked_answer, tidy, whole_answer
from vpd_envs.math.data import HUBS, Gold, math_problems
from vpd_envs.types import Problem, Status, Verdict
from vpd_envs.workers.pool import WorkerError, WorkerMemory, Workers, WorkerTimeout, shared_workers

BOXED_FORMAT = r"Please reason step by step, and put your final answer within \boxed{}."
MARKED_FORMAT = (
    "Please reason step by step, and end with a line that has {marker} and, after it, your final "
    "answer."
)
LAST_FORMAT = "Please reason step by step, and end with your final answer."
LONGEST_ANSWER = 2000  # characters; deep brackets take Math-Verify's parser minutes
LONGEST_SHOWN = 200  # characters of an answer in feedback
COMPARE = "vpd_envs.math.comparison:compare"
COMPARE_RESPONSE = "vpd_envs.math.comparison:compare_response"
WARM_UP = "vpd_envs.math.comparison:warm_up"


class Math(DatasetEnv):
    r"""`vpd/Math-v0`.

    dataset: one of `HUBS`.
    data: a file, or a folder: its files called as the data set, else all whose names start so. A
        row has a question (`problem`, `question` or `prompt`, which may be chat messages) and an
        answer (`answer`, `final_answer`, `reward_model.ground_truth` or the box of `solution`).
        None loads from the hub.
    hub, revision, split, test_fraction, max_problems: see `vpd_envs.data.files`. GSM8K on the hub
        has a train and a test split of its own; the repeated rows of DAPO-Math-17k are taken once.

    answer: where the final answer stands. "boxed": in the last `\boxed{}` after the thinking (see
        `vpd_envs.math.answer.boxed_answer`); "marker": after the last `answer_marker`, on the same
        line; "last": wherever Math-Verify finds it in the response. The prompt asks accordingly.
    answer_marker: of answer="marker".
    instruction: what prompts end with, in place of the sentence that asks for reasoning and for an
        answer in that place; "" for the bare question. None keeps that sentence.
    reveal: whether the feedback on a wrong answer tells the right one.
    time_limit_seconds, memory_limit_mb: of one comparison.
    thinking_prefilled: whether the model's prompts end in an opened `<think>`, as some chat
        templates end them. Then a response without `</think>` is one that was cut off. The trainer
        and `vpd eval` see it for themselves and need no option (see `vpd_envs.answers.thinking`).

    Answers are compared in a normal form (see `vpd_envs.math.notation`, `words`), in which Unicode,
    plain names (`pi`, `sqrt(2)`), thousands separators and number words (`5 million`) are LaTeX.
    They are equal if they are the same text, the same plain number, or equal for Math-Verify and
    SymPy, with these conventions:

    - Exact numbers are compared exactly, however small they are. If one of them is a decimal, both
      are rounded to 6 places and may differ by 2e-5 of the larger: `0.333333` equals `1/3`.
    - Lists and sets have no order and need no brackets; points do. `\pm` stands for two answers.
    - An equation stands for its right side where the other answer is no equation. An inequality
      equals the interval that it describes.
    - 5% equals 5% and 5 and 0.05.
    - Units are ignored where one of the answers has none. If both have one, they must agree: 5
      hours are not 5 minutes, nor is 5 a.m. 5 p.m. Nouns such as `apples` are ignored. Units are
      not converted. Remarks that change an answer (`5 or 6`, `not 5`, `at least 5`) are no units.
    - Words are compared as texts, without regard to case.

    Problems with a tolerance (OlympiadBench's `error`) take any number that is no farther off.

    Statuses beside SOLVED and WRONG_ANSWER: NO_ANSWER (no box, or it was cut off), EMPTY_ANSWER,
    FORMAT_ERROR (it has an answer that cannot be read), TIME_LIMIT and MEMORY_LIMIT (it could not
    be compared within them). `info["details"]` has `extracted`, the answer as it was read, and
    `method`: "text", "number" or "math-verify".
    """

    def __init__(
        self,
        data: str | Path | None = None,
        *,
        dataset: str = "math500",
        answer: str = "boxed",
        answer_marker: str = "####",
        instruction: str | None = None,
        reveal: bool = False,
        time_limit_seconds: float = 5.0,
        memory_limit_mb: int = 512,
        thinking_prefilled: bool = False,
        **options: Any,
    ) -> None:
        if dataset not in HUBS:
            raise ValueError(f"dataset must be one of {', '.join(HUBS)}; got {dataset!r}.")
        if not isinstance(instruction, str | None):
            raise ValueError(f"instruction must be a text or None, got {instruction!r}.")
        check_positive(time_limit_seconds=time_limit_seconds, memory_limit_mb=memory_limit_mb)
        _check_math_verify()
        self.dataset = dataset
        self.reading = _reading(answer, answer_marker)
        self.instruction = self.reading.prompt if instruction is None else instruction
        self.reveal = reveal
        self.time_limit_seconds = time_limit_seconds
        self.memory_limit_mb = memory_limit_mb
        self.thinking_prefilled = thinking_prefilled
        super().__init__(data, **options)

    def load(self, options: DataOptions) -> list[Problem]:
        return math_problems(self.dataset, options, self.instruction)

    def judge(self, problem: Problem, answer: str) -> Verdict:
        if not answer.strip():
            return Verdict(0.0, Status.EMPTY_ANSWER, f"Empty answer\n{self.reading.asked}")
        final = self.reading.find(PREFIX + answer if self.thinking_prefilled else answer)
        if final.found is not Found.COMPLETE:
            return self.reading.verdict(final.found)
        try:
            judgment = self._judgment(problem.target, final.text)
        except WorkerTimeout:
            limit = f"within {self.time_limit_seconds:g} s"
            return _not_compared(Status.TIME_LIMIT, final.text, limit)
        except WorkerMemory:
            limit = f"with {self.memory_limit_mb:g} MB of memory"
            return _not_compared(Status.MEMORY_LIMIT, final.text, limit)
        if not judgment.extracted:
            return self.reading.verdict(Found.NONE)
        details = {"extracted": judgment.extracted, "method": judgment.method}
        shown = shortened(judgment.extracted, LONGEST_SHOWN)
        if judgment.equal:
            return Verdict(1.0, Status.SOLVED, f"Correct\nThe answer {shown} is right.", details)
        if judgment.readable:
            status = Status.WRONG_ANSWER
            text = f"Wrong answer\nYour final answer was read as {shown}, which is not right."
        else:
            status = Status.FORMAT_ERROR
            text = (
                f"Unreadable answer\nYour final answer, {shown}, could not be "
                f"read as a mathematical expression. {self.reading.asked}"
            )
        if self.reveal:
            text += f" The right answer is {problem.target.text}."
        return Verdict(0.0, status, text, details)

    @property
    def workers(self) -> int:
        return self._pool(COMPARE).size

    def _judgment(self, gold: Gold, text: str) -> Judgment:
        if self.reading.is_whole_response:
            return _compared_response(self._pool(COMPARE_RESPONSE), gold.text, text)
        return _compared(self._pool(COMPARE), gold, text)

    def _pool(self, function: str) -> Workers:
        """Shared by all environments of this process, so that the environment can be pickled."""
        return _pool(function, self.time_limit_seconds, self.memory_limit_mb)


def equal(gold: str, prediction: str, *, time_limit_seconds: float = 5.0) -> bool:
    """Whether two answers, without the text around them, are equal. Not symmetric: `x = 5` equals
    the gold answer `5`, but `5` does not equal every equation that ends in 5.

    Raises:
        WorkerTimeout, WorkerMemory: they could not be compared within the limits.
        SandboxError: the infrastructure failed.
        ValueError: Math-Verify is not installed.
    """
    _check_math_verify()
    return _compared(_pool(COMPARE, time_limit_seconds), Gold(gold), prediction).equal


def response_equal(gold: str, response: str, *, time_limit_seconds: float = 5.0) -> bool:
    """Whether the final answer of a whole response, found by Math-Verify's own rules, equals the
    gold answer. No box is needed. Raises what `equal` raises."""
    _check_math_verify()
    workers = _pool(COMPARE_RESPONSE, time_limit_seconds)
    return _compared_response(workers, gold, response).equal


# Finding the answer -------------------------------------------------------------------------------


@dataclass(frozen=True)
class Reading:
    """Where the final answer of a response stands."""

    prompt: str  # what the prompt ends with
    asked: str  # what feedback on the format ends with
    missing: str  # what such feedback says if there is no answer
    empty: str  # and if there is nothing in its place
    find: Callable[[str], FinalAnswer]
    is_whole_response: bool = False  # Math-Verify is to find it

    def verdict(self, found: Found) -> Verdict:
        """On a response without an answer there."""
        if found is Found.EMPTY:
            feedback = f"Empty answer\n{self.empty} {self.asked}"
            return Verdict(0.0, Status.EMPTY_ANSWER, feedback)
        reason = self.missing if found is Found.NONE else CUT_OFF[found]
        return Verdict(0.0, Status.NO_ANSWER, f"Missing answer\n{reason} {self.asked}")


CUT_OFF = {
    Found.TRUNCATED: r"The response was cut off: it opens a \boxed{ that is never closed.",
    Found.THINKING: "The response was cut off: its thinking is never closed.",
}


def _reading(answer: str, marker: str) -> Reading:
    """The reading of that name. Raises ValueError for an unknown one."""
    if answer == "boxed":
        asked = r"Put your final answer within \boxed{}."
        missing = r"The response has no \boxed{...}."
        empty = r"There is nothing in \boxed{...}."
        return Reading(BOXED_FORMAT, asked, missing, empty, boxed_answer)
    if answer == "marker":
        if not marker.strip():
            raise ValueError(f"answer_marker must be a text such as '####', got {marker!r}.")
        asked = f"Write your final answer after {marker} on the last line."
        missing = f"The response has no {marker}."
        empty = f"There is nothing after {marker}."
        find = partial(marked_answer, marker=marker)
        return Reading(MARKED_FORMAT.format(marker=marker), asked, missing, empty, find)
    if answer == "last":
        asked = "End with your final answer."
        missing = "The response has no number and no mathematical expression."
        empty = "There is nothing after the thinking."
        return Reading(LAST_FORMAT, asked, missing, empty, whole_answer, True)
    raise ValueError(f"answer must be 'boxed', 'marker' or 'last', got {answer!r}.")


# Comparing ----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Judgment:
    equal: bool
    readable: bool
    extracted: str
    method: str = "math-verify"


def _compared(workers: Workers, gold: Gold, text: str) -> Judgment:
    prediction = _without_unit(text, gold.unit)
    if len(prediction) > LONGEST_ANSWER:
        return Judgment(False, False, text, "text")
    if not gold.several:
        tolerance = Fraction(gold.tolerances[0]) if gold.tolerances else None
        quick = decided(tidy(gold.text), tidy(prediction), tolerance)
        if quick is not None:
            return Judgment(quick.equal, True, text, quick.method)
    result = _call_worker(workers, gold.text, prediction, gold.several, gold.tolerances)
    return Judgment(**result, extracted=text)


def _compared_response(workers: Workers, gold: str, response: str) -> Judgment:
    return Judgment(**_call_worker(workers, gold, response))


def _call_worker(workers: Workers, *arguments: Any) -> dict[str, Any]:
    try:
        return workers.call(*arguments)
    except WorkerError as error:  # Math-Verify lets none out: nothing is known about the answer
        raise SandboxError(
            f"Expected a comparison by {workers.function}, but it raised {error.kind}: {error}"
        ) from error


def _pool(function: str, time_limit_seconds: float, memory_limit_mb: int = 512) -> Workers:
    return shared_workers(
        function,
        setup=WARM_UP,
        timeout_seconds=time_limit_seconds,
        memory_bytes=int(memory_limit_mb * MIB),
    )


def _without_unit(text: str, unit: str) -> str:
    """The answer without the problem's unit at its end, if it is written as the problem has it."""
    bare = re.sub(r"\\(?:text|mathrm)|[{}~$\s]", "", unit)
    for ending in (unit.strip(), unit.strip("$ "), bare):
        if ending and text.rstrip("$ .").endswith(ending):
            return text.rstrip("$ .").removesuffix(ending)
    return text


def _check_math_verify() -> None:
    if importlib.util.find_spec("math_verify") is None:
        raise ValueError(
            f"Comparing mathematical answers needs the package Math-Verify: {install_hint('math')}"
        )


def _not_compared(status: Status, text: str, limit: str) -> Verdict:
    shown = shortened(text, LONGEST_SHOWN)
    feedback = (
        f"Answer too hard to compare\nYour final answer, {shown}, could not be compared "
        f"{limit}. Write it in a simpler form."
    )
    return Verdict(0.0, status, feedback, {"extracted": text, "method": "math-verify"})


vector = Math.vector  # gymnasium's entry points cannot name a class attribute
