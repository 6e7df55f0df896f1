"""Feedback from a diagnosis in four parts of what went wrong, by the policy or any other critic."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from vpd_envs.checks import check_integer
from vpd_envs.feedback.budget import shortened
from vpd_envs.feedback.self_critique import Critic, SelfCritique
from vpd_envs.feedback.wording import without_thoughts

# The keys of a diagnosis, as RESD names them, and what a reader is told each is.
LABELS = {
    "error_identification": "Error",
    "root_cause_analysis": "Root cause",
    "correct_approach": "Correct approach",
    "key_insight": "Key insight",
}
REFLECTION = """\
The attempt at the problem below has failed. Find out why. Do not write out a whole solution.

# Problem

{prompt}

# Attempt

{attempt}

# Feedback on the attempt

{outcome}

# Your task

Answer with one JSON object and nothing else. Its four values are texts of one to three sentences:

- "error_identification": what is wrong in the attempt, and where
- "root_cause_analysis": why it went wrong, such as a rule that was misread or a case left out
- "correct_approach": what should be done instead
- "key_insight": what to remember for similar problems"""


class Reflection(SelfCritique):
    """Asks a critic for a diagnosis of each failed attempt, which follows its inner feedback.

    The reflection of RESD (arXiv 2605.12741, section 3.3): the critic, there the model that is
    trained, is shown the problem, the attempt and its feedback, and answers with a JSON object of
    four texts (`LABELS`). The diagnosis is these, a line each; an answer that is no such object is
    taken as it is. Attempts that solved their problem keep their feedback. RESD's playbook, a list
    of insights that is kept from batch to batch and shown to the teacher too, is not here.

    critic: as that of `SelfCritique`; may be set later.
    template: of a prompt; may hold `{prompt}`, `{attempt}` and `{outcome}` (the inner feedback, or
        the status in words where there is none); None for our own wording.
    attempt_characters: the middle of a longer attempt is left out.
    reflection_characters: the end of a longer diagnosis is left out.
    """

    def __init__(
        self,
        critic: Critic | None = None,
        *,
        template: str | None = None,
        attempt_characters: int = 8000,
        reflection_characters: int = 2000,
    ) -> None:
        super().__init__(
            critic,
            template=REFLECTION if template is None else template,
            keep=True,
            attempt_characters=attempt_characters,
        )
        check_integer("reflection_characters", reflection_characters, 1)
        self.reflection_characters = reflection_characters

    def critiques(self, prompts: list[str]) -> list[str]:
        return [
            shortened(_diagnosis(without_thoughts(answer)), self.reflection_characters, "end")
            for answer in super().critiques(prompts)
        ]


def _diagnosis(answer: str) -> str:
    """The four texts of an answer, a labeled line each; the answer itself if it has none."""
    found = _json_object(answer)
    texts = {label: found.get(key) for key, label in LABELS.items()}
    lines = [
        f"{label}: {' '.join(text.split())}"
        for label, text in texts.items()
        if isinstance(text, str) and text.strip()
    ]
    return "\n".join(lines) or answer


def _json_object(answer: str) -> Mapping[str, Any]:
    """What stands between the first and the last brace, whatever is around them; empty if that is
    no JSON object."""
    start, end = answer.find("{"), answer.rfind("}")
    try:
        found = json.loads(answer[start : end + 1], strict=False)
    except (ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}
