"""Finding the last `<answer>...</answer>` in what a model wrote: any text is fine, none raises."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from vpd_envs.answers.extraction import FinalAnswer, Found, without_thinking
from vpd_envs.types import Status, Verdict

EMPTY = "Your answer is empty."
UNREADABLE = {
    Found.EMPTY: "There is nothing between your last <answer> and </answer>.",
    Found.NONE: "There is no <answer>...</answer> in your answer.",
    Found.TRUNCATED: "<answer> was opened but never closed by </answer>: the answer was cut off.",
    Found.THINKING: "The thinking never ended: the answer was cut off.",
}


def tagged_answer(answer: str) -> FinalAnswer:
    """What the last complete pair of tags after the thinking holds. Tags are lower case."""
    text = without_thinking(answer)
    if text is None:
        return FinalAnswer(Found.THINKING)
    opened = [piece.partition("</answer>") for piece in text.split("<answer>")[1:]]
    complete = [content.strip() for content, closing, _ in opened if closing]
    if not complete:
        return FinalAnswer(Found.TRUNCATED if opened else Found.NONE)
    return FinalAnswer.of(complete[-1])


def unreadable(
    answer: str,
    final: FinalAnswer,
    asked: str,
    details: Mapping[str, Any],
    why: Mapping[Found, str] = UNREADABLE,
) -> Verdict | None:
    """The verdict on an answer without a final answer; None if it has one.

    asked: the format as a sentence, which ends the feedback. why: a sentence on what is missing; by
    default, a filled pair of tags.
    """
    if final.found is Found.COMPLETE:
        return None
    if not answer.strip():
        return Verdict(0.0, Status.EMPTY_ANSWER, f"{EMPTY} {asked}", details)
    status = Status.EMPTY_ANSWER if final.found is Found.EMPTY else Status.NO_ANSWER
    return Verdict(0.0, status, f"{why[final.found]} {asked}", details)


def shortened(text: str, at_most: int) -> str:
    """The text on one line, of at most so many characters; dots stand for the rest."""
    line = " ".join(text[: 2 * at_most].split())
    whole = len(line) <= at_most and len(text) <= 2 * at_most
    return line if whole else f"{line[:at_most]}..."


def quoted(text: str, at_most: int) -> str:
    """`shortened`, in quotation marks."""
    return f'"{shortened(text, at_most)}"'
