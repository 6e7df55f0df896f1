"""Tool use: the calls that answer a question, given the documentation of some tools.

Reads rows of the layout of the self-distillation papers (`lasgroup/SDPO`, made of ToolAlpaca):
`prompt`, which says how calls are written; `answer`, a list of `{"Action": NAME, "Action_Input":
ARGUMENTS}` or its JSON text, where ARGUMENTS is an object or its JSON text; and, if it has them,
`system`, `idx` and `split`. A name that starts with `[Optional]` is a call that may be left out.

The judge is stricter than the papers' script, which ignores the order of the calls and merges the
arguments of all calls into one object.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path
from typing import Any, NoReturn

from sandbox.comparison import same_value
from vpd_envs.answers.answer_tag import quoted, shortened
from vpd_envs.answers.extraction import without_thinking
from vpd_envs.answers.sanitize import sanitize
from vpd_envs.data.files import (
    DataOptions,
    Hub,
    Row,
    content_id,
    field,
    load_problems,
    parsed,
    text_field,
)
from vpd_envs.dataset_env import DatasetEnv
from vpd_envs.types import Problem, Status, Verdict

LAYOUT = 'a row with a prompt and an answer, [{"Action": ..., "Action_Input": ...}, ...]'
OPTIONAL = "[Optional]"
SHOWN_DIFFERENCES = 8
SHOWN_CHARACTERS = 200  # of a value that was given
ASKED = (
    'Write each call as a line "Action: TOOL" and a line "Action Input: {...}" with a JSON object.'
)


@dataclass(frozen=True)
class Call:
    """A tool's name and its arguments, JSON values."""

    name: str
    arguments: dict[str, Any]
    optional: bool = False  # of a wanted call: it may be left out

    def __str__(self) -> str:
        arguments = json.dumps(self.arguments, ensure_ascii=False)
        return f"Action: {self.name}\nAction Input: {arguments}"


class ToolUse(DatasetEnv):
    """`vpd/ToolUse-v0`.

    data: a file or folder of that layout. No data set of the hub has it under a known name, so
        without `data`, name one with `hub` (its split `test` is read).
    hub, revision, split, test_fraction, max_problems: see `vpd_envs.data.files`.
    reveal: whether the feedback on wrong calls ends with the right ones.

    An answer is solved if it has the wanted calls in their order, each with the same tool and equal
    arguments: JSON values in any order of keys, 1 equal to 1.0 but not to true or "1", texts exact.

    Feedback names each call that differs, and what of it: the tool, or which arguments are missing,
    too many, or wrong, with the value that was given. The names of missing arguments are told
    (the documentation in the prompt has them, too); the right tool and right values are not, but
    for `reveal`.

    `info["metadata"]`: `tools`, the names that the prompt documents. `info["details"]`: `calls`
    (how many were made; None if they could not be read), `first_difference` (1 is the first call;
    None if all are right) and, if there is one, `first_failure` (its feedback).
    """

    def __init__(
        self, data: str | Path | None = None, *, reveal: bool = False, **options: Any
    ) -> None:
        self.reveal = reveal
        super().__init__(data, **options)

    def load(self, options: DataOptions) -> list[Problem]:
        if options.data is None and options.hub is None:
            raise ValueError(
                "vpd/ToolUse-v0 has no data set of its own on the hub. Name a file or folder with "
                f"data=, or a data set with hub=; expected is {LAYOUT}."
            )
        return load_problems(options, Hub(""), _problem_of)

    def judge(self, problem: Problem, answer: str) -> Verdict:
        details: dict[str, Any] = {"calls": None, "first_difference": None}
        try:
            calls = calls_in(answer)
        except Unreadable as error:
            return Verdict(0.0, error.status, f"{error} {ASKED}", details)
        different = differences(calls, problem.target, problem.metadata["tools"])
        details["calls"] = len(calls)
        if not different:
            return Verdict(1.0, Status.SOLVED, "Correct: these are the right calls.", details)
        lines = list(different.values())
        details["first_difference"] = next(iter(different))
        details["first_failure"] = sanitize(lines[0])  # as is done with the whole feedback
        if len(lines) > SHOWN_DIFFERENCES:
            more = len(lines) - SHOWN_DIFFERENCES
            lines = [*lines[:SHOWN_DIFFERENCES], f"... and {more} more."]
        if self.reveal:
            lines += ["The right calls:", *map(str, problem.target)]
        return Verdict(0.0, Status.WRONG_ANSWER, "\n".join(lines), details)


