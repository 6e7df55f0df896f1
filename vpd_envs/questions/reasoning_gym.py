"""Reasoning Gym: about a hundred kinds of procedural puzzles, from the package `reasoning-gym`.

Puzzles are made and answers are scored in worker processes (see `vpd_envs.workers.pool`), by the
code of the package: some scorers never end on some answers, and some evaluate them as Python. A
worker makes a puzzle anew from its dataset's name, parameters, seed and index; hashes are not
randomized there, on which a few of the datasets depend.
"""

from __future__ import annotations

import ast
import contextlib
import dataclasses
import hashlib
import json
import re
import sys
from collections.abc import Callable, Mapping
from functools import cached_property, lru_cache
from typing import Any

from sandbox import plugins
from sandbox.core import SandboxError
from sandbox.installation import install_hint
from vpd_envs.answers.answer_tag import UNREADABLE, quoted, tagged_answer, unreadable
from vpd_envs.answers.extraction import FinalAnswer, Found, last_number
from vpd_envs.text_env import TextEnv
from vpd_envs.types import Problem, Status, Verdict
from vpd_envs.workers.pool import (
    WorkerFailure,
    WorkerMemory,
    Workers,
    WorkerTimeout,
    shared_workers,
)


@dataclasses.dataclass(frozen=True)
class Extraction:
    """What of an answer the scorer sees.

    find: it, in an answer. prompt: how the prompt asks for it; asked: how feedback does. named:
    what feedback calls it. missing: what feedback says where there is none. whole: whether an
    answer that has the right one in it may only be wrong.
    """

    find: Callable[[str], FinalAnswer]
    prompt: str
    asked: str
    named: str
    missing: Mapping[Found, str]
    whole: bool = False


EXTRACTIONS = {
    "tag": Extraction(
        tagged_answer,
        "Write your final answer between <answer> and </answer>, and nothing but the answer: where "
        "the task shows how an answer looks, keep to that.",
        "Write the final answer alone between <answer> and </answer>.",
        "Your answer",
        UNREADABLE,
    ),
    "number": Extraction(
        last_number,
        "End with the final answer, a number.",
        "End with the final answer, a number.",
        "The last number of your answer",
        UNREADABLE | {Found.NONE: "There is no number in your answer."},
        whole=True,  # 25 is in 125
    ),
}
SHOWN_CHARACTERS = 100  # of an answer
LARGEST_SIZE = 1_000_000


