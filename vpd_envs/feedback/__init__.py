"""Sources of feedback beside the environment's own, as wrappers that stack."""

from vpd_envs.feedback.base import (
    Attempt,
    FeedbackSource,
    FeedbackWrapper,
    VectorFeedbackWrapper,
    compose,
)
from vpd_envs.feedback.siblings import SiblingFeedback

__all__ = ["FeedbackWrapper", "SiblingFeedback", "VectorFeedbackWrapper"]
