"""What decides how a tiny model is warmed up."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class WarmupConfig:
    """The recipe of a model for one of the Mini tasks; the defaults are those of tiny-warm."""

    task: str = "code"
    """A name of `TASKS`."""
    steps: int = 180
    batch_size: int = 128
    learning_rate: float = 2e-3
    known_names: int = 8
    """Names per slot whose digit is taught; the others get a fresh random one in each example."""
    teacher_share: float = 0.5
    """Examples with a teacher prompt; 0 for a cold start, which has no skill of reading it."""
    copy_share: float = 0.1
    """Teacher examples whose attempt was right and is to be repeated."""
    malformed_share: float = 0.2
    """Teacher examples whose attempt is not read: malformed, or in a form that does not count."""
    ignore_share: float = 0.6
    """Other teacher examples whose target ignores the feedback."""
    rigid: bool = False
    """Whether attempts are judged as a rigid task judges them."""
    rigid_share: float = 1.0
    """Student examples whose answer has the form that counts in a rigid task."""
    teacher_rigid_share: float = 1.0
    """Teacher examples whose target has that form."""
    table_seed: int = 0
    seed: int = 0


@dataclass(frozen=True)
class CodeWarmupConfig:
    """The recipe of tiny-code."""

    steps: int = 150
    batch_size: int = 32
    learning_rate: float = 2e-3
    window: int = 64
    """Tokens that attention reaches back: short examples prepare it for prompts of any length."""
    longest_problem: int = 120
    """Characters of the text before the program."""
    seed: int = 0


Recipe = WarmupConfig | CodeWarmupConfig