class ReasoningGym(TextEnv):
    """`vpd/ReasoningGym-v0`.

    dataset: a name of the package, such as "leg_counting", "countdown" or "mini_sudoku".
    size: how many puzzles there are. They are made when they are first asked.
    split, dataset_seed: "train" and "test" are puzzles of different seeds, drawn by hashing the
        split and `dataset_seed` (the package makes puzzle i of seed s as puzzle 0 of s + i, so that
        neighboring seeds would share theirs). A dataset with few different puzzles may still have
        the same one in both.
    parameters: of the dataset, JSON values, such as {"min_animals": 5}; by default the package's.
    extract: what of an answer the dataset's own scorer sees. "tag": the last `<answer>...</answer>`
        after the thinking; "number": the last number there, whatever stands around it, for models
        that keep to no format, in datasets whose answers are numbers.
    time_limit_seconds: for making one puzzle, and for scoring one answer.

    The scorer's score, 0 to 1, is the reward, and 1 is solved. Many scorers give 0.01 or 0.05 to
    any wrong answer, or a share of 1 to one that is partly right; a number that has the right one
    among its digits is wrong (125 for 25). The feedback tells the score.

    The scorers' weaknesses stay, too: that of game_of_life_halting takes any text where the answer
    is False, and that of complex_arithmetic takes nan for any number.

    Two things differ from the package, so that no answer can run as a program. Where a scorer
    evaluates lists (n_queens and a few others), only literals are. Where it evaluates a formula
    (countdown, integration, ...), one with anything but numbers, operators, variables of one letter
    and elementary functions is a format error.

    `info["metadata"]`: `dataset`, `category`, `index`. `info["details"]`: `score`.

    Raises, beside what every `TextEnv` does:
        ValueError: the package is missing, or an unknown dataset or parameter.
        SandboxError, also from `reset`: a puzzle could not be made within its limits.
    """

    def __init__(
        self,
        dataset: str = "leg_counting",
        *,
        size: int = 1000,
        split: str = "train",
        dataset_seed: int = 0,
        parameters: Mapping[str, Any] | None = None,
        extract: str = "tag",
        time_limit_seconds: float = 5.0,
        max_turns: int = 1,
        render_mode: str | None = None,
    ) -> None:
        if split not in ("train", "test"):
            raise ValueError(f"split must be 'train' or 'test', got {split!r}.")
        for name, value in (("size", size), ("dataset_seed", dataset_seed)):
            if isinstance(value, bool) or not isinstance(value, int):
                raise ValueError(f"{name} must be an integer, got {value!r}.")
        if not 1 <= size <= LARGEST_SIZE:
            raise ValueError(f"size must be between 1 and {LARGEST_SIZE}, got {size}.")
        if extract not in EXTRACTIONS:
            raise ValueError(plugins.unknown("extract:", str(extract), EXTRACTIONS))
        if not 0 < time_limit_seconds < float("inf"):
            raise ValueError(f"time_limit_seconds must be positive, got {time_limit_seconds!r}.")
        source = Source(
            name=dataset,
            parameters=_json_text(parameters or {}),
            seed=_seed_of(split, dataset_seed),
            size=size,
            time_limit_seconds=time_limit_seconds,
        )
        category = _checked_category(source)
        self.source, self.extract = source, extract
        asked = EXTRACTIONS[extract].prompt
        puzzles = (Puzzle(source, split, category, asked, index) for index in range(size))
        super().__init__(puzzles, max_turns=max_turns, render_mode=render_mode)

    @property
    def workers(self) -> int:
        return self.source.workers.size

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 over the package's version and the dataset: without making all its puzzles."""
        from importlib.metadata import version

        told = (version("reasoning-gym"), *self.source.key, self.extract)
        return hashlib.sha256(repr(told).encode()).hexdigest()

    def judge(self, problem: Problem, answer: str) -> Verdict:
        extraction = EXTRACTIONS[self.extract]
        final, asked = extraction.find(answer), extraction.asked
        unscored = {"score": None}
        verdict = unreadable(answer, final, asked, unscored, extraction.missing)
        if verdict is not None:
            return verdict
        index = problem.metadata["index"]
        yours = f"{extraction.named}, {quoted(final.text, SHOWN_CHARACTERS)},"
        try:
            said = self.source.ask(index, final.text)
        except (WorkerTimeout, WorkerMemory) as failure:
            self.source.entry(index)  # raises SandboxError if it was the puzzle, not the answer
            slow = isinstance(failure, WorkerTimeout)
            status = Status.TIME_LIMIT if slow else Status.MEMORY_LIMIT
            took = f"took the scorer more {'time' if slow else 'memory'} than it has"
            feedback = f"{yours} {took}: give a simpler form of it."
            return Verdict(0.0, status, feedback, unscored)
        except WorkerFailure as failure:
            raise SandboxError(f"The scorer of {self.source.name} failed: {failure}") from failure
        if "unreadable" in said:
            feedback = f"{yours} could not be read: {said['unreadable']}. {asked}"
            return Verdict(0.0, Status.FORMAT_ERROR, feedback, unscored)
        if said["surrounded"] and extraction.whole:
            return _scored(0.0, yours, None)
        return _scored(said["score"], yours, asked if said["surrounded"] else None)


def _scored(score: float, yours: str, asked: str | None) -> Verdict:
    """asked: the format, where the right answer is there beside other text."""
    details = {"score": score}
    if score == 1.0:
        return Verdict(1.0, Status.SOLVED, "Correct: your answer scores 1 of 1.", details)
    feedback = f"{yours} is not right: it scores {score:.3g} of 1."
    if asked is not None:
        feedback += f" The right answer is in it, but so is other text. {asked}"
    return Verdict(score, Status.WRONG_ANSWER, feedback, details)


