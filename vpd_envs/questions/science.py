"""SciKnowEval: multiple choice in biology, chemistry, material science and physics.

Reads two layouts, which may be told apart row by row:

- that of the self-distillation papers (`lasgroup/SDPO`): `prompt` (the question, a line `A: ...`
  for each option, "Please reason step by step."), `system`, `answer` (a letter), `domain`, `idx`,
  and `split`, which is kept;
- that of the public data set `hicai-zju/SciKnowEval`: `question`, `choices` (`text` and `label`),
  `answerKey`, `domain`, `type`, `details` (with `level`). It has questions of other kinds, too:
  only multiple choice is asked, and a question that comes again with the same options only once.
  The prompt is made as in the papers.
"""

from __future__ import annotations

import dataclasses
import re
import string
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from vpd_envs.answers.answer_tag import quoted, tagged_answer, unreadable
from vpd_envs.data.files import DataOptions, Hub, Row, content_id, field, load_problems, text_field
from vpd_envs.dataset_env import DatasetEnv
from vpd_envs.types import Problem, Status, Verdict

HUB = Hub("hicai-zju/SciKnowEval")
DOMAINS = ("biology", "chemistry", "material", "physics")
LETTERS = string.ascii_uppercase
LEVELS = ("L1", "L2", "L3", "L4", "L5")
LAYOUT = (
    "a row of SciKnowEval (question, choices, answerKey, domain, type, details) or of the papers' "
    "form of it (prompt, answer, domain)"
)
SHOWN_CHARACTERS = 200  # of an option, and of an answer that is no letter

REASON = "Please reason step by step."
SYSTEM = """\
You are given a question and its options. Choose the right one. First reason, then write the \
letter of your option ({letters}) and nothing else between the answer tags, in this format:
<reasoning>
...
</reasoning>
<answer>
{first}
</answer>"""


class SciKnowEval(DatasetEnv):
    """`vpd/SciKnowEval-v0`.

    data: a file of either layout, or a folder of them, or a folder with a folder for each domain;
        None loads hicai-zju/SciKnowEval from the hub.
    hub, revision, split, test_fraction, max_problems: see `vpd_envs.data.files`.
    domain: "biology", "chemistry", "material" or "physics"; None asks all.
    level: "L1" to "L5", of the public layout; the papers use L3. None asks all. Rows of the papers'
        layout name no level and are always asked.
    reveal: whether the feedback on a wrong choice names the right option, too. Without it the
        chosen one is ruled out, and no more.

    The prompt asks for one letter between `<answer>` and `</answer>`. The last such pair after the
    thinking counts. Anything but one capital letter of the problem's options in it, white space
    aside, is a format error: neither `a`, `A.`, `(A)` nor `A: ...` is taken for A.

    `info["metadata"]`: `domain`, `options` (the texts of A, B, ...) and what the row says of
    `level`, `task` and `subtask`. `info["details"]`: `chosen` (a letter, or None) and `options`
    (the letters).
    """

    def __init__(
        self,
        data: str | Path | None = None,
        *,
        domain: str | None = None,
        level: str | None = "L3",
        reveal: bool = False,
        **options: Any,
    ) -> None:
        if domain is not None and domain not in DOMAINS:
            raise ValueError(f"domain must be None or one of {', '.join(DOMAINS)}, got {domain!r}.")
        if level is not None and level not in LEVELS:
            raise ValueError(f"level must be None or one of {', '.join(LEVELS)}, got {level!r}.")
        self.domain = domain
        self.level = level
        self.reveal = reveal
        super().__init__(data, **options)

    def load(self, options: DataOptions) -> list[Problem]:
        seen: set[str] = set()

        def problem_of(row: Row, place: str) -> Problem | None:
            problem = _problem_of_row(row, place, self.domain, self.level)
            if problem is None or ("question" in row and problem.id in seen):
                return None
            seen.add(problem.id)
            return problem

        problems: list[Problem] = []
        most = options.max_problems
        for part in _parts_of(options.data, self.domain):
            left = None if most is None else most - len(problems)
            if left == 0:
                break
            of_part = dataclasses.replace(options, data=part, max_problems=left)
            problems += load_problems(of_part, HUB, problem_of)
        return problems

    def judge(self, problem: Problem, answer: str) -> Verdict:
        options = dict(zip(LETTERS, problem.metadata["options"], strict=False))
        details = {"chosen": None, "options": list(options)}
        letter = f"one letter, {_either(options)}, and nothing else"
        asked = f"Write {letter} between <answer> and </answer>."
        tagged = tagged_answer(answer)
        verdict = unreadable(answer, tagged, asked, details)
        if verdict is not None:
            return verdict
        if tagged.text not in options:
            feedback = f"Your answer, {quoted(tagged.text, SHOWN_CHARACTERS)}, is not a letter of "
            feedback += f"the options. {asked}"
            return Verdict(0.0, Status.FORMAT_ERROR, feedback, details)
        details["chosen"] = tagged.text
        chosen = _named(tagged.text, options)
        if tagged.text == problem.target:
            return Verdict(1.0, Status.SOLVED, f"Correct: {chosen}.", details)
        feedback = f"Wrong: you chose {chosen}, which is not the right option."
        if self.reveal:
            feedback += f" The right option is {_named(problem.target, options)}."
        return Verdict(0.0, Status.WRONG_ANSWER, feedback, details)


