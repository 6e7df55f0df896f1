"""Sources of feedback beside the judge's own words, as wrappers that stack.

Every source is given the text of the one inside it (the innermost: the judge's) and gives the one
that the next outside is given; the outermost is what a learner sees. What a source does with the
text it is given, and so what an order means:

    EnvironmentFeedback   "full" passes it on, "first" and the coarser ones replace it
    SiblingFeedback       failed attempts with a solved sibling: replaced, or followed by it;
                          all others: passed on (among the parts, solved ones too are shown another)
    SelfCritique          criticized attempts: replaced, or followed by the critique; the critic is
                          shown it as the outcome; all others: passed on
    Reflection            failed attempts: followed by a diagnosis; all others: passed on
    JudgeFeedback         as SelfCritique; passed on where no answer came in time
    NoisyFeedback         dropped, exchanged or cut
    FeedbackBudget        cut; the place for it is outermost
"""

from vpd_envs.feedback.base import Attempt as Attempt
from vpd_envs.feedback.base import FeedbackSource as FeedbackSource
from vpd_envs.feedback.base import FeedbackWrapper as FeedbackWrapper
from vpd_envs.feedback.base import Parts as Parts
from vpd_envs.feedback.base import VectorFeedbackWrapper as VectorFeedbackWrapper
from vpd_envs.feedback.base import compose as compose
from vpd_envs.feedback.budget import FeedbackBudget as FeedbackBudget
from vpd_envs.feedback.environment import EnvironmentFeedback as EnvironmentFeedback
from vpd_envs.feedback.judge import JudgeFeedback as JudgeFeedback
from vpd_envs.feedback.named import SOURCES as SOURCES
from vpd_envs.feedback.named import NamedSource as NamedSource
from vpd_envs.feedback.named import named_sources as named_sources
from vpd_envs.feedback.noise import NoisyFeedback as NoisyFeedback
from vpd_envs.feedback.reflection import Reflection as Reflection
from vpd_envs.feedback.self_critique import SelfCritique as SelfCritique
from vpd_envs.feedback.siblings import SiblingFeedback as SiblingFeedback