@dataclasses.dataclass(frozen=True)
class Source:
    """A dataset of the package, as worker processes are told of it."""

    name: str
    parameters: str  # JSON text
    seed: int
    size: int
    time_limit_seconds: float

    @property
    def workers(self) -> Workers:
        return shared_workers(
            "vpd_envs.questions.reasoning_gym:reply",
            setup="vpd_envs.questions.reasoning_gym:load_package",
            timeout_seconds=self.time_limit_seconds,
        )

    @property
    def key(self) -> tuple[str, str, int, int]:
        """What a puzzle depends on, beside its index."""
        return self.name, self.parameters, self.seed, self.size

    def ask(self, index: int, *answer: str) -> dict[str, Any]:
        """What `reply` gives in a worker. Raises WorkerFailure and SandboxError."""
        return self.workers.call(self.key, index, *answer)

    def entry(self, index: int) -> dict[str, Any]:
        """The puzzle's question and answer. Raises SandboxError if it could not be made."""
        try:
            return self.ask(index)
        except WorkerFailure as failure:
            raise SandboxError(
                f"Puzzle {index} of {self.name} could not be made: {failure} Choose parameters for "
                "smaller puzzles, or a higher time_limit_seconds."
            ) from failure


class Puzzle(Problem):
    """A problem that is made when its text is first needed: some take a quarter of a second."""

    source: Source
    asked: str

    def __init__(self, source: Source, split: str, category: str, asked: str, index: int) -> None:
        shown = {"dataset": source.name, "category": category, "index": index}
        # A Problem is frozen.
        id_ = f"{source.name}-{split}-{index}"
        vars(self).update(id=id_, metadata=shown, source=source, asked=asked)

    @cached_property
    def entry(self) -> dict[str, Any]:
        return self.source.entry(self.metadata["index"])

    @property
    def prompt(self) -> str:
        return f"{self.entry['question'].rstrip()}\n\n{self.asked}"

    @property
    def target(self) -> str | None:
        """An answer that the package knows; None for the few datasets that only check."""
        return self.entry["answer"]


def _seed_of(split: str, dataset_seed: int) -> int:
    """Below 2**31: some datasets seed numpy with it, plus an index."""
    digest = hashlib.sha256(f"{split}/{dataset_seed}".encode()).digest()
    return int.from_bytes(digest[:4]) >> 1


def _json_text(parameters: Mapping[str, Any]) -> str:
    taken = {"seed": "dataset_seed", "size": "size"}.keys() & parameters.keys()
    if taken:
        raise ValueError(
            f"parameters are the dataset's own; {taken.pop()!r} is set by size and dataset_seed."
        )
    try:
        return json.dumps(dict(parameters), sort_keys=True)
    except (TypeError, ValueError) as error:
        raise ValueError(f"parameters must be JSON values, got {parameters!r:.100}.") from error


def _checked_category(source: Source) -> str:
    """The category of a dataset. Raises ValueError if there is none such."""
    try:
        from reasoning_gym import factory
    except ImportError as error:
        raise ValueError(
            f"vpd/ReasoningGym-v0 needs the package reasoning-gym: {install_hint('reasoning')}"
        ) from error
    if source.name == "composite":
        raise ValueError("composite mixes datasets: make an environment for each of them.")
    datasets = factory.DATASETS
    if source.name not in datasets:
        raise ValueError(plugins.unknown("dataset of reasoning-gym:", str(source.name), datasets))
    fields = [field.name for field in dataclasses.fields(datasets[source.name][1])]
    known = [name for name in fields if name not in ("seed", "size")]
    for name in json.loads(source.parameters):
        if name not in known:
            raise ValueError(plugins.unknown(f"parameter of {source.name}:", name, known))
    try:
        return _dataset_of(*source.key).category
    except (AssertionError, TypeError, ValueError) as error:  # how configurations refuse a value
        raise ValueError(
            f"{source.name} does not take the parameters {source.parameters}: {error}"
        ) from error