def _named(letter: str, options: Mapping[str, str]) -> str:
    return f"{letter} ({quoted(options[letter], SHOWN_CHARACTERS)})"


def _either(letters: Mapping[str, str]) -> str:
    """A, B, C or D."""
    *others, last = letters
    return f"{', '.join(others)} or {last}"


def _parts_of(data: str | Path | None, domain: str | None) -> list[str | Path | None]:
    """The data itself, or the folders of the domains in it."""
    if data is None or not Path(data).is_dir():
        return [data]
    folders = sorted(
        folder
        for folder in Path(data).iterdir()
        if folder.is_dir() and folder.name.lower() in ((domain,) if domain else DOMAINS)
    )
    return [*folders] or [data]


def _problem_of_row(row: Row, place: str, domain: str | None, level: str | None) -> Problem | None:
    """None for a row of another domain, level or type."""
    own_domain = text_field(row, place, LAYOUT, "domain").lower()
    if domain is not None and own_domain != domain:
        return None
    if "question" in row:
        return _public_problem(row, place, own_domain, level)
    return _papers_problem(row, place, own_domain)


def _papers_problem(row: Row, place: str, domain: str) -> Problem:
    prompt = text_field(row, place, LAYOUT, "prompt")
    options = options_in(prompt)
    if len(options) < 2:
        raise ValueError(
            f"{place}: expected a prompt with at least two options, each on a line such as "
            f"'A: text', came one that ends in {prompt[-80:]!r}."
        )
    idx = row.get("idx")
    return Problem(
        id=content_id(domain, prompt) if idx is None else f"{domain}-{idx}",
        prompt=prompt,
        target=_answer_letter(row, place, "answer", options),
        metadata={"domain": domain, "options": tuple(options.values())},
        system=row.get("system") or _system_prompt(options),
    )


def _public_problem(row: Row, place: str, domain: str, level: str | None) -> Problem | None:
    """None for other levels and types, and where labels and texts of the options do not pair, as
    happens in the data."""
    details = _object_field(row, place, "details", "'level'")
    if level is not None and details.get("level") != level:
        return None
    if not str(row.get("type")).startswith("mcq"):
        return None
    options = _paired_options(row, place)
    if options is None:
        return None
    question = text_field(row, place, LAYOUT, "question")
    lines = "\n".join(f"{letter}: {text}" for letter, text in options.items())
    shown = ("level", "task", "subtask")
    return Problem(
        id=content_id(domain, question, lines),
        prompt=f"{question}\n\n{lines}\n{REASON}",
        target=_answer_letter(row, place, "answerKey", options),
        metadata={"domain": domain, "options": tuple(options.values())}
        | {name: details[name] for name in shown if details.get(name)},
        system=_system_prompt(options),
    )


def _paired_options(row: Row, place: str) -> dict[str, str] | None:
    """Letter -> text; None if labels and texts do not pair, or the labels are not A, B, ..."""
    choices = _object_field(row, place, "choices", "'text' and 'label'")
    texts, labels = list(choices.get("text") or ()), list(choices.get("label") or ())
    if len(texts) != len(labels) or len(texts) < 2 or labels != list(LETTERS[: len(labels)]):
        return None
    return dict(zip(labels, map(str, texts), strict=True))


def _object_field(row: Row, place: str, name: str, keys: str) -> Mapping[str, Any]:
    value = field(row, place, LAYOUT, name)
    if not isinstance(value, Mapping):
        raise ValueError(
            f"{place}: expected {LAYOUT}, whose {name!r} is an object with {keys}; came "
            f"{value!r:.60}."
        )
    return value


def _answer_letter(row: Row, place: str, name: str, options: Mapping[str, str]) -> str:
    letter = text_field(row, place, LAYOUT, name).strip()
    if letter not in options:
        raise ValueError(
            f"{place}: expected one of the options {', '.join(options)} in {name!r}, came "
            f"{letter!r:.60}."
        )
    return letter


def options_in(prompt: str) -> dict[str, str]:
    """The options of a prompt, letter -> text: from its last line `A: ...` on, in their order."""
    lines = prompt.removesuffix(REASON).split("\n")
    starts = [i for i, line in enumerate(lines) if line.startswith("A: ")]
    options: dict[str, list[str]] = {}
    for line in lines[starts[-1] :] if starts else ():
        label = re.match(r"([A-Z]): ?", line)
        if label and label[1] == LETTERS[len(options) : len(options) + 1]:
            options[label[1]] = [line[label.end() :]]
        else:  # an option of several lines
            options[next(reversed(options))].append(line)
    return {letter: "\n".join(text).strip() for letter, text in options.items()}


def _system_prompt(options: Mapping[str, Any]) -> str:
    return SYSTEM.format(letters=_either(options), first=next(iter(options)))


vector = SciKnowEval.vector  # gymnasium's entry points cannot name a class attribute
