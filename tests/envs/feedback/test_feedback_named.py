"""Sources of feedback by name, for a command line."""

import pytest
from guessing import said

from vpd_envs import compose
from vpd_envs.feedback import (
    SOURCES,
    EnvironmentFeedback,
    FeedbackBudget,
    FeedbackSource,
    JudgeFeedback,
    NoisyFeedback,
    SelfCritique,
    SiblingFeedback,
    named_sources,
)

NEEDED = {"judge": ":base_url=http://127.0.0.1:8000/v1,model=m"}


@pytest.mark.parametrize("name", SOURCES)
def test_every_name_stands_for_a_source_with_a_meaning(name):
    (source,) = named_sources(name + NEEDED.get(name, ""))
    assert type(source) is SOURCES[name].source
    assert SOURCES[name].meaning
    assert "\n" not in SOURCES[name].meaning
    assert isinstance(source, FeedbackSource)


def test_names_are_joined_from_the_innermost_to_the_outermost():
    status, siblings, budget = named_sources("status+siblings:show=contrast+budget:characters=60")
    assert (type(status), status.verbosity) == (EnvironmentFeedback, "status")
    assert type(siblings) is SiblingFeedback
    assert (type(budget), budget.characters) == (FeedbackBudget, 60)
    texts = said([("mid", "3"), ("mid", "5")], lambda e: compose(e, status, siblings, budget))
    assert texts[0].startswith("Wrong answer\n\nIn contrast")
    assert len(texts[0]) <= 60


def test_options_are_numbers_words_or_none():
    (noisy,) = named_sources(" noisy: drop=0.2, seed=1 ,truncate=none ")
    assert type(noisy) is NoisyFeedback
    assert (noisy.drop, noisy.seed, noisy.truncate) == (0.2, 1, None)
    (critique,) = named_sources("self-critique:keep=true,outcome=False,critique=all")
    assert type(critique) is SelfCritique
    assert (critique.keep, critique.critique, critique.critic) == (True, "all", None)
    (judge,) = named_sources("judge:base_url=https://host.example:8/v1,model=org/m-2:free")
    assert type(judge) is JudgeFeedback
    assert judge.endpoint.url == "https://host.example:8/v1/chat/completions"
    assert judge.endpoint.model == "org/m-2:free"


def test_each_call_makes_new_sources():
    assert named_sources("self-critique")[0] is not named_sources("self-critique")[0]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("sibling", r"Unknown feedback source 'sibling'. Did you mean 'siblings'\? There are env"),
        ("gossip", "Unknown feedback source 'gossip'. There are environment, siblings, "),
        ("", "Unknown feedback source ''"),
        ("status+", "Unknown feedback source ''"),
        ("noisy:dorp=1", r"option of the feedback source 'noisy': 'dorp'. Did you mean 'drop'"),
        ("noisy:x=1", r"There are drop, shuffle, truncate, seed\."),
        ("status:verbosity=full", r"'verbosity'\. There are none\."),
        ("self-critique:critic=me", "option of the feedback source 'self-critique': 'critic'"),
        ("noisy:drop", "written noisy:option=value, got 'drop'"),
        ("noisy:drop=1,drop=0", "'drop' of the feedback source 'noisy' came twice"),
        ("noisy:drop=much", "drop must be a probability from 0 to 1, got 'much'"),
        ("noisy:drop=NaN", "drop must be a probability"),
        ("judge:model=m", r"'judge' needs base_url=\.\.\."),
        ("judge", r"'judge' needs base_url=\.\.\. and model=\.\.\."),
    ],
)
def test_mistakes_are_explained_with_what_there_is(text, message):
    with pytest.raises(ValueError, match=message):
        named_sources(text)
