"""Sources of feedback by name, for a command line: "status+siblings+budget:characters=800"."""

from __future__ import annotations

import inspect
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from sandbox.plugins import load, unknown
from vpd_envs.answers.options import REQUIRED, parameters_of
from vpd_envs.feedback.base import FeedbackSource
from vpd_envs.feedback.budget import FeedbackBudget
from vpd_envs.feedback.environment import EnvironmentFeedback
from vpd_envs.feedback.judge import JudgeFeedback
from vpd_envs.feedback.noise import NoisyFeedback
from vpd_envs.feedback.reflection import Reflection
from vpd_envs.feedback.self_critique import SelfCritique
from vpd_envs.feedback.siblings import SiblingFeedback


@dataclass(frozen=True)
class NamedSource:
    """What a name stands for."""

    source: type[FeedbackSource]
    meaning: str
    preset: Mapping[str, Any] = field(default_factory=dict)

    @property
    def options(self) -> dict[str, inspect.Parameter]:
        """What may be given as text behind the name."""
        fixed = (*self.preset, "critic")
        return {k: p for k, p in parameters_of(self.source)[0].items() if k not in fixed}


SOURCES: Mapping[str, NamedSource] = {
    "environment": NamedSource(
        EnvironmentFeedback, "what the judge says, in full", {"verbosity": "full"}
    ),
    "siblings": NamedSource(
        SiblingFeedback, "a solved attempt at the same problem, for failed ones"
    ),
    "contrast": NamedSource(
        SiblingFeedback, "the feedback, then a solved attempt", {"show": "contrast"}
    ),
    "pair": NamedSource(
        SiblingFeedback, "the failed attempt, its feedback, a solved attempt", {"show": "pair"}
    ),
    "outcome": NamedSource(
        EnvironmentFeedback, "whether the answer is correct", {"verbosity": "outcome"}
    ),
    "status": NamedSource(
        EnvironmentFeedback, "the verdict in two words, no content", {"verbosity": "status"}
    ),
    "first": NamedSource(
        EnvironmentFeedback, "the first failing part alone", {"verbosity": "first"}
    ),
    "self-critique": NamedSource(SelfCritique, "what the policy itself says of its attempt"),
    "reflection": NamedSource(
        Reflection, "the feedback, then the policy's own diagnosis of a failed attempt"
    ),
    "judge": NamedSource(JudgeFeedback, "what another model says, behind an HTTP endpoint"),
    "noisy": NamedSource(NoisyFeedback, "feedback dropped, exchanged or cut, for ablations"),
    "budget": NamedSource(FeedbackBudget, "at most so many characters"),
}


def named_sources(text: str) -> list[FeedbackSource]:
    """The sources that a text names, the innermost first: `compose(env, *named_sources(text))`.

    Names are joined by `+`; options follow a colon and are joined by commas, as in
    "first+noisy:drop=0.2,seed=1+budget:characters=500". A value is a number, true, false, none, or
    text without `+` and `,`. A name is one of SOURCES, or your own subclass of FeedbackSource as
    `module:Class` or `path/to/file.py:Class`: "status+my_source:Polite:times=2".

    Raises ValueError, with close matches and all there are, for an unknown name or option.
    """
    return [_named_source(part) for part in text.split("+")]


def _named_source(text: str) -> FeedbackSource:
    name, _, rest = (part.strip() for part in text.partition(":"))
    if name not in SOURCES and (class_name := rest.partition(":")[0].strip()).isidentifier():
        name, rest = f"{name}:{class_name}", rest.partition(":")[2]
    named = load("feedback source", name, SOURCES)
    if not isinstance(named, NamedSource):
        if not (isinstance(named, type) and issubclass(named, FeedbackSource)):
            raise ValueError(
                f"The feedback source {name!r} must be a subclass of vpd_envs.FeedbackSource; it "
                f"is {named!r:.80}."
            )
        named = NamedSource(named, "")
    options = _options(name, rest, named)
    absent = [k for k, p in named.options.items() if p.default is REQUIRED and k not in options]
    if absent:
        raise ValueError(
            f"The feedback source {name!r} needs {' and '.join(f'{key}=...' for key in absent)}."
        )
    return named.source(**named.preset, **options)


def _options(name: str, text: str, named: NamedSource) -> dict[str, Any]:
    """The options in a text such as "drop=0.2,seed=1"."""
    options: dict[str, Any] = {}
    for part in filter(str.strip, text.split(",")):
        key, equals, value = (piece.strip() for piece in part.partition("="))
        if not equals:
            raise ValueError(
                f"An option of a feedback source is written {name}:option=value, got {part!r}."
            )
        if key not in named.options:
            raise ValueError(
                unknown(f"option of the feedback source {name!r}:", key, named.options)
            )
        if key in options:
            raise ValueError(f"The option {key!r} of the feedback source {name!r} came twice.")
        options[key] = _value(value)
    return options


def _value(text: str) -> Any:
    literal = {"true": True, "false": False, "none": None}
    if text.lower() in literal:
        return literal[text.lower()]
    try:
        return json.loads(text)
    except ValueError:
        return text
