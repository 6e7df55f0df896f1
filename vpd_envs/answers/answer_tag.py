"""Finding the last `<answer>...</answer>` in what a model wrote: any text is fine, none raises."""

from __future__ import annotations

import re

from vpd_envs.answers.extraction import FinalAnswer, Found, without_thinking
from vpd_envs.types import Status, Verdict

TAG = re.compile(r"<(/?)answer>")
EMPTY = "Your answer is empty."
EMPTY_TAG = "There is nothing between your last <answer> and </answer>."
NO_TAG = {
    Found.NONE: "There is no <answer>...</answer> in your answer.",
    Found.TRUNCATED: "<answer> was opened but never closed by </answer>: the answer was cut off.",
    Found.THINKING: "The thinking never ended: the answer was cut off.",
}


def tagged_answer(answer: str) -> FinalAnswer:
    """What the last complete pair of tags after the thinking holds. Tags are lower case."""
    text = without_thinking(answer)
    if text is None:
        return FinalAnswer(Found.THINKING)
    last: str | None = None
    start: int | None = None  # where the open tag's content begins
    opened = False
    for tag in TAG.finditer(text):
        if not tag[1]:
            start, opened = tag.end(), True
        elif start is not None:
            last, start = text[start : tag.start()].strip(), None
    if last is None:
        return FinalAnswer(Found.TRUNCATED if opened else Found.NONE)
    return FinalAnswer(Found.COMPLETE, last) if last else FinalAnswer(Found.EMPTY)


def unreadable(answer: str, tagged: FinalAnswer, asked: str) -> Verdict | None:
    """The verdict on an answer without a filled pair of tags; None if it has one.

    asked: the format as a sentence, which ends the feedback.
    """
    if tagged.found is Found.COMPLETE:
        return None
    if not answer.strip():
        return Verdict(0.0, Status.EMPTY_ANSWER, f"{EMPTY} {asked}")
    if tagged.found is Found.EMPTY:
        return Verdict(0.0, Status.EMPTY_ANSWER, f"{EMPTY_TAG} {asked}")
    return Verdict(0.0, Status.NO_ANSWER, f"{NO_TAG[tagged.found]} {asked}")


def shortened(text: str, at_most: int) -> str:
    """The text on one line, of at most so many characters; dots stand for the rest."""
    line = " ".join(text[: 2 * at_most].split())
    whole = len(line) <= at_most and len(text) <= 2 * at_most
    return line if whole else f"{line[:at_most]}..."


def quoted(text: str, at_most: int) -> str:
    """`shortened`, in quotation marks."""
    return f'"{shortened(text, at_most)}"'