# In a worker process ------------------------------------------------------------------------------


def load_package() -> None:
    """Before the first call, which would else pay for it out of its time and memory."""
    import reasoning_gym  # noqa: F401


def reply(key: list[Any], index: int, answer: str | None = None) -> dict[str, Any]:
    """The `question` and `answer` of a puzzle; or, of an answer that is given, what `score` says.
    All are JSON values."""
    if answer is not None:
        return score(tuple(key), index, answer)
    puzzle = _puzzle_of(tuple(key), index)
    return {"question": puzzle["question"], "answer": puzzle["answer"]}


def score(key: tuple[Any, ...], index: int, answer: str) -> dict[str, Any]:
    """`score`, and whether the answer has the right one in it beside other text; or `unreadable`,
    why there is no score."""
    from reasoning_gym.dataset import ProceduralDataset

    dataset, puzzle = _dataset_of(*key), _puzzle_of(key, index)
    if key[0] in FORMULAS and not is_formula(answer):
        return {"unreadable": "a formula has only numbers, operators and elementary functions"}
    with _literals_only(dataset) if key[0] in LISTS else contextlib.nullcontext():
        try:
            value = float(dataset.score_answer(answer, puzzle))
        except MemoryError:
            raise
        except Exception as error:
            if puzzle["answer"] is not None:
                dataset.score_answer(puzzle["answer"], puzzle)  # then the scorer itself is at fault
            return {"unreadable": f"the scorer failed on it with {type(error).__name__}"}
    if not 0 <= value <= 1:  # such as for an answer "nan"
        return {"unreadable": "the scorer gave it no score between 0 and 1"}
    # The scorer of datasets that have none of their own compares texts.
    by_text = type(dataset).score_answer is ProceduralDataset.score_answer
    return {"score": value, "surrounded": by_text and 0 < value < 1}


@lru_cache(maxsize=1024)
def _puzzle_of(key: tuple[Any, ...], index: int) -> dict[str, Any]:
    return _dataset_of(*key)[index]


@lru_cache(maxsize=8)
def _dataset_of(name: str, parameters: str, seed: int, size: int) -> Any:
    """The package's object."""
    from reasoning_gym import create_dataset

    return create_dataset(name, **json.loads(parameters), seed=seed, size=size)


# Their scorers call eval() on an answer, to read a list.
LISTS = ("binary_matrix", "n_queens", "spiral_matrix", "string_insertion")
# Their scorers give an answer to SymPy's parse_expr, which evaluates it.
FORMULAS = (
    "countdown",
    "intermediate_integration",
    "polynomial_multiplication",
    "puzzle24",
    "simple_integration",
)
NAME = re.compile(r"[A-Za-z_]\w*", re.ASCII)
HARMLESS_NAME = re.compile(
    r"[A-Za-z]\d*|pi|[Aa]bs|sqrt|exp|log|ln|erf|a?(?:sin|cos|tan|cot|sec|csc)|a?(?:sin|cos|tan)h|coth"
)


def is_formula(answer: str) -> bool:
    """Whether an answer names nothing but elementary functions and variables, so that evaluating it
    can do no more than calculate."""
    return (
        answer.isascii()  # Python takes other letters for the ASCII ones they look like
        and not re.search(r"[\"'`\\]|\.\s*[A-Za-z_]", answer)
        and all(map(HARMLESS_NAME.fullmatch, NAME.findall(answer)))
    )


@contextlib.contextmanager
def _literals_only(dataset: Any):
    """In the module of a dataset, eval() reads literals and nothing else."""
    module = sys.modules[type(dataset).__module__]
    vars(module)["eval"] = ast.literal_eval
    try:
        yield
    finally:
        del vars(module)["eval"]


vector = ReasoningGym.vector  # gymnasium's entry points cannot name a class attribute