def differences(
    calls: Sequence[Call], wanted: Sequence[Call], tools: Sequence[str]
) -> dict[int, str]:
    """What is wrong, by the number of the call, in order. Empty if all is right."""
    wanted = list(_without_omitted(wanted, calls))
    found: dict[int, str] = {}
    for number, (call, want) in enumerate(zip_longest(calls, wanted), start=1):
        if call is None:
            found[number] = f"Too few calls: another one is needed after call {len(calls)}."
            break
        what = "this is one call too many" if want is None else _difference(call, want, tools)
        if what:
            found[number] = f"{_place_of(number, call.name)}: {what}."
    return found


def _without_omitted(wanted: Sequence[Call], calls: Sequence[Call]) -> Iterator[Call]:
    """The wanted calls without the optional ones in whose place is no call of their tool."""
    place = 0
    for want in wanted:
        omitted = place >= len(calls) or calls[place].name != want.name
        if not (want.optional and omitted):
            yield want
            place += 1


def _difference(call: Call, want: Call, tools: Sequence[str]) -> str:
    """What is wrong with one call; empty if nothing."""
    if call.name != want.name:
        if tools and call.name not in tools:
            return f"there is no such tool; there is {', '.join(tools)}"
        return "this is not the tool to call here"
    given, right = call.arguments, want.arguments
    found = {
        name: f"has a wrong value: you gave {_shown(value)}"
        for name, value in given.items()
        if name in right and not same_value(value, right[name])
    }
    found |= {name: "is missing" for name in right if name not in given}
    found |= {name: "is not wanted here" for name in given if name not in right}
    parts = [f"argument {quoted(name, SHOWN_CHARACTERS)} {what}" for name, what in found.items()]
    if len(parts) > SHOWN_DIFFERENCES:
        parts = [*parts[:SHOWN_DIFFERENCES], f"and {len(parts) - SHOWN_DIFFERENCES} more"]
    return "; ".join(parts)


def _place_of(number: int, name: str) -> str:
    return f"Call {number} ({shortened(name, SHOWN_CHARACTERS)})"


def _shown(value: Any) -> str:
    try:
        text = json.dumps(value, ensure_ascii=False)
    except RecursionError:
        return "a value nested too deeply to be shown"
    return text if len(text) <= SHOWN_CHARACTERS else f"{text[:SHOWN_CHARACTERS]}..."


# What a model wrote -------------------------------------------------------------------------------


class Unreadable(Exception):
    """The answer has no calls, or some that cannot be read; the text says why."""

    def __init__(self, text: str, status: Status = Status.FORMAT_ERROR) -> None:
        super().__init__(text)
        self.status = status


# With what models put around labels: `**Action:** search`, `1. Action: search`, `Action_Input: {}`.
LABEL = re.compile(
    r"^[ \t>*#-]*(?:\d{1,3}[.)][ \t*]*)?(Thought|Action(?:[ _]Input)?|Observation)[ \t*]*:[ \t*]*",
    re.MULTILINE | re.IGNORECASE,
)
FENCE = re.compile(r"(?:`{3,}[\w+-]*|`{1,2})\s*")


