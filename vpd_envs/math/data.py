"""The mathematical data sets: where they are, and what their rows mean.

Each is published in another layout; one reader takes them all.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from pathlib import Path
from typing import Any

from vpd_envs.data.files import DataOptions, Hub, Row, content_id, field, load_problems
from vpd_envs.math.answer import boxed_answer
from vpd_envs.types import Problem

HUBS = {
    "math500": Hub("HuggingFaceH4/MATH-500"),
    "gsm8k": Hub("openai/gsm8k", "main"),
    "aime24": Hub("HuggingFaceH4/aime_2024", split="train"),
    "aime25": Hub("math-ai/aime25"),
    "aime26": Hub("math-ai/aime26"),
    "hmmt25": Hub("MathArena/hmmt_feb_2025", split="train"),
    "amc23": Hub("math-ai/amc23"),
    "dapo": Hub("BytedTsinghua-SIA/DAPO-Math-17k", split="train"),
    "olympiadbench": Hub("Hothan/OlympiadBench", "OE_TO_maths_en_COMP", split="train"),
}
OWN_SPLITS = {"all": "train+test", "train": "train", "test": "test"}  # of gsm8k on the hub

QUESTION = ("problem", "Problem", "question", "prompt")
ANSWER = ("final_answer", "answer", "Answer")
ID = ("id", "ID", "unique_id", "problem_idx")
SHOWN = ("subject", "level", "subfield", "answer_type")  # what info["metadata"] has of a row

SEVERAL_FORMAT = "There are several answers: give them all there, separated by commas."
UNIT_FORMAT = "The unit of the answer is {unit}; you may leave it out."

# What other files end their questions with: the prompt says by itself what is asked.
BOXED_AFTER = r"Please reason step by step, and put your final answer within \boxed{}."
# What DAPO-Math-17k puts around its questions.
DAPO_BEFORE = (
    "Solve the following math problem step by step. The last line of your response should be of "
    "the form Answer: $Answer (without quotes) where $Answer is the answer to the problem."
)
DAPO_AFTER = 'Remember to put your answer on its own line after "Answer:".'


@dataclass(frozen=True)
class Gold:
    """The right answer of a problem."""

    text: str
    several: bool = False  # a list of answers, in any order
    tolerances: tuple[str, ...] = ()  # decimal texts: one for all, or one for each of several
    unit: str = ""


def math_problems(dataset: str, options: DataOptions, instruction: str) -> list[Problem]:
    """The problems of a data set of `HUBS`, their prompts ending in `instruction`."""
    hub, files = hub_of(dataset, options), _files_of(dataset, options.data)
    if dataset == "gsm8k" and options.data is None and options.hub is None:
        options = dataclasses.replace(options, split="all")  # it has splits of its own
    return load_problems(options, hub, _reader(dataset, instruction), files=files)


def _reader(dataset: str, instruction: str) -> Callable[[Row, str], Problem | None]:
    """What makes a problem of a row, and passes over repetitions of a row: the public file of
    DAPO-Math-17k has each a hundred times."""
    question_by_id: dict[str, str] = {}
    layout = f"a row of {dataset}"

    def problem_of(row: Row, place: str) -> Problem | None:
        question = _question_of(row, place, layout)
        gold = _gold_of(row, place, layout)
        id_ = _id_of(row, dataset, question)
        if question_by_id.get(id_) == question:
            return None
        question_by_id[id_] = question
        asked = [instruction] if instruction else []
        if gold.several:
            asked.append(SEVERAL_FORMAT)
        if gold.unit:
            asked.append(UNIT_FORMAT.format(unit=gold.unit))
        return Problem(
            id=id_,
            prompt=f"{question}\n\n{' '.join(asked)}" if asked else question,
            target=gold,
            metadata={"dataset": dataset}
            | {name: row[name] for name in SHOWN if row.get(name) is not None},
        )

    return problem_of


def _question_of(row: Row, place: str, layout: str) -> str:
    question = field(row, place, layout, *QUESTION)
    if isinstance(question, list) and question and isinstance(question[-1], dict):
        question = question[-1].get("content")  # chat messages
    if not isinstance(question, str) or not question.strip():
        raise ValueError(
            f"{place}: expected {layout}, whose question is a text or a list of chat messages; "
            f"came {question!r:.60}."
        )
    question = question.strip().removesuffix(BOXED_AFTER).rstrip()
    return question.removeprefix(DAPO_BEFORE).removesuffix(DAPO_AFTER).strip()


def _gold_of(row: Row, place: str, layout: str) -> Gold:
    model = row.get("reward_model")
    solution = boxed_answer(str(row.get("solution")))
    if isinstance(model, dict) and model.get("ground_truth") is not None:
        answer = model["ground_truth"]
    elif all(row.get(name) is None for name in ANSWER) and solution.text:
        answer = solution.text
    else:
        answer = field(row, place, layout, *ANSWER)
    listed = answer if isinstance(answer, list) else [answer]
    texts = [_answer_text(each, place, layout) for each in listed]
    if not texts:
        raise ValueError(f"{place}: expected {layout}, whose answer is not an empty list.")
    return Gold(
        text=", ".join(texts),
        several=bool(row.get("is_multiple_answer")) or len(texts) > 1,
        tolerances=_tolerances_of(row.get("error"), place, layout),
        unit=str(row.get("unit") or ""),
    )


def _answer_text(answer: Any, place: str, layout: str) -> str:
    if isinstance(answer, float) and answer.is_integer():
        answer = int(answer)
    if isinstance(answer, int | float) and not isinstance(answer, bool):
        return str(answer)
    if not isinstance(answer, str) or not answer.strip():
        raise ValueError(
            f"{place}: expected {layout}, whose answer is a text or a number; came {answer!r:.60}."
        )
    return answer.rpartition("####")[2].strip()  # GSM8K has the solution before it


def _tolerances_of(error: Any, place: str, layout: str) -> tuple[str, ...]:
    """`0.1`, "1e-1" or "1e-1,1e-2": one for all answers, or one for each."""
    texts = [] if error is None else str(error).strip().split(",")
    try:
        margins = [Decimal(text.strip()) for text in texts if text.strip()]
    except InvalidOperation as error_:
        raise ValueError(
            f"{place}: expected {layout}, whose 'error' is one or several decimal numbers; came "
            f"{error!r:.60}."
        ) from error_
    if not all(margin.is_finite() and 0 <= margin < 10**30 for margin in margins):
        raise ValueError(f"{place}: 'error' must be a tolerance of at least 0; came {error!r:.60}.")
    return tuple(f"{margin:f}" for margin in margins)


def _id_of(row: Row, dataset: str, question: str) -> str:
    extra = row.get("extra_info")
    found = [row[name] for name in ID if row.get(name) is not None]
    if isinstance(extra, dict) and extra.get("index") is not None:
        found.append(extra["index"])
    if not found:
        return content_id(dataset, question)
    return found[0] if isinstance(found[0], str) else f"{dataset}-{found[0]}"


def hub_of(dataset: str, options: DataOptions) -> Hub:
    source = HUBS[dataset]
    if options.hub is not None:
        return dataclasses.replace(source, config=None)
    if dataset == "gsm8k":
        return dataclasses.replace(source, split=OWN_SPLITS[options.split])
    return source


def _files_of(dataset: str, data: str | Path | None) -> Callable[[Path], bool]:
    """Which files of a folder are the data set's."""
    there = Path(data).glob("*") if data is not None else ()
    if any(path.name.partition(".")[0] == dataset for path in there):
        return lambda path: path.name.partition(".")[0] == dataset
    return lambda path: path.name.startswith(dataset)
