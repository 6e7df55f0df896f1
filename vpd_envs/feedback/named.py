"""Sources of feedback by name, for a command line: "status+siblings+budget:characters=800"."""

from __future__ import annotations

import difflib
import inspect
import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

from vpd_envs.feedback.base import FeedbackSource
from vpd_envs.feedback.budget import FeedbackBudget
from vpd_envs.feedback.environment import EnvironmentFeedback
from vpd_envs.feedback.judge import JudgeFeedback
from vpd_envs.feedback.noise import NoisyFeedback
from vpd_envs.feedback.self_critique import SelfCritique
from vpd_envs.feedback.siblings import SiblingFeedback


@dataclass(frozen=True)
class NamedSource:
    """What a name stands for."""

    source: type[FeedbackSource]
    meaning: str
    preset: Mapping[str, Any] = field(default_factory=dict)

    @property
    def options(self) -> tuple[str, ...]:
        """What may be given as text behind the name."""
        parameters = list(inspect.signature(self.source.__init__).parameters)[1:]
        return tuple(name for name in parameters if name not in (*self.preset, "critic"))

    @property
    def required(self) -> tuple[str, ...]:
        """Those of the options that have no default."""
        parameters = inspect.signature(self.source.__init__).parameters
        return tuple(n for n in self.options if parameters[n].default is inspect.Parameter.empty)


SOURCES: Mapping[str, NamedSource] = MappingProxyType(
    {
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
        "judge": NamedSource(JudgeFeedback, "what another model says, behind an HTTP endpoint"),
        "noisy": NamedSource(NoisyFeedback, "feedback dropped, exchanged or cut, for ablations"),
        "budget": NamedSource(FeedbackBudget, "at most so many characters"),
    }
)


def named_sources(text: str) -> list[FeedbackSource]:
    """The sources that a text names, the innermost first: `compose(env, *named_sources(text))`.

    Names are joined by `+`; options follow a colon and are joined by commas, as in
    "first+noisy:drop=0.2,seed=1+budget:characters=500". A value is a number, true, false, none, or
    text without `+` and `,`.

    Raises ValueError, with close matches and all there are, for an unknown name or option.
    """
    return [named_source(part) for part in text.split("+")]


def named_source(text: str) -> FeedbackSource:
    name, _, options_text = text.partition(":")
    name = name.strip()
    if name not in SOURCES:
        raise ValueError(unknown("feedback source", name, SOURCES))
    named = SOURCES[name]
    options: dict[str, Any] = {}
    for part in filter(str.strip, options_text.split(",")):
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
        options[key] = value_of(value)
    absent = [key for key in named.required if key not in options]
    if absent:
        raise ValueError(
            f"The feedback source {name!r} needs {' and '.join(f'{key}=...' for key in absent)}."
        )
    return named.source(**named.preset, **options)


def value_of(text: str) -> Any:
    literal = {"true": True, "false": False, "none": None}
    if text.lower() in literal:
        return literal[text.lower()]
    try:
        return json.loads(text)
    except ValueError:
        return text


def unknown(what: str, name: str, known: Collection[str]) -> str:
    if not known:
        return f"Unknown {what} {name!r}; it has no options."
    close = difflib.get_close_matches(name, known, n=2)
    hint = f"Did you mean {' or '.join(map(repr, close))}? " if close else ""
    return f"Unknown {what} {name!r}. {hint}There are {', '.join(known)}."