def calls_in(answer: str) -> list[Call]:
    """The calls after the thinking, in order. Raises Unreadable, and nothing else for any text.

    Each is a line `Action: NAME`, and then a line `Action Input:` with a JSON object, which may go
    over several lines and stand in a code fence. Thoughts, observations and lines of other text
    may stand between them; they are not read.
    """
    text = without_thinking(answer)
    if text is None:
        raise Unreadable("The thinking never ended: the answer was cut off.", Status.NO_ANSWER)
    if not text.strip():
        raise Unreadable("Your answer is empty.", Status.EMPTY_ANSWER)
    calls: list[Call] = []
    name: str | None = None  # of the call whose input is to come
    for label, content in (*_labeled(text), ("end", "")):
        number = len(calls) + 1
        if name is not None and label in ("action", "end"):
            raise Unreadable(
                f"{_place_of(number, name)}: there is no Action Input after the Action; it is {{}} "
                "where there are no arguments."
            )
        if label == "action":
            name = content.strip().split("\n")[0].strip("`*\"' \t\r")
            if not name:
                raise Unreadable(f"Call {number}: the Action names no tool.")
        elif label.startswith("action"):
            if name is None:
                what = "there is an Action Input without an Action before it"
                raise Unreadable(f"Call {number}: {what}.")
            calls.append(Call(name, _json_object(content, _place_of(number, name))))
            name = None
    if not calls:
        raise Unreadable("There is no Action in your answer.", Status.NO_ANSWER)
    return calls


def _labeled(text: str) -> Iterator[tuple[str, str]]:
    """The lower-case labels, each with the text up to the next one."""
    labels = list(LABEL.finditer(text))
    ends = [*(label.start() for label in labels[1:]), len(text)]
    for label, end in zip(labels, ends, strict=False):
        yield label[1].lower(), text[label.end() : end]


def _json_object(text: str, call: str) -> dict[str, Any]:
    """The JSON object that the text starts with; after it, the line must end."""
    text = text.strip()
    fence = FENCE.match(text)
    if fence:
        text = text[fence.end() :]
    if not text:
        raise Unreadable(f"{call}: the Action Input is empty; it is {{}} without arguments.")
    try:
        value, end = DECODER.raw_decode(text)
    except json.JSONDecodeError as error:
        near = text[max(0, error.pos - 20) : error.pos + 20]
        raise Unreadable(
            f"{call}: the Action Input is not JSON: {error.msg} at character {error.pos + 1}, near "
            f"{quoted(near, 40)}."
        ) from error
    except (ValueError, RecursionError) as error:
        raise Unreadable(f"{call}: the Action Input cannot be read: {error!s:.120}.") from error
    if not isinstance(value, dict):
        raise Unreadable(f"{call}: the Action Input is not a JSON object, {{...}}.")
    rest = text[end:].split("\n", 1)[0].strip(" \t\r`*")
    if rest:
        raise Unreadable(
            f"{call}: there is more on the line after the JSON object: {quoted(rest, 40)}."
        )
    return value


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no JSON value")


DECODER = json.JSONDecoder(parse_constant=_no_constant)


# Rows ---------------------------------------------------------------------------------------------


TOOL = re.compile(r"^([^\s:]+): .*\nParameters: ", re.MULTILINE)  # how a prompt documents one


def _problem_of(row: Row, place: str) -> Problem:
    prompt = text_field(row, place, LAYOUT, "prompt")
    answer = field(row, place, LAYOUT, "answer")
    listed = parsed(answer, "the answer", place) if isinstance(answer, str) else answer
    if not isinstance(listed, list) or not listed:
        raise ValueError(f"{place}: expected {LAYOUT}; the answer is {listed!r:.60}.")
    idx = row.get("idx")
    return Problem(
        id=content_id("tooluse", prompt) if idx is None else f"tooluse-{idx}",
        prompt=prompt,
        target=tuple(_wanted_call(each, place) for each in listed),
        metadata={"tools": tuple(TOOL.findall(prompt))},
        system=row.get("system") or None,
    )


def _wanted_call(call: Any, place: str) -> Call:
    name = call.get("Action") if isinstance(call, dict) else None
    arguments = call.get("Action_Input") if isinstance(call, dict) else None
    if isinstance(arguments, str):
        arguments = parsed(arguments, "an Action_Input", place)
    if not isinstance(name, str) or not isinstance(arguments, dict):
        raise ValueError(
            f"{place}: expected calls with the text 'Action' and the object 'Action_Input' (or its "
            f"JSON text), came {call!r:.80}."
        )
    optional = name.startswith(OPTIONAL)
    return Call(name.removeprefix(OPTIONAL).strip(), arguments, optional)


vector = ToolUse.vector  # gymnasium's entry points cannot name a class attribute
