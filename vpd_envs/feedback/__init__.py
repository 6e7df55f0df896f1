"""Sources of feedback beside the judge's own words, as wrappers that stack.

Every source is given the text of the one inside it (the innermost: the judge's) and gives the one
that the next outside is given; the outermost is what a learner sees. What a source does with the
text it is given, and so what an order means:

    EnvironmentFeedback   "full" passes it on, "first" and the coarser ones replace it
    SiblingFeedback       failed attempts with a solved sibling: replaced, or followed by it;
                          all others: passed on
    SelfCritique          criticized attempts: replaced, or followed by the critique; the critic is
                          shown it as the outcome; all others: passed on
    JudgeFeedback         as SelfCritique; passed on where no answer came in time
    NoisyFeedback         dropped, exchanged or cut
    FeedbackBudget        cut; the place for it is outermost
"""

from vpd_envs.feedback.base import (
    Attempt,
    FeedbackSource,
    FeedbackWrapper,
    VectorFeedbackWrapper,
    compose,
)
from vpd_envs.feedback.budget import FeedbackBudget
from vpd_envs.feedback.environment import EnvironmentFeedback
from vpd_envs.feedback.judge import JudgeFeedback
from vpd_envs.feedback.named import SOURCES, NamedSource, named_sources
from vpd_envs.feedback.noise import NoisyFeedback
from vpd_envs.feedback.self_critique import SelfCritique
from vpd_envs.feedback.siblings import SiblingFeedback

__all__ = [
    "SOURCES",
    "Attempt",
    "EnvironmentFeedback",
    "FeedbackBudget",
    "FeedbackSource",
    "FeedbackWrapper",
    "JudgeFeedback",
    "NamedSource",
    "NoisyFeedback",
    "SelfCritique",
    "SiblingFeedback",
    "VectorFeedbackWrapper",
    "compose",
    "named_sources",
]
